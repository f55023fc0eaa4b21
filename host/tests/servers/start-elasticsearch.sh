#!/usr/bin/env bash
# Starts a real Elasticsearch of one node from Maven Central, without a container engine, and waits until it serves.
#
#   start-elasticsearch.sh [--major 8|9] [--port PORT] [--data DIR] [--password PASSWORD] [--tls] [--write-queue N]
#                          [--setting LINE]... [--stop-at-stdin-eof]
#
# --major 8|9          8.19 (default), or 9.5, which needs Java 21 or newer: without one it exits with 3
# --port PORT          for HTTP; the nodes' own protocol is 100 above it; default: free ports
# --data DIR           where configuration, logs and data go; default: a fresh folder under ${TMPDIR:-/tmp}
# --password PASSWORD  security is on: users, roles and API keys; the user `elastic` has this password
# --tls                https with a certificate of its own
# --write-queue N      one thread and so many places in the queue for writes, so that a bulk of many shards is refused in parts (429)
# --setting LINE       one more line for elasticsearch.yml
# --stop-at-stdin-eof  stops the server and removes its data when standard input closes: whoever started it holds the other end
#                      of the pipe, and however that process ends, no server outlives it
#
# Prints, last: ELASTICSEARCH_URL=..  ELASTICSEARCH_DATA=DIR  ELASTICSEARCH_PID=..  ELASTICSEARCH_VERSION=..  and with --tls
# ELASTICSEARCH_CA=FILE. Stop it with stop-search.sh DIR.
#
# The distribution is Elastic's own for integration tests: the server with security, without the other modules (no scripts, one ingest
# processor). elasticsearch-plugin/ adds what it lacks for `GET /` and for API keys.
#
# Needs Java 17 or newer, curl, and Maven and python3 for the first start only: what is downloaded is kept in
# ${WASMILL_SERVERS:-~/.cache/wasmill/servers}. Never runs as root: started by root, it runs as `nobody`.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=search-server.sh
source "$HERE/search-server.sh"

MAJOR=8
while [ $# -gt 0 ]; do
  case $1 in
    --major) MAJOR=$2; shift 2 ;;
    --port) PORT=$2; shift 2 ;;
    --data) DATA=$2; shift 2 ;;
    --password) PASSWORD=$2; shift 2 ;;
    --tls) TLS=1; shift ;;
    --write-queue) WRITE_QUEUE=$2; shift 2 ;;
    --setting) EXTRA+=$2$'\n'; shift 2 ;;
    --stop-at-stdin-eof) STOP_AT_EOF=1; shift ;;
    -h | --help) sed -n '2,/^set/s/^# \{0,1\}//p' "$0" | sed '$d'; exit 0 ;;
    *) fail "unknown argument \`$1\` (see --help)" 2 ;;
  esac
done
case $MAJOR in
  8) VERSION=8.19.21 JAVA_MIN=17 ;;
  9) VERSION=9.5.3 JAVA_MIN=21 ;;
  *) fail "--major is 8 or 9, not \`$MAJOR\`" 2 ;;
esac
NAME=Elasticsearch
FOLDER=$CACHE/elasticsearch-$VERSION
SCHEME=http${TLS:+s}
ECJ=org.eclipse.jdt:ecj:3.42.0

ES_JAVA_HOME=$(find_java "$JAVA_MIN" 99)
[ -n "$ES_JAVA_HOME" ] || fail "Elasticsearch $VERSION needs Java $JAVA_MIN or newer, and there is none (JAVA_HOME names one)" 3
export ES_JAVA_HOME

# Compiles the plugin into the distribution $1. The compiler is a jar, so that a Java without its own is enough.
add_plugin() {
  local plugin=$1/plugins/test-parts classes other=9
  [ "$MAJOR" = 8 ] || other=8
  classes=$(mktemp -d)
  mkdir -p "$plugin" "$classes/src"
  copy_artifact "$ECJ" "$classes" || return
  grep -v "//$other\$" "$HERE/elasticsearch-plugin/TestParts.java" > "$classes/src/TestParts.java"
  "$ES_JAVA_HOME/bin/java" -jar "$classes"/ecj-*.jar -"$JAVA_MIN" -nowarn -proc:none -cp "$(printf '%s:' "$1"/lib/*.jar)" \
    -d "$classes/out" "$classes/src/TestParts.java" >&2 || return
  python3 - "$classes/out" "$plugin/test-parts.jar" <<'JAR' || return
import os, sys, zipfile
root, jar = sys.argv[1:]
with zipfile.ZipFile(jar, "w") as archive:
    for folder, _, names in os.walk(root):
        for name in names:
            path = os.path.join(folder, name)
            archive.write(path, os.path.relpath(path, root))
JAR
  printf '%s\n' name=test-parts "description=what the distribution for tests lacks" "version=$VERSION" "elasticsearch.version=$VERSION" \
    "java.version=$JAVA_MIN" classname=wasmill.tests.TestParts > "$plugin/plugin-descriptor.properties"
  rm -rf "$classes"
}

# The settings differ from the defaults where a default is slow to start or large.
write_configuration() {
  local config=$DATA/config
  cp "$FOLDER"/config/{role_mapping.yml,roles.yml,users,users_roles} "$config"/ 2>/dev/null || true
  {
    common_settings
    echo "xpack.security.enabled: $([ -n "$PASSWORD" ] && echo true || echo false)"
    echo "xpack.security.enrollment.enabled: false"
    [ -z "$TLS" ] || printf 'xpack.security.http.ssl.%s\n' "enabled: true" "key: http.key" "certificate: http.crt"
  } > "$config/elasticsearch.yml"
  cat > "$config/jvm.options" <<'OPTIONS'
-Xms256m
-Xmx512m
-XX:-AlwaysPreTouch
-XX:+UseSerialGC
-XX:TieredStopAtLevel=1
-Djava.io.tmpdir=${ES_TMPDIR}
-XX:+ExitOnOutOfMemoryError
-XX:-UsePerfData
20-:--add-modules=jdk.incubator.vector
OPTIONS
  [ -z "$TLS" ] || [ -e "$config/http.crt" ] || openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=localhost \
    -addext 'subjectAltName=DNS:localhost,IP:127.0.0.1' -keyout "$config/http.key" -out "$config/http.crt" 2>/dev/null
  [ -z "$PASSWORD" ] || [ -e "$config/elasticsearch.keystore" ] || (
    environment
    chown_config
    "${AS[@]}" "$FOLDER/bin/elasticsearch-keystore" create -s > /dev/null
    printf '%s' "$PASSWORD" | "${AS[@]}" "$FOLDER/bin/elasticsearch-keystore" add -x -f -s bootstrap.password > /dev/null
  )
}

chown_config() {
  [ "$(id -u)" != 0 ] || { chown -R 65534:65534 "$DATA"/{config,tmp}; chmod 755 "$DATA"; }
}

environment() {
  unset JAVA_HOME JAVA_TOOL_OPTIONS _JAVA_OPTIONS
  export ES_PATH_CONF=$DATA/config ES_TMPDIR=$DATA/tmp LIBFFI_TMPDIR=$DATA/tmp HOME=$DATA
  export CLI_JAVA_OPTS="-XX:TieredStopAtLevel=1 -Djava.io.tmpdir=$DATA/tmp -XX:-UsePerfData"
  cd "$DATA"
}

run_server() {
  environment
  exec "${AS[@]}" "$FOLDER/bin/elasticsearch" -p "$DATA/tmp/pid"
}

fetch "org.elasticsearch.distribution.integ-test-zip:elasticsearch:$VERSION:zip" add_plugin
serve ELASTICSEARCH

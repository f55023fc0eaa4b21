#!/usr/bin/env bash
# Starts a real OpenSearch of one node from Maven Central, without a container engine, and waits until it serves.
#
#   start-opensearch.sh [--port PORT] [--data DIR] [--write-queue N] [--setting LINE]... [--stop-at-stdin-eof]
#
# The arguments are those of start-elasticsearch.sh; there is no security in this distribution.
#
# Prints, last: OPENSEARCH_URL=..  OPENSEARCH_DATA=DIR  OPENSEARCH_PID=..  OPENSEARCH_VERSION=..  Stop it with stop-search.sh DIR.
#
# Needs Java 11 to 23 (its security manager is gone from later ones), curl, and Maven and python3 for the first start only: what is
# downloaded is kept in ${WASMILL_SERVERS:-~/.cache/wasmill/servers}. Never runs as root: started by root, it runs as `nobody`.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=search-server.sh
source "$HERE/search-server.sh"

while [ $# -gt 0 ]; do
  case $1 in
    --port) PORT=$2; shift 2 ;;
    --data) DATA=$2; shift 2 ;;
    --write-queue) WRITE_QUEUE=$2; shift 2 ;;
    --setting) EXTRA+=$2$'\n'; shift 2 ;;
    --stop-at-stdin-eof) STOP_AT_EOF=1; shift ;;
    -h | --help) sed -n '2,/^set/s/^# \{0,1\}//p' "$0" | sed '$d'; exit 0 ;;
    *) fail "unknown argument \`$1\` (see --help)" 2 ;;
  esac
done
NAME=OpenSearch
VERSION=2.19.5
FOLDER=$CACHE/opensearch-$VERSION
SCHEME=http

JAVA=$(find_java 11 23)
[ -n "$JAVA" ] || fail "OpenSearch $VERSION needs Java 11 to 23, and there is none (JAVA_HOME names one)" 3
JAVA=$JAVA/bin/java

complete() {
  mkdir -p "$1/plugins" "$1/extensions"
}

write_configuration() {
  common_settings > "$DATA/config/opensearch.yml"
}

# What bin/opensearch ends up running, without its two helper processes.
run_server() {
  local manager=() version
  version=$("$JAVA" -XshowSettings:properties -version 2>&1 | sed -n 's/^ *java.specification.version = //p')
  [ "${version%%.*}" -lt 18 ] || manager=(-Djava.security.manager=allow)
  cd "$FOLDER"
  exec "${AS[@]}" "$JAVA" -Xms256m -Xmx512m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Xss1m -XX:-UsePerfData \
    -Djava.awt.headless=true -Dfile.encoding=UTF-8 -Djna.nosys=true -Dio.netty.noUnsafe=true \
    -Dio.netty.noKeySetOptimization=true -Dio.netty.recycler.maxCapacityPerThread=0 -Dio.netty.allocator.numDirectArenas=0 \
    -Dlog4j.shutdownHookEnabled=false -Dlog4j2.disable.jmx=true -Djava.locale.providers=SPI,COMPAT \
    -Djava.io.tmpdir="$DATA/tmp" ${manager[@]+"${manager[@]}"} \
    -Djava.util.concurrent.ForkJoinPool.common.threadFactory=org.opensearch.secure_sm.SecuredForkJoinWorkerThreadFactory \
    -Dopensearch.path.home="$FOLDER" -Dopensearch.path.conf="$DATA/config" \
    -Dopensearch.distribution.type=zip -Dopensearch.bundled_jdk=false \
    -cp "$FOLDER/lib/*" org.opensearch.bootstrap.OpenSearch -p "$DATA/tmp/pid"
}

fetch "org.opensearch.distribution.integ-test-zip:opensearch:$VERSION:zip" complete
serve OPENSEARCH

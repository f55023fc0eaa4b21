# What start-elasticsearch.sh and start-opensearch.sh share; they source this, nobody runs it.
#
# The caller sets NAME (`Elasticsearch`), VERSION, FOLDER (of the distribution) and SCHEME, and defines `write_configuration` and `run_server`.
# Both servers refuse to run as root: started by it, they run as `nobody`, out of a copy of the distribution (hard links where they can be),
# because `nobody` need not see the folder where downloads are kept.
CACHE=${WASMILL_SERVERS:-${XDG_CACHE_HOME:-$HOME/.cache}/wasmill/servers}
PORT= DATA= EXTRA= STOP_AT_EOF= PASSWORD= TLS= WRITE_QUEUE=
AS=()

fail() {
  echo "${0##*/}: $1" >&2
  exit "${2:-1}"
}

# The home of the first Java whose version is from $1 to $2, if there is one.
find_java() {
  local java version
  for java in ${JAVA_HOME:+"$JAVA_HOME/bin/java"} "$(command -v java || true)" /usr/lib/jvm/*/bin/java \
    "$HOME"/.sdkman/candidates/java/*/bin/java /Library/Java/JavaVirtualMachines/*/Contents/Home/bin/java; do
    [ -x "$java" ] || continue
    version=$("$java" -XshowSettings:properties -version 2>&1 | sed -n 's/^ *java.specification.version = //p')
    version=${version%%.*}
    [ "${version:-0}" -ge "$1" ] && [ "$version" -le "$2" ] || continue
    "$java" -XshowSettings:properties -version 2>&1 | sed -n 's/^ *java.home = //p'
    return
  done
}

# Unpacks what Maven Central has as `$1` and calls `$2 FOLDER` to complete it. It becomes visible when it is complete, so that neither
# an interrupted nor a parallel download leaves half of one.
fetch() {
  [ ! -d "$FOLDER" ] || return 0
  command -v mvn >/dev/null || fail "no \`mvn\` on the PATH; it downloads $NAME $VERSION once, into $CACHE
  Debian, Ubuntu: apt-get install maven"
  echo "${0##*/}: downloading $NAME $VERSION into $CACHE (once)" >&2
  local part=$FOLDER.part.$$
  mkdir -p "$part"
  copy_artifact "$1" "$part" && python3 -m zipfile -e "$part"/*.zip "$part" && chmod +x "$part"/*/bin/* && "$2" "$part"/*-"$VERSION" \
    || { rm -rf "$part"; fail "the download failed (see above)"; }
  chmod -R a+rX "$part"
  [ -d "$FOLDER" ] || mv "$part"/*-"$VERSION" "$FOLDER"
  rm -rf "$part"
}

copy_artifact() {
  mvn --batch-mode --quiet -Dstyle.color=never dependency:copy -Dartifact="$1" -DoutputDirectory="$2" >&2
}

# Below the range that the kernel gives to outgoing connections, so that a port that is free now is likely to stay so; the nodes' own
# protocol is 100 above it.
free_port() {
  local base
  while :; do
    base=$((20000 + RANDOM % 12000))
    (exec 3<>"/dev/tcp/127.0.0.1/$base") 2>/dev/null && continue
    (exec 3<>"/dev/tcp/127.0.0.1/$((base + 100))") 2>/dev/null && continue
    echo "$base"
    return
  done
}

make_data_folder() {
  if [ -z "$DATA" ]; then DATA=$(mktemp -d "${TMPDIR:-/tmp}/wasmill-search.XXXXXX"); fi
  mkdir -p "$DATA"/{config,data,logs,tmp}
  DATA=$(cd "$DATA" && pwd)
  touch "$DATA/search-server"
  [ "$(id -u)" = 0 ] || return 0
  AS=(setpriv --reuid=65534 --regid=65534 --clear-groups --)
  [ -d "$DATA/home" ] || cp -al "$FOLDER" "$DATA/home" 2>/dev/null || { rm -rf "$DATA/home"; cp -a "$FOLDER" "$DATA/home"; }
  FOLDER=$DATA/home
}

# Stops the server and removes its data when standard input closes: whoever started it holds the other end of the pipe.
watch_stdin() {
  exec 3<&0
  # A session of its own where the system has `setsid`: Ctrl-C must not reach the watch before it has done its work.
  $(command -v setsid || true) bash -c 'trap "" INT HUP TERM; cat <&3 >/dev/null; exec "$0" "$1"' "$HERE/stop-search.sh" "$DATA" > /dev/null 2>&1 &
  exec 3<&-
}

write_log_configuration() {
  cat > "$DATA/config/log4j2.properties" <<'LOG'
status = error
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = [%d{ISO8601}][%-5p][%-25c{1.}] %m%n
rootLogger.level = info
rootLogger.appenderRef.out.ref = out
LOG
}

# The lines that both servers take.
common_settings() {
  cat <<SETTINGS
cluster.name: wasmill-tests
node.name: node1
discovery.type: single-node
network.host: 127.0.0.1
http.port: $PORT
transport.port: $((PORT + 100))
path.data: $DATA/data
path.logs: $DATA/logs
cluster.routing.allocation.disk.threshold_enabled: false
cluster.max_shards_per_node: 10000
node.processors: 2
SETTINGS
  [ -z "$WRITE_QUEUE" ] || printf '%s\n' "thread_pool.write.size: 1" "thread_pool.write.queue_size: $WRITE_QUEUE"
  printf '%s' "$EXTRA"
}

# One try: whether the server serves in the end.
start_once() {
  if [ "$(id -u)" = 0 ]; then chown -R 65534:65534 "$DATA"/{config,data,logs,tmp}; chown 65534:65534 "$DATA"; chmod 755 "$DATA"; fi
  # A process group of its own: the Ctrl-C of a terminal must not reach the server, and stop-search.sh stops all of it at once.
  set -m
  run_server > "$DATA/server.log" 2>&1 < /dev/null &
  local group=$!
  set +m
  # The watch may have removed the folder already.
  echo "$group" > "$DATA/group" || { kill -9 -- "-$group"; return 1; }
  local url=$SCHEME://127.0.0.1:$PORT curl=(curl --silent --fail --max-time 5)
  [ -z "$TLS" ] || curl+=(--cacert "$DATA/config/http.crt")
  [ -z "$PASSWORD" ] || curl+=(--user "elastic:$PASSWORD")
  # A busy machine takes its time, and a question that is not answered some seconds.
  local until=$((SECONDS + 240))
  while [ "$SECONDS" -lt "$until" ]; do
    "${curl[@]}" "$url/_cluster/health?wait_for_status=yellow&timeout=1s" > /dev/null 2>&1 && return
    kill -0 "$group" 2>/dev/null || return 1
    sleep 0.1
  done
  return 1
}

# Starts the server and prints its NAME=value lines, each name behind the prefix $1.
serve() {
  command -v curl >/dev/null || fail "no \`curl\` on the PATH; it asks $NAME whether it serves
  Debian, Ubuntu: apt-get install curl"
  make_data_folder
  [ -z "$STOP_AT_EOF" ] || watch_stdin
  write_log_configuration
  local choose=${PORT:+no} attempt
  for attempt in 1 2 3 4 5; do
    [ "$choose" = no ] || PORT=$(free_port)
    write_configuration
    start_once && break
    # Another process may take a port between the look and the start; then look again.
    if [ "$choose" = no ] || [ "$attempt" = 5 ] || ! grep -q 'Address already in use' "$DATA/server.log"; then
      tail -40 "$DATA/server.log" >&2
      "$HERE/stop-search.sh" "$DATA" keep
      fail "$NAME did not start; its log is $DATA/server.log"
    fi
    "$HERE/stop-search.sh" "$DATA" keep
  done
  echo "$1_URL=$SCHEME://127.0.0.1:$PORT"
  echo "$1_DATA=$DATA"
  echo "$1_PID=$(cat "$DATA/tmp/pid")"
  echo "$1_VERSION=$VERSION"
  [ -z "$TLS" ] || echo "$1_CA=$DATA/config/http.crt"
}

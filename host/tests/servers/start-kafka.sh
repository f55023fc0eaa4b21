#!/usr/bin/env bash
# Starts a real Apache Kafka (KRaft) from the jars on Maven Central, without a container engine, and waits until it serves.
#
#   start-kafka.sh [--nodes N] [--port PORT] [--data DIR] [--property NAME=VALUE]... [--user NAME=PASSWORD]... [--stop-at-stdin-eof]
#
# --nodes N            1 (default) or more; every node is broker and controller
# --port PORT          first client port: node i listens on PORT+i-1 and its controller on PORT+100+i-1; default: free ports
# --data DIR           where logs and data go; default: a fresh folder under ${TMPDIR:-/tmp}
# --property LINE      one more line for server.properties
# --user NAME=PASSWORD adds a listener with TLS and SASL (SCRAM-SHA-512 and SCRAM-SHA-256) on PORT+50+i-1 for this user, who may
#                      do nothing until somebody gives rights; clients of the plain listener may do everything
# --stop-at-stdin-eof  stops the cluster and removes its data when standard input closes: whoever started it holds the other
#                      end of the pipe, and however that process ends, no broker outlives it
#
# Prints, last: KAFKA_BOOTSTRAP=HOST:PORT[,..]  KAFKA_DATA=DIR  KAFKA_PIDS="PID .."
# and with users: KAFKA_SECURED=HOST:PORT[,..]  KAFKA_CA=FILE  (what signed the brokers' certificate, which is for 127.0.0.1 alone)
# Stop it with stop-kafka.sh DIR. One node of several: kill -9 "$(cat DIR/node2/pid)", and again start-node.sh DIR 2.
#
# Needs Java 17 or newer, and Maven for the first start only: the jars are kept in ${WASMILL_SERVERS:-~/.cache/wasmill/servers}.
set -euo pipefail

KAFKA_VERSION=4.3.1
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
LIBS=${WASMILL_SERVERS:-${XDG_CACHE_HOME:-$HOME/.cache}/wasmill/servers}/kafka-$KAFKA_VERSION

NODES=1 PORT= DATA= EXTRA= STOP_AT_EOF= USERS=()
while [ $# -gt 0 ]; do
  case $1 in
    --nodes) NODES=$2; shift 2 ;;
    --port) PORT=$2; shift 2 ;;
    --data) DATA=$2; shift 2 ;;
    --property) EXTRA+=$2$'\n'; shift 2 ;;
    --user) USERS+=("$2"); shift 2 ;;
    --stop-at-stdin-eof) STOP_AT_EOF=1; shift ;;
    -h | --help) sed -n '2,/^set/s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "start-kafka.sh: unknown argument \`$1\` (see --help)" >&2; exit 2 ;;
  esac
done

missing() {
  printf 'start-kafka.sh: %s\n  Debian, Ubuntu: apt-get install %s\n  macOS:          brew install %s\n' "$1" "$2" "$3" >&2
  echo "  Or point the tests at a broker that runs already: WASMILL_TEST_KAFKA=HOST:PORT" >&2
  exit 1
}

JRE="openjdk-17-jre-headless (Debian 13: openjdk-21-jre-headless)"

check_java() {
  command -v java >/dev/null || missing "no \`java\` on the PATH; Kafka $KAFKA_VERSION needs Java 17 or newer" "$JRE" openjdk
  local major
  major=$(java -XshowSettings:properties -version 2>&1 | sed -n 's/^ *java.specification.version = //p')
  [ "${major%%.*}" -ge 17 ] || missing "\`java\` is version $major; Kafka $KAFKA_VERSION needs 17 or newer" "$JRE" openjdk
  [ ${#USERS[@]} -eq 0 ] || command -v keytool >/dev/null \
    || missing "no \`keytool\` on the PATH; it comes with Java and makes the certificates" "$JRE" openjdk
}

# Downloads into a folder of its own and renames it at the end, so that neither an interrupted nor a parallel download leaves
# half a set of jars.
fetch_jars() {
  command -v mvn >/dev/null || missing "no \`mvn\` on the PATH; it downloads Kafka $KAFKA_VERSION once, into $LIBS" maven maven
  echo "start-kafka.sh: downloading Kafka $KAFKA_VERSION into $LIBS (once, 55 MB)" >&2
  local part=$LIBS.part.$$
  mkdir -p "$part"
  mvn --batch-mode --quiet --file "$HERE/kafka-pom.xml" -Dkafka.version="$KAFKA_VERSION" \
    dependency:copy-dependencies -DoutputDirectory="$part" >&2 \
    || { rm -rf "$part"; echo "start-kafka.sh: the download failed (see above)" >&2; exit 1; }
  if [ -d "$LIBS" ]; then rm -rf "$part"; else mv "$part" "$LIBS"; fi
}

# Below the range that the kernel gives to outgoing connections, so that a port that is free now is likely to stay so.
# Its first N ports are for clients, N more from 50 on for clients with TLS, and from 100 on for the controllers.
free_port() {
  local base i
  while :; do
    base=$((20000 + RANDOM % 12000))
    for ((i = 0; i < NODES; i++)); do
      (exec 3<>"/dev/tcp/127.0.0.1/$((base + i))") 2>/dev/null && continue 2
      (exec 3<>"/dev/tcp/127.0.0.1/$((base + 50 + i))") 2>/dev/null && continue 2
      (exec 3<>"/dev/tcp/127.0.0.1/$((base + 100 + i))") 2>/dev/null && continue 2
    done
    echo "$base"
    return
  done
}

# A certificate authority of this cluster's own, and a certificate for 127.0.0.1 that it signed.
make_certificates() {
  local tls=$DATA/tls
  [ -e "$tls/ca.pem" ] && return
  mkdir -p "$tls"
  key() { keytool -storepass "$STORE_PASSWORD" -keystore "$tls/broker.p12" "$@" > "$tls/keytool.log" 2>&1; }
  key -genkeypair -alias ca -keyalg EC -groupname secp256r1 -validity 3650 -dname CN=wasmill-tests-ca -ext bc:c=ca:true \
    && key -genkeypair -alias broker -signer ca -keyalg EC -groupname secp256r1 -validity 3650 -dname CN=broker -ext san=ip:127.0.0.1 \
    && key -exportcert -rfc -alias ca -file "$tls/ca.pem" \
    && key -delete -alias ca \
    || { cat "$tls/keytool.log" >&2; echo "start-kafka.sh: the certificates could not be made (see above)" >&2; exit 1; }
}

# The listener for users; whoever comes by the plain one has no name, and is super user.
secured_properties() {
  local jaas='org.apache.kafka.common.security.scram.ScramLoginModule required;'
  cat <<PROPERTIES
listener.name.secured.sasl.enabled.mechanisms=SCRAM-SHA-512,SCRAM-SHA-256
listener.name.secured.scram-sha-512.sasl.jaas.config=$jaas
listener.name.secured.scram-sha-256.sasl.jaas.config=$jaas
listener.name.secured.ssl.keystore.type=PKCS12
listener.name.secured.ssl.keystore.location=$DATA/tls/broker.p12
listener.name.secured.ssl.keystore.password=$STORE_PASSWORD
listener.name.secured.ssl.key.password=$STORE_PASSWORD
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
allow.everyone.if.no.acl.found=false
super.users=User:ANONYMOUS
PROPERTIES
}

# The settings differ from the defaults where a default is slow (groups and failure detection), large (threads and buffers),
# or hides a mistake: a topic that nobody made must be an error.
write_configuration() {
  local i secured voters='' replication=$((NODES < 3 ? NODES : 3)) in_sync
  in_sync=$((NODES < 3 ? 1 : 2))
  for ((i = 1; i <= NODES; i++)); do voters+="${voters:+,}$i@127.0.0.1:$((PORT + 100 + i - 1))"; done

  cat > "$DATA/log4j2.properties" <<'LOG'
status = error
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = [%d] %p %m (%c)%n
rootLogger.level = INFO
rootLogger.appenderRef.out.ref = out
LOG
  cat > "$DATA/java.args" <<ARGS
-Xms128m -Xmx512m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Xshare:auto
-XX:-UsePerfData -XX:+ExitOnOutOfMemoryError -Djava.net.preferIPv4Stack=true
-Dlog4j2.configurationFile="$DATA/log4j2.properties"
-cp "$LIBS/*"
ARGS
  for ((i = 1; i <= NODES; i++)); do
    mkdir -p "$DATA/node$i"
    secured=${USERS:+,SECURED://127.0.0.1:$((PORT + 50 + i - 1))}
    cat > "$DATA/node$i/server.properties" <<PROPERTIES
process.roles=broker,controller
node.id=$i
controller.quorum.voters=$voters
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://127.0.0.1:$((PORT + i - 1)),CONTROLLER://127.0.0.1:$((PORT + 100 + i - 1))$secured
advertised.listeners=PLAINTEXT://127.0.0.1:$((PORT + i - 1))$secured
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SECURED:SASL_SSL
inter.broker.listener.name=PLAINTEXT
log.dirs=$DATA/node$i/data
auto.create.topics.enable=false
default.replication.factor=$replication
min.insync.replicas=$in_sync
offsets.topic.replication.factor=$replication
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=$replication
transaction.state.log.min.isr=$in_sync
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=$replication
share.coordinator.state.topic.min.isr=$in_sync
share.coordinator.state.topic.num.partitions=4
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
group.consumer.heartbeat.interval.ms=1000
group.consumer.min.heartbeat.interval.ms=500
group.consumer.session.timeout.ms=6000
group.consumer.min.session.timeout.ms=2000
broker.heartbeat.interval.ms=500
broker.session.timeout.ms=3000
replica.lag.time.max.ms=5000
transaction.abort.timed.out.transaction.cleanup.interval.ms=1000
num.network.threads=2
num.io.threads=4
num.replica.fetchers=1
background.threads=2
log.cleaner.threads=1
log.cleaner.dedupe.buffer.size=2097152
remote.log.manager.thread.pool.size=1
${USERS:+$(secured_properties)}
$EXTRA
PROPERTIES
  done
}

format_storage() {
  local i user pids=() scram=()
  for user in ${USERS[@]+"${USERS[@]}"}; do
    for i in 512 256; do scram+=(--add-scram "SCRAM-SHA-$i=[name=${user%%=*},password=${user#*=}]"); done
  done
  for ((i = 1; i <= NODES; i++)); do
    [ -e "$DATA/node$i/data/meta.properties" ] && continue
    java "@$DATA/java.args" kafka.tools.StorageTool format --ignore-formatted \
      -t 5L6g3nShT-eMCtK--X86sw -c "$DATA/node$i/server.properties" ${scram[@]+"${scram[@]}"} > "$DATA/node$i/format.log" 2>&1 \
      || { cat "$DATA/node$i/format.log" >&2; exit 1; } &
    pids+=($!)
  done
  local pid
  for pid in ${pids[@]+"${pids[@]}"}; do wait "$pid"; done
}

start_nodes() {
  local i pid failed=0 pids=()
  for ((i = 1; i <= NODES; i++)); do "$HERE/start-node.sh" "$DATA" "$i" > "$DATA/node$i/start.log" 2>&1 & pids+=($!); done
  for pid in "${pids[@]}"; do wait "$pid" || failed=1; done
  return $failed
}

check_java
[ -d "$LIBS" ] || fetch_jars
if [ -z "$DATA" ]; then DATA=$(mktemp -d "${TMPDIR:-/tmp}/wasmill-kafka.XXXXXX"); else mkdir -p "$DATA"; fi
DATA=$(cd "$DATA" && pwd)

if [ -n "$STOP_AT_EOF" ]; then
  exec 3<&0
  # A session of its own where the system has `setsid`: Ctrl-C must not reach the watch before it has done its work.
  $(command -v setsid || true) bash -c 'trap "" INT HUP TERM; cat <&3 >/dev/null; exec "$0" "$1"' \
    "$HERE/stop-kafka.sh" "$DATA" > /dev/null 2>&1 &
  exec 3<&-
fi

STORE_PASSWORD=for-tests
[ ${#USERS[@]} -eq 0 ] || make_certificates

CHOOSE=${PORT:+no}
for attempt in 1 2 3 4 5; do
  [ "$CHOOSE" = no ] || PORT=$(free_port)
  write_configuration
  format_storage
  start_nodes && break
  # Another process may take a port between the look and the start; then look again.
  if [ "$CHOOSE" = no ] || [ "$attempt" = 5 ] || ! grep -q 'Address already in use' "$DATA"/node*/server.log; then
    cat "$DATA"/node*/start.log >&2
    "$HERE/stop-kafka.sh" "$DATA" keep
    echo "start-kafka.sh: Kafka did not start; its logs are in $DATA" >&2
    exit 1
  fi
  "$HERE/stop-kafka.sh" "$DATA" keep
  rm -rf "$DATA"/node*
done

BOOTSTRAP=
for ((i = 1; i <= NODES; i++)); do BOOTSTRAP+="${BOOTSTRAP:+,}127.0.0.1:$((PORT + i - 1))"; done
echo "KAFKA_BOOTSTRAP=$BOOTSTRAP"
echo "KAFKA_DATA=$DATA"
if [ ${#USERS[@]} -gt 0 ]; then
  SECURED=
  for ((i = 1; i <= NODES; i++)); do SECURED+="${SECURED:+,}127.0.0.1:$((PORT + 50 + i - 1))"; done
  echo "KAFKA_SECURED=$SECURED"
  echo "KAFKA_CA=$DATA/tls/ca.pem"
fi
echo "KAFKA_PIDS=\"$(cat "$DATA"/node*/pid | tr '\n' ' ' | sed 's/ $//')\""

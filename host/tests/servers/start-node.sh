#!/usr/bin/env bash
# Starts node I of the cluster that start-kafka.sh made in DATA, for the first time or again after it was killed, and waits
# until it serves. Its log of this run is DATA/nodeI/server.log; those of runs before are in server.earlier.log.
#
#   start-node.sh DATA I
set -euo pipefail
DATA=$1 NODE=$1/node$2

why() {
  { grep -E 'ERROR|FATAL|Exception' "$NODE/server.log" || tail -30 "$NODE/server.log"; } | head -20 >&2
  echo "start-node.sh: $1; its log is $NODE/server.log" >&2
}

[ ! -e "$NODE/server.log" ] || cat "$NODE/server.log" >> "$NODE/server.earlier.log"
# A session of its own where the system has `setsid`: the broker must not get the Ctrl-C of a terminal.
$(command -v setsid || true) java "@$DATA/java.args" kafka.Kafka "$NODE/server.properties" > "$NODE/server.log" 2>&1 < /dev/null &
PID=$!
echo "$PID" > "$NODE/pid" || { kill -9 "$PID"; exit 1; }

for ((tenths = 0; tenths < 1200; tenths++)); do
  grep -q 'Kafka Server started' "$NODE/server.log" && exit 0
  kill -0 "$PID" 2>/dev/null || { why "node $2 died"; exit 1; }
  sleep 0.1
done
why "node $2 does not serve after 120 s"
kill -9 "$PID"
exit 1

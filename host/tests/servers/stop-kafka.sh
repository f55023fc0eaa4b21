#!/usr/bin/env bash
# Stops every node of the cluster that start-kafka.sh made in DATA, at once, and removes DATA unless told to keep it.
#
#   stop-kafka.sh DATA [keep]
set -u
DATA=$1
for file in "$DATA"/node*/pid; do
  [ -e "$file" ] || continue
  kill -9 "$(cat "$file")" 2>/dev/null
  rm -f "$file"
done
# Only what start-kafka.sh made is removed.
[ "${2:-}" = keep ] || [ ! -e "$DATA/java.args" ] || rm -rf "$DATA"

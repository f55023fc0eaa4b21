#!/usr/bin/env bash
# Stops the server that start-elasticsearch.sh or start-opensearch.sh made in DATA, at once, and removes DATA unless told to keep it.
#
#   stop-search.sh DATA [keep]
set -u
DATA=$1
if [ -e "$DATA/group" ]; then
  # All processes of the server: its launcher, too.
  kill -9 -- "-$(cat "$DATA/group")" 2>/dev/null
  rm -f "$DATA/group"
fi
# Only what those scripts made is removed. A file that the server was about to write may come in between.
[ "${2:-}" = keep ] || [ ! -e "$DATA/search-server" ] || rm -rf "$DATA" || { sleep 0.5; rm -rf "$DATA"; }

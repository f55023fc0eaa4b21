#!/usr/bin/env bash
# Fuzzes what wasmill reads of others: run.sh SECONDS [TARGET]
#
# Runs each target (src/bin) for so many seconds, from the inputs that are kept in corpus/. New ones are gathered outside of the checkout's
# files, in target/fuzz. An input that crashes, takes more than 10 seconds or 4 GiB ends the run with 1 and is put into regressions/TARGET,
# where `cargo test` gives it to the same code from then on: commit it with what mends it.
#
# The engine is libFuzzer, which the crate libfuzzer-sys brings and builds; rustc.sh puts in what it counts. A stable toolchain and a C++
# compiler are all that it needs. The first build takes as long as the product's own, because it shares nothing with it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
seconds=${1:?run.sh SECONDS [TARGET]}
targets=("${2:-}")
if [ -z "${2:-}" ]; then
  targets=()
  for file in src/bin/*.rs; do
    targets+=("$(basename "$file" .rs)")
  done
fi

export CARGO_TARGET_DIR=${WASMILL_FUZZ_TARGET_DIR:-$PWD/../../target/fuzz}
export RUSTC_WRAPPER=$PWD/rustc.sh
triple=$(rustc -vV | sed -n 's/^host: //p')
# Named, so that what only the engine's crates can link with stays out of build scripts.
cargo build --release --locked --target "$triple"

for target in "${targets[@]}"; do
  gathered=$CARGO_TARGET_DIR/corpus/$target
  found=$CARGO_TARGET_DIR/found/$target
  mkdir -p "$gathered" "$found" "regressions/$target"
  printf '\n==> %s, %d s\n' "$target" "$seconds"
  if ! "$CARGO_TARGET_DIR/$triple/release/$target" "$gathered" "corpus/$target" "regressions/$target" \
    -max_total_time="$seconds" -timeout=10 -rss_limit_mb=4096 -max_len=65536 -print_final_stats=1 \
    -artifact_prefix="$found/" </dev/null; then
    find "$found" -type f -exec mv {} "regressions/$target/" \;
    printf '==> %s failed; its input is in host/fuzz/regressions/%s\n' "$target" "$target" >&2
    exit 1
  fi
done

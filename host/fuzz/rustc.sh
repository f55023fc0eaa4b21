#!/usr/bin/env bash
# Stands in front of rustc (RUSTC_WRAPPER): gives coverage counters to the crates that read foreign bytes. What only computes (the compiler's
# back end, the Kafka client) stays as fast as it is, and build scripts, which have no fuzzing engine to link with, are left alone.
# These are the flags that cargo-fuzz uses; they work with a stable compiler, sanitizers do not.
set -euo pipefail
name=
is_target=
arguments=("$@")
for ((i = 0; i < ${#arguments[@]}; i++)); do
  case ${arguments[i]} in
    --crate-name) name=${arguments[i + 1]} ;;
    --target) is_target=yes ;;
  esac
done
case $is_target$name in
  yeswasmill | yeswasmparser | yeswasmtime_environ | yeswasmtime_internal_component_util | yesserde_saphyr | yesgranit_parser | \
  yesplugin_file | yesreplies | yespipeline_file | yesdead_letter)
    exec "$@" -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
      -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1
    ;;
esac
exec "$@"

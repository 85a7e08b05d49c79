#!/usr/bin/env bash
# Fuzzes every decoder of the crates that know the wire and the log, each for a while, from the committed seeds.
#
#   scripts/fuzz.sh [SECONDS]
#
# SECONDS is the time for each target (10). A finding stops the script; its input is named in the output and kept in
# $CARGO_TARGET_DIR/fuzz/artifacts. Coverage comes from options that the stable compiler has; cargo-fuzz with a nightly one
# (fuzz/README.md) adds the address sanitizer.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/setup.sh
case "${1:-}" in -h | --help)
    usage scripts/fuzz.sh
    exit 0
    ;;
esac
seconds="${1:-10}"
[[ "$seconds" =~ ^[1-9][0-9]*$ ]] || fail "SECONDS is $seconds: give a number of seconds (see --help)"
setup_build

target="$CARGO_TARGET_DIR/fuzz"
flags="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters"
flags+=" -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing"
# Named for the host: without --target the flags would reach build scripts, which have no fuzzer to report to.
host=$(rustc -vV | awk '/^host:/ { print $2 }')
RUSTFLAGS="$flags" cargo build --locked --release --manifest-path fuzz/Cargo.toml --target-dir "$target" --target "$host"
mkdir -p "$target/artifacts"
for source in fuzz/fuzz_targets/*.rs; do
    name=$(basename "$source" .rs)
    corpus="$target/corpus/$name"
    mkdir -p "$corpus"
    say "$name for $seconds s"
    "$target/$host/release/$name" "$corpus" "fuzz/seeds/$name" -max_total_time="$seconds" -max_len=32768 \
        -artifact_prefix="$target/artifacts/$name-" -print_final_stats=1 -verbosity=0 2>"$target/$name.log" || {
        tail -n 40 "$target/$name.log" >&2
        fail "$name found something: its input is named above"
    }
    grep -E 'stat::number_of_executed_units' "$target/$name.log"
done

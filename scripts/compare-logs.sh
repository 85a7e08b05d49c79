#!/usr/bin/env bash
# Compares the CommitLogs of a group's stopped replicas with plain `cmp` on their segment files, up to the smallest commit
# position (which `ledgermq inspect compare` tells; its own judgement is not asked). Exit status 0 only if every byte is
# equal.
#
#   scripts/compare-logs.sh GROUP_DIR GROUP_DIR...      for example  node-1/data/broker-a node-2/data/broker-a
#
# LEDGERMQ_BIN names the executable; otherwise the one built in the target folder is used.
set -euo pipefail

if [ $# -lt 2 ]; then
    echo "error: name the folders of a group on two nodes or more, for example node-*/data/broker-a" >&2
    exit 2
fi
ledgermq="${LEDGERMQ_BIN:-${CARGO_TARGET_DIR:-$HOME/.cache/ledgermq/target}/debug/ledgermq}"

# A difference makes it fail, and is what cmp is to find: only a missing answer counts here.
range=$("$ledgermq" inspect compare --json "$@" || true)
number() { sed -n "s/.*\"$1\": *\([0-9][0-9]*\).*/\1/p" <<<"$range" | head -n 1; }
from=$(number from)
to=$(number to)
if [ -z "$from" ] || [ -z "$to" ]; then
    echo "error: ledgermq inspect compare tells no range to compare; a replica is damaged or still runs" >&2
    exit 1
fi

first=$1
shift
segments=("$first"/log/[0-9]*[0-9])
segment_size=$(stat -c %s "${segments[0]}")
status=0
at=$from
while [ "$at" -lt "$to" ]; do
    base=$((at - at % segment_size))
    end=$((base + segment_size < to ? base + segment_size : to))
    name=$(printf 'log/%020d' "$base")
    for other in "$@"; do
        cmp -i $((at - base)) -n $((end - at)) "$first/$name" "$other/$name" || status=1
    done
    at=$end
done
if [ "$status" -eq 0 ]; then
    echo "equal: log positions $from to $to of $(($# + 1)) replicas"
else
    echo "DIFFERENT between log positions $from and $to" >&2
fi
exit "$status"

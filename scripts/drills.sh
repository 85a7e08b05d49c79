#!/usr/bin/env bash
# The long drills: the fault tests of scripts/test.sh with many times their rounds, and a table of what they saw: how many faults,
# the longest time without an acknowledgement, what was acknowledged. Exit status 0 only if nothing acknowledged was lost, no
# replica differs and every drill ran.
#
#   scripts/drills.sh [--times N] [NAME...]
#
#   --times N   rounds, in multiples of those of the tests (10)
#   NAME        only drills whose name holds it: partitions, pauses, clocks, durability, failover, retention, replacing, …
set -uo pipefail
cd "$(dirname "$0")/.."
. scripts/setup.sh

times=10 names=()
while [ "$#" -gt 0 ]; do
    case "$1" in
        --times)
            [ "$#" -ge 2 ] || fail "--times needs a number"
            times=$2
            shift
            ;;
        -h | --help)
            usage scripts/drills.sh
            exit 0
            ;;
        -*) fail "unknown option $1 (see --help)" ;;
        *) names+=("$1") ;;
    esac
    shift
done
[[ "$times" =~ ^[1-9][0-9]*$ ]] || fail "--times is $times: give 1 or more"

setup_tests
filter='package(ledgermq-tests) & kind(test) & binary(/^(partitions|pauses|clocks|durability|failover|replacing)$/)'
if [ "${#names[@]}" -gt 0 ]; then
    any=""
    for name in "${names[@]}"; do any="$any | test(/$name/) | binary(/$name/)"; done
    filter="$filter & (${any# | })"
fi
logs=$(mktemp)
trap 'rm -f "$logs"' EXIT
status=0
# A drill of a hundred rounds takes its time: no test is ended for being slow.
LEDGERMQ_DRILL_ROUNDS=$times cargo nextest run --locked --no-fail-fast --no-capture --profile drills -p ledgermq-tests -E "$filter" 2>&1 |
    tee "$logs" || status=1
printf '\n'
grep '^drill: ' "$logs" | sed 's/^drill: //' || { say "no drill ran"; status=1; }
exit "$status"

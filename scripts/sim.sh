#!/usr/bin/env bash
# Runs the simulator: the broker's real state machine and the log that ships, on a simulated network, disk and clock.
# A failing seed is printed with the line that replays it.
#
#   scripts/sim.sh N [--first-seed S]   N seeds from S (1) on
#   scripts/sim.sh N --plant BUG        plants one bug (early-ack, ...) and searches N seeds until one finds it
#   scripts/sim.sh --planted [N]        for each planted bug the first seed that finds it, among N (recorded seeds if absent)
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/setup.sh
setup_build

planted=no seeds="" first=1 bug=""
while [ $# -gt 0 ]; do
    case "$1" in
        --planted) planted=yes ;;
        --plant)
            [ $# -ge 2 ] || fail "--plant needs the name of a bug"
            planted=yes bug=$2
            shift
            ;;
        --first-seed)
            [ $# -ge 2 ] || fail "--first-seed needs a value"
            first=$2
            shift
            ;;
        -h | --help)
            usage scripts/sim.sh
            exit 0
            ;;
        *[!0-9]* | "") fail "unknown option $1 (see --help)" ;;
        *) seeds=$1 ;;
    esac
    shift
done
[ "$planted" = yes ] || [ -n "$seeds" ] || fail "say how many seeds: scripts/sim.sh 300"

export LEDGERMQ_SIM_FIRST_SEED=$first
if [ -n "$seeds" ]; then export LEDGERMQ_SIM_SEEDS=$seeds; else unset LEDGERMQ_SIM_SEEDS; fi
export LEDGERMQ_SIM_PLANT=$bug
if [ "$planted" = yes ]; then
    exec cargo test --locked -p ledgermq-tests --features planted-bugs --test planted -- --nocapture --test-threads 2
fi
exec cargo test --locked -p ledgermq-tests --test simulation --test simulation_scenarios -- --nocapture --test-threads 2

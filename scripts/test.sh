#!/usr/bin/env bash
# Everything that is checked, in one command: format, lints, documentation, dependencies, unit and property tests, doctests,
# simulation, real processes with real clients, planted bugs, and the quickstart's drill. Sets up what it needs first.
# Prints how long each part took; exit status 0 only if all of it passed.
#
#   scripts/test.sh [--quick]
#
#   --quick   leave out what needs minutes: real processes, planted bugs, the drill
#
# LEDGERMQ_SIM_SEEDS is the number of simulation seeds (300).
set -uo pipefail
cd "$(dirname "$0")/.."
. scripts/setup.sh

quick=no
for option in "$@"; do
    case "$option" in
        --quick) quick=yes ;;
        -h | --help)
            usage scripts/test.sh
            exit 0
            ;;
        *) fail "unknown option $option (see --help)" ;;
    esac
done

export CARGO_TERM_COLOR="${CARGO_TERM_COLOR:-never}"
sim_seeds="${LEDGERMQ_SIM_SEEDS:-300}"
unset LEDGERMQ_SIM_SEEDS LEDGERMQ_SIM_FIRST_SEED LEDGERMQ_SIM_PLANT
started=$SECONDS
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
parts=() passed=0 failed=0

# part NAME COMMAND...: runs it, remembers how long it took and how it ended.
part() {
    local name=$1 from=$SECONDS status=0
    shift
    printf '\n=== %s\n' "$name"
    "$@" 2>&1 | tee "$logs/part" || status=1
    # Tests count one by one; a part without a test runner counts as one check.
    local ran=0 broke=0 counted
    counted=$(awk '
        / tests? run: / { for (i = 2; i <= NF; i++) { if ($i ~ /^passed/) p += $(i-1); if ($i ~ /^(failed|timed)/) f += $(i-1) } }
        /^test result: / { for (i = 2; i <= NF; i++) { if ($i ~ /^passed/) p += $(i-1); if ($i ~ /^failed/) f += $(i-1) } }
        END { print p + 0, f + 0 }' "$logs/part")
    read -r ran broke <<<"$counted"
    if [ "$status" -ne 0 ] && [ "$broke" -eq 0 ]; then broke=1; fi
    if [ "$((ran + broke))" -eq 0 ]; then ran=1; fi
    passed=$((passed + ran))
    failed=$((failed + broke))
    parts+=("$(printf '%-34s %6d s   %s' "$name" $((SECONDS - from)) "$([ "$status" -eq 0 ] && echo ok || echo FAILED)")")
    return "$status"
}

finish() {
    printf '\n'
    printf '%s\n' "${parts[@]}"
    printf '%-34s %6d s\n\n' "all of it" $((SECONDS - started))
    printf 'test: %d passed, %d failed\n' "$passed" "$failed"
    [ "$failed" -eq 0 ]
    exit
}

format() {
    cargo fmt --all --check || return
    local unformatted
    unformatted=$(gofmt -l tests/go) || return
    [ -z "$unformatted" ] || { say "gofmt would change: $unformatted"; return 1; }
}
documentation() { RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --document-private-items; }
nextest() { cargo nextest run --locked --no-fail-fast --status-level slow --final-status-level fail "$@"; }
# A broker that acknowledges before a quorum has the message must be caught, or the green drill means nothing.
planted_drill() {
    if scripts/quickstart.sh --messages 20000 --base-port 19876 --dir "$logs/planted" --plant early-ack \
        >"$logs/planted.out" 2>&1; then
        cat "$logs/planted.out"
        say "the drill is green although early-ack is planted"
        return 1
    fi
    cat "$logs/planted.out"
    # A build or a start that failed is no finding.
    grep -q '^verdict .*RED: .*lost' "$logs/planted.out" && say "red, as it must be"
}
# The simulator with the broker's real state machine: scripts/sim.sh runs it.
simulations='package(ledgermq-tests) & binary(/^(simulation|simulation_scenarios|planted)$/)'
# All other tests of the crate `tests` start clusters of processes.
processes="package(ledgermq-tests) & kind(test) & not ($simulations)"
# What is built with planted bugs, chosen once for three parts: another choice would be built anew.
planted=(-p ledgermq-dledger -p ledgermq-broker -p ledgermq-tests --features ledgermq-tests/planted-bugs
    --lib --test log_planted --test sim_planted --test planted)
# The bugs that the log's own model must find, without a broker.
log_planted() { nextest "${planted[@]}" -E 'binary(/^(log|sim)_planted$/)'; }
# The bugs that the broker's state machine must find. Each is planted in a whole process: nextest gives it one.
machine_planted() { nextest "${planted[@]}" --run-ignored only -E 'package(ledgermq-broker) & test(/_is_found$/)'; }
# Those that the simulator must find, as scripts/sim.sh --planted does.
sim_planted() { nextest "${planted[@]}" --success-output immediate -E 'package(ledgermq-tests) & binary(=planted)'; }

# Not a part: it changes this shell's PATH, and ends the script with a sentence when something is missing.
setup_tests
parts+=("$(printf '%-34s %6d s   ok' "machine and tools" $((SECONDS - started)))")

part "format" format
part "licences, bans, sources" cargo deny --log-level error check licenses bans sources
part "build" cargo build --locked --workspace --all-targets || finish
# The process tests run a copy: a later part that builds must not change the program under their feet.
cp "$CARGO_TARGET_DIR/debug/ledgermq" "$logs/ledgermq"
export LEDGERMQ_BIN="$logs/ledgermq"
part "lints" cargo clippy --locked --workspace --all-targets -- -D warnings
part "documentation" documentation
part "unit and property tests" nextest --workspace -E "not ($processes) & not ($simulations)"
part "doctests" cargo test --locked --workspace --doc
part "simulation, $sim_seeds seeds" scripts/sim.sh "$sim_seeds"
if [ "$quick" = no ]; then
    part "fuzzing of the decoders" scripts/fuzz.sh 5
    part "processes and official clients" nextest -p ledgermq-tests -E "$processes"
    part "quickstart drill" scripts/quickstart.sh --messages 20000 --base-port 19876
    # Last: what is built with planted bugs takes the place of what was built without.
    part "build with planted bugs" cargo test --locked --no-run "${planted[@]}"
    part "planted bugs, the log" log_planted
    part "planted bugs, the state machine" machine_planted
    part "planted bugs, simulation" sim_planted
    part "quickstart with a planted bug" planted_drill
fi
finish

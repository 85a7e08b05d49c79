//! Bugs in giving up a prefix of the log, in what a replica does that doubts its log, in mending damage and in snapshots
//! are found by the simulator with its own small layer (see `sim_replicated_log`).
//! Those of the rest are looked for with the broker's layer, in the crate `tests`.
#![cfg(feature = "planted-bugs")]
#![allow(clippy::print_stdout, reason = "which seed found a bug is told")]

use std::panic;

use ledgermq_dledger::plant::{self, Bug};
use ledgermq_dledger::sim::queues::QueueHost;
use ledgermq_dledger::sim::{self, Failure, SimConfig};

/// Seeds within which each bug must be found.
const SEEDS: u64 = 2_000;

fn run(seed: u64) -> Option<Failure> {
    let config = SimConfig::new("cargo test -p ledgermq-dledger --test sim_replicated_log every_seed -- --nocapture");
    sim::run(seed, |_, plan| QueueHost::new(plan), &config).err()
}

/// One test, since the chosen bug is the process's.
#[test]
fn bugs_of_the_log_s_beginning_and_of_its_end_are_found() {
    panic::set_hook(Box::new(|_| {}));
    let mut missed = Vec::new();
    for bug in [
        Bug::PrefixMarkSkipped,
        Bug::PrefixBeyondFlush,
        Bug::PrefixIgnoresFollowers,
        Bug::AbstainerVotes,
        Bug::DoubtEndsEarly,
        Bug::MatchedKept,
        Bug::EarlierRunHeard,
        Bug::HeartbeatNotClamped,
        Bug::BootIdIgnored,
        Bug::RepairUnproved,
        Bug::DamageCutOff,
        Bug::RepairUnwritten,
        Bug::SnapshotNotSynced,
        Bug::SnapshotForgetsMembers,
        Bug::SnapshotNotReported,
        Bug::SnapshotStateAhead,
        Bug::StateBehindLog,
    ] {
        plant::choose(Some(bug));
        let found = (1..=SEEDS).find_map(run);
        plant::choose(None);
        match found.filter(|failure| run(failure.seed).is_none()) {
            Some(Failure { seed, checker, .. }) => println!("{:24} seed {seed:5}  {checker}", bug.name()),
            None => missed.push(bug.name()),
        }
    }
    assert!(missed.is_empty(), "not found in {SEEDS} seeds: {missed:?}");
}

//! Bugs put in on purpose are found by the simulator: else its green seeds would prove nothing.
//!
//! In an ordinary run each bug meets seeds that are known to find it. With `LEDGERMQ_SIM_SEEDS` set, seeds are searched in
//! order instead, until one finds it (`scripts/sim.sh --planted N`); `LEDGERMQ_SIM_PLANT` names a single bug. The schedule of a seed does not depend on the bug.
#![cfg(feature = "planted-bugs")]

use std::panic;

use ledgermq_dledger::plant::{self, Bug};
use ledgermq_dledger::sim::{self, Failure, SimConfig, plant_from_env, seeds_from_env};
use ledgermq_tests::sim::BrokerHost;

/// Seeds in a search, at most.
const SEARCHED: u64 = 2_000;

/// Seeds that found each bug when they were searched for. Any change of the code may move them: a few for each, so that
/// one is enough.
const RECORDED: [(Bug, &[u64]); 12] = [
    (Bug::VoteNotSynced, &[1, 2, 3]),
    (Bug::AckBeforeQuorum, &[1, 2, 3]),
    (Bug::UnchainedCrc, &[1]),
    (Bug::CommitHintAhead, &[1, 2, 3]),
    (Bug::StaleLeaderReads, &[1, 2, 3]),
    (Bug::AppliedApart, &[1, 2, 3]),
    (Bug::TruncateMarkSkipped, &[1]),
    (Bug::SegmentDirNotSynced, &[1, 2, 3]),
    (Bug::AckBeforeSync, &[1, 2, 3]),
    (Bug::ConfCommitNotSynced, &[1]),
    (Bug::StaleProjection, &[1]),
    (Bug::IncarnationIgnored, &[1, 2, 3]),
];

fn run(seed: u64) -> Option<Failure> {
    let config = SimConfig::new("cargo test -p ledgermq-tests --test simulation every_seed -- --nocapture");
    sim::run(seed, BrokerHost::new, &config).err()
}

/// A simulator that finds no bug would look just as green. One test, since the planted bug is one of the whole process.
#[test]
fn every_planted_bug_is_found() {
    // What a planted bug makes panic is a finding, and printed as such.
    panic::set_hook(Box::new(|_| {}));
    let only = plant_from_env();
    let search = std::env::var_os("LEDGERMQ_SIM_SEEDS").map(|_| seeds_from_env(SEARCHED));
    let mut missed = Vec::new();
    for (bug, recorded) in RECORDED {
        if only.is_some_and(|only| only != bug) {
            continue;
        }
        plant::choose(Some(bug));
        let found = match search.clone() {
            Some(mut seeds) => seeds.find_map(run),
            None => recorded.iter().copied().find_map(run),
        };
        plant::choose(None);
        // A seed that fails without the bug has not found it.
        let found = found.filter(|failure| run(failure.seed).is_none());
        match found {
            Some(Failure { seed, checker, .. }) => println!("{:24} seed {seed:5}  {checker}", bug.name()),
            None => missed.push(bug.name()),
        }
    }
    assert!(missed.is_empty(), "not found: {missed:?}; look for other seeds with `scripts/sim.sh --planted 2000`");
}

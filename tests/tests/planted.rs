//! Bugs put in on purpose are found by the simulator: else its green seeds would prove nothing.
//!
//! In an ordinary run the common bugs must be found among the first hundred seeds. With `LEDGERMQ_SIM_SEEDS` set, as many are
//! searched, for the rare ones too (`scripts/sim.sh --planted N`); `LEDGERMQ_SIM_PLANT` names a single bug. The schedule of a
//! seed does not depend on the bug.
#![cfg(feature = "planted-bugs")]

use std::panic;

use ledgermq_dledger::plant::{self, Bug};
use ledgermq_dledger::sim::{self, Failure, SimConfig, plant_from_env, seeds_from_env};
use ledgermq_tests::sim::BrokerHost;

/// Seeds in a search, at most.
const SEARCHED: u64 = 2_000;

/// Seeds that are tried for each bug in an ordinary run, in order.
const TRIED: u64 = 100;

/// Bugs that an ordinary run must find among [`TRIED`] seeds.
const COMMON: [Bug; 18] = [
    Bug::VoteNotSynced,
    Bug::AckBeforeQuorum,
    Bug::CommitHintAhead,
    Bug::StaleLeaderReads,
    Bug::AppliedApart,
    Bug::SegmentDirNotSynced,
    Bug::AckBeforeSync,
    Bug::StaleProjection,
    Bug::IncarnationIgnored,
    Bug::KeysForgotten,
    Bug::TruncateMarkSkipped,
    Bug::ConfCommitNotSynced,
    Bug::PrefixMarkSkipped,
    Bug::PrefixBeyondFlush,
    Bug::PrefixIgnoresFollowers,
    Bug::TimerClaimsIgnored,
    Bug::TimersNotCarried,
    Bug::TimersEarly,
];

/// Bugs that take some hundred seeds: only a search must find them. The zeros behind each job nearly always overwrite the
/// stale header that an unchained checksum would let back in.
const RARE: [Bug; 1] = [Bug::UnchainedCrc];

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
    let bugs: Vec<Bug> = match (only, &search) {
        (Some(bug), _) => vec![bug],
        (None, Some(_)) => COMMON.into_iter().chain(RARE).collect(),
        (None, None) => COMMON.to_vec(),
    };
    let mut missed = Vec::new();
    for bug in bugs {
        plant::choose(Some(bug));
        let found = search.clone().unwrap_or(1..TRIED + 1).find_map(run);
        plant::choose(None);
        // A seed that fails without the bug has not found it.
        let found = found.filter(|failure| run(failure.seed).is_none());
        match found {
            Some(Failure { seed, checker, .. }) => println!("{:24} seed {seed:5}  {checker}", bug.name()),
            None => missed.push(bug.name()),
        }
    }
    // The hook is silent.
    missed.iter().for_each(|bug| println!("{bug:24} not found"));
    assert!(missed.is_empty(), "not found: {missed:?}; look for other seeds with `scripts/sim.sh --planted 2000`");
}

//! The model finds the bugs that are put into the log on purpose. Feature `planted-bugs`.
//!
//! What would break: a check that passes because it never looks.
#![cfg(feature = "planted-bugs")]

mod log_support;

use std::panic::{AssertUnwindSafe, catch_unwind};

use ledgermq_dledger::plant::{Bug, choose};
use log_support::model::{Sometimes, run};

/// Seeds within which each bug must be found.
const SEEDS: u64 = 2_000;

/// One test, since the chosen bug is the process's.
#[test]
fn each_bug_of_the_log_is_found() {
    for bug in [Bug::UnchainedCrc, Bug::TruncateMarkSkipped, Bug::SegmentDirNotSynced, Bug::VoteNotSynced] {
        choose(Some(bug));
        let mut counts = Sometimes::default();
        let found = (0..SEEDS).find(|&seed| catch_unwind(AssertUnwindSafe(|| run(seed, &mut counts))).is_err());
        choose(None);
        println!("{}: seed {found:?}", bug.name());
        assert!(found.is_some(), "{} was not found within {SEEDS} seeds", bug.name());
    }
}

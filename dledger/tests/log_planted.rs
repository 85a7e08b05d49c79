//! The model finds the bugs that are put into the log on purpose. Feature `planted-bugs`.
//!
//! What would break: a check that passes because it never looks.
#![cfg(feature = "planted-bugs")]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test that cannot go on says where")]

mod log_support;

use std::panic::{AssertUnwindSafe, catch_unwind};

use ledgermq_dledger::plant::{Bug, choose};
use log_support::model::{Sometimes, run};
use log_support::recycle::slice_survives_reuse;
use log_support::resurrect::replace_and_restart;

/// Seeds within which each bug must be found.
const SEEDS: u64 = 2_000;

/// One test, since the chosen bug is the process's.
#[test]
fn the_bugs_of_the_log_are_found() {
    without_the_chain_a_truncated_suffix_comes_back();
    a_file_that_is_used_again_changes_under_its_reader();
    for bug in [Bug::UnchainedCrc, Bug::TruncateMarkSkipped, Bug::SegmentDirNotSynced, Bug::VoteNotSynced] {
        choose(Some(bug));
        let mut counts = Sometimes::default();
        let found = (0..SEEDS).find(|&seed| catch_unwind(AssertUnwindSafe(|| run(seed, &mut counts))).is_err());
        choose(None);
        println!("{}: seed {found:?}", bug.name());
        assert!(found.is_some(), "{} was not found within {SEEDS} seeds", bug.name());
    }
}

fn a_file_that_is_used_again_changes_under_its_reader() {
    assert!(slice_survives_reuse());
    choose(Some(Bug::RecycledUnderReader));
    let survives = slice_survives_reuse();
    choose(None);
    assert!(!survives, "the planted bug does not show");
}

fn without_the_chain_a_truncated_suffix_comes_back() {
    let (_, expected, found) = replace_and_restart();
    assert_eq!(found, expected);
    choose(Some(Bug::UnchainedCrc));
    let (_, expected, found) = replace_and_restart();
    choose(None);
    assert_eq!(found.len(), 6, "the planted bug does not show");
    assert_ne!(found, expected);
}

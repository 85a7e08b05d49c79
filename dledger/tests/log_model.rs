//! Random appends, truncations, crashes and power cuts against a model.
//!
//! What would break: an acknowledged frame missing after a restart, a truncated suffix coming back, a vote forgotten,
//! replicas that differ in bytes that nobody reads.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test that cannot go on says where")]

mod log_support;

use std::panic::{AssertUnwindSafe, catch_unwind};

use ledgermq_dledger::log::{MetaFile, TailState};
use log_support::model::{Sometimes, run};
use log_support::{Bed, Entry, SMALL, read_all};

/// Seeds of one run; each takes a few milliseconds. `LEDGERMQ_LOG_SEEDS` asks for more.
const SEEDS: u64 = 400;

#[test]
fn what_was_synced_survives_and_what_was_cut_stays_away() {
    let mut counts = Sometimes::default();
    let seeds = std::env::var("LEDGERMQ_LOG_SEEDS").map_or(SEEDS, |seeds| seeds.parse().unwrap());
    for seed in 0..seeds {
        let result = catch_unwind(AssertUnwindSafe(|| run(seed, &mut counts)));
        assert!(result.is_ok(), "seed {seed} failed");
    }
    println!("{counts:?}");
    let Sometimes { torn_tail, torn_job, truncation_undone, truncations, power_cuts, crashes, .. } = counts;
    for (name, count) in [
        ("torn tail", torn_tail),
        ("torn job", torn_job),
        ("truncation undone", truncation_undone),
        ("truncations", truncations),
        ("power cuts", power_cuts),
        ("crashes", crashes),
        ("power off in the middle", counts.off_in_the_middle),
        ("exact fills", counts.exact_fills),
        ("narrow blanks", counts.narrow_blanks),
    ] {
        assert!(count > 0, "{name} never happened");
    }
}

#[test]
fn a_clean_stop_is_found_clean() {
    let (_sim, bed) = Bed::sim(SMALL);
    let mut writer = bed.open().unwrap();
    let entries = vec![Entry::new(1, &b"one"[..]), Entry::new(1, &b"two"[..])];
    writer.write(&log_support::append(&writer, &bed.layout, &entries)).unwrap();
    let meta = writer.meta().clone();
    writer.close(&meta).unwrap();
    let (_, meta) = MetaFile::open(&bed.fs, &bed.dir).unwrap();
    assert!(meta.clean_shutdown);
    assert_eq!(meta.durable.index, 2);
    let (writer, state) = bed.open_with_state().unwrap();
    assert_eq!(state, TailState::Clean);
    assert!(!writer.meta().clean_shutdown);
    assert_eq!(read_all(&writer), entries);
}

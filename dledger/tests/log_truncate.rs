//! Conflict truncation: what was cut stays away.
//!
//! What would break: frames of an abandoned leader, of equal lengths and so at home in every field but the chain, taken
//! for the log again after a crash. Its twin in log_planted.rs, with the chain
//! planted away, shows that the test sees it.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test that cannot go on says where")]

mod log_support;

use ledgermq_dledger::LogPos;
use ledgermq_dledger::log::TailState;
use ledgermq_dledger::log::recovery::TORN_JOB_SPAN;
use ledgermq_dledger::log::segment::idx_path;
use ledgermq_dledger::sim::disk::Fate;
use log_support::resurrect::{replace_and_restart, truncating};
use log_support::{Bed, Entry, SMALL, append, assert_bytes, positions, read_all};

fn entry(term: u64, len: usize, byte: u8) -> Entry {
    Entry::new(term, vec![byte; len])
}

#[test]
fn frames_of_equal_length_and_older_term_do_not_come_back() {
    let (bed, expected, found) = replace_and_restart();
    assert_eq!(found, expected);
    assert_bytes(&bed, &expected);
}

#[test]
fn a_truncation_reaches_back_over_segments_and_index_files() {
    let (sim, bed) = Bed::sim(SMALL);
    let mut writer = bed.open().unwrap();
    let old: Vec<Entry> = (0..40).map(|n| entry(2, 2500, n)).collect();
    for part in old.chunks(7) {
        writer.write(&append(&writer, &bed.layout, part)).unwrap();
        writer.sync().unwrap();
    }
    let sealed = |base: u64| bed.fs.try_exists(&idx_path(&bed.dir, LogPos(base * SMALL))).unwrap();
    assert!(sealed(0) && sealed(1) && sealed(2) && sealed(5));
    let keep = 11;
    let cut = positions(&bed.layout, &old)[keep];
    assert_eq!(bed.layout.base_of(cut.end()), LogPos(SMALL));
    let new = vec![entry(3, 10, 99)];
    writer.write(&truncating(&bed.layout, &old, keep, &new)).unwrap();
    // Before one byte behind the cut changed, the index files at and behind it were gone, durably.
    assert!(sealed(0) && !sealed(1) && !sealed(2) && !sealed(5));
    assert_eq!(writer.meta().durable, cut);
    assert_eq!(writer.view().published(), cut.end());
    assert!(writer.view().find(keep as u64 + 1).unwrap().is_none());
    writer.sync().unwrap();
    assert_eq!(writer.view().find(keep as u64 + 1).unwrap().unwrap().term, 3);
    sim.power_cut_with(&mut |_| Fate::Lost);
    let expected = [&old[..keep], &new[..]].concat();
    let (writer, state) = bed.open_with_state().unwrap();
    assert_eq!(read_all(&writer), expected);
    // What the truncation left behind is expected there, so it raises no doubt.
    assert_eq!(state, TailState::TornTail);
    assert!(writer.meta().doubts.is_none());
    assert_bytes(&bed, &expected);
}

/// A cut suffix may be longer than a job. A power cut right after the cut must still be recovered from.
#[test]
fn a_power_cut_after_the_truncation_of_a_long_suffix_recovers() {
    let (sim, bed) = Bed::sim(4 * 1024 * 1024);
    let mut writer = bed.open().unwrap();
    let old: Vec<Entry> = (0..30).map(|n| entry(2, 700_000, n)).collect();
    for part in old.chunks(10) {
        writer.write(&append(&writer, &bed.layout, part)).unwrap();
        writer.sync().unwrap();
    }
    let keep = 3;
    let cut = positions(&bed.layout, &old)[keep];
    assert!(writer.tail().end().0 - cut.end().0 > 2 * TORN_JOB_SPAN);
    writer.write(&truncating(&bed.layout, &old, keep, &[entry(3, 9000, 77)])).unwrap();
    // The zeros over the old header reach the disk, the new frame does not.
    sim.power_cut_with(&mut |_| Fate::Torn(300));
    let (writer, state) = bed.open_with_state().unwrap();
    assert_eq!(read_all(&writer), old[..keep]);
    assert_eq!(state, TailState::TornTail);
    assert_bytes(&bed, &old[..keep]);
}

#[test]
fn everything_may_be_cut() {
    let (_, bed) = Bed::sim(SMALL);
    let mut writer = bed.open().unwrap();
    let old: Vec<Entry> = (0..9).map(|n| entry(1, 3000, n)).collect();
    writer.write(&append(&writer, &bed.layout, &old)).unwrap();
    writer.sync().unwrap();
    let new = vec![entry(2, 3000, 50), entry(2, 3000, 51)];
    writer.write(&truncating(&bed.layout, &old, 0, &new)).unwrap();
    writer.sync().unwrap();
    assert_eq!(read_all(&writer), new);
    drop(writer);
    let writer = bed.open().unwrap();
    assert_eq!(read_all(&writer), new);
    assert_bytes(&bed, &new);
}

#[test]
fn the_mark_of_a_truncation_is_forgotten_once_it_is_written_over() {
    let (_, bed) = Bed::sim(SMALL);
    let mut writer = bed.open().unwrap();
    let old = vec![entry(1, 500, 1); 6];
    writer.write(&append(&writer, &bed.layout, &old)).unwrap();
    writer.sync().unwrap();
    let old_end = writer.tail().end();
    writer.write(&truncating(&bed.layout, &old, 4, &[entry(2, 10, 2)])).unwrap();
    writer.sync().unwrap();
    assert_eq!(writer.meta().stale_until, old_end);
    writer.write(&append(&writer, &bed.layout, &[entry(2, 2000, 3)])).unwrap();
    writer.sync().unwrap();
    assert_eq!(writer.meta().stale_until, LogPos(0));
}

//! Removal of a log's prefix: whole segments go, once the meta file says so, and nothing else does.
//!
//! What would break: a start that looks for segments which are gone, a reader that takes a removed place for damage or for the
//! end of the log, a slice that changes under its reader.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test that cannot go on says where")]

mod log_support;

use std::sync::Arc;

use ledgermq_dledger::fs::{Fs, OsFs};
use ledgermq_dledger::inspect;
use ledgermq_dledger::log::segment::{idx_path, segment_path};
use ledgermq_dledger::log::view::{ViewError, Wanted};
use ledgermq_dledger::log::{FirstFrame, LogView, LogWriter, Meta, TailState};
use ledgermq_dledger::sim::disk::Fate;
use ledgermq_dledger::{FramePos, LogPos};
use log_support::{Bed, Entry, SMALL, append, frames, positions};

/// Entries that fill a bit more than six segments, with blanks.
fn entries() -> Vec<Entry> {
    (0..40u8).map(|n| Entry::new(1 + u64::from(n) / 9, vec![n; 2500])).collect()
}

fn filled(bed: &Bed) -> (LogWriter, Vec<Entry>, Vec<FramePos>) {
    let mut writer = bed.open().unwrap();
    let log = entries();
    for part in log.chunks(7) {
        writer.write(&append(&writer, &bed.layout, part)).unwrap();
        writer.sync().unwrap();
    }
    let at = positions(&bed.layout, &log);
    (writer, log, at)
}

/// Start of the segment number `n`.
fn start(view: &LogView, n: u64) -> FirstFrame {
    view.segment_start(LogPos(n * SMALL)).unwrap()
}

fn assert_holds(view: &LogView, first: &FirstFrame, log: &[Entry]) {
    let found: Vec<_> = view.iter(first.index).map(|frame| frame.unwrap().payload).collect();
    let expected: Vec<_> = log[first.index as usize - 1..].iter().map(|entry| entry.payload.clone()).collect();
    assert_eq!(found, expected);
}

#[test]
fn the_log_goes_on_behind_a_removed_prefix_and_restarts_there() {
    let (sim, bed) = Bed::sim(SMALL);
    let (mut writer, mut log, at) = filled(&bed);
    let view = writer.view();
    let starts = view.segment_starts();
    assert_eq!(starts.len(), 7);
    assert_eq!(starts[0], FirstFrame::ORIGIN);
    let first = start(&view, 3);
    let before = at[first.index as usize - 1];
    assert_eq!((first.prev_term, first.prev_chain), (before.term, before.chain));
    let held = view.read(before.pos, 100).unwrap();
    let copy = held.to_vec();

    writer.remove_before(first).unwrap();
    assert_eq!(view.first(), (first.index, first.pos));
    assert_eq!(held, copy, "what was read before stays");
    let exists = |path: std::path::PathBuf| bed.fs.try_exists(&path).unwrap();
    for n in 0..7 {
        assert_eq!(exists(segment_path(&bed.dir, LogPos(n * SMALL))), n >= 3, "segment {n}");
        assert_eq!(exists(idx_path(&bed.dir, LogPos(n * SMALL))), (3..6).contains(&n), "index file {n}");
    }
    let gone = |error| matches!(error, ViewError::Gone { first: f, pos, .. } if (f, pos) == (first.index, first.pos));
    assert!(gone(view.read(before.pos, 10).unwrap_err()));
    assert!(gone(view.frame_at(before.pos).unwrap_err()));
    assert!(gone(view.find(before.index).unwrap_err()));
    assert!(gone(view.frames(1, 1 << 20).unwrap_err()));
    assert!(gone(view.iter(2).next().unwrap().unwrap_err()));
    let text = view.find(2).unwrap_err().to_string();
    assert!(text.contains("entry 2") && text.contains(&first.index.to_string()), "{text}");
    assert!(matches!(view.find(2), Err(ViewError::Gone { wanted: Wanted::Index(2), .. })));
    assert_eq!(view.frame_around(before.pos).unwrap(), None);
    assert_holds(&view, &first, &log);
    // Once more, or less: nothing happens.
    writer.remove_before(first).unwrap();
    writer.remove_before(starts[1]).unwrap();
    assert_eq!(view.first().0, first.index);

    let more = vec![Entry::new(9, vec![77; 3000]); 9];
    writer.write(&append(&writer, &bed.layout, &more)).unwrap();
    writer.sync().unwrap();
    log.extend(more);
    let tail = writer.tail();
    for power_cut in [false, true] {
        if power_cut {
            sim.power_cut_with(&mut |_| Fate::Lost)
        } else {
            sim.crash()
        }
        let writer = bed.open().unwrap();
        assert_eq!((writer.tail(), writer.meta().first), (tail, first));
        assert_holds(&writer.view(), &first, &log);
        // As made from the files: the frames before the segments are known by index, term and chain.
        let again = writer.view().segment_starts();
        assert_eq!(again[0], first);
        assert_eq!(again[1], starts[4]);
    }
}

/// The power goes before each change of the disk in a removal: the log begins at the old place or at the new one, whole.
#[test]
fn a_removal_may_be_cut_off_anywhere() {
    let mut begins = [0, 0];
    for calls in 0.. {
        for lost in [true, false] {
            let (sim, bed) = Bed::sim(SMALL);
            let (mut writer, log, _) = filled(&bed);
            let first = start(&writer.view(), 4);
            sim.power_off_after(calls);
            let done = writer.remove_before(first).is_ok();
            assert_eq!(done, !sim.is_off());
            drop(writer);
            sim.power_cut_with(&mut |_| if lost { Fate::Lost } else { Fate::Kept });
            let writer = bed.open().unwrap_or_else(|error| panic!("off after {calls} calls, lost {lost}: {error}"));
            let found = writer.meta().first;
            assert!(found == FirstFrame::ORIGIN || found == first, "{found:?}");
            assert!(!done || found == first);
            begins[usize::from(found == first)] += 1;
            assert_holds(&writer.view(), &found, &log);
            // What is in front of the log is gone after the start at the latest.
            let old = bed.fs.try_exists(&segment_path(&bed.dir, LogPos(0))).unwrap();
            assert_eq!(old, found == FirstFrame::ORIGIN);
            if done {
                assert!(begins.iter().all(|times| *times > 1), "{begins:?}");
                return;
            }
        }
    }
}

/// The beginning of the fifth segment of a log of [`entries`].
fn fifth(bed: &Bed) -> FirstFrame {
    let at = frames(&bed.layout, FramePos::ORIGIN, &entries());
    let next = at.iter().find(|frame| frame.at.pos == LogPos(4 * SMALL)).unwrap().at;
    let prev = at[next.index as usize - 2].at;
    FirstFrame { index: next.index, pos: next.pos, prev_term: prev.term, prev_chain: prev.chain }
}

/// A prefix that ends in what is not written would leave nothing to begin from.
#[test]
#[should_panic(expected = "cannot begin at")]
fn an_unwritten_log_does_not_begin() {
    let (_, bed) = Bed::sim(SMALL);
    let _ = bed.open().unwrap().remove_before(fifth(&bed));
}

/// A prefix that ends in what is written and not synced, as in asynchronous groups, would leave nothing to begin from when the
/// power goes.
#[test]
fn a_log_is_synced_before_it_begins_later() {
    let (sim, bed) = Bed::sim(SMALL);
    let mut writer = bed.open().unwrap();
    writer.write(&append(&writer, &bed.layout, &entries())).unwrap();
    let first = fifth(&bed);
    writer.remove_before(first).unwrap();
    drop(writer);
    sim.power_cut_with(&mut |_| Fate::Lost);
    let writer = bed.open().unwrap();
    assert_eq!(writer.view().first(), (first.index, first.pos));
    assert!(writer.tail().index >= first.index);
}

/// A prefix that goes segment by segment while the log grows: what is left of old frames in used files must not matter, however the
/// replica dies.
#[test]
fn used_segments_are_used_again() {
    let (sim, bed) = Bed::sim(SMALL);
    let (mut writer, mut log, _) = filled(&bed);
    let (mut state, mut clean) = (TailState::Clean, 0);
    for round in 0..30u8 {
        let view = writer.view();
        let starts = view.segment_starts();
        let first = starts[starts.len() - 3];
        writer.remove_before(first).unwrap();
        let spares =
            bed.fs.list(&bed.dir.join("log")).unwrap().iter().filter(|name| name.starts_with("spare-")).count();
        assert!((1..=2).contains(&spares), "round {round}: {spares} spares");
        let more: Vec<Entry> = (0..4).map(|n| Entry::new(9, vec![round ^ n; 700 + 400 * usize::from(n)])).collect();
        writer.write(&append(&writer, &bed.layout, &more)).unwrap();
        if round % 3 == 0 {
            // Written, but not synced: some of it is lost, in the middle of old frames.
            let tail = writer.durable();
            drop(writer);
            let mut sectors = 0;
            sim.power_cut_with(&mut |_| {
                sectors += 1;
                [Fate::Lost, Fate::Kept, Fate::Torn(200)][(sectors + usize::from(round)) % 3]
            });
            let opened = bed.open_with_state().unwrap_or_else(|error| panic!("round {round}: {error}"));
            (writer, state) = opened;
            assert!(writer.tail().index >= tail.index, "round {round}");
            log.extend(more);
            log.truncate(writer.tail().index as usize);
        } else {
            writer.sync().unwrap();
            log.extend(more);
            drop(writer);
            sim.crash();
            let opened = bed.open_with_state().unwrap_or_else(|error| panic!("round {round}: {error}"));
            (writer, state) = opened;
            assert!(state != TailState::TornJob, "round {round}: old frames are no torn job");
            clean += usize::from(state == TailState::Clean);
        }
        let first = writer.meta().first;
        assert_holds(&writer.view(), &first, &log);
    }
    assert!(clean > 10, "{clean}, at last {state:?}");
}

/// A reader's file must not be used again under it; what nobody reads is.
#[test]
fn a_held_slice_keeps_its_file() {
    assert!(log_support::recycle::slice_survives_reuse());
}

/// Replicas may remove their files at different times: the tools read what is there, and compare what both have.
#[test]
fn the_tools_understand_logs_that_begin_later() {
    let dir = tempfile::tempdir().unwrap();
    let fs: Arc<dyn Fs> = Arc::new(OsFs);
    let beds = ["one", "other"].map(|name| Bed::create(fs.clone(), &dir.path().join(name), SMALL));
    let mut firsts = Vec::new();
    for (n, bed) in beds.iter().enumerate() {
        let (mut writer, log, _) = filled(bed);
        let first = start(&writer.view(), 2 * n as u64 + 1);
        writer.remove_before(first).unwrap();
        let meta = Meta { commit_hint: log.len() as u64, ..writer.meta().clone() };
        writer.close(&meta).unwrap();
        let found = inspect::verify(&fs, &bed.dir).unwrap();
        assert_eq!((found.first, found.records), ((first.index, first.pos), 41 - first.index));
        let mut dumped = Vec::new();
        inspect::dump(&fs, &bed.dir, 0, &mut |frame| {
            dumped.push(frame.frame.at.index);
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!(dumped, (first.index..=40).collect::<Vec<_>>());
        firsts.push(first);
    }
    let folders = beds.map(|bed| bed.dir);
    let found = inspect::compare(&fs, &folders).unwrap();
    assert!(found.equal(), "{found:?}");
    assert_eq!(found.from, firsts[1].pos, "from where both have something");
}

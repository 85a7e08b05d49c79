//! Damage that no power cut explains is refused in one sentence, and nothing is changed.
//!
//! What would break: acknowledged data cut off because it looked like a torn tail.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test that cannot go on says where")]

mod log_support;

use std::collections::BTreeMap;
use std::path::PathBuf;

use ledgermq_dledger::LogPos;
use ledgermq_dledger::fs::OpenMode;
use ledgermq_dledger::log::recovery::TORN_JOB_SPAN;
use ledgermq_dledger::log::segment::{idx_path, segment_path};
use ledgermq_dledger::log::{Doubts, MetaError, MetaFile, RecoveryError, TailState, WriteJob, recover};
use ledgermq_dledger::sim::disk::{Fate, SimFs};
use log_support::{Bed, Entry, SMALL, append, assert_bytes, positions, read_all};

fn everything(sim: &SimFs) -> BTreeMap<PathBuf, Vec<u8>> {
    sim.paths().into_iter().map(|path| (path.clone(), sim.contents(&path).unwrap())).collect()
}

/// A log of forty frames over several segments, all durable and known to be.
fn durable_log() -> (SimFs, Bed, Vec<Entry>) {
    let (sim, bed) = Bed::sim(SMALL);
    let mut writer = bed.open().unwrap();
    let log: Vec<Entry> = (0..40).map(|n| Entry::new(1, vec![n; 2500])).collect();
    writer.write(&append(&writer, &bed.layout, &log)).unwrap();
    let meta = writer.meta().clone();
    writer.close(&meta).unwrap();
    sim.crash();
    (sim, bed, log)
}

/// Recovery refuses with this, and not one byte of any file is another one afterwards.
fn refused(sim: &SimFs, bed: &Bed) -> RecoveryError {
    let before = everything(sim);
    let error = bed.recover_error();
    assert_eq!(everything(sim), before);
    error
}

/// Damage to the frame with this index is noted, between two frames that are known, when there is one on both sides; else it is
/// refused. Not one byte of any file is another one afterwards.
fn noted_or_refused(sim: &SimFs, bed: &Bed, index: u64, what: &str) {
    if index == 1 || index == 40 {
        assert!(matches!(refused(sim, bed), RecoveryError::Damaged { .. }), "{what}");
        return;
    }
    let before = everything(sim);
    let (_, meta) = MetaFile::open(&bed.fs, &bed.dir).unwrap();
    let recovered = recover(&bed.fs, &bed.dir, &meta).unwrap();
    let runs: Vec<_> = recovered.damage.iter().map(|run| (run.prev.index, run.end.index)).collect();
    assert_eq!((runs, recovered.tail.index), (vec![(index - 1, index + 1)], 40), "{what}");
    assert_eq!(everything(sim), before);
}

#[test]
fn a_flipped_bit_in_any_header_below_the_durable_frame_is_noted_or_refused() {
    let (sim, bed, log) = durable_log();
    let positions = positions(&bed.layout, &log);
    let last_base = bed.layout.base_of(positions[40].pos);
    for at in &positions[1..] {
        let base = bed.layout.base_of(at.pos);
        let sealed = base != last_base;
        let path = segment_path(&bed.dir, base);
        for byte in [0, 4, 10, 20, 24, 33, 38, 41, 47] {
            let offset = at.pos.0 - base.0 + byte;
            sim.flip_bit(&path, offset, 3);
            if sealed {
                // The index file vouches for the headers of a full segment; without it they are all read.
                let idx = idx_path(&bed.dir, base);
                let hidden = idx.with_extension("gone");
                bed.fs.rename(&idx, &hidden).unwrap();
                noted_or_refused(&sim, &bed, at.index, &format!("byte {byte} of {at:?}"));
                bed.fs.rename(&hidden, &idx).unwrap();
            } else {
                noted_or_refused(&sim, &bed, at.index, &format!("byte {byte} of {at:?}"));
            }
            sim.flip_bit(&path, offset, 3);
        }
    }
    assert_eq!(read_all(&bed.open().unwrap()), log);
}

#[test]
fn damage_is_named_with_file_position_and_remedy() {
    let (sim, bed, log) = durable_log();
    let at = positions(&bed.layout, &log)[40];
    let base = bed.layout.base_of(at.pos);
    sim.flip_bit(&segment_path(&bed.dir, base), at.pos.0 - base.0 + 44, 0);
    let text = refused(&sim, &bed).to_string();
    assert!(!text.contains('\n'));
    for part in [
        format!("/data/group/log/{:020}", base.0).as_str(),
        &format!("byte {}", at.pos.0 - base.0),
        "entry 40",
        "header checksum",
        "nothing was cut off",
        "rejoin under a new raft id",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    }
}

#[test]
fn the_log_is_cut_at_a_hole_and_the_cut_is_kept_in_mind() {
    for (frames, expected) in [(11u8, TailState::TornJob), (14, TailState::Hole)] {
        let (sim, bed) = Bed::sim(16 * 1024 * 1024);
        let mut writer = bed.open().unwrap();
        let log: Vec<Entry> = (0..frames).map(|n| Entry::new(1, vec![n; 700_000])).collect();
        for part in log.chunks(3) {
            writer.write(&append(&writer, &bed.layout, part)).unwrap();
            writer.sync().unwrap();
        }
        assert_eq!(TORN_JOB_SPAN / 700_000, 11);
        assert_eq!(writer.meta().durable.index, 0, "the meta file lags, so only the frames speak");
        sim.power_cut_with(&mut |_| Fate::Lost);
        // Synced, perhaps acknowledged, and rotten: the second frame.
        let at = positions(&bed.layout, &log)[2];
        sim.flip_bit(&segment_path(&bed.dir, LogPos(0)), at.pos.0 + 5000, 7);
        let (writer, state) = bed.open_with_state().unwrap();
        assert_eq!(state, expected);
        assert!(writer.meta().doubts.contains(Doubts::SUSPECT_TAIL));
        assert_eq!(read_all(&writer), log[..1]);
        assert_bytes(&bed, &log[..1]);
        drop(writer);
        sim.crash();
        let (writer, state) = bed.open_with_state().unwrap();
        assert_eq!(state, TailState::Clean);
        assert!(writer.meta().doubts.contains(Doubts::SUSPECT_TAIL), "the next start has forgotten the doubt");
    }
}

#[test]
fn a_missing_short_or_foreign_segment_is_refused() {
    let (sim, bed, _) = durable_log();
    let segment = |n: u64| segment_path(&bed.dir, LogPos(n * SMALL));
    let hidden = bed.dir.join("hidden");
    for n in [0, 2, 6] {
        bed.fs.rename(&segment(n), &hidden).unwrap();
        let error = refused(&sim, &bed);
        assert!(matches!(&error, RecoveryError::MissingSegment(path) if *path == segment(n)), "{error}");
        bed.fs.rename(&hidden, &segment(n)).unwrap();
    }
    bed.fs.open(&segment(3), OpenMode::ReadWrite).unwrap().set_len(SMALL - 1).unwrap();
    let error = refused(&sim, &bed);
    assert!(matches!(error, RecoveryError::NotASegment { len, .. } if len == SMALL - 1), "{error}");
    bed.fs.open(&segment(3), OpenMode::ReadWrite).unwrap().set_len(SMALL).unwrap();
    bed.fs.open(&bed.dir.join("log").join(format!("{:020}", 7)), OpenMode::CreateNew).unwrap();
    let error = refused(&sim, &bed);
    assert!(matches!(error, RecoveryError::NotASegment { len: 0, .. }), "{error}");
}

#[test]
fn a_disk_that_cannot_read_is_refused() {
    let (sim, bed, log) = durable_log();
    for nth in 1.. {
        sim.fail_read(nth, "/log/");
        let (_, meta) = MetaFile::open(&bed.fs, &bed.dir).unwrap();
        match ledgermq_dledger::log::recover(&bed.fs, &bed.dir, &meta) {
            Err(RecoveryError::Io { source, .. }) => assert_eq!(source.raw_os_error(), Some(5)),
            Err(error) => panic!("read {nth}: {error}"),
            // An unreadable index file is only a missing one.
            Ok(recovered) if sim.counters().faults == nth => assert_eq!(recovered.tail.index, 40),
            Ok(_) => {
                assert!(nth > 5);
                break;
            }
        }
    }
    sim.crash();
    assert_eq!(read_all(&bed.open().unwrap()), log);
}

#[test]
fn index_files_are_rebuilt_when_they_are_missing_or_bad() {
    let (sim, bed, log) = durable_log();
    let idx = |n: u64| idx_path(&bed.dir, LogPos(n * SMALL));
    let originals: Vec<Vec<u8>> = (0..6).map(|n| sim.contents(&idx(n)).unwrap()).collect();
    bed.fs.remove_file(&idx(0)).unwrap();
    sim.flip_bit(&idx(2), 40, 1);
    bed.fs.open(&idx(3), OpenMode::ReadWrite).unwrap().set_len(60).unwrap();
    bed.fs.open(&idx(4), OpenMode::ReadWrite).unwrap().set_len(100_000_000).unwrap();
    // Valid, but of another segment.
    bed.fs.remove_file(&idx(5)).unwrap();
    bed.fs.open(&idx(5), OpenMode::CreateNew).unwrap().write_at(&[&originals[1]], 0).unwrap();
    let writer = bed.open().unwrap();
    assert_eq!(read_all(&writer), log);
    for (n, original) in originals.iter().enumerate() {
        assert_eq!(&sim.contents(&idx(n as u64)).unwrap(), original, "index file {n}");
    }
}

#[test]
fn one_rotten_meta_slot_costs_nothing_and_two_are_refused() {
    let (sim, bed, _) = durable_log();
    let path = bed.dir.join("meta");
    let before = MetaFile::peek(&bed.fs, &bed.dir).unwrap();
    for slot in 0..2 {
        sim.flip_bit(&path, slot * 4096 + 105, 0);
        let (_, meta) = MetaFile::open(&bed.fs, &bed.dir).unwrap();
        assert_eq!((meta.term, meta.vote, meta.durable), (before.term, before.vote, before.durable));
        // Opening has written the rotten slot anew.
        let bytes = sim.contents(&path).unwrap();
        assert!(ledgermq_dledger::log::Meta::decode(&bytes[slot as usize * 4096..]).is_some());
    }
    sim.flip_bit(&path, 105, 0);
    sim.flip_bit(&path, 4096 + 105, 0);
    let Err(error) = MetaFile::open(&bed.fs, &bed.dir) else { panic!("a voteless replica opened") };
    assert!(matches!(error, MetaError::Unreadable(_)), "{error}");
    bed.fs.remove_file(&path).unwrap();
    let Err(error) = MetaFile::open(&bed.fs, &bed.dir) else { panic!("a wiped replica opened") };
    assert!(matches!(error, MetaError::Missing(_)), "{error}");
}

#[test]
fn payload_damage_below_the_durable_frame_is_found_when_it_is_read() {
    let (sim, bed, log) = durable_log();
    let at = positions(&bed.layout, &log)[2];
    sim.flip_bit(&segment_path(&bed.dir, LogPos(0)), at.pos.0 + 60, 2);
    // Payloads below the durable frame are not read at start.
    let writer = bed.open().unwrap();
    let view = writer.view();
    let error = view.frame_at(at.pos).unwrap_err().to_string();
    assert!(error.contains("payload checksum"), "{error}");
    assert!(view.frames(2, 1).is_err());
    assert_eq!(view.frames(3, 1).unwrap()[0].at.index, 3);
    assert_eq!(view.iter(1).filter(|frame| frame.is_ok()).count(), 1);
}

#[test]
fn a_full_disk_fails_the_job_and_loses_nothing() {
    let (sim, bed, log) = durable_log();
    let mut writer = bed.open().unwrap();
    let used: usize = sim.paths().iter().map(|path| sim.contents(path).unwrap().len()).sum();
    sim.set_capacity(Some(used as u64 + 1000));
    let more: Vec<Entry> = (0..10).map(|n| Entry::new(1, vec![n; 2500])).collect();
    assert!(writer.write(&append(&writer, &bed.layout, &more)).is_err());
    assert!(writer.write(&WriteJob::default()).is_err());
    sim.crash();
    sim.set_capacity(None);
    let found = read_all(&bed.open().unwrap());
    assert!(found.starts_with(&log));
}

//! One suite for both file systems: what the log does on a simulated disk it does on a real one, byte for byte.
//!
//! What would break: a simulator that proves things about a disk that does not exist.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test that cannot go on says where")]

mod log_support;

use std::io;
use std::path::Path;
use std::sync::Arc;

use ledgermq_dledger::fs::{Fs, OpenMode, OsFs};
use ledgermq_dledger::log::segment::{SegmentSupply, idx_path, segment_path};
use ledgermq_dledger::log::view::FRAMES_MAX;
use ledgermq_dledger::log::{FrameError, LogWriter, MetaFile, ViewError, WriteJob, frame_len, recover};
use ledgermq_dledger::sim::disk::SimFs;
use ledgermq_dledger::{FrameKind, FramePos, LogPos, inspect};
use log_support::{Bed, Entry, SMALL, append, assert_bytes, frames, positions, read_all, segment_bytes};
use tempfile::TempDir;

/// Runs a case on the real and on the simulated file system.
fn on_both(case: impl Fn(Arc<dyn Fs>, &Path)) {
    let dir = TempDir::new().unwrap();
    case(Arc::new(OsFs), &dir.path().join("one/two"));
    case(Arc::new(SimFs::new()), Path::new("/one/two"));
}

fn log_of(count: u64, len: usize) -> Vec<Entry> {
    (0..count).map(|n| Entry::new(1 + n / 10, vec![n as u8; len + n as usize % 7])).collect()
}

fn write_all(bed: &Bed, writer: &mut LogWriter, log: &[Entry], at_a_time: usize) {
    for part in log.chunks(at_a_time) {
        writer.write(&append(writer, &bed.layout, part)).unwrap();
        writer.sync().unwrap();
    }
}

#[test]
fn files_and_folders() {
    on_both(|fs, dir| {
        fs.create_dir_all(dir).unwrap();
        fs.create_dir_all(dir).unwrap();
        let path = dir.join("file");
        assert!(!fs.try_exists(&path).unwrap());
        assert_eq!(fs.open(&path, OpenMode::Read).err().unwrap().kind(), io::ErrorKind::NotFound);
        let file = fs.open(&path, OpenMode::CreateNew).unwrap();
        assert_eq!(fs.open(&path, OpenMode::CreateNew).err().unwrap().kind(), io::ErrorKind::AlreadyExists);
        assert!(file.is_empty().unwrap());
        file.write_at(&[b"one", b"", b"two"], 4).unwrap();
        let many = vec![&b"ab"[..]; 3000];
        file.write_at(&many, 10).unwrap();
        assert_eq!(file.len().unwrap(), 6010);
        file.sync_data().unwrap();
        let mut buf = [9; 12];
        assert_eq!(file.read_at(&mut buf, 0).unwrap(), 12);
        assert_eq!(&buf, b"\0\0\0\0onetwoab");
        assert_eq!(file.read_uncached_at(&mut buf, 6006).unwrap(), 4);
        assert_eq!(&buf[..4], b"abab");
        assert_eq!(file.read_at(&mut buf, 7000).unwrap(), 0);
        let mapping = file.map(6010).unwrap();
        assert_eq!(mapping.clone().slice(4, 6).unwrap(), &b"onetwo"[..]);
        assert!(mapping.clone().slice(6000, 11).is_err());
        assert!(mapping.clone().slice(u64::MAX, 2).is_err());
        assert!(file.map(6011).is_err());
        let slice = mapping.slice(4, 3).unwrap();
        fs.rename(&path, &dir.join("other")).unwrap();
        fs.sync_dir(dir).unwrap();
        fs.create_dir_all(&dir.join("below/deep")).unwrap();
        assert_eq!(fs.list(dir).unwrap(), ["below", "other"]);
        assert_eq!(fs.list(&dir.join("nowhere")).unwrap_err().kind(), io::ErrorKind::NotFound);
        let read_only = fs.open(&dir.join("other"), OpenMode::Read).unwrap();
        assert!(read_only.write_at(&[b"x"], 0).is_err());
        fs.remove_file(&dir.join("other")).unwrap();
        assert_eq!(slice, &b"one"[..]);
        fs.remove_dir_all(&dir.join("below")).unwrap();
        assert_eq!(fs.list(dir).unwrap(), [""; 0]);
        fs.sync_fs(dir).unwrap();
        assert!(fs.free_bytes(dir).unwrap() > 0);
        let file = fs.open(&path, OpenMode::CreateNew).unwrap();
        file.set_len(100).unwrap();
        assert_eq!(file.len().unwrap(), 100);
    });
}

#[test]
fn a_log_over_many_segments_is_written_read_found_and_reopened() {
    on_both(|fs, dir| {
        let bed = Bed::create(fs, dir, SMALL);
        let mut writer = bed.open().unwrap();
        assert_eq!(writer.tail(), FramePos::ORIGIN);
        let log = log_of(120, 900);
        write_all(&bed, &mut writer, &log, 5);
        let positions = positions(&bed.layout, &log);
        assert_eq!(writer.durable(), positions[120]);
        for _ in 0..2 {
            let view = writer.view();
            assert_eq!(read_all(&writer), log);
            assert_eq!(view.first(), (1, LogPos(0)));
            assert_eq!(view.published(), positions[120].end());
            assert_eq!(view.find(0).unwrap(), None);
            assert_eq!(view.find(121).unwrap(), None);
            for (entry, at) in log.iter().zip(&positions[1..]) {
                assert_eq!(view.find(at.index).unwrap(), Some(*at));
                assert_eq!(view.frame_at(at.pos).unwrap().payload, entry.payload);
                assert_eq!(view.read(at.pos + 48, entry.payload.len()).unwrap(), entry.payload);
            }
            assert_eq!(view.frames(7, 0).unwrap().len(), 1);
            assert_eq!(view.frames(7, 2000).unwrap().len(), 2);
            assert_eq!(view.frames(7, u64::MAX).unwrap().len(), 114.min(FRAMES_MAX));
            assert!(view.frames(121, u64::MAX).unwrap().is_empty());
            assert_eq!(view.frame_after(&positions[120]).unwrap(), None);
            assert!(matches!(view.read(positions[120].pos, 5000), Err(ViewError::OutOfRange { .. })));
            assert!(matches!(view.frame_at(positions[120].end()), Err(ViewError::OutOfRange { .. })));
            assert!(matches!(view.frame_at(positions[5].pos + 8), Err(ViewError::Corrupt { .. })));
            assert_bytes(&bed, &log);
            drop(writer);
            let (_, meta) = MetaFile::open(&bed.fs, &bed.dir).unwrap();
            let recovered = recover(&bed.fs, &bed.dir, &meta).unwrap();
            assert_eq!(recovered.tail, positions[120]);
            let runs: Vec<(u64, u64)> = (0..12).map(|n| (1 + n * 10, 1 + n)).collect();
            assert_eq!(recovered.term_runs, runs);
            writer = bed.open().unwrap();
        }
    });
}

#[test]
fn frames_are_invisible_until_they_are_synced() {
    on_both(|fs, dir| {
        let bed = Bed::create(fs, dir, SMALL);
        let mut writer = bed.open().unwrap();
        let view = writer.view();
        let log = log_of(6, 3000);
        writer.write(&append(&writer, &bed.layout, &log[..3])).unwrap();
        writer.write(&append(&writer, &bed.layout, &log[3..])).unwrap();
        assert_eq!(view.find(1).unwrap(), None);
        assert!(view.frames(1, u64::MAX).unwrap().is_empty());
        assert_eq!(view.iter(1).count(), 0);
        assert_eq!(writer.sync().unwrap().index, 6);
        assert_eq!(view.iter(1).count(), 6);
    });
}

#[test]
fn both_file_systems_hold_the_same_bytes_and_compare_equal() {
    let temp = TempDir::new().unwrap();
    let log = log_of(60, 1300);
    let mut all = Vec::new();
    let dirs: Vec<_> = ["a", "b"].map(|name| temp.path().join(name)).into();
    let sim: Arc<dyn Fs> = Arc::new(SimFs::new());
    let places = [
        (Arc::new(OsFs) as Arc<dyn Fs>, dirs[0].as_path(), 60),
        (Arc::new(OsFs), &dirs[1], 7),
        (sim, Path::new("/c"), 11),
    ];
    for (fs, dir, at_a_time) in places {
        let bed = Bed::create(fs, dir, SMALL);
        let mut writer = bed.open().unwrap();
        write_all(&bed, &mut writer, &log, at_a_time);
        let mut meta = writer.meta().clone();
        meta.commit_hint = 55;
        writer.close(&meta).unwrap();
        let idx = bed.fs.open(&idx_path(&bed.dir, LogPos(SMALL)), OpenMode::Read).unwrap();
        let mut bytes = vec![0; idx.len().unwrap() as usize];
        idx.read_at(&mut bytes, 0).unwrap();
        all.push((segment_bytes(&bed), bytes));
    }
    // Neither the file system nor how jobs were cut may show in a byte.
    assert!(all.windows(2).all(|pair| pair[0] == pair[1]));

    let fs: Arc<dyn Fs> = Arc::new(OsFs);
    let found = inspect::compare(&fs, &dirs).unwrap();
    assert!(found.equal());
    let layout = ledgermq_dledger::log::Layout { segment_size: SMALL };
    let positions = positions(&layout, &log);
    assert_eq!((found.commit_index, found.to), (55, positions[55].end()));
    let verified = inspect::verify(&fs, &dirs[0]).unwrap();
    assert_eq!(verified.frames[&FrameKind::Messages], 60);
    assert_eq!(verified.commit_end, positions[55].end());
    assert_eq!(verified.broken_blanks, []);

    // One flipped bit in a payload, in padding-free old data: found, and named.
    let at = positions[20];
    let base = layout.base_of(at.pos);
    let path = segment_path(&dirs[1], base);
    let file = fs.open(&path, OpenMode::ReadWrite).unwrap();
    let offset = at.pos.0 - base.0 + 100;
    let mut byte = [0];
    file.read_at(&mut byte, offset).unwrap();
    file.write_at(&[&[byte[0] ^ 16]], offset).unwrap();
    let difference = inspect::compare(&fs, &dirs).unwrap().difference.unwrap();
    assert_eq!((difference.index, difference.offset, difference.other), (Some(20), offset, path));
    assert_eq!(difference.bytes, (Some(byte[0]), Some(byte[0] ^ 16)));
    assert!(inspect::verify(&fs, &dirs[1]).is_err());
    // Behind the smallest commit position replicas may differ.
    file.write_at(&[&byte], offset).unwrap();
    let tail = layout.base_of(positions[60].pos);
    let file = fs.open(&segment_path(&dirs[1], tail), OpenMode::ReadWrite).unwrap();
    file.write_at(&[b"!"], positions[60].end().0 - tail.0 - 60).unwrap();
    assert!(inspect::compare(&fs, &dirs).unwrap().equal());
    let mut seen = Vec::new();
    inspect::dump(&fs, &dirs[0], 58, &mut |dumped| {
        seen.push((dumped.frame.at.index, dumped.segment.clone()));
        std::ops::ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(seen.iter().map(|(index, _)| *index).collect::<Vec<_>>(), [58, 59, 60]);
}

#[test]
fn a_background_supply_prepares_spares_and_ends() {
    on_both(|fs, dir| {
        let bed = Bed::create(fs, dir, SMALL);
        let (meta_file, meta) = MetaFile::open(&bed.fs, &bed.dir).unwrap();
        let recovered = recover(&bed.fs, &bed.dir, &meta).unwrap();
        let supply = SegmentSupply::background(&bed.fs, &bed.dir, bed.layout, 1 << 30).unwrap();
        let mut writer = LogWriter::open(&bed.fs, &bed.dir, meta_file, meta, recovered, supply).unwrap();
        let log = log_of(80, 1500);
        write_all(&bed, &mut writer, &log, 3);
        assert_eq!(read_all(&writer), log);
        assert_bytes(&bed, &log);
        drop(writer);
        // Its thread has ended: nobody prepares anything any more, and a leftover is used again.
        let names = bed.fs.list(&bed.dir.join("log")).unwrap();
        let spares: Vec<&String> = names.iter().filter(|name| name.starts_with("spare-")).collect();
        assert!(spares.len() <= 2, "{spares:?}");
        assert_eq!(read_all(&bed.open().unwrap()), log);
    });
}

#[test]
fn a_job_longer_than_a_torn_job_may_be_is_synced_in_parts() {
    let (sim, bed) = Bed::sim(64 * 1024 * 1024);
    let mut writer = bed.open().unwrap();
    let log: Vec<Entry> = (0..20).map(|n| Entry::new(1, vec![n; 1_000_000])).collect();
    let before = sim.counters().syncs;
    writer.write(&append(&writer, &bed.layout, &log)).unwrap();
    assert_eq!(writer.durable().index, 16);
    // One sync before the first frame's segment is used (two: the spare), and one for each full span of 8 MiB.
    assert!(sim.counters().syncs - before >= 2);
    // A frame longer than a span goes alone.
    writer.sync().unwrap();
    let big = vec![Entry::new(1, vec![7; 1000]), Entry::new(1, vec![8; 12_000_000]), Entry::new(1, vec![9; 10])];
    writer.write(&append(&writer, &bed.layout, &big)).unwrap();
    assert_eq!(writer.durable().index, 22);
    writer.sync().unwrap();
    assert_eq!(read_all(&writer).len(), 23);
}

#[test]
fn the_commit_hint_never_runs_ahead_of_the_durable_log() {
    let (_, bed) = Bed::sim(SMALL);
    let mut writer = bed.open().unwrap();
    let mut meta = writer.meta().clone();
    meta.commit_hint = 3;
    let mut job = append(&writer, &bed.layout, &log_of(4, 100));
    job.meta = Some(ledgermq_dledger::log::MetaWrite { meta: meta.clone(), both_slots: false });
    writer.write(&job).unwrap();
    assert_eq!(MetaFile::peek(&bed.fs, &bed.dir).unwrap().commit_hint, 0);
    // The hint that the job brought is stored once the job is durable (R10).
    writer.sync().unwrap();
    assert_eq!(MetaFile::peek(&bed.fs, &bed.dir).unwrap().commit_hint, 3);
    meta.commit_hint = 9;
    writer.store_meta(&meta, false).unwrap();
    let stored = MetaFile::peek(&bed.fs, &bed.dir).unwrap();
    assert_eq!((stored.commit_hint, stored.durable.index), (4, 4));
}

#[test]
#[should_panic(expected = "is placed at")]
fn a_frame_that_belongs_elsewhere_never_reaches_the_disk() {
    let (_, bed) = Bed::sim(SMALL);
    let mut writer = bed.open().unwrap();
    let mut job = WriteJob { frames: frames(&bed.layout, FramePos::ORIGIN, &log_of(1, 10)), ..WriteJob::default() };
    job.frames[0].at.pos = LogPos(8);
    let _ = writer.write(&job);
}

#[test]
fn a_second_birth_in_the_same_folder_is_refused() {
    on_both(|fs, dir| {
        let bed = Bed::create(fs, dir, SMALL);
        let error = MetaFile::create(&bed.fs, &bed.dir, &log_support::meta(SMALL)).err().unwrap().to_string();
        assert!(error.contains("choose another folder"), "{error}");
    });
}

#[test]
fn frame_lengths() {
    assert_eq!(frame_len(0), 48);
    assert_eq!(frame_len(1), 56);
    assert_eq!(frame_len(8), 56);
    assert_eq!(ledgermq_dledger::log::Header::decode(&[0; 47]), Err(FrameError::Short(47)));
}

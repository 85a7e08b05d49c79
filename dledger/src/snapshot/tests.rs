//! A snapshot from one disk to another, without Raft: what arrives, what damage and interruptions do, and every moment at which
//! an installation can end.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rand::SeedableRng;
use rand::rngs::SmallRng;
use uuid::Uuid;

use super::give::Checkpoint;
use super::*;
use crate::fs::{Fs, OpenMode};
use crate::log::frame::{Layout, make_header};
use crate::log::meta::{FORMAT, GroupConstants, Identity, Member, MetaFile};
use crate::log::recovery::recover;
use crate::log::segment::{SegmentSupply, segment_path};
use crate::log::writer::{FrameBytes, LogWriter, WriteJob};
use crate::replica;
use crate::seam::{CheckpointFile, MemberInfo, Membership};
use crate::sim::disk::SimFs;
use crate::types::{FrameKind, FramePos, GroupId};

const DIR: &str = "/data/group";
const GROUP: GroupId = GroupId(Uuid::from_u128(5));
const CONSTANTS: GroupConstants = GroupConstants { segment_size: 16 << 10, format: FORMAT };
const LAYOUT: Layout = Layout { segment_size: 16 << 10 };

/// A disk with a replica that has so many frames.
struct Bed {
    disk: SimFs,
    fs: Arc<dyn Fs>,
    writer: LogWriter,
}

fn open(fs: &Arc<dyn Fs>) -> LogWriter {
    let dir = Path::new(DIR);
    let (meta_file, mut meta) = MetaFile::open(fs, dir).unwrap();
    install::tidy(fs, dir, &meta).unwrap();
    meta.installing = false;
    let recovered = recover(fs, dir, &meta).unwrap();
    let supply = SegmentSupply::inline(fs, dir, LAYOUT).unwrap();
    LogWriter::open(fs, dir, meta_file, meta, recovered, supply).unwrap()
}

fn bed(raft_id: u64, frames: u64) -> Bed {
    let disk = SimFs::new();
    let fs: Arc<dyn Fs> = Arc::new(disk.clone());
    let member = |raft_id| Member { raft_id, replica: Uuid::from_u128(u128::from(raft_id)) };
    let identity = Identity { cluster_id: Uuid::nil(), group: GROUP, replica: member(raft_id).replica, raft_id };
    replica::create(&fs, Path::new(DIR), identity, CONSTANTS, (1..=3).map(member).collect()).unwrap();
    let mut writer = open(&fs);
    write(&mut writer, frames);
    Bed { disk, fs, writer }
}

/// Frames that are the same in every log.
fn write(writer: &mut LogWriter, count: u64) {
    let mut frames = Vec::new();
    let mut prev: FramePos = writer.tail();
    for _ in 0..count {
        let index = prev.index + 1;
        let payload = vec![index as u8; 100 + (index as usize * 37) % 400];
        let (at, header, blank) = make_header(&LAYOUT, &prev, index, 1 + index / 50, FrameKind::Command, 0, &payload);
        frames.push(FrameBytes { at, header, payload: payload.into(), blank });
        prev = at;
    }
    writer.write(&WriteJob { frames, ..WriteJob::default() }).unwrap();
    writer.sync().unwrap();
}

/// Name, first byte that counts, and content of a state's files.
fn state() -> Vec<(&'static str, u64, Vec<u8>)> {
    let bytes = |len: usize, salt: u8| (0..len).map(|at| (at as u8).wrapping_mul(31) ^ salt).collect();
    vec![
        ("kv/CURRENT", 0, bytes(16, 1)),
        ("kv/000007.sst", 0, bytes(9_000, 2)),
        ("kv/none", 0, Vec::new()),
        ("cq/T@7/0", 1_000, bytes(5_000, 3)),
    ]
}

/// A giver whose log begins with its second segment, and what it gives.
fn giver(bed: &mut Bed) -> (Giver, Manifest) {
    let view = bed.writer.view();
    let first = view.segment_starts()[1];
    bed.writer.remove_before(first).unwrap();
    let giver = Giver::new(&bed.fs, Path::new(DIR), GROUP, CONSTANTS, Membership::default(), view);
    giver.prepare().unwrap();
    let mut files = Vec::new();
    for (name, from, bytes) in state() {
        let path = giver.folder().join(name);
        bed.fs.create_dir_all(path.parent().unwrap()).unwrap();
        // It may have grown since.
        let file = bed.fs.open(&path, OpenMode::CreateNew).unwrap();
        file.write_at(&[&bytes, b"later"], 0).unwrap();
        files.push(CheckpointFile { name: name.to_owned(), from, size: bytes.len() as u64 });
    }
    let members = (1..=3).map(|id| (id, MemberInfo::default())).collect();
    let membership =
        Some(Membership { voters: vec![1, 2], learners: vec![3], members, highest: 3, ..Membership::default() });
    let manifest = giver.publish(Checkpoint { first, at: bed.writer.tail(), membership, files }).unwrap();
    (giver, manifest)
}

fn begin(taker: &Bed, manifest: &Manifest) -> Pull {
    Pull::begin(&taker.fs, Path::new(DIR), taker.writer.meta(), manifest.clone()).unwrap()
}

/// At most so many requests; whether everything is there.
fn pull(pull: &mut Pull, giver: &Giver, requests: usize) -> bool {
    for _ in 0..requests {
        let Some(ranges) = pull.next(700) else { return true };
        let bytes = giver.read(pull.id(), &ranges).unwrap();
        pull.take(&ranges, &bytes).unwrap();
    }
    pull.next(1).is_none()
}

fn contents(disk: &SimFs, path: PathBuf) -> Vec<u8> {
    disk.contents(&path).unwrap_or_else(|| panic!("{} is missing", path.display()))
}

/// The state of the new generation, and the log, are those of the giver.
fn check_installed(taker: &SimFs, giver: &SimFs, manifest: &Manifest) {
    for (name, from, bytes) in state() {
        let found = contents(taker, Path::new(DIR).join("gen-1").join(name));
        assert_eq!(found.len(), bytes.len(), "{name}");
        assert_eq!(found[from as usize..], bytes[from as usize..], "{name}");
    }
    for base in manifest.segments() {
        let len = manifest.segment_len(base) as usize;
        let path = segment_path(Path::new(DIR), base);
        assert_eq!(contents(taker, path.clone())[..len], contents(giver, path)[..len], "segment {base}");
    }
    assert!(!taker.paths().iter().any(|path| path.starts_with(Path::new(DIR).join(SNAP_DIR).join(TAKE_DIR))));
}

/// A member behind the log would get something else than the log and the state of the others.
#[test]
fn a_snapshot_arrives() {
    let mut from = bed(1, 200);
    let (giver, manifest) = giver(&mut from);
    assert!(manifest.first.index > 1 && manifest.segments().count() > 2, "{manifest:?}");
    let mut to = bed(2, 20);
    let mut taking = begin(&to, &manifest);
    assert_eq!(taking.progress(), (manifest.bytes(), manifest.bytes()));
    assert!(pull(&mut taking, &giver, usize::MAX));
    assert_eq!(taking.progress().1, 0);
    let staged = taking.finish().unwrap();
    to.writer.write(&WriteJob { install: Some(Arc::new(staged)), ..WriteJob::default() }).unwrap();
    assert_eq!(to.writer.sync().unwrap(), manifest.tail);
    check_installed(&to.disk, &from.disk, &manifest);
    // It goes on as the giver's does.
    write(&mut from.writer, 100);
    write(&mut to.writer, 100);
    assert_eq!(from.writer.tail(), to.writer.tail());
    let view = to.writer.view();
    assert_eq!(view.first(), (manifest.first.index, manifest.first.pos));
    assert_eq!(view.iter(manifest.first.index).map(|frame| frame.unwrap().at).last(), Some(to.writer.tail()));
    drop(to.writer);
    let again = open(&to.fs);
    assert_eq!((again.tail(), again.meta().generation), (from.writer.tail(), 1));
}

/// Damaged bytes would become a state.
#[test]
fn damage_is_found_and_fetched_again() {
    let mut from = bed(1, 200);
    let (giver, manifest) = giver(&mut from);
    let to = bed(2, 20);
    let take = Path::new(DIR).join(SNAP_DIR).join(TAKE_DIR);
    let segments: Vec<PathBuf> = manifest.segments().map(|base| segment_path(&take, base)).collect();
    let state = take.join(STATE_DIR);
    let places = [
        (state.join("kv/000007.sst"), 8_000),
        (state.join("cq/T@7/0"), 1_000),
        (segments[0].clone(), 3),
        (segments[1].clone(), 8_000),
        (segments[2].clone(), 16_000),
    ];
    for (path, offset) in places {
        let mut taking = begin(&to, &manifest);
        assert!(pull(&mut taking, &giver, usize::MAX));
        to.disk.flip_bit(&path, offset, 4);
        assert!(matches!(taking.finish(), Err(PullError::Damaged(_))), "{}", path.display());
        assert!(pull(&mut taking, &giver, usize::MAX));
        taking.finish().unwrap();
        take::discard(&to.fs, Path::new(DIR)).unwrap();
    }
}

/// A pull that breaks off would begin again from nothing.
#[test]
fn a_pull_goes_on_where_it_ended() {
    let mut from = bed(1, 200);
    let (giver, manifest) = giver(&mut from);
    for requests in [1, 7, 20, 60] {
        let to = bed(2, 20);
        let mut taking = begin(&to, &manifest);
        assert!(!pull(&mut taking, &giver, requests));
        let missing = taking.progress().1;
        drop(taking);
        to.disk.crash();
        let fs = &to.fs;
        let meta = MetaFile::peek(fs, Path::new(DIR)).unwrap();
        install::tidy(fs, Path::new(DIR), &meta).unwrap();
        let mut taking = Pull::begin(fs, Path::new(DIR), &meta, manifest.clone()).unwrap();
        assert_eq!(taking.progress(), (manifest.bytes(), missing));
        assert!(pull(&mut taking, &giver, usize::MAX));
        taking.finish().unwrap();
    }
}

/// A newer snapshot needs the segments of an older one no second time.
#[test]
fn segments_are_of_use_for_the_next_snapshot() {
    let mut from = bed(1, 200);
    let (old, manifest) = giver(&mut from);
    let to = bed(2, 20);
    let mut taking = begin(&to, &manifest);
    assert!(pull(&mut taking, &old, usize::MAX));
    taking.finish().unwrap();
    write(&mut from.writer, 100);
    let (new, newer) = giver(&mut from);
    let mut taking = begin(&to, &newer);
    let (total, missing) = taking.progress();
    assert!(missing < total * 2 / 3, "{missing} of {total} bytes are missing");
    assert!(pull(&mut taking, &new, usize::MAX));
    taking.finish().unwrap();
}

/// A crash in the middle of an installation would leave a replica with the log of one state and the tables of another.
#[test]
fn a_crash_leaves_the_old_state_or_the_new_one() {
    let mut from = bed(1, 120);
    let (giver, manifest) = giver(&mut from);
    let (mut old, mut new) = (0, 0);
    for changes in 0.. {
        let mut done = false;
        for cut in 0..4 {
            let mut to = bed(2, 60);
            let tail = to.writer.tail();
            let mut taking = begin(&to, &manifest);
            assert!(pull(&mut taking, &giver, usize::MAX));
            to.disk.power_off_after(changes);
            let installed = taking.finish().map(|staged| {
                to.writer.write(&WriteJob { install: Some(Arc::new(staged)), ..WriteJob::default() }).is_ok()
            });
            done = matches!(installed, Ok(true));
            if cut == 0 {
                to.disk.crash();
            } else {
                to.disk.power_cut(&mut SmallRng::seed_from_u64(changes * 10 + cut));
            }
            drop(to.writer);
            let writer = open(&to.fs);
            if writer.meta().generation == 0 {
                assert!(!done, "an installation that is done is gone");
                assert_eq!((writer.tail(), writer.meta().first.index), (tail, 1), "after {changes} changes");
                old += 1;
            } else {
                assert_eq!((writer.tail(), writer.meta().first), (manifest.tail, manifest.first));
                check_installed(&to.disk, &from.disk, &manifest);
                new += 1;
            }
        }
        if done {
            break;
        }
    }
    assert!(old > 10 && new > 10, "{old} times the old state, {new} times the new one");
}

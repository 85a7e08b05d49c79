//! A replica's folder on some file system, and a model of what its log must hold.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]

pub mod model;
pub mod recycle;
pub mod resurrect;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use ledgermq_dledger::fs::Fs;
use ledgermq_dledger::log::frame::{Layout, blank_header};
use ledgermq_dledger::log::segment::{SegmentSupply, segment_path};
use ledgermq_dledger::log::{
    FrameBytes, GroupConstants, Identity, LogWriter, Meta, MetaFile, RecoveryError, TailState, WriteJob, make_header,
    recover,
};
use ledgermq_dledger::sim::disk::SimFs;
use ledgermq_dledger::{Frame, FrameKind, FramePos, GroupId};
use uuid::Uuid;

/// Smallest segment: frames of at most 4 KiB, so that blanks and segment ends come often.
pub const SMALL: u64 = 16 * 1024;

pub fn meta(segment_size: u64) -> Meta {
    let identity = Identity {
        cluster_id: Uuid::from_u128(1),
        group: GroupId(Uuid::from_u128(2)),
        replica: Uuid::from_u128(3),
        raft_id: 1,
    };
    Meta::new(identity, GroupConstants { segment_size, format: 1 }, Vec::new())
}

/// A replica's folder.
pub struct Bed {
    pub fs: Arc<dyn Fs>,
    pub dir: PathBuf,
    pub layout: Layout,
}

impl Bed {
    pub fn create(fs: Arc<dyn Fs>, dir: &Path, segment_size: u64) -> Bed {
        MetaFile::create(&fs, dir, &meta(segment_size)).unwrap();
        Bed { fs, dir: dir.to_owned(), layout: Layout { segment_size } }
    }

    pub fn sim(segment_size: u64) -> (SimFs, Bed) {
        let sim = SimFs::new();
        let bed = Bed::create(Arc::new(sim.clone()), Path::new("/data/group"), segment_size);
        (sim, bed)
    }

    pub fn open(&self) -> anyhow_lite::Result<LogWriter> {
        Ok(self.open_with_state()?.0)
    }

    pub fn open_with_state(&self) -> anyhow_lite::Result<(LogWriter, TailState)> {
        let (meta_file, mut meta) = MetaFile::open(&self.fs, &self.dir)?;
        let recovered = recover(&self.fs, &self.dir, &meta)?;
        meta.clean_shutdown = false;
        let state = recovered.tail_state;
        let supply = SegmentSupply::inline(&self.fs, &self.dir, self.layout)?;
        Ok((LogWriter::open(&self.fs, &self.dir, meta_file, meta, recovered, supply)?, state))
    }

    pub fn recover_error(&self) -> RecoveryError {
        let (_, meta) = MetaFile::open(&self.fs, &self.dir).unwrap();
        recover(&self.fs, &self.dir, &meta).err().expect("recovery refuses")
    }
}

/// Boxed errors, for `?` across the log's error types.
pub mod anyhow_lite {
    pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;
}

/// One entry of the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub term: u64,
    pub kind: FrameKind,
    pub payload: Bytes,
}

impl Entry {
    pub fn new(term: u64, payload: impl Into<Bytes>) -> Entry {
        Entry { term, kind: FrameKind::Messages, payload: payload.into() }
    }
}

/// Frames for `entries` behind `prev`.
pub fn frames(layout: &Layout, mut prev: FramePos, entries: &[Entry]) -> Vec<FrameBytes> {
    entries
        .iter()
        .map(|entry| {
            let (at, header, blank) =
                make_header(layout, &prev, prev.index + 1, entry.term, entry.kind, 1, &entry.payload);
            prev = at;
            FrameBytes { at, header, payload: entry.payload.clone(), blank }
        })
        .collect()
}

pub fn append(writer: &LogWriter, layout: &Layout, entries: &[Entry]) -> WriteJob {
    WriteJob { frames: frames(layout, writer.tail(), entries), ..WriteJob::default() }
}

/// The frame positions of a whole log, origin first.
pub fn positions(layout: &Layout, entries: &[Entry]) -> Vec<FramePos> {
    let frames = frames(layout, FramePos::ORIGIN, entries);
    std::iter::once(FramePos::ORIGIN).chain(frames.iter().map(|frame| frame.at)).collect()
}

/// The exact bytes of a whole log.
pub fn reference_bytes(layout: &Layout, entries: &[Entry]) -> Vec<u8> {
    let mut out = Vec::new();
    for frame in frames(layout, FramePos::ORIGIN, entries) {
        if let Some(blank) = frame.blank {
            let begin = out.len();
            out.extend_from_slice(blank_header(blank).as_ref().map_or(&[][..], |head| &head[..]));
            out.resize(begin + blank.1 as usize, 0);
        }
        assert_eq!(out.len() as u64, frame.at.pos.0);
        out.extend_from_slice(&frame.header);
        out.extend_from_slice(&frame.payload);
        out.resize(frame.at.end().0 as usize, 0);
    }
    out
}

/// Everything a writer's log holds, read back through its view.
pub fn read_all(writer: &LogWriter) -> Vec<Entry> {
    let entry = |frame: Frame| Entry { term: frame.at.term, kind: frame.kind, payload: frame.payload };
    writer.view().iter(1).map(|frame| entry(frame.unwrap())).collect()
}

/// All bytes of all segments, one behind the other.
pub fn segment_bytes(bed: &Bed) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let path = segment_path(&bed.dir, ledgermq_dledger::LogPos(out.len() as u64));
        if !bed.fs.try_exists(&path).unwrap() {
            return out;
        }
        let file = bed.fs.open(&path, ledgermq_dledger::fs::OpenMode::Read).unwrap();
        let mut bytes = vec![0; file.len().unwrap() as usize];
        assert_eq!(file.read_at(&mut bytes, 0).unwrap(), bytes.len());
        out.extend_from_slice(&bytes);
    }
}

/// Checks that the segments hold exactly these entries and zeros behind them.
pub fn assert_bytes(bed: &Bed, entries: &[Entry]) {
    let expected = reference_bytes(&bed.layout, entries);
    let found = segment_bytes(bed);
    assert!(found.len() >= expected.len(), "{} bytes of segments, {} of log", found.len(), expected.len());
    let difference = expected.iter().zip(&found).position(|(expected, found)| expected != found);
    assert_eq!(difference, None, "first different byte of {}", expected.len());
    let behind = found[expected.len()..].iter().position(|&byte| byte != 0);
    assert_eq!(behind, None, "first byte that is not zero behind the log's {} bytes", expected.len());
}

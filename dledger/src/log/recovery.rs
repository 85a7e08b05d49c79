//! From the files of a replica to the last frame that counts (docs/formats.md, "What recovery does").
//!
//! Below the durable frame that the meta file names, headers and their chain are checked (full segments through their
//! `.idx`), and anything wrong is damage: refused, never cut off. Behind it every frame is checked whole, read from the
//! disk and not from the page cache, and the first one that does not fit ends the log; what lies behind decides whether
//! that is the end of a write that was cut off, or a reason to doubt.
//!
//! Recovery only reads. What must be mended (a torn tail zeroed, a half-written blank completed) is in
//! [`Recovered::mend`] and carried out by [`super::LogWriter::open`]; when recovery refuses, not one byte has changed.

mod judge;
mod walk;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::frame::{Blank, Layout};
use super::index::SparseIndex;
use super::meta::Meta;
use super::scan::{Check, READ_CHUNK, ScanError, Scanner, SegmentFiles};
use super::scrub::Run;
use super::segment::{LOG_DIR, parse_segment_name, segment_path};
use crate::fs::{File, Fs, OpenMode};
use crate::types::{FramePos, LogPos};

pub use judge::{EVIDENCE_WINDOW, TORN_JOB_SPAN};

/// What lay behind the last good frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TailState {
    /// Zeros: the log ends where a job ended.
    Clean,
    /// Bytes of a job that was cut off at its end.
    TornTail,
    /// A hole with frames behind it, all within the reach of one job: a power cut that wrote back out of order explains
    /// it. So does rot: a suspect tail ([`super::Doubts`]).
    TornJob,
    /// A hole with frames behind it farther than one job reaches. No power cut explains it: acknowledged frames have gone
    /// bad. They cannot be told from the frames behind them that were never acknowledged, so the log ends here and the
    /// replica abstains until it has them again.
    Hole,
}

/// What the first write after a recovery must put right.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mend {
    /// Range to zero: position and number of bytes, all behind the tail.
    pub zero: Option<(LogPos, u64)>,
    /// Blanks in front of good frames that did not reach the disk whole.
    pub blanks: Vec<Blank>,
}

/// A recovered log.
pub struct Recovered {
    /// The last frame; [`super::FirstFrame::before`] the first one when the log is empty.
    pub tail: FramePos,
    /// First index and term of each run of equal terms, ascending.
    pub term_runs: Vec<(u64, u64)>,
    /// One frame per 64 KiB of log.
    pub index: SparseIndex,
    /// What lay behind the tail.
    pub tail_state: TailState,
    /// The page cache showed frames behind the tail that the disk does not have: a sync of the last run has failed.
    pub cache_was_ahead: bool,
    /// Damage below the durable frame that another member can mend.
    pub damage: Vec<Run>,
    /// Segment files by base, gapless.
    pub segments: BTreeMap<LogPos, Arc<dyn File>>,
    /// What is to be put right.
    pub mend: Mend,
}

/// Why a log cannot be used. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// The disk failed.
    #[error("cannot read {path} at byte {at}: {source}; check the disk, and if it is lost remove this replica from the group and rejoin under a new raft id", path = .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Offset in it.
        at: u64,
        /// The system's own words.
        source: io::Error,
    },
    /// A segment between the first and the last is not there.
    #[error("{path} is missing although the log goes on behind it; put the file back, or remove this replica from the group and rejoin under a new raft id", path = .0.display())]
    MissingSegment(PathBuf),
    /// A file has another length, or lies where no segment begins.
    #[error("{path} is no segment of this group: it has {len} bytes, segments have {segment_size} and begin at multiples of that; put the right file back, or remove this replica from the group and rejoin under a new raft id", path = .path.display())]
    NotASegment {
        /// The file.
        path: PathBuf,
        /// Its length.
        len: u64,
        /// What the group agreed on.
        segment_size: u64,
    },
    /// Damage to bytes that were durable, and perhaps acknowledged.
    #[error("{path} is damaged at byte {at} (log position {pos}, entry {index}), below the durable entry {durable}: {reason}; nothing was cut off: check the disk, then remove this replica from the group and rejoin under a new raft id", path = .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Offset in it.
        at: u64,
        /// Log position.
        pos: LogPos,
        /// Raft index of the frame that should be there.
        index: u64,
        /// Raft index of the durable frame.
        durable: u64,
        /// What does not fit.
        reason: String,
    },
    /// The meta file contradicts itself.
    #[error("the meta file in {dir} names entry {durable} as durable but entry {first} as the first one kept: it is damaged; remove this replica from the group and rejoin under a new raft id", dir = .dir.display())]
    Meta {
        /// The group's folder.
        dir: PathBuf,
        /// Index of the durable frame.
        durable: u64,
        /// Index of the first frame.
        first: u64,
    },
}

/// Finds the last good frame. `dir` is the group's folder. Syncs the segments that are read beyond the durable frame:
/// what a killed process left in the page cache counts from here on, so it must be on disk first.
pub fn recover(fs: &Arc<dyn Fs>, dir: &Path, meta: &Meta) -> Result<Recovered, RecoveryError> {
    recover_with(fs, dir, meta, OpenMode::ReadWrite)
}

/// Like [`recover`], but opens the files for reading only and syncs nothing: the offline tools.
pub(crate) fn recover_offline(fs: &Arc<dyn Fs>, dir: &Path, meta: &Meta) -> Result<Recovered, RecoveryError> {
    recover_with(fs, dir, meta, OpenMode::Read)
}

fn recover_with(fs: &Arc<dyn Fs>, dir: &Path, meta: &Meta, mode: OpenMode) -> Result<Recovered, RecoveryError> {
    let layout = meta.constants.layout();
    if meta.durable.index + 1 < meta.first.index {
        return Err(RecoveryError::Meta { dir: dir.to_owned(), durable: meta.durable.index, first: meta.first.index });
    }
    let place = Place { dir, layout };
    let files = open_segments(fs, &place, meta, mode)?;
    if mode == OpenMode::ReadWrite {
        sync_unproven(fs, &place, &files, meta)?;
    }
    let mut index = SparseIndex::default();
    let mut damage = Vec::new();
    let durable = walk::to_durable(fs, &place, &files, meta, &mut index, &mut damage)?;

    let in_cache = if mode == OpenMode::ReadWrite { tail_in_cache(&place, &files, durable)? } else { durable };
    let mut scanner = Scanner::new(layout, &files, true, READ_CHUNK);
    let mut mend = Mend::default();
    let mut tail = durable;
    let reason = loop {
        match scanner.next(&tail, Check::Payload).map_err(|error| place.io_error(error))? {
            Ok((header, blank)) => {
                if let Some(blank) = blank
                    && !scanner.blank_is_whole(blank).map_err(|error| place.io_error(error))?
                {
                    mend.blanks.push(blank);
                }
                let at = header.at();
                index.push(&layout, &tail, at);
                tail = at;
            }
            Err(reason) => break reason,
        }
    };
    let closed = meta.clean_shutdown && tail == durable && meta.stale_until <= tail.end();
    let tail_state = if closed {
        TailState::Clean
    } else {
        tracing::debug!(dir = %dir.display(), ?tail, %reason, "the log ends");
        let verdict = judge::judge(&place, &files, &tail, meta.stale_until)?;
        mend.zero = verdict.zero;
        verdict.state
    };
    let cache_was_ahead = in_cache.index > tail.index;
    Ok(Recovered {
        tail,
        term_runs: index.term_runs(),
        index,
        tail_state,
        cache_was_ahead,
        damage,
        segments: files,
        mend,
    })
}

/// The last frame behind `durable` as the page cache has it. Everything there has just been synced, so the disk must show
/// the same; after a failed sync it does not, since the kernel takes the pages for clean.
fn tail_in_cache(place: &Place<'_>, files: &SegmentFiles, durable: FramePos) -> Result<FramePos, RecoveryError> {
    let mut scanner = Scanner::new(place.layout, files, false, READ_CHUNK);
    let mut tail = durable;
    while let Ok((header, _)) = scanner.next(&tail, Check::Payload).map_err(|error| place.io_error(error))? {
        tail = header.at();
    }
    Ok(tail)
}

/// Where the segments are: for messages.
struct Place<'a> {
    dir: &'a Path,
    layout: Layout,
}

impl Place<'_> {
    fn path(&self, pos: LogPos) -> PathBuf {
        segment_path(self.dir, self.layout.base_of(pos))
    }

    fn offset(&self, pos: LogPos) -> u64 {
        pos.0 % self.layout.segment_size
    }

    fn io_error(&self, error: ScanError) -> RecoveryError {
        RecoveryError::Io { path: segment_path(self.dir, error.base), at: error.at, source: error.source }
    }
}

/// Opens all segments from the first frame's on and checks that they are whole and gapless.
fn open_segments(
    fs: &Arc<dyn Fs>,
    place: &Place<'_>,
    meta: &Meta,
    mode: OpenMode,
) -> Result<SegmentFiles, RecoveryError> {
    let log_dir = place.dir.join(LOG_DIR);
    let io_error = |path: &Path, source| RecoveryError::Io { path: path.to_owned(), at: 0, source };
    let names = match fs.list(&log_dir) {
        Ok(names) => names,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(io_error(&log_dir, error)),
    };
    let segment_size = place.layout.segment_size;
    let first_base = place.layout.base_of(meta.first.pos);
    let mut files = SegmentFiles::new();
    let mut expected = first_base;
    for base in names.iter().filter_map(|name| parse_segment_name(name)).filter(|&base| base >= first_base) {
        let path = segment_path(place.dir, base);
        let file = fs.open(&path, mode).map_err(|source| io_error(&path, source))?;
        let len = file.len().map_err(|source| io_error(&path, source))?;
        let fits = base.0.is_multiple_of(segment_size) && base.0.checked_add(segment_size).is_some();
        if !fits || len != segment_size {
            return Err(RecoveryError::NotASegment { path, len, segment_size });
        }
        if base != expected {
            return Err(RecoveryError::MissingSegment(segment_path(place.dir, expected)));
        }
        expected = base + segment_size;
        files.insert(base, file);
    }
    let durable_base = place.layout.base_of(meta.durable.pos);
    if meta.durable.index >= meta.first.index && !files.contains_key(&durable_base) {
        return Err(RecoveryError::MissingSegment(segment_path(place.dir, expected)));
    }
    Ok(files)
}

/// Makes durable what a killed process left in the page cache: names, and the content from the durable frame on.
fn sync_unproven(fs: &Arc<dyn Fs>, place: &Place<'_>, files: &SegmentFiles, meta: &Meta) -> Result<(), RecoveryError> {
    let first_unproven = place.layout.base_of(meta.durable.end());
    for (base, file) in files.range(first_unproven..) {
        file.sync_data().map_err(|source| RecoveryError::Io { path: segment_path(place.dir, *base), at: 0, source })?;
    }
    if !files.is_empty() {
        let log_dir = place.dir.join(LOG_DIR);
        fs.sync_dir(&log_dir).map_err(|source| RecoveryError::Io { path: log_dir, at: 0, source })?;
    }
    Ok(())
}

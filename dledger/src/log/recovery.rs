//! From the files of a replica to the last frame that counts (raft-log.md 2.9 is the design).
//!
//! Recovery only reads. What must be mended (a torn tail zeroed, a half-written blank completed) is in
//! [`Recovered::mend`] and carried out by [`super::LogWriter::open`]; when recovery refuses, not one byte has changed.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::frame::{Blank, Layout};
use super::index::SparseIndex;
use super::meta::Meta;
use crate::fs::{File, Fs};
use crate::types::{FramePos, LogPos};

/// What lay behind the last good frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TailState {
    /// Zeros: the log ends where a job ended.
    Clean,
    /// Bytes of a job that was cut off at its end.
    TornTail,
    /// A hole with frames behind it, all within the reach of one job: a power cut that wrote back out of order explains
    /// it (so does rot, hence `suspect`).
    TornJob,
}

/// What the first write after a recovery must put right.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mend {
    /// Range to zero: position and number of bytes, all behind the tail.
    pub zero: Option<(LogPos, u64)>,
    /// Blanks in front of good frames that did not reach the disk whole.
    pub blanks: Vec<Blank>,
    /// Bases of full segments whose `.idx` is missing or bad.
    pub unsealed: Vec<LogPos>,
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
}

/// Finds the last good frame. `dir` is the group's folder.
pub fn recover(_fs: &Arc<dyn Fs>, _dir: &Path, meta: &Meta) -> Result<Recovered, RecoveryError> {
    let _layout: Layout = meta.constants.layout();
    unimplemented!("recovery")
}

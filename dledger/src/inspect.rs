//! Offline tools: verify, dump and compare the logs of stopped replicas (`ledgermq inspect`, and the judges of tests).
//!
//! They open everything for reading only and use the codec and the recovery that ship, so what they accept is what a
//! start would accept; comparison is by plain bytes and trusts no checksum.

mod compare;
mod dump;
mod verify;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::fs::Fs;
use crate::log::recovery::{Recovered, recover_offline};
use crate::log::view::{LogView, ViewError};
use crate::log::{Meta, MetaError, MetaFile, RecoveryError, TailState};
use crate::types::{FramePos, LogPos};

pub use compare::{Comparison, Difference, compare};
pub use dump::{DumpedFrame, dump};
pub use verify::{Verification, verify};

/// Why a replica's files cannot be inspected, or not be compared with others.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// No usable meta file.
    #[error(transparent)]
    Meta(#[from] MetaError),
    /// The log would not start.
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
    /// A read failed, or found damage.
    #[error(transparent)]
    View(#[from] ViewError),
    /// The disk failed.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's own words.
        source: io::Error,
    },
    /// Acknowledged entries have gone bad at the end of the log.
    #[error(
        "the log in {} has a hole at position {pos}, behind entry {last}, with frames behind it farther than one write job \
         reaches: entries there have gone bad; a start cuts the log at the hole, and the replica abstains from elections until \
         it has them again from its leader", dir.display()
    )]
    Hole {
        /// The group's folder.
        dir: PathBuf,
        /// Index of the last good entry.
        last: u64,
        /// Where it ends.
        pos: LogPos,
    },
    /// A comparison needs two.
    #[error("name at least two group folders to compare")]
    TooFew,
    /// The folders belong to different groups or clusters, or their groups have other constants.
    #[error("{} and {} do not hold replicas of the same group", .0.display(), .1.display())]
    Strangers(PathBuf, PathBuf),
}

/// A stopped replica's log, opened for reading.
struct OfflineLog {
    dir: PathBuf,
    meta: Meta,
    tail: FramePos,
    tail_state: TailState,
    view: LogView,
}

impl OfflineLog {
    /// `dir` is the group's folder: the one with `meta` and `log/` in it.
    fn open(fs: &Arc<dyn Fs>, dir: &Path) -> Result<OfflineLog, InspectError> {
        let meta = MetaFile::peek(fs, dir)?;
        let recovered: Recovered = recover_offline(fs, dir, &meta)?;
        let (tail, tail_state) = (recovered.tail, recovered.tail_state);
        let view = LogView::offline(dir, &meta, recovered)
            .map_err(|source| InspectError::Io { path: dir.to_owned(), source })?;
        Ok(OfflineLog { dir: dir.to_owned(), meta, tail, tail_state, view })
    }

    /// The last entry known to be committed, cut to what is there.
    fn commit_index(&self) -> u64 {
        self.meta.commit_hint.min(self.tail.index)
    }

    /// End of the frame with this index; the start of the log for the index before the first.
    fn end_of(&self, index: u64) -> Result<LogPos, InspectError> {
        let (first_index, first_pos) = self.view.first();
        if index < first_index {
            return Ok(first_pos);
        }
        let at = self.view.find(index)?;
        Ok(at.map_or(self.tail.end(), |at| at.end()))
    }
}

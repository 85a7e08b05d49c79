//! The read side of a group's log, for any thread: apply, the broker, peers, tools.
//!
//! Reads end at the *published* position, which the writer raises after each sync and lowers before a truncation
//! changes a byte. Frames are copied and their checksums verified; [`LogView::read`] hands out mapped bytes.

use std::io;
use std::path::PathBuf;

use bytes::Bytes;

use crate::types::{Frame, FramePos, LogPos};

/// Why a read failed.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    /// Behind the published end, or not (yet, or any more) there.
    #[error("log position {pos}+{len} is outside of the readable range {first}..{end}")]
    OutOfRange {
        /// Wanted position.
        pos: LogPos,
        /// Wanted bytes.
        len: u64,
        /// First position that is kept.
        first: LogPos,
        /// Published end.
        end: LogPos,
    },
    /// The bytes there are no valid frame.
    #[error("{path} is damaged at byte {at}, log position {pos}: {reason}", path = .path.display())]
    Corrupt {
        /// Segment file.
        path: PathBuf,
        /// Offset in it.
        at: u64,
        /// Log position.
        pos: LogPos,
        /// What does not fit.
        reason: String,
    },
    /// The disk failed.
    #[error("cannot read {path} at byte {at}: {source}", path = .path.display())]
    Io {
        /// Segment file.
        path: PathBuf,
        /// Offset in it.
        at: u64,
        /// The system's own words.
        source: io::Error,
    },
}

/// A handle for reading. Cheap to clone.
#[derive(Clone)]
pub struct LogView {}

impl LogView {
    /// Index and position of the first frame kept.
    pub fn first(&self) -> (u64, LogPos) {
        unimplemented!("view")
    }

    /// End of the readable range.
    pub fn published(&self) -> LogPos {
        unimplemented!("view")
    }

    /// `len` bytes from `pos` on, inside one segment. Bytes near the end of the log are mapped, not copied; older ones
    /// are read, so that a failing disk is an error and not a signal. For committed ranges only: bytes of a frame that
    /// can still be truncated may change.
    pub fn read(&self, _pos: LogPos, _len: usize) -> Result<Bytes, ViewError> {
        unimplemented!("view")
    }

    /// The frame at `pos`, payload checksum verified; its header checksum only where the frame before is known
    /// ([`LogView::frame_after`]).
    pub fn frame_at(&self, _pos: LogPos) -> Result<Frame, ViewError> {
        unimplemented!("view")
    }

    /// The frame behind `prev`, both checksums verified; `None` at the published end.
    pub fn frame_after(&self, _prev: &FramePos) -> Result<Option<Frame>, ViewError> {
        unimplemented!("view")
    }

    /// Where the frame with this Raft index lies; `None` when it is not in the readable range.
    pub fn find(&self, _index: u64) -> Result<Option<FramePos>, ViewError> {
        unimplemented!("view")
    }

    /// Frames from `from_index` on until their payloads exceed `max_bytes` (at least one when there is one).
    pub fn frames(&self, _from_index: u64, _max_bytes: usize) -> Result<Vec<Frame>, ViewError> {
        unimplemented!("view")
    }

    /// All frames from `from_index` to the published end, one by one.
    pub fn iter(&self, from_index: u64) -> Frames {
        Frames { view: self.clone(), next_index: from_index, prev: None }
    }
}

/// Iterator of [`LogView::iter`]. Ends after the first error.
pub struct Frames {
    view: LogView,
    next_index: u64,
    prev: Option<FramePos>,
}

impl Iterator for Frames {
    type Item = Result<Frame, ViewError>;
    fn next(&mut self) -> Option<Self::Item> {
        let _ = (&self.view, self.next_index, self.prev);
        unimplemented!("view")
    }
}

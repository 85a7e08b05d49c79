//! The one writer of a group's log, owned by the log-io thread.
//!
//! It keeps the order of raft-log.md R2: term and vote first, then the truncate mark, then frames, then one `fdatasync`
//! per touched segment. Several [`LogWriter::write`]s may share one [`LogWriter::sync`]. After any error it refuses all
//! further work: nothing is retried, the process must end.

use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::frame::{Blank, HEADER_LEN};
use super::meta::{Meta, MetaFile};
use super::recovery::Recovered;
use super::segment::SegmentSupply;
use super::view::LogView;
use crate::fs::Fs;
use crate::types::FramePos;

/// One frame to write, as [`super::make_header`] placed it.
#[derive(Clone, Debug)]
pub struct FrameBytes {
    /// Where it goes.
    pub at: FramePos,
    /// Its header.
    pub header: [u8; HEADER_LEN],
    /// Its payload, without padding.
    pub payload: Bytes,
    /// What must be blanked before it.
    pub blank: Option<Blank>,
}

/// A meta file write that goes before the frames of its job.
#[derive(Clone, Debug)]
pub struct MetaWrite {
    /// The new content. `durable` and `stale_until` are filled in by the writer; `commit_hint` is cut to the durable
    /// index (R3) and, when that cut something off, stored again after the job's sync (R10).
    pub meta: Meta,
    /// Whether term or vote changed: both slots, each synced.
    pub both_slots: bool,
}

/// What goes to disk together.
#[derive(Clone, Debug, Default)]
pub struct WriteJob {
    /// Drop every frame behind this one first. All earlier jobs are synced before.
    pub truncate_to: Option<FramePos>,
    /// Frames that follow the (cut) tail without a gap.
    pub frames: Vec<FrameBytes>,
    /// Meta file write.
    pub meta: Option<MetaWrite>,
}

/// The writer.
pub struct LogWriter {
    view: LogView,
}

impl LogWriter {
    /// Takes over a recovered log: puts right what [`Recovered::mend`] names, and stores `meta` (both slots) with
    /// `durable` at the tail. `meta` is what the caller wants from now on: term, vote, boot id, `clean_shutdown` false.
    pub fn open(
        _fs: &Arc<dyn Fs>,
        _dir: &Path,
        _meta_file: MetaFile,
        _meta: Meta,
        _recovered: Recovered,
        _supply: SegmentSupply,
    ) -> io::Result<LogWriter> {
        unimplemented!("writer")
    }

    /// The read side. Sees frames once they are synced.
    pub fn view(&self) -> LogView {
        self.view.clone()
    }

    /// Writes a job; durable only after [`LogWriter::sync`], but for its meta part, which is durable at once.
    pub fn write(&mut self, _job: &WriteJob) -> io::Result<()> {
        unimplemented!("writer")
    }

    /// Makes everything written durable; returns the last durable frame.
    pub fn sync(&mut self) -> io::Result<FramePos> {
        unimplemented!("writer")
    }

    /// Stores meta outside of a job (hints), with `durable` and `stale_until` filled in.
    pub fn store_meta(&mut self, _meta: &Meta, _both_slots: bool) -> io::Result<()> {
        unimplemented!("writer")
    }

    /// Syncs, and marks a clean shutdown in `meta`.
    pub fn close(self, _meta: &Meta) -> io::Result<()> {
        unimplemented!("writer")
    }

    /// Last frame written.
    pub fn tail(&self) -> FramePos {
        unimplemented!("writer")
    }

    /// Last frame synced.
    pub fn durable(&self) -> FramePos {
        unimplemented!("writer")
    }
}

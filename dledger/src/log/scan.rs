//! Sequential reading of frames out of segment files, each checked against the one before it.
//!
//! Used by recovery, by the rebuilding of an index and by the offline tools. Reads through one buffer, so that small
//! frames do not cost a system call each; never interprets a payload.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use super::frame::{Blank, FrameError, HEADER_LEN, Header, Layout, blank_header};
use crate::fs::File;
use crate::types::{FrameKind, FramePos, LogPos};

/// Segment files by base.
pub(super) type SegmentFiles = BTreeMap<LogPos, Arc<dyn File>>;

/// Where a scanner gets its files from.
pub(super) trait SegmentSource {
    /// The file of the segment with this base.
    fn file(&self, base: LogPos) -> Option<Arc<dyn File>>;
}

impl SegmentSource for SegmentFiles {
    fn file(&self, base: LogPos) -> Option<Arc<dyn File>> {
        self.get(&base).cloned()
    }
}

/// Bytes read at a time when headers are hopped over: enough for a run of small frames, little waste on large ones.
pub(super) const HOP_CHUNK: usize = 16 * 1024;

/// Bytes read at a time when payloads are read too.
pub(super) const READ_CHUNK: usize = 1024 * 1024;

/// Why the bytes somewhere are not the frame that follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotNext {
    /// No segment file reaches there.
    #[error("there is no segment file")]
    NoSegment,
    /// No header, or checksums that do not fit.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The header says it belongs elsewhere.
    #[error("header says position {0}")]
    Position(LogPos),
    /// Another index.
    #[error("header says index {found}, expected {expected}")]
    Index {
        /// As stored.
        found: u64,
        /// One more than before.
        expected: u64,
    },
    /// A falling term.
    #[error("header says term {found}, after term {before}")]
    Term {
        /// As stored.
        found: u64,
        /// Of the frame before.
        before: u64,
    },
    /// Some frame around it is not as it was written.
    #[error("a frame there is damaged")]
    Damaged,
    /// A frame of this length belongs at another place.
    #[error("a frame of {0} bytes does not belong here")]
    Placement(u32),
}

/// How thoroughly a frame is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Check {
    /// Header and chain.
    Header,
    /// Header, chain, payload and padding.
    Payload,
}

/// A read that failed, and where.
#[derive(Debug)]
pub(super) struct ScanError {
    pub(super) base: LogPos,
    pub(super) at: u64,
    pub(super) source: io::Error,
}

/// The frame that follows another, or why there is none.
pub(super) type Step = Result<(Header, Option<Blank>), NotNext>;

/// A reader over segment files.
pub(super) struct Scanner<'a> {
    layout: Layout,
    files: &'a dyn SegmentSource,
    uncached: bool,
    chunk_len: usize,
    chunk: Vec<u8>,
    /// Position of the chunk's first byte.
    chunk_at: LogPos,
}

impl<'a> Scanner<'a> {
    /// `uncached` reads from the disk, not from the page cache; `chunk_len` is one of the constants above.
    pub(super) fn new(layout: Layout, files: &'a dyn SegmentSource, uncached: bool, chunk_len: usize) -> Scanner<'a> {
        Scanner { layout, files, uncached, chunk_len, chunk: Vec::new(), chunk_at: LogPos(0) }
    }

    /// `len` bytes at `pos`, which must lie inside one segment; `None` when no file reaches there.
    pub(super) fn bytes(&mut self, pos: LogPos, len: usize) -> Result<Option<&[u8]>, ScanError> {
        let held = pos >= self.chunk_at && pos.0 + len as u64 <= self.chunk_at.0 + self.chunk.len() as u64;
        if !held && !self.load(pos, len)? {
            return Ok(None);
        }
        let start = (pos.0 - self.chunk_at.0) as usize;
        Ok(Some(&self.chunk[start..start + len]))
    }

    fn load(&mut self, pos: LogPos, len: usize) -> Result<bool, ScanError> {
        let base = self.layout.base_of(pos);
        let room = self.layout.room(pos);
        let Some(file) = self.files.file(base) else { return Ok(false) };
        if len as u64 > room {
            return Ok(false);
        }
        let want = (len.max(self.chunk_len) as u64).min(room) as usize;
        self.chunk.resize(want, 0);
        self.chunk_at = pos;
        let at = pos.0 - base.0;
        let read =
            if self.uncached { file.read_uncached_at(&mut self.chunk, at) } else { file.read_at(&mut self.chunk, at) };
        let read = read.map_err(|source| {
            self.chunk = Vec::new();
            ScanError { base, at, source }
        })?;
        self.chunk.truncate(read);
        Ok(read >= len)
    }

    /// The frame behind `prev`: at its end, or at the next base when the rest of the segment is no frame. Whether a
    /// blank is there, and whole, makes no difference. When neither place holds it, the reason is that of the first.
    pub(super) fn next(&mut self, prev: &FramePos, check: Check) -> Result<Step, ScanError> {
        let end = prev.end();
        let room = self.layout.room(end);
        let here = if room >= HEADER_LEN as u64 { self.frame_at(end, prev, check)? } else { Err(NotNext::NoSegment) };
        let reason = match here {
            Ok(header) => return Ok(Ok((header, None))),
            Err(reason) => reason,
        };
        if room == self.layout.segment_size {
            return Ok(Err(reason));
        }
        match self.frame_at(end + room, prev, check)? {
            Ok(header) => Ok(Ok((header, Some((end, room))))),
            Err(at_base) => Ok(Err(if room >= HEADER_LEN as u64 { reason } else { at_base })),
        }
    }

    /// Checks that the bytes at `pos` are the frame that follows `prev`.
    fn frame_at(&mut self, pos: LogPos, prev: &FramePos, check: Check) -> Result<Result<Header, NotNext>, ScanError> {
        let Some(bytes) = self.bytes(pos, HEADER_LEN)? else { return Ok(Err(NotNext::NoSegment)) };
        let header = match Header::decode(bytes) {
            Ok(header) => header,
            Err(error) => return Ok(Err(error.into())),
        };
        if let Err(reason) = follows(&self.layout, &header, pos, prev) {
            return Ok(Err(reason));
        }
        if check == Check::Payload {
            let rest = header.frame_len as usize - HEADER_LEN;
            let Some(rest) = self.bytes(pos + HEADER_LEN as u64, rest)? else { return Ok(Err(NotNext::NoSegment)) };
            if let Err(error) = header.check_payload(rest) {
                return Ok(Err(error.into()));
            }
        }
        Ok(Ok(header))
    }

    /// Whether every byte of a blank is as it must be.
    pub(super) fn blank_is_whole(&mut self, blank: Blank) -> Result<bool, ScanError> {
        let (pos, len) = blank;
        let Some(bytes) = self.bytes(pos, len as usize)? else { return Ok(false) };
        let head = blank_header(blank);
        let head = head.as_ref().map_or(&[][..], |head| &head[..]);
        Ok(bytes.starts_with(head) && bytes[head.len()..].iter().all(|&byte| byte == 0))
    }
}

/// Checks that a header found at `pos` belongs to the frame that follows `prev`; its payload is not looked at.
pub(super) fn follows(layout: &Layout, header: &Header, pos: LogPos, prev: &FramePos) -> Result<(), NotNext> {
    if header.kind == FrameKind::Blank {
        return Err(NotNext::Frame(FrameError::Fields(FrameKind::Blank)));
    }
    if header.pos != pos {
        return Err(NotNext::Position(header.pos));
    }
    if header.index != prev.index + 1 {
        return Err(NotNext::Index { found: header.index, expected: prev.index + 1 });
    }
    if header.term < prev.term {
        return Err(NotNext::Term { found: header.term, before: prev.term });
    }
    if header.frame_len > layout.max_frame_len() || layout.place(prev.end(), header.frame_len).at != pos {
        return Err(NotNext::Placement(header.frame_len));
    }
    header.check_chain(prev.chain)?;
    Ok(())
}

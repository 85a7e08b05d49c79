//! The read side of a group's log, for any thread: apply, the broker, peers, tools.
//!
//! Reads end at the *published* position, which the writer raises after each sync and lowers before a truncation
//! changes a byte. Frames are copied and their checksums verified; [`LogView::read`] hands out mapped bytes. The lock
//! inside guards the list of segments and the sparse index; it is held for look-ups, never across a read of the disk.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};

use super::frame::{HEADER_LEN, Header, Layout};
use super::index::SparseIndex;
use super::meta::{FirstFrame, Meta};
use super::recovery::Recovered;
use super::scan::{Check, HOP_CHUNK, NotNext, ScanError, Scanner, SegmentFiles, SegmentSource};
use super::scrub::Run;
use super::segment::{Segment, segment_path};
use crate::fs::File;
use crate::types::{Frame, FramePos, LogPos};

/// Bytes before the published end that this process has written lately and that are therefore taken to be in the page
/// cache: reads there are mapped. A page fault on cold bytes would block the reader's thread, and a failing disk would
/// be a signal instead of an error, so older bytes are read with a copy.
pub const WARM_WINDOW: u64 = 64 * 1024 * 1024;

/// Runs that a view remembers to be whole, so that a reader who goes through them does not have each verified again.
const WHOLE_RUNS_MAX: usize = 64;

/// Damaged runs that readers have met and that wait to be taken.
const DAMAGED_RUNS_MAX: usize = 64;

/// Frames that one [`LogView::frames`] returns at most, however small they are.
pub const FRAMES_MAX: usize = 16 * 1024;

/// Why a read failed.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    /// Before the first frame that is kept: it was removed, on purpose.
    #[error("{wanted} lies before entry {first} at {pos}, where the log begins: it was removed")]
    Gone {
        /// What was asked for.
        wanted: Wanted,
        /// Raft index of the first frame kept.
        first: u64,
        /// Its position.
        pos: LogPos,
    },
    /// Behind the published end, or across a segment's end.
    #[error("log range {pos}+{len} is outside of the readable range {first}..{end}")]
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
    #[error("{path} is damaged at byte {at} (log position {pos}): {reason}", path = .path.display())]
    Corrupt {
        /// Segment file.
        path: PathBuf,
        /// Offset in it.
        at: u64,
        /// Log position.
        pos: LogPos,
        /// What does not fit.
        reason: NotNext,
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

/// What a read that came too late asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// A Raft index.
    Index(u64),
    /// A log position.
    Pos(LogPos),
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Wanted::Index(index) => write!(f, "entry {index}"),
            Wanted::Pos(pos) => write!(f, "log position {pos}"),
        }
    }
}

struct Inner {
    first: FirstFrame,
    segments: BTreeMap<LogPos, Arc<Segment>>,
    index: SparseIndex,
}

struct Shared {
    dir: PathBuf,
    layout: Layout,
    /// End of the readable range. Lowered before, and raised after, what it covers changes.
    published: AtomicU64,
    /// See [`LogView::spared`].
    spared: AtomicU64,
    inner: RwLock<Inner>,
    checked: Mutex<Checked>,
}

/// What cold reads have found out about runs.
#[derive(Default)]
struct Checked {
    /// First positions of runs that were whole when they were read last, newest last.
    whole: VecDeque<LogPos>,
    /// Damaged ones that nobody has taken yet.
    damaged: Vec<Run>,
}

impl SegmentSource for Shared {
    fn file(&self, base: LogPos) -> Option<Arc<dyn File>> {
        self.inner.read().segments.get(&base).map(|segment| segment.file.clone())
    }
}

/// A handle for reading. Cheap to clone.
#[derive(Clone)]
pub struct LogView {
    shared: Arc<Shared>,
}

/// The writer's side.
impl LogView {
    pub(super) fn new(
        dir: &Path,
        layout: Layout,
        first: FirstFrame,
        segments: BTreeMap<LogPos, Arc<Segment>>,
        index: SparseIndex,
        published: LogPos,
    ) -> LogView {
        let inner = RwLock::new(Inner { first, segments, index });
        LogView {
            shared: Arc::new(Shared {
                dir: dir.to_owned(),
                layout,
                published: AtomicU64::new(published.0),
                spared: AtomicU64::new(0),
                inner,
                checked: Mutex::default(),
            }),
        }
    }

    /// The read side of a log that nobody writes.
    pub(crate) fn offline(dir: &Path, meta: &Meta, recovered: Recovered) -> io::Result<LogView> {
        let layout = meta.constants.layout();
        let segments = recovered
            .segments
            .into_iter()
            .map(|(base, file)| Ok((base, Arc::new(Segment::new(dir, base, &layout, file)?))))
            .collect::<io::Result<_>>()?;
        Ok(LogView::new(dir, layout, meta.first, segments, recovered.index, recovered.tail.end()))
    }

    pub(super) fn publish(&self, end: LogPos) {
        self.shared.published.store(end.0, Ordering::Release);
    }

    pub(super) fn add_segment(&self, segment: Arc<Segment>) {
        self.shared.inner.write().segments.insert(segment.base, segment);
    }

    /// Adds frames that follow `prev` to the index.
    pub(super) fn add_frames(&self, mut prev: FramePos, frames: impl Iterator<Item = FramePos>) {
        let mut inner = self.shared.inner.write();
        for at in frames {
            inner.index.push(&self.shared.layout, &prev, at);
            prev = at;
        }
    }

    /// Makes everything behind `cut` unreadable.
    pub(super) fn truncate(&self, cut: &FramePos) {
        self.shared.published.fetch_min(cut.end().0, Ordering::AcqRel);
        self.shared.inner.write().index.truncate(cut);
    }

    /// Makes everything before `first` unreadable. What was read from there before stays valid.
    pub(super) fn remove_before(&self, first: FirstFrame) {
        let mut inner = self.shared.inner.write();
        inner.first = first;
        inner.index.remove_before(first.pos);
        inner.segments = inner.segments.split_off(&first.pos);
    }

    /// Another log in place of this one: a snapshot was installed. What was read before stays valid.
    pub(super) fn replace(
        &self,
        first: FirstFrame,
        segments: BTreeMap<LogPos, Arc<Segment>>,
        index: SparseIndex,
        published: LogPos,
    ) {
        let mut inner = self.shared.inner.write();
        *inner = Inner { first, segments, index };
        // What was found out about the old segments says nothing about these.
        *self.shared.checked.lock() = Checked::default();
        self.shared.published.store(published.0, Ordering::Release);
    }

    /// The index file's content for a full segment.
    pub(super) fn encode_idx(&self, base: LogPos) -> Option<Vec<u8>> {
        self.shared.inner.read().index.segment(base).map(|segment| segment.encode(&self.shared.layout))
    }
}

impl LogView {
    /// Index and position of the first frame kept.
    pub fn first(&self) -> (u64, LogPos) {
        let first = self.shared.inner.read().first;
        (first.index, first.pos)
    }

    /// The first frame of the segment with this base, and what it is chained to; `None` when the log has none there. Costs a
    /// look-up in memory.
    pub fn segment_start(&self, base: LogPos) -> Option<FirstFrame> {
        let inner = self.shared.inner.read();
        if base == inner.first.pos {
            return Some(inner.first);
        }
        let prev = inner.index.segment(base)?.prev;
        Some(FirstFrame { index: prev.index + 1, pos: base, prev_term: prev.term, prev_chain: prev.chain })
    }

    /// What [`LogView::segment_start`] says of every segment, ascending.
    pub fn segment_starts(&self) -> Vec<FirstFrame> {
        let bases: Vec<LogPos> = self.shared.inner.read().index.segments().map(|segment| segment.base).collect();
        bases.into_iter().filter_map(|base| self.segment_start(base)).collect()
    }

    /// Raft index up to which no member of the group needs entries from this replica any more, as far as it knows: each has
    /// them on its own disk. 0 where it does not know, that is on any replica but the leader. A prefix of the log may be given
    /// up to here; more would cut a member off.
    pub fn spared(&self) -> u64 {
        self.shared.spared.load(Ordering::Acquire)
    }

    /// For the group, which knows how far its members are.
    pub(crate) fn spare(&self, index: u64) {
        self.shared.spared.store(index, Ordering::Release);
    }

    /// A frame at or shortly before this index, at most 64 KiB of log away, without a look at the disk.
    pub(crate) fn near(&self, index: u64) -> Option<FramePos> {
        self.shared.inner.read().index.floor(index)
    }

    /// End of the readable range: everything below is durable here, which does not mean that it is committed.
    pub fn published(&self) -> LogPos {
        LogPos(self.shared.published.load(Ordering::Acquire))
    }

    /// Geometry of the log.
    pub fn layout(&self) -> Layout {
        self.shared.layout
    }

    /// `len` bytes from `pos` on, inside one segment. Bytes near the end of the log are mapped, not copied; older ones
    /// are read, so that a failing disk is an error and not a signal, and only where the checksums around them hold. For committed ranges only: bytes of a frame that
    /// can still be truncated may change.
    pub fn read(&self, pos: LogPos, len: usize) -> Result<Bytes, ViewError> {
        let end = self.check_range(pos, len as u64)?;
        let base = self.shared.layout.base_of(pos);
        let at = pos.0 - base.0;
        let segment = self.shared.inner.read().segments.get(&base).cloned();
        let Some(segment) = segment else { return Err(self.out_of_range(pos, len as u64)) };
        let io_error = |source| ViewError::Io { path: segment.path.clone(), at, source };
        if end.0 - pos.0 <= WARM_WINDOW {
            return segment.mapping.clone().slice(at, len).map_err(io_error);
        }
        self.check_run_at(pos)?;
        let mut bytes = vec![0; len];
        match segment.file.read_at(&mut bytes, at).map_err(io_error)? {
            read if read == len => Ok(bytes.into()),
            _ => Err(io_error(io::ErrorKind::UnexpectedEof.into())),
        }
    }

    /// The frame at `pos`, payload checksum verified; its header checksum only by [`LogView::frame_after`], where the
    /// frame before is known.
    pub fn frame_at(&self, pos: LogPos) -> Result<Frame, ViewError> {
        self.check_range(pos, HEADER_LEN as u64)?;
        let mut scanner = self.scanner();
        let bytes = scanner.bytes(pos, HEADER_LEN).map_err(|error| self.io_error(error))?;
        let header = match bytes.map(Header::decode) {
            Some(Ok(header)) if header.index > 0 && header.pos == pos => header,
            Some(Ok(header)) => return Err(self.corrupt(pos, HEADER_LEN, NotNext::Position(header.pos))),
            Some(Err(error)) => return Err(self.corrupt(pos, HEADER_LEN, error.into())),
            None => return Err(self.out_of_range(pos, HEADER_LEN as u64)),
        };
        self.check_range(pos, u64::from(header.frame_len))?;
        self.load(&mut scanner, &header)
    }

    /// The frame behind `prev`, both checksums verified; `None` at the published end.
    pub fn frame_after(&self, prev: &FramePos) -> Result<Option<Frame>, ViewError> {
        let mut scanner = self.scanner();
        match self.next_header(&mut scanner, prev)? {
            Some(header) => self.load(&mut scanner, &header).map(Some),
            None => Ok(None),
        }
    }

    /// Where the frame with this Raft index lies; `None` when it is behind the readable range.
    ///
    /// # Errors
    /// [`ViewError::Gone`] when it was removed; else what is wrong with the log.
    pub fn find(&self, index: u64) -> Result<Option<FramePos>, ViewError> {
        self.find_with(&mut self.scanner(), index)
    }

    /// Frames from `from_index` on until their payloads reach `max_bytes` (at least one when there is one, at most
    /// [`FRAMES_MAX`]); empty when the first lies behind the readable range.
    ///
    /// # Errors
    /// [`ViewError::Gone`] when the first was removed; else what is wrong with the log.
    pub fn frames(&self, from_index: u64, max_bytes: u64) -> Result<Vec<Frame>, ViewError> {
        let mut frames = Vec::new();
        match self.load_run(FramesFrom::Index(from_index), max_bytes, &mut frames) {
            Err(error) if frames.is_empty() => Err(error),
            _ => Ok(frames),
        }
    }

    /// All frames from `from_index` to the published end, one by one.
    pub fn iter(&self, from_index: u64) -> Frames {
        Frames {
            view: self.clone(),
            from: Some(FramesFrom::Index(from_index)),
            loaded: Vec::new().into_iter(),
            end: None,
        }
    }

    /// Loads frames through one buffer, within the bounds of [`LogView::frames`]. After an error the frames in front of
    /// the damage are there.
    fn load_run(&self, from: FramesFrom, max_bytes: u64, frames: &mut Vec<Frame>) -> Result<(), ViewError> {
        let mut scanner = self.scanner();
        let mut bytes = 0;
        let mut prev = match from {
            FramesFrom::Index(index) => {
                let Some(first) = self.find_with(&mut scanner, index)? else { return Ok(()) };
                let frame = self.load_at(&mut scanner, &first)?;
                bytes += frame.payload.len() as u64;
                frames.push(frame);
                first
            }
            FramesFrom::Behind(prev) => prev,
        };
        while frames.len() < FRAMES_MAX {
            let Some(header) = self.next_header(&mut scanner, &prev)? else { break };
            bytes += u64::from(header.payload_len);
            if bytes > max_bytes && !frames.is_empty() {
                break;
            }
            frames.push(self.load(&mut scanner, &header)?);
            prev = header.at();
        }
        Ok(())
    }

    /// The frame that holds the byte at `pos`; `None` in a blank and behind the published end.
    pub fn frame_around(&self, pos: LogPos) -> Result<Option<FramePos>, ViewError> {
        let Some(mut at) = self.shared.inner.read().index.floor_pos(pos) else { return Ok(None) };
        let mut scanner = self.scanner();
        while at.end() <= pos {
            match self.next_header(&mut scanner, &at)? {
                Some(header) => at = header.at(),
                None => return Ok(None),
            }
        }
        Ok((at.pos <= pos).then_some(at))
    }

    fn scanner(&self) -> Scanner<'_> {
        Scanner::new(self.shared.layout, &*self.shared, false, HOP_CHUNK)
    }

    fn find_with(&self, scanner: &mut Scanner<'_>, index: u64) -> Result<Option<FramePos>, ViewError> {
        let floor = {
            let inner = self.shared.inner.read();
            // Index 0 never was.
            if (1..inner.first.index).contains(&index) {
                return Err(gone(Wanted::Index(index), &inner.first));
            }
            inner.index.floor(index)
        };
        let Some(mut at) = floor else { return Ok(None) };
        if at.end() > self.published() {
            return Ok(None);
        }
        while at.index < index {
            match self.next_header(scanner, &at)? {
                Some(header) => at = header.at(),
                None => return Ok(None),
            }
        }
        Ok((at.index == index).then_some(at))
    }

    /// Header of the frame behind `prev`, when that frame lies in the readable range.
    fn next_header(&self, scanner: &mut Scanner<'_>, prev: &FramePos) -> Result<Option<Header>, ViewError> {
        let end = self.published();
        if prev.end() >= end {
            return Ok(None);
        }
        match scanner.next(prev, Check::Header).map_err(|error| self.io_error(error))? {
            Ok((header, _)) => Ok((header.at().end() <= end).then_some(header)),
            // The published end is always the end of a frame, so in front of it there is one more.
            Err(reason) => self.still_there(prev.end(), 1).and_then(|()| Err(self.corrupt(prev.end(), 1, reason))),
        }
    }

    /// The frame that the index knows at this place.
    fn load_at(&self, scanner: &mut Scanner<'_>, at: &FramePos) -> Result<Frame, ViewError> {
        let bytes = scanner.bytes(at.pos, HEADER_LEN).map_err(|error| self.io_error(error))?;
        match bytes.map(Header::decode) {
            Some(Ok(header)) if header.at() == *at => self.load(scanner, &header),
            Some(Ok(header)) => Err(self.corrupt(at.pos, HEADER_LEN, NotNext::Position(header.pos))),
            Some(Err(error)) => Err(self.corrupt(at.pos, HEADER_LEN, error.into())),
            None => Err(self.out_of_range(at.pos, HEADER_LEN as u64)),
        }
    }

    /// Reads and verifies what follows a header that has been verified.
    fn load(&self, scanner: &mut Scanner<'_>, header: &Header) -> Result<Frame, ViewError> {
        let body = header.pos + HEADER_LEN as u64;
        let len = header.frame_len as usize - HEADER_LEN;
        let rest: Bytes = if len <= HOP_CHUNK {
            match scanner.bytes(body, len).map_err(|error| self.io_error(error))? {
                Some(bytes) => Bytes::copy_from_slice(bytes),
                None => return Err(self.out_of_range(body, len as u64)),
            }
        } else {
            self.read_copied(body, len)?
        };
        if let Err(error) = header.check_payload(&rest) {
            return Err(self.corrupt(header.pos, header.frame_len as usize, error.into()));
        }
        let payload = rest.slice(..header.payload_len as usize);
        Ok(Frame { at: header.at(), kind: header.kind, records: header.records, payload })
    }

    /// Like [`LogView::read`], but always a copy, and not held to the published end.
    pub(crate) fn read_copied(&self, pos: LogPos, len: usize) -> Result<Bytes, ViewError> {
        let base = self.shared.layout.base_of(pos);
        let at = pos.0 - base.0;
        let Some(file) = self.shared.file(base) else { return Err(self.out_of_range(pos, len as u64)) };
        let mut bytes = vec![0; len];
        match file.read_at(&mut bytes, at) {
            Ok(read) if read == len => Ok(bytes.into()),
            Ok(_) => Err(self.io_error(ScanError { base, at, source: io::ErrorKind::UnexpectedEof.into() })),
            Err(source) => Err(self.io_error(ScanError { base, at, source })),
        }
    }

    /// Checks that a range is readable; returns the published end.
    fn check_range(&self, pos: LogPos, len: u64) -> Result<LogPos, ViewError> {
        let end = self.published();
        let first = self.shared.inner.read().first;
        let fits = pos >= first.pos
            && pos.0.checked_add(len).is_some_and(|range_end| range_end <= end.0)
            && len <= self.shared.layout.room(pos);
        if fits { Ok(end) } else { Err(self.out_of_range(pos, len)) }
    }

    fn still_there(&self, pos: LogPos, len: u64) -> Result<(), ViewError> {
        let first = self.shared.inner.read().first.pos;
        let there = pos >= first && pos.0 + len <= self.published().0;
        if there { Ok(()) } else { Err(self.out_of_range(pos, len)) }
    }

    fn out_of_range(&self, pos: LogPos, len: u64) -> ViewError {
        let first = self.shared.inner.read().first;
        if pos < first.pos {
            return gone(Wanted::Pos(pos), &first);
        }
        ViewError::OutOfRange { pos, len, first: first.pos, end: self.published() }
    }

    /// Damage, unless a truncation or removal took the range away while it was being read.
    fn corrupt(&self, pos: LogPos, len: usize, reason: NotNext) -> ViewError {
        if let Err(error) = self.still_there(pos, len as u64) {
            return error;
        }
        let base = self.shared.layout.base_of(pos);
        ViewError::Corrupt { path: segment_path(&self.shared.dir, base), at: pos.0 - base.0, pos, reason }
    }

    /// Verifies the run that holds a position before a reader is given bytes of it. Readers go through a log in order, so the
    /// last few answers serve nearly all questions.
    fn check_run_at(&self, pos: LogPos) -> Result<(), ViewError> {
        let Some(run) = self.known_run(pos) else { return Ok(()) };
        if self.shared.checked.lock().whole.contains(&run.begin) {
            return Ok(());
        }
        let whole = self.is_run_whole(&run, false)?;
        let mut checked = self.shared.checked.lock();
        if whole {
            if checked.whole.len() == WHOLE_RUNS_MAX {
                checked.whole.pop_front();
            }
            checked.whole.push_back(run.begin);
            return Ok(());
        }
        if checked.damaged.len() < DAMAGED_RUNS_MAX && !checked.damaged.contains(&run) {
            checked.damaged.push(run);
        }
        drop(checked);
        Err(self.corrupt(run.begin, 1, NotNext::Damaged))
    }

    /// Damaged runs that readers have met since the last call.
    pub(crate) fn take_damaged(&self) -> Vec<Run> {
        std::mem::take(&mut self.shared.checked.lock().damaged)
    }

    /// The run of known frames around a position, see [`super::scrub`].
    pub(super) fn known_run(&self, pos: LogPos) -> Option<Run> {
        let inner = self.shared.inner.read();
        let (prev, begin, end) = inner.index.run_around(pos)?;
        let room = self.shared.layout.room(end.end());
        // A segment's end is blank once there is another segment behind it.
        let next_base = end.end() + room;
        let is_last = inner.index.segment(self.shared.layout.base_of(end.pos)).is_some_and(|it| it.last == end);
        let is_full = is_last && room < self.shared.layout.segment_size && inner.index.segment(next_base).is_some();
        Some(Run { prev, begin, end, blank: is_full.then_some((end.end(), room)) })
    }

    /// All segment files, as they are now.
    pub(super) fn files(&self) -> SegmentFiles {
        self.shared.inner.read().segments.iter().map(|(base, segment)| (*base, Arc::clone(&segment.file))).collect()
    }

    pub(super) fn io_error(&self, error: ScanError) -> ViewError {
        ViewError::Io { path: segment_path(&self.shared.dir, error.base), at: error.at, source: error.source }
    }
}

fn gone(wanted: Wanted, first: &FirstFrame) -> ViewError {
    ViewError::Gone { wanted, first: first.index, pos: first.pos }
}

/// Where a run of frames begins.
enum FramesFrom {
    Index(u64),
    Behind(FramePos),
}

/// Payload bytes that the iterator holds at a time.
const ITER_BYTES: u64 = 1024 * 1024;

/// Iterator of [`LogView::iter`]. Ends after the first error.
pub struct Frames {
    view: LogView,
    /// Where the next run begins; `None` when there is none.
    from: Option<FramesFrom>,
    loaded: std::vec::IntoIter<Frame>,
    /// What lies behind the loaded frames.
    end: Option<ViewError>,
}

impl Iterator for Frames {
    type Item = Result<Frame, ViewError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.loaded.len() == 0
            && let Some(from) = self.from.take()
        {
            let mut frames = Vec::new();
            self.end = self.view.load_run(from, ITER_BYTES, &mut frames).err();
            if self.end.is_none() {
                self.from = frames.last().map(|frame| FramesFrom::Behind(frame.at));
            }
            self.loaded = frames.into_iter();
        }
        match self.loaded.next() {
            Some(frame) => Some(Ok(frame)),
            None => self.end.take().map(Err),
        }
    }
}

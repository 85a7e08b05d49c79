//! `raft::Storage` over the in-memory tail and the read side of the log. The one place where an entry gets its frame.
//!
//! Stands between raft-rs and `log/`: when a Ready hands over entries they are placed and chained here, on leader and
//! follower alike, and kept until they are both durable and applied, so that raft-rs never waits for a disk on the
//! way of an acknowledgement. Only catch-up of a lagging follower reads the disk, at most [`COLD_READ_MAX`] bytes a
//! call. Never writes.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};

use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{Error as RaftError, GetEntriesContext, RaftState, StorageError};

use crate::entry::{self, EntryError};
use crate::log::frame::{HEADER_LEN, Header, Layout, make_header};
use crate::log::meta::FirstFrame;
use crate::log::recovery::Recovered;
use crate::log::view::LogView;
use crate::log::writer::FrameBytes;
use crate::snapshot::{Manifest, conf_state};
use crate::transport::codec::WireFrame;
use crate::types::FramePos;

/// Bytes that one call reads from disk for a lagging follower; the raft loop waits for it. At 1 MiB that is below a
/// millisecond from the page cache and some milliseconds from a disk.
pub(crate) const COLD_READ_MAX: u64 = 1 << 20;

/// Bytes read from disk for lagging followers in one round of the raft loop, after which they wait for the next: a whole
/// window of in-flight appends at once would hold up heartbeats for hundreds of milliseconds. An answer or a heartbeat
/// asks for more.
const COLD_ROUND_MAX: u64 = 4 << 20;

/// An entry in memory, with the frame that it has.
#[derive(Debug, Clone)]
struct Cached {
    entry: Entry,
    frame: FrameBytes,
}

/// What [`GroupStorage::append`] made: bytes for log-io.
#[derive(Debug, Default)]
pub(crate) struct Appended {
    /// Frames to write, in order.
    pub(crate) frames: Vec<FrameBytes>,
    /// The frame to keep as the last one before they are written, when a suffix is replaced.
    pub(crate) truncate_to: Option<FramePos>,
}

/// Why entries cannot be placed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StorageFailure {
    #[error(transparent)]
    Entry(#[from] EntryError),
    #[error("cannot find the frame of entry {index} in the log: {reason}")]
    Lookup { index: u64, reason: String },
}

/// Where the log starts: the frame before the first one that is there.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LogStart {
    pub(crate) prev: FramePos,
}

pub(crate) struct GroupStorage {
    layout: Layout,
    hard_state: HardState,
    conf_state: ConfState,
    start: LogStart,
    /// `(first index, term)` of each run of equal terms, ascending, of everything from `start` to `tail`.
    runs: Vec<(u64, u64)>,
    /// Contiguous; the last one is `tail` (empty right after a start or a deep truncation).
    cache: VecDeque<Cached>,
    cache_bytes: usize,
    cache_bytes_max: usize,
    tail: FramePos,
    /// Frames that the stamping made already, so that a checksum is not computed twice.
    prepared: VecDeque<FrameBytes>,
    view: LogView,
    /// Headers of entries read from disk in this round, for the peer encoder.
    cold: RefCell<HashMap<u64, (u64, [u8; HEADER_LEN])>>,
    /// Bytes read from disk in this round.
    cold_bytes: Cell<u64>,
    /// The snapshot that members behind the log's start are sent.
    given: Option<Snapshot>,
    /// Least index that one must reach which raft-rs has asked for in vain.
    snapshot_wanted: Cell<Option<u64>>,
    /// Index of the last snapshot that took the place of the log here.
    restored_at: u64,
}

impl GroupStorage {
    #[allow(clippy::too_many_arguments, reason = "the parts of a recovered log; a struct would only rename them")]
    pub(crate) fn new(
        layout: Layout,
        hard_state: HardState,
        conf_state: ConfState,
        start: LogStart,
        runs: Vec<(u64, u64)>,
        tail: FramePos,
        view: LogView,
        cache_bytes_max: usize,
    ) -> GroupStorage {
        GroupStorage {
            layout,
            hard_state,
            conf_state,
            start,
            runs,
            cache: VecDeque::new(),
            cache_bytes: 0,
            cache_bytes_max,
            tail,
            prepared: VecDeque::new(),
            view,
            cold: RefCell::new(HashMap::new()),
            cold_bytes: Cell::new(0),
            given: None,
            snapshot_wanted: Cell::new(None),
            restored_at: 0,
        }
    }

    pub(crate) fn layout(&self) -> Layout {
        self.layout
    }

    /// Index of the first entry that is kept.
    pub(crate) fn first_kept(&self) -> u64 {
        self.start.prev.index + 1
    }

    /// Last frame, durable or not.
    pub(crate) fn tail(&self) -> FramePos {
        self.prepared.back().map_or(self.tail, |frame| frame.at)
    }

    /// Where the log begins: the frame before the first one.
    pub(crate) fn start(&self) -> FramePos {
        self.start.prev
    }

    /// The first frame, and what it is chained to.
    pub(crate) fn first(&self) -> FirstFrame {
        let FramePos { index, term, pos, chain, .. } = self.start.prev;
        FirstFrame { index: index + 1, pos, prev_term: term, prev_chain: chain }
    }

    /// The read side.
    pub(crate) fn view(&self) -> &LogView {
        &self.view
    }

    /// Forgets everything before `first`, whose predecessor is applied.
    pub(crate) fn remove_before(&mut self, first: &FirstFrame) {
        let prev = first.before();
        assert!(
            prev.index > self.start.prev.index && prev.index < self.tail.index,
            "a log from {:?} to {:?} cannot begin behind {prev:?}",
            self.start.prev,
            self.tail
        );
        while self.cache.front().is_some_and(|cached| cached.frame.at.index <= prev.index) {
            let cached = self.cache.pop_front().expect("just seen");
            self.cache_bytes -= cached.frame.at.len as usize;
        }
        let kept = self.runs.partition_point(|(run_first, _)| *run_first <= first.index);
        let run = kept.checked_sub(1).expect("runs cover the log from its start");
        self.runs.drain(..run);
        self.start = LogStart { prev };
    }

    pub(crate) fn set_conf_state(&mut self, conf_state: ConfState) {
        self.conf_state = conf_state;
    }

    /// The snapshot that is given to members from now on.
    pub(crate) fn give(&mut self, given: Option<Snapshot>) {
        self.given = given;
    }

    /// Whether there is a snapshot to give.
    pub(crate) fn gives(&self) -> bool {
        self.given.is_some()
    }

    /// Least index that one must reach which was asked for in vain since the last call.
    pub(crate) fn snapshot_wanted(&mut self) -> Option<u64> {
        self.snapshot_wanted.take()
    }

    /// Another log in place of this one. Its segments take their places later: until then only its end is asked for.
    pub(crate) fn install(&mut self, manifest: &Manifest, recovered: &Recovered) {
        self.prepared.clear();
        self.start = LogStart { prev: manifest.first.before() };
        self.runs.clone_from(&recovered.term_runs);
        self.cache.clear();
        self.cache_bytes = 0;
        self.tail = manifest.tail;
        self.restored_at = manifest.tail.index;
        self.conf_state = conf_state(&manifest.membership);
        self.given = None;
    }

    /// Index of the last snapshot that was installed.
    pub(crate) fn restored_at(&self) -> u64 {
        self.restored_at
    }

    /// Keeps a frame that the stamping made for the entry it is about to propose.
    pub(crate) fn prepare(&mut self, frame: FrameBytes) {
        assert_eq!(frame.at.index, self.tail().index + 1, "stamped frames follow each other");
        self.prepared.push_back(frame);
    }

    /// Forgets stamped frames whose proposal did not come to be.
    pub(crate) fn drop_prepared(&mut self) {
        self.prepared.clear();
    }

    /// Places and chains entries that a Ready handed over. Replaces a conflicting suffix. `known` is the last committed frame as
    /// far as it is known: mostly what a suffix is cut behind, and nothing to look for on a disk that may be damaged there.
    pub(crate) fn append(&mut self, entries: Vec<Entry>, known: &FramePos) -> Result<Appended, StorageFailure> {
        let mut appended = Appended::default();
        let Some(first) = entries.first().map(|entry| entry.index) else {
            return Ok(appended);
        };
        assert!(first <= self.tail.index + 1, "entries {first}.. would leave a gap behind {:?}", self.tail);
        if first <= self.tail.index {
            let keep = if first - 1 == known.index { *known } else { self.frame_at(first - 1)? };
            self.truncate(keep);
            appended.truncate_to = Some(keep);
        }
        appended.frames.reserve(entries.len());
        for entry in entries {
            let frame = self.frame_for(&entry)?;
            if self.runs.last().is_none_or(|(_, term)| *term != entry.term) {
                self.runs.push((entry.index, entry.term));
            }
            self.tail = frame.at;
            self.cache_bytes += frame.at.len as usize;
            appended.frames.push(frame.clone());
            self.cache.push_back(Cached { entry, frame });
        }
        Ok(appended)
    }

    /// The frame of the entry that follows `tail`.
    fn frame_for(&mut self, entry: &Entry) -> Result<FrameBytes, StorageFailure> {
        assert_eq!(entry.index, self.tail.index + 1, "entries of a Ready are contiguous");
        if let Some(prepared) = self.prepared.pop_front() {
            if prepared.at.index == entry.index && prepared.at.term == entry.term {
                // The stamping predicted place and bytes; a message with another place inside would be wrong for ever.
                assert_eq!(self.layout.place(self.tail.end(), prepared.at.len).at, prepared.at.pos);
                assert_eq!(prepared.payload.len(), entry.data.len());
                return Ok(prepared);
            }
            panic!("entry {} of term {} was proposed as {:?}", entry.index, entry.term, prepared.at);
        }
        let content = entry::content(entry)?;
        let (at, header, blank) = make_header(
            &self.layout,
            &self.tail,
            entry.index,
            entry.term,
            content.kind,
            content.records,
            &content.payload,
        );
        Ok(FrameBytes { at, header, payload: content.payload, blank })
    }

    fn truncate(&mut self, keep: FramePos) {
        while self.cache.back().is_some_and(|cached| cached.frame.at.index > keep.index) {
            let cached = self.cache.pop_back().expect("just seen");
            self.cache_bytes -= cached.frame.at.len as usize;
        }
        while self.runs.last().is_some_and(|(first, _)| *first > keep.index) {
            self.runs.pop();
        }
        self.tail = keep;
    }

    fn cached(&self, index: u64) -> Option<&Cached> {
        let first = self.cache.front()?.frame.at.index;
        self.cache.get(usize::try_from(index.checked_sub(first)?).ok()?)
    }

    /// Where the entry with this index lies.
    pub(crate) fn frame_at(&self, index: u64) -> Result<FramePos, StorageFailure> {
        if index == self.tail.index {
            return Ok(self.tail);
        }
        if index == self.start.prev.index {
            return Ok(self.start.prev);
        }
        if let Some(cached) = self.cached(index) {
            return Ok(cached.frame.at);
        }
        let lookup = |reason: String| StorageFailure::Lookup { index, reason };
        match self.view.find(index) {
            Ok(Some(at)) => Ok(at),
            Ok(None) => Err(lookup("it is not there".into())),
            Err(error) => Err(lookup(error.to_string())),
        }
    }

    /// The raw frame of an entry that is about to be sent to a peer.
    pub(crate) fn wire_frame(&self, entry: &Entry) -> Result<WireFrame, StorageFailure> {
        if let Some(cached) = self.cached(entry.index).filter(|cached| cached.entry.term == entry.term) {
            return Ok(WireFrame { header: cached.frame.header, payload: cached.frame.payload.clone() });
        }
        let cold = self.cold.borrow();
        let found = cold.get(&entry.index).filter(|(term, _)| *term == entry.term);
        let (_, header) = found.ok_or_else(|| StorageFailure::Lookup {
            index: entry.index,
            reason: "it was sent without having been read".into(),
        })?;
        Ok(WireFrame { header: *header, payload: entry::content(entry)?.payload })
    }

    /// Ends a round: forgets headers kept for the encoder, and lets go of what is durable and applied when the cache
    /// is over its bound.
    pub(crate) fn end_round(&mut self, durable_index: u64, applied: u64) {
        self.cold.borrow_mut().clear();
        self.cold_bytes.set(0);
        let evictable = durable_index.min(applied);
        while self.cache_bytes > self.cache_bytes_max
            && self.cache.front().is_some_and(|cached| cached.frame.at.index <= evictable)
        {
            let cached = self.cache.pop_front().expect("just seen");
            self.cache_bytes -= cached.frame.at.len as usize;
        }
    }

    /// Bytes held in memory for entries.
    pub(crate) fn cache_bytes(&self) -> usize {
        self.cache_bytes
    }

    /// Entries `low..high` from disk, at least one, at most about `max` bytes.
    fn read_cold(&self, low: u64, high: u64, max: u64, out: &mut Vec<Entry>) -> Result<(), String> {
        let frames = self.view.frames(low, max).map_err(|error| error.to_string())?;
        let mut cold = self.cold.borrow_mut();
        for frame in frames {
            let index = frame.at.index;
            if index >= high {
                break;
            }
            if index != low + out.len() as u64 {
                return Err(format!("entry {index} where {} was expected", low + out.len() as u64));
            }
            let header = Header::of_frame(&frame).to_bytes();
            cold.insert(index, (frame.at.term, header));
            out.push(entry::entry_of_frame(&frame).map_err(|error| error.to_string())?);
        }
        if out.is_empty() { Err(format!("entry {low} is not in the log")) } else { Ok(()) }
    }
}

impl raft::Storage for GroupStorage {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.hard_state.clone(), self.conf_state.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.start.prev.index {
            return Err(RaftError::Store(StorageError::Compacted));
        }
        if high > self.tail.index + 1 {
            return Err(RaftError::Store(StorageError::Unavailable));
        }
        let max_size = max_size.into().unwrap_or(u64::MAX);
        let cache_first = self.cache.front().map_or(self.tail.index + 1, |cached| cached.frame.at.index);
        if low < cache_first && context.can_async() && self.cold_bytes.get() >= COLD_ROUND_MAX {
            return Err(RaftError::Store(StorageError::LogTemporarilyUnavailable));
        }
        let mut entries = Vec::new();
        let mut bytes = 0u64;
        let mut next = low;
        while next < high.min(cache_first) && (entries.is_empty() || bytes < max_size) {
            let budget = max_size.saturating_sub(bytes).clamp(1, COLD_READ_MAX);
            let mut part = Vec::new();
            if let Err(reason) = self.read_cold(next, high.min(cache_first), budget, &mut part) {
                tracing::error!(index = next, %reason, "cannot read entries back from the log");
                // A follower that lags behind bytes gone bad must not take its leader down: it is not served.
                let error = if context.can_async() {
                    StorageError::LogTemporarilyUnavailable
                } else {
                    StorageError::Unavailable
                };
                return Err(RaftError::Store(error));
            }
            next += part.len() as u64;
            let read = part.iter().map(|entry| entry.data.len() as u64).sum::<u64>();
            self.cold_bytes.set(self.cold_bytes.get() + read);
            bytes += read;
            entries.extend(part);
        }
        while next < high && next >= cache_first {
            let entry = &self.cached(next).expect("inside the cache").entry;
            bytes = bytes.saturating_add(entry.data.len() as u64);
            if !entries.is_empty() && bytes > max_size {
                break;
            }
            entries.push(entry.clone());
            next += 1;
        }
        Ok(entries)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.start.prev.index {
            return Ok(self.start.prev.term);
        }
        if index < self.start.prev.index {
            return Err(RaftError::Store(StorageError::Compacted));
        }
        if index > self.tail.index {
            return Err(RaftError::Store(StorageError::Unavailable));
        }
        let run = self.runs.partition_point(|(first, _)| *first <= index);
        Ok(self.runs[run.checked_sub(1).expect("runs cover the log from its start")].1)
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.start.prev.index + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.tail.index)
    }

    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<Snapshot> {
        let index = request_index.max(self.start.prev.index);
        match &self.given {
            Some(snapshot) if is_for(snapshot, to, index) => Ok(snapshot.clone()),
            _ => {
                // Made beside; the next heartbeat of that member asks again.
                let wanted = self.snapshot_wanted.get().map_or(index, |wanted| wanted.min(index));
                self.snapshot_wanted.set(Some(wanted));
                Err(RaftError::Store(StorageError::SnapshotTemporarilyUnavailable))
            }
        }
    }
}

/// Whether a snapshot reaches this index, and was made when `to` was a member already: nobody takes a snapshot of a group that
/// does not name it.
fn is_for(snapshot: &Snapshot, to: u64, index: u64) -> bool {
    let metadata = snapshot.get_metadata();
    let members = metadata.get_conf_state();
    let mut named = members.voters.iter().chain(&members.learners).chain(&members.voters_outgoing);
    metadata.index >= index && named.any(|id| *id == to)
}

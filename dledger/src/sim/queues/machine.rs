//! What frames change: tables in an atomic store, and per queue a file of units beside it.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use rand::Rng;
use rand::rngs::SmallRng;

use super::{Command, Record};
use crate::plant::{self, Bug};
use crate::seam::{AppliedState, ApplyError, Membership, StateMachine};
use crate::sim::host::Death;
use crate::sim::report::mix;
use crate::types::{Frame, FrameKind, FramePos, LogPos};

/// A queue of one incarnation.
pub(super) type QueueKey = (u32, u64);

/// A unit of a queue's file: id and position of a record.
pub(super) type Unit = (u64, u64, u32);

/// What the store holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Tables {
    applied: AppliedState,
    pub(super) genesis: bool,
    /// Incarnation and next offset of each queue.
    pub(super) queues: BTreeMap<u32, (u64, u64)>,
    /// By consumer and queue.
    pub(super) offsets: BTreeMap<(u32, u32), u64>,
    /// Index and position of the first frame whose records are kept.
    pub(super) keep: (u64, u64),
    /// Every effect up to here is in the synced files.
    files_synced: u64,
}

type Files = BTreeMap<QueueKey, Vec<Unit>>;

#[derive(Default)]
pub(super) struct Shared {
    pub(super) tables: Tables,
    flushed: Tables,
    files: Files,
    synced: Files,
    /// Frames between two flushes.
    flush_every: u64,
    since_flush: u64,
    /// Generation that everything belongs to.
    generation: u64,
    /// Whether files may hold what came of entries that were lost with all page caches.
    may_differ: bool,
}

/// What of a node's state outlives its process.
#[derive(Clone, Default)]
pub struct QueueStore {
    pub(super) shared: Arc<Mutex<Shared>>,
}

impl QueueStore {
    pub(super) fn new(rng: &mut SmallRng) -> QueueStore {
        let store = QueueStore::default();
        store.shared.lock().flush_every = rng.random_range(5..200);
        store
    }

    /// The store falls back to its last flush; files keep what was synced, and without a power cut everything.
    pub(super) fn died(&self, death: Death, rng: &mut SmallRng) {
        let shared = &mut *self.shared.lock();
        shared.tables = shared.flushed.clone();
        shared.since_flush = 0;
        if death == Death::PowerCut {
            let mut left = shared.synced.clone();
            for (key, units) in &shared.files {
                let kept = left.get(key).map_or(0, Vec::len);
                let more = rng.random_range(0..=units.len().saturating_sub(kept));
                if more > 0 {
                    left.insert(*key, units[..kept + more].to_vec());
                }
            }
            shared.files = left.clone();
            shared.synced = left;
        }
    }

    /// Handles of the process that died see nothing of what comes after it.
    pub(super) fn detach(&mut self) {
        let taken = std::mem::take(&mut *self.shared.lock());
        self.shared = Arc::new(Mutex::new(taken));
    }

    /// Begins with nothing when the generation is a new one.
    pub(super) fn select(&self, generation: u64, is_async: bool) {
        let shared = &mut *self.shared.lock();
        if shared.generation != generation {
            *shared = Shared { flush_every: shared.flush_every, generation, ..Shared::default() };
        }
        shared.may_differ = is_async;
    }

    pub(super) fn machine(&self) -> QueueMachine {
        QueueMachine { shared: Arc::clone(&self.shared), round: Vec::new() }
    }
}

/// The state machine.
pub struct QueueMachine {
    shared: Arc<Mutex<Shared>>,
    round: Vec<Frame>,
}

impl QueueMachine {
    /// Incarnation and next offset of a queue.
    pub(super) fn queue(&self, queue: u32) -> Option<(u64, u64)> {
        self.shared.lock().tables.queues.get(&queue).copied()
    }

    /// Position of the first record that is kept.
    pub(super) fn keep(&self) -> u64 {
        self.shared.lock().tables.keep.1
    }

    pub(super) fn offset(&self, consumer: u32, queue: u32) -> u64 {
        self.shared.lock().tables.offsets.get(&(consumer, queue)).copied().unwrap_or(0)
    }

    /// The units of each living queue.
    pub(super) fn units(&self) -> Vec<(QueueKey, Vec<Unit>)> {
        let shared = self.shared.lock();
        let keys = shared.tables.queues.iter().map(|(queue, (incarnation, _))| (*queue, *incarnation));
        keys.map(|key| (key, shared.files.get(&key).cloned().unwrap_or_default())).collect()
    }
}

impl Shared {
    fn take(&mut self, frame: &Frame) -> Result<(), String> {
        let replayed = frame.at.index <= self.tables.applied.at.index;
        match frame.kind {
            FrameKind::Messages => {
                let mut rest = frame.payload.clone();
                let mut at = frame.payload_pos();
                while !rest.is_empty() {
                    let record = Record::read(&mut rest).ok_or("a record is damaged")?;
                    if record.pos != at.0 {
                        return Err(format!("{record:?} lies at {at}"));
                    }
                    at = at + u64::from(record.len);
                    self.take_record(&record, replayed)?;
                }
                Ok(())
            }
            _ => self.take_command(
                Command::decode(frame.payload.clone()).ok_or("not a command")?,
                frame.at.index,
                replayed,
            ),
        }
    }

    fn take_record(&mut self, record: &Record, replayed: bool) -> Result<(), String> {
        if !replayed {
            let queue = self.tables.queues.get_mut(&record.queue).ok_or_else(|| format!("no queue for {record:?}"))?;
            if *queue != (record.incarnation, record.offset) {
                return Err(format!("{record:?} meets incarnation and next offset {queue:?}"));
            }
            queue.1 += 1;
        }
        let units = self.files.entry((record.queue, record.incarnation)).or_default();
        let (at, unit) = (record.offset as usize, (record.id, record.pos, record.len));
        match units.get(at) {
            Some(there) if *there == unit => Ok(()),
            Some(_) if self.may_differ && !replayed => {
                units.truncate(at);
                units.push(unit);
                Ok(())
            }
            // What an earlier run wrote and a power cut brought back may only be the same.
            Some(there) => Err(format!("{record:?} meets unit {there:?}")),
            None if units.len() == at => {
                units.push(unit);
                Ok(())
            }
            None => Err(format!("{record:?} leaves a gap behind {} units", units.len())),
        }
    }

    fn take_command(&mut self, command: Command, index: u64, replayed: bool) -> Result<(), String> {
        // The file of a deleted queue goes with the next flush: until then a crash could bring the queue back.
        if replayed {
            return Ok(());
        }
        match command {
            Command::Genesis => self.tables.genesis = true,
            Command::Create { queue } => {
                self.tables.queues.entry(queue).or_insert((index, 0));
            }
            Command::Delete { queue, incarnation } => {
                if self.tables.queues.get(&queue).is_some_and(|(there, _)| *there == incarnation) {
                    self.tables.queues.remove(&queue);
                }
            }
            Command::Offset { consumer, queue, version } => {
                self.tables.offsets.insert((consumer, queue), version);
            }
            Command::Truncate { index, pos } => self.tables.keep = self.tables.keep.max((index, pos)),
        }
        Ok(())
    }
}

impl StateMachine for QueueMachine {
    fn applied(&self) -> AppliedState {
        self.shared.lock().tables.applied.clone()
    }

    fn replay_from(&self) -> u64 {
        self.shared.lock().tables.files_synced
    }

    fn apply(&mut self, frame: &Frame) -> Result<(), ApplyError> {
        self.round.push(frame.clone());
        Ok(())
    }

    fn commit_round(&mut self, applied: FramePos, membership: Option<&Membership>) -> Result<(), ApplyError> {
        let shared = &mut *self.shared.lock();
        for frame in self.round.drain(..) {
            let index = frame.at.index;
            shared.take(&frame).map_err(|reason| ApplyError::Malformed { index, reason })?;
        }
        if applied.index > shared.tables.applied.at.index {
            shared.since_flush += applied.index - shared.tables.applied.at.index;
            shared.tables.applied.at = applied;
            if let Some(membership) = membership {
                shared.tables.applied.membership = Some(membership.clone());
            }
        }
        // A store flushes when it likes, without asking the files.
        if applied.index.is_multiple_of(37) {
            shared.flushed = shared.tables.clone();
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), ApplyError> {
        let shared = &mut *self.shared.lock();
        let Shared { tables, files, .. } = shared;
        files.retain(|(queue, incarnation), _| tables.queues.get(queue).is_some_and(|(it, _)| it == incarnation));
        shared.synced = shared.files.clone();
        shared.tables.files_synced = shared.tables.applied.at.index;
        shared.flushed = shared.tables.clone();
        shared.since_flush = 0;
        Ok(())
    }

    fn flush_due(&self) -> bool {
        let shared = self.shared.lock();
        shared.since_flush >= shared.flush_every
    }

    fn keep_from(&self) -> LogPos {
        let shared = self.shared.lock();
        if plant::on(Bug::PrefixBeyondFlush) {
            return LogPos(shared.tables.keep.1);
        }
        // The store may have flushed the decision without the files.
        let (index, pos) = shared.flushed.keep;
        if shared.flushed.files_synced + 1 >= index { LogPos(pos) } else { LogPos(0) }
    }

    fn digest(&self) -> Result<u64, ApplyError> {
        let shared = self.shared.lock();
        let tables = &shared.tables;
        let mut hash = mix(u64::from(tables.genesis), tables.keep.1);
        if let Some(Membership { voters, learners, voters_outgoing, members, highest, .. }) = &tables.applied.membership
        {
            for members in [voters, learners, voters_outgoing] {
                hash = members.iter().fold(mix(hash, members.len() as u64), |hash, member| mix(hash, *member));
            }
            hash = mix(hash, *highest);
            for (id, info) in members {
                let bytes = info.replica.as_bytes().iter().chain(info.peer.as_bytes()).chain(info.client.as_bytes());
                hash = bytes.fold(mix(hash, *id), |hash, byte| mix(hash, u64::from(*byte)));
            }
        }
        for (queue, (incarnation, next)) in &tables.queues {
            hash = [u64::from(*queue), *incarnation, *next].into_iter().fold(hash, mix);
            // What lies behind the tables' end is not there for a reader.
            let units = shared.files.get(&(*queue, *incarnation)).map_or(&[][..], Vec::as_slice);
            let kept = units.iter().take(*next as usize).filter(|(_, pos, _)| *pos >= tables.keep.1);
            hash = kept.fold(hash, |hash, (id, pos, _)| mix(mix(hash, *id), *pos));
        }
        for ((consumer, queue), version) in &tables.offsets {
            hash = [u64::from(*consumer), u64::from(*queue), *version].into_iter().fold(hash, mix);
        }
        Ok(hash)
    }
}

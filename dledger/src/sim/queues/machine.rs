//! What frames change: tables in an atomic store, and per queue a file of units beside it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rand::Rng;
use rand::rngs::SmallRng;

use super::{Command, Record};
use crate::fs::{Fs, OpenMode};
use crate::log::Meta;
use crate::plant::{self, Bug};
use crate::seam::{AppliedState, ApplyError, CheckpointFile, Membership, StateMachine};
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

pub(super) type Files = BTreeMap<QueueKey, Vec<Unit>>;

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
    /// Folder of the snapshot that it began with.
    loaded: Option<PathBuf>,
}

/// What of a node's state outlives its process.
#[derive(Clone, Default)]
pub struct QueueStore {
    pub(super) shared: Arc<Mutex<Shared>>,
    vault: Vault,
}

/// The contents of all checkpoints of a run, by number. Their files hold only that number, and bytes that show whether they are
/// whole: a state need not be encoded to be lost.
pub(super) type Vault = Arc<Mutex<Vec<(Tables, Files)>>>;

/// Bytes of a checkpoint's file: some sectors.
const CHECKPOINT_LEN: usize = 3_000;

/// Files of a checkpoint.
const CHECKPOINT_FILES: [&str; 3] = ["state", "queues/units", "queues/none"];

fn checkpoint_bytes(name: &str, number: u64) -> Vec<u8> {
    let len = if name.ends_with("none") { 0 } else { CHECKPOINT_LEN };
    (0..len).map(|at| if at < 8 { number.to_le_bytes()[at] } else { (at as u64 * 7 + number) as u8 }).collect()
}

/// What a whole checkpoint in this folder stands for.
fn read_checkpoint(fs: &dyn Fs, dir: &Path, vault: &Vault) -> Result<(Tables, Files), String> {
    let mut number = None;
    for name in CHECKPOINT_FILES {
        let path = dir.join(name);
        let file = fs.open(&path, OpenMode::Read).map_err(|error| format!("{}: {error}", path.display()))?;
        let mut bytes = vec![0; CHECKPOINT_LEN + 1];
        let read = file.read_at(&mut bytes, 0).map_err(|error| format!("{}: {error}", path.display()))?;
        bytes.truncate(read);
        if number.is_none() {
            number = bytes.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
        }
        if number.is_none_or(|number| bytes != checkpoint_bytes(name, number)) {
            return Err(format!("{} is damaged", path.display()));
        }
    }
    let number = number.unwrap_or_default() as usize;
    vault.lock().get(number).cloned().ok_or_else(|| format!("there is no checkpoint {number}"))
}

impl QueueStore {
    pub(super) fn new(rng: &mut SmallRng, vault: &Vault) -> QueueStore {
        let store = QueueStore { vault: Arc::clone(vault), ..QueueStore::default() };
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

    /// Nothing is left, as if its folder had been removed.
    pub(super) fn lose(&self) {
        let shared = &mut *self.shared.lock();
        let (flush_every, generation, loaded) = (shared.flush_every, shared.generation, shared.loaded.take());
        *shared = Shared { flush_every, generation, loaded, ..Shared::default() };
    }

    /// Handles of the process that died see nothing of what comes after it.
    pub(super) fn detach(&mut self) {
        let taken = std::mem::take(&mut *self.shared.lock());
        self.shared = Arc::new(Mutex::new(taken));
    }

    /// The state machine. Another generation begins with the snapshot that was switched to, or else with nothing.
    pub(super) fn machine(&self, fs: &Arc<dyn Fs>, dir: &Path, meta: &Meta) -> Result<QueueMachine, String> {
        let generation = meta.generation;
        let folder = dir.join(format!("gen-{generation}"));
        let known = {
            let shared = self.shared.lock();
            shared.generation == generation || shared.loaded.as_ref() == Some(&folder)
        };
        if !known {
            let shared = &mut *self.shared.lock();
            *shared = Shared { flush_every: shared.flush_every, generation, ..Shared::default() };
            if fs.try_exists(&folder).map_err(|error| error.to_string())? {
                let (tables, files) = read_checkpoint(&**fs, &folder, &self.vault)?;
                shared.load(&folder, tables, files);
            }
        }
        self.shared.lock().may_differ = meta.async_flush;
        Ok(QueueMachine {
            shared: Arc::clone(&self.shared),
            fs: Arc::clone(fs),
            vault: Arc::clone(&self.vault),
            round: Vec::new(),
        })
    }
}

/// The state machine.
pub struct QueueMachine {
    shared: Arc<Mutex<Shared>>,
    fs: Arc<dyn Fs>,
    vault: Vault,
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
    fn load(&mut self, folder: &Path, tables: Tables, files: Files) {
        self.loaded = Some(folder.to_owned());
        (self.flushed, self.synced) = (tables.clone(), files.clone());
        (self.tables, self.files) = (tables, files);
        self.since_flush = 0;
    }

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

    fn checkpoint(&mut self, dir: &Path) -> Result<Option<Vec<CheckpointFile>>, ApplyError> {
        self.flush()?;
        let (index, number) = {
            let shared = self.shared.lock();
            let mut vault = self.vault.lock();
            vault.push((shared.tables.clone(), shared.files.clone()));
            (shared.tables.applied.at.index, vault.len() as u64 - 1)
        };
        let failed = |error: std::io::Error| ApplyError::Store {
            index,
            place: dir.display().to_string(),
            reason: error.to_string(),
        };
        let mut files = Vec::new();
        for name in CHECKPOINT_FILES {
            let (path, bytes) = (dir.join(name), checkpoint_bytes(name, number));
            self.fs.create_dir_all(path.parent().unwrap_or(dir)).map_err(failed)?;
            self.fs.open(&path, OpenMode::CreateNew).and_then(|file| file.write_at(&[&bytes], 0)).map_err(failed)?;
            files.push(CheckpointFile { name: name.to_owned(), from: 0, size: bytes.len() as u64 });
        }
        Ok(Some(files))
    }

    fn restore(&mut self, dir: &Path) -> Result<(), ApplyError> {
        assert!(self.round.is_empty(), "a snapshot comes between two rounds");
        let (tables, files) = read_checkpoint(&*self.fs, dir, &self.vault).map_err(|reason| ApplyError::Store {
            index: self.shared.lock().tables.applied.at.index,
            place: dir.display().to_string(),
            reason,
        })?;
        self.shared.lock().load(dir, tables, files);
        Ok(())
    }
}

//! The key index: which messages carry a key, for QUERY_MESSAGE.
//!
//! Keys (each word of KEYS, and UNIQ_KEY) are hashed with their topic's name and incarnation. Those of the log's end wait in
//! memory; per 64 MiB of log they are sorted and ingested into the store as one run, whose keys start with the log position
//! at which the run starts, so runs never overlap and nothing is ever compacted. A crash loses those in memory: they are
//! collected again from the log.
//!
//! What is found may be another key of the same hash: whoever asks compares the message.
//!
//! ```text
//! apply/machine --> index_writer --> keys in memory, runs in the store --> KeyIndex::search --> handler/query_message
//! ```

use std::ops::{ControlFlow, RangeInclusive};
use std::sync::Arc;

use parking_lot::RwLock;

use crate::store::{Family, Kv, KvError};
use crate::tables::TopicKey;

/// Bytes of a row's key.
pub(super) const ROW_LEN: usize = 32;

/// Where a key occurs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Entry {
    pub(super) hash: u64,
    pub(super) store_ms: u64,
    pub(super) physical_offset: u64,
}

impl Entry {
    /// The key in the store, in the run that starts at `run`.
    pub(super) fn row(&self, run: u64) -> [u8; ROW_LEN] {
        let mut row = [0; ROW_LEN];
        for (part, number) in row.chunks_exact_mut(8).zip([run, self.hash, self.store_ms, self.physical_offset]) {
            part.copy_from_slice(&number.to_be_bytes());
        }
        row
    }

    fn from_row(row: &[u8]) -> Option<Self> {
        let row: &[u8; ROW_LEN] = row.try_into().ok()?;
        let number = |at: usize| u64::from_be_bytes(*row[at..].first_chunk().expect("a row has 32 bytes"));
        Some(Entry { hash: number(8), store_ms: number(16), physical_offset: number(24) })
    }
}

/// A run in the store.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run {
    pub(super) start: u64,
    pub(super) first_ms: u64,
    pub(super) last_ms: u64,
}

/// The read side. Clones share the keys in memory.
#[derive(Clone)]
pub struct KeyIndex {
    pub(super) shared: Arc<Shared>,
}

pub(super) struct Shared {
    /// Another one when a snapshot is taken over.
    kv: RwLock<Arc<dyn Kv>>,
    pub(super) state: RwLock<State>,
}

impl Shared {
    pub(super) fn kv(&self) -> Arc<dyn Kv> {
        Arc::clone(&self.kv.read())
    }
}

/// What a search goes through.
#[derive(Default)]
pub(super) struct State {
    /// Ascending by start.
    pub(super) runs: Vec<Run>,
    /// Keys of the run that is being written, in log order.
    pub(super) sealed: Option<Arc<Vec<Entry>>>,
    /// Keys behind that, in log order: fewer than a run takes, and those of one frame.
    pub(super) waiting: Vec<Entry>,
}

impl KeyIndex {
    pub(super) fn new(kv: Arc<dyn Kv>, runs: Vec<Run>) -> Self {
        let state = RwLock::new(State { runs, ..State::default() });
        KeyIndex { shared: Arc::new(Shared { kv: RwLock::new(kv), state }) }
    }

    /// Searches go through what `other` has from now on, which is empty afterwards.
    pub(super) fn take_over(&self, other: &KeyIndex) {
        let mut state = self.shared.state.write();
        *self.shared.kv.write() = other.shared.kv();
        *state = std::mem::take(&mut *other.shared.state.write());
    }

    /// Shows `visit` the physical offsets of messages of `topic` with `key`, or with another key of the same hash, that were
    /// stored in `stored_ms`: newest first, none twice, until it breaks. Runs in which nothing can be are not looked at.
    /// Blocks: runs are on disk.
    ///
    /// # Errors
    /// [`KvError`] when the store fails.
    pub fn search(
        &self,
        topic: &TopicKey,
        key: &str,
        stored_ms: &RangeInclusive<u64>,
        visit: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<(), KvError> {
        let hash = key_hash(topic, key);
        let (waiting, runs) = self.candidates(hash, stored_ms);
        if waiting.into_iter().rev().try_for_each(&mut *visit).is_break() {
            return Ok(());
        }
        for run in runs.iter().rev() {
            let found = self.search_run(run, hash, stored_ms)?;
            if found.into_iter().rev().try_for_each(&mut *visit).is_break() {
                break;
            }
        }
        Ok(())
    }

    /// Offsets among the keys in memory, and the runs that may hold more, as of one moment; both ascending.
    fn candidates(&self, hash: u64, stored_ms: &RangeInclusive<u64>) -> (Vec<u64>, Vec<Run>) {
        let state = self.shared.state.read();
        let in_memory = state.sealed.iter().flat_map(|sealed| sealed.iter()).chain(&state.waiting);
        let wanted = in_memory.filter(|entry| entry.hash == hash && stored_ms.contains(&entry.store_ms));
        let mut waiting: Vec<u64> = wanted.map(|entry| entry.physical_offset).collect();
        // A message may name a key twice; its entries lie side by side. Runs hold each row once.
        waiting.dedup();
        let may_hold = |run: &&Run| run.first_ms <= *stored_ms.end() && run.last_ms >= *stored_ms.start();
        let runs = state.runs.iter().filter(may_hold).copied().collect();
        (waiting, runs)
    }

    fn search_run(&self, run: &Run, hash: u64, stored_ms: &RangeInclusive<u64>) -> Result<Vec<u64>, KvError> {
        let mut found = Vec::new();
        let from = Entry { hash, store_ms: *stored_ms.start(), physical_offset: 0 }.row(run.start);
        self.shared.kv().scan(Family::Index, &from, &mut |row, _| {
            // Rows of a run and hash are ordered by time, which is the order of the log.
            let entry = row.starts_with(&from[..16]).then(|| Entry::from_row(row)).flatten();
            match entry.filter(|entry| stored_ms.contains(&entry.store_ms)) {
                Some(entry) => found.push(entry.physical_offset),
                None => return ControlFlow::Break(()),
            }
            ControlFlow::Continue(())
        })?;
        Ok(found)
    }
}

/// Hash of a key in a topic: CRC-64/NVME over `topic 0 u64 incarnation key`.
pub(super) fn key_hash(topic: &TopicKey, key: &str) -> u64 {
    KeyHasher::default().of_topic(topic).hash(key)
}

/// Hashes many keys, each in one go over one buffer: measured at half the cost of a digest that is fed piece by piece.
#[derive(Default)]
pub(super) struct KeyHasher {
    bytes: Vec<u8>,
    topic_len: usize,
}

impl KeyHasher {
    /// The next keys are of this topic.
    pub(super) fn of_topic(&mut self, topic: &TopicKey) -> &mut Self {
        self.bytes.clear();
        self.bytes.extend_from_slice(topic.name.as_bytes());
        self.bytes.push(0);
        self.bytes.extend_from_slice(&topic.incarnation.to_be_bytes());
        self.topic_len = self.bytes.len();
        self
    }

    /// See [`key_hash`].
    pub(super) fn hash(&mut self, key: &str) -> u64 {
        self.bytes.truncate(self.topic_len);
        self.bytes.extend_from_slice(key.as_bytes());
        crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, &self.bytes)
    }
}

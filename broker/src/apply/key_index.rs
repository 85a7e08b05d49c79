//! The key index: which messages carry a key, for QUERY_MESSAGE.
//!
//! Keys (each word of KEYS, and UNIQ_KEY) are hashed with their topic's name and incarnation. Those of the log's end wait in
//! memory; per 64 MiB of log they are sorted and ingested into the store as one run, whose keys start with the log position
//! at which the run starts, so runs never overlap and nothing is ever compacted. A crash loses those in memory: they are
//! collected again from the log.
//!
//! What is found may be another key of the same hash: whoever asks compares the message.

use std::ops::ControlFlow;
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
    pub(super) kv: Arc<dyn Kv>,
    pub(super) state: RwLock<State>,
}

/// What a search goes through.
#[derive(Default)]
pub(super) struct State {
    /// Ascending by start.
    pub(super) runs: Vec<Run>,
    /// Keys that are in no run yet, in log order.
    pub(super) waiting: Vec<Entry>,
}

impl KeyIndex {
    pub(super) fn new(kv: Arc<dyn Kv>, runs: Vec<Run>) -> Self {
        let state = RwLock::new(State { runs, waiting: Vec::new() });
        KeyIndex { shared: Arc::new(Shared { kv, state }) }
    }

    /// Physical offsets of messages of `topic` with `key`, stored from `begin_ms` to `end_ms` (both included), newest first,
    /// at most `max`.
    ///
    /// # Errors
    /// [`KvError`] when the store fails.
    pub fn search(
        &self,
        topic: &TopicKey,
        key: &str,
        begin_ms: u64,
        end_ms: u64,
        max: usize,
    ) -> Result<Vec<u64>, KvError> {
        let hash = key_hash(topic, key);
        let wanted = |entry: &Entry| entry.hash == hash && (begin_ms..=end_ms).contains(&entry.store_ms);
        let (mut found, runs) = {
            let state = self.shared.state.read();
            let found: Vec<u64> =
                state.waiting.iter().rev().filter(|entry| wanted(entry)).take(max).map(|e| e.physical_offset).collect();
            let runs: Vec<Run> = state
                .runs
                .iter()
                .rev()
                .filter(|run| run.first_ms <= end_ms && run.last_ms >= begin_ms)
                .copied()
                .collect();
            (found, runs)
        };
        for run in runs {
            if found.len() >= max {
                break;
            }
            let mut in_run = Vec::new();
            let from = Entry { hash, store_ms: begin_ms, physical_offset: 0 }.row(run.start);
            self.shared.kv.scan(Family::Index, &from, &mut |row, _| {
                let entry = row.starts_with(&from[..16]).then(|| Entry::from_row(row)).flatten();
                match entry.filter(&wanted) {
                    Some(entry) => in_run.push(entry.physical_offset),
                    None => return ControlFlow::Break(()),
                }
                ControlFlow::Continue(())
            })?;
            found.extend(in_run.iter().rev().take(max - found.len()));
        }
        Ok(found)
    }
}

/// Hash of a key in a topic: CRC-64/NVME over `topic 0 u64 incarnation key`.
pub(super) fn key_hash(topic: &TopicKey, key: &str) -> u64 {
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64Nvme);
    digest.update(topic.name.as_bytes());
    digest.update(&[0]);
    digest.update(&topic.incarnation.to_be_bytes());
    digest.update(key.as_bytes());
    digest.finalize()
}

//! The write side of the key index: collects keys frame by frame, and ends a run at a frame's end.
//!
//! Where runs end is a function of the log alone (bytes and keys since the last end), so replicas agree on it.

use ledgermq_dledger::Frame;

use super::key_index::{Entry, KeyIndex, ROW_LEN, Run};
use crate::store::rows::{self, IndexSyncedRow, RunRow};
use crate::store::{Family, KvError, WriteBatch};
use prost::Message;

/// Keys after which a run ends early: bounds the memory of those that wait, and the pause of sorting them.
const KEYS_PER_RUN_MAX: usize = 131_072;
/// Most keys indexed of one message; further words of KEYS are not found by a query. Without a bound one message could
/// bring 16,000.
pub(super) const KEYS_PER_MESSAGE_MAX: usize = 64;

/// See the module.
pub(super) struct IndexWriter {
    index: KeyIndex,
    run_bytes: u64,
    /// Up to where ended runs go, those of the open round included.
    ended: IndexSyncedRow,
    /// Keys since then.
    keys_in_run: usize,
    /// Keys of the open round.
    fresh: Vec<Entry>,
    /// Ends of runs in the open round.
    ends: Vec<RunEnd>,
}

struct RunEnd {
    start: u64,
    /// How many of the fresh keys lie before it.
    fresh: usize,
    synced: IndexSyncedRow,
}

impl IndexWriter {
    pub(super) fn new(index: KeyIndex, run_bytes: u64, synced: IndexSyncedRow) -> Self {
        IndexWriter { index, run_bytes, ended: synced, keys_in_run: 0, fresh: Vec::new(), ends: Vec::new() }
    }

    pub(super) fn reader(&self) -> &KeyIndex {
        &self.index
    }

    /// Raft index up to which keys are in ended runs.
    pub(super) fn synced(&self) -> u64 {
        self.ended.index
    }

    /// Whether keys of this frame are still to be collected.
    pub(super) fn wants(&self, frame_index: u64) -> bool {
        frame_index > self.ended.index
    }

    pub(super) fn push(&mut self, entry: Entry) {
        self.fresh.push(entry);
        self.keys_in_run += 1;
    }

    /// Ends the run with this frame when it is long enough.
    pub(super) fn end_frame(&mut self, frame: &Frame) {
        if !self.wants(frame.at.index) {
            return;
        }
        let end = frame.at.end().0;
        if end - self.ended.pos < self.run_bytes && self.keys_in_run < KEYS_PER_RUN_MAX {
            return;
        }
        let synced = IndexSyncedRow { index: frame.at.index, pos: end };
        self.ends.push(RunEnd { start: self.ended.pos, fresh: self.fresh.len(), synced });
        self.ended = synced;
        self.keys_in_run = 0;
    }

    /// Ingests the runs that ended in this round, and puts what says so into `batch`. The rows are in the store before the
    /// batch: a crash between the two ingests the same rows once more.
    pub(super) fn store_runs(&mut self, batch: &mut WriteBatch) -> Result<Vec<Run>, KvError> {
        let mut runs = Vec::new();
        let mut from = 0;
        for (n, end) in self.ends.iter().enumerate() {
            let mut entries = if n == 0 { self.index.shared.state.read().waiting.clone() } else { Vec::new() };
            entries.extend_from_slice(&self.fresh[from..end.fresh]);
            from = end.fresh;
            batch.put(Family::Meta, rows::meta::INDEX_SYNCED, &end.synced.encode_to_vec());
            if entries.is_empty() {
                continue;
            }
            entries.sort_unstable();
            entries.dedup();
            let mut keys = Vec::with_capacity(entries.len() * ROW_LEN);
            entries.iter().for_each(|entry| keys.extend_from_slice(&entry.row(end.start)));
            self.index.shared.kv.ingest(Family::Index, &mut keys.chunks_exact(ROW_LEN))?;
            let times = entries.iter().map(|entry| entry.store_ms);
            let first_ms = times.clone().min().expect("it is not empty");
            let last_ms = times.max().expect("it is not empty");
            batch.put(Family::Meta, &rows::run_key(end.start), &RunRow { first_ms, last_ms }.encode_to_vec());
            runs.push(Run { start: end.start, first_ms, last_ms });
        }
        Ok(runs)
    }

    /// Makes the keys of this round findable.
    pub(super) fn publish(&mut self, runs: Vec<Run>) {
        let mut state = self.index.shared.state.write();
        let kept = self.ends.last().map_or(0, |end| end.fresh);
        if !self.ends.is_empty() {
            state.waiting.clear();
        }
        state.waiting.extend_from_slice(&self.fresh[kept..]);
        state.runs.extend(runs);
        self.fresh.clear();
        self.ends.clear();
    }
}

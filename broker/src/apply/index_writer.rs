//! The write side of the key index: collects keys frame by frame, and ends a run at a frame's end.
//!
//! Where runs end is a function of the log alone (bytes and keys since the last end), so replicas agree on it: keys of topics
//! that are gone when the log is applied once more are counted, though not kept.
//!
//! ```text
//! keys of a round --> waiting --(end of a run)--> sealed: sorted and ingested by a thread of its own --> a run, recorded with
//!                                                                                                  the effects of a later round
//! ```
//! Sorting and writing a run takes tens of milliseconds, in which apply goes on. Only one run is written at a time.

use std::sync::Arc;
use std::thread::JoinHandle;

use ledgermq_dledger::Frame;

use super::key_index::{Entry, KeyHasher, KeyIndex, ROW_LEN, Run};
use crate::store::rows::{self, IndexSyncedRow, RunRow};
use crate::store::{Family, Kv, KvError, WriteBatch};
use crate::tables::TopicKey;
use prost::Message;

/// Bytes of log after which a run ends, by default.
pub(super) const RUN_BYTES: u64 = 64 << 20;
/// Keys after which a run ends early, by default: bounds the memory of those that wait, and the time to sort them.
pub(super) const RUN_KEYS: usize = 131_072;
/// Most keys indexed of one message; further words of KEYS are not found by a query. Without a bound one message could
/// bring 16,000.
pub(super) const KEYS_PER_MESSAGE_MAX: usize = 64;

/// See the module.
pub(super) struct IndexWriter {
    index: KeyIndex,
    run_bytes: u64,
    run_keys: usize,
    background: bool,
    /// Up to where ended runs go, those of the open round included.
    ended: IndexSyncedRow,
    /// Up to where they are recorded, in a batch that is written or is about to be.
    recorded: IndexSyncedRow,
    /// Whether the run ends with the frame at hand, however short it is.
    must_end: bool,
    /// Keys since then.
    keys_in_run: usize,
    /// Keys of the open round.
    fresh: Vec<Entry>,
    hasher: KeyHasher,
    /// Ends of runs in the open round.
    ends: Vec<RunEnd>,
    /// The run that is being written.
    writing: Option<Writing>,
}

#[derive(Clone, Copy)]
struct RunEnd {
    start: u64,
    /// How many of the fresh keys lie before it.
    fresh: usize,
    synced: IndexSyncedRow,
}

/// A run between its end and its record in the store.
struct Writing {
    start: u64,
    synced: IndexSyncedRow,
    /// Its keys, in log order: searched until the run is recorded.
    entries: Arc<Vec<Entry>>,
    job: Job,
}

/// The writing itself. `None` for a run without keys.
enum Job {
    Done(Result<Option<RunRow>, KvError>),
    Thread(JoinHandle<Result<Option<RunRow>, KvError>>),
}

impl Job {
    fn start(kv: Arc<dyn Kv>, start: u64, entries: Arc<Vec<Entry>>, background: bool) -> Result<Self, KvError> {
        if !background {
            return Ok(Job::Done(write_run(&*kv, start, &entries)));
        }
        let thread = std::thread::Builder::new().name("index-run".into());
        let spawned = thread.spawn(move || write_run(&*kv, start, &entries));
        spawned.map(Job::Thread).map_err(|error| KvError {
            place: "a thread that writes the key index".to_owned(),
            reason: error.to_string(),
        })
    }

    fn is_finished(&self) -> bool {
        match self {
            Job::Done(_) => true,
            Job::Thread(thread) => thread.is_finished(),
        }
    }

    fn wait(self) -> Result<Option<RunRow>, KvError> {
        match self {
            Job::Done(done) => done,
            Job::Thread(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
        }
    }
}

/// Sorts keys and ingests them as the run that starts at `start`.
fn write_run(kv: &dyn Kv, start: u64, entries: &[Entry]) -> Result<Option<RunRow>, KvError> {
    let mut sorted = entries.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    let mut keys = Vec::with_capacity(sorted.len() * ROW_LEN);
    sorted.iter().for_each(|entry| keys.extend_from_slice(&entry.row(start)));
    kv.ingest(Family::Index, &mut keys.chunks_exact(ROW_LEN))?;
    // Store times never go back in the log.
    let ends = entries.first().zip(entries.last());
    Ok(ends.map(|(first, last)| RunRow { first_ms: first.store_ms, last_ms: last.store_ms }))
}

impl IndexWriter {
    /// A run ends with the frame that fills it to `run_bytes` of log or `run_keys` keys. It is written in the `background`, or
    /// on the spot, for simulations.
    pub(super) fn new(
        index: KeyIndex,
        run_bytes: u64,
        run_keys: usize,
        background: bool,
        synced: IndexSyncedRow,
    ) -> Self {
        IndexWriter {
            index,
            run_bytes,
            run_keys,
            background,
            ended: synced,
            recorded: synced,
            must_end: false,
            keys_in_run: 0,
            fresh: Vec::new(),
            hasher: KeyHasher::default(),
            ends: Vec::new(),
            writing: None,
        }
    }

    /// Goes on where `fresh` stands; whoever searches here searches there from now on. Waits for a run that is being written.
    pub(super) fn take_over(&mut self, mut fresh: IndexWriter) {
        self.index.take_over(&fresh.index);
        fresh.index = self.index.clone();
        *self = fresh;
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

    /// Takes the keys of a message of `topic`.
    pub(super) fn push<'a>(
        &mut self,
        topic: &TopicKey,
        keys: impl Iterator<Item = &'a str>,
        store_ms: u64,
        physical_offset: u64,
    ) {
        self.hasher.of_topic(topic);
        for key in keys {
            self.fresh.push(Entry { hash: self.hasher.hash(key), store_ms, physical_offset });
            self.keys_in_run += 1;
        }
    }

    /// The log before `pos` is given up with the frame at hand. A start could not collect keys from there any more, so a run that
    /// is still in memory ends here: as everywhere, by the log alone.
    pub(super) fn give_up_before(&mut self, frame_index: u64, pos: u64) {
        self.must_end |= self.wants(frame_index) && pos > self.ended.pos;
    }

    /// Up to which Raft index the recorded runs go.
    pub(super) fn recorded(&self) -> u64 {
        self.recorded.index
    }

    /// Waits for the run that is being written and puts it into `batch`: between rounds, for a flush that must have it.
    pub(super) fn finish_run(&mut self, batch: &mut WriteBatch) -> Result<(), KvError> {
        let run = self.record_run(batch)?;
        let mut state = self.index.shared.state.write();
        state.sealed = None;
        state.runs.extend(run);
        Ok(())
    }

    /// Forgets the runs that lie before `pos` as a whole. Returns where the first one that stays begins.
    pub(super) fn forget_before(&mut self, pos: u64, batch: &mut WriteBatch) -> u64 {
        let mut state = self.index.shared.state.write();
        let starts = state.runs.iter().map(|run| run.start);
        let starts = starts.chain(self.writing.iter().map(|writing| writing.start)).chain([self.recorded.pos]);
        let first = starts.filter(|start| *start <= pos).max().unwrap_or(0);
        for run in state.runs.iter().filter(|run| run.start < first) {
            batch.delete(Family::Meta, &rows::run_key(run.start));
        }
        state.runs.retain(|run| run.start >= first);
        first
    }

    /// Removes the rows of runs that begin before `first`: whatever a crash falls back to does not name them any more.
    pub(super) fn drop_rows_before(&self, first: u64) -> Result<(), KvError> {
        self.index.shared.kv().drop_ingested(Family::Index, &first.to_be_bytes())
    }

    /// Counts keys that nobody can ask for any more: their topic is gone.
    pub(super) fn pass_over(&mut self, keys: usize) {
        self.keys_in_run += keys;
    }

    /// Ends the run with this frame when it is long enough.
    pub(super) fn end_frame(&mut self, frame: &Frame) {
        if !self.wants(frame.at.index) {
            return;
        }
        let end = frame.at.end().0;
        let must_end = std::mem::take(&mut self.must_end);
        if !must_end && end - self.ended.pos < self.run_bytes && self.keys_in_run < self.run_keys {
            return;
        }
        let synced = IndexSyncedRow { index: frame.at.index, pos: end };
        self.ends.push(RunEnd { start: self.ended.pos, fresh: self.fresh.len(), synced });
        self.ended = synced;
        self.keys_in_run = 0;
    }

    /// Begins to write the runs that ended in this round, and puts those that are written since the last round into `batch`.
    /// The rows of a run are in the store before what says so: a crash between the two ingests the same rows once more.
    pub(super) fn store_runs(&mut self, batch: &mut WriteBatch) -> Result<Vec<Run>, KvError> {
        let mut runs = Vec::new();
        if self.writing.as_ref().is_some_and(|writing| writing.job.is_finished()) {
            runs.extend(self.record_run(batch)?);
        }
        let mut from = 0;
        for n in 0..self.ends.len() {
            runs.extend(self.record_run(batch)?);
            let RunEnd { start, fresh, synced } = self.ends[n];
            let mut entries = if n == 0 { self.index.shared.state.read().waiting.clone() } else { Vec::new() };
            entries.extend_from_slice(&self.fresh[from..fresh]);
            from = fresh;
            let entries = Arc::new(entries);
            let kv = self.index.shared.kv();
            let job = Job::start(kv, start, Arc::clone(&entries), self.background)?;
            self.writing = Some(Writing { start, synced, entries, job });
        }
        Ok(runs)
    }

    /// Puts the run that is being written into `batch`, once it is written. One without keys is no run, but the next one starts
    /// behind it.
    fn record_run(&mut self, batch: &mut WriteBatch) -> Result<Option<Run>, KvError> {
        let Some(Writing { start, synced, job, .. }) = self.writing.take() else { return Ok(None) };
        let written = job.wait()?;
        batch.put(Family::Meta, rows::meta::INDEX_SYNCED, &synced.encode_to_vec());
        self.recorded = synced;
        Ok(written.map(|row| {
            batch.put(Family::Meta, &rows::run_key(start), &row.encode_to_vec());
            Run { start, first_ms: row.first_ms, last_ms: row.last_ms }
        }))
    }

    /// Makes the keys of this round findable.
    pub(super) fn publish(&mut self, runs: Vec<Run>) {
        let mut state = self.index.shared.state.write();
        let kept = self.ends.last().map_or(0, |end| end.fresh);
        if !self.ends.is_empty() {
            state.waiting.clear();
        }
        state.waiting.extend_from_slice(&self.fresh[kept..]);
        state.sealed = self.writing.as_ref().map(|writing| Arc::clone(&writing.entries));
        state.runs.extend(runs);
        self.fresh.clear();
        self.ends.clear();
    }
}

impl Drop for IndexWriter {
    /// Waits for the thread, which uses the store.
    fn drop(&mut self) {
        if let Some(Writing { job: Job::Thread(thread), .. }) = self.writing.take() {
            // What it could not write is collected again at the next start.
            let _ = thread.join();
        }
    }
}

//! Opening a machine: applied state is read back from the store; the log does the rest (see [`BrokerMachine`]).

use std::ops::ControlFlow;
use std::sync::Arc;

use ledgermq_dledger::fs::Fs;
use ledgermq_dledger::plant::{self, Bug};
use ledgermq_dledger::{AppliedState, FramePos};
use prost::Message;
use thiserror::Error;

use super::consume_queue::{ConsumeQueues, QueueError};
use super::index_writer::IndexWriter;
use super::key_index::{KeyIndex, Run};
use super::live::{Live, LiveTopic};
use super::machine::{BrokerMachine, MachineConfig};
use super::timers::{LiveTimers, TimerRows};
use crate::command::{Genesis, GroupSettings};
use crate::store::rows::{self, AppliedRow, IndexSyncedRow, KeepRow, MembershipRow, RunRow, TopicRow, meta};
use crate::store::{Family, Kv, KvError, WriteBatch, scan_prefix};
use crate::tables::{Applied, Committed, Effect, GroupQueue, Kept, Tables, Topic, TopicKey};

/// Why a machine cannot be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The store failed.
    #[error("cannot read applied state from {0}")]
    Store(#[from] KvError),
    /// The folder of the ConsumeQueues failed.
    #[error(transparent)]
    Queues(#[from] QueueError),
    /// A row that this version does not understand.
    #[error(
        "row {key} of family {family} cannot be read: it was damaged, or written by a newer version; install that version, \
         or give this replica's state up and let it be made again from a peer"
    )]
    Row {
        /// Family.
        family: &'static str,
        /// Key, escaped.
        key: String,
    },
}

impl BrokerMachine {
    /// Opens the state in `kv` and the ConsumeQueues that belong to it. New ones are an empty state.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(fs: Arc<dyn Fs>, kv: Arc<dyn Kv>, config: &MachineConfig) -> Result<Self, OpenError> {
        let applied: AppliedRow = meta_row(&*kv, meta::APPLIED)?.unwrap_or_default();
        let membership: Option<MembershipRow> = meta_row(&*kv, meta::MEMBERSHIP)?;
        let synced: IndexSyncedRow = meta_row(&*kv, meta::INDEX_SYNCED)?.unwrap_or_default();
        let queues_synced = match kv.get(Family::Meta, meta::QUEUES_SYNCED)? {
            None => 0,
            Some(value) => rows::parse_u64(&value).ok_or_else(|| bad_row(Family::Meta, meta::QUEUES_SYNCED))?,
        };
        let tables = Arc::new(Tables::default());
        let live = load(&*kv, &tables, &applied)?;
        let queues = ConsumeQueues::open(fs, config.queues_dir.clone(), config.open_files_max)?;
        queues.remove_all_but(live.topics.values().map(|live| live.topic.key()))?;
        let index = KeyIndex::new(kv.clone(), load_runs(&*kv)?);
        let applied = rows::applied_state(&applied, membership);
        let (run_bytes, run_keys) = (config.index_run_bytes, config.index_run_keys);
        let index = IndexWriter::new(index, run_bytes, run_keys, config.index_in_background, synced);
        Ok(Self::new(kv, queues, index, tables, live, applied, queues_synced, config.flush_bytes))
    }

    #[allow(clippy::too_many_arguments, reason = "the parts of a machine, put together in one place")]
    fn new(
        kv: Arc<dyn Kv>,
        queues: ConsumeQueues,
        index: IndexWriter,
        tables: Arc<Tables>,
        live: Live,
        applied: AppliedState,
        queues_synced: u64,
        flush_bytes: u64,
    ) -> Self {
        let position = replay_from(queues_synced, &index);
        let mut machine = BrokerMachine {
            timers: TimerRows::new(Arc::clone(&kv)),
            kv,
            queues,
            index,
            tables,
            live,
            applied,
            queues_synced,
            position,
            last_frame: position,
            touched: Vec::new(),
            dropped: Vec::new(),
            raised: Vec::new(),
            raised_before: 0,
            released: 0,
            unflushed_bytes: 0,
            flush_bytes,
            batch: WriteBatch::default(),
            observer: None,
            reopen: None,
        };
        machine.released = machine.released_at_start().0;
        machine
    }
}

/// Raft index behind which frames are taken in once more: what lies outside of the store's batches is whole up to it.
pub(super) fn replay_from(queues_synced: u64, index: &IndexWriter) -> u64 {
    if plant::on(Bug::KeysForgotten) { queues_synced } else { queues_synced.min(index.synced()) }
}

fn load(kv: &dyn Kv, tables: &Tables, applied: &AppliedRow) -> Result<Live, OpenError> {
    let genesis: Option<Genesis> = meta_row(kv, meta::GENESIS)?;
    let keep: KeepRow = meta_row(kv, meta::KEEP)?.unwrap_or_default();
    let mut live = Live {
        genesis: genesis.map(Arc::new),
        kept: Kept { index: keep.index, pos: keep.pos },
        timers: LiveTimers::new(applied.waiting_timers),
        last_store_ms: applied.last_store_ms,
        topics_version: applied.topics_version,
        groups_version: applied.groups_version,
        ..Live::default()
    };
    let mut effects: Vec<Effect> = live.genesis.iter().cloned().map(Effect::Genesis).collect();
    effects.push(Effect::Truncated(live.kept));
    for topic in load_topics(kv)? {
        effects.push(Effect::TopicPut(topic.clone()));
        live.topics.insert(topic.name().clone(), LiveTopic::new(topic));
    }
    each_row(kv, Family::Groups, |key, value| {
        let group: Arc<str> = std::str::from_utf8(key).ok()?.into();
        let settings = Arc::new(rows::decode::<GroupSettings>(value.to_vec())?);
        live.groups.insert(group.clone(), settings.clone());
        effects.push(Effect::GroupPut { group, settings });
        Some(())
    })?;
    each_row(kv, Family::Offsets, |key, value| {
        let (group, topic, queue) = rows::parse_offset_key(key)?;
        let (group, committed): (Arc<str>, _) = (group.into(), Committed::from_bits(rows::parse_u64(value)?));
        if committed.is_reset {
            let key = GroupQueue { group: group.clone(), topic: topic.clone(), queue };
            live.resets.insert(key, committed.offset);
        }
        effects.push(Effect::OffsetSet { group, topic, queue, committed });
        Some(())
    })?;
    each_row(kv, Family::Locks, |key, value| {
        let (key, lock) = rows::parse_lock(key, value)?;
        live.locks.set(key.clone(), lock.clone());
        effects.push(Effect::LockSet { key, lock });
        Some(())
    })?;
    let at = Applied {
        frame: if applied.at().index == 0 { FramePos::ORIGIN } else { applied.at() },
        topics_version: applied.topics_version,
        groups_version: applied.groups_version,
        last_store_ms: applied.last_store_ms,
        waiting_timers: applied.waiting_timers,
    };
    tables.publish(&effects, at);
    Ok(live)
}

fn load_topics(kv: &dyn Kv) -> Result<Vec<Arc<Topic>>, OpenError> {
    let mut topics = Vec::new();
    each_row(kv, Family::Topics, |key, value| {
        let row: TopicRow = rows::decode(value.to_vec())?;
        let key = TopicKey { name: std::str::from_utf8(key).ok()?.into(), incarnation: row.incarnation };
        topics.push(Arc::new(Topic::with_queue_count(key, row.settings, row.queue_count)));
        Some(())
    })?;
    // Both families are in the order of the topics' names, but a queue's row may be of any of them.
    let by_key: std::collections::HashMap<&TopicKey, &Arc<Topic>> = topics.iter().map(|t| (t.key(), t)).collect();
    each_row(kv, Family::Queues, |key, value| {
        let (topic, queue) = rows::parse_queue_key(key)?;
        let (min, next) = rows::parse_queue_ends(value)?;
        let topic = by_key.get(&topic).filter(|topic| queue < topic.queue_count() && min <= next)?;
        topic.set_min_offset(queue, min);
        topic.set_next_offset(queue, next);
        Some(())
    })?;
    Ok(topics)
}

fn load_runs(kv: &dyn Kv) -> Result<Vec<Run>, OpenError> {
    let mut runs = Vec::new();
    let mut bad = None;
    scan_prefix(kv, Family::Meta, meta::RUN_PREFIX, |key, value| {
        let start = rows::parse_u64(&key[meta::RUN_PREFIX.len()..]);
        match start.zip(rows::decode::<RunRow>(value.to_vec())) {
            Some((start, row)) => runs.push(Run { start, first_ms: row.first_ms, last_ms: row.last_ms }),
            None => {
                bad = Some(bad_row(Family::Meta, key));
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    })?;
    bad.map_or(Ok(runs), Err)
}

fn meta_row<M: Message + Default>(kv: &dyn Kv, key: &[u8]) -> Result<Option<M>, OpenError> {
    let Some(value) = kv.get(Family::Meta, key)? else { return Ok(None) };
    rows::decode(value).map(Some).ok_or_else(|| bad_row(Family::Meta, key))
}

/// Visits all rows of a family; `None` from the visitor means that it could not read one.
fn each_row(kv: &dyn Kv, family: Family, mut visit: impl FnMut(&[u8], &[u8]) -> Option<()>) -> Result<(), OpenError> {
    let mut bad = None;
    kv.scan(family, b"", &mut |key, value| match visit(key, value) {
        Some(()) => ControlFlow::Continue(()),
        None => {
            bad = Some(bad_row(family, key));
            ControlFlow::Break(())
        }
    })?;
    bad.map_or(Ok(()), Err)
}

fn bad_row(family: Family, key: &[u8]) -> OpenError {
    OpenError::Row { family: family.name(), key: key.escape_ascii().to_string() }
}

//! [`BrokerMachine`]: the broker's half of [`StateMachine`].

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ledgermq_dledger::plant::{self, Bug};
use ledgermq_dledger::{
    AppliedState, ApplyError, CheckpointFile, Frame, FrameKind, FramePos, LogPos, Membership, StateMachine,
};
use ledgermq_protocol::message::properties::{self, name};
use ledgermq_protocol::message::record::RecordRef;
use ledgermq_protocol::message::tags::tags_code;
use ledgermq_protocol::names;
use prost::Message;

use super::consume_queue::{ConsumeQueues, QueueError, Unit};
use super::effects;
use super::index_writer::{IndexWriter, KEYS_PER_MESSAGE_MAX, RUN_BYTES, RUN_KEYS};
use super::key_index::KeyIndex;
use super::live::{Live, UNTOUCHED};
use super::recovery::replay_from;
use super::round::{ApplyObserver, QueueAdvance, Round};
use super::snapshot::Reopen;
use super::timers::TimerRows;
use crate::command::Command;
use crate::store::rows::{self, AppliedRow, MembershipRow};
use crate::store::{Family, Kv, KvError, WriteBatch};
use crate::tables::{Applied, Effect, Kept, Tables, TopicKey};

/// How a machine keeps what it derives. None of it changes what readers see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineConfig {
    /// Folder of the ConsumeQueues.
    pub queues_dir: PathBuf,
    /// Most ConsumeQueue files open at a time. Default 1024.
    pub open_files_max: usize,
    /// Bytes of log per run of the key index, the same on all replicas. Default 64 MiB.
    pub index_run_bytes: u64,
    /// Keys after which a run of the key index ends early, the same on all replicas. Default 131,072.
    pub index_run_keys: usize,
    /// Whether runs of the key index are written by a thread of their own. Default true; false where threads would make chance
    /// decide.
    pub index_in_background: bool,
    /// Bytes of log after which a flush is due, which bounds the replay at start. Default 64 MiB.
    pub flush_bytes: u64,
}

impl MachineConfig {
    /// The defaults, with ConsumeQueues in `queues_dir`.
    pub fn new(queues_dir: PathBuf) -> Self {
        MachineConfig {
            queues_dir,
            open_files_max: 1024,
            index_run_bytes: RUN_BYTES,
            index_run_keys: RUN_KEYS,
            index_in_background: true,
            flush_bytes: 64 << 20,
        }
    }
}

/// The state machine of a replica group: see the module above.
///
/// Queue files lie outside of the store's atomic batches, so a start goes back to where they were durable and takes the
/// frames from there in once more: queue units and keys again (same bytes, same place), the store's part not.
pub struct BrokerMachine {
    pub(super) kv: Arc<dyn Kv>,
    pub(super) timers: TimerRows,
    pub(super) queues: ConsumeQueues,
    pub(super) index: IndexWriter,
    pub(super) tables: Arc<Tables>,
    pub(super) live: Live,
    /// What the store holds.
    pub(super) applied: AppliedState,
    /// Raft index up to which the queue files are durable.
    pub(super) queues_synced: u64,
    /// End of the last round since the start: up to here the queue files are written.
    pub(super) position: u64,
    /// Raft index of the last frame taken in.
    pub(super) last_frame: u64,
    /// Queues with new messages in the open round.
    pub(super) touched: Vec<QueueAdvance>,
    /// Topics whose deletion is not yet durable: their files go with the next flush.
    pub(super) dropped: Vec<TopicKey>,
    /// Queues whose start has moved on since the last flush: the front of their files goes with the next one.
    pub(super) raised: Vec<(TopicKey, u32)>,
    /// How many of them are of earlier rounds.
    pub(super) raised_before: usize,
    /// See [`StateMachine::keep_from`].
    pub(super) released: u64,
    pub(super) unflushed_bytes: u64,
    pub(super) flush_bytes: u64,
    pub(super) batch: WriteBatch,
    pub(super) observer: Option<Box<dyn ApplyObserver>>,
    pub(super) reopen: Option<Reopen>,
}

impl BrokerMachine {
    /// Applied state, for handlers and the stamper.
    pub fn tables(&self) -> Arc<Tables> {
        self.tables.clone()
    }

    /// The ConsumeQueues, for pulls.
    pub fn queues(&self) -> ConsumeQueues {
        self.queues.clone()
    }

    /// The key index, for queries.
    pub fn key_index(&self) -> KeyIndex {
        self.index.reader().clone()
    }

    /// The delayed messages that wait.
    pub fn timers(&self) -> TimerRows {
        self.timers.clone()
    }

    /// Tells `observer` of every round from now on.
    pub fn observe(&mut self, observer: Box<dyn ApplyObserver>) {
        self.observer = Some(observer);
    }

    /// Whether the store has this frame's part already.
    fn is_replay(&self, index: u64) -> bool {
        index <= self.applied.at.index
    }

    fn messages(&mut self, frame: &Frame, from: usize) -> Result<(), ApplyError> {
        let index = frame.at.index;
        let malformed = |reason: String| ApplyError::Malformed { index, reason };
        let mut at = from;
        let mut count = 0;
        while at < frame.payload.len() {
            let record = RecordRef::decode(&frame.payload[at..])
                .map_err(|error| malformed(format!("record at byte {at} of the payload: {error}")))?;
            let physical_offset = frame.payload_pos().0 + at as u64;
            if record.physical_offset() as u64 != physical_offset {
                let stamped = record.physical_offset();
                return Err(malformed(format!("record at {physical_offset} is stamped for {stamped}")));
            }
            self.message(index, &record)?;
            at += record.len();
            count += 1;
        }
        if count != usize::from(frame.records) {
            return Err(malformed(format!("{count} records, the frame announces {}", frame.records)));
        }
        Ok(())
    }

    fn message(&mut self, index: u64, record: &RecordRef<'_>) -> Result<(), ApplyError> {
        let replay = self.is_replay(index);
        let physical_offset = record.physical_offset() as u64;
        let (queue, queue_offset) = (record.queue_id() as u32, record.queue_offset() as u64);
        let store_ms = record.store_timestamp_ms() as u64;
        let properties = Properties::of(record);
        let indexed = self.index.wants(index);
        let Some(live) = self.live.topics.get_mut(record.topic()) else {
            assert!(replay, "entry {index} has a message for topic {}, which does not exist", record.topic());
            if indexed {
                self.index.pass_over(properties.keys().count());
            }
            return Ok(());
        };
        if replay {
            if live.topic.incarnation() > index {
                // It belongs to a former topic of this name.
                if indexed {
                    self.index.pass_over(properties.keys().count());
                }
                return Ok(());
            }
            let next = live.next[queue as usize];
            assert!(queue_offset < next, "entry {index} is applied, but {}/{queue} ends at {next}", record.topic());
        } else {
            let next = live.next.get_mut(queue as usize);
            let next = next.unwrap_or_else(|| panic!("entry {index}: topic {} has no queue {queue}", record.topic()));
            assert_eq!(queue_offset, *next, "entry {index}: {}/{queue} has a gap or a double", record.topic());
            *next += 1;
            let last = self.live.last_store_ms;
            assert!(store_ms >= last, "entry {index}: store time {store_ms} is before {last}");
            self.live.last_store_ms = store_ms;
        }
        if indexed {
            self.index.push(live.topic.key(), properties.keys(), store_ms, physical_offset);
        }
        if index > self.queues_synced {
            let unit = Unit { physical_offset, size: record.len() as u32, tags_code: tags_code(properties.tags) };
            let touched = &mut live.touched[queue as usize];
            if *touched == UNTOUCHED {
                *touched = self.touched.len();
                let topic = live.topic.clone();
                self.touched.push(QueueAdvance { topic, queue, first: queue_offset, units: Vec::new() });
            }
            let advance = &mut self.touched[*touched];
            assert_eq!(advance.next(), queue_offset, "entry {index}: units of a round are dense");
            advance.units.extend_from_slice(&unit.encode());
        }
        if !replay && record.topic() == names::TIMER_TOPIC {
            self.timer_stored(index, record, properties.timer_due)?;
        }
        Ok(())
    }

    /// The store's part of the round.
    fn fill_batch(&mut self) {
        for (n, effect) in self.live.effects.iter().enumerate() {
            effects::put(&mut self.batch, effect, &self.live.effects[..n], &self.tables);
        }
        self.live.timers.fill(&mut self.batch);
        let touched = self.touched.iter().map(|advance| (advance.topic.key(), advance.queue));
        let raised = self.raised.iter().skip(self.raised_before).map(|(key, queue)| (key, *queue));
        for (key, queue) in touched.chain(raised) {
            let live = self.live.topics.get(&key.name);
            let Some(live) = live.filter(|live| live.topic.key() == key) else { continue };
            let ends = rows::queue_ends(live.min[queue as usize], live.next[queue as usize]);
            self.batch.put(Family::Queues, &rows::queue_key(key, queue), &ends);
        }
    }

    fn put_applied(&mut self, applied: FramePos, membership: Option<&Membership>) {
        if let Some(membership) = membership {
            let row = MembershipRow::from(membership).encode_to_vec();
            self.batch.put(Family::Meta, rows::meta::MEMBERSHIP, &row);
            self.applied.membership = Some(membership.clone());
        }
        let Live { last_store_ms, topics_version, groups_version, .. } = self.live;
        let waiting_timers = self.live.timers.waiting;
        let row =
            AppliedRow { last_store_ms, topics_version, groups_version, waiting_timers, ..AppliedRow::new(applied) };
        self.batch.put(Family::Meta, rows::meta::APPLIED, &row.encode_to_vec());
        self.applied.at = applied;
    }

    fn publish(&mut self) {
        for advance in &mut self.touched {
            let key = advance.topic.key();
            let Some(live) = self.live.topics.get_mut(&key.name).filter(|live| live.topic.key() == key) else {
                continue;
            };
            live.touched[advance.queue as usize] = UNTOUCHED;
            live.topic.set_next_offset(advance.queue, live.next[advance.queue as usize]);
            // Its settings may have changed after the queue was touched.
            advance.topic = live.topic.clone();
        }
        for (key, queue) in &self.raised[self.raised_before..] {
            if let Some(live) = self.live.topics.get(&key.name).filter(|live| live.topic.key() == key) {
                live.topic.set_min_offset(*queue, live.min[*queue as usize]);
            }
        }
        self.raised_before = self.raised.len();
        let Live { last_store_ms, topics_version, groups_version, .. } = self.live;
        let waiting_timers = self.live.timers.waiting;
        let at = Applied { frame: self.applied.at, topics_version, groups_version, last_store_ms, waiting_timers };
        self.tables.publish(&self.live.effects, at);
    }

    fn report(&mut self) {
        let mut round = Round {
            applied: self.applied.at,
            queues: std::mem::take(&mut self.touched),
            timer_due_ms: self.live.timers.end_round(),
            ..Round::default()
        };
        for effect in self.live.effects.drain(..) {
            match effect {
                Effect::TopicPut(topic) => round.topics.push(topic.key().clone()),
                Effect::TopicDropped(topic) => {
                    round.topics.push(topic.key().clone());
                    round.dropped.push(topic.key().clone());
                    if !plant::on(Bug::IncarnationIgnored) {
                        self.dropped.push(topic.key().clone());
                    }
                }
                Effect::GroupPut { group, .. } | Effect::GroupDropped { group, .. } => round.groups.push(group),
                Effect::Genesis(_)
                | Effect::OffsetSet { .. }
                | Effect::LockSet { .. }
                | Effect::LockDropped(_)
                | Effect::Truncated(_) => {}
            }
        }
        if let Some(observer) = &mut self.observer {
            observer.applied(&round);
        }
    }

    /// Queue files and keys of a round, before the store's batch.
    fn write_derived(&mut self, at: u64) -> Result<Vec<super::key_index::Run>, ApplyError> {
        for advance in &self.touched {
            self.queues
                .write(advance.topic.key(), advance.queue, advance.first, &advance.units)
                .map_err(|error| queue_failed(at, &error))?;
        }
        self.index.store_runs(&mut self.batch).map_err(|error| store_failed(at, &error))
    }

    fn write_batch(&mut self, at: u64) -> Result<(), ApplyError> {
        let written = if self.batch.is_empty() { Ok(()) } else { self.kv.write(&self.batch) };
        self.batch.clear();
        written.map_err(|error| store_failed(at, &error))
    }
}

impl StateMachine for BrokerMachine {
    fn applied(&self) -> AppliedState {
        self.applied.clone()
    }

    fn replay_from(&self) -> u64 {
        replay_from(self.queues_synced, &self.index)
    }

    fn apply(&mut self, frame: &Frame) -> Result<(), ApplyError> {
        let index = frame.at.index;
        assert!(index > self.last_frame, "entry {index} comes after entry {}", self.last_frame);
        self.last_frame = index;
        self.unflushed_bytes += u64::from(frame.at.len);
        match frame.kind {
            FrameKind::Messages => self.messages(frame, 0)?,
            FrameKind::Command => self.command(frame, frame.payload.clone())?,
            FrameKind::Transition => {
                let (command, records_at) = frame.split_transition().ok_or_else(|| ApplyError::Malformed {
                    index,
                    reason: "a transition shorter than it says".to_owned(),
                })?;
                self.command(frame, command)?;
                self.messages(frame, records_at)?;
                self.end_carrying(index)?;
            }
            FrameKind::Noop | FrameKind::ConfChange | FrameKind::ConfChangeV2 | FrameKind::Blank => {
                panic!("entry {index} of kind {:?} is not for the state machine", frame.kind);
            }
        }
        self.index.end_frame(frame);
        Ok(())
    }

    fn commit_round(&mut self, applied: FramePos, membership: Option<&Membership>) -> Result<(), ApplyError> {
        let at = applied.index;
        assert!(at >= self.last_frame && at >= self.position, "rounds go forward, to {at} from {}", self.position);
        let runs = self.write_derived(at)?;
        if self.is_replay(at) {
            assert!(self.live.effects.is_empty(), "a replay leaves the store alone");
            self.write_batch(at)?;
            self.index.publish(runs);
            for advance in self.touched.drain(..) {
                let live = self.live.topics.get_mut(advance.topic.name()).expect("a replay deletes nothing");
                live.touched[advance.queue as usize] = UNTOUCHED;
            }
            self.position = at;
            return Ok(());
        }
        self.fill_batch();
        if plant::on(Bug::AppliedApart) {
            self.write_batch(at)?;
        }
        self.put_applied(applied, membership);
        self.write_batch(at)?;
        self.position = at;
        self.publish();
        self.index.publish(runs);
        self.report();
        Ok(())
    }

    fn flush(&mut self) -> Result<(), ApplyError> {
        let at = self.position;
        let kept = self.live.kept;
        let gives_up = kept.pos > self.released;
        if gives_up {
            self.index.finish_run(&mut self.batch).map_err(|error| store_failed(at, &error))?;
        }
        let runs_from = self.index.forget_before(kept.pos, &mut self.batch);
        self.queues.sync().map_err(|error| queue_failed(at, &error))?;
        if at > self.queues_synced {
            self.batch.put(Family::Meta, rows::meta::QUEUES_SYNCED, &at.to_be_bytes());
            self.queues_synced = at;
        }
        self.write_batch(at)?;
        self.kv.flush().map_err(|error| store_failed(at, &error))?;
        self.unflushed_bytes = 0;
        for topic in std::mem::take(&mut self.dropped) {
            self.queues.remove(&topic).map_err(|error| queue_failed(at, &error))?;
        }
        if gives_up {
            self.give_back(at, runs_from)?;
            self.released = if self.needs_nothing_before(kept) { kept.pos } else { self.released };
        }
        Ok(())
    }

    fn flush_due(&self) -> bool {
        // The segments go with the flush: on a full disk somebody waits for that.
        let gives_up = self.live.kept.pos > self.released && !plant::on(Bug::PrefixBeyondFlush);
        gives_up || self.unflushed_bytes >= self.flush_bytes
    }

    fn keep_from(&self) -> LogPos {
        LogPos(if plant::on(Bug::PrefixBeyondFlush) { self.live.kept.pos } else { self.released })
    }

    fn digest(&self) -> Result<u64, ApplyError> {
        super::digest::digest(self)
    }

    fn checkpoint(&mut self, dir: &Path) -> Result<Option<Vec<CheckpointFile>>, ApplyError> {
        self.flush()?;
        self.make_checkpoint(dir).map(Some)
    }

    fn restore(&mut self, dir: &Path) -> Result<(), ApplyError> {
        self.take_over(dir)
    }
}

impl BrokerMachine {
    fn command(&mut self, frame: &Frame, payload: bytes::Bytes) -> Result<(), ApplyError> {
        let index = frame.at.index;
        let command = Command::decode(index, payload)?;
        if let Command::TruncatePrefix(truncate) = &command {
            self.index.give_up_before(index, truncate.pos);
        }
        if self.is_replay(index) {
            return Ok(());
        }
        match command {
            Command::TruncatePrefix(truncate) => {
                if truncate.pos >= frame.at.pos.0 || truncate.index >= index {
                    let reason = format!("it gives up the log before entry {} at {}", truncate.index, truncate.pos);
                    return Err(ApplyError::Malformed { index, reason });
                }
                self.truncate(index, Kept { index: truncate.index, pos: truncate.pos })
            }
            Command::MoveTimers(timers) => self.move_timers(index, &timers),
            command => {
                self.live.command(index, command);
                Ok(())
            }
        }
    }
}

/// What apply looks at of a record's properties.
#[derive(Default)]
struct Properties<'a> {
    tags: Option<&'a str>,
    unique_key: Option<&'a str>,
    words: &'a str,
    /// When a delayed message is due.
    timer_due: Option<&'a str>,
}

impl<'a> Properties<'a> {
    fn of(record: &RecordRef<'a>) -> Self {
        let mut found = Self::default();
        for (property, value) in properties::iter(record.properties()) {
            match property {
                name::TAGS => found.tags = Some(value),
                name::UNIQ_KEY => found.unique_key = Some(value),
                name::KEYS => found.words = value,
                name::TIMER_OUT_MS => found.timer_due = Some(value),
                _ => {}
            }
        }
        found
    }

    /// The keys to be indexed.
    fn keys(&self) -> impl Iterator<Item = &'a str> {
        self.unique_key.into_iter().chain(properties::keys(self.words)).take(KEYS_PER_MESSAGE_MAX)
    }
}

pub(super) fn queue_failed(index: u64, error: &QueueError) -> ApplyError {
    ApplyError::Store { index, place: "ConsumeQueue files".to_owned(), reason: error.to_string() }
}

pub(super) fn store_failed(index: u64, error: &KvError) -> ApplyError {
    ApplyError::Store { index, place: error.place.clone(), reason: error.reason.clone() }
}

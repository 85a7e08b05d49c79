//! What the log says, read by other code than the broker's apply: topics and their incarnations, every queue, every
//! consumer offset. A state machine that shows a client anything else is wrong.

use std::collections::{BTreeMap, BTreeSet};

use ledgermq_broker::command::{Command, LockQueues, OffsetCommit, TopicSettings, UnlockQueues};
use ledgermq_dledger::log::LogView;
use ledgermq_dledger::{Frame, FrameKind};
use ledgermq_protocol::message::record::{RecordRef, Records};
use ledgermq_protocol::names;

use super::operations::id_of;
use super::timers::OracleTimers;

/// A message of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) id: u64,
    pub(super) physical_offset: u64,
    pub(super) size: u32,
    pub(super) store_ms: i64,
}

/// A topic that lives at the end of the log.
#[derive(Debug, Clone, Default)]
pub(super) struct OracleTopic {
    pub(super) incarnation: u64,
    queues: u32,
    pub(super) messages: BTreeMap<u32, Vec<Stored>>,
    /// By group and queue.
    pub(super) offsets: BTreeMap<(String, u32), u64>,
    /// By group and queue: resets that nobody has taken up.
    pub(super) resets: BTreeSet<(String, u32)>,
    /// By group and queue: the client, and when its lease ends.
    pub(super) locks: BTreeMap<(String, u32), (String, u64)>,
}

/// Where a message lies: topic, incarnation, queue and queue offset.
pub(super) type Place = (String, u64, u32, u64);

/// Everything that the log says.
#[derive(Debug, Clone, Default)]
pub(super) struct Oracle {
    pub(super) topics: BTreeMap<String, OracleTopic>,
    /// Every message that was sent, by its position.
    pub(super) by_position: BTreeMap<u64, (u64, Place)>,
    pub(super) deletions: u64,
    /// Locks that went from one client to another because the lease was over.
    pub(super) taken_over: u64,
    /// Time of the last lock: leases that ended before are over.
    pub(super) locked_at_ms: u64,
    /// Position in front of which messages are given up.
    pub(super) kept_pos: u64,
    pub(super) truncations: u64,
    /// Delayed messages.
    pub(super) timers: OracleTimers,
    last_store_ms: i64,
    /// Raft index of the last frame read.
    read: u64,
}

impl Oracle {
    /// Reads the log on, up to an entry that is applied somewhere: its begin may be given up later.
    pub(super) fn read(&mut self, view: &LogView, to: u64) -> Result<(), String> {
        if to <= self.read {
            return Ok(());
        }
        for frame in view.iter(self.read + 1).take((to - self.read) as usize) {
            let frame = frame.map_err(|error| error.to_string())?;
            self.take(&frame).map_err(|reason| format!("entry {}: {reason}", frame.at.index))?;
            self.read = frame.at.index;
        }
        Ok(())
    }

    fn take(&mut self, frame: &Frame) -> Result<(), String> {
        match frame.kind {
            FrameKind::Command => {
                let command = Command::decode(frame.at.index, frame.payload.clone());
                self.command(frame.at.index, command.map_err(|error| error.to_string())?)
            }
            FrameKind::Messages => {
                let mut at = frame.payload_pos().0;
                for record in Records::new(&frame.payload) {
                    let record = record.map_err(|error| error.to_string())?;
                    self.original(&record, at)?;
                    at += record.len() as u64;
                }
                Ok(())
            }
            FrameKind::Transition => self.transition(frame),
            _ => Ok(()),
        }
    }

    fn command(&mut self, index: u64, command: Command) -> Result<(), String> {
        match command {
            Command::Genesis(genesis) => {
                for put in genesis.topics {
                    self.put(index, put.topic, &put.settings, put.replace);
                }
            }
            Command::PutTopic(put) => self.put(index, put.topic, &put.settings, put.replace),
            Command::DeleteTopic(delete) => {
                self.deletions += u64::from(self.topics.remove(&delete.topic).is_some());
            }
            Command::CommitOffsets(commit) => {
                for OffsetCommit { group, topic, incarnation, queue, offset } in commit.offsets {
                    let topic = self.topics.get_mut(&topic).filter(|topic| topic.incarnation == incarnation);
                    if let Some(topic) = topic
                        && !topic.resets.contains(&(group.clone(), queue))
                    {
                        topic.offsets.insert((group, queue), offset);
                    }
                }
            }
            Command::ResetOffsets(reset) => {
                for OffsetCommit { group, topic, incarnation, queue, offset } in reset.offsets {
                    let topic = self.topics.get_mut(&topic).filter(|topic| topic.incarnation == incarnation);
                    if let Some(topic) = topic {
                        topic.resets.insert((group.clone(), queue));
                        topic.offsets.insert((group, queue), offset);
                    }
                }
            }
            Command::TakeUpResets(taken) => {
                for OffsetCommit { group, topic, incarnation, queue, offset } in taken.offsets {
                    let topic = self.topics.get_mut(&topic).filter(|topic| topic.incarnation == incarnation);
                    let key = (group, queue);
                    if let Some(topic) = topic.filter(|topic| topic.offsets.get(&key) == Some(&offset)) {
                        topic.resets.remove(&key);
                    }
                }
            }
            Command::LockQueues(lock) => self.lock(lock)?,
            Command::UnlockQueues(unlock) => self.unlock(unlock),
            Command::TruncatePrefix(truncate) => {
                if truncate.pos > self.kept_pos {
                    self.truncations += 1;
                    self.kept_pos = truncate.pos;
                }
            }
            Command::MoveTimers(timers) => {
                // Alone it stands for a recall.
                self.timers.recalled += timers.dropped.len() as u64;
                self.timers.end(&timers.dropped)?;
                if !timers.delivered.is_empty() || !timers.carried.is_empty() {
                    return Err("delayed messages are moved without their records".to_owned());
                }
            }
            Command::PutSubscriptionGroup(_) | Command::DeleteSubscriptionGroup(_) => {}
        }
        Ok(())
    }

    fn lock(&mut self, lock: LockQueues) -> Result<(), String> {
        let LockQueues { group, client_id, at_ms, lease_ms, queues } = lock;
        if at_ms < self.last_store_ms as u64 {
            return Err(format!("a lock at {at_ms}, before the last message, of {}", self.last_store_ms));
        }
        self.locked_at_ms = self.locked_at_ms.max(at_ms);
        for asked in queues {
            let topic = self.topics.get_mut(&asked.topic).filter(|topic| topic.incarnation == asked.incarnation);
            let Some(topic) = topic.filter(|topic| asked.queue < topic.queues) else { continue };
            let key = (group.clone(), asked.queue);
            match topic.locks.get(&key) {
                Some((holder, until)) if *holder != client_id && *until > at_ms => continue,
                Some((holder, _)) if *holder != client_id => self.taken_over += 1,
                _ => {}
            }
            topic.locks.insert(key, (client_id.clone(), at_ms + lease_ms));
        }
        Ok(())
    }

    fn unlock(&mut self, unlock: UnlockQueues) {
        for given in unlock.queues {
            let topic = self.topics.get_mut(&given.topic).filter(|topic| topic.incarnation == given.incarnation);
            let Some(topic) = topic else { continue };
            let key = (unlock.group.clone(), given.queue);
            if topic.locks.get(&key).is_some_and(|(holder, _)| *holder == unlock.client_id) {
                topic.locks.remove(&key);
            }
        }
    }

    fn put(&mut self, index: u64, name: String, settings: &TopicSettings, replace: bool) {
        let topic = self.topics.entry(name).or_insert(OracleTopic { incarnation: index, ..OracleTopic::default() });
        if topic.incarnation == index || replace {
            topic.queues = topic.queues.max(settings.queues());
        }
    }

    /// A message that somebody sent.
    fn original(&mut self, record: &RecordRef<'_>, at: u64) -> Result<(), String> {
        let (id, place) = self.message(record, at)?;
        if record.topic() == names::TIMER_TOPIC {
            self.timers.waits(id, record, at)?;
        }
        self.by_position.insert(at, (id, place));
        Ok(())
    }

    /// Delayed messages that are delivered, carried, or dropped since their topic is gone.
    fn transition(&mut self, frame: &Frame) -> Result<(), String> {
        let (command, records_at) = frame.split_transition().ok_or("a transition is too short")?;
        let command = Command::decode(frame.at.index, command).map_err(|error| error.to_string())?;
        let Command::MoveTimers(timers) = command else { return Err("a transition of something else".to_owned()) };
        for timer in self.timers.end(&timers.dropped)? {
            self.timers.homeless += 1;
            if self.topics.contains_key(&timer.topic) {
                return Err(format!("message {} is dropped, but topic {} is there", timer.id, timer.topic));
            }
        }
        let mut at = frame.payload_pos().0 + records_at as u64;
        let mut moved = timers.delivered.iter().chain(&timers.carried);
        let mut delivered = timers.delivered.len();
        for record in Records::new(&frame.payload[records_at..]) {
            let record = record.map_err(|error| error.to_string())?;
            let timer = moved.next().ok_or("a record of no delayed message")?;
            let (id, _) = self.message(&record, at)?;
            if delivered > 0 {
                delivered -= 1;
                self.timers.delivered(timer, id, &record)?;
            } else {
                self.timers.carried(timer, id, &record, at)?;
            }
            at += record.len() as u64;
        }
        moved.next().map_or(Ok(()), |timer| Err(format!("{timer:?} is moved without its record")))
    }

    /// A record in its queue: its id and place.
    fn message(&mut self, record: &RecordRef<'_>, at: u64) -> Result<(u64, Place), String> {
        let (queue, offset) = (record.queue_id() as u32, record.queue_offset() as u64);
        let id = id_of(record.body()).ok_or("a body is damaged")?;
        if record.physical_offset() as u64 != at || !record.body_is_intact() {
            return Err(format!("message {id} at {at} is stamped for {}", record.physical_offset()));
        }
        if record.store_timestamp_ms() < self.last_store_ms {
            return Err(format!("message {id} was stored before the one in front of it"));
        }
        self.last_store_ms = record.store_timestamp_ms();
        let topic = self.topics.get_mut(record.topic());
        let topic = topic.ok_or_else(|| format!("message {id} for topic {}, which is not there", record.topic()))?;
        if queue >= topic.queues {
            return Err(format!("message {id} for queue {queue} of {}, of {}", topic.queues, record.topic()));
        }
        let messages = topic.messages.entry(queue).or_default();
        if offset != messages.len() as u64 {
            let detail = format!("message {id} has offset {offset} of {}/{queue}", record.topic());
            return Err(format!("{detail}, {} would be next", messages.len()));
        }
        let stored = Stored { id, physical_offset: at, size: record.len() as u32, store_ms: self.last_store_ms };
        messages.push(stored);
        Ok((id, (record.topic().to_owned(), topic.incarnation, queue, offset)))
    }
}

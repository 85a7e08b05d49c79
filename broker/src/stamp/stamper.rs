//! [`BrokerStamper`]: the broker's half of [`Stamper`].

use std::marker::PhantomData;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use ledgermq_dledger::log::LogView;
use ledgermq_dledger::plant::{self, Bug};
use ledgermq_dledger::{FrameKind, LogPos, Stamper, Verdict};
use ledgermq_protocol::remoting::response_code::ResponseCode;

use super::item::{Answer, Item, Refusal};
use super::projection::{ANY_INCARNATION, Projection};
use super::send::{admit_send, precede_send, write_send};
use super::timers::admit_timers;
use crate::command::{Command, CommitOffsets, Genesis, LockQueues, OffsetCommit, QueueOfTopic, TruncatePrefix};
use crate::tables::{GroupQueue, Tables, TopicKey};

/// Most topics of one group.
pub const TOPICS_MAX: usize = 65_536;
/// Most queues of all topics of one group: each costs some 100 bytes on every replica, and a file once it has a message.
pub const QUEUES_MAX: usize = 1 << 20;
/// Most subscription groups of one group.
pub const SUBSCRIPTION_GROUPS_MAX: usize = 65_536;
/// Most committed consumer offsets of one group: each costs some 100 bytes on every replica.
pub const OFFSETS_MAX: usize = 1 << 21;
/// Locks of queues of one group from which on no more are given: each costs some 500 bytes on every replica. One command may
/// pass it.
pub const LOCKS_MAX: usize = 1 << 18;
/// Most records of one item: the frame counts them in 16 bits.
pub const RECORDS_PER_ITEM_MAX: usize = u16::MAX as usize;

/// Checks and stamps what handlers propose, against projected state, on the raft loop of a leader. `T` is the ticket of the
/// one who waits, opaque here.
///
/// Per message: one look-up of the topic, no allocation, one copy of the record.
pub struct BrokerStamper<T> {
    tables: Arc<Tables>,
    genesis: Genesis,
    /// Largest payload of an entry in bytes.
    payload_max: usize,
    /// The log, for what is decided by where it begins.
    log: Option<LogView>,
    projection: Option<Projection>,
    ticket: PhantomData<fn(T)>,
}

impl<T> BrokerStamper<T> {
    /// A stamper that proposes `genesis` when its group turns out to have none. `payload_max` is what a frame of the log
    /// can carry (see [`ledgermq_dledger`]): larger items are refused.
    pub fn new(tables: Arc<Tables>, genesis: Genesis, payload_max: usize) -> Self {
        BrokerStamper { tables, genesis, payload_max, log: None, projection: None, ticket: PhantomData }
    }

    /// Lets old messages of this log be given up; without it such commands are refused.
    pub fn with_log(self, log: LogView) -> Self {
        BrokerStamper { log: Some(log), ..self }
    }
}

impl<T: Send + 'static> Stamper for BrokerStamper<T> {
    type Item = Item;
    type Ticket = T;
    type Answer = Answer;

    fn kind(&self, item: &Item) -> FrameKind {
        match item {
            Item::Send(_) => FrameKind::Messages,
            Item::Command(_) => FrameKind::Command,
            Item::Timers(timers) => timers.kind(),
        }
    }

    fn admit(&mut self, item: &mut Item, index: u64, now_ms: u64) -> Verdict<Answer> {
        let projection = self.projection.as_mut().expect("a leadership has begun");
        let verdict = match item {
            Item::Send(send) => admit_send(projection, send, self.payload_max, index, now_ms),
            Item::Command(command) => {
                if let Command::LockQueues(lock) = command {
                    // Never before what is in the log: a slow clock makes leases longer, and must not make them overlap.
                    lock.at_ms = now_ms.max(projection.last_store_ms);
                }
                check_truncation(projection, self.log.as_ref(), command)
                    .and_then(|()| admit_command(projection, &self.tables, command, self.payload_max, index))
            }
            Item::Timers(timers) => {
                let applied = self.tables.applied_index();
                admit_timers(projection, applied, timers, self.payload_max, index, now_ms)
            }
        };
        verdict.unwrap_or_else(|refusal| Verdict::Refuse(Answer::Refused(refusal)))
    }

    fn precede(&mut self, item: &mut Item, index: u64, _now_ms: u64) -> Bytes {
        let projection = self.projection.as_mut().expect("a leadership has begun");
        let Item::Send(send) = item else { unreachable!("only a send asks for a command before it") };
        Command::PutTopic(precede_send(projection, send, index)).encode()
    }

    fn write(&mut self, item: &mut Item, at: LogPos, out: &mut BytesMut) {
        match item {
            Item::Send(send) => write_send(send, at, out),
            Item::Command(command) => out.extend_from_slice(&command.encode()),
            Item::Timers(timers) => timers.write(at, out),
        }
    }

    fn answer(&mut self, item: Item, index: u64) -> Answer {
        match item {
            Item::Send(send) => {
                assert_eq!(send.sent.index, index, "a send lands in the entry that it was admitted to");
                Answer::Sent(send.sent)
            }
            Item::Command(_) | Item::Timers(_) => Answer::Done { index },
        }
    }

    fn begin(&mut self, _term: u64) -> Option<Bytes> {
        if plant::on(Bug::StaleProjection) && self.projection.is_some() {
            return None;
        }
        let mut projection = Projection::of(&self.tables);
        let genesis = self.tables.genesis().is_none().then(|| {
            for put in &self.genesis.topics {
                projection.put_topic(put.topic.as_str().into(), put.settings.clone(), ANY_INCARNATION);
            }
            projection.groups.extend(self.genesis.groups.iter().map(|put| Arc::from(put.group.as_str())));
            Command::Genesis(self.genesis.clone()).encode()
        });
        self.projection = Some(projection);
        genesis
    }

    fn end(&mut self) {
        if !plant::on(Bug::StaleProjection) {
            self.projection = None;
        }
    }
}

/// The incarnation of a topic created by the entry `index`.
pub(crate) fn incarnation_of(index: u64) -> u64 {
    if plant::on(Bug::IncarnationIgnored) { 1 } else { index }
}

fn admit_command(
    projection: &mut Projection,
    tables: &Tables,
    command: &mut Command,
    payload_max: usize,
    index: u64,
) -> Result<Verdict<Answer>, Refusal> {
    check(command)?;
    let len = command.encoded_len();
    if len > payload_max {
        let remark = format!("the command has {len} bytes, the limit is {payload_max}");
        return Err(Refusal::new(ResponseCode::INVALID_PARAMETER, remark));
    }
    match command {
        Command::Genesis(_) => {
            return Err(Refusal::new(ResponseCode::SYSTEM_ERROR, "the group has its constants already"));
        }
        Command::MoveTimers(_) => {
            return Err(Refusal::new(ResponseCode::SYSTEM_ERROR, "delayed messages are moved by an item of their own"));
        }
        Command::PutTopic(put) => {
            let known = projection.topics.get(put.topic.as_str()).map(|topic| topic.next.len() as u32);
            match known {
                // Also a creation that finds its topic is appended: only the quorum can tell that this leader's view is not an
                // old one.
                Some(_) if !put.replace => return Ok(Verdict::Take { len, records: 0 }),
                Some(queues) => check_room_for_queues(projection, put.settings.queues().saturating_sub(queues))?,
                None => check_room_for_topic(projection, put.settings.queues())?,
            }
            projection.put_topic(put.topic.as_str().into(), put.settings.clone(), incarnation_of(index));
        }
        Command::DeleteTopic(delete) => {
            // As with creations: one that is not there, or is being deleted already, has an entry of its own all the same.
            projection.drop_topic(&delete.topic);
        }
        Command::PutSubscriptionGroup(put) => {
            if !projection.groups.contains(put.group.as_str()) {
                if projection.groups.len() >= SUBSCRIPTION_GROUPS_MAX {
                    let remark = format!("there are {SUBSCRIPTION_GROUPS_MAX} subscription groups, the limit");
                    return Err(Refusal::new(ResponseCode::SYSTEM_ERROR, remark));
                }
                projection.groups.insert(put.group.as_str().into());
            }
        }
        Command::DeleteSubscriptionGroup(delete) => {
            projection.groups.remove(delete.group.as_str());
        }
        Command::CommitOffsets(commit) => {
            retain_valid_offsets(projection, tables, commit)?;
            if commit.offsets.is_empty() {
                return Ok(Verdict::Refuse(Answer::Done { index: tables.applied_index() }));
            }
        }
        // All of it or nothing: somebody waits for just these.
        Command::ResetOffsets(commit) | Command::TakeUpResets(commit) => {
            commit.offsets.iter().try_for_each(|commit| check_offset(projection, tables, commit))?;
        }
        Command::LockQueues(lock) => retain_lockable(projection, tables, lock),
        Command::UnlockQueues(unlock) => unlock.queues.retain(|queue| is_alive(projection, queue)),
        Command::TruncatePrefix(truncate) => projection.kept_pos = truncate.pos,
    }
    Ok(Verdict::Take { len: command.encoded_len(), records: 0 })
}

/// One commit is answered for itself; of many, those that cannot be are left out, for nobody waits for them.
fn retain_valid_offsets(projection: &Projection, tables: &Tables, commit: &mut CommitOffsets) -> Result<(), Refusal> {
    if let [only] = commit.offsets.as_slice() {
        return check_offset(projection, tables, only);
    }
    commit.offsets.retain(|commit| check_offset(projection, tables, commit).is_ok());
    Ok(())
}

fn check_offset(projection: &Projection, tables: &Tables, commit: &OffsetCommit) -> Result<(), Refusal> {
    if !projection.groups.contains(commit.group.as_str()) {
        let remark = format!("subscription group {} does not exist", commit.group);
        return Err(Refusal::new(ResponseCode::SUBSCRIPTION_GROUP_NOT_EXIST, remark));
    }
    let topic = projection.topics.get(commit.topic.as_str());
    let Some(topic) = topic.filter(|topic| [ANY_INCARNATION, commit.incarnation].contains(&topic.incarnation)) else {
        let remark = format!("topic {} does not exist, or was deleted and made again", commit.topic);
        return Err(Refusal::new(ResponseCode::TOPIC_NOT_EXIST, remark));
    };
    let Some(&next) = topic.next.get(commit.queue as usize) else {
        let remark = format!("topic {} has no queue {}", commit.topic, commit.queue);
        return Err(Refusal::new(ResponseCode::INVALID_PARAMETER, remark));
    };
    if commit.offset > next {
        let remark = format!("offset {} lies beyond the queue's next offset {next}", commit.offset);
        return Err(Refusal::new(ResponseCode::INVALID_PARAMETER, remark));
    }
    let key = || TopicKey { name: commit.topic.as_str().into(), incarnation: commit.incarnation };
    if tables.offset_count() >= OFFSETS_MAX && tables.offset(&commit.group, &key(), commit.queue).is_none() {
        let remark = format!("there are {OFFSETS_MAX} committed offsets, the limit");
        return Err(Refusal::new(ResponseCode::SYSTEM_ERROR, remark));
    }
    Ok(())
}

/// Queues that are gone are left out, and new locks when there are too many: the client is told which it holds.
fn retain_lockable(projection: &Projection, tables: &Tables, lock: &mut LockQueues) {
    let full = tables.lock_count() >= LOCKS_MAX;
    let group: Arc<str> = lock.group.as_str().into();
    let is_known = |queue: &QueueOfTopic| {
        let topic = TopicKey { name: queue.topic.as_str().into(), incarnation: queue.incarnation };
        tables.lock(&GroupQueue { group: group.clone(), topic, queue: queue.queue }).is_some()
    };
    lock.queues.retain(|queue| is_alive(projection, queue) && (!full || is_known(queue)));
}

/// Whether a queue of this incarnation of its topic is there.
fn is_alive(projection: &Projection, queue: &QueueOfTopic) -> bool {
    let topic = projection.topics.get(queue.topic.as_str());
    topic.is_some_and(|topic| {
        [ANY_INCARNATION, queue.incarnation].contains(&topic.incarnation) && (queue.queue as usize) < topic.next.len()
    })
}

/// A prefix is given up on a segment's border, forwards, and only as far as no member of the group needs it from another one.
fn check_truncation(projection: &Projection, log: Option<&LogView>, command: &Command) -> Result<(), Refusal> {
    let Command::TruncatePrefix(truncate) = command else { return Ok(()) };
    let refused = |remark: String| Err(Refusal::new(ResponseCode::INVALID_PARAMETER, remark));
    let Some(log) = log else { return refused("the log is not known".to_owned()) };
    let TruncatePrefix { index, pos } = *truncate;
    if log.segment_start(LogPos(pos)).is_none_or(|first| first.index != index) {
        return refused(format!("no segment begins at {pos} with entry {index}"));
    }
    if pos <= projection.kept_pos {
        return refused(format!("the log begins at {} already", projection.kept_pos));
    }
    let spared = log.spared();
    if index > spared {
        return refused(format!("a member may still need entries behind {spared}, so {index} cannot be the first"));
    }
    Ok(())
}

pub(super) fn check(command: &Command) -> Result<(), Refusal> {
    command.check().map_err(|error| Refusal::new(ResponseCode::INVALID_PARAMETER, error.to_string()))
}

pub(super) fn check_room_for_topic(projection: &Projection, queues: u32) -> Result<(), Refusal> {
    if projection.topics.len() >= TOPICS_MAX {
        let remark = format!("there are {TOPICS_MAX} topics, the limit of one group");
        return Err(Refusal::new(ResponseCode::SYSTEM_ERROR, remark));
    }
    check_room_for_queues(projection, queues)
}

fn check_room_for_queues(projection: &Projection, more: u32) -> Result<(), Refusal> {
    if projection.queues + more as usize > QUEUES_MAX {
        let remark = format!("there are {} queues, the limit of one group is {QUEUES_MAX}", projection.queues);
        return Err(Refusal::new(ResponseCode::SYSTEM_ERROR, remark));
    }
    Ok(())
}

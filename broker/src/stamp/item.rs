//! What handlers hand to the log, and what they are told.

use std::fmt;
use std::sync::Arc;

use bytes::BytesMut;
use ledgermq_protocol::message::record::{PHYSICAL_OFFSET_AT, QUEUE_ID_AT, TOTAL_SIZE_AT};

use super::timers::TimerItem;
use crate::command::Command;
use crate::delay::Delay;

/// Something to append.
#[derive(Debug)]
pub enum Item {
    /// One message, or several of one topic and queue that belong together.
    Send(SendItem),
    /// A state change.
    Command(Command),
    /// Delayed messages whose wait ends, or that are carried forward.
    Timers(TimerItem),
}

impl Item {
    /// Bytes that it takes in the log, about: the size hint of the proposal.
    pub fn size_hint(&self) -> usize {
        match self {
            Item::Send(send) => send.size(),
            Item::Command(command) => command.encoded_len(),
            Item::Timers(timers) => timers.size(),
        }
    }
}

/// Messages for one queue, encoded.
#[derive(Debug)]
pub struct SendItem {
    pub(super) topic: Arc<str>,
    pub(super) queue_id: i32,
    pub(super) records: BytesMut,
    pub(super) count: usize,
    pub(super) auto_create: AutoCreate,
    /// For how long it waits; its record is one of the timer topic then.
    pub(super) delay: Option<Delay>,
    /// Set by `admit`; the first physical offset by `write`.
    pub(super) sent: Sent,
}

impl SendItem {
    /// `records` holds stored records one behind the other, offsets and store time blank, all with queue id `queue_id`;
    /// below 0 the stamper chooses a queue and writes it into them. `topic` is best the name that
    /// [`crate::tables::Topic::name`] shares, so that nothing is copied.
    ///
    /// # Panics
    /// If `records` is not a whole number of records, or none.
    pub fn new(topic: Arc<str>, queue_id: i32, records: BytesMut, auto_create: AutoCreate) -> Self {
        let count = record_starts(&records).count();
        assert!(count > 0, "a send has a record");
        SendItem { topic, queue_id, records, count, auto_create, delay: None, sent: Sent::default() }
    }

    /// A message for `topic` and `queue` that waits first. `record` is one of the timer topic, as [`crate::delay`] makes it.
    ///
    /// # Panics
    /// If `record` is not one whole record.
    pub fn delayed(topic: Arc<str>, queue: u32, record: BytesMut, auto_create: AutoCreate, delay: Delay) -> Self {
        let queue_id = i32::try_from(queue).unwrap_or(i32::MAX);
        let item = SendItem { delay: Some(delay), ..Self::new(topic, queue_id, record, auto_create) };
        assert_eq!(item.count, 1, "one message waits at a time");
        item
    }

    /// The topic, when the message waits before it comes there.
    pub fn delayed_for(&self) -> Option<&Arc<str>> {
        self.delay.map(|_| &self.topic)
    }

    /// Bytes of all records: the size hint of the proposal.
    pub fn size(&self) -> usize {
        self.records.len()
    }

    pub(super) fn set_queue(&mut self, queue: u32) {
        let mut at = 0;
        while at < self.records.len() {
            let size = record_size(&self.records[at..]);
            self.records[at + QUEUE_ID_AT..][..4].copy_from_slice(&queue.to_be_bytes());
            at += size;
        }
    }
}

/// Offsets at which the records in `records` start.
///
/// # Panics
/// If they do not fill it exactly.
pub(super) fn record_starts(records: &[u8]) -> impl Iterator<Item = usize> {
    let mut at = 0;
    std::iter::from_fn(move || {
        if at == records.len() {
            return None;
        }
        let start = at;
        at += record_size(&records[start..]);
        Some(start)
    })
}

/// Size of the record that `records` starts with.
pub(super) fn record_size(records: &[u8]) -> usize {
    let size = records[TOTAL_SIZE_AT..].first_chunk::<4>().expect("a record starts with its size");
    let size = u32::from_be_bytes(*size) as usize;
    assert!(size > PHYSICAL_OFFSET_AT + 8 && size <= records.len(), "records fill their buffer exactly");
    size
}

/// Whether and how an unknown topic is created by a send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AutoCreate {
    /// Refused with TOPIC_NOT_EXIST.
    No,
    /// As `template` has it, when that topic exists and may be inherited from, with at most `queues` queues.
    From {
        /// Usually TBW102.
        template: Arc<str>,
        /// The client's `defaultTopicQueueNums`.
        queues: u32,
    },
    /// With so many queues, readable and writable: retry topics.
    Plain {
        /// Number of queues.
        queues: u32,
    },
}

/// What happened to an item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The messages are committed.
    Sent(Sent),
    /// The command is committed as the entry with this Raft index; what it changed can be read once applied has reached it.
    Done {
        /// Raft index.
        index: u64,
    },
    /// Nothing was appended.
    Refused(Refusal),
}

/// Where committed messages lie.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sent {
    /// Raft index of the entry.
    pub index: u64,
    /// The queue, chosen by the client or here.
    pub queue_id: u32,
    /// Queue offset of the first message; the others follow without a gap.
    pub queue_offset: u64,
    /// Position in the CommitLog of the first message.
    pub physical_offset: u64,
    /// Positions of the second and later messages of a batch.
    pub more_physical_offsets: Vec<u64>,
    /// Store timestamp of all of them, ms since 1970.
    pub store_timestamp_ms: u64,
    /// When a delayed message is due, ms since 1970. Its queue offset and position are those of the timer topic.
    pub due_ms: Option<u64>,
}

/// Why nothing was appended, for the answer to the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// RocketMQ's response code.
    pub code: i32,
    /// What was wrong.
    pub remark: String,
}

impl Refusal {
    /// A refusal with this code and remark.
    pub fn new(code: i32, remark: impl Into<String>) -> Self {
        Refusal { code, remark: remark.into() }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "code {}: {}", self.code, self.remark)
    }
}

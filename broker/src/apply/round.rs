//! What changed in one round of apply, for those who wait for changes.

use std::sync::Arc;

use ledgermq_dledger::FramePos;

use super::{UNIT_LEN, Unit};
use crate::tables::{Topic, TopicKey};

/// Told of every round, on the apply thread, once its effects can be read. Must be quick and must not block: whatever it does
/// holds up apply.
pub trait ApplyObserver: Send {
    /// A round is applied.
    fn applied(&mut self, round: &Round);
}

/// What changed in a round.
#[derive(Debug, Default)]
pub struct Round {
    /// The last applied frame.
    pub applied: FramePos,
    /// Queues with new messages, in the order of their first one.
    pub queues: Vec<QueueAdvance>,
    /// Topics that were made, changed or deleted, in log order: what they are now is in the tables.
    pub topics: Vec<TopicKey>,
    /// Those topics among them that were deleted.
    pub dropped: Vec<TopicKey>,
    /// Subscription groups that were made, changed or deleted, in log order.
    pub groups: Vec<Arc<str>>,
    /// When the first of the delayed messages is due that were stored, ms since 1970; `None` when none was.
    pub timer_due_ms: Option<u64>,
}

/// New messages of one queue.
#[derive(Debug)]
pub struct QueueAdvance {
    /// The topic.
    pub topic: Arc<Topic>,
    /// The queue.
    pub queue: u32,
    /// Queue offset of the first of them.
    pub first: u64,
    /// Their units, encoded.
    pub(super) units: Vec<u8>,
}

impl QueueAdvance {
    /// The units of the new messages, for filters: offset `first` and up.
    pub fn units(&self) -> impl Iterator<Item = Unit> {
        self.units.chunks_exact(UNIT_LEN).map(|unit| Unit::decode(unit.try_into().expect("chunks have that length")))
    }

    /// Queue offset behind the last of them.
    pub fn next(&self) -> u64 {
        self.first + (self.units.len() / UNIT_LEN) as u64
    }
}

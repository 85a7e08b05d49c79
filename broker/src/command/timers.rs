//! The command about delayed messages that wait: some are delivered, some carried forward in the log, some dropped.

use std::collections::HashSet;

use prost::Message;

use super::{CommandError, at_most, well_formed};

/// Most messages that one [`MoveTimers`] may be about: bounds the work of one entry.
pub const TIMERS_PER_COMMAND_MAX: usize = 4_096;

/// Names a delayed message that waits. Sorted by what is due first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Message)]
pub struct TimerRef {
    /// When it is due, ms since 1970.
    #[prost(uint64, tag = "1")]
    pub due_ms: u64,
    /// Log position at which it was stored first: the same for ever, wherever it is carried.
    #[prost(uint64, tag = "2")]
    pub first_pos: u64,
}

/// Ends the wait of delayed messages, or goes on with it further ahead in the log. Stands in a transition with the records of
/// those that are delivered, for their real topics, and behind them of those that are carried, for the timer topic, each in
/// the order in which they are named here; alone when none is either.
///
/// Each of them must be waiting: the stamper has seen to it that nobody else ends it, so apply stops where one is not.
#[derive(Clone, PartialEq, Message)]
pub struct MoveTimers {
    /// Their time has come.
    #[prost(message, repeated, tag = "1")]
    pub delivered: Vec<TimerRef>,
    /// The log is about to be given up where they lie.
    #[prost(message, repeated, tag = "2")]
    pub carried: Vec<TimerRef>,
    /// Recalled by their producer, or due for a topic that is gone.
    #[prost(message, repeated, tag = "3")]
    pub dropped: Vec<TimerRef>,
}

impl MoveTimers {
    /// All that are named, in order.
    pub fn all(&self) -> impl Iterator<Item = &TimerRef> {
        self.delivered.iter().chain(&self.carried).chain(&self.dropped)
    }

    pub(super) fn check(&self) -> Result<(), CommandError> {
        at_most("delayed messages", self.all().count(), TIMERS_PER_COMMAND_MAX)?;
        let mut seen = HashSet::new();
        well_formed("the list of delayed messages: one stands in it twice", self.all().all(|timer| seen.insert(*timer)))
    }
}

//! Locks of queues that a group consumes in order: one client at a time, on a lease.

use ledgermq_protocol::names;
use prost::Message;

use super::{CommandError, at_most, well_formed};

/// Most queues in one command: bounds the work of one entry. A handler splits above it.
pub const LOCKS_PER_COMMAND_MAX: usize = 4096;
/// Longest id of a client in bytes.
pub const LOCK_CLIENT_LEN_MAX: usize = 255;
/// Longest lease, ms.
pub const LEASE_MS_MAX: u64 = 60 * 60 * 1000;

/// Locks queues for a client, or prolongs its locks. A queue that another client holds stays with that one until its lease has
/// expired: who got what is read from the state afterwards.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct LockQueues {
    /// The subscription group.
    #[prost(string, tag = "1")]
    pub group: String,
    /// The client.
    #[prost(string, tag = "2")]
    pub client_id: String,
    /// The leader's clock as of its place in the log, ms since 1970: leases that ended by then are over.
    #[prost(uint64, tag = "3")]
    pub at_ms: u64,
    /// How long the locks hold from then on, ms.
    #[prost(uint64, tag = "4")]
    pub lease_ms: u64,
    /// The queues, at most [`LOCKS_PER_COMMAND_MAX`].
    #[prost(message, repeated, tag = "5")]
    pub queues: Vec<QueueOfTopic>,
}

/// Gives locks back. Those of other clients stay.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct UnlockQueues {
    /// The subscription group.
    #[prost(string, tag = "1")]
    pub group: String,
    /// The client.
    #[prost(string, tag = "2")]
    pub client_id: String,
    /// The queues, at most [`LOCKS_PER_COMMAND_MAX`].
    #[prost(message, repeated, tag = "3")]
    pub queues: Vec<QueueOfTopic>,
}

/// A queue.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct QueueOfTopic {
    /// The topic.
    #[prost(string, tag = "1")]
    pub topic: String,
    /// Its incarnation, as the broker knew it when it was asked: a lock dies with its topic.
    #[prost(uint64, tag = "2")]
    pub incarnation: u64,
    /// The queue.
    #[prost(uint32, tag = "3")]
    pub queue: u32,
}

impl LockQueues {
    pub(super) fn check(&self) -> Result<(), CommandError> {
        well_formed("the lease of a lock", (1..=LEASE_MS_MAX).contains(&self.lease_ms))?;
        check(&self.group, &self.client_id, &self.queues)
    }
}

impl UnlockQueues {
    pub(super) fn check(&self) -> Result<(), CommandError> {
        check(&self.group, &self.client_id, &self.queues)
    }
}

fn check(group: &str, client_id: &str, queues: &[QueueOfTopic]) -> Result<(), CommandError> {
    names::check_group(group)?;
    well_formed("the id of a client", (1..=LOCK_CLIENT_LEN_MAX).contains(&client_id.len()))?;
    at_most("queues", queues.len(), LOCKS_PER_COMMAND_MAX)?;
    queues.iter().try_for_each(|queue| Ok(names::check_topic(&queue.topic)?))
}

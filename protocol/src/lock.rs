//! Queue locks of consumers that consume in order: bodies of LOCK_BATCH_MQ and UNLOCK_BATCH_MQ.

use serde::{Deserialize, Serialize};

use crate::json::object_map::MessageQueue;
use crate::json::{self, bounded_vec};

/// Most queues in one request: a client's share of its topics.
pub const MAX_QUEUES: usize = 65_536;

/// The body of LOCK_BATCH_MQ and UNLOCK_BATCH_MQ.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LockBatchRequest {
    /// The client that locks.
    pub client_id: String,
    /// Its group.
    pub consumer_group: String,
    /// The queues.
    #[serde(deserialize_with = "bounded_vec::<_, _, MAX_QUEUES>")]
    pub mq_set: Vec<MessageQueue>,
    /// Whether other members need not be asked. Absent from 4.9 and Go clients.
    pub only_this_broker: bool,
}

/// The answer to LOCK_BATCH_MQ.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LockBatchResponse {
    /// The queues that the client holds now.
    #[serde(rename = "lockOKMQSet", deserialize_with = "bounded_vec::<_, _, MAX_QUEUES>")]
    pub lock_ok_mq_set: Vec<MessageQueue>,
}

json::body!(LockBatchRequest, LockBatchResponse);

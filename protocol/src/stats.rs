//! Bodies whose maps are keyed by message queues: offsets of topics and groups as tools see them.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::json::object_map::{self, QueueMap};
use crate::json::{Body, bounded_map};

/// Most clients of a group in one answer that are read.
const MAX_CLIENTS: usize = crate::consumer_list::MAX_CONSUMERS;

/// The bounds of one queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TopicOffset {
    /// Store time of the last message, ms.
    pub last_update_timestamp: i64,
    /// Next offset to be written.
    pub max_offset: i64,
    /// First offset.
    pub min_offset: i64,
}

/// The answer to GET_TOPIC_STATS_INFO.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TopicStatsTable {
    /// The queues.
    #[serde(deserialize_with = "object_map::deserialize")]
    pub offset_table: QueueMap<TopicOffset>,
    /// Messages a second.
    pub topic_put_tps: f64,
}

impl Body for TopicStatsTable {
    fn to_json(&self) -> Bytes {
        let mut out = b"{\"offsetTable\":".to_vec();
        object_map::write(&self.offset_table, &mut out);
        out.extend_from_slice(b",\"topicPutTps\":");
        object_map::write_json(&self.topic_put_tps, &mut out);
        out.push(b'}');
        out.into()
    }
}

/// How far a group is in one queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OffsetWrapper {
    /// Next offset to be written.
    pub broker_offset: i64,
    /// Next offset to be consumed.
    pub consumer_offset: i64,
    /// Store time of the last consumed message, ms.
    pub last_timestamp: i64,
    /// Next offset to be pulled.
    pub pull_offset: i64,
}

/// The answer to GET_CONSUME_STATS.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConsumeStats {
    /// Messages a second.
    pub consume_tps: f64,
    /// The queues.
    #[serde(deserialize_with = "object_map::deserialize")]
    pub offset_table: QueueMap<OffsetWrapper>,
}

impl Body for ConsumeStats {
    fn to_json(&self) -> Bytes {
        let mut out = b"{\"consumeTps\":".to_vec();
        object_map::write_json(&self.consume_tps, &mut out);
        out.extend_from_slice(b",\"offsetTable\":");
        object_map::write(&self.offset_table, &mut out);
        out.push(b'}');
        out.into()
    }
}

/// The body of RESET_CONSUMER_CLIENT_OFFSET, and the answer to INVOKE_BROKER_TO_RESET_OFFSET.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ResetOffsetBody {
    /// The new offsets.
    #[serde(deserialize_with = "object_map::deserialize")]
    pub offset_table: QueueMap<i64>,
}

impl Body for ResetOffsetBody {
    fn to_json(&self) -> Bytes {
        let mut out = b"{\"offsetTable\":".to_vec();
        object_map::write(&self.offset_table, &mut out);
        out.push(b'}');
        out.into()
    }
}

/// The answer to GET_CONSUMER_STATUS_FROM_CLIENT and INVOKE_BROKER_TO_GET_CONSUMER_STATUS.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GetConsumerStatusBody {
    /// Client to its offsets.
    #[serde(deserialize_with = "bounded_map::<_, _, _, MAX_CLIENTS>")]
    pub consumer_table: BTreeMap<String, ClientOffsets>,
    /// The asked client's offsets.
    #[serde(deserialize_with = "object_map::deserialize")]
    pub message_queue_table: QueueMap<i64>,
}

/// The offsets of one client.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct ClientOffsets(
    /// Queue to offset.
    #[serde(deserialize_with = "object_map::deserialize")]
    pub QueueMap<i64>,
);

impl Body for GetConsumerStatusBody {
    fn to_json(&self) -> Bytes {
        let mut out = b"{\"consumerTable\":{".to_vec();
        for (n, (client, offsets)) in self.consumer_table.iter().enumerate() {
            if n > 0 {
                out.push(b',');
            }
            object_map::write_json(client, &mut out);
            out.push(b':');
            object_map::write(&offsets.0, &mut out);
        }
        out.extend_from_slice(b"},\"messageQueueTable\":");
        object_map::write(&self.message_queue_table, &mut out);
        out.push(b'}');
        out.into()
    }
}

//! Figures as tools see them: offsets of topics and groups, whose maps are keyed by message queues, and counts of messages.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::json::object_map::{self, MessageQueue, QueueMap};
use crate::json::{self, Body, bounded_map, bounded_vec};
use crate::topic::DataVersion;

/// Most clients of a group in one answer that are read.
const MAX_CLIENTS: usize = crate::consumer_list::MAX_CONSUMERS;

/// Most "topic@group" pairs that are read.
const MAX_PAIRS: usize = 1_000_000;

/// Most queues of a pair, or of a topic, that are read.
const MAX_QUEUES: usize = crate::lock::MAX_QUEUES;

/// What VIEW_BROKER_STATS_DATA can be asked for.
pub mod name {
    /// Messages stored in a topic; the key is the topic.
    pub const TOPIC_PUT_NUMS: &str = "TOPIC_PUT_NUMS";
    /// Messages of a topic handed to a group; the key is "topic@group".
    pub const GROUP_GET_NUMS: &str = "GROUP_GET_NUMS";
    /// Messages stored by a broker; the key is its cluster.
    pub const BROKER_PUT_NUMS: &str = "BROKER_PUT_NUMS";
    /// Messages handed out by a broker; the key is its cluster.
    pub const BROKER_GET_NUMS: &str = "BROKER_GET_NUMS";
}

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

/// The answer to QUERY_CORRECTION_OFFSET.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CorrectionOffsets {
    /// Queue to the smallest offset of all groups that count; `i64::MAX` where the compared group is farther back.
    pub correction_offsets: QueueOffsets,
}

/// The answer to VIEW_BROKER_STATS_DATA.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BrokerStatsData {
    /// The last day.
    pub stats_day: BrokerStatsItem,
    /// The last hour.
    pub stats_hour: BrokerStatsItem,
    /// The last minute.
    pub stats_minute: BrokerStatsItem,
}

/// A count over some time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BrokerStatsItem {
    /// Average per call; 0 where calls are not counted.
    pub avgpt: f64,
    /// The count.
    pub sum: i64,
    /// The count per second.
    pub tps: f64,
}

/// The answer to QUERY_CONSUME_TIME_SPAN.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConsumeTimeSpans {
    /// The queues.
    #[serde(deserialize_with = "bounded_vec::<_, _, MAX_QUEUES>")]
    pub consume_time_span_set: Vec<QueueTimeSpan>,
}

/// Times of a queue's messages, ms since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct QueueTimeSpan {
    /// Store time of the last message that the group consumed.
    pub consume_time_stamp: i64,
    /// How long the next message has been waiting for the group, ms; 0 when none waits.
    pub delay_time: i64,
    /// Store time of the last message.
    pub max_time_stamp: i64,
    /// The queue.
    pub message_queue: MessageQueue,
    /// Store time of the first message.
    pub min_time_stamp: i64,
}

/// The answer to GET_ALL_CONSUMER_OFFSET.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AllConsumerOffsets {
    /// Version of the table.
    #[serde(deserialize_with = "json::lenient")]
    pub data_version: DataVersion,
    /// "topic@group" to queue to offset.
    #[serde(deserialize_with = "bounded_map::<_, _, _, MAX_PAIRS>")]
    pub offset_table: BTreeMap<String, QueueOffsets>,
}

/// Offsets by queue.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct QueueOffsets(
    /// Queue to offset.
    #[serde(deserialize_with = "bounded_map::<_, _, _, MAX_QUEUES>")]
    pub BTreeMap<u32, i64>,
);

json::body!(BrokerStatsData, ConsumeTimeSpans, AllConsumerOffsets, CorrectionOffsets);

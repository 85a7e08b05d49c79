//! Topic settings, their table, and the version by which tables are compared.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::json::named::named;
use crate::json::{self, Ignored, bounded_map, bounded_vec, lenient};

/// Most attributes of a topic or group.
pub const MAX_ATTRIBUTES: usize = 64;
/// Most topics in a table.
pub const MAX_TOPICS: usize = crate::route::MAX_TOPICS;

/// A version of a table. The reference compares all three members; we keep the Raft term in `state_version`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DataVersion {
    /// Changes within the state version.
    pub counter: i64,
    /// Epoch.
    pub state_version: i64,
    /// When it last changed, ms since 1970.
    pub timestamp: i64,
}

/// How many tags a message of a topic may have (legacy).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TopicFilterType {
    /// One; also meant by unknown names.
    #[default]
    SingleTag,
    /// Several.
    MultiTag,
}

named!(TopicFilterType {
    "SINGLE_TAG" => SingleTag,
    "MULTI_TAG" => MultiTag,
} else SingleTag);

/// The settings of a topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TopicConfig {
    /// "message.type" and others.
    #[serde(deserialize_with = "bounded_map::<_, _, _, MAX_ATTRIBUTES>")]
    pub attributes: BTreeMap<String, String>,
    /// Whether its messages are ordered.
    pub order: bool,
    /// Permission bits, see [`crate::route`].
    pub perm: i32,
    /// Queues to read.
    pub read_queue_nums: i32,
    /// Legacy.
    pub topic_filter_type: TopicFilterType,
    /// Topic.
    pub topic_name: String,
    /// Flag: 1 unit, 2 unit subscription.
    pub topic_sys_flag: i32,
    /// Queues to write.
    pub write_queue_nums: i32,
}

impl Default for TopicConfig {
    fn default() -> Self {
        Self {
            attributes: BTreeMap::new(),
            order: false,
            perm: crate::route::PERM_READ | crate::route::PERM_WRITE,
            read_queue_nums: 16,
            topic_filter_type: TopicFilterType::SingleTag,
            topic_name: String::new(),
            topic_sys_flag: 0,
            write_queue_nums: 16,
        }
    }
}

impl TopicConfig {
    /// Settings of `topic` with as many queues to read as to write.
    pub fn new(topic: impl Into<String>, queue_nums: i32, perm: i32) -> Self {
        Self {
            topic_name: topic.into(),
            read_queue_nums: queue_nums,
            write_queue_nums: queue_nums,
            perm,
            ..Self::default()
        }
    }
}

/// All topics of a broker: the answer to GET_ALL_TOPIC_CONFIG, and the main part of a registration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TopicConfigSerializeWrapper {
    /// Version of the table.
    #[serde(deserialize_with = "lenient")]
    pub data_version: DataVersion,
    /// Static topics, which we do not have: written for 5.x peers, which expect it.
    #[serde(deserialize_with = "lenient")]
    pub mapping_data_version: DataVersion,
    /// Topic to settings.
    #[serde(deserialize_with = "bounded_map::<_, _, _, MAX_TOPICS>")]
    pub topic_config_table: BTreeMap<String, TopicConfig>,
    #[serde(rename = "topicQueueMappingDetailMap")]
    mapping_detail: Ignored,
    #[serde(rename = "topicQueueMappingInfoMap")]
    mapping_info: Ignored,
}

impl TopicConfigSerializeWrapper {
    /// A table with its version.
    pub fn new(data_version: DataVersion, topic_config_table: BTreeMap<String, TopicConfig>) -> Self {
        Self { data_version, topic_config_table, ..Self::default() }
    }
}

/// The body of UPDATE_AND_CREATE_TOPIC_LIST.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CreateTopicList {
    /// The topics.
    #[serde(deserialize_with = "bounded_vec::<_, _, MAX_CREATED_TOPICS>")]
    pub topic_config_list: Vec<TopicConfig>,
}

/// Most topics in one [`CreateTopicList`]: each becomes an entry of the log.
pub const MAX_CREATED_TOPICS: usize = 10_000;

json::body!(DataVersion, TopicConfig, TopicConfigSerializeWrapper, CreateTopicList);

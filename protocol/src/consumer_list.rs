//! Who is in a group: the bodies that list members and their connections.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::heartbeat::{ConsumeFromWhere, ConsumeType, MAX_SUBSCRIPTIONS, MessageModel, SubscriptionData};
use crate::json::{self, bounded_map, bounded_vec, lenient};

/// Most members of a group that are read.
pub const MAX_CONSUMERS: usize = 65_536;

/// The answer to GET_CONSUMER_LIST_BY_GROUP: from it each member computes its share of the queues.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConsumerList {
    /// Client ids.
    #[serde(deserialize_with = "bounded_vec::<_, _, MAX_CONSUMERS>")]
    pub consumer_id_list: Vec<String>,
}

/// One member's connection.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Connection {
    /// "ip:port".
    pub client_addr: String,
    /// Client id.
    pub client_id: String,
    /// Name of its language.
    #[serde(deserialize_with = "lenient")]
    pub language: String,
    /// Its version.
    pub version: i32,
}

/// The answer to GET_CONSUMER_CONNECTION_LIST.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConsumerConnection {
    /// The members.
    #[serde(deserialize_with = "bounded_vec::<_, _, MAX_CONSUMERS>")]
    pub connection_set: Vec<Connection>,
    /// Where to start without an offset.
    pub consume_from_where: ConsumeFromWhere,
    /// How they get messages.
    pub consume_type: ConsumeType,
    /// Whether they share the queues.
    pub message_model: MessageModel,
    /// Topic to subscription.
    #[serde(deserialize_with = "bounded_map::<_, _, _, MAX_SUBSCRIPTIONS>")]
    pub subscription_table: BTreeMap<String, SubscriptionData>,
}

/// The answer to GET_PRODUCER_CONNECTION_LIST.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProducerConnection {
    /// The producers.
    #[serde(deserialize_with = "bounded_vec::<_, _, MAX_CONSUMERS>")]
    pub connection_set: Vec<Connection>,
}

/// A list of groups: the answer to QUERY_TOPIC_CONSUME_BY_WHO.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GroupList {
    /// Groups.
    #[serde(deserialize_with = "bounded_vec::<_, _, MAX_GROUPS>")]
    pub group_list: Vec<String>,
}

/// Most groups in a list that are read.
pub const MAX_GROUPS: usize = crate::subscription_group::MAX_GROUPS;

/// The answer to QUERY_SUBSCRIPTION_BY_CONSUMER.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GroupSubscription {
    /// Consumer group.
    pub group: String,
    /// What it wants of the topic; absent when it does not subscribe to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subscription_data: Option<SubscriptionData>,
    /// Topic.
    pub topic: String,
}

json::body!(ConsumerList, ConsumerConnection, ProducerConnection, GroupList, GroupSubscription);

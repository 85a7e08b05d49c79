//! Routes: which brokers serve a topic, and who belongs to a cluster. Bodies of the name server's answers.
//!
//! Written so that every client reads them: compact, since the Go client cuts `brokerAddrs` out of the text by hand; ids as quoted
//! keys; empty lists instead of null, since the Java client sorts them unchecked. Nothing volatile belongs in here: clients
//! rebalance on any difference.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::json::{self, bounded_map, bounded_vec};

/// Permission bit: a queue takes messages.
pub const PERM_WRITE: i32 = 2;
/// Permission bit: a queue can be read.
pub const PERM_READ: i32 = 4;
/// Permission bit: unknown topics may copy this one.
pub const PERM_INHERIT: i32 = 1;

/// Most broker names in a route or a cluster.
pub const MAX_BROKER_NAMES: usize = 4_096;
/// Most members of a broker name.
pub const MAX_MEMBERS: usize = 64;
/// Most topics in a list: what a name server may know at all.
pub const MAX_TOPICS: usize = 1_000_000;

/// The id of the leader in `brokerAddrs`.
pub const LEADER_ID: i64 = 0;

/// The answer to GET_ROUTEINFO_BY_TOPIC.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TopicRouteData {
    /// Who serves the topic.
    #[serde(deserialize_with = "bounded_vec::<_, _, MAX_BROKER_NAMES>")]
    pub broker_datas: Vec<BrokerData>,
    /// Obsolete; always written, since old clients read it.
    #[serde(deserialize_with = "bounded_map::<_, _, _, MAX_BROKER_NAMES>")]
    pub filter_server_table: BTreeMap<String, Vec<String>>,
    /// "broker-a:4;broker-b:4" for topics in the order configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order_topic_conf: Option<String>,
    /// The queues on each broker name.
    #[serde(deserialize_with = "bounded_vec::<_, _, MAX_BROKER_NAMES>")]
    pub queue_datas: Vec<QueueData>,
}

/// A topic's queues on one broker name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct QueueData {
    /// Broker name.
    pub broker_name: String,
    /// PERM_ bits of this module.
    pub perm: i32,
    /// Queues to read.
    pub read_queue_nums: i32,
    /// Flag of the topic.
    pub topic_sys_flag: i32,
    /// Queues to write.
    pub write_queue_nums: i32,
}

/// One broker name and its members.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BrokerData {
    /// Id to "ip:port". The leader has [`LEADER_ID`].
    #[serde(deserialize_with = "bounded_map::<_, _, _, MAX_MEMBERS>")]
    pub broker_addrs: BTreeMap<i64, String>,
    /// Broker name: one Raft group.
    pub broker_name: String,
    /// Cluster.
    pub cluster: String,
    /// Reference only.
    pub enable_acting_master: bool,
    /// Reference only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone_name: Option<String>,
}

impl BrokerData {
    /// The leader's address, while there is one.
    pub fn leader_addr(&self) -> Option<&str> {
        self.broker_addrs.get(&LEADER_ID).map(String::as_str)
    }
}

/// The answer to GET_BROKER_CLUSTER_INFO.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterInfo {
    /// Broker name to its members.
    #[serde(deserialize_with = "bounded_map::<_, _, _, MAX_BROKER_NAMES>")]
    pub broker_addr_table: BTreeMap<String, BrokerData>,
    /// Cluster to its broker names.
    #[serde(deserialize_with = "bounded_map::<_, _, _, MAX_BROKER_NAMES>")]
    pub cluster_addr_table: BTreeMap<String, Vec<String>>,
}

/// The answer to GET_BROKER_MEMBER_GROUP.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BrokerMemberGroupBody {
    /// The group.
    pub broker_member_group: BrokerMemberGroup,
}

/// The members of a broker name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BrokerMemberGroup {
    /// Id to "ip:port".
    #[serde(deserialize_with = "bounded_map::<_, _, _, MAX_MEMBERS>")]
    pub broker_addrs: BTreeMap<i64, String>,
    /// Broker name.
    pub broker_name: String,
    /// Cluster.
    pub cluster: String,
}

/// A list of topics: the answer to several requests.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TopicList {
    /// Any broker's address, in the answer to GET_SYSTEM_TOPIC_LIST_FROM_NS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub broker_addr: Option<String>,
    /// The topics.
    #[serde(deserialize_with = "bounded_vec::<_, _, MAX_TOPICS>")]
    pub topic_list: Vec<String>,
}

json::body!(TopicRouteData, ClusterInfo, BrokerMemberGroupBody, TopicList);

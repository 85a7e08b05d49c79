//! Settings of consumer groups.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::json::{self, bounded_map, bounded_vec, lenient};
use crate::topic::{DataVersion, MAX_ATTRIBUTES};

/// Most groups in a table.
pub const MAX_GROUPS: usize = 1_000_000;
/// Most topics that a group may be forbidden, or have fixed subscriptions to.
pub const MAX_GROUP_TOPICS: usize = 4_096;
/// Most steps of a retry policy.
pub const MAX_RETRY_STEPS: usize = 256;

/// The settings of a consumer group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SubscriptionGroupConfig {
    /// Free attributes.
    #[serde(deserialize_with = "bounded_map::<_, _, _, MAX_ATTRIBUTES>")]
    pub attributes: BTreeMap<String, String>,
    /// Broker to pull from.
    pub broker_id: i64,
    /// Whether broadcast consumers may use it.
    pub consume_broadcast_enable: bool,
    /// Whether it may consume at all.
    pub consume_enable: bool,
    /// Legacy.
    pub consume_from_min_enable: bool,
    /// Whether it consumes in order.
    pub consume_message_orderly: bool,
    /// How long a consumer may take for a message, minutes.
    pub consume_timeout_minute: i32,
    /// Group.
    pub group_name: String,
    /// Delays between tries.
    #[serde(deserialize_with = "lenient")]
    pub group_retry_policy: GroupRetryPolicy,
    /// Flag.
    pub group_sys_flag: i32,
    /// Whether members are told of changes among them.
    pub notify_consumer_ids_changed_enable: bool,
    /// Tries before a message goes to the dead letters.
    pub retry_max_times: i32,
    /// Queues of the retry topic.
    pub retry_queue_nums: i32,
    /// Subscriptions that are fixed by an operator.
    #[serde(deserialize_with = "bounded_vec::<_, _, MAX_GROUP_TOPICS>", skip_serializing_if = "Vec::is_empty")]
    pub subscription_data_set: Vec<SimpleSubscriptionData>,
    /// Broker for slow consumers.
    pub which_broker_when_consume_slowly: i64,
}

impl Default for SubscriptionGroupConfig {
    fn default() -> Self {
        Self {
            attributes: BTreeMap::new(),
            broker_id: 0,
            consume_broadcast_enable: true,
            consume_enable: true,
            consume_from_min_enable: true,
            consume_message_orderly: false,
            consume_timeout_minute: 15,
            group_name: String::new(),
            group_retry_policy: GroupRetryPolicy::default(),
            group_sys_flag: 0,
            notify_consumer_ids_changed_enable: true,
            retry_max_times: 16,
            retry_queue_nums: 1,
            subscription_data_set: Vec::new(),
            which_broker_when_consume_slowly: 1,
        }
    }
}

impl SubscriptionGroupConfig {
    /// The default settings, under which groups are created on first use.
    pub fn new(group: impl Into<String>) -> Self {
        Self { group_name: group.into(), ..Self::default() }
    }
}

/// How long to wait between tries.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GroupRetryPolicy {
    /// Steps of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub customized_retry_policy: Option<CustomizedRetryPolicy>,
    /// Growing steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exponential_retry_policy: Option<ExponentialRetryPolicy>,
    /// "CUSTOMIZED" or "EXPONENTIAL".
    #[serde(rename = "type")]
    pub kind: String,
}

impl Default for GroupRetryPolicy {
    fn default() -> Self {
        Self { customized_retry_policy: None, exponential_retry_policy: None, kind: "CUSTOMIZED".to_owned() }
    }
}

/// Listed delays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CustomizedRetryPolicy {
    /// ms each.
    #[serde(deserialize_with = "bounded_vec::<_, _, MAX_RETRY_STEPS>")]
    pub next: Vec<i64>,
}

/// Delays that grow by a factor.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExponentialRetryPolicy {
    /// First delay, ms.
    pub initial: i64,
    /// Longest delay, ms.
    pub max: i64,
    /// Factor.
    pub multiplier: f64,
}

/// A subscription fixed by an operator.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SimpleSubscriptionData {
    /// The expression.
    pub expression: String,
    /// Its type.
    pub expression_type: String,
    /// Topic.
    pub topic: String,
    /// Version.
    pub version: i64,
}

/// All groups of a broker: the answer to GET_ALL_SUBSCRIPTIONGROUP_CONFIG.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SubscriptionGroupWrapper {
    /// Version of the table.
    #[serde(deserialize_with = "lenient")]
    pub data_version: DataVersion,
    /// Group to topic to a bit mask of what is forbidden.
    #[serde(deserialize_with = "bounded_map::<_, _, _, MAX_GROUPS>")]
    pub forbidden_table: BTreeMap<String, BTreeMap<String, i32>>,
    /// Group to settings.
    #[serde(deserialize_with = "bounded_map::<_, _, _, MAX_GROUPS>")]
    pub subscription_group_table: BTreeMap<String, SubscriptionGroupConfig>,
}

json::body!(SubscriptionGroupConfig, SubscriptionGroupWrapper);

//! The body of HEART_BEAT: who a client is, and what its groups subscribe to.
//!
//! Read leniently: 4.9 and Go clients leave members out, sets arrive as lists, the Go client's hashes as text, unknown names become
//! a default.

use serde::{Deserialize, Serialize};

use crate::json::named::named;
use crate::json::{self, bounded_vec, lenient};

/// Most groups of one client. Real ones have a handful.
pub const MAX_GROUPS: usize = 1_024;
/// Most topics that one group subscribes to.
pub const MAX_SUBSCRIPTIONS: usize = 4_096;
/// Most tags in one subscription.
pub const MAX_TAGS: usize = crate::message::tags::MAX_TAGS;

/// The expression type of tag filters, also meant when the type is missing.
pub const TYPE_TAG: &str = "TAG";
/// The expression type of SQL92 filters.
pub const TYPE_SQL92: &str = "SQL92";

/// What a client tells about itself every 30 seconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HeartbeatData {
    /// The client, unique in the cluster.
    #[serde(rename = "clientID")]
    pub client_id: String,
    /// Its consumer groups.
    #[serde(deserialize_with = "bounded_vec::<_, _, MAX_GROUPS>")]
    pub consumer_data_set: Vec<ConsumerData>,
    /// Non-zero in a light heartbeat's protocol, opaque.
    pub heartbeat_fingerprint: i32,
    /// Its producer groups.
    #[serde(deserialize_with = "bounded_vec::<_, _, MAX_GROUPS>")]
    pub producer_data_set: Vec<ProducerData>,
    /// Whether the subscriptions are left out because they have not changed.
    pub without_sub: bool,
}

/// A producer group of a client.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProducerData {
    /// Group.
    pub group_name: String,
}

/// A consumer group of a client.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConsumerData {
    /// Where to start without an offset.
    pub consume_from_where: ConsumeFromWhere,
    /// How it gets messages.
    pub consume_type: ConsumeType,
    /// Group.
    pub group_name: String,
    /// Whether members share the queues.
    pub message_model: MessageModel,
    /// What it wants.
    #[serde(deserialize_with = "bounded_vec::<_, _, MAX_SUBSCRIPTIONS>")]
    pub subscription_data_set: Vec<SubscriptionData>,
    /// Legacy.
    pub unit_mode: bool,
}

/// A subscription to one topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SubscriptionData {
    /// Obsolete.
    pub class_filter_mode: bool,
    /// Hashes of the tags. The Go client's differ from Java's outside of ASCII: only the expression says what is wanted.
    #[serde(deserialize_with = "tag_hashes")]
    pub code_set: Vec<i32>,
    /// [`TYPE_TAG`] or [`TYPE_SQL92`].
    #[serde(deserialize_with = "expression_type")]
    pub expression_type: String,
    /// The expression.
    #[serde(deserialize_with = "lenient")]
    pub sub_string: String,
    /// The client's clock at its last change, ms.
    pub sub_version: i64,
    /// The tags.
    #[serde(deserialize_with = "bounded_vec::<_, _, MAX_TAGS>")]
    pub tags_set: Vec<String>,
    /// Topic.
    #[serde(deserialize_with = "lenient")]
    pub topic: String,
}

impl Default for SubscriptionData {
    fn default() -> Self {
        Self {
            class_filter_mode: false,
            code_set: Vec::new(),
            expression_type: TYPE_TAG.to_owned(),
            sub_string: String::new(),
            sub_version: 0,
            tags_set: Vec::new(),
            topic: String::new(),
        }
    }
}

impl SubscriptionData {
    /// A subscription to `topic` by a tag expression, as a client makes it; `version` is its clock in ms.
    ///
    /// # Errors
    /// When the expression has no tag or too many.
    pub fn by_tags(topic: &str, expression: &str, version: i64) -> Result<Self, crate::message::tags::TagError> {
        use crate::message::tags::{TagFilter, is_all, tags};
        let mut data = Self { topic: topic.to_owned(), sub_version: version, ..Self::default() };
        match TagFilter::parse(expression)? {
            TagFilter::All => data.sub_string = "*".to_owned(),
            TagFilter::Codes(codes) => {
                debug_assert!(!is_all(expression), "tags were found");
                data.sub_string = expression.to_owned();
                data.code_set = codes;
                for tag in tags(expression) {
                    if !data.tags_set.iter().any(|known| known == tag) {
                        data.tags_set.push(tag.to_owned());
                    }
                }
            }
        }
        Ok(data)
    }

    /// A subscription to `topic` by an SQL92 expression, which brokers alone check; `version` is the client's clock in ms.
    pub fn by_sql(topic: &str, expression: &str, version: i64) -> Self {
        Self {
            expression_type: TYPE_SQL92.to_owned(),
            sub_string: expression.to_owned(),
            sub_version: version,
            topic: topic.to_owned(),
            ..Self::default()
        }
    }
}

fn tag_hashes<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<i32>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum TagHash {
        Number(i32),
        Text(String),
    }

    let given: Vec<TagHash> = bounded_vec::<_, _, MAX_TAGS>(deserializer)?;
    let number = |hash| match hash {
        TagHash::Number(number) => Ok(number),
        TagHash::Text(text) => text.parse().map_err(serde::de::Error::custom),
    };
    given.into_iter().map(number).collect()
}

fn expression_type<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let given = Option::<String>::deserialize(deserializer)?;
    Ok(given.filter(|name| !name.is_empty()).unwrap_or_else(|| TYPE_TAG.to_owned()))
}

/// How a consumer gets its messages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ConsumeType {
    /// It pulls when it likes.
    Actively,
    /// Its library pulls for it.
    #[default]
    Passively,
    /// Its library pops for it.
    Pop,
    /// A name that we do not know.
    Unknown,
}

named!(ConsumeType {
    "CONSUME_ACTIVELY" => Actively,
    "CONSUME_PASSIVELY" => Passively,
    "CONSUME_POP" => Pop,
} else Unknown);

/// Whether the members of a group share the queues or get all of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum MessageModel {
    /// Each member gets every message; offsets stay with the client.
    Broadcasting,
    /// Members share the queues.
    #[default]
    Clustering,
    /// A name that we do not know.
    Unknown,
}

named!(MessageModel {
    "BROADCASTING" => Broadcasting,
    "CLUSTERING" => Clustering,
} else Unknown);

/// Where a group without an offset starts. Names that are out of use read as what Java does with them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ConsumeFromWhere {
    /// With the next message; also meant by unknown names.
    #[default]
    LastOffset,
    /// With the first one.
    FirstOffset,
    /// At a time that the client knows.
    Timestamp,
}

named!(ConsumeFromWhere {
    "CONSUME_FROM_LAST_OFFSET" => LastOffset,
    "CONSUME_FROM_LAST_OFFSET_AND_FROM_MIN_WHEN_BOOT_FIRST" => LastOffset,
    "CONSUME_FROM_MIN_OFFSET" => LastOffset,
    "CONSUME_FROM_MAX_OFFSET" => LastOffset,
    "CONSUME_FROM_FIRST_OFFSET" => FirstOffset,
    "CONSUME_FROM_TIMESTAMP" => Timestamp,
} else LastOffset);

/// The body of CHECK_CLIENT_CONFIG.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CheckClientRequestBody {
    /// The client.
    #[serde(deserialize_with = "lenient")]
    pub client_id: String,
    /// Group.
    #[serde(deserialize_with = "lenient")]
    pub group: String,
    /// Legacy namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The subscription to check.
    #[serde(deserialize_with = "lenient")]
    pub subscription_data: SubscriptionData,
}

json::body!(HeartbeatData, SubscriptionData, CheckClientRequestBody);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::Body;

    /// A Go consumer with tags would never be known to a broker that cannot read its heartbeat, and never get a message.
    #[test]
    fn hashes_are_read_as_numbers_and_as_text() {
        for hashes in ["[2598919,-5]", r#"["2598919","-5"]"#, r#"[2598919,"-5"]"#] {
            let read = SubscriptionData::from_json(format!(r#"{{"codeSet":{hashes}}}"#).as_bytes()).unwrap();
            assert_eq!(read.code_set, [2_598_919, -5], "{hashes}");
        }
        assert_eq!(SubscriptionData::from_json(br#"{"codeSet":null}"#).unwrap().code_set, [0; 0]);
        for odd in [r#"["a"]"#, "[4294967296]", r#"["4294967296"]"#, "[{}]"] {
            SubscriptionData::from_json(format!(r#"{{"codeSet":{odd}}}"#).as_bytes()).unwrap_err();
        }
    }
}

//! Settings of topics and subscription groups, as the log and the store hold them. Their JSON forms are the protocol's.

use std::collections::BTreeMap;

use prost::Message;
use thiserror::Error;

/// Most queues of one topic, read or write. Each costs memory on every replica.
pub const QUEUES_PER_TOPIC_MAX: u32 = 4096;
/// Most attributes of one topic or group.
pub const ATTRIBUTES_MAX: usize = 64;
/// Longest name of an attribute in bytes.
pub const ATTRIBUTE_NAME_LEN_MAX: usize = 128;
/// Longest value of an attribute in bytes.
pub const ATTRIBUTE_VALUE_LEN_MAX: usize = 1024;
/// Longest retry policy (JSON) in bytes.
pub const RETRY_POLICY_LEN_MAX: usize = 4096;

/// Bits of a topic's permission.
pub mod perm {
    /// An unknown topic may be created from this one.
    pub const INHERIT: u32 = 1;
    /// May be sent to.
    pub const WRITE: u32 = 2;
    /// May be pulled from.
    pub const READ: u32 = 4;
    /// Legacy; kept for clients that set it.
    pub const PRIORITY: u32 = 8;
    /// All bits that exist.
    pub const ALL: u32 = 15;
}

/// Settings of a topic.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct TopicSettings {
    /// Queues that may be pulled from.
    #[prost(uint32, tag = "1")]
    pub read_queues: u32,
    /// Queues that may be sent to.
    #[prost(uint32, tag = "2")]
    pub write_queues: u32,
    /// See [`perm`].
    #[prost(uint32, tag = "3")]
    pub perm: u32,
    /// RocketMQ's `topicSysFlag`, opaque.
    #[prost(int32, tag = "4")]
    pub sys_flag: i32,
    /// RocketMQ's `order`: the topic's route is fixed by a KV config.
    #[prost(bool, tag = "5")]
    pub order: bool,
    /// RocketMQ's `topicFilterType` MULTI_TAG (legacy).
    #[prost(bool, tag = "6")]
    pub multi_tag: bool,
    /// Attributes, for example `message.type` = `FIFO`.
    #[prost(btree_map = "string, string", tag = "7")]
    pub attributes: BTreeMap<String, String>,
}

/// Settings of a subscription group; the names are those of RocketMQ's `SubscriptionGroupConfig`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct GroupSettings {
    /// Whether the group may consume at all.
    #[prost(bool, tag = "1")]
    pub consume_enable: bool,
    /// Kept for clients that set it.
    #[prost(bool, tag = "2")]
    pub consume_from_min_enable: bool,
    /// Whether consumers of the group may broadcast.
    #[prost(bool, tag = "3")]
    pub consume_broadcast_enable: bool,
    /// Whether pops of the group are ordered.
    #[prost(bool, tag = "4")]
    pub consume_message_orderly: bool,
    /// Queues of the group's retry topic.
    #[prost(int32, tag = "5")]
    pub retry_queues: i32,
    /// Deliveries before a message becomes a dead letter.
    #[prost(int32, tag = "6")]
    pub retry_max_times: i32,
    /// RocketMQ's `groupRetryPolicy` as JSON; empty for the default.
    #[prost(string, tag = "7")]
    pub retry_policy: String,
    /// Kept for clients that set it.
    #[prost(int64, tag = "8")]
    pub broker_id: i64,
    /// Broker that is suggested to a consumer far behind.
    #[prost(int64, tag = "9")]
    pub which_broker_when_consume_slowly: i64,
    /// Whether consumers are told when the group's members change.
    #[prost(bool, tag = "10")]
    pub notify_consumer_ids_changed: bool,
    /// RocketMQ's `groupSysFlag`, opaque.
    #[prost(int32, tag = "11")]
    pub sys_flag: i32,
    /// Minutes after which a consumer gives a message back.
    #[prost(int32, tag = "12")]
    pub consume_timeout_minutes: i32,
    /// Attributes.
    #[prost(btree_map = "string, string", tag = "13")]
    pub attributes: BTreeMap<String, String>,
}

/// A setting that cannot be accepted.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SettingsError {
    /// Outside of its range.
    #[error("{setting} is {value}, allowed are {min} to {max}")]
    Range {
        /// Which.
        setting: &'static str,
        /// What was asked for.
        value: i64,
        /// Smallest allowed.
        min: i64,
        /// Largest allowed.
        max: i64,
    },
    /// Too many attributes, or one that is empty or too long.
    #[error(
        "attributes: at most {ATTRIBUTES_MAX}, names of 1 to {ATTRIBUTE_NAME_LEN_MAX} bytes, values of at most {ATTRIBUTE_VALUE_LEN_MAX}"
    )]
    Attributes,
}

impl TopicSettings {
    /// A topic that may be read and written, with as many read as write queues.
    pub fn plain(queues: u32) -> Self {
        TopicSettings {
            read_queues: queues,
            write_queues: queues,
            perm: perm::READ | perm::WRITE,
            ..TopicSettings::default()
        }
    }

    /// Queues that exist: those that may be read or written.
    pub fn queues(&self) -> u32 {
        self.read_queues.max(self.write_queues)
    }

    /// Whether it may be sent to.
    pub fn writable(&self) -> bool {
        self.perm & perm::WRITE != 0
    }

    /// Whether it may be pulled from.
    pub fn readable(&self) -> bool {
        self.perm & perm::READ != 0
    }

    /// Whether unknown topics may be created from it.
    pub fn inheritable(&self) -> bool {
        self.perm & perm::INHERIT != 0
    }

    /// Checks ranges.
    ///
    /// # Errors
    /// [`SettingsError`] naming the setting.
    pub fn check(&self) -> Result<(), SettingsError> {
        let most = i64::from(QUEUES_PER_TOPIC_MAX);
        in_range("readQueueNums", i64::from(self.read_queues), 0, most)?;
        in_range("writeQueueNums", i64::from(self.write_queues), 0, most)?;
        in_range("readQueueNums and writeQueueNums", i64::from(self.queues()), 1, most)?;
        in_range("perm", i64::from(self.perm), 0, i64::from(perm::ALL))?;
        check_attributes(&self.attributes)
    }
}

impl GroupSettings {
    /// What a group gets that nobody configured.
    pub fn standard() -> Self {
        GroupSettings {
            consume_enable: true,
            consume_from_min_enable: true,
            consume_broadcast_enable: true,
            consume_message_orderly: false,
            retry_queues: 1,
            retry_max_times: 16,
            retry_policy: String::new(),
            broker_id: 0,
            which_broker_when_consume_slowly: 1,
            notify_consumer_ids_changed: true,
            sys_flag: 0,
            consume_timeout_minutes: 15,
            attributes: BTreeMap::new(),
        }
    }

    /// Checks ranges.
    ///
    /// # Errors
    /// [`SettingsError`] naming the setting.
    pub fn check(&self) -> Result<(), SettingsError> {
        in_range("retryQueueNums", i64::from(self.retry_queues), 0, i64::from(QUEUES_PER_TOPIC_MAX))?;
        in_range("groupRetryPolicy (bytes)", self.retry_policy.len() as i64, 0, RETRY_POLICY_LEN_MAX as i64)?;
        check_attributes(&self.attributes)
    }
}

fn check_attributes(attributes: &BTreeMap<String, String>) -> Result<(), SettingsError> {
    let fits = |(name, value): (&String, &String)| {
        (1..=ATTRIBUTE_NAME_LEN_MAX).contains(&name.len()) && value.len() <= ATTRIBUTE_VALUE_LEN_MAX
    };
    if attributes.len() <= ATTRIBUTES_MAX && attributes.iter().all(fits) {
        Ok(())
    } else {
        Err(SettingsError::Attributes)
    }
}

fn in_range(setting: &'static str, value: i64, min: i64, max: i64) -> Result<(), SettingsError> {
    if (min..=max).contains(&value) { Ok(()) } else { Err(SettingsError::Range { setting, value, min, max }) }
}

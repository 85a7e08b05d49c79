//! PULL_MESSAGE, LITE_PULL_MESSAGE, their answer, and reads of single messages.

use super::headers;

/// Bit of [`PullMessage::sys_flag`]: `commit_offset` is to be committed.
pub const FLAG_COMMIT_OFFSET: i32 = 0x1;
/// Bit of [`PullMessage::sys_flag`]: wait for a message when there is none.
pub const FLAG_SUSPEND: i32 = 0x2;
/// Bit of [`PullMessage::sys_flag`]: the subscription is in the header, not the one of the heartbeat.
pub const FLAG_SUBSCRIPTION: i32 = 0x4;
/// Bit of [`PullMessage::sys_flag`]: class filter (obsolete, ignored).
pub const FLAG_CLASS_FILTER: i32 = 0x8;
/// Bit of [`PullMessage::sys_flag`]: lite pull.
pub const FLAG_LITE_PULL: i32 = 0x10;

headers! {
    /// A pull of messages from one queue.
    PullMessage {
        /// Consumer group.
        consumer_group: String = "consumerGroup",
        /// Topic.
        topic: String = "topic",
        /// Queue.
        queue_id: i32 = "queueId",
        /// First message wanted.
        queue_offset: i64 = "queueOffset",
        /// Most messages wanted.
        max_msg_nums: i32 = "maxMsgNums",
        /// The FLAG_ bits of this module.
        sys_flag: i32 = "sysFlag",
        /// The group's offset, valid with [`FLAG_COMMIT_OFFSET`].
        commit_offset: i64 = "commitOffset",
        /// How long to wait with [`FLAG_SUSPEND`], ms.
        suspend_timeout_ms: i64 = "suspendTimeoutMillis",
        /// The expression, valid with [`FLAG_SUBSCRIPTION`].
        subscription: Option<String> = "subscription",
        /// Version of the subscription (the client's clock).
        sub_version: i64 = "subVersion",
        /// "TAG" or "SQL92"; absent means TAG.
        expression_type: Option<String> = "expressionType",
        /// Most bytes wanted; the reference ignores it.
        max_msg_bytes: Option<i32> = "maxMsgBytes",
    }

    /// The answer to a pull. All four offsets must be there on codes 0, 19, 20 and 21.
    PullMessageResponse {
        /// Broker id to ask next time (0 = the leader).
        suggest_which_broker_id: i64 = "suggestWhichBrokerId",
        /// Where to go on.
        next_begin_offset: i64 = "nextBeginOffset",
        /// First offset of the queue.
        min_offset: i64 = "minOffset",
        /// Next offset to be written. A hint.
        max_offset: i64 = "maxOffset",
        /// Flag of the topic.
        topic_sys_flag: Option<i32> = "topicSysFlag",
        /// Flag of the group.
        group_sys_flag: Option<i32> = "groupSysFlag",
    }

    /// VIEW_MESSAGE_BY_ID: read one message by its place in the CommitLog.
    ViewMessage {
        /// Physical offset.
        physical_offset: i64 = "offset",
        /// Topic, from 5.x clients.
        topic: Option<String> = "topic",
    }

    /// QUERY_MESSAGE: find messages by key.
    QueryMessage {
        /// Topic.
        topic: String = "topic",
        /// Key or unique key.
        key: String = "key",
        /// Most messages wanted.
        max_num: i32 = "maxNum",
        /// First store time, ms.
        begin_timestamp_ms: i64 = "beginTimestamp",
        /// Last store time, ms.
        end_timestamp_ms: i64 = "endTimestamp",
        /// Whether `key` is a unique key.
        by_unique_key: Option<bool> = "_UNIQUE_KEY_QUERY",
        /// One of [`index_type`], from 5.4 clients.
        index_type: Option<String> = "indexType",
        /// Where an earlier answer ended, from 5.4 clients.
        last_key: Option<String> = "lastKey",
    }

    /// The answer to QUERY_MESSAGE.
    QueryMessageResponse {
        /// Newest store time in the index, ms.
        index_last_update_timestamp_ms: i64 = "indexLastUpdateTimestamp",
        /// Newest physical offset in the index.
        index_last_update_physical_offset: i64 = "indexLastUpdatePhyoffset",
    }
}

/// Values of [`QueryMessage::index_type`].
pub mod index_type {
    /// A word of KEYS.
    pub const KEY: &str = "K";
    /// The unique key.
    pub const UNIQUE_KEY: &str = "U";
    /// The tag.
    pub const TAG: &str = "T";
}

/// What the remark of a pull answer says: clients log it.
pub mod status {
    /// Messages follow.
    pub const FOUND: &str = "FOUND";
    /// The offset is the next one to be written.
    pub const OFFSET_OVERFLOW_ONE: &str = "OFFSET_OVERFLOW_ONE";
    /// The offset lies beyond the queue.
    pub const OFFSET_OVERFLOW_BADLY: &str = "OFFSET_OVERFLOW_BADLY";
    /// The offset lies before the queue.
    pub const OFFSET_TOO_SMALL: &str = "OFFSET_TOO_SMALL";
    /// Nothing that was looked at matches the filter.
    pub const NO_MATCHED_MESSAGE: &str = "NO_MATCHED_MESSAGE";
    /// The queue is empty.
    pub const NO_MESSAGE_IN_QUEUE: &str = "NO_MESSAGE_IN_QUEUE";
    /// There is no such queue.
    pub const NO_MATCHED_LOGIC_QUEUE: &str = "NO_MATCHED_LOGIC_QUEUE";
    /// A reset by an operator.
    pub const OFFSET_RESET: &str = "OFFSET_RESET";
}

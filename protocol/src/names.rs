//! Names of topics and consumer groups: which are allowed, which the system keeps, and how retry and dead-letter topics are
//! called.
//!
//! Handlers check every name that a client sends before it becomes a key or a folder; a violation is answered with code 29 (13 on
//! the send path).

use thiserror::Error;

/// Longest name of an ordinary topic.
pub const MAX_TOPIC_LEN: usize = 127;
/// Longest name of a retry or dead-letter topic.
pub const MAX_RETRY_TOPIC_LEN: usize = 255;
/// Longest name of a group.
pub const MAX_GROUP_LEN: usize = 120;
/// Longest name of a producer group: clients derive some from other names.
pub const MAX_PRODUCER_GROUP_LEN: usize = 255;

/// Prefix of a group's retry topic.
pub const RETRY_PREFIX: &str = "%RETRY%";
/// Prefix of a group's dead-letter topic.
pub const DLQ_PREFIX: &str = "%DLQ%";
/// Prefix of the names that belong to the system.
pub const SYSTEM_PREFIX: &str = "rmq_sys_";

/// The template of automatically created topics: producers look up its route to find brokers for an unknown topic.
pub const AUTO_CREATE_TOPIC: &str = "TBW102";
/// Where the reference keeps delayed messages.
pub const SCHEDULE_TOPIC: &str = "SCHEDULE_TOPIC_XXXX";
/// Where delayed messages wait for their time, those with a level too.
pub const TIMER_TOPIC: &str = "rmq_sys_wheel_timer";
/// Where half messages are kept.
pub const HALF_TOPIC: &str = "RMQ_SYS_TRANS_HALF_TOPIC";
/// Marks of ended transactions.
pub const OP_HALF_TOPIC: &str = "RMQ_SYS_TRANS_OP_HALF_TOPIC";
/// Half messages that were checked too often.
pub const CHECK_MAX_TIME_TOPIC: &str = "TRANS_CHECK_MAX_TIME_TOPIC";
/// Message traces.
pub const TRACE_TOPIC: &str = "RMQ_SYS_TRACE_TOPIC";
/// The group that mqadmin's consumers use.
pub const TOOLS_CONSUMER_GROUP: &str = "TOOLS_CONSUMER";

/// Topics that belong to the system and that no client may create or delete. Topics named after a cluster or a broker are
/// further ones, which only the broker knows.
const SYSTEM_TOPICS: [&str; 10] = [
    AUTO_CREATE_TOPIC,
    SCHEDULE_TOPIC,
    "BenchmarkTest",
    HALF_TOPIC,
    OP_HALF_TOPIC,
    CHECK_MAX_TIME_TOPIC,
    TRACE_TOPIC,
    "SELF_TEST_TOPIC",
    "OFFSET_MOVED_EVENT",
    "CHECKPOINT_TOPIC",
];

/// System topics that clients may not send to (code 16).
const UNSENDABLE_TOPICS: [&str; 6] =
    [SCHEDULE_TOPIC, HALF_TOPIC, OP_HALF_TOPIC, CHECK_MAX_TIME_TOPIC, "SELF_TEST_TOPIC", "OFFSET_MOVED_EVENT"];

const SYSTEM_GROUPS: [&str; 6] = [
    TOOLS_CONSUMER_GROUP,
    "SCHEDULE_CONSUMER",
    "FILTERSRV_CONSUMER",
    "SELF_TEST_C_GROUP",
    "__MONITOR_CONSUMER",
    "CID_ONS-HTTP-PROXY",
];

/// Why a name is refused. The text goes into the answer's remark.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NameError {
    /// No name at all.
    #[error("{kind} name is empty")]
    Empty {
        /// "topic", "group" or "producer group".
        kind: &'static str,
    },
    /// Longer than allowed.
    #[error("{kind} name of {len} characters, the limit is {max}")]
    TooLong {
        /// "topic", "group" or "producer group".
        kind: &'static str,
        /// Its length.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// A character that no name may have.
    #[error("{kind} name contains {character:?}, allowed are letters, digits, '%', '|', '-' and '_'")]
    Character {
        /// "topic", "group" or "producer group".
        kind: &'static str,
        /// The first bad one.
        character: char,
    },
}

/// Checks a topic's name: `[%|a-zA-Z0-9_-]`, 1 to 127 of them, or up to 255 for retry and dead-letter topics.
///
/// # Errors
/// [`NameError`] saying what is wrong.
pub fn check_topic(topic: &str) -> Result<(), NameError> {
    let max = if is_retry_topic(topic) || is_dlq_topic(topic) { MAX_RETRY_TOPIC_LEN } else { MAX_TOPIC_LEN };
    check("topic", topic, max)
}

/// Checks a group's name: the characters of a topic, 1 to 120 of them.
///
/// # Errors
/// [`NameError`] saying what is wrong.
pub fn check_group(group: &str) -> Result<(), NameError> {
    check("group", group, MAX_GROUP_LEN)
}

/// Checks a producer group's name: the characters of a topic, 1 to 255 of them.
///
/// # Errors
/// [`NameError`] saying what is wrong.
pub fn check_producer_group(group: &str) -> Result<(), NameError> {
    check("producer group", group, MAX_PRODUCER_GROUP_LEN)
}

fn check(kind: &'static str, name: &str, max: usize) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Empty { kind });
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '%' | '|' | '-' | '_');
    if let Some(character) = name.chars().find(|c| !allowed(*c)) {
        return Err(NameError::Character { kind, character });
    }
    if name.len() > max {
        return Err(NameError::TooLong { kind, len: name.len(), max });
    }
    Ok(())
}

/// The retry topic of a group.
pub fn retry_topic(group: &str) -> String {
    format!("{RETRY_PREFIX}{group}")
}

/// The dead-letter topic of a group.
pub fn dlq_topic(group: &str) -> String {
    format!("{DLQ_PREFIX}{group}")
}

/// The topic to which request-reply consumers of a cluster answer.
pub fn reply_topic(cluster: &str) -> String {
    format!("{cluster}_REPLY_TOPIC")
}

/// Whether a topic is some group's retry topic.
pub fn is_retry_topic(topic: &str) -> bool {
    topic.starts_with(RETRY_PREFIX)
}

/// Whether a topic is some group's dead-letter topic.
pub fn is_dlq_topic(topic: &str) -> bool {
    topic.starts_with(DLQ_PREFIX)
}

/// The group that a retry topic belongs to.
pub fn retry_topic_group(topic: &str) -> Option<&str> {
    topic.strip_prefix(RETRY_PREFIX)
}

/// The group that a dead-letter topic belongs to.
pub fn dlq_topic_group(topic: &str) -> Option<&str> {
    topic.strip_prefix(DLQ_PREFIX)
}

/// Whether a topic belongs to the system by its name.
pub fn is_system_topic(topic: &str) -> bool {
    topic.starts_with(SYSTEM_PREFIX) || SYSTEM_TOPICS.contains(&topic)
}

/// Whether clients may send to a topic, as far as its name decides.
pub fn is_sendable_topic(topic: &str) -> bool {
    !UNSENDABLE_TOPICS.contains(&topic)
}

/// Whether a group belongs to the system.
pub fn is_system_group(group: &str) -> bool {
    group.starts_with("CID_RMQ_SYS_") || group.starts_with("CID_ONSAPI_") || SYSTEM_GROUPS.contains(&group)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names become keys and folders, so the limits are the first line of defence.
    #[test]
    fn limits_and_characters() {
        assert_eq!(check_topic("Topic-1_%|x"), Ok(()));
        assert_eq!(check_topic(&"t".repeat(127)), Ok(()));
        assert_eq!(check_topic(&"t".repeat(128)), Err(NameError::TooLong { kind: "topic", len: 128, max: 127 }));
        assert_eq!(check_topic(&format!("%RETRY%{}", "g".repeat(248))), Ok(()));
        assert!(check_topic(&format!("%DLQ%{}", "g".repeat(251))).is_err());
        assert_eq!(check_group(&"g".repeat(120)), Ok(()));
        assert!(check_group(&"g".repeat(121)).is_err());
        assert_eq!(check_producer_group(&"g".repeat(255)), Ok(()));
        assert!(check_producer_group(&"g".repeat(256)).is_err() && check_producer_group("").is_err());
        for bad in ["a/b", "..", "a b", "tópico", "a\u{0}"] {
            assert!(matches!(check_topic(bad), Err(NameError::Character { .. })), "{bad:?}");
        }
        assert_eq!(check_group(""), Err(NameError::Empty { kind: "group" }));
    }

    /// A client that could write to the system's topics could forge its state.
    #[test]
    fn system_names() {
        assert!(is_system_topic("TBW102") && is_sendable_topic("TBW102"));
        assert!(is_system_topic("rmq_sys_wheel_timer"));
        assert!(!is_sendable_topic(HALF_TOPIC) && !is_sendable_topic(SCHEDULE_TOPIC));
        assert!(!is_system_topic("%RETRY%g") && is_retry_topic(&retry_topic("g")));
        assert_eq!(retry_topic_group("%RETRY%g"), Some("g"));
        assert_eq!(dlq_topic_group(&dlq_topic("g")), Some("g"));
        assert!(is_system_group("CID_RMQ_SYS_TRANS") && !is_system_group("CG"));
    }
}

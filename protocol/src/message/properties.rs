//! The property string of a message: `name U+0001 value U+0002`, repeated.
//!
//! Producers build it, the broker reads single properties out of it (tags, keys, the unique key) without a map, and appends or
//! removes some before it stores the message. Unknown names pass verbatim.

use thiserror::Error;

pub use super::record::MAX_PROPERTIES_LEN;

/// Between name and value.
pub const NAME_VALUE_SEPARATOR: char = '\u{1}';
/// After each pair. The last one may be missing.
pub const PROPERTY_SEPARATOR: char = '\u{2}';

/// Names of the properties that this program reads or writes.
#[allow(missing_docs, reason = "the protocol's own names; their meaning is where they are used")]
pub mod name {
    pub const KEYS: &str = "KEYS";
    pub const TAGS: &str = "TAGS";
    pub const UNIQ_KEY: &str = "UNIQ_KEY";
    pub const WAIT: &str = "WAIT";
    pub const DELAY: &str = "DELAY";
    pub const TIMER_DELAY_SEC: &str = "TIMER_DELAY_SEC";
    pub const TIMER_DELAY_MS: &str = "TIMER_DELAY_MS";
    pub const TIMER_DELIVER_MS: &str = "TIMER_DELIVER_MS";
    pub const TIMER_OUT_MS: &str = "TIMER_OUT_MS";
    pub const TIMER_DEL_UNIQKEY: &str = "TIMER_DEL_UNIQKEY";
    pub const RETRY_TOPIC: &str = "RETRY_TOPIC";
    pub const REAL_TOPIC: &str = "REAL_TOPIC";
    pub const REAL_QID: &str = "REAL_QID";
    pub const TRAN_MSG: &str = "TRAN_MSG";
    pub const PGROUP: &str = "PGROUP";
    pub const TRANSACTION_CHECK_TIMES: &str = "TRANSACTION_CHECK_TIMES";
    pub const CHECK_IMMUNITY_TIME_IN_SECONDS: &str = "CHECK_IMMUNITY_TIME_IN_SECONDS";
    pub const TRANSACTION_ID: &str = "__transactionId__";
    pub const MIN_OFFSET: &str = "MIN_OFFSET";
    pub const MAX_OFFSET: &str = "MAX_OFFSET";
    pub const ORIGIN_MESSAGE_ID: &str = "ORIGIN_MESSAGE_ID";
    pub const RECONSUME_TIME: &str = "RECONSUME_TIME";
    pub const MAX_RECONSUME_TIMES: &str = "MAX_RECONSUME_TIMES";
    pub const POP_CK: &str = "POP_CK";
    pub const FIRST_POP_TIME: &str = "1ST_POP_TIME";
    pub const MSG_REGION: &str = "MSG_REGION";
    pub const TRACE_ON: &str = "TRACE_ON";
    pub const CLUSTER: &str = "CLUSTER";
    pub const CORRELATION_ID: &str = "CORRELATION_ID";
    pub const REPLY_TO_CLIENT: &str = "REPLY_TO_CLIENT";
    pub const MSG_TYPE: &str = "MSG_TYPE";
    pub const TTL: &str = "TTL";
    pub const PUSH_REPLY_TIME: &str = "PUSH_REPLY_TIME";
    pub const SHARDING_KEY: &str = "__SHARDINGKEY";
    pub const INSTANCE_ID: &str = "INSTANCE_ID";
    pub const DLQ_ORIGIN_TOPIC: &str = "DLQ_ORIGIN_TOPIC";
    pub const DLQ_ORIGIN_MESSAGE_ID: &str = "DLQ_ORIGIN_MESSAGE_ID";
    pub const ORIGIN_GROUP: &str = "ORIGIN_GROUP";
    pub const INNER_NUM: &str = "INNER_NUM";
    pub const INNER_BASE: &str = "INNER_BASE";
    pub const CRC32: &str = "__CRC32#";
}

/// Why a property cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PropertyError {
    /// A reader would not see a pair with an empty name.
    #[error("a property needs a name")]
    EmptyName,
    /// A reader would not see a pair with an empty value.
    #[error("a property needs a value")]
    EmptyValue,
    /// A separator inside name or value would end it early.
    #[error("a property's name and value must not contain U+0001 or U+0002")]
    Separator,
    /// The string would pass [`MAX_PROPERTIES_LEN`].
    #[error("properties of {0} bytes, the limit is {MAX_PROPERTIES_LEN}")]
    TooLong(usize),
}

/// The pairs in a property string, in its order, with those that readers ignore left out: without a separator, without a name,
/// or without a value. A value may contain U+0001, a name cannot.
pub fn iter(properties: &str) -> impl Iterator<Item = (&str, &str)> {
    properties.split(PROPERTY_SEPARATOR).filter_map(pair)
}

fn pair(segment: &str) -> Option<(&str, &str)> {
    let (name, value) = segment.split_once(NAME_VALUE_SEPARATOR)?;
    (!name.is_empty() && !value.is_empty()).then_some((name, value))
}

/// The value of `name`: of its last occurrence, as for the map that clients make of the string. Allocates nothing.
pub fn get<'a>(properties: &'a str, name: &str) -> Option<&'a str> {
    properties.rsplit(PROPERTY_SEPARATOR).filter_map(pair).find(|(known, _)| *known == name).map(|(_, value)| value)
}

/// Appends a pair to a property string, whether or not the name occurs in it already (the later one wins).
///
/// # Errors
/// [`PropertyError`] when readers could not get the pair back; the string is then unchanged.
pub fn push(properties: &mut String, name: &str, value: &str) -> Result<(), PropertyError> {
    if name.is_empty() {
        return Err(PropertyError::EmptyName);
    }
    if value.is_empty() {
        return Err(PropertyError::EmptyValue);
    }
    let separators = [NAME_VALUE_SEPARATOR, PROPERTY_SEPARATOR];
    if name.contains(separators) || value.contains(separators) {
        return Err(PropertyError::Separator);
    }
    let unended = !properties.is_empty() && !properties.ends_with(PROPERTY_SEPARATOR);
    let len = properties.len() + usize::from(unended) + name.len() + value.len() + 2;
    if len > MAX_PROPERTIES_LEN {
        return Err(PropertyError::TooLong(len));
    }
    properties.reserve(len - properties.len());
    if unended {
        properties.push(PROPERTY_SEPARATOR);
    }
    properties.push_str(name);
    properties.push(NAME_VALUE_SEPARATOR);
    properties.push_str(value);
    properties.push(PROPERTY_SEPARATOR);
    Ok(())
}

/// Removes every occurrence of `name` from a property string; returns whether there was one.
pub fn remove(properties: &mut String, name: &str) -> bool {
    let is_it = |segment: &str| segment.strip_prefix(name).is_some_and(|rest| rest.starts_with(NAME_VALUE_SEPARATOR));
    if !properties.split(PROPERTY_SEPARATOR).any(is_it) {
        return false;
    }
    *properties = properties.split_inclusive(PROPERTY_SEPARATOR).filter(|segment| !is_it(segment)).collect();
    true
}

/// Replaces all occurrences of `name` by one with `value`, at the end.
///
/// # Errors
/// As [`push`]; `name` is then absent.
pub fn set(properties: &mut String, name: &str, value: &str) -> Result<(), PropertyError> {
    remove(properties, name);
    push(properties, name, value)
}

/// The words of a KEYS value; each is indexed.
pub fn keys(value: &str) -> impl Iterator<Item = &str> {
    value.split(' ').filter(|key| !key.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rules of the official parser, with its own example: empty names and values are no pairs, the last end is optional.
    #[test]
    fn parses_as_the_official_library_does() {
        let odd = "A\u{1}\u{2}\u{1}B\u{2}C\u{1}D\u{2}E\u{1}F";
        assert_eq!(iter(odd).collect::<Vec<_>>(), [("C", "D"), ("E", "F")]);
        assert_eq!(get(odd, "A"), None);
        assert_eq!(get(odd, "E"), Some("F"));
        assert_eq!(get("a\u{1}1\u{2}a\u{1}2\u{2}", "a"), Some("2"));
        assert_eq!(get("a\u{1}1\u{1}2\u{2}", "a"), Some("1\u{1}2"));
        assert_eq!(get("", "a"), None);
    }

    /// The broker appends to strings of clients that leave out the last separator: the pairs must not run together.
    #[test]
    fn pushing_and_removing() {
        let mut properties = "a\u{1}1".to_owned();
        push(&mut properties, "b", "2").unwrap();
        assert_eq!(properties, "a\u{1}1\u{2}b\u{1}2\u{2}");
        set(&mut properties, "a", "3").unwrap();
        assert_eq!(properties, "b\u{1}2\u{2}a\u{1}3\u{2}");
        assert!(remove(&mut properties, "b") && !remove(&mut properties, "b"));
        assert_eq!(properties, "a\u{1}3\u{2}");
        assert_eq!(push(&mut properties, "x", "1\u{2}TRAN_MSG\u{1}true"), Err(PropertyError::Separator));
        assert_eq!(push(&mut properties, "x", ""), Err(PropertyError::EmptyValue));
        assert!(push(&mut properties, "x", &"y".repeat(MAX_PROPERTIES_LEN)).is_err());
        assert_eq!(properties, "a\u{1}3\u{2}");
    }
}

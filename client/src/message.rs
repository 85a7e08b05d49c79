//! Messages: as a caller builds them, and as a pull returns them.

use std::borrow::Cow;
use std::net::SocketAddr;

use bytes::Bytes;
use ledgermq_protocol::json::object_map::MessageQueue;
use ledgermq_protocol::message::id::offset_id;
use ledgermq_protocol::message::properties::{self, name};
use ledgermq_protocol::message::record::{DEFAULT_MAX_BODY_LEN, RecordRef};
use ledgermq_protocol::message::sys_flag;
use ledgermq_protocol::names;

use crate::error::MessageError;
use crate::unique_key::unique_key;
use crate::unpack::{UnpackError, unpack};

/// A message to be sent. Its unique key is made with it and kept through all retries, also those that a caller makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    topic: String,
    body: Bytes,
    flag: i32,
    tag: Option<String>,
    keys: Vec<String>,
    properties: Vec<(String, String)>,
    unique_key: String,
}

impl Message {
    /// A message with a body, which must not be empty when it is sent.
    pub fn new(topic: impl Into<String>, body: impl Into<Bytes>) -> Self {
        Self {
            topic: topic.into(),
            body: body.into(),
            flag: 0,
            tag: None,
            keys: Vec::new(),
            properties: Vec::new(),
            unique_key: unique_key(),
        }
    }

    /// Sets the tag, by which consumers filter.
    pub fn with_tag(mut self, tag: impl Into<String>) -> Self {
        self.tag = Some(tag.into());
        self
    }

    /// Adds a key, by which the message can be looked up. A key with blanks becomes several.
    pub fn with_key(mut self, key: impl Into<String>) -> Self {
        self.keys.push(key.into());
        self
    }

    /// Sets a property. Names that RocketMQ itself uses do what they mean there.
    pub fn with_property(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.properties.push((name.into(), value.into()));
        self
    }

    /// Sets the flag, 32 bits of the caller's own.
    pub fn with_flag(mut self, flag: i32) -> Self {
        self.flag = flag;
        self
    }

    /// The topic.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// The body.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The flag.
    pub fn flag(&self) -> i32 {
        self.flag
    }

    /// The unique key: the id by which consumers and tools know the message.
    pub fn unique_key(&self) -> &str {
        &self.unique_key
    }

    /// Checks what the broker would refuse and gives the property string.
    pub(crate) fn check(&self) -> Result<String, MessageError> {
        names::check_topic(&self.topic)?;
        if self.body.is_empty() {
            return Err(MessageError::EmptyBody);
        }
        check_len("body", self.body.len())?;
        let mut text = String::new();
        let mut push = |name: &str, value: &str| {
            properties::push(&mut text, name, value)
                .map_err(|error| MessageError::Property { name: name.to_owned(), error })
        };
        push(name::UNIQ_KEY, &self.unique_key)?;
        push(name::WAIT, "true")?;
        if let Some(tag) = &self.tag {
            push(name::TAGS, tag)?;
        }
        if !self.keys.is_empty() {
            push(name::KEYS, &self.keys.join(" "))?;
        }
        for (name, value) in &self.properties {
            push(name, value)?;
        }
        Ok(text)
    }
}

pub(crate) fn check_len(what: &'static str, len: usize) -> Result<(), MessageError> {
    if len > DEFAULT_MAX_BODY_LEN {
        return Err(MessageError::TooLong { what, len, max: DEFAULT_MAX_BODY_LEN });
    }
    Ok(())
}

/// A message that was pulled. Its body shares the memory of the whole answer; keep a copy if it is to live long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceivedMessage {
    topic: String,
    queue_id: i32,
    queue_offset: i64,
    physical_offset: i64,
    flag: i32,
    sys_flag: i32,
    born_timestamp_ms: i64,
    born_host: SocketAddr,
    store_timestamp_ms: i64,
    store_host: SocketAddr,
    reconsume_times: i32,
    stored_body: Bytes,
    properties: String,
}

impl ReceivedMessage {
    /// Of a record inside `answer`.
    pub(crate) fn new(record: &RecordRef<'_>, answer: &Bytes) -> Self {
        Self {
            topic: record.topic().to_owned(),
            queue_id: record.queue_id(),
            queue_offset: record.queue_offset(),
            physical_offset: record.physical_offset(),
            flag: record.flag(),
            sys_flag: record.sys_flag(),
            born_timestamp_ms: record.born_timestamp_ms(),
            born_host: record.born_host(),
            store_timestamp_ms: record.store_timestamp_ms(),
            store_host: record.store_host(),
            reconsume_times: record.reconsume_times(),
            stored_body: answer.slice_ref(record.body()),
            properties: record.properties().to_owned(),
        }
    }

    /// Shows a message of a retry topic under the topic that it was first sent to.
    pub(crate) fn under_first_topic(mut self) -> Self {
        if let Some(topic) = self.property(name::RETRY_TOPIC) {
            self.topic = topic.to_owned();
        }
        self
    }

    /// The same with a body of its own, which keeps no answer of a broker alive.
    pub(crate) fn detached(&self) -> Self {
        Self { stored_body: Bytes::copy_from_slice(&self.stored_body), ..self.clone() }
    }

    /// Bytes that it counts in a buffer.
    pub(crate) fn weight(&self) -> usize {
        size_of::<Self>() + self.topic.len() + self.properties.len() + self.stored_body.len()
    }

    /// The topic.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// The queue on `broker_name`, which a record does not name.
    pub fn queue(&self, broker_name: &str) -> MessageQueue {
        MessageQueue { broker_name: broker_name.to_owned(), queue_id: self.queue_id, topic: self.topic.clone() }
    }

    /// Queue of the topic.
    pub fn queue_id(&self) -> i32 {
        self.queue_id
    }

    /// Position in the queue.
    pub fn queue_offset(&self) -> i64 {
        self.queue_offset
    }

    /// Byte position in the CommitLog of its group.
    pub fn physical_offset(&self) -> i64 {
        self.physical_offset
    }

    /// The body, unpacked if its producer compressed it.
    ///
    /// # Errors
    /// [`UnpackError`]; [`Self::stored_body`] still has the bytes.
    pub fn body(&self) -> Result<Cow<'_, [u8]>, UnpackError> {
        match sys_flag::compression(self.sys_flag) {
            Ok(None) => Ok(Cow::Borrowed(&self.stored_body)),
            Ok(Some(compression)) => unpack(&self.stored_body, compression).map(Cow::Owned),
            Err(unknown) => Err(UnpackError::Unknown(unknown)),
        }
    }

    /// The body as stored, compressed or not.
    pub fn stored_body(&self) -> &Bytes {
        &self.stored_body
    }

    /// The id: its unique key, or the offset id of a message without one.
    pub fn id(&self) -> Cow<'_, str> {
        match self.property(name::UNIQ_KEY) {
            Some(key) => Cow::Borrowed(key),
            None => Cow::Owned(self.offset_id()),
        }
    }

    /// The id that leads to its record.
    pub fn offset_id(&self) -> String {
        offset_id(self.store_host, self.physical_offset)
    }

    /// The tag.
    pub fn tag(&self) -> Option<&str> {
        self.property(name::TAGS)
    }

    /// The keys.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.property(name::KEYS).into_iter().flat_map(properties::keys)
    }

    /// A property.
    pub fn property(&self, name: &str) -> Option<&str> {
        properties::get(&self.properties, name)
    }

    /// All properties, in no order that means anything.
    pub fn properties(&self) -> impl Iterator<Item = (&str, &str)> {
        properties::iter(&self.properties)
    }

    /// The producer's flag.
    pub fn flag(&self) -> i32 {
        self.flag
    }

    /// The bits of [`ledgermq_protocol::message::sys_flag`].
    pub fn sys_flag(&self) -> i32 {
        self.sys_flag
    }

    /// When the producer made it, ms since 1970, by the producer's clock.
    pub fn born_timestamp_ms(&self) -> i64 {
        self.born_timestamp_ms
    }

    /// The producer's address as the broker saw it.
    pub fn born_host(&self) -> SocketAddr {
        self.born_host
    }

    /// When the broker stored it, ms since 1970.
    pub fn store_timestamp_ms(&self) -> i64 {
        self.store_timestamp_ms
    }

    /// The address of the broker that stored it.
    pub fn store_host(&self) -> SocketAddr {
        self.store_host
    }

    /// How often consumers gave it back.
    pub fn reconsume_times(&self) -> i32 {
        self.reconsume_times
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the broker would refuse must fail before it is sent, naming what is wrong.
    #[test]
    fn bad_messages_are_told() {
        assert_eq!(Message::new("T", "").check(), Err(MessageError::EmptyBody));
        assert!(matches!(Message::new("bad topic", "x").check(), Err(MessageError::Topic(_))));
        assert!(matches!(Message::new("T", vec![0; (4 << 20) + 1]).check(), Err(MessageError::TooLong { .. })));
        let separator = Message::new("T", "x").with_property("a", "b\u{2}TRAN_MSG\u{1}true");
        assert!(matches!(separator.check(), Err(MessageError::Property { name, .. }) if name == "a"));
        let large = Message::new("T", "x").with_property("a", "y".repeat(40_000));
        assert!(matches!(large.check(), Err(MessageError::Property { .. })));
    }

    /// The key must survive retries by the caller too: it belongs to the message, not to the send.
    #[test]
    fn properties_carry_tag_keys_and_one_unique_key() {
        let message = Message::new("T", "x").with_tag("A").with_key("k1").with_key("k2").with_property("p", "1");
        let text = message.check().unwrap();
        assert_eq!(text, message.clone().check().unwrap());
        assert_eq!(properties::get(&text, "UNIQ_KEY"), Some(message.unique_key()));
        assert_eq!(properties::get(&text, "TAGS"), Some("A"));
        assert_eq!(properties::get(&text, "KEYS"), Some("k1 k2"));
        assert_eq!(properties::get(&text, "p"), Some("1"));
        assert_ne!(Message::new("T", "x").unique_key(), message.unique_key());
    }
}

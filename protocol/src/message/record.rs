//! The stored message record: what the CommitLog holds and what a pull answer concatenates. Big-endian.
//!
//! A send handler encodes a message once with [`encode`], its offsets and store time blank; the leader stamps those with
//! [`patch`]; from then on the bytes never change, and [`RecordRef`] reads them in place.
//!
//! ```text
//!   0  i32 total size (this field included)     20  i64 queue offset         40  i64 born time, ms
//!   4  i32 magic: V1 or V2                      28  i64 physical offset      48  born host: ip 4|16, i32 port
//!   8  i32 body CRC-32 & 0x7FFFFFFF             36  i32 system flag          56  i64 store time, ms     (68 if born host is v6)
//!  12  i32 queue id                                                          ..  store host: ip 4|16, i32 port
//!  16  i32 user flag                                                         ..  i32 reconsume times
//!                                                                            ..  i64 prepared transaction offset
//!                                                                            ..  i32 n, n bytes body
//!                                                                            ..  u8 (V1) | i16 (V2) n, n bytes topic
//!                                                                            ..  i16 n, n bytes properties
//! ```

use std::net::{IpAddr, SocketAddr};

use bytes::{BufMut, BytesMut};
use thiserror::Error;

use super::sys_flag;
use crate::remoting::frame;

/// Magic of a record with a 1-byte topic length.
pub const MAGIC_V1: u32 = 0xDAA3_20A7;
/// Magic of a record with a 2-byte topic length.
pub const MAGIC_V2: u32 = 0xDAA3_20AB;

/// Longest topic of a V1 record. Its length byte could say 255, but longer topics are written as V2, as Java brokers do.
pub const MAX_TOPIC_LEN_V1: usize = 127;
/// Longest topic of a record: `%RETRY%` and `%DLQ%` names; no name rule allows more.
pub const MAX_TOPIC_LEN: usize = 255;
/// Longest property string in bytes: the largest value of its 16-bit length.
pub const MAX_PROPERTIES_LEN: usize = i16::MAX as usize;
/// Longest body that clients may send by default (`maxMessageSize`); more is answered with code 13.
pub const DEFAULT_MAX_BODY_LEN: usize = 4 * 1024 * 1024;
/// Longest record that is encoded or decoded: with a header it must fit a frame on its way to a consumer.
pub const MAX_RECORD_LEN: usize = frame::DEFAULT_MAX_FRAME_LEN - frame::DEFAULT_MAX_HEADER_LEN;

/// Offset in the record of the total size, u32.
pub const TOTAL_SIZE_AT: usize = 0;
/// Offset in the record of the body's checksum, u32.
pub const BODY_CRC_AT: usize = 8;
/// Offset in the record of the queue id, i32.
pub const QUEUE_ID_AT: usize = 12;
/// Offset in the record of the queue offset, i64.
pub const QUEUE_OFFSET_AT: usize = 20;
/// Offset in the record of the physical offset, i64.
pub const PHYSICAL_OFFSET_AT: usize = 28;
/// Offset in the record of the system flag, i32.
pub const SYS_FLAG_AT: usize = 36;
/// Offset in the record of the born time, i64.
pub const BORN_TIMESTAMP_AT: usize = 40;
/// Offset in the record of the born host.
pub const BORN_HOST_AT: usize = 48;
/// Offset in the record of the store time, i64, when the born host is IPv4; 12 more when it is IPv6.
pub const STORE_TIMESTAMP_AT: usize = 56;

/// What an IPv6 host takes more than an IPv4 one.
const V6_EXTRA_LEN: usize = 12;
/// Size of a V1 record with IPv4 hosts and empty body, topic and properties.
const EMPTY_RECORD_LEN: usize = 91;

/// What goes into a record, apart from what the leader stamps.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    /// Topic, at most [`MAX_TOPIC_LEN`] bytes.
    pub topic: &'a str,
    /// Queue, already chosen.
    pub queue_id: i32,
    /// The user's flag, opaque.
    pub flag: i32,
    /// System flag. The two address bits are set by [`encode`] from the hosts, whatever they were.
    pub sys_flag: i32,
    /// When the producer made the message, ms since 1970, by its clock.
    pub born_timestamp_ms: i64,
    /// The producer's address as the broker saw it. An IPv4 address mapped into IPv6 is stored as IPv4.
    pub born_host: SocketAddr,
    /// The advertised address of the broker that stores the message.
    pub store_host: SocketAddr,
    /// How often the message was given back by consumers.
    pub reconsume_times: i32,
    /// Physical offset of the half message, for a committed transaction; else 0.
    pub prepared_transaction_offset: i64,
    /// The body as the producer sent it, compressed or not.
    pub body: &'a [u8],
    /// The property string ([`super::properties`]), at most [`MAX_PROPERTIES_LEN`] bytes.
    pub properties: &'a str,
}

/// Why a message does not fit a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum EncodeError {
    /// The topic is empty or longer than [`MAX_TOPIC_LEN`].
    #[error("topic of {0} bytes, must have 1 to {MAX_TOPIC_LEN}")]
    Topic(usize),
    /// The properties are longer than [`MAX_PROPERTIES_LEN`].
    #[error("properties of {0} bytes, the limit is {MAX_PROPERTIES_LEN}")]
    Properties(usize),
    /// The record would be longer than [`MAX_RECORD_LEN`].
    #[error("record of {0} bytes, the limit is {MAX_RECORD_LEN}")]
    Record(usize),
}

/// Size in bytes of the record of `message`.
///
/// # Errors
/// [`EncodeError`] when the message does not fit a record.
pub fn encoded_len(message: &Message<'_>) -> Result<usize, EncodeError> {
    if message.topic.is_empty() || message.topic.len() > MAX_TOPIC_LEN {
        return Err(EncodeError::Topic(message.topic.len()));
    }
    if message.properties.len() > MAX_PROPERTIES_LEN {
        return Err(EncodeError::Properties(message.properties.len()));
    }
    let v2 = usize::from(message.topic.len() > MAX_TOPIC_LEN_V1);
    let hosts = usize::from(is_v6(message.born_host)) + usize::from(is_v6(message.store_host));
    let fixed = EMPTY_RECORD_LEN + v2 + hosts * V6_EXTRA_LEN;
    let len = (fixed + message.topic.len() + message.properties.len()).saturating_add(message.body.len());
    if len > MAX_RECORD_LEN {
        return Err(EncodeError::Record(len));
    }
    Ok(len)
}

/// Appends the record of `message` to `dst`, with queue offset, physical offset and store time zero, and returns its size.
/// V2 is written only for a topic longer than [`MAX_TOPIC_LEN_V1`], since the Go client cannot read it.
///
/// # Errors
/// [`EncodeError`] when the message does not fit a record; `dst` is then unchanged.
pub fn encode(message: &Message<'_>, dst: &mut BytesMut) -> Result<usize, EncodeError> {
    encode_with_crc(message, body_crc(message.body), dst)
}

/// As [`encode`], with the body's checksum from [`body_crc`] given, for a caller that has it already.
///
/// # Errors
/// As [`encode`].
pub fn encode_with_crc(message: &Message<'_>, body_crc: u32, dst: &mut BytesMut) -> Result<usize, EncodeError> {
    let len = encoded_len(message)?;
    let start = dst.len();
    let v2 = message.topic.len() > MAX_TOPIC_LEN_V1;
    dst.reserve(len);
    dst.put_u32(len as u32);
    dst.put_u32(if v2 { MAGIC_V2 } else { MAGIC_V1 });
    dst.put_u32(body_crc);
    dst.put_i32(message.queue_id);
    dst.put_i32(message.flag);
    dst.put_i64(0);
    dst.put_i64(0);
    dst.put_i32(sys_flag_with_hosts(message));
    dst.put_i64(message.born_timestamp_ms);
    put_host(message.born_host, dst);
    dst.put_i64(0);
    put_host(message.store_host, dst);
    dst.put_i32(message.reconsume_times);
    dst.put_i64(message.prepared_transaction_offset);
    dst.put_u32(message.body.len() as u32);
    dst.put_slice(message.body);
    if v2 {
        dst.put_u16(message.topic.len() as u16);
    } else {
        dst.put_u8(message.topic.len() as u8);
    }
    dst.put_slice(message.topic.as_bytes());
    dst.put_u16(message.properties.len() as u16);
    dst.put_slice(message.properties.as_bytes());
    assert_eq!(dst.len() - start, len, "a record is as long as its total size says");
    Ok(len)
}

/// Stamps an encoded record with what only the leader knows: at bytes 20, 28 and 56 (68 after an IPv6 born host).
///
/// # Panics
/// If `record` does not start with a record that [`encode`] made.
pub fn patch(record: &mut [u8], queue_offset: i64, physical_offset: i64, store_timestamp_ms: i64) {
    let v6 = i32::from_be_bytes(array_at(record, SYS_FLAG_AT)) & sys_flag::BORN_HOST_V6 != 0;
    let store_timestamp_at = STORE_TIMESTAMP_AT + if v6 { V6_EXTRA_LEN } else { 0 };
    record[QUEUE_OFFSET_AT..QUEUE_OFFSET_AT + 8].copy_from_slice(&queue_offset.to_be_bytes());
    record[PHYSICAL_OFFSET_AT..PHYSICAL_OFFSET_AT + 8].copy_from_slice(&physical_offset.to_be_bytes());
    record[store_timestamp_at..store_timestamp_at + 8].copy_from_slice(&store_timestamp_ms.to_be_bytes());
}

/// The checksum of a body as stored: CRC-32 (IEEE) without its top bit.
pub fn body_crc(body: &[u8]) -> u32 {
    crc32fast::hash(body) & 0x7FFF_FFFF
}

fn sys_flag_with_hosts(message: &Message<'_>) -> i32 {
    let mut flag = message.sys_flag & !(sys_flag::BORN_HOST_V6 | sys_flag::STORE_HOST_V6);
    if is_v6(message.born_host) {
        flag |= sys_flag::BORN_HOST_V6;
    }
    if is_v6(message.store_host) {
        flag |= sys_flag::STORE_HOST_V6;
    }
    flag
}

fn is_v6(host: SocketAddr) -> bool {
    host.ip().to_canonical().is_ipv6()
}

fn put_host(host: SocketAddr, dst: &mut BytesMut) {
    match host.ip().to_canonical() {
        IpAddr::V4(ip) => dst.put_slice(&ip.octets()),
        IpAddr::V6(ip) => dst.put_slice(&ip.octets()),
    }
    dst.put_i32(i32::from(host.port()));
}

/// Why bytes are no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// Fewer bytes than the record says it has, or than any record has.
    #[error("record cut short: {have} bytes of {need}")]
    Truncated {
        /// Bytes at hand.
        have: usize,
        /// Bytes needed.
        need: usize,
    },
    /// The total size is below the smallest or above the largest record.
    #[error("record size {0} is out of range")]
    Size(u32),
    /// The magic is none of a record.
    #[error("no record magic: {0:#010x}")]
    Magic(u32),
    /// A length inside the record is negative or leads past its end, or the parts do not fill it exactly.
    #[error("{part} does not fit its record")]
    Part {
        /// Which part.
        part: &'static str,
    },
    /// A text is not UTF-8.
    #[error("{part} is not UTF-8")]
    NotUtf8 {
        /// Which part.
        part: &'static str,
    },
}

/// A record, read in place. Its lengths and texts were checked; the body's checksum was not ([`RecordRef::body_is_intact`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordRef<'a> {
    bytes: &'a [u8],
    store_timestamp_at: usize,
    reconsume_times_at: usize,
    body: &'a [u8],
    topic: &'a str,
    properties: &'a str,
}

impl<'a> RecordRef<'a> {
    /// Reads the record at the front of `bytes`, which may go on after it.
    ///
    /// # Errors
    /// [`DecodeError`] naming the first part that is wrong.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let Some(fixed) = bytes.first_chunk::<BORN_HOST_AT>() else {
            return Err(DecodeError::Truncated { have: bytes.len(), need: EMPTY_RECORD_LEN });
        };
        let size = u32::from_be_bytes(array_at(fixed, TOTAL_SIZE_AT));
        let magic = u32::from_be_bytes(array_at(fixed, 4));
        if magic != MAGIC_V1 && magic != MAGIC_V2 {
            return Err(DecodeError::Magic(magic));
        }
        let len = size as usize;
        if !(EMPTY_RECORD_LEN..=MAX_RECORD_LEN).contains(&len) {
            return Err(DecodeError::Size(size));
        }
        let Some(bytes) = bytes.get(..len) else {
            return Err(DecodeError::Truncated { have: bytes.len(), need: len });
        };
        let sys_flag = i32::from_be_bytes(array_at(fixed, SYS_FLAG_AT));
        let host_len = |v6: i32| if sys_flag & v6 != 0 { 8 + V6_EXTRA_LEN } else { 8 };
        let store_timestamp_at = BORN_HOST_AT + host_len(sys_flag::BORN_HOST_V6);
        let reconsume_times_at = store_timestamp_at + 8 + host_len(sys_flag::STORE_HOST_V6);

        let mut rest = bytes.get(reconsume_times_at + 12..).ok_or(DecodeError::Part { part: "the fixed part" })?;
        let body = take_sized::<4>(&mut rest, "the body")?;
        let topic = if magic == MAGIC_V1 {
            take_sized::<1>(&mut rest, "the topic")?
        } else {
            take_sized::<2>(&mut rest, "the topic")?
        };
        let properties = take_sized::<2>(&mut rest, "the properties")?;
        if !rest.is_empty() {
            return Err(DecodeError::Part { part: "what follows the properties" });
        }
        if topic.len() > MAX_TOPIC_LEN {
            return Err(DecodeError::Part { part: "the topic" });
        }
        if properties.len() > MAX_PROPERTIES_LEN {
            return Err(DecodeError::Part { part: "the properties" });
        }
        let topic = std::str::from_utf8(topic).map_err(|_| DecodeError::NotUtf8 { part: "the topic" })?;
        let properties =
            std::str::from_utf8(properties).map_err(|_| DecodeError::NotUtf8 { part: "the properties" })?;
        Ok(Self { bytes, store_timestamp_at, reconsume_times_at, body, topic, properties })
    }

    /// The record's bytes, exactly.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Size of the record in bytes.
    #[allow(clippy::len_without_is_empty, reason = "no record is empty")]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether the topic's length takes two bytes (V2).
    pub fn is_v2(&self) -> bool {
        self.bytes[4..8] == MAGIC_V2.to_be_bytes()
    }

    /// The body's checksum as stored.
    pub fn stored_body_crc(&self) -> u32 {
        u32::from_be_bytes(array_at(self.bytes, BODY_CRC_AT))
    }

    /// Whether the body matches its checksum.
    pub fn body_is_intact(&self) -> bool {
        self.stored_body_crc() == body_crc(self.body)
    }

    /// Queue of the topic.
    pub fn queue_id(&self) -> i32 {
        self.i32_at(QUEUE_ID_AT)
    }

    /// The user's flag.
    pub fn flag(&self) -> i32 {
        self.i32_at(16)
    }

    /// Position in the queue.
    pub fn queue_offset(&self) -> i64 {
        self.i64_at(QUEUE_OFFSET_AT)
    }

    /// Byte position in the CommitLog.
    pub fn physical_offset(&self) -> i64 {
        self.i64_at(PHYSICAL_OFFSET_AT)
    }

    /// System flag, see [`super::sys_flag`].
    pub fn sys_flag(&self) -> i32 {
        self.i32_at(SYS_FLAG_AT)
    }

    /// When the producer made the message, ms since 1970.
    pub fn born_timestamp_ms(&self) -> i64 {
        self.i64_at(BORN_TIMESTAMP_AT)
    }

    /// The producer's address.
    pub fn born_host(&self) -> SocketAddr {
        self.host_at(BORN_HOST_AT, self.sys_flag() & sys_flag::BORN_HOST_V6 != 0)
    }

    /// When the leader stored the message, ms since 1970.
    pub fn store_timestamp_ms(&self) -> i64 {
        self.i64_at(self.store_timestamp_at)
    }

    /// The address of the broker that stored the message.
    pub fn store_host(&self) -> SocketAddr {
        self.host_at(self.store_timestamp_at + 8, self.sys_flag() & sys_flag::STORE_HOST_V6 != 0)
    }

    /// How often consumers gave the message back.
    pub fn reconsume_times(&self) -> i32 {
        self.i32_at(self.reconsume_times_at)
    }

    /// Physical offset of the half message of a committed transaction, else 0.
    pub fn prepared_transaction_offset(&self) -> i64 {
        self.i64_at(self.reconsume_times_at + 4)
    }

    /// The body as sent, compressed or not.
    pub fn body(&self) -> &'a [u8] {
        self.body
    }

    /// The topic.
    pub fn topic(&self) -> &'a str {
        self.topic
    }

    /// The property string.
    pub fn properties(&self) -> &'a str {
        self.properties
    }

    fn i32_at(&self, at: usize) -> i32 {
        i32::from_be_bytes(array_at(self.bytes, at))
    }

    fn i64_at(&self, at: usize) -> i64 {
        i64::from_be_bytes(array_at(self.bytes, at))
    }

    fn host_at(&self, at: usize, v6: bool) -> SocketAddr {
        let (ip, port_at) = if v6 {
            (IpAddr::from(array_at::<16>(self.bytes, at)), at + 16)
        } else {
            (IpAddr::from(array_at::<4>(self.bytes, at)), at + 4)
        };
        // The port takes 32 bits on the wire; only 16 of them can be meant.
        SocketAddr::new(ip, self.i32_at(port_at) as u16)
    }
}

/// Walks over concatenated records, as in the body of a pull answer. Ends after the first error.
#[derive(Debug, Clone)]
pub struct Records<'a> {
    rest: &'a [u8],
}

impl<'a> Records<'a> {
    /// Over the records in `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<RecordRef<'a>, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let decoded = RecordRef::decode(self.rest);
        self.rest = match &decoded {
            Ok(record) => &self.rest[record.len()..],
            Err(_) => &[],
        };
        Some(decoded)
    }
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    *bytes[at..].first_chunk().expect("fixed fields lie inside a record whose length was checked")
}

/// Takes a text with a big-endian length of `N` bytes before it. A length with its top bit set is negative in the protocol, and
/// then as a matter of course larger than the rest.
fn take_sized<'a, const N: usize>(rest: &mut &'a [u8], part: &'static str) -> Result<&'a [u8], DecodeError> {
    let (len, after) = rest.split_first_chunk::<N>().ok_or(DecodeError::Part { part })?;
    let len = len.iter().fold(0usize, |len, byte| len << 8 | usize::from(*byte));
    let (text, left) = after.split_at_checked(len).ok_or(DecodeError::Part { part })?;
    *rest = left;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(topic: &str) -> Message<'_> {
        let host = SocketAddr::from(([127, 0, 0, 1], 10911));
        Message {
            topic,
            queue_id: 0,
            flag: 0,
            sys_flag: 0,
            born_timestamp_ms: 0,
            born_host: host,
            store_host: host,
            reconsume_times: 0,
            prepared_transaction_offset: 0,
            body: b"body",
            properties: "a\u{1}b\u{2}",
        }
    }

    /// A length that is taken on trust reads past the record, or makes two readers see different messages.
    #[test]
    fn every_length_is_checked() {
        let mut good = BytesMut::new();
        let len = encode(&message("topic"), &mut good).unwrap();
        assert_eq!(len, 91 + 4 + 5 + 4);
        let (body_len_at, topic_len_at, properties_len_at) = (84, 92, 98);
        for (at, value, error) in [
            (4, 0, DecodeError::Magic(0x00A3_20A7)),
            (3, 90, DecodeError::Size(90)),
            (3, 200, DecodeError::Truncated { have: len, need: 200 }),
            (0, 0x80, DecodeError::Size(0x8000_0000 + len as u32)),
            (body_len_at + 3, 200, DecodeError::Part { part: "the body" }),
            (body_len_at, 0x80, DecodeError::Part { part: "the body" }),
            (topic_len_at, 100, DecodeError::Part { part: "the topic" }),
            (properties_len_at + 1, 3, DecodeError::Part { part: "what follows the properties" }),
            (properties_len_at + 1, 5, DecodeError::Part { part: "the properties" }),
            (properties_len_at, 0x80, DecodeError::Part { part: "the properties" }),
            (topic_len_at + 1, 0xFF, DecodeError::NotUtf8 { part: "the topic" }),
            (len - 1, 0xFF, DecodeError::NotUtf8 { part: "the properties" }),
        ] {
            let mut bad = good.clone();
            bad[at] = value;
            assert_eq!(RecordRef::decode(&bad), Err(error), "byte {at} = {value}");
        }
        for cut in 0..len {
            assert!(matches!(RecordRef::decode(&good[..cut]), Err(DecodeError::Truncated { .. })), "cut at {cut}");
        }
    }

    /// What does not fit a record must be refused before it is written.
    #[test]
    fn limits_of_a_message() {
        let long = "t".repeat(256);
        assert_eq!(encoded_len(&message(&long)), Err(EncodeError::Topic(256)));
        assert_eq!(encoded_len(&message("")), Err(EncodeError::Topic(0)));
        assert_eq!(encoded_len(&message(&long[..127])), Ok(91 + 4 + 127 + 4));
        assert_eq!(encoded_len(&message(&long[..128])), Ok(92 + 4 + 128 + 4));
        let properties = "p".repeat(MAX_PROPERTIES_LEN + 1);
        let mut dst = BytesMut::from(&b"kept"[..]);
        let too_long = Message { properties: &properties, ..message("t") };
        assert_eq!(encode(&too_long, &mut dst), Err(EncodeError::Properties(MAX_PROPERTIES_LEN + 1)));
        let body = vec![0; MAX_RECORD_LEN];
        let too_long = Message { body: &body, ..message("t") };
        assert_eq!(encode(&too_long, &mut dst), Err(EncodeError::Record(MAX_RECORD_LEN + 91 + 1 + 4)));
        assert_eq!(dst, b"kept"[..]);
    }
}

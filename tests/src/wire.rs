//! A Remoting client of a hundred lines, of its own on purpose: the tests must not believe the product's codec about what
//! the product sent. Blocking, one request at a time, JSON headers.
//!
//! ```text
//! load, drain, cluster (routes), bad input --> Connection --> broker or name server
//! ```

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value, json};

/// Request codes used by the tests.
pub mod code {
    /// SEND_MESSAGE_V2.
    pub const SEND_V2: i32 = 310;
    /// SEND_BATCH_MESSAGE.
    pub const SEND_BATCH: i32 = 320;
    /// PULL_MESSAGE.
    pub const PULL: i32 = 11;
    /// QUERY_MESSAGE.
    pub const QUERY_MESSAGE: i32 = 12;
    /// SEARCH_OFFSET_BY_TIMESTAMP.
    pub const SEARCH_OFFSET: i32 = 29;
    /// VIEW_MESSAGE_BY_ID.
    pub const VIEW_MESSAGE: i32 = 33;
    /// GET_MAX_OFFSET.
    pub const MAX_OFFSET: i32 = 30;
    /// GET_MIN_OFFSET.
    pub const MIN_OFFSET: i32 = 31;
    /// HEART_BEAT.
    pub const HEART_BEAT: i32 = 34;
    /// UPDATE_AND_CREATE_TOPIC.
    pub const CREATE_TOPIC: i32 = 17;
    /// GET_CONSUMER_CONNECTION_LIST.
    pub const CONSUMER_CONNECTIONS: i32 = 203;
    /// GET_ROUTEINFO_BY_TOPIC, at the name server.
    pub const ROUTE: i32 = 105;
    /// GET_BROKER_CLUSTER_INFO, at the name server.
    pub const CLUSTER_INFO: i32 = 106;
}

/// Longest answer that is read: the frame limit of RocketMQ.
const FRAME_MAX: usize = 16 << 20;

/// Longest wait for any single answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// An answer, or a request that the server pushed.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Response code, or the request code of a push.
    pub code: i32,
    /// Number of the request that it answers.
    pub opaque: i32,
    /// Bit 0: response; bit 1: one-way.
    pub flag: i32,
    /// The server's words.
    pub remark: String,
    /// Header fields.
    pub fields: Map<String, Value>,
    /// Body.
    pub body: Vec<u8>,
}

impl Answer {
    /// A header field as a number.
    pub fn number(&self, name: &str) -> Result<i64> {
        let text = self.fields.get(name).and_then(Value::as_str);
        let text = text.with_context(|| format!("the answer (code {}) has no field {name}: {self:?}", self.code))?;
        text.parse().with_context(|| format!("field {name} is no number: {text}"))
    }

    /// Fails unless the code is SUCCESS.
    pub fn success(self, what: &str) -> Result<Answer> {
        ensure!(self.code == 0, "{what}: code {}, {}", self.code, self.remark);
        Ok(self)
    }
}

/// A whole request frame with a JSON header.
pub fn frame(code: i32, opaque: i32, fields: &[(&str, String)], body: &[u8]) -> Vec<u8> {
    let fields: Map<String, Value> = fields.iter().map(|(k, v)| ((*k).to_owned(), Value::from(v.as_str()))).collect();
    let header = json!({"code": code, "language": "OTHER", "version": 493, "opaque": opaque, "flag": 0,
        "serializeTypeCurrentRPC": "JSON", "extFields": fields});
    frame_of(header.to_string().as_bytes(), body)
}

/// A frame of the given header bytes, announced as JSON.
pub fn frame_of(header: &[u8], body: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(8 + header.len() + body.len());
    frame.extend_from_slice(&((4 + header.len() + body.len()) as u32).to_be_bytes());
    frame.extend_from_slice(&(header.len() as u32).to_be_bytes());
    frame.extend_from_slice(header);
    frame.extend_from_slice(body);
    frame
}

/// One connection.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    next_opaque: i32,
    peer: String,
}

impl Connection {
    /// The address that was connected to.
    pub fn address(&self) -> &str {
        &self.peer
    }

    /// Connects to `host:port`.
    pub fn open(address: &str) -> Result<Connection> {
        let parsed: SocketAddr = address.parse().with_context(|| format!("not an address: {address}"))?;
        let stream = TcpStream::connect_timeout(&parsed, Duration::from_secs(1))
            .with_context(|| format!("no one at {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
        Ok(Connection { stream, next_opaque: 1, peer: address.to_owned() })
    }

    /// Sends a request and waits for its answer.
    pub fn call(&mut self, code: i32, fields: &[(&str, String)], body: &[u8]) -> Result<Answer> {
        let opaque = self.next_opaque;
        self.next_opaque += 1;
        self.write(&frame(code, opaque, fields, body))?;
        self.answer_to(opaque)
    }

    /// Writes raw bytes.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).with_context(|| format!("cannot write to {}", self.peer))
    }

    /// Waits for the answer numbered `opaque`, passing over pushes.
    pub fn answer_to(&mut self, opaque: i32) -> Result<Answer> {
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        while Instant::now() < deadline {
            let answer = self.read()?.with_context(|| format!("{} closed the connection", self.peer))?;
            if answer.flag & 1 == 1 && answer.opaque == opaque {
                return Ok(answer);
            }
        }
        bail!("{} did not answer within {ANSWER_TIMEOUT:?}", self.peer)
    }

    /// The next frame, or `None` when the server closed the connection.
    pub fn read(&mut self) -> Result<Option<Answer>> {
        let mut length = [0; 4];
        match self.stream.read_exact(&mut length) {
            Ok(()) => {}
            Err(e) if matches!(e.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => return Ok(None),
            Err(e) => return Err(e).with_context(|| format!("no answer from {}", self.peer)),
        }
        let length = u32::from_be_bytes(length) as usize;
        ensure!((4..=FRAME_MAX).contains(&length), "{} sent a frame of {length} bytes", self.peer);
        let mut frame = vec![0; length];
        self.stream.read_exact(&mut frame).with_context(|| format!("half an answer from {}", self.peer))?;
        let header_length = (u32::from_be_bytes([0, frame[1], frame[2], frame[3]])) as usize;
        ensure!(4 + header_length <= length, "{} sent a header longer than its frame", self.peer);
        let (header, body) = frame[4..].split_at(header_length);
        if frame[0] == 1 {
            return binary_answer(header, body).map(Some);
        }
        ensure!(frame[0] == 0, "{} answered with the unknown header encoding {}", self.peer, frame[0]);
        let header: Value = serde_json::from_slice(header).context("the answer's header is no JSON")?;
        let int = |name: &str| header.get(name).and_then(Value::as_i64).unwrap_or_default() as i32;
        Ok(Some(Answer {
            code: int("code"),
            opaque: int("opaque"),
            flag: int("flag"),
            remark: header.get("remark").and_then(Value::as_str).unwrap_or_default().to_owned(),
            fields: header.get("extFields").and_then(Value::as_object).cloned().unwrap_or_default(),
            body: body.to_vec(),
        }))
    }

    /// The stream itself, for tests that write broken bytes.
    pub fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }
}

/// An answer with a binary header: all but its fields, which no test looks at.
fn binary_answer(header: &[u8], body: &[u8]) -> Result<Answer> {
    let mut at = Cursor { bytes: header, at: 0 };
    let code = i32::from(i16::from_be_bytes(at.take(2)?.try_into()?));
    at.skip(1 + 2)?;
    let (opaque, flag) = (at.u32()? as i32, at.u32()? as i32);
    let length = at.u32()? as usize;
    let remark = String::from_utf8(at.take(length)?.to_vec())?;
    Ok(Answer { code, opaque, flag, remark, fields: Map::new(), body: body.to_vec() })
}

/// Header fields of a SEND_MESSAGE_V2.
pub fn send_fields(group: &str, topic: &str, queue: i32, properties: &str) -> Vec<(&'static str, String)> {
    let now_ms = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_millis());
    vec![
        ("a", group.to_owned()),
        ("b", topic.to_owned()),
        ("c", "TBW102".to_owned()),
        ("d", "4".to_owned()),
        ("e", queue.to_string()),
        ("f", "0".to_owned()),
        ("g", now_ms.to_string()),
        ("h", "0".to_owned()),
        ("i", properties.to_owned()),
        ("j", "0".to_owned()),
        ("k", "false".to_owned()),
        ("m", "false".to_owned()),
    ]
}

/// What the tests look at in a stored message record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Queue.
    pub queue: i32,
    /// Queue offset.
    pub queue_offset: u64,
    /// Physical offset.
    pub physical_offset: u64,
    /// When the leader stored it, ms since 1970.
    pub store_ms: i64,
    /// Topic.
    pub topic: String,
    /// Body; its CRC was checked.
    pub body: Vec<u8>,
    /// Properties string.
    pub properties: String,
}

/// Takes a body of PULL apart into its records, checking sizes and CRCs (`wire/remoting-message.md` section 1).
pub fn records(mut bytes: &[u8]) -> Result<Vec<Record>> {
    const MAGIC_V1: u32 = 0xDAA3_20A7;
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let mut at = Cursor { bytes, at: 0 };
        let size = at.u32()? as usize;
        ensure!(size <= bytes.len(), "a record of {size} bytes in the last {} of an answer", bytes.len());
        ensure!(at.u32()? == MAGIC_V1, "a record with another magic code");
        let crc = at.u32()?;
        let queue = at.u32()? as i32;
        at.skip(4)?;
        let queue_offset = at.u64()?;
        let physical_offset = at.u64()?;
        let sys_flag = at.u32()?;
        at.skip(8)?;
        at.skip(if sys_flag & 0x10 == 0 { 8 } else { 20 })?;
        let store_ms = at.u64()? as i64;
        at.skip(if sys_flag & 0x20 == 0 { 8 } else { 20 })?;
        at.skip(4 + 8)?;
        let length = at.u32()? as usize;
        let body = at.take(length)?.to_vec();
        ensure!(crc32fast::hash(&body) & 0x7FFF_FFFF == crc, "the body at queue offset {queue_offset} has a bad CRC");
        let length = at.take(1)?[0] as usize;
        let topic = String::from_utf8(at.take(length)?.to_vec())?;
        let length = u16::from_be_bytes(at.take(2)?.try_into()?) as usize;
        let properties = String::from_utf8(at.take(length)?.to_vec())?;
        ensure!(at.at == size, "a record of {size} bytes whose fields take {}", at.at);
        records.push(Record { queue, queue_offset, physical_offset, store_ms, topic, body, properties });
        bytes = &bytes[size..];
    }
    Ok(records)
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        ensure!(length <= rest.len(), "a record that ends inside a field");
        self.at += length;
        Ok(&rest[..length])
    }

    fn skip(&mut self, length: usize) -> Result<()> {
        self.take(length).map(|_| ())
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_be_bytes(self.take(4)?.try_into()?))
    }

    fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_be_bytes(self.take(8)?.try_into()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The reader must agree with the official library about a record, and must not pass a damaged one.
    #[test]
    fn a_record_made_by_hand_is_read_and_a_flipped_bit_is_not() {
        let body = b"Hello RocketMQ";
        let mut record = Vec::new();
        for word in [0, 0xDAA3_20A7, 1_774_740_973, 3, 0] {
            record.extend_from_slice(&u32::to_be_bytes(word));
        }
        record.extend_from_slice(&7u64.to_be_bytes());
        record.extend_from_slice(&4096u64.to_be_bytes());
        record.extend_from_slice(&[0; 4 + 8 + 8 + 8 + 8 + 4 + 8]);
        record.extend_from_slice(&(body.len() as u32).to_be_bytes());
        record.extend_from_slice(body);
        record.extend_from_slice(b"\x01t\x00\x00");
        let size = record.len() as u32;
        record[..4].copy_from_slice(&size.to_be_bytes());
        let two = [record.clone(), record.clone()].concat();
        let read = records(&two).unwrap();
        assert_eq!(read.len(), 2);
        assert_eq!((read[1].queue, read[1].queue_offset, read[1].physical_offset), (3, 7, 4096));
        assert_eq!((read[1].topic.as_str(), read[1].body.as_slice()), ("t", body.as_slice()));
        record[95] ^= 1;
        assert!(records(&record).is_err());
        assert!(records(&two[..two.len() - 1]).is_err());
    }
}

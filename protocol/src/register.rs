//! The body of REGISTER_BROKER, as JSON or in the compressed form, which official brokers prefer.
//!
//! ```text
//! zlib of: i32 n, n bytes DataVersion (JSON)
//!          i32 topics, for each: i32 n, n bytes "name readQueues writeQueues perm filterType attributes(JSON)"
//!          i32 n, n bytes filter servers (JSON list)
//!          i32 mappings, for each: i32 n, n bytes JSON          (static topics: skipped, written as none)
//! ```

use std::io::{Read, Write};

use bytes::{BufMut, Bytes};
use flate2::Compression;
use flate2::read::ZlibDecoder;
use flate2::write::ZlibEncoder;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::json::{self, Body, JsonError, bounded_vec, lenient};
use crate::message::record::body_crc;
use crate::topic::{MAX_TOPICS, TopicConfig, TopicConfigSerializeWrapper, TopicFilterType};

/// Largest compressed registration after decompression. A topic takes under 300 bytes; 64 MiB are 200,000 of the longest.
pub const MAX_DECOMPRESSED_LEN: usize = 64 * 1024 * 1024;

/// Most filter servers (obsolete).
pub const MAX_FILTER_SERVERS: usize = 1_024;

/// What a broker registers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RegisterBrokerBody {
    /// Obsolete.
    #[serde(deserialize_with = "bounded_vec::<_, _, MAX_FILTER_SERVERS>")]
    pub filter_server_list: Vec<String>,
    /// All topics, or those that changed.
    #[serde(deserialize_with = "lenient")]
    pub topic_config_serialize_wrapper: TopicConfigSerializeWrapper,
}

json::body!(RegisterBrokerBody);

/// A registration cannot be read.
#[derive(Debug, Error)]
pub enum RegisterError {
    /// The body is not what the header's checksum is of.
    #[error("body checksum is {actual}, the header says {stated}")]
    Crc {
        /// Of the body.
        actual: u32,
        /// In the header.
        stated: u32,
    },
    /// The compressed form cannot be unpacked.
    #[error("cannot decompress the registration: {0}")]
    Zlib(std::io::Error),
    /// More than [`MAX_DECOMPRESSED_LEN`] after decompression.
    #[error("registration larger than {MAX_DECOMPRESSED_LEN} bytes once decompressed")]
    TooLong,
    /// A part of the compressed form is cut short or malformed.
    #[error("compressed registration: {part} is malformed")]
    Part {
        /// Which part.
        part: &'static str,
    },
    /// A JSON part is wrong.
    #[error(transparent)]
    Json(#[from] JsonError),
}

impl RegisterBrokerBody {
    /// Reads the body of a registration. `body_crc32` comes from the header; 0 means that it is not checked.
    ///
    /// # Errors
    /// [`RegisterError`] when the body is damaged or malformed.
    pub fn decode(body: &[u8], compressed: bool, body_crc32: i32) -> Result<Self, RegisterError> {
        let stated = body_crc32 as u32;
        if stated != 0 && stated != body_crc(body) {
            return Err(RegisterError::Crc { actual: body_crc(body), stated });
        }
        if !compressed {
            return Ok(Self::from_json(body)?);
        }
        let mut plain = Vec::new();
        let limit = MAX_DECOMPRESSED_LEN as u64 + 1;
        ZlibDecoder::new(body).take(limit).read_to_end(&mut plain).map_err(RegisterError::Zlib)?;
        if plain.len() > MAX_DECOMPRESSED_LEN {
            return Err(RegisterError::TooLong);
        }
        decode_plain(&plain)
    }

    /// Writes the body and the value of `bodyCrc32` for it.
    pub fn encode(&self, compressed: bool) -> (Bytes, i32) {
        let body = if compressed { self.compress() } else { self.to_json() };
        let crc = body_crc(&body) as i32;
        (body, crc)
    }

    fn compress(&self) -> Bytes {
        let wrapper = &self.topic_config_serialize_wrapper;
        let mut plain = Vec::new();
        put_sized(&wrapper.data_version.to_json(), &mut plain);
        plain.put_u32(wrapper.topic_config_table.len() as u32);
        for topic in wrapper.topic_config_table.values() {
            put_sized(topic_line(topic).as_bytes(), &mut plain);
        }
        put_sized(&json::to_json(&self.filter_server_list), &mut plain);
        plain.put_u32(0);
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
        let packed = encoder.write_all(&plain).and_then(|()| encoder.finish());
        packed.expect("writing to memory cannot fail").into()
    }
}

fn put_sized(bytes: &[u8], out: &mut Vec<u8>) {
    out.put_u32(bytes.len() as u32);
    out.put_slice(bytes);
}

fn decode_plain(mut rest: &[u8]) -> Result<RegisterBrokerBody, RegisterError> {
    let mut body = RegisterBrokerBody::default();
    let wrapper = &mut body.topic_config_serialize_wrapper;
    wrapper.data_version = json::from_json(take_sized(&mut rest, "the data version")?)?;
    let topics = take_u32(&mut rest, "the number of topics")?;
    if topics > MAX_TOPICS {
        return Err(RegisterError::Part { part: "the number of topics" });
    }
    for _ in 0..topics {
        let topic = parse_topic_line(take_sized(&mut rest, "a topic")?)?;
        wrapper.topic_config_table.insert(topic.topic_name.clone(), topic);
    }
    let filter_servers: Vec<String> = json::from_json(take_sized(&mut rest, "the filter servers")?)?;
    if filter_servers.len() > MAX_FILTER_SERVERS {
        return Err(RegisterError::Part { part: "the filter servers" });
    }
    body.filter_server_list = filter_servers;
    // Brokers before 5.0 end here; what 5.x adds are the mappings of static topics.
    Ok(body)
}

fn take_u32(rest: &mut &[u8], part: &'static str) -> Result<usize, RegisterError> {
    let (value, after) = rest.split_first_chunk::<4>().ok_or(RegisterError::Part { part })?;
    *rest = after;
    Ok(u32::from_be_bytes(*value) as usize)
}

fn take_sized<'a>(rest: &mut &'a [u8], part: &'static str) -> Result<&'a [u8], RegisterError> {
    let len = take_u32(rest, part)?;
    let (bytes, after) = rest.split_at_checked(len).ok_or(RegisterError::Part { part })?;
    *rest = after;
    Ok(bytes)
}

fn topic_line(topic: &TopicConfig) -> String {
    let attributes = serde_json::to_string(&topic.attributes).expect("a map of texts is JSON");
    format!(
        "{} {} {} {} {} {attributes}",
        topic.topic_name,
        topic.read_queue_nums,
        topic.write_queue_nums,
        topic.perm,
        topic.topic_filter_type.name(),
    )
}

/// The attributes may be missing, as from brokers before 5.0.
fn parse_topic_line(line: &[u8]) -> Result<TopicConfig, RegisterError> {
    const BAD: RegisterError = RegisterError::Part { part: "a topic" };
    let line = std::str::from_utf8(line).map_err(|_| BAD)?;
    let mut words = line.splitn(6, ' ');
    let mut word = || words.next().ok_or(BAD);
    let name = word()?;
    let mut number = || word()?.parse().map_err(|_| BAD);
    let mut topic = TopicConfig {
        topic_name: name.to_owned(),
        read_queue_nums: number()?,
        write_queue_nums: number()?,
        perm: number()?,
        ..TopicConfig::default()
    };
    topic.topic_filter_type = TopicFilterType::from_name(word()?);
    if let Some(attributes) = words.next().filter(|text| !text.is_empty()) {
        topic.attributes = json::from_json(attributes.as_bytes())?;
    }
    Ok(topic)
}

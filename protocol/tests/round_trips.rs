//! Laws of every codec on values and bytes that nobody chose: what was written reads back, and no bytes make a decoder panic.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use bytes::BytesMut;
use ledgermq_protocol::heartbeat::HeartbeatData;
use ledgermq_protocol::json::Body;
use ledgermq_protocol::json::object_map::{MessageQueue, QueueMap};
use ledgermq_protocol::message::batch::{BatchElement, BatchElements, encode_element};
use ledgermq_protocol::message::id::{offset_id, parse_offset_id};
use ledgermq_protocol::message::properties;
use ledgermq_protocol::message::record::{self, Message, RecordRef, Records};
use ledgermq_protocol::register::RegisterBrokerBody;
use ledgermq_protocol::remoting::command::{Language, RemotingCommand, SerializeType};
use ledgermq_protocol::remoting::frame::{self, FrameLimits};
use ledgermq_protocol::route::TopicRouteData;
use ledgermq_protocol::stats::ResetOffsetBody;
use ledgermq_protocol::topic::{DataVersion, TopicConfig, TopicConfigSerializeWrapper};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

mod frame_law;

/// Texts of the kinds that break codecs: quotes, escapes, controls, characters of one to four bytes.
fn non_empty() -> impl Strategy<Value = String> {
    prop_oneof![".{1,12}", "[\u{0}-\u{20}\"\\\\/a]{1,12}", "[é漢😀\u{2028}\u{7f}\u{ffff}]{1,6}"]
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![1 => Just(String::new()), 9 => non_empty()]
}

prop_compose! {
    fn command()(
        code in prop_oneof![0..3000i32, Just(200_050), Just(200_151)],
        language in (0..14u8).prop_map(Language::from_byte),
        version in any::<i16>().prop_map(i32::from),
        opaque in any::<i32>(),
        flag in 0..4i32,
        remark in proptest::option::of(non_empty()),
        ext in btree_map(non_empty(), non_empty(), 0..20),
        body in vec(any::<u8>(), 0..64),
        binary in any::<bool>(),
    ) -> RemotingCommand {
        RemotingCommand {
            // Codes beyond 16 bits are requests; a response has none of them.
            code: if flag & 1 == 1 { code % 3000 } else { code },
            language, version, opaque, flag, remark,
            ext: ext.into_iter().collect(),
            body: body.into(),
            serialize: if binary { SerializeType::RocketMq } else { SerializeType::Json },
        }
    }
}

fn host() -> impl Strategy<Value = SocketAddr> {
    prop_oneof![
        any::<([u8; 4], u16)>().prop_map(SocketAddr::from),
        any::<([u8; 16], u16)>().prop_map(|(ip, port)| {
            let ip = std::net::Ipv6Addr::from(ip);
            SocketAddr::new(std::net::IpAddr::from(ip).to_canonical(), port)
        }),
    ]
}

#[derive(Debug, Clone)]
struct OwnedMessage {
    topic: String,
    numbers: (i32, i32, i32, i64, i32, i64),
    hosts: (SocketAddr, SocketAddr),
    body: Vec<u8>,
    properties: String,
}

impl OwnedMessage {
    fn borrow(&self) -> Message<'_> {
        let (queue_id, flag, sys_flag, born_timestamp_ms, reconsume_times, prepared_transaction_offset) = self.numbers;
        Message {
            topic: &self.topic,
            queue_id,
            flag,
            sys_flag,
            born_timestamp_ms,
            born_host: self.hosts.0,
            store_host: self.hosts.1,
            reconsume_times,
            prepared_transaction_offset,
            body: &self.body,
            properties: &self.properties,
        }
    }
}

prop_compose! {
    fn message()(
        topic in prop_oneof!["[%|a-zA-Z0-9_-]{1,20}", "[a-z]{120,135}", "[a-z]{250,255}"],
        numbers in any::<(i32, i32, i32, i64, i32, i64)>(),
        hosts in (host(), host()),
        body in vec(any::<u8>(), 0..200),
        properties in text(),
    ) -> OwnedMessage {
        OwnedMessage { topic, numbers, hosts, body, properties }
    }
}

proptest! {
    /// A command must come out of its frame as it went in.
    #[test]
    fn commands_round_trip(command in command()) {
        let mut buf = BytesMut::new();
        frame::encode(&command, &mut buf).unwrap();
        let head = frame::peek(&buf, &FrameLimits::default()).unwrap().unwrap();
        prop_assert_eq!(head.frame_len, buf.len());
        prop_assert_eq!(head.body_len(), command.body.len());
        let mut in_parts = BytesMut::new();
        frame::encode_head(&command, command.body.len(), &mut in_parts).unwrap();
        in_parts.extend_from_slice(&command.body);
        prop_assert_eq!(&in_parts, &buf);
        prop_assert_eq!(frame::decode(&mut buf, &FrameLimits::default()).unwrap(), Some(command));
    }

    /// Frames that arrive in pieces, back to back, damaged, or are none at all.
    #[test]
    fn streams_obey_the_law(
        commands in vec(command(), 1..4),
        edits in vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        noise in vec(any::<u8>(), 0..40),
    ) {
        let mut stream = BytesMut::new();
        for command in &commands {
            frame::encode(command, &mut stream).unwrap();
        }
        stream.extend_from_slice(&noise);
        let mut stream = stream.to_vec();
        for (at, value) in edits {
            let at = at.index(stream.len());
            stream[at] = value;
        }
        frame_law::check(&stream);
        frame_law::check(&noise);
    }

    /// Our header scanner must take the JSON that a full parser takes, and see the same in it.
    #[test]
    fn the_header_scanner_agrees_with_a_json_parser(
        ext in btree_map(text(), text(), 0..6),
        remark in text(),
        edits in vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
        pretty in any::<bool>(),
    ) {
        let value = serde_json::json!({
            "code": 1, "opaque": 2, "flag": 0, "remark": remark, "x": [{"y": [null, true, -1.5e3]}, []], "extFields": ext,
        });
        let mut header = if pretty { serde_json::to_vec_pretty(&value) } else { serde_json::to_vec(&value) }.unwrap();
        for (at, byte) in &edits {
            let at = at.index(header.len());
            header[at] = *byte;
        }
        let mut stream = BytesMut::new();
        stream.extend_from_slice(&(4 + header.len() as u32).to_be_bytes());
        stream.extend_from_slice(&(header.len() as u32).to_be_bytes());
        stream.extend_from_slice(&header);
        let ours = frame::decode(&mut stream, &FrameLimits::default());
        match serde_json::from_slice::<serde_json::Value>(&header) {
            // A full parser refuses malformed numbers, which we skip over unread where nobody wants them.
            Err(_) if ours.is_ok() => prop_assert!(!edits.is_empty()),
            Err(_) => prop_assert!(!edits.is_empty()),
            Ok(parsed) if edits.is_empty() => {
                let ours = ours.unwrap().unwrap();
                prop_assert_eq!(parsed["remark"].as_str(), ours.remark.as_deref());
                prop_assert_eq!(parsed["extFields"].as_object().unwrap().len(), ours.ext.len());
                for (name, value) in parsed["extFields"].as_object().unwrap() {
                    prop_assert_eq!(value.as_str(), ours.ext.get(name));
                }
            }
            Ok(_) => {
                if let Err(frame::FrameError::BadHeader { error: frame::HeaderError::Json { .. }, .. }) = ours {
                    prop_assert!(false, "valid JSON refused: {:?} {}", ours, String::from_utf8_lossy(&header));
                }
            }
        }
    }

    /// A record holds exactly what was put in, and what the leader stamped.
    #[test]
    fn records_round_trip(message in message(), stamp in any::<(i64, i64, i64)>(), rest in vec(any::<u8>(), 0..10)) {
        let wanted = message.borrow();
        let mut bytes = BytesMut::from(&b"x"[..]);
        let len = record::encode(&wanted, &mut bytes).unwrap();
        prop_assert_eq!(len, bytes.len() - 1);
        prop_assert_eq!(len, record::encoded_len(&wanted).unwrap());
        record::patch(&mut bytes[1..], stamp.0, stamp.1, stamp.2);
        bytes.extend_from_slice(&rest);
        let read = RecordRef::decode(&bytes[1..]).unwrap();
        prop_assert_eq!(read.len(), len);
        prop_assert_eq!((read.queue_offset(), read.physical_offset(), read.store_timestamp_ms()), stamp);
        prop_assert_eq!((read.topic(), read.body(), read.properties()), (wanted.topic, wanted.body, wanted.properties));
        prop_assert_eq!((read.queue_id(), read.flag()), (wanted.queue_id, wanted.flag));
        prop_assert_eq!(read.sys_flag() & !0x30, wanted.sys_flag & !0x30);
        prop_assert_eq!((read.born_host(), read.store_host()), message.hosts);
        prop_assert_eq!(read.born_timestamp_ms(), wanted.born_timestamp_ms);
        prop_assert_eq!(read.reconsume_times(), wanted.reconsume_times);
        prop_assert_eq!(read.prepared_transaction_offset(), wanted.prepared_transaction_offset);
        prop_assert_eq!(read.is_v2(), wanted.topic.len() > 127);
        prop_assert!(read.body_is_intact());
    }

    /// A damaged record is refused or read within its bounds, and never taken for a longer one.
    #[test]
    fn damaged_records_do_no_harm(
        message in message(),
        edits in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = BytesMut::new();
        record::encode(&message.borrow(), &mut bytes).unwrap();
        for (at, value) in edits {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        for bytes in [&bytes[..], &bytes[..cut.index(bytes.len())]] {
            for record in Records::new(bytes).flatten() {
                prop_assert!(record.len() <= bytes.len());
                let _ = (record.born_host(), record.store_host(), record.store_timestamp_ms(), record.body_is_intact());
                let _ = properties::get(record.properties(), "TAGS");
            }
        }
    }

    /// Bytes of any kind, into every decoder of bytes.
    #[test]
    fn noise_is_no_message(noise in vec(any::<u8>(), 0..200)) {
        prop_assert!(Records::new(&noise).count() <= 1);
        let _ = BatchElements::new(&noise).count();
        let _ = RegisterBrokerBody::decode(&noise, true, 0);
        let _ = HeartbeatData::from_json(&noise);
    }

    /// Batches hold what was put in; cut anywhere they end in an error, and never in other messages.
    #[test]
    fn batches_round_trip(
        elements in vec((any::<i32>(), vec(any::<u8>(), 0..20), text()), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let wanted: Vec<_> = elements
            .iter()
            .map(|(flag, body, properties)| BatchElement { flag: *flag, body, properties })
            .collect();
        let mut bytes = BytesMut::new();
        wanted.iter().for_each(|element| encode_element(element, &mut bytes));
        let read: Vec<_> = BatchElements::new(&bytes).map(Result::unwrap).collect();
        prop_assert_eq!(&read, &wanted);
        let cut = cut.index(bytes.len());
        for (element, wanted) in BatchElements::new(&bytes[..cut]).zip(&wanted) {
            prop_assert!(element.is_err() || element.as_ref() == Ok(wanted));
        }
    }

    /// One property read out of the string is what a map made of it would hold, as clients do.
    #[test]
    fn properties_agree_with_a_map(string in "[\u{1}\u{2}abc]{0,30}", name in "[abc]{1,3}", value in "[abc]{1,3}") {
        let map: BTreeMap<_, _> = properties::iter(&string).collect();
        for name in map.keys() {
            prop_assert_eq!(properties::get(&string, name), map.get(name).copied());
        }
        prop_assert_eq!(properties::get(&string, &name), map.get(&*name).copied());
        let mut changed = string.clone();
        properties::set(&mut changed, &name, &value).unwrap();
        let mut expected = map.clone();
        expected.insert(&name, &value);
        prop_assert_eq!(properties::iter(&changed).collect::<BTreeMap<_, _>>(), expected);
        let mut gone = string.clone();
        properties::remove(&mut gone, &name);
        let mut expected = map;
        expected.remove(&*name);
        prop_assert_eq!(properties::iter(&gone).collect::<BTreeMap<_, _>>(), expected);
    }

    /// Offset ids lead back to their record.
    #[test]
    fn offset_ids_round_trip(host in host(), offset in 0..=i64::MAX) {
        prop_assert_eq!(parse_offset_id(&offset_id(host, offset)).unwrap(), (host, offset));
    }

    /// No text makes the id parser panic.
    #[test]
    fn no_text_is_too_strange_for_an_id(text in ".{0,60}") {
        let _ = parse_offset_id(&text);
    }

    /// Names with quotes and braces must not leak out of the object-literal keys.
    #[test]
    fn queue_maps_round_trip(entries in vec((text(), any::<i32>(), text(), any::<i64>()), 0..5)) {
        let offset_table: QueueMap<i64> = entries
            .into_iter()
            .map(|(broker_name, queue_id, topic, offset)| (MessageQueue { broker_name, queue_id, topic }, offset))
            .collect();
        let body = ResetOffsetBody { offset_table };
        prop_assert_eq!(ResetOffsetBody::from_json(&body.to_json()).unwrap(), body);
    }

    /// JSON that is standard already must mean the same after the rewriter has seen it; other bytes must not make it panic.
    #[test]
    fn routes_survive_damage(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let text = br#"{"brokerDatas":[{"brokerAddrs":{0:"1.1.1.1:1",2:"2.2.2.2:2"},"brokerName":"b","cluster":"c"}],"queueDatas":[]}"#;
        let route = TopicRouteData::from_json(text).unwrap();
        prop_assert_eq!(TopicRouteData::from_json(&route.to_json()).unwrap(), route);
        let mut damaged = text.to_vec();
        damaged[at.index(text.len())] = byte;
        let _ = TopicRouteData::from_json(&damaged);
        let _ = ResetOffsetBody::from_json(&damaged);
    }

    /// Both forms of a registration hold the same topics.
    #[test]
    fn registrations_round_trip(
        topics in btree_map("[%a-z]{1,8}", (0..64i32, 0..16i32, btree_map(text(), text(), 0..3)), 0..8),
        counter in any::<i64>(),
        compressed in any::<bool>(),
    ) {
        let table = topics
            .into_iter()
            .map(|(name, (queues, perm, attributes))| {
                let config = TopicConfig { attributes, ..TopicConfig::new(name.clone(), queues, perm) };
                (name, config)
            })
            .collect();
        let version = DataVersion { counter, state_version: 7, timestamp: 1 };
        let body = RegisterBrokerBody {
            filter_server_list: Vec::new(),
            topic_config_serialize_wrapper: TopicConfigSerializeWrapper::new(version, table),
        };
        let (bytes, crc) = body.encode(compressed);
        prop_assert_eq!(RegisterBrokerBody::decode(&bytes, compressed, crc).unwrap(), body);
    }
}

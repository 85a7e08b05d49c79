//! Records, batches and ids made by the official Java library: we must read them, and write the same bytes.

use bytes::BytesMut;
use ledgermq_protocol::message::batch::{BatchElement, BatchElements, encode_element};
use ledgermq_protocol::message::id::{offset_id, parse_offset_id};
use ledgermq_protocol::message::properties;
use ledgermq_protocol::message::record::{self, DecodeError, Message, RecordRef, Records};

mod vectors;
use vectors::{hex_vectors, text};

const FILE: &str = include_str!("vectors/messages.hex.json");
const PROPERTIES: &str = "UNIQ_KEY\u{1}7F00000100010000000000000000ABCD\u{2}TAGS\u{1}TagA\u{2}KEYS\u{1}k1 k2\u{2}";

/// One slip in an offset and no client could read a message.
#[test]
fn records_of_both_address_families() {
    for (name, born, store) in [
        ("msg.v1.ipv4", "127.0.0.1:50000", "192.168.1.2:10911"),
        ("msg.v1.ipv6", "[2001:db8::1]:50000", "[2001:db8::2]:10911"),
    ] {
        let bytes = hex_vectors(FILE, name);
        let record = RecordRef::decode(&bytes).unwrap();
        assert_eq!(record.topic(), "TopicTest");
        assert_eq!(record.body(), b"Hello RocketMQ");
        assert_eq!(record.properties(), PROPERTIES);
        assert_eq!((record.queue_id(), record.flag(), record.queue_offset()), (1, 7, 5));
        assert_eq!(record.physical_offset(), 1024);
        assert_eq!(record.born_timestamp_ms(), 1_700_000_000_000);
        assert_eq!(record.store_timestamp_ms(), 1_700_000_000_123);
        assert_eq!((record.reconsume_times(), record.prepared_transaction_offset()), (2, 0));
        assert_eq!(record.born_host(), born.parse().unwrap());
        assert_eq!(record.store_host(), store.parse().unwrap());
        assert_eq!(record.stored_body_crc(), 1_774_740_973);
        assert!(record.body_is_intact() && !record.is_v2());
        assert_eq!(offset_id(record.store_host(), record.physical_offset()), text(FILE, &format!("{name}.msgId")));
        assert_eq!(parse_offset_id(&text(FILE, &format!("{name}.msgId"))).unwrap(), (record.store_host(), 1024));

        let mut made = BytesMut::new();
        let message = Message {
            topic: "TopicTest",
            queue_id: 1,
            flag: 7,
            sys_flag: 0,
            born_timestamp_ms: 1_700_000_000_000,
            born_host: born.parse().unwrap(),
            store_host: store.parse().unwrap(),
            reconsume_times: 2,
            prepared_transaction_offset: 0,
            body: b"Hello RocketMQ",
            properties: PROPERTIES,
        };
        assert_eq!(record::encode(&message, &mut made).unwrap(), bytes.len());
        record::patch(&mut made, 5, 1024, 1_700_000_000_123);
        assert_eq!(made, bytes, "{name}");
    }
}

/// A topic name over 127 bytes changes the layout; brokers that write it for shorter ones are read, too.
#[test]
fn the_second_version() {
    let bytes = hex_vectors(FILE, "msg.v2.ipv4");
    let record = RecordRef::decode(&bytes).unwrap();
    assert!(record.is_v2());
    assert_eq!((record.topic(), record.body(), record.properties()), ("TopicTest", &b"Hello RocketMQ"[..], PROPERTIES));
}

/// Pull answers are records without anything between them; a damaged one ends the list and must not be taken for a message.
#[test]
fn a_list_of_records() {
    let one = hex_vectors(FILE, "msg.v1.ipv4");
    let two = hex_vectors(FILE, "msg.v1.ipv6");
    let mut list = [one.clone(), two.clone()].concat();
    let lens: Vec<_> = Records::new(&list).map(|record| record.unwrap().len()).collect();
    assert_eq!(lens, [one.len(), two.len()]);
    list.truncate(one.len() + 60);
    let read: Vec<_> = Records::new(&list).collect();
    assert_eq!(read.len(), 2);
    assert_eq!(read[1], Err(DecodeError::Truncated { have: 60, need: two.len() }));
    let mut damaged = one.clone();
    damaged[90] ^= 1;
    assert!(!RecordRef::decode(&damaged).unwrap().body_is_intact());
}

/// The broker stores each element as the producer wrote it.
#[test]
fn a_batch() {
    let bytes = hex_vectors(FILE, "batch.body.2msgs");
    let elements: Vec<_> = BatchElements::new(&bytes).map(Result::unwrap).collect();
    assert_eq!(elements.len(), 2);
    assert_eq!((elements[0].flag, elements[0].body), (0, &b"one"[..]));
    assert_eq!(properties::get(elements[0].properties, "TAGS"), Some("TagA"));
    assert_eq!(elements[1], BatchElement { flag: 0, body: b"two", properties: "WAIT\u{1}true\u{2}" });
    let mut made = BytesMut::new();
    elements.iter().for_each(|element| encode_element(element, &mut made));
    assert_eq!(made, bytes);
}

/// Checksums are compared by consumers.
#[test]
fn checksums() {
    assert_eq!(record::body_crc(b"Hello RocketMQ"), 1_774_740_973);
    assert_eq!(record::body_crc(b"x0"), 15_126_957);
}

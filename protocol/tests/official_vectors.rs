//! Vectors made and read by the official library 5.4.0: shapes that the other golden files lack, and our own bytes with what the
//! library found in them. Both are made by `java-vectors/regenerate.sh`.

use std::collections::BTreeMap;
use std::fmt::Write;

use bytes::BytesMut;
use ledgermq_protocol::heartbeat::{ConsumerData, HeartbeatData, ProducerData, SubscriptionData};
use ledgermq_protocol::json::Body;
use ledgermq_protocol::json::object_map::MessageQueue;
use ledgermq_protocol::message::batch::{BatchElement, BatchElements, encode_element};
use ledgermq_protocol::message::properties;
use ledgermq_protocol::message::record::{self, Message, RecordRef};
use ledgermq_protocol::message::tags::java_string_hash;
use ledgermq_protocol::register::RegisterBrokerBody;
use ledgermq_protocol::remoting::command::{Language, RemotingCommand, SerializeType};
use ledgermq_protocol::remoting::frame::{self, FrameLimits};
use ledgermq_protocol::remoting::headers::pull::PullMessageResponse;
use ledgermq_protocol::remoting::headers::send::{SendMessage, SendMessageResponse};
use ledgermq_protocol::route::{BrokerData, ClusterInfo, QueueData, TopicRouteData};
use ledgermq_protocol::stats::{ConsumeStats, OffsetWrapper, ResetOffsetBody};
use ledgermq_protocol::topic::{DataVersion, TopicConfig, TopicConfigSerializeWrapper};

mod vectors;
use vectors::{hex_vectors, names, text};

const OFFICIAL: &str = include_str!("vectors/official-5.4.0.json");
const READ_BY_JAVA: &str = include_str!("vectors/ours-read-by-java-5.4.0.json");
const UNICODE: &str = "订单 é 😀 \"quoted\" back\\slash \t tab";

fn frame_of(name: &str) -> RemotingCommand {
    let mut buf = BytesMut::from(&hex_vectors(OFFICIAL, name)[..]);
    let decoded = frame::decode(&mut buf, &FrameLimits::default());
    decoded.expect("a good header").expect("a whole frame")
}

/// Text outside ASCII, quotes and controls, through both header encodings.
#[test]
fn unicode_frames() {
    let properties = text(OFFICIAL, "properties.unicode");
    assert_eq!(properties::get(&properties, "free"), Some(UNICODE));
    assert_eq!(properties::get(&properties, "TAGS"), Some("标签"));
    for encoding in ["JSON", "ROCKETMQ"] {
        let command = frame_of(&format!("frame.send_unicode.{encoding}"));
        let send = SendMessage::from_ext(command.code, &command.ext).unwrap();
        assert_eq!((send.properties, send.queue_id), (Some(&*properties), -1));
        assert_eq!((send.reconsume_times, send.batch, send.broker_name), (None, None, None));
        assert_eq!(command.body, UNICODE);
        assert_eq!(frame_of(&format!("frame.error_unicode.{encoding}")).remark.as_deref(), Some(UNICODE));
        let bare = frame_of(&format!("frame.no_fields.{encoding}"));
        assert!(bare.ext.is_empty() && bare.remark.is_none());
        for name in ["error_unicode", "no_fields"] {
            let name = format!("frame.{name}.{encoding}");
            let mut made = BytesMut::new();
            frame::encode(&frame_of(&name), &mut made).unwrap();
            assert_eq!(made, hex_vectors(OFFICIAL, &name), "{name}");
        }
    }
}

/// Extremes of a record: one host of each family, numbers beyond 32 bits, an empty body.
#[test]
fn records_at_their_edges() {
    let mixed = hex_vectors(OFFICIAL, "record.v1.mixed_hosts");
    let record = RecordRef::decode(&mixed).unwrap();
    assert_eq!(record.born_host(), "10.0.0.1:65535".parse().unwrap());
    assert_eq!(record.store_host(), "[2001:db8::7]:10911".parse().unwrap());
    assert_eq!((record.flag(), record.queue_offset(), record.sys_flag()), (-1, 1 << 31, 0x20));
    assert_eq!(record.body(), UNICODE.as_bytes());
    assert!(record.body_is_intact());
    let committed = hex_vectors(OFFICIAL, "record.v1.committed_empty_body");
    let record = RecordRef::decode(&committed).unwrap();
    assert_eq!(record.prepared_transaction_offset(), 1 << 40);
    assert_eq!((record.physical_offset(), record.reconsume_times()), ((1 << 40) + 512, 16));
    assert!(record.body().is_empty() && record.body_is_intact());
    for (bytes, record) in [(&mixed, RecordRef::decode(&mixed)), (&committed, RecordRef::decode(&committed))] {
        let record = record.unwrap();
        let mut made = BytesMut::new();
        record::encode(&as_message(&record), &mut made).unwrap();
        record::patch(&mut made, record.queue_offset(), record.physical_offset(), record.store_timestamp_ms());
        assert_eq!(made, bytes);
    }
}

fn as_message<'a>(record: &RecordRef<'a>) -> Message<'a> {
    Message {
        topic: record.topic(),
        queue_id: record.queue_id(),
        flag: record.flag(),
        sys_flag: record.sys_flag(),
        born_timestamp_ms: record.born_timestamp_ms(),
        born_host: record.born_host(),
        store_host: record.store_host(),
        reconsume_times: record.reconsume_times(),
        prepared_transaction_offset: record.prepared_transaction_offset(),
        body: record.body(),
        properties: record.properties(),
    }
}

/// A batch with text outside ASCII and an empty body.
#[test]
fn a_unicode_batch() {
    let bytes = hex_vectors(OFFICIAL, "batch.unicode");
    let elements: Vec<_> = BatchElements::new(&bytes).map(Result::unwrap).collect();
    assert_eq!(elements.len(), 2);
    assert_eq!((elements[0].flag, elements[0].body), (-5, UNICODE.as_bytes()));
    assert_eq!(elements[0].properties, text(OFFICIAL, "properties.unicode"));
    assert_eq!(elements[1], BatchElement { flag: 0, body: b"", properties: "WAIT\u{1}true\u{2}" });
}

/// A registration with attributes, uneven queue numbers and a filter server, in both forms, with the checksum of the header.
#[test]
fn registrations() {
    let crc = text(OFFICIAL, "register.compressed.crc").parse().unwrap();
    let packed = RegisterBrokerBody::decode(&hex_vectors(OFFICIAL, "register.compressed"), true, crc).unwrap();
    let plain = RegisterBrokerBody::decode(&hex_vectors(OFFICIAL, "register.plain"), false, 0).unwrap();
    for body in [packed, plain] {
        let wrapper = &body.topic_config_serialize_wrapper;
        assert_eq!(wrapper.data_version, DataVersion { counter: 9, state_version: 7, timestamp: 1_700_000_000_000 });
        assert_eq!(body.filter_server_list, ["10.0.0.9:1"]);
        let orders = &wrapper.topic_config_table["Orders"];
        assert_eq!((orders.read_queue_nums, orders.write_queue_nums, orders.perm), (8, 4, 7));
        assert_eq!(orders.attributes["message.type"], "FIFO");
        assert_eq!(wrapper.topic_config_table["%RETRY%group"].write_queue_nums, 2);
    }
}

/// Hashes of tags, as Java computes them.
#[test]
fn hashes() {
    for (name, hash) in names(OFFICIAL) {
        if let Some(tag) = name.strip_prefix("hash.") {
            assert_eq!(java_string_hash(tag), hash.parse::<i32>().unwrap(), "{tag}");
        }
    }
}

/// What we write, by name, and what Java must find in it.
fn ours() -> BTreeMap<String, (Vec<u8>, String)> {
    let mut all = BTreeMap::new();
    for serialize in [SerializeType::Json, SerializeType::RocketMq] {
        add_frames(serialize, &mut all);
    }
    add_messages(&mut all);
    add_bodies(&mut all);
    all
}

type Ours = BTreeMap<String, (Vec<u8>, String)>;

fn add_frames(serialize: SerializeType, all: &mut Ours) {
    let mut add = |name: &str, command: RemotingCommand, found: &str| {
        let mut buf = BytesMut::new();
        frame::encode(&command, &mut buf).expect("a small frame");
        all.insert(format!("frame.{name}.{serialize:?}"), (buf.to_vec(), found.to_owned()));
    };
    let request = RemotingCommand::request(310, -7).with_serialize(serialize);
    let sent = SendMessageResponse {
        msg_id: "C0A8010200002A9F0000000000000400".into(),
        queue_id: 3,
        queue_offset: 1 << 40,
        transaction_id: None,
        batch_uniq_id: None,
        recall_handle: None,
        region: Some(SendMessageResponse::DEFAULT_REGION.into()),
        trace_on: Some(true),
    };
    let found = "0|JAVA|493|-7|1|null|{MSG_REGION=DefaultRegion, TRACE_ON=true, \
                 msgId=C0A8010200002A9F0000000000000400, queueId=3, queueOffset=1099511627776}|0|1099511627776";
    add("send_ok", RemotingCommand::response_to(&request, 0).with_header(&sent), found);
    let pulled = PullMessageResponse {
        suggest_which_broker_id: 0,
        next_begin_offset: 9,
        min_offset: 0,
        max_offset: 10,
        topic_sys_flag: None,
        group_sys_flag: None,
    };
    let pulled = RemotingCommand::response_to(&request, 0).with_header(&pulled).with_remark("FOUND").with_body("12345");
    let found = "0|JAVA|493|-7|1|FOUND|{maxOffset=10, minOffset=0, nextBeginOffset=9, suggestWhichBrokerId=0}|5|9";
    add("pull_found", pulled, found);
    let error = RemotingCommand::response_to(&request, 14).with_remark(UNICODE);
    add("error", error, &format!("14|JAVA|493|-7|1|{UNICODE}|null|0|"));
    let mut oneway = RemotingCommand::oneway(40, 1).with_serialize(serialize).with_ext("consumerGroup", UNICODE);
    oneway.language = Language::Rust;
    add("oneway", oneway, &format!("40|RUST|493|1|2|null|{{consumerGroup={UNICODE}}}|0|"));
}

fn add_messages(all: &mut Ours) {
    let mut records = BytesMut::new();
    let mut found = String::new();
    let long_topic = "%RETRY%".to_owned() + &"t".repeat(193);
    let cases = [
        ("Topic", "10.0.0.1:1", "10.0.0.2:10911", "10.0.0.1", 0),
        ("Topic", "[2001:db8::1]:65535", "10.0.0.2:10911", "2001:db8:0:0:0:0:0:1", 0x10),
        (&*long_topic, "[::ffff:10.0.0.1]:1", "[2001:db8::2]:10911", "10.0.0.1", 0x20),
    ];
    for (n, (topic, born, store, born_text, host_flags)) in cases.into_iter().enumerate() {
        let mut text = String::new();
        properties::push(&mut text, "KEYS", "ключ 😀").expect("a good property");
        properties::push(&mut text, "TAGS", "标签").expect("a good property");
        let message = Message {
            topic,
            queue_id: 2,
            flag: -9,
            sys_flag: 8 | 0x30,
            born_timestamp_ms: 1_700_000_000_000,
            born_host: born.parse().expect("an address"),
            store_host: store.parse().expect("an address"),
            reconsume_times: 4,
            prepared_transaction_offset: 77,
            body: UNICODE.as_bytes(),
            properties: &text,
        };
        let start = records.len();
        let len = record::encode(&message, &mut records).expect("a good message");
        record::patch(&mut records[start..], n as i64, (1 << 40) + n as i64, 1_700_000_000_005);
        let _ = writeln!(
            found,
            "{}|{UNICODE}|{{KEYS=ключ 😀, TAGS=标签}}|2|-9|{n}|{}|{}|1700000000000|{born_text}|1700000000005|4|77|{len}",
            topic.len(),
            (1i64 << 40) + n as i64,
            8 | host_flags,
        );
    }
    all.insert("records.three".into(), (records.to_vec(), found));

    let mut batch = BytesMut::new();
    encode_element(&BatchElement { flag: -5, body: UNICODE.as_bytes(), properties: "TAGS\u{1}标签\u{2}" }, &mut batch);
    encode_element(&BatchElement { flag: 0, body: b"", properties: "" }, &mut batch);
    all.insert("batch.two".into(), (batch.to_vec(), format!("-5|{}|{{TAGS=标签}}\n0|0|{{}}\n", UNICODE.len())));
}

fn add_bodies(all: &mut Ours) {
    let mut add = |name: &str, body: bytes::Bytes, found: &str| {
        all.insert(name.to_owned(), (body.to_vec(), found.to_owned()));
    };
    let brokers = BrokerData {
        broker_addrs: [(0, "10.0.0.1:10911".to_owned()), (2, "10.0.0.2:10911".to_owned())].into(),
        broker_name: "broker-a".into(),
        cluster: "c".into(),
        ..BrokerData::default()
    };
    let queues = QueueData {
        broker_name: "broker-a".into(),
        perm: 6,
        read_queue_nums: 4,
        write_queue_nums: 2,
        ..QueueData::default()
    };
    let route =
        TopicRouteData { broker_datas: vec![brokers.clone()], queue_datas: vec![queues], ..TopicRouteData::default() };
    add("route", route.to_json(), "10.0.0.1:10911|");
    let cluster = ClusterInfo {
        broker_addr_table: [("broker-a".to_owned(), brokers)].into(),
        cluster_addr_table: [("c".to_owned(), vec!["broker-a".to_owned()])].into(),
    };
    add("cluster", cluster.to_json(), "10.0.0.1:10911|{c=[broker-a]}");
    let queue = MessageQueue { broker_name: "broker-a".into(), queue_id: 3, topic: "T".into() };
    let wrapper = OffsetWrapper { broker_offset: 9, consumer_offset: 7, ..OffsetWrapper::default() };
    let stats = ConsumeStats { consume_tps: 0.0, offset_table: [(queue.clone(), wrapper)].into() };
    let java_queue = "MessageQueue [topic=T, brokerName=broker-a, queueId=3]";
    add("consume_stats", stats.to_json(), &format!("0.0|{java_queue}7"));
    let reset = ResetOffsetBody { offset_table: [(queue, 1 << 40)].into() };
    add("reset", reset.to_json(), &format!("{{{java_queue}=1099511627776}}"));

    let subscription = SubscriptionData::by_tags("T", "TagA||TagB", 5).expect("good tags");
    let heartbeat = HeartbeatData {
        client_id: "c@1".into(),
        producer_data_set: vec![ProducerData { group_name: "PG".into() }],
        consumer_data_set: vec![ConsumerData {
            group_name: "CG".into(),
            subscription_data_set: vec![subscription],
            ..ConsumerData::default()
        }],
        ..HeartbeatData::default()
    };
    add("heartbeat", heartbeat.to_json(), "c@1|[ProducerData [groupName=PG]]|[ConsumerData [groupName=CG, ");

    let mut topic = TopicConfig::new("Orders", 8, 6);
    topic.attributes.insert("message.type".into(), "FIFO".into());
    let version = DataVersion { counter: 9, state_version: 7, timestamp: 5 };
    let table = [("Orders".to_owned(), topic)].into();
    let body = RegisterBrokerBody {
        filter_server_list: Vec::new(),
        topic_config_serialize_wrapper: TopicConfigSerializeWrapper::new(version, table),
    };
    for (name, compressed) in [("register.plain", false), ("register.compressed", true)] {
        let (bytes, crc) = body.encode(compressed);
        add(name, bytes, &format!("{crc}|{{Orders=TopicConfig [topicName=Orders, readQueueNums=8, "));
    }
}

/// What Java said of our bytes only counts as long as these are still the bytes that we write.
#[test]
fn ours_are_the_bytes_that_java_read() {
    let hex = |bytes: &[u8]| {
        bytes.iter().fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        })
    };
    let made: BTreeMap<_, _> = ours().into_iter().map(|(name, (bytes, _))| (name, hex(&bytes))).collect();
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/ours.json");
    if std::env::var_os("LEDGERMQ_WRITE_VECTORS").is_some() {
        std::fs::write(&file, serde_json::to_string_pretty(&made).unwrap() + "\n").unwrap();
    }
    let read: BTreeMap<String, String> = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    for (name, hex) in &made {
        assert_eq!(Some(hex), read.get(name), "{name} changed: run java-vectors/regenerate.sh");
    }
    assert_eq!(made.len(), read.len());
}

/// Java must find in our bytes what we put in.
#[test]
fn java_finds_what_we_wrote() {
    let found = names(READ_BY_JAVA);
    let ours = ours();
    assert_eq!(found.len(), ours.len());
    for (name, (_, expected)) in ours {
        let found = &found[&name];
        match &*name {
            // The rest of these texts names every member, and differs between releases.
            "route" | "heartbeat" => assert!(found.starts_with(&expected), "{name}: {found}"),
            _ if name.starts_with("register") => assert!(found.starts_with(&expected), "{name}: {found}"),
            _ => assert_eq!(*found, expected, "{name}"),
        }
    }
}

//! JSON bodies made by the official Java library: what it writes we read, and what we write is what it writes, apart from two
//! things that all clients accept better: ids are quoted, and maps are sorted.

use ledgermq_protocol::consumer_list::{
    ConsumerConnection, ConsumerList, GroupList, GroupSubscription, ProducerConnection,
};
use ledgermq_protocol::heartbeat::{ConsumeType, HeartbeatData, MessageModel, SubscriptionData};
use ledgermq_protocol::json::Body;
use ledgermq_protocol::json::object_map::MessageQueue;
use ledgermq_protocol::kv_table::KvTable;
use ledgermq_protocol::lock::{LockBatchRequest, LockBatchResponse};
use ledgermq_protocol::register::RegisterBrokerBody;
use ledgermq_protocol::route::{BrokerMemberGroupBody, ClusterInfo, TopicList, TopicRouteData};
use ledgermq_protocol::stats::{
    AllConsumerOffsets, BrokerStatsData, ConsumeStats, ConsumeTimeSpans, GetConsumerStatusBody, ResetOffsetBody,
    TopicStatsTable,
};
use ledgermq_protocol::subscription_group::{SubscriptionGroupConfig, SubscriptionGroupWrapper};
use ledgermq_protocol::topic::{DataVersion, TopicConfigSerializeWrapper};

mod vectors;
use vectors::{hex_vectors, text};

const FILE: &str = include_str!("vectors/bodies.5.4.0.json");
const OLD_FILE: &str = include_str!("vectors/bodies.5.3.3-differences.json");

/// Reads Java's text and writes it again.
fn rewritten<B: Body>(name: &str) -> String {
    let body = B::from_json(text(FILE, name).as_bytes()).unwrap_or_else(|error| panic!("{name}: {error}"));
    String::from_utf8(body.to_json().to_vec()).expect("JSON is UTF-8")
}

fn same<B: Body>(name: &str) {
    assert_eq!(rewritten::<B>(name), text(FILE, name), "{name}");
}

/// Bodies without ids or queue maps must be byte for byte Java's.
#[test]
fn bodies_are_written_as_java_writes_them() {
    same::<HeartbeatData>("json.HeartbeatData.v1");
    same::<HeartbeatData>("json.HeartbeatData.v2");
    same::<SubscriptionData>("json.SubscriptionData.all");
    same::<ConsumerList>("json.GetConsumerListByGroupResponseBody");
    same::<LockBatchRequest>("json.LockBatchRequestBody");
    same::<LockBatchResponse>("json.LockBatchResponseBody");
    same::<TopicConfigSerializeWrapper>("json.TopicConfigAndMappingSerializeWrapper");
    same::<RegisterBrokerBody>("json.RegisterBrokerBody");
    same::<SubscriptionGroupConfig>("json.SubscriptionGroupConfig");
    same::<SubscriptionGroupWrapper>("json.SubscriptionGroupWrapper");
    same::<ConsumerConnection>("json.ConsumerConnection");
    same::<ProducerConnection>("json.ProducerConnection");
    same::<KvTable>("json.KVTable");
    same::<TopicList>("json.TopicList");
    same::<GroupList>("json.GroupList");
    same::<GroupSubscription>("json.QuerySubscriptionResponseBody");
    same::<BrokerStatsData>("json.BrokerStatsData");
    same::<DataVersion>("json.DataVersion");
}

/// The Go client cuts `brokerAddrs` out of the text: quoted ids, no whitespace. Java takes that as well.
#[test]
fn ids_are_quoted() {
    let quoted = |name| text(FILE, name).replace("{0:", "{\"0\":").replace(",2:", ",\"2\":");
    assert_eq!(rewritten::<TopicRouteData>("json.TopicRouteData"), quoted("json.TopicRouteData"));
    assert_eq!(rewritten::<ClusterInfo>("json.ClusterInfo"), quoted("json.ClusterInfo"));
    let name = "json.GetBrokerMemberGroupResponseBody";
    assert_eq!(rewritten::<BrokerMemberGroupBody>(name), quoted(name));
    let route = TopicRouteData::from_json(text(FILE, "json.TopicRouteData").as_bytes()).unwrap();
    assert_eq!(route.broker_datas[0].leader_addr(), Some("192.168.1.2:10911"));
    assert_eq!(route.broker_datas[0].broker_addrs[&2], "192.168.1.3:10911");
    let empty = r#"{"brokerDatas":[],"filterServerTable":{},"queueDatas":[]}"#;
    assert_eq!(TopicRouteData::default().to_json(), empty);
}

/// Times of queues come with texts derived from them, which nobody needs; offsets of groups have numbers as keys.
#[test]
fn times_and_offsets_of_groups() {
    let spans = ConsumeTimeSpans::from_json(text(FILE, "json.QueryConsumeTimeSpanBody").as_bytes()).unwrap();
    let span = &spans.consume_time_span_set[0];
    assert_eq!((span.min_time_stamp, span.max_time_stamp, span.consume_time_stamp, span.delay_time), (1, 2, 1, 5));
    assert_eq!(span.message_queue, queue(0));
    let java = br#"{"dataVersion":{"counter":1,"stateVersion":0,"timestamp":2},"offsetTable":{"T@g":{0:5,1:6}}}"#;
    let all = AllConsumerOffsets::from_json(java).unwrap();
    assert_eq!(all.offset_table["T@g"].0, [(0, 5), (1, 6)].into());
    assert!(all.to_json().ends_with(br#""offsetTable":{"T@g":{"0":5,"1":6}}}"#));
}

fn queue(queue_id: i32) -> MessageQueue {
    MessageQueue { broker_name: "broker-a".into(), queue_id, topic: "TopicTest".into() }
}

/// Java 5.4 reads these maps in the object-literal form only. The order of entries is free.
#[test]
fn queue_maps_are_written_as_object_literals() {
    let stats = ConsumeStats::from_json(text(FILE, "json.ConsumeStats").as_bytes()).unwrap();
    assert_eq!(stats.consume_tps, 1.5);
    assert_eq!(stats.offset_table[&queue(1)].consumer_offset, 8);
    assert_eq!(ConsumeStats::from_json(&stats.to_json()).unwrap(), stats);
    let reset = ResetOffsetBody::from_json(text(FILE, "json.ResetOffsetBody").as_bytes()).unwrap();
    let expected = r#"{"offsetTable":{{"brokerName":"broker-a","queueId":0,"topic":"TopicTest"}:10,{"brokerName":"broker-a","queueId":1,"topic":"TopicTest"}:20}}"#;
    assert_eq!(reset.to_json(), expected);
    let table = TopicStatsTable::from_json(text(FILE, "json.TopicStatsTable").as_bytes()).unwrap();
    assert_eq!(table.offset_table[&queue(0)].max_offset, 10);
    let written = String::from_utf8(table.to_json().to_vec()).unwrap();
    assert_eq!(written.len(), text(FILE, "json.TopicStatsTable").len());
    assert!(written.starts_with(r#"{"offsetTable":{{"brokerName":"broker-a","queueId":0,"topic":"TopicTest"}:{"#));
    let status = GetConsumerStatusBody::from_json(text(FILE, "json.GetConsumerStatusBody").as_bytes()).unwrap();
    assert_eq!(status.consumer_table["127.0.0.1@1"].0[&queue(1)], 20);
    assert_eq!(GetConsumerStatusBody::from_json(&status.to_json()).unwrap(), status);
}

/// The standard form, an escaped object in a string, is what other libraries send.
#[test]
fn queue_maps_are_read_in_both_forms() {
    let standard = r#"{"offsetTable":{"{\"topic\":\"TopicTest\",\"brokerName\":\"broker-a\",\"queueId\":0}": 10}}"#;
    assert_eq!(ResetOffsetBody::from_json(standard.as_bytes()).unwrap().offset_table[&queue(0)], 10);
    for refused in [r#"{"offsetTable":{"x":1}}"#, r#"{"offsetTable":{{"queueId":0}:1}}"#, r#"{"offsetTable":{{}:1}}"#] {
        assert!(ResetOffsetBody::from_json(refused.as_bytes()).is_err(), "{refused}");
    }
    assert!(ResetOffsetBody::from_json(br#"{"offsetTable":null}"#).unwrap().offset_table.is_empty());
}

/// fastjson 1 writes a reference for a repeated object. Such a body must not be refused for it.
#[test]
fn references_are_tolerated() {
    let stats = ConsumeStats::from_json(text(OLD_FILE, "json.ConsumeStats").as_bytes()).unwrap();
    assert_eq!(stats.offset_table[&queue(1)].consumer_offset, 8);
    assert_eq!(stats.offset_table.len(), 2);
}

/// An official broker registers in the compressed form.
#[test]
fn a_compressed_registration() {
    let packed = hex_vectors(FILE, "bin.RegisterBrokerBody.compressed");
    let body = RegisterBrokerBody::decode(&packed, true, 0).unwrap();
    let mut expected = RegisterBrokerBody::from_json(text(FILE, "json.RegisterBrokerBody").as_bytes()).unwrap();
    // The compressed form has no place for the version of static topics.
    expected.topic_config_serialize_wrapper.mapping_data_version = DataVersion::default();
    assert_eq!(body, expected);
    let topic = &body.topic_config_serialize_wrapper.topic_config_table["TopicTest"];
    assert_eq!((topic.read_queue_nums, topic.write_queue_nums, topic.perm), (4, 4, 6));
    for compressed in [false, true] {
        let (written, crc) = body.encode(compressed);
        assert_eq!(RegisterBrokerBody::decode(&written, compressed, crc).unwrap(), body);
        assert!(RegisterBrokerBody::decode(&written, compressed, crc ^ 1).is_err());
    }
    assert!(RegisterBrokerBody::decode(&packed[..20], true, 0).is_err());
}

/// A heartbeat that lacks members, or has names that we do not know, still registers the client.
#[test]
fn heartbeats_are_read_leniently() {
    let go = r#"{"clientID":"c","producerDataSet":[{"groupName":"P"}],"consumerDataSet":[{"groupName":"G","consumeType":"CONSUME_PASSIVELY","messageModel":"SHARED","consumeFromWhere":"?","subscriptionDataSet":[{"topic":"T","subString":"*","tagsSet":null,"codeSet":null,"subVersion":5,"classFilterMode":false,"futureMember":{"a":[1]}}],"unitMode":false}]}"#;
    let data = HeartbeatData::from_json(go.as_bytes()).unwrap();
    let group = &data.consumer_data_set[0];
    assert_eq!((group.consume_type, group.message_model), (ConsumeType::Passively, MessageModel::Unknown));
    assert_eq!(group.subscription_data_set[0].expression_type, "TAG");
    let ordinals = r#"{"clientID":"c","consumerDataSet":[{"consumeType":1,"messageModel":0,"consumeFromWhere":null}]}"#;
    let data = HeartbeatData::from_json(ordinals.as_bytes()).unwrap();
    assert_eq!(data.consumer_data_set[0].message_model, MessageModel::Broadcasting);
    let many = format!(r#"{{"clientID":"c","consumerDataSet":[{}{{}}]}}"#, "{},".repeat(1_024));
    assert!(HeartbeatData::from_json(many.as_bytes()).unwrap_err().to_string().contains("more than 1024"));
    assert!(HeartbeatData::from_json(b"not json").is_err());
}

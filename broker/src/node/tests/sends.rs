//! Sends as a producer sees them.

use ledgermq_protocol::message::batch::{BatchElement, encode_element};
use ledgermq_protocol::message::id::parse_offset_id;
use ledgermq_protocol::message::properties;
use ledgermq_protocol::names;
use ledgermq_protocol::remoting::command::RemotingCommand;
use ledgermq_protocol::remoting::headers::pull::ViewMessage;
use ledgermq_protocol::remoting::request_code::RequestCode;
use ledgermq_protocol::remoting::response_code::ResponseCode;

use super::super::*;
use super::fixture::*;

/// A message must come back exactly as it was sent, under the id that its producer was told.
#[tokio::test]
async fn a_message_is_stored_and_found_by_its_id() {
    let cluster = Cluster::start(1).await;
    let mut client = cluster.leader_client().await;
    let properties = "KEYS\u{1}k1\u{2}TAGS\u{1}A\u{2}POP_CK\u{1}x\u{2}UNIQ_KEY\u{1}0123\u{2}";
    for code in [RequestCode::SEND_MESSAGE, RequestCode::SEND_MESSAGE_V2] {
        let answer = client.ask(request_with(code, &send_header("T", 2, properties), b"hello")).await;
        assert_eq!(answer.code, 0, "{answer:?}");
        assert_eq!(answer.ext.get("queueId"), Some("2"));
        assert_eq!(answer.ext.get("transactionId"), Some("0123"));
        let (host, physical_offset) = parse_offset_id(answer.ext.get("msgId").unwrap()).unwrap();
        assert_eq!(host, cluster.configs[0].groups[0].listen);
        let view = ViewMessage { physical_offset, topic: None };
        let answer = client.ask(RemotingCommand::request(RequestCode::VIEW_MESSAGE_BY_ID, 0).with_header(&view)).await;
        let records = records(&answer);
        assert_eq!((records[0].body(), records[0].topic(), records[0].flag()), (&b"hello"[..], "T", 7));
        assert!(records[0].body_is_intact());
        let stored = records[0].properties();
        for (name, value) in [
            ("KEYS", "k1"),
            ("TAGS", "A"),
            ("UNIQ_KEY", "0123"),
            ("MSG_REGION", "DefaultRegion"),
            ("TRACE_ON", "true"),
            ("CLUSTER", "TestCluster"),
        ] {
            assert_eq!(properties::get(stored, name), Some(value), "{name}");
        }
        assert_eq!(properties::get(stored, "POP_CK"), None);
    }
    let view = ViewMessage { physical_offset: 3, topic: None };
    let answer = client.ask(RemotingCommand::request(RequestCode::VIEW_MESSAGE_BY_ID, 0).with_header(&view)).await;
    assert_eq!(answer.code, ResponseCode::SYSTEM_ERROR);
    // Without a unique key the broker makes one.
    let answer = client.ask(send_request("T", 0, b"x", "")).await;
    assert_eq!(answer.ext.get("transactionId").unwrap().len(), 32);
    cluster.stop().await;
}

/// What cannot be stored as asked must be refused with the protocol's code and a remark that names it, never stored otherwise.
#[tokio::test]
async fn bad_messages_are_refused_by_name() {
    let cluster = Cluster::start(1).await;
    let mut client = cluster.leader_client().await;
    let long_properties = format!("K\u{1}{}\u{2}", "v".repeat(32_767));
    let long_topic = "t".repeat(128);
    let cases: [(&str, i32, &str, i32, i32, &str); 16] = [
        ("bad/topic", 0, "", 0, ResponseCode::INVALID_PARAMETER, "topic"),
        ("", 0, "", 0, ResponseCode::INVALID_PARAMETER, "topic"),
        (&long_topic, 0, "", 0, ResponseCode::MESSAGE_ILLEGAL, "128"),
        ("SCHEDULE_TOPIC_XXXX", 0, "", 0, ResponseCode::NO_PERMISSION, "SCHEDULE_TOPIC_XXXX"),
        ("rmq_sys_wheel_timer", 0, "", 0, ResponseCode::NO_PERMISSION, "rmq_sys_wheel_timer"),
        ("T", 99, "", 0, ResponseCode::INVALID_PARAMETER, "99"),
        ("T", 0, &long_properties, 0, ResponseCode::MESSAGE_ILLEGAL, "properties"),
        ("T", 0, "DELAY\u{1}x\u{2}", 0, ResponseCode::MESSAGE_ILLEGAL, "DELAY"),
        ("T", 0, "TIMER_DELAY_SEC\u{1}3601\u{2}", 0, ResponseCode::MESSAGE_ILLEGAL, "3600000"),
        ("T", 0, "TIMER_DELIVER_MS\u{1}99999999999999\u{2}", 0, ResponseCode::MESSAGE_ILLEGAL, "TIMER_DELIVER_MS"),
        ("%RETRY%g", 0, "TIMER_DELAY_MS\u{1}1.5\u{2}", 0, ResponseCode::MESSAGE_ILLEGAL, "TIMER_DELAY_MS"),
        ("T", 0, "TIMER_DEL_UNIQKEY\u{1}T+K\u{2}", 0, ResponseCode::MESSAGE_ILLEGAL, "RECALL_MESSAGE"),
        ("T", 0, "TRAN_MSG\u{1}true\u{2}", 0, ResponseCode::MESSAGE_ILLEGAL, "transactional"),
        ("T", 0, "", 4, ResponseCode::MESSAGE_ILLEGAL, "transactional"),
        ("T", 0, "", 0x80, ResponseCode::MESSAGE_ILLEGAL, "batch"),
        ("%DLQ%nobody", 0, "", 0, ResponseCode::TOPIC_NOT_EXIST, "%DLQ%nobody"),
    ];
    for (topic, queue, properties, sys_flag, code, named) in cases {
        let header = ledgermq_protocol::remoting::headers::send::SendMessage {
            sys_flag,
            ..send_header(topic, queue, properties)
        };
        let answer = client.ask(request_with(RequestCode::SEND_MESSAGE_V2, &header, b"x")).await;
        assert_eq!(answer.code, code, "{topic:?} {properties:.20}: {answer:?}");
        assert!(answer.remark.as_deref().unwrap_or_default().contains(named), "{named}: {answer:?}");
    }
    let answer = client.ask(send_request("T", 0, &vec![0; (4 << 20) + 1], "")).await;
    assert_eq!(answer.code, ResponseCode::MESSAGE_ILLEGAL, "{answer:?}");
    let mut no_topic = send_request("T", 0, b"x", "");
    no_topic.ext.remove("b");
    let answer = client.ask(no_topic).await;
    assert_eq!(answer.code, ResponseCode::INVALID_PARAMETER);
    assert!(answer.remark.unwrap().contains("b is missing"));
    // The connection lives, and the largest message that is allowed passes.
    let answer = client.ask(send_request("T", 0, &vec![0; 4 << 20], "")).await;
    assert_eq!(answer.code, 0, "{answer:?}");
    cluster.stop().await;
}

/// A Java consumer sends a message to its retry topic itself when CONSUMER_SEND_MSG_BACK fails; after too many tries it belongs to
/// the dead letters, which never wait.
#[tokio::test]
async fn retry_topics_take_delays_and_give_up_into_dead_letters() {
    let cluster = Cluster::start(1).await;
    let mut client = cluster.leader_client().await;
    let mut header = send_header("%RETRY%g", 0, "DELAY\u{1}1\u{2}");
    header.reconsume_times = Some(1);
    header.max_reconsume_times = Some(1);
    let answer = client.ask(request_with(RequestCode::SEND_MESSAGE_V2, &header, b"again")).await;
    assert_eq!((answer.code, answer.ext.get("recallHandle")), (0, None), "{answer:?}");
    header.reconsume_times = Some(2);
    header.properties = Some("DELAY\u{1}18\u{2}");
    let answer = client.ask(request_with(RequestCode::SEND_MESSAGE_V2, &header, b"dead")).await;
    assert_eq!(answer.code, 0, "{answer:?}");
    for (topic, body) in [("%DLQ%g", "dead"), ("%RETRY%g", "again")] {
        let pull = pull_header("g2", topic, 0, 0, 4 | 2);
        assert_eq!(bodies(&client.ask(pull_request(&pull)).await), [body]);
    }
    cluster.stop().await;
}

/// A batch is several messages with consecutive offsets, byte for byte as its elements are, or nothing at all.
#[tokio::test]
async fn a_batch_is_stored_whole_or_not_at_all() {
    let cluster = Cluster::start(1).await;
    let mut client = cluster.leader_client().await;
    let batch = |properties: &[&str]| {
        let mut body = bytes::BytesMut::new();
        for (n, properties) in properties.iter().enumerate() {
            let text = format!("m{n}");
            encode_element(&BatchElement { flag: n as i32, body: text.as_bytes(), properties }, &mut body);
        }
        body
    };
    let ask = |topic: &'static str, body: bytes::BytesMut| {
        request_with(RequestCode::SEND_BATCH_MESSAGE, &send_header(topic, 1, ""), &body)
    };
    let answer = client.ask(ask("T", batch(&["TAGS\u{1}A\u{2}", "", "UNIQ_KEY\u{1}u\u{2}"]))).await;
    assert_eq!(answer.code, 0, "{answer:?}");
    assert_eq!(answer.ext.get("msgId").unwrap().split(',').count(), 3);
    assert_eq!(answer.ext.get("queueOffset"), Some("0"));
    let pulled = client.ask(pull_request(&pull_header("g", "T", 1, 0, 4 | 2))).await;
    assert_eq!(bodies(&pulled), ["m0", "m1", "m2"]);
    let records = records(&pulled);
    assert_eq!(records.iter().map(|record| record.queue_offset()).collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!((records[2].flag(), records[2].properties()), (2, "UNIQ_KEY\u{1}u\u{2}"));

    for (topic, body, named) in [
        ("T", batch(&["", "DELAY\u{1}1\u{2}"]), "message 1"),
        ("T", bytes::BytesMut::new(), "without a message"),
        ("T", bytes::BytesMut::from(&b"\0\0\0\x40abc"[..]), "message 0"),
        ("%RETRY%g", batch(&[""]), "retry"),
    ] {
        let answer = client.ask(ask(topic, body)).await;
        assert_eq!(answer.code, ResponseCode::MESSAGE_ILLEGAL, "{answer:?}");
        assert!(answer.remark.as_deref().unwrap().contains(named), "{answer:?}");
    }
    assert_eq!(client.produce("T", 1, "next", "").await, 3);
    cluster.stop().await;
}

/// Requests that are not built yet must be refused by name, and the connection must live on.
#[tokio::test]
async fn unknown_requests_are_refused_by_name() {
    let cluster = Cluster::start(1).await;
    let mut client = cluster.leader_client().await;
    for (code, name) in [(37, "END_TRANSACTION"), (400, "QUERY_ASSIGNMENT"), (777_777, "unknown")] {
        let answer = client.ask(RemotingCommand::request(code, 0)).await;
        assert_eq!(answer.code, ResponseCode::REQUEST_CODE_NOT_SUPPORTED);
        assert!(answer.remark.unwrap().contains(name));
    }
    for code in [RequestCode::GET_BROKER_RUNTIME_INFO, RequestCode::GET_ALL_TOPIC_CONFIG, 91_001, 91_002] {
        let answer = client.ask(RemotingCommand::request(code, 0)).await;
        assert_eq!(answer.code, 0, "{answer:?}");
        serde_json::from_slice::<serde_json::Value>(&answer.body).unwrap();
    }
    cluster.stop().await;
}

/// A topic that an operator makes is there at once, and automatic creation follows the template.
#[tokio::test]
async fn topics_are_made_by_request_and_by_sending() {
    let cluster = Cluster::start(1).await;
    let mut client = cluster.leader_client().await;
    let create = |topic: &str, perm| ledgermq_protocol::remoting::headers::topic::CreateTopic {
        topic: topic.into(),
        default_topic: Some("TBW102".into()),
        read_queue_nums: 2,
        write_queue_nums: 3,
        perm,
        topic_filter_type: Some("SINGLE_TAG".into()),
        topic_sys_flag: None,
        order: Some(false),
        attributes: Some("+message.type=FIFO".into()),
    };
    let request = |topic: &str, perm| {
        RemotingCommand::request(RequestCode::UPDATE_AND_CREATE_TOPIC, 0).with_header(&create(topic, perm))
    };
    assert_eq!(client.ask(request("Made", 6)).await.code, 0);
    let tables = cluster.nodes[0].replicas[0].tables();
    let made = tables.topic("Made").unwrap();
    assert_eq!((made.settings().read_queues, made.settings().write_queues), (2, 3));
    assert_eq!(client.ask(request("TBW102", 6)).await.code, ResponseCode::INVALID_PARAMETER);
    assert_eq!(client.ask(request("a b", 6)).await.code, ResponseCode::INVALID_PARAMETER);
    assert_eq!(client.ask(request("Made", 77)).await.code, ResponseCode::INVALID_PARAMETER);
    client.produce("Auto", -1, "x", "").await;
    cluster.nodes[0].replicas()[0].read_barrier().await.unwrap();
    assert_eq!(tables.topic("Auto").map(|topic| topic.settings().read_queues), Some(4));
    assert!(tables.topic(names::AUTO_CREATE_TOPIC).is_some());
    cluster.stop().await;
}

/// Answered messages must survive a restart of the node, with their offsets.
#[tokio::test]
async fn a_restarted_node_knows_everything_that_it_answered() {
    let mut cluster = Cluster::start(1).await;
    let mut client = cluster.leader_client().await;
    for n in 0..20 {
        client.produce("T", 0, &format!("m{n}"), "").await;
    }
    let again = cluster.configs[0].clone();
    assert!(matches!(BrokerNode::start(again.clone()).await, Err(StartError::Locked { .. })));
    cluster.nodes.remove(0).stop().await.unwrap();
    let other = BrokerConfig { cluster_id: uuid::Uuid::new_v4(), ..again.clone() };
    let refused = BrokerNode::start(other).await.err().unwrap().to_string();
    assert!(refused.contains("belongs to"), "{refused}");
    cluster.nodes.push(BrokerNode::start(again).await.unwrap());
    let mut client = cluster.leader_client().await;
    let pulled = client.ask(pull_request(&pull_header("g", "T", 0, 0, 4 | 2))).await;
    assert_eq!(bodies(&pulled).len(), 20);
    assert_eq!(client.produce("T", 0, "next", "").await, 20);
    cluster.stop().await;
}

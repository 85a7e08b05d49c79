//! Calls from the broker to its clients: tools that ask consumers, and replies on their way to whoever asked.

use ledgermq_protocol::json::Body;
use ledgermq_protocol::json::object_map::MessageQueue;
use ledgermq_protocol::message::id::offset_id;
use ledgermq_protocol::message::properties::{self, name};
use ledgermq_protocol::message::record::RecordRef;
use ledgermq_protocol::remoting::command::RemotingCommand;
use ledgermq_protocol::remoting::headers::admin::{ConsumeMessageDirectly, ConsumerRunningInfo, ConsumerStatus};
use ledgermq_protocol::remoting::headers::send::SendMessage;
use ledgermq_protocol::remoting::request_code::RequestCode;
use ledgermq_protocol::remoting::response_code::ResponseCode;
use ledgermq_protocol::stats::{GetConsumerStatusBody, ResetOffsetBody};

use super::super::*;
use super::fixture::*;

fn running_info(client_id: &str) -> RemotingCommand {
    let header = ConsumerRunningInfo { consumer_group: "g".into(), client_id: client_id.into(), jstack: Some(false) };
    RemotingCommand::request(RequestCode::GET_CONSUMER_RUNNING_INFO, 0).with_header(&header)
}

/// A tool must be told what just the asked consumer says, and at once when there is none, or when it goes away meanwhile.
#[tokio::test]
async fn a_tool_asks_a_consumer_through_the_broker() {
    let cluster = Cluster::start(1).await;
    let mut tool = cluster.leader_client().await;
    tool.produce("T", 0, "m0", "").await;
    let (mut one, mut two) = (cluster.leader_client().await, cluster.leader_client().await);
    one.beat("one", "g", "T", "*", 1).await;
    two.beat("two", "g", "T", "*", 1).await;
    two.group_exists(&cluster, "g").await;
    let asked = tool.send(running_info("two")).await;
    let call = two.called(RequestCode::GET_CONSUMER_RUNNING_INFO).await;
    assert_eq!((call.ext.get("consumerGroup"), call.ext.get("clientId")), (Some("g"), Some("two")));
    assert_eq!(call.ext.get("jstackEnable"), Some("false"));
    two.respond(&call, 0, b"{\"properties\":{}}").await;
    let answer = tool.answer(asked).await;
    assert_eq!((answer.code, &answer.body[..]), (0, &b"{\"properties\":{}}"[..]));

    // By an id of the broker: the message, as it is stored, and what the broker knows of topic and group.
    let pulled = tool.ask(pull_request(&pull_header("g", "T", 0, 0, 4))).await;
    let (store_host, offset) = (records(&pulled)[0].store_host(), records(&pulled)[0].physical_offset());
    let directly = |client_id: Option<&str>, msg_id: &str| {
        let header = ConsumeMessageDirectly {
            consumer_group: "g".into(),
            client_id: client_id.map(str::to_owned),
            msg_id: Some(msg_id.into()),
            broker_name: None,
            topic: Some("T".into()),
            topic_sys_flag: None,
            group_sys_flag: None,
        };
        RemotingCommand::request(RequestCode::CONSUME_MESSAGE_DIRECTLY, 0).with_header(&header)
    };
    let id = offset_id(store_host, offset);
    for client_id in [Some("two"), None] {
        let asked = tool.send(directly(client_id, &id)).await;
        let call = two.called(RequestCode::CONSUME_MESSAGE_DIRECTLY).await;
        let (broker, client) = (call.ext.get("brokerName"), call.ext.get("clientId"));
        assert_eq!((broker, client), (Some("broker-a"), Some("two")), "of any the last one that has connected");
        assert_eq!((call.ext.get("topicSysFlag"), call.ext.get("groupSysFlag")), (Some("0"), Some("0")));
        assert_eq!(RecordRef::decode(&call.body).unwrap().body(), b"m0");
        two.respond(&call, 0, b"{\"consumeResult\":\"CR_SUCCESS\"}").await;
        assert_eq!(&tool.answer(asked).await.body[..], b"{\"consumeResult\":\"CR_SUCCESS\"}");
    }
    for (request, code) in [
        (running_info("three"), ResponseCode::SYSTEM_ERROR),
        (directly(Some("three"), &id), ResponseCode::SYSTEM_ERROR),
        (directly(None, &offset_id(store_host, offset + 1)), ResponseCode::SYSTEM_ERROR),
        (directly(None, "7F000001"), ResponseCode::INVALID_PARAMETER),
    ] {
        let answer = tool.ask(request).await;
        assert_eq!(answer.code, code, "{answer:?}");
    }

    let asked = tool.send(running_info("one")).await;
    one.called(RequestCode::GET_CONSUMER_RUNNING_INFO).await;
    let left = Instant::now();
    drop(one);
    let answer = tool.answer(asked).await;
    assert_eq!(answer.code, ResponseCode::SYSTEM_ERROR);
    assert!(answer.remark.unwrap().contains("connection to the client ended"));
    assert!(left.elapsed() < Duration::from_secs(5), "the caller waited for a client that is gone");
    cluster.stop().await;
}

/// A group's status is what its consumers say; one that says nothing sensible must not spoil it.
#[tokio::test]
async fn a_groups_status_is_gathered_from_its_consumers() {
    let cluster = Cluster::start(1).await;
    let mut tool = cluster.leader_client().await;
    let status = |client: Option<&str>| {
        let header = ConsumerStatus { topic: "T".into(), group: "g".into(), client: client.map(str::to_owned) };
        RemotingCommand::request(RequestCode::INVOKE_BROKER_TO_GET_CONSUMER_STATUS, 0).with_header(&header)
    };
    assert_eq!(tool.ask(status(None)).await.code, ResponseCode::SYSTEM_ERROR);
    let mut consumers = [cluster.leader_client().await, cluster.leader_client().await, cluster.leader_client().await];
    for (consumer, client_id) in consumers.iter_mut().zip(["a", "b", "c"]) {
        consumer.beat(client_id, "g", "T", "*", 1).await;
    }
    let queue = MessageQueue { broker_name: "broker-a".into(), queue_id: 1, topic: "T".into() };
    let table = [(queue, 7)].into();
    let asked = tool.send(status(None)).await;
    for (consumer, body) in consumers.iter_mut().zip([
        GetConsumerStatusBody { message_queue_table: table, ..GetConsumerStatusBody::default() }.to_json(),
        b"{".to_vec().into(),
        GetConsumerStatusBody::default().to_json(),
    ]) {
        let call = consumer.called(RequestCode::GET_CONSUMER_STATUS_FROM_CLIENT).await;
        assert_eq!((call.ext.get("topic"), call.ext.get("group")), (Some("T"), Some("g")));
        consumer.respond(&call, 0, &body).await;
    }
    let answer = tool.answer(asked).await;
    let told = GetConsumerStatusBody::from_json(&answer.body).unwrap().consumer_table;
    let shown: Vec<_> =
        told.iter().map(|(client, offsets)| (client.as_str(), offsets.0.values().copied().collect())).collect();
    assert_eq!(shown, [("a", vec![7]), ("c", vec![])]);
    let asked = tool.send(status(Some("c"))).await;
    let call = consumers[2].called(RequestCode::GET_CONSUMER_STATUS_FROM_CLIENT).await;
    consumers[2].respond(&call, 0, &ResetOffsetBody::default().to_json()).await;
    let answer = tool.answer(asked).await;
    let told = GetConsumerStatusBody::from_json(&answer.body).unwrap().consumer_table;
    assert_eq!(told.into_keys().collect::<Vec<_>>(), ["c"]);
    cluster.stop().await;
}

fn request_of(client_id: &str) -> String {
    format!("CORRELATION_ID\u{1}77\u{2}REPLY_TO_CLIENT\u{1}{client_id}\u{2}TTL\u{1}3000\u{2}")
}

fn reply(code: i32, given: &str) -> RemotingCommand {
    let header = SendMessage { topic: "TestCluster_REPLY_TOPIC", ..send_header("", 0, given) };
    request_with(code, &header, b"the reply")
}

/// A reply must reach the client that asked, on whichever node it is connected and whichever node the reply comes to; where it
/// cannot be handed over, whoever replied must be told.
#[tokio::test]
async fn a_reply_finds_its_way_to_the_client_that_asked() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let mut asker = cluster.client(leader).await;
    let given = request_of("asker");
    // Its request alone says who it is: no heartbeat has come.
    let answer = asker.ask(send_request("T", 0, b"a question", &given)).await;
    assert_eq!(answer.code, 0, "{answer:?}");
    let codes = [RequestCode::SEND_REPLY_MESSAGE, RequestCode::SEND_REPLY_MESSAGE_V2];
    for (node, code) in (0..3).zip(codes.into_iter().cycle()) {
        let mut responder = cluster.client(node).await;
        let replied = responder.send(reply(code, &given)).await;
        let push = asker.called(RequestCode::PUSH_REPLY_MESSAGE_TO_CLIENT).await;
        assert_eq!((&push.body[..], push.ext.get("topic")), (&b"the reply"[..], Some("TestCluster_REPLY_TOPIC")));
        assert_eq!(push.ext.get("bornHost"), Some(responder.address().to_string().as_str()));
        let told = push.ext.get("properties").unwrap();
        assert_eq!(properties::get(told, name::CORRELATION_ID), Some("77"));
        assert!(properties::get(told, name::PUSH_REPLY_TIME).is_some());
        asker.respond(&push, 0, b"").await;
        let answer = responder.answer(replied).await;
        assert_eq!((answer.code, answer.ext.get("msgId"), answer.ext.get("queueOffset")), (0, Some("0"), Some("0")));
    }
    let topic = cluster.nodes[leader].replicas[0].tables().topic("TestCluster_REPLY_TOPIC").unwrap();
    assert_eq!(topic.next_offset(0), 0, "replies are handed over, not stored");

    // A consumer that gives the request back, or a copy of it, does not draw the replies to itself.
    let mut copier = cluster.client(leader).await;
    assert_eq!(copier.ask(send_request("%RETRY%g", 0, b"a question", &given)).await.code, 0);
    asker.beat("asker", "g", "T", "*", 1).await;
    assert_eq!(copier.ask(send_request("T", 0, b"a question", &given)).await.code, 0);
    let mut responder = cluster.client((leader + 1) % 3).await;
    let replied = responder.send(reply(codes[1], &given)).await;
    let push = asker.called(RequestCode::PUSH_REPLY_MESSAGE_TO_CLIENT).await;
    asker.respond(&push, ResponseCode::SYSTEM_ERROR, b"").await;
    let answer = responder.answer(replied).await;
    assert_eq!(answer.code, ResponseCode::SYSTEM_ERROR, "the client has refused it: {answer:?}");

    drop(asker);
    for (given, words) in [(request_of("asker"), "not found"), (String::new(), "REPLY_TO_CLIENT is missing")] {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = responder.ask(reply(codes[0], &given)).await;
            let remark = answer.remark.unwrap_or_default();
            if answer.code == ResponseCode::SYSTEM_ERROR && remark.contains(words) {
                break;
            }
            assert!(Instant::now() < deadline, "{} {remark}", answer.code);
        }
    }
    cluster.stop().await;
}

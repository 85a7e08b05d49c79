//! Calls from the broker to its clients: tools that ask consumers, and replies on their way to whoever asked.

use ledgermq_protocol::json::Body;
use ledgermq_protocol::json::object_map::MessageQueue;
use ledgermq_protocol::message::id::offset_id;
use ledgermq_protocol::message::record::RecordRef;
use ledgermq_protocol::remoting::command::RemotingCommand;
use ledgermq_protocol::remoting::headers::admin::{ConsumeMessageDirectly, ConsumerRunningInfo, ConsumerStatus};
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

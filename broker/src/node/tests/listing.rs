//! Topics, groups, clients and figures as tools see them.

use ledgermq_protocol::consumer_list::{ConsumerConnection, GroupList, GroupSubscription, ProducerConnection};
use ledgermq_protocol::extension::field as ext;
use ledgermq_protocol::heartbeat::{ConsumeType, HeartbeatData, ProducerData};
use ledgermq_protocol::json::Body;
use ledgermq_protocol::json::object_map::MessageQueue;
use ledgermq_protocol::kv_table::KvTable;
use ledgermq_protocol::remoting::command::RemotingCommand;
use ledgermq_protocol::remoting::headers::pull::FLAG_SUBSCRIPTION;
use ledgermq_protocol::remoting::request_code::RequestCode;
use ledgermq_protocol::remoting::response_code::ResponseCode;
use ledgermq_protocol::route::TopicList;
use ledgermq_protocol::stats::{
    AllConsumerOffsets, BrokerStatsData, ConsumeStats, ConsumeTimeSpans, OffsetWrapper, TopicStatsTable,
};
use ledgermq_protocol::subscription_group::SubscriptionGroupConfig;
use ledgermq_protocol::topic::TopicConfig;

use super::fixture::*;

fn ask(code: i32, fields: &[(&str, &str)]) -> RemotingCommand {
    fields.iter().fold(RemotingCommand::request(code, 0), |request, (name, value)| request.with_ext(name, value))
}

fn read<B: Body>(answer: &RemotingCommand) -> B {
    assert_eq!(answer.code, ResponseCode::SUCCESS, "{answer:?}");
    B::from_json(&answer.body).unwrap()
}

fn queue(topic: &str, queue_id: i32) -> MessageQueue {
    MessageQueue { broker_name: "broker-a".into(), queue_id, topic: topic.into() }
}

/// A cluster of one node with 3 messages in queue 0 of T, all of them handed to group g, of which it has committed 2.
async fn with_messages() -> (Cluster, Client) {
    let cluster = Cluster::start(1).await;
    let mut client = cluster.leader_client().await;
    for n in 0..3 {
        client.produce("T", 0, &format!("m{n}"), "").await;
    }
    client.beat("c", "g", "T", "a || b", 7).await;
    client.group_exists(&cluster, "g").await;
    let pull = pull_header("g", "T", 0, 0, FLAG_SUBSCRIPTION);
    assert_eq!(bodies(&client.ask(pull_request(&pull)).await).len(), 3);
    assert_eq!(client.ask(update_request("g", "T", 0, 2)).await.code, 0);
    (cluster, client)
}

/// A group's lag must be right to the message, whether its commits waited for an answer or not, and while it is stopped.
#[tokio::test]
async fn how_far_a_group_is() {
    let (cluster, mut client) = with_messages().await;
    let stats_of = |fields: &[(&str, &str)]| ask(RequestCode::GET_CONSUME_STATS, fields);
    let all = stats_of(&[("consumerGroup", "g")]);
    let stats: ConsumeStats = read(&client.ask(all.clone()).await);
    let of_queue = stats.offset_table[&queue("T", 0)];
    let times = of_queue.last_timestamp;
    let expected = OffsetWrapper { broker_offset: 3, consumer_offset: 2, pull_offset: 2, last_timestamp: times };
    assert_eq!((of_queue, stats.offset_table.len()), (expected, 4));
    assert!(times > 1_700_000_000_000 && stats.consume_tps > 0.0);
    client.send(RemotingCommand { flag: 2, ..update_request("g", "T", 0, 3) }).await;
    let stats: ConsumeStats = read(&client.ask(all.clone()).await);
    assert_eq!(stats.offset_table[&queue("T", 0)].consumer_offset, 3);
    for (fields, queues) in [
        (&[("consumerGroup", "g"), ("topic", "T")][..], 4),
        (&[("consumerGroup", "g"), ("topicList", "T;TBW102;Nope")], 12),
        (&[("consumerGroup", "g"), ("topic", "Nope")], 0),
        (&[("consumerGroup", "nobody")], 0),
    ] {
        let stats: ConsumeStats = read(&client.ask(stats_of(fields)).await);
        assert_eq!(stats.offset_table.len(), queues, "{fields:?}");
    }
    let spans = ask(RequestCode::QUERY_CONSUME_TIME_SPAN, &[("topic", "T"), ("group", "g")]);
    let spans: ConsumeTimeSpans = read(&client.ask(spans).await);
    let span = &spans.consume_time_span_set[0];
    assert_eq!((span.delay_time, span.consume_time_stamp), (0, span.max_time_stamp));
    assert!(span.min_time_stamp > 0 && span.min_time_stamp <= span.max_time_stamp);
    assert_eq!(spans.consume_time_span_set[1].max_time_stamp, -1, "nothing is in it");

    // The group stops: what it committed is still told.
    let leave = ask(RequestCode::UNREGISTER_CLIENT, &[("clientID", "c"), ("consumerGroup", "g")]);
    assert_eq!(client.ask(leave).await.code, 0);
    let stats: ConsumeStats = read(&client.ask(all).await);
    assert_eq!(stats.offset_table[&queue("T", 0)].consumer_offset, 3);
    let everything: AllConsumerOffsets = read(&client.ask(ask(RequestCode::GET_ALL_CONSUMER_OFFSET, &[])).await);
    assert_eq!(everything.offset_table["T@g"].0, [(0, 3)].into());
    let topics = client.ask(ask(RequestCode::QUERY_TOPICS_BY_CONSUMER, &[("group", "g")])).await;
    assert_eq!(read::<TopicList>(&topics).topic_list, ["T"]);
    let groups = client.ask(ask(RequestCode::QUERY_TOPIC_CONSUME_BY_WHO, &[("topic", "T")])).await;
    assert_eq!(read::<GroupList>(&groups).group_list, ["g"]);
    cluster.stop().await;
}

/// Who is connected must be told while it is, with what it said of itself, and no longer.
#[tokio::test]
async fn who_is_connected() {
    let (cluster, mut client) = with_messages().await;
    let producers = ask(RequestCode::GET_PRODUCER_CONNECTION_LIST, &[("producerGroup", "P")]);
    assert_eq!(client.ask(producers.clone()).await.code, ResponseCode::SYSTEM_ERROR);
    let data = HeartbeatData {
        client_id: "p".into(),
        producer_data_set: vec![
            ProducerData { group_name: "P".into() },
            ProducerData { group_name: "not a name".into() },
        ],
        ..HeartbeatData::default()
    };
    let beat = RemotingCommand::request(RequestCode::HEART_BEAT, 0).with_body(data.to_json());
    let mut producer = cluster.leader_client().await;
    assert_eq!(producer.ask(beat.clone()).await.code, 0);
    let listed: ProducerConnection = read(&client.ask(producers.clone()).await);
    assert_eq!(listed.connection_set.len(), 1);
    let one = &listed.connection_set[0];
    assert_eq!((one.client_id.as_str(), one.language.as_str(), one.version), ("p", "JAVA", beat.version));
    assert!(one.client_addr.starts_with("127.0.0.1:"));
    let leave = ask(RequestCode::UNREGISTER_CLIENT, &[("clientID", "p"), ("producerGroup", "P")]);
    assert_eq!(producer.ask(leave).await.code, 0);
    assert_eq!(client.ask(producers.clone()).await.code, ResponseCode::SYSTEM_ERROR);
    assert_eq!(producer.ask(beat).await.code, 0);
    drop(producer);
    let deadline = std::time::Instant::now() + PATIENCE;
    while client.ask(producers.clone()).await.code == ResponseCode::SUCCESS {
        assert!(std::time::Instant::now() < deadline, "a closed connection is still listed");
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }

    let consumers = |group: &str| ask(RequestCode::GET_CONSUMER_CONNECTION_LIST, &[("consumerGroup", group)]);
    let listed: ConsumerConnection = read(&client.ask(consumers("g")).await);
    assert_eq!((listed.connection_set.len(), listed.connection_set[0].client_id.as_str()), (1, "c"));
    assert_eq!(
        (listed.subscription_table["T"].sub_string.as_str(), listed.consume_type),
        ("a || b", ConsumeType::Passively)
    );
    assert_eq!(client.ask(consumers("nobody")).await.code, ResponseCode::CONSUMER_NOT_ONLINE);
    let wanted = ask(RequestCode::QUERY_SUBSCRIPTION_BY_CONSUMER, &[("topic", "T"), ("group", "g")]);
    let wanted: GroupSubscription = read(&client.ask(wanted).await);
    assert_eq!(wanted.subscription_data.map(|data| data.tags_set), Some(vec!["a".to_owned(), "b".to_owned()]));
    cluster.stop().await;
}

/// What is configured and counted.
#[tokio::test]
async fn topics_groups_and_figures() {
    let (cluster, mut client) = with_messages().await;
    let of_topic = |code, topic: &str| ask(code, &[("topic", topic)]);
    let stats: TopicStatsTable = read(&client.ask(of_topic(RequestCode::GET_TOPIC_STATS_INFO, "T")).await);
    let ends = stats.offset_table[&queue("T", 0)];
    assert_eq!((ends.min_offset, ends.max_offset, stats.offset_table.len()), (0, 3, 4));
    assert!(ends.last_update_timestamp > 1_700_000_000_000 && stats.topic_put_tps > 0.0);
    assert_eq!(stats.offset_table[&queue("T", 1)].last_update_timestamp, 0);
    let config: TopicConfig = read(&client.ask(of_topic(RequestCode::GET_TOPIC_CONFIG, "T")).await);
    assert_eq!(config, TopicConfig::new("T", 4, 6));
    for code in [RequestCode::GET_TOPIC_STATS_INFO, RequestCode::GET_TOPIC_CONFIG] {
        assert_eq!(client.ask(of_topic(code, "Nope")).await.code, ResponseCode::TOPIC_NOT_EXIST);
    }
    let group = |name: &str| ask(RequestCode::GET_SUBSCRIPTIONGROUP_CONFIG, &[("group", name)]);
    let config: SubscriptionGroupConfig = read(&client.ask(group("g")).await);
    assert_eq!(config, SubscriptionGroupConfig::new("g"));
    assert_eq!(client.ask(group("nobody")).await.code, ResponseCode::SUBSCRIPTION_GROUP_NOT_EXIST);
    let system = client.ask(ask(RequestCode::GET_SYSTEM_TOPIC_LIST_FROM_BROKER, &[])).await;
    let expected =
        ["TestCluster", "broker-a", "TestCluster_REPLY_TOPIC", "RMQ_SYS_TRACE_TOPIC", "SELF_TEST_TOPIC", "TBW102"];
    assert_eq!(read::<TopicList>(&system).topic_list, expected);

    let counted =
        |name: &str, key: &str| ask(RequestCode::VIEW_BROKER_STATS_DATA, &[("statsName", name), ("statsKey", key)]);
    for (name, key) in [
        ("TOPIC_PUT_NUMS", "T"),
        ("GROUP_GET_NUMS", "T@g"),
        ("BROKER_PUT_NUMS", "TestCluster"),
        ("BROKER_GET_NUMS", "TestCluster"),
    ] {
        let figures: BrokerStatsData = read(&client.ask(counted(name, key)).await);
        let sums = [figures.stats_minute.sum, figures.stats_hour.sum, figures.stats_day.sum];
        assert_eq!(sums, [3, 3, 3], "{name} {key}");
    }
    for (name, key) in
        [("TOPIC_PUT_NUMS", "Nope"), ("GROUP_GET_NUMS", "T@nobody"), ("BROKER_PUT_NUMS", "x"), ("X", "T")]
    {
        assert_eq!(client.ask(counted(name, key)).await.code, ResponseCode::SYSTEM_ERROR, "{name} {key}");
    }
    let table = read::<KvTable>(&client.ask(ask(RequestCode::GET_BROKER_RUNTIME_INFO, &[])).await).table;
    let number = |key: &str| table[key].split(' ').next().unwrap().parse::<f64>().unwrap();
    assert_eq!((number("msgPutTotalTodayNow"), number("msgGetTotalTodayNow")), (3.0, 3.0));
    assert!(number("putTps") > 0.0 && number("getTransferredTps") > 0.0 && number("getMissTps") >= 0.0);
    assert_eq!(number("earliestMessageTimeStamp") as i64 / 1000, ends.last_update_timestamp / 1000);
    let used = number("commitLogDiskRatio");
    assert!(used > 0.0 && used < 1.0, "{used}");
    cluster.stop().await;
}

/// A follower must not answer with the offsets that it happens to know: it asks the leader.
#[tokio::test]
async fn figures_come_from_the_leader() {
    let cluster = Cluster::start(3).await;
    let mut leader = cluster.leader_client().await;
    leader.produce("T", 0, "m", "").await;
    let mut follower = cluster.client(cluster.follower().await).await;
    for request in [
        ask(RequestCode::GET_TOPIC_STATS_INFO, &[("topic", "T")]),
        ask(RequestCode::GET_CONSUME_STATS, &[("consumerGroup", "TOOLS_CONSUMER"), ("topic", "T")]),
        ask(RequestCode::QUERY_CONSUME_TIME_SPAN, &[("topic", "T"), ("group", "TOOLS_CONSUMER")]),
        ask(RequestCode::GET_ALL_CONSUMER_OFFSET, &[]),
    ] {
        let answer = follower.ask(request).await;
        assert_eq!(answer.code, ResponseCode::SUCCESS, "{answer:?}");
        assert!(answer.ext.contains(ext::LEADER), "not by itself: {answer:?}");
    }
    for request in [
        ask(RequestCode::GET_BROKER_RUNTIME_INFO, &[]),
        ask(RequestCode::GET_TOPIC_CONFIG, &[("topic", "T")]),
        ask(RequestCode::QUERY_TOPIC_CONSUME_BY_WHO, &[("topic", "T")]),
    ] {
        let answer = follower.ask(request).await;
        assert_eq!(answer.code, ResponseCode::SUCCESS, "{answer:?}");
        assert!(!answer.ext.contains(ext::LEADER), "as applied there: {answer:?}");
    }
    cluster.stop().await;
}

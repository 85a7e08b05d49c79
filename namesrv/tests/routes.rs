//! What clients and tools are told, over a socket: routes in the very bytes that Java and Go clients accept, the cluster, and
//! changes through the watch.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use ledgermq_protocol::extension::field;
use ledgermq_protocol::json::Body;
use ledgermq_protocol::remoting::command::{RemotingCommand, SerializeType};
use ledgermq_protocol::remoting::request_code::RequestCode;
use ledgermq_protocol::remoting::response_code::ResponseCode;
use ledgermq_protocol::route::{ClusterInfo, TopicList, TopicRouteData};
use ledgermq_protocol::topic::TopicConfig;
use peer::{Broker, Peer, namesrv, namesrv_with, route, text, watch};

#[allow(dead_code, reason = "each test program uses its part of it")]
mod peer;

/// The body of the official 5.4.0 library for the same route, but with quoted ids, which all clients take and Go needs compact.
const ROUTE_GOLDEN: &str = "{\"brokerDatas\":[{\"brokerAddrs\":{\"0\":\"192.168.1.2:10911\",\"2\":\"192.168.1.3:10911\"},\
\"brokerName\":\"broker-a\",\"cluster\":\"DefaultCluster\",\"enableActingMaster\":false}],\"filterServerTable\":{},\
\"queueDatas\":[{\"brokerName\":\"broker-a\",\"perm\":6,\"readQueueNums\":4,\"topicSysFlag\":0,\"writeQueueNums\":4}]}";

const CLUSTER_GOLDEN: &str = "{\"brokerAddrTable\":{\"broker-a\":{\"brokerAddrs\":{\"0\":\"192.168.1.2:10911\",\
\"2\":\"192.168.1.3:10911\"},\"brokerName\":\"broker-a\",\"cluster\":\"DefaultCluster\",\"enableActingMaster\":false}},\
\"clusterAddrTable\":{\"DefaultCluster\":[\"broker-a\"]}}";

/// The compressed registration that the official 5.4.0 library makes: TopicTest, 4 queues, data version counter 3.
const COMPRESSED_BODY: &str = "78da636060b0a8564ace2fcd2b492d52b232d6512a2e492c490d4b2d2acecccf53b232d0512ac9cc4d050ae6162859199\
a1b20402d0303032310cb86e41764268700d5289800a19942b0a79fbb8f6b7c88a3bb4235481153742c90640000532f1b63";

/// Clients must get the very text they are known to read; neither terms nor anything else of ours may be in it.
#[tokio::test]
async fn routes_are_written_as_clients_read_them() {
    let namesrv = namesrv().await;
    let mut broker = Peer::connect(&namesrv).await;
    let (leader, follower) = (Broker::new("192.168.1.2:10911"), Broker::new("192.168.1.3:10911"));
    let registered = broker.register(&leader, 0, 7).await;
    assert_eq!((registered.code, registered.ext.get("masterAddr")), (0, None));
    let registered = broker.register(&follower, 2, 7).await;
    assert_eq!((registered.code, registered.ext.get("masterAddr")), (0, Some("192.168.1.2:10911")));

    let mut client = Peer::connect(&namesrv).await;
    let answer = client.ask(route("TopicTest")).await;
    assert_eq!(answer.code, ResponseCode::SUCCESS);
    assert_eq!(text(&answer), ROUTE_GOLDEN);
    assert!(answer.ext.is_empty(), "stock clients are told nothing extra");
    let answer = client.ask(route("TopicTest").with_ext(field::ROUTE_TERMS, "true")).await;
    assert_eq!(text(&answer), ROUTE_GOLDEN);
    assert_eq!(answer.ext.get(field::ROUTE_TERMS), Some("broker-a:7"));
    let answer = client.ask(RemotingCommand::request(RequestCode::GET_BROKER_CLUSTER_INFO, 0)).await;
    assert_eq!(text(&answer), CLUSTER_GOLDEN);
    let answer = client.ask(RemotingCommand::request(RequestCode::GET_ALL_TOPIC_LIST_FROM_NAMESERVER, 0)).await;
    assert_eq!(text(&answer), "{\"topicList\":[\"TopicTest\"]}");
    // A client with binary headers is answered in kind.
    let answer = client.ask(route("TopicTest").with_serialize(SerializeType::RocketMq)).await;
    assert_eq!((answer.serialize, text(&answer)), (SerializeType::RocketMq, ROUTE_GOLDEN));
}

/// An official broker, which compresses its registration and knows neither groups nor terms, must be able to serve.
#[tokio::test]
async fn an_official_broker_registers() {
    let namesrv = namesrv().await;
    let mut official = Peer::connect(&namesrv).await;
    let bytes: Vec<u8> = (0..COMPRESSED_BODY.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&COMPRESSED_BODY[at..at + 2], 16).unwrap())
        .collect();
    let request = |id: &str| {
        RemotingCommand::request(RequestCode::REGISTER_BROKER, 0)
            .with_ext("brokerName", "apache")
            .with_ext("brokerAddr", if id == "0" { "10.0.0.1:10911" } else { "10.0.0.2:10911" })
            .with_ext("clusterName", "DefaultCluster")
            .with_ext("haServerAddr", "10.0.0.1:10912")
            .with_ext("brokerId", id)
            .with_ext("enableActingMaster", "false")
            .with_ext("compressed", "true")
            .with_ext("bodyCrc32", "0")
            .with_body(bytes.clone())
    };
    assert_eq!(official.ask(request("0")).await.code, 0);
    let slave = official.ask(request("1")).await;
    assert_eq!((slave.code, slave.ext.get("masterAddr")), (0, Some("10.0.0.1:10911")));
    let answer = official.ask(route("TopicTest")).await;
    let data = TopicRouteData::from_json(&answer.body).unwrap();
    assert_eq!(data.broker_datas[0].broker_addrs.len(), 2);
    assert_eq!(data.queue_datas[0].write_queue_nums, 4);

    // It asks whether its table is known, by its version.
    let query = |counter: u8| {
        RemotingCommand::request(RequestCode::QUERY_DATA_VERSION, 0)
            .with_ext("brokerName", "apache")
            .with_ext("brokerAddr", "10.0.0.1:10911")
            .with_ext("clusterName", "DefaultCluster")
            .with_ext("brokerId", "0")
            .with_body(format!("{{\"counter\":{counter},\"stateVersion\":0,\"timestamp\":1700000000000}}"))
    };
    assert_eq!(official.ask(query(3)).await.ext.get("changed"), Some("false"));
    assert_eq!(official.ask(query(4)).await.ext.get("changed"), Some("true"));
    // A damaged registration is refused with a reason.
    let damaged = official.ask(request("0").with_ext("bodyCrc32", "12345")).await;
    assert_eq!(damaged.code, ResponseCode::SYSTEM_ERROR);
    assert!(damaged.remark.unwrap().contains("checksum"));
}

/// Producers look up TBW102 to find brokers for a topic that does not exist yet.
#[tokio::test]
async fn the_template_of_automatic_topics_has_a_route() {
    let namesrv = namesrv().await;
    let mut peer = Peer::connect(&namesrv).await;
    let mut broker = Broker::new("192.168.1.2:10911");
    broker.topics = vec![TopicConfig::new("TBW102", 8, 7)];
    peer.register(&broker, 0, 1).await;
    let data = TopicRouteData::from_json(&peer.ask(route("TBW102")).await.body).unwrap();
    assert_eq!((data.queue_datas[0].perm, data.queue_datas[0].write_queue_nums), (7, 8));
    let missing = peer.ask(route("New")).await;
    assert_eq!(missing.code, ResponseCode::TOPIC_NOT_EXIST);
    assert!(missing.remark.unwrap().contains("New"));
}

/// After a restart "does not exist" would be a lie that makes clients drop their queues.
#[tokio::test]
async fn unknown_topics_are_not_denied_before_brokers_reported() {
    let namesrv = namesrv_with(|config| config.ready_max_ms = 60_000).await;
    let mut client = Peer::connect(&namesrv).await;
    let early = client.ask(route("TopicTest")).await;
    assert_eq!(early.code, ResponseCode::SYSTEM_ERROR);
    assert!(early.remark.unwrap().contains("not ready"));
    let early = client.ask(RemotingCommand::request(RequestCode::GET_BROKER_CLUSTER_INFO, 0)).await;
    assert_eq!(early.code, ResponseCode::SYSTEM_ERROR);

    let mut broker = Peer::connect(&namesrv).await;
    broker.register(&Broker::new("b:1"), 2, 1).await;
    assert_eq!(client.ask(route("TopicTest")).await.code, ResponseCode::SYSTEM_ERROR, "a follower tells no topics");
    broker.register(&Broker::new("a:1"), 0, 1).await;
    assert_eq!(client.ask(route("TopicTest")).await.code, ResponseCode::SUCCESS);
    assert_eq!(client.ask(route("Other")).await.code, ResponseCode::TOPIC_NOT_EXIST);
}

/// The failover as our client sees it: the lost connection is told at once, then the successor, each by a parked watch; the stock
/// route keeps the dead leader until then.
#[tokio::test]
async fn a_watch_tells_of_death_and_succession() {
    let namesrv = namesrv().await;
    let mut leader = Peer::connect(&namesrv).await;
    let mut follower = Peer::connect(&namesrv).await;
    leader.register(&Broker::new("a:1"), 0, 1).await;
    follower.register(&Broker::new("b:1"), 2, 1).await;

    let mut client = Peer::connect(&namesrv).await;
    let first = client.ask(watch("TopicTest", "0")).await;
    let version = first.ext.get(field::ROUTE_VERSION).unwrap().to_owned();
    assert_eq!(first.ext.get(field::ROUTE_SUSPECTS), Some(""));

    let parked = client.send(watch("TopicTest", &version)).await;
    drop(leader);
    let lost = client.receive().await.unwrap();
    assert_eq!((lost.opaque, lost.code), (parked, 0));
    assert_eq!(lost.ext.get(field::ROUTE_SUSPECTS), Some("broker-a"));
    assert_eq!(lost.body, first.body, "the address stays in the route");

    let version = lost.ext.get(field::ROUTE_VERSION).unwrap().to_owned();
    let parked = client.send(watch("TopicTest", &version)).await;
    follower.register(&Broker::new("b:1"), 0, 2).await;
    let moved = client.receive().await.unwrap();
    assert_eq!((moved.opaque, moved.ext.get(field::ROUTE_TERMS)), (parked, Some("broker-a:2")));
    let data = TopicRouteData::from_json(&moved.body).unwrap();
    assert_eq!(data.broker_datas[0].leader_addr(), Some("b:1"));
    assert_eq!(data.broker_datas[0].broker_addrs.len(), 1, "the dead leader's address went with its successor");
}

/// A repeated registration is no news: to wake every client each second would be worse than no watch.
#[tokio::test]
async fn a_repeated_registration_wakes_nobody() {
    let namesrv = namesrv().await;
    let mut broker = Peer::connect(&namesrv).await;
    broker.register(&Broker::new("a:1"), 0, 1).await;
    let mut client = Peer::connect(&namesrv).await;
    let version = client.ask(watch("TopicTest", "0")).await.ext.get(field::ROUTE_VERSION).unwrap().to_owned();
    let parked = client.send(watch("TopicTest", &version)).await;
    broker.register(&Broker::new("a:1"), 0, 1).await;
    broker.ask(Broker::new("a:1").heartbeat(0, 1)).await;
    let mut more = Broker::new("a:1");
    more.topics.push(TopicConfig::new("Other", 1, 6));
    broker.register(&more, 0, 1).await;
    // The next thing on the connection is the answer to the next request, not the watch.
    let answer = client.ask(route("TopicTest")).await;
    assert_eq!(answer.code, 0);
    more.topics[0].write_queue_nums = 8;
    broker.register(&more, 0, 1).await;
    assert_eq!(client.receive().await.unwrap().opaque, parked);
}

/// A watch of a topic that is to be created must end with its creation, and one of a topic whose brokers died with their expiry.
#[tokio::test]
async fn a_watch_tells_of_birth_and_end() {
    let namesrv = namesrv_with(|config| {
        config.ready_max_ms = 0;
        config.expiry_ms = 1_000;
    })
    .await;
    let mut client = Peer::connect(&namesrv).await;
    client.send(watch("TopicTest", "0")).await;
    let mut broker = Peer::connect(&namesrv).await;
    broker.register(&Broker::new("a:1"), 0, 1).await;
    let born = client.receive().await.unwrap();
    assert_eq!(born.code, ResponseCode::SUCCESS);
    let version = born.ext.get(field::ROUTE_VERSION).unwrap().to_owned();
    let gone = client.ask(watch("TopicTest", &version)).await;
    assert_eq!(gone.code, ResponseCode::TOPIC_NOT_EXIST);
    let list = client.ask(RemotingCommand::request(RequestCode::GET_ALL_TOPIC_LIST_FROM_NAMESERVER, 0)).await;
    assert_eq!(TopicList::from_json(&list.body).unwrap().topic_list, Vec::<String>::new());
}

/// The leader rule over the wire, with what a broker needs to know: that it was refused and why, and when to register again.
#[tokio::test]
async fn brokers_are_told_where_they_stand() {
    let namesrv = namesrv().await;
    let mut peer = Peer::connect(&namesrv).await;
    let (a, b) = (Broker::new("a:1"), Broker::new("b:1"));
    let must_register = |answer: RemotingCommand| answer.ext.get(field::MUST_REGISTER) == Some("true");
    assert!(must_register(peer.ask(a.heartbeat(0, 1)).await), "it is not known at all");
    peer.register(&a, 0, 1).await;
    assert!(!must_register(peer.ask(a.heartbeat(0, 1)).await));
    let version = |counter: u8| format!("{{\"counter\":{counter},\"stateVersion\":0,\"timestamp\":1700000000000}}");
    assert!(!must_register(peer.ask(a.heartbeat(0, 1).with_ext(field::DATA_VERSION, &version(3))).await));
    assert!(must_register(peer.ask(a.heartbeat(0, 1).with_ext(field::DATA_VERSION, &version(4))).await));

    peer.register(&b, 0, 2).await;
    assert!(must_register(peer.ask(a.heartbeat(0, 1)).await), "it was deposed");
    let refused = peer.register(&a, 0, 1).await;
    assert_eq!(refused.code, ResponseCode::SYSTEM_ERROR);
    assert!(refused.remark.as_ref().unwrap().contains("term 2"), "{refused:?}");
    assert_eq!(peer.register(&a, 1, 2).await.ext.get("masterAddr"), Some("b:1"));

    let mut other = Broker::new("x:1");
    other.group = Some("6f1c0c52-95a4-4e7e-9d0a-2f8f7b6c0002");
    assert!(peer.register(&other, 0, 99).await.remark.unwrap().contains("6f1c0c52-95a4-4e7e-9d0a-2f8f7b6c0001"));
    let unregister = RemotingCommand::request(RequestCode::UNREGISTER_BROKER, 0)
        .with_ext("brokerName", "broker-a")
        .with_ext("brokerAddr", "a:1")
        .with_ext("clusterName", "DefaultCluster")
        .with_ext("brokerId", "1");
    assert_eq!(peer.ask(unregister).await.code, 0);
    let info = peer.ask(RemotingCommand::request(RequestCode::GET_BROKER_CLUSTER_INFO, 0)).await;
    let info = ClusterInfo::from_json(&info.body).unwrap();
    assert_eq!(info.broker_addr_table["broker-a"].broker_addrs.len(), 1);
}

/// A heartbeat of a broker with many topics must stay small: RocketMQ's grew to tens of MB and killed live brokers.
#[tokio::test]
async fn a_heartbeat_stays_below_a_kilobyte() {
    let mut broker = Broker::new("broker-a-with-quite-a-long-host-name.example.internal:10911");
    broker.topics = (0..10_000).map(|n| TopicConfig::new(format!("Topic{n}"), 8, 6)).collect();
    let version =
        r#"{"counter":9223372036854775807,"stateVersion":9223372036854775807,"timestamp":9223372036854775807}"#;
    let heartbeat = broker.heartbeat(0, i64::MAX).with_ext(field::DATA_VERSION, version);
    let mut bytes = bytes::BytesMut::new();
    ledgermq_protocol::remoting::frame::encode(&heartbeat, &mut bytes).unwrap();
    assert!(bytes.len() < 1_024, "{} bytes", bytes.len());

    let namesrv = namesrv().await;
    let mut peer = Peer::connect(&namesrv).await;
    peer.register(&broker, 0, i64::MAX).await;
    assert_eq!(peer.ask(heartbeat).await.ext.get(field::MUST_REGISTER), Some("true"));
    assert_eq!(peer.ask(route("Topic9999")).await.code, 0);
}

/// What tools list and keep at a name server.
#[tokio::test]
async fn lists_and_keys_for_tools() {
    let namesrv = namesrv().await;
    let mut broker = Peer::connect(&namesrv).await;
    let leader = Broker::new("192.168.1.2:10911");
    broker.register(&leader, 0, 7).await;
    let mut tool = Peer::connect(&namesrv).await;
    let ask = |code, fields: &[(&str, &str)]| {
        fields.iter().fold(RemotingCommand::request(code, 0), |request, (name, value)| request.with_ext(name, value))
    };
    let of_cluster = |cluster: &str| ask(RequestCode::GET_TOPICS_BY_CLUSTER, &[("cluster", cluster)]);
    assert_eq!(text(&tool.ask(of_cluster("DefaultCluster")).await), "{\"topicList\":[\"TopicTest\"]}");
    assert_eq!(text(&tool.ask(of_cluster("Other")).await), "{\"topicList\":[]}");
    let system = tool.ask(ask(RequestCode::GET_SYSTEM_TOPIC_LIST_FROM_NS, &[])).await;
    let expected = r#"{"brokerAddr":"192.168.1.2:10911","topicList":["DefaultCluster","broker-a"]}"#;
    assert_eq!(text(&system), expected);

    let key = [("namespace", "N"), ("key", "k")];
    let put = ask(RequestCode::PUT_KV_CONFIG, &[("namespace", "N"), ("key", "k"), ("value", "v")]);
    assert_eq!(tool.ask(put).await.code, ResponseCode::SUCCESS);
    assert_eq!(tool.ask(ask(RequestCode::GET_KV_CONFIG, &key)).await.ext.get("value"), Some("v"));
    let list = ask(RequestCode::GET_KVLIST_BY_NAMESPACE, &[("namespace", "N")]);
    assert_eq!(text(&tool.ask(list.clone()).await), r#"{"table":{"k":"v"}}"#);
    assert_eq!(tool.ask(ask(RequestCode::DELETE_KV_CONFIG, &key)).await.code, ResponseCode::SUCCESS);
    assert_eq!(tool.ask(ask(RequestCode::GET_KV_CONFIG, &key)).await.code, ResponseCode::QUERY_NOT_FOUND);
    assert_eq!(tool.ask(list).await.code, ResponseCode::QUERY_NOT_FOUND);
    assert_eq!(tool.ask(ask(RequestCode::GET_KV_CONFIG, &key[..1])).await.code, ResponseCode::INVALID_PARAMETER);

    // Deleted at the name server alone, a topic comes back from the broker that has it.
    let delete = ask(RequestCode::DELETE_TOPIC_IN_NAMESRV, &[("topic", "TopicTest")]);
    assert_eq!(tool.ask(delete).await.code, ResponseCode::SUCCESS);
    assert_eq!(tool.ask(route("TopicTest")).await.code, ResponseCode::TOPIC_NOT_EXIST);
    let answer = broker.ask(leader.heartbeat(0, 7)).await;
    assert_eq!(answer.ext.get(field::MUST_REGISTER), Some("true"));
    broker.register(&leader, 0, 7).await;
    assert_eq!(
        text(&tool.ask(route("TopicTest")).await).len(),
        ROUTE_GOLDEN.len() - ",\"2\":\"192.168.1.3:10911\"".len()
    );
}

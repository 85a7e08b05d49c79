//! Offsets as a consumer sees them.

use ledgermq_protocol::remoting::command::RemotingCommand;
use ledgermq_protocol::remoting::headers::offset::{Boundary, EarliestStoreTime, MaxOffset, MinOffset, SearchOffset};
use ledgermq_protocol::remoting::headers::pull::{FLAG_COMMIT_OFFSET, FLAG_SUBSCRIPTION, PullMessage};
use ledgermq_protocol::remoting::request_code::RequestCode;
use ledgermq_protocol::remoting::response_code::ResponseCode;

use super::fixture::*;

/// What a group committed must be what it is told, whether it waited for the answer or not, and also when it goes back.
#[tokio::test]
async fn a_query_sees_every_commit_before_it() {
    let cluster = Cluster::start(1).await;
    let mut client = cluster.leader_client().await;
    for n in 0..5 {
        client.produce("T", 0, &format!("m{n}"), "").await;
    }
    client.beat("c", "g", "T", "*", 1).await;
    client.group_exists(&cluster, "g").await;
    // A new group on a young queue starts at its first message.
    assert_eq!(field(&client.offset("g", "T", 0).await, "offset"), 0);
    assert_eq!(client.offset("g", "Nope", 0).await.code, ResponseCode::QUERY_NOT_FOUND);

    assert_eq!(client.ask(update_request("g", "T", 0, 4)).await.code, 0);
    assert_eq!(field(&client.offset("g", "T", 0).await, "offset"), 4);
    let oneway = |offset| RemotingCommand { flag: 2, ..update_request("g", "T", 0, offset) };
    client.send(oneway(5)).await;
    assert_eq!(field(&client.offset("g", "T", 0).await, "offset"), 5);
    client.send(oneway(2)).await;
    client.send(oneway(3)).await;
    assert_eq!(field(&client.offset("g", "T", 0).await, "offset"), 3);
    // An answered commit comes after the one-way ones before it.
    client.send(oneway(5)).await;
    assert_eq!(client.ask(update_request("g", "T", 0, 1)).await.code, 0);
    assert_eq!(field(&client.offset("g", "T", 0).await, "offset"), 1);
    let pull = PullMessage { commit_offset: 2, ..pull_header("g", "T", 0, 2, FLAG_SUBSCRIPTION | FLAG_COMMIT_OFFSET) };
    assert_eq!(client.ask(pull_request(&pull)).await.code, 0);
    assert_eq!(field(&client.offset("g", "T", 0).await, "offset"), 2);

    for (request, code) in [
        (update_request("g", "T", 0, 6), ResponseCode::INVALID_PARAMETER),
        (update_request("g", "T", 0, -1), ResponseCode::INVALID_PARAMETER),
        (update_request("g", "T", 77, 0), ResponseCode::INVALID_PARAMETER),
        (update_request("g", "Nope", 0, 0), ResponseCode::TOPIC_NOT_EXIST),
        (update_request("nobody", "T", 0, 0), ResponseCode::SUBSCRIPTION_GROUP_NOT_EXIST),
    ] {
        let answer = client.ask(request).await;
        assert_eq!(answer.code, code, "{answer:?}");
    }
    assert_eq!(field(&client.offset("g", "T", 0).await, "offset"), 2);
    cluster.stop().await;
}

/// One-way commits must reach the log by themselves, without a query.
#[tokio::test]
async fn one_way_commits_are_proposed_by_the_timer() {
    let cluster = Cluster::start(1).await;
    let mut client = cluster.leader_client().await;
    client.produce("T", 0, "m", "").await;
    client.beat("c", "g", "T", "*", 1).await;
    client.group_exists(&cluster, "g").await;
    client.send(RemotingCommand { flag: 2, ..update_request("g", "T", 0, 1) }).await;
    let tables = cluster.nodes[0].replicas[0].tables();
    let topic = tables.topic("T").unwrap();
    let deadline = std::time::Instant::now() + PATIENCE;
    while tables.offset("g", topic.key(), 0) != Some(1) {
        assert!(std::time::Instant::now() < deadline, "the commit never came");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    cluster.stop().await;
}

/// The ends of a queue, and the search by time.
#[tokio::test]
async fn ends_of_a_queue() {
    let cluster = Cluster::start(1).await;
    let mut client = cluster.leader_client().await;
    for n in 0..3 {
        client.produce("T", 0, &format!("m{n}"), "").await;
    }
    let max = |topic: &str, queue| {
        let header = MaxOffset { topic: topic.into(), queue_id: queue, committed: None };
        RemotingCommand::request(RequestCode::GET_MAX_OFFSET, 0).with_header(&header)
    };
    assert_eq!(field(&client.ask(max("T", 0)).await, "offset"), 3);
    assert_eq!(field(&client.ask(max("T", 55)).await, "offset"), 0);
    assert_eq!(client.ask(max("Nope", 0)).await.code, ResponseCode::TOPIC_NOT_EXIST);
    let min = MinOffset { topic: "T".into(), queue_id: 0 };
    let min = RemotingCommand::request(RequestCode::GET_MIN_OFFSET, 0).with_header(&min);
    assert_eq!(field(&client.ask(min).await, "offset"), 0);
    let earliest = |queue| {
        let header = EarliestStoreTime { topic: "T".into(), queue_id: queue };
        RemotingCommand::request(RequestCode::GET_EARLIEST_MSG_STORETIME, 0).with_header(&header)
    };
    let first_ms = field(&client.ask(earliest(0)).await, "timestamp");
    assert!(first_ms > 1_700_000_000_000);
    assert_eq!(field(&client.ask(earliest(1)).await, "timestamp"), -1);
    let search = |timestamp_ms, boundary| {
        let header = SearchOffset { topic: "T".into(), queue_id: 0, timestamp_ms, boundary };
        RemotingCommand::request(RequestCode::SEARCH_OFFSET_BY_TIMESTAMP, 0).with_header(&header)
    };
    assert_eq!(field(&client.ask(search(first_ms, Boundary::Lower)).await, "offset"), 0);
    assert_eq!(field(&client.ask(search(i64::MAX, Boundary::Lower)).await, "offset"), 3);
    assert_eq!(field(&client.ask(search(i64::MAX, Boundary::Upper)).await, "offset"), 2);
    cluster.stop().await;
}

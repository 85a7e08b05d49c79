//! A group of three: what followers serve, what they refuse, and what clients see when leadership moves.

use ledgermq_protocol::extension::field as ext;
use ledgermq_protocol::remoting::command::RemotingCommand;
use ledgermq_protocol::remoting::headers::offset::MaxOffset;
use ledgermq_protocol::remoting::headers::pull::{FLAG_SUBSCRIPTION, FLAG_SUSPEND, PullMessage};
use ledgermq_protocol::remoting::request_code::RequestCode;
use ledgermq_protocol::remoting::response_code::ResponseCode;

use super::super::*;
use super::fixture::*;

fn max_offset() -> RemotingCommand {
    let header = MaxOffset { topic: "T".into(), queue_id: 0, committed: None };
    RemotingCommand::request(RequestCode::GET_MAX_OFFSET, 0).with_header(&header)
}

/// A follower must name the leader for everything that only a leader may answer, and serve committed messages itself.
#[tokio::test]
async fn followers_serve_messages_and_name_the_leader() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let mut producer = cluster.client(leader).await;
    producer.produce("T", 0, "m0", "").await;
    let follower = cluster.follower().await;
    let mut client = cluster.client(follower).await;
    // Held until the follower has applied it; "no such topic" until it knows the topic.
    let held = pull_header("g", "T", 0, 0, FLAG_SUBSCRIPTION | FLAG_SUSPEND);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = client.ask(pull_request(&held)).await;
        if answer.code == 0 {
            assert_eq!(bodies(&answer), ["m0"]);
            break;
        }
        assert_eq!(answer.code, ResponseCode::TOPIC_NOT_EXIST, "{answer:?}");
        assert!(Instant::now() < deadline);
    }
    // An offset that it has not reached is no reason to reset anything.
    let ahead = PullMessage { queue_offset: 50, sys_flag: FLAG_SUBSCRIPTION, ..held.clone() };
    let answer = client.ask(pull_request(&ahead)).await;
    assert_eq!((answer.code, field(&answer, "nextBeginOffset")), (ResponseCode::PULL_NOT_FOUND, 50));

    let leader_address = cluster.configs[leader].groups[0].listen.to_string();
    for request in [
        send_request("T", 0, b"x", ""),
        max_offset(),
        update_request("g", "T", 0, 0),
        RemotingCommand::request(RequestCode::QUERY_CONSUMER_OFFSET, 0)
            .with_ext("consumerGroup", "g")
            .with_ext("topic", "T")
            .with_ext("queueId", "0"),
    ] {
        let answer = client.ask(request.clone()).await;
        assert_eq!(answer.code, ResponseCode::SERVICE_NOT_AVAILABLE, "{request:?}: {answer:?}");
        assert_eq!(answer.ext.get(ext::LEADER), Some(leader_address.as_str()), "{request:?}");
        assert!(answer.remark.unwrap().contains(&leader_address));
    }
    client.beat("c", "g", "T", "*", 1).await;
    assert_eq!(cluster.nodes[follower].replicas()[0].consumers.client_ids("g"), ["c"]);
    cluster.stop().await;
}

/// When a leader stops, the next one must have everything that was answered and go on without a gap.
#[tokio::test]
async fn a_stopped_leader_is_followed_without_a_gap() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let mut client = cluster.client(leader).await;
    for n in 0..10 {
        assert_eq!(client.produce("T", 0, &format!("m{n}"), "").await, n);
    }
    client.beat("c", "g", "T", "*", 1).await;
    client.group_exists(&cluster, "g").await;
    // Kept for a moment by the leader: it must not be lost in a planned hand-over.
    client.send(RemotingCommand { flag: 2, ..update_request("g", "T", 0, 7) }).await;
    assert_eq!(client.ask(max_offset()).await.code, 0);
    cluster.nodes.remove(leader).stop().await.unwrap();
    cluster.configs.remove(leader);
    let mut client = cluster.leader_client().await;
    assert_eq!(field(&client.ask(max_offset()).await, "offset"), 10);
    assert_eq!(field(&client.offset("g", "T", 0).await, "offset"), 7);
    assert_eq!(client.produce("T", 0, "m10", "").await, 10);
    assert_eq!(field(&client.ask(max_offset()).await, "offset"), 11);
    let pulled = client.ask(pull_request(&pull_header("g", "T", 0, 0, FLAG_SUBSCRIPTION | FLAG_SUSPEND))).await;
    assert_eq!(bodies(&pulled).len(), 11);
    cluster.stop().await;
}

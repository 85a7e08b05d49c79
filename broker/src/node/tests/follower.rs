//! A group of three: what followers serve, what they refuse, and what clients see when leadership moves.

use ledgermq_protocol::extension::{code, field as ext};
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

/// A follower must pass on everything that only a leader may answer, name the leader with it, and serve committed messages itself.
#[tokio::test]
async fn followers_serve_messages_and_pass_the_rest_on() {
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

    producer.beat("p", "g", "T", "*", 1).await;
    producer.group_exists(&cluster, "g").await;
    let leader_address = cluster.configs[leader].groups[0].listen.to_string();
    for request in [
        send_request("T", 0, b"m1", ""),
        max_offset(),
        update_request("g", "T", 0, 1),
        RemotingCommand::request(RequestCode::QUERY_CONSUMER_OFFSET, 0)
            .with_ext("consumerGroup", "g")
            .with_ext("topic", "T")
            .with_ext("queueId", "0"),
    ] {
        let answer = client.ask(request.clone()).await;
        assert_eq!(answer.code, ResponseCode::SUCCESS, "{request:?}: {answer:?}");
        assert_eq!(answer.ext.get(ext::LEADER), Some(leader_address.as_str()), "{request:?}");
    }
    assert_eq!(field(&producer.ask(max_offset()).await, "offset"), 2);
    let answer = producer.ask(pull_request(&pull_header("g", "T", 0, 1, FLAG_SUBSCRIPTION | FLAG_SUSPEND))).await;
    let stored = records(&answer)[0];
    assert_eq!(
        (stored.body(), stored.born_host()),
        (&b"m1"[..], client.address()),
        "the client's address, not the member's"
    );
    assert_eq!(field(&producer.offset("g", "T", 0).await, "offset"), 1);
    client.send(RemotingCommand { flag: 2, ..update_request("g", "T", 0, 2) }).await;
    let deadline = Instant::now() + PATIENCE;
    while field(&producer.offset("g", "T", 0).await, "offset") != 2 {
        assert!(Instant::now() < deadline, "a one-way commit is passed on too");
    }
    client.beat("c", "g", "T", "*", 1).await;
    assert_eq!(cluster.nodes[follower].replicas()[0].consumers.client_ids("g"), ["c"]);
    cluster.stop().await;
}

/// Nobody passes a request on that was passed on already, and a leader takes none that was meant for another term: a delayed one
/// must not be carried out after its client has tried elsewhere.
#[tokio::test]
async fn a_request_is_passed_on_once_and_for_its_own_term() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let term = cluster.nodes[leader].replicas()[0].role().term;
    cluster.client(leader).await.produce("T", 0, "m0", "").await;
    let forwarded =
        |term: u64| send_request("T", 0, b"m1", "").with_ext(ext::FORWARDED, &format!("{term} 1000 10.1.2.3:4"));
    let follower = cluster.follower().await;
    for (node, term) in [(follower, term), (leader, term - 1), (leader, term + 1)] {
        let answer = cluster.client(node).await.ask(forwarded(term)).await;
        assert_eq!(answer.code, ResponseCode::SERVICE_NOT_AVAILABLE, "{answer:?}");
    }
    let mut client = cluster.client(leader).await;
    assert_eq!(client.ask(forwarded(term)).await.code, ResponseCode::SUCCESS);
    assert_eq!(field(&client.ask(max_offset()).await, "offset"), 2);
    cluster.stop().await;
}

/// A planned end must fail no send, though its clients know only the address of the node that ends; each must be stored once, in
/// order.
#[tokio::test]
async fn a_leader_that_drains_fails_no_send() {
    const BEFORE: usize = 50;
    const AFTER: usize = 200;
    let cluster = Cluster::start_with(3, |config| config.drain_linger_ms = 60_000).await;
    let leader = cluster.leader().await;
    let mut client = cluster.client(leader).await;
    client.produce("T", 0, "first", "").await;
    let (sent, mut progress) = watch::channel(0);
    let sending = tokio::spawn(async move {
        let mut replies = Vec::new();
        for n in 0..BEFORE + AFTER {
            replies.push(client.ask(send_request("T", 0, n.to_string().as_bytes(), "")).await);
            sent.send_replace(n);
        }
        replies
    });
    progress.wait_for(|n| *n >= BEFORE).await.unwrap();
    let draining = async {
        let node = &cluster.nodes[leader];
        tokio::time::timeout(PATIENCE, node.drain()).await.expect("it leaves once nobody sends");
        assert!(!node.replicas()[0].serves());
    };
    let (replies, ()) = tokio::join!(sending, draining);
    for (n, answer) in (1..).zip(replies.unwrap()) {
        assert_eq!((answer.code, field(&answer, "queueOffset")), (ResponseCode::SUCCESS, n), "{answer:?}");
    }
    let next = cluster.leader().await;
    assert_ne!(next, leader);
    assert_eq!(field(&cluster.client(next).await.ask(max_offset()).await, "offset"), (1 + BEFORE + AFTER) as i64);
    let question = RemotingCommand::request(code::LEDGER_MAY_LEAD, 0);
    assert_eq!(cluster.client(next).await.ask(question.clone()).await.code, ResponseCode::SUCCESS);
    assert_eq!(cluster.client(leader).await.ask(question).await.code, ResponseCode::SERVICE_NOT_AVAILABLE);
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

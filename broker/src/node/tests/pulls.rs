//! Pulls as a consumer sees them.

use ledgermq_protocol::remoting::command::RemotingCommand;
use ledgermq_protocol::remoting::headers::pull::{FLAG_SUBSCRIPTION, FLAG_SUSPEND, PullMessage};
use ledgermq_protocol::remoting::request_code::RequestCode;
use ledgermq_protocol::remoting::response_code::ResponseCode;

use super::super::*;
use super::fixture::*;

/// Each state of a queue has its code and next offset: a wrong one makes a client loop, skip or reset.
#[tokio::test]
async fn the_table_of_results() {
    let cluster = Cluster::start(1).await;
    let mut client = cluster.leader_client().await;
    for (n, tag) in ["A", "B", "A", "B"].into_iter().enumerate() {
        client.produce("T", 0, &format!("m{n}"), tag).await;
    }
    cluster.nodes[0].replicas[0].read_barrier().await.unwrap();
    let found = ResponseCode::SUCCESS;
    let (not_found, retry, moved) =
        (ResponseCode::PULL_NOT_FOUND, ResponseCode::PULL_RETRY_IMMEDIATELY, ResponseCode::PULL_OFFSET_MOVED);
    // Queue, offset, tags; code, next offset and bodies of the answer.
    type Case<'a> = (i32, i64, &'a str, i32, i64, &'a [&'a str]);
    let cases: [Case<'_>; 10] = [
        (0, 0, "*", found, 4, &["m0", "m1", "m2", "m3"]),
        (0, 3, "", found, 4, &["m3"]),
        (0, 0, "A", found, 4, &["m0", "m2"]),
        (0, 0, "A || B", found, 4, &["m0", "m1", "m2", "m3"]),
        (0, 1, "C", retry, 4, &[]),
        (0, 4, "*", not_found, 4, &[]),
        (0, 5, "*", moved, 4, &[]),
        (0, -1, "*", moved, 0, &[]),
        (1, 0, "*", not_found, 0, &[]),
        (1, 9, "*", moved, 0, &[]),
    ];
    for (queue, offset, expression, code, next, expected) in cases {
        let pull = PullMessage {
            subscription: Some(expression.into()),
            ..pull_header("g", "T", queue, offset, FLAG_SUBSCRIPTION)
        };
        let answer = client.ask(pull_request(&pull)).await;
        assert_eq!(answer.code, code, "offset {offset} of queue {queue}: {answer:?}");
        assert_eq!(field(&answer, "nextBeginOffset"), next, "offset {offset} of queue {queue}");
        assert_eq!(field(&answer, "minOffset"), 0);
        assert_eq!(field(&answer, "maxOffset"), if queue == 0 { 4 } else { 0 });
        assert_eq!(field(&answer, "suggestWhichBrokerId"), 0);
        assert_eq!(bodies(&answer), expected);
    }
    let few = PullMessage { max_msg_nums: 2, ..pull_header("g", "T", 0, 1, FLAG_SUBSCRIPTION) };
    let answer = client.ask(RemotingCommand::request(RequestCode::LITE_PULL_MESSAGE, 0).with_header(&few)).await;
    assert_eq!((bodies(&answer), field(&answer, "nextBeginOffset")), (vec!["m1".to_owned(), "m2".to_owned()], 3));
    let small = PullMessage { max_msg_bytes: Some(1), ..pull_header("g", "T", 0, 0, FLAG_SUBSCRIPTION) };
    assert_eq!(bodies(&client.ask(pull_request(&small)).await), ["m0"], "at least one message");
    cluster.stop().await;
}

/// The checks before a queue is looked at, in their order.
#[tokio::test]
async fn bad_pulls_are_refused_by_name() {
    let cluster = Cluster::start(1).await;
    let mut client = cluster.leader_client().await;
    client.produce("T", 0, "m", "").await;
    cluster.nodes[0].replicas[0].read_barrier().await.unwrap();
    client.beat("c", "g", "T", "A", 10).await;
    let plain = |topic: &str, queue| pull_header("g", topic, queue, 0, 0);
    let cases = [
        (PullMessage { consumer_group: "a b".into(), ..plain("T", 0) }, ResponseCode::SUBSCRIPTION_GROUP_NOT_EXIST),
        (plain("Nope", 0), ResponseCode::TOPIC_NOT_EXIST),
        (plain("T", 4), ResponseCode::INVALID_PARAMETER),
        (plain("T", -1), ResponseCode::INVALID_PARAMETER),
        (PullMessage { consumer_group: "other".into(), ..plain("T", 0) }, ResponseCode::SUBSCRIPTION_NOT_EXIST),
        (plain("SELF_TEST_TOPIC", 0), ResponseCode::SUBSCRIPTION_NOT_EXIST),
        (PullMessage { sub_version: 11, ..plain("T", 0) }, ResponseCode::SUBSCRIPTION_NOT_LATEST),
        (
            PullMessage { subscription: Some("||".into()), sys_flag: FLAG_SUBSCRIPTION, ..plain("T", 0) },
            ResponseCode::SUBSCRIPTION_PARSE_FAILED,
        ),
        (
            PullMessage { expression_type: Some("SQL92".into()), sys_flag: FLAG_SUBSCRIPTION, ..plain("T", 0) },
            ResponseCode::SUBSCRIPTION_PARSE_FAILED,
        ),
        (PullMessage { sub_version: 10, ..plain("T", 0) }, ResponseCode::PULL_RETRY_IMMEDIATELY),
    ];
    for (pull, code) in cases {
        let answer = client.ask(pull_request(&pull)).await;
        assert_eq!(answer.code, code, "{pull:?}: {answer:?}");
        assert!(answer.remark.is_some_and(|remark| !remark.is_empty()));
    }
    cluster.stop().await;
}

/// Would break: a Java consumer that starts while its client's timer sends a heartbeat. Its first pulls are newer than what the broker
/// knows, which passes everything: they are served. What a known tag would hold back is not.
#[tokio::test]
async fn a_newer_pull_is_served_where_nothing_is_held_back() {
    let cluster = Cluster::start(1).await;
    let mut client = cluster.leader_client().await;
    client.produce("T", 0, "m", "A").await;
    cluster.nodes[0].replicas[0].read_barrier().await.unwrap();
    for (group, expression, expression_type, code) in [
        ("all", "*", "TAG", ResponseCode::SUCCESS),
        ("sql", "*", "SQL92", ResponseCode::SUBSCRIPTION_NOT_LATEST),
        ("tag", "A", "TAG", ResponseCode::SUBSCRIPTION_NOT_LATEST),
    ] {
        client.beat("c", group, "T", expression, 10).await;
        let expression_type = Some(expression_type.to_owned());
        let newer = PullMessage { sub_version: 11, expression_type, ..pull_header(group, "T", 0, 0, 0) };
        let answer = client.ask(pull_request(&newer)).await;
        assert_eq!(answer.code, code, "{group}: {answer:?}");
    }
    cluster.stop().await;
}

/// A held pull must be answered by the message that it waits for, not by others, and not by the timer before its time.
#[tokio::test]
async fn held_pulls_wake_for_their_messages() {
    let cluster = Cluster::start(1).await;
    let mut producer = cluster.leader_client().await;
    let mut consumer = cluster.leader_client().await;
    producer.produce("T", 0, "m0", "A").await;
    cluster.nodes[0].replicas[0].read_barrier().await.unwrap();
    let held =
        PullMessage { subscription: Some("B".into()), ..pull_header("g", "T", 0, 1, FLAG_SUBSCRIPTION | FLAG_SUSPEND) };
    let waiting = consumer.send(pull_request(&held)).await;
    let pulls = &cluster.nodes[0].replicas[0].pulls;
    while pulls.is_empty() {
        tokio::task::yield_now().await;
    }
    producer.produce("T", 0, "m1", "A").await;
    producer.produce("T", 1, "other queue", "B").await;
    cluster.nodes[0].replicas[0].read_barrier().await.unwrap();
    assert_eq!(pulls.len(), 1);
    producer.produce("T", 0, "m2", "B").await;
    let answer = consumer.answer(waiting).await;
    assert_eq!((bodies(&answer), field(&answer, "nextBeginOffset")), (vec!["m2".to_owned()], 3));
    assert!(pulls.is_empty());

    let short = PullMessage { queue_offset: 3, suspend_timeout_ms: 100, ..held.clone() };
    let asked = Instant::now();
    let answer = consumer.ask(pull_request(&short)).await;
    assert_eq!((answer.code, field(&answer, "nextBeginOffset")), (ResponseCode::PULL_NOT_FOUND, 3));
    assert!(asked.elapsed() >= Duration::from_millis(100));

    consumer.send(pull_request(&PullMessage { queue_offset: 3, ..held })).await;
    while pulls.is_empty() {
        tokio::task::yield_now().await;
    }
    drop(consumer);
    let deadline = Instant::now() + PATIENCE;
    while !pulls.is_empty() {
        assert!(Instant::now() < deadline, "the pull of an ended connection stays");
        tokio::task::yield_now().await;
    }
    cluster.stop().await;
}

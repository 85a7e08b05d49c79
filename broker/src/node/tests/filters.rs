//! SQL92 subscriptions as a consumer sees them: by pulls that bring their expression, by heartbeats, and while nothing matches.

use ledgermq_protocol::heartbeat::{ConsumerData, HeartbeatData, SubscriptionData, TYPE_SQL92};
use ledgermq_protocol::json::Body;
use ledgermq_protocol::remoting::command::RemotingCommand;
use ledgermq_protocol::remoting::headers::pull::{FLAG_SUBSCRIPTION, FLAG_SUSPEND, PullMessage};
use ledgermq_protocol::remoting::request_code::RequestCode;
use ledgermq_protocol::remoting::response_code::ResponseCode;

use super::super::*;
use super::fixture::*;

fn sql_pull(group: &str, offset: i64, expression: &str, flags: i32) -> PullMessage {
    PullMessage {
        subscription: Some(expression.to_owned()),
        expression_type: Some(TYPE_SQL92.to_owned()),
        ..pull_header(group, "T", 0, offset, FLAG_SUBSCRIPTION | flags)
    }
}

fn sql_beat(group: &str, expression: &str, version: i64) -> RemotingCommand {
    let data = HeartbeatData {
        client_id: "c".to_owned(),
        consumer_data_set: vec![ConsumerData {
            group_name: group.to_owned(),
            subscription_data_set: vec![SubscriptionData::by_sql("T", expression, version)],
            ..ConsumerData::default()
        }],
        ..HeartbeatData::default()
    };
    RemotingCommand::request(RequestCode::HEART_BEAT, 0).with_body(data.to_json())
}

/// Sends `m<n>` with the property `n` to queue 0 of T.
async fn produce(client: &mut Client, n: usize, tag: &str) {
    let properties = format!("n\u{1}{n}\u{2}TAGS\u{1}{tag}\u{2}");
    let answer = client.ask(send_request("T", 0, format!("m{n}").as_bytes(), &properties)).await;
    assert_eq!(answer.code, 0, "{answer:?}");
}

/// A consumer gets what matches and nothing else, and never stands still where nothing does.
#[tokio::test]
async fn pulls_by_properties() {
    let cluster = Cluster::start(1).await;
    let mut client = cluster.leader_client().await;
    for n in 0..6 {
        produce(&mut client, n, if n % 2 == 0 { "even" } else { "odd" }).await;
    }
    client.produce("T", 0, "plain", "").await;
    cluster.nodes[0].replicas[0].read_barrier().await.unwrap();
    let (found, retry) = (ResponseCode::SUCCESS, ResponseCode::PULL_RETRY_IMMEDIATELY);
    type Case<'a> = (i64, &'a str, i32, i64, &'a [&'a str]);
    let cases: [Case<'_>; 7] = [
        (0, "n >= 2 AND TAGS = 'even'", found, 7, &["m2", "m4"]),
        (3, "n >= 2 AND TAGS = 'even'", found, 7, &["m4"]),
        (0, "n IN ('1', '5') OR n IS NULL", found, 7, &["m1", "m5", "plain"]),
        (0, "n > 5", retry, 7, &[]),
        (6, "TRUE", found, 7, &["plain"]),
        (0, "n < 'x'", ResponseCode::SUBSCRIPTION_PARSE_FAILED, -1, &[]),
        (0, "", ResponseCode::SUBSCRIPTION_PARSE_FAILED, -1, &[]),
    ];
    for (offset, expression, code, next, expected) in cases {
        let answer = client.ask(pull_request(&sql_pull("g", offset, expression, 0))).await;
        assert_eq!(answer.code, code, "{expression}: {answer:?}");
        if next >= 0 {
            assert_eq!(field(&answer, "nextBeginOffset"), next, "{expression}");
            assert_eq!(bodies(&answer), expected, "{expression}");
        }
    }
    let few = PullMessage { max_msg_nums: 2, ..sql_pull("g", 0, "n >= 1", 0) };
    let answer = client.ask(RemotingCommand::request(RequestCode::LITE_PULL_MESSAGE, 0).with_header(&few)).await;
    assert_eq!((bodies(&answer), field(&answer, "nextBeginOffset")), (vec!["m1".to_owned(), "m2".to_owned()], 3));
    cluster.stop().await;
}

/// Push consumers name their expression in heartbeats only. One that cannot be compiled is told so by each pull, in words.
#[tokio::test]
async fn heartbeats_bring_expressions() {
    let cluster = Cluster::start(1).await;
    let mut client = cluster.leader_client().await;
    for n in 0..4 {
        produce(&mut client, n, "t").await;
    }
    cluster.nodes[0].replicas[0].read_barrier().await.unwrap();
    assert_eq!(client.ask(sql_beat("g", "n > 1", 10)).await.code, 0);
    let consumers = &cluster.nodes[0].replicas[0].consumers;
    let compiled = || consumers.compiled("g", "T", TYPE_SQL92, "n > 1").unwrap().unwrap();
    let first = compiled();
    assert_eq!(client.ask(sql_beat("g", "n > 1", 11)).await.code, 0);
    assert!(Arc::ptr_eq(&first, &compiled()), "a newer heartbeat with the same expression keeps what is compiled");
    let by_heartbeat = PullMessage { sub_version: 11, ..pull_header("g", "T", 0, 0, 0) };
    assert_eq!(bodies(&client.ask(pull_request(&by_heartbeat)).await), ["m2", "m3"]);
    let newer = PullMessage { sub_version: 12, ..by_heartbeat.clone() };
    assert_eq!(client.ask(pull_request(&newer)).await.code, ResponseCode::SUBSCRIPTION_NOT_LATEST);

    let says_tag = PullMessage { subscription: Some("n > 1".to_owned()), sys_flag: FLAG_SUBSCRIPTION, ..newer.clone() };
    let answer = client.ask(pull_request(&says_tag)).await;
    assert_eq!(answer.code, ResponseCode::SUBSCRIPTION_PARSE_FAILED, "a pull that would pass all over: {answer:?}");

    assert_eq!(client.ask(sql_beat("g", "n > ", 12)).await.code, 0);
    let answer = client.ask(pull_request(&newer)).await;
    assert_eq!(answer.code, ResponseCode::FILTER_DATA_NOT_EXIST, "{answer:?}");
    let remark = answer.remark.unwrap();
    assert!(remark.contains("group g to T") && remark.contains("at character 5"), "{remark}");
    cluster.stop().await;
}

/// A held pull must sleep through messages that do not match, wake for one that does, and come back at its time with how far it
/// has looked.
#[tokio::test]
async fn held_pulls_wait_for_what_matches() {
    let cluster = Cluster::start(1).await;
    let mut producer = cluster.leader_client().await;
    let mut consumer = cluster.leader_client().await;
    produce(&mut producer, 0, "t").await;
    let replica = &cluster.nodes[0].replicas[0];
    replica.read_barrier().await.unwrap();
    let mut held = sql_pull("g", 1, "n = 3 OR n = 7", FLAG_SUSPEND);
    let mut waiting = consumer.send(pull_request(&held)).await;
    let parked = async || {
        let deadline = Instant::now() + PATIENCE;
        while replica.pulls.is_empty() {
            assert!(Instant::now() < deadline, "no pull waits");
            tokio::task::yield_now().await;
        }
    };
    parked().await;
    for n in 1..4 {
        produce(&mut producer, n, "t").await;
    }
    let answer = loop {
        let answer = consumer.answer(waiting).await;
        held.queue_offset = field(&answer, "nextBeginOffset");
        // A message that comes just before it is parked again ends the wait, or a busy queue would never let it answer.
        if answer.code != ResponseCode::PULL_RETRY_IMMEDIATELY {
            break answer;
        }
        waiting = consumer.send(pull_request(&held)).await;
    };
    assert_eq!((bodies(&answer), held.queue_offset), (vec!["m3".to_owned()], 4));

    let short = PullMessage { suspend_timeout_ms: 300, ..held };
    let asked = Instant::now();
    let waiting = consumer.send(pull_request(&short)).await;
    parked().await;
    produce(&mut producer, 4, "t").await;
    let answer = consumer.answer(waiting).await;
    assert!(asked.elapsed() >= Duration::from_millis(300), "woken for nothing");
    assert!(matches!(answer.code, ResponseCode::PULL_NOT_FOUND | ResponseCode::PULL_RETRY_IMMEDIATELY), "{answer:?}");
    assert_eq!(field(&answer, "nextBeginOffset"), 5);
    cluster.stop().await;
}

/// An expression that looks at much, on messages that have much, must not keep a thread of the broker: the pull ends half-way, and
/// the next one goes on there.
#[tokio::test]
async fn a_costly_pull_ends_half_way_and_the_next_goes_on() {
    const COUNT: usize = 8;
    let cluster = Cluster::start(1).await;
    let mut client = cluster.leader_client().await;
    let value = "x".repeat(30_000);
    for n in 0..COUNT {
        let properties = format!("big\u{1}{value}{n}\u{2}");
        assert_eq!(client.ask(send_request("T", 0, format!("m{n}").as_bytes(), &properties)).await.code, 0);
    }
    cluster.nodes[0].replicas[0].read_barrier().await.unwrap();
    let expression = format!("{} OR big ENDSWITH 'x7'", vec!["big CONTAINS 'xy'"; 100].join(" OR "));
    let (mut next, mut pulls) = (0, 0);
    let answer = loop {
        let answer = client.ask(pull_request(&sql_pull("g", next, &expression, 0))).await;
        let after = field(&answer, "nextBeginOffset");
        assert!(after > next, "{answer:?}");
        (next, pulls) = (after, pulls + 1);
        if answer.code == ResponseCode::SUCCESS {
            break answer;
        }
        assert_eq!(answer.code, ResponseCode::PULL_RETRY_IMMEDIATELY);
    };
    assert_eq!((bodies(&answer), next), (vec!["m7".to_owned()], COUNT as i64));
    assert!(pulls > 2, "{pulls} pulls");
    cluster.stop().await;
}

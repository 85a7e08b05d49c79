//! Delayed messages as producers and consumers see them: waiting, delivered, recalled, given back.

use std::ops::ControlFlow;

use ledgermq_protocol::message::properties;
use ledgermq_protocol::message::record::RecordRef;
use ledgermq_protocol::names;
use ledgermq_protocol::remoting::command::RemotingCommand;
use ledgermq_protocol::remoting::headers::send::{ConsumerSendMsgBack, RecallMessage};
use ledgermq_protocol::remoting::request_code::RequestCode;
use ledgermq_protocol::remoting::response_code::ResponseCode;

use super::super::*;
use super::fixture::*;
use crate::command::TimerRef;
use crate::tables::TimerPlace;

/// Parks until there is a message, and has its subscription in the header.
const WAITING_PULL: i32 = 4 | 2;

fn recall_request(topic: &str, handle: &str) -> RemotingCommand {
    let header = RecallMessage { topic: topic.into(), recall_handle: handle.into(), producer_group: Some("PG".into()) };
    RemotingCommand::request(RequestCode::RECALL_MESSAGE, 0).with_header(&header)
}

fn back_request(group: &str, physical_offset: i64, delay_level: i32, times_max: Option<i32>) -> RemotingCommand {
    let header = ConsumerSendMsgBack {
        group: group.into(),
        physical_offset,
        delay_level,
        origin_msg_id: None,
        origin_topic: None,
        max_reconsume_times: times_max,
    };
    RemotingCommand::request(RequestCode::CONSUMER_SEND_MSG_BACK, 0).with_header(&header)
}

fn property<'a>(record: &RecordRef<'a>, name: &str) -> Option<&'a str> {
    properties::get(record.properties(), name)
}

/// Levels and times of every kind: not before, soon after, with everything that was sent, for topics that nobody made before.
#[tokio::test]
async fn a_delayed_message_comes_when_it_is_due() {
    let cluster = Cluster::start(1).await;
    let mut client = cluster.leader_client().await;
    let at = wall_clock_ms() + 700;
    let cases = [
        ("DELAY\u{1}1\u{2}".to_owned(), 1_000),
        ("TIMER_DELAY_SEC\u{1}1\u{2}".to_owned(), 1_000),
        ("TIMER_DELAY_MS\u{1}321\u{2}".to_owned(), 321),
        (format!("TIMER_DELIVER_MS\u{1}{at}\u{2}"), 700),
    ];
    for (n, (delay, _)) in cases.iter().enumerate() {
        let given = format!("KEYS\u{1}k{n}\u{2}TAGS\u{1}A\u{2}{delay}UNIQ_KEY\u{1}U{n}\u{2}");
        let answer = client.ask(send_request(&format!("T{n}"), 2, b"later", &given)).await;
        assert_eq!(answer.code, 0, "{delay}: {answer:?}");
        assert_eq!(answer.ext.get("queueId"), Some("2"), "of its own topic");
        assert_eq!(field(&answer, "queueOffset"), n as i64, "of the timer topic");
        assert!(answer.ext.get("recallHandle").is_some());
    }
    for (n, (delay, ms)) in cases.iter().enumerate() {
        let pull = pull_header("g", &format!("T{n}"), 2, 0, WAITING_PULL);
        let answer = client.ask(pull_request(&pull)).await;
        let [record] = records(&answer)[..] else { panic!("{delay}: {answer:?}") };
        assert_eq!((record.body(), record.flag(), record.queue_offset()), (&b"later"[..], 7, 0));
        let due: i64 = property(&record, "TIMER_OUT_MS").unwrap().parse().unwrap();
        let late = record.store_timestamp_ms() - due;
        assert!((0..500).contains(&late), "{delay} comes {late} ms late");
        if delay.starts_with("TIMER_DELIVER_MS") {
            assert_eq!(due, at);
        } else {
            assert!((due - at + 700 - ms).abs() < 500, "{delay} is due {} ms after the send", due - at + 700);
        }
        assert_eq!(property(&record, "UNIQ_KEY"), Some(&*format!("U{n}")));
        assert_eq!(property(&record, "REAL_TOPIC"), Some(&*format!("T{n}")));
        assert_eq!((property(&record, "KEYS"), property(&record, "TAGS")), (Some(&*format!("k{n}")), Some("A")));
    }
    // At once, and stored once: a time that has passed.
    let given = format!("TIMER_DELIVER_MS\u{1}{}\u{2}", wall_clock_ms() - 1);
    let answer = client.ask(send_request("Now", 0, b"now", &given)).await;
    assert_eq!((answer.code, field(&answer, "queueOffset"), answer.ext.get("recallHandle")), (0, 0, None));
    assert_eq!(bodies(&client.ask(pull_request(&pull_header("g", "Now", 0, 0, WAITING_PULL))).await), ["now"]);
    // Nobody reads what waits.
    let hidden = client.ask(pull_request(&pull_header("g", names::TIMER_TOPIC, 0, 0, WAITING_PULL))).await;
    assert_eq!(hidden.code, ResponseCode::NO_PERMISSION, "{hidden:?}");
    let tables = cluster.nodes[0].replicas[0].tables();
    assert_eq!(tables.waiting_timers(), 0);
    assert_eq!(tables.topic(names::TIMER_TOPIC).unwrap().next_offset(0), 4);
    cluster.stop().await;
}

/// A message that is due earlier than what the timer sleeps for must wake it.
#[tokio::test]
async fn a_later_message_with_an_earlier_time_is_not_held_up() {
    let cluster = Cluster::start(1).await;
    let mut client = cluster.leader_client().await;
    for (body, ms) in [("far", 600_000), ("near", 150), ("nearer", 100)] {
        let answer = client.ask(send_request("T", 0, body.as_bytes(), &format!("TIMER_DELAY_MS\u{1}{ms}\u{2}"))).await;
        assert_eq!(answer.code, 0, "{answer:?}");
    }
    for (offset, body) in [(0, "nearer"), (1, "near")] {
        let answer = client.ask(pull_request(&pull_header("g", "T", 0, offset, WAITING_PULL))).await;
        assert_eq!(bodies(&answer)[0], body);
    }
    cluster.stop().await;
}

/// What is taken back never comes; what came already, or is no message, is refused with RocketMQ's code.
#[tokio::test]
async fn a_recalled_message_never_comes() {
    let cluster = Cluster::start(3).await;
    let mut client = cluster.client(cluster.follower().await).await;
    let mut handles = Vec::new();
    for (body, ms) in [("kept", 700), ("recalled", 700), ("early", 1)] {
        let answer = client.ask(send_request("T", 0, body.as_bytes(), &format!("TIMER_DELAY_MS\u{1}{ms}\u{2}"))).await;
        assert_eq!(answer.code, 0, "{answer:?}");
        let key = answer.ext.get("transactionId").unwrap().to_owned();
        handles.push((answer.ext.get("recallHandle").unwrap().to_owned(), key));
    }
    let (handle, key) = &handles[1];
    let answer = client.ask(recall_request("T", handle)).await;
    assert_eq!((answer.code, answer.ext.get("msgId")), (0, Some(key.as_str())), "{answer:?}");
    let answer = client.ask(recall_request("T", handle)).await;
    assert_eq!(answer.code, ResponseCode::ILLEGAL_OPERATION, "twice: {answer:?}");
    let mut leader = cluster.leader_client().await;
    for (offset, body) in [(0, "early"), (1, "kept")] {
        let answer = leader.ask(pull_request(&pull_header("g", "T", 0, offset, WAITING_PULL))).await;
        assert_eq!(bodies(&answer)[0], body);
    }
    for (topic, handle, code) in [
        ("T", handles[2].0.as_str(), ResponseCode::ILLEGAL_OPERATION),
        ("T", "no handle", ResponseCode::ILLEGAL_OPERATION),
        ("Nowhere", handles[0].0.as_str(), ResponseCode::TOPIC_NOT_EXIST),
    ] {
        let answer = client.ask(recall_request(topic, handle)).await;
        assert_eq!(answer.code, code, "{answer:?}");
    }
    let tables = cluster.nodes[cluster.leader().await].replicas[0].tables();
    assert_eq!(tables.topic("T").unwrap().next_offset(0), 2);
    cluster.stop().await;
}

/// A message that fails comes again with its first topic and id, one try older, after the delay of that try; then it is a dead
/// letter.
#[tokio::test]
async fn a_message_that_is_given_back_comes_again_and_ends_as_a_dead_letter() {
    let cluster = Cluster::start(1).await;
    let mut client = cluster.leader_client().await;
    client.beat("c1", "g", "T", "*", 1).await;
    client.group_exists(&cluster, "g").await;
    let answer = client.ask(send_request("T", 0, b"poison", "KEYS\u{1}k\u{2}UNIQ_KEY\u{1}U\u{2}TAGS\u{1}A\u{2}")).await;
    let first_id = answer.ext.get("msgId").unwrap().to_owned();
    let answer = client.ask(pull_request(&pull_header("g", "T", 0, 0, WAITING_PULL))).await;
    let mut offset = records(&answer)[0].physical_offset();
    for (tries, level) in [(1, 1), (2, 1)] {
        let answer = client.ask(back_request("g", offset, level, Some(2))).await;
        assert_eq!(answer.code, 0, "{answer:?}");
        let pull = pull_header("g", "%RETRY%g", 0, i64::from(tries) - 1, WAITING_PULL);
        let answer = client.ask(pull_request(&pull)).await;
        let [record] = records(&answer)[..] else { panic!("{answer:?}") };
        assert_eq!((record.body(), record.reconsume_times()), (&b"poison"[..], tries));
        for (name, value) in [
            ("RETRY_TOPIC", "T"),
            ("ORIGIN_MESSAGE_ID", first_id.as_str()),
            ("UNIQ_KEY", "U"),
            ("KEYS", "k"),
            ("TAGS", "A"),
            ("DELAY", "1"),
            ("WAIT", "false"),
        ] {
            assert_eq!(property(&record, name), Some(value), "{name}");
        }
        offset = record.physical_offset();
    }
    let answer = client.ask(back_request("g", offset, 0, Some(2))).await;
    assert_eq!(answer.code, 0, "{answer:?}");
    let answer = client.ask(pull_request(&pull_header("g2", "%DLQ%g", 0, 0, WAITING_PULL))).await;
    let [record] = records(&answer)[..] else { panic!("{answer:?}") };
    assert_eq!((record.body(), record.reconsume_times()), (&b"poison"[..], 3));
    assert_eq!((property(&record, "RETRY_TOPIC"), property(&record, "DELAY")), (Some("T"), None));
    // Straight to the dead letters, whatever the tries.
    let answer = client.ask(back_request("g", offset, -1, None)).await;
    assert_eq!(answer.code, 0, "{answer:?}");
    let answer = client.ask(pull_request(&pull_header("g2", "%DLQ%g", 0, 1, WAITING_PULL))).await;
    assert_eq!(bodies(&answer), ["poison"]);

    let answer = client.ask(back_request("g", 3, 0, None)).await;
    assert_eq!(answer.code, ResponseCode::SYSTEM_ERROR, "{answer:?}");
    assert!(answer.remark.unwrap().contains("look message by offset failed"));
    let answer = client.ask(back_request("nobody", offset, 0, None)).await;
    assert_eq!(answer.code, ResponseCode::SUBSCRIPTION_GROUP_NOT_EXIST, "{answer:?}");
    cluster.stop().await;
}

/// Level 0 leaves the delay to the broker: ten seconds for the first try, more for each further one.
#[tokio::test]
async fn the_broker_chooses_growing_delays() {
    let cluster = Cluster::start(1).await;
    let mut client = cluster.leader_client().await;
    client.beat("c1", "g", "T", "*", 1).await;
    client.group_exists(&cluster, "g").await;
    client.produce("T", 0, "x", "").await;
    let mut header = send_header("T", 0, "");
    header.reconsume_times = Some(4);
    assert_eq!(client.ask(request_with(RequestCode::SEND_MESSAGE_V2, &header, b"y")).await.code, 0);
    let replica = &cluster.nodes[0].replicas[0];
    // An answer comes at the commit.
    replica.catch_up().await;
    let answer = client.ask(pull_request(&pull_header("g", "T", 0, 0, WAITING_PULL))).await;
    let offsets: Vec<i64> = records(&answer).iter().map(RecordRef::physical_offset).collect();
    let before = wall_clock_ms();
    for offset in offsets {
        assert_eq!(client.ask(back_request("g", offset, 0, None)).await.code, 0);
    }
    replica.catch_up().await;
    let mut dues = Vec::new();
    let visit = &mut |timer: TimerRef, _: TimerPlace| {
        dues.push(timer.due_ms as i64 - before);
        ControlFlow::Continue(())
    };
    replica.waiting.rows.each_due(TimerRef::default(), visit).unwrap();
    // Levels 3 and 7.
    assert!(
        dues.len() == 2 && (10_000..12_000).contains(&dues[0]) && (180_000..182_000).contains(&dues[1]),
        "{dues:?}"
    );
    cluster.stop().await;
}

/// A message that waits outlives the log that it was sent into.
#[tokio::test]
async fn what_waits_is_carried_before_old_messages_go() {
    let cluster = Cluster::start_with(1, |config| config.retention_ms = 1_000).await;
    let mut client = cluster.leader_client().await;
    let answer = client.ask(send_request("Later", 0, b"later", "TIMER_DELAY_MS\u{1}10000\u{2}")).await;
    let handle = answer.ext.get("recallHandle").unwrap().to_owned();
    let answer = client.ask(send_request("Later", 0, b"recalled", "TIMER_DELAY_MS\u{1}60000\u{2}")).await;
    let other = answer.ext.get("recallHandle").unwrap().to_owned();
    // Segments of 64 MiB: the first one is full, and a second old enough to be given up behind it.
    let body = vec![7; 4 << 20];
    for n in 0..36 {
        let answer = client.ask(send_request("Filler", n % 4, &body, "")).await;
        assert_eq!(answer.code, 0, "{answer:?}");
    }
    let tables = cluster.nodes[0].replicas[0].tables();
    let deadline = Instant::now() + PATIENCE;
    while tables.kept().pos == 0 {
        assert!(Instant::now() < deadline, "nothing is given up");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(tables.waiting_timers(), 2);
    let answer = client.ask(recall_request("Later", &other)).await;
    assert_eq!(answer.code, 0, "it is found where it was carried to: {answer:?}");
    let answer = client.ask(pull_request(&pull_header("g", "Later", 0, 0, WAITING_PULL))).await;
    let [record] = records(&answer)[..] else { panic!("{answer:?}") };
    assert_eq!(record.body(), b"later");
    let due: i64 = property(&record, "TIMER_OUT_MS").unwrap().parse().unwrap();
    assert!(record.store_timestamp_ms() >= due);
    assert_eq!(client.ask(recall_request("Later", &handle)).await.code, ResponseCode::ILLEGAL_OPERATION);
    cluster.stop().await;
}

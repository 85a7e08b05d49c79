//! Questions for single messages: by id, by key, by time.

use std::collections::BTreeSet;

use bytes::BytesMut;
use ledgermq_dledger::FRAME_HEADER_LEN;
use ledgermq_protocol::message::id::parse_offset_id;
use ledgermq_protocol::message::record;
use ledgermq_protocol::remoting::command::RemotingCommand;
use ledgermq_protocol::remoting::headers::offset::{Boundary, SearchOffset};
use ledgermq_protocol::remoting::headers::pull::{
    FLAG_SUBSCRIPTION, PullMessage, QueryMessage, ViewMessage, index_type,
};
use ledgermq_protocol::remoting::request_code::RequestCode;
use ledgermq_protocol::remoting::response_code::ResponseCode;

use super::super::*;
use super::fixture::*;
use crate::apply::harness::message;
use crate::command::{Command, DeleteTopic};
use crate::handler::query_message::{BYTES_MAX, MESSAGES_MAX, UNIQUE_MESSAGES_MAX};

fn by_key(topic: &str, key: &str) -> QueryMessage {
    QueryMessage {
        topic: topic.into(),
        key: key.into(),
        max_num: 64,
        begin_timestamp_ms: 0,
        end_timestamp_ms: i64::MAX,
        by_unique_key: Some(false),
        index_type: Some(index_type::KEY.into()),
        last_key: None,
    }
}

fn by_unique_key(topic: &str, key: &str) -> QueryMessage {
    // As clients before 5.4 ask.
    QueryMessage { by_unique_key: Some(true), index_type: None, ..by_key(topic, key) }
}

fn query(header: &QueryMessage) -> RemotingCommand {
    RemotingCommand::request(RequestCode::QUERY_MESSAGE, 0).with_header(header)
}

impl Client {
    /// Sends a message with properties; returns its physical offset.
    async fn produce_with(&mut self, topic: &str, body: &[u8], properties: &str) -> i64 {
        let answer = self.ask(send_request(topic, 0, body, properties)).await;
        assert_eq!(answer.code, 0, "{answer:?}");
        parse_offset_id(answer.ext.get("msgId").unwrap()).unwrap().1
    }

    /// Bodies of what a query finds on a replica that may be behind.
    async fn find_any(&mut self, header: &QueryMessage) -> Vec<String> {
        bodies(&self.ask(query(header)).await)
    }

    /// Bodies of what a query finds; nothing is code 22.
    async fn find(&mut self, header: &QueryMessage) -> Vec<String> {
        let answer = self.ask(query(header)).await;
        let code = if answer.body.is_empty() { ResponseCode::QUERY_NOT_FOUND } else { ResponseCode::SUCCESS };
        assert_eq!(answer.code, code, "{answer:?}");
        assert!(field(&answer, "indexLastUpdateTimestamp") > 1_700_000_000_000);
        assert!(field(&answer, "indexLastUpdatePhyoffset") > 0);
        bodies(&answer)
    }
}

/// A query must find every message with the key and no other, newest first, at once after it was acknowledged.
#[tokio::test]
async fn messages_are_found_by_their_keys() {
    let cluster = Cluster::start(1).await;
    let mut client = cluster.leader_client().await;
    let long = format!("%RETRY%{}", "g".repeat(200));
    for (topic, body, keys, unique) in [
        ("T", "m0", "red", "u0"),
        ("T", "m1", "red blue", "u1"),
        ("U", "m2", "red", "u2"),
        ("T", "m3", "red red", "u3"),
        ("T", "m4", "u1", "u4"),
        (long.as_str(), "m5", "red", "u5"),
    ] {
        client.produce_with(topic, body.as_bytes(), &format!("KEYS\u{1}{keys}\u{2}UNIQ_KEY\u{1}{unique}\u{2}")).await;
        assert_eq!(client.find(&by_unique_key(topic, unique)).await, [body], "found as soon as it is acknowledged");
    }
    let cases: [(QueryMessage, &[&str]); 10] = [
        (by_key("T", "red"), &["m3", "m1", "m0"]),
        (by_key("T", "blue"), &["m1"]),
        (by_key("U", "red"), &["m2"]),
        (by_key(&long, "red"), &["m5"]),
        (by_key("T", "re"), &[]),
        (by_key("T", "red blue"), &[]),
        (by_key("Nope", "red"), &[]),
        // Asked for a key, RocketMQ finds unique keys too; asked for a unique key, only those.
        (by_key("T", "u1"), &["m4", "m1"]),
        (by_unique_key("T", "u1"), &["m1"]),
        (by_unique_key("T", "red"), &[]),
    ];
    for (header, expected) in cases {
        assert_eq!(client.find(&header).await, expected, "{header:?}");
    }
    let as_54_asks =
        QueryMessage { by_unique_key: None, index_type: Some(index_type::UNIQUE_KEY.into()), ..by_key("T", "u3") };
    assert_eq!(client.find(&as_54_asks).await, ["m3"]);
    for max_num in [-1, 0, 1] {
        assert_eq!(client.find(&QueryMessage { max_num, ..by_key("T", "red") }).await, ["m3"]);
    }
    for refused in [
        QueryMessage { index_type: Some(index_type::TAG.into()), ..by_key("T", "red") },
        QueryMessage { last_key: Some("x".into()), ..by_key("T", "red") },
    ] {
        let answer = client.ask(query(&refused)).await;
        assert_eq!(answer.code, ResponseCode::REQUEST_CODE_NOT_SUPPORTED, "{answer:?}");
    }
    let answer = client.ask(RemotingCommand::request(RequestCode::QUERY_MESSAGE, 0).with_ext("topic", "T")).await;
    assert_eq!(answer.code, ResponseCode::INVALID_PARAMETER, "{answer:?}");

    // The topic is deleted and made again: its former messages are not its own.
    let delete = Command::DeleteTopic(DeleteTopic { topic: "T".into() });
    cluster.nodes[0].replicas[0].call(delete).await;
    assert!(client.find(&by_key("T", "red")).await.is_empty());
    client.produce_with("T", b"new", "KEYS\u{1}red\u{2}").await;
    assert_eq!(client.find(&by_key("T", "red")).await, ["new"]);
    assert!(client.find(&by_unique_key("T", "u0")).await.is_empty());
    cluster.stop().await;
}

/// One answer must stay within its bounds, whatever matches, and say when it was cut.
#[tokio::test]
async fn answers_to_queries_are_bounded() {
    let cluster = Cluster::start(1).await;
    let mut client = cluster.leader_client().await;
    for n in 0..MESSAGES_MAX + 6 {
        client.produce_with("T", format!("m{n}").as_bytes(), "KEYS\u{1}many\u{2}UNIQ_KEY\u{1}again\u{2}").await;
    }
    let newest_first = |count: usize| (0..count).map(|n| format!("m{}", MESSAGES_MAX + 5 - n)).collect::<Vec<_>>();
    for (max_num, count) in [(5, 5), (64, 64), (i32::MAX, MESSAGES_MAX)] {
        let header = QueryMessage { max_num, ..by_key("T", "many") };
        assert_eq!(client.find(&header).await, newest_first(count));
    }
    let unique = QueryMessage { max_num: 1, ..by_unique_key("T", "again") };
    assert_eq!(
        client.find(&unique).await,
        newest_first(UNIQUE_MESSAGES_MAX),
        "RocketMQ looks for 32, whatever is asked"
    );

    for _ in 0..3 {
        client.produce_with("T", &vec![b'x'; BYTES_MAX / 2 - 10_000], "KEYS\u{1}large\u{2}").await;
    }
    client.produce_with("T", &vec![b'y'; BYTES_MAX + 1], "KEYS\u{1}huge\u{2}").await;
    let answer = client.ask(query(&by_key("T", "large"))).await;
    assert_eq!(records(&answer).len(), 2);
    assert!(answer.remark.unwrap().contains("more messages"));
    let answer = client.ask(query(&by_key("T", "huge"))).await;
    assert_eq!((records(&answer).len(), answer.remark.clone()), (1, None), "at least one message");
    cluster.stop().await;
}

/// Times are exact to the millisecond and both ends count, for queries by key and for searches of a queue.
#[tokio::test]
async fn times_are_exact_to_the_millisecond() {
    let cluster = Cluster::start(1).await;
    let mut client = cluster.leader_client().await;
    for n in 0..12 {
        client.produce_with("T", format!("m{n}").as_bytes(), "KEYS\u{1}k\u{2}").await;
        if n % 3 == 2 {
            // Groups of messages with equal times and with different ones.
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    }
    let pull = PullMessage { max_msg_nums: 32, ..pull_header("g", "T", 0, 0, FLAG_SUBSCRIPTION) };
    let pulled = client.ask(pull_request(&pull)).await;
    let times: Vec<i64> = records(&pulled).iter().map(|record| record.store_timestamp_ms()).collect();
    assert_eq!(times.len(), 12);
    assert!(times.is_sorted() && times.first() < times.last());
    let search = |timestamp_ms, boundary| {
        let header = SearchOffset { topic: "T".into(), queue_id: 0, timestamp_ms, boundary };
        RemotingCommand::request(RequestCode::SEARCH_OFFSET_BY_TIMESTAMP, 0).with_header(&header)
    };
    let some: BTreeSet<i64> = times.iter().flat_map(|time| [time - 1, *time, time + 1]).collect();
    for ms in some.iter().copied().chain([i64::MIN, -1, 0, i64::MAX]) {
        let older = times.iter().filter(|time| **time < ms).count() as i64;
        let not_newer = times.iter().filter(|time| **time <= ms).count() as i64;
        let lower = client.ask(search(ms, Boundary::Lower)).await;
        let upper = client.ask(search(ms, Boundary::Upper)).await;
        assert_eq!(field(&lower, "offset"), older, "the first not older than {ms} of {times:?}");
        assert_eq!(field(&upper, "offset"), (not_newer - 1).max(0), "the last not newer than {ms} of {times:?}");
    }
    let windows = some.iter().flat_map(|begin| some.iter().map(move |end| (*begin, *end)));
    for (begin_timestamp_ms, end_timestamp_ms) in windows.chain([(i64::MIN, i64::MAX), (i64::MIN, -1), (-5, 0)]) {
        let inside = |time: &i64| (begin_timestamp_ms..=end_timestamp_ms).contains(time);
        let mut expected: Vec<String> = (0..12).filter(|n| inside(&times[*n])).map(|n| format!("m{n}")).collect();
        expected.reverse();
        let header = QueryMessage { begin_timestamp_ms, end_timestamp_ms, ..by_key("T", "k") };
        assert_eq!(client.find(&header).await, expected, "{begin_timestamp_ms}..={end_timestamp_ms} of {times:?}");
    }
    cluster.stop().await;
}

/// Only where a message starts is one found: not inside of it, not where a body looks like one, not behind the end.
#[tokio::test]
async fn a_message_is_viewed_where_it_starts_and_nowhere_else() {
    let cluster = Cluster::start(1).await;
    let mut client = cluster.leader_client().await;
    let mut starts = vec![client.produce_with("T", b"m0", "").await];
    // A body that is a whole record, stamped for the place at which it will lie.
    let forged = |physical_offset: i64| {
        let message = message("T", 0, b"forged", "");
        let mut bytes = BytesMut::new();
        record::encode(&message, &mut bytes).unwrap();
        record::patch(&mut bytes, 0, physical_offset, 5);
        bytes
    };
    starts.push(client.produce_with("T", &forged(0), "").await);
    cluster.nodes[0].replicas[0].read_barrier().await.unwrap();
    let end = cluster.nodes[0].replicas[0].tables().applied().end().0 as i64;
    // The next message takes a frame of its own, and its body begins at byte 88 of its record.
    let record_at = end + FRAME_HEADER_LEN as i64;
    starts.push(client.produce_with("T", &forged(record_at + 88), "").await);
    assert_eq!(starts[2], record_at, "the forged record lies where it says");
    starts.push(client.produce_with("T", b"m3", "").await);

    let view = |physical_offset| {
        let header = ViewMessage { physical_offset, topic: None };
        RemotingCommand::request(RequestCode::VIEW_MESSAGE_BY_ID, 0).with_header(&header)
    };
    cluster.nodes[0].replicas[0].read_barrier().await.unwrap();
    let end = cluster.nodes[0].replicas[0].tables().applied().end().0 as i64;
    let mut found = Vec::new();
    for offset in (0..end + 200).chain([-1, i64::MIN, i64::MAX, i64::MAX - 3, 1 << 40]) {
        let answer = client.ask(view(offset)).await;
        match answer.code {
            ResponseCode::SUCCESS => found.push(offset),
            code => assert_eq!(code, ResponseCode::SYSTEM_ERROR, "{answer:?}"),
        }
    }
    assert_eq!(found, starts);
    cluster.stop().await;
}

/// Every replica answers: an id pins the address of the node that stored the message, and a query may go to any.
#[tokio::test]
async fn followers_answer_queries() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let offset = cluster.client(leader).await.produce_with("T", b"m", "KEYS\u{1}k\u{2}").await;
    for node in 0..3 {
        let mut client = cluster.client(node).await;
        let deadline = Instant::now() + PATIENCE;
        while client.find_any(&by_key("T", "k")).await != ["m"] {
            assert!(Instant::now() < deadline, "node {node} finds nothing");
        }
        let view = ViewMessage { physical_offset: offset, topic: Some("T".into()) };
        let answer = client.ask(RemotingCommand::request(RequestCode::VIEW_MESSAGE_BY_ID, 0).with_header(&view)).await;
        assert_eq!(bodies(&answer), ["m"]);
    }
    cluster.stop().await;
}

//! Groups that are put elsewhere: what their consumers, and the tool that did it, see.

use ledgermq_protocol::heartbeat::{ConsumerData, HeartbeatData, MessageModel, SubscriptionData};
use ledgermq_protocol::json::Body;
use ledgermq_protocol::json::object_map::{MessageQueue, QueueMap};
use ledgermq_protocol::remoting::command::RemotingCommand;
use ledgermq_protocol::remoting::headers::admin::{CloneGroupOffset, QueryCorrectionOffset, ResetOffset};
use ledgermq_protocol::remoting::headers::pull::{FLAG_COMMIT_OFFSET, FLAG_SUBSCRIPTION, FLAG_SUSPEND, PullMessage};
use ledgermq_protocol::remoting::request_code::RequestCode;
use ledgermq_protocol::remoting::response_code::ResponseCode;
use ledgermq_protocol::stats::{CorrectionOffsets, ResetOffsetBody};

use super::fixture::*;

fn wanted(timestamp_ms: i64) -> ResetOffset {
    ResetOffset { topic: "T".into(), group: "g".into(), timestamp_ms, force: Some(true), queue_id: None, offset: None }
}

fn to_offset(queue: i32, offset: i64) -> ResetOffset {
    ResetOffset { queue_id: Some(queue), offset: Some(offset), ..wanted(0) }
}

async fn ask_reset(client: &mut Client, wanted: &ResetOffset) -> RemotingCommand {
    client.ask(RemotingCommand::request(RequestCode::INVOKE_BROKER_TO_RESET_OFFSET, 0).with_header(wanted)).await
}

/// Queue and new offset, of the queues that the answer names.
async fn reset(client: &mut Client, wanted: &ResetOffset) -> Vec<(i32, i64)> {
    let answer = ask_reset(client, wanted).await;
    assert_eq!(answer.code, 0, "{answer:?}");
    let table: QueueMap<i64> = ResetOffsetBody::from_json(&answer.body).unwrap().offset_table;
    table.into_iter().map(|(MessageQueue { queue_id, .. }, offset)| (queue_id, offset)).collect()
}

/// A cluster with so many messages in queue 0 of T, a consumer of group g, and somebody who is none.
async fn with_messages(members: usize, count: usize) -> (Cluster, Client, Client) {
    let cluster = Cluster::start(members).await;
    let mut consumer = cluster.leader_client().await;
    for n in 0..count {
        consumer.produce("T", 0, &format!("m{n}"), "").await;
    }
    consumer.beat("c", "g", "T", "*", 1).await;
    consumer.group_exists(&cluster, "g").await;
    let tool = cluster.leader_client().await;
    (cluster, consumer, tool)
}

fn pull(offset: i64, more: i32) -> RemotingCommand {
    pull_request(&pull_header("g", "T", 0, offset, FLAG_SUBSCRIPTION | more))
}

async fn committed(client: &mut Client) -> i64 {
    field(&client.offset("g", "T", 0).await, "offset")
}

fn told(answer: &RemotingCommand) -> (i32, i64, &str) {
    (answer.code, field(answer, "nextBeginOffset"), answer.remark.as_deref().unwrap_or_default())
}

const MOVED: i32 = ResponseCode::PULL_OFFSET_MOVED;

/// A reset under a consumer that has messages in hand and commits to come must neither be undone by these, nor be lost with the
/// leader that made it, nor be told twice to who has taken it up.
#[tokio::test]
async fn a_reset_is_not_undone_by_what_was_in_hand() {
    let (mut cluster, mut consumer, mut tool) = with_messages(3, 10).await;
    assert_eq!(consumer.ask(update_request("g", "T", 0, 8)).await.code, 0);
    let held = consumer.send(pull(10, FLAG_SUSPEND)).await;
    let leader = cluster.leader().await;
    while cluster.nodes[leader].replicas[0].pulls.is_empty() {
        tokio::task::yield_now().await;
    }
    let asked = std::time::Instant::now();
    assert_eq!(reset(&mut tool, &wanted(0)).await, [(0, 0), (1, 0), (2, 0), (3, 0)]);
    assert_eq!(told(&consumer.answer(held).await), (MOVED, 0, "OFFSET_RESET"), "a held pull is told at once");
    assert!(asked.elapsed() < PATIENCE / 2);

    // What the consumer had in hand comes to its end, in every way in which a client commits.
    assert_eq!(consumer.ask(update_request("g", "T", 0, 9)).await.code, 0);
    consumer.send(RemotingCommand { flag: 2, ..update_request("g", "T", 0, 10) }).await;
    let old = PullMessage { commit_offset: 9, ..pull_header("g", "T", 0, 10, FLAG_SUBSCRIPTION | FLAG_COMMIT_OFFSET) };
    assert_eq!(told(&consumer.ask(pull_request(&old)).await).0, MOVED, "it still pulls where it was");
    assert_eq!(committed(&mut tool).await, 0);

    cluster.nodes.remove(leader).stop().await.unwrap();
    cluster.configs.remove(leader);
    let mut consumer = cluster.leader_client().await;
    consumer.beat("c", "g", "T", "*", 2).await;
    consumer.send(RemotingCommand { flag: 2, ..update_request("g", "T", 0, 10) }).await;
    assert_eq!(committed(&mut cluster.leader_client().await).await, 0, "the reset outlives its leader");
    // Told by this leader, though it has the right place already; then it goes on there.
    assert_eq!(told(&consumer.ask(pull(0, 0)).await), (MOVED, 0, "OFFSET_RESET"));
    let answer = consumer.ask(pull(0, FLAG_COMMIT_OFFSET)).await;
    assert_eq!((answer.code, bodies(&answer).len()), (0, 10), "{answer:?}");
    assert_eq!(consumer.ask(pull(10, 0)).await.code, ResponseCode::PULL_NOT_FOUND, "taken up: told no more");
    assert_eq!(consumer.ask(update_request("g", "T", 0, 3)).await.code, 0);
    assert_eq!(committed(&mut consumer).await, 3, "and commits count again");
    cluster.stop().await;
}

/// A consumer that begins after the reset must get its messages with its first pull: stock clients would pause for half a minute.
#[tokio::test]
async fn who_begins_after_a_reset_goes_on_there_at_once() {
    let (cluster, mut consumer, mut tool) = with_messages(1, 6).await;
    assert_eq!(consumer.ask(update_request("g", "T", 0, 6)).await.code, 0);
    drop(consumer);
    assert_eq!(reset(&mut tool, &to_offset(0, 2)).await, [(0, 2)]);
    let mut consumer = cluster.leader_client().await;
    consumer.beat("d", "g", "T", "*", 2).await;
    assert_eq!(committed(&mut consumer).await, 2);
    let answer = consumer.ask(pull(2, 0)).await;
    assert_eq!((answer.code, bodies(&answer)), (0, vec!["m2".into(), "m3".into(), "m4".into(), "m5".into()]));
    // Forward again, over messages that it has in hand: the place where it pulls is the new one by chance.
    assert_eq!(reset(&mut tool, &wanted(-1)).await[0], (0, 6));
    assert_eq!(told(&consumer.ask(pull(6, 0)).await), (MOVED, 6, "OFFSET_RESET"), "it must drop what it has in hand");
    assert_eq!(consumer.ask(update_request("g", "T", 0, 4)).await.code, 0);
    assert_eq!(consumer.ask(pull(6, 0)).await.code, ResponseCode::PULL_NOT_FOUND);
    assert_eq!(committed(&mut consumer).await, 6);
    cluster.stop().await;
}

/// A reset by time must begin with the first message stored at that millisecond or later, back and forward.
#[tokio::test]
async fn a_reset_by_time_is_exact() {
    let (cluster, mut consumer, mut tool) = with_messages(1, 12).await;
    let all = consumer.ask(pull(0, 0)).await;
    let stored: Vec<i64> = records(&all).iter().map(|record| record.store_timestamp_ms()).collect();
    assert_eq!(stored.len(), 12);
    for at in (stored[0] - 1..=stored[11] + 1).chain(stored.iter().rev().copied()) {
        let first = stored.iter().filter(|stored| **stored < at).count() as i64;
        assert_eq!(reset(&mut tool, &wanted(at)).await, [(0, first), (1, 0), (2, 0), (3, 0)], "{at} of {stored:?}");
    }
    // Only back: a queue that would go forward stays.
    reset(&mut tool, &to_offset(0, 3)).await;
    let only_back = |wanted: ResetOffset| ResetOffset { force: Some(false), ..wanted };
    assert_eq!(reset(&mut tool, &only_back(wanted(-1))).await[0], (0, 3));
    assert_eq!(committed(&mut tool).await, 3);
    assert_eq!(reset(&mut tool, &only_back(wanted(0))).await[0], (0, 0));
    cluster.stop().await;
}

/// What cannot be done must be refused with the code by which tools tell why, and change nothing.
#[tokio::test]
async fn what_cannot_be_reset_is_refused() {
    let (cluster, _consumer, mut tool) = with_messages(1, 3).await;
    for (refused, code) in [
        (ResetOffset { topic: "Nope".into(), ..wanted(0) }, ResponseCode::TOPIC_NOT_EXIST),
        (ResetOffset { group: "nobody".into(), ..wanted(0) }, ResponseCode::SUBSCRIPTION_GROUP_NOT_EXIST),
        (to_offset(4, 0), ResponseCode::INVALID_PARAMETER),
        (to_offset(0, 4), ResponseCode::SYSTEM_ERROR),
        (to_offset(0, -2), ResponseCode::SYSTEM_ERROR),
    ] {
        let answer = ask_reset(&mut tool, &refused).await;
        assert_eq!(answer.code, code, "{refused:?}: {answer:?}");
    }
    assert_eq!(cluster.nodes[0].replicas[0].tables().group_offsets("g"), []);
    cluster.stop().await;
}

/// What a tool sets itself while a reset waits replaces it; a member's commit does not.
#[tokio::test]
async fn a_tool_replaces_a_reset_and_clones_a_group() {
    let (cluster, mut consumer, mut tool) = with_messages(1, 8).await;
    reset(&mut tool, &to_offset(0, 2)).await;
    assert_eq!(consumer.ask(update_request("g", "T", 0, 7)).await.code, 0);
    assert_eq!(committed(&mut tool).await, 2);
    assert_eq!(tool.ask(update_request("g", "T", 0, 5)).await.code, 0);
    assert_eq!(committed(&mut tool).await, 5);
    assert_eq!(told(&consumer.ask(pull(2, 0)).await), (MOVED, 5, "OFFSET_RESET"));

    let clone = |dest: &str, topic: Option<&str>| {
        let header = CloneGroupOffset {
            src_group: "g".into(),
            dest_group: dest.into(),
            topic: topic.map(str::to_owned),
            offline: Some(false),
        };
        RemotingCommand::request(RequestCode::CLONE_GROUP_OFFSET, 0).with_header(&header)
    };
    assert_eq!(tool.ask(clone("h", None)).await.code, ResponseCode::SUBSCRIPTION_GROUP_NOT_EXIST);
    consumer.beat("c", "h", "T", "*", 1).await;
    consumer.group_exists(&cluster, "h").await;
    assert_eq!(tool.ask(clone("h", Some("Nope"))).await.code, ResponseCode::TOPIC_NOT_EXIST);
    let offset_of_h = |answer: RemotingCommand| field(&answer, "offset");
    for topic in [None, Some("T")] {
        assert_eq!(tool.ask(clone("h", topic)).await.code, 0);
        assert_eq!(offset_of_h(tool.offset("h", "T", 0).await), 5);
        assert_eq!(tool.ask(update_request("h", "T", 0, 6)).await.code, 0);
    }

    let compare = |filter: Option<&str>| {
        let header = QueryCorrectionOffset {
            topic: "T".into(),
            compare_group: "g".into(),
            filter_groups: filter.map(str::to_owned),
        };
        RemotingCommand::request(RequestCode::QUERY_CORRECTION_OFFSET, 0).with_header(&header)
    };
    for (filter, expected) in [(None, 5), (Some("h"), 5), (Some("g"), i64::MAX)] {
        let answer = tool.ask(compare(filter)).await;
        let offsets = CorrectionOffsets::from_json(&answer.body).unwrap().correction_offsets.0;
        assert_eq!(offsets.into_iter().collect::<Vec<_>>(), [(0, expected)], "{filter:?}");
    }
    cluster.stop().await;
}

/// A broadcasting group has its offsets at its clients: each of them must be told.
#[tokio::test]
async fn members_of_a_broadcasting_group_are_told_directly() {
    let (cluster, mut producer, mut tool) = with_messages(1, 4).await;
    let beat = |client_id: &str| {
        let data = HeartbeatData {
            client_id: client_id.into(),
            consumer_data_set: vec![ConsumerData {
                group_name: "b".into(),
                message_model: MessageModel::Broadcasting,
                subscription_data_set: vec![SubscriptionData::by_tags("T", "*", 1).unwrap()],
                ..ConsumerData::default()
            }],
            ..HeartbeatData::default()
        };
        RemotingCommand::request(RequestCode::HEART_BEAT, 0).with_body(data.to_json())
    };
    let mut members = [cluster.leader_client().await, cluster.leader_client().await];
    for (member, client_id) in members.iter_mut().zip(["x", "y"]) {
        assert_eq!(member.ask(beat(client_id)).await.code, 0);
    }
    producer.group_exists(&cluster, "b").await;
    let all = reset(&mut tool, &ResetOffset { group: "b".into(), ..wanted(-1) }).await;
    assert_eq!(all, [(0, 4), (1, 0), (2, 0), (3, 0)]);
    for member in &mut members {
        let notice = member.called(RequestCode::RESET_CONSUMER_CLIENT_OFFSET).await;
        assert!(notice.is_oneway());
        assert_eq!((notice.ext.get("topic"), notice.ext.get("group")), (Some("T"), Some("b")));
        let table = ResetOffsetBody::from_json(&notice.body).unwrap().offset_table;
        assert_eq!(table.into_values().collect::<Vec<_>>(), [4, 0, 0, 0]);
    }
    assert_eq!(cluster.nodes[0].replicas[0].tables().group_offsets("b"), [], "nothing that a client would never read");
    cluster.stop().await;
}

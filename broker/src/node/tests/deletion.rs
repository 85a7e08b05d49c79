//! Topics and groups that are deleted, and made again.

use ledgermq_protocol::json::Body;
use ledgermq_protocol::remoting::command::RemotingCommand;
use ledgermq_protocol::remoting::headers::pull::{FLAG_SUBSCRIPTION, FLAG_SUSPEND};
use ledgermq_protocol::remoting::request_code::RequestCode;
use ledgermq_protocol::remoting::response_code::ResponseCode;
use ledgermq_protocol::stats::ConsumeStats;

use super::fixture::*;

fn delete_topic(topic: &str) -> RemotingCommand {
    RemotingCommand::request(RequestCode::DELETE_TOPIC_IN_BROKER, 0).with_ext("topic", topic)
}

fn delete_group(group: &str, clean: bool) -> RemotingCommand {
    let request = RemotingCommand::request(RequestCode::DELETE_SUBSCRIPTIONGROUP, 0);
    request.with_ext("groupName", group).with_ext("cleanOffset", if clean { "true" } else { "false" })
}

async fn queues_with_stats(client: &mut Client, group: &str) -> usize {
    let request = RemotingCommand::request(RequestCode::GET_CONSUME_STATS, 0).with_ext("consumerGroup", group);
    ConsumeStats::from_json(&client.ask(request).await.body).unwrap().offset_table.len()
}

/// Whoever was told that a topic is gone must find nothing of it, neither messages nor offsets; and one of the same name that is
/// made later must start empty. A consumer that waits for its messages must hear of it at once.
#[tokio::test]
async fn a_deleted_topic_is_gone_with_everything() {
    let cluster = Cluster::start(3).await;
    let mut client = cluster.leader_client().await;
    assert_eq!(client.produce("T", 0, "old", "").await, 0);
    client.beat("c", "g", "T", "*", 1).await;
    client.group_exists(&cluster, "g").await;
    assert_eq!(client.ask(update_request("g", "T", 0, 1)).await.code, 0);
    assert_eq!(queues_with_stats(&mut client, "g").await, 4);
    let mut waiting = cluster.leader_client().await;
    let pull = pull_header("g", "T", 0, 1, FLAG_SUBSCRIPTION | FLAG_SUSPEND);
    let opaque = waiting.send(pull_request(&pull)).await;
    let leader = cluster.leader().await;
    while cluster.nodes[leader].replicas()[0].pulls.is_empty() {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }

    assert_eq!(client.ask(delete_topic("T")).await.code, 0);
    let answer = waiting.answer(opaque).await;
    assert_eq!(answer.code, ResponseCode::TOPIC_NOT_EXIST, "{answer:?}");
    assert_eq!(queues_with_stats(&mut client, "g").await, 0);
    assert_eq!(client.ask(delete_topic("T")).await.code, 0, "to repeat it is no error");
    assert_eq!(client.produce("T", 0, "new", "").await, 0);
    let pull = pull_header("g", "T", 0, 0, FLAG_SUBSCRIPTION);
    assert_eq!(bodies(&client.ask(pull_request(&pull)).await), ["new"]);
    assert_eq!(queues_with_stats(&mut client, "g").await, 0);

    for topic in ["TBW102", "broker-a", "TestCluster", "a b", ""] {
        let answer = client.ask(delete_topic(topic)).await;
        assert_eq!(answer.code, ResponseCode::INVALID_PARAMETER, "{topic}: {answer:?}");
    }
    cluster.stop().await;
}

/// A group that is deleted keeps its offsets unless they are to go too, and its members can make it anew.
#[tokio::test]
async fn a_deleted_group_keeps_its_offsets_if_wanted() {
    let cluster = Cluster::start(1).await;
    let mut client = cluster.leader_client().await;
    client.produce("T", 0, "m", "").await;
    client.beat("c", "g", "T", "*", 1).await;
    client.group_exists(&cluster, "g").await;
    assert_eq!(client.ask(update_request("g", "T", 0, 1)).await.code, 0);
    assert_eq!(client.ask(delete_group("g", false)).await.code, 0);
    let tables = cluster.nodes[0].replicas()[0].tables();
    assert!(tables.group("g").is_none());
    assert_eq!(field(&client.offset("g", "T", 0).await, "offset"), 1, "of a group that is not there any more");
    assert_eq!(queues_with_stats(&mut client, "g").await, 4);
    let refused = client.ask(update_request("g", "T", 0, 0)).await;
    assert_eq!(refused.code, ResponseCode::SUBSCRIPTION_GROUP_NOT_EXIST);
    client.beat("c", "g", "T", "*", 2).await;
    client.group_exists(&cluster, "g").await;
    assert_eq!(field(&client.offset("g", "T", 0).await, "offset"), 1);
    assert_eq!(client.ask(delete_group("g", true)).await.code, 0);
    assert_eq!(queues_with_stats(&mut client, "g").await, 0);
    assert_eq!(client.ask(delete_group("nobody", true)).await.code, 0);
    for group in ["TOOLS_CONSUMER", "", "a/b"] {
        assert_eq!(client.ask(delete_group(group, true)).await.code, ResponseCode::INVALID_PARAMETER, "{group}");
    }
    cluster.stop().await;
}

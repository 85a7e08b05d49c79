//! Consumer groups as their members see them.

use ledgermq_protocol::consumer_list::ConsumerList;
use ledgermq_protocol::json::Body;
use ledgermq_protocol::remoting::command::RemotingCommand;
use ledgermq_protocol::remoting::headers::group::{ConsumerListByGroup, UnregisterClient};
use ledgermq_protocol::remoting::request_code::RequestCode;
use ledgermq_protocol::remoting::response_code::ResponseCode;

use super::fixture::*;

fn list(group: &str) -> RemotingCommand {
    let header = ConsumerListByGroup { consumer_group: group.into() };
    RemotingCommand::request(RequestCode::GET_CONSUMER_LIST_BY_GROUP, 0).with_header(&header)
}

fn ids(answer: &RemotingCommand) -> Vec<String> {
    ConsumerList::from_json(&answer.body).unwrap().consumer_id_list
}

/// A dead member's queues must be taken over at once, and a group must have its retry topic from its first heartbeat on.
#[tokio::test]
async fn members_hear_of_each_other_at_once() {
    let cluster = Cluster::start(1).await;
    let (mut a, mut b) = (cluster.leader_client().await, cluster.leader_client().await);
    assert_eq!(a.ask(list("g")).await.code, ResponseCode::SYSTEM_ERROR);
    a.beat("a", "g", "T", "*", 1).await;
    a.group_exists(&cluster, "g").await;
    assert_eq!(a.pushed().await.code, RequestCode::NOTIFY_CONSUMER_IDS_CHANGED);
    b.beat("b", "g", "T", "*", 1).await;
    let notice = a.pushed().await;
    assert_eq!((notice.code, notice.ext.get("consumerGroup")), (RequestCode::NOTIFY_CONSUMER_IDS_CHANGED, Some("g")));
    assert!(notice.is_oneway());
    assert_eq!(ids(&a.ask(list("g")).await), ["a", "b"]);
    drop(b);
    assert_eq!(a.pushed().await.code, RequestCode::NOTIFY_CONSUMER_IDS_CHANGED);
    assert_eq!(ids(&a.ask(list("g")).await), ["a"]);
    let leave = UnregisterClient { client_id: "a".into(), producer_group: None, consumer_group: Some("g".into()) };
    let leave = RemotingCommand::request(RequestCode::UNREGISTER_CLIENT, 0).with_header(&leave);
    assert_eq!(a.ask(leave).await.code, 0);
    assert_eq!(a.ask(list("g")).await.code, ResponseCode::SYSTEM_ERROR);
    cluster.stop().await;
}

/// A heartbeat that cannot be read must say so and leave nothing behind.
#[tokio::test]
async fn bad_heartbeats_are_refused() {
    let cluster = Cluster::start(1).await;
    let mut client = cluster.leader_client().await;
    let beat = |body: &'static [u8]| RemotingCommand::request(RequestCode::HEART_BEAT, 0).with_body(body);
    assert_eq!(client.ask(beat(b"{")).await.code, ResponseCode::SYSTEM_ERROR);
    assert_eq!(client.ask(beat(b"{}")).await.code, ResponseCode::INVALID_PARAMETER);
    let bad_group = heartbeat_request("c", "../g", "T", "*", 1);
    assert_eq!(client.ask(bad_group).await.code, ResponseCode::INVALID_PARAMETER);
    assert_eq!(cluster.nodes[0].replicas()[0].consumers.group_count(), 0);
    cluster.stop().await;
}

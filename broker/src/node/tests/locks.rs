//! Queue locks as consumers that consume in order see them.

use ledgermq_protocol::json::Body;
use ledgermq_protocol::json::object_map::MessageQueue;
use ledgermq_protocol::lock::{LockBatchRequest, LockBatchResponse};
use ledgermq_protocol::remoting::command::RemotingCommand;
use ledgermq_protocol::remoting::request_code::RequestCode;

use super::fixture::*;

fn request(code: i32, client_id: &str, queues: &[(&str, i32)]) -> RemotingCommand {
    let queue = |(topic, queue_id): &(&str, i32)| MessageQueue {
        broker_name: "broker-a".into(),
        queue_id: *queue_id,
        topic: (*topic).to_owned(),
    };
    let body = LockBatchRequest {
        client_id: client_id.into(),
        consumer_group: "g".into(),
        mq_set: queues.iter().map(queue).collect(),
        only_this_broker: false,
    };
    RemotingCommand::request(code, 0).with_body(body.to_json())
}

/// The queues that a client holds after it has asked for some.
async fn lock(client: &mut Client, client_id: &str, queues: &[(&str, i32)]) -> Vec<(String, i32)> {
    let answer = client.ask(request(RequestCode::LOCK_BATCH_MQ, client_id, queues)).await;
    assert_eq!(answer.code, 0, "{answer:?}");
    let held = LockBatchResponse::from_json(&answer.body).unwrap().lock_ok_mq_set;
    held.into_iter().map(|queue| (queue.topic, queue.queue_id)).collect()
}

fn named(queues: &[(&str, i32)]) -> Vec<(String, i32)> {
    queues.iter().map(|(topic, queue)| ((*topic).to_owned(), *queue)).collect()
}

/// What a client is told to hold nobody else may hold, whoever leads meanwhile.
#[tokio::test]
async fn a_lock_survives_its_leader() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let mut client = cluster.client(leader).await;
    client.produce("T", 0, "m", "").await;
    assert_eq!(lock(&mut client, "one", &[("T", 0), ("T", 1)]).await, named(&[("T", 0), ("T", 1)]));
    assert_eq!(lock(&mut client, "two", &[("T", 1), ("T", 2)]).await, named(&[("T", 2)]));
    // What is not there, or not on this broker, nobody can hold.
    assert_eq!(lock(&mut client, "two", &[("Nope", 0), ("T", 99), ("T", -1)]).await, []);
    let mut follower = cluster.client((leader + 1) % 3).await;
    assert_eq!(lock(&mut follower, "two", &[("T", 1), ("T", 2)]).await, named(&[("T", 2)]), "the leader says so");

    cluster.nodes.remove(leader).stop().await.unwrap();
    cluster.configs.remove(leader);
    let mut client = cluster.leader_client().await;
    assert_eq!(lock(&mut client, "two", &[("T", 0), ("T", 1), ("T", 2)]).await, named(&[("T", 2)]));
    let unlock = |client_id: &str| request(RequestCode::UNLOCK_BATCH_MQ, client_id, &[("T", 0), ("T", 1)]);
    assert_eq!(client.ask(unlock("two")).await.code, 0, "of another client: nothing happens");
    assert_eq!(lock(&mut client, "two", &[("T", 0)]).await, []);
    client.send(RemotingCommand { flag: 2, ..unlock("one") }).await;
    assert_eq!(client.ask(unlock("one")).await.code, 0);
    assert_eq!(lock(&mut client, "two", &[("T", 0), ("T", 1)]).await, named(&[("T", 0), ("T", 1)]));

    for body in [&b"{"[..], br#"{"clientId":"","consumerGroup":"g","mqSet":[]}"#, br#"{"clientId":"c","mqSet":[]}"#] {
        let answer = client.ask(RemotingCommand::request(RequestCode::LOCK_BATCH_MQ, 0).with_body(body)).await;
        assert_ne!(answer.code, 0, "{answer:?}");
    }
    cluster.stop().await;
}

//! Heartbeats against fake brokers: who is told of a client's groups, and when.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use fake::group::Broker;
use fake::{Fake, Reply, Routes, SOON, config, namesrv, stored};
use ledgermq_client::{Client, Filter, Message, ProducerConfig, PushConsumerConfig, Verdict};
use ledgermq_protocol::heartbeat::{ConsumeFromWhere, ConsumeType, HeartbeatData, MessageModel};
use ledgermq_protocol::json::Body;
use ledgermq_protocol::remoting::command::RemotingCommand;
use ledgermq_protocol::remoting::request_code::RequestCode;

#[allow(dead_code, reason = "each test program uses its part of it")]
mod fake;

/// Longer than any test: what happens, happens without the timer.
const NEVER: Duration = Duration::from_secs(60);

fn beats(told: &[RemotingCommand]) -> Vec<HeartbeatData> {
    let beats = told.iter().filter(|request| request.code == RequestCode::HEART_BEAT);
    beats.map(|request| HeartbeatData::from_json(&request.body).unwrap()).collect()
}

fn member(namesrv: &Fake, interval: Duration) -> Client {
    Client::new(config(&[namesrv]).with_client_id("a").with_heartbeat_interval(interval)).unwrap()
}

async fn storing() -> Fake {
    Fake::start(|request| Reply::Answer(stored(request, 0))).await
}

/// Brokers must be told of consumers on every member, whoever leads, and of what they subscribe to: the leader of tomorrow is one
/// of them.
#[tokio::test]
async fn consumers_are_told_to_every_member() {
    let broker = Broker::new();
    let (leader, follower) = (broker.serve().await, broker.serve().await);
    let namesrv = namesrv(&Routes::new(&leader.addr, &[&follower.addr], true)).await;
    let client = member(&namesrv, NEVER);
    let config = PushConsumerConfig::new("CG")
        .with_subscription("TopicTest", "TagA || TagB")
        .with_filtered("Other", Filter::Sql("a > 5".to_owned()));
    let consumer = client.push_consumer(config, |_| async { Verdict::Consumed }).unwrap();
    for fake in [&leader, &follower] {
        let beat = beats(&fake.membership(|told| !told.is_empty()).await).remove(0);
        assert_eq!(beat.client_id, "a");
        let group = &beat.consumer_data_set[0];
        assert_eq!((group.group_name.as_str(), group.consume_type), ("CG", ConsumeType::Passively));
        assert_eq!(
            (group.message_model, group.consume_from_where),
            (MessageModel::Clustering, ConsumeFromWhere::LastOffset)
        );
        let topics: Vec<&str> = group.subscription_data_set.iter().map(|data| data.topic.as_str()).collect();
        assert_eq!(topics, ["TopicTest", "Other", "%RETRY%CG"]);
        let by_sql = &group.subscription_data_set[1];
        assert_eq!((by_sql.expression_type.as_str(), by_sql.sub_string.as_str()), ("SQL92", "a > 5"));
        let wanted = &group.subscription_data_set[0];
        assert_eq!((wanted.sub_string.as_str(), wanted.tags_set.len()), ("TagA || TagB", 2));
        assert_eq!(wanted.code_set, [2_598_919, 2_598_920]);
        assert!(wanted.sub_version > 0);
    }
    consumer.shutdown(SOON).await;
    for fake in [&leader, &follower] {
        let told = fake.membership(|told| told.iter().any(|request| request.code == 35)).await;
        let leave = told.iter().find(|request| request.code == 35).unwrap();
        assert_eq!((leave.ext.get("clientID"), leave.ext.get("consumerGroup")), (Some("a"), Some("CG")));
    }
}

/// Producers must be told to leaders alone: to the first one from the first send on, and to the one that comes after it.
#[tokio::test]
async fn producers_are_told_to_leaders() {
    let (old, new) = (storing().await, storing().await);
    let routes = Routes::new(&old.addr, &[&new.addr], true);
    let namesrv = namesrv(&routes).await;
    let client = member(&namesrv, NEVER);
    let producer = client.producer(ProducerConfig::new("PG")).unwrap();
    producer.send(&Message::new("TopicTest", "m")).await.unwrap();
    let beat = beats(&old.membership(|told| !told.is_empty()).await).remove(0);
    assert_eq!((beat.client_id.as_str(), beat.producer_data_set[0].group_name.as_str()), ("a", "PG"));
    assert!(beats(&new.membership(|_| true).await).is_empty());
    routes.elect(&new.addr, &[&old.addr]);
    new.membership(|told| !told.is_empty()).await;
    // The last producer of the group is gone: so is the group.
    drop(producer);
    let told = new.membership(|told| told.iter().any(|request| request.code == 35)).await;
    assert_eq!(told.last().unwrap().ext.get("producerGroup"), Some("PG"));
}

/// A broker forgets a client whose connection ends: the next connection must be told at once, and everybody each interval.
#[tokio::test]
async fn a_new_connection_is_told_at_once() {
    let broker = storing().await;
    let namesrv = namesrv(&Routes::new(&broker.addr, &[], true)).await;
    let client = member(&namesrv, NEVER);
    let producer = client.producer(ProducerConfig::new("PG")).unwrap();
    producer.send(&Message::new("TopicTest", "m")).await.unwrap();
    for count in 1..4 {
        broker.membership(|told| told.len() >= count).await;
        broker.lines.cut();
    }
    let often = member(&namesrv, Duration::from_millis(100));
    let producer = often.producer(ProducerConfig::new("PG")).unwrap();
    producer.send(&Message::new("TopicTest", "m")).await.unwrap();
    broker.membership(|told| told.len() >= 8).await;
}

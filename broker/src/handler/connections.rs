//! Who is there: GET_CONSUMER_CONNECTION_LIST, GET_PRODUCER_CONNECTION_LIST, QUERY_SUBSCRIPTION_BY_CONSUMER,
//! QUERY_TOPIC_CONSUME_BY_WHO and QUERY_TOPICS_BY_CONSUMER.
//!
//! Answered by every replica from the heartbeats that came to it, and from the offsets that it has applied: consumers and
//! producers send heartbeats to the leader at least.

use std::collections::BTreeSet;
use std::sync::Arc;

use ledgermq_protocol::consumer_list::{GroupList, GroupSubscription};
use ledgermq_protocol::json::Body;
use ledgermq_protocol::remoting::command::RemotingCommand;
use ledgermq_protocol::remoting::headers::admin::{ConsumerConnectionList, ProducerConnectionList, TopicAndGroup};
use ledgermq_protocol::remoting::headers::topic::{SubscriptionGroup, TopicOnly};
use ledgermq_protocol::remoting::request_code::RequestCode;
use ledgermq_protocol::remoting::response_code::ResponseCode;
use ledgermq_protocol::route::TopicList;

use super::consume_stats::committed_topics;
use super::{header, refused};
use crate::consumer::group::Lookup;
use crate::replica::Replica;
use crate::server::outbox::Responder;
use crate::stamp::Refusal;

/// Answers one of the first three.
pub fn connections(replica: &Replica, request: &RemotingCommand, responder: Responder) {
    let body = match request.code {
        RequestCode::GET_CONSUMER_CONNECTION_LIST => header(request).and_then(|asked: ConsumerConnectionList| {
            let group = &asked.consumer_group;
            // The code by which tools tell a group that is not running.
            let offline =
                || Refusal::new(ResponseCode::CONSUMER_NOT_ONLINE, format!("no consumer of {group} is online"));
            Ok(replica.consumers.connections(group).ok_or_else(offline)?.to_json())
        }),
        RequestCode::GET_PRODUCER_CONNECTION_LIST => header(request).and_then(|asked: ProducerConnectionList| {
            let group = &asked.producer_group;
            let offline = || Refusal::new(ResponseCode::SYSTEM_ERROR, format!("no producer of {group} is online"));
            Ok(replica.producers.connections(group).ok_or_else(offline)?.to_json())
        }),
        _ => header(request).map(|asked: TopicAndGroup| subscription(replica, asked).to_json()),
    };
    let answer = responder.command(ResponseCode::SUCCESS);
    let answer = match body {
        Ok(body) => answer.with_body(body),
        Err(refusal) => refused(answer, refusal),
    };
    responder.send(answer);
}

fn subscription(replica: &Replica, asked: TopicAndGroup) -> GroupSubscription {
    let subscription_data = match replica.consumers.subscription(&asked.group, &asked.topic) {
        Lookup::Found(found) => Some(found.data(&asked.topic)),
        Lookup::NoGroup | Lookup::NotSubscribed => None,
    };
    GroupSubscription { group: asked.group, subscription_data, topic: asked.topic }
}

/// Answers with the groups that subscribe to a topic or have committed offsets for it, or with the topics of a group.
pub async fn who_consumes(replica: Arc<Replica>, request: RemotingCommand, responder: Responder) {
    replica.catch_up().await;
    let body = if request.code == RequestCode::QUERY_TOPIC_CONSUME_BY_WHO {
        header(&request).map(|asked: TopicOnly| groups_of(&replica, &asked.topic).to_json())
    } else {
        header(&request).map(|asked: SubscriptionGroup| topics_of(&replica, &asked.group).to_json())
    };
    let answer = responder.command(ResponseCode::SUCCESS);
    let answer = match body {
        Ok(body) => answer.with_body(body),
        Err(refusal) => refused(answer, refusal),
    };
    responder.send(answer);
}

fn groups_of(replica: &Replica, topic: &str) -> GroupList {
    let mut groups: BTreeSet<String> = replica.consumers.subscribers(topic).into_iter().collect();
    if let Some(topic) = replica.tables().topic(topic) {
        groups.extend(replica.tables().groups_of_topic(topic.key()).iter().map(|group| group.to_string()));
    }
    GroupList { group_list: groups.into_iter().collect() }
}

fn topics_of(replica: &Replica, group: &str) -> TopicList {
    let topics = committed_topics(replica.tables(), group);
    TopicList {
        broker_addr: Some(replica.identity().advertised.clone()),
        topic_list: topics.iter().map(|topic| topic.name().to_string()).collect(),
    }
}

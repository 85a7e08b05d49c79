//! HEART_BEAT and UNREGISTER_CLIENT: a client says which groups it is in, or that it leaves.
//!
//! Taken on every replica, since consumers send it to all of them and pull from followers while there is no leader. Only the
//! leader creates what a group needs in the log: its settings and its retry topic.

use std::sync::Arc;
use std::time::Instant;

use ledgermq_protocol::heartbeat::{ConsumerData, HeartbeatData, MessageModel, ProducerData, SubscriptionData};
use ledgermq_protocol::message::tags::TagFilter;
use ledgermq_protocol::names;
use ledgermq_protocol::remoting::command::RemotingCommand;
use ledgermq_protocol::remoting::headers::group::UnregisterClient;
use ledgermq_protocol::remoting::response_code::ResponseCode;

use super::{body, header};
use crate::consumer::group::{CLIENT_ID_LEN_MAX, ClientInfo, ConsumerGroups, Consumption, Join, Subscription};
use crate::filter::{Filter, FilterError};
use crate::replica::Replica;
use crate::server::outbox::Responder;
use crate::stamp::Refusal;

/// Takes a heartbeat.
pub fn heartbeat(replica: &Arc<Replica>, request: &RemotingCommand, responder: Responder) {
    match take(replica, request, &responder) {
        Ok(()) => {
            let answer = responder.command(ResponseCode::SUCCESS);
            responder.send(answer);
        }
        Err(refusal) => responder.refuse(refusal.code, refusal.remark),
    }
}

fn take(replica: &Arc<Replica>, request: &RemotingCommand, responder: &Responder) -> Result<(), Refusal> {
    let data: HeartbeatData = body(request)?;
    if data.client_id.is_empty() || data.client_id.len() > CLIENT_ID_LEN_MAX {
        let remark = format!("clientID of {} bytes, must have 1 to {CLIENT_ID_LEN_MAX}", data.client_id.len());
        return Err(Refusal::new(ResponseCode::INVALID_PARAMETER, remark));
    }
    for consumer in &data.consumer_data_set {
        names::check_group(&consumer.group_name)
            .map_err(|error| Refusal::new(ResponseCode::INVALID_PARAMETER, error.to_string()))?;
    }
    let client = ClientInfo { client_id: data.client_id, language: request.language, version: request.version };
    replica.requesters.heard(&client.client_id, responder.connection());
    for consumer in data.consumer_data_set {
        replica.ensure_group(&consumer.group_name);
        let notify = replica.tables().group(&consumer.group_name).is_none_or(|group| group.notify_consumer_ids_changed);
        let join = join(&replica.consumers, &client, &consumer, notify);
        replica
            .consumers
            .join(responder.connection(), join, Instant::now())
            .map_err(|error| Refusal::new(ResponseCode::SYSTEM_ERROR, error.to_string()))?;
    }
    // One with a name that no send may bring is only not listed: its client may have consumers.
    let named = |producer: &&ProducerData| names::check_producer_group(&producer.group_name).is_ok();
    for producer in data.producer_data_set.iter().filter(named) {
        replica
            .producers
            .join(responder.connection(), &producer.group_name, &client, Instant::now())
            .map_err(|error| Refusal::new(ResponseCode::SYSTEM_ERROR, error.to_string()))?;
    }
    Ok(())
}

fn join<'a>(known: &ConsumerGroups, client: &'a ClientInfo, consumer: &'a ConsumerData, notify: bool) -> Join<'a> {
    let consumption = Consumption {
        broadcasting: consumer.message_model == MessageModel::Broadcasting,
        consume_type: consumer.consume_type,
        from_where: consumer.consume_from_where,
    };
    Join {
        group: &consumer.group_name,
        client,
        consumption,
        subscriptions: consumer
            .subscription_data_set
            .iter()
            .map(|data| (data.topic.clone(), subscription(known, &consumer.group_name, data)))
            .collect(),
        notify,
    }
}

fn subscription(known: &ConsumerGroups, group: &str, data: &SubscriptionData) -> Subscription {
    let (kind, expression) = (&data.expression_type, &data.sub_string);
    let compile = || match Filter::parse(kind, expression) {
        // An expression that names no tag matches nothing; its client could not have sent it.
        Err(FilterError::Tags(_)) => Ok(Arc::new(Filter::Tags(TagFilter::Codes(Vec::new())))),
        parsed => parsed.map(Arc::new),
    };
    let filter = known.compiled(group, &data.topic, kind, expression).unwrap_or_else(compile);
    Subscription {
        expression: data.sub_string.clone(),
        expression_type: data.expression_type.clone(),
        filter,
        version: data.sub_version,
    }
}

/// Lets a client leave.
pub fn unregister(replica: &Arc<Replica>, request: &RemotingCommand, responder: Responder) {
    match header::<UnregisterClient>(request) {
        Ok(leaving) => {
            if let Some(group) = leaving.consumer_group {
                replica.consumers.leave(responder.connection().id(), &group);
            }
            if let Some(group) = leaving.producer_group {
                replica.producers.leave(responder.connection().id(), &group);
            }
            let answer = responder.command(ResponseCode::SUCCESS);
            responder.send(answer);
        }
        Err(refusal) => responder.refuse(refusal.code, refusal.remark),
    }
}

//! What a tool wants to know of a consumer, or wants it to do: GET_CONSUMER_RUNNING_INFO, CONSUME_MESSAGE_DIRECTLY and
//! INVOKE_BROKER_TO_GET_CONSUMER_STATUS. The broker asks the client over its own connection and passes the answer on as it came.
//!
//! Answered by every replica for the consumers that are connected to it: they send heartbeats to all of them.

use std::sync::Arc;
use std::time::Duration;

use ledgermq_protocol::json::Body;
use ledgermq_protocol::message::id::parse_offset_id;
use ledgermq_protocol::names;
use ledgermq_protocol::remoting::command::RemotingCommand;
use ledgermq_protocol::remoting::headers::admin::{ConsumeMessageDirectly, ConsumerRunningInfo, ConsumerStatus};
use ledgermq_protocol::remoting::request_code::RequestCode;
use ledgermq_protocol::remoting::response_code::ResponseCode;
use ledgermq_protocol::stats::{ClientOffsets, GetConsumerStatusBody};
use tokio::task::JoinSet;

use super::{header, refused, view_message};
use crate::replica::Replica;
use crate::server::call::CallError;
use crate::server::outbox::Responder;
use crate::stamp::Refusal;

/// How long a consumer may take: its listener may be at work on the message.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// How long each consumer of a group may take to tell where it is: as long as a tool waits for all of them.
const STATUS_TIMEOUT: Duration = Duration::from_secs(5);

/// Answers with what a consumer says of itself.
pub async fn running_info(replica: Arc<Replica>, request: RemotingCommand, responder: Responder) {
    let answer = match header::<ConsumerRunningInfo>(&request) {
        Ok(asked) => {
            let call = RemotingCommand::request(RequestCode::GET_CONSUMER_RUNNING_INFO, 0);
            let (group, client) = (asked.consumer_group.clone(), asked.client_id.clone());
            call_member(&replica, &group, Some(&client), |_| call.with_header(&asked)).await
        }
        Err(refusal) => Err(refusal),
    };
    pass_on(answer, responder);
}

/// Has a consumer consume one message, and answers with what came of it. The group's offsets do not move.
pub async fn consume_directly(replica: Arc<Replica>, request: RemotingCommand, responder: Responder) {
    let answer = match header(&request) {
        Ok(asked) => consume(&replica, asked).await,
        Err(refusal) => Err(refusal),
    };
    pass_on(answer, responder);
}

async fn consume(replica: &Arc<Replica>, asked: ConsumeMessageDirectly) -> Result<RemotingCommand, Refusal> {
    let illegal = |remark: String| Refusal::new(ResponseCode::INVALID_PARAMETER, remark);
    if let Some(topic) = &asked.topic {
        names::check_topic(topic).map_err(|error| illegal(error.to_string()))?;
    }
    let id = asked.msg_id.as_deref().unwrap_or_default();
    let (_, physical_offset) = parse_offset_id(id)
        .map_err(|error| illegal(format!("msgId {id:.64} is not one that a broker gives: {error}")))?;
    let record = view_message::find(replica, physical_offset).await?;
    let topic = asked.topic.as_deref().and_then(|topic| replica.tables().topic(topic));
    let settings = replica.tables().group(&asked.consumer_group);
    let (group, client) = (asked.consumer_group.clone(), asked.client_id.clone());
    let call = |client_id: &str| {
        let header = ConsumeMessageDirectly {
            // Clients look themselves up by it.
            client_id: Some(client_id.to_owned()),
            broker_name: Some(replica.identity().broker_name.clone()),
            topic_sys_flag: topic.map(|topic| topic.settings().sys_flag),
            group_sys_flag: settings.map(|settings| settings.sys_flag),
            ..asked
        };
        RemotingCommand::request(RequestCode::CONSUME_MESSAGE_DIRECTLY, 0).with_header(&header).with_body(record)
    };
    call_member(replica, &group, client.as_deref(), call).await
}

/// Calls a member of a group: the one with this client id, if there is one. `request` makes the request for a client id.
async fn call_member(
    replica: &Replica,
    group: &str,
    client_id: Option<&str>,
    request: impl FnOnce(&str) -> RemotingCommand,
) -> Result<RemotingCommand, Refusal> {
    let members = replica.consumers.members(group);
    // The last one: a client that has connected anew may be there twice for a moment.
    let wanted = |id: &str| client_id.is_none_or(|wanted| wanted == id);
    let Some((client, connection)) = members.into_iter().rfind(|(client, _)| wanted(&client.client_id)) else {
        let remark = format!("The Consumer <{group:.120}> <{:.255}> not online", client_id.unwrap_or_default());
        return Err(Refusal::new(ResponseCode::SYSTEM_ERROR, remark));
    };
    connection.call(request(&client.client_id), CALL_TIMEOUT).await.map_err(|error| {
        let code = match error {
            CallError::TimedOut(_) => ResponseCode::CONSUME_MSG_TIMEOUT,
            CallError::Full => ResponseCode::SYSTEM_BUSY,
            CallError::Closed => ResponseCode::SYSTEM_ERROR,
        };
        Refusal::new(code, format!("consumer <{group}> <{}>: {error}", client.client_id))
    })
}

fn pass_on(answer: Result<RemotingCommand, Refusal>, responder: Responder) {
    match answer {
        Ok(answer) => responder.relay(answer),
        Err(refusal) => responder.refuse(refusal.code, refusal.remark),
    }
}

/// Answers with where each consumer of a group, or the one that is asked for, says that it is in its queues of a topic.
pub async fn consumer_status(replica: Arc<Replica>, request: RemotingCommand, responder: Responder) {
    let answer = responder.command(ResponseCode::SUCCESS);
    let status = match header(&request) {
        Ok(asked) => status(&replica, asked).await,
        Err(refusal) => Err(refusal),
    };
    responder.send(match status {
        Ok(status) => answer.with_body(status.to_json()),
        Err(refusal) => refused(answer, refusal),
    });
}

async fn status(replica: &Replica, asked: ConsumerStatus) -> Result<GetConsumerStatusBody, Refusal> {
    names::check_topic(&asked.topic)
        .map_err(|error| Refusal::new(ResponseCode::INVALID_PARAMETER, error.to_string()))?;
    let members = replica.consumers.members(&asked.group);
    if members.is_empty() {
        let remark = format!("No Any Consumer online in the consumer group: [{:.120}]", asked.group);
        return Err(Refusal::new(ResponseCode::SYSTEM_ERROR, remark));
    }
    let header = ConsumerStatus { client: None, ..asked.clone() };
    let call = RemotingCommand::request(RequestCode::GET_CONSUMER_STATUS_FROM_CLIENT, 0).with_header(&header);
    let mut calls = JoinSet::new();
    for (client, connection) in members {
        if asked.client.as_ref().is_none_or(|wanted| *wanted == client.client_id) {
            let call = call.clone();
            calls.spawn(async move { (client.client_id, connection.call(call, STATUS_TIMEOUT).await) });
        }
    }
    let mut body = GetConsumerStatusBody::default();
    for (client_id, answer) in calls.join_all().await {
        // Who does not answer is left out, as one that is not there.
        let Ok(answer) = answer else { continue };
        match GetConsumerStatusBody::from_json(&answer.body) {
            Ok(told) if answer.code == ResponseCode::SUCCESS => {
                body.consumer_table.insert(client_id, ClientOffsets(told.message_queue_table));
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(client_id, %error, "a consumer's status cannot be read"),
        }
    }
    Ok(body)
}

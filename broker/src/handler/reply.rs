//! SEND_REPLY_MESSAGE and its short-named form, and PUSH_REPLY_MESSAGE_TO_CLIENT: a reply on its way to the client that asked.
//!
//! ```text
//! responder --reply--> this node: is REPLY_TO_CLIENT connected to one of its replicas? --+--> yes: call it, answer with what it says
//!                                                                                       +--> no: ask the other members, one hop
//! ```
//! The client that asked is connected to the leaders of the topics that it sends to; its replies come to any broker of the cluster.
//! A reply is handed over and not stored: RocketMQ stores it too by default, where nobody reads it. So any replica takes replies,
//! leader or not, and whoever replied is told when the client that asked cannot be reached.

use std::sync::Arc;
use std::time::Duration;

use ledgermq_protocol::message::properties::{self, name};
use ledgermq_protocol::names;
use ledgermq_protocol::remoting::command::RemotingCommand;
use ledgermq_protocol::remoting::headers::send::{PushReply, SendMessage, SendMessageResponse};
use ledgermq_protocol::remoting::request_code::RequestCode;
use ledgermq_protocol::remoting::response_code::ResponseCode;

use super::send::{check_body, check_names, illegal, too_long};
use super::{header, refused};
use crate::consumer::group::CLIENT_ID_LEN_MAX;
use crate::replica::{Replica, wall_clock_ms};
use crate::server::call::CallError;
use crate::server::forward::Forwarder;
use crate::server::outbox::Responder;
use crate::stamp::Refusal;

/// How long the client may take to say that it has the reply: it only looks up who waits for it. As long as whoever replied waits
/// by default.
const PUSH_TIMEOUT: Duration = Duration::from_secs(3);

/// Takes a reply and hands it over.
pub async fn send_reply(
    replica: Arc<Replica>,
    node: Vec<Arc<Replica>>,
    forwarder: Arc<Forwarder>,
    request: RemotingCommand,
    responder: Responder,
) {
    let answer = responder.command(ResponseCode::SUCCESS);
    let handed_over = match prepare(&replica, &request, &responder) {
        Ok(push) => hand_over(&node, &forwarder, &push).await.map(|()| push.queue_id),
        Err(refusal) => Err(refusal),
    };
    responder.send(match handed_over {
        // As for a message, though none is stored: Java reads all three without a check.
        Ok(queue_id) => answer.with_header(&SendMessageResponse {
            msg_id: "0".to_owned(),
            queue_id,
            queue_offset: 0,
            transaction_id: None,
            batch_uniq_id: None,
            recall_handle: None,
            region: Some(SendMessageResponse::DEFAULT_REGION.to_owned()),
            trace_on: Some(true),
        }),
        Err(refusal) => refused(answer, refusal),
    });
}

/// A reply that came to another member, whose client is to be looked for here and nowhere else.
pub async fn push_reply(node: Vec<Arc<Replica>>, request: RemotingCommand, responder: Responder) {
    let client_id = match header::<PushReply>(&request).and_then(|push| client_of(push.properties.as_deref())) {
        Ok(client_id) => client_id,
        Err(refusal) => return responder.refuse(refusal.code, refusal.remark),
    };
    let answer = responder.command(ResponseCode::SUCCESS);
    responder.send(match push_here(&node, &client_id, &request).await {
        Ok(true) => answer,
        Ok(false) => refused(answer, not_found(&client_id)),
        Err(refusal) => refused(answer, refusal),
    });
}

/// What a reply becomes.
struct Push {
    /// The client that asked.
    client_id: String,
    /// What it is sent.
    request: RemotingCommand,
    /// The queue that the reply names.
    queue_id: i32,
}

fn prepare(replica: &Replica, request: &RemotingCommand, responder: &Responder) -> Result<Push, Refusal> {
    let reply = SendMessage::from_ext(request.code, &request.ext).map_err(super::bad_field)?;
    check_names(&reply)?;
    check_body(request.body.len())?;
    names::check_topic(reply.default_topic).map_err(|error| illegal(format!("default topic: {error}")))?;
    let mut given = reply.properties.unwrap_or_default().to_owned();
    let client_id = client_of(Some(&given))?;
    let now_ms = wall_clock_ms();
    properties::set(&mut given, name::PUSH_REPLY_TIME, &now_ms.to_string()).map_err(too_long)?;
    let push = PushReply {
        producer_group: reply.producer_group.to_owned(),
        topic: reply.topic.to_owned(),
        default_topic: reply.default_topic.to_owned(),
        default_topic_queue_nums: reply.default_topic_queue_nums,
        queue_id: reply.queue_id,
        sys_flag: reply.sys_flag,
        born_timestamp_ms: reply.born_timestamp_ms,
        flag: reply.flag,
        properties: Some(given),
        reconsume_times: reply.reconsume_times,
        unit_mode: reply.unit_mode,
        born_host: responder.client().to_string(),
        store_host: replica.identity().store_host.to_string(),
        store_timestamp_ms: now_ms,
    };
    let request = RemotingCommand::request(RequestCode::PUSH_REPLY_MESSAGE_TO_CLIENT, 0)
        .with_header(&push)
        .with_body(request.body.clone());
    Ok(Push { client_id, request, queue_id: reply.queue_id.max(0) })
}

/// Whose reply it is.
fn client_of(given: Option<&str>) -> Result<String, Refusal> {
    let client = given.and_then(|given| properties::get(given, name::REPLY_TO_CLIENT));
    let nobodys = || {
        let remark =
            format!("the reply's property {} is missing: it names the client that asked", name::REPLY_TO_CLIENT);
        Refusal::new(ResponseCode::SYSTEM_ERROR, remark)
    };
    client.map(str::to_owned).ok_or_else(nobodys)
}

async fn hand_over(node: &[Arc<Replica>], forwarder: &Forwarder, push: &Push) -> Result<(), Refusal> {
    let Push { client_id, request, .. } = push;
    if push_here(node, client_id, request).await? || forwarder.ask_others(request, PUSH_TIMEOUT).await.is_some() {
        return Ok(());
    }
    Err(not_found(client_id))
}

/// Hands a reply to its client. False when it is connected to no replica of this node.
async fn push_here(node: &[Arc<Replica>], client_id: &str, push: &RemotingCommand) -> Result<bool, Refusal> {
    // A client may be connected to several replicas.
    let connections: Vec<_> = node.iter().filter_map(|replica| replica.requesters.find(client_id)).collect();
    for connection in connections {
        let failed = match connection.call(push.clone(), PUSH_TIMEOUT).await {
            Ok(answer) if answer.code == ResponseCode::SUCCESS => return Ok(true),
            // It is not here any more.
            Err(CallError::Closed) => continue,
            Ok(answer) => format!("it answered {}: {}", answer.code, answer.remark.unwrap_or_default()),
            Err(error) => error.to_string(),
        };
        let remark = format!("push reply message to <{client_id}> fail: {failed}");
        return Err(Refusal::new(ResponseCode::SYSTEM_ERROR, remark));
    }
    Ok(false)
}

fn not_found(client_id: &str) -> Refusal {
    let remark = format!("push reply message fail, channel of <{client_id:.255}> not found");
    Refusal::new(ResponseCode::SYSTEM_ERROR, remark)
}

/// Notes where the reply to a send belongs, when it asks for one: a client's first heartbeat may come 30 s after its first request.
/// Any other send costs a search in its properties.
pub(super) fn note_requester(replica: &Replica, request: &RemotingCommand, responder: &Responder) {
    let given = SendMessage::properties_of(request.code, &request.ext).unwrap_or_default();
    // What another member passed on came from a client of that one.
    if !given.contains(name::REPLY_TO_CLIENT) || responder.forwarded().is_some() {
        return;
    }
    let Ok(send) = SendMessage::from_ext(request.code, &request.ext) else { return };
    match properties::get(given, name::REPLY_TO_CLIENT) {
        // In a retry topic a consumer gives somebody else's request back.
        Some(client_id) if client_id.len() <= CLIENT_ID_LEN_MAX && !names::is_retry_topic(send.topic) => {
            replica.requesters.asked(client_id, responder.connection());
        }
        _ => {}
    }
}

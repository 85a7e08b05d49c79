//! RECALL_MESSAGE: a delayed message is taken back before its time.
//!
//! The handle that the send was answered with names it. Whether it is too late is decided in log order: the entry that delivers
//! it, or this one, comes first. A client that may send may recall: whoever has the handle has seen the answer to the send.

use std::sync::Arc;

use ledgermq_dledger::Outcome;
use ledgermq_protocol::message::recall::RecallHandle;
use ledgermq_protocol::remoting::command::RemotingCommand;
use ledgermq_protocol::remoting::headers::send::{RecallMessage, RecallMessageResponse};
use ledgermq_protocol::remoting::response_code::ResponseCode;

use super::pull::COLD_READS;
use super::{from_disk, header, no_barrier, refused, topic_named};
use crate::replica::{Replica, wall_clock_ms};
use crate::server::outbox::Responder;
use crate::server::ticket::failed;
use crate::stamp::{Answer, Item, Refusal, TimerItem, too_late};

/// Answers once the message is out of the way for good, or with why it is not.
pub async fn recall(replica: Arc<Replica>, request: RemotingCommand, responder: Responder) {
    let answer = responder.command(ResponseCode::SUCCESS);
    let answer = match checked(&replica, &request) {
        Ok(handle) => take_back(&replica, handle, answer).await,
        Err(refusal) => refused(answer, refusal),
    };
    responder.send(answer);
}

fn checked(replica: &Replica, request: &RemotingCommand) -> Result<RecallHandle, Refusal> {
    let illegal = |remark: String| Refusal::new(ResponseCode::ILLEGAL_OPERATION, format!("recall failed: {remark}"));
    let asked: RecallMessage = header(request)?;
    topic_named(replica, &asked.topic)?;
    let handle = RecallHandle::decode(&asked.recall_handle).map_err(|error| illegal(error.to_string()))?;
    if handle.topic != asked.topic {
        return Err(illegal(format!("the handle is for topic {}, not {}", handle.topic, asked.topic)));
    }
    let broker_name = &replica.identity().broker_name;
    if handle.broker_name != *broker_name {
        return Err(illegal(format!("the handle is for broker {}, this is {broker_name}", handle.broker_name)));
    }
    if handle.due_ms <= wall_clock_ms() {
        return Err(too_late());
    }
    Ok(handle)
}

async fn take_back(replica: &Arc<Replica>, handle: RecallHandle, answer: RemotingCommand) -> RemotingCommand {
    // An old leader must not say that it is too late.
    if let Err(error) = replica.read_barrier().await {
        return no_barrier(answer, &error, replica.identity());
    }
    let msg_id = handle.unique_key.clone();
    let item = match find(replica, handle).await {
        Ok(Some(item)) => item,
        Ok(None) => return refused(answer, too_late()),
        Err(refusal) => return refused(answer, refusal),
    };
    match replica.call_item(Item::Timers(item)).await {
        Outcome::Answered(Answer::Done { index }) => {
            replica.applied(index).await;
            answer.with_header(&RecallMessageResponse { msg_id })
        }
        failure => failed(answer, failure, replica.identity()),
    }
}

async fn find(replica: &Arc<Replica>, handle: RecallHandle) -> Result<Option<TimerItem>, Refusal> {
    let replica = Arc::clone(replica);
    let _turn = COLD_READS.acquire().await.expect("the semaphore is never closed");
    let found = from_disk("a recall", move || replica.waiting.recalled(&replica.keys, &handle)).await?;
    found.map_err(|error| {
        tracing::error!(%error, "delayed messages cannot be read");
        Refusal::new(ResponseCode::SYSTEM_ERROR, format!("delayed messages cannot be read: {error}"))
    })
}

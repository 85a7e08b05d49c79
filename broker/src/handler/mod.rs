//! What each request does, one kind a file. Chosen by [`crate::server::dispatch`].
//!
//! A handler checks what it was sent, reads applied state or proposes to the log, and answers through its
//! [`Responder`], at once or later. None of them blocks, and none changes state by itself:
//! that is what the log is for.

pub mod batch;
pub mod broker_stats;
pub mod client_calls;
pub mod client_config;
pub mod clone_offset;
pub mod connections;
pub mod consume_stats;
pub mod consumer_list;
pub mod heartbeat;
pub mod lock;
pub mod members;
pub mod offset;
pub mod pull;
mod pull_filter;
pub mod query_message;
pub mod queue_ends;
mod queue_mend;
pub mod raft_status;
pub mod recall;
pub mod reply;
pub mod reset_offset;
pub mod runtime_info;
pub mod send;
pub mod send_back;
pub mod subscription_group;
pub mod topic;
pub mod topic_stats;
pub mod view_message;

use std::sync::Arc;

use ledgermq_dledger::{Outcome, ReadError};
use ledgermq_protocol::json::{Body, JsonError};
use ledgermq_protocol::remoting::command::RemotingCommand;
use ledgermq_protocol::remoting::headers::{FieldError, Header};
use ledgermq_protocol::remoting::response_code::ResponseCode;

use crate::apply::QueueError;
use crate::command::Command;
use crate::identity::Identity;
use crate::replica::Replica;
use crate::server::outbox::Responder;
use crate::server::ticket::failed;
use crate::stamp::{Answer, Refusal};
use crate::tables::Topic;

/// A missing or malformed field.
pub(crate) fn bad_field(error: FieldError) -> Refusal {
    Refusal::new(ResponseCode::INVALID_PARAMETER, error.to_string())
}

/// A body that is not what it should be.
pub(crate) fn bad_body(error: JsonError) -> Refusal {
    Refusal::new(ResponseCode::SYSTEM_ERROR, format!("the body cannot be read: {error}"))
}

/// The typed header of a request.
pub(crate) fn header<H: Header>(request: &RemotingCommand) -> Result<H, Refusal> {
    request.header().map_err(bad_field)
}

/// The body of a request.
pub(crate) fn body<B: Body>(request: &RemotingCommand) -> Result<B, Refusal> {
    B::from_json(&request.body).map_err(bad_body)
}

/// The topic of this name, as applied here.
pub(crate) fn topic_named(replica: &Replica, name: &str) -> Result<Arc<Topic>, Refusal> {
    let not_there = || Refusal::new(ResponseCode::TOPIC_NOT_EXIST, format!("topic {name} does not exist"));
    replica.tables().topic(name).ok_or_else(not_there)
}

/// `answer`, once a command is in the log and visible here; or what became of it instead.
pub(crate) async fn carried_out(replica: &Replica, command: Command, answer: RemotingCommand) -> RemotingCommand {
    match replica.call(command).await {
        Outcome::Answered(Answer::Done { index }) => {
            replica.applied(index).await;
            answer
        }
        failure => failed(answer, failure, replica.identity()),
    }
}

/// Answers once a command is in the log and visible here, or with why there is none.
pub(crate) async fn carry_out(replica: &Replica, command: Result<Command, Refusal>, responder: Responder) {
    let answer = responder.command(ResponseCode::SUCCESS);
    let answer = match command {
        Ok(command) => carried_out(replica, command, answer).await,
        Err(refusal) => refused(answer, refusal),
    };
    responder.send(answer);
}

/// Answers with what `fill` makes of an empty answer, on a thread that may wait for the disk.
pub(crate) async fn answer_from_disk(
    responder: Responder,
    fill: impl FnOnce(RemotingCommand) -> Result<RemotingCommand, Refusal> + Send + 'static,
) {
    let answer = responder.command(ResponseCode::SUCCESS);
    let empty = answer.clone();
    let filled = from_disk("a handler", move || fill(empty)).await.flatten();
    responder.send(filled.unwrap_or_else(|refusal| refused(answer, refusal)));
}

/// What `read` returns, on a thread that may wait for the disk. `what` is what the log calls it if it panics.
pub(crate) async fn from_disk<T: Send + 'static>(
    what: &'static str,
    read: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Refusal> {
    tokio::task::spawn_blocking(read).await.map_err(|error| {
        tracing::error!(%error, "{what} panicked");
        Refusal::new(ResponseCode::SYSTEM_ERROR, "internal error")
    })
}

impl From<QueueError> for Refusal {
    fn from(error: QueueError) -> Self {
        pull::unreadable(&error)
    }
}

/// Turns `answer` into what a failed read barrier means to a client.
pub(crate) fn no_barrier(mut answer: RemotingCommand, error: &ReadError, identity: &Identity) -> RemotingCommand {
    match error {
        ReadError::NotLeader { leader, term } => identity.not_leader(answer, *leader, *term),
        ReadError::TimedOut(_) => {
            answer.code = ResponseCode::SERVICE_NOT_AVAILABLE;
            answer.remark = Some(format!("{}: {error}, try again", identity.broker_name));
            answer
        }
        ReadError::Busy => {
            answer.code = ResponseCode::SYSTEM_BUSY;
            answer.remark = Some(format!("[TIMEOUT_CLEAN_QUEUE] {error}, try again later"));
            answer
        }
    }
}

/// Turns `answer` into a refusal.
pub(crate) fn refused(mut answer: RemotingCommand, refusal: Refusal) -> RemotingCommand {
    answer.code = refusal.code;
    answer.remark = Some(refusal.remark);
    answer
}

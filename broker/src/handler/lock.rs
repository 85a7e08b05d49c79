//! LOCK_BATCH_MQ and UNLOCK_BATCH_MQ: queues that a client consumes in order, alone.
//!
//! A lock is a command in the log: whoever leads later knows it, and a leader that was deposed can give none. Apply decides who
//! gets it; the answer is read from the state behind the command. A client asks again every 20 s and stops using a lock that is
//! 30 s old; it is free for others when [`LEASE_MS`] have passed.

use std::sync::Arc;

use ledgermq_dledger::Outcome;
use ledgermq_protocol::json::Body;
use ledgermq_protocol::json::object_map::MessageQueue;
use ledgermq_protocol::lock::{LockBatchRequest, LockBatchResponse};
use ledgermq_protocol::names;
use ledgermq_protocol::remoting::command::RemotingCommand;
use ledgermq_protocol::remoting::response_code::ResponseCode;

use super::{body, carried_out, refused};
use crate::command::{Command, LOCK_CLIENT_LEN_MAX, LOCKS_PER_COMMAND_MAX, LockQueues, QueueOfTopic, UnlockQueues};
use crate::replica::Replica;
use crate::server::outbox::Responder;
use crate::server::ticket::failed;
use crate::stamp::{Answer, Refusal};
use crate::tables::GroupQueue;

/// How long a lock holds without being asked for again: RocketMQ's own time, twice what its clients trust a lock for.
pub const LEASE_MS: u64 = 60_000;

/// Answers with those of the asked queues that the client holds now.
pub async fn lock(replica: Arc<Replica>, request: RemotingCommand, responder: Responder) {
    let answer = responder.command(ResponseCode::SUCCESS);
    let answer = match checked(&request) {
        Ok(asked) => lock_all(&replica, asked, answer).await,
        Err(refusal) => refused(answer, refusal),
    };
    responder.send(answer);
}

async fn lock_all(replica: &Replica, asked: LockBatchRequest, answer: RemotingCommand) -> RemotingCommand {
    if let Some(refusal) = not_leading(replica, &answer) {
        return refusal;
    }
    replica.catch_up().await;
    let mut held = LockBatchResponse::default();
    for wanted in known(replica, &asked).chunks(LOCKS_PER_COMMAND_MAX) {
        let command = Command::LockQueues(LockQueues {
            group: asked.consumer_group.clone(),
            client_id: asked.client_id.clone(),
            // The stamper says when it is.
            at_ms: 0,
            lease_ms: LEASE_MS,
            queues: wanted.iter().map(Wanted::queue).collect(),
        });
        match replica.call(command).await {
            Outcome::Answered(Answer::Done { index }) => {
                replica.applied(index).await;
                if replica.tables().applied_index() < index {
                    let remark = "the locks are in the log, but not visible yet: ask again";
                    return refused(answer, Refusal::new(ResponseCode::SERVICE_NOT_AVAILABLE, remark));
                }
            }
            failure => return failed(answer, failure, replica.identity()),
        }
        let is_held = |wanted: &&Wanted<'_>| {
            let holder = replica.tables().lock(&wanted.key);
            holder.is_some_and(|holder| *holder.client_id == *asked.client_id)
        };
        held.lock_ok_mq_set.extend(wanted.iter().filter(is_held).map(|wanted| wanted.asked.clone()));
    }
    answer.with_body(held.to_json())
}

/// Gives back those of the queues that the client holds.
pub async fn unlock(replica: Arc<Replica>, request: RemotingCommand, responder: Responder) {
    let answer = responder.command(ResponseCode::SUCCESS);
    let answer = match checked(&request) {
        Ok(asked) => unlock_all(&replica, asked, answer).await,
        Err(refusal) => refused(answer, refusal),
    };
    responder.send(answer);
}

async fn unlock_all(replica: &Replica, asked: LockBatchRequest, answer: RemotingCommand) -> RemotingCommand {
    if let Some(refusal) = not_leading(replica, &answer) {
        return refusal;
    }
    let mut answer = answer;
    for held in known(replica, &asked).chunks(LOCKS_PER_COMMAND_MAX) {
        let command = Command::UnlockQueues(UnlockQueues {
            group: asked.consumer_group.clone(),
            client_id: asked.client_id.clone(),
            queues: held.iter().map(Wanted::queue).collect(),
        });
        answer = carried_out(replica, command, answer).await;
        if answer.code != ResponseCode::SUCCESS {
            break;
        }
    }
    answer
}

fn checked(request: &RemotingCommand) -> Result<LockBatchRequest, Refusal> {
    let asked: LockBatchRequest = body(request)?;
    let illegal = |remark: String| Refusal::new(ResponseCode::INVALID_PARAMETER, remark);
    names::check_group(&asked.consumer_group).map_err(|error| illegal(error.to_string()))?;
    if !(1..=LOCK_CLIENT_LEN_MAX).contains(&asked.client_id.len()) {
        let len = asked.client_id.len();
        return Err(illegal(format!("clientId of {len} bytes, must have 1 to {LOCK_CLIENT_LEN_MAX}")));
    }
    Ok(asked)
}

/// A queue of this broker, as it was asked for and as it is locked.
struct Wanted<'a> {
    asked: &'a MessageQueue,
    key: GroupQueue,
}

impl Wanted<'_> {
    fn queue(&self) -> QueueOfTopic {
        let GroupQueue { topic, queue, .. } = &self.key;
        QueueOfTopic { topic: topic.name.to_string(), incarnation: topic.incarnation, queue: *queue }
    }
}

/// The queues among the asked ones that there are on this broker, by what is applied here; nobody can hold others.
fn known<'a>(replica: &Replica, asked: &'a LockBatchRequest) -> Vec<Wanted<'a>> {
    let group: Arc<str> = asked.consumer_group.as_str().into();
    let of_broker = asked.mq_set.iter().filter(|queue| queue.broker_name == replica.identity().broker_name);
    let found = of_broker.filter_map(|asked| {
        let topic = replica.tables().topic(&asked.topic)?;
        let queue = u32::try_from(asked.queue_id).ok().filter(|queue| *queue < topic.queue_count())?;
        Some(Wanted { asked, key: GroupQueue { group: group.clone(), topic: topic.key().clone(), queue } })
    });
    found.collect()
}

/// `answer` as a refusal, when this replica does not lead: what it knows of topics may be old.
fn not_leading(replica: &Replica, answer: &RemotingCommand) -> Option<RemotingCommand> {
    let role = replica.role();
    (!role.serves()).then(|| replica.identity().not_leader(answer.clone(), role.leader, role.term))
}

//! QUERY_CONSUMER_OFFSET and UPDATE_CONSUMER_OFFSET: where a group goes on in a queue.
//!
//! Offsets are commands in the log: the last one in log order holds, also when it goes back, but for a reset that waits to be taken
//! up (`handler/reset_offset`). One-way commits are kept and
//! proposed together; a commit that waits for its answer is proposed at once. A query first proposes what is kept for its group
//! and answers after a read barrier, so what was served never goes back, and a deposed leader serves nothing.

use std::sync::Arc;

use ledgermq_dledger::Outcome;
use ledgermq_protocol::remoting::command::RemotingCommand;
use ledgermq_protocol::remoting::headers::offset::{OffsetResponse, QueryConsumerOffset, UpdateConsumerOffset};
use ledgermq_protocol::remoting::response_code::ResponseCode;

use super::reset_offset::told_by_query;
use super::{header, no_barrier, refused};
use crate::command::{Command, CommitOffsets, OffsetCommit};
use crate::replica::{Replica, outcome};
use crate::server::outbox::{Connection, Responder};
use crate::server::ticket::failed;
use crate::stamp::{Answer, Refusal};
use crate::tables::Topic;

/// Messages behind which the start of a queue no longer counts as recent: a group without an offset then starts where its
/// consumer says. RocketMQ asks whether the first message is still in memory.
const RECENT_MESSAGES: u64 = 1 << 20;

/// Answers a query.
pub async fn query(replica: Arc<Replica>, request: RemotingCommand, responder: Responder) {
    let answer = responder.command(ResponseCode::SUCCESS);
    let answer = match header(&request) {
        Ok(query) => answer_query(&replica, &query, responder.connection(), answer).await,
        Err(refusal) => refused(answer, refusal),
    };
    responder.send(answer);
}

/// Brings everything that a group has committed before into applied state of a leader that a quorum has just confirmed. When
/// that cannot be done, `answer` becomes what the asker is told.
pub(super) async fn unsettled(replica: &Replica, group: &str, answer: &RemotingCommand) -> Option<RemotingCommand> {
    let proposed: Vec<_> = {
        let mut offsets = replica.offsets.lock();
        offsets.take_group(group).into_iter().map(|command| replica.propose(command)).collect()
    };
    for waiting in proposed {
        match outcome(waiting).await {
            // A commit whose topic is gone meanwhile is nobody's loss.
            Outcome::Answered(_) => {}
            failure => return Some(failed(answer.clone(), failure, replica.identity())),
        }
    }
    let barrier = replica.read_barrier().await;
    barrier.err().map(|error| no_barrier(answer.clone(), &error, replica.identity()))
}

async fn answer_query(
    replica: &Replica,
    query: &QueryConsumerOffset,
    connection: &Connection,
    answer: RemotingCommand,
) -> RemotingCommand {
    if let Some(refusal) = unsettled(replica, &query.consumer_group, &answer).await {
        return refusal;
    }
    let topic = replica.tables().topic(&query.topic);
    if let (Some(topic), Ok(queue)) = (&topic, u32::try_from(query.queue_id)) {
        told_by_query(replica, &query.consumer_group, topic, queue, connection);
    }
    match stored_or_start(replica, query, topic.as_deref()) {
        Some(offset) => answer.with_header(&OffsetResponse { offset: offset as i64 }),
        None => refused(
            answer,
            Refusal::new(
                ResponseCode::QUERY_NOT_FOUND,
                format!("group {} has no offset for queue {} of {}", query.consumer_group, query.queue_id, query.topic),
            ),
        ),
    }
}

/// The committed offset, or 0 for a group that is new to a young queue: else CONSUME_FROM_LAST_OFFSET would skip the first
/// messages of a new topic.
fn stored_or_start(replica: &Replica, query: &QueryConsumerOffset, topic: Option<&Topic>) -> Option<u64> {
    let topic = topic?;
    let queue = u32::try_from(query.queue_id).ok()?;
    if let Some(offset) = replica.tables().offset(&query.consumer_group, topic.key(), queue) {
        return Some(offset);
    }
    let young = topic.min_offset(queue) == 0 && topic.next_offset(queue) < RECENT_MESSAGES;
    (young && query.set_zero_if_not_found != Some(false)).then_some(0)
}

/// Takes a commit. One that wants no answer is kept for a moment, any other is answered once it is in the log.
pub fn update(replica: &Arc<Replica>, request: &RemotingCommand, responder: Responder) {
    let role = replica.role();
    if !role.serves() {
        // What this replica knows of topics may be old: the leader is to judge.
        let answer = responder.command(ResponseCode::SUCCESS);
        let answer = replica.identity().not_leader(answer, role.leader, role.term);
        return responder.send(answer);
    }
    let (update, topic) = match checked(replica, request) {
        Ok(checked) => checked,
        Err(refusal) => return responder.refuse(refusal.code, refusal.remark),
    };
    let commit = OffsetCommit {
        group: update.consumer_group,
        topic: update.topic,
        incarnation: topic.incarnation(),
        queue: update.queue_id as u32,
        offset: update.commit_offset as u64,
    };
    if responder.is_oneway() {
        replica.buffer_offset(&Arc::from(commit.group), topic.key(), commit.queue, commit.offset);
        return;
    }
    // Of a tool that puts the group elsewhere once more. While a reset waits, what the group's own consumers commit is from before.
    let replaces_reset = replica.tables().reset(&commit.group, topic.key(), commit.queue).is_some()
        && responder.forwarded().is_none()
        && !replica.consumers.is_member(&commit.group, responder.connection().id());
    let waiting = {
        let mut offsets = replica.offsets.lock();
        offsets.forget(&commit.group, topic.key(), commit.queue);
        let commit = CommitOffsets { offsets: vec![commit] };
        replica.propose(if replaces_reset { Command::ResetOffsets(commit) } else { Command::CommitOffsets(commit) })
    };
    let identity = Arc::clone(replica.identity());
    tokio::spawn(async move {
        let answer = responder.command(ResponseCode::SUCCESS);
        let answer = match outcome(waiting).await {
            Outcome::Answered(Answer::Done { .. }) => answer,
            failure => failed(answer, failure, &identity),
        };
        responder.send(answer);
    });
}

fn checked(replica: &Replica, request: &RemotingCommand) -> Result<(UpdateConsumerOffset, Arc<Topic>), Refusal> {
    let update: UpdateConsumerOffset = header(request)?;
    let Some(topic) = replica.tables().topic(&update.topic) else {
        let remark = format!("topic {} does not exist", update.topic);
        return Err(Refusal::new(ResponseCode::TOPIC_NOT_EXIST, remark));
    };
    if update.queue_id < 0 || update.commit_offset < 0 {
        let remark = format!("queue id {} or offset {} is negative", update.queue_id, update.commit_offset);
        return Err(Refusal::new(ResponseCode::INVALID_PARAMETER, remark));
    }
    Ok((update, topic))
}

//! INVOKE_BROKER_TO_RESET_OFFSET: a group goes on somewhere else, whether it is on line or not; and how its consumers come to know.
//!
//! ```text
//! reset: where to? --> ResetOffsets in the log --> held pulls of these queues run again
//! pull, while a reset waits:  not told yet --> PULL_OFFSET_MOVED to the new offset; the client drops what it holds and begins anew there
//!                             told before, and pulls there --> TakeUpResets in the log --> the pull goes on as any other
//! ```
//! Until then commits of the group's consumers change nothing: those of messages that were in hand would undo the reset. All of
//! that is in the log, so a change of leader in the middle loses no reset, and no second one is made of it.
//!
//! A broadcasting group has its offsets at its clients: they are told directly (RESET_CONSUMER_CLIENT_OFFSET).

use std::sync::Arc;

use ledgermq_dledger::Outcome;
use ledgermq_protocol::json::Body;
use ledgermq_protocol::json::object_map::{MessageQueue, QueueMap};
use ledgermq_protocol::remoting::command::RemotingCommand;
use ledgermq_protocol::remoting::headers::admin::ResetOffset;
use ledgermq_protocol::remoting::request_code::RequestCode;
use ledgermq_protocol::remoting::response_code::ResponseCode;
use ledgermq_protocol::stats::ResetOffsetBody;

use super::offset::unsettled;
use super::queue_ends::offset_at;
use super::{from_disk, header, no_barrier, refused, topic_named};
use crate::apply::Boundary;
use crate::command::{Command, CommitOffsets, OFFSETS_PER_COMMAND_MAX, OffsetCommit};
use crate::consumer::long_poll::QueueKey;
use crate::consumer::wake::rerun;
use crate::replica::{Replica, outcome};
use crate::server::outbox::{Connection, Outgoing, Responder};
use crate::server::ticket::failed;
use crate::stamp::{Answer, Refusal};
use crate::tables::{GroupQueue, Topic};

/// Resets a group's offsets of one topic, and answers with them.
pub async fn reset_offset(replica: Arc<Replica>, request: RemotingCommand, responder: Responder) {
    let answer = responder.command(ResponseCode::SUCCESS);
    let answer = match header(&request) {
        Ok(asked) => reset(&replica, asked, answer).await,
        Err(refusal) => refused(answer, refusal),
    };
    responder.send(answer);
}

async fn reset(replica: &Arc<Replica>, asked: ResetOffset, answer: RemotingCommand) -> RemotingCommand {
    // What consumers have committed before counts where the reset leaves a queue as it is.
    if let Some(refusal) = unsettled(replica, &asked.group, &answer).await {
        return refusal;
    }
    let (for_targets, target_of) = (Arc::clone(replica), asked.clone());
    let found = from_disk("a reset of offsets", move || targets(&for_targets, &target_of)).await.flatten();
    let Targets { topic, all, moved } = match found {
        Ok(targets) => targets,
        Err(refusal) => return refused(answer, refusal),
    };
    let body = ResetOffsetBody { offset_table: table(replica, &topic, &all) };
    if replica.consumers.consumption(&asked.group).is_some_and(|consumption| consumption.broadcasting) {
        tell_members(replica, &asked, &body);
        return answer.with_body(body.to_json());
    }
    let failure = put(replica, &asked.group, &topic, &moved, &answer).await;
    tracing::info!(group = asked.group, topic = asked.topic, ?moved, done = failure.is_none(), "offsets reset");
    failure.unwrap_or_else(|| answer.with_body(body.to_json()))
}

/// Queue and offset.
pub(super) type Target = (u32, u64);

/// Where a group is to go on.
struct Targets {
    topic: Arc<Topic>,
    /// In each queue that was asked for.
    all: Vec<Target>,
    /// Those of them that are to change.
    moved: Vec<Target>,
}

fn targets(replica: &Replica, asked: &ResetOffset) -> Result<Targets, Refusal> {
    let topic = topic_named(replica, &asked.topic)?;
    if replica.tables().group(&asked.group).is_none() {
        let remark = format!("subscription group {} does not exist", asked.group);
        return Err(Refusal::new(ResponseCode::SUBSCRIPTION_GROUP_NOT_EXIST, remark));
    }
    let queues = topic.settings().read_queues;
    let only = asked.queue_id.and_then(|queue| u32::try_from(queue).ok());
    if let Some(only) = only.filter(|queue| *queue >= queues) {
        let remark = format!("queue id {only} is illegal, topic {} has {queues} read queues", asked.topic);
        return Err(Refusal::new(ResponseCode::INVALID_PARAMETER, remark));
    }
    let offset = asked.offset.filter(|offset| *offset != -1 && only.is_some());
    let (mut all, mut moved) = (Vec::new(), Vec::new());
    for queue in only.map_or(0..queues, |only| only..only + 1) {
        let (min, next) = (topic.min_offset(queue), topic.next_offset(queue));
        let target = match offset {
            Some(offset) => {
                u64::try_from(offset).ok().filter(|offset| (min..=next).contains(offset)).ok_or_else(|| {
                    let remark =
                        format!("offset {offset} of queue {queue} of {} is not in {min} to {next}", asked.topic);
                    Refusal::new(ResponseCode::SYSTEM_ERROR, remark)
                })?
            }
            None if asked.timestamp_ms < 0 => next,
            None => offset_at(replica, &topic, queue, asked.timestamp_ms, Boundary::Lower)?,
        };
        match replica.tables().offset(&asked.group, topic.key(), queue) {
            Some(committed) if asked.force == Some(false) && target > committed => all.push((queue, committed)),
            _ => {
                all.push((queue, target));
                moved.push((queue, target));
            }
        }
    }
    Ok(Targets { topic, all, moved })
}

/// The offsets as clients read them.
fn table(replica: &Replica, topic: &Topic, targets: &[Target]) -> QueueMap<i64> {
    let queue = |queue: u32| MessageQueue {
        broker_name: replica.identity().broker_name.clone(),
        queue_id: queue as i32,
        topic: topic.name().to_string(),
    };
    targets.iter().map(|(id, offset)| (queue(*id), *offset as i64)).collect()
}

/// Has the log reset these offsets. What the asker is told when that fails.
pub(super) async fn put(
    replica: &Arc<Replica>,
    group: &str,
    topic: &Topic,
    targets: &[Target],
    answer: &RemotingCommand,
) -> Option<RemotingCommand> {
    for some in targets.chunks(OFFSETS_PER_COMMAND_MAX) {
        let offsets = some.iter().map(|target| commit_of(group, topic, *target)).collect();
        let waiting = {
            let mut buffered = replica.offsets.lock();
            for (queue, _) in some {
                buffered.forget(group, topic.key(), *queue);
                replica.told.forget(&queue_of(group, topic, *queue));
            }
            replica.propose(Command::ResetOffsets(CommitOffsets { offsets }))
        };
        match outcome(waiting).await {
            Outcome::Answered(Answer::Done { index }) => replica.applied(index).await,
            failure => return Some(failed(answer.clone(), failure, replica.identity())),
        }
        for (queue, _) in some {
            let key = QueueKey { incarnation: topic.incarnation(), queue_id: *queue as i32 };
            for pull in replica.pulls.wake(key, |pull| pull.group() == group) {
                rerun(replica, pull);
            }
        }
    }
    None
}

fn commit_of(group: &str, topic: &Topic, (queue, offset): Target) -> OffsetCommit {
    OffsetCommit {
        group: group.to_owned(),
        topic: topic.name().to_string(),
        incarnation: topic.incarnation(),
        queue,
        offset,
    }
}

fn queue_of(group: &str, topic: &Topic, queue: u32) -> GroupQueue {
    GroupQueue { group: group.into(), topic: topic.key().clone(), queue }
}

/// RESET_CONSUMER_CLIENT_OFFSET to all members of a group.
fn tell_members(replica: &Replica, asked: &ResetOffset, body: &ResetOffsetBody) {
    let header = ResetOffset { queue_id: None, offset: None, force: Some(true), ..asked.clone() };
    let notice = RemotingCommand::oneway(RequestCode::RESET_CONSUMER_CLIENT_OFFSET, 0)
        .with_header(&header)
        .with_body(body.to_json());
    for (_, connection) in replica.consumers.members(&asked.group) {
        connection.send(Outgoing::Command(notice.clone()));
    }
}

/// A query of the offset is answered on this connection: it is told of a reset, if there is one.
pub(super) fn told_by_query(replica: &Replica, group: &str, topic: &Topic, queue: u32, connection: &Connection) {
    if let Some(offset) = replica.tables().reset(group, topic.key(), queue) {
        replica.told.tell(replica.role().term, &queue_of(group, topic, queue), offset, connection.id());
    }
}

/// What a pull comes to while a reset waits.
pub(super) enum Met {
    /// It goes on as any other.
    Pull,
    /// Its client is to go on at this offset.
    Moved(u64),
    /// Nothing can be said now.
    Answer(RemotingCommand),
}

/// A pull of `group` meets a reset of a queue, as applied here. `answer` is an empty answer to it.
pub(super) async fn meet(
    replica: &Replica,
    (group, topic, queue): (&str, &Topic, u32),
    pulled: i64,
    connection: &Connection,
    answer: RemotingCommand,
) -> Met {
    // On a replica that lags it may have been taken up long ago.
    if let Err(error) = replica.read_barrier().await {
        return Met::Answer(no_barrier(answer, &error, replica.identity()));
    }
    let Some(offset) = replica.tables().reset(group, topic.key(), queue) else { return Met::Pull };
    let key = queue_of(group, topic, queue);
    let knew = replica.told.tell(replica.role().term, &key, offset, connection.id());
    if !knew || pulled != offset as i64 {
        return Met::Moved(offset);
    }
    let waiting = {
        let mut buffered = replica.offsets.lock();
        // From before it was told.
        buffered.forget(group, topic.key(), queue);
        let offsets = vec![commit_of(group, topic, (queue, offset))];
        replica.propose(Command::TakeUpResets(CommitOffsets { offsets }))
    };
    match outcome(waiting).await {
        Outcome::Answered(Answer::Done { index }) => replica.applied(index).await,
        failure => return Met::Answer(failed(answer, failure, replica.identity())),
    }
    match replica.tables().reset(group, topic.key(), queue) {
        // Reset again meanwhile.
        Some(offset) => Met::Moved(offset),
        None => {
            replica.told.forget(&key);
            Met::Pull
        }
    }
}

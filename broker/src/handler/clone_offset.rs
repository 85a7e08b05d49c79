//! CLONE_GROUP_OFFSET, by which a group goes on where another one is, and QUERY_CORRECTION_OFFSET, which compares groups.

use std::collections::BTreeMap;
use std::sync::Arc;

use ledgermq_protocol::json::Body;
use ledgermq_protocol::remoting::command::RemotingCommand;
use ledgermq_protocol::remoting::headers::admin::{CloneGroupOffset, QueryCorrectionOffset};
use ledgermq_protocol::remoting::response_code::ResponseCode;
use ledgermq_protocol::stats::{CorrectionOffsets, QueueOffsets};

use super::consume_stats::committed_topics;
use super::offset::unsettled;
use super::reset_offset::{Target, put};
use super::{header, no_barrier, refused, topic_named};
use crate::consumer::group::Lookup;
use crate::replica::Replica;
use crate::server::outbox::Responder;
use crate::stamp::Refusal;
use crate::tables::Topic;

/// Puts a group where another one is, as a reset does: what the group's consumers are at does not undo it.
pub async fn clone_offset(replica: Arc<Replica>, request: RemotingCommand, responder: Responder) {
    let answer = responder.command(ResponseCode::SUCCESS);
    let answer = match header(&request) {
        Ok(asked) => clone(&replica, &asked, answer).await,
        Err(refusal) => refused(answer, refusal),
    };
    responder.send(answer);
}

async fn clone(replica: &Arc<Replica>, asked: &CloneGroupOffset, answer: RemotingCommand) -> RemotingCommand {
    let CloneGroupOffset { src_group, dest_group, topic, offline } = asked;
    if let Some(refusal) = unsettled(replica, src_group, &answer).await {
        return refusal;
    }
    if replica.tables().group(dest_group).is_none() {
        let remark = format!("subscription group {dest_group} does not exist");
        return refused(answer, Refusal::new(ResponseCode::SUBSCRIPTION_GROUP_NOT_EXIST, remark));
    }
    let topics = match topic {
        Some(name) => match topic_named(replica, name) {
            Ok(topic) => vec![topic],
            Err(refusal) => return refused(answer, refusal),
        },
        None => committed_topics(replica.tables(), src_group),
    };
    for topic in topics {
        // What a live group has given up is not what it is at.
        let given_up = replica.consumers.subscription(src_group, topic.name()) == Lookup::NotSubscribed;
        if given_up && *offline != Some(true) {
            continue;
        }
        let offsets = offsets_of(replica, src_group, &topic);
        if let Some(failure) = put(replica, dest_group, &topic, &offsets, &answer).await {
            return failure;
        }
    }
    answer
}

/// Where a group is in a topic.
fn offsets_of(replica: &Replica, group: &str, topic: &Topic) -> Vec<Target> {
    let of_queue = |queue| Some((queue, replica.tables().offset(group, topic.key(), queue)?));
    (0..topic.queue_count()).filter_map(of_queue).collect()
}

/// Answers with the smallest offsets of all groups of a topic.
pub async fn correction_offset(replica: Arc<Replica>, request: RemotingCommand, responder: Responder) {
    let answer = responder.command(ResponseCode::SUCCESS);
    if let Err(error) = replica.read_barrier().await {
        return responder.send(no_barrier(answer, &error, replica.identity()));
    }
    let corrected = header(&request).and_then(|asked: QueryCorrectionOffset| correct(&replica, &asked));
    responder.send(match corrected {
        Ok(correction_offsets) => answer.with_body(CorrectionOffsets { correction_offsets }.to_json()),
        Err(refusal) => refused(answer, refusal),
    });
}

fn correct(replica: &Replica, asked: &QueryCorrectionOffset) -> Result<QueueOffsets, Refusal> {
    let topic = topic_named(replica, &asked.topic)?;
    let filtered: Vec<&str> = asked.filter_groups.as_deref().unwrap_or_default().split(',').collect();
    let mut smallest = BTreeMap::new();
    for group in replica.tables().groups_of_topic(topic.key()) {
        if filtered.contains(&&*group) {
            continue;
        }
        for (queue, offset) in offsets_of(replica, &group, &topic) {
            let smallest = smallest.entry(queue).or_insert(offset as i64);
            *smallest = (*smallest).min(offset as i64);
        }
    }
    for (queue, compared) in offsets_of(replica, &asked.compare_group, &topic) {
        if let Some(smallest) = smallest.get_mut(&queue).filter(|smallest| **smallest > compared as i64) {
            *smallest = i64::MAX;
        }
    }
    Ok(QueueOffsets(smallest))
}

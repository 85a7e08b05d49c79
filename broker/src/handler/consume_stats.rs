//! GET_CONSUME_STATS, QUERY_CONSUME_TIME_SPAN and GET_ALL_CONSUMER_OFFSET: how far groups are, whether they run or not.
//!
//! Offsets are answered by the leader, with everything that was committed before the question, as by QUERY_CONSUMER_OFFSET.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ledgermq_protocol::json::Body;
use ledgermq_protocol::remoting::command::RemotingCommand;
use ledgermq_protocol::remoting::headers::admin::{self, TopicAndGroup};
use ledgermq_protocol::remoting::response_code::ResponseCode;
use ledgermq_protocol::stats::{
    AllConsumerOffsets, ConsumeStats, ConsumeTimeSpans, OffsetWrapper, QueueOffsets, QueueTimeSpan,
};
use ledgermq_protocol::topic::DataVersion;

use super::offset::unsettled;
use super::queue_ends::{NO_MESSAGE_MS, store_time};
use super::topic_stats::message_queue;
use super::{answer_from_disk, header, no_barrier, topic_named};
use crate::replica::{Replica, wall_clock_ms};
use crate::server::outbox::Responder;
use crate::stamp::Refusal;
use crate::tables::{Tables, Topic, TopicKey};

/// Answers with the queues of a group: of the topics that are asked for, else of all for which it has committed.
pub async fn consume_stats(replica: Arc<Replica>, request: RemotingCommand, responder: Responder) {
    let asked: admin::ConsumeStats = match header(&request) {
        Ok(asked) => asked,
        Err(refusal) => return responder.refuse(refusal.code, refusal.remark),
    };
    let answer = responder.command(ResponseCode::SUCCESS);
    if let Some(refusal) = unsettled(&replica, &asked.consumer_group, &answer).await {
        return responder.send(refusal);
    }
    answer_from_disk(responder, move |answer| Ok(answer.with_body(stats_of(&replica, &asked)?.to_json()))).await;
}

fn stats_of(replica: &Replica, asked: &admin::ConsumeStats) -> Result<ConsumeStats, Refusal> {
    let group = &asked.consumer_group;
    let mut stats = ConsumeStats::default();
    for topic in topics_of(replica.tables(), asked) {
        for queue in 0..topic.settings().read_queues {
            let offset = replica.tables().offset(group, topic.key(), queue).unwrap_or(0);
            let last_ms = offset.checked_sub(1).map(|last| store_time(replica, &topic, queue, last)).transpose()?;
            let wrapper = OffsetWrapper {
                broker_offset: topic.next_offset(queue) as i64,
                consumer_offset: offset as i64,
                last_timestamp: last_ms.flatten().unwrap_or(0),
                // What a consumer has pulled and not yet committed is known to itself alone.
                pull_offset: offset as i64,
            };
            stats.offset_table.insert(message_queue(replica, topic.name(), queue), wrapper);
        }
        let handed = replica.stats.handed(group, topic.key(), replica.now_ms());
        stats.consume_tps += handed.map_or(0.0, |figures| figures.stats_minute.tps);
    }
    Ok(stats)
}

/// The topics that are meant; one that does not exist is left out.
fn topics_of(tables: &Tables, asked: &admin::ConsumeStats) -> Vec<Arc<Topic>> {
    let list = asked.topic_list.as_deref().or(asked.topic.as_deref());
    match list {
        Some(list) => {
            let wanted: BTreeSet<&str> = list.split(';').map(str::trim).collect();
            wanted.into_iter().filter_map(|name| tables.topic(name)).collect()
        }
        None => committed_topics(tables, &asked.consumer_group),
    }
}

/// The topics for which a group has committed offsets, by name.
pub(super) fn committed_topics(tables: &Tables, group: &str) -> Vec<Arc<Topic>> {
    let mut keys: Vec<TopicKey> = tables.group_offsets(group).into_iter().map(|kept| kept.topic).collect();
    keys.dedup();
    keys.into_iter().filter_map(|key| tables.topic(&key.name).filter(|topic| *topic.key() == key)).collect()
}

/// Answers with the times at which a group's next messages were stored.
pub async fn time_spans(replica: Arc<Replica>, request: RemotingCommand, responder: Responder) {
    let asked: TopicAndGroup = match header(&request) {
        Ok(asked) => asked,
        Err(refusal) => return responder.refuse(refusal.code, refusal.remark),
    };
    let answer = responder.command(ResponseCode::SUCCESS);
    if let Some(refusal) = unsettled(&replica, &asked.group, &answer).await {
        return responder.send(refusal);
    }
    answer_from_disk(responder, move |answer| Ok(answer.with_body(spans_of(&replica, &asked)?.to_json()))).await;
}

fn spans_of(replica: &Replica, asked: &TopicAndGroup) -> Result<ConsumeTimeSpans, Refusal> {
    let topic = topic_named(replica, &asked.topic)?;
    let mut spans = ConsumeTimeSpans::default();
    for queue in 0..topic.settings().write_queues {
        let at = |queue_offset: Option<u64>| match queue_offset {
            Some(queue_offset) => store_time(replica, &topic, queue, queue_offset),
            None => Ok(None),
        };
        let offset = replica.tables().offset(&asked.group, topic.key(), queue).unwrap_or(0);
        let first_ms = at(Some(topic.min_offset(queue)))?.unwrap_or(NO_MESSAGE_MS);
        let next_ms = at(Some(offset))?;
        spans.consume_time_span_set.push(QueueTimeSpan {
            consume_time_stamp: at(offset.checked_sub(1))?.unwrap_or(first_ms),
            delay_time: next_ms.map_or(0, |stored_ms| (wall_clock_ms() - stored_ms).max(0)),
            max_time_stamp: at(topic.next_offset(queue).checked_sub(1))?.unwrap_or(NO_MESSAGE_MS),
            message_queue: message_queue(replica, topic.name(), queue),
            min_time_stamp: first_ms,
        });
    }
    Ok(spans)
}

/// Answers with the offsets of all groups. Too many for one frame are refused by the connection.
pub async fn all_offsets(replica: Arc<Replica>, responder: Responder) {
    if let Err(error) = replica.read_barrier().await {
        let answer = no_barrier(responder.command(ResponseCode::SUCCESS), &error, replica.identity());
        return responder.send(answer);
    }
    answer_from_disk(responder, move |answer| Ok(answer.with_body(offsets_of(replica.tables()).to_json()))).await;
}

fn offsets_of(tables: &Tables) -> AllConsumerOffsets {
    let mut offset_table: BTreeMap<String, QueueOffsets> = BTreeMap::new();
    for group in tables.groups_with_offsets() {
        for kept in tables.group_offsets(&group) {
            let pair = format!("{}@{group}", kept.topic.name);
            offset_table.entry(pair).or_default().0.insert(kept.queue, kept.offset as i64);
        }
    }
    // Offsets have no version of their own; what reads this compares nothing.
    AllConsumerOffsets { data_version: DataVersion::default(), offset_table }
}

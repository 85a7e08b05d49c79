//! GET_MAX_OFFSET, GET_MIN_OFFSET, GET_EARLIEST_MSG_STORETIME and SEARCH_OFFSET_BY_TIMESTAMP: where a queue starts, ends, and
//! was at some time.
//!
//! Clients decide from these where to start, so only the leader answers, after a read barrier.

use std::sync::Arc;

use ledgermq_protocol::remoting::command::RemotingCommand;
use ledgermq_protocol::remoting::headers::offset::{
    Boundary, EarliestStoreTime, EarliestStoreTimeResponse, MaxOffset, MinOffset, OffsetResponse, SearchOffset,
};
use ledgermq_protocol::remoting::request_code::RequestCode;
use ledgermq_protocol::remoting::response_code::ResponseCode;

use super::pull::record_at;
use super::{answer_from_disk, header, no_barrier, topic_named};
use crate::apply::{self, Unit};
use crate::replica::Replica;
use crate::server::outbox::Responder;
use crate::stamp::Refusal;
use crate::tables::Topic;

/// Store time where there is no message.
pub(super) const NO_MESSAGE_MS: i64 = -1;

/// Answers one of the four.
pub async fn queue_ends(replica: Arc<Replica>, request: RemotingCommand, responder: Responder) {
    if let Err(error) = replica.read_barrier().await {
        let answer = no_barrier(responder.command(ResponseCode::SUCCESS), &error, replica.identity());
        return responder.send(answer);
    }
    // A search reads the log, which may be cold.
    answer_from_disk(responder, move |answer| answer_from_state(&replica, &request, answer)).await;
}

fn answer_from_state(
    replica: &Replica,
    request: &RemotingCommand,
    answer: RemotingCommand,
) -> Result<RemotingCommand, Refusal> {
    match request.code {
        RequestCode::GET_MAX_OFFSET => header(request).and_then(|asked: MaxOffset| {
            let (topic, queue) = queue_of(replica, &asked.topic, asked.queue_id)?;
            Ok(answer.with_header(&OffsetResponse { offset: topic.next_offset(queue) as i64 }))
        }),
        RequestCode::GET_MIN_OFFSET => header(request).and_then(|asked: MinOffset| {
            let (topic, queue) = queue_of(replica, &asked.topic, asked.queue_id)?;
            Ok(answer.with_header(&OffsetResponse { offset: topic.min_offset(queue) as i64 }))
        }),
        RequestCode::GET_EARLIEST_MSG_STORETIME => header(request).and_then(|asked: EarliestStoreTime| {
            let (topic, queue) = queue_of(replica, &asked.topic, asked.queue_id)?;
            let timestamp_ms = first_store_time(replica, &topic, queue)?.unwrap_or(NO_MESSAGE_MS);
            Ok(answer.with_header(&EarliestStoreTimeResponse { timestamp_ms }))
        }),
        _ => header(request).and_then(|asked: SearchOffset| {
            let (topic, queue) = queue_of(replica, &asked.topic, asked.queue_id)?;
            let boundary = match asked.boundary {
                Boundary::Lower => apply::Boundary::Lower,
                Boundary::Upper => apply::Boundary::Upper,
            };
            let offset = offset_at(replica, &topic, queue, asked.timestamp_ms, boundary)?;
            Ok(answer.with_header(&OffsetResponse { offset: offset as i64 }))
        }),
    }
}

fn queue_of(replica: &Replica, topic: &str, queue_id: i32) -> Result<(Arc<Topic>, u32), Refusal> {
    let found = topic_named(replica, topic)?;
    let queue = u32::try_from(queue_id).map_err(|_| {
        Refusal::new(ResponseCode::INVALID_PARAMETER, format!("queue id {queue_id} of topic {topic} is negative"))
    })?;
    Ok((found, queue))
}

/// The offset of a queue at a store time, ms since 1970.
pub(super) fn offset_at(
    replica: &Replica,
    topic: &Topic,
    queue: u32,
    timestamp_ms: i64,
    boundary: apply::Boundary,
) -> Result<u64, Refusal> {
    let store_ms = |unit: &Unit| record_at(replica, unit, |record| record.store_timestamp_ms());
    replica.queues.offset_by_time(topic, queue, timestamp_ms, boundary, store_ms)
}

/// When the first message of a queue was stored, ms since 1970; `None` when there is none.
pub(super) fn first_store_time(replica: &Replica, topic: &Topic, queue: u32) -> Result<Option<i64>, Refusal> {
    let mut first = topic.min_offset(queue);
    loop {
        let found = store_time(replica, topic, queue, first)?;
        let now = topic.min_offset(queue);
        // Given up while it was read: the next one is the first by now. Starts only move forward.
        if found.is_some() || now == first {
            return Ok(found);
        }
        first = now;
    }
}

/// When the message at a queue offset was stored, ms since 1970; `None` when there is none.
pub(super) fn store_time(
    replica: &Replica,
    topic: &Topic,
    queue: u32,
    queue_offset: u64,
) -> Result<Option<i64>, Refusal> {
    if !(topic.min_offset(queue)..topic.next_offset(queue)).contains(&queue_offset) {
        return Ok(None);
    }
    let units = replica.queues.read(topic, queue, queue_offset, 1)?;
    let stored = units.first().map(|unit| record_at(replica, unit, |record| record.store_timestamp_ms()));
    Ok(stored.transpose()?.flatten())
}

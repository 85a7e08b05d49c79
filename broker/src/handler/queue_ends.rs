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
use super::{header, no_barrier, refused};
use crate::apply::{self, Unit};
use crate::replica::Replica;
use crate::server::outbox::Responder;
use crate::stamp::Refusal;
use crate::tables::Topic;

/// Answers one of the four.
pub async fn queue_ends(replica: Arc<Replica>, request: RemotingCommand, responder: Responder) {
    let answer = responder.command(ResponseCode::SUCCESS);
    let answer = match replica.read_barrier().await {
        Err(error) => no_barrier(answer, &error, replica.identity()),
        // A search reads the log, which may be cold.
        Ok(()) => {
            let found = tokio::task::spawn_blocking(move || answer_from_state(&replica, &request, answer)).await;
            match found {
                Ok(answer) => answer,
                Err(error) => {
                    tracing::error!(%error, "a search by time panicked");
                    responder.command(ResponseCode::SYSTEM_ERROR).with_remark("internal error")
                }
            }
        }
    };
    responder.send(answer);
}

fn answer_from_state(replica: &Replica, request: &RemotingCommand, answer: RemotingCommand) -> RemotingCommand {
    let filled = match request.code {
        RequestCode::GET_MAX_OFFSET => header(request).and_then(|asked: MaxOffset| {
            let (topic, queue) = queue_of(replica, &asked.topic, asked.queue_id)?;
            Ok(answer.clone().with_header(&OffsetResponse { offset: topic.next_offset(queue) as i64 }))
        }),
        RequestCode::GET_MIN_OFFSET => header(request).and_then(|asked: MinOffset| {
            let (topic, queue) = queue_of(replica, &asked.topic, asked.queue_id)?;
            Ok(answer.clone().with_header(&OffsetResponse { offset: topic.min_offset(queue) as i64 }))
        }),
        RequestCode::GET_EARLIEST_MSG_STORETIME => header(request).and_then(|asked: EarliestStoreTime| {
            let (topic, queue) = queue_of(replica, &asked.topic, asked.queue_id)?;
            let timestamp_ms = earliest_store_time(replica, &topic, queue)?;
            Ok(answer.clone().with_header(&EarliestStoreTimeResponse { timestamp_ms }))
        }),
        _ => header(request).and_then(|asked: SearchOffset| {
            let (topic, queue) = queue_of(replica, &asked.topic, asked.queue_id)?;
            let boundary = match asked.boundary {
                Boundary::Lower => apply::Boundary::Lower,
                Boundary::Upper => apply::Boundary::Upper,
            };
            let store_ms = |unit: &Unit| record_at(replica, unit, |record| record.store_timestamp_ms());
            let offset = replica.queues.offset_by_time(&topic, queue, asked.timestamp_ms, boundary, store_ms)?;
            Ok(answer.clone().with_header(&OffsetResponse { offset: offset as i64 }))
        }),
    };
    filled.unwrap_or_else(|refusal| refused(answer, refusal))
}

fn queue_of(replica: &Replica, topic: &str, queue_id: i32) -> Result<(Arc<Topic>, u32), Refusal> {
    let Some(found) = replica.tables().topic(topic) else {
        return Err(Refusal::new(ResponseCode::TOPIC_NOT_EXIST, format!("topic {topic} does not exist")));
    };
    let queue = u32::try_from(queue_id).map_err(|_| {
        Refusal::new(ResponseCode::INVALID_PARAMETER, format!("queue id {queue_id} of topic {topic} is negative"))
    })?;
    Ok((found, queue))
}

fn earliest_store_time(replica: &Replica, topic: &Topic, queue: u32) -> Result<i64, Refusal> {
    let units = replica.queues.read(topic, queue, topic.min_offset(queue), 1)?;
    units.first().map_or(Ok(-1), |unit| record_at(replica, unit, |record| record.store_timestamp_ms()))
}

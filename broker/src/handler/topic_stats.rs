//! GET_TOPIC_STATS_INFO: the ends of a topic's queues, and how much comes in.
//!
//! Answered by the leader after a read barrier, as the ends of a single queue are.

use std::sync::Arc;

use ledgermq_protocol::json::Body;
use ledgermq_protocol::json::object_map::{MessageQueue, QueueMap};
use ledgermq_protocol::remoting::command::RemotingCommand;
use ledgermq_protocol::remoting::headers::topic::TopicOnly;
use ledgermq_protocol::remoting::response_code::ResponseCode;
use ledgermq_protocol::stats::{TopicOffset, TopicStatsTable};

use super::queue_ends::store_time;
use super::{answer_from_disk, header, no_barrier, topic_named};
use crate::replica::Replica;
use crate::server::outbox::Responder;
use crate::stamp::Refusal;

/// Answers with the table.
pub async fn topic_stats(replica: Arc<Replica>, request: RemotingCommand, responder: Responder) {
    if let Err(error) = replica.read_barrier().await {
        let answer = no_barrier(responder.command(ResponseCode::SUCCESS), &error, replica.identity());
        return responder.send(answer);
    }
    // The times of the last messages stand in the log.
    answer_from_disk(responder, move |answer| Ok(answer.with_body(stats_of(&replica, &request)?.to_json()))).await;
}

fn stats_of(replica: &Replica, request: &RemotingCommand) -> Result<TopicStatsTable, Refusal> {
    let asked: TopicOnly = header(request)?;
    let topic = topic_named(replica, &asked.topic)?;
    let mut offset_table = QueueMap::new();
    for queue in 0..topic.settings().queues() {
        let next = topic.next_offset(queue);
        let last_ms = next.checked_sub(1).map(|last| store_time(replica, &topic, queue, last)).transpose()?;
        let ends = TopicOffset {
            last_update_timestamp: last_ms.flatten().unwrap_or(0),
            max_offset: next as i64,
            min_offset: topic.min_offset(queue) as i64,
        };
        offset_table.insert(message_queue(replica, topic.name(), queue), ends);
    }
    let topic_put_tps = replica.stats.stored(&topic, replica.now_ms()).stats_minute.tps;
    Ok(TopicStatsTable { offset_table, topic_put_tps })
}

/// A queue of this broker as tools name it.
pub(super) fn message_queue(replica: &Replica, topic: &str, queue: u32) -> MessageQueue {
    let broker_name = replica.identity().broker_name.clone();
    MessageQueue { broker_name, queue_id: queue as i32, topic: topic.to_owned() }
}

//! VIEW_BROKER_STATS_DATA: messages stored or handed out over the last minute, hour and day.
//!
//! What is handed out is counted by the replica that did it; tools ask the leader.

use std::sync::Arc;

use ledgermq_protocol::json::Body;
use ledgermq_protocol::remoting::command::RemotingCommand;
use ledgermq_protocol::remoting::headers::admin::ViewBrokerStats;
use ledgermq_protocol::remoting::response_code::ResponseCode;
use ledgermq_protocol::stats::{BrokerStatsData, name};

use super::{answer_from_disk, header};
use crate::replica::Replica;
use crate::server::outbox::Responder;
use crate::stamp::Refusal;

/// Answers with the figures.
pub async fn broker_stats(replica: Arc<Replica>, request: RemotingCommand, responder: Responder) {
    replica.catch_up().await;
    // No disk, but perhaps a walk over all queues.
    answer_from_disk(responder, move |answer| {
        let asked: ViewBrokerStats = header(&request)?;
        let unknown = || {
            let remark = format!("nothing is counted under {} for {}", asked.stats_name, asked.stats_key);
            Refusal::new(ResponseCode::SYSTEM_ERROR, remark)
        };
        Ok(answer.with_body(figures(&replica, &asked).ok_or_else(unknown)?.to_json()))
    })
    .await;
}

fn figures(replica: &Replica, asked: &ViewBrokerStats) -> Option<BrokerStatsData> {
    let (stats, tables, now) = (&replica.stats, replica.tables(), replica.now());
    let key = asked.stats_key.as_str();
    let of_cluster = key == replica.identity().cluster;
    match asked.stats_name.as_str() {
        name::TOPIC_PUT_NUMS => tables.topic(key).map(|topic| stats.stored(&topic, now.monotone_ms)),
        name::GROUP_GET_NUMS => {
            let (topic, group) = key.split_once('@')?;
            stats.handed(group, tables.topic(topic)?.key(), now.monotone_ms)
        }
        name::BROKER_PUT_NUMS if of_cluster => Some(stats.all_stored(tables, now)),
        name::BROKER_GET_NUMS if of_cluster => Some(stats.all_handed(now.monotone_ms)),
        _ => None,
    }
}

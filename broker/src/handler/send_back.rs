//! CONSUMER_SEND_MSG_BACK: a consumer could not work a message off and wants it again later, or is to be spared it.
//!
//! ```text
//! the record at the offset --> tried too often, or not to be tried again? --> %DLQ%group, for people to look at
//!                                    no --> %RETRY%group, after a delay that grows with each try --> the group gets it again
//! ```
//! The copy is a message like any other: body, keys and tags are the original's. The client shows it under its first topic and id.

use std::sync::Arc;

use ledgermq_dledger::Outcome;
use ledgermq_protocol::message::id::offset_id;
use ledgermq_protocol::message::properties::{self, name};
use ledgermq_protocol::message::record::{Message, RecordRef};
use ledgermq_protocol::names;
use ledgermq_protocol::remoting::command::RemotingCommand;
use ledgermq_protocol::remoting::headers::send::ConsumerSendMsgBack;
use ledgermq_protocol::remoting::response_code::ResponseCode;

use super::pull::unreadable;
use super::send::{self, Target, too_long};
use super::{header, refused, view_message};
use crate::command::GroupSettings;
use crate::delay::Delay;
use crate::replica::Replica;
use crate::server::outbox::Responder;
use crate::server::ticket::failed;
use crate::stamp::{Answer, AutoCreate, Item, Refusal, SendItem};

/// Added to the tries to get the delay level of the next one: ten seconds after the first.
const FIRST_RETRY_LEVEL: i64 = 3;

/// Answers once the copy is on the disks of a majority.
pub async fn send_back(replica: Arc<Replica>, request: RemotingCommand, responder: Responder) {
    let answer = responder.command(ResponseCode::SUCCESS);
    let answer = match prepare(&replica, &request).await {
        Ok(Some(item)) => match replica.call_item(Item::Send(item)).await {
            Outcome::Answered(Answer::Sent(_)) => answer,
            failure => failed(answer, failure, replica.identity()),
        },
        // A group without retry queues wants nothing again.
        Ok(None) => answer,
        Err(refusal) => refused(answer, refusal),
    };
    responder.send(answer);
}

async fn prepare(replica: &Arc<Replica>, request: &RemotingCommand) -> Result<Option<SendItem>, Refusal> {
    let asked: ConsumerSendMsgBack = header(request)?;
    names::check_group(&asked.group)
        .map_err(|error| Refusal::new(ResponseCode::INVALID_PARAMETER, error.to_string()))?;
    replica.catch_up().await;
    let Some(group) = replica.tables().group(&asked.group) else {
        let remark = format!("subscription group {} does not exist", asked.group);
        return Err(Refusal::new(ResponseCode::SUBSCRIPTION_GROUP_NOT_EXIST, remark));
    };
    if group.retry_queues <= 0 {
        return Ok(None);
    }
    // The client sends the body itself when there is none.
    let not_there = || {
        let remark = format!("look message by offset failed, {}", asked.physical_offset);
        Refusal::new(ResponseCode::SYSTEM_ERROR, remark)
    };
    let bytes = view_message::read(replica, asked.physical_offset).await?.ok_or_else(not_there)?;
    let record = RecordRef::decode(&bytes).map_err(|error| unreadable(&error))?;
    copy(replica, &asked, &group, &record).map(Some)
}

fn copy(
    replica: &Replica,
    asked: &ConsumerSendMsgBack,
    group: &GroupSettings,
    record: &RecordRef<'_>,
) -> Result<SendItem, Refusal> {
    let tried = record.reconsume_times();
    let times_max = asked.max_reconsume_times.unwrap_or(group.retry_max_times);
    let is_dead = asked.delay_level < 0 || tried >= times_max;
    let target = if is_dead { Target::dead_letters(&asked.group) } else { retry_target(replica, &asked.group, group) };
    let mut properties = copied_properties(record)?;
    let level = (!is_dead).then(|| match asked.delay_level {
        0 => FIRST_RETRY_LEVEL + i64::from(tried.max(0)),
        level => i64::from(level),
    });
    let message = Message {
        topic: "",
        queue_id: 0,
        flag: record.flag(),
        sys_flag: record.sys_flag(),
        born_timestamp_ms: record.born_timestamp_ms(),
        born_host: record.born_host(),
        store_host: replica.identity().store_host,
        reconsume_times: tried.saturating_add(1),
        prepared_transaction_offset: 0,
        body: record.body(),
        properties: "",
    };
    if let Some(level) = level {
        properties::set(&mut properties, name::DELAY, &level.to_string()).map_err(too_long)?;
    }
    send::encode(&replica.sending, target, message, properties, level.map(Delay::of_level))
}

/// The group's retry topic, any of its queues.
fn retry_target(replica: &Replica, name: &str, group: &GroupSettings) -> Target {
    let topic: Arc<str> = names::retry_topic(name).into();
    let queues = u32::try_from(group.retry_queues).unwrap_or(0).max(1);
    let there = replica.tables().topic(&topic).map(|topic| topic.settings().write_queues);
    let queue_id = rand::random_range(0..there.unwrap_or(queues).max(1)) as i32;
    Target { topic, queue_id, auto_create: AutoCreate::Plain { queues }, is_dead: false }
}

/// The original's properties, with where it came from; without what its own wait has left in them.
fn copied_properties(record: &RecordRef<'_>) -> Result<String, Refusal> {
    let mut all = record.properties().to_owned();
    for own in [name::DELAY, name::REAL_TOPIC, name::REAL_QID, name::TIMER_OUT_MS] {
        properties::remove(&mut all, own);
    }
    if properties::get(&all, name::RETRY_TOPIC).is_none() {
        properties::push(&mut all, name::RETRY_TOPIC, record.topic()).map_err(too_long)?;
    }
    if properties::get(&all, name::ORIGIN_MESSAGE_ID).is_none() {
        let id = offset_id(record.store_host(), record.physical_offset());
        properties::push(&mut all, name::ORIGIN_MESSAGE_ID, &id).map_err(too_long)?;
    }
    properties::set(&mut all, name::WAIT, "false").map_err(too_long)?;
    Ok(all)
}

//! What the leader decides over a send: its topic, its queue, its place there; and for a delayed one, when it is due.

use bytes::BytesMut;
use ledgermq_dledger::{LogPos, Verdict};
use ledgermq_protocol::message::record;
use ledgermq_protocol::names;
use ledgermq_protocol::remoting::response_code::ResponseCode;

use super::item::{Answer, AutoCreate, Refusal, SendItem, Sent, record_size};
use super::projection::{ProjectedTopic, Projection};
use super::stamper::{RECORDS_PER_ITEM_MAX, check, check_room_for_topic, incarnation_of};
use crate::command::{Command, PutTopic, TopicSettings, perm};
use crate::delay::{self, Delay, TIMER_QUEUE};

/// By how much the transition that delivers a message can be longer than its record in the timer topic: a command for one, and a
/// longer name of a topic.
const TRANSITION_EXTRA_LEN: usize = 512;

/// Checks messages for one queue, and takes their places there.
pub(super) fn admit_send(
    projection: &mut Projection,
    send: &mut SendItem,
    payload_max: usize,
    index: u64,
    now_ms: u64,
) -> Result<Verdict<Answer>, Refusal> {
    if send.count > RECORDS_PER_ITEM_MAX {
        let remark = format!("batch of {} messages, the limit is {RECORDS_PER_ITEM_MAX}", send.count);
        return Err(Refusal::new(ResponseCode::MESSAGE_ILLEGAL, remark));
    }
    if send.size() > payload_max {
        let remark = format!("the stored form has {} bytes, the limit is {payload_max}", send.size());
        return Err(Refusal::new(ResponseCode::MESSAGE_ILLEGAL, remark));
    }
    let Some(topic) = projection.topics.get_mut(&send.topic) else {
        check_creatable(projection, send)?;
        return Ok(Verdict::First);
    };
    let queue = check_queue(topic, send)?;
    if let Some(delay) = send.delay {
        return admit_delayed(projection, send, queue, delay, payload_max, index, now_ms);
    }
    let next = &mut topic.next[queue as usize];
    send.sent.index = index;
    send.sent.queue_id = queue;
    send.sent.queue_offset = *next;
    *next += send.count as u64;
    projection.last_store_ms = now_ms.max(projection.last_store_ms);
    send.sent.store_timestamp_ms = projection.last_store_ms;
    Ok(Verdict::Take { len: send.size(), records: send.count as u16 })
}

/// As [`admit_send`], for a message that waits: it is checked against its own topic, and takes a place in the timer topic.
fn admit_delayed(
    projection: &mut Projection,
    send: &mut SendItem,
    queue: u32,
    delay: Delay,
    payload_max: usize,
    index: u64,
    now_ms: u64,
) -> Result<Verdict<Answer>, Refusal> {
    let most = payload_max.saturating_sub(TRANSITION_EXTRA_LEN);
    if send.size() > most {
        let remark = format!("the stored form has {} bytes, the limit of a delayed message is {most}", send.size());
        return Err(Refusal::new(ResponseCode::MESSAGE_ILLEGAL, remark));
    }
    let store_ms = now_ms.max(projection.last_store_ms);
    let Some(timers) = projection.topics.get_mut(names::TIMER_TOPIC) else {
        check_room_for_topic(projection, 1)?;
        return Ok(Verdict::First);
    };
    let next = &mut timers.next[TIMER_QUEUE as usize];
    send.sent = Sent {
        index,
        queue_id: queue,
        queue_offset: *next,
        store_timestamp_ms: store_ms,
        due_ms: Some(delay.due_ms(store_ms)),
        ..Sent::default()
    };
    *next += 1;
    projection.last_store_ms = store_ms;
    Ok(Verdict::Take { len: send.size(), records: 1 })
}

/// The command that must go in front of a send: its topic is created, or the one in which it waits.
pub(super) fn precede_send(projection: &mut Projection, send: &SendItem, index: u64) -> PutTopic {
    let (topic, settings) = match created_settings(projection, &send.auto_create) {
        Some(settings) if !projection.topics.contains_key(&send.topic) => (send.topic.clone(), settings),
        _ => (names::TIMER_TOPIC.into(), TopicSettings { perm: perm::WRITE, ..TopicSettings::plain(1) }),
    };
    projection.put_topic(topic.clone(), settings.clone(), incarnation_of(index));
    PutTopic { topic: topic.to_string(), settings, replace: false }
}

fn check_queue(topic: &mut ProjectedTopic, send: &mut SendItem) -> Result<u32, Refusal> {
    if !topic.settings.writable() {
        return Err(Refusal::new(ResponseCode::NO_PERMISSION, format!("sending to topic {} is forbidden", send.topic)));
    }
    let queues = topic.settings.queues();
    match u32::try_from(send.queue_id) {
        Ok(queue) if queue < queues => Ok(queue),
        Ok(queue) => {
            let remark = format!("queue id {queue} is illegal, topic {} has {queues} queues", send.topic);
            Err(Refusal::new(ResponseCode::INVALID_PARAMETER, remark))
        }
        Err(_) => {
            let queue = topic.choose_queue();
            send.set_queue(queue);
            Ok(queue)
        }
    }
}

fn check_creatable(projection: &Projection, send: &SendItem) -> Result<(), Refusal> {
    let Some(settings) = created_settings(projection, &send.auto_create) else {
        let remark = format!("topic {} does not exist; create it, or enable automatic creation", send.topic);
        return Err(Refusal::new(ResponseCode::TOPIC_NOT_EXIST, remark));
    };
    let put = PutTopic { topic: send.topic.to_string(), settings: settings.clone(), replace: false };
    check(&Command::PutTopic(put))?;
    check_room_for_topic(projection, settings.queues())
}

fn created_settings(projection: &Projection, how: &AutoCreate) -> Option<TopicSettings> {
    match how {
        AutoCreate::No => None,
        AutoCreate::From { template, queues } => {
            let template = &projection.topics.get(template)?.settings;
            let settings = TopicSettings {
                perm: template.perm & !perm::INHERIT,
                sys_flag: template.sys_flag,
                multi_tag: template.multi_tag,
                ..TopicSettings::plain(template.write_queues.min(*queues).max(1))
            };
            template.inheritable().then_some(settings)
        }
        AutoCreate::Plain { queues } => Some(TopicSettings::plain((*queues).max(1))),
    }
}

/// Appends the records, stamped; the first of them lies at `at`.
pub(super) fn write_send(send: &mut SendItem, at: LogPos, out: &mut BytesMut) {
    let start = out.len();
    out.extend_from_slice(&send.records);
    let records = &mut out[start..];
    send.sent.physical_offset = at.0;
    let mut done = 0;
    for n in 0..send.count as u64 {
        let size = record_size(&records[done..]);
        let physical_offset = at.0 + done as u64;
        if n > 0 {
            send.sent.more_physical_offsets.push(physical_offset);
        }
        let queue_offset = send.sent.queue_offset + n;
        record::patch(
            &mut records[done..done + size],
            queue_offset as i64,
            physical_offset as i64,
            send.sent.store_timestamp_ms as i64,
        );
        done += size;
    }
    assert_eq!(done, records.len(), "exactly the announced records are written");
    if let Some(due_ms) = send.sent.due_ms {
        delay::write_due(records, due_ms);
    }
}

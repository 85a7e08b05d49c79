//! SEND_MESSAGE and SEND_MESSAGE_V2: one message, checked, encoded once into its stored form, and proposed. One with a delay is
//! stored as a record of the timer topic ([`crate::delay`]).
//!
//! What depends on the state of topics (existence, permission, queue) is decided in log order by the stamper; here is what a
//! message alone can be refused for. The answer comes from [`crate::server::ticket`] when a majority has the message on disk.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::BytesMut;
use ledgermq_protocol::message::id::UniqKeyMaker;
use ledgermq_protocol::message::properties::{self, PropertyError, name};
use ledgermq_protocol::message::record::{self, EncodeError, Message};
use ledgermq_protocol::message::sys_flag;
use ledgermq_protocol::names::{self, NameError};
use ledgermq_protocol::remoting::command::RemotingCommand;
use ledgermq_protocol::remoting::headers::send::{SendMessage, SendMessageResponse};
use ledgermq_protocol::remoting::response_code::ResponseCode;

use parking_lot::Mutex;

use super::reply::note_requester;
use crate::delay::{self, Delay, TIMER_QUEUE};
use crate::identity::Identity;
use crate::replica::{Replica, wall_clock_ms};
use crate::server::outbox::Responder;
use crate::server::ticket::SendTicket;
use crate::stamp::{AutoCreate, Item, Refusal, SendItem};
use crate::tables::Tables;

/// Longest body of a message in bytes.
pub const BODY_LEN_MAX: usize = record::DEFAULT_MAX_BODY_LEN;

/// Tries of a message before it becomes a dead letter, for a group that nobody configured.
const RETRY_TIMES_DEFAULT: i32 = 16;

/// What encoding a message needs to know of its replica.
#[derive(Debug)]
pub struct Sending {
    /// Who stores it.
    pub identity: Arc<Identity>,
    /// Applied state, for hints: the stamper decides.
    pub tables: Arc<Tables>,
    /// Whether a send to an unknown topic may create it.
    pub auto_create_topics: bool,
    /// Longest delay of a message, ms.
    pub delay_max_ms: u64,
    /// For messages that come without a unique key.
    pub unique_keys: Mutex<UniqKeyMaker>,
}

impl Sending {
    /// A queue for a message that may go to any, as far as the topic is known here.
    fn any_queue(&self, topic: &str) -> u32 {
        let queues = self.tables.topic(topic).map_or(1, |topic| topic.settings().write_queues);
        rand::random_range(0..queues.max(1))
    }

    fn next_unique_key(&self) -> String {
        self.unique_keys.lock().next_key(wall_clock_ms())
    }
}

/// Handles one send.
pub fn send(replica: &Arc<Replica>, request: &RemotingCommand, responder: Responder) {
    note_requester(replica, request, &responder);
    submit(replica, prepare(&replica.sending, request, responder.client()), responder);
}

/// Proposes what a send or a batch has become, or refuses it.
pub(super) fn submit(replica: &Replica, prepared: Result<Prepared, Refusal>, responder: Responder) {
    match prepared {
        Ok((item, unique_key)) => {
            // What a consumer gave back is nobody's to recall.
            let recall = item.delayed_for().filter(|topic| !names::is_retry_topic(topic)).cloned();
            let ticket = SendTicket { responder, unique_key, recall, identity: Arc::clone(replica.identity()) };
            replica.propose_send(Item::Send(item), ticket);
        }
        Err(refusal) => responder.refuse(refusal.code, refusal.remark),
    }
}

/// The item to propose, and the unique key that the answer names.
pub(super) type Prepared = (SendItem, Option<Box<str>>);

fn prepare(sending: &Sending, request: &RemotingCommand, born_host: SocketAddr) -> Result<Prepared, Refusal> {
    let header = SendMessage::from_ext(request.code, &request.ext).map_err(super::bad_field)?;
    if header.batch == Some(true) {
        return Err(illegal("a batch is sent with SEND_BATCH_MESSAGE"));
    }
    check_names(&header)?;
    check_sys_flag(header.sys_flag)?;
    check_body(request.body.len())?;
    let given = header.properties.unwrap_or_default();
    let asks_delay = check_properties(given)?;

    let target = Target::of(sending, &header);
    let mut properties = stored_properties(sending, given)?;
    let unique_key = properties::get(&properties, name::UNIQ_KEY).map(Box::from);
    let delay = if asks_delay { asked_delay(sending, &target, &mut properties)? } else { None };
    let message = Message {
        topic: "",
        queue_id: 0,
        flag: header.flag,
        sys_flag: header.sys_flag,
        born_timestamp_ms: header.born_timestamp_ms,
        born_host,
        store_host: sending.identity.store_host,
        reconsume_times: header.reconsume_times.unwrap_or(0),
        prepared_transaction_offset: 0,
        body: &request.body,
        properties: "",
    };
    Ok((encode(sending, target, message, properties, delay)?, unique_key))
}

/// How long a message is to wait, by its properties. Dead letters never wait.
fn asked_delay(sending: &Sending, target: &Target, properties: &mut String) -> Result<Option<Delay>, Refusal> {
    if target.is_dead {
        properties::remove(properties, name::DELAY);
        return Ok(None);
    }
    let now_ms = wall_clock_ms().max(0) as u64;
    let delay = Delay::asked(properties, now_ms, sending.delay_max_ms);
    delay.map_err(|error| illegal(error.to_string()))
}

/// Encodes a message for its target, whose topic, queue and properties it gets. One with a delay becomes a record of the timer
/// topic.
pub(super) fn encode(
    sending: &Sending,
    target: Target,
    message: Message<'_>,
    mut properties: String,
    delay: Option<Delay>,
) -> Result<SendItem, Refusal> {
    let Target { topic, queue_id, auto_create, .. } = target;
    let mut record = BytesMut::new();
    let too_large = |error: EncodeError| illegal(error.to_string());
    let Some(delay) = delay else {
        let message = Message { topic: &topic, queue_id, properties: &properties, ..message };
        record::encode(&message, &mut record).map_err(too_large)?;
        return Ok(SendItem::new(topic, queue_id, record, auto_create));
    };
    // The queue stands in the record, which is encoded here.
    let queue = u32::try_from(queue_id).unwrap_or_else(|_| sending.any_queue(&topic));
    delay::make_wait(&mut properties, &topic, queue).map_err(too_long)?;
    let queue_id = TIMER_QUEUE as i32;
    let message = Message { topic: names::TIMER_TOPIC, queue_id, properties: &properties, ..message };
    record::encode(&message, &mut record).map_err(too_large)?;
    Ok(SendItem::delayed(topic, queue, record, auto_create, delay))
}

/// Where a send really goes.
pub(super) struct Target {
    pub(super) topic: Arc<str>,
    pub(super) queue_id: i32,
    pub(super) auto_create: AutoCreate,
    /// Whether these are the dead letters of a group.
    pub(super) is_dead: bool,
}

impl Target {
    /// The dead letters of a group.
    pub(super) fn dead_letters(group: &str) -> Self {
        let topic = names::dlq_topic(group).into();
        Self { topic, queue_id: 0, auto_create: AutoCreate::Plain { queues: 1 }, is_dead: true }
    }

    /// The topic that the header names, or the dead letters of a group whose message was tried often enough.
    pub(super) fn of(sending: &Sending, header: &SendMessage<'_>) -> Self {
        if let Some(group) = names::retry_topic_group(header.topic) {
            let times_max = header.max_reconsume_times.unwrap_or_else(|| {
                sending.tables.group(group).map_or(RETRY_TIMES_DEFAULT, |settings| settings.retry_max_times)
            });
            if header.reconsume_times.unwrap_or(0) > times_max {
                return Self::dead_letters(group);
            }
        }
        let topic = match sending.tables.topic(header.topic) {
            Some(topic) => Arc::clone(topic.name()),
            None => Arc::from(header.topic),
        };
        let auto_create = if names::is_retry_topic(header.topic) {
            AutoCreate::Plain { queues: 1 }
        } else if sending.auto_create_topics && !names::is_dlq_topic(header.topic) {
            let queues = u32::try_from(header.default_topic_queue_nums).unwrap_or(0).max(1);
            AutoCreate::From { template: Arc::from(header.default_topic), queues }
        } else {
            AutoCreate::No
        };
        Self { topic, queue_id: header.queue_id, auto_create, is_dead: false }
    }
}

/// Checks the names that a send brings.
pub(super) fn check_names(header: &SendMessage<'_>) -> Result<(), Refusal> {
    names::check_producer_group(header.producer_group)
        .map_err(|error| Refusal::new(ResponseCode::INVALID_PARAMETER, error.to_string()))?;
    let topic = header.topic;
    names::check_topic(topic).map_err(|error| {
        let code = match error {
            NameError::TooLong { .. } => ResponseCode::MESSAGE_ILLEGAL,
            NameError::Empty { .. } | NameError::Character { .. } => ResponseCode::INVALID_PARAMETER,
        };
        Refusal::new(code, error.to_string())
    })?;
    if !names::is_sendable_topic(topic) || topic.starts_with(names::SYSTEM_PREFIX) {
        return Err(Refusal::new(ResponseCode::NO_PERMISSION, format!("sending to system topic {topic} is forbidden")));
    }
    Ok(())
}

/// Checks a message's system flag for what is not built yet.
pub(super) fn check_sys_flag(flag: i32) -> Result<(), Refusal> {
    if flag & sys_flag::TRANSACTION_MASK != 0 {
        return Err(no_transactions());
    }
    if flag & (sys_flag::NEED_UNWRAP | sys_flag::INNER_BATCH) != 0 {
        return Err(illegal("inner batches are not supported: send an ordinary batch"));
    }
    Ok(())
}

/// Checks the length of a body.
pub(super) fn check_body(len: usize) -> Result<(), Refusal> {
    if len > BODY_LEN_MAX {
        return Err(illegal(format!("message body of {len} bytes, the limit is {BODY_LEN_MAX}")));
    }
    Ok(())
}

/// Checks a message's properties: their length, and marks for what is not built yet. Returns whether any of them asks for a delay.
pub(super) fn check_properties(given: &str) -> Result<bool, Refusal> {
    if given.len() > properties::MAX_PROPERTIES_LEN {
        let limit = properties::MAX_PROPERTIES_LEN;
        return Err(illegal(format!("message properties of {} bytes, the limit is {limit}", given.len())));
    }
    let mut asks_delay = false;
    for (key, value) in properties::iter(given) {
        match key {
            name::TRAN_MSG if value.eq_ignore_ascii_case("true") => return Err(no_transactions()),
            name::DELAY | name::TIMER_DELAY_SEC | name::TIMER_DELAY_MS | name::TIMER_DELIVER_MS => asks_delay = true,
            name::TIMER_DEL_UNIQKEY => {
                return Err(illegal(format!("a send cannot have the property {key}: recall with RECALL_MESSAGE")));
            }
            _ => {}
        }
    }
    Ok(asks_delay)
}

/// The properties as they are stored: the client's, without what only a broker may set, with what a broker adds.
fn stored_properties(sending: &Sending, given: &str) -> Result<String, Refusal> {
    let mut all = String::with_capacity(given.len() + 128);
    all.push_str(given);
    properties::remove(&mut all, name::POP_CK);
    if properties::get(&all, name::UNIQ_KEY).is_none() {
        properties::push(&mut all, name::UNIQ_KEY, &sending.next_unique_key()).map_err(too_long)?;
    }
    properties::set(&mut all, name::MSG_REGION, SendMessageResponse::DEFAULT_REGION).map_err(too_long)?;
    properties::set(&mut all, name::TRACE_ON, "true").map_err(too_long)?;
    properties::set(&mut all, name::CLUSTER, &sending.identity.cluster).map_err(too_long)?;
    Ok(all)
}

pub(super) fn too_long(error: PropertyError) -> Refusal {
    illegal(format!("with what the broker adds: {error}"))
}

fn no_transactions() -> Refusal {
    illegal("transactional messages are not supported yet")
}

/// MESSAGE_ILLEGAL: not retried by any client.
pub(super) fn illegal(remark: impl Into<String>) -> Refusal {
    Refusal::new(ResponseCode::MESSAGE_ILLEGAL, remark)
}

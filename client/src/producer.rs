//! Producer: sends messages and says what became of each.
//!
//! A send picks a queue, goes to the leader of its broker name and follows that leader as it changes, within one deadline. The
//! message is the same at every attempt, unique key included. Where the order of messages matters, at most one send per queue is
//! unacknowledged. Brokers list the producer from its first send on, by the heartbeats of [`crate::membership`].

use std::collections::HashMap;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use flate2::write::ZlibEncoder;
use ledgermq_protocol::json::object_map::MessageQueue;
use ledgermq_protocol::message::batch::{BatchElement, MAX_BATCH_MESSAGES, encode_element};
use ledgermq_protocol::message::properties::{self, name};
use ledgermq_protocol::message::sys_flag;
use ledgermq_protocol::message::tags::java_string_hash;
use ledgermq_protocol::names::{self, AUTO_CREATE_TOPIC};
use ledgermq_protocol::remoting::command::RemotingCommand;
use ledgermq_protocol::remoting::ext_fields::ExtFields;
use ledgermq_protocol::remoting::headers::send::{SendMessage, SendMessageResponse};
use ledgermq_protocol::remoting::request_code::RequestCode;
use ledgermq_protocol::remoting::response_code::ResponseCode;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::core::{Ask, Core, refused};
use crate::error::{CallError, Cause, ConfigError, MessageError, RouteProblem, SendError};
use crate::message::{Message, check_len};
use crate::retry::Attempts;
use crate::route::TopicRoute;

/// Lanes in which ordered sends queue up by key before anything is asked about the topic. Keys that share one wait for each
/// other, so there are many more than queues of a topic.
const KEY_LANES: usize = 1_024;

/// Queues for which an order lock is remembered. Beyond it the unused ones are forgotten.
const ORDER_LOCKS_MAX: usize = 65_536;

/// zlib level of compressed bodies, as Java's.
const COMPRESSION_LEVEL: u32 = 5;

/// The compression type "zlib" in a system flag.
const ZLIB_TYPE: i32 = 0x300;

/// Settings of a producer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProducerConfig {
    /// Producer group, 1 to 120 of `%|a-zA-Z0-9_-`.
    pub group: String,
    /// Sends that may be under way at the same time; further ones wait. Default 1,024; 1 to 65,536.
    pub in_flight_max: usize,
    /// Whether a send to an unknown topic lets the brokers create it, where they do that. Default true.
    pub auto_create_topics: bool,
    /// Queues per broker name that a topic so created gets at most. Default 4; 1 to 1,024.
    pub auto_create_queue_nums: i32,
    /// Bodies of at least this many bytes are compressed with zlib. Default none: brokers and disks are seldom the bottleneck
    /// that compressing them twice would relieve.
    pub compress_from: Option<usize>,
}

impl ProducerConfig {
    /// The defaults for a group.
    pub fn new(group: impl Into<String>) -> Self {
        Self {
            group: group.into(),
            in_flight_max: 1_024,
            auto_create_topics: true,
            auto_create_queue_nums: 4,
            compress_from: None,
        }
    }

    /// Sets [`Self::in_flight_max`].
    pub fn with_in_flight_max(mut self, in_flight_max: usize) -> Self {
        self.in_flight_max = in_flight_max;
        self
    }

    /// Sets [`Self::auto_create_topics`].
    pub fn with_auto_create_topics(mut self, auto_create_topics: bool) -> Self {
        self.auto_create_topics = auto_create_topics;
        self
    }

    /// Sets [`Self::compress_from`].
    pub fn with_compress_from(mut self, bytes: usize) -> Self {
        self.compress_from = Some(bytes);
        self
    }

    fn validate(&self) -> Result<(), ConfigError> {
        names::check_group(&self.group)?;
        if !(1..=65_536).contains(&self.in_flight_max) {
            let value = self.in_flight_max.to_string();
            return Err(ConfigError::Value { key: "in_flight_max", value, mend: "give 1 to 65,536" });
        }
        if !(1..=1_024).contains(&self.auto_create_queue_nums) {
            let value = self.auto_create_queue_nums.to_string();
            return Err(ConfigError::Value { key: "auto_create_queue_nums", value, mend: "give 1 to 1,024" });
        }
        Ok(())
    }
}

/// How a stored message is stored. LedgerMQ only ever answers `Ok`; the others come from Apache RocketMQ and count as stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendStatus {
    /// As durable as the broker is configured.
    Ok,
    /// Stored, not yet on the leader's disk.
    FlushDiskTimeout,
    /// Stored, not yet replicated in time.
    FlushSlaveTimeout,
    /// Stored, no replica to send it to.
    SlaveNotAvailable,
}

/// A message that was acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SendReceipt {
    /// How it is stored.
    pub status: SendStatus,
    /// The queue that took it.
    pub queue: MessageQueue,
    /// Its place there; of a batch, that of the first message, the others follow.
    pub queue_offset: i64,
    /// The id that leads to its record; of a batch, the ids of all, joined by commas.
    pub offset_id: String,
    /// Its unique key; of a batch, that of the first message.
    pub unique_key: String,
    /// How many attempts it took. Above 1, it may be stored more than once.
    pub attempts: u32,
}

/// Sends messages. Cheap to clone; all clones share queues, locks and limits.
#[derive(Debug, Clone)]
pub struct Producer {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    core: Arc<Core>,
    config: ProducerConfig,
    in_flight: Semaphore,
    /// Where the next unpinned send begins.
    turn: AtomicUsize,
    /// Keeps the order of calls with one key, from the call on.
    lanes: Vec<tokio::sync::Mutex<()>>,
    /// Keeps the unacknowledged ordered sends of a queue at one.
    order: Mutex<HashMap<MessageQueue, Arc<tokio::sync::Mutex<()>>>>,
}

/// A message ready for its attempts: what does not depend on the queue.
struct Prepared<'a> {
    code: i32,
    topic: &'a str,
    body: Bytes,
    properties: String,
    unique_key: &'a str,
    flag: i32,
    sys_flag: i32,
    born_timestamp_ms: i64,
    /// Whether the topic does not exist yet, so that its template has to be named.
    template: &'static str,
}

impl Producer {
    pub(crate) fn new(core: Arc<Core>, config: ProducerConfig) -> Result<Self, ConfigError> {
        config.validate()?;
        core.membership.join_producer(&config.group);
        let in_flight = Semaphore::new(config.in_flight_max);
        let lanes = std::iter::repeat_with(tokio::sync::Mutex::default).take(KEY_LANES).collect();
        let inner = Inner { core, config, in_flight, turn: AtomicUsize::new(0), lanes, order: Mutex::default() };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The queues that messages of `topic` can go to, sorted; the same for every client.
    ///
    /// # Errors
    /// [`CallError`] when the route cannot be had, or has no such queue.
    pub async fn queues(&self, topic: &str) -> Result<Vec<MessageQueue>, CallError> {
        let mut attempts = self.inner.core.attempts();
        Ok(self.inner.writable(topic, &mut attempts).await?.write_queues().to_vec())
    }

    /// Sends to any queue, the next one each time. A failed attempt goes on at another broker name where there is one.
    ///
    /// # Errors
    /// [`SendError`]; it says whether the message may be stored all the same.
    pub async fn send(&self, message: &Message) -> Result<SendReceipt, SendError> {
        let prepared = self.inner.prepare(message)?;
        let _running = self.inner.core.run();
        let _permit = self.inner.permit().await;
        self.inner.send_anywhere(prepared).await
    }

    /// Sends to one queue and stays with it through all attempts.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn send_to(&self, message: &Message, queue: &MessageQueue) -> Result<SendReceipt, SendError> {
        if queue.topic != message.topic() {
            return Err(MessageError::NoQueueChosen(message.topic().to_owned()).into());
        }
        let prepared = self.inner.prepare(message)?;
        let _running = self.inner.core.run();
        let _permit = self.inner.permit().await;
        let mut attempts = self.inner.core.attempts();
        let route = self.inner.writable(message.topic(), &mut attempts).await?;
        self.inner.send_pinned(prepared.on(&route), queue, attempts).await
    }

    /// Sends to the queue that `select` picks from the topic's, and stays with it.
    ///
    /// # Errors
    /// As [`Self::send`], and when `select` picks none.
    pub async fn send_select(
        &self,
        message: &Message,
        select: impl FnOnce(&[MessageQueue]) -> Option<&MessageQueue>,
    ) -> Result<SendReceipt, SendError> {
        let prepared = self.inner.prepare(message)?;
        let _running = self.inner.core.run();
        let _permit = self.inner.permit().await;
        let mut attempts = self.inner.core.attempts();
        let route = self.inner.writable(message.topic(), &mut attempts).await?;
        let queue = select(route.write_queues()).cloned();
        let queue = queue.ok_or_else(|| MessageError::NoQueueChosen(message.topic().to_owned()))?;
        self.inner.send_pinned(prepared.on(&route), &queue, attempts).await
    }

    /// Sends messages of one `key` in the order of these calls: all go to one queue, chosen by the key's hash as stock clients
    /// do, and the next one waits until the one before it is acknowledged or given up. The deadline counts from there.
    ///
    /// After an error whose outcome is unknown, the message may still appear behind later ones; stop sending this key where that
    /// matters.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn send_ordered(&self, message: &Message, key: &str) -> Result<SendReceipt, SendError> {
        let mut prepared = self.inner.prepare(message)?;
        if properties::get(&prepared.properties, name::SHARDING_KEY).is_none() {
            properties::push(&mut prepared.properties, name::SHARDING_KEY, key)
                .map_err(|error| MessageError::Property { name: name::SHARDING_KEY.to_owned(), error })?;
        }
        let _running = self.inner.core.run();
        // Before anything is waited for: the first route of a topic reaches those who wait for it in no order.
        let _lane = self.inner.lanes[java_string_hash(key).unsigned_abs() as usize % KEY_LANES].lock().await;
        let route = self.inner.writable(message.topic(), &mut self.inner.core.attempts()).await?;
        let queue = by_hash(route.write_queues(), key).clone();
        // Lane, lock, permit: whoever holds a later one must never wait for an earlier one.
        let lock = self.inner.order_lock(&queue);
        let _turn = lock.lock().await;
        let _permit = self.inner.permit().await;
        self.inner.send_pinned(prepared.on(&route), &queue, self.inner.core.attempts()).await
    }

    /// Sends several messages of one topic as one request: all are stored, next to each other in one queue, or none.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn send_batch(&self, messages: &[Message]) -> Result<SendReceipt, SendError> {
        let prepared = self.inner.prepare_batch(messages)?;
        let _running = self.inner.core.run();
        let _permit = self.inner.permit().await;
        self.inner.send_anywhere(prepared).await
    }

    /// As [`Self::send_batch`], to one queue.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn send_batch_to(&self, messages: &[Message], queue: &MessageQueue) -> Result<SendReceipt, SendError> {
        let prepared = self.inner.prepare_batch(messages)?;
        if queue.topic != prepared.topic {
            return Err(MessageError::NoQueueChosen(prepared.topic.to_owned()).into());
        }
        let _running = self.inner.core.run();
        let _permit = self.inner.permit().await;
        let mut attempts = self.inner.core.attempts();
        let route = self.inner.writable(prepared.topic, &mut attempts).await?;
        self.inner.send_pinned(prepared.on(&route), queue, attempts).await
    }

    /// Sends once, to any queue, and asks for no answer: the message may be lost without anybody noticing.
    ///
    /// # Errors
    /// [`SendError`] when it was certainly not sent.
    pub async fn send_oneway(&self, message: &Message) -> Result<(), SendError> {
        let prepared = self.inner.prepare(message)?;
        let _running = self.inner.core.run();
        let _permit = self.inner.permit().await;
        let mut attempts = self.inner.core.attempts();
        let route = self.inner.writable(message.topic(), &mut attempts).await?;
        let prepared = prepared.on(&route);
        let queue = self.inner.next_queue(&route, None);
        let Some(addr) = self.inner.core.leaders.choose(&queue.broker_name, 0) else {
            let cause = Cause::NoAddress { broker_name: queue.broker_name.clone() };
            return Err(attempts.give_up(cause).into());
        };
        let mut request = self.inner.request(&prepared, queue);
        request.flag = ledgermq_protocol::remoting::command::FLAG_ONEWAY;
        let deadline = attempts.attempt_deadline(self.inner.core.config.attempt_timeout);
        let sent = self.inner.core.connections.oneway(&addr, request, deadline).await;
        sent.map_err(|error| SendError::Call(attempts.give_up(error.into())))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.core.membership.leave_producer(&self.config.group);
    }
}

impl<'a> Prepared<'a> {
    fn on(mut self, route: &Writable) -> Self {
        if route.is_template {
            self.template = AUTO_CREATE_TOPIC;
        }
        self
    }
}

/// A route with at least one queue to send to.
struct Writable {
    route: Arc<TopicRoute>,
    /// Whether the topic does not exist, and this is what it will have.
    is_template: bool,
}

impl std::ops::Deref for Writable {
    type Target = TopicRoute;

    fn deref(&self) -> &TopicRoute {
        &self.route
    }
}

impl Inner {
    async fn permit(&self) -> SemaphorePermit<'_> {
        self.in_flight.acquire().await.expect("the semaphore is never closed")
    }

    fn prepare<'a>(&self, message: &'a Message) -> Result<Prepared<'a>, MessageError> {
        let properties = message.check()?;
        let compress = self.config.compress_from.is_some_and(|from| message.body().len() >= from);
        let (body, sys_flag) = if compress {
            (zip(message.body()), sys_flag::COMPRESSED | ZLIB_TYPE)
        } else {
            (message.body().clone(), 0)
        };
        Ok(Prepared {
            code: RequestCode::SEND_MESSAGE_V2,
            topic: message.topic(),
            body,
            properties,
            unique_key: message.unique_key(),
            flag: message.flag(),
            sys_flag,
            born_timestamp_ms: now_ms(),
            template: "",
        })
    }

    fn prepare_batch<'a>(&self, messages: &'a [Message]) -> Result<Prepared<'a>, MessageError> {
        let Some(first) = messages.first().filter(|_| messages.len() <= MAX_BATCH_MESSAGES) else {
            return Err(MessageError::BatchSize { len: messages.len(), max: MAX_BATCH_MESSAGES });
        };
        let mut body = BytesMut::new();
        for message in messages {
            if message.topic() != first.topic() {
                let (first, other) = (first.topic().to_owned(), message.topic().to_owned());
                return Err(MessageError::BatchTopics { first, other });
            }
            let properties = message.check()?;
            encode_element(
                &BatchElement { flag: message.flag(), body: message.body(), properties: &properties },
                &mut body,
            );
            check_len("batch", body.len())?;
        }
        let mut properties = String::new();
        for (name, value) in [(name::UNIQ_KEY, first.unique_key()), (name::WAIT, "true")] {
            properties::push(&mut properties, name, value)
                .map_err(|error| MessageError::Property { name: name.to_owned(), error })?;
        }
        Ok(Prepared {
            code: RequestCode::SEND_BATCH_MESSAGE,
            topic: first.topic(),
            body: body.freeze(),
            properties,
            unique_key: first.unique_key(),
            flag: 0,
            sys_flag: 0,
            born_timestamp_ms: now_ms(),
            template: "",
        })
    }

    /// The route of a topic to send to, or what it will be once a broker has created it. Waits while name servers cannot be asked.
    async fn writable(&self, topic: &str, attempts: &mut Attempts) -> Result<Writable, CallError> {
        loop {
            let problem = match self.core.routes.route(topic, attempts.deadline()).await {
                Ok(route) => match Self::usable(route, false) {
                    Ok(writable) => return Ok(writable),
                    Err(problem) => return Err(CallError::NoRoute(problem)),
                },
                Err(problem @ RouteProblem::TopicNotExist(_)) if self.config.auto_create_topics => {
                    match self.core.routes.route(AUTO_CREATE_TOPIC, attempts.deadline()).await {
                        Ok(template) => {
                            let route = template.as_template_for(topic, self.config.auto_create_queue_nums);
                            return Self::usable(Arc::new(route), true).map_err(CallError::NoRoute);
                        }
                        // Nobody creates topics: what is missing is the topic.
                        Err(RouteProblem::TopicNotExist(_)) => return Err(CallError::NoRoute(problem)),
                        Err(other) => other,
                    }
                }
                Err(problem @ RouteProblem::TopicNotExist(_)) => return Err(CallError::NoRoute(problem)),
                Err(problem) => problem,
            };
            let pause = attempts.failed_with(Cause::NoRoute(problem), false)?;
            tokio::time::sleep(pause).await;
        }
    }

    fn usable(route: Arc<TopicRoute>, is_template: bool) -> Result<Writable, RouteProblem> {
        if route.write_queues().is_empty() {
            return Err(RouteProblem::NoQueue { topic: route.topic().to_owned(), to: "write" });
        }
        Ok(Writable { route, is_template })
    }

    /// The next queue in turn, of another broker name than `avoid` where there is one.
    fn next_queue<'r>(&self, route: &'r TopicRoute, avoid: Option<&str>) -> &'r MessageQueue {
        let queues = route.write_queues();
        let first = self.turn.fetch_add(1, Ordering::Relaxed);
        let in_turn = |step: usize| &queues[first.wrapping_add(step) % queues.len()];
        let other = (0..queues.len()).map(in_turn).find(|queue| Some(queue.broker_name.as_str()) != avoid);
        other.unwrap_or_else(|| in_turn(0))
    }

    fn order_lock(&self, queue: &MessageQueue) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.order.lock();
        if locks.len() >= ORDER_LOCKS_MAX {
            locks.retain(|_, lock| Arc::strong_count(lock) > 1);
        }
        Arc::clone(locks.entry(queue.clone()).or_default())
    }

    async fn send_anywhere(&self, prepared: Prepared<'_>) -> Result<SendReceipt, SendError> {
        let mut attempts = self.core.attempts();
        let mut failed_name: Option<String> = None;
        let mut route = self.writable(prepared.topic, &mut attempts).await?;
        let mut prepared = prepared.on(&route);
        loop {
            let queue = self.next_queue(&route, failed_name.as_deref()).clone();
            let names_differ = route.data().queue_datas.len() > 1;
            let receipt = self.attempt(&prepared, &queue, &mut attempts, names_differ).await?;
            if let Some(receipt) = receipt {
                return Ok(receipt);
            }
            failed_name = Some(queue.broker_name);
            // From memory, unless the topic was only a template yet.
            route = self.writable(prepared.topic, &mut attempts).await?;
            prepared.template = if route.is_template { AUTO_CREATE_TOPIC } else { "" };
        }
    }

    async fn send_pinned(
        &self,
        prepared: Prepared<'_>,
        queue: &MessageQueue,
        mut attempts: Attempts,
    ) -> Result<SendReceipt, SendError> {
        loop {
            if let Some(receipt) = self.attempt(&prepared, queue, &mut attempts, false).await? {
                return Ok(receipt);
            }
        }
    }

    /// One attempt; `None` when another one is to be made, after the pause that was due.
    async fn attempt(
        &self,
        prepared: &Prepared<'_>,
        queue: &MessageQueue,
        attempts: &mut Attempts,
        elsewhere: bool,
    ) -> Result<Option<SendReceipt>, CallError> {
        let ask = Ask {
            broker_name: &queue.broker_name,
            topic: Some(if prepared.template.is_empty() { prepared.topic } else { prepared.template }),
            timeout: self.core.config.attempt_timeout,
            is_read: false,
        };
        let request = self.request(prepared, queue);
        let failed = match self.core.attempt(&ask, request, attempts).await {
            Ok((addr, answer)) => match status(answer.code) {
                Some(status) => {
                    if !prepared.template.is_empty() {
                        self.core.routes.refresh(prepared.topic);
                    }
                    return receipt(status, addr, &answer, prepared, queue, attempts).map(Some);
                }
                None if retries(answer.code, elsewhere) => refused(addr, answer),
                None => {
                    let remark = answer.remark.unwrap_or_default();
                    let outcome_unknown = attempts.outcome_unknown();
                    return Err(CallError::Refused { addr, code: answer.code, remark, outcome_unknown });
                }
            },
            Err(failed) => failed,
        };
        self.core.pause(attempts, failed).await?;
        Ok(None)
    }

    fn request(&self, prepared: &Prepared<'_>, queue: &MessageQueue) -> RemotingCommand {
        let header = SendMessage {
            producer_group: &self.config.group,
            topic: prepared.topic,
            default_topic: AUTO_CREATE_TOPIC,
            default_topic_queue_nums: self.config.auto_create_queue_nums,
            queue_id: queue.queue_id,
            sys_flag: prepared.sys_flag,
            born_timestamp_ms: prepared.born_timestamp_ms,
            flag: prepared.flag,
            properties: Some(&prepared.properties),
            reconsume_times: Some(0),
            unit_mode: Some(false),
            batch: Some(prepared.code == RequestCode::SEND_BATCH_MESSAGE),
            max_reconsume_times: None,
            broker_name: Some(&queue.broker_name),
        };
        let mut request = RemotingCommand::request(prepared.code, 0).with_body(prepared.body.clone());
        request.ext = ExtFields::with_capacity(14, 256 + prepared.topic.len() + prepared.properties.len());
        header.to_ext(prepared.code, &mut request.ext);
        request
    }
}

fn status(code: i32) -> Option<SendStatus> {
    match code {
        ResponseCode::SUCCESS => Some(SendStatus::Ok),
        ResponseCode::FLUSH_DISK_TIMEOUT => Some(SendStatus::FlushDiskTimeout),
        ResponseCode::FLUSH_SLAVE_TIMEOUT => Some(SendStatus::FlushSlaveTimeout),
        ResponseCode::SLAVE_NOT_AVAILABLE => Some(SendStatus::SlaveNotAvailable),
        _ => None,
    }
}

/// Whether a refused send may succeed at another attempt. `elsewhere` says that it goes to another broker name then, where the
/// topic or the permission may be there.
fn retries(code: i32, elsewhere: bool) -> bool {
    match code {
        ResponseCode::SYSTEM_ERROR
        | ResponseCode::SYSTEM_BUSY
        | ResponseCode::NO_BUYER_ID
        | ResponseCode::NOT_IN_CURRENT_UNIT
        | ResponseCode::GO_AWAY => true,
        ResponseCode::NO_PERMISSION | ResponseCode::TOPIC_NOT_EXIST => elsewhere,
        _ => false,
    }
}

fn receipt(
    status: SendStatus,
    addr: String,
    answer: &RemotingCommand,
    prepared: &Prepared<'_>,
    queue: &MessageQueue,
    attempts: &Attempts,
) -> Result<SendReceipt, CallError> {
    let header: SendMessageResponse =
        answer.header().map_err(|error| CallError::Malformed { addr, why: error.to_string() })?;
    Ok(SendReceipt {
        status,
        queue: MessageQueue { queue_id: header.queue_id, ..queue.clone() },
        queue_offset: header.queue_offset,
        offset_id: header.msg_id,
        unique_key: prepared.unique_key.to_owned(),
        attempts: attempts.failed() + 1,
    })
}

/// The queue of a key: as the stock clients' selector by hash, so that they and we keep one order.
fn by_hash<'q>(queues: &'q [MessageQueue], key: &str) -> &'q MessageQueue {
    let hash = java_string_hash(key).unsigned_abs() as usize;
    &queues[hash % queues.len()]
}

fn zip(body: &[u8]) -> Bytes {
    let mut encoder = ZlibEncoder::new(Vec::new(), flate2::Compression::new(COMPRESSION_LEVEL));
    let packed = encoder.write_all(body).and_then(|()| encoder.finish());
    packed.expect("writing to memory cannot fail").into()
}

pub(crate) fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}

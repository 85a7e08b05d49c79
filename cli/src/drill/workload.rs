//! The sending side of a drill: many ordered keys at a time, each with one message under way.
//!
//! A key's next message leaves only when the one before it is acknowledged, through whatever failures; that is what makes
//! its order a promise. Every try is written to the history before it leaves and when it has ended.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use ledgermq_client::{Message, MessageQueue, Producer, SendReceipt, SendStatus};
use tokio::task::JoinSet;

use super::body;
use super::history::{Clock, Event, Identity, RecorderHandle};
use super::load::{Load, messages_of};

/// Pause before a message is tried again: short at first, since most fail-overs take part of a second.
const RETRY_PAUSE_MIN: Duration = Duration::from_millis(5);

/// Longest pause: what a try may come too late by.
const RETRY_PAUSE_MAX: Duration = Duration::from_millis(50);

/// Time after which a message that nobody acknowledges ends the drill.
const GIVE_UP_AFTER: Duration = Duration::from_secs(60);

/// What the senders of a drill share.
pub(crate) struct Workload {
    /// Run id.
    pub(crate) run: u64,
    /// Topic.
    pub(crate) topic: String,
    /// The queues, numbered by their place here.
    pub(crate) queues: Vec<MessageQueue>,
    /// Ordered keys.
    pub(crate) keys: u32,
    /// Messages over all keys.
    pub(crate) messages: u64,
    /// Bytes of a body.
    pub(crate) size: usize,
    /// A producer that makes one attempt per send: each is recorded, so that copies can be accounted for.
    pub(crate) producer: Producer,
    /// The drill's clock.
    pub(crate) clock: Clock,
    /// How far it has come, and how much may be sent: the fault script keeps some back, so that there is load when it strikes.
    pub(crate) load: Arc<Load>,
}

impl Workload {
    /// Sends everything. Returns when the last message is acknowledged.
    pub(crate) async fn send_all(self, history: RecorderHandle<Event>) -> Result<()> {
        let shared = Arc::new(self);
        let mut senders = JoinSet::new();
        for key in 0..shared.keys {
            let sender = Sender { shared: Arc::clone(&shared), history: history.clone(), key };
            senders.spawn(sender.run());
        }
        drop(history);
        while let Some(ended) = senders.join_next().await {
            // The first one that gives up ends all: dropping the set aborts the others.
            ended.context("a sender was lost")??;
        }
        Ok(())
    }
}

struct Sender {
    shared: Arc<Workload>,
    history: RecorderHandle<Event>,
    key: u32,
}

impl Sender {
    async fn run(self) -> Result<()> {
        let queue_index = self.key as usize % self.shared.queues.len();
        let numbers: HashMap<&MessageQueue, u32> = self.shared.queues.iter().zip(0..).collect();
        let queue = &self.shared.queues[queue_index];
        let load = &self.shared.load;
        let part = load.part(&queue.broker_name).context("a queue of a broker name without messages")?;
        for seq in 0..messages_of(self.key, self.shared.keys, self.shared.messages) {
            ensure!(part.may_send().await, "the drill was stopped");
            self.send_one(seq, queue, &numbers).await?;
            load.count(part);
        }
        Ok(())
    }

    /// Tries until the message is acknowledged. The same message each time, its unique key included.
    async fn send_one(&self, seq: u64, queue: &MessageQueue, numbers: &HashMap<&MessageQueue, u32>) -> Result<()> {
        let (run, key) = (self.shared.run, self.key);
        let message =
            Message::new(self.shared.topic.clone(), body::encode(Identity { run, key, seq }, self.shared.size));
        let began = Instant::now();
        let mut pause = RETRY_PAUSE_MIN;
        for attempt in 0.. {
            let at_ns = self.shared.clock.now_ns();
            self.history.record(Event::Invoke { run, at_ns, key, seq, attempt, queue: numbers[queue] }).await?;
            let sent = self.shared.producer.send_to(&message, queue).await;
            let at_ns = self.shared.clock.now_ns();
            let error = match sent {
                Ok(receipt) if receipt.status == SendStatus::Ok => {
                    return self.acknowledged(seq, attempt, at_ns, receipt, numbers).await;
                }
                Ok(receipt) => {
                    let error = format!("stored, but not as promised: {:?}", receipt.status);
                    self.history.record(Event::Info { run, at_ns, key, seq, attempt, error: error.clone() }).await?;
                    error
                }
                Err(error) if error.outcome_unknown() => {
                    let error = error.to_string();
                    self.history.record(Event::Info { run, at_ns, key, seq, attempt, error: error.clone() }).await?;
                    error
                }
                Err(error) => {
                    let error = error.to_string();
                    self.history.record(Event::Fail { run, at_ns, key, seq, attempt, error: error.clone() }).await?;
                    error
                }
            };
            if began.elapsed() > GIVE_UP_AFTER {
                bail!("key {key} seq {seq} was not acknowledged within {} s: {error}", GIVE_UP_AFTER.as_secs());
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_PAUSE_MAX);
        }
        unreachable!("the tries end by acknowledgement or by giving up")
    }

    async fn acknowledged(
        &self,
        seq: u64,
        attempt: u32,
        at_ns: u64,
        receipt: SendReceipt,
        numbers: &HashMap<&MessageQueue, u32>,
    ) -> Result<()> {
        let (run, key) = (self.shared.run, self.key);
        let Some(queue) = numbers.get(&receipt.queue) else {
            bail!("key {key} seq {seq} was acknowledged in {:?}, which is no queue of the topic", receipt.queue);
        };
        let queue_offset = u64::try_from(receipt.queue_offset)
            .with_context(|| format!("key {key} seq {seq} was acknowledged at offset {}", receipt.queue_offset))?;
        let msg_id = receipt.offset_id;
        self.history.record(Event::Ok { run, at_ns, key, seq, attempt, queue: *queue, queue_offset, msg_id }).await
    }
}

//! The messages of one queue that are held here: pulled and waiting, with a listener, or to come again. Without I/O and without a
//! clock of its own.
//!
//! A message leaves when it is consumed. The lowest offset that is left is what may be committed: everything below it is done.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use ledgermq_protocol::json::object_map::MessageQueue;
use tokio::time::Instant;

use super::config::PushConsumerConfig;
use super::listener::Delivery;
use crate::message::ReceivedMessage;

/// Doublings after which the delay of a message that comes again would pass any bound.
const DOUBLINGS_MAX: u32 = 30;

/// How much is held, and how long it waits.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    messages_max: usize,
    bytes_max: usize,
    span_max: i64,
    pull_batch: usize,
    /// A message that is to come again comes before all behind it.
    ordered: bool,
    retry_delay_min: Duration,
    retry_delay_max: Duration,
}

/// The messages, by their place in the queue.
#[derive(Debug)]
pub(super) struct ProcessQueue {
    queue: Arc<MessageQueue>,
    bounds: Bounds,
    /// First offset that was not pulled yet.
    next_pull: i64,
    /// All that is held. Each offset is in `ready`, in `again`, or with a listener.
    unfinished: BTreeMap<i64, Held>,
    /// Not given to a listener yet, in queue order.
    ready: VecDeque<i64>,
    /// To come again, each not before its time.
    again: BTreeSet<(Instant, i64)>,
    /// Weight of all that is held.
    bytes: usize,
}

#[derive(Debug)]
struct Held {
    message: Arc<ReceivedMessage>,
    /// How often it was given to a listener.
    attempts: u32,
}

impl ProcessQueue {
    pub(super) fn new(queue: MessageQueue, config: &PushConsumerConfig) -> Self {
        let bounds = Bounds {
            messages_max: config.buffer_messages_max,
            bytes_max: config.buffer_bytes_max,
            span_max: i64::from(config.span_max),
            pull_batch: config.pull_batch as usize,
            ordered: config.ordered,
            retry_delay_min: config.retry_delay_min,
            retry_delay_max: config.retry_delay_max,
        };
        Self {
            queue: Arc::new(queue),
            bounds,
            next_pull: 0,
            unfinished: BTreeMap::new(),
            ready: VecDeque::new(),
            again: BTreeSet::new(),
            bytes: 0,
        }
    }

    /// Goes on at another place. Nothing is held then: it would lie on the wrong side.
    pub(super) fn jump(&mut self, offset: i64) {
        assert!(self.is_empty(), "messages are held while the queue jumps");
        self.next_pull = offset.max(0);
    }

    /// Whether nothing is held.
    pub(super) fn is_empty(&self) -> bool {
        self.unfinished.is_empty()
    }

    /// First offset to pull.
    pub(super) fn next_pull(&self) -> i64 {
        self.next_pull
    }

    /// How many messages to pull now; 0 while a bound is reached.
    pub(super) fn room(&self) -> usize {
        let span = self.next_pull - self.lowest_unfinished();
        if self.bytes >= self.bounds.bytes_max || span >= self.bounds.span_max {
            return 0;
        }
        self.bounds.messages_max.saturating_sub(self.unfinished.len()).min(self.bounds.pull_batch)
    }

    /// Takes what a pull brought. `next_offset` is where the next one goes on.
    pub(super) fn put(&mut self, messages: Vec<ReceivedMessage>, next_offset: i64) {
        for message in messages {
            let offset = message.queue_offset();
            // What lies before was pulled already: a broker that repeats itself must not make it come twice.
            if offset < self.next_pull {
                continue;
            }
            self.next_pull = offset.saturating_add(1);
            self.bytes += message.weight();
            self.ready.push_back(offset);
            self.unfinished.insert(offset, Held { message: Arc::new(message), attempts: 0 });
        }
        self.next_pull = self.next_pull.max(next_offset);
    }

    /// Whether a message can be given to a listener now.
    pub(super) fn can_start(&self, now: Instant) -> bool {
        match self.again.first() {
            Some((due, _)) if *due <= now => true,
            Some(_) if self.bounds.ordered => false,
            _ => !self.ready.is_empty(),
        }
    }

    /// The next message for a listener: one whose time to come again is there, else the next in the queue.
    pub(super) fn start(&mut self, now: Instant) -> Option<Delivery> {
        let offset = match self.again.first() {
            Some(&(due, offset)) if due <= now => {
                self.again.pop_first();
                offset
            }
            Some(_) if self.bounds.ordered => return None,
            _ => self.ready.pop_front()?,
        };
        let held = self.unfinished.get_mut(&offset).expect("a message that waits is held");
        held.attempts = held.attempts.saturating_add(1);
        Some(Delivery { queue: Arc::clone(&self.queue), message: Arc::clone(&held.message), attempt: held.attempts })
    }

    /// A message is done with.
    pub(super) fn finish(&mut self, offset: i64) {
        let held = self.unfinished.remove(&offset).expect("a message that a listener has is held");
        self.bytes -= held.message.weight();
    }

    /// A message is to come again.
    pub(super) fn retry(&mut self, offset: i64, now: Instant) {
        let held = self.unfinished.get_mut(&offset).expect("a message that a listener has is held");
        if held.attempts == 1 {
            // It may wait for long: it must not keep the whole answer in memory.
            held.message = Arc::new(held.message.detached());
        }
        let doublings = held.attempts.saturating_sub(1).min(DOUBLINGS_MAX);
        let delay = self.bounds.retry_delay_min.saturating_mul(1 << doublings).min(self.bounds.retry_delay_max);
        self.again.insert((now + delay, offset));
    }

    /// When the next message comes again.
    pub(super) fn next_again(&self) -> Option<Instant> {
        self.again.first().map(|(due, _)| *due)
    }

    /// The next offset to consume, for a commit: everything below it is done.
    pub(super) fn lowest_unfinished(&self) -> i64 {
        self.unfinished.first_key_value().map_or(self.next_pull, |(offset, _)| *offset)
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use ledgermq_protocol::message::record::{self, Message, RecordRef};

    use super::*;

    fn message(queue_offset: i64, len: usize) -> ReceivedMessage {
        let mut record = BytesMut::new();
        let message = Message {
            topic: "T",
            queue_id: 0,
            flag: 0,
            sys_flag: 0,
            born_timestamp_ms: 1,
            born_host: "127.0.0.1:1".parse().unwrap(),
            store_host: "127.0.0.1:2".parse().unwrap(),
            reconsume_times: 0,
            prepared_transaction_offset: 0,
            body: &vec![b'x'; len],
            properties: "",
        };
        record::encode(&message, &mut record).unwrap();
        record::patch(&mut record, queue_offset, 0, 1);
        let bytes = record.freeze();
        ReceivedMessage::new(&RecordRef::decode(&bytes).unwrap(), &bytes)
    }

    fn queue(change: impl FnOnce(&mut PushConsumerConfig)) -> ProcessQueue {
        let mut config = PushConsumerConfig::new("CG");
        change(&mut config);
        let queue = MessageQueue { broker_name: "broker-a".to_owned(), queue_id: 0, topic: "T".to_owned() };
        ProcessQueue::new(queue, &config)
    }

    fn put(queue: &mut ProcessQueue, offsets: impl IntoIterator<Item = i64>, next_offset: i64) {
        queue.put(offsets.into_iter().map(|offset| message(offset, 10)).collect(), next_offset);
    }

    fn start(queue: &mut ProcessQueue, now: Instant) -> Option<(i64, u32)> {
        queue.start(now).map(|delivery| (delivery.queue_offset(), delivery.attempt()))
    }

    /// A commit above a message that is not done loses it when this member dies.
    #[tokio::test(start_paused = true)]
    async fn the_lowest_unfinished_offset_is_what_is_committed() {
        let now = Instant::now();
        let mut queue = queue(|_| {});
        queue.jump(5);
        assert_eq!(queue.lowest_unfinished(), 5);
        // 7 and 10 to 12 did not match the tags.
        put(&mut queue, [5, 6, 8, 9], 13);
        while start(&mut queue, now).is_some() {}
        queue.finish(6);
        queue.finish(9);
        assert_eq!(queue.lowest_unfinished(), 5);
        queue.finish(5);
        assert_eq!(queue.lowest_unfinished(), 8);
        queue.retry(8, now);
        assert_eq!(queue.lowest_unfinished(), 8, "what comes again is not done");
        assert_eq!(start(&mut queue, now + Duration::from_secs(1)), Some((8, 2)));
        queue.finish(8);
        assert_eq!((queue.lowest_unfinished(), queue.bytes), (13, 0));
        assert!(queue.is_empty());
    }

    /// Messages must come in queue order, and those that come again not before their time, with a delay that grows to its bound.
    #[tokio::test(start_paused = true)]
    async fn messages_come_in_order_and_again_after_growing_delays() {
        let begin = Instant::now();
        let (min, max) = (Duration::from_millis(100), Duration::from_millis(350));
        let mut queue = queue(|config| (config.retry_delay_min, config.retry_delay_max) = (min, max));
        put(&mut queue, 0..3, 3);
        assert_eq!(start(&mut queue, begin), Some((0, 1)));
        queue.retry(0, begin);
        assert_eq!(start(&mut queue, begin + min), Some((0, 2)), "before what is new");
        queue.retry(0, begin);
        assert_eq!(start(&mut queue, begin + min), Some((1, 1)), "others go on meanwhile");
        assert_eq!(start(&mut queue, begin + min), Some((2, 1)));
        assert!(!queue.can_start(begin + min * 2 - Duration::from_millis(1)));
        assert_eq!(queue.next_again(), Some(begin + min * 2));
        for attempt in 3..50 {
            assert_eq!(start(&mut queue, begin + max), Some((0, attempt)));
            queue.retry(0, begin);
            assert_eq!(queue.next_again(), Some(begin + max));
        }
    }

    /// Where order counts, what comes again must come before what is behind it.
    #[tokio::test(start_paused = true)]
    async fn what_comes_again_holds_up_an_ordered_queue() {
        let now = Instant::now();
        let mut queue = queue(|config| config.ordered = true);
        put(&mut queue, 0..2, 2);
        assert_eq!(start(&mut queue, now), Some((0, 1)));
        queue.retry(0, now);
        assert!(!queue.can_start(now));
        assert_eq!(start(&mut queue, now), None);
        let later = now + Duration::from_secs(1);
        assert!(queue.can_start(later));
        assert_eq!(start(&mut queue, later), Some((0, 2)));
        queue.finish(0);
        assert_eq!(start(&mut queue, later), Some((1, 1)));
    }

    /// Pulling must end at each bound and go on below it: a listener that is slow must not fill the memory.
    #[tokio::test(start_paused = true)]
    async fn each_bound_ends_the_pulling() {
        let now = Instant::now();
        let mut messages = queue(|config| config.buffer_messages_max = 40);
        assert_eq!(messages.room(), 32);
        put(&mut messages, 0..32, 32);
        assert_eq!(messages.room(), 8);
        put(&mut messages, 32..40, 40);
        assert_eq!(messages.room(), 0);
        start(&mut messages, now);
        messages.finish(0);
        assert_eq!(messages.room(), 1);

        let mut bytes = queue(|config| config.buffer_bytes_max = 1_000);
        bytes.put(vec![message(0, 2_000)], 1);
        assert_eq!(bytes.room(), 0);
        start(&mut bytes, now);
        bytes.finish(0);
        assert_eq!(bytes.room(), 32);

        let mut span = queue(|config| config.span_max = 10);
        put(&mut span, [0, 8], 9);
        assert!(span.room() > 0);
        put(&mut span, [9], 10);
        start(&mut span, now);
        start(&mut span, now);
        span.finish(8);
        assert_eq!(span.room(), 0, "one message that stays holds all back");
        span.finish(0);
        assert!(span.room() > 0);
    }

    /// A broker that answers nonsense must not make messages come twice, go back, or end this process.
    #[test]
    fn nonsense_of_a_broker_changes_nothing() {
        let mut queue = queue(|_| {});
        queue.jump(10);
        put(&mut queue, [12, 11, 12, 3], 0);
        assert_eq!((queue.ready.len(), queue.next_pull()), (1, 13));
        put(&mut queue, [i64::MAX], 0);
        assert_eq!(queue.next_pull(), i64::MAX);
    }
}

//! Settings of a push consumer.

use std::time::Duration;

use ledgermq_protocol::heartbeat::{ConsumeFromWhere, MessageModel};
use ledgermq_protocol::names;

use crate::config::range;
use crate::consumer::filter::Filter;
use crate::error::ConfigError;

/// Most topics of one consumer, as brokers bound it (its retry topic is one more).
const SUBSCRIPTIONS_MAX: usize = 4_095;

/// The key of subscriptions in errors.
pub(super) const SUBSCRIPTIONS: &str = "subscriptions";

/// A topic and what is wanted of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// Topic.
    pub topic: String,
    /// Which of its messages.
    pub filter: Filter,
}

/// How the members of a group divide the work.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ConsumeMode {
    /// They share the queues: each message goes to one member. Brokers keep how far the group got.
    #[default]
    Clustering,
    /// Each member gets every message. How far it got is kept in memory alone: a consumer that is started anew begins where
    /// [`StartAt`] says.
    Broadcasting,
}

/// Where a group begins in a queue for which it has no offset yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum StartAt {
    /// With what comes from now on. Brokers let groups of the clustering mode begin at the first message of a young queue all
    /// the same, so that the first messages of a new topic are not skipped.
    #[default]
    End,
    /// With the first message.
    Begin,
    /// With the first message that was stored at this time or later, ms since 1970.
    Time(i64),
}

/// Settings of a push consumer. All members of a group must have the same group, subscriptions and mode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushConsumerConfig {
    /// Consumer group, 1 to 120 of `%|a-zA-Z0-9_-`. A client can be in it once.
    pub group: String,
    /// What it consumes; 1 to 4,095 different topics. A topic that does not exist yet is consumed from when it does.
    pub subscriptions: Vec<Subscription>,
    /// How members divide the work. Default clustering.
    pub mode: ConsumeMode,
    /// Where to begin without an offset. Default at the end.
    pub start_at: StartAt,
    /// Listeners that may be at work at the same time, over all queues. Default 64; 1 to 65,536.
    pub concurrency: usize,
    /// Whether messages of a queue are given to listeners strictly in order: one at a time, and one that is to come again before
    /// all behind it. In clustering mode the member then locks each queue at its broker, so that two members never consume one
    /// queue at the same time, also while queues move; a broker must know locks for that. A member that cannot renew a lock for
    /// 30 s is given no further message of the queue; a listener that is at work then is not interrupted. Default false.
    pub ordered: bool,
    /// Listeners that may be at work on one queue, where not [`Self::ordered`]. With 1, messages of a queue are listened to one after the other in their
    /// order, apart from those that come again after [`Verdict::Later`](crate::Verdict::Later). Default 16; 1 to 65,536.
    pub concurrency_per_queue: usize,
    /// Messages of one queue that are held here, waiting or at work; pulling waits above it. Default 1,000; 1 to 100,000. One
    /// answer of a broker may pass it.
    pub buffer_messages_max: usize,
    /// Bytes of one queue's messages that are held here. Default 8 MiB; 1 byte to 1 GiB. One answer may pass it.
    pub buffer_bytes_max: usize,
    /// How far pulling may be ahead of the first message that is not consumed yet, in offsets: that much may come again when a
    /// member dies. Default 2,000; 1 to 1,000,000.
    pub span_max: u32,
    /// Messages asked for at a time. Default 32; 1 to 1,024.
    pub pull_batch: u32,
    /// How long brokers hold a pull until a message comes. Default 15 s; 0 to 60 s.
    pub pull_wait: Duration,
    /// How often members and routes are looked at anyway; changes that brokers and name servers tell count at once. Default
    /// 20 s; 100 ms to 1 h.
    pub rebalance_interval: Duration,
    /// How often offsets are committed. Default 5 s; 10 ms to 1 h.
    pub commit_interval: Duration,
    /// Delay before a message comes again for the first time. Default 1 s; 1 ms to 1 h.
    pub retry_delay_min: Duration,
    /// Longest such delay. Default 1 min; 1 ms to 1 h, not below the shortest.
    pub retry_delay_max: Duration,
}

impl PushConsumerConfig {
    /// The defaults for a group, without a subscription.
    pub fn new(group: impl Into<String>) -> Self {
        Self {
            group: group.into(),
            subscriptions: Vec::new(),
            mode: ConsumeMode::Clustering,
            start_at: StartAt::End,
            concurrency: 64,
            ordered: false,
            concurrency_per_queue: 16,
            buffer_messages_max: 1_000,
            buffer_bytes_max: 8 << 20,
            span_max: 2_000,
            pull_batch: 32,
            pull_wait: Duration::from_secs(15),
            rebalance_interval: Duration::from_secs(20),
            commit_interval: Duration::from_secs(5),
            retry_delay_min: Duration::from_secs(1),
            retry_delay_max: Duration::from_secs(60),
        }
    }

    /// Adds a topic, with `*` for all of its messages or tags separated by `||`.
    pub fn with_subscription(self, topic: impl Into<String>, tags: impl Into<String>) -> Self {
        self.with_filtered(topic, Filter::Tags(tags.into()))
    }

    /// Adds a topic, of whose messages the filter is for some.
    pub fn with_filtered(mut self, topic: impl Into<String>, filter: Filter) -> Self {
        self.subscriptions.push(Subscription { topic: topic.into(), filter });
        self
    }

    /// Sets [`Self::mode`].
    pub fn with_mode(mut self, mode: ConsumeMode) -> Self {
        self.mode = mode;
        self
    }

    /// Sets [`Self::start_at`].
    pub fn with_start_at(mut self, start_at: StartAt) -> Self {
        self.start_at = start_at;
        self
    }

    /// Sets [`Self::concurrency`].
    pub fn with_concurrency(mut self, concurrency: usize) -> Self {
        self.concurrency = concurrency;
        self
    }

    /// Sets [`Self::ordered`].
    pub fn with_ordered(mut self, ordered: bool) -> Self {
        self.ordered = ordered;
        self
    }

    /// Sets [`Self::concurrency_per_queue`].
    pub fn with_concurrency_per_queue(mut self, concurrency: usize) -> Self {
        self.concurrency_per_queue = concurrency;
        self
    }

    /// Sets [`Self::commit_interval`].
    pub fn with_commit_interval(mut self, interval: Duration) -> Self {
        self.commit_interval = interval;
        self
    }

    /// Sets [`Self::retry_delay_min`] and [`Self::retry_delay_max`].
    pub fn with_retry_delays(mut self, min: Duration, max: Duration) -> Self {
        self.retry_delay_min = min;
        self.retry_delay_max = max;
        self
    }

    /// Listeners that may be at work on one queue.
    pub(super) fn listeners_per_queue(&self) -> usize {
        if self.ordered { 1 } else { self.concurrency_per_queue }
    }

    /// Whether queues are locked.
    pub(super) fn locks(&self) -> bool {
        self.ordered && self.mode == ConsumeMode::Clustering
    }

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        names::check_group(&self.group)?;
        if self.subscriptions.is_empty() || self.subscriptions.len() > SUBSCRIPTIONS_MAX {
            let value = format!("a list of {}", self.subscriptions.len());
            return Err(ConfigError::Value { key: "subscriptions", value, mend: "give 1 to 4,095 topics" });
        }
        for (n, subscription) in self.subscriptions.iter().enumerate() {
            let value = subscription.topic.clone();
            if let Err(error) = names::check_topic(&value) {
                let value = format!("{value:?} ({error})");
                return Err(ConfigError::Value { key: "subscriptions", value, mend: "give the name of a topic" });
            }
            if self.subscriptions[..n].iter().any(|earlier| earlier.topic == value) {
                return Err(ConfigError::Value { key: "subscriptions", value, mend: "give each topic once" });
            }
            subscription.filter.tags(SUBSCRIPTIONS)?;
        }
        count("concurrency", self.concurrency, 65_536, "give 1 to 65,536")?;
        count("concurrency_per_queue", self.concurrency_per_queue, 65_536, "give 1 to 65,536")?;
        count("buffer_messages_max", self.buffer_messages_max, 100_000, "give 1 to 100,000")?;
        count("buffer_bytes_max", self.buffer_bytes_max, 1 << 30, "give 1 byte to 1 GiB")?;
        count("span_max", self.span_max as usize, 1_000_000, "give 1 to 1,000,000")?;
        count("pull_batch", self.pull_batch as usize, 1_024, "give 1 to 1,024")?;
        let (ms, hour) = (Duration::from_millis, Duration::from_secs(3600));
        range("pull_wait", self.pull_wait, Duration::ZERO, ms(60_000), "give 0 to 60 s")?;
        range("rebalance_interval", self.rebalance_interval, ms(100), hour, "give 100 ms to 1 h")?;
        range("commit_interval", self.commit_interval, ms(10), hour, "give 10 ms to 1 h")?;
        range("retry_delay_min", self.retry_delay_min, ms(1), hour, "give 1 ms to 1 h")?;
        let mend = "give at least retry_delay_min, and at most 1 h";
        range("retry_delay_max", self.retry_delay_max, self.retry_delay_min, hour, mend)
    }
}

impl ConsumeMode {
    pub(super) fn on_the_wire(self) -> MessageModel {
        match self {
            Self::Clustering => MessageModel::Clustering,
            Self::Broadcasting => MessageModel::Broadcasting,
        }
    }
}

impl StartAt {
    pub(super) fn on_the_wire(self) -> ConsumeFromWhere {
        match self {
            Self::End => ConsumeFromWhere::LastOffset,
            Self::Begin => ConsumeFromWhere::FirstOffset,
            Self::Time(_) => ConsumeFromWhere::Timestamp,
        }
    }
}

fn count(key: &'static str, value: usize, max: usize, mend: &'static str) -> Result<(), ConfigError> {
    if !(1..=max).contains(&value) {
        return Err(ConfigError::Value { key, value: value.to_string(), mend });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A config that cannot work must be told when it is given, by the name of its field.
    #[test]
    fn bad_values_are_named() {
        let good = || PushConsumerConfig::new("CG").with_subscription("T", "*");
        good().validate().unwrap();
        let bad: [(&str, PushConsumerConfig); 10] = [
            ("subscriptions", PushConsumerConfig::new("CG")),
            ("subscriptions", good().with_subscription("T", "a")),
            ("subscriptions", good().with_subscription("bad topic", "*")),
            ("subscriptions", good().with_subscription("U", " || ")),
            ("subscriptions", good().with_filtered("U", Filter::Sql(" ".to_owned()))),
            ("concurrency", good().with_concurrency(0)),
            ("concurrency_per_queue", good().with_concurrency_per_queue(100_000)),
            ("commit_interval", good().with_commit_interval(Duration::ZERO)),
            ("retry_delay_max", good().with_retry_delays(Duration::from_secs(2), Duration::from_secs(1))),
            ("span_max", PushConsumerConfig { span_max: 0, ..good() }),
        ];
        for (name, config) in bad {
            let error = config.validate().unwrap_err();
            assert!(matches!(error, ConfigError::Value { key, .. } if key == name), "{name}: {error}");
        }
        assert!(matches!(PushConsumerConfig::new("a b").validate(), Err(ConfigError::Group(_))));
    }
}

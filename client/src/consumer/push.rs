//! Push consumer: member of a group. It shares the queues of its topics with the other members, pulls ahead, and hands every
//! message to a listener at least once.
//!
//! ```text
//! rebalance: which queues are ours   <-- members of the group, routes, notices of brokers
//!     |  starts and stops
//!     v
//! dispatch, one task a queue:  long poll --> process queue --> listener
//!                                                |
//!                                                +--> offsets: how far it got
//! ```

mod allocation;
mod config;
mod dispatch;
mod listener;
mod lock;
mod offsets;
mod process_queue;
mod rebalance;

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use ledgermq_protocol::heartbeat::ConsumerData;
use ledgermq_protocol::json::object_map::MessageQueue;
use ledgermq_protocol::names;
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::Instant;

use self::offsets::OffsetStore;
use self::rebalance::Rebalance;
use crate::consumer::filter::Filter;
use crate::consumer::pull::{PullConsumer, PullConsumerConfig};
use crate::core::Core;
use crate::error::ConfigError;
use crate::producer::now_ms;

pub use self::config::{ConsumeMode, PushConsumerConfig, StartAt, Subscription};
pub use self::listener::{Delivery, Verdict};

/// Consumes for a group until it is shut down, or until its last clone is dropped.
///
/// Every message of the subscribed topics is given to a listener of the group at least once. More than once when a listener
/// answers [`Verdict::Later`] or panics, when a member of the group dies, and when queues move between members.
///
/// Dropping the last clone stops it as [`Self::shutdown`] without any grace does, in the background.
#[derive(Debug, Clone)]
pub struct PushConsumer {
    running: Arc<Running>,
}

#[derive(Debug)]
struct Running {
    /// Until when listeners in hand may go on, once the end is asked for.
    ending: watch::Sender<Option<Instant>>,
    /// The queues of now. Its sender goes when the consumer has ended.
    assignment: watch::Receiver<Vec<MessageQueue>>,
}

/// What the tasks of one consumer share.
struct Shared {
    core: Arc<Core>,
    config: PushConsumerConfig,
    /// One for each topic, with its filter.
    pullers: HashMap<String, PullConsumer>,
    offsets: OffsetStore,
    listener: listener::Listener,
    /// A permit for each listener at work.
    slots: Arc<Semaphore>,
    /// Asks for a rebalance.
    wake: Arc<Notify>,
}

impl PushConsumer {
    pub(crate) fn start<F, Fut>(core: Arc<Core>, config: PushConsumerConfig, listener: F) -> Result<Self, ConfigError>
    where
        F: Fn(Delivery) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Verdict> + Send + 'static,
    {
        config.validate()?;
        let runtime = Handle::try_current().map_err(|_| ConfigError::NoRuntime)?;
        let mut subscriptions = config.subscriptions.clone();
        if config.mode == ConsumeMode::Clustering {
            // Where members of the group put messages that they could not consume. All members must subscribe to the same.
            subscriptions.push(Subscription { topic: names::retry_topic(&config.group), filter: Filter::all() });
        }
        let mut pullers = HashMap::new();
        let mut told = Vec::new();
        for subscription in subscriptions {
            told.push(subscription.filter.subscription(config::SUBSCRIPTIONS, &subscription.topic, now_ms())?);
            let pulls = PullConsumerConfig::new(&config.group).with_filter(subscription.filter);
            pullers.insert(subscription.topic, PullConsumer::new(Arc::clone(&core), pulls)?);
        }
        let data = ConsumerData {
            consume_from_where: config.start_at.on_the_wire(),
            group_name: config.group.clone(),
            message_model: config.mode.on_the_wire(),
            subscription_data_set: told,
            ..ConsumerData::default()
        };
        if !core.membership.join_consumer(data) {
            return Err(ConfigError::GroupInUse(config.group));
        }
        let wake = Arc::new(Notify::new());
        core.inbound.watch_group(&config.group, Arc::clone(&wake));
        let shared = Arc::new(Shared {
            offsets: OffsetStore::new(config.mode),
            listener: listener::boxed(listener),
            slots: Arc::new(Semaphore::new(config.concurrency)),
            core,
            config,
            pullers,
            wake,
        });
        let (ending, end) = watch::channel(None);
        let (assigned, assignment) = watch::channel(Vec::new());
        runtime.spawn(Rebalance::new(shared, assigned).run(end));
        Ok(Self { running: Arc::new(Running { ending, assignment }) })
    }

    /// The queues that this member consumes now, sorted. Ends (an error of the receiver) when the consumer has ended.
    pub fn assignment(&self) -> watch::Receiver<Vec<MessageQueue>> {
        self.running.assignment.clone()
    }

    /// Ends in peace: pulls no more, waits at most `grace` for the listeners that are at work, commits how far each queue got,
    /// leaves the group, and returns once no task is left. What was pulled and not yet given to a listener stays for the next
    /// member. A listener that is not done by then is cut off at its next `await`; its message will come again.
    ///
    /// Cancel safe: when this future is dropped, the consumer ends all the same. Calling it again waits for the same end, the
    /// shorter grace counts.
    pub async fn shutdown(&self, grace: Duration) {
        self.running.end(Instant::now() + grace);
        let mut assignment = self.assignment();
        while assignment.changed().await.is_ok() {}
    }
}

impl Running {
    fn end(&self, until: Instant) {
        self.ending.send_if_modified(|ending| {
            let sooner = ending.is_none_or(|held| until < held);
            if sooner {
                *ending = Some(until);
            }
            sooner
        });
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end(Instant::now());
    }
}

//! One queue of a push consumer: pulls into its process queue, gives messages to the listener, and keeps how far it got.
//!
//! One task owns all of it. Its pull, its wait for a free listener and its commit go on side by side, each at most once; every
//! listener at work is a task of its own, so that a panic in it ends nothing else.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use ledgermq_protocol::json::object_map::MessageQueue;
use ledgermq_protocol::names;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::Shared;
use super::listener::Verdict;
use super::lock::{self, Granted, QueueLock};
use super::process_queue::ProcessQueue;
use crate::consumer::pull::{PullConsumer, PullResult, PullStatus};
use crate::error::{CallError, PullError};

/// Pause after a pull, or a question for the start, that failed after all its retries.
const ERROR_PAUSE: Duration = Duration::from_secs(1);

/// Shortest time of a pull that brings nothing: some brokers answer at once instead of holding it.
const EMPTY_PULL_MIN: Duration = Duration::from_millis(50);

/// Longest wait for the last commit of a queue.
const LAST_COMMIT_MAX: Duration = Duration::from_secs(3);

/// Longest wait for a lock to be given back.
const UNLOCK_MAX: Duration = Duration::from_secs(1);

/// Longer than anything here waits.
const FAR_AWAY: Duration = Duration::from_secs(3600);

/// Whether a queue is to be given up, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// It is ours.
    No,
    /// Another member has it now. Listeners at work may finish.
    HandOver,
    /// Another member may have it now, since its lock is lost.
    LockLost,
    /// The consumer ends. Listeners at work have until then.
    Shutdown(Instant),
}

/// Something under way that the task comes back to.
type Armed<T> = Option<Pin<Box<dyn Future<Output = T> + Send>>>;

/// A queue that is consumed.
pub(super) struct Dispatch {
    shared: Arc<Shared>,
    queue: MessageQueue,
    puller: PullConsumer,
    process_queue: ProcessQueue,
    /// What was kept last; `None` before the first commit.
    kept: Option<i64>,
    pulling: Armed<Result<PullResult, PullError>>,
    /// No pull begins before.
    pull_at: Instant,
    /// Where the queue goes on once nothing of it is held: the broker has nothing at the place that was asked for.
    jump: Option<i64>,
    slot: Armed<OwnedSemaphorePermit>,
    committing: Armed<(i64, Result<(), CallError>)>,
    /// Where order counts across members.
    lock: Option<QueueLock>,
    locking: Armed<Granted>,
    listening: JoinSet<Verdict>,
    /// The message of each listener at work.
    in_hand: HashMap<Id, i64>,
}

impl Dispatch {
    pub(super) fn new(shared: Arc<Shared>, queue: MessageQueue) -> Self {
        let puller = shared.pullers[&queue.topic].clone();
        let process_queue = ProcessQueue::new(queue.clone(), &shared.config);
        let lock = shared.config.locks().then(QueueLock::new);
        Self {
            shared,
            queue,
            puller,
            process_queue,
            kept: None,
            pulling: None,
            pull_at: Instant::now(),
            jump: None,
            slot: None,
            committing: None,
            lock,
            locking: None,
            listening: JoinSet::new(),
            in_hand: HashMap::new(),
        }
    }

    /// Consumes until `stop` says otherwise, or its sender is gone, or the lock of the queue is lost.
    pub(super) async fn run(mut self, mut stop: watch::Receiver<Stop>) {
        if !self.begin(&mut stop).await {
            // It may have been granted while nobody waited for it any more.
            return self.unlock().await;
        }
        let interval = self.shared.config.commit_interval;
        // Queues that were taken together do not commit together.
        let mut commit_at = Instant::now() + interval.mul_f64(rand::random_range(0.5..1.0));
        let how = loop {
            if self.lock_is_lost() {
                warn!(
                    topic = self.queue.topic,
                    queue = self.queue.queue_id,
                    "the lock of the queue is lost, beginning anew"
                );
                break Stop::LockLost;
            }
            let wake_at = self.arm();
            tokio::select! {
                // The end before anything that begins something new; the rare before the frequent.
                biased;
                how = stopped(&mut stop) => break how,
                () = tokio::time::sleep_until(commit_at) => {
                    self.arm_commit();
                    commit_at = Instant::now() + interval;
                }
                granted = finished(&mut self.locking) => self.locked(&granted),
                committed = finished(&mut self.committing) => self.committed(committed),
                Some(ended) = self.listening.join_next_with_id() => self.listened(ended),
                pulled = finished(&mut self.pulling) => self.pulled(pulled),
                permit = finished(&mut self.slot) => self.hand_over(permit),
                () = tokio::time::sleep_until(wake_at) => {}
            }
        };
        self.end(how, stop).await;
    }

    /// Waits until the queue is locked, where it has to be. `false` when it is given up before.
    async fn obtain_lock(&mut self, stop: &mut watch::Receiver<Stop>) -> bool {
        while let Some(lock) = self.lock.filter(|lock| !lock.is_held(Instant::now())) {
            let (shared, queue) = (Arc::clone(&self.shared), self.queue.clone());
            let asking = async move {
                tokio::time::sleep_until(lock.ask_at()).await;
                lock::ask(shared, queue).await
            };
            tokio::select! {
                granted = asking => self.locked(&granted),
                _ = stopped(stop) => return false,
            }
        }
        true
    }

    /// Finds the place to begin at. `false` when the queue is given up before.
    async fn begin(&mut self, stop: &mut watch::Receiver<Stop>) -> bool {
        loop {
            // First: who held it until now may commit until then.
            if !self.obtain_lock(stop).await {
                return false;
            }
            let start = self.shared.offsets.start(&self.puller, &self.queue, self.shared.config.start_at);
            let started = tokio::select! {
                started = start => started,
                _ = stopped(stop) => return false,
            };
            match started {
                Ok(offset) => {
                    debug!(topic = self.queue.topic, queue = self.queue.queue_id, offset, "queue taken");
                    self.process_queue.jump(offset);
                    return true;
                }
                Err(error) => {
                    let MessageQueue { topic, broker_name, queue_id } = &self.queue;
                    warn!(topic, broker_name, queue = queue_id, %error, "where to begin is not known yet");
                }
            }
            tokio::select! {
                () = tokio::time::sleep(ERROR_PAUSE) => {}
                _ = stopped(stop) => return false,
            }
        }
    }

    /// Begins what can begin. Until when nothing else can.
    fn arm(&mut self) -> Instant {
        let now = Instant::now();
        if let Some(offset) = self.jump.filter(|_| self.process_queue.is_empty()) {
            self.jump = None;
            self.process_queue.jump(offset);
            self.kept = None;
            self.arm_commit();
        }
        let room = self.process_queue.room();
        let may_pull = self.pulling.is_none() && self.jump.is_none() && room > 0;
        if may_pull && self.pull_at <= now {
            let (puller, queue, wait) = (self.puller.clone(), self.queue.clone(), self.shared.config.pull_wait);
            let offset = self.process_queue.next_pull();
            self.pull_at = now + EMPTY_PULL_MIN;
            self.pulling = Some(Box::pin(async move { puller.pull(&queue, offset, room as u32, wait).await }));
        }
        self.arm_lock(now);
        let may_listen = self.in_hand.len() < self.shared.config.listeners_per_queue();
        if self.slot.is_none() && may_listen && self.process_queue.can_start(now) {
            let slots = Arc::clone(&self.shared.slots);
            let permit = async move { slots.acquire_owned().await.expect("the semaphore is never closed") };
            self.slot = Some(Box::pin(permit));
        }
        let again = self.process_queue.next_again().filter(|_| may_listen && self.slot.is_none());
        let pull_at = (may_pull && self.pulling.is_none()).then_some(self.pull_at);
        // Without any, the wait is for something else; far away is as good as never.
        again.into_iter().chain(pull_at).chain(self.lock_at()).min().unwrap_or(now + FAR_AWAY)
    }

    fn pulled(&mut self, outcome: Result<PullResult, PullError>) {
        let next_pull = self.process_queue.next_pull();
        match outcome {
            Ok(pulled) if pulled.status == PullStatus::OffsetOutOfRange => {
                let to = pulled.next_offset;
                if to == next_pull {
                    self.pull_at = Instant::now() + ERROR_PAUSE;
                    return;
                }
                let MessageQueue { topic, broker_name, queue_id } = &self.queue;
                warn!(
                    topic,
                    broker_name,
                    queue = queue_id,
                    from = next_pull,
                    to,
                    "the queue has nothing here, going on there"
                );
                self.jump = Some(to);
            }
            Ok(pulled) => {
                if pulled.next_offset > next_pull || !pulled.messages.is_empty() {
                    self.pull_at = Instant::now();
                }
                let mut messages = pulled.messages;
                if names::is_retry_topic(&self.queue.topic) {
                    messages = messages.into_iter().map(|message| message.under_first_topic()).collect();
                }
                self.process_queue.put(messages, pulled.next_offset);
            }
            Err(error) => {
                let MessageQueue { topic, broker_name, queue_id } = &self.queue;
                warn!(topic, broker_name, queue = queue_id, %error, "a pull failed and is repeated");
                self.pull_at = Instant::now() + ERROR_PAUSE;
            }
        }
    }

    fn hand_over(&mut self, permit: OwnedSemaphorePermit) {
        let Some(delivery) = self.process_queue.start(Instant::now()) else { return };
        let offset = delivery.queue_offset();
        let listener = Arc::clone(&self.shared.listener);
        let task = self.listening.spawn(async move {
            let _permit = permit;
            listener(delivery).await
        });
        self.in_hand.insert(task.id(), offset);
    }

    fn listened(&mut self, ended: Result<(Id, Verdict), JoinError>) {
        let (id, verdict) = ended.unwrap_or_else(|error| {
            warn!(topic = self.queue.topic, queue = self.queue.queue_id, %error, "a listener panicked");
            (error.id(), Verdict::Later)
        });
        let offset = self.in_hand.remove(&id).expect("each listener at work has a message");
        match verdict {
            Verdict::Consumed => self.process_queue.finish(offset),
            Verdict::Later => {
                debug!(topic = self.queue.topic, queue = self.queue.queue_id, offset, "to come again later");
                self.process_queue.retry(offset, Instant::now());
            }
        }
    }

    fn arm_lock(&mut self, now: Instant) {
        if self.locking.is_none() && self.lock.is_some_and(|lock| lock.ask_at() <= now) {
            self.locking = Some(Box::pin(lock::ask(Arc::clone(&self.shared), self.queue.clone())));
        }
    }

    /// Whether another member may have the lock.
    fn lock_is_lost(&self) -> bool {
        self.lock.is_some_and(|lock| !lock.is_held(Instant::now()))
    }

    /// When the lock is to be looked at.
    fn lock_at(&self) -> Option<Instant> {
        self.lock.map(|lock| {
            let ask_at = self.locking.is_none().then_some(lock.ask_at());
            ask_at.map_or(lock.valid_until(), |at| at.min(lock.valid_until()))
        })
    }

    fn arm_commit(&mut self) {
        let offset = self.process_queue.lowest_unfinished();
        if self.committing.is_some() || self.kept == Some(offset) {
            return;
        }
        let (shared, puller, queue) = (Arc::clone(&self.shared), self.puller.clone(), self.queue.clone());
        let keep = async move { (offset, shared.offsets.keep(&puller, &queue, offset).await) };
        self.committing = Some(Box::pin(keep));
    }

    fn committed(&mut self, (offset, outcome): (i64, Result<(), CallError>)) {
        match outcome {
            Ok(()) => self.kept = Some(offset),
            Err(error) => {
                let MessageQueue { topic, broker_name, queue_id } = &self.queue;
                warn!(topic, broker_name, queue = queue_id, offset, %error, "an offset could not be committed");
            }
        }
    }

    fn locked(&mut self, (asked_at, granted): &Granted) {
        if let Err(error) = granted {
            let MessageQueue { topic, broker_name, queue_id } = &self.queue;
            warn!(topic, broker_name, queue = queue_id, %error, "the queue could not be locked");
        }
        if let Some(lock) = &mut self.lock {
            lock.answered(*asked_at, granted);
        }
    }

    /// Gives the queue up. The next member begins at the last commit: for a hand-over it is made at once, since that member may
    /// begin now; at the end of the consumer, or under a lock, when listeners are done, since the next member waits for that.
    async fn end(&mut self, how: Stop, mut stop: watch::Receiver<Stop>) {
        self.pulling = None;
        self.slot = None;
        let next_may_begin = how == Stop::HandOver && self.lock.is_none();
        if next_may_begin {
            self.commit_last().await;
        }
        while !self.listening.is_empty() {
            let now = Instant::now();
            let until = match *stop.borrow_and_update() {
                Stop::Shutdown(until) if until <= now => break,
                Stop::Shutdown(until) => until,
                // Nobody waits for these listeners.
                _ => now + FAR_AWAY,
            };
            let mut wake_at = until;
            if !self.lock_is_lost() {
                self.arm_lock(now);
                wake_at = self.lock_at().map_or(until, |at| at.min(until));
            }
            tokio::select! {
                Some(ended) = self.listening.join_next_with_id() => self.listened(ended),
                granted = finished(&mut self.locking) => self.locked(&granted),
                () = tokio::time::sleep_until(wake_at) => {}
                changed = stop.changed() => if changed.is_err() { break },
            }
        }
        while let Some(ended) = self.listening.try_join_next_with_id() {
            self.listened(ended);
        }
        if !self.listening.is_empty() {
            let MessageQueue { topic, queue_id, .. } = &self.queue;
            info!(topic, queue = queue_id, count = self.listening.len(), "listeners at work are cut off");
            self.listening.shutdown().await;
        }
        if self.lock_is_lost() {
            // The next member may be ahead of us.
            return;
        }
        if !next_may_begin {
            self.commit_last().await;
        }
        self.unlock().await;
    }

    async fn unlock(&mut self) {
        if self.lock.is_none() {
            return;
        }
        match tokio::time::timeout(UNLOCK_MAX, lock::give_back(&self.shared, &self.queue)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => debug!(%error, "a lock was not given back, it runs out"),
            Err(_) => debug!("a lock was not given back in time, it runs out"),
        }
    }

    async fn commit_last(&mut self) {
        let last = async {
            // One that is under way first: it must not come after the last one.
            if let Some(committing) = self.committing.take() {
                let committed = committing.await;
                self.committed(committed);
            }
            self.arm_commit();
            if let Some(committing) = self.committing.take() {
                let committed = committing.await;
                self.committed(committed);
            }
        };
        if tokio::time::timeout(LAST_COMMIT_MAX, last).await.is_err() {
            let MessageQueue { topic, queue_id, .. } = &self.queue;
            warn!(
                topic,
                queue = queue_id,
                "no broker took the last commit in time: what came after the one before comes again"
            );
        }
    }
}

/// What `armed` comes to; never anything while it is not armed. Cancel safe: it stays armed.
async fn finished<T>(armed: &mut Armed<T>) -> T {
    let Some(future) = armed else { return std::future::pending().await };
    let outcome = future.as_mut().await;
    *armed = None;
    outcome
}

/// Waits until the queue is to be given up.
async fn stopped(stop: &mut watch::Receiver<Stop>) -> Stop {
    loop {
        let how = *stop.borrow_and_update();
        if how != Stop::No {
            return how;
        }
        if stop.changed().await.is_err() {
            // Whoever could say so is gone.
            return Stop::Shutdown(Instant::now());
        }
    }
}

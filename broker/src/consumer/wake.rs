//! From apply to those who wait: pulls are taken out on the apply thread and run again on the runtime; the timer's bell is rung.

use std::sync::Arc;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;

use super::long_poll::{ParkedPulls, QueueKey};
use crate::apply::{ApplyObserver, Round};
use crate::delay::bell::TimerBell;
use crate::handler::pull::{ParkedPull, run_again};
use crate::replica::Replica;

/// Told of every applied round. Never runs a pull itself: that would hold up apply.
#[derive(Clone)]
pub struct Waker {
    pulls: Arc<ParkedPulls<ParkedPull>>,
    /// Unbounded, but holds only pulls that were in the table, which is bounded.
    woken: UnboundedSender<ParkedPull>,
    /// Raft index of the last round.
    applied: watch::Sender<u64>,
    /// Raft index of the last round that changed topics.
    topics_changed: watch::Sender<u64>,
    timer_bell: Arc<TimerBell>,
}

/// Pulls that were woken, and marks to wait for.
pub struct Woken {
    /// Pulls to run again.
    pub pulls: UnboundedReceiver<ParkedPull>,
    /// Raft index of the last round.
    pub applied: watch::Receiver<u64>,
    /// Raft index of the last round that changed topics.
    pub topics_changed: watch::Receiver<u64>,
    /// Rung for delayed messages that have come.
    pub(crate) timer_bell: Arc<TimerBell>,
}

impl Waker {
    /// A waker for one table.
    pub fn new(pulls: Arc<ParkedPulls<ParkedPull>>) -> (Self, Woken) {
        let (woken, receiver) = unbounded_channel();
        let (topics_changed, changed) = watch::channel(0);
        let (applied, last_applied) = watch::channel(0);
        let timer_bell: Arc<TimerBell> = Arc::default();
        let bell = Arc::clone(&timer_bell);
        let woken_side = Woken { pulls: receiver, applied: last_applied, topics_changed: changed, timer_bell: bell };
        (Self { pulls, woken, applied, topics_changed, timer_bell }, woken_side)
    }
}

impl ApplyObserver for Waker {
    fn applied(&mut self, round: &Round) {
        for advance in &round.queues {
            let key = QueueKey { incarnation: advance.topic.incarnation(), queue_id: advance.queue as i32 };
            for pull in self.pulls.wake(key, |pull| pull.wants(advance.first, advance.units())) {
                // The receiver is gone when the node stops: its clients are gone too.
                let _ = self.woken.send(pull);
            }
        }
        for topic in &round.dropped {
            for pull in self.pulls.wake_topic(topic.incarnation) {
                let _ = self.woken.send(pull);
            }
        }
        if let Some(due_ms) = round.timer_due_ms {
            self.timer_bell.ring(due_ms);
        }
        self.applied.send_replace(round.applied.index);
        if !round.topics.is_empty() {
            self.topics_changed.send_replace(round.applied.index);
        }
    }
}

/// Runs woken pulls until the waker is gone.
pub async fn run_woken(replica: Arc<Replica>, mut woken: UnboundedReceiver<ParkedPull>) {
    while let Some(pull) = woken.recv().await {
        rerun(&replica, pull);
    }
}

/// Runs a pull again, at once when its client keeps up with reading, else as soon as it does.
pub(crate) fn rerun(replica: &Arc<Replica>, pull: ParkedPull) {
    let connection = Arc::clone(pull.responder().connection());
    if connection.has_room() {
        return run_again(replica, pull);
    }
    let replica = Arc::clone(replica);
    tokio::spawn(async move {
        connection.room().await;
        if !connection.is_closed() {
            run_again(&replica, pull);
        }
    });
}

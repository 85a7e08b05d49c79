//! The leader's timer: proposes the delivery of delayed messages whose time has come.
//!
//! It sleeps until the first of them is due, or one comes that is due earlier ([`crate::delay::bell`]); then takes them page by page,
//! each page one entry. It decides nothing: a message that somebody else has taken, or that is early by the clock that stamps, is
//! left out of the entry, and found again or gone at the next look.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ledgermq_dledger::{Outcome, RoleView};
use tokio::sync::watch;

use crate::command::TimerRef;
use crate::delay::bell::TimerBell;
use crate::delay::moves::Due;
use crate::replica::{Replica, wall_clock_ms};
use crate::stamp::{Answer, Item};
use crate::store::KvError;

/// Longest sleep: a wall clock that is set is noticed after it.
const SLEEP_MAX: Duration = Duration::from_secs(1);

/// Pause when nothing could be moved: somebody else has taken what was found, or the log takes nothing now.
const PAUSE: Duration = Duration::from_millis(20);

/// Pause when records or rows cannot be read.
const UNREADABLE_PAUSE: Duration = Duration::from_secs(1);

/// What the timer of a replica has done since the start, and what wakes it.
#[derive(Debug)]
pub(crate) struct Timer {
    pub(crate) bell: Arc<TimerBell>,
    delivered: AtomicU64,
    /// Sum and maximum of how late the entries with them were committed here, in ms.
    late_ms: AtomicU64,
    latest_ms: AtomicU64,
}

impl Timer {
    /// A timer that has done nothing.
    pub(crate) fn new(bell: Arc<TimerBell>) -> Self {
        let zero = AtomicU64::default;
        Self { bell, delivered: zero(), late_ms: zero(), latest_ms: zero() }
    }

    /// Messages that were delivered while this replica led.
    pub(crate) fn delivered(&self) -> u64 {
        self.delivered.load(Ordering::Relaxed)
    }

    /// Sum of the times in ms by which they came late.
    pub(crate) fn late_ms(&self) -> u64 {
        self.late_ms.load(Ordering::Relaxed)
    }

    /// Greatest of these times.
    pub(crate) fn latest_ms(&self) -> u64 {
        self.latest_ms.load(Ordering::Relaxed)
    }

    fn count(&self, dues_ms: &[u64], now_ms: u64) {
        for due_ms in dues_ms {
            let late_ms = now_ms.saturating_sub(*due_ms);
            self.late_ms.fetch_add(late_ms, Ordering::Relaxed);
            self.latest_ms.fetch_max(late_ms, Ordering::Relaxed);
        }
        self.delivered.fetch_add(dues_ms.len() as u64, Ordering::Relaxed);
    }
}

/// Delivers while this replica leads. Runs until the task is aborted, or the log has ended.
pub(super) async fn deliver(replica: Arc<Replica>) {
    let mut role = replica.handle.watch_role();
    while role.wait_for(RoleView::serves).await.is_ok() {
        lead(&replica, &mut role).await;
    }
}

/// One leadership.
async fn lead(replica: &Arc<Replica>, role: &mut watch::Receiver<RoleView>) {
    // Rows in front of it were taken by this leadership. What it has passed leaves tombstones, which a search from the first row
    // on would go through again and again.
    let mut from = TimerRef::default();
    while replica.serves() {
        from = from.min(TimerRef { due_ms: replica.timer.bell.take(), first_pos: 0 });
        let due = match look(replica, from).await {
            Some(Ok(due)) => due,
            Some(Err(error)) => {
                tracing::error!(%error, "delayed messages cannot be read");
                tokio::time::sleep(UNREADABLE_PAUSE).await;
                continue;
            }
            None => return,
        };
        from = due.first.unwrap_or(from);
        match due.item {
            Some(item) => {
                let dues_ms: Vec<u64> = item.moves().iter().map(|one| one.timer.due_ms).collect();
                match replica.call_item(Item::Timers(item)).await {
                    Outcome::Answered(Answer::Done { index }) => {
                        replica.timer.count(&dues_ms, now_ms());
                        replica.applied(index).await;
                    }
                    outcome => {
                        tracing::debug!(?outcome, "delayed messages stay for now");
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            }
            None if due.unreadable > 0 => {
                tracing::warn!(count = due.unreadable, "delayed messages are due and cannot be read now");
                tokio::time::sleep(UNREADABLE_PAUSE).await;
            }
            None => wait(replica, role, due.next_ms.unwrap_or(u64::MAX)).await,
        }
    }
}

async fn look(replica: &Arc<Replica>, from: TimerRef) -> Option<Result<Due, KvError>> {
    let waiting = replica.waiting.clone();
    // The runtime ends: so does this task.
    tokio::task::spawn_blocking(move || waiting.due(from, now_ms())).await.ok()
}

/// Waits until `next_ms` by the wall clock, until something comes that is due before, or until this replica does not serve.
async fn wait(replica: &Replica, role: &mut watch::Receiver<RoleView>, next_ms: u64) {
    let sleep = async {
        loop {
            let left = next_ms.saturating_sub(now_ms());
            if left == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(left).min(SLEEP_MAX)).await;
        }
    };
    tokio::select! {
        () = sleep => {}
        () = replica.timer.bell.before(next_ms) => {}
        _ = role.wait_for(|role| !role.serves()) => {}
    }
}

fn now_ms() -> u64 {
    wall_clock_ms().max(0) as u64
}

//! Wakes the leader's timer when a message comes that is due before what it waits for.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

/// Rung by apply, heard by one timer.
#[derive(Debug)]
pub(crate) struct TimerBell {
    /// When the first of the messages is due that have come since [`TimerBell::take`].
    earliest_ms: AtomicU64,
    rung: Notify,
}

impl Default for TimerBell {
    fn default() -> Self {
        Self { earliest_ms: AtomicU64::new(u64::MAX), rung: Notify::new() }
    }
}

impl TimerBell {
    /// A message has come that is due then.
    pub(crate) fn ring(&self, due_ms: u64) {
        if self.earliest_ms.fetch_min(due_ms, Ordering::AcqRel) > due_ms {
            self.rung.notify_one();
        }
    }

    /// When the first of the messages is due that have come since the last call; `u64::MAX` when none has. What came before is
    /// in the store.
    pub(crate) fn take(&self) -> u64 {
        self.earliest_ms.swap(u64::MAX, Ordering::AcqRel)
    }

    /// Waits for a message that is due before `due_ms`.
    pub(crate) async fn before(&self, due_ms: u64) {
        while self.earliest_ms.load(Ordering::Acquire) >= due_ms {
            self.rung.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// A bell that is not heard is a message that comes too late; one that is heard for nothing is a timer that spins.
    #[tokio::test]
    async fn only_what_is_due_earlier_wakes() {
        let bell = TimerBell::default();
        bell.ring(50);
        let quiet = tokio::time::timeout(Duration::from_millis(20), bell.before(50)).await;
        assert!(quiet.is_err());
        let (woken, ()) = tokio::join!(tokio::time::timeout(Duration::from_secs(20), bell.before(50)), async {
            bell.ring(60);
            bell.ring(49);
        });
        assert!(woken.is_ok());
        assert_eq!((bell.take(), bell.take()), (49, u64::MAX));
        bell.ring(u64::MAX - 1);
        bell.before(u64::MAX).await;
    }
}

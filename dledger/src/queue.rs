//! A queue from the raft loop to a thread behind it: log-io, apply.
//!
//! The receiver sleeps at once when nothing waits, and is woken only when it sleeps. The channels of the usual crates spin and
//! yield before they sleep: with more threads than processors each of those turns is a switch to a thread that has something
//! to do, and back. Bounded by what the groups let be unwritten and unapplied, not by a count: it must never block the loop.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A queue's two ends.
pub(crate) fn queue<T>() -> (QueueSender<T>, QueueReceiver<T>) {
    let state = State { items: VecDeque::new(), asleep: false, senders: 1, received: true };
    let shared = Arc::new(Shared { state: Mutex::new(state), arrived: Condvar::new() });
    (QueueSender(Arc::clone(&shared)), QueueReceiver(shared))
}

struct Shared<T> {
    state: Mutex<State<T>>,
    arrived: Condvar,
}

struct State<T> {
    items: VecDeque<T>,
    /// Whether the receiver waits to be woken.
    asleep: bool,
    senders: usize,
    /// Whether the receiver is still there.
    received: bool,
}

impl<T> Shared<T> {
    /// Nothing here panics half-way, so a poisoned lock holds a whole state.
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self, mut state: MutexGuard<'_, State<T>>) {
        let asleep = std::mem::take(&mut state.asleep);
        drop(state);
        if asleep {
            self.arrived.notify_one();
        }
    }
}

/// The end for whoever hands over.
pub(crate) struct QueueSender<T>(Arc<Shared<T>>);

impl<T> QueueSender<T> {
    /// Hands something over; gives it back when the receiver has ended.
    pub(crate) fn send(&self, item: T) -> Result<(), T> {
        self.put(item)?;
        self.wake();
        Ok(())
    }

    /// As [`QueueSender::send`], but the receiver sleeps on until [`QueueSender::wake`].
    pub(crate) fn put(&self, item: T) -> Result<(), T> {
        let mut state = self.0.lock();
        if !state.received {
            return Err(item);
        }
        state.items.push_back(item);
        Ok(())
    }

    /// Wakes the receiver, if it sleeps.
    pub(crate) fn wake(&self) {
        self.0.wake(self.0.lock());
    }
}

impl<T> Clone for QueueSender<T> {
    fn clone(&self) -> Self {
        self.0.lock().senders += 1;
        QueueSender(Arc::clone(&self.0))
    }
}

impl<T> Drop for QueueSender<T> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.senders -= 1;
        if state.senders == 0 {
            self.0.wake(state);
        }
    }
}

/// Why nothing was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Nothing {
    /// Nothing came in time.
    Late,
    /// Nothing waits, and nobody is left to send.
    Ended,
}

/// The end of the thread that carries out.
pub(crate) struct QueueReceiver<T>(Arc<Shared<T>>);

impl<T> QueueReceiver<T> {
    /// The first that waits, or the next to come within `timeout`; without end when there is none.
    pub(crate) fn recv(&self, timeout: Option<Duration>) -> Result<T, Nothing> {
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        let mut state = self.0.lock();
        loop {
            if let Some(item) = state.items.pop_front() {
                state.asleep = false;
                return Ok(item);
            }
            if state.senders == 0 {
                return Err(Nothing::Ended);
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                state.asleep = false;
                return Err(Nothing::Late);
            }
            state.asleep = true;
            state = match left {
                None => self.0.arrived.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(left) => self.0.arrived.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0,
            };
        }
    }

    /// The first that waits.
    pub(crate) fn try_recv(&self) -> Option<T> {
        self.0.lock().items.pop_front()
    }
}

impl<T> Drop for QueueReceiver<T> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.received = false;
        state.items.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Everything arrives in order, from a sender that is faster and from one that is slower than the receiver.
    #[test]
    fn what_is_sent_arrives_in_order() {
        let (sender, receiver) = queue();
        let thread = std::thread::spawn(move || {
            let mut got = Vec::new();
            while let Ok(item) = receiver.recv(None) {
                got.push(item);
                got.extend(std::iter::from_fn(|| receiver.try_recv()));
            }
            got
        });
        for n in 0..100_000u32 {
            sender.send(n).unwrap();
            if n % 100 == 0 {
                std::thread::yield_now();
            }
        }
        drop(sender);
        assert_eq!(thread.join().unwrap(), (0..100_000).collect::<Vec<_>>());
    }

    /// What was put in without a word is taken with the next that wakes, before it.
    #[test]
    fn what_is_put_waits_for_a_wake() {
        let (sender, receiver) = queue();
        let thread = std::thread::spawn(move || [receiver.recv(None), receiver.recv(None)]);
        sender.put(1).unwrap();
        sender.send(2).unwrap();
        assert_eq!(thread.join().unwrap(), [Ok(1), Ok(2)]);
    }

    /// A thread that waits must learn that nobody is left, and a sender that the thread has ended.
    #[test]
    fn an_end_that_is_gone_is_noticed() {
        let (sender, receiver) = queue::<u32>();
        assert_eq!(receiver.recv(Some(Duration::from_millis(1))), Err(Nothing::Late));
        let other = sender.clone();
        drop(sender);
        let thread = std::thread::spawn(move || receiver.recv(None));
        drop(other);
        assert_eq!(thread.join().unwrap(), Err(Nothing::Ended));
        let (sender, receiver) = queue();
        drop(receiver);
        assert_eq!(sender.send(1), Err(1));
    }
}

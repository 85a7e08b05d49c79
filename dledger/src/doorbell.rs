//! What wakes the raft loop: one bell for every queue in front of it, and the queues' sending ends.
//!
//! The loop sleeps in `epoll` on its peer sockets ([`crate::transport`]); the bell is an eventfd among them. It costs a system
//! call only when the loop sleeps: one that is awake sees the mark before it goes to sleep.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use crossbeam_channel::{Sender, TrySendError};
use rustix::event::{EventfdFlags, eventfd};

/// The loop works; nobody has rung since it woke.
const AWAKE: u8 = 0;
/// Somebody has rung; the loop must not sleep.
const RUNG: u8 = 1;
/// The loop sleeps, or is about to.
const ASLEEP: u8 = 2;

/// Wakes the loop. Ringing twice is ringing once.
#[derive(Clone)]
pub(crate) struct Doorbell(Arc<Bell>);

struct Bell {
    state: AtomicU8,
    fd: OwnedFd,
}

impl Doorbell {
    pub(crate) fn new() -> io::Result<Doorbell> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Doorbell(Arc::new(Bell { state: AtomicU8::new(AWAKE), fd })))
    }

    /// Whatever was put into a queue before is seen by the loop's next round.
    pub(crate) fn ring(&self) {
        if self.0.state.swap(RUNG, Ordering::AcqRel) == ASLEEP {
            // Fails only when 2^64 rings were never taken: it would be awake then.
            let _ = rustix::io::write(&self.0.fd, &1u64.to_ne_bytes());
        }
    }

    /// For the loop, before it sleeps: whether it may. From here on a ring writes to the file descriptor.
    pub(crate) fn may_sleep(&self) -> bool {
        self.0.state.compare_exchange(AWAKE, ASLEEP, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// For the loop, after it has slept and before it looks into its queues.
    pub(crate) fn awake(&self) {
        self.0.state.swap(AWAKE, Ordering::AcqRel);
    }
}

impl AsFd for Doorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.fd.as_fd()
    }
}

/// A bounded sender that rings.
pub(crate) struct Inbox<T> {
    sender: Sender<T>,
    bell: Doorbell,
}

impl<T> Clone for Inbox<T> {
    fn clone(&self) -> Self {
        Inbox { sender: self.sender.clone(), bell: self.bell.clone() }
    }
}

impl<T> Inbox<T> {
    pub(crate) fn new(sender: Sender<T>, bell: Doorbell) -> Self {
        Inbox { sender, bell }
    }

    pub(crate) fn try_send(&self, value: T) -> Result<(), TrySendError<T>> {
        let sent = self.put(value);
        self.ring();
        sent
    }

    /// Puts something in without ringing: the loop sees it when it next wakes, after a tick at the latest.
    pub(crate) fn put(&self, value: T) -> Result<(), TrySendError<T>> {
        self.sender.try_send(value)
    }

    pub(crate) fn ring(&self) {
        self.bell.ring();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes between the last look into the queues and the sleep must keep the loop awake.
    #[test]
    fn a_ring_before_the_sleep_forbids_it() {
        let bell = Doorbell::new().unwrap();
        bell.ring();
        assert!(!bell.may_sleep());
        bell.awake();
        assert!(bell.may_sleep());
        bell.ring();
        let mut count = [0; 8];
        assert_eq!(rustix::io::read(&bell, &mut count).unwrap(), 8, "a sleeper is woken");
        bell.ring();
        assert!(rustix::io::read(&bell, &mut count).is_err(), "once");
    }
}

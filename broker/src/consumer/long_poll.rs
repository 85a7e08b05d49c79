//! Pulls that found nothing yet, parked by queue until apply makes a message visible there or their time runs out.
//!
//! `handler/pull` parks, the apply thread wakes (it never runs a pull itself), a timer expires. Keys carry the topic's
//! incarnation, so a topic deleted and made again never wakes the pulls of its former self. The count is bounded.

use std::collections::{BTreeSet, HashMap};
use std::time::Instant;

use parking_lot::Mutex;

/// The queue that a pull waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct QueueKey {
    /// Raft index of the entry that created the topic.
    pub incarnation: u64,
    /// Queue of the topic.
    pub queue_id: i32,
}

/// Parked pulls; `P` is what is needed to run one again.
#[derive(Debug)]
pub struct ParkedPulls<P> {
    parked_max: usize,
    /// One lock for all queues: it is held for map operations only.
    inner: Mutex<Inner<P>>,
}

#[derive(Debug)]
struct Inner<P> {
    next_ticket: u64,
    entries: HashMap<u64, Entry<P>>,
    by_queue: HashMap<QueueKey, Vec<u64>>,
    by_deadline: BTreeSet<(Instant, u64)>,
}

#[derive(Debug)]
struct Entry<P> {
    queue: QueueKey,
    deadline: Instant,
    connection: u64,
    pull: P,
}

impl<P> ParkedPulls<P> {
    /// A table for at most `parked_max` pulls.
    pub fn new(parked_max: usize) -> Self {
        let inner =
            Inner { next_ticket: 0, entries: HashMap::new(), by_queue: HashMap::new(), by_deadline: BTreeSet::new() };
        Self { parked_max, inner: Mutex::new(inner) }
    }

    /// Parks a pull until `deadline` and returns a ticket for [`Self::take`]; a full table gives it back.
    ///
    /// The caller must look at the queue once more *after* this: a message that became visible in between woke nobody.
    pub fn park(&self, queue: QueueKey, deadline: Instant, connection: u64, pull: P) -> Result<u64, P> {
        let mut inner = self.inner.lock();
        if inner.entries.len() >= self.parked_max {
            return Err(pull);
        }
        let ticket = inner.next_ticket;
        inner.next_ticket += 1;
        inner.entries.insert(ticket, Entry { queue, deadline, connection, pull });
        inner.by_queue.entry(queue).or_default().push(ticket);
        inner.by_deadline.insert((deadline, ticket));
        Ok(ticket)
    }

    /// Takes one pull back out, unless it was woken or expired meanwhile.
    pub fn take(&self, ticket: u64) -> Option<P> {
        self.inner.lock().remove(ticket)
    }

    /// Takes out the pulls of a queue for which `wanted` holds.
    pub fn wake(&self, queue: QueueKey, mut wanted: impl FnMut(&P) -> bool) -> Vec<P> {
        let mut inner = self.inner.lock();
        let Some(tickets) = inner.by_queue.get(&queue) else { return Vec::new() };
        let woken: Vec<u64> = tickets.iter().copied().filter(|ticket| wanted(&inner.entries[ticket].pull)).collect();
        woken.into_iter().filter_map(|ticket| inner.remove(ticket)).collect()
    }

    /// Takes out all pulls of a topic: it is gone.
    pub fn wake_topic(&self, incarnation: u64) -> Vec<P> {
        let mut inner = self.inner.lock();
        let queues = inner.by_queue.iter().filter(|(queue, _)| queue.incarnation == incarnation);
        let tickets: Vec<u64> = queues.flat_map(|(_, tickets)| tickets.iter().copied()).collect();
        tickets.into_iter().filter_map(|ticket| inner.remove(ticket)).collect()
    }

    /// Takes out the pulls whose time is over.
    pub fn expire(&self, now: Instant) -> Vec<P> {
        let mut inner = self.inner.lock();
        let mut expired = Vec::new();
        while let Some((deadline, ticket)) = inner.by_deadline.first().copied() {
            if deadline > now {
                break;
            }
            expired.extend(inner.remove(ticket));
        }
        expired
    }

    /// Drops the pulls of a connection that has ended.
    pub fn drop_connection(&self, connection: u64) {
        let mut inner = self.inner.lock();
        let tickets: Vec<u64> = inner
            .entries
            .iter()
            .filter(|(_, entry)| entry.connection == connection)
            .map(|(ticket, _)| *ticket)
            .collect();
        for ticket in tickets {
            inner.remove(ticket);
        }
    }

    /// Number of parked pulls.
    pub fn len(&self) -> usize {
        self.inner.lock().entries.len()
    }

    /// Whether none is parked.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<P> Inner<P> {
    fn remove(&mut self, ticket: u64) -> Option<P> {
        let entry = self.entries.remove(&ticket)?;
        self.by_deadline.remove(&(entry.deadline, ticket));
        if let Some(tickets) = self.by_queue.get_mut(&entry.queue) {
            tickets.retain(|other| *other != ticket);
            if tickets.is_empty() {
                self.by_queue.remove(&entry.queue);
            }
        }
        Some(entry.pull)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const QUEUE: QueueKey = QueueKey { incarnation: 7, queue_id: 1 };

    /// A message must wake the pulls of its own queue that want it, each once, and nobody else.
    #[test]
    fn wakes_only_who_waits_there() {
        let pulls = ParkedPulls::new(10);
        let later = Instant::now() + Duration::from_secs(10);
        let former_self = QueueKey { incarnation: 3, ..QUEUE };
        let other_queue = QueueKey { queue_id: 2, ..QUEUE };
        for (queue, name) in [(QUEUE, "a"), (QUEUE, "b"), (other_queue, "c"), (former_self, "d")] {
            pulls.park(queue, later, 1, name).unwrap();
        }
        assert_eq!(pulls.wake(QUEUE, |name| *name == "b"), ["b"]);
        assert_eq!(pulls.wake(QUEUE, |_| true), ["a"]);
        assert_eq!(pulls.wake(QUEUE, |_| true), [""; 0]);
        assert_eq!(pulls.len(), 2);
    }

    /// A pull must be answered when its time is over, in the order of deadlines, and the table must end up empty.
    #[test]
    fn expires_in_order_and_leaves_nothing_behind() {
        let pulls = ParkedPulls::new(10);
        let now = Instant::now();
        for ms in [30, 10, 20] {
            pulls.park(QUEUE, now + Duration::from_millis(ms), 1, ms).unwrap();
        }
        assert_eq!(pulls.expire(now + Duration::from_millis(20)), [10, 20]);
        assert_eq!(pulls.expire(now + Duration::from_millis(29)), [0; 0]);
        assert_eq!(pulls.expire(now + Duration::from_millis(30)), [30]);
        let inner = pulls.inner.lock();
        assert!(inner.by_queue.is_empty() && inner.by_deadline.is_empty() && inner.entries.is_empty());
    }

    /// Clients that come, park and go must not fill the table, and a full table must say so instead of growing.
    #[test]
    fn is_bounded_and_forgets_ended_connections() {
        let pulls = ParkedPulls::new(2);
        let later = Instant::now() + Duration::from_secs(10);
        let mine = pulls.park(QUEUE, later, 1, "mine").unwrap();
        pulls.park(QUEUE, later, 2, "yours").unwrap();
        assert_eq!(pulls.park(QUEUE, later, 3, "too many"), Err("too many"));
        pulls.drop_connection(2);
        assert_eq!(pulls.len(), 1);
        assert_eq!(pulls.take(mine), Some("mine"));
        assert_eq!(pulls.take(mine), None);
        assert!(pulls.is_empty());
    }
}

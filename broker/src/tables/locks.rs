//! Locks of queues that are consumed in order, in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::TopicKey;

/// A queue, as the members of one group share it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct GroupQueue {
    /// Subscription group.
    pub group: Arc<str>,
    /// Topic and incarnation.
    pub topic: TopicKey,
    /// Queue.
    pub queue: u32,
}

/// Who holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueLock {
    /// The client.
    pub client_id: Arc<str>,
    /// When its lease ends, in the leader's time, ms since 1970. From then on another client can have it.
    pub expires_ms: u64,
}

/// All locks of a replica group, in an order that is the same everywhere.
#[derive(Debug, Default)]
pub(crate) struct Locks {
    by_queue: BTreeMap<GroupQueue, QueueLock>,
    /// The same locks by the end of their leases.
    by_expiry: BTreeSet<(u64, GroupQueue)>,
}

impl Locks {
    pub(crate) fn get(&self, key: &GroupQueue) -> Option<&QueueLock> {
        self.by_queue.get(key)
    }

    pub(crate) fn set(&mut self, key: GroupQueue, lock: QueueLock) {
        self.by_expiry.insert((lock.expires_ms, key.clone()));
        let expires_ms = lock.expires_ms;
        if let Some(old) = self.by_queue.insert(key.clone(), lock)
            && old.expires_ms != expires_ms
        {
            self.by_expiry.remove(&(old.expires_ms, key));
        }
    }

    pub(crate) fn remove(&mut self, key: &GroupQueue) -> Option<QueueLock> {
        let lock = self.by_queue.remove(key)?;
        self.by_expiry.remove(&(lock.expires_ms, key.clone()));
        Some(lock)
    }

    /// Locks whose leases ended first and are over at `at_ms`, at most `max`.
    pub(crate) fn expired(&self, at_ms: u64, max: usize) -> Vec<GroupQueue> {
        let over = self.by_expiry.iter().take_while(|(expires_ms, _)| *expires_ms <= at_ms);
        over.take(max).map(|(_, key)| key.clone()).collect()
    }

    /// Locks of an incarnation of a topic.
    pub(crate) fn of_topic(&self, topic: &TopicKey) -> Vec<GroupQueue> {
        self.by_queue.keys().filter(|key| key.topic == *topic).cloned().collect()
    }

    /// Locks of a group.
    pub(crate) fn of_group(&self, group: &Arc<str>) -> Vec<GroupQueue> {
        let topic = TopicKey { name: "".into(), incarnation: 0 };
        let first = GroupQueue { group: group.clone(), topic, queue: 0 };
        self.by_queue.range(first..).map(|(key, _)| key).take_while(|key| key.group == *group).cloned().collect()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&GroupQueue, &QueueLock)> {
        self.by_queue.iter()
    }

    pub(crate) fn len(&self) -> usize {
        self.by_queue.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(group: &str, topic: &str, queue: u32) -> GroupQueue {
        GroupQueue { group: group.into(), topic: TopicKey { name: topic.into(), incarnation: 7 }, queue }
    }

    /// The two orders must name the same locks, whatever was set, prolonged and taken away.
    #[test]
    fn both_orders_agree() {
        let mut locks = Locks::default();
        let lock = |expires_ms| QueueLock { client_id: "c".into(), expires_ms };
        locks.set(key("g", "T", 0), lock(10));
        locks.set(key("g", "T", 1), lock(20));
        locks.set(key("h", "T", 0), lock(20));
        locks.set(key("ga", "U", 0), lock(30));
        locks.set(key("g", "T", 0), lock(40));
        locks.set(key("g", "T", 0), lock(40));
        assert_eq!(locks.expired(20, 9), [key("g", "T", 1), key("h", "T", 0)]);
        assert_eq!(locks.expired(99, 1).len(), 1);
        assert_eq!(locks.of_group(&"g".into()), [key("g", "T", 0), key("g", "T", 1)]);
        assert_eq!(locks.of_topic(&key("", "T", 0).topic).len(), 3);
        assert_eq!(locks.remove(&key("g", "T", 1)), Some(lock(20)));
        assert_eq!(locks.remove(&key("g", "T", 1)), None);
        assert_eq!((locks.len(), locks.by_expiry.len(), locks.iter().count()), (3, 3, 3));
    }
}

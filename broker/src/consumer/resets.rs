//! Whom this replica has told of a reset that no consumer has taken up yet.
//!
//! A consumer that pulls where a reset has put its group may be there by chance, with messages in hand that the reset gave up, and
//! commits to come that would undo it. So it is told first, by the answer to a query of the offset when it begins, or by
//! PULL_OFFSET_MOVED, upon which it drops what it holds; the pull after that takes the reset up (`handler/reset_offset`). It lives in
//! memory only: whoever is asked anew by another leader is told once more.

use std::collections::BTreeMap;

use parking_lot::Mutex;

use crate::tables::GroupQueue;

/// Most queues with a reset about which somebody was told. Above it all are told once more.
const QUEUES_MAX: usize = 100_000;

/// Connections that are known to have been told about one reset; of more, those that were told first are forgotten.
const CONNECTIONS_MAX: usize = 64;

/// See the module.
#[derive(Debug, Default)]
pub struct ToldOfResets {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// What was said in an earlier term may be about an earlier reset.
    term: u64,
    queues: BTreeMap<GroupQueue, Told>,
}

#[derive(Debug)]
struct Told {
    offset: u64,
    connections: Vec<u64>,
}

impl ToldOfResets {
    /// A connection is told that its group goes on at `offset`, by a leader of `term`. Returns whether it knew.
    pub fn tell(&self, term: u64, queue: &GroupQueue, offset: u64, connection: u64) -> bool {
        let mut inner = self.inner.lock();
        if inner.term != term || (inner.queues.len() >= QUEUES_MAX && !inner.queues.contains_key(queue)) {
            *inner = Inner { term, ..Inner::default() };
        }
        let new = || Told { offset, connections: Vec::new() };
        let told = inner.queues.entry(queue.clone()).or_insert_with(new);
        if told.offset != offset {
            *told = new();
        }
        if told.connections.contains(&connection) {
            return true;
        }
        if told.connections.len() >= CONNECTIONS_MAX {
            told.connections.remove(0);
        }
        told.connections.push(connection);
        false
    }

    /// A reset is made, or taken up: whoever was told of an earlier one knows nothing of the next.
    pub fn forget(&self, queue: &GroupQueue) {
        self.inner.lock().queues.remove(queue);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables::TopicKey;

    fn queue(queue: u32) -> GroupQueue {
        GroupQueue { group: "g".into(), topic: TopicKey { name: "T".into(), incarnation: 7 }, queue }
    }

    /// A consumer that was not told of just this reset must not pass for one that was: it would go on with what it holds.
    #[test]
    fn only_who_was_told_of_this_reset_knows() {
        let told = ToldOfResets::default();
        assert!(!told.tell(1, &queue(0), 5, 10), "told now");
        assert!(told.tell(1, &queue(0), 5, 10));
        assert!(!told.tell(1, &queue(0), 5, 11), "another connection");
        assert!(!told.tell(1, &queue(1), 5, 10), "another queue");
        assert!(!told.tell(1, &queue(0), 6, 10), "another offset");
        assert!(told.tell(1, &queue(0), 6, 10));
        assert!(!told.tell(2, &queue(0), 6, 10), "another term");
        told.forget(&queue(0));
        assert!(!told.tell(2, &queue(0), 6, 10), "another reset to the same offset");
    }

    /// Resets and connections without end must not fill the memory.
    #[test]
    fn it_is_bounded() {
        let told = ToldOfResets::default();
        for connection in 0..2 * CONNECTIONS_MAX as u64 {
            told.tell(1, &queue(0), 5, connection);
        }
        assert_eq!(told.inner.lock().queues[&queue(0)].connections.len(), CONNECTIONS_MAX);
        for n in 0..QUEUES_MAX as u32 + 10 {
            told.tell(1, &queue(n), 5, 1);
        }
        assert!(told.inner.lock().queues.len() <= QUEUES_MAX);
    }
}

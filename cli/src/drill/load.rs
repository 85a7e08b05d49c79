//! How far the sending of a drill has come, per broker name, and how much may be sent: shared by the senders and the fault script.
//!
//! Each broker name has a budget of its own. While one of them has no leader the others go on, and must not use up what is to
//! show that it is back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ledgermq_client::MessageQueue;
use tokio::sync::Semaphore;

/// Everything that is to be sent.
pub(crate) struct Load {
    /// Acknowledged messages over all broker names.
    pub(crate) acknowledged: Arc<AtomicU64>,
    /// The broker names that have messages, in their order.
    pub(crate) parts: Vec<Part>,
}

/// What goes to one broker name.
pub(crate) struct Part {
    /// The broker name.
    pub(crate) broker_name: String,
    /// Messages of the whole run.
    pub(crate) messages: u64,
    acknowledged: AtomicU64,
    /// Messages that may be sent so far.
    allowed: AtomicU64,
    budget: Semaphore,
}

/// Messages of a key: as many as fall to it when they are dealt out in turn.
pub(crate) fn messages_of(key: u32, keys: u32, messages: u64) -> u64 {
    messages / u64::from(keys) + u64::from(u64::from(key) < messages % u64::from(keys))
}

impl Load {
    /// Keys are dealt out over `queues` in turn. The first `percent` of the messages may be sent.
    pub(crate) fn new(queues: &[MessageQueue], keys: u32, messages: u64, percent: u64) -> Load {
        let mut names: Vec<&str> = queues.iter().map(|queue| queue.broker_name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        let part = |name: &str| {
            let own = (0..keys).filter(|key| queues[*key as usize % queues.len()].broker_name == name);
            let messages = own.map(|key| messages_of(key, keys, messages)).sum();
            Part {
                broker_name: name.to_owned(),
                messages,
                acknowledged: AtomicU64::new(0),
                allowed: AtomicU64::new(messages * percent / 100),
                budget: Semaphore::new(permits(messages * percent / 100)),
            }
        };
        let parts = names.into_iter().map(part).filter(|part| part.messages > 0).collect();
        Load { acknowledged: Arc::default(), parts }
    }

    /// What goes to a broker name.
    pub(crate) fn part(&self, broker_name: &str) -> Option<&Part> {
        self.parts.iter().find(|part| part.broker_name == broker_name)
    }

    /// A message of this broker name was acknowledged.
    pub(crate) fn count(&self, part: &Part) {
        part.acknowledged.fetch_add(1, Ordering::Relaxed);
        self.acknowledged.fetch_add(1, Ordering::Relaxed);
    }

    /// Lets everybody go on to a share of their messages, in percent, that is no smaller than the one before.
    pub(crate) fn allow(&self, percent: u64) {
        for part in &self.parts {
            let allowed = part.share(percent);
            let before = part.allowed.swap(allowed, Ordering::Relaxed);
            part.budget.add_permits(permits(allowed - before));
        }
    }

    /// Ends all senders that wait.
    pub(crate) fn close(&self) {
        self.parts.iter().for_each(|part| part.budget.close());
    }
}

impl Part {
    /// Acknowledged messages so far.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Messages that may be sent so far.
    pub(crate) fn allowed(&self) -> u64 {
        self.allowed.load(Ordering::Relaxed)
    }

    /// A share of the messages.
    pub(crate) fn share(&self, percent: u64) -> u64 {
        self.messages * percent / 100
    }

    /// Waits for the permission to send one message; false once the drill was stopped.
    pub(crate) async fn may_send(&self) -> bool {
        self.budget.acquire().await.map(|permit| permit.forget()).is_ok()
    }
}

fn permits(messages: u64) -> usize {
    usize::try_from(messages).unwrap_or(Semaphore::MAX_PERMITS).min(Semaphore::MAX_PERMITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queues(names: &[&str]) -> Vec<MessageQueue> {
        let queue = |name: &&str| MessageQueue { topic: "t".into(), broker_name: (*name).to_owned(), queue_id: 0 };
        names.iter().map(queue).collect()
    }

    /// Would break: a drill that waits for more messages of a broker name than are ever sent to it, or strikes without load.
    #[test]
    fn every_message_belongs_to_one_part_and_has_a_permit_in_time() {
        let load = Load::new(&queues(&["b", "a", "c", "b"]), 6, 1_003, 60);
        let messages: Vec<_> = load.parts.iter().map(|part| (part.broker_name.as_str(), part.messages)).collect();
        // Keys 0, 3, 4 go to b, 1 and 5 to a, 2 to c; the first key has one message more.
        assert_eq!(messages, [("a", 334), ("b", 502), ("c", 167)]);
        load.allow(75);
        load.allow(100);
        for part in &load.parts {
            assert_eq!(part.budget.available_permits() as u64, part.messages, "{}", part.broker_name);
        }
        let few = Load::new(&queues(&["a", "b", "c"]), 2, 10, 60);
        assert_eq!(few.parts.len(), 2, "a broker name without a key is nobody's target");
    }
}

//! One incarnation of a topic, and the two ends of each of its queues.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::command::TopicSettings;

/// Identity of a topic for everything that is kept about it: a topic that is deleted and made again has another
/// incarnation, and never meets its former self.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicKey {
    /// Name.
    pub name: Arc<str>,
    /// Raft index of the entry that created it.
    pub incarnation: u64,
}

impl fmt::Debug for TopicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.name, self.incarnation)
    }
}

/// A topic with its settings as of one applied round. The ends of its queues move on under the holder's eyes.
#[derive(Debug)]
pub struct Topic {
    key: TopicKey,
    settings: TopicSettings,
    /// As many as there ever were: a topic whose queues are made fewer and more again goes on where it was.
    queues: Box<[Arc<QueueEnds>]>,
}

/// First and next queue offset, written by apply only.
#[derive(Debug, Default)]
struct QueueEnds {
    min: AtomicU64,
    next: AtomicU64,
}

impl Topic {
    /// A topic without messages.
    pub(crate) fn new(key: TopicKey, settings: TopicSettings) -> Self {
        let queues = settings.queues();
        Self::with_queue_count(key, settings, queues)
    }

    /// A topic without messages that has or had so many queues.
    pub(crate) fn with_queue_count(key: TopicKey, settings: TopicSettings, queues: u32) -> Self {
        let queues = (0..queues.max(settings.queues())).map(|_| Arc::default()).collect();
        Topic { key, settings, queues }
    }

    /// The same incarnation with other settings; queues are added, never taken.
    pub(crate) fn with_settings(&self, settings: TopicSettings) -> Self {
        let count = (settings.queues() as usize).max(self.queues.len());
        let queues = (0..count).map(|n| self.queues.get(n).cloned().unwrap_or_default()).collect();
        Topic { key: self.key.clone(), settings, queues }
    }

    /// Name and incarnation.
    pub fn key(&self) -> &TopicKey {
        &self.key
    }

    /// Name, shared.
    pub fn name(&self) -> &Arc<str> {
        &self.key.name
    }

    /// Raft index of the entry that created it.
    pub fn incarnation(&self) -> u64 {
        self.key.incarnation
    }

    /// Its settings.
    pub fn settings(&self) -> &TopicSettings {
        &self.settings
    }

    /// Queues that have or had messages or may get some; may be more than the settings say.
    pub fn queue_count(&self) -> u32 {
        self.queues.len() as u32
    }

    /// Offset that the next message of the queue gets (RocketMQ's max offset); 0 for a queue that does not exist.
    pub fn next_offset(&self, queue: u32) -> u64 {
        self.queues.get(queue as usize).map_or(0, |ends| ends.next.load(Ordering::Acquire))
    }

    /// Messages that it ever got, those that are gone included.
    pub fn messages(&self) -> u64 {
        self.queues.iter().map(|ends| ends.next.load(Ordering::Acquire)).sum()
    }

    /// Offset of the first message kept; 0 for a queue that does not exist.
    pub fn min_offset(&self, queue: u32) -> u64 {
        self.queues.get(queue as usize).map_or(0, |ends| ends.min.load(Ordering::Acquire))
    }

    /// Moves the end of a queue. For apply, after the units are written.
    pub(crate) fn set_next_offset(&self, queue: u32, next: u64) {
        self.queues[queue as usize].next.store(next, Ordering::Release);
    }

    /// Moves the start of a queue. For apply.
    pub(crate) fn set_min_offset(&self, queue: u32, min: u64) {
        self.queues[queue as usize].min.store(min, Ordering::Release);
    }
}

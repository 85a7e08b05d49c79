//! Applied state in memory, shared with the handlers: topics, subscription groups, queue ends, consumer offsets, queue locks.
//!
//! Only apply writes it, once per round, after the round's effects are in the store; handlers and the stamper read it. A pull
//! costs one look-up of the topic here and then loads of atomics. Nothing here blocks for longer than a map operation.
//!
//! What is read without a read barrier is what this replica has applied, which may be old. Whoever must not answer with old
//! state (offsets, MAX_OFFSET) asks for a barrier first.

mod locks;
mod offsets;
mod timer;
mod topic;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use ledgermq_dledger::FramePos;
use parking_lot::RwLock;

pub use locks::{GroupQueue, QueueLock};
pub use offsets::{Committed, GroupOffset};
pub use timer::TimerPlace;
pub use topic::{Topic, TopicKey};

pub(crate) use locks::Locks;
pub(crate) use offsets::Offsets;

use crate::command::{Genesis, GroupSettings};

/// Applied state. Shared by `Arc`.
#[derive(Debug, Default)]
pub struct Tables {
    topics: RwLock<HashMap<Arc<str>, Arc<Topic>>>,
    groups: RwLock<HashMap<Arc<str>, Arc<GroupSettings>>>,
    offsets: RwLock<Offsets>,
    locks: RwLock<Locks>,
    genesis: RwLock<Option<Arc<Genesis>>>,
    kept: RwLock<Kept>,
    applied: RwLock<FramePos>,
    applied_index: AtomicU64,
    topics_version: AtomicU64,
    groups_version: AtomicU64,
    last_store_ms: AtomicU64,
    /// Mirror of the count in `offsets`, to look at without the lock: a pull does, and nearly always finds 0.
    resets: AtomicUsize,
    waiting_timers: AtomicU64,
}

/// One change of applied state, in the order of the log. What apply collects in a round.
#[derive(Debug, Clone)]
pub(crate) enum Effect {
    Genesis(Arc<Genesis>),
    TopicPut(Arc<Topic>),
    TopicDropped(Arc<Topic>),
    GroupPut {
        group: Arc<str>,
        settings: Arc<GroupSettings>,
    },
    GroupDropped {
        group: Arc<str>,
        clean_offsets: bool,
    },
    OffsetSet {
        group: Arc<str>,
        topic: TopicKey,
        queue: u32,
        committed: Committed,
    },
    LockSet {
        key: GroupQueue,
        lock: QueueLock,
    },
    LockDropped(GroupQueue),
    /// Messages in front of this frame are given up. The starts of queues are set by the machine.
    Truncated(Kept),
}

/// The first frame whose messages are kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kept {
    /// Raft index; 0 while nothing was given up.
    pub index: u64,
    /// Log position: a segment's first byte.
    pub pos: u64,
}

impl Tables {
    /// The topic of this name.
    pub fn topic(&self, name: &str) -> Option<Arc<Topic>> {
        self.topics.read().get(name).cloned()
    }

    /// All topics, by name.
    pub fn topics(&self) -> Vec<Arc<Topic>> {
        let mut all: Vec<_> = self.topics.read().values().cloned().collect();
        all.sort_by(|a, b| a.name().cmp(b.name()));
        all
    }

    /// The subscription group of this name.
    pub fn group(&self, name: &str) -> Option<Arc<GroupSettings>> {
        self.groups.read().get(name).cloned()
    }

    /// All subscription groups, by name.
    pub fn groups(&self) -> Vec<(Arc<str>, Arc<GroupSettings>)> {
        let mut all: Vec<_> = self.groups.read().iter().map(|(name, group)| (name.clone(), group.clone())).collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }

    /// The committed offset of `group` for a queue of this incarnation of a topic.
    pub fn offset(&self, group: &str, topic: &TopicKey, queue: u32) -> Option<u64> {
        self.offsets.read().get(group, topic, queue).map(|committed| committed.offset)
    }

    /// Where a reset has put `group` in a queue, while no consumer has taken it up.
    pub fn reset(&self, group: &str, topic: &TopicKey, queue: u32) -> Option<u64> {
        if !self.has_resets() {
            return None;
        }
        let committed = self.offsets.read().get(group, topic, queue)?;
        committed.is_reset.then_some(committed.offset)
    }

    /// Whether there is any reset that no consumer has taken up. Costs a load.
    pub fn has_resets(&self) -> bool {
        self.resets.load(Ordering::Acquire) > 0
    }

    /// All committed offsets of `group`, by topic, incarnation and queue.
    pub fn group_offsets(&self, group: &str) -> Vec<GroupOffset> {
        self.offsets.read().of_group(group)
    }

    /// Names of the groups with committed offsets, sorted; they outlive their group when it is deleted without them.
    pub fn groups_with_offsets(&self) -> Vec<Arc<str>> {
        self.offsets.read().group_names()
    }

    /// Names of the groups with a committed offset for this incarnation of a topic, sorted.
    pub fn groups_of_topic(&self, topic: &TopicKey) -> Vec<Arc<str>> {
        let offsets = self.offsets.read();
        let mut groups: Vec<Arc<str>> = offsets.of_topic(topic).map(|(group, _)| group.clone()).collect();
        groups.sort();
        groups.dedup();
        groups
    }

    /// Number of committed offsets.
    pub fn offset_count(&self) -> usize {
        self.offsets.read().len()
    }

    /// Who holds a queue, when its lease may be over too: only apply decides whether it is.
    pub fn lock(&self, key: &GroupQueue) -> Option<QueueLock> {
        self.locks.read().get(key).cloned()
    }

    /// All locks of queues, by group, topic and queue.
    pub fn locks(&self) -> Vec<(GroupQueue, QueueLock)> {
        self.locks.read().iter().map(|(key, lock)| (key.clone(), lock.clone())).collect()
    }

    /// Number of locks.
    pub fn lock_count(&self) -> usize {
        self.locks.read().len()
    }

    /// Constants of the group; `None` until the genesis command is applied.
    pub fn genesis(&self) -> Option<Arc<Genesis>> {
        self.genesis.read().clone()
    }

    /// Where the messages begin that are kept.
    pub fn kept(&self) -> Kept {
        *self.kept.read()
    }

    /// The last applied frame.
    pub fn applied(&self) -> FramePos {
        *self.applied.read()
    }

    /// Raft index of the last applied frame; everything up to it can be read here.
    pub fn applied_index(&self) -> u64 {
        self.applied_index.load(Ordering::Acquire)
    }

    /// Grows with every change of a topic's settings or existence: the counter of the data version for the name server.
    /// It is the Raft index of that change, so equal numbers mean equal topics on every replica.
    pub fn topics_version(&self) -> u64 {
        self.topics_version.load(Ordering::Acquire)
    }

    /// As [`Tables::topics_version`], for subscription groups.
    pub fn groups_version(&self) -> u64 {
        self.groups_version.load(Ordering::Acquire)
    }

    /// Largest store timestamp of an applied message, ms since 1970; 0 when there is none.
    pub fn last_store_ms(&self) -> u64 {
        self.last_store_ms.load(Ordering::Acquire)
    }

    /// Delayed messages that wait for their time.
    pub fn waiting_timers(&self) -> u64 {
        self.waiting_timers.load(Ordering::Acquire)
    }

    /// Makes the effects of a round visible, then the position. Queue ends were set by the caller before.
    pub(crate) fn publish(&self, effects: &[Effect], at: Applied) {
        for effect in effects {
            match effect {
                Effect::Genesis(genesis) => *self.genesis.write() = Some(genesis.clone()),
                Effect::TopicPut(topic) => {
                    self.topics.write().insert(topic.name().clone(), topic.clone());
                }
                Effect::TopicDropped(topic) => {
                    self.topics.write().remove(topic.name());
                    if !ledgermq_dledger::plant::on(ledgermq_dledger::plant::Bug::IncarnationIgnored) {
                        self.offsets.write().remove_topic(topic.key());
                    }
                }
                Effect::GroupPut { group, settings } => {
                    self.groups.write().insert(group.clone(), settings.clone());
                }
                Effect::GroupDropped { group, clean_offsets } => {
                    self.groups.write().remove(group);
                    if *clean_offsets {
                        self.offsets.write().remove_group(group);
                    }
                }
                Effect::OffsetSet { group, topic, queue, committed } => {
                    self.offsets.write().set(group, topic, *queue, *committed);
                }
                Effect::LockSet { key, lock } => self.locks.write().set(key.clone(), lock.clone()),
                Effect::LockDropped(key) => {
                    self.locks.write().remove(key);
                }
                Effect::Truncated(kept) => *self.kept.write() = *kept,
            }
        }
        if !effects.is_empty() {
            self.resets.store(self.offsets.read().resets(), Ordering::Release);
        }
        self.topics_version.store(at.topics_version, Ordering::Release);
        self.groups_version.store(at.groups_version, Ordering::Release);
        self.last_store_ms.store(at.last_store_ms, Ordering::Release);
        self.waiting_timers.store(at.waiting_timers, Ordering::Release);
        *self.applied.write() = at.frame;
        self.applied_index.store(at.frame.index, Ordering::Release);
    }

    /// Takes everything that `other` holds over, a snapshot's state, which is empty afterwards.
    pub(crate) fn take_over(&self, other: &Tables) {
        *self.topics.write() = std::mem::take(&mut *other.topics.write());
        *self.groups.write() = std::mem::take(&mut *other.groups.write());
        *self.offsets.write() = std::mem::take(&mut *other.offsets.write());
        self.resets.store(self.offsets.read().resets(), Ordering::Release);
        *self.locks.write() = std::mem::take(&mut *other.locks.write());
        *self.genesis.write() = other.genesis.write().take();
        *self.kept.write() = other.kept();
        self.topics_version.store(other.topics_version(), Ordering::Release);
        self.groups_version.store(other.groups_version(), Ordering::Release);
        self.last_store_ms.store(other.last_store_ms(), Ordering::Release);
        self.waiting_timers.store(other.waiting_timers(), Ordering::Release);
        *self.applied.write() = other.applied();
        self.applied_index.store(other.applied_index(), Ordering::Release);
    }

    /// Visits the committed offsets, for apply and the digest.
    pub(crate) fn with_offsets<R>(&self, visit: impl FnOnce(&Offsets) -> R) -> R {
        visit(&self.offsets.read())
    }
}

/// Up to where the tables are, and the marks that go with it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Applied {
    pub(crate) frame: FramePos,
    pub(crate) topics_version: u64,
    pub(crate) groups_version: u64,
    pub(crate) last_store_ms: u64,
    pub(crate) waiting_timers: u64,
}

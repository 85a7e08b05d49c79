//! State as of the last frame taken in, the open round included: what the next frame is applied to.
//!
//! The tables show the state of the last *finished* round to everyone else; this is a step ahead of them, and collects the
//! [`Effect`]s that will bring them here.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use ledgermq_dledger::plant::{self, Bug};

use super::timers::LiveTimers;
use crate::command::{
    Command, CommitOffsets, Genesis, GroupSettings, LockQueues, PutSubscriptionGroup, PutTopic, QueueOfTopic,
    UnlockQueues,
};
use crate::stamp::incarnation_of;
use crate::tables::{Committed, Effect, GroupQueue, Kept, Locks, QueueLock, Topic, TopicKey};

/// Expired locks that a command drops beside its own work, so that those of clients that are gone do not pile up.
const EXPIRED_LOCKS_DROPPED: usize = 64;

/// See the module.
#[derive(Default)]
pub(super) struct Live {
    pub(super) topics: HashMap<Arc<str>, LiveTopic>,
    pub(super) groups: HashMap<Arc<str>, Arc<GroupSettings>>,
    pub(super) locks: Locks,
    /// Offsets that a reset has put there and that no consumer has taken up.
    pub(super) resets: BTreeMap<GroupQueue, u64>,
    pub(super) genesis: Option<Arc<Genesis>>,
    /// Where the messages begin that are kept.
    pub(super) kept: Kept,
    pub(super) timers: LiveTimers,
    pub(super) last_store_ms: u64,
    pub(super) topics_version: u64,
    pub(super) groups_version: u64,
    /// Effects of the open round.
    pub(super) effects: Vec<Effect>,
}

/// A topic and the ends of its queues.
pub(super) struct LiveTopic {
    pub(super) topic: Arc<Topic>,
    pub(super) next: Vec<u64>,
    /// First offset kept of each queue.
    pub(super) min: Vec<u64>,
    /// Where the message at that offset lies, as far as somebody has looked; else 0. Saves a read per queue and truncation.
    pub(super) min_pos: Vec<u64>,
    /// Where in the round's list of queues each queue stands; [`UNTOUCHED`] when it has no new message.
    pub(super) touched: Vec<usize>,
}

/// See [`LiveTopic::touched`].
pub(super) const UNTOUCHED: usize = usize::MAX;

impl LiveTopic {
    pub(super) fn new(topic: Arc<Topic>) -> Self {
        let next: Vec<u64> = (0..topic.queue_count()).map(|queue| topic.next_offset(queue)).collect();
        let min: Vec<u64> = (0..topic.queue_count()).map(|queue| topic.min_offset(queue)).collect();
        let (min_pos, touched) = (vec![0; next.len()], vec![UNTOUCHED; next.len()]);
        LiveTopic { topic, next, min, min_pos, touched }
    }
}

impl Live {
    /// Takes in the command of the entry `index`. What it asks for and cannot get is left out: the stamper has refused what
    /// somebody waits for, and a command must mean the same on every replica, whatever it is.
    pub(super) fn command(&mut self, index: u64, command: Command) {
        match command {
            Command::Genesis(genesis) => self.genesis(index, genesis),
            Command::PutTopic(put) => self.put_topic(index, put),
            Command::DeleteTopic(delete) => self.delete_topic(index, &delete.topic),
            Command::PutSubscriptionGroup(put) => self.put_group(index, put),
            Command::DeleteSubscriptionGroup(delete) => {
                if let Some((group, _)) = self.groups.remove_entry(delete.group.as_str()) {
                    self.groups_version = index;
                    self.drop_locks(self.locks.of_group(&group));
                    if delete.clean_offsets {
                        self.resets.retain(|key, _| key.group != group);
                    }
                    self.effects.push(Effect::GroupDropped { group, clean_offsets: delete.clean_offsets });
                }
            }
            Command::CommitOffsets(commit) => self.set_offsets(commit, Self::commit),
            Command::ResetOffsets(reset) => self.set_offsets(reset, Self::reset),
            Command::TakeUpResets(taken) => self.set_offsets(taken, Self::take_up),
            Command::LockQueues(lock) => self.lock_queues(&lock),
            Command::UnlockQueues(unlock) => self.unlock_queues(&unlock),
            Command::TruncatePrefix(_) | Command::MoveTimers(_) => {
                unreachable!("the machine takes it in: it needs files or the store")
            }
        }
    }

    fn genesis(&mut self, index: u64, genesis: Genesis) {
        if self.genesis.is_some() {
            return;
        }
        let genesis = Arc::new(genesis);
        self.effects.push(Effect::Genesis(genesis.clone()));
        genesis.topics.iter().for_each(|put| self.put_topic(index, put.clone()));
        genesis.groups.iter().for_each(|put| self.put_group(index, put.clone()));
        self.genesis = Some(genesis);
    }

    fn put_topic(&mut self, index: u64, put: PutTopic) {
        let topic = match self.topics.get_mut(put.topic.as_str()) {
            Some(_) if !put.replace => return,
            Some(live) => {
                live.topic = Arc::new(live.topic.with_settings(put.settings));
                let queues = live.topic.queue_count() as usize;
                live.next.resize(queues, 0);
                live.min.resize(queues, 0);
                live.min_pos.resize(queues, 0);
                live.touched.resize(queues, UNTOUCHED);
                live.topic.clone()
            }
            None => {
                let key = TopicKey { name: put.topic.into(), incarnation: incarnation_of(index) };
                let topic = Arc::new(Topic::new(key, put.settings));
                self.topics.insert(topic.name().clone(), LiveTopic::new(topic.clone()));
                topic
            }
        };
        self.topics_version = index;
        self.effects.push(Effect::TopicPut(topic));
    }

    fn delete_topic(&mut self, index: u64, name: &str) {
        if let Some(live) = self.topics.remove(name) {
            self.topics_version = index;
            self.drop_locks(self.locks.of_topic(live.topic.key()));
            self.resets.retain(|key, _| key.topic != *live.topic.key());
            self.effects.push(Effect::TopicDropped(live.topic));
        }
    }

    fn put_group(&mut self, index: u64, put: PutSubscriptionGroup) {
        if self.groups.contains_key(put.group.as_str()) && !put.replace {
            return;
        }
        let group: Arc<str> = put.group.into();
        let settings = Arc::new(put.settings);
        self.groups.insert(group.clone(), settings.clone());
        self.groups_version = index;
        self.effects.push(Effect::GroupPut { group, settings });
    }

    /// Goes through the offsets of a command; `set` says what one of them comes to, if anything.
    fn set_offsets(&mut self, command: CommitOffsets, set: impl Fn(&mut Self, &GroupQueue, u64) -> Option<Committed>) {
        for commit in command.offsets {
            let Some((group, _)) = self.groups.get_key_value(commit.group.as_str()) else { continue };
            let Some(live) = self.topics.get(commit.topic.as_str()) else { continue };
            let alive = live.topic.incarnation() == commit.incarnation || plant::on(Bug::IncarnationIgnored);
            let reached = live.next.get(commit.queue as usize).is_some_and(|next| commit.offset <= *next);
            if !alive || !reached {
                continue;
            }
            let key = GroupQueue { group: group.clone(), topic: live.topic.key().clone(), queue: commit.queue };
            if let Some(committed) = set(self, &key, commit.offset) {
                let GroupQueue { group, topic, queue } = key;
                self.effects.push(Effect::OffsetSet { group, topic, queue, committed });
            }
        }
    }

    /// A consumer got so far: of no weight while a reset waits, since the consumer may not know of it.
    fn commit(&mut self, key: &GroupQueue, offset: u64) -> Option<Committed> {
        (!self.resets.contains_key(key)).then_some(Committed { offset, is_reset: false })
    }

    fn reset(&mut self, key: &GroupQueue, offset: u64) -> Option<Committed> {
        self.resets.insert(key.clone(), offset);
        Some(Committed { offset, is_reset: true })
    }

    /// A consumer goes on where a reset has put its group. One that another reset has replaced is not taken up.
    fn take_up(&mut self, key: &GroupQueue, offset: u64) -> Option<Committed> {
        (self.resets.get(key) == Some(&offset)).then(|| {
            self.resets.remove(key);
            Committed { offset, is_reset: false }
        })
    }

    /// Grants what is free, expired, or held by the same client; the rest stays as it is. Time is the command's: no replica looks
    /// at a clock.
    fn lock_queues(&mut self, lock: &LockQueues) {
        self.drop_locks(self.locks.expired(lock.at_ms, EXPIRED_LOCKS_DROPPED + lock.queues.len()));
        let (group, client_id): (Arc<str>, Arc<str>) = (lock.group.as_str().into(), lock.client_id.as_str().into());
        for queue in &lock.queues {
            let Some(key) = self.lock_key(&group, queue) else { continue };
            let holder = self.locks.get(&key);
            if holder.is_some_and(|holder| holder.client_id != client_id && holder.expires_ms > lock.at_ms) {
                continue;
            }
            let lock = QueueLock { client_id: client_id.clone(), expires_ms: lock.at_ms.saturating_add(lock.lease_ms) };
            self.locks.set(key.clone(), lock.clone());
            self.effects.push(Effect::LockSet { key, lock });
        }
    }

    fn unlock_queues(&mut self, unlock: &UnlockQueues) {
        let group: Arc<str> = unlock.group.as_str().into();
        let is_held = |key: &GroupQueue| {
            let holder = self.locks.get(key);
            holder.is_some_and(|holder| *holder.client_id == *unlock.client_id)
        };
        let asked = unlock.queues.iter().filter_map(|queue| self.lock_key(&group, queue));
        let held: Vec<GroupQueue> = asked.filter(is_held).collect();
        self.drop_locks(held);
    }

    /// A queue that exists, as a lock names it.
    fn lock_key(&self, group: &Arc<str>, queue: &QueueOfTopic) -> Option<GroupQueue> {
        let topic = &self.topics.get(queue.topic.as_str())?.topic;
        let there = topic.incarnation() == queue.incarnation && queue.queue < topic.queue_count();
        there.then(|| GroupQueue { group: group.clone(), topic: topic.key().clone(), queue: queue.queue })
    }

    fn drop_locks(&mut self, keys: Vec<GroupQueue>) {
        for key in keys {
            if self.locks.remove(&key).is_some() {
                self.effects.push(Effect::LockDropped(key));
            }
        }
    }
}

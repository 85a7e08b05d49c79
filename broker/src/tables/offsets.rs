//! Committed consumer offsets in memory: by group, then topic with incarnation, then queue.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::TopicKey;

/// Set in the number that stands for an offset which a reset has put there: queue offsets have 63 bits.
const RESET_BIT: u64 = 1 << 63;

/// Where a group goes on in a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// Next queue offset to consume, below 2^63.
    pub offset: u64,
    /// Whether a reset put it there that no consumer has taken up yet: until then commits do not change it.
    pub is_reset: bool,
}

impl Committed {
    /// The number that is stored for it.
    pub(crate) fn bits(self) -> u64 {
        self.offset | if self.is_reset { RESET_BIT } else { 0 }
    }

    /// What [`Self::bits`] stands for.
    pub(crate) fn from_bits(bits: u64) -> Self {
        Committed { offset: bits & !RESET_BIT, is_reset: bits & RESET_BIT != 0 }
    }
}

/// A committed offset, as listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupOffset {
    /// Topic and incarnation.
    pub topic: TopicKey,
    /// Queue.
    pub queue: u32,
    /// Next queue offset to consume.
    pub offset: u64,
    /// As in [`Committed`].
    pub is_reset: bool,
}

/// All committed offsets.
#[derive(Debug, Default)]
pub(crate) struct Offsets {
    /// The numbers are those of [`Committed::bits`].
    groups: HashMap<Arc<str>, BTreeMap<TopicKey, BTreeMap<u32, u64>>>,
    len: usize,
    /// How many of them are resets.
    resets: usize,
}

impl Offsets {
    pub(crate) fn get(&self, group: &str, topic: &TopicKey, queue: u32) -> Option<Committed> {
        self.groups.get(group)?.get(topic)?.get(&queue).copied().map(Committed::from_bits)
    }

    pub(crate) fn set(&mut self, group: &Arc<str>, topic: &TopicKey, queue: u32, committed: Committed) {
        if !self.groups.contains_key(group) {
            self.groups.insert(group.clone(), BTreeMap::new());
        }
        let topics = self.groups.get_mut(group).expect("it was put in above");
        let queues = match topics.get_mut(topic) {
            Some(queues) => queues,
            None => topics.entry(topic.clone()).or_default(),
        };
        self.resets += usize::from(committed.is_reset);
        match queues.insert(queue, committed.bits()) {
            None => self.len += 1,
            Some(old) => self.resets -= count_reset(old),
        }
    }

    pub(crate) fn remove_topic(&mut self, topic: &TopicKey) {
        let Self { groups, len, resets } = self;
        groups.retain(|_, topics| {
            if let Some(queues) = topics.remove(topic) {
                *len -= queues.len();
                *resets -= count_resets(&queues);
            }
            !topics.is_empty()
        });
    }

    pub(crate) fn remove_group(&mut self, group: &str) {
        if let Some(topics) = self.groups.remove(group) {
            self.len -= topics.values().map(BTreeMap::len).sum::<usize>();
            self.resets -= topics.values().map(count_resets).sum::<usize>();
        }
    }

    pub(crate) fn of_group(&self, group: &str) -> Vec<GroupOffset> {
        let topics = self.groups.get(group).into_iter().flatten();
        topics
            .flat_map(|(topic, queues)| {
                queues.iter().map(|(&queue, &bits)| {
                    let Committed { offset, is_reset } = Committed::from_bits(bits);
                    GroupOffset { topic: topic.clone(), queue, offset, is_reset }
                })
            })
            .collect()
    }

    /// Groups and queues with an offset for `topic`, in no order.
    pub(crate) fn of_topic<'a>(&'a self, topic: &'a TopicKey) -> impl Iterator<Item = (&'a Arc<str>, u32)> {
        self.groups
            .iter()
            .filter_map(move |(group, topics)| Some((group, topics.get(topic)?)))
            .flat_map(|(group, queues)| queues.keys().map(move |&queue| (group, queue)))
    }

    /// Names of the groups with offsets, sorted.
    pub(crate) fn group_names(&self) -> Vec<Arc<str>> {
        let mut names: Vec<_> = self.groups.keys().cloned().collect();
        names.sort();
        names
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// How many of the offsets are resets that nobody has taken up.
    pub(crate) fn resets(&self) -> usize {
        self.resets
    }
}

fn count_reset(bits: u64) -> usize {
    usize::from(Committed::from_bits(bits).is_reset)
}

fn count_resets(queues: &BTreeMap<u32, u64>) -> usize {
    queues.values().copied().map(count_reset).sum()
}

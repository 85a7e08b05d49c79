//! Committed consumer offsets in memory: by group, then topic with incarnation, then queue.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::TopicKey;

/// A committed offset, as listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupOffset {
    /// Topic and incarnation.
    pub topic: TopicKey,
    /// Queue.
    pub queue: u32,
    /// Next queue offset to consume.
    pub offset: u64,
}

/// All committed offsets.
#[derive(Debug, Default)]
pub(crate) struct Offsets {
    groups: HashMap<Arc<str>, BTreeMap<TopicKey, BTreeMap<u32, u64>>>,
    len: usize,
}

impl Offsets {
    pub(crate) fn get(&self, group: &str, topic: &TopicKey, queue: u32) -> Option<u64> {
        self.groups.get(group)?.get(topic)?.get(&queue).copied()
    }

    pub(crate) fn set(&mut self, group: &Arc<str>, topic: &TopicKey, queue: u32, offset: u64) {
        if !self.groups.contains_key(group) {
            self.groups.insert(group.clone(), BTreeMap::new());
        }
        let topics = self.groups.get_mut(group).expect("it was put in above");
        let queues = match topics.get_mut(topic) {
            Some(queues) => queues,
            None => topics.entry(topic.clone()).or_default(),
        };
        if queues.insert(queue, offset).is_none() {
            self.len += 1;
        }
    }

    pub(crate) fn remove_topic(&mut self, topic: &TopicKey) {
        let len = &mut self.len;
        self.groups.retain(|_, topics| {
            *len -= topics.remove(topic).map_or(0, |queues| queues.len());
            !topics.is_empty()
        });
    }

    pub(crate) fn remove_group(&mut self, group: &str) {
        if let Some(topics) = self.groups.remove(group) {
            self.len -= topics.values().map(BTreeMap::len).sum::<usize>();
        }
    }

    pub(crate) fn of_group(&self, group: &str) -> Vec<GroupOffset> {
        let topics = self.groups.get(group).into_iter().flatten();
        topics
            .flat_map(|(topic, queues)| {
                queues.iter().map(|(&queue, &offset)| GroupOffset { topic: topic.clone(), queue, offset })
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
}

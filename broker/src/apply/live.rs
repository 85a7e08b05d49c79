//! State as of the last frame taken in, the open round included: what the next frame is applied to.
//!
//! The tables show the state of the last *finished* round to everyone else; this is a step ahead of them, and collects the
//! [`Effect`]s that will bring them here.

use std::collections::HashMap;
use std::sync::Arc;

use ledgermq_dledger::plant::{self, Bug};

use crate::command::{Command, CommitOffsets, Genesis, GroupSettings, PutSubscriptionGroup, PutTopic};
use crate::stamp::incarnation_of;
use crate::tables::{Effect, Topic, TopicKey};

/// See the module.
#[derive(Default)]
pub(super) struct Live {
    pub(super) topics: HashMap<Arc<str>, LiveTopic>,
    pub(super) groups: HashMap<Arc<str>, Arc<GroupSettings>>,
    pub(super) genesis: Option<Arc<Genesis>>,
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
    /// Where in the round's list of queues each queue stands; [`UNTOUCHED`] when it has no new message.
    pub(super) touched: Vec<usize>,
}

/// See [`LiveTopic::touched`].
pub(super) const UNTOUCHED: usize = usize::MAX;

impl LiveTopic {
    pub(super) fn new(topic: Arc<Topic>) -> Self {
        let next: Vec<u64> = (0..topic.queue_count()).map(|queue| topic.next_offset(queue)).collect();
        let touched = vec![UNTOUCHED; next.len()];
        LiveTopic { topic, next, touched }
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
                    self.effects.push(Effect::GroupDropped { group, clean_offsets: delete.clean_offsets });
                }
            }
            Command::CommitOffsets(commit) => self.commit_offsets(commit),
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

    fn commit_offsets(&mut self, commit: CommitOffsets) {
        for commit in commit.offsets {
            let Some((group, _)) = self.groups.get_key_value(commit.group.as_str()) else { continue };
            let Some(live) = self.topics.get(commit.topic.as_str()) else { continue };
            let alive = live.topic.incarnation() == commit.incarnation || plant::on(Bug::IncarnationIgnored);
            let reached = live.next.get(commit.queue as usize).is_some_and(|next| commit.offset <= *next);
            if alive && reached {
                self.effects.push(Effect::OffsetSet {
                    group: group.clone(),
                    topic: live.topic.key().clone(),
                    queue: commit.queue,
                    offset: commit.offset,
                });
            }
        }
    }
}

//! Projected state: what applied state will be once everything proposed so far is applied.
//!
//! A copy of the tables at the begin of a leadership, moved on by each item that the stamper takes, dropped at its end. It
//! knows only what decides over an item: which topics exist, with which settings and queue ends, which subscription groups,
//! and which delayed messages somebody has taken already.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::timers::Claims;
use crate::command::TopicSettings;
use crate::tables::Tables;

/// Incarnation of a topic that the genesis command of this leadership creates: its index was not known when the command was
/// made. Whatever incarnation a client then names is that one, since an earlier or later one does not exist in the projection.
pub(super) const ANY_INCARNATION: u64 = 0;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Projection {
    pub(super) topics: HashMap<Arc<str>, ProjectedTopic>,
    pub(super) groups: HashSet<Arc<str>>,
    /// Queues of all topics together.
    pub(super) queues: usize,
    /// Store timestamp given last: the next is not smaller.
    pub(super) last_store_ms: u64,
    /// Log position in front of which messages are given up.
    pub(super) kept_pos: u64,
    /// Delayed messages whose wait ends with an entry in flight.
    pub(super) claims: Claims,
}

/// A topic as it will be.
#[derive(Debug)]
pub(super) struct ProjectedTopic {
    pub(super) settings: TopicSettings,
    pub(super) incarnation: u64,
    /// Next queue offset of each queue that ever was, as in [`crate::tables::Topic`].
    pub(super) next: Vec<u64>,
    /// Where the choice of a queue goes on.
    rotation: u32,
}

impl Projection {
    /// Applied state as it is now.
    pub(super) fn of(tables: &Tables) -> Self {
        let mut projection = Projection {
            last_store_ms: tables.last_store_ms(),
            kept_pos: tables.kept().pos,
            claims: Claims::since(tables.applied_index()),
            ..Projection::default()
        };
        for topic in tables.topics() {
            let next = (0..topic.queue_count()).map(|queue| topic.next_offset(queue)).collect::<Vec<_>>();
            projection.queues += next.len();
            let projected = ProjectedTopic {
                settings: topic.settings().clone(),
                incarnation: topic.incarnation(),
                next,
                rotation: 0,
            };
            projection.topics.insert(topic.name().clone(), projected);
        }
        projection.groups = tables.groups().into_iter().map(|(name, _)| name).collect();
        projection
    }

    /// A topic is created, or gets other settings.
    pub(super) fn put_topic(&mut self, name: Arc<str>, settings: TopicSettings, incarnation: u64) {
        let queues = settings.queues() as usize;
        match self.topics.get_mut(&name) {
            Some(topic) => {
                self.queues += queues.saturating_sub(topic.next.len());
                topic.next.resize(topic.next.len().max(queues), 0);
                topic.settings = settings;
            }
            None => {
                self.queues += queues;
                let next = vec![0; queues];
                self.topics.insert(name, ProjectedTopic { settings, incarnation, next, rotation: 0 });
            }
        }
    }

    /// A topic is deleted.
    pub(super) fn drop_topic(&mut self, name: &str) {
        if let Some(topic) = self.topics.remove(name) {
            self.queues -= topic.next.len();
        }
    }
}

impl ProjectedTopic {
    /// A queue for a message that may go to any: all write queues in turn.
    pub(super) fn choose_queue(&mut self) -> u32 {
        let queue = self.rotation % self.settings.write_queues.max(1);
        self.rotation = self.rotation.wrapping_add(1);
        queue
    }
}

//! One-way offset commits on their way into the log, coalesced: without I/O and without a clock of its own.
//!
//! Consumers commit every few seconds, and a PULL may carry a commit; one log entry each would cost more than the messages.
//! So a leader keeps the last commit of each key and proposes all of them as one command at most [`COMMIT_INTERVAL_MS`]
//! later. Whoever drives it (a timer, the handlers) takes the commands out and proposes them:
//!
//! - [`OffsetBuffer::put`] for a one-way commit; when it says the buffer is full, take all and propose first;
//! - [`OffsetBuffer::take_due`] when the time comes, [`OffsetBuffer::take_group`] before a query of that group is answered,
//!   so that what was served never goes back, [`OffsetBuffer::take_all`] before a planned hand-over;
//! - [`OffsetBuffer::forget`] when a commit that waits for its answer is proposed: it replaces the buffered one of its key;
//! - [`OffsetBuffer::clear`] when leadership ends: the commits are lost, as one-way requests may be.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::command::{Command, CommitOffsets, OFFSETS_PER_COMMAND_MAX, OffsetCommit};
use crate::tables::TopicKey;

/// Longest time that a one-way commit waits, ms.
pub const COMMIT_INTERVAL_MS: u64 = 200;

/// Most keys in the buffer: some 10 MB, and 16 log entries when it is emptied.
pub const BUFFERED_OFFSETS_MAX: usize = 16 * OFFSETS_PER_COMMAND_MAX;

/// Commits that wait. Sorted, so that what is proposed does not depend on a hash seed.
#[derive(Debug, Default)]
pub struct OffsetBuffer {
    groups: BTreeMap<Arc<str>, BTreeMap<(TopicKey, u32), u64>>,
    len: usize,
    /// When the oldest of them came; `None` while there are none.
    since_ms: Option<u64>,
}

impl OffsetBuffer {
    /// An empty buffer.
    pub fn new() -> Self {
        Self::default()
    }

    /// Keeps a commit, in place of the one of the same key. `now_ms` is any monotone clock. `false` when the buffer is full
    /// and the commit was not kept.
    pub fn put(&mut self, now_ms: u64, group: &Arc<str>, topic: &TopicKey, queue: u32, offset: u64) -> bool {
        if let Some(kept) = self.groups.get_mut(group).and_then(|keys| keys.get_mut(&(topic.clone(), queue))) {
            *kept = offset;
            return true;
        }
        if self.len >= BUFFERED_OFFSETS_MAX {
            return false;
        }
        self.groups.entry(group.clone()).or_default().insert((topic.clone(), queue), offset);
        self.len += 1;
        self.since_ms.get_or_insert(now_ms);
        true
    }

    /// When [`OffsetBuffer::take_due`] will have something, on the clock of `put`.
    pub fn due_at_ms(&self) -> Option<u64> {
        self.since_ms.map(|since| since + COMMIT_INTERVAL_MS)
    }

    /// All that waits, when the oldest of it has waited long enough; else nothing.
    pub fn take_due(&mut self, now_ms: u64) -> Vec<Command> {
        if self.due_at_ms().is_some_and(|due| due <= now_ms) { self.take_all() } else { Vec::new() }
    }

    /// All that waits for one group.
    pub fn take_group(&mut self, group: &str) -> Vec<Command> {
        let Some((group, keys)) = self.groups.remove_entry(group) else { return Vec::new() };
        self.removed(keys.len());
        commands(&BTreeMap::from([(group, keys)]))
    }

    /// All that waits.
    pub fn take_all(&mut self) -> Vec<Command> {
        let groups = std::mem::take(&mut self.groups);
        self.removed(self.len);
        commands(&groups)
    }

    /// Drops the commit of this key: a later one is being proposed on its own.
    pub fn forget(&mut self, group: &str, topic: &TopicKey, queue: u32) {
        let Some(keys) = self.groups.get_mut(group) else { return };
        if keys.remove(&(topic.clone(), queue)).is_some() {
            if keys.is_empty() {
                self.groups.remove(group);
            }
            self.removed(1);
        }
    }

    /// Drops everything.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Number of commits that wait.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn removed(&mut self, count: usize) {
        self.len -= count;
        if self.len == 0 {
            self.since_ms = None;
        }
    }
}

fn commands(groups: &BTreeMap<Arc<str>, BTreeMap<(TopicKey, u32), u64>>) -> Vec<Command> {
    let mut commands = Vec::new();
    let mut offsets = Vec::new();
    for (group, keys) in groups {
        for ((topic, queue), &offset) in keys {
            offsets.push(OffsetCommit {
                group: group.to_string(),
                topic: topic.name.to_string(),
                incarnation: topic.incarnation,
                queue: *queue,
                offset,
            });
            if offsets.len() == OFFSETS_PER_COMMAND_MAX {
                commands.push(Command::CommitOffsets(CommitOffsets { offsets: std::mem::take(&mut offsets) }));
            }
        }
    }
    if !offsets.is_empty() {
        commands.push(Command::CommitOffsets(CommitOffsets { offsets }));
    }
    commands
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(incarnation: u64) -> TopicKey {
        TopicKey { name: "T".into(), incarnation }
    }

    fn offsets(commands: &[Command]) -> Vec<(String, u64, u32, u64)> {
        let lists = commands.iter().map(|command| match command {
            Command::CommitOffsets(commit) => &commit.offsets,
            other => panic!("{other:?}"),
        });
        lists.flatten().map(|c| (c.group.clone(), c.incarnation, c.queue, c.offset)).collect()
    }

    /// The last commit of a key counts, also when it goes back; and nothing waits longer than it may.
    #[test]
    fn the_last_commit_of_a_key_leaves_in_time() {
        let (g, h): (Arc<str>, Arc<str>) = ("g".into(), "h".into());
        let mut buffer = OffsetBuffer::new();
        assert!(buffer.put(1000, &g, &topic(1), 0, 50));
        assert!(buffer.put(1100, &g, &topic(1), 0, 20));
        assert!(buffer.put(1100, &g, &topic(2), 0, 7));
        assert!(buffer.put(1150, &h, &topic(1), 3, 9));
        assert_eq!(buffer.due_at_ms(), Some(1200));
        assert!(buffer.take_due(1199).is_empty());
        let due = offsets(&buffer.take_due(1200));
        assert_eq!(due, [("g".into(), 1, 0, 20), ("g".into(), 2, 0, 7), ("h".into(), 1, 3, 9)]);
        assert!(buffer.is_empty() && buffer.due_at_ms().is_none() && buffer.take_due(9999).is_empty());
    }

    /// A query must see what its group committed before, and an answered commit must not be undone by an older one.
    #[test]
    fn a_group_leaves_alone_and_an_answered_commit_replaces() {
        let (g, h): (Arc<str>, Arc<str>) = ("g".into(), "h".into());
        let mut buffer = OffsetBuffer::new();
        buffer.put(0, &g, &topic(1), 0, 1);
        buffer.put(0, &g, &topic(1), 1, 2);
        buffer.put(5, &h, &topic(1), 0, 3);
        buffer.forget("g", &topic(1), 0);
        buffer.forget("g", &topic(2), 1);
        assert_eq!(offsets(&buffer.take_group("g")), [("g".into(), 1, 1, 2)]);
        assert!(buffer.take_group("g").is_empty() && buffer.len() == 1);
        buffer.forget("h", &topic(1), 0);
        assert!(buffer.is_empty() && buffer.due_at_ms().is_none());
    }

    /// Memory stays bounded whatever consumers do, and a command never passes its limit.
    #[test]
    fn bounded_in_keys_and_per_command() {
        let g: Arc<str> = "g".into();
        let mut buffer = OffsetBuffer::new();
        for queue in 0..BUFFERED_OFFSETS_MAX as u32 {
            assert!(buffer.put(0, &g, &topic(1), queue, 1));
        }
        assert!(!buffer.put(0, &g, &topic(2), 0, 1));
        assert!(buffer.put(0, &g, &topic(1), 5, 2), "a key that is there costs nothing");
        let commands = buffer.take_all();
        assert_eq!(commands.len(), BUFFERED_OFFSETS_MAX / OFFSETS_PER_COMMAND_MAX);
        assert!(commands.iter().all(|command| command.check().is_ok()));
    }
}

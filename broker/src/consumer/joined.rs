//! Which groups each connection is in: bounded per connection, and known at its end. Shared by the tables of consumers and of
//! producers, each under its own lock.

use std::collections::HashMap;

/// Connection to the groups that it has joined; none has an empty list.
#[derive(Debug, Default)]
pub(super) struct JoinedGroups(HashMap<u64, Vec<String>>);

impl JoinedGroups {
    /// A connection joins a group, again or for the first time. False when it is in `max` others already; nothing has changed then.
    pub(super) fn add(&mut self, connection: u64, group: &str, max: usize) -> bool {
        let joined = self.0.entry(connection).or_default();
        if joined.iter().any(|other| other == group) {
            return true;
        }
        let has_room = joined.len() < max;
        if has_room {
            joined.push(group.to_owned());
        }
        has_room
    }

    /// It leaves a group.
    pub(super) fn forget(&mut self, connection: u64, group: &str) {
        if let Some(joined) = self.0.get_mut(&connection) {
            joined.retain(|other| other != group);
            if joined.is_empty() {
                self.0.remove(&connection);
            }
        }
    }

    /// It has ended: the groups that it was in.
    pub(super) fn take(&mut self, connection: u64) -> Vec<String> {
        self.0.remove(&connection).unwrap_or_default()
    }

    #[cfg(test)]
    pub(super) fn connections(&self) -> usize {
        self.0.len()
    }
}

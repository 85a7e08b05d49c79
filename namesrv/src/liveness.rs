//! Who is alive: when each member was last heard of, for how long that counts, and whether its connection still stands.
//!
//! Fed by registrations, heartbeats and closed connections; read by [`crate::route_table`], which carries out what an expiry
//! means. It has no clock: every call brings the time, in milliseconds since any fixed moment.

use std::collections::HashMap;

/// A broker process in one broker name: one Remoting address.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MemberKey {
    /// Broker name.
    pub broker_name: String,
    /// Address as advertised.
    pub addr: String,
}

/// The connection on which a member speaks. Unique in the process.
pub type ConnectionId = u64;

#[derive(Debug, Clone, Copy)]
struct Life {
    last_seen_ms: u64,
    timeout_ms: u64,
    connection: ConnectionId,
    connected: bool,
}

impl Life {
    fn ends_at_ms(&self) -> u64 {
        self.last_seen_ms.saturating_add(self.timeout_ms)
    }
}

/// The live table. Its size is bounded by the route table's bound on members.
#[derive(Debug, Default)]
pub struct LiveTable {
    members: HashMap<MemberKey, Life>,
    /// A moment before which nobody can expire, so that most calls need not look.
    quiet_until_ms: u64,
}

impl LiveTable {
    /// `key` was heard of on `connection`; it lives for `timeout_ms` from now. Returns whether its connection was lost before.
    pub fn touch(&mut self, key: MemberKey, connection: ConnectionId, timeout_ms: u64, now_ms: u64) -> bool {
        let life = Life { last_seen_ms: now_ms, timeout_ms, connection, connected: true };
        self.quiet_until_ms = self.quiet_until_ms.min(life.ends_at_ms());
        self.members.insert(key, life).is_some_and(|old| !old.connected)
    }

    /// Forgets `key`.
    pub fn remove(&mut self, key: &MemberKey) {
        self.members.remove(key);
    }

    /// Whether `key` is in the table.
    pub fn contains(&self, key: &MemberKey) -> bool {
        self.members.contains_key(key)
    }

    /// The time that `key` was given, in ms.
    pub fn timeout_ms(&self, key: &MemberKey) -> Option<u64> {
        self.members.get(key).map(|life| life.timeout_ms)
    }

    /// Whether the connection on which `key` last spoke still stands.
    pub fn is_connected(&self, key: &MemberKey) -> bool {
        self.members.get(key).is_some_and(|life| life.connected)
    }

    /// Number of members.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there is no member.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// `connection` is gone: returns the members that last spoke on it, in order. They stay alive until their time is over.
    pub fn lose_connection(&mut self, connection: ConnectionId) -> Vec<MemberKey> {
        let mut lost = Vec::new();
        for (key, life) in &mut self.members {
            if life.connected && life.connection == connection {
                life.connected = false;
                lost.push(key.clone());
            }
        }
        lost.sort();
        lost
    }

    /// Takes out those whose time is over at `now_ms`, in order.
    pub fn take_expired(&mut self, now_ms: u64) -> Vec<MemberKey> {
        if now_ms < self.quiet_until_ms {
            return Vec::new();
        }
        let mut expired: Vec<MemberKey> =
            self.members.iter().filter(|(_, life)| life.ends_at_ms() <= now_ms).map(|(key, _)| key.clone()).collect();
        for key in &expired {
            self.members.remove(key);
        }
        self.quiet_until_ms = self.members.values().map(Life::ends_at_ms).min().unwrap_or(u64::MAX);
        expired.sort();
        expired
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(addr: &str) -> MemberKey {
        MemberKey { broker_name: "broker-a".to_owned(), addr: addr.to_owned() }
    }

    /// A member must live exactly as long as its last sign allows, or routes name the dead or lose the living.
    #[test]
    fn a_member_lives_for_its_time_after_the_last_sign() {
        let mut live = LiveTable::default();
        live.touch(key("a:1"), 1, 10, 0);
        live.touch(key("b:1"), 2, 30, 0);
        assert!(live.take_expired(9).is_empty());
        live.touch(key("a:1"), 1, 10, 5);
        assert!(live.take_expired(14).is_empty());
        assert_eq!(live.take_expired(15), [key("a:1")]);
        assert!(live.contains(&key("b:1")));
        assert_eq!(live.take_expired(1000), [key("b:1")]);
        live.touch(key("c:1"), 3, 10, 1000);
        assert_eq!(live.take_expired(1010), [key("c:1")], "the quiet time ends earlier when somebody joins");
    }

    /// A closed connection must not be held against a member that has come back on another one.
    #[test]
    fn only_the_last_connection_counts() {
        let mut live = LiveTable::default();
        live.touch(key("a:1"), 1, 10, 0);
        assert!(!live.touch(key("a:1"), 2, 10, 1));
        assert!(live.lose_connection(1).is_empty());
        assert!(live.is_connected(&key("a:1")));
        assert_eq!(live.lose_connection(2), [key("a:1")]);
        assert!(!live.is_connected(&key("a:1")));
        assert!(live.touch(key("a:1"), 3, 10, 2));
        assert!(live.is_connected(&key("a:1")));
    }
}

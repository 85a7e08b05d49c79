//! Members of producer groups: who sends, so that tools can tell.
//!
//! Filled by heartbeats on every replica; emptied by UNREGISTER_CLIENT, by the end of a connection and by silence. It lives in
//! memory only and decides nothing: a producer that is not listed may send.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

use ledgermq_protocol::consumer_list::ProducerConnection;
use parking_lot::Mutex;
use thiserror::Error;

use super::group::{ClientInfo, MEMBER_EXPIRY};
use super::joined::JoinedGroups;
use crate::server::outbox::Connection;

/// Most live producer groups on one replica.
pub const PRODUCER_GROUPS_MAX: usize = 100_000;

/// Most producer groups of one connection: a client process has a few.
pub const PRODUCER_GROUPS_PER_CONNECTION_MAX: usize = 1_024;

/// Why a producer was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ProducerError {
    /// Too many groups are live.
    #[error("{PRODUCER_GROUPS_MAX} producer groups are live on this broker, no more can join")]
    Groups,
    /// The connection is in too many groups.
    #[error("a connection may be in {PRODUCER_GROUPS_PER_CONNECTION_MAX} producer groups")]
    GroupsOfConnection,
}

/// All producer groups of one replica.
#[derive(Debug, Default)]
pub struct ProducerGroups {
    /// One lock: it is held for map operations, which do not wait.
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Group to connection to producer.
    groups: HashMap<String, BTreeMap<u64, Producer>>,
    joined: JoinedGroups,
}

#[derive(Debug)]
struct Producer {
    client: ClientInfo,
    connection: Arc<Connection>,
    heard_at: Instant,
}

impl ProducerGroups {
    /// Takes a heartbeat of one group.
    ///
    /// # Errors
    /// [`ProducerError`] when a bound would be passed; nothing has changed then.
    pub fn join(
        &self,
        connection: &Arc<Connection>,
        group: &str,
        client: &ClientInfo,
        now: Instant,
    ) -> Result<(), ProducerError> {
        let mut inner = self.inner.lock();
        if !inner.groups.contains_key(group) && inner.groups.len() >= PRODUCER_GROUPS_MAX {
            return Err(ProducerError::Groups);
        }
        if !inner.joined.add(connection.id(), group, PRODUCER_GROUPS_PER_CONNECTION_MAX) {
            return Err(ProducerError::GroupsOfConnection);
        }
        let producer = Producer { client: client.clone(), connection: Arc::clone(connection), heard_at: now };
        inner.groups.entry(group.to_owned()).or_default().insert(connection.id(), producer);
        drop(inner);
        // The end of the connection may have passed between the read of the request and here: then nobody else clears this.
        if connection.has_ended() {
            self.drop_connection(connection.id());
        }
        Ok(())
    }

    /// A client leaves a group.
    pub fn leave(&self, connection: u64, group: &str) {
        let mut inner = self.inner.lock();
        inner.joined.forget(connection, group);
        inner.remove(group, connection);
    }

    /// A connection has ended: its client leaves all its groups.
    pub fn drop_connection(&self, connection: u64) {
        let mut inner = self.inner.lock();
        for group in inner.joined.take(connection) {
            inner.remove(&group, connection);
        }
    }

    /// Drops producers that were silent for [`MEMBER_EXPIRY`].
    pub fn expire(&self, now: Instant) {
        let mut inner = self.inner.lock();
        let is_silent = |producer: &Producer| now.saturating_duration_since(producer.heard_at) > MEMBER_EXPIRY;
        let mut silent: Vec<(String, u64)> = Vec::new();
        for (group, producers) in &inner.groups {
            let of_group = producers.iter().filter(|(_, producer)| is_silent(producer));
            silent.extend(of_group.map(|(connection, _)| (group.clone(), *connection)));
        }
        for (group, connection) in silent {
            inner.joined.forget(connection, &group);
            inner.remove(&group, connection);
        }
    }

    /// The producers of a group, in the order in which they connected; `None` when there is no such group.
    pub fn connections(&self, group: &str) -> Option<ProducerConnection> {
        let inner = self.inner.lock();
        let producers = inner.groups.get(group)?.values();
        let connection_set = producers.map(|producer| producer.client.listed(&producer.connection)).collect();
        Some(ProducerConnection { connection_set })
    }
}

impl Inner {
    fn remove(&mut self, group: &str, connection: u64) {
        if let Some(producers) = self.groups.get_mut(group) {
            producers.remove(&connection);
            if producers.is_empty() {
                self.groups.remove(group);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Duration;

    use ledgermq_protocol::remoting::command::Language;

    use super::*;

    fn connection(id: u64) -> Arc<Connection> {
        Connection::new(id, SocketAddr::from(([127, 0, 0, 1], id as u16)), 1 << 20)
    }

    fn client(id: &str) -> ClientInfo {
        ClientInfo { client_id: id.to_owned(), language: Language::Java, version: 493 }
    }

    fn listed(groups: &ProducerGroups, group: &str) -> Vec<String> {
        let connections = groups.connections(group).map(|listed| listed.connection_set).unwrap_or_default();
        connections.into_iter().map(|one| format!("{} {} {}", one.client_id, one.client_addr, one.language)).collect()
    }

    /// Who is listed must be there: a producer that left, was cut off or fell silent is none.
    #[test]
    fn producers_come_and_go() {
        let groups = ProducerGroups::default();
        let start = Instant::now();
        let (a, b, c) = (connection(1), connection(2), connection(3));
        for (connection, id) in [(&a, "a"), (&b, "b"), (&c, "c")] {
            groups.join(connection, "p", &client(id), start).unwrap();
            groups.join(connection, "q", &client(id), start).unwrap();
        }
        groups.join(&a, "p", &client("a"), start + MEMBER_EXPIRY).unwrap();
        assert_eq!(listed(&groups, "p"), ["a 127.0.0.1:1 JAVA", "b 127.0.0.1:2 JAVA", "c 127.0.0.1:3 JAVA"]);
        groups.leave(2, "p");
        groups.drop_connection(3);
        assert_eq!(listed(&groups, "p"), ["a 127.0.0.1:1 JAVA"]);
        assert_eq!(listed(&groups, "q").len(), 2);
        groups.expire(start + MEMBER_EXPIRY + Duration::from_millis(1));
        assert_eq!(listed(&groups, "p").len(), 1);
        assert!(groups.connections("q").is_none());
        groups.drop_connection(1);
        let inner = groups.inner.lock();
        assert!(inner.groups.is_empty() && inner.joined.connections() == 0);
    }

    /// A heartbeat that is handled after its connection ended must not leave a producer that nobody removes.
    #[test]
    fn a_closed_connection_leaves_no_producer() {
        let groups = ProducerGroups::default();
        let a = connection(1);
        a.close(crate::server::outbox::CloseReason::Peer);
        groups.join(&a, "p", &client("a"), Instant::now()).unwrap();
        assert!(groups.connections("p").is_none());
    }

    /// A client that invents groups must not fill the memory.
    #[test]
    fn joining_is_bounded() {
        let groups = ProducerGroups::default();
        let a = connection(1);
        let join = |n: usize| groups.join(&a, &format!("p{n}"), &client("a"), Instant::now());
        assert!((0..PRODUCER_GROUPS_PER_CONNECTION_MAX).all(|n| join(n).is_ok()));
        assert_eq!(join(PRODUCER_GROUPS_PER_CONNECTION_MAX), Err(ProducerError::GroupsOfConnection));
        assert_eq!(join(0), Ok(()));
    }
}

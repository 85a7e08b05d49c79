//! Which connection a client's replies go to: whoever answers a request-reply message names the client that asked, by its id.
//!
//! A heartbeat tells for sure which client a connection belongs to. Some clients send their first one 30 s after their first
//! request, and after a change of leader none has come yet, so a request itself is taken as a hint, until a heartbeat says
//! otherwise: its properties name its sender, but a message that was copied has those of somebody else. It lives in memory only and
//! is emptied by the ends of connections.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::joined::JoinedGroups;
use crate::server::outbox::Connection;

/// Most client ids of one connection: a client has one.
pub const CLIENTS_PER_CONNECTION_MAX: usize = 16;

/// Clients of one replica, by id. As many as there are connections, times [`CLIENTS_PER_CONNECTION_MAX`].
#[derive(Debug, Default)]
pub struct Requesters {
    /// One lock: it is held for map operations, which do not wait.
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    clients: HashMap<String, Requester>,
    /// Ids of each connection.
    ids: JoinedGroups,
}

#[derive(Debug)]
struct Requester {
    connection: Arc<Connection>,
    /// Whether a heartbeat said so.
    is_sure: bool,
}

impl Requesters {
    /// A heartbeat of this client came on this connection.
    pub fn heard(&self, client_id: &str, connection: &Arc<Connection>) {
        self.note(client_id, connection, true);
    }

    /// A request whose reply is to go to this client came on this connection.
    pub fn asked(&self, client_id: &str, connection: &Arc<Connection>) {
        self.note(client_id, connection, false);
    }

    fn note(&self, client_id: &str, connection: &Arc<Connection>, is_sure: bool) {
        let mut inner = self.inner.lock();
        if let Some(known) = inner.clients.get_mut(client_id) {
            if known.connection.id() == connection.id() {
                known.is_sure |= is_sure;
                return;
            }
            if known.is_sure && !is_sure && !known.connection.has_ended() {
                return;
            }
        }
        if !inner.ids.add(connection.id(), client_id, CLIENTS_PER_CONNECTION_MAX) {
            return;
        }
        let requester = Requester { connection: Arc::clone(connection), is_sure };
        if let Some(old) = inner.clients.insert(client_id.to_owned(), requester) {
            inner.ids.forget(old.connection.id(), client_id);
        }
        drop(inner);
        // The end of the connection may have passed between the read of the request and here: then nobody else clears this.
        if connection.has_ended() {
            self.drop_connection(connection.id());
        }
    }

    /// The connection of a client, while it lasts.
    pub fn find(&self, client_id: &str) -> Option<Arc<Connection>> {
        let inner = self.inner.lock();
        let known = inner.clients.get(client_id)?;
        (!known.connection.has_ended()).then(|| Arc::clone(&known.connection))
    }

    /// A connection has ended.
    pub fn drop_connection(&self, connection: u64) {
        let mut inner = self.inner.lock();
        for client_id in inner.ids.take(connection) {
            inner.clients.remove(&client_id);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::server::outbox::CloseReason;

    fn connection(id: u64) -> Arc<Connection> {
        Connection::new(id, SocketAddr::from(([127, 0, 0, 1], id as u16)), 1 << 20)
    }

    fn found(requesters: &Requesters, client_id: &str) -> Option<u64> {
        requesters.find(client_id).map(|connection| connection.id())
    }

    /// A reply must reach whoever asked: a copy of a request, sent by somebody else, must not draw it away.
    #[test]
    fn heartbeats_count_more_than_requests() {
        let requesters = Requesters::default();
        let (client, copier, again) = (connection(1), connection(2), connection(3));
        requesters.asked("c", &copier);
        assert_eq!(found(&requesters, "c"), Some(2), "a hint is better than nothing");
        requesters.asked("c", &client);
        assert_eq!(found(&requesters, "c"), Some(1), "the later hint counts");
        requesters.heard("c", &client);
        requesters.asked("c", &copier);
        assert_eq!(found(&requesters, "c"), Some(1));
        requesters.heard("c", &again);
        assert_eq!(found(&requesters, "c"), Some(3), "the client has connected anew");
        // The end of its former connection takes nothing away.
        requesters.drop_connection(1);
        assert_eq!(found(&requesters, "c"), Some(3));
        again.close(CloseReason::Peer);
        assert_eq!(found(&requesters, "c"), None);
        requesters.asked("c", &copier);
        assert_eq!(found(&requesters, "c"), Some(2), "what an ended connection was sure of is over");
    }

    /// A client that invents ids must not fill the memory, nor must one that is gone stay.
    #[test]
    fn it_is_bounded_and_emptied() {
        let requesters = Requesters::default();
        let a = connection(1);
        for n in 0..2 * CLIENTS_PER_CONNECTION_MAX {
            requesters.asked(&format!("c{n}"), &a);
        }
        assert_eq!(requesters.inner.lock().clients.len(), CLIENTS_PER_CONNECTION_MAX);
        requesters.drop_connection(1);
        let inner = requesters.inner.lock();
        assert!(inner.clients.is_empty() && inner.ids.connections() == 0);
        drop(inner);
        a.close(CloseReason::Peer);
        requesters.heard("c", &a);
        assert!(requesters.inner.lock().clients.is_empty(), "a heartbeat that is handled after the end");
    }
}

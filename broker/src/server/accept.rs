//! Accepts the clients of one group on its own port and starts their connections.
//!
//! The number of connections is bounded per node: one more is closed at once, with a line in the log, so that a flood cannot
//! take the file descriptors that the log and the peers need.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::connection::{self, ConnectionSettings, Service};
use super::log_gate::LogGate;
use super::outbox::{CloseReason, Connection};

/// Pause after a failed accept (no descriptor left): the listener would fail again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

static REFUSED: LogGate = LogGate::new();
static FAILED: LogGate = LogGate::new();

/// Connection numbers, unique in the process.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// What the servers of a node share.
#[derive(Debug, Clone)]
pub struct ServerSettings {
    /// For each connection.
    pub connection: ConnectionSettings,
    /// Slots for connections, shared by all groups of the node.
    pub slots: Arc<Semaphore>,
}

/// Serves one listener until `stop` turns true, then closes all its connections and returns when they have ended.
pub async fn serve<S: Service>(
    listener: TcpListener,
    settings: ServerSettings,
    service: Arc<S>,
    mut stop: watch::Receiver<bool>,
) {
    let mut open: Vec<Weak<Connection>> = Vec::new();
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((socket, peer)) => {
                    let Ok(slot) = Arc::clone(&settings.slots).try_acquire_owned() else {
                        if let Some(held_back) = REFUSED.pass() {
                            tracing::warn!(%peer, held_back, "connection refused: limits.connections_max is reached");
                        }
                        continue;
                    };
                    let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
                    let connection = Connection::new(id, peer, settings.connection.unread_bytes_max);
                    remember(&mut open, &connection);
                    let (service, settings) = (Arc::clone(&service), settings.connection.clone());
                    tasks.spawn(async move {
                        connection::run(socket, connection, settings, service).await;
                        drop(slot);
                    });
                }
                Err(error) => {
                    if let Some(held_back) = FAILED.pass() {
                        tracing::warn!(%error, held_back, "cannot accept a connection");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(ended) = tasks.join_next() => {
                if let Err(error) = ended && error.is_panic() {
                    tracing::error!(%error, "a connection task panicked");
                }
            }
            () = stopped(&mut stop) => break,
        }
    }
    drop(listener);
    for connection in open.iter().filter_map(Weak::upgrade) {
        connection.close(CloseReason::Stopping);
    }
    while tasks.join_next().await.is_some() {}
}

/// Waits for the order to stop; a node that is gone counts as one.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Keeps a connection in the list, dropping ended ones now and then.
fn remember(open: &mut Vec<Weak<Connection>>, connection: &Arc<Connection>) {
    if open.len() == open.capacity() {
        open.retain(|connection| connection.strong_count() > 0);
    }
    open.push(Arc::downgrade(connection));
}

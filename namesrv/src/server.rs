//! The running name server: the listener, its connections, the sweep of the dead, and what they share.
//!
//! The table stands behind one lock that is held for table work only, never across an await; watchers are woken by a counter.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::RwLock;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::config::{ConfigError, NamesrvConfig};
use crate::kv::KvConfig;
use crate::liveness::ConnectionId;
use crate::readiness::Grace;
use crate::route_table::{RouteTable, TableLimits};

pub(crate) mod connection;
mod outbox;

/// How often the dead are looked for. The table expires by itself at every registration; the sweep is for when none comes.
const SWEEP_INTERVAL: Duration = Duration::from_millis(250);

/// How long to wait after the system refused a connection (out of descriptors), before the next is accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Why a name server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The config is not usable.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The port cannot be had.
    #[error("cannot listen on {listen}: {error}; stop what uses the port, or choose another with listen (--listen)")]
    Listen {
        /// The address.
        listen: SocketAddr,
        /// The system's words.
        error: std::io::Error,
    },
}

/// A running name server. Dropping it stops it.
#[derive(Debug)]
pub struct Namesrv {
    local_addr: SocketAddr,
    stop: watch::Sender<bool>,
    accepting: Option<JoinHandle<()>>,
}

impl Namesrv {
    /// Binds the port and serves, on the current tokio runtime.
    ///
    /// # Errors
    /// [`StartError`] when the config or the port cannot be used.
    pub async fn start(config: NamesrvConfig) -> Result<Self, StartError> {
        config.validate()?;
        let listen = config.listen;
        let bound = async {
            let listener = TcpListener::bind(listen).await?;
            let local_addr = listener.local_addr()?;
            Ok((listener, local_addr))
        };
        let (listener, local_addr) = bound.await.map_err(|error| StartError::Listen { listen, error })?;
        let (stop, stopped) = watch::channel(false);
        let server = Arc::new(Server::new(config, stopped));
        info!(%local_addr, "name server listens");
        let accepting = tokio::spawn(accept(server, listener));
        Ok(Self { local_addr, stop, accepting: Some(accepting) })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Stops: the port is free and every connection closed when this returns.
    pub async fn shutdown(mut self) {
        self.stop.send_replace(true);
        if let Some(accepting) = self.accepting.take() {
            // It ends by itself; a panic in it was reported where it happened.
            let _ = accepting.await;
        }
    }
}

impl Drop for Namesrv {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

/// What connections and handlers share.
pub(crate) struct Server {
    pub(crate) config: NamesrvConfig,
    pub(crate) table: RwLock<RouteTable>,
    /// What tools keep here.
    pub(crate) kv: RwLock<KvConfig>,
    /// The table's generation, for those who wait for a change.
    pub(crate) changes: watch::Sender<u64>,
    /// Route watches that may still be parked.
    pub(crate) watches: Semaphore,
    /// Budget of [`connection::BUDGET_UNIT`] bytes each for large requests.
    large_requests: Semaphore,
    started: Instant,
    stopped: watch::Receiver<bool>,
    connections: AtomicUsize,
    next_connection: AtomicU64,
}

impl Server {
    fn new(config: NamesrvConfig, stopped: watch::Receiver<bool>) -> Self {
        let limits = TableLimits { members_max: config.members_max, topics_max: config.topics_max };
        Self {
            table: RwLock::new(RouteTable::new(limits)),
            kv: RwLock::default(),
            changes: watch::Sender::new(0),
            watches: Semaphore::new(config.watches_max),
            large_requests: Semaphore::new(config.inflight_bytes_max / connection::BUDGET_UNIT),
            started: Instant::now(),
            stopped,
            connections: AtomicUsize::new(0),
            next_connection: AtomicU64::new(1),
            config,
        }
    }

    /// Milliseconds since the start: the table's clock.
    pub(crate) fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// Changes the table and wakes the watchers if that changed what they see.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut RouteTable, u64) -> T) -> T {
        let now_ms = self.now_ms();
        let mut table = self.table.write();
        let outcome = change(&mut table, now_ms);
        let generation = table.generation();
        drop(table);
        // Two changes may get here in either order: the counter must not go back, or a watcher would sleep on.
        self.changes.send_if_modified(|known| {
            let newer = *known < generation;
            *known = generation.max(*known);
            newer
        });
        outcome
    }

    /// Whether an unknown topic can be said not to exist.
    pub(crate) fn is_ready(&self, table: &RouteTable) -> bool {
        let grace = Grace { min_ms: self.config.ready_min_ms, max_ms: self.config.ready_max_ms };
        grace.is_over(self.now_ms(), !table.is_empty(), table.all_led())
    }

    fn sweep(&self) {
        for key in self.change(RouteTable::expire) {
            info!(broker_name = key.broker_name, addr = key.addr, "broker expired");
        }
    }

    fn lose_connection(&self, connection: ConnectionId) {
        for key in self.change(|table, _| table.lose_connection(connection)) {
            info!(broker_name = key.broker_name, addr = key.addr, "connection of a broker lost");
        }
    }

    /// Ends once the server is told to stop.
    async fn stopped(&self) {
        // A dropped sender means the same.
        let _ = self.stopped.clone().wait_for(|stop| *stop).await;
    }
}

async fn accept(server: Arc<Server>, listener: TcpListener) {
    let mut connections = JoinSet::new();
    let mut sweep = tokio::time::interval(SWEEP_INTERVAL);
    sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((socket, peer)) => {
                    if server.connections.load(Ordering::Relaxed) >= server.config.connections_max {
                        warn!(%peer, max = server.config.connections_max, "connection refused: connections_max are open");
                        continue;
                    }
                    server.connections.fetch_add(1, Ordering::Relaxed);
                    let id = server.next_connection.fetch_add(1, Ordering::Relaxed);
                    connections.spawn(connection::serve(Arc::clone(&server), id, socket));
                }
                Err(error) => {
                    warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(ended) = connections.join_next() => {
                server.connections.fetch_sub(1, Ordering::Relaxed);
                if let Err(error) = ended {
                    warn!(%error, "a connection's task ended badly");
                }
            }
            _ = sweep.tick() => server.sweep(),
            () = server.stopped() => break,
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
    info!("name server stopped");
}

//! One broker node: the log's threads, one replica per group with its clients' port, registration, timers and the health page.
//!
//! [`BrokerNode::start`] puts them together in an order in which what can be refused is refused first (ports, the data folder,
//! identities), and [`BrokerNode::stop`] takes them apart so that everything acknowledged is durable and the peers know at once.

pub(crate) mod delay;
mod health;
mod layer;
pub(crate) mod leading;
mod measures;
mod retention;
pub(crate) mod room;
pub mod salvage;
mod timers;

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::fs::{File, TryLockError};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ledgermq_dledger::fs::OsFs;
use ledgermq_dledger::{GroupHandle, Node, NodeConfig, NodeError, PeerTlsFiles, RaftId, Scrub};
use ledgermq_protocol::message::id::UniqKeyMaker;
use ledgermq_protocol::remoting::frame::FrameLimits;
use parking_lot::Mutex;
use thiserror::Error;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use self::delay::{Timer, deliver};
use self::health::Health;
use self::layer::{Opened, set_up};
use self::leading::{give_back, hand_over_to_any, step_aside};
use self::room::Room;
use self::timers::run_timers;
use crate::apply::BrokerMachine;
use crate::config::{BrokerConfig, ConfigError, GroupConfig, Limits, PeerTlsConfig};
use crate::consumer::group::ConsumerGroups;
use crate::consumer::long_poll::ParkedPulls;
use crate::consumer::producers::ProducerGroups;
use crate::consumer::requesters::Requesters;
use crate::consumer::resets::ToldOfResets;
use crate::consumer::wake::run_woken;
use crate::delay::bell::TimerBell;
use crate::delay::moves::Waiting;
use crate::handler::pull::ParkedPull;
use crate::handler::runtime_info::FirstMessage;
use crate::handler::send::Sending;
use crate::http;
use crate::identity::{Identity, Members};
use crate::registration;
use crate::replica::{Gate, Replica, wall_clock_ms};
use crate::server::accept::{ServerSettings, serve};
use crate::server::admission::Budget;
use crate::server::connection::ConnectionSettings;
use crate::server::dispatch::Dispatch;
use crate::server::forward::Forwarder;
use crate::server::ticket::Ticket;
use crate::stamp::BrokerStamper;
use crate::stats::{Now, Stats};
use crate::store::RocksBudget;

/// Name of the file whose lock says that a data folder is in use.
const LOCK_FILE: &str = "LOCK";

/// How long a stop waits for clients' connections and registrations to end.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections that may wait to be accepted on each port.
const BACKLOG: u32 = 4_096;

/// Why a node does not start or stop.
#[derive(Debug, Error)]
pub enum StartError {
    /// The config.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A port.
    #[error("cannot listen on {address} ({key}): {error}; stop what uses the port, or set {key} to another one")]
    Listen {
        /// The config's key.
        key: String,
        /// The address.
        address: SocketAddr,
        /// The system's words.
        error: std::io::Error,
    },
    /// The data folder.
    #[error("cannot use the data folder {path}: {error}; set data_dir to a folder that this process may write", path = .path.display())]
    DataDir {
        /// The folder.
        path: PathBuf,
        /// The system's words.
        error: std::io::Error,
    },
    /// Somebody else uses the data folder.
    #[error("the data folder {path} is in use by another process: stop that one, or set data_dir to another folder", path = .path.display())]
    Locked {
        /// The folder.
        path: PathBuf,
    },
    /// The advertised address cannot be resolved.
    #[error("{key} {address} cannot be resolved: {reason}; set it to an address that clients can reach")]
    Advertise {
        /// The config's key.
        key: String,
        /// The address.
        address: String,
        /// The resolver's words.
        reason: String,
    },
    /// The data folder holds another replica than the config names.
    #[error("{path} holds replica {found} of group {group}, but the config's raft_id is {wanted}: correct raft_id or data_dir", path = .path.display())]
    Foreign {
        /// Folder of the group.
        path: PathBuf,
        /// Broker name.
        group: String,
        /// As found.
        found: RaftId,
        /// As configured.
        wanted: RaftId,
    },
    /// The log.
    #[error(transparent)]
    Node(#[from] NodeError),
}

/// A running node.
pub struct BrokerNode {
    node: Node<BrokerMachine>,
    replicas: Vec<Arc<Replica>>,
    forwarders: Vec<Arc<Forwarder>>,
    drain_linger: Duration,
    clients: JoinSet<()>,
    reports: JoinSet<()>,
    timers: JoinSet<()>,
    stop_clients: watch::Sender<bool>,
    stop_reports: watch::Sender<bool>,
    http: SocketAddr,
    /// Held while the node runs.
    _lock: File,
}

impl BrokerNode {
    /// Starts a node. The caller's runtime serves its clients.
    ///
    /// # Errors
    /// [`StartError`], in a sentence that says how to mend it; nothing is left running.
    pub async fn start(config: BrokerConfig) -> Result<Self, StartError> {
        config.validate()?;
        let lock = lock_data_dir(&config.data_dir)?;
        let http_listener = bind("http_listen", config.http_listen)?;
        let mut listeners = Vec::new();
        for (n, group) in config.groups.iter().enumerate() {
            listeners.push(bind(&format!("groups[{n}].listen"), group.listen)?);
        }
        let mut identities = Vec::new();
        for (n, group) in config.groups.iter().enumerate() {
            identities.push(Arc::new(identity(&config, group, n).await?));
        }

        let budget = RocksBudget::default();
        let (setups, parts): (Vec<_>, Vec<_>) =
            config.groups.iter().map(|group| set_up(&config, group, &budget)).unzip();
        let scrub = Scrub {
            bytes_per_second: config.limits.scrub_bytes_per_second,
            pause: Duration::from_millis(config.limits.scrub_pause_ms),
        };
        let peer_tls = config.peer_tls.clone().map(|PeerTlsConfig { cert, key, ca }| PeerTlsFiles { cert, key, ca });
        let node_config = NodeConfig {
            cluster_id: config.cluster_id,
            listen: config.raft_listen,
            peer_tls,
            fs: Arc::new(OsFs),
            scrub: (scrub.bytes_per_second > 0).then_some(scrub),
            boot_id: drill_boot_id(&config.data_dir),
        };
        // Recovery reads the log: not on a runtime thread.
        let started = tokio::task::spawn_blocking(move || Node::start(node_config, setups)).await;
        let (node, handles) = started.expect("opening a node does not panic on what it finds")?;

        let settings = server_settings(&config.limits);
        let (stop_clients, clients_stop) = watch::channel(false);
        let (stop_reports, reports_stop) = watch::channel(false);
        let (mut clients, mut reports, mut timers) = (JoinSet::new(), JoinSet::new(), JoinSet::new());
        let (mut replicas, mut woken) = (Vec::new(), Vec::new());
        let segment_sizes = handles.iter().map(|handle| handle.reader().layout().segment_size);
        let room = Room::new(&config.data_dir, config.disk_keep_bytes, segment_sizes);
        timers.spawn(Arc::clone(&room).watch());
        for (((group, handle), identity), parts) in config.groups.iter().zip(handles).zip(identities).zip(parts) {
            let opened = parts.opened.lock().clone().expect("an open node has opened its layers");
            let waiting = (parts.pulls, parts.woken.applied.clone(), parts.woken.timer_bell.clone());
            let room = Arc::clone(&room);
            replicas.push(Arc::new(make_replica(&config, group, handle, (identity, room), opened, waiting)));
            woken.push(parts.woken);
        }
        let forwarders: Vec<_> = replicas.iter().map(|replica| Forwarder::new(Arc::clone(replica))).collect();
        for (n, ((replica, listener), woken)) in replicas.iter().zip(listeners).zip(woken).enumerate() {
            let (group, forwarder) = (&config.groups[n], &forwarders[n]);
            if let Some(preferred) = group.preferred_leader.filter(|preferred| *preferred != group.raft_id) {
                timers.spawn(give_back(Arc::clone(replica), Arc::clone(forwarder), preferred));
            }
            timers.spawn(step_aside(Arc::clone(replica), Arc::clone(forwarder)));
            timers.spawn(retention::retain(Arc::clone(replica), config.retention(), config.groups.len()));
            replica.identity().members.follow(&replica.handle.membership());
            timers.spawn(follow_members(Arc::clone(replica)));
            let dispatch = Dispatch::new(Arc::clone(replica), replicas.clone(), Arc::clone(forwarder));
            clients.spawn(serve(listener, settings.clone(), Arc::new(dispatch), clients_stop.clone()));
            timers.spawn(run_woken(Arc::clone(replica), woken.pulls));
            timers.spawn(run_timers(Arc::clone(replica)));
            timers.spawn(deliver(Arc::clone(replica)));
            for namesrv in &config.namesrv {
                let (changed, stop) = (woken.topics_changed.clone(), reports_stop.clone());
                reports.spawn(registration::report(Arc::clone(replica), namesrv.clone(), changed, stop));
            }
        }
        let http = http_listener.local_addr().unwrap_or(config.http_listen);
        timers.spawn(http::serve(http_listener, Arc::new(Health { replicas: replicas.clone() })));
        tracing::info!(node = config.node_id, groups = replicas.len(), %http, "broker node started");
        let drain_linger = Duration::from_millis(config.drain_linger_ms);
        Ok(Self {
            node,
            replicas,
            forwarders,
            drain_linger,
            clients,
            reports,
            timers,
            stop_clients,
            stop_reports,
            http,
            _lock: lock,
        })
    }

    /// The replicas of this node.
    pub fn replicas(&self) -> &[Arc<Replica>] {
        &self.replicas
    }

    /// Where the health page is.
    pub fn http(&self) -> SocketAddr {
        self.http
    }

    /// Prepares a stop that no client notices: hands leadership over, then passes on what clients with an old address send, until
    /// they send no more, at most for [`BrokerConfig::drain_linger_ms`]. Can be given up at any time.
    pub async fn drain(&self) {
        let groups: Vec<_> = self.replicas.iter().cloned().zip(self.forwarders.iter().cloned()).collect();
        leading::drain(&groups, self.drain_linger).await;
    }

    /// Stops: hands leadership over, tells the name servers, closes the clients, makes everything durable.
    ///
    /// # Errors
    /// [`StartError::Node`] when the end was not clean: the next start recovers as after a crash.
    pub async fn stop(mut self) -> Result<(), StartError> {
        for (replica, forwarder) in self.replicas.iter().zip(&self.forwarders) {
            replica.draining.store(true, Ordering::Release);
            hand_over_to_any(replica, forwarder, "this node stops").await;
            // Alone in its group it still leads.
            replica.flush_all_offsets().await;
        }
        let _ = self.stop_reports.send(true);
        join_all(&mut self.reports, "registrations").await;
        let _ = self.stop_clients.send(true);
        join_all(&mut self.clients, "client connections").await;
        self.timers.shutdown().await;
        drop((self.replicas, self.forwarders));
        let node = self.node;
        let stopped = tokio::task::spawn_blocking(move || node.stop()).await;
        stopped.expect("stopping a node does not panic")?;
        tracing::info!("broker node stopped, everything is durable");
        Ok(())
    }
}

/// Keeps clients' addresses of the members as the log tells them. Runs until the task is aborted, or the log has ended.
async fn follow_members(replica: Arc<Replica>) {
    let mut membership = replica.handle.watch_membership();
    while membership.changed().await.is_ok() {
        let now = Arc::clone(&membership.borrow_and_update());
        replica.identity().members.follow(&now);
    }
}

fn make_replica(
    config: &BrokerConfig,
    group: &GroupConfig,
    handle: GroupHandle<BrokerStamper<Ticket>>,
    (identity, room): (Arc<Identity>, Arc<Room>),
    opened: Opened,
    (pulls, applied, bell): (Arc<ParkedPulls<ParkedPull>>, watch::Receiver<u64>, Arc<TimerBell>),
) -> Replica {
    let unique_keys = UniqKeyMaker::new(identity.store_host.ip(), std::process::id(), rand::random());
    let stats = Stats::new(&opened.tables, Now { monotone_ms: 0, wall_ms: wall_clock_ms() });
    let waiting = Waiting {
        rows: opened.timers,
        log: handle.reader().clone(),
        tables: Arc::clone(&opened.tables),
        store_host: identity.store_host,
    };
    Replica {
        sending: Sending {
            identity,
            tables: opened.tables,
            auto_create_topics: config.auto_create_topics,
            delay_max_ms: config.delay_max_ms,
            unique_keys: Mutex::new(unique_keys),
        },
        handle,
        consumers: ConsumerGroups::default(),
        producers: ProducerGroups::default(),
        requesters: Requesters::default(),
        told: ToldOfResets::default(),
        stats,
        first_message: Mutex::new(FirstMessage::default()),
        pulls,
        queues: opened.queues,
        keys: opened.keys,
        waiting,
        timer: Timer::new(bell),
        offsets: Mutex::default(),
        in_creation: Mutex::new(HashSet::new()),
        unrung: AtomicBool::new(false),
        applied,
        gate: Gate::default(),
        draining: AtomicBool::new(false),
        room,
        refuses_sends: AtomicBool::new(false),
        private_requests: config.insecure || group.listen.ip().is_loopback(),
        cluster_id: config.cluster_id,
        started: Instant::now(),
    }
}

fn server_settings(limits: &Limits) -> ServerSettings {
    ServerSettings {
        connection: ConnectionSettings {
            frame: FrameLimits::default(),
            idle: Duration::from_millis(limits.idle_ms),
            first_frame: Duration::from_millis(limits.first_frame_ms),
            unread_bytes_max: limits.unread_bytes_max,
            budget: Budget::new(limits.inflight_bytes_max),
            started: tokio::time::Instant::now(),
        },
        slots: Arc::new(Semaphore::new(limits.connections_max)),
    }
}

async fn join_all(tasks: &mut JoinSet<()>, what: &str) {
    let all = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(STOP_TIMEOUT, all).await.is_err() {
        tracing::warn!(what, "did not end in time");
        tasks.shutdown().await;
    }
}

/// Binds a port for clients. The backlog takes a burst of connections; an address that a former process has just left can be
/// bound again.
fn bind(key: &str, address: SocketAddr) -> Result<TcpListener, StartError> {
    let listen = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    listen().map_err(|error| StartError::Listen { key: key.to_owned(), address, error })
}

/// What drills say of the machine's boot: `LEDGERMQ_BOOT_ID_FILE` names a file, seen from the data folder, with a UUID that
/// changes whenever they take the power of the disk away, since the machine itself goes on.
fn drill_boot_id(data_dir: &Path) -> Option<uuid::Uuid> {
    let name = std::env::var_os("LEDGERMQ_BOOT_ID_FILE")?;
    std::fs::read_to_string(data_dir.join(name)).ok()?.trim().parse().ok()
}

fn lock_data_dir(dir: &Path) -> Result<File, StartError> {
    let failed = |error| StartError::DataDir { path: dir.to_owned(), error };
    std::fs::create_dir_all(dir).map_err(failed)?;
    let file = File::options().create(true).truncate(false).write(true).open(dir.join(LOCK_FILE)).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StartError::Locked { path: dir.to_owned() }),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

async fn identity(config: &BrokerConfig, group: &GroupConfig, n: usize) -> Result<Identity, StartError> {
    let advertised = group.advertised();
    Ok(Identity {
        cluster: config.cluster.clone(),
        broker_name: group.name.clone(),
        raft_id: group.raft_id,
        store_host: resolve(&format!("groups[{n}].advertise"), &advertised).await?,
        advertised,
        peer: group.member(group.raft_id).map(|own| own.raft.clone()).unwrap_or_default(),
        members: Members::of_config(group.members.iter().map(|member| (member.raft_id, member.broker.clone()))),
    })
}

/// The address that stands in records: an IPv4 one if there is any, since old clients read no other.
async fn resolve(key: &str, address: &str) -> Result<SocketAddr, StartError> {
    let failed = |reason: String| StartError::Advertise { key: key.to_owned(), address: address.to_owned(), reason };
    let found: Vec<SocketAddr> =
        tokio::net::lookup_host(address).await.map_err(|error| failed(error.to_string()))?.collect();
    let v4 = found.iter().find(|address| matches!(address.ip(), IpAddr::V4(_)));
    v4.or(found.first()).copied().ok_or_else(|| failed("no address".to_owned()))
}

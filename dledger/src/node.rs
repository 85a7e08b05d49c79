//! A node: all its groups on one raft loop, one log-io thread, one apply thread and one peer runtime. Opens the
//! replicas, starts the threads, and stops them in the order that leaves everything durable.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Instant;

use tokio::sync::watch;
use uuid::Uuid;

use crate::apply::{self, Applier};
use crate::doorbell::{Doorbell, Inbox};
use crate::fs::Fs;
use crate::group::GroupTuning;
use crate::handle::{GroupHandle, Published};
use crate::log::meta::Meta;
use crate::log::view::LogView;
use crate::log::writer::LogWriter;
use crate::log_io::{self, IoRequest};
use crate::queue::{QueueSender, queue};
use crate::raft_loop::{ApplyRequest, ApplyWanted, Channels, GroupSlot, LoopEvent, REQUESTS_MAX, RaftLoop, clock};
use crate::replica::{self, OpenError, OpenReplica, Supply};
use crate::scrub::{self, Scrub, Scrubbed};
use crate::seam::{Completions, MemberInfo, Stamper, StateMachine};
use crate::snapshot::serve::Gifts;
use crate::snapshot::work::{Connect, Progress, SnapshotWork, Turn};
use crate::transport::{self, Links, Local, LocalGroup, PeerTls, PeerTlsError, PeerTlsFiles};
use crate::types::{FramePos, GroupId, LogPos, RaftId};

/// Bytes per second at which spare segments are filled with zeros: beside the log, not before it.
const SPARE_PACE: u64 = 64 << 20;

/// Bytes per second that a node gives to members which take snapshots, all of them together.
const SNAPSHOT_RATE: u64 = 100 << 20;

/// What it takes to dial a peer from a thread of one's own; there once the node has started.
struct Dialler {
    runtime: tokio::runtime::Handle,
    local: Arc<Local>,
}

/// How a node connects to others for files.
fn connect_by(dialler: &Arc<OnceLock<Dialler>>) -> Connect {
    let dialler = Arc::clone(dialler);
    Arc::new(move |address| {
        let Dialler { runtime, local } =
            dialler.get().ok_or_else(|| io::Error::other("the node has not started yet"))?;
        runtime.block_on(transport::connect_for_files(local, address))
    })
}

/// A node's own settings.
pub struct NodeConfig {
    /// The cluster.
    pub cluster_id: Uuid,
    /// Address that peers dial.
    pub listen: SocketAddr,
    /// Certificates with which peers are met; without them it is in plain.
    pub peer_tls: Option<PeerTlsFiles>,
    /// The disk.
    pub fs: Arc<dyn Fs>,
    /// How logs are verified in the background; `None` for not at all.
    pub scrub: Option<Scrub>,
    /// Boot of the machine; `None` for what the system says. Drills name another one when they take the power of a disk away
    /// without a reboot.
    pub boot_id: Option<Uuid>,
}

/// A member of a group and where its node listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberAddress {
    /// Its number.
    pub raft_id: RaftId,
    /// `host:port` of its node; resolved at each connect.
    pub peer: String,
    /// `host:port` that its clients are told.
    pub client: String,
}

/// Makes the layer above of one group: see [`replica::open`].
pub type Layer<S, M> = Box<dyn FnMut(&Meta, &LogView) -> Result<(S, M), String> + Send>;

/// A group to run on the node. Its folder exists ([`replica::create`]).
pub struct GroupSetup<S: Stamper, M: StateMachine> {
    /// The group.
    pub group: GroupId,
    /// Its folder.
    pub dir: PathBuf,
    /// All members as the config tells them, this one included. Once the log tells of them, it counts.
    pub members: Vec<MemberAddress>,
    /// Limits and times.
    pub tuning: GroupTuning,
    /// Where outcomes go.
    pub completions: Box<dyn Completions<S>>,
    /// The layer above.
    pub layer: Layer<S, M>,
}

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// A replica.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The peer port.
    #[error("cannot listen for peers on {address}: {source}; choose another `raft_listen`")]
    Listen {
        /// As configured.
        address: SocketAddr,
        /// The system's own words.
        source: io::Error,
    },
    /// The certificates.
    #[error(transparent)]
    PeerTls(#[from] PeerTlsError),
    /// Threads or runtime.
    #[error("cannot start: {0}")]
    Start(#[from] io::Error),
    /// The configured members do not contain this replica.
    #[error("replica {raft_id} of group {group} is not among its configured members: correct the list of members")]
    NotAMember {
        /// The group.
        group: GroupId,
        /// This replica, by its folder.
        raft_id: RaftId,
    },
    /// Stopped, but not cleanly.
    #[error("the node did not stop cleanly: {0}")]
    Stop(String),
}

/// A running node.
pub struct Node<M: StateMachine> {
    events: Inbox<LoopEvent>,
    raft_loop: JoinHandle<Vec<Meta>>,
    log_io: JoinHandle<Vec<LogWriter>>,
    log_io_requests: QueueSender<IoRequest>,
    apply: JoinHandle<Vec<Applier<M>>>,
    apply_requests: QueueSender<ApplyRequest>,
    runtime: tokio::runtime::Runtime,
    /// The scrub thread, and what ends it when it is dropped.
    scrub: (JoinHandle<()>, crossbeam_channel::Sender<()>),
}

impl<M: StateMachine> Node<M> {
    /// Opens every group and starts to serve peers.
    ///
    /// # Errors
    /// [`NodeError`], in a sentence that says how to mend it; no thread is left behind.
    pub fn start<S: Stamper>(
        config: NodeConfig,
        groups: Vec<GroupSetup<S, M>>,
    ) -> Result<(Node<M>, Vec<GroupHandle<S>>), NodeError> {
        let started = Instant::now();
        let listener = TcpListener::bind(config.listen)
            .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
            .map_err(|source| NodeError::Listen { address: config.listen, source })?;

        let peer_tls = config.peer_tls.map(PeerTls::load).transpose()?.map(Arc::new);

        let bell = Doorbell::new()?;
        let (requests, requests_in) = crossbeam_channel::bounded(REQUESTS_MAX);
        // Bounded by the groups' limits on unwritten and unapplied bytes, not by a count: these must never block.
        let (events, events_in) = crossbeam_channel::unbounded();
        let (log_io_requests, log_io_in) = queue();
        let (apply_requests, apply_in) = queue();
        let requests = Inbox::new(requests, bell.clone());
        let events = Inbox::new(events, bell.clone());

        let mut local_groups = Vec::new();
        let mut own_address = String::new();
        let mut givers = HashMap::new();
        let dialler: Arc<OnceLock<Dialler>> = Arc::default();
        let connect = connect_by(&dialler);
        let turn = Arc::new(Turn::default());
        let (mut slots, mut writers, mut appliers, mut handles) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (slot, setup) in groups.into_iter().enumerate() {
            let params = OpenReplica {
                fs: &config.fs,
                dir: &setup.dir,
                expected: (config.cluster_id, setup.group),
                boot_id: config.boot_id.unwrap_or_else(boot_id),
                supply: Supply::Background { pace: SPARE_PACE },
                tuning: setup.tuning,
                seed: rand::random(),
                clock: clock(started),
                addresses: setup.members.iter().map(by_config).collect(),
            };
            let replica = replica::open(params, setup.layer)?;
            let raft_id = replica.identity.raft_id;
            let Some(own) = setup.members.iter().find(|member| member.raft_id == raft_id) else {
                return Err(NodeError::NotAMember { group: setup.group, raft_id });
            };
            own_address.clone_from(&own.peer);
            let membership = Arc::new(replica.core.membership().clone());
            local_groups.push(LocalGroup {
                group: setup.group,
                raft_id,
                replica: replica.identity.replica,
                membership: Arc::clone(&membership),
            });
            let (membership, membership_watch) = watch::channel(membership);
            let published = Arc::new(Published::default());
            let progress = Arc::new(Progress::default());
            published.applied.store(replica.core.applied_index(), Ordering::Release);
            published.commit.store(replica.core.commit_index(), Ordering::Release);
            let queued_bytes = Arc::new(AtomicUsize::new(0));
            let (role, role_watch) = watch::channel(replica.core.role());
            handles.push(GroupHandle {
                slot,
                group: setup.group,
                raft_id,
                input: requests.clone(),
                apply: apply_requests.clone(),
                queued_bytes: Arc::clone(&queued_bytes),
                published: Arc::clone(&published),
                role: role_watch,
                membership: membership_watch,
                view: replica.view,
                log_counters: replica.writer.counters(),
                snapshots: Arc::clone(&progress),
                measures: replica.core.measures(),
            });
            let giver = Arc::new(replica.giver);
            givers.insert(setup.group, Arc::clone(&giver));
            let snapshots = SnapshotWork {
                fs: Arc::clone(&config.fs),
                dir: setup.dir,
                meta: replica.meta,
                giver,
                events: events.clone(),
                connect: Arc::clone(&connect),
                turn: Arc::clone(&turn),
                progress,
                running: None,
            };
            slots.push(GroupSlot {
                core: replica.core,
                completions: setup.completions,
                published,
                queued_bytes,
                role,
                membership,
                addresses: setup.members.into_iter().map(|member| (member.raft_id, member.peer)).collect(),
                snapshots,
            });
            writers.push(replica.writer);
            appliers.push(replica.applier);
        }

        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("peer-io")
            .enable_io()
            .enable_time()
            .build()?;
        let local = Arc::new(Local::new(config.cluster_id, own_address, local_groups).secured(peer_tls.clone()));
        let links = {
            let _in_runtime = runtime.enter();
            peer_tls.map(|certificates| runtime.spawn(certificates.follow()));
            let listener = tokio::net::TcpListener::from_std(listener)?;
            let told = events.clone();
            let gives = Box::new(move |group, peer| {
                // The loop has ended when it takes nothing.
                let _ = told.try_send(LoopEvent::Gives { group, peer });
            });
            let gifts = Arc::new(Gifts::new(givers, SNAPSHOT_RATE, gives));
            let _ = dialler.set(Dialler { runtime: runtime.handle().clone(), local: Arc::clone(&local) });
            runtime.spawn(transport::listen(listener, Arc::clone(&local), events.clone(), gifts));
            Links::new(local, events.clone(), runtime.handle().clone(), bell)?
        };

        let handles_groups: Vec<GroupId> = handles.iter().map(GroupHandle::group).collect();
        let io_events = events.clone();
        let log_io = std::thread::Builder::new().name("log-io".into()).spawn(move || {
            let _guard = AbortOnPanic;
            let report = |slot, number, durable| {
                // The loop may have ended already.
                let _ = io_events.try_send(LoopEvent::Written { slot, number, durable });
            };
            log_io::run(&log_io_in, writers, report).unwrap_or_else(|(slot, error)| {
                let group = handles_groups[slot];
                fatal(&format!("the log of group {group} cannot be written: {error}; check the disk, then start again"))
            })
        })?;
        let apply_events = events.clone();
        let apply_wanted = Arc::new(ApplyWanted::default());
        let ring_wanted = Arc::clone(&apply_wanted);
        let published: Vec<Arc<Published>> = slots.iter().map(|slot| Arc::clone(&slot.published)).collect();
        let apply = std::thread::Builder::new().name("apply".into()).spawn(move || {
            let _guard = AbortOnPanic;
            let report = |slot: usize, at: FramePos, keep_from: LogPos| {
                published[slot].applied.store(at.index, Ordering::Release);
                let _ = apply_events.put(LoopEvent::Applied { slot, at, keep_from });
                if ring_wanted.is_set() {
                    apply_events.ring();
                }
            };
            apply::run(&apply_in, appliers, report)
                .unwrap_or_else(|(group, error)| fatal(&format!("the state of group {group} cannot go on: {error}")))
        })?;
        let logs: Vec<Scrubbed> = handles
            .iter()
            .map(|handle| Scrubbed { view: handle.view.clone(), published: Arc::clone(&handle.published) })
            .collect();
        let scrub_events = events.clone();
        let (stop_scrub, scrub_stopped) = crossbeam_channel::bounded(0);
        let report = move |slot, run| {
            // The loop may have ended already.
            let _ = scrub_events.try_send(LoopEvent::Damaged { slot, run });
        };
        let pace = config.scrub;
        let scrub = std::thread::Builder::new().name("scrub".into());
        let scrub = scrub.spawn(move || scrub::run(&logs, pace, &scrub_stopped, report))?;
        let scrub = (scrub, stop_scrub);
        let channels = Channels {
            requests: requests_in,
            events: events_in,
            log_io: log_io_requests.clone(),
            apply: apply_requests.clone(),
            apply_wanted,
        };
        let raft_loop = std::thread::Builder::new().name("raft-loop".into()).spawn(move || {
            let _guard = AbortOnPanic;
            RaftLoop::new(slots, channels, links, started).run().unwrap_or_else(|error| fatal(&error.to_string()))
        })?;
        Ok((Node { events, raft_loop, log_io, log_io_requests, apply, apply_requests, runtime, scrub }, handles))
    }

    /// Stops: no more messages, everything written is synced, everything applied is flushed, the meta files say that
    /// the end was clean.
    ///
    /// # Errors
    /// [`NodeError::Stop`]: the next start recovers as after a crash.
    pub fn stop(self) -> Result<(), NodeError> {
        let unclean = |what: &dyn std::fmt::Display| NodeError::Stop(what.to_string());
        // A receiver that is gone means that its thread has ended: the join below tells.
        let _ = self.events.try_send(LoopEvent::Stop);
        let (scrub, stop_scrub) = self.scrub;
        drop(stop_scrub);
        scrub.join().map_err(|_| unclean(&"the scrub thread panicked"))?;
        let metas = self.raft_loop.join().map_err(|_| unclean(&"the raft loop panicked"))?;
        let _ = self.log_io_requests.send(IoRequest::Stop);
        let _ = self.apply_requests.send(ApplyRequest::Stop);
        let writers = self.log_io.join().map_err(|_| unclean(&"log-io panicked"))?;
        let appliers = self.apply.join().map_err(|_| unclean(&"apply panicked"))?;
        self.runtime.shutdown_background();
        for mut applier in appliers {
            applier.flush().map_err(|error| unclean(&error))?;
        }
        for (writer, meta) in writers.into_iter().zip(metas) {
            writer.close(&meta).map_err(|error| unclean(&error))?;
        }
        Ok(())
    }
}

fn by_config(member: &MemberAddress) -> (RaftId, MemberInfo) {
    let info = MemberInfo { replica: Uuid::nil(), peer: member.peer.clone(), client: member.client.clone() };
    (member.raft_id, info)
}

/// The boot of this machine: when it changes, the page cache was lost.
fn boot_id() -> Uuid {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    text.trim().parse().unwrap_or_else(|_| Uuid::nil())
}

/// A broken invariant on one of the threads that hold the log must not leave the others answering.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

/// Ends the process before another message leaves. No clean-up: what is durable is durable.
fn fatal(reason: &str) -> ! {
    tracing::error!(%reason, "stopping at once");
    std::process::abort()
}

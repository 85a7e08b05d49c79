//! Peer connections: one pair per peer node for all groups, both directions apart.
//!
//! Each node dials every other node twice: a control lane (votes, heartbeats, answers) and a bulk lane (appends), so
//! that four megabytes of log never delay a heartbeat. A connection carries messages one way, in order. What cannot be
//! sent is dropped and the raft loop is told: Raft sends again, but must not believe it was sent.

pub mod codec;
mod handshake;
mod link;
mod listen;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::net::sockopt;
use tokio::sync::{mpsc, watch};
use uuid::Uuid;

use crate::raft_loop::{Doorbell, Inbox, LoopEvent};
use crate::seam::Membership;
use crate::transport::codec::PeerMessage;
use crate::types::{GroupId, RaftId};

/// Messages that may wait on one lane. Raft bounds what is in flight to a peer by 64 appends of 1 MiB; heartbeats and
/// answers are small.
const LANE_MESSAGES_MAX: usize = 512;

/// Which of the two connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lane {
    Control = 0,
    Bulk = 1,
}

/// Who this node is to its peers.
#[derive(Debug)]
pub(crate) struct Local {
    cluster_id: Uuid,
    /// Drawn at each start: messages of an earlier run of a peer are told apart by it.
    run_id: Uuid,
    /// `host:port` at which peers reach this node.
    address: String,
    groups: Mutex<Vec<LocalGroup>>,
    /// Changes with every membership: whoever was heard may have to go.
    changes: watch::Sender<()>,
}

/// A group that lives on this node.
#[derive(Debug, Clone)]
pub(crate) struct LocalGroup {
    pub(crate) group: GroupId,
    pub(crate) raft_id: RaftId,
    pub(crate) replica: Uuid,
    /// As applied here.
    pub(crate) membership: Arc<Membership>,
}

impl Local {
    /// A node in its new run.
    pub(crate) fn new(cluster_id: Uuid, address: String, groups: Vec<LocalGroup>) -> Local {
        let changes = watch::Sender::new(());
        Local { cluster_id, run_id: Uuid::new_v4(), address, groups: Mutex::new(groups), changes }
    }

    /// A group has another membership: who connects, and who is connected, is judged by it.
    pub(crate) fn set_membership(&self, group: GroupId, membership: &Arc<Membership>) {
        if let Some(ours) = self.groups.lock().iter_mut().find(|ours| ours.group == group) {
            ours.membership = Arc::clone(membership);
        }
        self.changes.send_replace(());
    }
}

/// The replicas that live at one address, as the tasks that dial it see them.
type Replicas = Arc<Mutex<Vec<(GroupId, RaftId)>>>;

/// A peer node: its lanes, and the replicas that live there. The tasks end when it is dropped.
struct Peer {
    lanes: [mpsc::Sender<PeerMessage>; 2],
    replicas: Replicas,
}

/// The sending ends, owned by the raft loop.
pub(crate) struct Links {
    local: Arc<Local>,
    peers: HashMap<String, Peer>,
    by_replica: HashMap<(GroupId, RaftId), String>,
    events: Inbox<LoopEvent>,
    runtime: tokio::runtime::Handle,
    bell: Doorbell,
}

impl Links {
    /// Nobody is dialled yet.
    pub(crate) fn new(
        local: Arc<Local>,
        events: Inbox<LoopEvent>,
        runtime: tokio::runtime::Handle,
        bell: Doorbell,
    ) -> Links {
        Links { local, peers: HashMap::new(), by_replica: HashMap::new(), events, runtime, bell }
    }

    /// The other members of a group, and where each is dialled. Whoever is not named is dropped.
    pub(crate) fn set_peers(&mut self, group: GroupId, peers: &BTreeMap<RaftId, String>) {
        let old = self.by_replica.iter().filter(|((of, _), _)| *of == group);
        let gone: Vec<_> = old.filter(|((_, id), at)| peers.get(id) != Some(at)).map(|(key, _)| *key).collect();
        for key in gone {
            let address = self.by_replica.remove(&key).expect("just seen");
            let peer = &self.peers[&address];
            peer.replicas.lock().retain(|replica| *replica != key);
            if peer.replicas.lock().is_empty() {
                self.peers.remove(&address);
            }
        }
        for (id, address) in peers {
            if self.by_replica.contains_key(&(group, *id)) {
                continue;
            }
            self.by_replica.insert((group, *id), address.clone());
            if !self.peers.contains_key(address) {
                let peer = self.dial(address);
                self.peers.insert(address.clone(), peer);
            }
            self.peers[address].replicas.lock().push((group, *id));
        }
    }

    fn dial(&self, address: &str) -> Peer {
        let replicas = Replicas::default();
        let lanes = [Lane::Control, Lane::Bulk].map(|lane| {
            let (sender, receiver) = mpsc::channel(LANE_MESSAGES_MAX);
            let peer = link::PeerNode { address: address.to_owned(), replicas: Arc::clone(&replicas) };
            self.runtime.spawn(link::run(Arc::clone(&self.local), peer, lane, receiver, self.events.clone()));
            sender
        });
        Peer { lanes, replicas }
    }

    /// Puts a message on its lane; `false` when it had to be dropped.
    pub(crate) fn send(&self, message: PeerMessage) -> bool {
        let address = self.by_replica.get(&(message.group, message.raft.to));
        let Some(peer) = address.and_then(|address| self.peers.get(address)) else {
            return false;
        };
        let lane = if message.is_bulk() { Lane::Bulk } else { Lane::Control };
        peer.lanes[lane as usize].try_send(message).is_ok()
    }

    /// Who this node is to its peers.
    pub(crate) fn local(&self) -> &Local {
        &self.local
    }

    pub(crate) fn bell(&self) -> &Doorbell {
        &self.bell
    }
}

/// After so much silence from a peer's kernel a connection is given up and dialled anew: without it, a partition that
/// heals leaves a lane mute for as long again as it lasted, by TCP's back-off.
const SILENCE_MAX: Duration = Duration::from_secs(2);

/// Has the kernel notice a peer that has gone without a word, on idle connections too.
fn notice_silence(stream: &tokio::net::TcpStream) -> io::Result<()> {
    sockopt::set_tcp_user_timeout(stream, SILENCE_MAX.as_millis() as u32)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, SILENCE_MAX)?;
    sockopt::set_tcp_keepintvl(stream, Duration::from_secs(1))?;
    sockopt::set_tcp_keepcnt(stream, 3)?;
    Ok(())
}

/// Accepts peers on `listener` until the runtime ends.
pub(crate) async fn listen(
    listener: tokio::net::TcpListener,
    local: Arc<Local>,
    messages: Inbox<PeerMessage>,
    events: Inbox<LoopEvent>,
) {
    loop {
        match listener.accept().await {
            Ok((stream, from)) => {
                let (local, messages, events) = (Arc::clone(&local), messages.clone(), events.clone());
                tokio::spawn(async move {
                    if let Err(error) = listen::serve(stream, &local, &messages, &events).await {
                        tracing::info!(peer = %from, %error, "peer connection ended");
                    }
                });
            }
            Err(error) => {
                // Out of file descriptors, mostly: other connections go on, and so does this loop after a pause.
                tracing::error!(%error, "cannot accept a peer connection");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

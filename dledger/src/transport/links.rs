//! All peer connections of a node, as the raft loop holds them: it sleeps on them, reads from them and writes to them.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::AbortHandle;

use super::codec::PeerMessage;
use super::incoming::Incoming;
use super::outgoing::Outgoing;
use super::poller::{Happened, Poller};
use super::{Handover, LANES, Lane, Local, link};
use crate::doorbell::{Doorbell, Inbox};
use crate::raft_loop::LoopEvent;
use crate::seam::Membership;
use crate::types::{GroupId, RaftId};

/// Connections of peers at a time: two per peer, and as many again that are about to be noticed as dead.
const INCOMING_MAX: usize = 256;

/// A peer node: its lanes, and the replicas that live there.
struct Peer {
    address: String,
    replicas: Vec<(GroupId, RaftId)>,
    lanes: [Outgoing; LANES],
    dialers: [AbortHandle; LANES],
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.dialers.iter().for_each(AbortHandle::abort);
    }
}

/// What a number of a socket stands for. Numbers of peers are odd or even by the lane, and never meet those of accepted
/// connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Socket {
    Outgoing(u64, Lane),
    Incoming(u64),
}

impl Socket {
    const INCOMING: u64 = 1 << 62;

    fn number(self) -> u64 {
        match self {
            Socket::Outgoing(peer, lane) => peer * LANES as u64 + lane as u64,
            Socket::Incoming(serial) => Socket::INCOMING + serial,
        }
    }

    fn of(number: u64) -> Socket {
        if number >= Socket::INCOMING {
            return Socket::Incoming(number - Socket::INCOMING);
        }
        let lane = if number % LANES as u64 == Lane::Control as u64 { Lane::Control } else { Lane::Bulk };
        Socket::Outgoing(number / LANES as u64, lane)
    }
}

/// The connections, owned by the raft loop.
pub(crate) struct Links {
    local: Arc<Local>,
    events: Inbox<LoopEvent>,
    runtime: tokio::runtime::Handle,
    bell: Doorbell,
    poller: Poller,
    happened: Vec<Happened>,
    /// Accepted connections that hold more than their last round took.
    unread: Vec<u64>,
    peers: BTreeMap<u64, Peer>,
    by_replica: HashMap<(GroupId, RaftId), u64>,
    incoming: BTreeMap<u64, Incoming>,
    /// Numbers of peers and accepted connections; none is used again.
    next_serial: u64,
    /// Replicas to which something was lost since [`Links::take_lost`].
    lost: Vec<(GroupId, RaftId)>,
}

impl Links {
    /// Nobody is dialled yet. Dialing tasks run on `runtime`.
    ///
    /// # Errors
    /// The system gives no `epoll`.
    pub(crate) fn new(
        local: Arc<Local>,
        events: Inbox<LoopEvent>,
        runtime: tokio::runtime::Handle,
        bell: Doorbell,
    ) -> io::Result<Links> {
        let poller = Poller::new(bell.clone())?;
        Ok(Links {
            local,
            events,
            runtime,
            bell,
            poller,
            happened: Vec::new(),
            unread: Vec::new(),
            peers: BTreeMap::new(),
            by_replica: HashMap::new(),
            incoming: BTreeMap::new(),
            next_serial: 0,
            lost: Vec::new(),
        })
    }

    /// The other members of a group, and where each is dialled. Whoever is not named is dropped; so are the connections to an
    /// address where nobody of interest is left.
    pub(crate) fn set_peers(&mut self, group: GroupId, wanted: &BTreeMap<RaftId, String>) {
        let peers = &self.peers;
        let old = self.by_replica.iter().filter(|((of, _), _)| *of == group);
        let moved = old.filter(|((_, id), at)| wanted.get(id) != Some(&peers[at].address));
        let moved: Vec<((GroupId, RaftId), u64)> = moved.map(|(replica, at)| (*replica, *at)).collect();
        for (replica, at) in moved {
            self.by_replica.remove(&replica);
            let peer = self.peers.get_mut(&at).expect("replicas live at peers");
            peer.replicas.retain(|it| *it != replica);
            if peer.replicas.is_empty() {
                self.peers.remove(&at);
            }
        }
        for (id, address) in wanted {
            let replica = (group, *id);
            if self.by_replica.contains_key(&replica) {
                continue;
            }
            let at = self.peers.iter().find(|(_, peer)| peer.address == *address).map(|(at, _)| *at);
            let at = at.unwrap_or_else(|| self.dial(address));
            self.peers.get_mut(&at).expect("just found").replicas.push(replica);
            self.by_replica.insert(replica, at);
        }
    }

    /// A group has another membership: who connects, and who is connected, is judged by it.
    pub(crate) fn set_membership(&mut self, group: GroupId, membership: &Arc<Membership>) {
        self.local.set_membership(group, membership);
        self.judge_incoming();
    }

    fn judge_incoming(&mut self) {
        self.incoming.retain(|_, incoming| {
            let Some(reason) = incoming.objection(&self.local) else { return true };
            tracing::info!(peer = %incoming.from(), %reason, "peer connection ended");
            false
        });
    }

    fn dial(&mut self, address: &str) -> u64 {
        let at = self.next_serial;
        self.next_serial += 1;
        let dialers = [Lane::Control, Lane::Bulk].map(|lane| {
            let task = link::run(Arc::clone(&self.local), at, address.to_owned(), lane, self.events.clone());
            self.runtime.spawn(task).abort_handle()
        });
        let peer = Peer { address: address.to_owned(), replicas: Vec::new(), lanes: Default::default(), dialers };
        self.peers.insert(at, peer);
        at
    }

    /// Sleeps until a peer socket or the bell wakes the loop, or the time is over.
    pub(crate) fn wait(&mut self, timeout: Duration) {
        let timeout = if self.unread.is_empty() { timeout } else { Duration::ZERO };
        self.poller.wait(timeout, &mut self.happened);
    }

    /// Takes over a connected socket.
    pub(crate) fn connected(&mut self, handover: Handover) {
        match handover {
            Handover::Dialled { peer: at, lane, stream, ended } => {
                // Dropped meanwhile: the dialing task has been told to end.
                let Some(peer) = self.peers.get_mut(&at) else { return };
                let number = Socket::Outgoing(at, lane).number();
                if let Err(error) = peer.lanes[lane as usize].connected(stream, ended, number, &self.poller) {
                    self.broke(at, lane, &error);
                }
            }
            Handover::Accepted(welcomed) => {
                if self.incoming.len() >= INCOMING_MAX {
                    tracing::warn!(peer = %welcomed.from, limit = INCOMING_MAX, "too many connections of peers");
                    return;
                }
                let serial = self.next_serial;
                self.next_serial += 1;
                let number = Socket::Incoming(serial).number();
                if let Err(error) = self.poller.add(&welcomed.stream, number) {
                    tracing::info!(peer = %welcomed.from, %error, "peer connection ended");
                    return;
                }
                let incoming = Incoming::new(welcomed);
                if incoming.holds_more() {
                    note_unread(&mut self.unread, serial);
                }
                self.incoming.insert(serial, incoming);
                // A membership may have changed on the way here.
                self.judge_incoming();
            }
        }
    }

    /// Reads and writes where that has become possible: votes, heartbeats and answers before appends.
    pub(crate) fn receive(&mut self, mut deliver: impl FnMut(PeerMessage)) {
        let mut happened = std::mem::take(&mut self.happened);
        let again = |serial| Happened { number: Socket::Incoming(serial).number(), readable: true, writable: false };
        happened.extend(self.unread.drain(..).map(again));
        for lane in [Lane::Control, Lane::Bulk] {
            for &Happened { number, readable, writable } in &happened {
                match Socket::of(number) {
                    Socket::Outgoing(at, of) if of == lane => self.outgoing_happened(at, lane, readable, writable),
                    Socket::Incoming(serial) => self.incoming_happened(serial, lane, &mut deliver),
                    Socket::Outgoing(..) => {}
                }
            }
        }
        self.happened = happened;
        self.happened.clear();
    }

    fn outgoing_happened(&mut self, at: u64, lane: Lane, readable: bool, writable: bool) {
        let Some(peer) = self.peers.get_mut(&at) else { return };
        let outgoing = &mut peer.lanes[lane as usize];
        let mut result = if readable { outgoing.readable() } else { Ok(()) };
        if result.is_ok() && writable {
            result = outgoing.flush(&self.poller);
        }
        if let Err(error) = result {
            self.broke(at, lane, &error);
        }
    }

    fn incoming_happened(&mut self, serial: u64, lane: Lane, deliver: &mut impl FnMut(PeerMessage)) {
        let Some(incoming) = self.incoming.get_mut(&serial).filter(|incoming| incoming.lane() == lane) else { return };
        let Err(error) = incoming.receive(deliver) else {
            if incoming.holds_more() {
                note_unread(&mut self.unread, serial);
            }
            return;
        };
        if error.kind() != io::ErrorKind::UnexpectedEof {
            tracing::info!(peer = %incoming.from(), %error, "peer connection ended");
        }
        self.incoming.remove(&serial);
    }

    /// Queues a message on its lane, for [`Links::flush`]; `false` when it had to be dropped.
    pub(crate) fn send(&mut self, message: &PeerMessage) -> bool {
        let at = self.by_replica.get(&(message.group, message.raft.to));
        let Some(peer) = at.and_then(|at| self.peers.get_mut(at)) else {
            return false;
        };
        let lane = if message.is_bulk() { Lane::Bulk } else { Lane::Control };
        peer.lanes[lane as usize].queue(message)
    }

    /// Writes what was queued, as far as the sockets take it.
    pub(crate) fn flush(&mut self) {
        let mut broken = Vec::new();
        for (at, peer) in &mut self.peers {
            for lane in [Lane::Control, Lane::Bulk] {
                if let Err(error) = peer.lanes[lane as usize].flush_new(&self.poller) {
                    broken.push((*at, lane, error));
                }
            }
        }
        for (at, lane, error) in broken {
            self.broke(at, lane, &error);
        }
    }

    /// Cuts off peers that take no bytes. Once a tick.
    pub(crate) fn tick(&mut self, now: Instant) {
        let lanes = self.peers.iter().flat_map(|(at, peer)| [Lane::Control, Lane::Bulk].map(|lane| (*at, peer, lane)));
        let stalled = lanes.filter(|(_, peer, lane)| peer.lanes[*lane as usize].is_stalled(now));
        for (at, lane) in stalled.map(|(at, _, lane)| (at, lane)).collect::<Vec<_>>() {
            self.broke(at, lane, &io::Error::new(io::ErrorKind::TimedOut, "peer takes no bytes"));
        }
    }

    fn broke(&mut self, at: u64, lane: Lane, error: &io::Error) {
        let Some(peer) = self.peers.get_mut(&at) else { return };
        tracing::info!(peer = %peer.address, ?lane, %error, "connection to peer broke");
        peer.lanes[lane as usize].close();
        self.lost.extend(&peer.replicas);
        // The groups are told in the next round.
        self.bell.ring();
    }

    /// Replicas to which messages were lost, or may have been, since the last call.
    pub(crate) fn take_lost(&mut self) -> Vec<(GroupId, RaftId)> {
        std::mem::take(&mut self.lost)
    }

    /// The replicas that live at a peer.
    pub(crate) fn replicas_of(&self, peer: u64) -> Vec<(GroupId, RaftId)> {
        self.peers.get(&peer).map_or_else(Vec::new, |peer| peer.replicas.clone())
    }

    /// The replicas at each other peer that is connected.
    pub(crate) fn connected_but(&self, peer: u64) -> impl Iterator<Item = &[(GroupId, RaftId)]> {
        let connected =
            self.peers.iter().filter(move |(at, it)| **at != peer && it.lanes[Lane::Control as usize].is_open());
        connected.map(|(_, it)| it.replicas.as_slice())
    }

    #[cfg(test)]
    pub(super) fn forget_incoming(&mut self) {
        self.incoming.clear();
    }

    /// Bytes behind the back of whatever seals the control lane.
    #[cfg(test)]
    pub(super) fn write_raw(&mut self, to: RaftId, group: GroupId, bytes: &[u8]) {
        let peer = &self.peers[&self.by_replica[&(group, to)]];
        peer.lanes[Lane::Control as usize].write_raw(bytes);
    }

    pub(crate) fn bell(&self) -> &Doorbell {
        &self.bell
    }
}

/// Once each: a connection that the socket wakes the loop for as well is read twice in a round, and would be noted once more each time.
fn note_unread(unread: &mut Vec<u64>, serial: u64) {
    if !unread.contains(&serial) {
        unread.push(serial);
    }
}

//! Real sockets over loopback: two nodes, each with a loop of its own that the test turns.

use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel::Receiver;
use raft::eraftpb::{Message, MessageType};
use uuid::Uuid;

use super::codec::{PeerMessage, WireFrame};
use super::{Links, Local, LocalGroup, PeerTls, listen};
use crate::doorbell::{Doorbell, Inbox};
use crate::log::frame::{Layout, make_header};
use crate::raft_loop::LoopEvent;
use crate::seam::{MemberInfo, Membership};
use crate::snapshot::serve::Gifts;
use crate::types::{FrameKind, FramePos, GroupId, RaftId};

pub(super) const GROUP: GroupId = GroupId(Uuid::from_u128(5));
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) struct Node {
    id: RaftId,
    pub(super) address: String,
    pub(super) links: Links,
    events: Receiver<LoopEvent>,
    pub(super) got: Vec<PeerMessage>,
    pub(super) lost: Vec<RaftId>,
    refused: usize,
    removed_by: Vec<RaftId>,
}

pub(super) fn replica(id: RaftId) -> Uuid {
    Uuid::from_u128(u128::from(id) * 11)
}

pub(super) fn membership(ids: &[RaftId]) -> Arc<Membership> {
    let info = |id| MemberInfo { replica: replica(id), peer: String::new(), client: String::new() };
    let members = ids.iter().map(|id| (*id, info(*id))).collect();
    Arc::new(Membership { voters: ids.to_vec(), members, highest: 3, ..Membership::default() })
}

/// A node that has no snapshots.
pub(super) fn no_gifts() -> Arc<Gifts> {
    Arc::new(Gifts::new(HashMap::new(), 1, Box::new(|_, _| {})))
}

impl Node {
    /// A node that listens; needs a runtime around it.
    pub(super) fn start(id: RaftId) -> Node {
        Node::secured(id, None)
    }

    /// The same, with certificates.
    fn secured(id: RaftId, tls: Option<Arc<PeerTls>>) -> Node {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let group = LocalGroup { group: GROUP, raft_id: id, replica: replica(id), membership: membership(&[1, 2, 3]) };
        let local = Arc::new(Local::new(Uuid::from_u128(1), address.clone(), vec![group]).secured(tls));
        let bell = Doorbell::new().unwrap();
        let (sender, events) = crossbeam_channel::unbounded();
        let inbox = Inbox::new(sender, bell.clone());
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        tokio::spawn(listen(listener, Arc::clone(&local), inbox.clone(), no_gifts()));
        let links = Links::new(local, inbox, tokio::runtime::Handle::current(), bell).unwrap();
        Node { id, address, links, events, got: Vec::new(), lost: Vec::new(), refused: 0, removed_by: Vec::new() }
    }

    /// Only the connections end: the listener goes on.
    pub(super) fn forget_connections(&mut self) {
        self.links.forget_incoming();
    }

    fn dials(&mut self, peers: &[(RaftId, &str)]) {
        let peers: BTreeMap<RaftId, String> = peers.iter().map(|(id, at)| (*id, (*at).to_owned())).collect();
        self.links.set_peers(GROUP, &peers);
    }

    /// One round as the raft loop makes it.
    fn turn(&mut self) {
        self.links.wait(Duration::from_millis(2));
        while let Ok(event) = self.events.try_recv() {
            match event {
                LoopEvent::Connected(handover) => self.links.connected(*handover),
                LoopEvent::Removed { by, .. } => self.removed_by.push(by),
                LoopEvent::Refused { peer } => self.refused += self.links.replicas_of(peer).len(),
                _ => unreachable!("no other thread is there"),
            }
        }
        let got = &mut self.got;
        self.links.receive(|message| got.push(message));
        self.lost.extend(self.links.take_lost().into_iter().map(|(_, id)| id));
    }

    pub(super) fn send(&mut self, to: RaftId, n: u64, payload: &[Bytes]) -> bool {
        let sent = self.links.send(&message(self.id, to, n, payload));
        self.links.flush();
        sent
    }
}

fn message(from: RaftId, to: RaftId, n: u64, payloads: &[Bytes]) -> PeerMessage {
    let kind = if payloads.is_empty() { MessageType::MsgHeartbeat } else { MessageType::MsgAppend };
    let mut raft = Message { from, to, term: 3, index: n, ..Message::default() };
    raft.set_msg_type(kind);
    let layout = Layout { segment_size: 64 << 20 };
    let mut prev = FramePos::ORIGIN;
    let frames = payloads.iter().enumerate().map(|(i, payload)| {
        let made = make_header(&layout, &prev, i as u64 + 1, 3, FrameKind::Messages, 1, payload);
        prev = made.0;
        WireFrame { header: made.1, payload: payload.clone() }
    });
    PeerMessage { group: GROUP, run: 1, frames: frames.collect(), raft, wall_ms: 0 }
}

/// Turns the nodes until it is so.
pub(super) fn until(nodes: &mut [&mut Node], what: &str, mut so: impl FnMut(&mut [&mut Node]) -> bool) {
    let start = Instant::now();
    while !so(nodes) {
        assert!(start.elapsed() < PATIENCE, "waited in vain: {what}");
        nodes.iter_mut().for_each(|node| node.turn());
    }
}

/// Sends until a first message has got through.
pub(super) fn meet(a: &mut Node, b: &mut Node) {
    let to = b.id;
    until(&mut [a, b], "both lanes connect", |nodes| {
        nodes[0].send(to, 0, &[]);
        nodes[0].send(to, 0, &[Bytes::from_static(b"x")]);
        nodes[1].got.iter().any(PeerMessage::is_bulk) && nodes[1].got.iter().any(|it| !it.is_bulk())
    });
    // Nothing more is on its way once a last one has come.
    until(&mut [a, b], "the lanes run dry", |nodes| {
        nodes[0].send(to, 1, &[]);
        nodes[0].send(to, 1, &[Bytes::from_static(b"x")]);
        let last =
            |bulk| nodes[1].got.iter().rev().find(|it| it.is_bulk() == bulk).is_some_and(|it| it.raft.index == 1);
        last(true) && last(false)
    });
    b.got.clear();
}

/// Two nodes of which the first has dialled the second; needs a runtime around it.
pub(super) fn pair(tls_a: Option<Arc<PeerTls>>, tls_b: Option<Arc<PeerTls>>) -> (Node, Node) {
    let (mut a, mut b) = (Node::secured(1, tls_a), Node::secured(2, tls_b));
    a.dials(&[(2, &b.address)]);
    meet(&mut a, &mut b);
    (a, b)
}

pub(super) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// Every message of a lane must arrive, whole and in order, whatever its size: raft-rs takes a gap in appends for a lost follower.
#[test]
fn messages_arrive_whole_and_in_order() {
    let runtime = runtime();
    let _inside = runtime.enter();
    let (mut a, mut b) = pair(None, None);
    whole_and_in_order(&mut a, &mut b);
}

pub(super) fn whole_and_in_order(a: &mut Node, b: &mut Node) {
    let sizes = [1, 5_000, 700_000, 3, 1_500_000, 262_144, 16_000, 4_000_000];
    let payloads: Vec<Bytes> = sizes.iter().map(|size| Bytes::from(vec![*size as u8; *size])).collect();
    for n in 0..100u64 {
        let payload = &payloads[n as usize % payloads.len()];
        until(&mut [a, b], "there is room", |nodes| nodes[0].send(2, 100 + n, std::slice::from_ref(payload)));
        until(&mut [a, b], "there is room", |nodes| nodes[0].send(2, 100 + n, &[]));
        if n % 8 == 0 {
            a.turn();
            b.turn();
        }
    }
    until(&mut [a, b], "all arrive", |nodes| nodes[1].got.iter().filter(|it| it.raft.index == 199).count() == 2);
    for bulk in [true, false] {
        let indexes: Vec<u64> =
            b.got.iter().filter(|it| it.is_bulk() == bulk && it.raft.index >= 100).map(|it| it.raft.index).collect();
        assert_eq!(indexes, (100..200).collect::<Vec<_>>());
    }
    for append in b.got.iter().filter(|it| it.is_bulk() && it.raft.index >= 100) {
        assert_eq!(append.frames[0].payload, payloads[(append.raft.index - 100) as usize % payloads.len()]);
    }
}

/// A peer that reads nothing must cost a bounded amount of memory, and heartbeats must not wait behind what waits for it.
#[test]
fn a_lane_that_is_full_drops_and_the_other_goes_on() {
    let runtime = runtime();
    let _inside = runtime.enter();
    let (mut a, mut b) = pair(None, None);
    full_lane(&mut a, &mut b);
}

pub(super) fn full_lane(a: &mut Node, b: &mut Node) {
    let payload = Bytes::from(vec![7; 1 << 20]);
    let mut taken = 0;
    while a.send(2, 100 + taken, std::slice::from_ref(&payload)) {
        taken += 1;
        assert!(taken < 200, "a lane without bound");
    }
    assert!(a.send(2, 7, &[]), "the control lane is another one");
    b.turn();
    until(&mut [a, b], "the heartbeat arrives", |nodes| nodes[1].got.iter().any(|it| it.raft.index == 7));
    let arrived = |node: &Node| node.got.iter().filter(|it| it.is_bulk() && it.raft.index >= 100).count() as u64;
    let before = arrived(b);
    assert!(before < taken, "the heartbeat came behind {before} of {taken} appends");
    until(&mut [a, b], "what was taken arrives", |nodes| arrived(nodes[1]) == taken);
    assert!(a.send(2, 99, &[payload]), "there is room again");
}

/// The loop must learn of a lost connection, since Raft believes what was sent to have been sent, and messages must flow again over
/// the next one. An ended process is told apart from silence.
#[test]
fn a_broken_connection_is_told_and_made_again() {
    let runtime = runtime();
    let inside = runtime.enter();
    let (mut a, mut b) = pair(None, None);
    let address = b.address.clone();
    b.forget_connections();
    until(&mut [&mut a], "the loss is told", |nodes| nodes[0].lost.contains(&2));
    meet(&mut a, &mut b);
    assert_eq!(a.refused, 0);
    drop(inside);
    drop(b);
    runtime.shutdown_timeout(Duration::from_secs(5));
    let runtime = self::runtime();
    let _inside = runtime.enter();
    let mut c = Node::start(1);
    c.dials(&[(2, &address)]);
    until(&mut [&mut c], "the refusal is told", |nodes| nodes[0].refused > 0);
}

/// Peers that the membership names no more are let go, and those that it names anew are dialled.
#[test]
fn peers_come_and_go() {
    let runtime = runtime();
    let _inside = runtime.enter();
    let (mut a, mut b, mut c) = (Node::start(1), Node::start(2), Node::start(3));
    let (at_b, at_c) = (b.address.clone(), c.address.clone());
    a.dials(&[(2, &at_b)]);
    meet(&mut a, &mut b);
    assert!(!a.send(3, 9, &[]), "nobody knows where it is");
    a.dials(&[(2, &at_b), (3, &at_c)]);
    meet(&mut a, &mut c);
    a.dials(&[(3, &at_c)]);
    assert!(!a.send(2, 9, &[]), "it was let go");
    assert!(a.send(3, 9, &[]), "the other one stayed connected");
    until(&mut [&mut a, &mut c], "it arrives", |nodes| nodes[1].got.iter().any(|it| it.raft.index == 9));
    // The address of a replica may change.
    a.dials(&[(3, &at_b)]);
    assert!(!a.send(3, 9, &[]), "not connected there yet");
    b.got.clear();
    until(&mut [&mut a, &mut b], "it is dialled at its new address", |nodes| {
        nodes[0].send(3, 11, &[]);
        nodes[1].got.iter().any(|it| it.raft.index == 11)
    });
}

/// Garbage, and messages in another's name, must end their connection and nothing else.
#[test]
fn what_cannot_be_ends_its_connection() {
    let runtime = runtime();
    let _inside = runtime.enter();
    let (mut a, mut b) = pair(None, None);
    let mut stranger = std::net::TcpStream::connect(&b.address).unwrap();
    stranger.write_all(&[0x55; 12]).unwrap();
    let mut answer = Vec::new();
    stranger.read_to_end(&mut answer).unwrap();
    assert_eq!(answer[0], 1, "refused in words");
    // In the name of replica 3, over the connection of replica 1.
    b.got.clear();
    assert!(a.links.send(&message(3, 2, 5, &[])));
    a.links.flush();
    a.lost.clear();
    until(&mut [&mut a, &mut b], "the connection ends", |nodes| nodes[0].lost.contains(&2));
    assert!(b.got.iter().all(|it| it.raft.from == 1), "it was heard");
    assert!(a.send(2, 6, &[Bytes::from_static(b"x")]), "the other lane goes on");
}

/// A replica that was removed must be heard no more, over the connections that it has either, and must learn why.
#[test]
fn a_removed_replica_is_cut_off_and_told() {
    let runtime = runtime();
    let _inside = runtime.enter();
    let (mut a, mut b) = pair(None, None);
    b.links.set_membership(GROUP, &membership(&[2, 3]));
    until(&mut [&mut a, &mut b], "it is told", |nodes| nodes[0].removed_by.contains(&2));
    b.got.clear();
    until(&mut [&mut a, &mut b], "it is connected again", |nodes| nodes[0].send(2, 7, &[]));
    for _ in 0..20 {
        a.turn();
        b.turn();
    }
    assert!(b.got.is_empty(), "it was heard");
}

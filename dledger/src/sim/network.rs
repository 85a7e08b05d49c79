//! The simulated network: per direction and lane a connection that delivers in order, until it breaks.
//!
//! Messages travel encoded, through the real codec. A connection loses what is under way when it breaks; what its
//! receiver had taken in already may still arrive, behind messages of the next connection.

use std::collections::HashMap;

use bytes::{Buf, Bytes, BytesMut};
use raft::eraftpb::MessageType;
use rand::Rng;
use rand::rngs::SmallRng;

use super::plan::NetworkPlan;
use crate::transport::codec::{self, PeerMessage};
use crate::types::RaftId;

/// A message under way.
#[derive(Debug, Clone)]
pub(super) struct Parcel {
    pub(super) from: RaftId,
    pub(super) to: RaftId,
    lane: Lane,
    connection: u64,
    /// Arrives even when its connection has broken.
    taken_in: bool,
    pub(super) bytes: Bytes,
}

type Lane = (RaftId, RaftId, bool);

#[derive(Debug, Default, Clone, Copy)]
struct Connection {
    number: u64,
    last_delivery: u64,
}

impl Connection {
    fn renew(&mut self) {
        *self = Connection { number: self.number + 1, last_delivery: 0 };
    }
}

/// What happens to a message.
pub(super) enum Fate {
    /// Arrives at these times (mostly one).
    Arrives(Vec<(u64, Parcel)>),
    /// Lost; whether the sender is told.
    Lost { told: bool },
}

pub(super) struct Network {
    plan: NetworkPlan,
    connections: HashMap<Lane, Connection>,
    /// Cuts by number: pairs of sender and receiver that hear nothing of each other.
    cuts: Vec<(u64, Vec<(RaftId, RaftId)>)>,
    next_cut: u64,
    /// Appends of this pair are lost.
    no_appends: Option<(RaftId, RaftId)>,
    /// Answers to appends take so long between this pair, and outlive their connection.
    held: Option<(RaftId, RaftId, u64)>,
}

impl Network {
    pub(super) fn new(plan: NetworkPlan) -> Network {
        Network { plan, connections: HashMap::new(), cuts: Vec::new(), next_cut: 0, no_appends: None, held: None }
    }

    /// From now on nothing is lost.
    pub(super) fn calm(&mut self) {
        self.heal_all();
        self.held = None;
        let delay = self.plan.delay.start..self.plan.delay.end.min(self.plan.delay.start + 3_000);
        self.plan = NetworkPlan { delay, loss: 0, duplicate: 0, spike: 0, spike_max: 1, reset: 0 };
    }

    pub(super) fn cut(&mut self, pairs: Vec<(RaftId, RaftId)>) -> u64 {
        self.next_cut += 1;
        self.cuts.push((self.next_cut, pairs));
        self.next_cut
    }

    pub(super) fn heal(&mut self, cut: u64) {
        self.cuts.retain(|(number, _)| *number != cut);
    }

    /// What `from` acknowledges to `to` stays under way for so long.
    pub(super) fn hold_answers(&mut self, from: RaftId, to: RaftId, time: u64) {
        self.held = Some((from, to, time));
    }

    /// What `from` appends does not reach `to`; all else does.
    pub(super) fn cut_appends(&mut self, from: RaftId, to: RaftId) {
        self.no_appends = Some((from, to));
    }

    /// What is sent from now on takes its usual time.
    pub(super) fn release(&mut self) {
        self.held = None;
    }

    pub(super) fn heal_all(&mut self) {
        self.cuts.clear();
        self.no_appends = None;
    }

    pub(super) fn is_cut(&self, from: RaftId, to: RaftId) -> bool {
        self.cuts.iter().any(|(_, pairs)| pairs.contains(&(from, to)))
    }

    /// All connections of a node break.
    pub(super) fn reset_node(&mut self, node: RaftId) {
        for ((from, to, _), connection) in &mut self.connections {
            if *from == node || *to == node {
                connection.renew();
            }
        }
    }

    pub(super) fn reset_pair(&mut self, from: RaftId, to: RaftId) {
        for bulk in [false, true] {
            self.connections.entry((from, to, bulk)).or_default().renew();
        }
    }

    pub(super) fn send(&mut self, message: &PeerMessage, now: u64, rng: &mut SmallRng) -> Fate {
        let (from, to) = (message.raft.from, message.raft.to);
        let mut chance = |in_10_000: u32| in_10_000 > 0 && rng.random_ratio(in_10_000, 10_000);
        let (reset, lost) = (chance(self.plan.reset), chance(self.plan.loss));
        let (spiked, doubled) = (chance(self.plan.spike), chance(self.plan.duplicate));
        let lane = (from, to, message.is_bulk());
        let connection = self.connections.entry(lane).or_default();
        if reset {
            connection.renew();
        }
        let append = message.raft.get_msg_type() == MessageType::MsgAppend;
        let lost = lost || (append && self.no_appends == Some((from, to)));
        if reset || lost || self.is_cut(from, to) {
            return Fate::Lost { told: reset || rng.random_bool(0.5) };
        }
        let mut delay = rng.random_range(self.plan.delay.clone());
        if spiked {
            delay += rng.random_range(0..self.plan.spike_max);
        }
        if let Some((_, _, time)) = self.held.filter(|it| (it.0, it.1) == (from, to) && is_answer(message)) {
            let connection = self.connections.entry(lane).or_default().number;
            let parcel = Parcel { from, to, lane, connection, taken_in: true, bytes: encode(message) };
            return Fate::Arrives(vec![(now + time, parcel)]);
        }
        let connection = self.connections.entry(lane).or_default();
        let at = (now + delay).max(connection.last_delivery);
        connection.last_delivery = at;
        let taken_in = rng.random_ratio(1, 4);
        let parcel = Parcel { from, to, lane, connection: connection.number, taken_in, bytes: encode(message) };
        let mut arrivals = vec![(at, parcel)];
        if doubled {
            let late = at + rng.random_range(0..20 * self.plan.delay.end);
            let again = Parcel { taken_in: true, ..arrivals[0].1.clone() };
            arrivals.push((late, again));
        }
        Fate::Arrives(arrivals)
    }

    /// The message, when it still gets through.
    pub(super) fn arrive(&self, parcel: Parcel) -> Option<PeerMessage> {
        let current = self.connections.get(&parcel.lane).map_or(0, |connection| connection.number);
        let broken = parcel.connection != current && !parcel.taken_in;
        if broken || self.is_cut(parcel.from, parcel.to) {
            return None;
        }
        Some(codec::decode(parcel.bytes).expect("what was encoded can be decoded"))
    }
}

fn is_answer(message: &PeerMessage) -> bool {
    message.raft.get_msg_type() == MessageType::MsgAppendResponse
}

/// The bytes behind the length field.
fn encode(message: &PeerMessage) -> Bytes {
    let mut pieces = Vec::new();
    codec::encode(message, &mut pieces);
    let mut all = BytesMut::with_capacity(message.encoded_len());
    pieces.iter().for_each(|piece| all.extend_from_slice(piece));
    let announced = all.get_u32_le() as usize;
    assert_eq!(announced, all.len(), "the length field says how much follows");
    all.freeze()
}

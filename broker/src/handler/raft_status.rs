//! LEDGER_RAFT_STATUS and LEDGER_STATE_DIGEST: our own requests, for `ledgermq admin`, drills and tests.
//!
//! Answered only where the port is on a loopback address or the node runs `insecure`: they tell about the inside.

use std::sync::Arc;

use ledgermq_dledger::{FramePos, GroupStatus, Role};
use ledgermq_protocol::remoting::response_code::ResponseCode;
use serde::Serialize;

use crate::replica::Replica;
use crate::server::outbox::Responder;

/// State of the groups of a node, as JSON.
#[derive(Debug, Serialize)]
struct NodeStatus {
    groups: Vec<RaftStatus>,
}

/// State of one replica's group, as JSON.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct RaftStatus {
    group: String,
    broker_name: String,
    raft_id: u64,
    /// "leader", "leader_not_ready", "follower" or "candidate".
    role: &'static str,
    term: u64,
    leader: Option<u64>,
    leader_address: Option<String>,
    last: Position,
    durable: Position,
    commit: u64,
    applied: u64,
    voters: Vec<u64>,
    learners: Vec<u64>,
    /// Why this replica should not lead, in words.
    unfit: Option<String>,
    /// How far its wall clock is off the median of the group's.
    clock_off_ms: Option<u64>,
    peers: Vec<Peer>,
    topics: usize,
    live_consumer_groups: usize,
    parked_pulls: usize,
    buffered_offsets: usize,
}

#[derive(Debug, Serialize)]
struct Position {
    index: u64,
    term: u64,
    pos: u64,
    end: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Peer {
    raft_id: u64,
    matched: u64,
    active: bool,
}

/// Digest of the logical state, as JSON.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct StateDigest {
    group: String,
    broker_name: String,
    applied: u64,
    /// 16 hex digits.
    digest: String,
}

/// Answers with the status of all groups of the node.
pub async fn raft_status(replicas: Vec<Arc<Replica>>, responder: Responder) {
    let mut groups = Vec::with_capacity(replicas.len());
    for replica in &replicas {
        let Some(status) = replica.handle.status().await else {
            return responder.refuse(ResponseCode::SERVICE_NOT_AVAILABLE, "the node is stopping");
        };
        groups.push(render(replica, status));
    }
    answer(responder, &NodeStatus { groups });
}

/// Answers with the digest at the applied index.
pub async fn state_digest(replica: Arc<Replica>, responder: Responder) {
    match replica.handle.digest().await {
        Ok((applied, digest)) => answer(
            responder,
            &StateDigest {
                group: replica.handle.group().to_string(),
                broker_name: replica.identity().broker_name.clone(),
                applied,
                digest: format!("{digest:016x}"),
            },
        ),
        Err(reason) => responder.refuse(ResponseCode::SYSTEM_ERROR, reason),
    }
}

fn answer(responder: Responder, body: &impl Serialize) {
    let body = serde_json::to_vec(body).expect("numbers and texts are JSON");
    let answer = responder.command(ResponseCode::SUCCESS).with_body(body);
    responder.send(answer);
}

fn render(replica: &Replica, status: GroupStatus) -> RaftStatus {
    let identity = replica.identity();
    RaftStatus {
        group: status.group.to_string(),
        broker_name: identity.broker_name.clone(),
        raft_id: status.raft_id,
        role: role_name(status.role.role),
        term: status.role.term,
        leader: status.role.leader,
        leader_address: status.role.leader.and_then(|id| identity.address_of(id)).map(str::to_owned),
        last: position(status.last),
        durable: position(status.durable),
        commit: status.commit,
        applied: status.applied,
        voters: status.membership.voters,
        learners: status.membership.learners,
        unfit: status.unfit.map(|unfit| unfit.to_string()),
        clock_off_ms: status.clock_off_ms,
        peers: status
            .peers
            .into_iter()
            .map(|peer| Peer { raft_id: peer.raft_id, matched: peer.matched, active: peer.active })
            .collect(),
        topics: replica.tables().topics().len(),
        live_consumer_groups: replica.consumers.group_count(),
        parked_pulls: replica.pulls.len(),
        buffered_offsets: replica.offsets.lock().len(),
    }
}

/// The word for a role.
pub(crate) fn role_name(role: Role) -> &'static str {
    match role {
        Role::Leader { ready: true } => "leader",
        Role::Leader { ready: false } => "leader_not_ready",
        Role::Follower => "follower",
        Role::Candidate => "candidate",
    }
}

fn position(at: FramePos) -> Position {
    Position { index: at.index, term: at.term, pos: at.pos.0, end: at.end().0 }
}

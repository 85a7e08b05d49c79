//! LEDGER_RAFT_STATUS and LEDGER_STATE_DIGEST: our own requests, for `ledgermq admin`, drills and tests.
//!
//! Answered only where the port is on a loopback address or the node runs `insecure`: they tell about the inside.

use std::collections::BTreeMap;
use std::sync::Arc;

use ledgermq_dledger::group::ElectionReason;
use ledgermq_dledger::{Distribution, FramePos, GroupStatus, Role, Standing};
use ledgermq_protocol::remoting::response_code::ResponseCode;
use serde::Serialize;
use uuid::Uuid;

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
    /// Identity of this replica.
    replica: String,
    /// "voter", "learner", "joining" or "removed".
    standing: &'static str,
    /// `host:port` at which this node hears peers.
    peer_address: String,
    /// `host:port` that its clients are told.
    client_address: String,
    /// "leader", "leader_not_ready", "follower", "candidate", or "abstaining": follows, and may lack what it has acknowledged.
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
    /// Whether the membership is on its way from one to another.
    joint: bool,
    /// Highest number that was ever given out.
    highest_raft_id: u64,
    members: Vec<Member>,
    /// What a new replica must know of the group; absent before the group's first command is applied here.
    birth: Option<Birth>,
    /// Why this replica should not lead, in words.
    unfit: Option<String>,
    /// Why the replica abstains from elections.
    doubts: Option<String>,
    /// How far its wall clock is off the median of the group's.
    clock_off_ms: Option<u64>,
    peers: Vec<Peer>,
    /// The snapshot that is being pulled; absent when none is.
    snapshot: Option<Snapshot>,
    /// Snapshots of other replicas that have come since the start.
    snapshots_taken: u64,
    measures: Measured,
    topics: usize,
    live_consumer_groups: usize,
    parked_pulls: usize,
    buffered_offsets: usize,
}

/// A snapshot that is being pulled.
#[derive(Debug, Serialize)]
struct Snapshot {
    /// Bytes that it has.
    bytes: u64,
    /// Bytes of them that are still to come.
    missing: u64,
}

/// What the replica has measured since its start; docs/architecture.md, "What a group measures".
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Measured {
    append_us: Spread,
    replicate_us: Spread,
    fdatasync_us: Spread,
    batch_records: Spread,
    batch_bytes: Spread,
    elections_stood: BTreeMap<&'static str, u64>,
    elections_won: BTreeMap<&'static str, u64>,
    /// Absent before the first.
    last_won: Option<Won>,
}

/// A histogram in short.
#[derive(Debug, Serialize)]
struct Spread {
    count: u64,
    mean: u64,
    p50: u64,
    p90: u64,
    p99: u64,
    p999: u64,
    max: u64,
}

/// An election that the replica won.
#[derive(Debug, Serialize)]
struct Won {
    term: u64,
    reason: &'static str,
}

/// A member as the log, or before the first change the config, tells it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Member {
    raft_id: u64,
    replica: String,
    peer: String,
    client: String,
}

/// What never changes in a group.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Birth {
    cluster: String,
    cluster_id: String,
    segment_size: u64,
    log_format: u32,
    members: Vec<Member>,
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
    committed: u64,
    lag_bytes: u64,
    active: bool,
    /// Whether a snapshot is on its way there.
    in_snapshot: bool,
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

fn spread(of: &Distribution) -> Spread {
    Spread {
        count: of.count,
        mean: of.sum / of.count.max(1),
        p50: of.quantile(0.5),
        p90: of.quantile(0.9),
        p99: of.quantile(0.99),
        p999: of.quantile(0.999),
        max: of.max,
    }
}

fn measured(replica: &Replica) -> Measured {
    let measures = replica.handle.measures();
    let by_reason = |count: &dyn Fn(ElectionReason) -> u64| {
        ElectionReason::ALL.iter().map(|reason| (reason.name(), count(*reason))).collect()
    };
    Measured {
        append_us: spread(&measures.append_us.read()),
        replicate_us: spread(&measures.replicate_us.read()),
        fdatasync_us: spread(&replica.handle.sync_us()),
        batch_records: spread(&measures.batch_records.read()),
        batch_bytes: spread(&measures.batch_bytes.read()),
        elections_stood: by_reason(&|reason| measures.stood(reason)),
        elections_won: by_reason(&|reason| measures.won(reason)),
        last_won: measures.last_won().map(|(term, reason)| Won { term, reason: reason.name() }),
    }
}

fn render(replica: &Replica, status: GroupStatus) -> RaftStatus {
    let identity = replica.identity();
    let snapshots = replica.handle.snapshots();
    let genesis = replica.tables().genesis();
    let born = genesis.iter().flat_map(|genesis| &genesis.members).map(|member| Member {
        raft_id: member.raft_id,
        replica: Uuid::from_slice(&member.replica_id).unwrap_or_default().to_string(),
        peer: member.raft_address.clone(),
        client: member.broker_address.clone(),
    });
    let born: Vec<Member> = born.collect();
    let or = |told: &str, id: u64, of: fn(&Member) -> &String| match born.iter().find(|member| member.raft_id == id) {
        Some(member) if told.is_empty() => of(member).clone(),
        _ => told.to_owned(),
    };
    let members = status.membership.members.iter().map(|(id, info)| Member {
        raft_id: *id,
        replica: info.replica.to_string(),
        peer: or(&info.peer, *id, |member| &member.peer),
        client: or(&info.client, *id, |member| &member.client),
    });
    let members = members.collect();
    let birth = genesis.map(|genesis| Birth {
        cluster: genesis.cluster.clone(),
        cluster_id: replica.cluster_id.to_string(),
        segment_size: genesis.segment_size,
        log_format: genesis.log_format,
        members: born,
    });
    RaftStatus {
        group: status.group.to_string(),
        broker_name: identity.broker_name.clone(),
        raft_id: status.raft_id,
        replica: status.replica.to_string(),
        standing: match status.standing {
            Standing::Voter => "voter",
            Standing::Learner => "learner",
            Standing::Joining => "joining",
            Standing::Removed => "removed",
        },
        peer_address: identity.peer.clone(),
        client_address: identity.advertised.clone(),
        role: if status.doubts.is_none() { role_name(status.role.role) } else { "abstaining" },
        term: status.role.term,
        leader: status.role.leader,
        leader_address: status.role.leader.and_then(|id| identity.address_of(id)),
        last: position(status.last),
        durable: position(status.durable),
        commit: status.commit,
        applied: status.applied,
        joint: status.membership.is_joint(),
        highest_raft_id: status.membership.highest,
        members,
        birth,
        voters: status.membership.voters,
        learners: status.membership.learners,
        unfit: status.unfit.map(|unfit| unfit.to_string()),
        doubts: (!status.doubts.is_none()).then(|| status.doubts.to_string()),
        clock_off_ms: status.clock_off_ms,
        peers: status
            .peers
            .into_iter()
            .map(|peer| Peer {
                raft_id: peer.raft_id,
                matched: peer.matched,
                committed: peer.committed,
                lag_bytes: peer.lag_bytes,
                active: peer.active,
                in_snapshot: peer.in_snapshot,
            })
            .collect(),
        snapshot: (snapshots.total > 0).then_some(Snapshot { bytes: snapshots.total, missing: snapshots.missing }),
        snapshots_taken: snapshots.taken,
        measures: measured(replica),
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

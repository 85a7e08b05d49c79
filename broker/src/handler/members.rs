//! LEDGER_CHANGE_MEMBERS and LEDGER_TRANSFER: what an operator asks of the leader of a group, through `ledgermq admin raft`.
//!
//! The log decides whether a change is sound and refuses it in words. Here it is carried out: proposed, and again when something
//! else took its place, until the applied membership shows it and the other members know. A leader that is to go hands over first
//! and answers who leads now: the successor carries the change out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ledgermq_dledger::group::{ChangeError, MemberChange};
use ledgermq_dledger::{MemberInfo, Membership, RaftId};
use ledgermq_protocol::remoting::command::RemotingCommand;
use ledgermq_protocol::remoting::response_code::ResponseCode;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::node::leading;
use crate::replica::Replica;
use crate::server::forward::Forwarder;
use crate::server::outbox::Responder;

/// How long a change may take: a proposal is committed in milliseconds while a majority is there.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a refusal that rests on who was heard of lately may be looked at again.
const HEAR_TIMEOUT: Duration = Duration::from_secs(2);

/// Proposals of one change; raft-rs may put an empty entry in the place of one.
const PROPOSALS_MAX: u32 = 5;

/// Pause between two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// What an operator asks for. Carried out as one.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Change {
    #[serde(default)]
    learners: Vec<Newcomer>,
    #[serde(default)]
    promote: Vec<RaftId>,
    #[serde(default)]
    remove: Vec<RaftId>,
    /// New addresses of members.
    #[serde(default)]
    moves: Vec<Newcomer>,
    /// Whether a group of two voters is wanted.
    #[serde(default)]
    two_voters: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Newcomer {
    raft_id: RaftId,
    replica: Uuid,
    peer: String,
    client: String,
}

impl Newcomer {
    fn info(&self) -> (RaftId, MemberInfo) {
        (self.raft_id, MemberInfo { replica: self.replica, peer: self.peer.clone(), client: self.client.clone() })
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Transfer {
    /// Who is to lead; whoever can best when absent.
    #[serde(default)]
    to: Option<RaftId>,
}

/// The membership afterwards.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Changed {
    voters: Vec<RaftId>,
    learners: Vec<RaftId>,
}

impl Change {
    fn steps(&self) -> Vec<MemberChange> {
        let learners = self.learners.iter().map(Newcomer::info).map(|(id, info)| MemberChange::AddLearner(id, info));
        let moves = self.moves.iter().map(Newcomer::info).map(|(id, info)| MemberChange::Move(id, info));
        let promote = self.promote.iter().map(|id| MemberChange::Promote(*id));
        let remove = self.remove.iter().map(|id| MemberChange::Remove(*id));
        learners.chain(moves).chain(promote).chain(remove).collect()
    }

    /// Whether a membership is what was asked for.
    fn is_done(&self, now: &Membership) -> bool {
        let known = |it: &Newcomer| now.members.get(&it.raft_id) == Some(&it.info().1);
        !now.is_joint()
            && self.learners.iter().all(known)
            && self.moves.iter().all(known)
            && self.promote.iter().all(|id| now.voters.contains(id))
            && self.remove.iter().all(|id| !now.contains(*id))
    }
}

/// Carries a change of the membership out.
pub async fn change(replica: Arc<Replica>, forwarder: Arc<Forwarder>, request: RemotingCommand, responder: Responder) {
    let change: Change = match serde_json::from_slice(&request.body) {
        Ok(change) => change,
        Err(error) => return responder.refuse(ResponseCode::INVALID_PARAMETER, format!("not a change: {error}")),
    };
    let steps = change.steps();
    let own = replica.identity().raft_id;
    if change.remove.contains(&own) && replica.serves() && !change.is_done(&replica.handle.membership()) {
        // Not for a change that is refused afterwards.
        if let Err(error) = allowed(&replica, &steps, change.two_voters).await {
            return responder.refuse(ResponseCode::INVALID_PARAMETER, error.to_string());
        }
        let left = leading::hand_over_to_other(&replica, &forwarder, &change.remove, "it is to leave the group").await;
        if !left {
            let remark = "this replica leads and no other voter could take over: try again";
            return responder.refuse(ResponseCode::SERVICE_NOT_AVAILABLE, remark);
        }
    }
    let began = Instant::now();
    let deadline = began + CHANGE_TIMEOUT;
    let mut proposals = 0;
    let mut proposed = 0;
    while Instant::now() < deadline {
        let role = replica.role();
        if !replica.takes_requests() {
            let answer = responder.command(ResponseCode::SUCCESS);
            return responder.send(replica.identity().not_leader(answer, role.leader, role.term));
        }
        if change.is_done(&replica.handle.membership()) {
            until_known(&replica, deadline).await;
            return answer(&replica, responder);
        }
        if proposed > replica.tables().applied_index() || replica.handle.membership().is_joint() {
            // On its way, or about to be left.
            tokio::time::sleep(LOOK_INTERVAL).await;
            continue;
        }
        if proposals == PROPOSALS_MAX {
            break;
        }
        match replica.handle.change_membership(steps.clone(), change.two_voters).await {
            Ok(index) => {
                proposals += 1;
                proposed = index;
            }
            Err(ChangeError::UnderWay | ChangeError::NotLeader { .. }) => tokio::time::sleep(LOOK_INTERVAL).await,
            // A young leader has not heard of everybody yet.
            Err(ChangeError::Behind { .. } | ChangeError::NoQuorum { .. }) if began.elapsed() < HEAR_TIMEOUT => {
                tokio::time::sleep(LOOK_INTERVAL).await;
            }
            // It may have become true between the look and the proposal.
            Err(_) if change.is_done(&replica.handle.membership()) => {}
            Err(error) => return responder.refuse(ResponseCode::INVALID_PARAMETER, error.to_string()),
        }
    }
    let remark = format!(
        "the change was proposed {proposals} times and is not applied after {} s: it may still come, look at `admin raft status`",
        CHANGE_TIMEOUT.as_secs()
    );
    responder.refuse(ResponseCode::SYSTEM_ERROR, remark);
}

/// Whether the log would take this change; looked at again for what may pass by itself.
async fn allowed(replica: &Replica, steps: &[MemberChange], two_voters: bool) -> Result<(), ChangeError> {
    let began = Instant::now();
    loop {
        match replica.handle.may_change_membership(steps.to_vec(), two_voters).await {
            Err(ChangeError::UnderWay | ChangeError::Behind { .. } | ChangeError::NoQuorum { .. })
                if began.elapsed() < HEAR_TIMEOUT =>
            {
                tokio::time::sleep(LOOK_INTERVAL).await;
            }
            // It leads no more: whoever does judges for itself.
            Err(ChangeError::NotLeader { .. }) => return Ok(()),
            judged => return judged,
        }
    }
}

/// Waits until a majority of the voters know that the change is committed: should this leader die, they elect by it.
async fn until_known(replica: &Replica, deadline: Instant) {
    let changed = replica.handle.commit_index();
    while Instant::now() < deadline {
        let Some(status) = replica.handle.status().await else { return };
        let voters = &status.membership.voters;
        let knows = |id: &RaftId| {
            *id == status.raft_id || status.peers.iter().any(|peer| peer.raft_id == *id && peer.committed >= changed)
        };
        if voters.iter().filter(|id| knows(id)).count() * 2 > voters.len() || !replica.serves() {
            return;
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

fn answer(replica: &Replica, responder: Responder) {
    let membership = replica.handle.membership();
    let changed = Changed { voters: membership.voters.clone(), learners: membership.learners.clone() };
    let body = serde_json::to_vec(&changed).expect("numbers are JSON");
    let answer = responder.command(ResponseCode::SUCCESS).with_body(body);
    responder.send(answer);
}

/// Hands the leadership over.
pub async fn transfer(
    replica: Arc<Replica>,
    forwarder: Arc<Forwarder>,
    request: RemotingCommand,
    responder: Responder,
) {
    let asked: Transfer = match serde_json::from_slice(&request.body) {
        Ok(asked) => asked,
        Err(error) => return responder.refuse(ResponseCode::INVALID_PARAMETER, format!("not a transfer: {error}")),
    };
    let role = replica.role();
    if !replica.serves() {
        let answer = responder.command(ResponseCode::SUCCESS);
        return responder.send(replica.identity().not_leader(answer, role.leader, role.term));
    }
    let membership = replica.handle.membership();
    let why = "an operator asks for it";
    let done = match asked.to {
        Some(to) if to == replica.identity().raft_id => true,
        Some(to) if !membership.voters.contains(&to) => {
            let remark = format!("{to} has no vote in this group, its voters are {:?}", membership.voters);
            return responder.refuse(ResponseCode::INVALID_PARAMETER, remark);
        }
        Some(to) => leading::hand_over_to(&replica, &forwarder, to, why).await,
        None => leading::hand_over_to_other(&replica, &forwarder, &[], why).await,
    };
    if done {
        return answer(&replica, responder);
    }
    let remark = "the leadership was not handed over: the member does not answer, lags behind, or is not well";
    responder.refuse(ResponseCode::SERVICE_NOT_AVAILABLE, remark);
}

//! Membership changes: proposed like any entry, taken in when applied, and only after the commit that passed them is
//! durable here (R10): a restarted member that forgot it would campaign under the old configuration while the rest
//! goes on under the new one.
//!
//! What would cost the group its quorum, or give a number a second time, is refused before it is proposed. A new member comes
//! in as a learner and gets its vote when it has the log; a member that is to go leaves in the same entry in which its
//! successor gets the vote.

use std::collections::BTreeSet;
use std::time::Duration;

use protobuf::Message as _;
use raft::eraftpb::{ConfChange, ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, Entry};

use raft::{GetEntriesContext, StateRole, Storage as _};

use super::members::{self, ADDRESS_MAX, MEMBERS_MAX};
use super::{ApplyTask, GroupCore, GroupError, Outputs, conf_state_membership};
use crate::entry;
use crate::log::meta::Member;
use crate::log::scrub::Run;
use crate::plant::{self, Bug};
use crate::seam::{MemberInfo, Membership, Stamper};
use crate::storage::{COLD_READ_MAX, GroupStorage};
use crate::types::{Frame, RaftId};

/// A member that was not heard of for so long, three heartbeats, counts as gone when a change is judged. One whose connection broke
/// counts as gone until it is heard of again.
const HEARD_LATELY: Duration = Duration::from_millis(300);

/// Bytes of log that a learner may lack when it gets its vote.
pub const PROMOTE_LAG_MAX: u64 = 4 << 20;

/// One step of a membership change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberChange {
    /// Adds a member without a vote, under a number that was never used.
    AddLearner(RaftId, MemberInfo),
    /// Gives a learner its vote.
    Promote(RaftId),
    /// Removes a member, for ever.
    Remove(RaftId),
    /// Tells new addresses of a member.
    Move(RaftId, MemberInfo),
}

/// Why a membership change is not proposed. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// This replica does not lead, or not yet.
    #[error("this replica does not lead (leader: {leader:?})")]
    NotLeader {
        /// The leader, when known.
        leader: Option<RaftId>,
    },
    /// A change, or a hand-over of the leadership, is under way.
    #[error("another change of the membership, or of the leader, is under way: try again when it is done")]
    UnderWay,
    /// Nothing to do.
    #[error("the change has no step")]
    Empty,
    /// The number was given out before.
    #[error("number {id} was used before: numbers are never used again, the next one is {next}")]
    UsedId {
        /// The number.
        id: RaftId,
        /// The next free one.
        next: RaftId,
    },
    /// The replica is a member under another number.
    #[error("replica {replica} is member {id} already")]
    KnownReplica {
        /// Its identity.
        replica: uuid::Uuid,
        /// Its number.
        id: RaftId,
    },
    /// No such member.
    #[error("{0} is not a member of the group")]
    NotAMember(RaftId),
    /// Only a learner gets a vote.
    #[error("member {0} is no learner: only a learner can be given a vote")]
    NotALearner(RaftId),
    /// The learner lacks too much, is silent, or does not know yet that it is one.
    #[error("learner {id} is {} KiB of log behind the leader, or was not heard of lately: it gets its vote once it lacks less than {} KiB", lag / 1024, PROMOTE_LAG_MAX / 1024)]
    Behind {
        /// The learner.
        id: RaftId,
        /// Bytes of log that it lacks.
        lag: u64,
    },
    /// An address that cannot be.
    #[error("{0:?} is no address: give host:port, at most {ADDRESS_MAX} bytes")]
    BadAddress(String),
    /// Too many members.
    #[error("a group has at most {MEMBERS_MAX} members")]
    TooMany,
    /// Nobody would be left.
    #[error("the last voter cannot be removed")]
    NobodyLeft,
    /// Two voters: either's failure stops the group.
    #[error(
        "the group would have two voters, and the failure of either would stop it: change two members at once, or say that you \
         want it"
    )]
    TwoVoters,
    /// Too few of the new voters are there.
    #[error(
        "of the {voters} voters that the group would have only {alive} are there, and it needs {needed}: bring back {missing:?} first"
    )]
    NoQuorum {
        /// Voters after the change.
        voters: usize,
        /// Those that were heard of lately.
        alive: usize,
        /// Majority.
        needed: usize,
        /// The silent ones.
        missing: Vec<RaftId>,
    },
    /// The node stops.
    #[error("the node is stopping")]
    Stopping,
}

/// The membership under which the log of a group begins. Addresses come with the first change.
pub(crate) fn at_birth(members: &[Member]) -> Membership {
    let info = |replica| MemberInfo { replica, ..MemberInfo::default() };
    let mut voters: Vec<RaftId> = members.iter().map(|member| member.raft_id).collect();
    voters.sort_unstable();
    Membership {
        highest: voters.last().copied().unwrap_or(0),
        voters,
        members: members.iter().map(|member| (member.raft_id, info(member.replica))).collect(),
        ..Membership::default()
    }
}

impl<S: Stamper> GroupCore<S> {
    /// Proposes a membership change; several steps become one joint change. `two_voters` allows a group of two. Returns the index
    /// of the entry. It may still be replaced by another leader's: the applied membership tells whether it came to be.
    ///
    /// # Errors
    /// [`ChangeError`]: nothing was proposed.
    pub fn change_membership(&mut self, steps: &[MemberChange], two_voters: bool) -> Result<u64, ChangeError> {
        self.may_change_membership(steps, two_voters)?;
        let removes_first =
            plant::on(Bug::RemoveBeforeAdd) && steps.iter().any(|it| matches!(it, MemberChange::Remove(_)));
        let taken = steps.iter().filter(|step| !removes_first || matches!(step, MemberChange::Remove(_)));
        let mut change = ConfChangeV2::default();
        change.set_changes(taken.map(|step| self.single(step)).collect::<Vec<_>>().into());
        change.set_transition(ConfChangeTransition::Auto);
        let context = members::encode(&self.to_be_told(steps));
        self.raft.propose_conf_change(context, change).map_err(|_| ChangeError::UnderWay)?;
        Ok(self.raft.raft.raft_log.last_index())
    }

    /// Whether such a change would be proposed now.
    ///
    /// # Errors
    /// [`ChangeError`]: why not.
    pub fn may_change_membership(&self, steps: &[MemberChange], two_voters: bool) -> Result<(), ChangeError> {
        if !self.serves_now() {
            return Err(ChangeError::NotLeader { leader: self.known_leader() });
        }
        let busy = self.raft.raft.has_pending_conf() || !self.conf_indexes.is_empty() || self.membership.is_joint();
        if busy || self.raft.raft.lead_transferee.is_some() || self.transfer_to.is_some() {
            return Err(ChangeError::UnderWay);
        }
        self.judge(steps, two_voters)
    }

    fn single(&self, step: &MemberChange) -> ConfChangeSingle {
        let (kind, node_id) = match step {
            MemberChange::AddLearner(id, _) => (ConfChangeType::AddLearnerNode, *id),
            MemberChange::Promote(id) => (ConfChangeType::AddNode, *id),
            MemberChange::Remove(id) => (ConfChangeType::RemoveNode, *id),
            // What it is already: nothing changes but the table.
            MemberChange::Move(id, _) if self.membership.learners.contains(id) => (ConfChangeType::AddLearnerNode, *id),
            MemberChange::Move(id, _) => (ConfChangeType::AddNode, *id),
        };
        let mut change = ConfChangeSingle { node_id, ..ConfChangeSingle::default() };
        change.set_change_type(kind);
        change
    }

    /// The members that the entry tells of: new ones, moved ones, and those of the birth whose addresses the log does not have.
    fn to_be_told(&self, steps: &[MemberChange]) -> Vec<(RaftId, MemberInfo)> {
        let mut told = self.membership.members.clone();
        told.retain(|_, info| info.peer.is_empty());
        for (id, info) in &mut told {
            if let Some(known) = self.addresses.get(id) {
                (info.peer, info.client) = (known.peer.clone(), known.client.clone());
            }
        }
        for step in steps {
            if let MemberChange::AddLearner(id, info) | MemberChange::Move(id, info) = step {
                told.insert(*id, info.clone());
            }
        }
        told.into_iter().collect()
    }

    /// Whether a change may be proposed.
    fn judge(&self, steps: &[MemberChange], two_voters: bool) -> Result<(), ChangeError> {
        let now = &self.membership;
        if steps.is_empty() {
            return Err(ChangeError::Empty);
        }
        let mut voters: BTreeSet<RaftId> = now.voters.iter().copied().collect();
        let mut members = now.ids();
        let member = |id: &RaftId| now.contains(*id).then_some(()).ok_or(ChangeError::NotAMember(*id));
        for step in steps {
            match step {
                MemberChange::AddLearner(id, info) => {
                    check_addresses(info)?;
                    if let Some((known, _)) = now.members.iter().find(|(_, known)| known.replica == info.replica) {
                        return Err(ChangeError::KnownReplica { replica: info.replica, id: *known });
                    }
                    if *id <= now.highest && !plant::on(Bug::RaftIdReused) {
                        return Err(ChangeError::UsedId { id: *id, next: now.highest + 1 });
                    }
                    members.insert(*id);
                }
                MemberChange::Promote(id) => {
                    member(id)?;
                    if !now.learners.contains(id) {
                        return Err(ChangeError::NotALearner(*id));
                    }
                    self.check_lag(*id)?;
                    voters.insert(*id);
                }
                MemberChange::Remove(id) => {
                    member(id)?;
                    voters.remove(id);
                    members.remove(id);
                }
                MemberChange::Move(id, info) => {
                    member(id)?;
                    check_addresses(info)?;
                }
            }
        }
        if members.len() > MEMBERS_MAX {
            return Err(ChangeError::TooMany);
        }
        if voters.is_empty() {
            return Err(ChangeError::NobodyLeft);
        }
        if voters.len() == 2 && now.voters.len() != 2 && !two_voters {
            return Err(ChangeError::TwoVoters);
        }
        let missing: Vec<RaftId> = voters.iter().copied().filter(|id| !self.is_there(*id)).collect();
        let (alive, needed) = (voters.len() - missing.len(), voters.len() / 2 + 1);
        if alive < needed {
            return Err(ChangeError::NoQuorum { voters: voters.len(), alive, needed, missing });
        }
        Ok(())
    }

    /// A learner gets its vote only when it has nearly the whole log, and knows that it is a member: before that it does not vote,
    /// and a group that counts on it could not elect anybody.
    fn check_lag(&self, id: RaftId) -> Result<(), ChangeError> {
        let progress = self.raft.raft.prs().get(id).ok_or(ChangeError::NotAMember(id))?;
        let lag = self.lag_bytes(progress.matched);
        let knows = progress.committed_index >= self.changed_at || plant::on(Bug::JoinerVotes);
        if lag >= PROMOTE_LAG_MAX || progress.matched == 0 || !knows || !self.is_there(id) {
            return Err(ChangeError::Behind { id, lag });
        }
        Ok(())
    }

    /// Bytes of log behind this index, 64 KiB too many at most: nobody looks at a disk for it.
    pub(super) fn lag_bytes(&self, matched: u64) -> u64 {
        let tail = self.raft.store().tail();
        if matched >= tail.index {
            return 0;
        }
        let from = self.raft.store().view().near(matched).map_or(0, |at| at.pos.0);
        tail.end().0.saturating_sub(from)
    }

    fn is_there(&self, id: RaftId) -> bool {
        id == self.raft_id || self.heard.get(&id).is_some_and(|at| self.clock.mono.saturating_sub(*at) <= HEARD_LATELY)
    }

    /// The applied membership.
    pub fn membership(&self) -> &Membership {
        &self.membership
    }

    /// Whether this replica has been born into a group that has not taken it in yet.
    pub fn is_joining(&self) -> bool {
        self.meta.joining
    }

    /// Whether this replica is no member any more, by what it has applied or by what a member has told it.
    pub fn is_removed(&self) -> bool {
        let unknown = self.meta.joining || self.is_stateless();
        self.told_removed || (!unknown && !self.membership.contains(self.raft_id))
    }

    /// A member says that this replica was removed: it is done with campaigns. It may have missed the entry itself, since nobody
    /// sends to who is no member.
    pub fn told_removed(&mut self, by: RaftId) {
        if !self.told_removed {
            self.told_removed = true;
            tracing::warn!(group = %self.group, raft_id = self.raft_id, by,
                "this replica was removed from its group: it takes part no more; stop it, and remove its folder and its stanza");
        }
    }

    /// Leaves a joint configuration that nobody else will leave: raft-rs does it only on the leader that applied the
    /// entry into it.
    pub(super) fn leave_joint(&mut self) {
        if self.membership.voters_outgoing.is_empty() || !self.serves_now() || self.raft.raft.has_pending_conf() {
            return;
        }
        // Dropped when a transfer is under way; tried again in a later round.
        let _ = self.raft.propose_conf_change(Vec::new(), ConfChangeV2::default());
    }

    /// Hands committed entries to apply, in order, up to a membership change whose commit is not durable yet.
    pub(super) fn drain_backlog(&mut self, out: &mut Outputs<S>) -> Result<(), GroupError> {
        let mut frames = Vec::new();
        while let Some(entry) = self.backlog.front() {
            let changes_members = entry::is_conf_change(entry);
            if changes_members && self.conf_commit_durable < entry.index && !plant::on(Bug::ConfCommitNotSynced) {
                break;
            }
            let entry = self.backlog.pop_front().expect("just seen");
            let membership = if changes_members { Some(self.apply_conf_change(&entry, out)?) } else { None };
            let content = entry::content(&entry).map_err(|error| self.placement(error.into()))?;
            let at = self.raft.store().frame_at(entry.index).map_err(|failure| self.placement(failure))?;
            assert_eq!(at.term, entry.term, "committed entry {} has another frame", entry.index);
            assert_eq!(entry.index, self.handed_to_apply + 1, "apply gets every entry once, in order");
            self.handed_to_apply = entry.index;
            frames.push((
                Frame { at, kind: content.kind, records: content.records, payload: content.payload },
                membership,
            ));
        }
        if !frames.is_empty() {
            out.applies.push(ApplyTask { frames, restore: None });
        }
        Ok(())
    }

    fn apply_conf_change(&mut self, entry: &Entry, out: &mut Outputs<S>) -> Result<Membership, GroupError> {
        let refused = |reason: String| GroupError::Membership { group: self.group, index: entry.index, reason };
        let change = parse(entry).map_err(refused)?;
        let told = members::decode(&entry.context).map_err(refused)?;
        let removed = change.changes.iter().find(|it| it.get_change_type() == ConfChangeType::RemoveNode);
        let mut membership = match removed {
            Some(removed) if plant::on(Bug::RemovedStillCounts) && change.changes.len() == 1 => {
                let mut left = self.membership.clone();
                left.voters.retain(|id| *id != removed.node_id);
                left.learners.retain(|id| *id != removed.node_id);
                left
            }
            _ => {
                let state = self.raft.apply_conf_change(&change);
                let state = state.map_err(|error| GroupError::Membership {
                    group: self.group,
                    index: entry.index,
                    reason: error.to_string(),
                })?;
                let membership = conf_state_membership(&state);
                self.raft.mut_store().set_conf_state(state);
                membership
            }
        };
        membership.members = std::mem::take(&mut self.membership.members);
        membership.highest = self.membership.highest;
        if plant::on(Bug::RaftIdReused) {
            told.iter().for_each(|(id, _)| drop(membership.members.remove(id)));
        }
        members::take_in(&mut membership, told).map_err(|reason| GroupError::Membership {
            group: self.group,
            index: entry.index,
            reason,
        })?;
        self.conf_indexes.remove(&entry.index);
        self.changed_at = entry.index;
        self.membership = membership;
        self.heard.retain(|id, _| self.membership.contains(*id));
        self.meta.joining &= !self.membership.contains(self.raft_id);
        out.membership = Some(self.membership.clone());
        let raft = &mut self.raft.raft;
        if raft.state == StateRole::Leader && !raft.promotable() {
            // raft-rs 0.7 goes on leading and panics at the next commit, where it looks for its own progress.
            tracing::info!(group = %self.group, term = raft.term, "leads no longer: it is no voter any more");
            let term = raft.term;
            raft.become_follower(term, 0);
        }
        self.draw_election_timeout();
        let Membership { voters, learners, voters_outgoing, .. } = &self.membership;
        tracing::info!(group = %self.group, index = entry.index, ?voters, ?learners, ?voters_outgoing, "membership changed");
        if self.is_removed() {
            tracing::warn!(group = %self.group, raft_id = self.raft_id,
                "this replica was removed from its group: it takes part no more; stop it, and remove its folder and its stanza");
        }
        Ok(self.membership.clone())
    }
}

fn check_addresses(info: &MemberInfo) -> Result<(), ChangeError> {
    for address in [&info.peer, &info.client] {
        let port = address.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port.parse::<u16>());
        if address.len() > ADDRESS_MAX || !matches!(port, Some(Ok(1..))) {
            return Err(ChangeError::BadAddress(address.clone()));
        }
    }
    Ok(())
}

/// Indexes of the membership changes behind `applied` in a recovered log.
pub(super) fn scan(storage: &GroupStorage, applied: u64, damage: &[Run]) -> Result<BTreeSet<u64>, String> {
    let last = storage.tail().index;
    let mut found = BTreeSet::new();
    let mut next = applied + 1;
    while next <= last {
        // What lies there is looked at when it is mended; nothing behind it is committed before.
        if let Some(run) = damage.iter().find(|run| (run.prev.index + 1..=run.end.index).contains(&next)) {
            next = run.end.index + 1;
            continue;
        }
        let end = damage.iter().map(|run| run.prev.index + 1).filter(|first| *first > next).min().unwrap_or(last + 1);
        let entries = storage.entries(next, end, COLD_READ_MAX, GetEntriesContext::empty(false));
        let entries = entries.map_err(|error| format!("cannot read entries {next}.. of its log: {error}"))?;
        found.extend(entries.iter().filter(|entry| entry::is_conf_change(entry)).map(|entry| entry.index));
        next += entries.len() as u64;
    }
    Ok(found)
}

/// The change that an entry of the log holds. It came from a proposal of ours, checked by checksums since.
fn parse(entry: &Entry) -> Result<ConfChangeV2, String> {
    use raft::eraftpb::EntryType;
    if entry.get_entry_type() == EntryType::EntryConfChange {
        let mut change = ConfChange::default();
        change.merge_from_bytes(&entry.data).map_err(|error| error.to_string())?;
        let mut single = ConfChangeSingle { node_id: change.node_id, ..ConfChangeSingle::default() };
        single.set_change_type(change.get_change_type());
        let mut v2 = ConfChangeV2::default();
        v2.set_changes(vec![single].into());
        return Ok(v2);
    }
    let mut change = ConfChangeV2::default();
    change.merge_from_bytes(&entry.data).map_err(|error| error.to_string())?;
    Ok(change)
}

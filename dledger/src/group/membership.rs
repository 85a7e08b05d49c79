//! Membership changes: proposed like any entry, taken in when applied, and only after the commit that passed them is
//! durable here (R10): a restarted member that forgot it would campaign under the old configuration while the rest
//! goes on under the new one.

use std::collections::BTreeSet;

use protobuf::Message as _;
use raft::eraftpb::{
    ConfChange, ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState, Entry,
};

use raft::{GetEntriesContext, StateRole, Storage as _};

use super::{ApplyTask, GroupCore, GroupError, Outputs, conf_state_membership};
use crate::entry;
use crate::plant::{self, Bug};
use crate::seam::{Membership, Stamper};
use crate::storage::{COLD_READ_MAX, GroupStorage};
use crate::types::{Frame, RaftId};

/// One step of a membership change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberChange {
    /// Adds a member without a vote, or takes a voter's vote away.
    AddLearner(RaftId),
    /// Adds a voter, or gives a learner the vote.
    AddVoter(RaftId),
    /// Removes a member.
    Remove(RaftId),
}

/// The raft-rs form of a membership.
pub(super) fn conf_state(membership: &Membership) -> ConfState {
    ConfState {
        voters: membership.voters.clone(),
        learners: membership.learners.clone(),
        voters_outgoing: membership.voters_outgoing.clone(),
        learners_next: membership.learners_next.clone(),
        auto_leave: membership.auto_leave,
        ..ConfState::default()
    }
}

impl<S: Stamper> GroupCore<S> {
    /// Proposes a membership change; several steps become one joint change. Returns whether it was proposed: raft-rs
    /// may still swap it for an empty entry, so the applied membership tells whether it came to be.
    pub fn change_membership(&mut self, steps: &[MemberChange]) -> bool {
        let changes: Vec<ConfChangeSingle> = steps
            .iter()
            .map(|step| {
                let (kind, node_id) = match *step {
                    MemberChange::AddLearner(id) => (ConfChangeType::AddLearnerNode, id),
                    MemberChange::AddVoter(id) => (ConfChangeType::AddNode, id),
                    MemberChange::Remove(id) => (ConfChangeType::RemoveNode, id),
                };
                let mut change = ConfChangeSingle { node_id, ..ConfChangeSingle::default() };
                change.set_change_type(kind);
                change
            })
            .collect();
        if changes.is_empty() || self.raft.raft.lead_transferee.is_some() || !self.serves_now() {
            return false;
        }
        let mut change = ConfChangeV2::default();
        change.set_changes(changes.into());
        change.set_transition(ConfChangeTransition::Auto);
        self.raft.propose_conf_change(Vec::new(), change).is_ok()
    }

    /// The applied membership.
    pub fn membership(&self) -> &Membership {
        &self.membership
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
            let membership = if changes_members { Some(self.apply_conf_change(&entry)?) } else { None };
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
            out.applies.push(ApplyTask { frames });
        }
        Ok(())
    }

    fn apply_conf_change(&mut self, entry: &Entry) -> Result<Membership, GroupError> {
        let change = parse(entry).map_err(|reason| GroupError::Placement { group: self.group, reason })?;
        let state = self.raft.apply_conf_change(&change);
        let state = state.map_err(|error| GroupError::Placement { group: self.group, reason: error.to_string() })?;
        self.conf_indexes.remove(&entry.index);
        self.membership = conf_state_membership(&state);
        self.raft.mut_store().set_conf_state(state);
        let raft = &mut self.raft.raft;
        if raft.state == StateRole::Leader && !raft.promotable() {
            // raft-rs 0.7 goes on leading and panics at the next commit, where it looks for its own progress.
            tracing::info!(group = %self.group, term = raft.term, "leads no longer: it is no voter any more");
            let term = raft.term;
            raft.become_follower(term, 0);
        }
        self.draw_election_timeout();
        tracing::info!(group = %self.group, index = entry.index, membership = ?self.membership, "membership changed");
        Ok(self.membership.clone())
    }
}

/// Indexes of the membership changes behind `applied` in a recovered log.
pub(super) fn scan(storage: &GroupStorage, applied: u64) -> Result<BTreeSet<u64>, String> {
    let last = storage.tail().index;
    let mut found = BTreeSet::new();
    let mut next = applied + 1;
    while next <= last {
        let entries = storage.entries(next, last + 1, COLD_READ_MAX, GetEntriesContext::empty(false));
        let entries = entries.map_err(|error| format!("cannot read entries {next}.. of its log: {error}"))?;
        found.extend(entries.iter().filter(|entry| entry::is_conf_change(entry)).map(|entry| entry.index));
        next += entries.len() as u64;
    }
    Ok(found)
}

/// The change that an entry of the log holds. It came from a proposal of ours, checked by checksums since.
fn parse(entry: &Entry) -> Result<ConfChangeV2, String> {
    use raft::eraftpb::EntryType;
    let wrong = |error: protobuf::ProtobufError| format!("membership change at entry {}: {error}", entry.index);
    if entry.get_entry_type() == EntryType::EntryConfChange {
        let mut change = ConfChange::default();
        change.merge_from_bytes(&entry.data).map_err(wrong)?;
        let mut single = ConfChangeSingle { node_id: change.node_id, ..ConfChangeSingle::default() };
        single.set_change_type(change.get_change_type());
        let mut v2 = ConfChangeV2::default();
        v2.set_changes(vec![single].into());
        return Ok(v2);
    }
    let mut change = ConfChangeV2::default();
    change.merge_from_bytes(&entry.data).map_err(wrong)?;
    Ok(change)
}

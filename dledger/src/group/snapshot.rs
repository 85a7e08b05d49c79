//! Snapshots in a group: a leader asks for a checkpoint when a member lies behind its log, and watches over what it has sent; a
//! follower holds a snapshot back until its files are here, and switches over by a Ready like any other.
//!
//! raft-rs takes no more part than it must: it pauses a member that a snapshot is on its way to until that member answers, or
//! until it is told that the snapshot was lost. That is told here in each case: the connection broke, or nothing was read for
//! [`GroupTuning::snapshot_patience`](super::GroupTuning::snapshot_patience).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use raft::eraftpb::{Message, MessageType, Snapshot};
use raft::{ProgressState, SnapshotStatus, StateRole};

use super::{ApplyTask, GroupCore, Outputs};
use crate::apply::Restore;
use crate::log::meta::FirstFrame;
use crate::plant::{self, Bug};
use crate::seam::Stamper;
use crate::snapshot::{Manifest, SnapshotId, Staged, generation_name};
use crate::types::{FramePos, RaftId};

/// A checkpoint that was lost so often on its way is not sent any more: another one is made.
const LOSSES_MAX: u32 = 4;

/// What is to be done about this replica's checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckpointOrder {
    /// Make one, with the log from this frame on; [`GroupCore::checkpoint_made`] tells.
    Make(FirstFrame),
    /// Nobody needs it any more.
    Drop,
}

/// A snapshot whose files are to be pulled; [`GroupCore::pulled`] tells. A new order takes the place of the one before.
#[derive(Debug, Clone)]
pub struct PullOrder {
    /// Who has it.
    pub from: RaftId,
    /// What it consists of.
    pub manifest: Manifest,
}

/// A snapshot on its way to this replica.
struct Incoming {
    message: Message,
    id: SnapshotId,
}

/// See the module.
#[derive(Default)]
pub(super) struct Snapshots {
    /// A checkpoint is being made.
    asked: bool,
    /// No other is asked for before.
    not_before: Duration,
    /// When a member last needed the one that is there.
    needed: Duration,
    /// How often it was lost on its way.
    losses: u32,
    /// When a snapshot that was sent is given up, by member.
    sent: BTreeMap<RaftId, Duration>,
    incoming: Option<Incoming>,
    order: Option<PullOrder>,
    /// The pull that is under way is of no use any more.
    cancel: bool,
    /// Handed to raft-rs, which hands it back in the next Ready.
    staged: Option<Staged>,
    /// Number of the Ready that installs one, and what apply does then.
    installing: Option<(u64, Restore)>,
    /// Apply has not taken the state over yet.
    restoring: bool,
    /// The membership of a snapshot is in force since the last poll.
    members_changed: bool,
    /// This replica has a log and no state that it could go on with.
    stateless: bool,
}

impl Snapshots {
    pub(super) fn new(stateless: bool) -> Snapshots {
        Snapshots { stateless, ..Snapshots::default() }
    }

    /// Whether something goes on only when apply does.
    pub(super) fn waits(&self) -> bool {
        self.installing.is_some() || self.restoring
    }
}

impl<S: Stamper> GroupCore<S> {
    /// Whether this replica has a log and no state that it could go on with: nothing is committed here before another member's
    /// state is. It votes and takes entries in as ever.
    pub fn is_stateless(&self) -> bool {
        self.snapshots.stateless
    }

    /// Once a tick: without a state, asks the leader for one that has everything that is in the log here. raft-rs takes no more
    /// entries in then, so that nothing acknowledged lies behind the snapshot that takes the place of the log.
    pub(super) fn ask_for_state(&mut self) {
        let raft = &mut self.raft.raft;
        if self.snapshots.stateless && raft.state == StateRole::Follower && raft.leader_id != 0 {
            // Refused while it is asked for already, and before an entry of the leader's term is here.
            let _ = raft.request_snapshot();
        }
    }

    /// A member has everything up to `index`: a state that it has asked for before is no longer owed. raft-rs would send one after
    /// the other.
    pub(super) fn state_is_there(&mut self, peer: RaftId, index: u64) {
        if let Some(progress) = self.raft.raft.mut_prs().get_mut(peer).filter(|it| it.pending_request_snapshot <= index)
        {
            progress.pending_request_snapshot = 0;
        }
    }

    /// Whether a snapshot must not take the place of a log without a state: it would lack something that is acknowledged here, or
    /// raft-rs would only take it for a proof of what is committed.
    fn is_short_of_log(&self, index: u64, term: u64) -> bool {
        let log = &self.raft.raft.raft_log;
        let only_proof = self.raft.raft.pending_request_snapshot == 0 && log.match_term(index, term);
        let is_short = self.snapshots.stateless && (index < log.last_index() || only_proof);
        is_short && !plant::on(Bug::StateBehindLog)
    }

    /// A checkpoint was made and can be read from now on, or could not be made.
    pub fn checkpoint_made(&mut self, made: Option<&Manifest>) {
        self.snapshots.asked = false;
        self.snapshots.needed = self.clock.mono;
        self.snapshots.not_before = self.clock.mono + self.tuning.snapshot_linger;
        self.snapshots.losses = 0;
        self.raft.mut_store().give(made.map(Manifest::to_raft));
    }

    /// A member reads files of the snapshot that was sent to it.
    pub fn gives(&mut self, peer: RaftId) {
        if let Some(until) = self.snapshots.sent.get_mut(&peer) {
            *until = self.clock.mono + self.tuning.snapshot_patience;
        }
    }

    /// The files of an ordered snapshot are here, or will not come. Does nothing when it is of no use any more; returns whether it
    /// was used.
    pub fn pulled(&mut self, id: SnapshotId, staged: Option<Staged>) -> bool {
        if self.snapshots.incoming.as_ref().is_none_or(|incoming| incoming.id != id) {
            return false;
        }
        let incoming = self.snapshots.incoming.take().expect("just seen");
        let Some(staged) = staged else { return false };
        if self.is_short_of_log(staged.manifest.tail.index, staged.manifest.tail.term) {
            return false;
        }
        let from = incoming.message.from;
        if let Err(error) = self.raft.step(incoming.message) {
            tracing::debug!(group = %self.group, peer = from, %error, "snapshot not taken");
        }
        self.draw_election_timeout();
        // raft-rs may know it all by now, or not believe the sender any more.
        let taken = self.raft.raft.raft_log.unstable.snapshot.is_some();
        if taken {
            self.snapshots.staged = Some(staged);
        }
        taken
    }

    /// A snapshot has come: taken when raft-rs would do nothing with it but answer, held back when its files must come first.
    pub(super) fn hold_snapshot(&mut self, message: Message) {
        let from = message.from;
        let manifest = match Manifest::decode(&message.get_snapshot().data) {
            Ok(manifest) => manifest,
            Err(error) => {
                tracing::warn!(group = %self.group, peer = from, %error, "dropped a snapshot");
                return;
            }
        };
        if let Err(error) = manifest.check(self.group, &self.meta.constants) {
            tracing::warn!(group = %self.group, peer = from, %error, "dropped a snapshot");
            return;
        }
        let log = &self.raft.raft.raft_log;
        let known = manifest.tail.index <= log.committed
            || (!self.snapshots.stateless && log.match_term(manifest.tail.index, manifest.tail.term));
        let member = manifest.membership.contains(self.raft_id);
        if message.term < self.raft.raft.term || known {
            let _ = self.raft.step(message);
            self.draw_election_timeout();
            return;
        }
        if self.is_short_of_log(manifest.tail.index, manifest.tail.term) {
            // The leader hears what is asked for with the next heartbeat.
            return;
        }
        if !member {
            tracing::warn!(group = %self.group, peer = from, "dropped a snapshot of a group that this replica is no member of");
            return;
        }
        if self.snapshots.installing.is_some() || self.snapshots.staged.is_some() || self.snapshots.restoring {
            // The one before is not on the disk yet. The leader sends again.
            return;
        }
        let id = manifest.id();
        if self.snapshots.incoming.as_ref().is_none_or(|incoming| incoming.id != id || incoming.message.from != from) {
            tracing::info!(group = %self.group, peer = from, snapshot = ?id, bytes = manifest.bytes(), "a snapshot is needed");
            self.snapshots.order = Some(PullOrder { from, manifest });
        }
        self.snapshots.incoming = Some(Incoming { message, id });
    }

    /// The connection to a member broke, or a message to it was dropped: a snapshot may have been the one.
    pub(super) fn snapshot_unreachable(&mut self, peer: RaftId) {
        if self.snapshots.sent.remove(&peer).is_some() {
            self.snapshot_lost(peer);
        }
    }

    fn snapshot_lost(&mut self, peer: RaftId) {
        self.snapshots.losses += 1;
        if self.snapshots.losses >= LOSSES_MAX {
            // It may be the snapshot that is at fault. The next one is made when it is asked for.
            self.raft.mut_store().give(None);
        }
        if !plant::on(Bug::SnapshotNotReported) {
            self.raft.report_snapshot(peer, SnapshotStatus::Failure);
        }
    }

    /// Once a tick: gives up what nobody reads, and a checkpoint that nobody needs.
    pub(super) fn watch_snapshots(&mut self) {
        let now = self.clock.mono;
        let late: Vec<RaftId> =
            self.snapshots.sent.iter().filter(|(_, until)| **until <= now).map(|(peer, _)| *peer).collect();
        for peer in late {
            self.snapshots.sent.remove(&peer);
            tracing::info!(group = %self.group, peer, "nobody reads the snapshot that was sent");
            self.snapshot_lost(peer);
        }
        let raft = &self.raft.raft;
        let prs = raft.prs();
        let in_snapshot = |peer: RaftId| prs.get(peer).is_some_and(|pr| pr.state == ProgressState::Snapshot);
        self.snapshots.sent.retain(|peer, _| raft.state == StateRole::Leader && in_snapshot(*peer));
        if !self.snapshots.sent.is_empty() {
            self.snapshots.needed = now;
        }
    }

    /// What the last inputs led to.
    pub(super) fn order_snapshots(&mut self, out: &mut Outputs<S>) {
        let now = self.clock.mono;
        // What nobody could be given yet is not made: a member without a state may ask for more than is committed, and that may
        // have to wait for the very member that reads the one which is there.
        let applied = self.applied.index;
        let wanted = self.raft.mut_store().snapshot_wanted().is_some_and(|index| index <= applied);
        let given = self.raft.store().gives();
        // One that is there and was not enough is older than the member.
        if wanted && !self.snapshots.asked && (given || now >= self.snapshots.not_before) {
            self.snapshots.asked = true;
            // A member that reads the old one is given the new one next.
            self.raft.mut_store().give(None);
            // It stays until the checkpoint is dropped; log-io may be about to remove what lies before.
            out.checkpoint = Some(CheckpointOrder::Make(self.raft.store().first()));
        } else if given && !self.snapshots.asked && now >= self.snapshots.needed + self.tuning.snapshot_linger {
            self.raft.mut_store().give(None);
            out.checkpoint = Some(CheckpointOrder::Drop);
        }
        let known = self.snapshots.incoming.as_ref().is_some_and(|incoming| {
            let index = incoming.message.get_snapshot().get_metadata().index;
            index <= self.raft.raft.raft_log.committed || incoming.message.term < self.raft.raft.term
        });
        if known {
            self.snapshots.incoming = None;
            self.snapshots.order = None;
            self.snapshots.cancel = true;
        }
        if self.snapshots.order.is_some() {
            self.snapshots.cancel = false;
        }
        if std::mem::take(&mut self.snapshots.members_changed) {
            out.membership = Some(self.membership.clone());
        }
        out.pull = self.snapshots.order.take().or(out.pull.take());
        out.cancel_pull |= std::mem::take(&mut self.snapshots.cancel);
    }

    /// Whether the beginning of the log must stay for now: a checkpoint lists its segments (R7), or another log is about to take
    /// the place of this one.
    pub(super) fn snapshot_holds_prefix(&self) -> bool {
        self.snapshots.asked || self.raft.store().gives() || self.snapshots.waits()
    }

    /// Notes snapshots among the messages that leave.
    pub(super) fn note_snapshots_sent(&mut self, messages: &[Message]) {
        for message in messages.iter().filter(|message| message.get_msg_type() == MessageType::MsgSnapshot) {
            let index = message.get_snapshot().get_metadata().index;
            tracing::info!(group = %self.group, peer = message.to, index, "sends a snapshot");
            self.snapshots.sent.insert(message.to, self.clock.mono + self.tuning.snapshot_patience);
        }
    }

    /// Takes over in memory what a Ready says is restored. Returns what log-io has to install, and the last frame of the old log
    /// that a crash before that may count on.
    pub(super) fn take_snapshot(&mut self, number: u64, snapshot: &Snapshot) -> (Arc<Staged>, FramePos) {
        let staged = self.snapshots.staged.take().expect("raft-rs restores what was stepped");
        let manifest = &staged.manifest;
        assert_eq!(snapshot.get_metadata().index, manifest.tail.index, "raft-rs restores another snapshot");
        let keep = self.committed_at;
        self.raft.mut_store().install(&staged.manifest, &staged.recovered);
        self.conf_indexes.clear();
        self.damage_gone();
        self.backlog.clear();
        let changed = self.membership != manifest.membership;
        self.membership = manifest.membership.clone();
        self.changed_at = manifest.tail.index;
        self.heard.retain(|id, _| self.membership.contains(*id));
        self.meta.joining &= !self.membership.contains(self.raft_id);
        self.snapshots.members_changed |= changed;
        self.snapshots.stateless = false;
        self.handed_to_apply = manifest.tail.index;
        self.committed_at = manifest.tail;
        self.conf_commit_durable = self.conf_commit_durable.max(manifest.tail.index);
        self.expected.retain(|(index, _), _| *index > manifest.tail.index);
        tracing::info!(group = %self.group, at = ?manifest.tail, "installs a snapshot");
        let generation = |n| staged.group_dir.join(generation_name(n));
        let restore = Restore {
            fs: staged.fs.clone(),
            old: generation(self.meta.generation),
            new: generation(self.meta.generation + 1),
            tail: manifest.tail,
            membership: manifest.membership.clone(),
            view: self.raft.store().view().clone(),
        };
        (self.meta.first, self.meta.generation) = (manifest.first, self.meta.generation + 1);
        self.snapshots.installing = Some((number, restore));
        (Arc::new(staged), keep)
    }

    /// What log-io has made durable up to this Ready: apply takes a snapshot in it over.
    pub(super) fn snapshot_installed(&mut self, number: u64, out: &mut Outputs<S>) {
        if let Some((_, restore)) = self.snapshots.installing.take_if(|(of, _)| *of <= number) {
            self.snapshots.restoring = true;
            out.applies.push(ApplyTask { frames: Vec::new(), restore: Some(Box::new(restore)) });
        }
    }

    /// Apply has come this far.
    pub(super) fn snapshot_applied(&mut self, at: &FramePos) {
        if self.snapshots.restoring && at.index >= self.raft.store().restored_at() {
            self.snapshots.restoring = false;
        }
    }
}

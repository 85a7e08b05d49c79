//! What a Ready asks for, and in which order it may happen (raft-log.md 2.8, R1, R2, R10, R11).
//!
//! A leader's appends leave at once, beside its own write. Everything that promises durability (votes, answers to
//! appends) waits until log-io has reported the job of its Ready, and every job before it. Nothing else in the crate
//! decides this.

use std::collections::VecDeque;

use raft::eraftpb::{Entry, Message, MessageType};
use raft::{Ready, StateRole};

use super::{GroupCore, GroupError, Outputs, Unsettled, WriteTask};
use crate::entry;
use crate::log::meta::Meta;
use crate::log::writer::{FrameBytes, MetaWrite, WriteJob};
use crate::plant::{self, Bug};
use crate::seam::Stamper;

impl<S: Stamper> GroupCore<S> {
    /// Processes Readies until none is left.
    pub(super) fn drive(&mut self, out: &mut Outputs<S>) -> Result<(), GroupError> {
        loop {
            // What has become durable leaves before anything newer.
            let mut progress = self.settle(out);
            while self.raft.has_ready() {
                let ready = self.raft.ready();
                self.process(ready, out)?;
                progress = true;
            }
            let handed = self.handed_to_apply;
            self.drain_backlog(out)?;
            progress |= handed != self.handed_to_apply;
            self.locate_commit()?;
            self.draw_election_timeout();
            if !progress && !self.raft.has_ready() {
                return Ok(());
            }
        }
    }

    fn process(&mut self, mut ready: Ready, out: &mut Outputs<S>) -> Result<(), GroupError> {
        let number = ready.number();
        let hard_state = ready.hs().cloned();
        let entries = ready.take_entries();
        let messages = ready.take_messages();
        let persisted_messages = ready.take_persisted_messages();
        let committed = ready.take_committed_entries();
        let snapshot = (!ready.snapshot().is_empty()).then(|| ready.snapshot().clone());
        ready.take_read_states().into_iter().for_each(|state| self.read_confirmed(state));

        let conf_indexes: Vec<u64> =
            entries.iter().filter(|entry| entry::is_conf_change(entry)).map(|entry| entry.index).collect();
        let install = snapshot.map(|snapshot| self.take_snapshot(number, &snapshot));
        let appended =
            self.raft.mut_store().append(entries, &self.committed_at).map_err(|failure| self.placement(failure))?;
        if let Some(keep) = appended.truncate_to {
            self.conf_indexes.split_off(&(keep.index + 1));
            self.damage_replaced(&keep);
        }
        self.conf_indexes.extend(conf_indexes);
        self.check_expected(&appended.frames)?;
        self.raft.advance_append_async(ready);

        let voted = hard_state.is_some_and(|state| {
            let changed = (state.term, state.vote) != (self.meta.term, self.meta.vote);
            (self.meta.term, self.meta.vote) = (state.term, state.vote);
            changed
        });
        let replaces = install.as_ref().map(|(_, keep)| *keep).or(appended.truncate_to);
        let commit = self.raft.raft.raft_log.committed;
        let passes_conf = self.conf_commit_durable < commit
            && self.conf_indexes.range(self.conf_commit_durable + 1..=commit).next().is_some();
        // The meta part of a job is on disk before its cut: a crash between the two must not find the old suffix under a
        // commit index of the new one.
        if let Some(keep) = replaces.filter(|keep| keep.index < self.durable.index) {
            self.durable = keep;
        }
        let mut meta = (voted || passes_conf || appended.truncate_to.is_some())
            .then(|| MetaWrite { meta: self.current_meta(), both_slots: voted });
        let mut meta_behind_cut = None;
        if passes_conf && !plant::on(Bug::ConfCommitNotSynced) {
            self.meta.commit_hint = self.meta.commit_hint.max(commit);
            let with_commit = Some(MetaWrite { meta: self.meta.clone(), both_slots: voted });
            if appended.truncate_to.is_some() { meta_behind_cut = with_commit } else { meta = with_commit }
        }
        let held_back = voted || passes_conf;

        let mut unsettled = Unsettled {
            number,
            settled: true,
            after: Vec::new(),
            commit: passes_conf.then_some(commit),
            truncate_to: replaces,
            bytes: 0,
        };
        // A leadership that ended since its messages were made: the entries of its appends may have been replaced above.
        let leads = self.raft.raft.state == StateRole::Leader;
        let persisted_messages =
            persisted_messages.into_iter().filter(|it| leads || it.get_msg_type() != MessageType::MsgAppend);
        self.note_commit_told(&messages);
        self.note_snapshots_sent(&messages);
        for message in messages {
            let message = self.peer_message(message)?;
            if held_back { unsettled.after.push(message) } else { out.messages.push(message) }
        }
        for message in persisted_messages {
            let at_once = self.may_leave_early(&message, voted) || plant::on(Bug::AckBeforeSync);
            let message = self.peer_message(message)?;
            if at_once { out.messages.push(message) } else { unsettled.after.push(message) }
        }
        if meta.is_some() || install.is_some() || !appended.frames.is_empty() {
            unsettled.settled = false;
            unsettled.bytes = appended.frames.iter().map(|frame| u64::from(frame.at.len)).sum();
            self.unwritten_bytes += unsettled.bytes;
            let tail = self.raft.store().tail();
            let install = install.map(|(staged, _)| staged);
            let frames = appended.frames;
            let job = WriteJob { truncate_to: appended.truncate_to, frames, meta, install, ..WriteJob::default() };
            // What comes back with the first of two jobs is only that everything before this Ready is durable.
            let first = if meta_behind_cut.is_some() { number - 1 } else { number };
            self.held.push_back(WriteTask { number: first, job, tail });
            if let Some(meta) = meta_behind_cut {
                let job = WriteJob { meta: Some(meta), ..WriteJob::default() };
                self.held.push_back(WriteTask { number, job, tail });
            }
        }
        self.unsettled.push_back(unsettled);
        self.last_number = number;
        self.release_held(out);
        self.backlog.extend(committed);
        Ok(())
    }

    /// An answer to a heartbeat promises nothing about the log. It may pass a slow disk, so that a stalled sync does
    /// not look like a dead follower, unless a term or vote is still on its way to the disk.
    fn may_leave_early(&self, message: &Message, voted: bool) -> bool {
        message.get_msg_type() == MessageType::MsgHeartbeatResponse
            && !voted
            && self.votes_in_flight.is_empty()
            && self.held.iter().all(|task| task.job.meta.is_none())
            // It tells a commit index, and the leader counts on it that a membership change below that is not forgotten.
            && self.unsettled.iter().all(|it| it.commit.is_none())
    }

    /// Truncation barrier: a job that replaces a suffix is handed on only when every earlier job has come back. This
    /// removes the ABA class of asynchronous persistence for a rare event.
    fn release_held(&mut self, out: &mut Outputs<S>) {
        while let Some(task) = self.held.front() {
            let replaces = task.job.truncate_to.is_some() || task.job.install.is_some();
            if replaces && !self.in_flight.is_empty() {
                return;
            }
            let task = self.held.pop_front().expect("just seen");
            self.in_flight.insert(task.number);
            self.health.disk_asked(self.clock.mono);
            if task.job.meta.as_ref().is_some_and(|meta| meta.both_slots) {
                self.votes_in_flight.insert(task.number);
            }
            out.writes.push(task);
        }
    }

    /// Lets go of what has become durable: messages leave, raft-rs is told. Returns whether anything did.
    pub(super) fn settle(&mut self, out: &mut Outputs<S>) -> bool {
        let mut last = None;
        while self.unsettled.front().is_some_and(|unsettled| unsettled.settled) {
            let unsettled = self.unsettled.pop_front().expect("just seen");
            self.unwritten_bytes -= unsettled.bytes;
            out.messages.extend(unsettled.after);
            if let Some(commit) = unsettled.commit {
                self.conf_commit_durable = self.conf_commit_durable.max(commit);
            }
            last = Some(unsettled.number);
        }
        if let Some(number) = last {
            self.persisted_number = number;
        }
        // raft-rs takes an entry for persisted by index and term alone. Behind a truncation that is not done yet the same
        // entry may have come back: what an earlier job wrote of it is about to be cut off.
        if self.persisted_number > self.reported_number && !self.unsettled.iter().any(|it| it.truncate_to.is_some()) {
            self.reported_number = self.persisted_number;
            self.raft.on_persist_ready(self.persisted_number);
        }
        // Not before raft-rs knows: it would not believe that so much is applied.
        self.snapshot_installed(self.reported_number, out);
        self.release_held(out);
        last.is_some()
    }

    /// The header made from the local prefix must be the one that the leader sent: both logs are then equal up to
    /// here, by the chain.
    fn check_expected(&mut self, frames: &[FrameBytes]) -> Result<(), GroupError> {
        for frame in frames {
            let at = frame.at;
            if let Some((pos, chain, peer)) = self.expected.remove(&(at.index, at.term))
                && (pos, chain) != (at.pos, at.chain)
            {
                return Err(GroupError::Diverged {
                    group: self.group,
                    index: at.index,
                    term: at.term,
                    ours: format!("{}~{:08x}", at.pos, at.chain),
                    theirs: format!("{pos}~{chain:08x}"),
                    peer,
                });
            }
        }
        Ok(())
    }

    /// Forgets headers of entries that are durable, or were never taken.
    pub(super) fn forget_expected(&mut self) {
        let durable = self.durable.index;
        while self.expected.first_key_value().is_some_and(|((index, _), _)| *index <= durable) {
            self.expected.pop_first();
        }
    }

    /// Notes the newest commit index that a message to followers carries.
    fn note_commit_told(&mut self, messages: &[Message]) {
        let told = messages.iter().filter(|message| message.get_msg_type() == MessageType::MsgAppend);
        if let Some(commit) = told.map(|message| message.commit).max() {
            self.announced_commit = self.announced_commit.max(commit);
        }
    }

    /// Under load the commit index rides on the next append (`skip_bcast_commit`); when the line falls idle followers
    /// are told by a message of its own.
    pub(super) fn give_commit_notice(&mut self, out: &mut Outputs<S>) -> Result<(), GroupError> {
        let committed = self.raft.raft.raft_log.committed;
        if self.raft.raft.state != StateRole::Leader || self.announced_commit >= committed {
            self.notice_at = None;
            return Ok(());
        }
        match self.notice_at {
            None => self.notice_at = Some(self.clock.mono + self.tuning.commit_notice),
            Some(at) if self.clock.mono >= at => {
                self.notice_at = None;
                self.announced_commit = committed;
                self.raft.raft.bcast_append();
                return self.drive(out);
            }
            Some(_) => {}
        }
        Ok(())
    }

    /// Meta with the newest commit hint that the durable log covers (R3).
    pub(super) fn current_meta(&mut self) -> Meta {
        let committed = self.raft.raft.raft_log.committed;
        let hint = if plant::on(Bug::CommitHintAhead) {
            self.raft.raft.raft_log.last_index() + 16
        } else {
            committed.min(self.durable.index)
        };
        self.meta.commit_hint = self.meta.commit_hint.max(hint);
        self.meta.clone()
    }

    /// Hints shorten the next start. They cost a sync, so they come at most once per interval.
    pub(super) fn write_hints(&mut self, out: &mut Outputs<S>) {
        let due = self.clock.mono >= self.hint_written + self.tuning.hint_interval;
        let hint = (self.durable.index, self.raft.raft.raft_log.committed.min(self.durable.index));
        // Not only when the disk is idle: under steady load it never is, and the next start would scan all of it.
        if !due || hint == self.hinted || !self.held.is_empty() {
            return;
        }
        self.hinted = hint;
        self.store_meta(out, false);
    }

    /// Has log-io store the meta file as it should be now.
    pub(super) fn store_meta(&mut self, out: &mut Outputs<S>, both_slots: bool) {
        self.hint_written = self.clock.mono;
        let meta = Some(MetaWrite { meta: self.current_meta(), both_slots });
        let job = WriteJob { meta, ..WriteJob::default() };
        let number = self.last_number;
        self.in_flight.insert(number);
        self.health.disk_asked(self.clock.mono);
        out.writes.push(WriteTask { number, job, tail: self.raft.store().tail() });
    }
}

/// Entries that wait to be handed to apply.
pub(super) type Backlog = VecDeque<Entry>;

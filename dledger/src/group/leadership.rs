//! The begin and the end of a leadership, and the answers that hang on it.

use raft::StateRole;

use super::{GroupCore, Leadership, Outputs};
use crate::handle::{Role, RoleView};
use crate::plant::{self, Bug};
use crate::seam::{Outcome, Stamper};

impl<S: Stamper> GroupCore<S> {
    /// Notices the begin and the end of a leadership.
    pub(super) fn lead(&mut self, out: &mut Outputs<S>) {
        let leads = self.raft.raft.state == StateRole::Leader;
        let term = self.raft.raft.term;
        let ended = match self.leadership {
            Leadership::None => false,
            Leadership::Waiting { term: of, .. } | Leadership::Serving { term: of } => !leads || of != term,
        };
        if ended {
            self.end_leadership(out);
        }
        if leads && self.leadership == Leadership::None {
            // The no-op is the first entry of the term; the Ready that carried it has been placed by now.
            let noop = self.first_index_of_term(term);
            self.leadership = Leadership::Waiting { term, noop };
            let reason = self.measuring.elected(term).name();
            tracing::info!(group = %self.group, term, reason, "elected");
        }
        if let Leadership::Waiting { term, noop } = self.leadership
            && self.applied.index >= noop
        {
            self.leadership = Leadership::Serving { term };
            self.forget_earlier_terms(term, out);
            tracing::info!(group = %self.group, term, index = noop, "leads and serves");
            let genesis = self.stamper.begin(term);
            if let Some(command) = genesis {
                self.propose_genesis(command);
            }
        }
    }

    /// What an earlier leadership of this replica left unanswered: everything before the no-op is decided now.
    pub(super) fn forget_earlier_terms(&mut self, term: u64, out: &mut Outputs<S>) {
        self.complete(out);
        assert!(self.pending.iter().all(|pending| pending.term < term), "a proposal of this term before it serves");
        out.done.extend(self.pending.drain(..).map(|pending| (pending.ticket, Outcome::Unknown)));
        self.pending_until = None;
    }

    /// Whether this replica leads and serves now; [`GroupCore::role`] is as of the last poll. raft-rs passes a
    /// follower's proposals on to the leader, stamped for another log's end.
    pub(super) fn serves_now(&self) -> bool {
        let raft = &self.raft.raft;
        raft.state == StateRole::Leader && self.leadership == (Leadership::Serving { term: raft.term })
    }

    pub(super) fn first_index_of_term(&self, term: u64) -> u64 {
        let log = &self.raft.raft.raft_log;
        let mut index = log.last_index();
        while index > log.first_index() && log.term(index - 1).is_ok_and(|of| of == term) {
            index -= 1;
        }
        index
    }

    pub(super) fn end_leadership(&mut self, out: &mut Outputs<S>) {
        if matches!(self.leadership, Leadership::Serving { .. }) && !plant::on(Bug::StaleProjection) {
            self.stamper.end();
        }
        tracing::info!(group = %self.group, term = self.raft.raft.term, "leadership ended");
        self.measuring.leadership_ended();
        self.leadership = Leadership::None;
        self.own_command = None;
        self.raft.mut_store().drop_prepared();
        let outcome = Outcome::NotLeader { leader: self.known_leader(), term: self.raft.raft.term };
        self.queue_bytes = 0;
        out.done.extend(self.queue.drain(..).map(|proposal| (proposal.ticket, outcome.clone_unanswered())));
        if !self.pending.is_empty() {
            self.pending_until = Some(self.clock.mono + self.tuning.unknown_after);
        }
        self.notice_at = None;
        self.fail_reads(out);
    }

    /// Answers proposals whose entry is committed, and those whose fate can no longer be told.
    pub(super) fn complete(&mut self, out: &mut Outputs<S>) {
        out.done.append(&mut self.refused);
        let committed = self.raft.raft.raft_log.committed;
        self.measuring.committed(committed, self.clock.mono);
        let reached = if plant::on(Bug::AckBeforeQuorum) { u64::MAX } else { committed };
        while self.pending.front().is_some_and(|pending| pending.index <= reached) {
            let pending = self.pending.pop_front().expect("just seen");
            let same_term = self.raft.raft.raft_log.term(pending.index).is_ok_and(|term| term == pending.term);
            let outcome = if same_term { Outcome::Answered(pending.answer) } else { Outcome::Unknown };
            out.done.push((pending.ticket, outcome));
        }
        if self.pending_until.is_some_and(|until| self.clock.mono >= until) {
            // Only what an ended leadership left behind: a new one begins with an empty list.
            out.done.extend(self.pending.drain(..).map(|pending| (pending.ticket, Outcome::Unknown)));
        }
        if self.pending.is_empty() {
            self.pending_until = None;
        }
    }

    pub(super) fn publish_role(&mut self, out: &mut Outputs<S>) {
        let role = match (self.raft.raft.state, self.leadership) {
            (StateRole::Leader, Leadership::Serving { .. }) => Role::Leader { ready: true },
            (StateRole::Leader, _) => Role::Leader { ready: false },
            (StateRole::Follower, _) => Role::Follower,
            (StateRole::Candidate | StateRole::PreCandidate, _) => Role::Candidate,
        };
        let now = RoleView { role, term: self.raft.raft.term, leader: self.known_leader() };
        if now != self.role {
            self.role = now;
            out.role = Some(now);
        }
    }
}

impl<A> Outcome<A> {
    /// A copy of an outcome that holds no answer.
    fn clone_unanswered(&self) -> Outcome<A> {
        match self {
            Outcome::Answered(_) => unreachable!("only outcomes without an answer are shared"),
            Outcome::NotLeader { leader, term } => Outcome::NotLeader { leader: *leader, term: *term },
            Outcome::Busy(cause) => Outcome::Busy(cause),
            Outcome::Unknown => Outcome::Unknown,
        }
    }
}

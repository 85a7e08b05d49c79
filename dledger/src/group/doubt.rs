//! Doubt about the end of the own log, and what others believe of a log that came back shorter (raft-log.md 4.5).
//!
//! A replica that may have lost entries which it had acknowledged *abstains*: it does not stand for election, answers no
//! vote and takes no hand-over, but accepts and acknowledges appends. Every entry that counts had a majority; whoever is
//! elected without this replica has asked the rest of that majority. It votes again when
//! - a leader has told it a commit index since it started, and its log has reached that index with the leader's chain. The
//!   leader counts nothing from its earlier runs any more when it tells (each message names its sender's run), so all that
//!   was committed by this replica's word lies below. Terms and votes are synced whatever else is not: no leader of an
//!   older term than its own is heard.
//! - or, when there is no leader because too many abstain (a power cut of all): *every* voter has told the end of its log,
//!   twice with nothing changed in between, so that there was a moment at which all was as told. Then it votes for a log
//!   that is not behind the greatest of these ends, and for no other; whose own log is not behind it is in doubt no more.
//!
//! Fewer than all: it waits, or an operator decides what is lost.
//!
//! The same questions guard against a loss that nothing here explains: a replica that has committed more than its leader
//! has, or something else, stops.

use std::collections::{BTreeMap, BTreeSet};

use raft::StateRole;
use raft::eraftpb::{Message, MessageType};

use super::report::{CARRIER, Report};
use super::{GroupCore, GroupError, Outputs};
use crate::log::Doubts;
use crate::plant::{self, Bug};
use crate::seam::Stamper;
use crate::transport::codec::PeerMessage;
use crate::types::RaftId;

/// Ticks between two questions.
const ASK_TICKS: u32 = 10;

/// Members whose run is remembered; strangers beyond are not heard of anyway.
const RUNS_MAX: usize = 64;

/// What is known for an end of the doubt, and what is to be said.
#[derive(Debug, Default)]
pub(super) struct Doubt {
    /// Newest run heard of, by peer.
    runs: BTreeMap<RaftId, u64>,
    /// Number of the questions asked last.
    round: u64,
    ticks_since_ask: u32,
    /// Answers to them: run and report.
    answers: BTreeMap<RaftId, (u64, Report)>,
    /// Answers to the questions before.
    answers_before: BTreeMap<RaftId, (u64, Report)>,
    /// Commit index that a leader told, and the chain value there.
    goal: Option<(u64, u32)>,
    /// Term and index that the end of a candidate's log must reach.
    floor: Option<(u64, u64)>,
    /// The leader, with its term, whose log was found to hold what is committed here.
    checked: Option<(RaftId, u64)>,
    to_send: Vec<Message>,
    /// Why this replica must stop.
    broken: Option<GroupError>,
    /// The doubt has ended and the meta file does not say so yet.
    ended: bool,
}

impl<S: Stamper> GroupCore<S> {
    /// Why this replica abstains from elections; none: it votes.
    pub fn doubts(&self) -> Doubts {
        self.meta.doubts
    }

    /// Whether this replica may take part in electing a leader whose log ends there (term, index).
    pub(super) fn may_vote_for(&self, last: (u64, u64)) -> bool {
        self.meta.doubts.is_none()
            || plant::on(Bug::AbstainerVotes)
            || self.doubt.floor.is_some_and(|floor| last >= floor)
    }

    /// Notes which run of a peer speaks; `false` for an earlier one than is known: what it promised may be gone.
    pub(super) fn hear_run(&mut self, from: RaftId, run: u64) -> bool {
        let Doubt { runs, .. } = &mut self.doubt;
        if runs.len() >= RUNS_MAX {
            runs.retain(|peer, _| self.membership.contains(*peer));
        }
        match runs.get(&from).copied() {
            Some(known) if run < known => return plant::on(Bug::EarlierRunHeard),
            Some(known) if run == known => return true,
            None if runs.len() >= RUNS_MAX => return true,
            _ => runs.insert(from, run),
        };
        self.forget_matched(from);
        true
    }

    /// A peer has started anew: what it acknowledged before may be gone, so nothing is counted until it is acknowledged
    /// again. raft-rs takes a rejection below what it believes to be matched for an old message, and would never get a
    /// shortened log going again (tikv/tikv#7353).
    fn forget_matched(&mut self, peer: RaftId) {
        if self.raft.raft.state != StateRole::Leader || plant::on(Bug::MatchedKept) {
            return;
        }
        // Where nothing is believed yet a probe is under way already; begun anew it would begin with the first entry of all.
        if let Some(progress) = self.raft.raft.mut_prs().get_mut(peer).filter(|progress| progress.matched > 0) {
            // Its next entry stays a guess: where it does not fit the peer says so.
            progress.become_probe();
            progress.matched = 0;
        }
    }

    /// One tick: questions are asked again and again until nothing is open.
    pub(super) fn doubt_tick(&mut self) {
        self.doubt.ticks_since_ask = self.doubt.ticks_since_ask.saturating_add(1);
        let raft = &self.raft.raft;
        let leader = (raft.leader_id, raft.term);
        let unchecked = self.hears_leader() && leader.0 != self.raft_id && self.doubt.checked != Some(leader);
        let abstains = !self.meta.doubts.is_none();
        let due = self.doubt.ticks_since_ask >= ASK_TICKS || self.doubt.round == 0;
        if !due || !(unchecked || abstains) {
            return;
        }
        self.compare_ends();
        self.doubt.ticks_since_ask = 0;
        self.doubt.round += 1;
        self.doubt.answers_before = std::mem::take(&mut self.doubt.answers);
        let mut asked = if abstains { self.voters_known() } else { BTreeSet::new() };
        asked.insert(leader.0);
        let own = self.raft_id;
        for peer in asked.into_iter().filter(|peer| *peer != own && *peer != 0) {
            let report = Report { asks: true, round: self.doubt.round, ..self.report() };
            self.say(peer, report);
        }
    }

    /// Whether there is a leader as far as this replica can tell. One that stands for no election never forgets the last.
    fn hears_leader(&self) -> bool {
        let raft = &self.raft.raft;
        let silent = raft.state != StateRole::Leader && raft.election_elapsed >= self.tuning.campaign_ticks.end;
        raft.leader_id != 0 && !silent
    }

    fn say(&mut self, peer: RaftId, report: Report) {
        let message = report.into_message(self.raft_id, peer, self.raft.raft.term);
        self.doubt.to_send.push(message);
    }

    fn report(&self) -> Report {
        let raft = &self.raft.raft;
        let log = &raft.raft_log;
        let committed = log.committed;
        Report {
            leads: raft.state == StateRole::Leader && log.term(committed).is_ok_and(|term| term == raft.term),
            knows_leader: self.hears_leader(),
            last: (log.last_term(), log.last_index()),
            commit: (committed, self.chain_at(committed).unwrap_or(0)),
            voters: self.own_voters().collect(),
            voters_complete: true,
            ..Report::default()
        }
    }

    fn own_voters(&self) -> impl Iterator<Item = RaftId> + '_ {
        self.membership.voters.iter().chain(&self.membership.voters_outgoing).copied()
    }

    /// Voters by the own membership and by those of all that have answered: a lost membership change must not hide one. Whoever
    /// has committed less than what the own membership is from tells an older one, perhaps with members that are gone for ever.
    fn voters_known(&self) -> BTreeSet<RaftId> {
        let told = self.doubt.answers.values().chain(self.doubt.answers_before.values()).map(|(_, report)| report);
        let newer = told.filter(|report| report.commit.0 > self.handed_to_apply);
        self.own_voters().chain(newer.flat_map(|report| report.voters.iter().copied())).collect()
    }

    /// The chain value of the frame with this index, when it is there and can be read.
    fn chain_at(&self, index: u64) -> Option<u32> {
        (index > 0).then(|| self.raft.store().frame_at(index).ok()).flatten().map(|at| at.chain)
    }

    /// A peer asks or answers.
    pub(super) fn hear_report(&mut self, message: &Message, run: u64) {
        let Some(report) = Report::of_message(message) else {
            tracing::warn!(group = %self.group, peer = message.from, "dropped a report that no member sends");
            return;
        };
        if report.asks {
            let common = self.raft.raft.raft_log.committed.min(report.commit.0);
            let common = self.chain_at(common).map_or((0, 0), |chain| (common, chain));
            let answer =
                Report { to_run: run, round: report.round, asked_commit: report.commit.0, common, ..self.report() };
            self.say(message.from, answer);
        } else if report.to_run == self.meta.run && report.round == self.doubt.round {
            self.hear_answer(message, run, report);
        }
    }

    fn hear_answer(&mut self, message: &Message, run: u64, report: Report) {
        let leader = (message.from, message.term);
        // A leader of an older term than ours may not know what has been committed since.
        if report.leads && message.term >= self.raft.raft.term {
            if let Err(error) = self.check_leader(message.from, &report) {
                self.doubt.broken = Some(error);
                return;
            }
            self.doubt.checked = Some(leader);
            if self.doubt.goal.is_none() && !self.meta.doubts.is_none() {
                let (index, _) = report.commit;
                tracing::info!(group = %self.group, leader = message.from, index, "votes again when its log has reached this");
                self.doubt.goal = Some(report.commit);
            }
        }
        self.doubt.answers.insert(message.from, (run, report));
        self.compare_ends();
    }

    /// What is committed here must be in the leader's log, byte for byte.
    fn check_leader(&self, leader: RaftId, report: &Report) -> Result<(), GroupError> {
        if report.asked_commit > report.last.1 {
            return Err(GroupError::LeaderLacks {
                group: self.group,
                leader,
                committed: report.asked_commit,
                last: report.last.1,
            });
        }
        let (index, theirs) = report.common;
        match self.chain_at(index) {
            Some(ours) if ours != theirs => Err(GroupError::Diverged {
                group: self.group,
                index,
                term: self.raft.raft.raft_log.term(index).unwrap_or(0),
                ours: format!("chain {ours:08x}"),
                theirs: format!("chain {theirs:08x}"),
                peer: leader,
            }),
            _ => Ok(()),
        }
    }

    /// Whether all voters have told the same twice, and nobody knows a leader: then the greatest end is the one to elect.
    fn compare_ends(&mut self) {
        if self.meta.doubts.is_none() || self.hears_leader() || self.doubt.round < 2 {
            return;
        }
        let mut greatest = self.own_end();
        for voter in self.voters_known().into_iter().filter(|voter| *voter != self.raft_id) {
            let (Some((run, now)), Some((run_before, before))) =
                (self.doubt.answers.get(&voter), self.doubt.answers_before.get(&voter))
            else {
                return;
            };
            if run != run_before || now.last != before.last || now.knows_leader || !now.voters_complete {
                return;
            }
            greatest = greatest.max(now.last);
        }
        if self.doubt.floor != Some(greatest) {
            let (term, index) = greatest;
            tracing::info!(group = %self.group, term, index, "all voters have told the end of their logs");
        }
        self.doubt.floor = Some(greatest);
    }

    /// Term and index of the last entry.
    fn own_end(&self) -> (u64, u64) {
        let log = &self.raft.raft.raft_log;
        (log.last_term(), log.last_index())
    }

    /// Ends the doubt when it may end, and hands out what is to be said.
    pub(super) fn end_doubt(&mut self, out: &mut Outputs<S>) -> Result<(), GroupError> {
        if let Some(error) = self.doubt.broken.take() {
            return Err(error);
        }
        if !self.meta.doubts.is_none() && self.has_it_all() {
            tracing::info!(group = %self.group, doubts = %self.meta.doubts, end = ?self.durable, "votes again");
            self.meta.doubts = Doubts::NONE;
            (self.doubt.goal, self.doubt.floor) = (None, None);
            self.doubt.ended = true;
        }
        if self.doubt.ended && self.held.is_empty() {
            self.doubt.ended = false;
            self.store_meta(out, true);
        }
        for message in std::mem::take(&mut self.doubt.to_send) {
            out.messages.push(PeerMessage::new(self.group, self.meta.run, message, Vec::new(), self.clock.wall_ms));
        }
        Ok(())
    }

    /// Whether everything that may have been lost is here again, written.
    fn has_it_all(&self) -> bool {
        let Doubt { goal, floor, .. } = &self.doubt;
        if plant::on(Bug::DoubtEndsEarly) && goal.is_some() {
            return true;
        }
        let reached = goal.is_some_and(|(index, chain)| {
            // With another chain there an old suffix still waits to be replaced.
            self.durable.index >= index && (index == 0 || self.chain_at(index).is_none_or(|ours| ours == chain))
        });
        let end = self.own_end();
        reached || (floor.is_some_and(|floor| end >= floor) && self.durable.index == end.1)
    }
}

/// Whether this is a report, which raft-rs must not see.
pub(super) fn is_report(message: &Message) -> bool {
    message.get_msg_type() == CARRIER
}

/// Whether this asks for a vote: then its end of log, term and index.
pub(super) fn vote_asked(message: &Message) -> Option<(u64, u64)> {
    matches!(message.get_msg_type(), MessageType::MsgRequestVote | MessageType::MsgRequestPreVote)
        .then_some((message.log_term, message.index))
}

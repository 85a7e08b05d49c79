//! One Raft group without I/O: inputs and time go in, outputs come out. Raft decides here; the raft loop carries out.
//!
//! ```text
//!   proposals, peer messages, ticks, WriteDone, ApplyDone, reads
//!        |                                                        (methods; nothing happens yet)
//!        v
//!   GroupCore::poll ---> messages that may leave now              (a leader's appends: before its own disk)
//!        |           \-> WriteTask for log-io, with the messages that may leave only when it is durable
//!        |            \-> ApplyTask: committed and locally durable frames
//!        |             \-> ended proposals, reached read barriers, the role
//! ```
//! The same code runs under the raft loop thread and in the simulator. Nothing here reads a clock or draws a random
//! number that was not handed in; the only disk access is the bounded catch-up read in [`crate::storage`].

mod membership;
mod reads;
mod ready;
mod stamping;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use raft::eraftpb::{ConfState, HardState, Message, MessageType};
use raft::{Config as RaftConfig, RawNode, StateRole};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::handle::{GroupStatus, PeerStatus, ReadError, Role, RoleView};
use crate::log::frame::Layout;
use crate::log::meta::Meta;
use crate::log::view::LogView;
use crate::log::writer::WriteJob;
use crate::plant::{self, Bug};
use crate::seam::{AppliedState, Membership, Outcome, Proposal, Stamper};
use crate::storage::{GroupStorage, LogStart, StorageFailure};
use crate::transport::codec::PeerMessage;
use crate::types::{Frame, FramePos, GroupId, LogPos, RaftId};

pub use membership::MemberChange;

/// raft-rs draws its election time-outs from a generator that cannot be seeded. It is given one that never runs out,
/// and [`GroupCore::tick`] starts the campaigns itself, after a time of its own drawing.
const ELECTION_TICKS_NEVER: usize = 1 << 30;

/// Byte limits and times of a group. `Default` is production.
#[derive(Debug, Clone)]
pub struct GroupTuning {
    /// Ticks without a leader before followers answer pre-votes.
    pub election_ticks: usize,
    /// Range of a follower's own election time-out, in ticks (upper end exclusive). Its lower end lies above
    /// `election_ticks`, so that a candidate is not refused by one tick of skew.
    pub campaign_ticks: std::ops::Range<usize>,
    /// Ticks until a follower campaigns that knows its leader's process to have ended (upper end exclusive).
    pub suspicion_ticks: std::ops::Range<usize>,
    /// Ticks between heartbeats.
    pub heartbeat_ticks: usize,
    /// Payload bytes of one frame that the batcher aims at.
    pub batch_bytes_max: usize,
    /// Messages in one frame.
    pub batch_records_max: usize,
    /// Bytes stamped in one round.
    pub round_bytes_max: usize,
    /// Bytes of log beyond the commit index at which stamping pauses.
    pub uncommitted_bytes_max: u64,
    /// Bytes of log between applied and committed at which a leader stops stamping and a follower stops taking
    /// appends; a replica further behind than this does not campaign.
    pub apply_lag_bytes_max: u64,
    /// Bytes handed to log-io and not yet durable at which appends of a leader are dropped (it sends them again).
    pub unwritten_bytes_max: u64,
    /// Bytes of entries kept in memory.
    pub cache_bytes_max: usize,
    /// Bytes of entries in one message to a peer.
    pub message_bytes_max: u64,
    /// Messages in flight to one peer.
    pub inflight_max: usize,
    /// A read that no quorum has confirmed by then fails.
    pub read_timeout: Duration,
    /// A read-index round that is unanswered is asked again after this.
    pub read_retry: Duration,
    /// Pause after a commit before followers are told of it by a message of its own.
    pub commit_notice: Duration,
    /// How long answers of in-flight proposals wait for their outcome after leadership has ended.
    pub unknown_after: Duration,
    /// Least time between two hints written to the meta file.
    pub hint_interval: Duration,
    /// Proposals that may wait for their turn here.
    pub queue_max: usize,
    /// Bytes of them, by their size hints; one larger proposal may wait alone.
    pub queue_bytes_max: usize,
}

impl Default for GroupTuning {
    fn default() -> Self {
        GroupTuning {
            election_ticks: 10,
            campaign_ticks: 12..20,
            suspicion_ticks: 1..4,
            heartbeat_ticks: 2,
            batch_bytes_max: 1 << 20,
            batch_records_max: 512,
            round_bytes_max: 8 << 20,
            uncommitted_bytes_max: 64 << 20,
            apply_lag_bytes_max: 64 << 20,
            unwritten_bytes_max: 64 << 20,
            cache_bytes_max: 128 << 20,
            message_bytes_max: 1 << 20,
            inflight_max: 64,
            read_timeout: Duration::from_secs(2),
            read_retry: Duration::from_millis(500),
            commit_notice: Duration::from_millis(1),
            unknown_after: Duration::from_millis(300),
            hint_interval: Duration::from_secs(1),
            queue_max: 65_536,
            queue_bytes_max: 64 << 20,
        }
    }
}

/// The two clocks that a group sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clock {
    /// Monotonic time since any fixed moment.
    pub mono: Duration,
    /// Wall clock, ms since 1970: for stamps only, never for time-outs.
    pub wall_ms: u64,
}

/// Work for log-io. Tasks of a group are carried out in the order given; [`GroupCore::written`] reports each.
#[derive(Debug)]
pub struct WriteTask {
    /// Number to report.
    pub number: u64,
    /// What to write.
    pub job: WriteJob,
    /// Last frame of the job, or the last one before it when it has none.
    pub tail: FramePos,
}

/// Committed, locally durable frames for the state machine, in order.
#[derive(Debug)]
pub struct ApplyTask {
    /// The frames, each with the membership that it establishes, if it does.
    pub frames: Vec<(Frame, Option<Membership>)>,
}

/// Who waits for a read barrier. Opaque here.
pub type ReadTicket = u64;

/// What one [`GroupCore::poll`] asks the raft loop to do.
#[derive(Debug)]
pub struct Outputs<S: Stamper> {
    /// Messages that may leave now.
    pub messages: Vec<PeerMessage>,
    /// Jobs for log-io, in order.
    pub writes: Vec<WriteTask>,
    /// Frames for apply, in order.
    pub applies: Vec<ApplyTask>,
    /// Ended proposals.
    pub done: Vec<(S::Ticket, Outcome<S::Answer>)>,
    /// Read barriers: reached (everything up to this index is applied) or failed.
    pub reads: Vec<(ReadTicket, Result<u64, ReadError>)>,
    /// The role, when it changed.
    pub role: Option<RoleView>,
}

impl<S: Stamper> Default for Outputs<S> {
    fn default() -> Self {
        Outputs {
            messages: Vec::new(),
            writes: Vec::new(),
            applies: Vec::new(),
            done: Vec::new(),
            reads: Vec::new(),
            role: None,
        }
    }
}

/// Why a group cannot go on. The process (or the replica) stops; nothing is truncated, nothing more is answered.
#[derive(Debug, thiserror::Error)]
pub enum GroupError {
    /// This replica's log and the leader's differ in bytes where they should be the same.
    #[error(
        "entry {index} of term {term} has frame {ours} here and {theirs} on replica {peer}: the logs of group {group} \
         have diverged; stop this replica and compare the logs with `ledgermq inspect compare`"
    )]
    Diverged {
        /// The group.
        group: GroupId,
        /// Raft index.
        index: u64,
        /// Raft term.
        term: u64,
        /// Frame made from the local prefix.
        ours: String,
        /// Frame that came from the peer.
        theirs: String,
        /// Sender.
        peer: RaftId,
    },
    /// An entry has no place in the log.
    #[error("cannot place an entry in the log of group {group}: {reason}")]
    Placement {
        /// The group.
        group: GroupId,
        /// What did not fit.
        reason: String,
    },
    /// raft-rs refused the recovered state.
    #[error("cannot start group {group}: {reason}")]
    Start {
        /// The group.
        group: GroupId,
        /// What did not fit.
        reason: String,
    },
}

/// What a group starts from: the recovered log, its meta slot and the position of the state machine.
pub struct GroupStart<S> {
    /// Meta slot as read (with this process's boot id already in it).
    pub meta: Meta,
    /// Last frame of the recovered log.
    pub tail: FramePos,
    /// Term runs of the recovered log.
    pub term_runs: Vec<(u64, u64)>,
    /// Read side.
    pub view: LogView,
    /// What the state machine holds.
    pub applied: AppliedState,
    /// The layer above.
    pub stamper: S,
    /// Seed of the election time-outs.
    pub seed: u64,
}

/// An appended proposal that waits for its commit.
struct Pending<S: Stamper> {
    index: u64,
    term: u64,
    ticket: S::Ticket,
    answer: S::Answer,
}

/// A Ready whose effects are not all durable.
struct Unsettled {
    number: u64,
    /// Whether log-io has (or does not need) to report it.
    settled: bool,
    /// Messages that leave when it is.
    after: Vec<PeerMessage>,
    /// Commit index that becomes durable with it, when the job carries one for a membership change (R10).
    commit: Option<u64>,
    /// The last frame that stays, when its job replaces a suffix of the log.
    truncate_to: Option<FramePos>,
    bytes: u64,
}

/// Where this replica stands as a leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leadership {
    None,
    /// Elected in `term`; serves once the no-op at `noop` is applied.
    Waiting {
        term: u64,
        noop: u64,
    },
    Serving {
        term: u64,
    },
}

/// One replica of one group.
pub struct GroupCore<S: Stamper> {
    group: GroupId,
    raft_id: RaftId,
    tuning: GroupTuning,
    raft: RawNode<GroupStorage>,
    stamper: S,
    rng: SmallRng,
    /// Ticks without a leader after which this replica campaigns, and what they were drawn for.
    campaign_after: usize,
    drawn_for: (u64, StateRole, RaftId),
    clock: Clock,

    leadership: Leadership,
    role: RoleView,
    /// Waiting for their turn; only while serving.
    queue: VecDeque<Proposal<S>>,
    /// Sum of their size hints.
    queue_bytes: usize,
    /// Ascending by index.
    pending: VecDeque<Pending<S>>,
    /// Answers of an ended leadership wait until then.
    pending_until: Option<Duration>,
    /// Answered without waiting for a commit.
    refused: Vec<(S::Ticket, Outcome<S::Answer>)>,
    reads: reads::Reads,

    meta: Meta,
    hint_written: Duration,
    /// Durable and commit index of the last hint.
    hinted: (u64, u64),
    durable: FramePos,
    unsettled: VecDeque<Unsettled>,
    unwritten_bytes: u64,
    /// Jobs held back behind the truncation barrier.
    held: VecDeque<WriteTask>,
    in_flight: BTreeSet<u64>,
    /// Those of them that carry a new term or vote.
    votes_in_flight: BTreeSet<u64>,
    /// Number of the last Ready.
    last_number: u64,
    /// Number of the last Ready that is durable with everything before it.
    persisted_number: u64,
    /// Number up to which raft-rs was told so.
    reported_number: u64,

    applied: FramePos,
    committed_at: FramePos,
    handed_to_apply: u64,
    /// Committed entries not yet handed to apply: behind a membership change whose commit is not durable yet.
    backlog: ready::Backlog,
    /// Membership changes in the log that are not applied yet.
    conf_indexes: BTreeSet<u64>,
    conf_commit_durable: u64,
    membership: Membership,

    /// Frame headers that came with appends: `(index, term)` to position, chain and sender.
    expected: BTreeMap<(u64, u64), (LogPos, u32, RaftId)>,
    announced_commit: u64,
    notice_at: Option<Duration>,
    /// A command of the layer above itself, proposed before anything else.
    own_command: Option<Bytes>,
}

impl<S: Stamper> GroupCore<S> {
    /// Starts the group as a follower.
    ///
    /// # Errors
    /// [`GroupError::Start`] when the state machine is ahead of the log, or raft-rs refuses the state.
    pub fn new(start: GroupStart<S>, tuning: GroupTuning, clock: Clock) -> Result<Self, GroupError> {
        let GroupStart { meta, tail, term_runs, view, applied, stamper, seed } = start;
        let group = meta.identity.group;
        let raft_id = meta.identity.raft_id;
        let refuse = |reason: String| GroupError::Start { group, reason };
        if applied.at.index > tail.index {
            return Err(refuse(format!(
                "its state is at entry {} but its log ends at entry {}: the state folder belongs to another log; \
                 rebuild the replica under a new raft id",
                applied.at.index, tail.index
            )));
        }
        let membership = applied.membership.clone().unwrap_or_else(|| Membership {
            voters: meta.birth_members.iter().map(|member| member.raft_id).collect(),
            ..Membership::default()
        });
        // R3: the hint is clamped to what is there; R9: the log may prove a term that the meta slot does not know.
        let commit = meta.commit_hint.min(tail.index).max(applied.at.index);
        let (term, vote) = if tail.term > meta.term { (tail.term, raft_id) } else { (meta.term, meta.vote) };
        let hard_state = HardState { term, vote, commit, ..HardState::default() };
        let layout = Layout { segment_size: meta.constants.segment_size };
        let start_mark = LogStart { prev: meta.first.before() };
        let storage = GroupStorage::new(
            layout,
            hard_state,
            membership::conf_state(&membership),
            start_mark,
            term_runs,
            tail,
            view,
            tuning.cache_bytes_max,
        );
        if applied.at.index > start_mark.prev.index {
            let there = storage.frame_at(applied.at.index).map_err(|failure| refuse(failure.to_string()))?;
            if there != applied.at {
                return Err(refuse(format!(
                    "its state is at {:?} but its log has {there:?} there: the state folder belongs to another log; \
                     rebuild the replica under a new raft id",
                    applied.at
                )));
            }
        }
        let conf_indexes = membership::scan(&storage, applied.at.index).map_err(refuse)?;
        let config = RaftConfig {
            id: raft_id,
            election_tick: tuning.election_ticks,
            heartbeat_tick: tuning.heartbeat_ticks,
            min_election_tick: ELECTION_TICKS_NEVER,
            max_election_tick: ELECTION_TICKS_NEVER + 1,
            applied: applied.at.index,
            max_size_per_msg: tuning.message_bytes_max,
            max_inflight_msgs: tuning.inflight_max,
            check_quorum: true,
            pre_vote: true,
            skip_bcast_commit: true,
            // Bounded by our own count before a proposal is made, so that raft-rs never drops one.
            max_uncommitted_size: u64::MAX,
            max_committed_size_per_ready: 16 << 20,
            ..RaftConfig::default()
        };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let raft = RawNode::new(&config, storage, &logger).map_err(|error| refuse(error.to_string()))?;
        let conf_commit_durable = meta.commit_hint;
        let mut core = GroupCore {
            group,
            raft_id,
            raft,
            stamper,
            rng: SmallRng::seed_from_u64(seed),
            campaign_after: 0,
            drawn_for: (u64::MAX, StateRole::Follower, 0),
            clock,
            leadership: Leadership::None,
            role: RoleView { role: Role::Follower, term, leader: None },
            queue: VecDeque::new(),
            queue_bytes: 0,
            pending: VecDeque::new(),
            pending_until: None,
            refused: Vec::new(),
            reads: reads::Reads::default(),
            meta,
            hint_written: clock.mono,
            hinted: (tail.index, commit),
            durable: tail,
            unsettled: VecDeque::new(),
            unwritten_bytes: 0,
            held: VecDeque::new(),
            in_flight: BTreeSet::new(),
            votes_in_flight: BTreeSet::new(),
            last_number: 0,
            persisted_number: 0,
            reported_number: 0,
            applied: applied.at,
            committed_at: applied.at,
            handed_to_apply: applied.at.index,
            backlog: VecDeque::new(),
            conf_indexes,
            conf_commit_durable,
            membership,
            expected: BTreeMap::new(),
            announced_commit: commit,
            notice_at: None,
            own_command: None,
            tuning,
        };
        core.draw_election_timeout();
        core.locate_commit()?;
        Ok(core)
    }

    /// Draws a new election time-out where raft-rs resets its own: at every change of term, role or leader.
    fn draw_election_timeout(&mut self) {
        let raft = &self.raft.raft;
        let standing = (raft.term, raft.state, raft.leader_id);
        if standing != self.drawn_for {
            self.drawn_for = standing;
            self.campaign_after = self.rng.random_range(self.tuning.campaign_ticks.clone());
        }
    }

    /// One tick of the monotonic clock. A replica that is far behind in applying does not campaign: as a leader it
    /// would serve nothing for seconds.
    pub fn tick(&mut self) {
        // The clock goes on all the same: it is also what lets this replica vote for another once its leader is silent.
        self.raft.tick();
        self.draw_election_timeout();
        let may_campaign = self.may_campaign();
        let raft = &mut self.raft.raft;
        if raft.state != StateRole::Leader && raft.election_elapsed >= self.campaign_after && may_campaign {
            raft.election_elapsed = 0;
            self.campaign_after = self.rng.random_range(self.tuning.campaign_ticks.clone());
            // Refused while a membership change waits to be applied; the next time-out tries again.
            let _ = self.raft.campaign();
            self.draw_election_timeout();
        }
    }

    /// Whether this replica may stand for election. Its votes would wait for its own disk anyway; alone in its group it
    /// would lead at once, which raft-rs takes for a proof that everything is persisted.
    fn may_campaign(&self) -> bool {
        let raft = &self.raft.raft;
        raft.promotable()
            && raft.raft_log.persisted == raft.raft_log.last_index()
            && self.apply_lag_bytes() <= self.tuning.apply_lag_bytes_max
    }

    /// A message of a peer. Messages for someone else, of strangers, or about more than this replica can take now are
    /// dropped: Raft sends again.
    pub fn step(&mut self, message: PeerMessage) {
        if message.group != self.group || message.raft.to != self.raft_id || message.raft.from == self.raft_id {
            return;
        }
        let from = message.raft.from;
        let Ok((mut raft, headers)) = message.into_raft() else {
            tracing::warn!(group = %self.group, peer = from, "dropped a message whose frames are no entries");
            return;
        };
        if raft.term == 0 || !is_plausible(&raft) {
            tracing::warn!(group = %self.group, peer = from, "dropped a message that no member sends");
            return;
        }
        match raft.get_msg_type() {
            MessageType::MsgAppend => {
                let limit = self.raft.store().layout().max_frame_len();
                if headers.iter().any(|header| header.frame_len > limit) {
                    tracing::warn!(group = %self.group, peer = from, limit, "dropped an append with an oversized frame");
                    return;
                }
                if self.apply_lag_bytes() > self.tuning.apply_lag_bytes_max * 4
                    || self.unwritten_bytes > self.tuning.unwritten_bytes_max
                {
                    return;
                }
                for header in &headers {
                    self.expected.insert((header.index, header.term), (header.pos, header.chain(), from));
                }
            }
            // A follower that lost its tail would be told to commit what it has not: raft-rs aborts there
            // (tikv/tikv#994). The commit index follows by the next append.
            MessageType::MsgHeartbeat => {
                raft.commit = raft.commit.min(self.raft.raft.raft_log.last_index());
            }
            MessageType::MsgAppendResponse => {
                raft.reject_hint = raft.reject_hint.min(self.raft.raft.raft_log.last_index());
            }
            MessageType::MsgTimeoutNow if !self.may_campaign() => return,
            _ => {}
        }
        if let Err(error) = self.raft.step(raft) {
            tracing::debug!(group = %self.group, peer = from, %error, "message not taken");
        }
        self.draw_election_timeout();
    }

    /// A proposal. Its outcome comes out of a later [`GroupCore::poll`].
    pub fn propose(&mut self, proposal: Proposal<S>) {
        match self.leadership {
            Leadership::Serving { .. } if self.raft.raft.lead_transferee.is_none() => {
                let bytes = self.queue_bytes + proposal.size_hint;
                let full = self.queue.len() >= self.tuning.queue_max
                    || (bytes > self.tuning.queue_bytes_max && !self.queue.is_empty());
                if full {
                    self.refused.push((proposal.ticket, Outcome::Busy("too many proposals wait for their turn")));
                } else {
                    self.queue_bytes = bytes;
                    self.queue.push_back(proposal);
                }
            }
            _ => {
                let outcome = Outcome::NotLeader { leader: self.known_leader(), term: self.raft.raft.term };
                self.refused.push((proposal.ticket, outcome));
            }
        }
    }

    /// The connection to a peer broke, or a message to it was dropped.
    pub fn unreachable(&mut self, peer: RaftId) {
        self.raft.report_unreachable(peer);
    }

    /// Nobody listens any more where this peer did: its process has ended. If it led, this follower need not wait for
    /// the silence: it campaigns within [`GroupTuning::suspicion_ticks`]. Pre-vote keeps that safe and quiet: members
    /// that still hear the leader refuse.
    pub fn suspect(&mut self, peer: RaftId) {
        let raft = &mut self.raft.raft;
        if raft.state != StateRole::Follower || raft.leader_id != peer {
            return;
        }
        raft.leader_id = 0;
        self.drawn_for = (raft.term, raft.state, 0);
        self.campaign_after = raft.election_elapsed + self.rng.random_range(self.tuning.suspicion_ticks.clone());
        tracing::info!(group = %self.group, leader = peer, "the leader's process has ended");
    }

    /// Hands the leadership to `to`, when this replica has it. Proposals are refused until that has come to an end.
    pub fn transfer_leader(&mut self, to: RaftId) {
        // A follower would pass the request on under the name of `to`.
        if self.raft.raft.state == StateRole::Leader {
            self.raft.transfer_leader(to);
        }
    }

    /// log-io has made everything up to this task durable. `durable` is the last durable frame.
    pub fn written(&mut self, number: u64, durable: FramePos) {
        // Merged jobs are reported by the last one.
        self.in_flight = self.in_flight.split_off(&(number + 1));
        self.votes_in_flight = self.votes_in_flight.split_off(&(number + 1));
        self.durable = durable;
        for entry in &mut self.unsettled {
            if entry.number <= number {
                entry.settled = true;
            } else if let Some(keep) = entry.truncate_to.filter(|keep| keep.index < self.durable.index) {
                // About to be cut off: no commit index may be told by it.
                self.durable = keep;
            }
        }
    }

    /// Apply has finished everything up to this frame.
    pub fn applied(&mut self, at: FramePos) {
        assert!(at.index >= self.applied.index, "apply went back from {:?} to {at:?}", self.applied);
        self.applied = at;
        self.raft.advance_apply_to(at.index);
    }

    fn apply_lag_bytes(&self) -> u64 {
        self.committed_at.end().0.saturating_sub(self.applied.end().0)
    }

    /// Keeps the place of the commit index, which limits in bytes are measured from.
    fn locate_commit(&mut self) -> Result<(), GroupError> {
        let committed = self.raft.raft.raft_log.committed;
        if committed != self.committed_at.index {
            self.committed_at = self.raft.store().frame_at(committed).map_err(|failure| self.placement(failure))?;
        }
        Ok(())
    }

    fn known_leader(&self) -> Option<RaftId> {
        Some(self.raft.raft.leader_id).filter(|id| *id != 0)
    }

    /// Carries out everything that the inputs since the last call led to.
    ///
    /// # Errors
    /// [`GroupError`]: this replica must stop.
    pub fn poll(&mut self, clock: Clock, out: &mut Outputs<S>) -> Result<(), GroupError> {
        assert!(clock.mono >= self.clock.mono, "the monotonic clock went back");
        self.clock = clock;
        self.leave_joint();
        self.drive(out)?;
        self.lead(out);
        self.stamp_queue(out);
        self.ask_quorum();
        self.drive(out)?;
        self.lead(out);
        self.give_commit_notice(out)?;
        self.complete(out);
        self.poll_reads(out);
        self.write_hints(out);
        self.publish_role(out);
        self.forget_expected();
        let (durable, applied) = (self.durable.index, self.applied.index);
        self.raft.mut_store().end_round(durable, applied);
        Ok(())
    }

    /// When [`GroupCore::poll`] must be called even if no input arrives.
    pub fn wake_at(&self) -> Option<Duration> {
        [self.notice_at, self.pending_until, self.reads.wake_at()].into_iter().flatten().min()
    }

    /// Notices the begin and the end of a leadership.
    fn lead(&mut self, out: &mut Outputs<S>) {
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
            tracing::info!(group = %self.group, term, "elected");
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
    fn forget_earlier_terms(&mut self, term: u64, out: &mut Outputs<S>) {
        self.complete(out);
        assert!(self.pending.iter().all(|pending| pending.term < term), "a proposal of this term before it serves");
        out.done.extend(self.pending.drain(..).map(|pending| (pending.ticket, Outcome::Unknown)));
        self.pending_until = None;
    }

    /// Whether this replica leads and serves now; [`GroupCore::role`] is as of the last poll. raft-rs passes a
    /// follower's proposals on to the leader, stamped for another log's end.
    fn serves_now(&self) -> bool {
        let raft = &self.raft.raft;
        raft.state == StateRole::Leader && self.leadership == (Leadership::Serving { term: raft.term })
    }

    fn first_index_of_term(&self, term: u64) -> u64 {
        let log = &self.raft.raft.raft_log;
        let mut index = log.last_index();
        while index > log.first_index() && log.term(index - 1).is_ok_and(|of| of == term) {
            index -= 1;
        }
        index
    }

    fn end_leadership(&mut self, out: &mut Outputs<S>) {
        if matches!(self.leadership, Leadership::Serving { .. }) && !plant::on(Bug::StaleProjection) {
            self.stamper.end();
        }
        tracing::info!(group = %self.group, term = self.raft.raft.term, "leadership ended");
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
    fn complete(&mut self, out: &mut Outputs<S>) {
        out.done.append(&mut self.refused);
        let committed = self.raft.raft.raft_log.committed;
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

    fn publish_role(&mut self, out: &mut Outputs<S>) {
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

    /// The group.
    pub fn group(&self) -> GroupId {
        self.group
    }

    /// This replica's number.
    pub fn raft_id(&self) -> RaftId {
        self.raft_id
    }

    /// Role, term and leader as of the last poll.
    pub fn role(&self) -> RoleView {
        self.role
    }

    /// Committed index.
    pub fn commit_index(&self) -> u64 {
        self.raft.raft.raft_log.committed
    }

    /// Index of the last entry, durable or not.
    pub fn last_index(&self) -> u64 {
        self.raft.raft.raft_log.last_index()
    }

    /// Index up to which apply has reported.
    pub fn applied_index(&self) -> u64 {
        self.applied.index
    }

    /// Bytes of memory that entries take.
    pub fn cache_bytes(&self) -> usize {
        self.raft.store().cache_bytes()
    }

    /// The meta slot as it should stand at a clean stop. Everything handed to log-io must be durable.
    pub fn closing_meta(&mut self) -> Meta {
        let mut meta = self.current_meta();
        // A cut that is held back will not come: the old suffix stays.
        for keep in self.held.iter().filter_map(|task| task.job.truncate_to) {
            meta.commit_hint = meta.commit_hint.min(keep.index);
        }
        meta.clean_shutdown = true;
        meta
    }

    /// Term and vote, for checkers.
    pub fn hard_state(&self) -> (u64, RaftId) {
        (self.raft.raft.term, self.raft.raft.vote)
    }

    /// A picture of the group for people and metrics.
    pub fn status(&self) -> GroupStatus {
        let peers = if self.raft.raft.state == StateRole::Leader {
            let mut peers: Vec<_> = self
                .raft
                .raft
                .prs()
                .iter()
                .filter(|(id, _)| **id != self.raft_id)
                .map(|(id, progress)| PeerStatus {
                    raft_id: *id,
                    matched: progress.matched,
                    active: progress.recent_active,
                })
                .collect();
            peers.sort_by_key(|peer| peer.raft_id);
            peers
        } else {
            Vec::new()
        };
        GroupStatus {
            group: self.group,
            raft_id: self.raft_id,
            role: self.role,
            last: self.raft.store().tail(),
            durable: self.durable,
            commit: self.commit_index(),
            applied: self.applied.index,
            membership: self.membership.clone(),
            peers,
        }
    }

    fn placement(&self, failure: StorageFailure) -> GroupError {
        GroupError::Placement { group: self.group, reason: failure.to_string() }
    }

    /// A raft-rs message with the raw frames of its entries.
    fn peer_message(&self, raft: Message) -> Result<PeerMessage, GroupError> {
        let frames: Result<Vec<_>, _> = raft.entries.iter().map(|entry| self.raft.store().wire_frame(entry)).collect();
        let frames = frames.map_err(|failure| self.placement(failure))?;
        Ok(PeerMessage::new(self.group, raft, frames, self.clock.wall_ms))
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

/// Whether the entries follow the place that an append names, in index and term: raft-rs counts on it.
fn is_plausible(message: &Message) -> bool {
    let mut prev = (message.index, message.log_term);
    message.entries.iter().all(|entry| {
        let follows = prev.0.checked_add(1) == Some(entry.index) && (prev.1..=message.term).contains(&entry.term);
        prev = (entry.index, entry.term);
        follows
    })
}

/// Sorted: raft-rs keeps members in hash sets, whose order tells how they came in, and that differs between replicas.
fn conf_state_membership(state: &ConfState) -> Membership {
    let sorted = |ids: &[RaftId]| {
        let mut ids = ids.to_vec();
        ids.sort_unstable();
        ids
    };
    Membership {
        voters: sorted(&state.voters),
        learners: sorted(&state.learners),
        voters_outgoing: sorted(&state.voters_outgoing),
        learners_next: sorted(&state.learners_next),
        auto_leave: state.auto_leave,
    }
}

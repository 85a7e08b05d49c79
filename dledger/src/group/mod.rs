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
//! number that was not handed in; the only disk access is the bounded catch-up read in `storage.rs`.

mod doubt;
mod health;
mod leadership;
mod measures;
mod members;
mod membership;
mod outputs;
mod prefix;
mod reads;
mod ready;
mod repair;
mod report;
mod snapshot;
mod stamping;
mod status;
mod tuning;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use raft::eraftpb::{ConfState, HardState, Message, MessageType};
use raft::{Config as RaftConfig, RawNode, StateRole};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::handle::{Role, RoleView};
use crate::log::frame::Layout;
use crate::log::meta::Meta;
use crate::log::scrub::Run;
use crate::log::view::LogView;
use crate::plant::{self, Bug};
use crate::seam::{AppliedState, MemberInfo, Membership, Outcome, Proposal, Stamper};
use crate::snapshot::conf_state;
use crate::storage::{GroupStorage, LogStart, StorageFailure};
use crate::transport::codec::PeerMessage;
use crate::types::{FramePos, GroupId, LogPos, RaftId};

pub use measures::{ElectionReason, Measures};
pub use members::{ADDRESS_MAX, MEMBERS_MAX};
pub(crate) use membership::at_birth;
pub use membership::{ChangeError, MemberChange, PROMOTE_LAG_MAX};
pub use outputs::{ApplyTask, Clock, GroupError, Outputs, ReadTicket, WriteTask};
pub(crate) use repair::CARRIER as FETCH_CARRIER;
pub(crate) use report::CARRIER as REPORT_CARRIER;
pub use snapshot::{CheckpointOrder, PullOrder};
pub use tuning::{Flush, GroupTuning};

/// Whether this answers a question for a vote.
fn is_vote(message: &Message) -> bool {
    matches!(message.get_msg_type(), MessageType::MsgRequestVoteResponse | MessageType::MsgRequestPreVoteResponse)
}

/// raft-rs draws its election time-outs from a generator that cannot be seeded. It is given one that never runs out,
/// and [`GroupCore::tick`] starts the campaigns itself, after a time of its own drawing.
const ELECTION_TICKS_NEVER: usize = 1 << 30;

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
    /// Damaged parts of the log, to be mended from another member.
    pub damage: Vec<Run>,
    /// The layer above.
    pub stamper: S,
    /// Seed of the election time-outs.
    pub seed: u64,
    /// Addresses of the members as the config tells them, for those whose addresses the log does not have yet.
    pub addresses: BTreeMap<RaftId, MemberInfo>,
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
    /// Whether any leader was heard of since the start.
    knew_leader: bool,
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
    health: health::Health,
    measuring: measures::Measuring,
    doubt: doubt::Doubt,
    repairs: repair::Repairs,
    snapshots: snapshot::Snapshots,

    prefix: prefix::Prefix,
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
    /// Index of the last applied change of it; at first, where the state machine stood at the start.
    changed_at: u64,
    /// Addresses by the config.
    addresses: BTreeMap<RaftId, MemberInfo>,
    /// When each member was last heard of.
    heard: BTreeMap<RaftId, Duration>,
    /// A member has said that this replica was removed.
    told_removed: bool,

    /// Frame headers that came with appends: `(index, term)` to position, chain and sender.
    expected: BTreeMap<(u64, u64), (LogPos, u32, RaftId)>,
    announced_commit: u64,
    notice_at: Option<Duration>,
    /// A command of the layer above itself, proposed before anything else.
    own_command: Option<Bytes>,
    /// Who is to lead next, and until when that waits for the proposals before it.
    transfer_to: Option<(RaftId, Duration)>,
}

impl<S: Stamper> GroupCore<S> {
    /// Starts the group as a follower.
    ///
    /// # Errors
    /// [`GroupError::Start`] when the state machine is ahead of the log, or raft-rs refuses the state.
    pub fn new(start: GroupStart<S>, tuning: GroupTuning, clock: Clock) -> Result<Self, GroupError> {
        let GroupStart { mut meta, tail, term_runs, view, applied, damage, stamper, seed, addresses } = start;
        let group = meta.identity.group;
        let raft_id = meta.identity.raft_id;
        let refuse = |reason: String| GroupError::Start { group, reason };
        // Nothing can be applied before another member's state is here.
        let stateless = applied.at.index + 1 < meta.first.index;
        let applied = match stateless {
            true => AppliedState { at: meta.first.before(), membership: None },
            false => applied,
        };
        if applied.at.index > tail.index {
            return Err(refuse(format!(
                "its state is at entry {} but its log ends at entry {}: the state folder belongs to another log; \
                 rebuild the replica under a new raft id",
                applied.at.index, tail.index
            )));
        }
        let membership = applied.membership.clone().unwrap_or_else(|| membership::at_birth(&meta.birth_members));
        meta.joining &= !membership.contains(raft_id);
        // R3: the hint is clamped to what is there; R9: the log may prove a term that the meta slot does not know.
        // Nothing behind damage is handed to apply before it is mended.
        let hold = if stateless { applied.at.index } else { repair::hold(damage.iter(), applied.at.index) };
        let commit = meta.commit_hint.min(tail.index).min(hold).max(applied.at.index);
        let (term, vote) = if tail.term > meta.term { (tail.term, raft_id) } else { (meta.term, meta.vote) };
        let hard_state = HardState { term, vote, commit, ..HardState::default() };
        let layout = Layout { segment_size: meta.constants.segment_size };
        let start_mark = LogStart { prev: meta.first.before() };
        let storage = GroupStorage::new(
            layout,
            hard_state,
            conf_state(&membership),
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
        let conf_indexes = membership::scan(&storage, applied.at.index, &damage).map_err(refuse)?;
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
            knew_leader: false,
            clock,
            leadership: Leadership::None,
            role: RoleView { role: Role::Follower, term, leader: None },
            queue: VecDeque::new(),
            queue_bytes: 0,
            pending: VecDeque::new(),
            pending_until: None,
            refused: Vec::new(),
            reads: reads::Reads::default(),
            health: health::Health::default(),
            measuring: measures::Measuring::default(),
            prefix: prefix::Prefix::default(),
            doubt: doubt::Doubt::default(),
            repairs: repair::Repairs::default(),
            snapshots: snapshot::Snapshots::new(stateless),
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
            changed_at: applied.at.index,
            addresses,
            heard: BTreeMap::new(),
            told_removed: false,
            expected: BTreeMap::new(),
            announced_commit: commit,
            notice_at: None,
            own_command: None,
            transfer_to: None,
            tuning,
        };
        damage.into_iter().for_each(|run| core.note_damage(run));
        core.draw_election_timeout();
        core.locate_commit()?;
        Ok(core)
    }

    /// Draws a new election time-out where raft-rs resets its own: at every change of term, role or leader.
    fn draw_election_timeout(&mut self) {
        let raft = &self.raft.raft;
        let standing = (raft.term, raft.state, raft.leader_id);
        if raft.leader_id != 0 {
            self.knew_leader = true;
            self.measuring.leader_known();
        }
        if standing != self.drawn_for {
            self.drawn_for = standing;
            self.campaign_after = self.draw_campaign_ticks();
        }
    }

    fn draw_campaign_ticks(&mut self) -> usize {
        let first = self.tuning.first_campaign_ticks.as_ref().filter(|_| !self.knew_leader);
        self.rng.random_range(first.unwrap_or(&self.tuning.campaign_ticks).clone())
    }

    /// One tick of the monotonic clock. A replica that is far behind in applying does not campaign: as a leader it
    /// would serve nothing for seconds.
    pub fn tick(&mut self) {
        // The clock goes on all the same: it is also what lets this replica vote for another once its leader is silent.
        self.raft.tick();
        self.draw_election_timeout();
        self.note_spared();
        self.doubt_tick();
        self.repair_tick();
        self.ask_for_state();
        self.watch_snapshots();
        let may_campaign = self.may_campaign();
        let raft = &mut self.raft.raft;
        if raft.state != StateRole::Leader && raft.election_elapsed >= self.campaign_after && may_campaign {
            raft.election_elapsed = 0;
            self.campaign_after = self.draw_campaign_ticks();
            // Refused while a membership change waits to be applied; the next time-out tries again.
            let _ = self.raft.campaign();
            if self.raft.raft.state != StateRole::Follower {
                self.measuring.timed_out(self.knew_leader);
            }
            self.draw_election_timeout();
        }
    }

    /// Whether this replica may stand for election: fit to lead ([`GroupCore::unfit`]), and with everything on its disk. Its
    /// votes would wait for that anyway; alone in its group it would lead at once, which raft-rs takes for a proof that
    /// everything is persisted.
    fn may_campaign(&self) -> bool {
        let raft = &self.raft.raft;
        raft.promotable()
            && !self.told_removed
            // A snapshot that apply has not taken over yet: raft-rs looks for what is between, and panics when it is not there.
            && raft.raft_log.applied + 1 >= raft.raft_log.first_index()
            && raft.raft_log.persisted == raft.raft_log.last_index()
            && self.apply_lag_bytes() <= self.tuning.apply_lag_bytes_max
            && self.unfit().is_none()
            && self.commit_hold() == u64::MAX
    }

    /// A message of a peer. Messages for someone else, of strangers, or about more than this replica can take now are
    /// dropped: Raft sends again.
    pub fn step(&mut self, message: PeerMessage) {
        if message.group != self.group || message.raft.to != self.raft_id || message.raft.from == self.raft_id {
            return;
        }
        let from = message.raft.from;
        if self.membership.has_removed(from) {
            return;
        }
        let run = message.run;
        if !self.hear_run(from, run) {
            return;
        }
        if self.membership.contains(from) {
            self.heard.insert(from, self.clock.mono);
        }
        if doubt::is_report(&message.raft) {
            return self.hear_report(&message.raft, run);
        }
        if repair::is_fetch(&message.raft) {
            return self.hear_fetch(message.raft, message.frames);
        }
        if !message.is_bulk() {
            let ahead_ms = message.wall_ms.cast_signed().saturating_sub(self.clock.wall_ms.cast_signed());
            self.health.heard_clock(from, ahead_ms, self.clock.mono);
        }
        let Ok((mut raft, headers)) = message.into_raft() else {
            tracing::warn!(group = %self.group, peer = from, "dropped a message whose frames are no entries");
            return;
        };
        if raft.term == 0 || !is_plausible(&raft) {
            tracing::warn!(group = %self.group, peer = from, "dropped a message that no member sends");
            return;
        }
        if doubt::vote_asked(&raft).is_some() || is_vote(&raft) {
            // Candidates tell what they know to be committed: it waits like what leaders tell.
            raft.commit = raft.commit.min(self.commit_hold());
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
                raft.commit = raft.commit.min(self.commit_hold());
                for header in &headers {
                    self.expected.insert((header.index, header.term), (header.pos, header.chain(), from));
                }
            }
            // A follower that lost its tail would be told to commit what it has not: raft-rs aborts there
            // (tikv/tikv#994). The commit index follows by the next append.
            MessageType::MsgHeartbeat if !plant::on(Bug::HeartbeatNotClamped) => {
                raft.commit = raft.commit.min(self.raft.raft.raft_log.last_index()).min(self.commit_hold());
            }
            MessageType::MsgAppendResponse if !raft.reject && raft.index > self.raft.raft.raft_log.last_index() => {
                // raft-rs would send it what nobody has.
                tracing::error!(group = %self.group, peer = from, index = raft.index, "a follower has committed more than this leader has");
                return;
            }
            MessageType::MsgAppendResponse => {
                match raft.request_snapshot {
                    0 if !raft.reject => self.state_is_there(from, raft.index),
                    0 => {}
                    // It names what it has committed: nothing. raft-rs would take that for an old message.
                    _ => raft.index = raft.index.max(self.raft.raft.prs().get(from).map_or(0, |it| it.matched)),
                }
                raft.reject_hint = raft.reject_hint.min(self.raft.raft.raft_log.last_index());
            }
            MessageType::MsgTimeoutNow if !self.may_campaign() => return,
            // Nobody counts on the vote of a replica that no configuration names.
            MessageType::MsgRequestVote | MessageType::MsgRequestPreVote
                if self.meta.joining && !plant::on(Bug::JoinerVotes) =>
            {
                return;
            }
            _ if doubt::vote_asked(&raft).is_some_and(|last| !self.may_vote_for(last)) => return,
            MessageType::MsgSnapshot => return self.hold_snapshot(raft),
            _ => {}
        }
        let handed_over = raft.get_msg_type() == MessageType::MsgTimeoutNow;
        if let Err(error) = self.raft.step(raft) {
            tracing::debug!(group = %self.group, peer = from, %error, "message not taken");
        }
        if handed_over && self.raft.raft.state == StateRole::Candidate {
            self.measuring.stood(ElectionReason::HandedOver);
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
        self.heard.remove(&peer);
        self.raft.report_unreachable(peer);
        self.snapshot_unreachable(peer);
    }

    /// Nobody listens any more where this peer did: its process has ended. If it led, this follower need not wait for
    /// the silence: it campaigns within [`GroupTuning::suspicion_ticks`], and `stand_back` ticks more, in which others may go
    /// first. Pre-vote keeps that safe and quiet: members that still hear the leader refuse.
    pub fn suspect(&mut self, peer: RaftId, stand_back: usize) {
        let raft = &mut self.raft.raft;
        if raft.state != StateRole::Follower || raft.leader_id != peer {
            return;
        }
        raft.leader_id = 0;
        self.measuring.leader_suspected();
        self.drawn_for = (raft.term, raft.state, 0);
        let wait = self.rng.random_range(self.tuning.suspicion_ticks.clone());
        self.campaign_after = raft.election_elapsed + wait + stand_back;
        tracing::info!(group = %self.group, leader = peer, "the leader's process has ended");
    }

    /// Hands the leadership to `to`, when this replica has it: once the proposals that came before are stamped, or after
    /// [`GroupTuning::transfer_drain`]. From then on proposals are refused until the transfer has come to an end.
    pub fn transfer_leader(&mut self, to: RaftId) {
        // A follower would pass the request on under the name of `to`.
        if self.raft.raft.state == StateRole::Leader {
            self.transfer_to = Some((to, self.clock.mono + self.tuning.transfer_drain));
        }
    }

    fn begin_transfer(&mut self) {
        let Some((to, until)) = self.transfer_to else { return };
        if self.raft.raft.state != StateRole::Leader {
            self.transfer_to = None;
        } else if self.queue.is_empty() || self.clock.mono >= until {
            self.transfer_to = None;
            self.raft.transfer_leader(to);
        }
    }

    /// log-io has made everything up to this task durable. `durable` is the last durable frame.
    pub fn written(&mut self, number: u64, durable: FramePos) {
        // Merged jobs are reported by the last one.
        self.in_flight = self.in_flight.split_off(&(number + 1));
        self.votes_in_flight = self.votes_in_flight.split_off(&(number + 1));
        self.health.disk_answered(!self.in_flight.is_empty(), self.clock.mono);
        self.durable = durable;
        for entry in &mut self.unsettled {
            if entry.number <= number {
                entry.settled = true;
            } else if let Some(keep) = entry.truncate_to.filter(|keep| keep.index < self.durable.index) {
                // About to be cut off: no commit index may be told by it.
                self.durable = keep;
            }
        }
        self.measuring.durable(self.durable.index, self.clock.mono);
    }

    /// Apply has finished everything up to this frame.
    pub fn applied(&mut self, at: FramePos) {
        assert!(at.index >= self.applied.index, "apply went back from {:?} to {at:?}", self.applied);
        self.applied = at;
        self.raft.advance_apply_to(at.index);
        self.snapshot_applied(&at);
    }

    /// Whether something here goes on only when apply does: a leadership that begins, reads, a membership change, or a lag
    /// that has reached its limit.
    pub(crate) fn waits_for_apply(&self) -> bool {
        matches!(self.leadership, Leadership::Waiting { .. })
            || !self.queue.is_empty()
            || !self.reads.is_empty()
            || !self.conf_indexes.is_empty()
            || !self.membership.voters_outgoing.is_empty()
            || self.raft.raft.has_pending_conf()
            || self.snapshots.waits()
            || self.apply_lag_bytes() > self.tuning.apply_lag_bytes_max
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

    /// Who leads, as far as this replica knows; itself, once it does.
    pub(crate) fn known_leader(&self) -> Option<RaftId> {
        Some(self.raft.raft.leader_id).filter(|id| *id != 0)
    }

    /// What the time is, for the inputs that follow: after a pause of the process, what it finds waiting must not be judged by
    /// the time before.
    pub fn set_clock(&mut self, clock: Clock) {
        assert!(clock.mono >= self.clock.mono, "the monotonic clock went back");
        self.clock = clock;
        self.health.own_clock(clock);
    }

    /// Carries out everything that the inputs since the last call led to.
    ///
    /// # Errors
    /// [`GroupError`]: this replica must stop.
    pub fn poll(&mut self, clock: Clock, out: &mut Outputs<S>) -> Result<(), GroupError> {
        self.set_clock(clock);
        self.leave_joint();
        self.drive(out)?;
        self.lead(out);
        self.stamp_queue(out);
        self.begin_transfer();
        self.ask_quorum();
        self.drive(out)?;
        self.lead(out);
        self.give_commit_notice(out)?;
        self.complete(out);
        self.poll_reads(out);
        self.end_doubt(out)?;
        self.carry_repairs(out);
        self.write_hints(out);
        self.remove_prefix(out);
        self.order_snapshots(out);
        self.publish_role(out);
        self.forget_expected();
        let (durable, applied) = (self.durable.index, self.applied.index);
        self.raft.mut_store().end_round(durable, applied);
        Ok(())
    }

    /// When [`GroupCore::poll`] must be called even if no input arrives.
    pub fn wake_at(&self) -> Option<Duration> {
        let transfer = self.transfer_to.map(|(_, until)| until);
        [self.notice_at, self.pending_until, self.reads.wake_at(), transfer].into_iter().flatten().min()
    }

    fn placement(&self, failure: StorageFailure) -> GroupError {
        GroupError::Placement { group: self.group, reason: failure.to_string() }
    }

    /// A raft-rs message with the raw frames of its entries.
    fn peer_message(&self, raft: Message) -> Result<PeerMessage, GroupError> {
        let frames: Result<Vec<_>, _> = raft.entries.iter().map(|entry| self.raft.store().wire_frame(entry)).collect();
        let frames = frames.map_err(|failure| self.placement(failure))?;
        Ok(PeerMessage::new(self.group, self.meta.run, raft, frames, self.clock.wall_ms))
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
        ..Membership::default()
    }
}

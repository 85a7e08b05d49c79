//! What the layer above holds of a running group: it proposes, asks for read barriers, watches the role and reads
//! committed bytes. Everything goes to the raft loop through one bounded queue, or reads what the loop published.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};

use crossbeam_channel::TrySendError;
use tokio::sync::{oneshot, watch};
use uuid::Uuid;

use crate::doorbell::Inbox;
use crate::group::{ChangeError, Measures, MemberChange};
use crate::histogram::Distribution;
use crate::log::Doubts;
use crate::log::costs::{LogCosts, LogCounters};
use crate::log::view::LogView;
use crate::queue::QueueSender;
use crate::raft_loop::{ApplyRequest, LoopInput};
use crate::seam::{Membership, Proposal, Stamper};
use crate::snapshot::SnapshotProgress;
use crate::snapshot::work::Progress;
use crate::types::{FramePos, GroupId, RaftId};

/// Bytes of proposals that may wait in front of the raft loop of one group, by their size hints.
/// Above it `propose` answers busy: memory stays bounded whatever the clients do (P7).
pub const PROPOSAL_BYTES_MAX: usize = 64 << 20;

/// What a replica is in its group, as of a term.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Leads. `ready` once the first entry of its own term is applied: only then does it serve.
    Leader {
        /// Whether it serves.
        ready: bool,
    },
    /// Follows, or waits for a leader.
    Follower,
    /// Campaigns.
    Candidate,
}

/// The role with its term, and the leader that this replica knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoleView {
    /// Role of this replica.
    pub role: Role,
    /// Term of this replica.
    pub term: u64,
    /// Leader in that term, when known (this replica included).
    pub leader: Option<RaftId>,
}

impl RoleView {
    /// Whether this replica leads and serves.
    pub fn serves(&self) -> bool {
        self.role == Role::Leader { ready: true }
    }
}

/// Why a replica should not lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// Its disk has finished nothing for [`GroupTuning::disk_hang`](crate::group::GroupTuning::disk_hang).
    #[error("its disk hangs")]
    DiskHangs,
    /// Its wall clock is off the median of its group by more than
    /// [`GroupTuning::clock_off_max`](crate::group::GroupTuning::clock_off_max).
    #[error("its wall clock is off the others'")]
    ClockOff,
    /// It may lack entries that it has acknowledged, and abstains from elections until it has them again.
    #[error("its log may lack what it has acknowledged")]
    InDoubt,
    /// Some of its log has gone bad and is not mended yet.
    #[error("a part of its log is damaged")]
    Damaged,
    /// Its state is gone, and what it was made of was given up: it waits for another member's.
    #[error("its state is lost, and comes from another member")]
    Stateless,
}

impl Unfit {
    fn code(unfit: Option<Unfit>) -> u8 {
        match unfit {
            None => 0,
            Some(Unfit::DiskHangs) => 1,
            Some(Unfit::ClockOff) => 2,
            Some(Unfit::InDoubt) => 3,
            Some(Unfit::Damaged) => 4,
            Some(Unfit::Stateless) => 5,
        }
    }

    fn of_code(code: u8) -> Option<Unfit> {
        [Unfit::DiskHangs, Unfit::ClockOff, Unfit::InDoubt, Unfit::Damaged, Unfit::Stateless]
            .into_iter()
            .find(|unfit| Unfit::code(Some(*unfit)) == code)
    }
}

/// Why a read barrier was not reached. Nothing was read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// This replica does not lead, or lost its leadership while it asked the quorum.
    #[error("replica does not lead (leader: {leader:?}, term {term})")]
    NotLeader {
        /// The leader, when known.
        leader: Option<RaftId>,
        /// Term of this replica.
        term: u64,
    },
    /// No quorum confirmed the leadership in time.
    #[error("no quorum confirmed the leadership within {0} ms")]
    TimedOut(u64),
    /// Too many reads wait.
    #[error("too many reads are waiting")]
    Busy,
}

/// What a replica is in its group's membership.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Has a vote.
    Voter,
    /// Replicates without a vote.
    Learner,
    /// Born into a group that has not taken it in yet, as far as it knows.
    Joining,
    /// No member any more.
    Removed,
}

/// State of a group for people and metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupStatus {
    /// The group.
    pub group: GroupId,
    /// This replica.
    pub raft_id: RaftId,
    /// Role, term and leader.
    pub role: RoleView,
    /// Last frame of the log, durable or not.
    pub last: FramePos,
    /// Last frame that is synced here.
    pub durable: FramePos,
    /// Index known to be committed.
    pub commit: u64,
    /// Index of the last applied frame.
    pub applied: u64,
    /// Voters and learners.
    pub membership: Membership,
    /// Identity of this replica.
    pub replica: Uuid,
    /// What it is in the membership.
    pub standing: Standing,
    /// Why this replica should not lead, if so.
    pub unfit: Option<Unfit>,
    /// Why it abstains from elections; none: it votes.
    pub doubts: Doubts,
    /// Damaged parts of its log that are not mended yet, and how many have been mended since the start.
    pub repairs: (u64, u64),
    /// How far its wall clock is off the median of the group's, in ms; `None` with fewer than three known clocks.
    pub clock_off_ms: Option<u64>,
    /// On a leader: for each other member, the index known to be durable there and whether it was heard of lately.
    pub peers: Vec<PeerStatus>,
}

/// What a leader knows of another member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerStatus {
    /// The member.
    pub raft_id: RaftId,
    /// Index known to be durable there.
    pub matched: u64,
    /// Index that it is known to take for committed.
    pub committed: u64,
    /// Bytes of log that it lacks.
    pub lag_bytes: u64,
    /// Whether it was heard of in the current check-quorum round.
    pub active: bool,
    /// Whether a snapshot is on its way there.
    pub in_snapshot: bool,
}

/// Positions that the raft loop publishes for readers, without a lock.
#[derive(Debug, Default)]
pub(crate) struct Published {
    /// Committed index, as of the last round.
    pub(crate) commit: AtomicU64,
    /// Applied index, as of the last finished round of the apply thread.
    pub(crate) applied: AtomicU64,
    /// [`Unfit`] as a number, as of the last tick; 0 for fit.
    unfit: AtomicU8,
    /// Damaged parts of the log that are not mended, as of the last tick.
    pub(crate) damaged: AtomicU64,
    /// Those that were mended since the start.
    pub(crate) mended: AtomicU64,
    /// Bytes of log that were verified since the start.
    pub(crate) scrubbed: AtomicU64,
}

impl Published {
    pub(crate) fn set_unfit(&self, unfit: Option<Unfit>) {
        self.unfit.store(Unfit::code(unfit), Ordering::Relaxed);
    }
}

/// A running group, as the layer above sees it. Cheap to clone.
pub struct GroupHandle<S: Stamper> {
    pub(crate) slot: usize,
    pub(crate) group: GroupId,
    pub(crate) raft_id: RaftId,
    pub(crate) input: Inbox<LoopInput<S>>,
    pub(crate) apply: QueueSender<ApplyRequest>,
    pub(crate) queued_bytes: Arc<AtomicUsize>,
    pub(crate) published: Arc<Published>,
    pub(crate) role: watch::Receiver<RoleView>,
    pub(crate) membership: watch::Receiver<Arc<Membership>>,
    pub(crate) view: LogView,
    pub(crate) log_counters: Arc<LogCounters>,
    pub(crate) snapshots: Arc<Progress>,
    pub(crate) measures: Arc<Measures>,
}

impl<S: Stamper> Clone for GroupHandle<S> {
    fn clone(&self) -> Self {
        GroupHandle {
            slot: self.slot,
            group: self.group,
            raft_id: self.raft_id,
            input: self.input.clone(),
            apply: self.apply.clone(),
            queued_bytes: Arc::clone(&self.queued_bytes),
            published: Arc::clone(&self.published),
            role: self.role.clone(),
            membership: self.membership.clone(),
            view: self.view.clone(),
            log_counters: Arc::clone(&self.log_counters),
            snapshots: Arc::clone(&self.snapshots),
            measures: Arc::clone(&self.measures),
        }
    }
}

impl<S: Stamper> GroupHandle<S> {
    /// The group.
    pub fn group(&self) -> GroupId {
        self.group
    }

    /// This replica's number in the group.
    pub fn raft_id(&self) -> RaftId {
        self.raft_id
    }

    /// Hands a proposal to the raft loop; the outcome goes to [`crate::Completions`]. `Err` gives it back at once when
    /// too much waits (answer SYSTEM_BUSY) or the loop has ended.
    pub fn propose(&self, proposal: Proposal<S>) -> Result<(), Proposal<S>> {
        let taken = self.enqueue(proposal);
        self.ring();
        taken
    }

    /// As [`GroupHandle::propose`], for several in a row: the loop is woken by [`GroupHandle::ring`], which must follow
    /// before the caller waits for anything. So they share an entry instead of each costing a round.
    pub fn enqueue(&self, proposal: Proposal<S>) -> Result<(), Proposal<S>> {
        let bytes = proposal.size_hint;
        if self.queued_bytes.fetch_add(bytes, Ordering::Relaxed) > PROPOSAL_BYTES_MAX {
            self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            return Err(proposal);
        }
        match self.input.put(LoopInput::Propose { slot: self.slot, proposal }) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(back) | TrySendError::Disconnected(back)) => {
                self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
                match back {
                    LoopInput::Propose { proposal, .. } => Err(proposal),
                    _ => unreachable!("the channel gives back what was sent"),
                }
            }
        }
    }

    /// Damaged parts of the log that are not mended yet, those mended since the start, and bytes of log verified since the
    /// start.
    pub fn scrub_counts(&self) -> (u64, u64, u64) {
        let Published { damaged, mended, scrubbed, .. } = &*self.published;
        (damaged.load(Ordering::Relaxed), mended.load(Ordering::Relaxed), scrubbed.load(Ordering::Relaxed))
    }

    /// Wakes the raft loop for what was enqueued.
    pub fn ring(&self) {
        self.input.ring();
    }

    /// Waits until a quorum has confirmed that this replica still leads, and everything committed before the call is
    /// applied: what is read from applied state afterwards is linearizable (Raft thesis 6.4, ReadIndex).
    pub async fn read_barrier(&self) -> Result<u64, ReadError> {
        let (answer, wait) = oneshot::channel();
        if self.input.try_send(LoopInput::Read { slot: self.slot, answer }).is_err() {
            return Err(ReadError::Busy);
        }
        match wait.await {
            Ok(result) => result,
            Err(_) => Err(ReadError::NotLeader { leader: None, term: self.role.borrow().term }),
        }
    }

    /// The current role; `changed()` on a clone of [`GroupHandle::watch_role`] waits for the next.
    pub fn role(&self) -> RoleView {
        *self.role.borrow()
    }

    /// A watch on the role.
    pub fn watch_role(&self) -> watch::Receiver<RoleView> {
        self.role.clone()
    }

    /// The applied membership.
    pub fn membership(&self) -> Arc<Membership> {
        Arc::clone(&self.membership.borrow())
    }

    /// A watch on the membership.
    pub fn watch_membership(&self) -> watch::Receiver<Arc<Membership>> {
        self.membership.clone()
    }

    /// Proposes a membership change, several steps as one joint change; `two_voters` allows a group of two. Returns the index of
    /// its entry: watch the membership for whether it came to be.
    ///
    /// # Errors
    /// [`ChangeError`]: nothing was proposed.
    pub async fn change_membership(&self, steps: Vec<MemberChange>, two_voters: bool) -> Result<u64, ChangeError> {
        let (answer, wait) = oneshot::channel();
        let input = LoopInput::ChangeMembers { slot: self.slot, steps, two_voters, answer };
        self.input.try_send(input).map_err(|_| ChangeError::Stopping)?;
        wait.await.map_err(|_| ChangeError::Stopping)?
    }

    /// Whether [`Self::change_membership`] would propose this now.
    ///
    /// # Errors
    /// [`ChangeError`]: why not.
    pub async fn may_change_membership(&self, steps: Vec<MemberChange>, two_voters: bool) -> Result<(), ChangeError> {
        let (answer, wait) = oneshot::channel();
        let input = LoopInput::MayChangeMembers { slot: self.slot, steps, two_voters, answer };
        self.input.try_send(input).map_err(|_| ChangeError::Stopping)?;
        wait.await.map_err(|_| ChangeError::Stopping)?
    }

    /// Committed index as of the last round of the raft loop.
    pub fn commit_index(&self) -> u64 {
        self.published.commit.load(Ordering::Acquire)
    }

    /// Applied index as of the last finished round of the apply thread.
    pub fn applied_index(&self) -> u64 {
        self.published.applied.load(Ordering::Acquire)
    }

    /// Why this replica should not lead, if so; as of the last tick of the raft loop.
    pub fn unfit(&self) -> Option<Unfit> {
        Unfit::of_code(self.published.unfit.load(Ordering::Relaxed))
    }

    /// What this replica's log has cost since the node started.
    pub fn log_costs(&self) -> LogCosts {
        self.log_counters.read()
    }

    /// How far this replica is with snapshots.
    pub fn snapshots(&self) -> SnapshotProgress {
        self.snapshots.read()
    }

    /// How long each `fdatasync` of this replica's log took since the node started, in microseconds.
    pub fn sync_us(&self) -> Distribution {
        self.log_counters.sync_us()
    }

    /// Latencies, batch sizes and elections of this replica since the node started. Asks the raft loop for nothing.
    pub fn measures(&self) -> &Measures {
        &self.measures
    }

    /// The read side of the log. Serve only what is applied.
    pub fn reader(&self) -> &LogView {
        &self.view
    }

    /// Digest of the state machine's logical state, with the applied index that it belongs to.
    ///
    /// # Errors
    /// The store failed, or the node is stopping.
    pub async fn digest(&self) -> Result<(u64, u64), String> {
        let (answer, wait) = oneshot::channel();
        let stopping = || "the node is stopping".to_owned();
        self.apply.send(ApplyRequest::Digest(self.slot, answer)).map_err(|_| stopping())?;
        wait.await.map_err(|_| stopping())?
    }

    /// Asks the group to hand its leadership to another member. Watch the role for the outcome.
    pub fn transfer_leader(&self, to: RaftId) -> bool {
        self.input.try_send(LoopInput::Transfer { slot: self.slot, to }).is_ok()
    }

    /// A consistent picture of the group, or `None` when the node is stopping.
    pub async fn status(&self) -> Option<GroupStatus> {
        let (answer, wait) = oneshot::channel();
        self.input.try_send(LoopInput::Status { slot: self.slot, answer }).ok()?;
        wait.await.ok()
    }
}

//! What goes into a group and what comes out of it, and why it may have to stop.

use std::time::Duration;

use super::snapshot::{CheckpointOrder, PullOrder};
use crate::apply::Restore;
use crate::handle::{ReadError, RoleView};
use crate::log::meta::FirstFrame;
use crate::log::writer::WriteJob;
use crate::seam::{Membership, Outcome, Stamper};
use crate::transport::codec::PeerMessage;
use crate::types::{Frame, FramePos, GroupId, RaftId};

/// The two clocks that a group sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clock {
    /// Monotonic time since any fixed moment.
    pub mono: Duration,
    /// Wall clock, ms since 1970: for stamps only, never for time-outs.
    pub wall_ms: u64,
}

/// Work for log-io. Tasks of a group are carried out in the order given; [`super::GroupCore::written`] reports each.
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
    /// A snapshot's state that takes the place of the old one first. Such a task has no frames.
    pub restore: Option<Box<Restore>>,
}

/// Who waits for a read barrier. Opaque here.
pub type ReadTicket = u64;

/// What one [`super::GroupCore::poll`] asks the raft loop to do.
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
    /// Where the log begins from now on: log-io removes what lies before it, behind the jobs given so far.
    pub remove_before: Option<FirstFrame>,
    /// The membership, when an applied entry changed it.
    pub membership: Option<Membership>,
    /// A checkpoint is to be made or dropped, by the apply thread.
    pub checkpoint: Option<CheckpointOrder>,
    /// A snapshot is to be pulled.
    pub pull: Option<PullOrder>,
    /// The pull that is under way is not needed any more.
    pub cancel_pull: bool,
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
            remove_before: None,
            membership: None,
            checkpoint: None,
            pull: None,
            cancel_pull: false,
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
    /// A membership change cannot be taken in.
    #[error("entry {index} of group {group} changes the membership, and cannot be taken in: {reason}")]
    Membership {
        /// The group.
        group: GroupId,
        /// Raft index.
        index: u64,
        /// What did not fit.
        reason: String,
    },
    /// The leader lacks entries that this replica knows to be committed.
    #[error(
        "replica {leader} leads group {group} with a log that ends at entry {last}, but entry {committed} was committed here: \
         a majority has lost acknowledged entries. This replica stops and keeps its log; stop the others too, compare the logs \
         with `ledgermq inspect compare`, and go on with the replica that has most"
    )]
    LeaderLacks {
        /// The group.
        group: GroupId,
        /// The leader.
        leader: RaftId,
        /// Commit index here.
        committed: u64,
        /// Index of the leader's last entry.
        last: u64,
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

//! The seam to the layer above: what a broker implements ([`Stamper`], [`StateMachine`], [`Completions`]) so that its
//! records travel through the log.
//!
//! ```text
//! handler -- Proposal{item, ticket} --> raft loop: Stamper::admit, place, Stamper::write, propose
//!                                         |  quorum durable, term unchanged
//!         <-- Completions::complete ------+--> apply thread: StateMachine::apply, commit_round
//! ```
//! Nothing here touches raft-rs types.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use bytes::{Bytes, BytesMut};
use uuid::Uuid;

use crate::types::{Frame, FrameKind, FramePos, LogPos, RaftId};

/// What the stamper says of an item at its turn in log order.
#[derive(Debug)]
pub enum Verdict<A> {
    /// Append it: `len` payload bytes holding `records` message records.
    Take {
        /// Exact number of bytes that [`Stamper::write`] will append.
        len: usize,
        /// Message records among them; 0 for a plain command.
        records: u16,
    },
    /// Append nothing; this is the answer, given at once.
    Refuse(A),
    /// A command must go first (a topic that the message creates): [`Stamper::precede`] is called for it, then the
    /// same item is admitted again.
    First,
    /// Append nothing; give this answer once the entry `index` is committed (another proposal already does the work).
    Join {
        /// Raft index to wait for.
        index: u64,
        /// The answer then.
        answer: A,
    },
}

/// Decides, on the raft loop of a leader, what each proposal becomes, against **projected state**: applied state plus
/// everything proposed since, in log order. Never does I/O. Apply cannot reject a message, so whatever must be
/// refused is refused here.
///
/// Per proposal the order of calls is `kind`, `admit` (after `First`: `precede`, then `admit` again, at most twice),
/// then, once the frame is closed and its place is known, `write` and `answer`. A proposal that was taken is always
/// appended, or the leadership ends.
pub trait Stamper: Send + 'static {
    /// What a handler wants appended.
    type Item: Send + 'static;
    /// Who waits for the answer. Opaque here.
    type Ticket: Send + 'static;
    /// What the waiting one is told.
    type Answer: Send + 'static;

    /// Kind of the frame that this item goes into: consecutive [`FrameKind::Messages`] items share one.
    fn kind(&self, item: &Self::Item) -> FrameKind;

    /// Checks `item` against the projection and, when it is taken, advances the projection by it. `now_ms` is the
    /// leader's wall clock, ms since 1970; stamps must be made monotone by the stamper (`max(previous, now)`).
    /// `index` is the Raft index that the frame of this item will get.
    fn admit(&mut self, item: &mut Self::Item, index: u64, now_ms: u64) -> Verdict<Self::Answer>;

    /// The command that must precede `item`, after `admit` said [`Verdict::First`]; `index` is the Raft index of the
    /// command's own frame. Advances the projection by it.
    fn precede(&mut self, item: &mut Self::Item, index: u64, now_ms: u64) -> Bytes;

    /// Appends exactly the announced bytes to `out`; the first of them will lie at `at`.
    /// Records start at an 8-byte aligned place only when they are the first of their frame.
    fn write(&mut self, item: &mut Self::Item, at: LogPos, out: &mut BytesMut);

    /// The answer to give when the entry is committed.
    fn answer(&mut self, item: Self::Item, index: u64) -> Self::Answer;

    /// Leadership begins: the state machine has applied the whole log and nothing is in flight. Takes the applied
    /// state as the projection. A returned command is proposed first (the genesis record of a young group).
    fn begin(&mut self, term: u64) -> Option<Bytes>;

    /// Leadership has ended: drop the projection.
    fn end(&mut self);
}

/// One thing to append, and who waits for it.
#[derive(Debug)]
pub struct Proposal<S: Stamper> {
    /// What to append.
    pub item: S::Item,
    /// Who waits.
    pub ticket: S::Ticket,
    /// Upper bound of the payload bytes, for flow control.
    pub size_hint: usize,
}

/// How a proposal ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome<A> {
    /// Committed (durable on a majority), or refused by the stamper: the answer says which.
    Answered(A),
    /// Nothing was appended: this replica does not lead, or not yet. Names the leader it knows.
    NotLeader {
        /// The leader, when one is known.
        leader: Option<RaftId>,
        /// Term of this replica.
        term: u64,
    },
    /// Nothing was appended: too much is waiting. The text names the cause.
    Busy(&'static str),
    /// Leadership ended while the entry was in flight: it may or may not be committed later.
    Unknown,
}

/// Where ended proposals go, a batch at a time, called on the raft loop: must not block and must not do I/O.
pub trait Completions<S: Stamper>: Send + 'static {
    /// Takes all of `done`, leaving it empty.
    fn complete(&mut self, done: &mut Vec<(S::Ticket, Outcome<S::Answer>)>);
}

/// Who a member of a group is, and where it is reached.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MemberInfo {
    /// Identity of its replica, drawn afresh for each folder.
    pub replica: Uuid,
    /// `host:port` at which its node hears peers. Empty for a member of the birth until the first change of the membership:
    /// up to then every node goes by its own config.
    pub peer: String,
    /// `host:port` that clients are told. Empty like `peer`.
    pub client: String,
}

/// The voters and learners of a group. Joint configurations have both halves filled.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Membership {
    /// Voting members.
    pub voters: Vec<RaftId>,
    /// Members that replicate without a vote.
    pub learners: Vec<RaftId>,
    /// Voters of the outgoing half of a joint configuration.
    pub voters_outgoing: Vec<RaftId>,
    /// Voters that become learners when the joint configuration is left.
    pub learners_next: Vec<RaftId>,
    /// Whether the joint configuration is left by itself.
    pub auto_leave: bool,
    /// Everybody named above, and nobody else.
    pub members: BTreeMap<RaftId, MemberInfo>,
    /// Highest number that any member ever had: a number is given out once.
    pub highest: RaftId,
}

impl Membership {
    /// Numbers of all members, voters and learners, of both halves of a joint configuration.
    pub fn ids(&self) -> BTreeSet<RaftId> {
        let sets = [&self.voters, &self.learners, &self.voters_outgoing, &self.learners_next];
        sets.into_iter().flatten().copied().collect()
    }

    /// Whether this is the number of a member.
    pub fn contains(&self, id: RaftId) -> bool {
        let sets = [&self.voters, &self.learners, &self.voters_outgoing, &self.learners_next];
        sets.into_iter().any(|set| set.contains(&id))
    }

    /// Whether this was the number of a member and is not any more. It never will be again.
    pub fn has_removed(&self, id: RaftId) -> bool {
        id <= self.highest && !self.contains(id)
    }

    /// Whether a joint configuration is in force: it is left by itself, and no other change is taken until then.
    pub fn is_joint(&self) -> bool {
        !self.voters_outgoing.is_empty()
    }
}

/// The position up to which a state machine's store has taken effects in, saved atomically with them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AppliedState {
    /// Last applied frame; [`FramePos::ORIGIN`] in a new store.
    pub at: FramePos,
    /// Membership as of that frame; `None` until the first change (then the membership at birth holds).
    pub membership: Option<Membership>,
}

/// Why a state machine cannot go on. Always ends the replica's service: an entry is never skipped.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// A command that this version does not know.
    #[error(
        "entry {index} holds a command of kind {kind} that this version does not know: install the version that the group's leader runs"
    )]
    UnknownCommand {
        /// Raft index of the entry.
        index: u64,
        /// The command's discriminant.
        kind: u32,
    },
    /// The payload is not what its frame says. The checksum was right, so the writer was wrong.
    #[error("entry {index} cannot be decoded: {reason}")]
    Malformed {
        /// Raft index of the entry.
        index: u64,
        /// What did not fit.
        reason: String,
    },
    /// The store below failed.
    #[error("cannot store the effects of entry {index} in {place}: {reason}")]
    Store {
        /// Raft index of the last entry involved.
        index: u64,
        /// Folder or family.
        place: String,
        /// The store's own words.
        reason: String,
    },
}

/// What committed frames change. `apply` is a pure function of frames and earlier state: no clock, no randomness, no
/// local config, no map order, so that replay and every replica end in the same state.
pub trait StateMachine: Send + 'static {
    /// Position that the store holds, durable or not.
    fn applied(&self) -> AppliedState;

    /// Index of the last frame whose effects *outside* the atomic store (ConsumeQueue files) are durable. At start,
    /// frames `replay_from()+1 ..= applied().at.index` are applied once more; effects in the store are then skipped
    /// by the state machine itself. Never above `applied()`.
    fn replay_from(&self) -> u64;

    /// Takes in one frame of kind messages, command or transition. Collects effects; nothing need be visible yet.
    fn apply(&mut self, frame: &Frame) -> Result<(), ApplyError>;

    /// Ends a round: makes the collected effects visible, with `applied` (and the membership, when it changed) in the
    /// same atomic write, then wakes whoever waits for them. Also called for rounds without a frame for `apply`
    /// (no-ops, membership changes).
    fn commit_round(&mut self, applied: FramePos, membership: Option<&Membership>) -> Result<(), ApplyError>;

    /// Makes everything applied so far durable (store flushed, files synced, marks written), so that the next start
    /// replays little.
    fn flush(&mut self) -> Result<(), ApplyError>;

    /// Whether enough has been applied since the last flush that one is due (bounds the replay at start).
    fn flush_due(&self) -> bool;

    /// Where the log may begin: neither this state nor whatever a crash would leave of it needs a frame before this position,
    /// not even for [`StateMachine::replay_from`]. A segment's first byte, decided by a command in the log (the same on every
    /// replica), and never lower than before. A machine answers with a decision only once the decision, and every effect of
    /// the frames before the position, is durable (R7). `LogPos(0)`: nothing may go.
    fn keep_from(&self) -> LogPos {
        LogPos(0)
    }

    /// Digest of the *logical* state at `applied()`: what a reader may see, never a store's own files.
    fn digest(&self) -> Result<u64, ApplyError>;

    /// Makes a copy of the state at `applied()` in the empty folder `dir` that stays as it is while this goes on (hard links,
    /// mostly: readers wait meanwhile), and says which files it consists of. Everything applied is flushed before. `None` when
    /// this machine makes no copies.
    ///
    /// # Errors
    /// [`ApplyError`]: the store failed.
    fn checkpoint(&mut self, dir: &Path) -> Result<Option<Vec<CheckpointFile>>, ApplyError> {
        let _ = dir;
        Ok(None)
    }

    /// Takes over the copy in `dir` in place of the state here, for everybody who holds a part of it, and works on in that folder
    /// from now on. The frames behind [`StateMachine::replay_from`] are applied once more afterwards.
    ///
    /// # Errors
    /// [`ApplyError`]: the copy cannot be used, or the store failed.
    fn restore(&mut self, dir: &Path) -> Result<(), ApplyError> {
        Err(ApplyError::Store {
            index: self.applied().at.index,
            place: dir.display().to_string(),
            reason: "this state machine takes no snapshots".to_owned(),
        })
    }
}

/// A file of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointFile {
    /// Its place in the folder: parts with `/` between them.
    pub name: String,
    /// Bytes before this offset are a hole that need not be copied.
    pub from: u64,
    /// Bytes of it that count; behind them it may grow.
    pub size: u64,
}

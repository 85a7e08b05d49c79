//! Bugs put in on purpose, so that the simulator and the drills can prove that they would be found.
//!
//! Behind the cargo feature `planted-bugs`, off by default: without it [`on`] is a constant `false` and the hooks
//! compile to nothing. One build holds all of them; the running process chooses one. The schedule generator of the
//! simulator never looks here.

/// A planted bug. The name on the command line is [`Bug::name`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Bug {
    /// The vote is written but not synced before the answer leaves (breaks R1).
    VoteNotSynced = 1,
    /// A send is answered when the leader has appended it, before a quorum has it.
    AckBeforeQuorum,
    /// The header checksum is not seeded with the previous frame's.
    UnchainedCrc,
    /// The persisted commit hint runs ahead of the durable log (breaks R3).
    CommitHintAhead,
    /// Offsets are served without asking a quorum whether this node still leads.
    StaleLeaderReads,
    /// The applied index is stored in a write of its own, apart from the effects.
    AppliedApart,
    /// A conflict truncation does not lower the durable mark first (breaks R2).
    TruncateMarkSkipped,
    /// A new segment is used before its folder entry is durable (breaks R4).
    SegmentDirNotSynced,
    /// A follower acknowledges an append before its sync has returned.
    AckBeforeSync,
    /// A commit that passes a membership change is not written to the meta file first (breaks R10).
    ConfCommitNotSynced,
    /// The projected state survives a step-down and is used again by the next leadership.
    StaleProjection,
    /// A topic made again shares the folder and offsets of its deleted namesake.
    IncarnationIgnored,
    /// A start goes back to where the ConsumeQueue files are durable, not to where the key index is.
    KeysForgotten,
    /// Segments are removed before the meta file says that the log begins behind them (breaks R5).
    PrefixMarkSkipped,
    /// A prefix of the log is given up that a crashed state would want to replay (breaks R7).
    PrefixBeyondFlush,
    /// A prefix of the log is given up that a lagging member still needs.
    PrefixIgnoresFollowers,
    /// A segment's file is used again while a reader maps it.
    RecycledUnderReader,
    /// A replica that joins votes before any configuration names it.
    JoinerVotes,
    /// The number of a removed member is given to a new replica.
    RaftIdReused,
    /// A removed member is still counted in quorums.
    RemovedStillCounts,
    /// A replacement removes the old member before the new one has its vote.
    RemoveBeforeAdd,
    /// A replica in doubt about its log votes and stands for election.
    AbstainerVotes,
    /// A replica in doubt votes again as soon as a leader has told it what to reach.
    DoubtEndsEarly,
    /// A leader goes on counting what a peer acknowledged before its restart.
    MatchedKept,
    /// Messages of a peer's earlier run are taken for its present word.
    EarlierRunHeard,
    /// A shortened follower takes a heartbeat's commit index as it comes.
    HeartbeatNotClamped,
    /// A lost page cache is no reason to doubt, although answers did not wait for syncs.
    BootIdIgnored,
    /// What a peer sends for a damaged run is written without a proof that it belongs there.
    RepairUnproved,
    /// Damage below the durable frame is cut off, with all that stands behind it.
    DamageCutOff,
    /// The good bytes of a damaged run are fetched and proved, and do not reach the disk.
    RepairUnwritten,
    /// A snapshot is switched to before its files are synced (breaks R8).
    SnapshotNotSynced,
    /// A snapshot carries the members at birth, not those at its index.
    SnapshotForgetsMembers,
    /// The leader never hears that a snapshot it sent was lost.
    SnapshotNotReported,
    /// The state in a snapshot is newer than its manifest says.
    SnapshotStateAhead,
    /// A replica without a state takes any snapshot, also one that ends in front of what it has acknowledged.
    StateBehindLog,
    /// A delayed message may be taken by two entries: what is in flight already is not looked at.
    TimerClaimsIgnored,
    /// The log is given up where delayed messages wait.
    TimersNotCarried,
    /// Delayed messages are delivered a second before their time.
    TimersEarly,
}

impl Bug {
    /// All of them, in a fixed order.
    pub const ALL: [Bug; 38] = [
        Bug::VoteNotSynced,
        Bug::AckBeforeQuorum,
        Bug::UnchainedCrc,
        Bug::CommitHintAhead,
        Bug::StaleLeaderReads,
        Bug::AppliedApart,
        Bug::TruncateMarkSkipped,
        Bug::SegmentDirNotSynced,
        Bug::AckBeforeSync,
        Bug::ConfCommitNotSynced,
        Bug::StaleProjection,
        Bug::IncarnationIgnored,
        Bug::KeysForgotten,
        Bug::PrefixMarkSkipped,
        Bug::PrefixBeyondFlush,
        Bug::PrefixIgnoresFollowers,
        Bug::RecycledUnderReader,
        Bug::JoinerVotes,
        Bug::RaftIdReused,
        Bug::RemovedStillCounts,
        Bug::RemoveBeforeAdd,
        Bug::AbstainerVotes,
        Bug::DoubtEndsEarly,
        Bug::MatchedKept,
        Bug::EarlierRunHeard,
        Bug::HeartbeatNotClamped,
        Bug::BootIdIgnored,
        Bug::RepairUnproved,
        Bug::DamageCutOff,
        Bug::RepairUnwritten,
        Bug::SnapshotNotSynced,
        Bug::SnapshotForgetsMembers,
        Bug::SnapshotNotReported,
        Bug::SnapshotStateAhead,
        Bug::StateBehindLog,
        Bug::TimerClaimsIgnored,
        Bug::TimersNotCarried,
        Bug::TimersEarly,
    ];

    /// Name for the command line.
    pub fn name(self) -> &'static str {
        match self {
            Bug::VoteNotSynced => "vote-not-synced",
            Bug::AckBeforeQuorum => "early-ack",
            Bug::UnchainedCrc => "unchained-crc",
            Bug::CommitHintAhead => "commit-hint-ahead",
            Bug::StaleLeaderReads => "stale-leader-reads",
            Bug::AppliedApart => "applied-apart",
            Bug::TruncateMarkSkipped => "truncate-mark-skipped",
            Bug::SegmentDirNotSynced => "segment-dir-not-synced",
            Bug::AckBeforeSync => "ack-before-sync",
            Bug::ConfCommitNotSynced => "conf-commit-not-synced",
            Bug::StaleProjection => "stale-projection",
            Bug::IncarnationIgnored => "incarnation-ignored",
            Bug::KeysForgotten => "keys-forgotten",
            Bug::PrefixMarkSkipped => "prefix-mark-skipped",
            Bug::PrefixBeyondFlush => "prefix-beyond-flush",
            Bug::PrefixIgnoresFollowers => "prefix-ignores-followers",
            Bug::RecycledUnderReader => "recycled-under-reader",
            Bug::JoinerVotes => "joiner-votes",
            Bug::RaftIdReused => "raft-id-reused",
            Bug::RemovedStillCounts => "removed-still-counts",
            Bug::RemoveBeforeAdd => "remove-before-add",
            Bug::AbstainerVotes => "abstainer-votes",
            Bug::DoubtEndsEarly => "doubt-ends-early",
            Bug::MatchedKept => "matched-kept",
            Bug::EarlierRunHeard => "earlier-run-heard",
            Bug::HeartbeatNotClamped => "heartbeat-not-clamped",
            Bug::BootIdIgnored => "boot-id-ignored",
            Bug::RepairUnproved => "repair-unproved",
            Bug::DamageCutOff => "damage-cut-off",
            Bug::RepairUnwritten => "repair-unwritten",
            Bug::SnapshotNotSynced => "snapshot-not-synced",
            Bug::SnapshotForgetsMembers => "snapshot-forgets-members",
            Bug::SnapshotNotReported => "snapshot-not-reported",
            Bug::SnapshotStateAhead => "snapshot-state-ahead",
            Bug::StateBehindLog => "state-behind-log",
            Bug::TimerClaimsIgnored => "timer-claims-ignored",
            Bug::TimersNotCarried => "timers-not-carried",
            Bug::TimersEarly => "timers-early",
        }
    }

    /// The bug with this command-line name.
    pub fn from_name(name: &str) -> Option<Bug> {
        Bug::ALL.into_iter().find(|bug| bug.name() == name)
    }
}

/// Whether this build can plant bugs at all (`ledgermq --version` says so).
pub const AVAILABLE: bool = cfg!(feature = "planted-bugs");

#[cfg(feature = "planted-bugs")]
static CHOSEN: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(0);

/// Chooses the bug of this process; `None` plants nothing.
#[cfg(feature = "planted-bugs")]
pub fn choose(bug: Option<Bug>) {
    CHOSEN.store(bug.map_or(0, |bug| bug as u8), std::sync::atomic::Ordering::Relaxed);
}

/// Whether `bug` is the chosen one.
#[cfg(feature = "planted-bugs")]
pub fn on(bug: Bug) -> bool {
    CHOSEN.load(std::sync::atomic::Ordering::Relaxed) == bug as u8
}

/// Whether `bug` is the chosen one: never, in a build without the feature.
#[cfg(not(feature = "planted-bugs"))]
#[inline(always)]
pub const fn on(_bug: Bug) -> bool {
    false
}

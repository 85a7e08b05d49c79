//! Limits and times of a group, in one place, each with its unit.

use std::time::Duration;

/// When an entry counts as written on a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Flush {
    /// When its sync has returned: what was acknowledged is on the disks of a majority.
    #[default]
    Sync,
    /// When it is in the page cache; synced within 10 ms or 4 MiB. What was acknowledged survives the death of any process,
    /// and the loss of power of a minority; when a majority loses its power at once, the last moments may be gone.
    Async,
}

/// Byte limits and times of a group. `Default` is production.
#[derive(Debug, Clone)]
pub struct GroupTuning {
    /// When an entry counts as written here. Terms, votes and membership changes are always synced.
    pub flush: Flush,
    /// Ticks without a leader before followers answer pre-votes.
    pub election_ticks: usize,
    /// Range of a follower's own election time-out, in ticks (upper end exclusive). Its lower end lies above
    /// `election_ticks`, so that a candidate is not refused by one tick of skew.
    pub campaign_ticks: std::ops::Range<usize>,
    /// The same until this replica has heard of any leader since its start; `None` for [`GroupTuning::campaign_ticks`]. A short
    /// one makes the group's preferred leader the first to stand when all start together. Pre-vote keeps it from disturbing a
    /// leader that is there.
    pub first_campaign_ticks: Option<std::ops::Range<usize>>,
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
    /// How long a transfer of leadership waits for the proposals that came before it to be stamped.
    pub transfer_drain: Duration,
    /// A disk that finishes nothing for this long hangs: its replica should not lead.
    pub disk_hang: Duration,
    /// How far a replica's wall clock may be off the median of its group before it should not lead.
    pub clock_off_max: Duration,
    /// Bytes by which a member may lag until the log's prefix is no longer held back for it: then it needs a snapshot.
    pub lag_hold_bytes: u64,
    /// The same in time.
    pub lag_hold: Duration,
    /// A member that reads nothing of a snapshot that was sent to it for this long gets it sent once more.
    pub snapshot_patience: Duration,
    /// A checkpoint that no member has needed for this long is dropped; no second one is made sooner after the first.
    pub snapshot_linger: Duration,
    /// Proposals that may wait for their turn here.
    pub queue_max: usize,
    /// Bytes of them, by their size hints; one larger proposal may wait alone.
    pub queue_bytes_max: usize,
}

impl Default for GroupTuning {
    fn default() -> Self {
        GroupTuning {
            flush: Flush::Sync,
            election_ticks: 10,
            campaign_ticks: 12..20,
            first_campaign_ticks: None,
            suspicion_ticks: 1..4,
            heartbeat_ticks: 2,
            batch_bytes_max: 1 << 20,
            batch_records_max: 512,
            round_bytes_max: 8 << 20,
            uncommitted_bytes_max: 64 << 20,
            apply_lag_bytes_max: 64 << 20,
            unwritten_bytes_max: 64 << 20,
            cache_bytes_max: 32 << 20,
            message_bytes_max: 1 << 20,
            inflight_max: 64,
            read_timeout: Duration::from_secs(2),
            read_retry: Duration::from_millis(500),
            commit_notice: Duration::from_millis(1),
            unknown_after: Duration::from_millis(300),
            hint_interval: Duration::from_secs(1),
            transfer_drain: Duration::from_millis(100),
            disk_hang: Duration::from_secs(2),
            clock_off_max: Duration::from_secs(2),
            lag_hold_bytes: 20 << 30,
            lag_hold: Duration::from_secs(3_600),
            snapshot_patience: Duration::from_secs(10),
            snapshot_linger: Duration::from_secs(30),
            queue_max: 65_536,
            queue_bytes_max: 64 << 20,
        }
    }
}

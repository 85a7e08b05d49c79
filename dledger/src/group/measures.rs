//! What a group measures of itself: latencies of its rounds, sizes of its batches, elections and their reasons.
//!
//! The raft loop records where it passes anyway, by the clock of its round: no lock, no allocation, no look at a clock. Readers
//! see [`Measures`] at any time. Nothing here decides anything.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::histogram::Histogram;

/// Rounds that may be timed at once; further ones are not timed.
const TIMED_MAX: usize = 512;

/// Why a replica stood for election.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ElectionReason {
    /// It has heard of no leader since it was started.
    Start,
    /// The leader was silent for the election time-out.
    Silence,
    /// The leader's process had ended: nobody listened at its address.
    ProcessEnded,
    /// The leader handed over.
    HandedOver,
}

impl ElectionReason {
    /// All of them.
    pub const ALL: [ElectionReason; 4] = [Self::Start, Self::Silence, Self::ProcessEnded, Self::HandedOver];

    /// Its name in status and metrics.
    pub fn name(self) -> &'static str {
        match self {
            ElectionReason::Start => "start",
            ElectionReason::Silence => "silence",
            ElectionReason::ProcessEnded => "process_ended",
            ElectionReason::HandedOver => "handed_over",
        }
    }
}

/// The figures of a replica since its start, for any thread.
#[derive(Debug, Default)]
pub struct Measures {
    /// Microseconds from the stamping of a round's frames to their being durable here (or written, when the group answers from
    /// the page cache). On a leader, one value per round.
    pub append_us: Histogram,
    /// Microseconds from the sending of a round's frames to the commit that a quorum's answers bring. On a leader, one value
    /// per round.
    pub replicate_us: Histogram,
    /// Records in a frame of messages that was stamped here.
    pub batch_records: Histogram,
    /// Bytes of payload in a frame that was stamped here.
    pub batch_bytes: Histogram,
    stood: [AtomicU64; 4],
    won: [AtomicU64; 4],
    /// Term of the last election that was won, times four, and its reason; 0 for none.
    last_won: AtomicU64,
}

impl Measures {
    /// How often this replica stood for election for this reason, pre-votes included.
    pub fn stood(&self, reason: ElectionReason) -> u64 {
        self.stood[reason as usize].load(Ordering::Relaxed)
    }

    /// How often it was elected then.
    pub fn won(&self, reason: ElectionReason) -> u64 {
        self.won[reason as usize].load(Ordering::Relaxed)
    }

    /// Term and reason of the last election that it won.
    pub fn last_won(&self) -> Option<(u64, ElectionReason)> {
        let last = self.last_won.load(Ordering::Relaxed);
        (last != 0).then_some((last >> 2, ElectionReason::ALL[(last & 3) as usize]))
    }
}

/// The recording side, which the group owns.
pub(super) struct Measuring {
    measures: Arc<Measures>,
    /// Rounds that are not durable yet: last index, and when it was stamped. Never longer than it was made.
    undurable: VecDeque<(u64, Duration)>,
    /// Rounds that are not committed yet.
    uncommitted: VecDeque<(u64, Duration)>,
    /// The leader's process has ended, and no other leader was heard of since.
    suspected: bool,
    /// Why this replica stood last.
    reason: ElectionReason,
}

impl Default for Measuring {
    fn default() -> Self {
        Measuring {
            measures: Arc::default(),
            undurable: VecDeque::with_capacity(TIMED_MAX),
            uncommitted: VecDeque::with_capacity(TIMED_MAX),
            suspected: false,
            reason: ElectionReason::Start,
        }
    }
}

impl Measuring {
    pub(super) fn shared(&self) -> Arc<Measures> {
        Arc::clone(&self.measures)
    }

    /// A frame was stamped.
    pub(super) fn frame(&self, records: u16, bytes: usize) {
        if records > 0 {
            self.measures.batch_records.record(u64::from(records));
        }
        self.measures.batch_bytes.record(bytes as u64);
    }

    /// A round was stamped, up to this index, and leaves.
    pub(super) fn stamped(&mut self, last: u64, now: Duration) {
        for rounds in [&mut self.undurable, &mut self.uncommitted] {
            if rounds.len() < TIMED_MAX {
                rounds.push_back((last, now));
            }
        }
    }

    /// The log is durable here up to this index.
    pub(super) fn durable(&mut self, index: u64, now: Duration) {
        take(&mut self.undurable, index, now, &self.measures.append_us);
    }

    /// The log is committed up to this index.
    pub(super) fn committed(&mut self, index: u64, now: Duration) {
        take(&mut self.uncommitted, index, now, &self.measures.replicate_us);
    }

    /// What this replica has stamped may be replaced now: other entries come under the same indexes.
    pub(super) fn leadership_ended(&mut self) {
        self.undurable.clear();
        self.uncommitted.clear();
    }

    pub(super) fn leader_known(&mut self) {
        self.suspected = false;
    }

    pub(super) fn leader_suspected(&mut self) {
        self.suspected = true;
    }

    /// This replica stands for election after a time-out.
    pub(super) fn timed_out(&mut self, knew_leader: bool) {
        self.stood(match (self.suspected, knew_leader) {
            (true, _) => ElectionReason::ProcessEnded,
            (false, true) => ElectionReason::Silence,
            (false, false) => ElectionReason::Start,
        });
    }

    pub(super) fn stood(&mut self, reason: ElectionReason) {
        self.reason = reason;
        self.measures.stood[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// This replica was elected. Returns why it stood.
    pub(super) fn elected(&mut self, term: u64) -> ElectionReason {
        self.measures.won[self.reason as usize].fetch_add(1, Ordering::Relaxed);
        self.measures.last_won.store(term << 2 | self.reason as u64, Ordering::Relaxed);
        self.reason
    }
}

/// Ends the time of the rounds up to this index.
fn take(rounds: &mut VecDeque<(u64, Duration)>, index: u64, now: Duration, into: &Histogram) {
    while let Some((_, since)) = rounds.pop_front_if(|(last, _)| *last <= index) {
        into.record(now.saturating_sub(since).as_micros() as u64);
    }
}

//! Old messages are given up: by age, by the size of the log, and before the disk is full.
//!
//! Only the leader looks, four times a second, and proposes a new beginning of the log on a segment's border; apply decides it for
//! every replica, and each then removes its own files. What is proposed is checked once more at its turn ([`crate::stamp`]):
//! never beyond what every member has on its disk. Delayed messages that wait in front of the new begin are carried forward first.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ledgermq_dledger::log::view::ViewError;
use ledgermq_dledger::log::{FirstFrame, LogView};
use ledgermq_dledger::{FrameKind, LogPos, Outcome};
use ledgermq_protocol::message::record::RecordRef;

use super::room::Room;
use crate::command::{Command, TruncatePrefix};
use crate::config::Retention;
use crate::delay::moves::Before;
use crate::replica::{Replica, wall_clock_ms};
use crate::stamp::{Answer, Item};

/// How often a leader looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// Entries at the end of a segment among which its last message is looked for. A segment that ends with more commands than
/// that counts as old as the one before it.
const ENTRIES_SEARCHED_MAX: u64 = 256;

/// By how much the wall clock may run away from the monotonic one between two looks.
const CLOCK_STEP_MAX_MS: i64 = 2_000;

/// For how long nothing is given up by age after the wall clock has jumped: a leader with a wrong clock has handed over by then.
const CLOCK_REST: Duration = Duration::from_secs(60);

/// Entries with carried messages per look, each of some 1,000 messages or a MiB: other work goes on between two looks.
const CARRIED_PER_LOOK: usize = 16;

/// Pause once it was found that what is old is mostly what waits.
const CARRY_REST: Duration = Duration::from_secs(10);

/// Looks at one group, of so many on this node, until the task is aborted.
pub(super) async fn retain(replica: Arc<Replica>, retention: Retention, groups: usize) {
    let mut looks = tokio::time::interval(LOOK_INTERVAL);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut ages, mut clock) = (Ages::default(), SteadyClock::new(Instant::now(), wall_clock_ms()));
    let mut rests_until = Instant::now();
    loop {
        looks.tick().await;
        if Instant::now() < rests_until {
            continue;
        }
        let now_ms = clock.read(Instant::now(), wall_clock_ms());
        let log = replica.handle.reader().clone();
        // One step at a time: the files of the last one must be gone before the disk tells whether more is needed.
        if !replica.serves() || replica.tables().kept().pos > log.first().1.0 {
            continue;
        }
        let plan = Plan { retention, now_ms, missing: missing_bytes(&replica.room, retention).div_ceil(groups as u64) };
        let searching = tokio::task::spawn_blocking(move || {
            let found = plan.choose(&log, &mut ages);
            (found, ages)
        });
        let Ok((found, kept_ages)) = searching.await else { return };
        ages = kept_ages;
        let Some((first, why)) = found else { continue };
        match carry(&replica, first, why).await {
            Carried::All => {}
            Carried::Part => continue,
            Carried::NotWorthIt => {
                rests_until = Instant::now() + CARRY_REST;
                continue;
            }
        }
        let why = why.text();
        let truncate = TruncatePrefix { index: first.index, pos: first.pos.0 };
        match replica.call(Command::TruncatePrefix(truncate)).await {
            Outcome::Answered(Answer::Done { .. }) => {
                let broker_name = &replica.identity().broker_name;
                tracing::info!(%broker_name, index = first.index, pos = first.pos.0, why, "old messages are given up");
            }
            // Somebody may still need them, or the leadership has ended: the next look sees.
            outcome => tracing::debug!(?outcome, why, "old messages stay for now"),
        }
    }
}

/// How far delayed messages are out of the way.
enum Carried {
    All,
    Part,
    NotWorthIt,
}

/// Has the delayed messages carried that wait in front of `first`, a bounded part of them per look.
async fn carry(replica: &Arc<Replica>, first: FirstFrame, why: Why) -> Carried {
    if why != Why::Age && !is_worth_it(replica, first).await {
        let (broker_name, index) = (&replica.identity().broker_name, first.index);
        tracing::warn!(%broker_name, index, "old messages stay: it is mostly delayed ones that wait there, and would be written anew");
        return Carried::NotWorthIt;
    }
    for _ in 0..CARRIED_PER_LOOK {
        let waiting = replica.waiting.clone();
        let found = tokio::task::spawn_blocking(move || waiting.before(first.index, first.pos.0)).await;
        match found {
            Ok(Ok(Before::Nothing)) => return Carried::All,
            Ok(Ok(Before::Messages(item))) => {
                let count = item.moves().len();
                let Outcome::Answered(Answer::Done { index }) = replica.call_item(Item::Timers(item)).await else {
                    return Carried::Part;
                };
                replica.applied(index).await;
                tracing::debug!(count, index, "delayed messages are carried forward");
            }
            Ok(Ok(Before::Unknown)) | Err(_) => return Carried::Part,
            Ok(Err(error)) => {
                tracing::error!(%error, "delayed messages cannot be read");
                return Carried::Part;
            }
        }
    }
    Carried::Part
}

/// Whether giving up what lies before `first` frees more than writing its delayed messages anew takes: else a bound on bytes would
/// have the same messages written again and again.
async fn is_worth_it(replica: &Arc<Replica>, first: FirstFrame) -> bool {
    let begin = replica.handle.reader().first().1;
    let waiting = replica.waiting.clone();
    let bytes = tokio::task::spawn_blocking(move || waiting.bytes_before(first.pos.0)).await;
    matches!(bytes, Ok(Ok(bytes)) if bytes <= (first.pos.0 - begin.0) / 2)
}

/// Bytes that must go so that sends need not be refused.
fn missing_bytes(room: &Room, retention: Retention) -> u64 {
    if retention.forced { room.missing_bytes() } else { 0 }
}

/// Why old messages are given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    Bytes,
    Age,
    Disk,
}

impl Why {
    fn text(self) -> &'static str {
        match self {
            Why::Bytes => "the log is longer than retention_bytes",
            Why::Age => "they are older than retention_ms",
            Why::Disk => "the disk is nearly full",
        }
    }
}

/// What a look has to decide by.
struct Plan {
    retention: Retention,
    /// `None` while the clock is in doubt.
    now_ms: Option<i64>,
    missing: u64,
}

impl Plan {
    /// Where the log should begin, and why; `None` when everything stays. The segment that is written to always stays.
    fn choose(&self, log: &LogView, ages: &mut Ages) -> Option<(FirstFrame, Why)> {
        let starts = log.segment_starts();
        let end = log.published().0;
        let spared = log.spared();
        ages.forget_before(starts.first()?.pos);
        let begin = starts[0].pos.0;
        let mut chosen = None;
        for pair in starts.windows(2) {
            let (old, next) = (pair[0], pair[1]);
            if next.index > spared {
                break;
            }
            let bytes = self.retention.bytes;
            let reason = if bytes > 0 && end - old.pos.0 > bytes {
                Why::Bytes
            } else if self.is_old(log, ages, &old, &next) {
                Why::Age
            } else if old.pos.0 - begin < self.missing {
                Why::Disk
            } else {
                break;
            };
            chosen = Some((next, reason));
        }
        chosen
    }

    fn is_old(&self, log: &LogView, ages: &mut Ages, old: &FirstFrame, next: &FirstFrame) -> bool {
        let Some(now_ms) = self.now_ms.filter(|_| self.retention.ms > 0) else { return false };
        let limit = i64::try_from(self.retention.ms).unwrap_or(i64::MAX);
        match ages.last_ms(log, old, next) {
            Ok(last_ms) => last_ms.is_none_or(|last_ms| now_ms.saturating_sub(last_ms) > limit),
            // Damage is for others to mend, and no reason to give anything up.
            Err(error) => {
                tracing::debug!(%error, "the age of a segment cannot be told");
                false
            }
        }
    }
}

/// When the last message of a full segment was stored, by the segment's base; looked for once.
#[derive(Default)]
struct Ages {
    last_ms: BTreeMap<LogPos, Option<i64>>,
}

impl Ages {
    fn forget_before(&mut self, base: LogPos) {
        self.last_ms = self.last_ms.split_off(&base);
    }

    fn last_ms(&mut self, log: &LogView, old: &FirstFrame, next: &FirstFrame) -> Result<Option<i64>, ViewError> {
        if let Some(known) = self.last_ms.get(&old.pos) {
            return Ok(*known);
        }
        let last_ms = last_message_ms(log, old.index, next.index)?;
        self.last_ms.insert(old.pos, last_ms);
        Ok(last_ms)
    }
}

/// Store time of the last message among the entries `from..to`, as far as it is looked for; `None` when there is none.
fn last_message_ms(log: &LogView, from: u64, to: u64) -> Result<Option<i64>, ViewError> {
    for index in (from.max(to.saturating_sub(ENTRIES_SEARCHED_MAX))..to).rev() {
        let Some(frame) = log.frames(index, 0)?.into_iter().next() else { return Ok(None) };
        let records_at = match frame.kind {
            FrameKind::Messages => 0,
            FrameKind::Transition => frame.split_transition().map_or(frame.payload.len(), |(_, records_at)| records_at),
            _ => continue,
        };
        // All messages of an entry are stamped at one time.
        let record = frame.payload.get(records_at..).filter(|records| !records.is_empty());
        if let Some(record) = record.and_then(|records| RecordRef::decode(records).ok()) {
            return Ok(Some(record.store_timestamp_ms()));
        }
    }
    Ok(None)
}

/// A wall clock that is not believed after a jump: what is old must not be told by a clock that somebody has just set.
struct SteadyClock {
    last: (Instant, i64),
    rests_until: Instant,
}

impl SteadyClock {
    fn new(mono: Instant, wall_ms: i64) -> SteadyClock {
        SteadyClock { last: (mono, wall_ms), rests_until: mono }
    }

    fn read(&mut self, mono: Instant, wall_ms: i64) -> Option<i64> {
        let expected = self.last.1 + mono.duration_since(self.last.0).as_millis() as i64;
        if (wall_ms - expected).abs() > CLOCK_STEP_MAX_MS {
            self.rests_until = mono + CLOCK_REST;
        }
        self.last = (mono, wall_ms);
        (mono >= self.rests_until).then_some(wall_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A clock that jumps an hour ahead would give up an hour's messages early.
    #[test]
    fn a_jump_of_the_clock_makes_nothing_old() {
        let began = Instant::now();
        let at = |s: u64| began + Duration::from_secs(s);
        let mut clock = SteadyClock::new(began, 1_000_000);
        assert_eq!(clock.read(at(1), 1_001_100), Some(1_001_100));
        assert_eq!(clock.read(at(2), 1_002_000 + 3_600_000), None);
        assert_eq!(clock.read(at(3), 1_003_000 + 3_600_000), None);
        assert_eq!(clock.read(at(4), 1_004_000), None, "and back");
        assert_eq!(clock.read(at(63), 1_063_000), None);
        assert_eq!(clock.read(at(64), 1_064_000), Some(1_064_000));
    }
}

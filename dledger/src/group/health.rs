//! Whether this replica is fit to lead: not with a disk that hangs, not with a wall clock that is off, and not while it may
//! lack entries that it has acknowledged ([`super::doubt`]) or while some of them are damaged ([`super::repair`]).
//!
//! An unfit replica does not stand for election and takes no hand-over. Nothing here ends a leadership: the layer above sees
//! [`GroupCore::unfit`] and hands over, so that its clients notice nothing. Commits go on meanwhile, by the others' disks.
//!
//! Clocks are compared by the control lane's messages, which carry their sender's. A delay on the way makes a peer's clock look
//! slow, never fast, so of the last seconds the largest difference counts. When the own clock is set, what was heard is moved
//! by as much: a leader knows at once that its clock has left the others', and stamps by theirs until it has handed over.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Clock, GroupCore};
use crate::handle::Unfit;
use crate::plant::{self, Bug};
use crate::seam::Stamper;
use crate::types::RaftId;

/// Differences are kept for between one and two of these.
const CLOCK_WINDOW: Duration = Duration::from_secs(2);

/// A change of the wall clock against the monotonic one, within one round, that is no slewing but a step, ms.
const CLOCK_STEP_MS: i64 = 100;

/// Fewest clocks, the own one included, that give a verdict: of two nobody knows which is wrong.
const CLOCKS_MIN: usize = 3;

/// What is known of the others' clocks, and of the own disk.
#[derive(Debug, Default)]
pub(super) struct Health {
    clocks: BTreeMap<RaftId, HeardClock>,
    /// How far the own wall clock is ahead of the monotonic one, in ms; `None` before the first look.
    wall_ahead: Option<i64>,
    /// Since when log-io has had something to do without finishing anything.
    disk_waits: Option<Duration>,
}

/// How far a peer's clock is ahead of the own one, in ms: the most that was seen in the current window and in the one before.
#[derive(Debug)]
struct HeardClock {
    window_began: Duration,
    now_ms: i64,
    before_ms: Option<i64>,
}

impl Health {
    /// The own clocks, as of now.
    pub(super) fn own_clock(&mut self, clock: Clock) {
        let ahead = clock.wall_ms.cast_signed().saturating_sub(clock.mono.as_millis() as i64);
        let step = self.wall_ahead.replace(ahead).map_or(0, |before| ahead.saturating_sub(before));
        if step.abs() > CLOCK_STEP_MS {
            for heard in self.clocks.values_mut() {
                heard.now_ms = heard.now_ms.saturating_sub(step);
                heard.before_ms = heard.before_ms.map(|before| before.saturating_sub(step));
            }
        }
    }

    /// A peer said its time.
    pub(super) fn heard_clock(&mut self, peer: RaftId, ahead_ms: i64, now: Duration) {
        let fresh = HeardClock { window_began: now, now_ms: ahead_ms, before_ms: None };
        let heard = self.clocks.entry(peer).or_insert(fresh);
        let age = now.saturating_sub(heard.window_began);
        if age >= CLOCK_WINDOW {
            let before_ms = (age < 2 * CLOCK_WINDOW).then_some(heard.now_ms);
            *heard = HeardClock { window_began: now, now_ms: ahead_ms, before_ms };
        } else {
            heard.now_ms = heard.now_ms.max(ahead_ms);
        }
    }

    /// log-io has been given something.
    pub(super) fn disk_asked(&mut self, now: Duration) {
        self.disk_waits.get_or_insert(now);
    }

    /// log-io has finished something; `more` is still with it.
    pub(super) fn disk_answered(&mut self, more: bool, now: Duration) {
        self.disk_waits = more.then_some(now);
    }

    /// How far the median of the group's clocks is ahead of the own one, in ms; `None` when too few are known.
    fn median_ahead_ms(&self, voters: &[RaftId], now: Duration) -> Option<i64> {
        let fresh = |heard: &HeardClock| now.saturating_sub(heard.window_began) < 2 * CLOCK_WINDOW;
        let mut ahead: Vec<i64> = vec![0];
        ahead.extend(
            self.clocks
                .iter()
                .filter(|(peer, heard)| voters.contains(peer) && fresh(heard))
                .map(|(_, heard)| heard.before_ms.map_or(heard.now_ms, |before| before.max(heard.now_ms))),
        );
        if ahead.len() < CLOCKS_MIN {
            return None;
        }
        ahead.sort_unstable();
        let middle = ahead.len() / 2;
        Some(if ahead.len().is_multiple_of(2) {
            // Half-way between two: whoever is nearer to it is not off.
            ahead[middle - 1].midpoint(ahead[middle])
        } else {
            ahead[middle]
        })
    }
}

impl<S: Stamper> GroupCore<S> {
    /// Why this replica should not lead, if so; as of the last poll's time.
    pub fn unfit(&self) -> Option<Unfit> {
        let now = self.clock.mono;
        if self.health.disk_waits.is_some_and(|since| now.saturating_sub(since) >= self.tuning.disk_hang) {
            return Some(Unfit::DiskHangs);
        }
        if !self.meta.doubts.is_none() && !plant::on(Bug::AbstainerVotes) {
            return Some(Unfit::InDoubt);
        }
        if self.is_stateless() {
            return Some(Unfit::Stateless);
        }
        if self.is_damaged() {
            return Some(Unfit::Damaged);
        }
        (self.clock_error_ms() != 0).then_some(Unfit::ClockOff)
    }

    /// What must be added to the own wall clock for the group's time, in ms: nothing while it is within
    /// [`GroupTuning::clock_off_max`](super::GroupTuning::clock_off_max), or when nobody can tell.
    fn clock_error_ms(&self) -> i64 {
        let ahead = self.health.median_ahead_ms(&self.membership.voters, self.clock.mono).unwrap_or(0);
        let off = Duration::from_millis(ahead.unsigned_abs()) > self.tuning.clock_off_max;
        if off { ahead } else { 0 }
    }

    /// The time to stamp with, ms since 1970.
    pub(super) fn stamp_ms(&self) -> u64 {
        self.clock.wall_ms.saturating_add_signed(self.clock_error_ms())
    }

    /// How far the own wall clock is off the median of the group's, in ms; `None` with fewer than three known clocks.
    pub fn clock_off_ms(&self) -> Option<u64> {
        self.health.median_ahead_ms(&self.membership.voters, self.clock.mono).map(i64::unsigned_abs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    /// The one clock that differs is wrong, whichever way, and only it may draw the consequence.
    #[test]
    fn the_odd_clock_out_is_off() {
        let voters = [1, 2, 3];
        let off = |others: &[(RaftId, i64)]| {
            let mut health = Health::default();
            others.iter().for_each(|(peer, ahead)| health.heard_clock(*peer, *ahead, S));
            health.median_ahead_ms(&voters, S)
        };
        assert_eq!(off(&[(2, -3_600_000), (3, -3_600_010)]), Some(-3_600_000));
        assert_eq!(off(&[(2, 5_000), (3, 5_020)]), Some(5_000));
        assert_eq!(off(&[(2, 3_600_000), (3, 10)]), Some(10), "somebody else's");
        assert_eq!(off(&[(2, 3_600_000)]), None, "of two nobody knows");
        assert_eq!(off(&[(2, 9_000), (4, 9_000)]), None, "no member's");
    }

    /// A slow message must not look like a wrong clock, old words must be forgotten, and a mended clock must count again.
    #[test]
    fn the_best_of_the_last_seconds_counts() {
        let voters = [1, 2, 3];
        let mut health = Health::default();
        for peer in [2, 3] {
            health.heard_clock(peer, 0, S);
            health.heard_clock(peer, -8_000, S + S / 2);
        }
        assert_eq!(health.median_ahead_ms(&voters, 2 * S), Some(0));
        assert_eq!(health.median_ahead_ms(&voters, 6 * S), None, "nobody was heard of for long");
        for (at, ahead) in [(7 * S, -8_000), (8 * S, -8_000), (10 * S, -8_000)] {
            [2, 3].iter().for_each(|peer| health.heard_clock(*peer, ahead, at));
        }
        assert_eq!(health.median_ahead_ms(&voters, 10 * S), Some(-8_000));
        for at in [11 * S, 12 * S, 14 * S] {
            [2, 3].iter().for_each(|peer| health.heard_clock(*peer, 3, at));
        }
        assert_eq!(health.median_ahead_ms(&voters, 14 * S), Some(3));
    }

    /// A clock that is set is known to be wrong, or to be right again, before anybody has said a word more.
    #[test]
    fn a_step_of_the_own_clock_moves_all_others() {
        let voters = [1, 2, 3];
        let mut health = Health::default();
        let own = |health: &mut Health, at: Duration, shift: i64| {
            health.own_clock(Clock { mono: at, wall_ms: (10_000_000 + at.as_millis() as i64 + shift) as u64 });
        };
        own(&mut health, S, 0);
        [2, 3].iter().for_each(|peer| health.heard_clock(*peer, 10, S));
        own(&mut health, S + S / 10, 3_600_000);
        assert_eq!(health.median_ahead_ms(&voters, 2 * S), Some(-3_599_990));
        own(&mut health, 2 * S, 3_600_050);
        assert_eq!(health.median_ahead_ms(&voters, 2 * S), Some(-3_599_990), "slewing is not a step");
        own(&mut health, 2 * S, -3_599_950);
        assert_eq!(health.median_ahead_ms(&voters, 2 * S), Some(3_600_010));
    }
}

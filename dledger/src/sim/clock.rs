//! The two clocks of a simulated node: a monotonic one that runs fast or slow, and a wall clock that jumps.

use std::time::Duration;

use crate::group::Clock;

/// Parts per million of a clock that runs right.
pub(super) const TRUE_RATE: u64 = 1_000_000;

/// Wall time at virtual time 0, ms since 1970.
const EPOCH_MS: i64 = 1_700_000_000_000;

/// Virtual time is in microseconds since the start of the run.
#[derive(Debug, Clone, Copy)]
pub(super) struct NodeClock {
    anchor: u64,
    local_anchor: u64,
    rate: u64,
    wall_shift_ms: i64,
}

impl NodeClock {
    pub(super) fn new(rate: u64, wall_shift_ms: i64) -> NodeClock {
        NodeClock { anchor: 0, local_anchor: 0, rate, wall_shift_ms }
    }

    /// The process starts: its monotonic clock begins at zero.
    pub(super) fn restart(&mut self, now: u64) {
        self.anchor = now;
        self.local_anchor = 0;
    }

    pub(super) fn set_rate(&mut self, now: u64, rate: u64) {
        self.local_anchor = self.local(now);
        self.anchor = now;
        self.rate = rate;
    }

    pub(super) fn jump(&mut self, ms: i64) {
        self.wall_shift_ms += ms;
    }

    pub(super) fn right_wall(&mut self) {
        self.wall_shift_ms = 0;
    }

    fn local(&self, now: u64) -> u64 {
        self.local_anchor + (now - self.anchor) * self.rate / TRUE_RATE
    }

    pub(super) fn read(&self, now: u64) -> Clock {
        let wall = EPOCH_MS + (now / 1000) as i64 + self.wall_shift_ms;
        Clock { mono: Duration::from_micros(self.local(now)), wall_ms: wall.max(0) as u64 }
    }

    /// Virtual time at which the monotonic clock has reached `mono`; never before `now`.
    pub(super) fn when(&self, now: u64, mono: Duration) -> u64 {
        let local = mono.as_micros() as u64;
        let ahead = (local.saturating_sub(self.local_anchor) * TRUE_RATE).div_ceil(self.rate);
        (self.anchor + ahead).max(now)
    }

    /// Virtual time that passes while this clock advances by `local` microseconds.
    pub(super) fn stretch(&self, local: u64) -> u64 {
        (local * TRUE_RATE / self.rate).max(1)
    }
}

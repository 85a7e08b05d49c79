//! Keeps a flood of bad input from becoming a flood of log lines: at most so many lines a second, then a count of the rest.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Lines per second that pass.
const LINES_PER_SECOND: u32 = 10;

/// One gate; a process has one per kind of line.
#[derive(Debug)]
pub(super) struct LogGate {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    second: Option<Instant>,
    lines: u32,
    dropped: u64,
}

impl Default for LogGate {
    fn default() -> Self {
        Self::new()
    }
}

impl LogGate {
    /// An open gate.
    pub(super) const fn new() -> Self {
        Self { state: Mutex::new(State { second: None, lines: 0, dropped: 0 }) }
    }

    /// Whether a line may be written now; then also how many were held back since the last one.
    pub(super) fn pass(&self) -> Option<u64> {
        self.pass_at(Instant::now())
    }

    fn pass_at(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock();
        if state.second.is_none_or(|second| now.duration_since(second) >= Duration::from_secs(1)) {
            state.second = Some(now);
            state.lines = 0;
        }
        if state.lines == LINES_PER_SECOND {
            state.dropped += 1;
            return None;
        }
        state.lines += 1;
        Some(std::mem::take(&mut state.dropped))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A million bad frames must not write a million lines, and none may vanish without being counted.
    #[test]
    fn floods_are_counted_not_written() {
        let gate = LogGate::new();
        let start = Instant::now();
        let passed = (0..1000).filter(|_| gate.pass_at(start).is_some()).count();
        assert_eq!(passed, LINES_PER_SECOND as usize);
        assert_eq!(gate.pass_at(start + Duration::from_secs(1)), Some(990));
    }
}

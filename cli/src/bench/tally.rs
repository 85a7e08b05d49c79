//! What the clients of a bench saw, counted: acknowledgements and latencies by window, and everything that failed.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use ledgermq_client::SendError;
use serde::Serialize;

use super::schedule::{Place, Windows};

/// Longest latency that is told apart, in microseconds: an hour.
const LATENCY_MAX_US: u64 = 3_600_000_000;

/// Digits of a latency that are kept.
const LATENCY_DIGITS: u8 = 3;

/// Percentiles of a latency in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Percentiles {
    pub(crate) p50_us: u64,
    pub(crate) p99_us: u64,
    pub(crate) p999_us: u64,
    pub(crate) max_us: u64,
}

/// Latencies, in microseconds.
#[derive(Debug, Clone)]
pub(crate) struct Latencies(Histogram<u64>);

impl Latencies {
    /// None yet.
    pub(crate) fn new() -> Latencies {
        let made = Histogram::new_with_bounds(1, LATENCY_MAX_US, LATENCY_DIGITS);
        Latencies(made.expect("the bounds are constants that fit"))
    }

    /// Adds one; less than a microsecond counts as one.
    pub(crate) fn record(&mut self, latency: Duration) {
        let us = u64::try_from(latency.as_micros()).unwrap_or(LATENCY_MAX_US);
        self.0.saturating_record(us.max(1));
    }

    /// Adds those of another.
    pub(crate) fn merge(&mut self, other: &Latencies) {
        self.0.add(&other.0).expect("all histograms have the same bounds");
    }

    /// How many there are.
    pub(crate) fn count(&self) -> u64 {
        self.0.len()
    }

    /// The figures; `None` without a single one.
    pub(crate) fn percentiles(&self) -> Option<Percentiles> {
        (!self.0.is_empty()).then(|| Percentiles {
            p50_us: self.0.value_at_quantile(0.5),
            p99_us: self.0.value_at_quantile(0.99),
            p999_us: self.0.value_at_quantile(0.999),
            max_us: self.0.max(),
        })
    }
}

/// One window.
#[derive(Debug, Clone)]
pub(crate) struct WindowTally {
    /// Messages acknowledged within it.
    pub(crate) messages: u64,
    /// Latencies of the calls that belong to it.
    pub(crate) latencies: Latencies,
}

/// Everything that does not belong to a window.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Totals {
    /// Messages acknowledged, in the warm-up and after the windows too.
    pub(crate) acknowledged: u64,
    /// Those of them in the warm-up.
    pub(crate) warm_up: u64,
    /// Messages that are certainly not stored.
    pub(crate) failed: u64,
    /// Messages that may be stored or not.
    pub(crate) unknown: u64,
    /// Calls that needed more than one attempt: these may be stored more than once.
    pub(crate) retried_calls: u64,
    /// Messages that were due at the rate and never sent.
    pub(crate) unsent: u64,
    /// The first error, in the client's words.
    pub(crate) error: Option<String>,
}

impl Totals {
    /// Counts a call that failed.
    pub(crate) fn fail(&mut self, error: &SendError, messages: u64) {
        *(if error.outcome_unknown() { &mut self.unknown } else { &mut self.failed }) += messages;
        self.error.get_or_insert_with(|| error.to_string());
    }

    /// Messages whose call did not end well, or never began.
    pub(crate) fn errors(&self) -> u64 {
        self.failed + self.unknown + self.unsent
    }

    /// Adds those of another.
    pub(crate) fn merge(&mut self, other: Totals) {
        self.acknowledged += other.acknowledged;
        self.warm_up += other.warm_up;
        self.failed += other.failed;
        self.unknown += other.unknown;
        self.retried_calls += other.retried_calls;
        self.unsent += other.unsent;
        self.error = self.error.take().or(other.error);
    }
}

/// What a sender saw, or all of them.
#[derive(Debug, Clone)]
pub(crate) struct Tally {
    /// By window.
    pub(crate) windows: Vec<WindowTally>,
    /// The rest.
    pub(crate) totals: Totals,
    /// When the last acknowledgement came.
    pub(crate) last_ack: Option<Instant>,
}

impl Tally {
    /// Nothing yet.
    pub(crate) fn new(windows: usize) -> Tally {
        let window = WindowTally { messages: 0, latencies: Latencies::new() };
        Tally { windows: vec![window; windows], totals: Totals::default(), last_ack: None }
    }

    /// Counts a call that was acknowledged. Messages belong to the window of their acknowledgement; a latency belongs to the
    /// window in which its call was due, or, when calls are due at no fixed time (`due` is `None`), to the same.
    pub(crate) fn acknowledge(
        &mut self,
        windows: &Windows,
        due: Option<Instant>,
        acked: Instant,
        messages: u64,
        latency: Duration,
    ) {
        self.totals.acknowledged += messages;
        match windows.place(acked) {
            Place::WarmUp => self.totals.warm_up += messages,
            Place::Window(n) => self.windows[n].messages += messages,
            Place::Over => {}
        }
        if let Place::Window(n) = windows.place(due.unwrap_or(acked)) {
            self.windows[n].latencies.record(latency);
        }
        self.last_ack = self.last_ack.max(Some(acked));
    }

    /// Adds those of another.
    pub(crate) fn merge(&mut self, other: Tally) {
        for (own, other) in self.windows.iter_mut().zip(&other.windows) {
            own.messages += other.messages;
            own.latencies.merge(&other.latencies);
        }
        self.totals.merge(other.totals);
        self.last_ack = self.last_ack.max(other.last_ack);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Would break: the percentiles that everything is judged by.
    #[test]
    fn percentiles_are_those_of_all_latencies_together() {
        let (mut low, mut high) = (Latencies::new(), Latencies::new());
        assert_eq!(low.percentiles(), None);
        (1..=900).for_each(|us| low.record(Duration::from_micros(us)));
        (901..=1_000).for_each(|us| high.record(Duration::from_micros(us)));
        low.merge(&high);
        let got = low.percentiles().unwrap();
        assert_eq!(got, Percentiles { p50_us: 500, p99_us: 990, p999_us: 999, max_us: 1_000 });
        assert_eq!(low.count(), 1_000);
    }

    /// Would break: hiding a stall. A call that was due in a window counts there, however late its answer came.
    #[test]
    fn a_late_answer_counts_where_its_call_was_due() {
        let windows = Windows::timed(Duration::ZERO, Duration::from_secs(1), 2);
        let at = |ms| windows.border(0).unwrap() + Duration::from_millis(ms);
        let mut tally = Tally::new(2);
        tally.acknowledge(&windows, Some(at(900)), at(1_900), 1, Duration::from_secs(1));
        tally.acknowledge(&windows, Some(at(1_900)), at(2_500), 1, Duration::from_millis(600));
        tally.acknowledge(&windows, None, at(1_200), 32, Duration::from_millis(500));
        assert_eq!(tally.windows.iter().map(|it| it.messages).collect::<Vec<_>>(), [0, 33]);
        assert_eq!(tally.windows.iter().map(|it| it.latencies.count()).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(tally.windows[0].latencies.percentiles().unwrap().max_us / 1_000, 1_000);
        assert_eq!((tally.totals.acknowledged, tally.totals.warm_up), (34, 0));
        assert_eq!(tally.last_ack, Some(at(2_500)));
    }
}

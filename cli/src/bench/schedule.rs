//! When a bench measures, and when its sends are due.
//!
//! A closed loop sends again when it was answered. An open loop sends at a rate, whatever the answers do: each send is due at
//! a moment that is fixed beforehand and its latency counts from there, so that a stall is seen by all sends that it delayed
//! and not only by the one that was under way (coordinated omission).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

/// Longest sleep of the pacing thread: what it may need to notice that it is no longer wanted.
const PACER_SLEEP_MAX: Duration = Duration::from_millis(20);

/// How long sends that were due in time may still begin after the last window.
pub(crate) const DRAIN_MAX: Duration = Duration::from_secs(10);

/// Where a moment lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Before the first window: nothing counts.
    WarmUp,
    /// In a window.
    Window(usize),
    /// Behind the last window.
    Over,
}

/// The windows of a run: one behind the other, after a warm-up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Windows {
    begin: Instant,
    /// Length of each; `None` for a single one that ends with the load.
    length: Option<Duration>,
    count: usize,
}

impl Windows {
    /// `count` windows of `length` after `warm_up`, which begins now.
    pub(crate) fn timed(warm_up: Duration, length: Duration, count: usize) -> Windows {
        Windows { begin: Instant::now() + warm_up, length: Some(length), count }
    }

    /// One window after `warm_up` that ends with the load.
    pub(crate) fn open_ended(warm_up: Duration) -> Windows {
        Windows { begin: Instant::now() + warm_up, length: None, count: 1 }
    }

    /// Number of windows.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Length of each window, if they end by time.
    pub(crate) fn length(&self) -> Option<Duration> {
        self.length
    }

    /// The begin of window `n`; with `n` the number of windows, the end of the last. Open-ended windows have no end.
    pub(crate) fn border(&self, n: usize) -> Option<Instant> {
        match (n, self.length) {
            (0, _) => Some(self.begin),
            (n, Some(length)) => Some(self.begin + length * u32::try_from(n).expect("a few windows")),
            (_, None) => None,
        }
    }

    /// Where a moment lies.
    pub(crate) fn place(&self, at: Instant) -> Place {
        let Some(since) = at.checked_duration_since(self.begin) else { return Place::WarmUp };
        let Some(length) = self.length else { return Place::Window(0) };
        let n = (since.as_nanos() / length.as_nanos().max(1)) as usize;
        if n < self.count { Place::Window(n) } else { Place::Over }
    }
}

/// Says when each send is due.
#[derive(Debug, Clone)]
pub(crate) enum Pacer {
    /// When the one before it was answered.
    Closed,
    /// At a rate.
    Open(Arc<OpenLoop>),
}

/// Sends at a rate.
#[derive(Debug)]
pub(crate) struct OpenLoop {
    start: Instant,
    calls_per_second: f64,
    due: Semaphore,
    taken: AtomicU64,
}

impl OpenLoop {
    /// When the `n`-th call is due.
    fn due_at(&self, n: u64) -> Instant {
        self.start + Duration::from_secs_f64(n as f64 / self.calls_per_second)
    }

    /// How many calls are due at a moment.
    fn due_by(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.start).as_secs_f64();
        (since * self.calls_per_second) as u64 + 1
    }
}

impl Pacer {
    /// A closed loop, or with a rate (calls per second) an open one, from now on.
    pub(crate) fn start(calls_per_second: Option<f64>) -> Pacer {
        let Some(calls_per_second) = calls_per_second else { return Pacer::Closed };
        let (start, due, taken) = (Instant::now(), Semaphore::new(0), AtomicU64::new(0));
        let open = Arc::new(OpenLoop { start, calls_per_second, due, taken });
        let weak = Arc::downgrade(&open);
        // A thread: the runtime's timers are exact to a millisecond only, which would be the larger part of a latency.
        std::thread::spawn(move || {
            let mut given = 0;
            while let Some(open) = weak.upgrade().filter(|open| !open.due.is_closed()) {
                let due = open.due_by(Instant::now());
                if due > given {
                    open.due.add_permits((due - given) as usize);
                    given = due;
                }
                let next = open.due_at(given);
                drop(open);
                std::thread::sleep(next.saturating_duration_since(Instant::now()).min(PACER_SLEEP_MAX));
            }
        });
        Pacer::Open(open)
    }

    /// Waits until the next send is due; gives the moment from which its latency counts, and `None` at the end.
    pub(crate) async fn next(&self) -> Option<Instant> {
        match self {
            Pacer::Closed => Some(Instant::now()),
            Pacer::Open(open) => {
                open.due.acquire().await.ok()?.forget();
                Some(open.due_at(open.taken.fetch_add(1, Ordering::Relaxed)))
            }
        }
    }

    /// Ends an open loop: whoever waits for a send to become due is told.
    pub(crate) fn stop(&self) {
        if let Pacer::Open(open) = self {
            open.due.close();
        }
    }

    /// Calls that were due by `end` and that nobody took.
    pub(crate) fn untaken(&self, end: Instant) -> u64 {
        match self {
            Pacer::Closed => 0,
            Pacer::Open(open) => open.due_by(end).saturating_sub(open.taken.load(Ordering::Relaxed)),
        }
    }
}

/// Messages that may still be sent.
#[derive(Debug)]
pub(crate) struct Allowance(Option<AtomicU64>);

impl Allowance {
    /// As many as `count`, or without an end.
    pub(crate) fn new(count: Option<u64>) -> Allowance {
        Allowance(count.map(AtomicU64::new))
    }

    /// Takes up to `wanted`; 0 when none is left.
    pub(crate) fn take(&self, wanted: u64) -> u64 {
        let Some(left) = &self.0 else { return wanted };
        let before = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| Some(left.saturating_sub(wanted)));
        before.unwrap_or(0).min(wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Would break: every figure, when the warm-up counts or a window takes in its neighbour.
    #[test]
    fn moments_are_told_apart() {
        let windows = Windows::timed(Duration::from_secs(2), Duration::from_secs(3), 2);
        let at = |ms| windows.begin - Duration::from_secs(2) + Duration::from_millis(ms);
        assert_eq!(windows.place(at(1_999)), Place::WarmUp);
        assert_eq!(windows.place(at(2_000)), Place::Window(0));
        assert_eq!(windows.place(at(4_999)), Place::Window(0));
        assert_eq!(windows.place(at(5_000)), Place::Window(1));
        assert_eq!(windows.place(at(8_000)), Place::Over);
        assert_eq!(windows.border(2), Some(at(8_000)));
        let open = Windows::open_ended(Duration::ZERO);
        assert_eq!(open.place(open.begin + Duration::from_secs(1_000)), Place::Window(0));
        assert_eq!(open.border(1), None);
    }

    /// Would break: an open loop that runs at another rate than asked, or counts a latency from the wrong moment.
    #[test]
    fn calls_are_due_at_the_rate() {
        let start = Instant::now();
        let open = OpenLoop { start, calls_per_second: 500.0, due: Semaphore::new(0), taken: AtomicU64::new(0) };
        assert_eq!(open.due_at(1_000) - start, Duration::from_secs(2));
        assert_eq!(open.due_by(start), 1, "the first one is due at once");
        assert_eq!(open.due_by(start + Duration::from_secs(2)), 1_001);
        assert_eq!(open.due_by(start + Duration::from_millis(3)), 2);
    }

    /// Would break: seeing a stall. What was due meanwhile must be sent, with its own moment.
    #[tokio::test]
    async fn sends_that_were_due_during_a_stall_keep_their_moments() {
        let pacer = Pacer::start(Some(1_000.0));
        let first = pacer.next().await.unwrap();
        std::thread::sleep(Duration::from_millis(30));
        for n in 1..=20 {
            assert_eq!(pacer.next().await.unwrap() - first, Duration::from_millis(n));
        }
        pacer.stop();
        assert!(pacer.untaken(first + Duration::from_millis(100)) == 80);
    }

    /// Would break: a bench that sends more, or fewer, than it was told.
    #[test]
    fn an_allowance_ends_exactly() {
        let allowance = Allowance::new(Some(70));
        assert_eq!([32, 32, 32, 32].map(|wanted| allowance.take(wanted)), [32, 32, 6, 0]);
        assert_eq!(Allowance::new(None).take(5), 5);
    }
}

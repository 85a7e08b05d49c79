//! Bounds the bytes per second that a node gives to takers, whoever they are: recovery must not starve what it recovers.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Time whose allowance may be used at once after a pause.
const BURST: Duration = Duration::from_millis(100);

/// A bucket that fills with `rate` bytes per second.
pub(crate) struct Throttle {
    rate: u64,
    /// When what was taken so far is paid for.
    paid: Mutex<Instant>,
}

impl Throttle {
    pub(crate) fn new(rate: u64) -> Throttle {
        Throttle { rate: rate.max(1), paid: Mutex::new(Instant::now()) }
    }

    /// Takes so many bytes out; the caller waits for the returned time before it uses them.
    pub(crate) fn take(&self, bytes: u64, now: Instant) -> Duration {
        let mut paid = self.paid.lock();
        let from = (*paid).max(now.checked_sub(BURST).unwrap_or(now));
        *paid = from + Duration::from_secs_f64(bytes as f64 / self.rate as f64);
        paid.saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A taker could take all of the disk, or nothing at all after a long pause.
    #[test]
    fn holds_to_its_rate() {
        let now = Instant::now();
        let throttle = Throttle { rate: 1_000, paid: Mutex::new(now) };
        let later = now + Duration::from_secs(60);
        // A pause is worth a tenth of a second, no more.
        assert_eq!(throttle.take(100, later), Duration::ZERO);
        assert_eq!(throttle.take(500, later), Duration::from_millis(500));
        assert_eq!(throttle.take(500, later), Duration::from_secs(1));
        assert_eq!(throttle.take(100, later + Duration::from_secs(1)), Duration::from_millis(100));
    }
}

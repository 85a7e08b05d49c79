//! When to try again and when to give up: one deadline and one count for all attempts of an operation.
//!
//! It remembers the last problem and whether any attempt may have been carried out; that goes into the error. It decides nothing
//! about where the next attempt goes.

use std::time::Duration;

use rand::Rng;
use tokio::time::Instant;

use crate::error::{CallError, Cause, RequestError, RouteProblem};

/// The first pause. Short: most failovers are known within milliseconds by the route watch, which ends a pause.
const PAUSE_MIN: Duration = Duration::from_millis(10);

/// The longest pause: what a client may sleep past the moment at which a leader is there without anybody saying so.
const PAUSE_MAX: Duration = Duration::from_millis(200);

/// Doublings after which the pause no longer grows.
const DOUBLINGS_MAX: u32 = 5;

/// The attempts of one operation.
#[derive(Debug)]
pub(crate) struct Attempts {
    started: Instant,
    deadline: Instant,
    attempts_max: u32,
    made: u32,
    pauses: u32,
    outcome_unknown: bool,
}

impl Attempts {
    pub(crate) fn new(deadline: Duration, attempts_max: u32) -> Self {
        let started = Instant::now();
        Self { started, deadline: started + deadline, attempts_max, made: 0, pauses: 0, outcome_unknown: false }
    }

    /// Until when all of it must be over.
    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Until when the next attempt may take.
    pub(crate) fn attempt_deadline(&self, timeout: Duration) -> Instant {
        self.deadline.min(Instant::now() + timeout)
    }

    /// How many attempts failed so far.
    pub(crate) fn failed(&self) -> u32 {
        self.made
    }

    /// Whether an attempt may have been carried out.
    pub(crate) fn outcome_unknown(&self) -> bool {
        self.outcome_unknown
    }

    /// Notes a failed attempt. `Ok` with the pause to make before the next one.
    ///
    /// # Errors
    /// [`CallError::GaveUp`] when attempts or time are used up, or when no attempt can end otherwise.
    pub(crate) fn failed_with(&mut self, cause: Cause, outcome_unknown: bool) -> Result<Duration, CallError> {
        self.made += 1;
        self.outcome_unknown |= outcome_unknown;
        let left = self.deadline.saturating_duration_since(Instant::now());
        if self.made >= self.attempts_max || left.is_zero() || is_hopeless(&cause) {
            return Err(self.give_up(cause));
        }
        Ok(self.pause().min(left))
    }

    /// The error for an operation that ends with `cause`.
    pub(crate) fn give_up(&self, cause: Cause) -> CallError {
        CallError::GaveUp {
            cause,
            attempts: self.made,
            elapsed_ms: self.started.elapsed().as_millis() as u64,
            outcome_unknown: self.outcome_unknown,
        }
    }

    /// Twice as long each time, half of it by chance, so that clients that failed together do not come back together.
    fn pause(&mut self) -> Duration {
        let pause = (PAUSE_MIN * 2u32.pow(self.pauses.min(DOUBLINGS_MAX))).min(PAUSE_MAX);
        self.pauses = self.pauses.saturating_add(1);
        pause.mul_f64(rand::rng().random_range(0.5..1.0))
    }
}

/// Whether every further attempt would fail in the same way.
fn is_hopeless(cause: &Cause) -> bool {
    matches!(
        cause,
        Cause::Request(RequestError::Stopped | RequestError::TooLarge(_))
            | Cause::NoRoute(RouteProblem::Unreachable(RequestError::Stopped))
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cause() -> Cause {
        Cause::NoAddress { broker_name: "broker-a".to_owned() }
    }

    /// Retries must end by count, whatever time is left, and the error must carry what all attempts together mean.
    #[tokio::test(start_paused = true)]
    async fn attempts_are_bounded() {
        let mut attempts = Attempts::new(Duration::from_secs(60), 3);
        attempts.failed_with(cause(), true).unwrap();
        attempts.failed_with(cause(), false).unwrap();
        let error = attempts.failed_with(cause(), false).unwrap_err();
        assert!(error.outcome_unknown(), "one unknown attempt makes the whole unknown");
        assert!(matches!(error, CallError::GaveUp { attempts: 3, .. }));
    }

    /// Pauses grow, never pass their bound, and never lead past the deadline.
    #[tokio::test(start_paused = true)]
    async fn pauses_fit_into_the_deadline() {
        let mut attempts = Attempts::new(Duration::from_secs(2), 10_000);
        let started = Instant::now();
        loop {
            match attempts.failed_with(cause(), false) {
                Ok(pause) => {
                    assert!(pause <= PAUSE_MAX);
                    tokio::time::sleep(pause).await;
                }
                Err(error) => {
                    assert!(!error.outcome_unknown());
                    break;
                }
            }
        }
        assert!(started.elapsed() >= Duration::from_secs(2));
        assert!(started.elapsed() <= Duration::from_millis(2_010), "{:?}", started.elapsed());
        assert!((10..=40).contains(&attempts.failed()), "{} attempts", attempts.failed());
    }
}

//! A count that grows, and how much it grew over the last minute, hour and day.

use ledgermq_protocol::stats::{BrokerStatsData, BrokerStatsItem};

/// Pause between two samples: RocketMQ's own.
pub const SAMPLE_INTERVAL_MS: u64 = 10_000;

const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 60 * MINUTE_MS;
const DAY_MS: u64 = 24 * HOUR_MS;

/// Samples of a count: 7 of the last minute, 7 of the last hour, 25 of the last day, RocketMQ's own numbers. Of a count that
/// stands still one of each is kept, so that most topics of a broker with many cost little.
#[derive(Debug)]
pub struct Series {
    rings: [Ring; 3],
}

#[derive(Debug)]
struct Ring {
    every_ms: u64,
    keep: usize,
    samples: Vec<Sample>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sample {
    at_ms: u64,
    count: u64,
}

impl Series {
    /// Begins with a first sample: from then on the count is known.
    pub fn new(at_ms: u64, count: u64) -> Self {
        let ring = |every_ms, keep| Ring { every_ms, keep, samples: vec![Sample { at_ms, count }] };
        Self { rings: [ring(SAMPLE_INTERVAL_MS, 7), ring(HOUR_MS / 6, 7), ring(HOUR_MS, 25)] }
    }

    /// Takes a sample where one is due. `now_ms` is any monotone clock, the same in every call.
    pub fn sample(&mut self, now_ms: u64, count: u64) {
        self.rings.iter_mut().for_each(|ring| ring.sample(Sample { at_ms: now_ms, count }));
    }

    /// Growth over the last minute, hour and day, as far as it is known.
    pub fn figures(&self, now_ms: u64, count: u64) -> BrokerStatsData {
        let over = |over_ms| {
            let since = self.since(now_ms, over_ms);
            let (sum, tps) = since.growth(now_ms, count);
            BrokerStatsItem { avgpt: 0.0, sum: i64::try_from(sum).unwrap_or(i64::MAX), tps }
        };
        BrokerStatsData { stats_day: over(DAY_MS), stats_hour: over(HOUR_MS), stats_minute: over(MINUTE_MS) }
    }

    /// Growth per second over the last `over_ms`.
    pub fn rate(&self, now_ms: u64, count: u64, over_ms: u64) -> f64 {
        self.since(now_ms, over_ms).growth(now_ms, count).1
    }

    /// The newest sample that is at least so old, or the oldest that there is.
    fn since(&self, now_ms: u64, over_ms: u64) -> Sample {
        let all = || self.rings.iter().flat_map(|ring| &ring.samples);
        let old_enough = |sample: &&Sample| sample.at_ms + over_ms <= now_ms;
        let newest = all().filter(old_enough).max_by_key(|sample| sample.at_ms);
        let oldest = newest.or_else(|| all().min_by_key(|sample| sample.at_ms));
        *oldest.expect("a series begins with a sample")
    }
}

impl Ring {
    fn sample(&mut self, sample: Sample) {
        if self.samples.iter().all(|old| old.count == sample.count) {
            self.samples = vec![sample];
            return;
        }
        let last = self.samples.last().map_or(0, |last| last.at_ms);
        // A timer that is a little early must not miss a turn.
        if last + self.every_ms <= sample.at_ms + SAMPLE_INTERVAL_MS / 2 {
            if self.samples.len() == self.keep {
                self.samples.remove(0);
            }
            self.samples.push(sample);
        }
    }
}

impl Sample {
    /// Growth since, and growth per second. A count that was set back has not grown.
    fn growth(self, now_ms: u64, count: u64) -> (u64, f64) {
        let sum = count.saturating_sub(self.count);
        let elapsed_ms = now_ms.saturating_sub(self.at_ms).max(1);
        (sum, sum as f64 * 1000.0 / elapsed_ms as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is shown must be the growth of the time that it is shown for, at once and after days.
    #[test]
    fn growth_over_a_minute_an_hour_and_a_day() {
        let mut series = Series::new(0, 100);
        let young = series.figures(5_000, 150);
        assert_eq!((young.stats_minute.sum, young.stats_hour.sum, young.stats_day.sum), (50, 50, 50));
        assert!((young.stats_minute.tps - 10.0).abs() < 1e-9);
        // One a second, for two days.
        let mut now = 0;
        while now < 2 * DAY_MS {
            now += SAMPLE_INTERVAL_MS;
            series.sample(now, 100 + now / 1000);
        }
        let figures = series.figures(now, 100 + now / 1000);
        assert_eq!((figures.stats_minute.sum, figures.stats_hour.sum, figures.stats_day.sum), (60, 3_600, 86_400));
        for item in [figures.stats_minute, figures.stats_hour, figures.stats_day] {
            assert!((item.tps - 1.0).abs() < 1e-9, "{item:?}");
        }
        assert!((series.rate(now, 100 + now / 1000, 10_000) - 1.0).abs() < 1e-9);
        assert_eq!(series.rings.each_ref().map(|ring| ring.samples.len()), [7, 7, 25]);
    }

    /// Topics that nobody sends to must cost next to nothing, and one that wakes up must not be averaged over its sleep.
    #[test]
    fn a_count_that_stands_still() {
        let mut series = Series::new(0, 0);
        series.sample(SAMPLE_INTERVAL_MS, 7);
        let mut now = SAMPLE_INTERVAL_MS;
        while now < 2 * DAY_MS {
            now += SAMPLE_INTERVAL_MS;
            series.sample(now, 7);
        }
        assert_eq!(series.rings.each_ref().map(|ring| ring.samples.len()), [1, 1, 1]);
        let figures = series.figures(now + 5_000, 57);
        assert_eq!(figures.stats_day.sum, 50);
        assert!((figures.stats_minute.tps - 10.0).abs() < 1e-9);
        assert_eq!(series.figures(now, 3).stats_minute.sum, 0, "it was set back");
    }
}

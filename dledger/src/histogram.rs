//! Log-linear histograms of a fixed size: one thread records, any thread reads, and neither waits for the other.
//!
//! ```text
//! value    0 1 .. 7 | 8 9 .. 15 | 16 18 .. 30 | 32 36 .. 60 | ...      eight buckets per power of two
//! ```
//! A bucket is at most an eighth of its values wide, so a quantile read from it is at most 12.5 % above the truth.

use std::sync::atomic::{AtomicU64, Ordering};

/// Buckets per power of two, as a power of two.
const FINE: u32 = 3;
/// Values from here on are counted as the greatest below: over an hour in microseconds, 4 GiB in bytes.
const END: u64 = 1 << 32;
const BUCKETS: usize = (32 - FINE as usize + 1) << FINE;

/// Counts of values by size. About 2 KiB, never more.
#[derive(Debug)]
pub struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    sum: AtomicU64,
    max: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram { buckets: [const { AtomicU64::new(0) }; BUCKETS], sum: AtomicU64::new(0), max: AtomicU64::new(0) }
    }
}

/// What a [`Histogram`] held when it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Distribution {
    buckets: Box<[u64]>,
    /// Number of values.
    pub count: u64,
    /// Sum of the values.
    pub sum: u64,
    /// Greatest value; 0 without any.
    pub max: u64,
}

fn bucket_of(value: u64) -> usize {
    let value = value.min(END - 1);
    let power = (value | 1).ilog2();
    if power < FINE {
        return value as usize;
    }
    // The highest bits behind the first one.
    let shift = power - FINE;
    ((shift as usize) << FINE) + (value >> shift) as usize
}

/// The greatest value that a bucket counts.
fn top_of(bucket: usize) -> u64 {
    if bucket < 2 << FINE {
        return bucket as u64;
    }
    let shift = (bucket >> FINE) - 1;
    (((bucket - (shift << FINE)) as u64 + 1) << shift) - 1
}

impl Histogram {
    /// Counts a value. By one thread only: two at the same time may lose a count.
    pub(crate) fn record(&self, value: u64) {
        let add =
            |count: &AtomicU64, by| count.store(count.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
        add(&self.buckets[bucket_of(value)], 1);
        add(&self.sum, value);
        if value > self.max.load(Ordering::Relaxed) {
            self.max.store(value, Ordering::Relaxed);
        }
    }

    /// Reads it. What is recorded meanwhile may be in or not.
    pub fn read(&self) -> Distribution {
        let buckets: Box<[u64]> = self.buckets.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        let count = buckets.iter().sum();
        Distribution { buckets, count, sum: self.sum.load(Ordering::Relaxed), max: self.max.load(Ordering::Relaxed) }
    }
}

impl Distribution {
    /// The value that this share (0 to 1) of the values does not exceed, at most 12.5 % too great; 0 without any.
    pub fn quantile(&self, share: f64) -> u64 {
        let wanted = ((self.count as f64 * share).ceil() as u64).clamp(1, self.count.max(1));
        let mut seen = 0;
        let reached = self.buckets.iter().position(|count| {
            seen += count;
            seen >= wanted
        });
        reached.map_or(0, |bucket| top_of(bucket).min(self.max))
    }

    /// How many values lie below 2 to this power, exactly.
    pub fn below_power(&self, power: u32) -> u64 {
        let end = if power >= 32 { BUCKETS } else { bucket_of(1 << power) };
        self.buckets[..end].iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Would break: each quantile, from then on.
    #[test]
    fn buckets_follow_each_other_without_a_gap() {
        let mut next = 0;
        for bucket in 0..BUCKETS {
            assert_eq!(bucket_of(next), bucket, "value {next}");
            assert_eq!(bucket_of(top_of(bucket)), bucket, "value {}", top_of(bucket));
            assert!(top_of(bucket) - next <= next / 8, "bucket {bucket} is too wide");
            next = top_of(bucket) + 1;
        }
        assert_eq!(next, END);
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    proptest! {
        /// Against the sorted values themselves.
        #[test]
        fn quantiles_are_close_above_the_truth(mut values in proptest::collection::vec(0u64..1 << 33, 1..200), share in 0.0f64..=1.0) {
            let histogram = Histogram::default();
            values.iter().for_each(|value| histogram.record(*value));
            let read = histogram.read();
            values.sort_unstable();
            prop_assert_eq!((read.count, read.sum), (values.len() as u64, values.iter().sum::<u64>()));
            prop_assert_eq!(read.max, *values.last().unwrap());
            let wanted = ((values.len() as f64 * share).ceil() as usize).max(1);
            let (truth, told) = (values[wanted - 1].min(END - 1), read.quantile(share));
            prop_assert!(truth <= told && told - truth <= truth / 8, "{} for {}", told, truth);
            for power in [0, 3, 4, 20, 31] {
                prop_assert_eq!(read.below_power(power), values.iter().filter(|value| **value < 1 << power).count() as u64);
            }
        }
    }

    #[test]
    fn an_empty_one_says_zero() {
        let read = Histogram::default().read();
        assert_eq!((read.count, read.quantile(0.5), read.max, read.below_power(32)), (0, 0, 0, 0));
    }
}

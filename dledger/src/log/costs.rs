//! What the log of a replica has cost: counts of jobs, frames, bytes and syncs since the start, and how long the syncs took.
//!
//! The log-io thread adds to them; metrics and benchmarks read them from any thread. They decide nothing.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::histogram::{Distribution, Histogram};

/// The counts, shared by the writer and whoever shows them.
#[derive(Debug, Default)]
pub struct LogCounters {
    jobs: AtomicU64,
    frames: AtomicU64,
    frame_bytes: AtomicU64,
    syncs: AtomicU64,
    meta_syncs: AtomicU64,
    sync_us: Histogram,
}

/// The counts at a moment. Each only grows; together they are no snapshot, since the writer goes on meanwhile.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogCosts {
    /// Jobs that brought frames. Jobs that waited together share a sync.
    pub jobs: u64,
    /// Frames written.
    pub frames: u64,
    /// Bytes of these frames: header, payload and padding, without what fills a page up.
    pub frame_bytes: u64,
    /// `fdatasync` calls on segments.
    pub syncs: u64,
    /// `fdatasync` calls on the meta file.
    pub meta_syncs: u64,
}

impl LogCounters {
    /// Reads them.
    pub fn read(&self) -> LogCosts {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        LogCosts {
            jobs: read(&self.jobs),
            frames: read(&self.frames),
            frame_bytes: read(&self.frame_bytes),
            syncs: read(&self.syncs),
            meta_syncs: read(&self.meta_syncs),
        }
    }

    pub(super) fn wrote(&self, frames: u64, frame_bytes: u64) {
        self.jobs.fetch_add(1, Ordering::Relaxed);
        self.frames.fetch_add(frames, Ordering::Relaxed);
        self.frame_bytes.fetch_add(frame_bytes, Ordering::Relaxed);
    }

    /// How long each `fdatasync` of a segment took, in microseconds.
    pub fn sync_us(&self) -> Distribution {
        self.sync_us.read()
    }

    pub(super) fn synced(&self, took: Duration) {
        self.syncs.fetch_add(1, Ordering::Relaxed);
        self.sync_us.record(took.as_micros() as u64);
    }

    pub(super) fn meta_synced(&self, times: u64) {
        self.meta_syncs.fetch_add(times, Ordering::Relaxed);
    }
}

//! The room on the disk of a node's data folder: watched, so that no write meets a full disk half-way.
//!
//! Below the mark a replica gives its leadership to a member with room. Where nobody has any, sends are refused with the cause,
//! while everything that is small or makes room goes on; above the mark they are taken again, by themselves.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rustix::fs::statvfs;

/// How often the disk is looked at. At 1 GB/s half a gigabyte can be written in between: less than is kept free for two segments.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// Kept free beside the segments, for the state: RocksDB, ConsumeQueues, files that are being replaced.
const STATE_BYTES: u64 = 256 << 20;

/// Segments kept free for each group: the next one, and the spare behind it.
const SEGMENTS: u64 = 2;

/// The disk as of the last look.
#[derive(Debug)]
pub(crate) struct Room {
    dir: PathBuf,
    keep_bytes: u64,
    total_bytes: AtomicU64,
    free_bytes: AtomicU64,
    low: AtomicBool,
}

impl Room {
    /// For groups whose segments have these sizes. `keep_bytes` is the config's own mark, 0 for none.
    pub(crate) fn new(dir: &Path, keep_bytes: u64, segment_sizes: impl Iterator<Item = u64>) -> Arc<Self> {
        let keep_bytes = match keep_bytes {
            0 => segment_sizes.map(|size| SEGMENTS * size).sum::<u64>() + STATE_BYTES,
            own => own,
        };
        let room = Self {
            dir: dir.to_owned(),
            keep_bytes,
            total_bytes: AtomicU64::new(0),
            free_bytes: AtomicU64::new(u64::MAX),
            low: AtomicBool::new(false),
        };
        room.look();
        Arc::new(room)
    }

    /// Looks again and again. Runs until the task is aborted.
    pub(crate) async fn watch(self: Arc<Self>) {
        let mut looks = tokio::time::interval(LOOK_INTERVAL);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            self.look();
        }
    }

    fn look(&self) {
        // A disk that cannot even be asked fails the log's next write, which says more.
        let Ok(disk) = statvfs(&self.dir) else { return };
        self.total_bytes.store(disk.f_blocks.saturating_mul(disk.f_frsize), Ordering::Relaxed);
        self.note(disk.f_bavail.saturating_mul(disk.f_frsize));
    }

    fn note(&self, free_bytes: u64) {
        self.free_bytes.store(free_bytes, Ordering::Relaxed);
        let was_low = self.is_low();
        // An eighth more ends it: at the very mark it would come and go.
        let mark = if was_low { self.keep_bytes + self.keep_bytes / 8 } else { self.keep_bytes };
        let low = free_bytes < mark;
        self.low.store(low, Ordering::Relaxed);
        if low != was_low {
            let (free, keep) = (free_bytes >> 20, self.keep_bytes >> 20);
            tracing::warn!(dir = %self.dir.display(), free_mib = free, keep_mib = keep, low, "room on the disk");
        }
    }

    /// Bytes that old messages must make room for: below one and a half times what is kept, those that are missing to twice as
    /// much. So they go well before sends are refused, and not at every look.
    pub(crate) fn missing_bytes(&self) -> u64 {
        let free = self.free_bytes();
        if free < self.keep_bytes + self.keep_bytes / 2 { 2 * self.keep_bytes - free } else { 0 }
    }

    /// Whether less is free than is kept.
    pub(crate) fn is_low(&self) -> bool {
        self.low.load(Ordering::Relaxed)
    }

    /// Bytes of the disk; 0 while the system has not told.
    pub(crate) fn total_bytes(&self) -> u64 {
        self.total_bytes.load(Ordering::Relaxed)
    }

    /// Free bytes at the last look.
    pub(crate) fn free_bytes(&self) -> u64 {
        self.free_bytes.load(Ordering::Relaxed)
    }
}

impl std::fmt::Display for Room {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (free, keep) = (self.free_bytes() >> 20, self.keep_bytes >> 20);
        write!(
            f,
            "{free} MiB are free at {}, and {keep} MiB are kept: free some, or give it a larger disk",
            self.dir.display()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends must be refused before a write meets a full disk, and taken again when there is room, not at every byte around the
    /// mark.
    #[test]
    fn the_mark_is_above_what_the_next_segments_take() {
        let dir = tempfile::tempdir().unwrap();
        let room = Room::new(dir.path(), 0, [64 << 20, 64 << 20].into_iter());
        assert!(room.free_bytes() < u64::MAX, "the disk is looked at from the start");
        let keep = (4 * 64 + 256) << 20;
        for (free, low) in [(keep, false), (keep - 1, true), (keep + 1, true), (keep + keep / 8, false), (keep, false)]
        {
            room.note(free);
            assert_eq!(room.is_low(), low, "{free}");
            assert_eq!(room.missing_bytes(), 2 * keep - free, "retention comes first");
        }
        for (free, missing) in [(keep + keep / 2, 0), (keep + keep / 2 - 1, keep / 2 + 1)] {
            room.note(free);
            assert_eq!((room.is_low(), room.missing_bytes()), (false, missing), "{free}");
        }
        room.note(5 << 20);
        assert!(room.to_string().starts_with("5 MiB are free at /"), "{room}");
        assert_eq!(Room::new(dir.path(), 7, [64 << 20].into_iter()).keep_bytes, 7);
    }
}

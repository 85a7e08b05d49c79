//! Bodies of bench messages: bytes that no disk or file system can pack, and, where a reader measures, when they were sent.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rand::RngCore;

/// First bytes of a body that says when it was sent.
const MAGIC: &[u8; 4] = b"LMQB";

/// Bytes in front of the filler: magic, run, ns since the start of the run.
pub(crate) const STAMP_LEN: usize = 4 + 8 + 8;

/// Random bytes that bodies are cut from, beside the length of one.
const POOL_LEN: usize = 64 * 1024;

/// Step between two cuts: odd, so that all of the pool is used before a cut comes again.
const POOL_STEP: u64 = 7_919;

/// Where bodies come from.
#[derive(Debug)]
pub(crate) struct Bodies {
    pool: Bytes,
    size: usize,
    next: AtomicU64,
    stamp: Option<Stamp>,
}

/// What a reader knows a message of its run by.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stamp {
    /// The run.
    pub(crate) run: u64,
    /// Its start.
    pub(crate) start: Instant,
}

impl Bodies {
    /// Bodies of `size` bytes; with a stamp, which needs [`STAMP_LEN`] of them.
    pub(crate) fn new(size: usize, stamp: Option<Stamp>) -> Bodies {
        assert!(stamp.is_none() || size >= STAMP_LEN, "a body of {size} bytes has no room for its stamp");
        let mut pool = vec![0; size + POOL_LEN];
        rand::rng().fill_bytes(&mut pool);
        Bodies { pool: pool.into(), size, next: AtomicU64::new(0), stamp }
    }

    /// The next body. `due` is when its message was to be sent.
    pub(crate) fn next(&self, due: Instant) -> Bytes {
        let cut = (self.next.fetch_add(POOL_STEP, Ordering::Relaxed) % POOL_LEN as u64) as usize;
        let Some(stamp) = &self.stamp else { return self.pool.slice(cut..cut + self.size) };
        let mut body = Vec::with_capacity(self.size);
        body.extend_from_slice(MAGIC);
        body.extend_from_slice(&stamp.run.to_be_bytes());
        body.extend_from_slice(&(due.saturating_duration_since(stamp.start).as_nanos() as u64).to_be_bytes());
        body.extend_from_slice(&self.pool[cut..cut + self.size - STAMP_LEN]);
        body.into()
    }
}

impl Stamp {
    /// When a message of this run was to be sent; `None` of any other body.
    pub(crate) fn read(&self, body: &[u8]) -> Option<Instant> {
        let (head, _) = body.split_first_chunk::<STAMP_LEN>()?;
        let run = u64::from_be_bytes(head[4..12].try_into().ok()?);
        let since_ns = u64::from_be_bytes(head[12..20].try_into().ok()?);
        (&head[..4] == MAGIC && run == self.run).then(|| self.start.checked_add(Duration::from_nanos(since_ns)))?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Would break: latencies to the reader, and telling the messages of another run apart.
    #[test]
    fn a_stamp_is_read_back_by_its_own_run_only() {
        let start = Instant::now();
        let stamp = Stamp { run: 7, start };
        let due = start + Duration::from_micros(1_234);
        let body = Bodies::new(100, Some(stamp)).next(due);
        assert_eq!(body.len(), 100);
        assert_eq!(stamp.read(&body), Some(due));
        assert_eq!(Stamp { run: 8, start }.read(&body), None);
        assert_eq!(stamp.read(&body[..STAMP_LEN - 1]), None);
    }

    /// Would break: a disk, or a file system, that looks faster than it is.
    #[test]
    fn bodies_differ_and_have_their_size() {
        let bodies = Bodies::new(64, None);
        let (first, second) = (bodies.next(Instant::now()), bodies.next(Instant::now()));
        assert_ne!(first, second);
        assert!(first.len() == 64 && second.len() == 64);
    }
}

//! The one thread of a node that looks for damage: it reads the logs of all groups again and again, at a bounded pace, and
//! tells the raft loop of every run that is not as it was written.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use crate::handle::Published;
use crate::log::scrub::Run;
use crate::log::view::LogView;

/// How fast and how often logs are verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scrub {
    /// Bytes read per second.
    pub bytes_per_second: u64,
    /// Time between two passes over all logs.
    pub pause: Duration,
}

impl Default for Scrub {
    fn default() -> Self {
        Scrub { bytes_per_second: 20 << 20, pause: Duration::from_secs(600) }
    }
}

/// How often it is asked whether readers have met damage.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// A group's log, as this thread sees it.
pub(crate) struct Scrubbed {
    pub(crate) view: LogView,
    pub(crate) published: Arc<Published>,
}

/// Runs until `stop` is dropped or says so. `report` is called with the slot of a damaged log and the run. Without a pace
/// nothing is read; what readers have met is told all the same.
pub(crate) fn run(logs: &[Scrubbed], pace: Option<Scrub>, stop: &Receiver<()>, mut report: impl FnMut(usize, Run)) {
    let waited = |time: Duration| stop.recv_timeout(time) == Err(RecvTimeoutError::Timeout);
    let tell_what_readers_met = |report: &mut dyn FnMut(usize, Run)| {
        for (slot, log) in logs.iter().enumerate() {
            log.view.take_damaged().into_iter().for_each(|run| report(slot, run));
        }
    };
    loop {
        let mut left = pace.map_or(LOOK_EVERY, |pace| pace.pause);
        while !left.is_zero() {
            let part = left.min(LOOK_EVERY);
            if !waited(part) {
                return;
            }
            left -= part;
            // That need not wait for the next pass.
            tell_what_readers_met(&mut report);
        }
        let Some(pace) = pace else { continue };
        let mut looked = Instant::now();
        for (slot, log) in logs.iter().enumerate() {
            let mut pos = log.view.first().1;
            while let Some(run) = log.view.run_from(pos, log.published.commit.load(Ordering::Acquire)) {
                // Reads that fail are damage as well; a run whose segment was removed meanwhile is not.
                let whole = log.view.is_whole(&run).unwrap_or(false);
                if !whole && run.prev.index + 1 >= log.view.first().0 {
                    report(slot, run);
                }
                if looked.elapsed() >= LOOK_EVERY {
                    looked = Instant::now();
                    tell_what_readers_met(&mut report);
                }
                log.published.scrubbed.fetch_add(run.len(), Ordering::Relaxed);
                pos = run.end.end();
                if !waited(Duration::from_secs_f64(run.len() as f64 / pace.bytes_per_second as f64)) {
                    return;
                }
            }
        }
    }
}

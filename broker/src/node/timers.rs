//! What happens by time on a replica: offsets that are due, pulls whose time is over, members that went silent, samples.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::consumer::wake::rerun;
use crate::replica::Replica;
use crate::stats::SAMPLE_INTERVAL_MS;

/// How often buffered offsets and parked pulls are looked at: a fourth of the time that an offset may wait.
const TIMER_INTERVAL: Duration = Duration::from_millis(50);

/// How often silent members of consumer and producer groups are looked for.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(10);

/// How often samples of what goes in and out are taken.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(SAMPLE_INTERVAL_MS);

/// Runs until the task is aborted.
pub(super) async fn run_timers(replica: Arc<Replica>) {
    let mut expiry = Instant::now();
    let mut sampled = expiry;
    let mut served = false;
    let mut ticks = tokio::time::interval(TIMER_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        replica.flush_due_offsets();
        let serves = replica.serves();
        if serves && !served {
            // Their heartbeats came while nobody, or another one, led.
            for group in replica.consumers.names() {
                replica.ensure_group(&group);
            }
        }
        served = serves;
        let now = Instant::now();
        for pull in replica.pulls.expire(now) {
            rerun(&replica, pull);
        }
        if now.duration_since(expiry) >= EXPIRY_INTERVAL {
            expiry = now;
            replica.consumers.expire(now);
            replica.producers.expire(now);
        }
        if now.duration_since(sampled) >= SAMPLE_INTERVAL {
            sampled = now;
            replica.sample_stats();
        }
    }
}

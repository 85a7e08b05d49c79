//! What one seed draws before the run begins: sizes, delays, and which faults may happen how often. The draw knows
//! nothing of the code under test.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::faults::Fault;
use crate::group::{Flush, GroupTuning};
use crate::log::Layout;

/// Microseconds in a millisecond.
pub(super) const MS: u64 = 1_000;

/// Delays and losses of the network. Times in microseconds, chances in one of 10,000.
#[derive(Debug, Clone)]
pub(super) struct NetworkPlan {
    pub(super) delay: std::ops::Range<u64>,
    /// A message is lost, and whether the sender notices is drawn.
    pub(super) loss: u32,
    /// A message arrives a second time, later.
    pub(super) duplicate: u32,
    /// A message, and so its lane, takes up to `spike_max`.
    pub(super) spike: u32,
    pub(super) spike_max: u64,
    /// A connection breaks: what is under way on its lane is lost, or overtaken.
    pub(super) reset: u32,
}

/// Everything about a run that is drawn once. A scenario starts from [`Plan::calm`].
#[derive(Debug, Clone)]
pub struct Plan {
    /// Members that the group is born with.
    pub birth: usize,
    /// Nodes, with those that may join later.
    pub nodes: usize,
    /// Bytes of a log segment.
    pub segment_size: u64,
    /// Limits and times of the group.
    pub tuning: GroupTuning,
    /// Whether limits and sizes were drawn to be awkward.
    pub buggify: bool,
    /// Virtual time during which faults happen.
    pub duration: Duration,
    /// Mean pause between bursts of operations.
    pub operation_gap: Duration,
    /// Operations in one burst at most.
    pub burst_max: u32,
    pub(super) network: NetworkPlan,
    /// A write waits for its sync so long, microseconds.
    pub(super) sync: std::ops::Range<u64>,
    /// An apply round takes so long, microseconds.
    pub(super) apply: std::ops::Range<u64>,
    /// The raft loop wakes up so long after a bell, microseconds.
    pub(super) wake: std::ops::Range<u64>,
    pub(super) fault_gap: u64,
    pub(super) faults: Vec<(Fault, u32)>,
    /// One in so many jobs that cut a suffix off is the last thing a node does; 0 for none.
    pub(super) die_in_cut: u32,
    /// One in so many jobs that install a snapshot is the last thing a node does; 0 for none.
    pub(super) die_in_install: u32,
    /// Parts per million that clocks may be off by.
    pub(super) clock_skew: u64,
    /// Whether the run begins with [`super::World::forgotten_change`].
    pub(super) forgotten_change: bool,
    /// Whether old records are given up. Not where members join or leave: a new one begins with the first frame.
    pub retention: bool,
    /// Whether the run begins with [`super::World::lost_cache`].
    pub(super) lost_cache: bool,
    /// Whether the run begins with [`super::World::stale_word`].
    pub(super) stale_word: bool,
    /// Whether bits flip below the commit index, now on one node, now on another.
    pub(super) rot: bool,
    /// All nodes lose their power when the faults end.
    pub(super) cut_at_end: bool,
    /// One in so many starts finds no state, one node at a time; 0 for none.
    pub(super) lost_state: u32,
}

impl Plan {
    /// A plan without faults: `birth` members, `nodes` nodes.
    pub fn calm(birth: usize, nodes: usize) -> Plan {
        Plan {
            birth,
            nodes,
            segment_size: 64 << 10,
            // Nobody is left behind, unless a plan says so.
            tuning: GroupTuning { lag_hold_bytes: u64::MAX, lag_hold: Duration::MAX, ..GroupTuning::default() },
            buggify: false,
            duration: Duration::from_secs(5),
            operation_gap: Duration::from_millis(20),
            burst_max: 3,
            network: NetworkPlan { delay: 100..1_000, loss: 0, duplicate: 0, spike: 0, spike_max: 1, reset: 0 },
            sync: 200..3_000,
            apply: 50..1_000,
            wake: 0..100,
            fault_gap: 0,
            faults: Vec::new(),
            die_in_cut: 0,
            die_in_install: 0,
            clock_skew: 0,
            forgotten_change: false,
            retention: false,
            lost_cache: false,
            stale_word: false,
            rot: false,
            cut_at_end: false,
            lost_state: 0,
        }
    }

    /// One in so many jobs that install a snapshot is the last thing that a node does; 0 for none.
    pub fn die_in_install(&mut self, one_in: u32) {
        self.die_in_install = one_in;
    }

    /// Messages are so long on their way, and so are a question for files and its answer.
    pub fn delay(&mut self, delay: std::ops::Range<Duration>) {
        self.network.delay = delay.start.as_micros() as u64..delay.end.as_micros() as u64;
    }

    /// One in so many starts finds no state; 0 for none.
    pub fn lost_state(&mut self, one_in: u32) {
        self.lost_state = one_in;
    }

    /// The plan of a seed.
    pub fn draw(seed: u64) -> Plan {
        let rng = &mut SmallRng::seed_from_u64(seed ^ 0x706c_616e);
        // Nothing but short leaderships and deaths in the middle of what they leave behind.
        let stormy = rng.random_ratio(1, 10);
        let birth = if stormy { 5 } else { *[3, 3, 3, 3, 5].choose(rng).expect("not empty") };
        let membership = rng.random_ratio(1, 4) && !stormy;
        let nodes = if membership { birth + rng.random_range(1..=3) } else { birth };
        let buggify = rng.random_bool(0.5);
        let segment_size = *[16u64 << 10, 32 << 10, 64 << 10].choose(rng).expect("not empty");
        // Its own generator: seeds of synchronous groups draw what they always drew.
        let is_async = SmallRng::seed_from_u64(seed ^ 0x6173_796e).random_ratio(1, 4) && !membership;
        let mut plan = Plan {
            segment_size,
            buggify,
            tuning: tuning(rng, buggify, segment_size),
            duration: Duration::from_millis(rng.random_range(6_000..14_000)),
            operation_gap: Duration::from_millis(rng.random_range(8..60)),
            burst_max: rng.random_range(1..=8),
            cut_at_end: rng.random_ratio(2, 5),
            clock_skew: if rng.random_bool(0.5) { 0 } else { rng.random_range(0..300_000) },
            ..Plan::calm(birth, nodes)
        };
        if is_async {
            plan.tuning.flush = Flush::Async;
            plan.lost_cache = birth == 3 && nodes == 3 && seed.is_multiple_of(2);
            plan.stale_word = birth == 3 && nodes == 3 && !plan.lost_cache;
        }
        plan.network = network(rng);
        plan.sync = match rng.random_range(0..4) {
            0 => 50..200,
            1 => 1_000..20_000,
            _ => 200..4_000,
        };
        plan.apply = if rng.random_ratio(1, 4) { 1_000..60_000 } else { 20..2_000 };
        plan.wake = if rng.random_ratio(1, 4) { 0..5_000 } else { 0..300 };
        if birth == 5 && nodes == 5 && !stormy && rng.random_ratio(1, 4) {
            plan.forgotten_change = true;
            plan.tuning.hint_interval = Duration::from_secs(10);
        }
        // Drawn apart, so that the other half of the seeds stays what it was.
        // A member that has lost its page cache may need what an asynchronous group has given up already.
        plan.retention = !membership
            && !plan.forgotten_change
            && !is_async
            && SmallRng::seed_from_u64(seed ^ 0x6b65_6570).random_bool(0.5);
        // Members that lag may be left behind: they come back by a snapshot.
        let apart = &mut SmallRng::seed_from_u64(seed ^ 0x736e_6170);
        // So do members whose state is ahead of what a power cut has left of their log.
        if apart.random_bool(0.5) && !plan.forgotten_change && (!is_async || apart.random_bool(0.5)) {
            plan.retention = true;
            plan.tuning.lag_hold_bytes = apart.random_range(0..segment_size);
            plan.tuning.lag_hold = Duration::from_millis(apart.random_range(50..1_500));
            plan.tuning.snapshot_patience = Duration::from_millis(apart.random_range(200..3_000));
            plan.tuning.snapshot_linger = Duration::from_millis(apart.random_range(100..3_000));
        }
        if rng.random_ratio(1, 20) {
            // Without faults everything must be smooth, too.
            return plan;
        }
        plan.rot = SmallRng::seed_from_u64(seed ^ 0x726f_7421).random_ratio(1, 3);
        if plan.tuning.lag_hold != Duration::MAX {
            plan.faults.push((Fault::LeaveBehind, apart.random_range(3..=10)));
        }
        if plan.retention && apart.random_bool(0.5) {
            plan.lost_state = apart.random_range(2..12);
        }
        plan.fault_gap = rng.random_range(150..1_200) * MS;
        plan.die_in_cut = if rng.random_bool(0.5) { rng.random_range(1..4) } else { 0 };
        plan.die_in_install = plan.die_in_cut;
        if stormy {
            (plan.die_in_cut, plan.die_in_install) = (1, 2);
            plan.fault_gap = rng.random_range(300..1_000) * MS;
            plan.faults = vec![(Fault::Storm, 6), (Fault::Reset, 1), (Fault::PowerCut, 1)];
            return plan;
        }
        for fault in Fault::ALL {
            let wanted = if fault == Fault::Members { membership } else { rng.random_bool(0.5) };
            if wanted {
                plan.faults.push((fault, rng.random_range(1..=6)));
            }
        }
        plan
    }
}

/// Half of the seeds get limits that make the rare paths common.
fn tuning(rng: &mut SmallRng, buggify: bool, segment_size: u64) -> GroupTuning {
    let mut tuning =
        GroupTuning { unknown_after: Duration::from_millis(rng.random_range(1..600)), ..Plan::calm(3, 3).tuning };
    if !buggify {
        return tuning;
    }
    let frame_max = Layout { segment_size }.max_payload_len();
    tuning.batch_bytes_max = rng.random_range(256..frame_max);
    tuning.batch_records_max = *[1, 2, 5, 512].choose(rng).expect("not empty");
    tuning.round_bytes_max = rng.random_range(512..64 << 10);
    tuning.message_bytes_max = *[0, 1 << 10, 8 << 10, 1 << 20].choose(rng).expect("not empty");
    tuning.inflight_max = *[1, 2, 8, 64].choose(rng).expect("not empty");
    // Room for a few frames, or cold reads all the time.
    tuning.cache_bytes_max = *[0, 4 << 10, 64 << 10].choose(rng).expect("not empty");
    tuning.uncommitted_bytes_max = rng.random_range(2 << 10..256 << 10);
    tuning.apply_lag_bytes_max = rng.random_range(2 << 10..256 << 10);
    tuning.unwritten_bytes_max = rng.random_range(4 << 10..256 << 10);
    tuning.queue_max = *[2, 10, 1_000].choose(rng).expect("not empty");
    tuning.hint_interval = Duration::from_millis(rng.random_range(20..3_000));
    tuning.commit_notice = Duration::from_micros(rng.random_range(0..20_000));
    tuning.read_retry = Duration::from_millis(rng.random_range(50..600));
    tuning
}

fn network(rng: &mut SmallRng) -> NetworkPlan {
    let delay_min = rng.random_range(20..2_000);
    let delay_max = delay_min + *[100, 1_000, 10_000, 60_000].choose(rng).expect("not empty");
    let loss_max = *[50, 500, 2_000].choose(rng).expect("not empty");
    let mut chance = |max: u32| if rng.random_bool(0.5) { 0 } else { rng.random_range(0..max) };
    NetworkPlan {
        delay: delay_min..delay_max,
        loss: chance(loss_max),
        duplicate: chance(1_000),
        spike: chance(100),
        reset: chance(60),
        spike_max: 3_000 * MS,
    }
}

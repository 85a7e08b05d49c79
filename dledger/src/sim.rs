//! The deterministic simulator, as a library: replicas of one group under virtual time, on simulated disks, behind a
//! network that loses, delays and cuts, driven by one seed.
//!
//! ```text
//! seed -> Plan (sizes, delays, which faults) -> World: events in order of (time, sequence)
//!            Host (layer above, workload) --> GroupCore -- messages --> Network -- codec --> GroupCore
//!                                                |-- jobs --> LogWriter on SimFs     (write and sync apart)
//!                                                '-- frames --> Applier
//!         every step -> Checks            at the end: all faults stop, everything must converge
//! ```
//! It drives the very code that ships: [`crate::group::GroupCore`], [`crate::replica::open`],
//! [`crate::log::LogWriter`], [`crate::Applier`] and the peer codec. The layer above comes in through [`Host`]; a
//! small one, [`queues::QueueHost`], is here for this crate's own tests. One seed is one run, to the last byte: a
//! failure names it, and it replays. The schedule never looks at which planted bug is on.

mod checks;
mod clock;
mod controls;
pub mod disk;
mod faults;
mod finish;
mod host;
mod lives;
mod members;
mod network;
mod node;
mod plan;
pub mod queues;
mod report;
mod rot;
mod scenarios;
mod snapshots;
mod threads;
mod world;

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

pub use host::{Death, Host, Operation, Place, Violation};
pub use plan::Plan;
pub use report::{Failure, SimConfig, Stats, plant_from_env, seeds_from_env};
pub use world::World;

/// Runs one seed to its end.
///
/// # Errors
/// [`Failure`]: which checker broke, when, and how to see it again.
pub fn run<H: Host>(seed: u64, make_host: impl FnOnce(u64, &Plan) -> H, config: &SimConfig) -> Result<Stats, Failure> {
    let plan = Plan::draw(seed);
    drive(seed, plan, make_host, config, |world| {
        world.run_faults()?;
        world.finish()
    })
}

/// Runs many seeds and adds up what happened; every failure is told as it comes, and returned.
pub fn survey(
    seeds: Range<u64>,
    run: impl Fn(u64) -> Result<Stats, Failure>,
    mut tell: impl FnMut(&Failure),
) -> (Stats, Vec<Failure>) {
    let mut total = Stats::default();
    let mut failures = Vec::new();
    for seed in seeds {
        match run(seed) {
            Ok(stats) => total.merge(&stats),
            Err(failure) => {
                tell(&failure);
                failures.push(failure);
            }
        }
    }
    (total, failures)
}

/// Runs a scenario: `script` says what happens, on a world that begins as `plan` says.
///
/// # Errors
/// As [`run`].
pub fn scenario<H: Host>(
    seed: u64,
    plan: Plan,
    make_host: impl FnOnce(u64, &Plan) -> H,
    config: &SimConfig,
    script: impl FnOnce(&mut World<H>) -> Result<(), Violation>,
) -> Result<Stats, Failure> {
    drive(seed, plan, make_host, config, script)
}

fn drive<H: Host>(
    seed: u64,
    plan: Plan,
    make_host: impl FnOnce(u64, &Plan) -> H,
    config: &SimConfig,
    script: impl FnOnce(&mut World<H>) -> Result<(), Violation>,
) -> Result<Stats, Failure> {
    let progress = report::Progress::default();
    let seen = progress.clone();
    let outcome = catch_unwind(AssertUnwindSafe(move || {
        let host = make_host(seed, &plan);
        let mut world = World::new(seed, plan, host, config, seen)?;
        script(&mut world)?;
        Ok(world.into_stats())
    }));
    let violation = match outcome {
        Ok(Ok(stats)) => return Ok(stats),
        Ok(Err(violation)) => violation,
        Err(panic) => Violation::new("panic", report::panic_text(&*panic)),
    };
    Err(Failure::new(seed, &progress, violation, config))
}

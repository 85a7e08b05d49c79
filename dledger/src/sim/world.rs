//! The world of one run: virtual time, the queue of events, and what each event does to its node.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::checks::Checks;
use super::host::{Host, Violation};
use super::network::{Network, Parcel};
use super::node::SimNode;
use super::plan::{MS, Plan};
use super::report::{Progress, SimConfig, Stats, mix};
use super::rot::Rot;
use crate::group::Outputs;
use crate::log::{FirstFrame, Layout};
use crate::raft_loop::TICK;
use crate::types::RaftId;

/// Events in one run: above it something runs in circles.
const EVENTS_MAX: u64 = 2_000_000;

/// What happens at a moment. Events of a node carry its run: those of an earlier one are void.
#[derive(Debug)]
pub(super) enum Event {
    Tick {
        node: RaftId,
        run: u64,
    },
    Poll {
        node: RaftId,
        run: u64,
    },
    Arrive(Parcel),
    Unreachable {
        node: RaftId,
        run: u64,
        peer: RaftId,
    },
    Write {
        node: RaftId,
        run: u64,
    },
    Sync {
        node: RaftId,
        run: u64,
    },
    Apply {
        node: RaftId,
        run: u64,
    },
    Checkpoint {
        node: RaftId,
        run: u64,
        first: FirstFrame,
    },
    Pull {
        node: RaftId,
        run: u64,
    },
    Start {
        node: RaftId,
        run: u64,
    },
    /// A member refuses a connection of a replica that was removed, and says so.
    ToldRemoved {
        node: RaftId,
        run: u64,
        by: RaftId,
    },
    Flush {
        node: RaftId,
        run: u64,
    },
    Scrub {
        node: RaftId,
        run: u64,
    },
    Clients,
    Strike,
    Cut {
        pairs: Vec<(RaftId, RaftId)>,
        ms: u64,
    },
    Heal {
        cut: u64,
    },
}

impl Event {
    /// The node whose process must be running for it.
    fn process(&self) -> Option<(RaftId, Option<u64>)> {
        match self {
            Event::Tick { node, run }
            | Event::Poll { node, run }
            | Event::Unreachable { node, run, .. }
            | Event::ToldRemoved { node, run, .. }
            | Event::Write { node, run }
            | Event::Sync { node, run }
            | Event::Flush { node, run }
            | Event::Scrub { node, run }
            | Event::Apply { node, run }
            | Event::Checkpoint { node, run, .. }
            | Event::Pull { node, run } => Some((*node, Some(*run))),
            Event::Arrive(parcel) => Some((parcel.to, None)),
            Event::Start { .. } | Event::Clients | Event::Strike | Event::Cut { .. } | Event::Heal { .. } => None,
        }
    }

    fn code(&self) -> (&'static str, u64, u64) {
        match self {
            Event::Tick { node, run } => ("tick", *node, *run),
            Event::Poll { node, run } => ("poll", *node, *run),
            Event::Arrive(parcel) => ("arrive", parcel.from << 8 | parcel.to, parcel.bytes.len() as u64),
            Event::Unreachable { node, peer, .. } => ("unreachable", *node, *peer),
            Event::Write { node, run } => ("write", *node, *run),
            Event::Sync { node, run } => ("sync", *node, *run),
            Event::Flush { node, run } => ("flush", *node, *run),
            Event::Scrub { node, run } => ("scrub", *node, *run),
            Event::Apply { node, run } => ("apply", *node, *run),
            Event::Checkpoint { node, run, .. } => ("checkpoint", *node, *run),
            Event::Pull { node, run } => ("pull", *node, *run),
            Event::Start { node, run } => ("start", *node, *run),
            Event::ToldRemoved { node, by, .. } => ("told-removed", *node, *by),
            Event::Clients => ("clients", 0, 0),
            Event::Strike => ("strike", 0, 0),
            Event::Cut { pairs, ms } => ("cut", pairs.len() as u64, *ms),
            Event::Heal { cut } => ("heal", *cut, 0),
        }
    }
}

/// A run under way.
pub struct World<H: Host> {
    pub(super) seed: u64,
    pub(super) plan: Plan,
    pub(super) host: H,
    pub(super) now: u64,
    sequence: u64,
    queue: BTreeMap<(u64, u64), Event>,
    pub(super) rng: SmallRng,
    /// For the workload only, so that what it draws does not move the schedule.
    pub(super) host_rng: SmallRng,
    /// For what has to do with damage: a seed without it is what it would be if there were none.
    pub(super) rot_rng: SmallRng,
    pub(super) nodes: Vec<SimNode<H>>,
    pub(super) network: Network,
    pub(super) checks: Checks,
    pub(super) stats: Stats,
    progress: Progress,
    pub(super) print: bool,
    /// A byte that has gone bad and is not mended.
    pub(super) rot: Option<Rot>,
    /// New leaders that are cut off at once.
    pub(super) storm: u32,
    /// Whether operations and faults go on.
    pub(super) clients_on: bool,
    pub(super) faults_on: bool,
    /// Whether dead nodes start again by themselves.
    pub(super) restarts_on: bool,
    pub(super) outputs: Option<Outputs<H::Stamper>>,
}

impl<H: Host> World<H> {
    pub(super) fn new(
        seed: u64,
        plan: Plan,
        mut host: H,
        config: &SimConfig,
        progress: Progress,
    ) -> Result<World<H>, Violation> {
        let rng = SmallRng::seed_from_u64(seed);
        let mut host_rng = SmallRng::seed_from_u64(seed ^ 0x686f_7374);
        let nodes: Result<Vec<_>, Violation> =
            (1..=plan.nodes as u64).map(|id| SimNode::create(id, seed, &plan, &mut host, &mut host_rng)).collect();
        let mut world = World {
            seed,
            host,
            now: 0,
            sequence: 0,
            queue: BTreeMap::new(),
            network: Network::new(plan.network.clone()),
            checks: Checks::new(Layout { segment_size: plan.segment_size }, plan.birth as u64, plan.tuning.flush),
            rng,
            host_rng,
            rot_rng: SmallRng::seed_from_u64(seed ^ 0x726f_7400),
            nodes: nodes?,
            plan,
            stats: Stats::default(),
            progress,
            print: config.print,
            rot: None,
            storm: 0,
            clients_on: true,
            faults_on: true,
            restarts_on: true,
            outputs: Some(Outputs::default()),
        };
        if world.print {
            world.say(&format!("{:?}", world.plan));
        }
        for node in world.ids() {
            world.start(node)?;
        }
        world.schedule(0, Event::Clients);
        Ok(world)
    }

    /// A view on a node.
    pub(super) fn node(&self, id: RaftId) -> &SimNode<H> {
        &self.nodes[id as usize - 1]
    }

    pub(super) fn node_mut(&mut self, id: RaftId) -> &mut SimNode<H> {
        &mut self.nodes[id as usize - 1]
    }

    pub(super) fn schedule(&mut self, after: u64, event: Event) {
        self.schedule_at(self.now + after, event);
    }

    pub(super) fn schedule_at(&mut self, at: u64, event: Event) {
        self.sequence += 1;
        self.queue.insert((at, self.sequence), event);
    }

    pub(super) fn count(&mut self, name: &'static str) {
        self.stats.count(name);
    }

    #[allow(clippy::print_stderr, reason = "asked for with LEDGERMQ_SIM_PRINT, to look at one seed")]
    pub(super) fn say(&self, text: &str) {
        eprintln!("{:>10.3} {text}", self.now as f64 / 1000.0);
    }

    pub(super) fn trace(&mut self, what: &'static str, a: u64, b: u64) {
        let word = what.bytes().fold(0, |hash, byte| mix(hash, u64::from(byte)));
        self.stats.trace = [self.now, word, a, b].into_iter().fold(self.stats.trace, mix);
        if self.print && !matches!(what, "tick" | "poll") {
            self.say(&format!("{what} {a} {b}"));
        }
    }

    pub(super) fn acknowledged_count(&self) -> u64 {
        self.stats.counters.get("acknowledged").copied().unwrap_or(0)
    }

    pub(super) fn into_stats(mut self) -> Stats {
        for (name, times) in self.host.counters() {
            self.stats.add(name, times);
        }
        self.stats.add("leader change", self.checks.leader_count().saturating_sub(1));
        self.stats.virtual_ms = self.now / MS;
        self.stats
    }

    /// Runs through the time in which faults happen.
    ///
    /// # Errors
    /// What a checker saw.
    pub fn run_faults(&mut self) -> Result<(), Violation> {
        if self.plan.forgotten_change {
            self.forgotten_change()?;
        }
        if self.plan.lost_cache {
            self.lost_cache()?;
        }
        if self.plan.stale_word {
            self.stale_word()?;
        }
        if self.plan.fault_gap > 0 {
            self.schedule(self.plan.fault_gap, Event::Strike);
        }
        self.run_for(self.plan.duration)?;
        if self.plan.cut_at_end {
            self.power_cut_all()?;
        }
        Ok(())
    }

    /// Lets virtual time pass.
    ///
    /// # Errors
    /// What a checker saw.
    pub fn run_for(&mut self, time: Duration) -> Result<(), Violation> {
        let end = self.now + time.as_micros() as u64;
        self.run_until(end, |_| false)?;
        Ok(())
    }

    /// Runs until `done` says so; `false` when that has not come by `end`.
    pub(super) fn run_until(&mut self, end: u64, done: impl Fn(&Self) -> bool) -> Result<bool, Violation> {
        loop {
            if done(self) {
                return Ok(true);
            }
            match self.queue.first_key_value() {
                Some(((at, _), _)) if *at <= end => {}
                _ => break,
            }
            let ((at, _), event) = self.queue.pop_first().expect("just seen");
            self.now = at;
            self.stats.events += 1;
            self.progress.step.set(self.stats.events);
            self.progress.time.set(self.now);
            if self.stats.events > EVENTS_MAX {
                return Err(Violation::new("runs-in-circles", format!("{EVENTS_MAX} events and no end")));
            }
            self.handle(event)?;
        }
        self.now = end;
        Ok(false)
    }

    fn handle(&mut self, event: Event) -> Result<(), Violation> {
        if let Some((id, run)) = event.process() {
            let node = self.node(id);
            if node.live.is_none() || run.is_some_and(|run| run != node.run) {
                return Ok(());
            }
            if node.paused_until > self.now {
                let until = node.paused_until;
                self.schedule_at(until, event);
                return Ok(());
            }
        }
        let (what, a, b) = event.code();
        self.trace(what, a, b);
        match event {
            Event::Tick { node, run } => {
                self.live(node).core.tick();
                let gap = self.node(node).clock.stretch(TICK.as_micros() as u64);
                self.schedule(gap, Event::Tick { node, run });
                self.ring(node);
            }
            Event::Poll { node, .. } => {
                let now = self.now;
                if self.live(node).poll_at.is_some_and(|planned| planned <= now) {
                    self.live(node).poll_at = None;
                    self.poll(node)?;
                }
            }
            Event::Arrive(parcel) => {
                let (from, to) = (parcel.from, parcel.to);
                if let Some(message) = self.network.arrive(parcel) {
                    if self.live(to).core.membership().has_removed(from) {
                        let run = self.node(from).run;
                        let after = self.rng.random_range(0..500 * MS);
                        self.schedule(after, Event::ToldRemoved { node: from, run, by: to });
                    }
                    let clock = self.node(to).clock.read(self.now);
                    self.live(to).core.set_clock(clock);
                    self.live(to).core.step(message);
                    self.ring(to);
                }
            }
            Event::ToldRemoved { node, by, .. } => {
                if !self.live(node).core.is_removed() {
                    self.count("told of its removal");
                }
                self.live(node).core.told_removed(by);
                self.ring(node);
            }
            Event::Unreachable { node, peer, .. } => {
                self.live(node).core.unreachable(peer);
                self.ring(node);
            }
            Event::Write { node, .. } => self.write(node)?,
            Event::Sync { node, .. } => self.sync(node)?,
            Event::Flush { node, run } => self.flush(node, run)?,
            Event::Scrub { node, run } => self.scrub(node, run)?,
            Event::Apply { node, .. } => self.apply(node)?,
            Event::Checkpoint { node, first, .. } => self.checkpoint(node, first)?,
            Event::Pull { node, .. } => self.pull(node)?,
            Event::Start { node, run } => {
                if self.node(node).live.is_none() && self.node(node).run == run {
                    self.start(node)?;
                }
            }
            Event::Clients => self.clients()?,
            Event::Strike => {
                if self.faults_on {
                    self.strike()?;
                    let gap = self.rng.random_range(0..=2 * self.plan.fault_gap);
                    self.schedule(gap, Event::Strike);
                }
            }
            Event::Cut { pairs, ms } => {
                if self.faults_on {
                    self.cut(pairs, ms);
                }
            }
            Event::Heal { cut } => self.network.heal(cut),
        }
        Ok(())
    }

    pub(super) fn live(&mut self, id: RaftId) -> &mut super::node::Live<H> {
        self.nodes[id as usize - 1].live.as_mut().expect("events of dead nodes are void")
    }

    /// Wakes the raft loop of a node, after the short time that a thread needs.
    pub(super) fn ring(&mut self, id: RaftId) {
        let at = self.now + self.rng.random_range(self.plan.wake.clone());
        self.poll_by(id, at);
    }

    pub(super) fn poll_by(&mut self, id: RaftId, at: u64) {
        let run = self.node(id).run;
        let live = self.live(id);
        if live.poll_at.is_none_or(|planned| planned > at) {
            live.poll_at = Some(at);
            self.schedule_at(at, Event::Poll { node: id, run });
        }
    }
}

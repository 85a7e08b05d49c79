//! The world of one run: virtual time, the queue of events, and what each event does to its node.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::checks::Checks;
use super::disk::{self, SECTOR, Unsynced};
use super::host::{Death, Host, Operation, Violation};
use super::network::{Fate, Network, Parcel};
use super::node::SimNode;
use super::plan::{MS, Plan};
use super::report::{Progress, SimConfig, Stats, mix};
use crate::group::{Clock, MemberChange, Outputs};
use crate::handle::Role;
use crate::log::Layout;
use crate::log::recovery::TailState;
use crate::log_io;
use crate::raft_loop::TICK;
use crate::types::RaftId;

/// Events in one run: above it something runs in circles.
const EVENTS_MAX: u64 = 2_000_000;

/// Slow disks take so many times longer.
const SLOW_FACTOR: u64 = 20;

/// Chance, one in so many, that a machine is digested after a round.
const DIGEST_ONE_IN: u32 = 12;

/// What happens at a moment. Events of a node carry its run: those of an earlier one are void.
#[derive(Debug)]
pub(super) enum Event {
    Tick { node: RaftId, run: u64 },
    Poll { node: RaftId, run: u64 },
    Arrive(Parcel),
    Unreachable { node: RaftId, run: u64, peer: RaftId },
    Write { node: RaftId, run: u64 },
    Sync { node: RaftId, run: u64 },
    Apply { node: RaftId, run: u64 },
    Start { node: RaftId, run: u64 },
    Clients,
    Strike,
    Cut { pairs: Vec<(RaftId, RaftId)>, ms: u64 },
    Heal { cut: u64 },
}

impl Event {
    /// The node whose process must be running for it.
    fn process(&self) -> Option<(RaftId, Option<u64>)> {
        match self {
            Event::Tick { node, run }
            | Event::Poll { node, run }
            | Event::Unreachable { node, run, .. }
            | Event::Write { node, run }
            | Event::Sync { node, run }
            | Event::Apply { node, run } => Some((*node, Some(*run))),
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
            Event::Apply { node, run } => ("apply", *node, *run),
            Event::Start { node, run } => ("start", *node, *run),
            Event::Clients => ("clients", 0, 0),
            Event::Strike => ("strike", 0, 0),
            Event::Cut { pairs, ms } => ("cut", pairs.len() as u64, *ms),
            Event::Heal { cut } => ("heal", *cut, 0),
        }
    }
}

/// A run under way.
pub struct World<H: Host> {
    seed: u64,
    pub(super) plan: Plan,
    pub(super) host: H,
    pub(super) now: u64,
    sequence: u64,
    queue: BTreeMap<(u64, u64), Event>,
    pub(super) rng: SmallRng,
    /// For the workload only, so that what it draws does not move the schedule.
    pub(super) host_rng: SmallRng,
    pub(super) nodes: Vec<SimNode<H>>,
    pub(super) network: Network,
    pub(super) checks: Checks,
    stats: Stats,
    progress: Progress,
    print: bool,
    /// New leaders that are cut off at once.
    pub(super) storm: u32,
    /// Whether operations and faults go on.
    pub(super) clients_on: bool,
    pub(super) faults_on: bool,
    /// Whether dead nodes start again by themselves.
    restarts_on: bool,
    outputs: Option<Outputs<H::Stamper>>,
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
            checks: Checks::new(Layout { segment_size: plan.segment_size }),
            rng,
            host_rng,
            nodes: nodes?,
            plan,
            stats: Stats::default(),
            progress,
            print: config.print,
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
                let to = parcel.to;
                if let Some(message) = self.network.arrive(parcel) {
                    self.live(to).core.step(message);
                    self.ring(to);
                }
            }
            Event::Unreachable { node, peer, .. } => {
                self.live(node).core.unreachable(peer);
                self.ring(node);
            }
            Event::Write { node, .. } => self.write(node)?,
            Event::Sync { node, .. } => self.sync(node)?,
            Event::Apply { node, .. } => self.apply(node)?,
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

    fn live(&mut self, id: RaftId) -> &mut super::node::Live<H> {
        self.nodes[id as usize - 1].live.as_mut().expect("events of dead nodes are void")
    }

    /// Wakes the raft loop of a node, after the short time that a thread needs.
    fn ring(&mut self, id: RaftId) {
        let at = self.now + self.rng.random_range(self.plan.wake.clone());
        self.poll_by(id, at);
    }

    fn poll_by(&mut self, id: RaftId, at: u64) {
        let run = self.node(id).run;
        let live = self.live(id);
        if live.poll_at.is_none_or(|planned| planned > at) {
            live.poll_at = Some(at);
            self.schedule_at(at, Event::Poll { node: id, run });
        }
    }

    pub(super) fn start(&mut self, id: RaftId) -> Result<(), Violation> {
        let election_seed = self.rng.random();
        let World { seed, plan, host, now, nodes, .. } = self;
        let node = &mut nodes[id as usize - 1];
        let faults_before = node.disk.counters().faults;
        let opened = node.open(*now, *seed, plan, host, election_seed);
        let tail_state = match opened {
            Ok(tail_state) => tail_state,
            Err(_) if node.disk.is_off() => return self.die_of_disk(id),
            Err(_) if node.disk.counters().faults > faults_before => return self.die_of_disk(id),
            Err(error) => return Err(Violation::new("recovers", format!("node {id} does not start: {error}"))),
        };
        match tail_state {
            TailState::Clean => {}
            TailState::TornTail => self.count("torn tail"),
            TailState::TornJob => self.count("torn job"),
        }
        let node = &mut self.nodes[id as usize - 1];
        let run = node.run;
        let live = node.live.as_ref().expect("just opened");
        let (hard_state, commit) = (live.core.hard_state(), live.core.commit_index());
        self.trace("started", hard_state.0, commit);
        let live = self.nodes[id as usize - 1].live.as_ref().expect("just opened");
        self.checks.started(id, hard_state, commit, &live.view)?;
        self.check_machine(id, true)?;
        let gap = self.node(id).clock.stretch(TICK.as_micros() as u64);
        let first_tick = self.rng.random_range(1..=gap);
        self.schedule(first_tick, Event::Tick { node: id, run });
        self.ring(id);
        Ok(())
    }

    fn poll(&mut self, id: RaftId) -> Result<(), Violation> {
        let mut out = self.outputs.take().expect("polls do not nest");
        let clock: Clock = self.node(id).clock.read(self.now);
        let live = self.live(id);
        if live.members_before != *live.core.membership() {
            live.members_before = live.core.membership().clone();
        }
        let polled = self.live(id).core.poll(clock, &mut out);
        if let Err(error) = polled {
            return Err(Violation::new("replica-goes-on", format!("node {id} stops: {error}")));
        }
        let carried = self.carry(id, &mut out);
        self.outputs = Some(out);
        carried?;
        if self.node(id).live.is_some()
            && let Some(wake) = self.live(id).core.wake_at()
        {
            let at = self.node(id).clock.when(self.now, wake).max(self.now + 1);
            self.poll_by(id, at);
        }
        Ok(())
    }

    /// Carries out what a poll asked for, in the order in which the raft loop does it.
    fn carry(&mut self, id: RaftId, out: &mut Outputs<H::Stamper>) -> Result<(), Violation> {
        // What leaves rests on what earlier polls handed to the disk; a job of this one may cut some of that off.
        for message in &out.messages {
            let World { checks, nodes, .. } = self;
            checks.leaves(id, message, &nodes[id as usize - 1].disk)?;
        }
        let messages: Vec<_> = out.messages.drain(..).collect();
        for message in messages {
            let peer = message.raft.to;
            if peer == 0 || peer > self.plan.nodes as u64 {
                return Err(Violation::new("knows-its-peers", format!("node {id} writes to {peer}")));
            }
            match self.network.send(&message, self.now, &mut self.rng) {
                Fate::Arrives(parcels) => {
                    for (at, parcel) in parcels {
                        self.schedule_at(at, Event::Arrive(parcel));
                    }
                }
                Fate::Lost { told: true } => {
                    let run = self.node(id).run;
                    let after = self.rng.random_range(0..5 * MS);
                    self.schedule(after, Event::Unreachable { node: id, run, peer });
                }
                Fate::Lost { told: false } => {}
            }
        }
        for task in &out.writes {
            self.checks.handed_to_disk(id, task)?;
            let cut = task.job.truncate_to.is_some();
            let layout = Layout { segment_size: self.plan.segment_size };
            let rolls = task.job.frames.iter().filter(|it| it.at.pos.0 > 0 && layout.base_of(it.at.pos) == it.at.pos);
            self.stats.add("segment roll", rolls.count() as u64);
            if cut {
                self.stats.count("conflict truncation");
            }
        }
        let live = self.live(id);
        live.waiting.append(&mut out.writes);
        live.rounds.extend(out.applies.drain(..));
        let (commit, last) = (live.core.commit_index(), live.core.last_index());
        self.checks.commit_index(id, commit, last)?;
        if let Some(role) = out.role.take() {
            self.trace("role", id, role.term);
            if let Role::Leader { ready } = role.role {
                self.checks.leads(id, role.term)?;
                self.storm(id, ready);
                if self.print {
                    self.say(&format!("node {id} leads in term {}, ready: {ready}", role.term));
                }
            }
        }
        self.keep_busy(id);
        for (ticket, outcome) in out.done.drain(..) {
            if let Some(index) = self.host.ended(id, ticket, outcome)? {
                self.acknowledged(id, index)?;
            }
        }
        if self.serves(id) {
            // On a follower a cut may be held back: what its disk was given is not what it has committed then.
            self.checks.has_committed(id, commit)?;
        }
        let World { host, nodes, .. } = self;
        let live = nodes[id as usize - 1].live.as_ref().expect("it was polled");
        for (ticket, reached) in out.reads.drain(..) {
            host.read(id, ticket, reached, live.applier.machine())?;
        }
        Ok(())
    }

    fn acknowledged(&mut self, id: RaftId, index: u64) -> Result<(), Violation> {
        self.trace("acknowledged", id, index);
        let World { nodes, checks, .. } = self;
        let live = nodes[id as usize - 1].live.as_ref().expect("it was polled");
        // What the poll committed under one membership it may tell under the next.
        let members = [live.core.membership(), &live.members_before];
        checks.acknowledged(id, index, members, |voter| nodes.get(voter as usize - 1).map(|node| &node.disk))?;
        self.count("acknowledged");
        Ok(())
    }

    /// Starts the next write and the next apply round when these threads are idle.
    fn keep_busy(&mut self, id: RaftId) {
        let run = self.node(id).run;
        let live = self.live(id);
        let write = !live.disk_busy && !live.waiting.is_empty();
        let apply = !live.apply_busy && !live.rounds.is_empty();
        live.disk_busy |= write;
        live.apply_busy |= apply;
        if write {
            let at = self.disk_time(id, 0..200);
            self.schedule_at(at, Event::Write { node: id, run });
        }
        if apply {
            let after = self.rng.random_range(self.plan.apply.clone());
            self.schedule(after, Event::Apply { node: id, run });
        }
    }

    /// When a call of the disk comes back.
    fn disk_time(&mut self, id: RaftId, range: std::ops::Range<u64>) -> u64 {
        let time = self.rng.random_range(range);
        let node = self.node(id);
        let time = if node.slow_until > self.now { time * SLOW_FACTOR } else { time };
        self.now.max(node.stalled_until) + time
    }

    fn write(&mut self, id: RaftId) -> Result<(), Violation> {
        let dies = self.tempt(id);
        let live = self.live(id);
        live.syncing = std::mem::take(&mut live.waiting);
        if log_io::write(&mut live.writer, &live.syncing).is_err() {
            return self.die_of_disk(id);
        }
        if dies {
            let tear = self.choose_tear(id);
            return self.end(id, Death::PowerCut, tear);
        }
        let run = self.node(id).run;
        let at = self.disk_time(id, self.plan.sync.clone());
        self.schedule_at(at, Event::Sync { node: id, run });
        Ok(())
    }

    fn sync(&mut self, id: RaftId) -> Result<(), Violation> {
        let live = self.live(id);
        let tasks = std::mem::take(&mut live.syncing);
        let Ok(synced) = log_io::sync(&mut live.writer, &tasks) else {
            return self.die_of_disk(id);
        };
        let (number, durable) = synced.expect("a write has at least one job");
        live.core.written(number, durable);
        live.disk_busy = false;
        self.checks.synced(id, number);
        self.trace("durable", durable.index, durable.end().0);
        self.keep_busy(id);
        self.ring(id);
        Ok(())
    }

    fn apply(&mut self, id: RaftId) -> Result<(), Violation> {
        let faults_before = self.node(id).disk.counters().faults;
        let live = self.live(id);
        live.apply_busy = false;
        let task = live.rounds.pop_front().expect("a round is waiting");
        let run = live.applier.run(&task);
        let at = match run {
            Ok(at) => at,
            Err(error) => {
                let disk = &self.node(id).disk;
                if disk.is_off() || disk.counters().faults > faults_before {
                    return self.die_of_disk(id);
                }
                return Err(Violation::new("applies", format!("node {id}: {error}")));
            }
        };
        for (frame, membership) in &task.frames {
            self.checks.committed(id, frame.at)?;
            if membership.is_some() {
                self.count("membership change");
            }
        }
        self.live(id).core.applied(at);
        self.trace("applied", at.index, u64::from(at.chain));
        self.check_machine(id, false)?;
        self.keep_busy(id);
        self.ring(id);
        Ok(())
    }

    /// Lets the host look at a machine; digests it when `always` or by chance.
    pub(super) fn check_machine(&mut self, id: RaftId, always: bool) -> Result<(), Violation> {
        let by_chance = self.rng.random_ratio(1, DIGEST_ONE_IN);
        let World { host, nodes, checks, .. } = self;
        let live = nodes[id as usize - 1].live.as_ref().expect("it runs");
        let machine = live.applier.machine();
        host.applied(id, machine)?;
        if always || by_chance {
            use crate::seam::StateMachine as _;
            let digest = machine.digest();
            let digest = digest.map_err(|error| Violation::new("digests", format!("node {id}: {error}")))?;
            checks.digest(id, machine.applied().at.index, digest)?;
        }
        Ok(())
    }

    fn clients(&mut self) -> Result<(), Violation> {
        if !self.clients_on {
            return Ok(());
        }
        for _ in 0..self.rng.random_range(1..=self.plan.burst_max) {
            // Stale leaders are believed as often as the right one.
            let leaders: Vec<RaftId> = self.ids().filter(|id| self.serves(*id)).collect();
            let stray = leaders.is_empty() || self.rng.random_ratio(1, 12);
            let id = if stray {
                self.rng.random_range(1..=self.plan.nodes as u64)
            } else {
                *leaders.choose(&mut self.rng).expect("not empty")
            };
            self.operate(id);
        }
        let mean = self.plan.operation_gap.as_micros() as u64;
        let gap = self.rng.random_range(0..=2 * mean);
        self.schedule(gap, Event::Clients);
        Ok(())
    }

    /// A client sends one operation to a node. Lost when the node is down.
    pub fn operate(&mut self, id: RaftId) {
        let operation = self.host.operation(id, self.now / MS, &mut self.host_rng);
        if self.node(id).live.is_none() {
            return;
        }
        match operation {
            Operation::Propose(proposal) => self.live(id).core.propose(proposal),
            Operation::Read(ticket) => self.live(id).core.read_index(ticket),
        }
        self.ring(id);
    }

    /// A probe for the end of the run.
    pub(super) fn probe(&mut self, id: RaftId) {
        let proposal = self.host.probe(&mut self.host_rng);
        self.live(id).core.propose(proposal);
        self.ring(id);
    }

    /// Whether a node runs and says that it leads and serves.
    pub fn serves(&self, id: RaftId) -> bool {
        self.node(id).live.as_ref().is_some_and(|live| live.core.role().serves())
    }

    /// The leader of the highest term, when it runs.
    pub fn newest_leader(&self) -> Option<RaftId> {
        self.ids()
            .filter(|id| self.serves(*id))
            .max_by_key(|id| self.node(*id).live.as_ref().map(|live| live.core.role().term))
    }

    /// A node dies and, while restarts are on, starts again some time later.
    ///
    /// # Errors
    /// Never yet.
    pub fn kill(&mut self, id: RaftId, death: Death) -> Result<(), Violation> {
        self.end(id, death, None)
    }

    /// With `tear`, a power cut keeps what was written in front of this offset of the segment file, and nothing behind.
    fn end(&mut self, id: RaftId, death: Death, tear: Option<(PathBuf, u64)>) -> Result<(), Violation> {
        let World { host, nodes, host_rng, rng, .. } = self;
        let node = &mut nodes[id as usize - 1];
        match death {
            Death::Killed => node.disk.crash(),
            Death::PowerCut => {
                match &tear {
                    Some((path, offset)) => node.disk.power_cut_with(&mut |unsynced| torn_at(unsynced, path, *offset)),
                    None => node.disk.power_cut(rng),
                }
                node.next_boot();
            }
        }
        node.live = None;
        node.run += 1;
        node.paused_until = 0;
        host.died(id, &mut node.store, death, host_rng);
        self.network.reset_node(id);
        self.trace("dies", id, death as u64);
        self.count(match death {
            Death::Killed => "kill",
            Death::PowerCut => "power cut",
        });
        self.restart_later(id);
        Ok(())
    }

    fn restart_later(&mut self, id: RaftId) {
        if self.restarts_on {
            let run = self.node(id).run;
            let after = if self.faults_on { self.rng.random_range(5..2_500) * MS } else { 10 * MS };
            self.schedule(after, Event::Start { node: id, run });
        }
    }

    /// The disk has failed under a running node, or its planned power-off has come: the process ends at once.
    fn die_of_disk(&mut self, id: RaftId) -> Result<(), Violation> {
        let node = self.node(id);
        let death = if node.disk.is_off() {
            self.count("death in a job");
            if self.node(id).off_is_power_cut { Death::PowerCut } else { Death::Killed }
        } else {
            self.count("EIO stop");
            Death::Killed
        };
        self.kill(id, death)
    }

    /// All nodes lose their power at once.
    ///
    /// # Errors
    /// Never yet.
    pub fn power_cut_all(&mut self) -> Result<(), Violation> {
        self.count("power cut of all");
        for id in self.ids() {
            self.kill(id, Death::PowerCut)?;
        }
        Ok(())
    }

    /// Stops a node as production does: what it was given is written and applied, and it says so.
    pub(super) fn stop_cleanly(&mut self, id: RaftId) -> Result<(), Violation> {
        let now = self.now;
        let node = self.node_mut(id);
        if node.paused_until > now || node.stalled_until > now {
            return Ok(());
        }
        let Some(mut live) = node.live.take() else {
            return Ok(());
        };
        let meta = live.core.closing_meta();
        let written = log_io::sync(&mut live.writer, &live.syncing);
        let rest = written.and_then(|_| log_io::carry_out(&mut live.writer, &live.waiting));
        let mut stopped = rest.map(drop).map_err(drop);
        while let (Ok(()), Some(task)) = (stopped, live.rounds.pop_front()) {
            stopped = live.applier.run(&task).map(drop).map_err(drop);
        }
        if stopped.is_ok() {
            stopped = live.applier.flush().map_err(drop);
        }
        if stopped.is_ok() {
            stopped = live.writer.close(&meta).map_err(drop);
        }
        drop(live.core);
        if stopped.is_err() {
            return self.die_of_disk(id);
        }
        self.count("clean stop");
        self.kill(id, Death::Killed)
    }

    /// Asks the leader `id` to change the membership.
    pub fn change_members(&mut self, id: RaftId, steps: &[MemberChange]) {
        let proposed = self.live(id).core.change_membership(steps);
        self.trace("members", id, u64::from(proposed));
        self.ring(id);
    }

    /// Asks the leader `id` to hand over.
    pub fn transfer(&mut self, id: RaftId, to: RaftId) {
        self.live(id).core.transfer_leader(to);
        self.ring(id);
    }
}

/// What a power cut in the middle of a sequential write leaves.
fn torn_at(unsynced: Unsynced<'_>, torn: &Path, offset: u64) -> disk::Fate {
    match unsynced {
        Unsynced::Sector { path: Some(path), sector, .. } if path == torn => {
            match offset.saturating_sub(sector * SECTOR as u64) as usize {
                0 => disk::Fate::Lost,
                kept if kept >= SECTOR => disk::Fate::Kept,
                kept => disk::Fate::Torn(kept),
            }
        }
        _ => disk::Fate::Kept,
    }
}

/// What scenarios need besides.
impl<H: Host> World<H> {
    /// Dead nodes stay dead until [`World::restart`].
    pub fn hold_restarts(&mut self) {
        self.restarts_on = false;
    }

    /// Restarts a dead node now.
    ///
    /// # Errors
    /// What a checker saw at its start.
    pub fn restart(&mut self, id: RaftId) -> Result<(), Violation> {
        if self.node(id).live.is_none() { self.start(id) } else { Ok(()) }
    }

    /// Lets nodes start by themselves again.
    pub(super) fn release_restarts(&mut self) {
        self.restarts_on = true;
    }

    /// Nodes of `part` and the others hear nothing of each other until [`World::heal`].
    pub fn partition(&mut self, part: &[RaftId]) {
        let pairs = self.between(part);
        self.network.cut(pairs);
    }

    /// All partitions end.
    pub fn heal(&mut self) {
        self.network.heal_all();
    }

    /// No operations of clients from now on, but those of [`World::operate`].
    pub fn hush_clients(&mut self) {
        self.clients_on = false;
    }

    /// The layer above.
    pub fn host_mut(&mut self) -> &mut H {
        &mut self.host
    }

    /// The disk of a node answers nothing for so long.
    pub fn stall_disk(&mut self, id: RaftId, time: Duration) {
        let until = self.now + time.as_micros() as u64;
        self.node_mut(id).stalled_until = until;
    }

    /// The voters that a running node has applied.
    pub fn voters(&self, id: RaftId) -> Vec<RaftId> {
        self.node(id).live.as_ref().map(|live| live.core.membership().voters.clone()).unwrap_or_default()
    }

    /// Commit and applied index of a running node.
    pub fn indexes(&self, id: RaftId) -> Option<(u64, u64)> {
        self.node(id).live.as_ref().map(|live| (live.core.commit_index(), live.core.applied_index()))
    }

    /// Runs until a leader serves, at most `time`.
    ///
    /// # Errors
    /// What a checker saw; `scenario` when there is none in time.
    pub fn await_leader(&mut self, time: Duration) -> Result<RaftId, Violation> {
        let end = self.now + time.as_micros() as u64;
        self.run_until(end, |world| world.newest_leader().is_some())?;
        self.newest_leader().ok_or_else(|| Violation::new("scenario", "no leader in time"))
    }
}

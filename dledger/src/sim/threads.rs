//! The three threads of a simulated node, event by event: the raft loop polls and hands out, log-io writes and syncs
//! apart, apply takes in. What they do is the code that ships; when they do it is drawn.

use rand::Rng;

use super::host::{Death, Host, Violation};
use super::network::Fate;
use super::plan::MS;
use super::world::{Event, World};
use crate::group::{Clock, Outputs};
use crate::handle::Role;
use crate::log::Layout;
use crate::log_io;
use crate::seam::StateMachine as _;
use crate::types::RaftId;

/// Slow disks take so many times longer.
const SLOW_FACTOR: u64 = 20;

/// Chance, one in so many, that a machine is digested after a round.
const DIGEST_ONE_IN: u32 = 12;

impl<H: Host> World<H> {
    pub(super) fn poll(&mut self, id: RaftId) -> Result<(), Violation> {
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
    pub(super) fn carry(&mut self, id: RaftId, out: &mut Outputs<H::Stamper>) -> Result<(), Violation> {
        if let Some(membership) = out.membership.take() {
            self.checks.membership(id, &membership)?;
        }
        // What leaves rests on what earlier polls handed to the disk; a job of this one may cut some of that off.
        for message in &out.messages {
            let World { checks, nodes, .. } = self;
            checks.leaves(id, message, &nodes[id as usize - 1].disk)?;
        }
        let messages: Vec<_> = out.messages.drain(..).collect();
        for mut message in messages {
            self.spoil(&mut message);
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
        live.remove_before = out.remove_before.take().or(live.remove_before);
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
        let node = self.node_mut(id);
        if node.lossy && !node.sync_will_fail && node.live.as_ref().is_some_and(|live| live.core.doubts().is_none()) {
            node.lossy = false;
            self.count("doubt ended");
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
        self.carry_snapshots(id, out)
    }

    pub(super) fn acknowledged(&mut self, id: RaftId, index: u64) -> Result<(), Violation> {
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
    pub(super) fn keep_busy(&mut self, id: RaftId) {
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
    pub(super) fn disk_time(&mut self, id: RaftId, range: std::ops::Range<u64>) -> u64 {
        let time = self.rng.random_range(range);
        let node = self.node(id);
        let time = if node.slow_until > self.now { time * SLOW_FACTOR } else { time };
        self.now.max(node.stalled_until) + time
    }

    pub(super) fn write(&mut self, id: RaftId) -> Result<(), Violation> {
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

    pub(super) fn sync(&mut self, id: RaftId) -> Result<(), Violation> {
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
        self.remove_before(id)?;
        if self.node(id).live.is_none() {
            return Ok(());
        }
        self.plan_flush(id);
        self.keep_busy(id);
        self.ring(id);
        Ok(())
    }

    /// Removes a prefix of the log, as log-io does it behind a sync.
    fn remove_before(&mut self, id: RaftId) -> Result<(), Violation> {
        let Some(first) = self.live(id).remove_before.take() else { return Ok(()) };
        let World { checks, nodes, rng, plan, faults_on, .. } = self;
        let node = &mut nodes[id as usize - 1];
        checks.removes_before(id, &first, &node.disk)?;
        if *faults_on && plan.die_in_cut > 0 && rng.random_ratio(1, plan.die_in_cut) {
            // As rare as a cut of the log's end, and as bad a moment to die.
            node.disk.power_off_after(rng.random_range(0..8));
            node.off_is_power_cut = rng.random_bool(0.6);
        }
        let live = node.live.as_mut().expect("its disk has just answered");
        if live.writer.remove_before(first).is_err() {
            return self.die_of_disk(id);
        }
        self.trace("removed", first.index, first.pos.0);
        self.count("prefix removal");
        Ok(())
    }

    /// Has what an asynchronous group has written be synced soon.
    fn plan_flush(&mut self, id: RaftId) {
        let run = self.node(id).run;
        let live = self.live(id);
        if live.flush_planned || live.writer.unsynced_bytes() == 0 {
            return;
        }
        live.flush_planned = true;
        let after = log_io::ASYNC_INTERVAL.as_micros() as u64;
        let at = self.disk_time(id, 0..1).max(self.now + self.rng.random_range(0..2 * after));
        self.schedule_at(at, Event::Flush { node: id, run });
    }

    /// The late sync of an asynchronous group. Not between the write and the sync of a job, as in production.
    pub(super) fn flush(&mut self, id: RaftId, run: u64) -> Result<(), Violation> {
        let live = self.live(id);
        if !live.syncing.is_empty() {
            self.schedule(MS, Event::Flush { node: id, run });
            return Ok(());
        }
        live.flush_planned = false;
        match live.writer.sync() {
            Ok(_) => Ok(()),
            Err(_) => self.die_of_disk(id),
        }
    }

    pub(super) fn apply(&mut self, id: RaftId) -> Result<(), Violation> {
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
        if task.restore.is_some() {
            self.checks.committed(id, at)?;
            self.count("snapshot installed");
        }
        for (frame, membership) in &task.frames {
            self.checks.committed(id, frame.at)?;
            if membership.is_some() {
                self.count("membership change");
            }
        }
        let live = self.live(id);
        live.core.applied(at);
        live.core.keep_log_from(live.applier.machine().keep_from());
        self.trace("applied", at.index, u64::from(at.chain));
        self.check_machine(id, false)?;
        self.keep_busy(id);
        self.ring(id);
        Ok(())
    }

    /// Lets the host look at a machine; digests it when `always` or by chance.
    pub(super) fn check_machine(&mut self, id: RaftId, always: bool) -> Result<(), Violation> {
        let by_chance = self.rng.random_ratio(1, DIGEST_ONE_IN);
        let World { host, nodes, checks, rot, .. } = self;
        let node = &nodes[id as usize - 1];
        let live = node.live.as_ref().expect("it runs");
        let machine = live.applier.machine();
        // The host reads what the log says, not what is wrong with the disk.
        let hidden = rot.as_ref().filter(|rot| rot.node == id && rot.shows(&node.disk));
        hidden.inspect(|rot| rot.show(&node.disk, false));
        let judged = host.applied(id, machine);
        hidden.inspect(|rot| rot.show(&node.disk, true));
        judged?;
        if always || by_chance {
            let digest = machine.digest();
            let digest = digest.map_err(|error| Violation::new("digests", format!("node {id}: {error}")))?;
            checks.digest(id, machine.applied().at.index, digest)?;
        }
        Ok(())
    }
}

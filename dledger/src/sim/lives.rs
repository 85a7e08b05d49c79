//! How the nodes of a simulated group start, stop and die.

use std::path::{Path, PathBuf};

use rand::Rng;

use super::disk::{self, SECTOR, Unsynced};
use super::host::{Death, Host, Violation};
use super::node::SimNode;
use super::plan::MS;
use super::world::{Event, World};
use crate::group::Flush;
use crate::log::recovery::TailState;
use crate::log_io;
use crate::raft_loop::TICK;
use crate::types::RaftId;

/// What a power cut leaves of what was not synced.
#[derive(Debug)]
pub(super) enum Left {
    /// What the seed says, sector by sector.
    Drawn,
    /// Nothing.
    Nothing,
    /// What was written in front of this offset of this segment file, and all of the other files.
    UpTo(PathBuf, u64),
}

impl<H: Host> World<H> {
    pub(super) fn start(&mut self, id: RaftId) -> Result<(), Violation> {
        let election_seed = self.rng.random();
        self.lose_state(id);
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
            TailState::Hole => self.count("hole"),
        }
        let node = &mut self.nodes[id as usize - 1];
        let run = node.run;
        let live = node.live.as_ref().expect("just opened");
        if live.core.is_stateless() {
            self.count("start without a state");
        }
        let live = self.nodes[id as usize - 1].live.as_ref().expect("just opened");
        let (hard_state, commit) = (live.core.hard_state(), live.core.commit_index());
        self.trace("started", hard_state.0, commit);
        let live = self.nodes[id as usize - 1].live.as_ref().expect("just opened");
        let doubts = live.core.doubts();
        self.checks.started(id, hard_state, commit, doubts, &live.view)?;
        if !doubts.is_none() {
            self.count("start in doubt");
        }
        self.check_machine(id, true)?;
        let gap = self.node(id).clock.stretch(TICK.as_micros() as u64);
        let first_tick = self.rng.random_range(1..=gap);
        self.schedule(first_tick, Event::Tick { node: id, run });
        self.plan_scrub(id);
        self.ring(id);
        Ok(())
    }

    /// The state of a node is gone at its start, when all others run and have theirs, and doubt nothing: one that has everything
    /// in its log and no state, and one that abstains, are two of three that cannot lead.
    fn lose_state(&mut self, id: RaftId) {
        let one_in = self.plan.lost_state;
        let others_have = self.nodes.iter().filter(|node| node.id != id).all(|node| {
            let live = node.live.as_ref();
            !node.lossy
                && live.is_some_and(|live| {
                    !live.core.is_stateless() && live.core.doubts().is_none() && live.core.applied_index() > 0
                })
        });
        if !self.faults_on || one_in == 0 || !others_have || !self.rng.random_ratio(1, one_in) {
            return;
        }
        let World { host, nodes, .. } = self;
        host.lose_state(&mut nodes[id as usize - 1].store);
    }

    /// A node dies and, while restarts are on, starts again some time later.
    ///
    /// # Errors
    /// Never yet.
    pub fn kill(&mut self, id: RaftId, death: Death) -> Result<(), Violation> {
        self.end(id, death, Left::Drawn)
    }

    /// `left` says what a power cut leaves of what was not synced.
    pub(super) fn end(&mut self, id: RaftId, death: Death, left: Left) -> Result<(), Violation> {
        // More than a minority that has lost what it acknowledged is the loss that asynchronous groups are warned of.
        let death = if death == Death::PowerCut && !self.may_lose(id) { Death::Killed } else { death };
        self.end_as(id, death, left)
    }

    /// The same, whatever may be lost by it.
    pub(super) fn end_as(&mut self, id: RaftId, death: Death, left: Left) -> Result<(), Violation> {
        let is_async = self.plan.tuning.flush == Flush::Async;
        let World { host, nodes, host_rng, rng, .. } = self;
        let node = &mut nodes[id as usize - 1];
        node.lossy |= node.sync_will_fail || (is_async && death == Death::PowerCut);
        node.sync_will_fail = false;
        match death {
            Death::Killed => node.disk.crash(),
            Death::PowerCut => {
                match &left {
                    Left::UpTo(path, offset) => {
                        node.disk.power_cut_with(&mut |unsynced| torn_at(unsynced, path, *offset));
                    }
                    Left::Nothing => node.disk.power_cut_with(&mut |_| disk::Fate::Lost),
                    Left::Drawn => node.disk.power_cut(rng),
                }
                node.next_boot();
            }
        }
        node.without_state = node.lacks_state();
        node.live = None;
        node.run += 1;
        // A start beside damage is another story.
        if let Some(rot) = self.rot.take_if(|rot| rot.node == id) {
            rot.undo(&node.disk);
        }
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

    /// Whether this node may lose entries that it has acknowledged, or have to doubt them: only a minority at a time, and nobody
    /// while another one has no state. With the longest log it could not lead, and those who doubt theirs would not without it
    /// (docs/architecture.md, "Snapshots").
    pub(super) fn may_lose(&self, id: RaftId) -> bool {
        let rots = |node: &SimNode<H>| self.rot.as_ref().is_some_and(|rot| rot.node == node.id);
        let impaired = |node: &SimNode<H>| node.lossy || node.lacks_state() || rots(node);
        let others = self.nodes.iter().filter(|node| node.id != id && impaired(node)).count();
        let stateless = self.nodes.iter().any(|node| node.id != id && node.lacks_state());
        !stateless && (self.plan.tuning.flush == Flush::Sync || (others + 1) * 2 < self.plan.birth)
    }

    pub(super) fn restart_later(&mut self, id: RaftId) {
        if self.restarts_on {
            let run = self.node(id).run;
            let after = if self.faults_on { self.rng.random_range(5..2_500) * MS } else { 10 * MS };
            self.schedule(after, Event::Start { node: id, run });
        }
    }

    /// The disk has failed under a running node, or its planned power-off has come: the process ends at once.
    pub(super) fn die_of_disk(&mut self, id: RaftId) -> Result<(), Violation> {
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

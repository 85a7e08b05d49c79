//! The end of a run: all faults stop, everything must converge and take new work, and then everything is compared.

use std::path::Path;

use super::host::{Host, Violation};
use super::node::DIR;
use super::plan::MS;
use super::world::World;
use crate::log::Layout;
use crate::log::segment::segment_path;
use crate::types::RaftId;

/// Ten election time-outs of at most 20 ticks: within it a new proposal must be committed once all faults have stopped.
const RECOVERY_MAX: u64 = 10 * 1_000 * MS;

/// Time for the slowest member to catch up after that.
const CONVERGENCE_MAX: u64 = 20 * 1_000 * MS;

/// Pause between two probes.
const PROBE_GAP: u64 = 50 * MS;

impl<H: Host> World<H> {
    /// Ends all faults and demands that everything comes right.
    ///
    /// # Errors
    /// What a checker saw.
    pub fn finish(&mut self) -> Result<(), Violation> {
        self.calm_down()?;
        self.take_new_work()?;
        self.clients_on = false;
        self.converge()?;
        self.compare()
    }

    fn calm_down(&mut self) -> Result<(), Violation> {
        self.trace("calm", 0, 0);
        self.faults_on = false;
        self.storm = 0;
        self.release_restarts();
        self.network.calm();
        self.plan.sync = 100..1_000;
        self.plan.apply = 20..200;
        self.plan.wake = 0..100;
        let now = self.now;
        for node in &mut self.nodes {
            node.disk.forget_faults();
            node.sync_will_fail = false;
            node.paused_until = node.paused_until.min(now);
            node.stalled_until = node.stalled_until.min(now);
            node.slow_until = 0;
            node.clock.set_rate(now, super::clock::TRUE_RATE);
            node.clock.right_wall();
        }
        for id in self.ids() {
            if self.node(id).disk.is_off() {
                // Its planned power-off has come and it has not touched its disk since.
                self.kill(id, super::Death::PowerCut)?;
            }
            self.restart(id)?;
        }
        Ok(())
    }

    /// Liveness: a proposal made after the faults is committed soon.
    fn take_new_work(&mut self) -> Result<(), Violation> {
        let end = self.now + RECOVERY_MAX;
        let acknowledged = self.acknowledged_count();
        while self.now < end {
            if let Some(leader) = self.newest_leader() {
                self.probe(leader);
            }
            let until = (self.now + PROBE_GAP).min(end);
            if self.run_until(until, |world| world.acknowledged_count() > acknowledged)? {
                return Ok(());
            }
        }
        let state = self.describe();
        Err(Violation::new("live-after-faults", format!("nothing is committed after 10 election time-outs: {state}")))
    }

    fn converge(&mut self) -> Result<(), Violation> {
        let end = self.now + CONVERGENCE_MAX;
        if self.run_until(end, World::converged)? {
            return Ok(());
        }
        Err(Violation::new("converges", self.describe()))
    }

    /// All members of the newest leader's configuration have applied all of its log.
    fn converged(&self) -> bool {
        let Some(leader) = self.newest_leader() else {
            return false;
        };
        let Some(live) = &self.node(leader).live else {
            return false;
        };
        let last = live.core.last_index();
        live.core.membership().voters_outgoing.is_empty()
            && self.members(leader).into_iter().all(|id| {
                let live = self.node(id).live.as_ref();
                live.is_some_and(|live| {
                    let caught_up = live.core.applied_index() == last && live.core.last_index() == last;
                    let whole = live.core.repairs().0 == 0 && self.rot.as_ref().is_none_or(|rot| rot.node != id);
                    caught_up && whole && live.core.doubts().is_none() && !live.disk_busy
                })
            })
    }

    fn members(&self, leader: RaftId) -> Vec<RaftId> {
        let live = self.node(leader).live.as_ref().expect("a leader runs");
        let members = live.core.membership();
        members.voters.iter().chain(&members.learners).copied().collect()
    }

    fn describe(&self) -> String {
        let nodes = self.nodes.iter().map(|node| match &node.live {
            None => format!("{}: down", node.id),
            Some(live) => format!(
                "{}{}: {:?} last {} commit {} applied {} voters {:?} doubts {}",
                node.id,
                if live.core.is_stateless() { " without a state" } else { "" },
                live.core.role(),
                live.core.last_index(),
                live.core.commit_index(),
                live.core.applied_index(),
                live.core.membership().voters,
                live.core.doubts()
            ),
        });
        nodes.collect::<Vec<_>>().join("; ")
    }

    fn compare(&mut self) -> Result<(), Violation> {
        let leader = self.newest_leader().expect("it has converged");
        let members = self.members(leader);
        for &id in &members {
            self.checks.holds_committed(id)?;
            self.check_machine(id, true)?;
            let World { host, nodes, .. } = self;
            let live = nodes[id as usize - 1].live.as_ref().expect("it has converged");
            host.finish(id, live.applier.machine(), &live.view)?;
        }
        self.compare_segments(&members)
    }

    /// Segment files are equal byte for byte up to the end of the common log.
    fn compare_segments(&self, members: &[RaftId]) -> Result<(), Violation> {
        let ends = members.iter().filter_map(|&id| self.node(id).live.as_ref()).map(|live| live.view.published());
        let end = ends.min().unwrap_or_default();
        let layout = Layout { segment_size: self.plan.segment_size };
        let firsts = members.iter().filter_map(|&id| self.node(id).live.as_ref()).map(|live| live.view.first().1);
        let mut base = firsts.max().unwrap_or_default();
        while base < end {
            let len = (end.0 - base.0).min(layout.segment_size) as usize;
            let path = segment_path(Path::new(DIR), base);
            let mut first: Option<(RaftId, Vec<u8>)> = None;
            for &id in members {
                let Some(mut bytes) = self.node(id).disk.contents(&path) else {
                    return Err(Violation::new("segments-equal", format!("node {id} has no {}", path.display())));
                };
                bytes.truncate(len);
                match &first {
                    None => first = Some((id, bytes)),
                    Some((other, theirs)) if *theirs != bytes => {
                        let at = theirs.iter().zip(&bytes).take_while(|(a, b)| a == b).count();
                        let detail = format!("{} differs between {other} and {id} at byte {at}", path.display());
                        return Err(Violation::new("segments-equal", detail));
                    }
                    Some(_) => {}
                }
            }
            base = base + layout.segment_size;
        }
        Ok(())
    }
}

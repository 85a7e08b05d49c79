//! What clients and scenarios do to a simulated group, and what they can see of it.

use std::time::Duration;

use rand::Rng;
use rand::seq::IndexedRandom;

use super::host::{Host, Operation, Violation};
use super::plan::MS;
use super::world::{Event, World};
use crate::group::MemberChange;
use crate::types::RaftId;

impl<H: Host> World<H> {
    pub(super) fn clients(&mut self) -> Result<(), Violation> {
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

    /// Asks the leader `id` to change the membership.
    pub fn change_members(&mut self, id: RaftId, steps: &[MemberChange]) {
        let proposed = self.live(id).core.change_membership(steps, false);
        self.trace("members", id, u64::from(proposed.is_ok()));
        if self.print {
            self.say(&format!("{steps:?}: {proposed:?}"));
        }
        if proposed.is_err() {
            self.count("refused change");
        }
        self.ring(id);
    }

    /// Asks the leader `id` to take a node in as a learner.
    pub fn add_learner(&mut self, id: RaftId, new: RaftId) {
        let info = super::members::info(self.seed, new, 0);
        self.change_members(id, &[MemberChange::AddLearner(new, info)]);
    }

    /// Asks the leader `id` to hand over.
    pub fn transfer(&mut self, id: RaftId, to: RaftId) {
        self.live(id).core.transfer_leader(to);
        self.ring(id);
    }

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

    /// How often something has happened so far.
    pub fn counted(&self, name: &str) -> u64 {
        self.stats.counters.get(name).copied().unwrap_or(0)
    }

    /// Runs until something has happened so often, at most `time`. Returns whether it has.
    ///
    /// # Errors
    /// What a checker saw.
    pub fn await_count(&mut self, name: &str, times: u64, time: Duration) -> Result<bool, Violation> {
        let end = self.now + time.as_micros() as u64;
        self.run_until(end, |world| world.counted(name) >= times)
    }

    /// Runs until a node has applied so much, at most `time`. Returns whether it has.
    ///
    /// # Errors
    /// What a checker saw.
    pub fn await_applied(&mut self, id: RaftId, index: u64, time: Duration) -> Result<bool, Violation> {
        let end = self.now + time.as_micros() as u64;
        self.run_until(end, |world| world.indexes(id).is_some_and(|(_, applied)| applied >= index))
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

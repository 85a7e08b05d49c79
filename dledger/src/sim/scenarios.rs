//! Scenarios that chance alone would hardly meet. Named tests play them on a calm network, and some seeds begin with one
//! before their faults.

use std::ops::Range;
use std::time::Duration;

use rand::Rng;
use rand::seq::SliceRandom;

use super::host::{Death, Host, Violation};
use super::lives::Left;
use super::plan::MS;
use super::world::World;
use crate::group::MemberChange;
use crate::types::RaftId;

/// Time for a step of a scenario; when it has not happened by then the network was too bad for it.
const STEP_MAX: u64 = 400 * MS;

impl<H: Host> World<H> {
    /// Commit × membership change × partition (R10). Of five voters one is removed while it hears nothing, then another
    /// one, while a third is slow: both changes reach it before either is on its disk, and then it dies. The rest goes
    /// on with two of the remaining three. A third voter that came back with the old configuration would find a
    /// majority of it among the removed ones.
    ///
    /// Returns whether it came that far.
    ///
    /// # Errors
    /// What a checker saw.
    pub fn forgotten_change(&mut self) -> Result<bool, Violation> {
        assert!(self.plan.birth == 5 && self.plan.nodes == 5, "the scenario is for five voters");
        self.run_until(self.now + 4_000 * MS, |world| world.newest_leader().is_some())?;
        let Some(leader) = self.newest_leader() else {
            return Ok(false);
        };
        let calm = Duration::from_millis(self.rng.random_range(50..400));
        self.run_for(calm)?;
        let mut others: Vec<RaftId> = self.ids().filter(|id| *id != leader).collect();
        others.shuffle(&mut self.rng);
        let [deaf, removed, loyal, slow] = others[..] else { unreachable!("four others") };

        self.partition(&[deaf]);
        let stall_until = self.now + 2 * STEP_MAX + 100 * MS;
        self.node_mut(slow).stalled_until = stall_until;
        let shrunk = self.remove(leader, deaf)? && self.remove(leader, removed)?;
        if shrunk {
            // The change that removed it reaches the slow one; that it is committed reaches nobody on this side.
            self.partition(&[leader, loyal]);
            self.run_until(stall_until + 60 * MS, |_| false)?;
            self.kill(slow, Death::Killed)?;
            self.count("forgotten change");
            let apart = Duration::from_millis(self.rng.random_range(3_000..6_000));
            self.heal();
            self.partition(&[leader, loyal]);
            self.run_for(apart)?;
        }
        self.heal();
        Ok(shrunk)
    }

    /// Whether the leader has applied the removal in time.
    fn remove(&mut self, leader: RaftId, member: RaftId) -> Result<bool, Violation> {
        // raft-rs swaps a change for nothing while it takes the one before for unapplied.
        self.run_for(Duration::from_millis(20))?;
        if !self.serves(leader) {
            return Ok(false);
        }
        self.change_members(leader, &[MemberChange::Remove(member)]);
        self.run_until(self.now + STEP_MAX, |world| {
            let voters = world.voters(leader);
            !voters.is_empty() && !voters.contains(&member)
        })
    }

    /// A learner that has the log, and hears nothing from the moment at which it became one, is to get its vote. It does not know
    /// that it is a member: a group that counted on it could not elect, or by a vote that no configuration allows.
    ///
    /// Returns whether its vote was refused it until it knew.
    ///
    /// # Errors
    /// What a checker saw.
    pub fn unknowing_learner(&mut self) -> Result<bool, Violation> {
        let leader = self.await_leader(Duration::from_secs(4))?;
        self.run_for(Duration::from_millis(300))?;
        let new = self.plan.birth as RaftId + 1;
        let info = super::members::info(self.seed, new, 0);
        self.change_members(leader, &[MemberChange::AddLearner(new, info)]);
        // Its first answer says that it has the log's begin.
        let end = self.now + STEP_MAX;
        self.run_until(end, |world| {
            let live = world.node(leader).live.as_ref();
            live.is_some_and(|live| live.core.status().peers.iter().any(|it| it.raft_id == new && it.matched > 0))
        })?;
        let to_new: Vec<_> = self.ids().filter(|id| *id != new).map(|id| (id, new)).collect();
        let cut = self.network.cut(to_new);
        self.change_members(leader, &[MemberChange::Promote(new)]);
        self.run_for(Duration::from_millis(200))?;
        let refused = !self.voters(leader).contains(&new);
        self.hold_restarts();
        self.kill(leader, Death::Killed)?;
        self.run_for(Duration::from_millis(500))?;
        self.network.heal(cut);
        self.run_for(Duration::from_secs(3))?;
        self.release_restarts();
        Ok(refused)
    }

    /// Three voters with a leader, and after some calm (in ms) a follower that hears nothing any more. Returns the leader and the
    /// other follower; `None` when nobody leads.
    fn one_hears_nothing(&mut self, calm: Range<u64>) -> Result<Option<(RaftId, RaftId)>, Violation> {
        assert!(self.plan.birth == 3 && self.plan.nodes == 3, "the scenario is for three voters");
        self.run_until(self.now + 4_000 * MS, |world| world.newest_leader().is_some())?;
        let Some(leader) = self.newest_leader() else {
            return Ok(None);
        };
        let calm = Duration::from_millis(self.rng.random_range(calm));
        self.run_for(calm)?;
        let mut others: Vec<RaftId> = self.ids().filter(|id| *id != leader).collect();
        others.shuffle(&mut self.rng);
        let [deaf, other] = others[..] else { unreachable!("two others") };
        self.partition(&[deaf]);
        Ok(Some((leader, other)))
    }

    /// A page cache is lost with what was acknowledged from it (asynchronous groups only). One follower hears nothing while
    /// the leader and the other one commit; then that other one loses its power, and the leader dies, before it or just
    /// after it. With the follower that never had the entries the shortened one would be a majority.
    ///
    /// Returns whether acknowledged entries were lost.
    ///
    /// # Errors
    /// What a checker saw.
    pub fn lost_cache(&mut self) -> Result<bool, Violation> {
        let Some((leader, loser)) = self.one_hears_nothing(50..400)? else {
            return Ok(false);
        };
        let enough = self.acknowledged_count() + self.rng.random_range(3..20);
        self.run_until(self.now + STEP_MAX, |world| world.acknowledged_count() >= enough)?;
        let before = self.node(loser).live.as_ref().map(|live| live.core.last_index());
        self.hold_restarts();
        let leader_first = self.rng.random_bool(0.5);
        if leader_first {
            self.kill(leader, Death::Killed)?;
        }
        self.end(loser, Death::PowerCut, Left::Nothing)?;
        self.restart(loser)?;
        let after = self.node(loser).live.as_ref().map(|live| live.core.last_index());
        let lost = after < before;
        if !leader_first {
            // It is told what to reach, and cannot get there: its disk takes too long.
            self.stall_disk(loser, Duration::from_micros(STEP_MAX));
            let told = Duration::from_millis(self.rng.random_range(20..200));
            self.run_for(told)?;
            self.kill(leader, Death::Killed)?;
        }
        self.heal();
        let apart = Duration::from_millis(self.rng.random_range(2_000..4_000));
        self.run_for(apart)?;
        self.release_restarts();
        self.restart(leader)?;
        if lost {
            self.count("lost cache");
        }
        Ok(lost)
    }

    /// A follower's word outlives its page cache (asynchronous groups only). It acknowledges an entry that is not committed
    /// yet, since the leader's disk stalls, or the answer is still under way; it loses its power, comes back, is told by the
    /// leader what to reach, has that, and does not get the entry again. The leader must not count the old word.
    /// Then the leader dies, and the shortened follower is a majority with one that has heard nothing.
    ///
    /// Returns whether it came that far.
    ///
    /// # Errors
    /// What a checker saw.
    pub fn stale_word(&mut self) -> Result<bool, Violation> {
        let Some((leader, loser)) = self.one_hears_nothing(200..500)? else {
            return Ok(false);
        };
        if self.rng.random_bool(0.5) {
            self.stall_disk(leader, Duration::from_millis(500));
        } else {
            self.network.hold_answers(loser, leader, 300 * MS);
        }
        self.run_for(Duration::from_millis(30))?;
        self.hold_restarts();
        self.network.cut_appends(leader, loser);
        self.end(loser, Death::PowerCut, Left::Nothing)?;
        self.network.release();
        self.restart(loser)?;
        let end = self.now + STEP_MAX;
        let sure = self
            .run_until(end, |world| world.node(loser).live.as_ref().is_some_and(|live| live.core.doubts().is_none()))?;
        let last = |world: &Self, id| world.node(id).live.as_ref().map(|live| live.core.last_index());
        let lacks = sure && last(self, loser) < last(self, leader);
        self.run_for(Duration::from_micros(3 * STEP_MAX))?;
        self.kill(leader, Death::Killed)?;
        self.heal();
        self.run_for(Duration::from_secs(3))?;
        self.release_restarts();
        self.restart(leader)?;
        if lacks {
            self.count("stale word");
        }
        Ok(lacks)
    }

    /// All page caches are lost at once (asynchronous groups only), with what was acknowledged from them: the last moments may be
    /// gone, but the group goes on, as one.
    ///
    /// Returns whether anything was lost.
    ///
    /// # Errors
    /// What a checker saw.
    pub fn all_lose_their_caches(&mut self) -> Result<bool, Violation> {
        self.await_leader(Duration::from_secs(4))?;
        let calm = Duration::from_millis(self.rng.random_range(300..900));
        self.run_for(calm)?;
        if let Some(leader) = self.newest_leader() {
            (0..8).for_each(|_| self.operate(leader));
        }
        self.run_for(Duration::from_millis(4))?;
        self.hold_restarts();
        let last =
            |world: &Self| world.nodes.iter().filter_map(|it| it.live.as_ref()).map(|it| it.core.last_index()).max();
        let before = last(self);
        for id in self.ids() {
            self.end_as(id, Death::PowerCut, Left::Nothing)?;
        }
        self.checks.forgive();
        self.host.forgive();
        self.release_restarts();
        for id in self.ids() {
            self.restart(id)?;
        }
        let lost = last(self) < before;
        self.run_for(Duration::from_secs(4))?;
        Ok(lost)
    }

    /// A node dies, and its state is gone when it comes back: as if its folder had been removed, or with its page cache.
    ///
    /// # Errors
    /// What a checker saw.
    pub fn come_back_without_state(&mut self, id: RaftId, death: Death) -> Result<(), Violation> {
        self.hold_restarts();
        self.end_as(id, death, Left::Nothing)?;
        if death == Death::Killed {
            let World { host, nodes, .. } = self;
            host.lose_state(&mut nodes[id as usize - 1].store);
        }
        self.release_restarts();
        self.restart(id)
    }

    /// All nodes lose their power, and all come back in doubt of their logs: but for one at first, then that one too.
    ///
    /// Returns whether nobody led while one was missing.
    ///
    /// # Errors
    /// What a checker saw.
    pub fn all_in_doubt(&mut self) -> Result<bool, Violation> {
        self.await_leader(Duration::from_secs(4))?;
        let calm = Duration::from_millis(self.rng.random_range(300..900));
        self.run_for(calm)?;
        self.hold_restarts();
        self.power_cut_all()?;
        let mut nodes: Vec<RaftId> = self.ids().collect();
        nodes.shuffle(&mut self.rng);
        nodes.iter().try_for_each(|id| self.node(*id).doubt_tail())?;
        let (missing, others) = nodes.split_first().expect("a group has members");
        for id in others {
            self.restart(*id)?;
        }
        self.run_for(Duration::from_secs(5))?;
        let waited = self.newest_leader().is_none();
        self.release_restarts();
        self.restart(*missing)?;
        Ok(waited)
    }

    /// Of five voters one is removed and is gone, while another one hears nothing. Then all lose their power and come back in doubt
    /// of their logs: the deaf one tells of the old voters.
    ///
    /// Returns whether the four elected a leader.
    ///
    /// # Errors
    /// What a checker saw.
    pub fn removed_before_doubt(&mut self) -> Result<bool, Violation> {
        let leader = self.await_leader(Duration::from_secs(4))?;
        self.run_for(Duration::from_millis(300))?;
        let mut others: Vec<RaftId> = self.ids().filter(|id| *id != leader).collect();
        others.shuffle(&mut self.rng);
        let [deaf, removed, ..] = others[..] else { unreachable!("four others") };
        self.partition(&[deaf]);
        if !self.remove(leader, removed)? {
            return Ok(false);
        }
        self.run_for(Duration::from_millis(500))?;
        self.hold_restarts();
        self.power_cut_all()?;
        self.heal();
        for id in self.ids().filter(|id| *id != removed) {
            self.node(id).doubt_tail()?;
            self.restart(id)?;
        }
        self.run_for(Duration::from_secs(5))?;
        let elected = self.newest_leader().is_some();
        self.release_restarts();
        Ok(elected)
    }

    /// A deposed leader that does not know it yet is asked while the rest has gone on.
    ///
    /// Returns whether there were two that said they lead.
    ///
    /// # Errors
    /// What a checker saw.
    pub fn stale_leader(&mut self) -> Result<bool, Violation> {
        let old = self.await_leader(Duration::from_secs(4))?;
        self.run_for(Duration::from_millis(300))?;
        self.partition(&[old]);
        let end = self.now + 3_000 * MS;
        let both =
            self.run_until(end, |world| world.serves(old) && world.ids().any(|id| id != old && world.serves(id)))?;
        self.run_for(Duration::from_millis(500))?;
        self.heal();
        Ok(both)
    }
}

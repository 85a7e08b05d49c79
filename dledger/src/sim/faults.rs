//! What goes wrong during a run. Which fault, on whom and for how long is drawn from the seed alone.

use std::path::Path;

use rand::Rng;
use rand::seq::{IndexedRandom, IteratorRandom, SliceRandom};

use super::host::{Death, Host, Violation};
use super::lives::Left;
use super::node::DIR;
use super::plan::MS;
use super::world::{Event, World};
use crate::group::Flush;
use crate::log::Layout;
use crate::log::segment::segment_path;
use crate::types::RaftId;

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The process of a node dies.
    Kill,
    /// The processes of several nodes die at once.
    KillSome,
    /// A node loses its power.
    PowerCut,
    /// All nodes lose their power at once.
    PowerCutAll,
    /// A node dies, or loses its power, between two calls of its disk: in the middle of a job.
    DieInJob,
    /// A sync fails with EIO.
    FailSync,
    /// The disk answers nothing for a while.
    Stall,
    /// The disk is slow for a while.
    Slow,
    /// The nodes fall into two parts that hear nothing of each other.
    Partition,
    /// A node is heard but hears nothing, or the other way round.
    OneWay,
    /// The leader is alone.
    IsolateLeader,
    /// Two nodes do not hear each other; everybody else hears both.
    Bridge,
    /// A partition that comes and goes.
    Flap,
    /// A wall clock jumps, or a monotonic one changes its pace.
    Clock,
    /// A process stands still for a while.
    Pause,
    /// Connections break.
    Reset,
    /// A member is added, promoted or removed.
    Members,
    /// The leadership is handed over.
    Transfer,
    /// A node is stopped in good order.
    CleanStop,
    /// The next few leaders are cut off as soon as they are elected, with one follower or none.
    Storm,
    /// A node hears nothing for seconds: long enough to be left behind, where the log is cut. Drawn apart from the others.
    LeaveBehind,
}

impl Fault {
    pub(super) const ALL: [Fault; 20] = [
        Fault::Kill,
        Fault::KillSome,
        Fault::PowerCut,
        Fault::PowerCutAll,
        Fault::DieInJob,
        Fault::FailSync,
        Fault::Stall,
        Fault::Slow,
        Fault::Partition,
        Fault::OneWay,
        Fault::IsolateLeader,
        Fault::Bridge,
        Fault::Flap,
        Fault::Clock,
        Fault::Pause,
        Fault::Reset,
        Fault::Members,
        Fault::Transfer,
        Fault::CleanStop,
        Fault::Storm,
    ];
}

/// A day, ms.
const DAY_MS: i64 = 86_400_000;

impl<H: Host> World<H> {
    /// One fault, drawn from those that the plan allows.
    pub(super) fn strike(&mut self) -> Result<(), Violation> {
        let Ok(&(fault, _)) = self.plan.faults.choose_weighted(&mut self.rng, |(_, weight)| *weight) else {
            return Ok(());
        };
        self.trace("fault", fault as u64, 0);
        let node = self.rng.random_range(1..=self.plan.nodes as u64);
        match fault {
            Fault::Kill => self.kill(node, Death::Killed)?,
            Fault::KillSome => {
                for node in self.some_nodes() {
                    self.kill(node, Death::Killed)?;
                }
            }
            Fault::PowerCut => self.kill(node, Death::PowerCut)?,
            Fault::PowerCutAll => self.power_cut_all()?,
            Fault::DieInJob => {
                let calls = self.rng.random_range(0..12);
                let power = self.rng.random_bool(0.6);
                let node = self.node_mut(node);
                node.disk.power_off_after(calls);
                node.off_is_power_cut = power;
            }
            Fault::FailSync => {
                let nth = self.rng.random_range(1..6);
                if self.may_lose(node) {
                    self.node(node).disk.fail_sync(nth, "");
                    let is_async = self.plan.tuning.flush == Flush::Async;
                    let node = self.node_mut(node);
                    (node.lossy, node.sync_will_fail) = (node.lossy | is_async, is_async);
                }
            }
            Fault::Stall => {
                let until = self.now + self.rng.random_range(50..4_000) * MS;
                self.node_mut(node).stalled_until = until;
            }
            Fault::Slow => {
                let until = self.now + self.rng.random_range(500..5_000) * MS;
                self.node_mut(node).slow_until = until;
            }
            Fault::Partition => {
                let part = self.some_nodes();
                let pairs = self.between(&part);
                self.cut_for(pairs, 100..4_000);
            }
            Fault::OneWay => {
                let deaf = self.rng.random_bool(0.5);
                let pairs = self.ids().filter(|other| *other != node);
                let pairs = pairs.map(|other| if deaf { (other, node) } else { (node, other) }).collect();
                self.cut_for(pairs, 100..4_000);
            }
            Fault::IsolateLeader => {
                if let Some(leader) = self.newest_leader() {
                    let pairs = self.between(&[leader]);
                    self.cut_for(pairs, 100..5_000);
                }
            }
            Fault::Bridge => {
                let other = self.rng.random_range(1..=self.plan.nodes as u64);
                self.cut_for(vec![(node, other), (other, node)], 500..5_000);
            }
            Fault::Flap => {
                let part = self.some_nodes();
                let pairs = self.between(&part);
                let mut at = 0;
                for _ in 0..self.rng.random_range(3..12) {
                    at += self.rng.random_range(50..500) * MS;
                    let down = self.rng.random_range(50..500);
                    self.schedule(at, Event::Cut { pairs: pairs.clone(), ms: down });
                    at += down * MS;
                }
            }
            Fault::Clock => {
                let now = self.now;
                let jump = self.rng.random_range(-DAY_MS..DAY_MS);
                let rate = self.rng.random_range(500_000..2_000_000);
                let pace = self.rng.random_ratio(1, 3);
                let node = self.node_mut(node);
                node.clock.jump(jump);
                if pace {
                    node.clock.set_rate(now, rate);
                }
            }
            Fault::Pause => {
                let until = self.now + self.rng.random_range(20..3_000) * MS;
                self.node_mut(node).paused_until = until;
                self.count("pause");
            }
            Fault::Reset => {
                let other = self.rng.random_range(1..=self.plan.nodes as u64);
                if other == node {
                    self.network.reset_node(node);
                } else {
                    self.network.reset_pair(node, other);
                }
            }
            Fault::Members => self.change_some_member(),
            Fault::Transfer => {
                if let Some(leader) = self.newest_leader() {
                    self.transfer(leader, node);
                }
            }
            Fault::CleanStop => self.stop_cleanly(node)?,
            Fault::LeaveBehind => {
                let pairs = self.between(&[node]);
                self.cut_for(pairs, 1_500..5_000);
            }
            Fault::Storm => self.storm = self.rng.random_range(2..9),
        }
        Ok(())
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = RaftId> + use<H> {
        1..=self.plan.nodes as u64
    }

    /// At least one node, mostly not all.
    fn some_nodes(&mut self) -> Vec<RaftId> {
        let mut nodes: Vec<RaftId> = self.ids().collect();
        nodes.shuffle(&mut self.rng);
        let count = if self.rng.random_ratio(1, 6) { nodes.len() } else { self.rng.random_range(1..nodes.len()) };
        nodes.truncate(count);
        nodes
    }

    /// All pairs, both ways, of a node in `part` and one outside.
    pub(super) fn between(&self, part: &[RaftId]) -> Vec<(RaftId, RaftId)> {
        let outside: Vec<RaftId> = self.ids().filter(|node| !part.contains(node)).collect();
        part.iter().flat_map(|&a| outside.iter().flat_map(move |&b| [(a, b), (b, a)])).collect()
    }

    /// A node has been elected while a storm goes on: its first entries reach one follower, or none. So logs come to be
    /// that differ in many terms.
    pub(super) fn storm(&mut self, leader: RaftId, ready: bool) {
        if ready || self.storm == 0 {
            return;
        }
        self.storm -= 1;
        let mut part = vec![leader];
        if self.rng.random_bool(0.4) {
            part.extend(self.ids().filter(|id| *id != leader).choose(&mut self.rng));
        }
        let pairs = self.between(&part);
        self.cut_for(pairs, 400..3_000);
        if self.rng.random_bool(0.3) {
            // Somebody dies in the middle of taking in what comes of it.
            let node = self.rng.random_range(1..=self.plan.nodes as u64);
            let calls = self.rng.random_range(2..40);
            let power = self.rng.random_bool(0.8);
            let node = self.node_mut(node);
            node.disk.power_off_after(calls);
            node.off_is_power_cut = power;
        }
    }

    /// A cut of the log is rare, as is a snapshot in its place, and the worst moment to die. Returns whether the node dies with its job written and not
    /// synced; else it may die between two calls of the disk.
    pub(super) fn tempt(&mut self, id: RaftId) -> bool {
        let waiting = self.node(id).live.as_ref().map_or(&[][..], |live| &live.waiting);
        let installs = waiting.iter().any(|task| task.job.install.is_some());
        let cuts = waiting.iter().any(|task| task.job.truncate_to.is_some());
        let one_in = match (installs, cuts) {
            (true, _) => self.plan.die_in_install,
            (_, true) => self.plan.die_in_cut,
            _ => 0,
        };
        if !self.faults_on || one_in == 0 || !self.rng.random_ratio(1, one_in) {
            return false;
        }
        if self.rng.random_bool(0.5) {
            return true;
        }
        let calls = self.rng.random_range(0..14);
        let power = self.rng.random_bool(0.8);
        let node = self.node_mut(id);
        node.disk.power_off_after(calls);
        node.off_is_power_cut = power;
        false
    }

    /// Mostly a cut at the end of one of the frames that are written and not synced.
    pub(super) fn choose_tear(&mut self, id: RaftId) -> Left {
        let World { nodes, rng, plan, .. } = self;
        let tasks = nodes[id as usize - 1].live.as_ref().map_or(&[][..], |live| &live.syncing[..]);
        let Some(frame) = tasks.iter().flat_map(|task| &task.job.frames).choose(rng).map(|frame| frame.at) else {
            return Left::Drawn;
        };
        let base = Layout { segment_size: plan.segment_size }.base_of(frame.pos);
        if rng.random_bool(0.7) {
            Left::UpTo(segment_path(Path::new(DIR), base), frame.end().0 - base.0)
        } else {
            Left::Drawn
        }
    }

    fn cut_for(&mut self, pairs: Vec<(RaftId, RaftId)>, ms: std::ops::Range<u64>) {
        let ms = self.rng.random_range(ms);
        self.cut(pairs, ms);
    }

    pub(super) fn cut(&mut self, pairs: Vec<(RaftId, RaftId)>, ms: u64) {
        let cut = self.network.cut(pairs);
        self.count("partition");
        self.schedule(ms * MS, Event::Heal { cut });
    }
}

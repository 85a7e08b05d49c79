//! Snapshots in the simulated world: a checkpoint is made between two rounds of apply, and its files travel range by range, with
//! partitions, deaths and power cuts in between. What is made, asked for, written and installed is the code that ships.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rand::Rng;

use super::host::{Host, Violation};
use super::node::DIR;
use super::plan::MS;
use super::world::{Event, World};
use crate::fs::Fs;
use crate::group::{CheckpointOrder, Outputs, PullOrder};
use crate::log::FirstFrame;
use crate::snapshot::{Pull, PullError, SnapshotId};
use crate::types::RaftId;

/// Requests that may fail before a pull is given up.
const FAILURES_MAX: u32 = 8;

/// A pull under way.
pub(super) struct SimPull {
    pull: Pull,
    from: RaftId,
    id: SnapshotId,
    failures: u32,
}

impl<H: Host> World<H> {
    /// Carries out what a poll wants done about snapshots.
    pub(super) fn carry_snapshots(&mut self, id: RaftId, out: &mut Outputs<H::Stamper>) -> Result<(), Violation> {
        let run = self.node(id).run;
        match out.checkpoint.take() {
            Some(CheckpointOrder::Make(_))
                if self.plan.retention
                    && self.plan.tuning.lag_hold == Duration::MAX
                    && self.counted("start without a state") == 0 =>
            {
                let detail = format!("node {id} has cut its log in front of a member that may not be left behind");
                return Err(Violation::new("prefix-held-for-members", detail));
            }
            Some(CheckpointOrder::Make(first)) => {
                let after = self.rng.random_range(self.plan.apply.clone());
                self.schedule(after, Event::Checkpoint { node: id, run, first });
            }
            Some(CheckpointOrder::Drop) if self.live(id).giver.take_back().is_err() => return self.die_of_disk(id),
            Some(CheckpointOrder::Drop) | None => {}
        }
        if std::mem::take(&mut out.cancel_pull) {
            self.live(id).pull = None;
        }
        if let Some(PullOrder { from, manifest }) = out.pull.take() {
            let disk: Arc<dyn Fs> = Arc::new(self.node(id).disk.clone());
            let live = self.live(id);
            match Pull::begin(&disk, Path::new(DIR), &live.meta, manifest) {
                Ok(pull) => {
                    let snapshot = pull.id();
                    live.pull = Some(SimPull { pull, from, id: snapshot, failures: 0 });
                    self.count("pull begun");
                    self.pull_on(id);
                }
                Err(_) => return self.die_of_disk(id),
            }
        }
        Ok(())
    }

    fn pull_on(&mut self, id: RaftId) {
        let run = self.node(id).run;
        let after = self.rng.random_range(self.plan.network.delay.clone()) * 2;
        self.schedule(after, Event::Pull { node: id, run });
    }

    /// Apply makes a checkpoint.
    pub(super) fn checkpoint(&mut self, id: RaftId, first: FirstFrame) -> Result<(), Violation> {
        let live = self.live(id);
        if live.giver.prepare().is_err() {
            return self.die_of_disk(id);
        }
        let folder = live.giver.folder().to_owned();
        let made = match live.applier.checkpoint(&folder, first) {
            Ok(Some(checkpoint)) => live.giver.publish(checkpoint).ok(),
            Ok(None) => return Err(Violation::new("makes-checkpoints", format!("node {id} makes none"))),
            Err(_) => return self.die_of_disk(id),
        };
        if made.is_none() && (self.node(id).disk.is_off()) {
            return self.die_of_disk(id);
        }
        self.live(id).core.checkpoint_made(made.as_ref());
        self.count("checkpoint");
        self.trace("checkpoint", id, made.map_or(0, |manifest| manifest.tail.index));
        self.ring(id);
        Ok(())
    }

    /// The taker asks for some more, or looks at what it has.
    pub(super) fn pull(&mut self, id: RaftId) -> Result<(), Violation> {
        let Some(mut pulling) = self.live(id).pull.take() else { return Ok(()) };
        let bytes_max = self.rng.random_range(512..48 << 10);
        let Some(ranges) = pulling.pull.next(bytes_max) else {
            return match pulling.pull.finish() {
                Ok(staged) => {
                    self.trace("staged", id, staged.manifest.tail.index);
                    let used = self.live(id).core.pulled(pulling.id, Some(staged));
                    self.count(if used { "snapshot stepped" } else { "snapshot of no use" });
                    self.ring(id);
                    Ok(())
                }
                Err(PullError::Io { .. }) => self.die_of_disk(id),
                Err(_) => {
                    self.count("damaged pull");
                    self.failed(id, pulling);
                    Ok(())
                }
            };
        };
        let from = pulling.from;
        let reached = !self.network.is_cut(id, from) && !self.network.is_cut(from, id);
        let awake = self.node(from).paused_until <= self.now;
        let giver = self.node(from).live.as_ref().filter(|_| reached && awake).map(|live| &live.giver);
        match giver.map(|giver| giver.read(pulling.id, &ranges)) {
            Some(Ok(bytes)) => {
                if pulling.pull.take(&ranges, &bytes).is_err() {
                    return self.die_of_disk(id);
                }
                self.live(from).core.gives(id);
                self.live(id).pull = Some(pulling);
                self.pull_on(id);
            }
            _ => self.failed(id, pulling),
        }
        Ok(())
    }

    fn failed(&mut self, id: RaftId, mut pulling: SimPull) {
        pulling.failures += 1;
        if pulling.failures > FAILURES_MAX {
            self.count("pull given up");
            self.live(id).core.pulled(pulling.id, None);
            self.ring(id);
            return;
        }
        self.live(id).pull = Some(pulling);
        let run = self.node(id).run;
        let after = self.rng.random_range(10..300) * MS;
        self.schedule(after, Event::Pull { node: id, run });
    }
}

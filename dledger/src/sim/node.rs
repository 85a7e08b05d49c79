//! One simulated node: its disk and store, which outlive it, and what runs while it lives.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;

use rand::Rng;
use rand::rngs::SmallRng;
use uuid::Uuid;

use super::clock::NodeClock;
use super::disk::SimFs;
use super::host::{Host, Place, Violation};
use super::plan::Plan;
use super::snapshots::SimPull;
use crate::apply::Applier;
use crate::fs::Fs;
use crate::group::{ApplyTask, GroupCore, WriteTask};
use crate::log::meta::{FORMAT, FirstFrame, GroupConstants, Identity, Member, Meta, MetaFile};
use crate::log::recovery::TailState;
use crate::log::{Doubts, LogView, LogWriter};
use crate::replica::{self, OpenError, OpenReplica, Replica, Supply};
use crate::seam::Membership;
use crate::snapshot::Giver;
use crate::types::{GroupId, LogPos, RaftId};

/// The group's folder on each disk.
pub(super) const DIR: &str = "/data/group";

/// Cluster and group of a run.
pub(super) fn ids(seed: u64) -> (Uuid, GroupId) {
    (Uuid::from_u64_pair(0xc1, seed), GroupId(Uuid::from_u64_pair(0x60, seed)))
}

/// Identity of the replica on a node.
pub(super) fn replica_uuid(seed: u64, id: RaftId) -> Uuid {
    Uuid::from_u64_pair(0xab, seed ^ id)
}

/// What runs.
pub(super) struct Live<H: Host> {
    pub(super) core: GroupCore<H::Stamper>,
    pub(super) writer: LogWriter,
    pub(super) applier: Applier<H::Machine>,
    pub(super) view: LogView,
    /// The membership before the last poll.
    pub(super) members_before: Membership,
    /// Jobs for log-io that wait.
    pub(super) waiting: Vec<WriteTask>,
    /// Where the log is to begin: removed behind the next sync.
    pub(super) remove_before: Option<FirstFrame>,
    /// Jobs that are written and not synced.
    pub(super) syncing: Vec<WriteTask>,
    /// Whether a write or a sync is on its way.
    pub(super) disk_busy: bool,
    pub(super) rounds: VecDeque<ApplyTask>,
    pub(super) apply_busy: bool,
    /// Whether a sync of what an asynchronous group has written is on its way.
    pub(super) flush_planned: bool,
    /// How far the log has been verified in this pass.
    pub(super) scrubbed: LogPos,
    pub(super) giver: Giver,
    pub(super) meta: Meta,
    /// The snapshot that is being pulled.
    pub(super) pull: Option<SimPull>,
    /// When the raft loop wakes up.
    pub(super) poll_at: Option<u64>,
}

/// A node, alive or not.
pub(super) struct SimNode<H: Host> {
    pub(super) id: RaftId,
    pub(super) disk: SimFs,
    pub(super) store: H::Store,
    pub(super) clock: NodeClock,
    pub(super) live: Option<Live<H>>,
    /// Raised at each death: events of an earlier run are void.
    pub(super) run: u64,
    /// Raised at each power cut.
    boot: u64,
    /// The process stands still until then.
    pub(super) paused_until: u64,
    /// The disk answers nothing until then.
    pub(super) stalled_until: u64,
    /// The disk is slow until then.
    pub(super) slow_until: u64,
    /// Whether acknowledged entries may be gone from its disk until it says that it has them again.
    pub(super) lossy: bool,
    /// It had no state when it ended.
    pub(super) without_state: bool,
    /// A failing sync is planned.
    pub(super) sync_will_fail: bool,
    /// What a planted power-off will turn out to be.
    pub(super) off_is_power_cut: bool,
}

impl<H: Host> SimNode<H> {
    /// A node with a fresh replica of the group on its disk.
    pub(super) fn create(
        id: RaftId,
        seed: u64,
        plan: &Plan,
        host: &mut H,
        rng: &mut SmallRng,
    ) -> Result<SimNode<H>, Violation> {
        let (cluster_id, group) = ids(seed);
        let disk = SimFs::new();
        let fs: Arc<dyn Fs> = Arc::new(disk.clone());
        let identity = Identity { cluster_id, group, replica: replica_uuid(seed, id), raft_id: id };
        let members =
            (1..=plan.birth as u64).map(|raft_id| Member { raft_id, replica: replica_uuid(seed, raft_id) }).collect();
        let constants = GroupConstants { segment_size: plan.segment_size, format: FORMAT };
        let born = if id <= plan.birth as u64 { replica::create } else { replica::join };
        born(&fs, &PathBuf::from(DIR), identity, constants, members)
            .map_err(|error| Violation::new("create", error.to_string()))?;
        let skew = rng.random_range(0..=2 * plan.clock_skew);
        let clock = NodeClock::new(super::clock::TRUE_RATE + skew - plan.clock_skew, 0);
        Ok(SimNode {
            id,
            disk,
            store: host.store(id, rng),
            clock,
            live: None,
            run: 0,
            boot: 0,
            paused_until: 0,
            stalled_until: 0,
            slow_until: 0,
            lossy: false,
            without_state: false,
            sync_will_fail: false,
            off_is_power_cut: false,
        })
    }

    /// Opens the replica.
    pub(super) fn open(
        &mut self,
        now: u64,
        seed: u64,
        plan: &Plan,
        host: &mut H,
        election_seed: u64,
    ) -> Result<TailState, OpenError> {
        assert!(self.live.is_none(), "node {} runs already", self.id);
        self.clock.restart(now);
        let fs: Arc<dyn Fs> = Arc::new(self.disk.clone());
        let dir = PathBuf::from(DIR);
        let params = OpenReplica {
            fs: &fs,
            dir: &dir,
            expected: ids(seed),
            boot_id: Uuid::from_u64_pair(0xb007, self.boot),
            supply: Supply::Inline,
            tuning: plan.tuning.clone(),
            seed: election_seed,
            clock: self.clock.read(now),
            addresses: (1..=plan.nodes as u64).map(|id| (id, super::members::info(seed, id, 0))).collect(),
        };
        let (node, store) = (self.id, &mut self.store);
        let layer = |meta: &_, view: &_| host.open(Place { node, fs: &fs, dir: &dir, meta, view }, store);
        let replica: Replica<H::Stamper, H::Machine> = replica::open(params, layer)?;
        let Replica { core, writer, applier, view, giver, meta, tail_state, .. } = replica;
        self.live = Some(Live {
            members_before: core.membership().clone(),
            core,
            writer,
            applier,
            view,
            waiting: Vec::new(),
            remove_before: None,
            syncing: Vec::new(),
            disk_busy: false,
            rounds: VecDeque::new(),
            apply_busy: false,
            flush_planned: false,
            scrubbed: LogPos(0),
            giver,
            meta,
            pull: None,
            poll_at: None,
        });
        Ok(tail_state)
    }

    /// Writes into the meta file of a dead node that its log was cut at a hole.
    pub(super) fn doubt_tail(&self) -> Result<(), Violation> {
        let fs: Arc<dyn Fs> = Arc::new(self.disk.clone());
        let cannot = |error: &dyn std::fmt::Display| Violation::new("scenario", error.to_string());
        let (mut file, mut meta) = MetaFile::open(&fs, &PathBuf::from(DIR)).map_err(|error| cannot(&error))?;
        meta.doubts |= Doubts::SUSPECT_TAIL;
        file.store_both(&meta).map_err(|error| cannot(&error))
    }

    /// Whether it has no state and has not got another's yet.
    pub(super) fn lacks_state(&self) -> bool {
        self.live.as_ref().map_or(self.without_state, |live| live.core.is_stateless())
    }

    /// The machine has lost its power since the last start.
    pub(super) fn next_boot(&mut self) {
        self.boot += 1;
    }
}

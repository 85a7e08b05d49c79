//! Opens one replica of a group from its folder: meta file, recovery, state machine, Raft. The same steps in
//! production and in the simulator.
//!
//! Order matters: the log is recovered before the state machine replays it, and the state machine stands at its
//! applied index before raft-rs is told of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use uuid::Uuid;

use crate::apply::Applier;
use crate::fs::Fs;
use crate::group::{Clock, Flush, GroupCore, GroupError, GroupStart, GroupTuning, at_birth};
use crate::log::Doubts;
use crate::log::meta::{GroupConstants, Identity, Member, Meta, MetaError, MetaFile};
use crate::log::recovery::{Recovered, RecoveryError, TailState, recover};
use crate::log::segment::SegmentSupply;
use crate::log::view::{LogView, ViewError};
use crate::log::writer::LogWriter;
use crate::plant::{self, Bug};
use crate::seam::{AppliedState, ApplyError, MemberInfo, Stamper, StateMachine};
use crate::snapshot::{Giver, install};
use crate::types::{GroupId, RaftId};

/// Where and how a replica is opened.
pub struct OpenReplica<'a> {
    /// The disk.
    pub fs: &'a Arc<dyn Fs>,
    /// The group's folder.
    pub dir: &'a Path,
    /// Cluster and group that must be found there.
    pub expected: (Uuid, GroupId),
    /// Boot of this machine: a change means that the page cache was lost since the last run.
    pub boot_id: Uuid,
    /// Where new segments come from.
    pub supply: Supply,
    /// Limits and times.
    pub tuning: GroupTuning,
    /// Seed of the election time-outs.
    pub seed: u64,
    /// The time now.
    pub clock: Clock,
    /// Addresses of the members by the config, until the log tells them.
    pub addresses: BTreeMap<RaftId, MemberInfo>,
}

/// How spare segments are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Supply {
    /// When one is needed: the simulator, tools.
    Inline,
    /// Ahead, by a thread that writes at most so many bytes per second.
    Background {
        /// Bytes per second.
        pace: u64,
    },
}

/// An open replica, in the three parts that three threads own.
pub struct Replica<S: Stamper, M: StateMachine> {
    /// Raft, for the raft loop.
    pub core: GroupCore<S>,
    /// The log's write side, for log-io.
    pub writer: LogWriter,
    /// The state machine, for apply.
    pub applier: Applier<M>,
    /// The log's read side, for everybody.
    pub view: LogView,
    /// Its checkpoint, for members that lie behind the log.
    pub giver: Giver,
    /// Its meta content at the start.
    pub meta: Meta,
    /// What recovery found at the end of the log.
    pub tail_state: TailState,
    /// Who this is.
    pub identity: Identity,
}

/// Why a replica does not open. Nothing was changed or cut.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The meta file.
    #[error(transparent)]
    Meta(#[from] MetaError),
    /// Somebody else's folder.
    #[error(
        "{} belongs to group {found_group} of cluster {found_cluster}, but the config names group {group} of cluster \
         {cluster}: correct `data_dir` or the ids", dir.display()
    )]
    Foreign {
        /// The folder.
        dir: PathBuf,
        /// As found.
        found_cluster: Uuid,
        /// As found.
        found_group: GroupId,
        /// As configured.
        cluster: Uuid,
        /// As configured.
        group: GroupId,
    },
    /// The log.
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
    /// The disk, while the log was put in order.
    #[error("cannot open the log in {}: {source}", dir.display())]
    Io {
        /// The folder.
        dir: PathBuf,
        /// The system's own words.
        source: std::io::Error,
    },
    /// The layer above.
    #[error("cannot open the state of group {group}: {reason}")]
    Layer {
        /// The group.
        group: GroupId,
        /// Its words.
        reason: String,
    },
    /// Replay found something that does not fit.
    #[error("cannot replay the log of group {group}: {source}")]
    Replay {
        /// The group.
        group: GroupId,
        /// What.
        source: ApplyError,
    },
    /// The log cannot be read back where the state needs it again, by a failure of the disk or in a group of one.
    #[error(
        "{0}; the queues need these entries again, and there is nobody to fetch them from: check the disk, then put the file \
         back, or remove this replica from the group and rejoin under a new raft id"
    )]
    View(ViewError),
    /// Raft refuses.
    #[error(transparent)]
    Group(#[from] GroupError),
}

/// Opens a replica. `layer` makes the layer above, given who this is, the constants, the generation of its state
/// folder and the read side of the log. It is asked a second time, for a new generation, when what it held first had taken
/// in more than the log still has: everything that was made of the lost entries is dropped with the rest (R6). A state that
/// cannot be made of the log, since the log does not begin with the first entry any more, comes from another member by a snapshot.
///
/// # Errors
/// [`OpenError`]; nothing on disk was cut then, but for a torn tail that no acknowledgement covered.
pub fn open<S: Stamper, M: StateMachine>(
    params: OpenReplica<'_>,
    mut layer: impl FnMut(&Meta, &LogView) -> Result<(S, M), String>,
) -> Result<Replica<S, M>, OpenError> {
    let OpenReplica { fs, dir, expected, boot_id, supply, tuning, seed, clock, addresses } = params;
    let (mut meta_file, mut meta) = MetaFile::open(fs, dir)?;
    let (cluster, group) = expected;
    if (meta.identity.cluster_id, meta.identity.group) != expected {
        return Err(OpenError::Foreign {
            dir: dir.to_owned(),
            found_cluster: meta.identity.cluster_id,
            found_group: meta.identity.group,
            cluster,
            group,
        });
    }
    let io = |source| OpenError::Io { dir: dir.to_owned(), source };
    if install::tidy(fs, dir, &meta).map_err(io)? {
        tracing::info!(%group, "finished the installation of a snapshot");
        meta.installing = false;
    }
    let layout = meta.constants.layout();
    if meta.async_flush && !meta.clean_shutdown {
        // A sync of the last run may have failed, which only the page cache tells, until recovery has read the log from the disk. A
        // start that dies between that and the first meta write of this run must not be followed by one without a doubt.
        let mut guarded = meta.clone();
        guarded.doubts |= Doubts::FAILED_SYNC;
        meta_file.store_both(&guarded).map_err(io)?;
    }
    let recovered = recover(fs, dir, &meta)?;
    let (tail, term_runs, tail_state) = (recovered.tail, recovered.term_runs.clone(), recovered.tail_state);
    let mut damage = recovered.damage.clone();
    if tail_state != TailState::Clean {
        tracing::warn!(%group, ?tail_state, ?tail, "cut an unfinished write off the end of the log");
    }
    // R9: what the log proves is written down before anything leaves.
    (meta.term, meta.vote, meta.commit_hint) = meta.hard_state(&tail);
    meta.doubts |= new_doubts(&meta, &recovered, boot_id);
    if !meta.doubts.is_none() {
        tracing::warn!(%group, doubts = %meta.doubts, ?tail, "abstains from elections until it has caught up");
    }
    meta.async_flush = tuning.flush == Flush::Async;
    meta.boot_id = boot_id;
    meta.clean_shutdown = false;
    meta.run += 1;
    let supply = match supply {
        Supply::Inline => SegmentSupply::inline(fs, dir, layout),
        Supply::Background { pace } => SegmentSupply::background(fs, dir, layout, pace),
    };
    let supply = supply.map_err(io)?;
    let mut writer = LogWriter::open(fs, dir, meta_file, meta.clone(), recovered, supply).map_err(io)?;
    let view = writer.view();

    let layer_error = |reason| OpenError::Layer { group, reason };
    let (mut stamper, mut machine) = layer(&meta, &view).map_err(layer_error)?;
    let applied = machine.applied().at;
    let is_ahead = applied.index > tail.index;
    // What it would have to take in first was given up: half a state is of no more use than none.
    let is_behind = applied.index > 0 && applied.index.min(machine.replay_from()) + 1 < meta.first.index;
    if is_ahead || is_behind {
        drop((stamper, machine));
        if is_ahead {
            meta.doubts |= Doubts::STATE_AHEAD;
        }
        tracing::warn!(%group, ?applied, ?tail, first = meta.first.index, "the state does not fit the log: given up");
        next_generation(fs, dir, &mut meta, &mut writer).map_err(io)?;
        (stamper, machine) = layer(&meta, &view).map_err(layer_error)?;
    }
    let mut applier = Applier::new(group, machine);
    if let Err(error) = replay(&mut applier, &view, &meta) {
        let others = others_than(meta.identity.raft_id, &applier.applied(), &meta);
        match error {
            ReplayError::View(error @ ViewError::Corrupt { .. }) if others => {
                // A state is made of the log or taken from another member; neither is held up by a gap that the group can fill.
                tracing::warn!(%group, %error, "the state needs entries that are damaged here: given up, to be made anew");
            }
            ReplayError::View(error) => return Err(OpenError::View(error)),
            ReplayError::Apply(source) => return Err(OpenError::Replay { group, source }),
        }
        drop((stamper, applier));
        next_generation(fs, dir, &mut meta, &mut writer).map_err(io)?;
        (stamper, machine) = layer(&meta, &view).map_err(layer_error)?;
        applier = Applier::new(group, machine);
    }
    if is_lost(&applier, &meta) {
        tracing::warn!(%group, first = meta.first.index, "the state is gone, and so is the log that it was made of: another member's is needed");
    }
    damage.extend(view.damaged_behind(&applier.applied().at));
    let identity = meta.identity;
    let giver = Giver::new(fs, dir, group, meta.constants, at_birth(&meta.birth_members), view.clone());
    let start = GroupStart {
        meta: meta.clone(),
        tail,
        term_runs,
        view: view.clone(),
        applied: applier.applied(),
        damage,
        stamper,
        seed,
        addresses,
    };
    let mut core = GroupCore::new(start, tuning, clock)?;
    core.keep_log_from(applier.machine().keep_from());
    Ok(Replica { core, writer, applier, view, giver, meta, tail_state, identity })
}

/// Whether the log that the state would have to be made of has been given up.
fn is_lost<M: StateMachine>(applier: &Applier<M>, meta: &Meta) -> bool {
    applier.applied().at.index + 1 < meta.first.index
}

/// Applies once more what the state machine needs, if the log can give it at all.
fn replay<M: StateMachine>(applier: &mut Applier<M>, view: &LogView, meta: &Meta) -> Result<(), ReplayError> {
    if is_lost(applier, meta) { Ok(()) } else { applier.replay(view) }
}

/// Whether the group has members that could give what this one has lost.
fn others_than(raft_id: RaftId, applied: &AppliedState, meta: &Meta) -> bool {
    let membership = applied.membership.clone().unwrap_or_else(|| at_birth(&meta.birth_members));
    membership.voters.iter().any(|voter| *voter != raft_id)
}

/// Gives up the state of this replica: from here on it is in another folder, which is empty.
fn next_generation(fs: &Arc<dyn Fs>, dir: &Path, meta: &mut Meta, writer: &mut LogWriter) -> std::io::Result<()> {
    let lost = meta.generation;
    meta.generation += 1;
    writer.store_meta(meta, true)?;
    remove_generation(fs, dir, lost)
}

/// Removes a folder of state that nothing names any more.
fn remove_generation(fs: &Arc<dyn Fs>, dir: &Path, generation: u64) -> std::io::Result<()> {
    let folder = dir.join(format!("gen-{generation}"));
    if fs.try_exists(&folder)? { fs.remove_dir_all(&folder) } else { Ok(()) }
}

/// What the end of the last run gives reason to doubt.
fn new_doubts(meta: &Meta, recovered: &Recovered, boot_id: Uuid) -> Doubts {
    let mut doubts = Doubts::NONE;
    if matches!(recovered.tail_state, TailState::TornJob | TailState::Hole) {
        doubts |= Doubts::SUSPECT_TAIL;
    }
    if recovered.cache_was_ahead {
        doubts |= Doubts::FAILED_SYNC;
    }
    // After a process death the page cache still has everything; after a power loss only what was synced is left.
    let cache_lost = meta.boot_id != boot_id && !plant::on(Bug::BootIdIgnored);
    if meta.async_flush && !meta.clean_shutdown && cache_lost {
        doubts |= Doubts::LOST_CACHE;
    }
    doubts
}

/// Why a replay stopped.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The log.
    #[error(transparent)]
    View(#[from] ViewError),
    /// The state machine.
    #[error(transparent)]
    Apply(#[from] ApplyError),
}

/// The birth of a replica that joins a group which is there already: its folder with a synced meta file and an empty log.
/// `birth_members` are those that the *group* was born with, whose configuration the log begins under; this replica comes to be
/// a member by an entry of that log.
///
/// # Errors
/// [`MetaError::Exists`] when a replica lives there already.
pub fn join(
    fs: &Arc<dyn Fs>,
    dir: &Path,
    identity: Identity,
    constants: GroupConstants,
    birth_members: Vec<Member>,
) -> Result<(), MetaError> {
    let meta = Meta { joining: true, ..Meta::new(identity, constants, birth_members) };
    MetaFile::create(fs, dir, &meta).map(drop)
}

/// The create step of a group on one member: its folder with a synced meta file. Nothing else ever makes a group.
///
/// # Errors
/// [`MetaError::Exists`] when a replica lives there already.
pub fn create(
    fs: &Arc<dyn Fs>,
    dir: &Path,
    identity: Identity,
    constants: GroupConstants,
    members: Vec<Member>,
) -> Result<(), MetaError> {
    let meta = Meta::new(identity, constants, members);
    MetaFile::create(fs, dir, &meta).map(drop)
}

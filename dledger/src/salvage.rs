//! The last resort when a majority of a group is lost for ever: one survivor becomes the whole group.
//!
//! Offline, on the folder of a stopped replica. Everything in its log is declared committed and applied; then entries that
//! remove all other members are appended, so that the membership goes on to be a matter of the log alone; the term is far
//! beyond any that a lost member may have seen; and the group gets a new identity, so that a member that comes back is
//! refused in words instead of bringing a second history in.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use protobuf::Message as _;
use raft::eraftpb::{ConfChangeSingle, ConfChangeType, ConfChangeV2, Entry, EntryType};
use uuid::Uuid;

use crate::entry;
use crate::fs::Fs;
use crate::group::{Clock, GroupError, GroupTuning, Outputs};
use crate::inspect::{self, InspectError};
use crate::log::frame::make_header;
use crate::log::writer::{FrameBytes, MetaWrite, WriteJob};
use crate::log::{Doubts, LogView, Meta, MetaError, MetaFile};
use crate::log_io;
use crate::replica::{self, OpenError, OpenReplica, Supply};
use crate::seam::{ApplyError, Membership, Stamper, StateMachine};
use crate::snapshot::install;
use crate::types::{FramePos, GroupId, RaftId};

/// How far the term jumps: no member that is gone has campaigned so often unseen.
const TERM_JUMP: u64 = 1_000;

/// Rounds in a row in which nothing need be applied.
const IDLE_ROUNDS_MAX: u32 = 100;

/// What a survivor has, for the one who decides.
#[derive(Debug, Clone)]
pub struct Survivor {
    /// The group's folder.
    pub dir: PathBuf,
    /// The group, as it is now.
    pub group: GroupId,
    /// This replica's number.
    pub raft_id: RaftId,
    /// Its term.
    pub term: u64,
    /// Its last entry.
    pub last: FramePos,
    /// Last entry that it knows to be committed.
    pub commit_index: u64,
    /// Why it doubts its own log.
    pub doubts: Doubts,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// The group's new identity: the config must name it.
    pub group: GroupId,
    /// Members that are no members any more.
    pub removed: Vec<RaftId>,
    /// The new term.
    pub term: u64,
    /// The last entry, from which the group goes on.
    pub last: FramePos,
}

/// Why a survivor cannot go on alone. Its log is as it was, but for entries that were already there and are applied now.
#[derive(Debug, thiserror::Error)]
pub enum SalvageError {
    /// The log cannot be read.
    #[error(transparent)]
    Inspect(#[from] InspectError),
    /// The meta file.
    #[error(transparent)]
    Meta(#[from] MetaError),
    /// The replica does not open.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Its log cannot be applied.
    #[error(transparent)]
    Group(#[from] GroupError),
    /// Its state machine refuses an entry.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// Its state is gone, and its log does not begin with the first entry.
    #[error(
        "the state in {} is gone, and the log does not begin with the first entry any more: nothing can be made of it; take \
         another survivor", dir.display()
    )]
    Stateless {
        /// The group's folder.
        dir: PathBuf,
    },
    /// The disk.
    #[error("cannot write in {}: {source}", dir.display())]
    Io {
        /// The group's folder.
        dir: PathBuf,
        /// The system's own words.
        source: io::Error,
    },
}

/// Looks at a survivor without changing anything.
///
/// # Errors
/// [`SalvageError`]: its files cannot be read.
pub fn look(fs: &Arc<dyn Fs>, dir: &Path) -> Result<Survivor, SalvageError> {
    let found = inspect::verify(fs, dir)?;
    Ok(Survivor {
        group: found.identity.group,
        raft_id: found.identity.raft_id,
        term: found.term,
        last: found.tail,
        commit_index: found.commit_index,
        doubts: found.doubts,
        dir: found.dir,
    })
}

/// Makes the replica in `dir` the only member of a group with the identity `new_group`. `layer` opens the layer above as for
/// [`replica::open`].
///
/// # Errors
/// [`SalvageError`]. It may be tried again.
pub fn unsafe_recover<S: Stamper, M: StateMachine>(
    fs: &Arc<dyn Fs>,
    dir: &Path,
    new_group: GroupId,
    layer: impl FnMut(&Meta, &LogView) -> Result<(S, M), String>,
) -> Result<Recovered, SalvageError> {
    let io = |source| SalvageError::Io { dir: dir.to_owned(), source };
    {
        let (mut file, mut meta) = MetaFile::open(fs, dir)?;
        if install::tidy(fs, dir, &meta).map_err(io)? {
            meta.installing = false;
            file.store_both(&meta).map_err(io)?;
        }
    }
    let survivor = look(fs, dir)?;
    {
        // Nobody is left who could say otherwise.
        let (mut file, mut meta) = MetaFile::open(fs, dir)?;
        meta.commit_hint = survivor.last.index;
        meta.doubts = Doubts::NONE;
        file.store_both(&meta).map_err(io)?;
    }
    let cluster_id = MetaFile::peek(fs, dir)?.identity.cluster_id;
    let params = OpenReplica {
        fs,
        dir,
        expected: (cluster_id, survivor.group),
        boot_id: Uuid::nil(),
        supply: Supply::Inline,
        tuning: GroupTuning::default(),
        seed: 0,
        clock: Clock { mono: Duration::ZERO, wall_ms: 0 },
        addresses: BTreeMap::new(),
    };
    let mut opened = replica::open(params, layer)?;
    if opened.core.is_stateless() {
        return Err(SalvageError::Stateless { dir: dir.to_owned() });
    }
    let clock = Clock { mono: Duration::ZERO, wall_ms: 0 };
    let mut outputs = Outputs::default();
    let mut rounds = 0;
    while opened.core.applied_index() < survivor.last.index {
        let before = opened.core.applied_index();
        opened.core.poll(clock, &mut outputs)?;
        outputs.messages.clear();
        let written = log_io::carry_out(&mut opened.writer, &outputs.writes).map_err(io)?;
        outputs.writes.clear();
        if let Some((number, durable)) = written {
            opened.core.written(number, durable);
        }
        for task in outputs.applies.drain(..) {
            let at = opened.applier.run(&task)?;
            opened.core.applied(at);
        }
        // A round either applies something or makes a membership change durable that stands in front of more.
        rounds = if opened.core.applied_index() > before { 0 } else { rounds + 1 };
        assert!(rounds < IDLE_ROUNDS_MAX, "entry {} is committed and is not applied", before + 1);
    }
    opened.applier.flush()?;

    let mut meta = opened.core.closing_meta();
    let removed = others(opened.core.membership(), survivor.raft_id);
    let removals = removals(opened.core.membership(), survivor.raft_id);
    meta.term = meta.term.max(survivor.last.term) + TERM_JUMP;
    meta.vote = survivor.raft_id;
    meta.doubts = Doubts::NONE;
    let mut tail = opened.writer.tail();
    let layout = opened.view.layout();
    let mut frames = Vec::new();
    for change in &removals {
        let mut entry = Entry { index: tail.index + 1, term: meta.term, ..Entry::default() };
        entry.set_entry_type(EntryType::EntryConfChangeV2);
        entry.data = change.write_to_bytes().expect("a membership change is small").into();
        let content = entry::content(&entry).expect("a membership change is an entry");
        let (kind, records, payload) = (content.kind, content.records, content.payload);
        let (at, header, blank) = make_header(&layout, &tail, entry.index, entry.term, kind, records, &payload);
        frames.push(FrameBytes { at, header, payload, blank });
        tail = at;
    }
    let vote = MetaWrite { meta: meta.clone(), both_slots: true };
    opened.writer.write(&WriteJob { frames, meta: Some(vote), ..WriteJob::default() }).map_err(io)?;
    opened.writer.sync().map_err(io)?;
    meta.commit_hint = tail.index;
    drop(opened.core);
    opened.writer.close(&meta).map_err(io)?;

    let (mut file, mut meta) = MetaFile::open(fs, dir)?;
    meta.identity.group = new_group;
    file.store_both(&meta).map_err(io)?;
    Ok(Recovered { group: new_group, removed, term: meta.term, last: tail })
}

fn others(membership: &Membership, survivor: RaftId) -> Vec<RaftId> {
    let Membership { voters, learners, voters_outgoing, learners_next, .. } = membership;
    let all = voters.iter().chain(learners).chain(voters_outgoing).chain(learners_next);
    let others: BTreeSet<RaftId> = all.copied().filter(|id| *id != survivor).collect();
    others.into_iter().collect()
}

/// One change after the other, each of one member, so that none needs the agreement of those that are gone.
fn removals(membership: &Membership, survivor: RaftId) -> Vec<ConfChangeV2> {
    let step = |kind: ConfChangeType, node_id: RaftId| {
        let mut single = ConfChangeSingle { node_id, ..ConfChangeSingle::default() };
        single.set_change_type(kind);
        let mut change = ConfChangeV2::default();
        change.set_changes(vec![single].into());
        change
    };
    let mut changes = Vec::new();
    if !membership.voters_outgoing.is_empty() {
        changes.push(ConfChangeV2::default());
    }
    if !membership.voters.contains(&survivor) {
        changes.push(step(ConfChangeType::AddNode, survivor));
    }
    changes.extend(others(membership, survivor).into_iter().map(|id| step(ConfChangeType::RemoveNode, id)));
    changes
}

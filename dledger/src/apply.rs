//! Feeds committed frames to the state machine, in rounds: one atomic write per round, then the readers wake. What the raft
//! loop hands over while a round runs is the next round, so that rounds grow with the load.
//!
//! Stands behind the raft loop, which hands over only what is committed and locally durable (R6). The state machine
//! never sees a frame twice, but for the replay at start, which it asks for itself.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::fs::Fs;
use crate::group::ApplyTask;
use crate::log::meta::FirstFrame;
use crate::log::view::LogView;
use crate::plant::{self, Bug};
use crate::queue::{Nothing, QueueReceiver};
use crate::raft_loop::ApplyRequest;
use crate::replica::ReplayError;
use crate::seam::{AppliedState, ApplyError, Membership, StateMachine};
use crate::snapshot::Checkpoint;
use crate::types::{Frame, FrameKind, FramePos, GroupId, LogPos};

/// Idle time after which a due flush is carried out although no round asks for it.
const IDLE_FLUSH: Duration = Duration::from_secs(1);

/// Bytes of frames after which a round takes no more in, so that readers and the raft loop hear of it in time.
const ROUND_BYTES_MAX: u64 = 4 << 20;

/// Frames between two rounds of a replay.
const REPLAY_ROUND: u64 = 256;

/// A snapshot's state that is to be taken over: its files are in place, and so is its log.
#[derive(Clone)]
pub struct Restore {
    pub(crate) fs: Arc<dyn Fs>,
    /// Folder of the state that ends.
    pub(crate) old: PathBuf,
    /// Folder of the new one.
    pub(crate) new: PathBuf,
    /// Its last frame.
    pub(crate) tail: FramePos,
    /// Members as of it.
    pub(crate) membership: Membership,
    pub(crate) view: LogView,
}

impl std::fmt::Debug for Restore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Restore({:?}, {})", self.tail, self.new.display())
    }
}

/// A state machine and the position up to which it was fed.
pub struct Applier<M> {
    group: GroupId,
    machine: M,
    applied: FramePos,
    /// Where it stood a round ago.
    before: FramePos,
}

impl<M: StateMachine> Applier<M> {
    /// Takes over a state machine at its own position.
    pub fn new(group: GroupId, machine: M) -> Applier<M> {
        let applied = machine.applied().at;
        Applier { group, machine, applied, before: applied }
    }

    /// What the state machine holds.
    pub fn applied(&self) -> AppliedState {
        self.machine.applied()
    }

    /// The state machine.
    pub fn machine(&self) -> &M {
        &self.machine
    }

    /// Applies once more what the files outside the atomic store have lost.
    ///
    /// # Errors
    /// [`ReplayError`]: the log cannot be read, or holds what the state machine refuses.
    pub fn replay(&mut self, view: &LogView) -> Result<(), ReplayError> {
        let from = self.machine.replay_from();
        let to = self.applied.index;
        assert!(from <= to, "replay from {from} above applied {to}");
        if from == to {
            return Ok(());
        }
        if from + 1 < view.first().0 {
            // Told before anything is applied: a state with a gap would be wrong for ever.
            view.find(from + 1)?;
        }
        tracing::info!(group = %self.group, from = from + 1, to, "replaying the log");
        for frame in view.iter(from + 1) {
            let frame = frame?;
            if frame.at.index > to {
                break;
            }
            self.feed(&frame)?;
            if frame.at.index == to || frame.at.index % REPLAY_ROUND == 0 {
                self.machine.commit_round(frame.at, None)?;
            }
        }
        Ok(())
    }

    fn feed(&mut self, frame: &Frame) -> Result<(), ApplyError> {
        match frame.kind {
            FrameKind::Messages | FrameKind::Command | FrameKind::Transition => self.machine.apply(frame),
            FrameKind::Noop | FrameKind::ConfChange | FrameKind::ConfChangeV2 => Ok(()),
            FrameKind::Blank => unreachable!("blanks have no index"),
        }
    }

    /// Applies a round and returns the position reached.
    ///
    /// # Errors
    /// [`ApplyError`]: the replica stops; an entry is never skipped.
    pub fn run(&mut self, task: &ApplyTask) -> Result<FramePos, ApplyError> {
        if let Some(restore) = &task.restore {
            assert!(task.frames.is_empty(), "a snapshot is taken over alone");
            return self.restore(restore);
        }
        self.before = self.applied;
        let mut membership = None;
        for (frame, changed) in &task.frames {
            assert_eq!(frame.at.index, self.applied.index + 1, "apply gets every frame once, in order");
            self.feed(frame)?;
            membership = changed.as_ref().or(membership);
            self.applied = frame.at;
        }
        self.machine.commit_round(self.applied, membership)?;
        if self.machine.flush_due() {
            self.machine.flush()?;
        }
        Ok(self.applied)
    }

    /// Takes a snapshot's state over.
    fn restore(&mut self, restore: &Restore) -> Result<FramePos, ApplyError> {
        let Restore { fs, old, new, tail, membership, view } = restore;
        assert!(tail.index > self.applied.index, "a snapshot at {tail:?} for a state at {:?}", self.applied);
        self.machine.restore(new)?;
        let AppliedState { at, membership: there } = self.machine.applied();
        assert_eq!(at, *tail, "the state in a snapshot is not what its manifest says");
        assert!(there.is_none_or(|there| there == *membership), "a snapshot says that its members are {membership:?}");
        self.applied = at;
        self.replay(view).map_err(|error| match error {
            ReplayError::Apply(error) => error,
            ReplayError::View(error) => {
                ApplyError::Store { index: at.index, place: "the log".to_owned(), reason: error.to_string() }
            }
        })?;
        tracing::info!(group = %self.group, ?at, "took the state of a snapshot over");
        if let Err(error) = fs.try_exists(old).and_then(|there| if there { fs.remove_dir_all(old) } else { Ok(()) }) {
            tracing::warn!(folder = %old.display(), %error, "cannot remove the old state: the next start does");
        }
        Ok(at)
    }

    /// Copies the state into this empty folder, for a snapshot with the log from `first` on; `None` when the machine makes no copies.
    ///
    /// # Errors
    /// [`ApplyError`]: the store failed.
    pub fn checkpoint(&mut self, dir: &Path, first: FirstFrame) -> Result<Option<Checkpoint>, ApplyError> {
        let files = self.machine.checkpoint(dir)?;
        let AppliedState { at, membership } = self.machine.applied();
        let at = if plant::on(Bug::SnapshotStateAhead) && self.before.index > 0 { self.before } else { at };
        Ok(files.map(|files| Checkpoint { first, at, membership, files }))
    }

    /// Makes everything applied durable.
    ///
    /// # Errors
    /// [`ApplyError`]: the store failed.
    pub fn flush(&mut self) -> Result<(), ApplyError> {
        self.machine.flush()
    }
}

/// The apply thread of a node: rounds of all its groups, in the order in which the raft loop hands them over.
/// Ends when it is told to, or with the group that cannot go on.
pub(crate) fn run<M: StateMachine>(
    requests: &QueueReceiver<ApplyRequest>,
    mut appliers: Vec<Applier<M>>,
    mut report: impl FnMut(usize, FramePos, LogPos),
) -> Result<Vec<Applier<M>>, (GroupId, ApplyError)> {
    let mut rounds: Vec<ApplyTask> = appliers.iter().map(|_| ApplyTask { frames: Vec::new(), restore: None }).collect();
    loop {
        let request = match requests.recv(Some(IDLE_FLUSH)) {
            Ok(first) => gather(first, requests, &mut rounds),
            Err(error) => Some(Err(error)),
        };
        for (slot, round) in rounds.iter_mut().enumerate().filter(|(_, round)| !round.frames.is_empty()) {
            let applier = &mut appliers[slot];
            let at = applier.run(round).map_err(|error| (applier.group, error))?;
            round.frames.clear();
            report(slot, at, applier.machine.keep_from());
        }
        let Some(request) = request else { continue };
        match request {
            Ok(ApplyRequest::Apply(slot, task)) => {
                let applier = &mut appliers[slot];
                let at = applier.run(&task).map_err(|error| (applier.group, error))?;
                report(slot, at, applier.machine.keep_from());
            }
            Ok(ApplyRequest::Checkpoint(slot, giver, first, done)) => {
                let applier = &mut appliers[slot];
                let made = match giver.prepare() {
                    Ok(()) => applier.checkpoint(giver.folder(), first).map_err(|error| (applier.group, error))?,
                    Err(error) => {
                        tracing::error!(group = %applier.group, %error, "cannot make room for a checkpoint");
                        None
                    }
                };
                done(made);
            }
            Ok(ApplyRequest::DropCheckpoint(giver)) => {
                if let Err(error) = giver.take_back() {
                    tracing::warn!(folder = %giver.folder().display(), %error, "cannot remove a checkpoint");
                }
            }
            Ok(ApplyRequest::Digest(slot, answer)) => {
                let applier = &appliers[slot];
                let digest = applier.machine.digest().map(|digest| (applier.applied.index, digest));
                // The asker may have gone away.
                let _ = answer.send(digest.map_err(|error| error.to_string()));
            }
            Err(Nothing::Late) => {
                for applier in appliers.iter_mut().filter(|applier| applier.machine.flush_due()) {
                    applier.flush().map_err(|error| (applier.group, error))?;
                }
            }
            Ok(ApplyRequest::Stop) | Err(Nothing::Ended) => return Ok(appliers),
        }
    }
}

/// Gathers the frames that wait into the round of their group, up to [`ROUND_BYTES_MAX`] or to a request of another kind, which
/// is given back: it comes after them.
fn gather(
    first: ApplyRequest,
    requests: &QueueReceiver<ApplyRequest>,
    rounds: &mut [ApplyTask],
) -> Option<Result<ApplyRequest, Nothing>> {
    let mut bytes = 0;
    let mut next = Some(first);
    while let Some(request) = next {
        let ApplyRequest::Apply(slot, task) = request else { return Some(Ok(request)) };
        if task.restore.is_some() {
            return Some(Ok(ApplyRequest::Apply(slot, task)));
        }
        bytes += task.frames.iter().map(|(frame, _)| u64::from(frame.at.len)).sum::<u64>();
        rounds[slot].frames.extend(task.frames);
        next = if bytes < ROUND_BYTES_MAX { requests.try_recv() } else { None };
    }
    None
}

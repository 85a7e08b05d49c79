//! Carries out what a group wants done about snapshots, on threads that nobody waits for: checksums of a checkpoint, and one pull
//! at a time per node.
//!
//! ```text
//! raft loop -- SnapshotWork --> apply thread (checkpoint) --> "snapshot-sums" --> LoopEvent::Checkpointed
//!                         \--> "snapshot-take" (connect, ask, write, check) --> LoopEvent::Pulled
//! ```

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::wire::{Answer, Request};
use super::{Giver, Pull, PullError, REQUEST_BYTES_MAX, Staged};
use crate::doorbell::Inbox;
use crate::fs::Fs;
use crate::group::{CheckpointOrder, PullOrder};
use crate::log::meta::Meta;
use crate::raft_loop::{ApplyRequest, LoopEvent};
use crate::transport::PeerStream;

/// Connections that are tried before a pull is given up; the leader sends the snapshot once more then.
const TRIES_MAX: u32 = 5;
/// Pause after a connection that broke.
const PAUSE: Duration = Duration::from_millis(300);
/// A giver that answers nothing for this long is left.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// Pause between two signs of life while a snapshot is checked.
const STILL_HERE: Duration = Duration::from_secs(2);

/// Connects to the node at an address for files: handshake done, blocking.
pub(crate) type Connect = Arc<dyn Fn(&str) -> io::Result<PeerStream> + Send + Sync>;

/// How far the snapshot of a replica is.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Bytes of the snapshot that is pulled; 0 when none is.
    pub(crate) total: AtomicU64,
    /// Bytes of it that are still missing.
    pub(crate) missing: AtomicU64,
    /// Snapshots that were taken over since the start.
    pub(crate) taken: AtomicU64,
    /// Bytes pulled since the start.
    pub(crate) bytes: AtomicU64,
}

impl Progress {
    pub(crate) fn read(&self) -> SnapshotProgress {
        let load = |figure: &AtomicU64| figure.load(Ordering::Relaxed);
        let total = load(&self.total);
        SnapshotProgress {
            total,
            missing: if total == 0 { 0 } else { load(&self.missing) },
            taken: load(&self.taken),
            bytes: load(&self.bytes),
        }
    }
}

/// How far a replica is with snapshots.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SnapshotProgress {
    /// Bytes of the snapshot that is being pulled; 0 when none is.
    pub total: u64,
    /// Bytes of it that are still missing.
    pub missing: u64,
    /// Snapshots that have come since the start of the node.
    pub taken: u64,
    /// Bytes that were pulled since then.
    pub bytes: u64,
}

/// The pulls of a node: one at a time.
#[derive(Default)]
pub(crate) struct Turn {
    taken: Mutex<bool>,
    free: Condvar,
}

impl Turn {
    /// Waits for the turn; `false` when the pull was cancelled meanwhile.
    fn take(&self, cancelled: &AtomicBool) -> bool {
        let mut taken = self.taken.lock();
        while *taken {
            self.free.wait_for(&mut taken, PAUSE);
            if cancelled.load(Ordering::Relaxed) {
                return false;
            }
        }
        *taken = true;
        true
    }

    fn give_back(&self) {
        *self.taken.lock() = false;
        self.free.notify_one();
    }
}

/// See the module. One per group, owned by the raft loop.
pub(crate) struct SnapshotWork {
    pub(crate) fs: Arc<dyn Fs>,
    pub(crate) dir: PathBuf,
    /// Identity and constants of this replica.
    pub(crate) meta: Meta,
    pub(crate) giver: Arc<Giver>,
    pub(crate) events: Inbox<LoopEvent>,
    pub(crate) connect: Connect,
    pub(crate) turn: Arc<Turn>,
    pub(crate) progress: Arc<Progress>,
    /// Cancels the pull that was started last.
    pub(crate) running: Option<Arc<AtomicBool>>,
}

impl SnapshotWork {
    /// What to ask the apply thread.
    pub(crate) fn checkpoint(&self, slot: usize, order: CheckpointOrder) -> ApplyRequest {
        let giver = Arc::clone(&self.giver);
        let CheckpointOrder::Make(first) = order else { return ApplyRequest::DropCheckpoint(giver) };
        let (events, group) = (self.events.clone(), self.meta.identity.group);
        let to_publish = Arc::clone(&giver);
        ApplyRequest::Checkpoint(
            slot,
            giver,
            first,
            Box::new(move |checkpoint| {
                let report = move |manifest| {
                    // The loop has ended when it takes nothing.
                    let _ = events.try_send(LoopEvent::Checkpointed { slot, manifest });
                };
                let Some(checkpoint) = checkpoint else { return report(None) };
                let thread = std::thread::Builder::new().name("snapshot-sums".into());
                let failed = report.clone();
                let spawned = thread.spawn(move || match to_publish.publish(checkpoint) {
                    Ok(manifest) => {
                        tracing::info!(%group, snapshot = ?manifest.id(), bytes = manifest.bytes(), "made a checkpoint");
                        report(Some(Box::new(manifest)));
                    }
                    Err(error) => {
                        tracing::error!(%group, %error, "cannot give a checkpoint");
                        report(None);
                    }
                });
                if spawned.is_err() {
                    failed(None);
                }
            }),
        )
    }

    /// The pull that is under way is not needed any more.
    pub(crate) fn cancel_pull(&mut self) {
        if let Some(running) = self.running.take() {
            running.store(true, Ordering::Relaxed);
        }
    }

    /// Starts a pull from the node at `address`, in place of one that is under way.
    pub(crate) fn pull(&mut self, slot: usize, order: PullOrder, address: String) {
        self.cancel_pull();
        let cancelled = Arc::new(AtomicBool::new(false));
        self.running = Some(Arc::clone(&cancelled));
        let task = Task {
            fs: Arc::clone(&self.fs),
            dir: self.dir.clone(),
            meta: self.meta.clone(),
            connect: Arc::clone(&self.connect),
            address,
            progress: Arc::clone(&self.progress),
            cancelled,
        };
        let (events, turn, id) = (self.events.clone(), Arc::clone(&self.turn), order.manifest.id());
        let done = move |staged| {
            let _ = events.try_send(LoopEvent::Pulled { slot, id, staged });
        };
        let failed = done.clone();
        let spawned = std::thread::Builder::new().name("snapshot-take".into()).spawn(move || {
            if !turn.take(&task.cancelled) {
                return;
            }
            let staged = task.run(order);
            turn.give_back();
            task.progress.total.store(0, Ordering::Relaxed);
            if !task.cancelled.load(Ordering::Relaxed) {
                done(staged.map(Box::new));
            }
        });
        if let Err(error) = spawned {
            tracing::error!(%error, "cannot start a thread for a snapshot");
            failed(None);
        }
    }
}

/// One pull.
struct Task {
    fs: Arc<dyn Fs>,
    dir: PathBuf,
    meta: Meta,
    connect: Connect,
    address: String,
    progress: Arc<Progress>,
    cancelled: Arc<AtomicBool>,
}

/// Why a connection ends.
enum End {
    /// Try another one.
    Again(String),
    /// The leader must send another snapshot.
    GiveUp(String),
}

impl Task {
    fn run(&self, order: PullOrder) -> Option<Staged> {
        let PullOrder { from, manifest } = order;
        let (group, id) = (self.meta.identity.group, manifest.id());
        let mut pull = match Pull::begin(&self.fs, &self.dir, &self.meta, manifest) {
            Ok(pull) => pull,
            Err(error) => {
                tracing::error!(%group, snapshot = ?id, %error, "cannot take a snapshot");
                return None;
            }
        };
        let (total, missing) = pull.progress();
        self.progress.total.store(total, Ordering::Relaxed);
        self.progress.missing.store(missing, Ordering::Relaxed);
        tracing::info!(%group, peer = from, snapshot = ?id, total, missing, "pulling a snapshot");
        for _ in 0..TRIES_MAX {
            let (_, before) = pull.progress();
            match self.pull(&mut pull) {
                Ok(staged) => {
                    tracing::info!(%group, peer = from, snapshot = ?id, total, "a snapshot is here");
                    self.progress.taken.fetch_add(1, Ordering::Relaxed);
                    return Some(staged);
                }
                Err(End::Again(reason)) => {
                    let (_, left) = pull.progress();
                    tracing::info!(%group, peer = from, snapshot = ?id, %reason, left, was = before, "a pull is interrupted");
                }
                Err(End::GiveUp(reason)) => {
                    tracing::warn!(%group, peer = from, snapshot = ?id, %reason, "a pull is given up");
                    return None;
                }
            }
            std::thread::sleep(PAUSE);
        }
        tracing::warn!(%group, peer = from, snapshot = ?id, "a pull is given up: the connection breaks each time");
        None
    }

    fn pull(&self, pull: &mut Pull) -> Result<Staged, End> {
        let again = |error: io::Error| End::Again(error.to_string());
        let mut stream = (self.connect)(&self.address).map_err(again)?;
        stream.socket().set_read_timeout(Some(SILENCE_MAX)).map_err(again)?;
        stream.socket().set_write_timeout(Some(SILENCE_MAX)).map_err(again)?;
        let identity = self.meta.identity;
        loop {
            if self.cancelled.load(Ordering::Relaxed) {
                return Err(End::GiveUp("it is not needed any more".into()));
            }
            let request = |ranges| Request { group: identity.group, taker: identity.raft_id, id: pull.id(), ranges };
            let Some(ranges) = pull.next(REQUEST_BYTES_MAX) else {
                let still_here = request(Vec::new());
                return finish(pull, &mut stream, &still_here).map_err(|error| match error {
                    PullError::Damaged(_) => End::Again(error.to_string()),
                    error => End::GiveUp(error.to_string()),
                });
            };
            let request = request(ranges);
            request.write(&mut stream).map_err(again)?;
            let bytes = match Answer::read(&mut stream).map_err(again)? {
                Answer::Bytes(bytes) => bytes,
                Answer::Gone(reason) | Answer::Failed(reason) => return Err(End::GiveUp(reason)),
            };
            pull.take(&request.ranges, &bytes).map_err(|error| End::GiveUp(error.to_string()))?;
            self.progress.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            self.progress.missing.store(pull.progress().1, Ordering::Relaxed);
        }
    }
}

/// Checks and syncs what has come, which may take minutes, and lets the giver know meanwhile that the taker is still there: else
/// the leader would take the snapshot for lost.
fn finish(pull: &mut Pull, stream: &mut PeerStream, still_here: &Request) -> Result<Staged, PullError> {
    let finished = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let told = scope.spawn(|| {
            loop {
                std::thread::park_timeout(STILL_HERE);
                if finished.load(Ordering::Acquire) {
                    return;
                }
                // The snapshot is here, whatever becomes of the connection.
                if still_here.write(stream).and_then(|()| Answer::read(stream)).is_err() {
                    return;
                }
            }
        });
        let staged = pull.finish();
        finished.store(true, Ordering::Release);
        told.thread().unpark();
        staged
    })
}

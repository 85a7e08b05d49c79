//! The one thread that ticks, drains what waits, feeds the groups and hands their outputs on. It never touches a disk,
//! and sleeps only where its peer sockets and its doorbell wake it.
//!
//! ```text
//! handles --requests--\                            /--> log-io    (Write)
//! log-io, apply --events--> [drain all, poll each] ---> apply     (Apply)
//! peer sockets --------/                           \--> peer sockets, completions, role watches
//! ```

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam_channel::Receiver;
use tokio::sync::{oneshot, watch};

use crate::group::{
    ApplyTask, ChangeError, Clock, GroupCore, GroupError, MEMBERS_MAX, MemberChange, Outputs, ReadTicket,
};
use crate::handle::{GroupStatus, Published, ReadError, Role, RoleView};
use crate::log::meta::{FirstFrame, Meta};
use crate::log::scrub::Run;
use crate::log_io::IoRequest;
use crate::queue::QueueSender;
use crate::seam::{Completions, Membership, Proposal, Stamper};
use crate::snapshot::work::SnapshotWork;
use crate::snapshot::{Checkpoint, Giver, Manifest, SnapshotId, Staged};
use crate::transport::{Handover, Links};
use crate::types::{FramePos, GroupId, LogPos, RaftId};

/// Length of a tick (raft-log.md section 6).
pub(crate) const TICK: Duration = Duration::from_millis(50);
/// Overdue ticks that are still delivered: a paused machine must not expire every time-out at once.
const TICKS_OVERDUE_MAX: u32 = 3;
/// Requests taken in one round, so that a flood of them cannot hold up ticks and peers.
const REQUESTS_PER_ROUND: usize = 8_192;
/// Requests that may wait; above it a handle says busy.
pub(crate) const REQUESTS_MAX: usize = 65_536;

/// How long what a follower has to apply may gather. Nobody waits for it there, and each round of apply costs a wake-up and a
/// write of its store.
const APPLY_LATE: Duration = Duration::from_millis(5);
/// Bytes of it, above which it is applied at once.
const APPLY_LATE_BYTES: u64 = 1 << 20;

/// Ticks for which a node stands back from an election for each group that it leads more than another member's, and at most:
/// about as long as the elections of those that go first take.
const STAND_BACK: usize = 2;
const STAND_BACK_MAX: usize = 4;

/// Ticks for which a node that leads `own` groups lets others go first, which lead so many.
fn stand_back(own: usize, others: impl Iterator<Item = usize>) -> usize {
    others.min().map_or(0, |least| (own.saturating_sub(least) * STAND_BACK).min(STAND_BACK_MAX))
}

/// What a handle asks.
pub(crate) enum LoopInput<S: Stamper> {
    Propose {
        slot: usize,
        proposal: Proposal<S>,
    },
    Read {
        slot: usize,
        answer: oneshot::Sender<Result<u64, ReadError>>,
    },
    Status {
        slot: usize,
        answer: oneshot::Sender<GroupStatus>,
    },
    Transfer {
        slot: usize,
        to: RaftId,
    },
    ChangeMembers {
        slot: usize,
        steps: Vec<MemberChange>,
        two_voters: bool,
        answer: oneshot::Sender<Result<u64, ChangeError>>,
    },
    MayChangeMembers {
        slot: usize,
        steps: Vec<MemberChange>,
        two_voters: bool,
        answer: oneshot::Sender<Result<(), ChangeError>>,
    },
}

/// What the other threads report.
pub(crate) enum LoopEvent {
    Written {
        slot: usize,
        number: u64,
        durable: FramePos,
    },
    Applied {
        slot: usize,
        at: FramePos,
        keep_from: LogPos,
    },
    /// A part of the log is not as it was written.
    Damaged {
        slot: usize,
        run: Run,
    },
    /// A connection to or from a peer, ready for use.
    Connected(Box<Handover>),
    /// A new connection to this peer was refused: nobody listens there.
    Refused {
        peer: u64,
    },
    /// A member says that this node's replica was removed from the group.
    Removed {
        group: GroupId,
        by: RaftId,
    },
    /// A replica that the log does not know yet has connected: where it can be answered.
    Met {
        group: GroupId,
        peer: RaftId,
        address: String,
    },
    /// A checkpoint can be given from now on, or could not be made.
    Checkpointed {
        slot: usize,
        manifest: Option<Box<Manifest>>,
    },
    /// A member reads files of a snapshot.
    Gives {
        group: GroupId,
        peer: RaftId,
    },
    /// The files of a snapshot are here, or will not come.
    Pulled {
        slot: usize,
        id: SnapshotId,
        staged: Option<Box<Staged>>,
    },
    Stop,
}

/// Whether the loop waits for apply to go on. Most of the time it does not: what was applied is then put into its inbox and
/// seen when something else wakes it, which saves a thread's wake-up per round and node.
#[derive(Default)]
pub(crate) struct ApplyWanted(AtomicBool);

impl ApplyWanted {
    /// For the loop, before it goes to sleep: what it waits for from here on. Afterwards it must look into its inbox once
    /// more: what came before rang nothing.
    fn set(&self, wanted: bool) {
        self.0.store(wanted, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// For apply, after it has put something into the inbox: whether it must ring. With the fence in [`Self::set`], at least
    /// one side sees what the other did.
    pub(crate) fn is_set(&self) -> bool {
        fence(Ordering::SeqCst);
        self.0.load(Ordering::Relaxed)
    }
}

/// A group as the loop holds it.
pub(crate) struct GroupSlot<S: Stamper> {
    pub(crate) core: GroupCore<S>,
    pub(crate) completions: Box<dyn Completions<S>>,
    pub(crate) published: Arc<Published>,
    pub(crate) queued_bytes: Arc<AtomicUsize>,
    pub(crate) role: watch::Sender<RoleView>,
    pub(crate) membership: watch::Sender<Arc<Membership>>,
    /// Where members are dialled whose addresses the log does not have: by the config, or as they said themselves.
    pub(crate) addresses: BTreeMap<RaftId, String>,
    pub(crate) snapshots: SnapshotWork,
}

impl<S: Stamper> GroupSlot<S> {
    /// Where the other members are dialled, and those of the config while this replica does not know the log's end.
    fn peers(&self) -> BTreeMap<RaftId, String> {
        let membership = self.core.membership();
        let told = membership.members.iter().filter(|(_, info)| !info.peer.is_empty());
        let mut peers: BTreeMap<RaftId, String> = told.map(|(id, info)| (*id, info.peer.clone())).collect();
        for (id, address) in self.addresses.iter().filter(|(id, _)| !membership.has_removed(**id)) {
            peers.entry(*id).or_insert_with(|| address.clone());
        }
        peers.remove(&self.core.raft_id());
        peers
    }
}

/// The loop's ends of all channels.
pub(crate) struct Channels<S: Stamper> {
    pub(crate) requests: Receiver<LoopInput<S>>,
    pub(crate) events: Receiver<LoopEvent>,
    pub(crate) log_io: QueueSender<IoRequest>,
    pub(crate) apply: QueueSender<ApplyRequest>,
    pub(crate) apply_wanted: Arc<ApplyWanted>,
}

/// What the apply thread is asked.
pub(crate) enum ApplyRequest {
    Apply(usize, ApplyTask),
    Digest(usize, oneshot::Sender<Result<(u64, u64), String>>),
    /// Makes a checkpoint; what it consists of goes to the function.
    Checkpoint(usize, Arc<Giver>, FirstFrame, CheckpointDone),
    DropCheckpoint(Arc<Giver>),
    Stop,
}

/// Takes a checkpoint from the apply thread, which it must not hold up.
pub(crate) type CheckpointDone = Box<dyn FnOnce(Option<Checkpoint>) + Send>;

/// The loop's state.
pub(crate) struct RaftLoop<S: Stamper> {
    slots: Vec<GroupSlot<S>>,
    by_group: HashMap<GroupId, usize>,
    channels: Channels<S>,
    links: Links,
    started: Instant,
    next_tick: Instant,
    reads: HashMap<ReadTicket, oneshot::Sender<Result<u64, ReadError>>>,
    next_read: ReadTicket,
    outputs: Outputs<S>,
    late: LateApply,
    stopping: bool,
}

/// What was handed to apply without waking it.
#[derive(Default)]
struct LateApply {
    bytes: u64,
    /// When apply is woken at the latest.
    due: Option<Instant>,
    /// Whether somebody waits for it.
    wanted: bool,
}

impl LateApply {
    fn put(&mut self, task: &ApplyTask, wanted: bool) {
        self.bytes += task.frames.iter().map(|(frame, _)| u64::from(frame.at.len)).sum::<u64>();
        self.wanted |= wanted;
        self.due.get_or_insert_with(|| Instant::now() + APPLY_LATE);
    }

    fn is_due(&self, wanted: bool) -> bool {
        self.due.is_some_and(|due| wanted || self.wanted || self.bytes >= APPLY_LATE_BYTES || Instant::now() >= due)
    }
}

impl<S: Stamper> RaftLoop<S> {
    pub(crate) fn new(slots: Vec<GroupSlot<S>>, channels: Channels<S>, links: Links, started: Instant) -> Self {
        let mut links = links;
        slots.iter().for_each(|slot| links.set_peers(slot.core.group(), &slot.peers()));
        let by_group = slots.iter().enumerate().map(|(slot, group)| (group.core.group(), slot)).collect();
        RaftLoop {
            slots,
            by_group,
            channels,
            links,
            started,
            next_tick: Instant::now() + TICK,
            reads: HashMap::new(),
            next_read: 0,
            outputs: Outputs::default(),
            late: LateApply::default(),
            stopping: false,
        }
    }

    /// Runs until it is told to stop; gives the closing meta of each group back.
    ///
    /// # Errors
    /// A group that cannot go on ends the node.
    pub(crate) fn run(mut self) -> Result<Vec<Meta>, GroupError> {
        while !self.stopping {
            self.ask_apply();
            let wake = self.slots.iter().filter_map(|slot| slot.core.wake_at()).min();
            let deadline = wake.map_or(self.next_tick, |at| self.next_tick.min(self.started + at));
            let deadline = self.late.due.map_or(deadline, |due| deadline.min(due));
            self.links.wait(deadline.saturating_duration_since(Instant::now()));
            let now = clock(self.started);
            self.slots.iter_mut().for_each(|slot| slot.core.set_clock(now));
            self.tick();
            self.drain();
            self.poll()?;
        }
        // Connections of waiting readers end here: their oneshots are dropped, which they take for "does not lead".
        Ok(self.slots.iter_mut().map(|slot| slot.core.closing_meta()).collect())
    }

    /// Wakes apply, if there is something for it that should not wait; has it ring when it has gone on, if a group waits for
    /// that.
    fn ask_apply(&mut self) {
        let wanted = self.slots.iter().any(|slot| slot.core.waits_for_apply());
        self.channels.apply_wanted.set(wanted);
        if self.late.is_due(wanted) {
            self.late = LateApply::default();
            self.channels.apply.wake();
        }
        if wanted && !self.channels.events.is_empty() {
            self.links.bell().ring();
        }
    }

    fn tick(&mut self) {
        let now = Instant::now();
        if now < self.next_tick {
            return;
        }
        let overdue = 1 + ((now - self.next_tick).as_nanos() / TICK.as_nanos()) as u32;
        let deliver = if overdue > TICKS_OVERDUE_MAX {
            self.next_tick = now + TICK;
            1
        } else {
            self.next_tick += TICK * overdue;
            overdue
        };
        self.links.tick(now);
        for _ in 0..deliver {
            self.slots.iter_mut().for_each(|slot| slot.core.tick());
        }
        // Not in each round: it changes with the clock, and takes a look at all clocks of the group.
        for slot in &self.slots {
            slot.published.set_unfit(slot.core.unfit());
            let (damaged, mended) = slot.core.repairs();
            slot.published.damaged.store(damaged, Ordering::Relaxed);
            slot.published.mended.store(mended, Ordering::Relaxed);
        }
    }

    fn drain(&mut self) {
        let mut again = false;
        while let Ok(event) = self.channels.events.try_recv() {
            match event {
                LoopEvent::Written { slot, number, durable } => self.slots[slot].core.written(number, durable),
                LoopEvent::Applied { slot, at, keep_from } => {
                    self.slots[slot].core.applied(at);
                    self.slots[slot].core.keep_log_from(keep_from);
                }
                LoopEvent::Damaged { slot, run } => self.slots[slot].core.damaged(run),
                LoopEvent::Connected(handover) => self.links.connected(*handover),
                LoopEvent::Refused { peer } => self.suspect(peer),
                LoopEvent::Removed { group, by } => {
                    if let Some(slot) = self.by_group.get(&group) {
                        self.slots[*slot].core.told_removed(by);
                    }
                }
                LoopEvent::Met { group, peer, address } => self.meet(group, peer, address),
                LoopEvent::Checkpointed { slot, manifest } => {
                    self.slots[slot].core.checkpoint_made(manifest.as_deref());
                }
                LoopEvent::Gives { group, peer } => {
                    if let Some(slot) = self.by_group.get(&group) {
                        self.slots[*slot].core.gives(peer);
                    }
                }
                LoopEvent::Pulled { slot, id, staged } => {
                    self.slots[slot].core.pulled(id, staged.map(|staged| *staged));
                }
                LoopEvent::Stop => self.stopping = true,
            }
        }
        let (slots, by_group) = (&mut self.slots, &self.by_group);
        self.links.receive(|message| {
            if let Some(slot) = by_group.get(&message.group) {
                slots[*slot].core.step(message);
            }
        });
        for (group, peer) in self.links.take_lost() {
            if let Some(slot) = self.by_group.get(&group) {
                self.slots[*slot].core.unreachable(peer);
            }
        }
        for taken in 0.. {
            if taken == REQUESTS_PER_ROUND {
                again = true;
                break;
            }
            let Ok(request) = self.channels.requests.try_recv() else {
                break;
            };
            self.request(request);
        }
        if again {
            self.links.bell().ring();
        }
    }

    /// The process at a peer has ended: the groups that it led elect another leader. Where another member's node leads fewer
    /// groups than this one, that one is to go first. A client with an old route then still finds different nodes behind the
    /// groups, when it tries them one after the other.
    fn suspect(&mut self, gone: u64) {
        let led = |replicas: &[(GroupId, RaftId)]| {
            let leads = |(of, id): &&(GroupId, RaftId)| {
                self.by_group.get(of).is_some_and(|slot| self.slots[*slot].core.known_leader() == Some(*id))
            };
            replicas.iter().filter(leads).count()
        };
        let others: Vec<_> = self.links.connected_but(gone).map(|replicas| (replicas, led(replicas))).collect();
        let own = self.slots.iter().filter(|slot| slot.core.known_leader() == Some(slot.core.raft_id())).count();
        let suspected = self.links.replicas_of(gone).into_iter().filter_map(|(group, peer)| {
            let slot = *self.by_group.get(&group)?;
            let members = others.iter().filter(|(replicas, _)| replicas.iter().any(|(of, _)| *of == group));
            Some((slot, peer, stand_back(own, members.map(|(_, leads)| *leads))))
        });
        for (slot, peer, ticks) in suspected.collect::<Vec<_>>() {
            self.slots[slot].core.suspect(peer, ticks);
        }
    }

    /// A member that came in behind the end of this replica's log must be answered, or its log never gets here.
    fn meet(&mut self, group: GroupId, peer: RaftId, address: String) {
        let Some(slot) = self.by_group.get(&group) else { return };
        let slot = &mut self.slots[*slot];
        let room = slot.addresses.len() < 2 * MEMBERS_MAX || slot.addresses.contains_key(&peer);
        if peer > slot.core.membership().highest && !address.is_empty() && room {
            slot.addresses.insert(peer, address);
            self.links.set_peers(group, &slot.peers());
        }
    }

    fn request(&mut self, request: LoopInput<S>) {
        match request {
            LoopInput::Propose { slot, proposal } => {
                self.slots[slot].queued_bytes.fetch_sub(proposal.size_hint, Ordering::Relaxed);
                self.slots[slot].core.propose(proposal);
            }
            LoopInput::Read { slot, answer } => {
                self.next_read += 1;
                self.reads.insert(self.next_read, answer);
                self.slots[slot].core.read_index(self.next_read);
            }
            LoopInput::Status { slot, answer } => {
                // The asker may have gone away.
                let _ = answer.send(self.slots[slot].core.status());
            }
            LoopInput::Transfer { slot, to } => self.slots[slot].core.transfer_leader(to),
            LoopInput::ChangeMembers { slot, steps, two_voters, answer } => {
                let _ = answer.send(self.slots[slot].core.change_membership(&steps, two_voters));
            }
            LoopInput::MayChangeMembers { slot, steps, two_voters, answer } => {
                let _ = answer.send(self.slots[slot].core.may_change_membership(&steps, two_voters));
            }
        }
    }

    fn poll(&mut self) -> Result<(), GroupError> {
        for slot in 0..self.slots.len() {
            let group = &mut self.slots[slot];
            group.core.poll(clock(self.started), &mut self.outputs)?;
            let out = &mut self.outputs;
            if let Some(membership) = out.membership.take() {
                let membership = Arc::new(membership);
                self.links.set_peers(group.core.group(), &group.peers());
                self.links.set_membership(group.core.group(), &membership);
                group.membership.send_replace(membership);
            }
            for message in out.messages.drain(..) {
                let (id, peer) = (message.group, message.raft.to);
                if !self.links.send(&message) {
                    group.core.unreachable(peer);
                    tracing::debug!(group = %id, peer, "message dropped: no connection, or its queue is full");
                }
            }
            self.links.flush();
            for task in out.writes.drain(..) {
                // Log-io ends only after this loop.
                let _ = self.channels.log_io.send(IoRequest::Write(slot, Box::new(task)));
            }
            if let Some(first) = out.remove_before.take() {
                let _ = self.channels.log_io.send(IoRequest::RemoveBefore(slot, first));
            }
            // Readers wait on a leader only.
            let leads = matches!(group.core.role().role, Role::Leader { .. });
            for task in out.applies.drain(..) {
                if task.restore.is_some() {
                    let _ = self.channels.apply.send(ApplyRequest::Apply(slot, task));
                    continue;
                }
                self.late.put(&task, leads);
                let _ = self.channels.apply.put(ApplyRequest::Apply(slot, task));
            }
            if let Some(order) = out.checkpoint.take() {
                let _ = self.channels.apply.send(group.snapshots.checkpoint(slot, order));
            }
            if std::mem::take(&mut out.cancel_pull) {
                group.snapshots.cancel_pull();
            }
            if let Some(order) = out.pull.take() {
                // Unknown for now: the connection fails, and the snapshot is sent again.
                let address = group.peers().remove(&order.from).unwrap_or_default();
                group.snapshots.pull(slot, order, address);
            }
            group.published.commit.store(group.core.commit_index(), Ordering::Release);
            if let Some(role) = out.role.take() {
                group.role.send_replace(role);
            }
            if !out.done.is_empty() {
                group.completions.complete(&mut out.done);
                out.done.clear();
            }
            for (ticket, result) in out.reads.drain(..) {
                if let Some(answer) = self.reads.remove(&ticket) {
                    let _ = answer.send(result);
                }
            }
        }
        Ok(())
    }
}

/// Both clocks, the monotonic one since `started`.
pub(crate) fn clock(started: Instant) -> Clock {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Clock { mono: started.elapsed(), wall_ms: wall.as_millis() as u64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A node that leads more would take every group that loses its leader, as often as not; one that stands back for nobody,
    /// or for ever, would only cost time.
    #[test]
    fn a_node_stands_back_for_those_that_lead_less() {
        assert_eq!(stand_back(1, [0].into_iter()), STAND_BACK);
        assert_eq!(stand_back(2, [3, 1].into_iter()), STAND_BACK);
        assert_eq!(stand_back(40, [0].into_iter()), STAND_BACK_MAX);
        assert_eq!(stand_back(1, [1, 2].into_iter()), 0);
        assert_eq!(stand_back(3, std::iter::empty()), 0);
    }
}

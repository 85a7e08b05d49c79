//! Mending what has gone bad below the commit index: the same bytes are fetched from another member, proved, and written
//! over what is there.
//!
//! ```text
//!  scrub -- damaged run --> asks a member for its frames --> their chain is proved --> log-io rewrites and syncs
//!                              ^                                                            |
//!                              '---- another member, when it is still not whole <-- read again from the disk
//! ```
//! Nothing is ever cut off for it: the frames around the damage say what must be there. Until it is mended the replica
//! should not lead ([`Unfit::Damaged`](crate::handle::Unfit)): as a leader it could not bring a lagging member past the
//! damage. It votes as ever, since its log's end is known.

use std::collections::BTreeMap;

use raft::eraftpb::{Message, MessageType};

use super::{GroupCore, Outputs, WriteTask};
use crate::log::frame::{Blank, Header};
use crate::log::scrub::Run;
use crate::log::writer::{FrameBytes, WriteJob};
use crate::plant::{self, Bug};
use crate::seam::Stamper;
use crate::transport::codec::{PeerMessage, WireFrame};
use crate::types::{FrameKind, FramePos, RaftId};

/// The type that carries questions for frames and their answers; raft-rs never sends it.
pub(crate) const CARRIER: MessageType = MessageType::MsgUnreachable;

/// Runs that are mended at a time; the next pass over the log finds the others again.
const OPEN_MAX: usize = 64;

/// Runs that one tick reads from the disk: the raft loop waits for it.
const LOOKS_MAX: u32 = 4;

/// Ticks after which another member is asked, or what was written is looked at.
const PATIENCE_TICKS: u32 = 20;
const WRITE_TICKS: u32 = 4;

/// Bytes of frames in an answer.
const ANSWER_BYTES_MAX: u64 = 18 << 20;

/// Damaged runs, and what was mended.
#[derive(Debug, Default)]
pub(super) struct Repairs {
    /// By the index of their first frame.
    open: BTreeMap<u64, Repair>,
    mended: u64,
    /// Who is asked next.
    turn: usize,
    to_send: Vec<(Message, Vec<WireFrame>)>,
    jobs: Vec<WriteJob>,
    /// What a planted bug is about to cut off.
    cut_off: Option<FramePos>,
}

#[derive(Debug)]
struct Repair {
    run: Run,
    /// Ticks until something must happen again.
    wait: u32,
    /// Whether good bytes have been handed to log-io.
    written: bool,
}

impl<S: Stamper> GroupCore<S> {
    /// Damaged runs that are not mended yet, and how many have been.
    pub fn repairs(&self) -> (u64, u64) {
        (self.repairs.open.len() as u64, self.repairs.mended)
    }

    /// Whether damage keeps this replica from leading: only where somebody else could.
    pub(super) fn is_damaged(&self) -> bool {
        !self.repairs.open.is_empty() && self.membership.voters.iter().any(|voter| *voter != self.raft_id)
    }

    /// Damage that was found at the start.
    pub(super) fn note_damage(&mut self, run: Run) {
        tracing::error!(group = %self.group, pos = %run.begin, from = run.prev.index + 1, to = run.end.index, "the log is damaged here: fetching these entries from another member");
        self.repairs.open.insert(run.prev.index + 1, Repair { run, wait: 0, written: false });
    }

    /// Highest index that may be committed here: in front of damage that apply has not passed, and nothing while there is no
    /// state to apply it to.
    pub(super) fn commit_hold(&self) -> u64 {
        if self.is_stateless() {
            return self.handed_to_apply;
        }
        if self.repairs.open.is_empty() {
            return u64::MAX;
        }
        hold(self.repairs.open.values().map(|repair| &repair.run), self.handed_to_apply)
    }

    /// A part of the log is not as it was written. Above the commit index it may just be about to be replaced.
    pub fn damaged(&mut self, mut run: Run) {
        // It may have been looked up before the log was cut behind it.
        run.blank = run.blank.filter(|blank| self.stands(&run.end, *blank));
        let open = &mut self.repairs.open;
        let committed = self.raft.raft.raft_log.committed;
        if run.end.index > committed || open.len() >= OPEN_MAX || open.contains_key(&(run.prev.index + 1)) {
            return;
        }
        let (from, to) = (run.prev.index + 1, run.end.index);
        tracing::error!(group = %self.group, pos = %run.begin, from, to, "the log is damaged here: fetching these entries from another member");
        open.insert(from, Repair { run, wait: 0, written: false });
        if plant::on(Bug::DamageCutOff) {
            self.repairs.cut_off = Some(run.prev);
        }
    }

    /// Whether this is the blank behind a frame in the log as it is after everything that was handed to log-io: committed
    /// entries stay, but what was a blank behind the last of them is theirs who came after a cut.
    fn stands(&self, before: &FramePos, (pos, len): Blank) -> bool {
        self.raft.store().frame_at(before.index + 1).is_ok_and(|next| next.pos == pos + len)
    }

    /// The log goes on differently behind `keep`: damage there, noted at a start above the commit index, is no more.
    pub(super) fn damage_replaced(&mut self, keep: &FramePos) {
        self.repairs.open.retain(|_, repair| {
            if repair.run.end.index > keep.index {
                (repair.run.end, repair.written) = (*keep, false);
            }
            if repair.run.end.index == keep.index {
                // What follows may have room in the same segment now.
                repair.run.blank = None;
            }
            repair.run.prev.index < keep.index
        });
    }

    /// Another log, verified frame by frame, takes the place of this one.
    pub(super) fn damage_gone(&mut self) {
        (self.repairs.open, self.repairs.jobs) = (BTreeMap::new(), Vec::new());
    }

    /// One tick: asks, asks another one, or looks at what was written.
    pub(super) fn repair_tick(&mut self) {
        if self.repairs.open.is_empty() {
            return;
        }
        let mut peers: Vec<RaftId> =
            self.raft.raft.prs().iter().map(|(id, _)| *id).filter(|id| *id != self.raft_id).collect();
        peers.sort_unstable();
        let (first_kept, view) = (self.raft.store().first_kept(), self.raft.store().view().clone());
        let mut mended_runs = Vec::new();
        let mut looks = 0;
        let Repairs { open, mended, turn, to_send, .. } = &mut self.repairs;
        let (group, from, term) = (self.group, self.raft_id, self.raft.raft.term);
        open.retain(|index, repair| {
            if *index < first_kept {
                return false;
            }
            repair.wait = repair.wait.saturating_sub(1);
            if repair.wait > 0 || looks == LOOKS_MAX {
                return true;
            }
            looks += 1;
            let Run { begin, end, .. } = repair.run;
            // Also when nothing was written: a read may have failed for a moment.
            if view.is_whole(&repair.run).is_ok_and(|whole| whole) {
                *mended += 1;
                mended_runs.push(repair.run);
                tracing::info!(%group, pos = %begin, from = *index, to = end.index, "the log is whole again here");
                return false;
            }
            (repair.written, repair.wait) = (false, PATIENCE_TICKS);
            if peers.is_empty() {
                return true;
            }
            *turn = (*turn + 1) % peers.len();
            let mut ask =
                Message { from, to: peers[*turn], term, index: *index, commit: end.index, ..Message::default() };
            ask.set_msg_type(CARRIER);
            to_send.push((ask, Vec::new()));
            true
        });
        // A start that passed over them could not see what they hold.
        for run in mended_runs.iter().filter(|run| run.end.index > self.applied.index) {
            let frames = view.iter(run.prev.index + 1).take_while(Result::is_ok).flatten();
            let found = frames.take_while(|frame| frame.at.index <= run.end.index);
            let changes = |kind| matches!(kind, FrameKind::ConfChange | FrameKind::ConfChangeV2);
            let found = found.filter(|frame| changes(frame.kind)).map(|frame| frame.at.index);
            self.conf_indexes.extend(found.filter(|index| *index > self.applied.index));
        }
    }

    /// A member asks for frames, or sends them.
    pub(super) fn hear_fetch(&mut self, message: Message, frames: Vec<WireFrame>) {
        if message.reject {
            self.mend(&message, &frames);
            return;
        }
        let (from, to) = (message.index, message.commit);
        let mut answer =
            Message { from: self.raft_id, to: message.from, index: from, commit: to, ..Message::default() };
        answer.term = self.raft.raft.term;
        answer.reject = true;
        answer.set_msg_type(CARRIER);
        // Also what is not known to be committed here: whoever asks proves that it is what was there, and those who know may be
        // the ones that wait for it.
        let frames = self.frames_between(from, to);
        self.repairs.to_send.push((answer, frames.unwrap_or_default()));
    }

    fn frames_between(&self, from: u64, to: u64) -> Option<Vec<WireFrame>> {
        let count = usize::try_from(to.checked_sub(from)?).ok()? + 1;
        let mut bytes = 0;
        let mut frames = Vec::new();
        for frame in self.raft.store().view().iter(from).take(count) {
            let frame = frame.ok()?;
            bytes += u64::from(frame.at.len);
            if bytes > ANSWER_BYTES_MAX {
                return None;
            }
            frames.push(WireFrame { header: Header::of_frame(&frame).to_bytes(), payload: frame.payload });
        }
        (frames.len() == count).then_some(frames)
    }

    fn mend(&mut self, message: &Message, sent: &[WireFrame]) {
        let layout = self.raft.store().layout();
        let Some(repair) = self.repairs.open.get_mut(&message.index).filter(|repair| !repair.written) else { return };
        let proved = repair.run.prove(&layout, sent);
        let proved = if plant::on(Bug::RepairUnproved) { unproved(sent) } else { proved };
        let Some(frames) = proved else {
            tracing::warn!(group = %self.group, peer = message.from, from = message.index, "has not the entries that belong here");
            // The next one is asked with the next tick.
            repair.wait = repair.wait.min(1);
            return;
        };
        (repair.written, repair.wait) = (true, WRITE_TICKS);
        if plant::on(Bug::RepairUnwritten) {
            return;
        }
        self.repairs.jobs.push(WriteJob { rewrite: frames, reblank: repair.run.blank, ..WriteJob::default() });
    }

    /// Hands out what is to be said and written.
    pub(super) fn carry_repairs(&mut self, out: &mut Outputs<S>) {
        for (message, frames) in std::mem::take(&mut self.repairs.to_send) {
            out.messages.push(PeerMessage::new(self.group, self.meta.run, message, frames, self.clock.wall_ms));
        }
        if let Some(keep) = self.repairs.cut_off.take() {
            // Only a planted bug.
            let job = WriteJob { truncate_to: Some(keep), ..WriteJob::default() };
            out.writes.push(WriteTask { number: self.last_number, job, tail: keep });
        }
        if self.held.is_empty() {
            for mut job in std::mem::take(&mut self.repairs.jobs) {
                let last = job.rewrite.last().map(|frame| frame.at);
                job.reblank = job.reblank.filter(|blank| last.is_some_and(|last| self.stands(&last, *blank)));
                let number = self.last_number;
                self.in_flight.insert(number);
                self.health.disk_asked(self.clock.mono);
                out.writes.push(WriteTask { number, job, tail: self.raft.store().tail() });
            }
        }
    }
}

/// What a planted bug writes: whatever came, where it says that it belongs.
fn unproved(sent: &[WireFrame]) -> Option<Vec<FrameBytes>> {
    let frame = |wire: &WireFrame| {
        let at = Header::decode(&wire.header).ok()?.at();
        Some(FrameBytes { at, header: wire.header, payload: wire.payload.clone(), blank: None })
    };
    sent.iter().map(frame).collect()
}

/// Highest index in front of all damage that is not yet handed to apply.
pub(super) fn hold<'a>(damage: impl Iterator<Item = &'a Run>, applied: u64) -> u64 {
    damage.filter(|run| run.end.index > applied).map(|run| run.prev.index).min().unwrap_or(u64::MAX)
}

/// Whether this is about a repair; raft-rs must not see it.
pub(super) fn is_fetch(message: &Message) -> bool {
    message.get_msg_type() == CARRIER
}

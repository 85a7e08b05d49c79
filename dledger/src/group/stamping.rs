//! How proposals become entries: batched, checked against the projection, placed, stamped, proposed. Leader only.
//!
//! The place of a frame is a pure function of the log before it, so the leader knows every physical offset before
//! raft-rs assigns the index. A wrong prediction would put a wrong offset inside a durable message for ever: it is
//! asserted twice, here and where the entry is placed.

use bytes::{Bytes, BytesMut};
use raft::eraftpb::{Entry, Message, MessageType};

use super::{GroupCore, Leadership, Outputs, Pending};
use crate::entry;
use crate::log::frame::{frame_len, make_header};
use crate::log::writer::FrameBytes;
use crate::seam::{Outcome, Proposal, Stamper, Verdict};
use crate::types::{FRAME_HEADER_LEN, FrameKind};

/// Most commands that an item may ask for in front of it.
const COMMANDS_BEFORE_MAX: usize = 2;

/// Items admitted to one frame that is not closed yet.
struct Batch<S: Stamper> {
    items: Vec<(S::Item, S::Ticket)>,
    len: usize,
    records: usize,
}

impl<S: Stamper> Batch<S> {
    fn new() -> Self {
        Batch { items: Vec::new(), len: 0, records: 0 }
    }
}

/// What one round of stamping made.
struct Stamped<S: Stamper> {
    entries: Vec<Entry>,
    bytes: usize,
    pending: Vec<Pending<S>>,
}

impl<S: Stamper> GroupCore<S> {
    /// A command of the layer above that belongs to nobody's request.
    pub(super) fn propose_genesis(&mut self, command: Bytes) {
        self.own_command = Some(command);
    }

    /// Stamps and proposes what waits, up to the limits of a round. Returns whether anything was proposed.
    pub(super) fn stamp_queue(&mut self, out: &mut Outputs<S>) -> bool {
        let Leadership::Serving { term } = self.leadership else {
            return false;
        };
        let uncommitted = self.raft.store().tail().end().0 - self.committed_at.end().0;
        if self.raft.raft.lead_transferee.is_some()
            || uncommitted > self.tuning.uncommitted_bytes_max
            || self.apply_lag_bytes() > self.tuning.apply_lag_bytes_max
            || self.unwritten_bytes > self.tuning.unwritten_bytes_max
        {
            return false;
        }
        assert_eq!(self.raft.raft.raft_log.last_index(), self.raft.store().tail().index, "a Ready was left unplaced");
        if self.queue.is_empty() && self.own_command.is_none() {
            return false;
        }

        let mut stamped = Stamped { entries: Vec::new(), bytes: 0, pending: Vec::new() };
        if let Some(command) = self.own_command.take() {
            self.close_command(term, command, &mut stamped);
        }
        let mut batch = Batch::new();
        let now_ms = self.stamp_ms();
        while stamped.bytes + batch.len < self.tuning.round_bytes_max {
            let Some(proposal) = self.queue.pop_front() else {
                break;
            };
            self.queue_bytes -= proposal.size_hint;
            self.admit(term, now_ms, proposal, &mut batch, &mut stamped, out);
        }
        self.close_batch(term, FrameKind::Messages, &mut batch, &mut stamped);
        if stamped.entries.is_empty() {
            self.join_pending(stamped.pending);
            return false;
        }
        self.submit(stamped, out)
    }

    fn admit(
        &mut self,
        term: u64,
        now_ms: u64,
        mut proposal: Proposal<S>,
        batch: &mut Batch<S>,
        stamped: &mut Stamped<S>,
        out: &mut Outputs<S>,
    ) {
        let kind = self.stamper.kind(&proposal.item);
        let layout = self.raft.store().layout();
        let batch_max = self.tuning.batch_bytes_max.min(layout.max_payload_len());
        let full = batch.len + proposal.size_hint > batch_max || batch.records >= self.tuning.batch_records_max;
        if full || kind != FrameKind::Messages {
            self.close_batch(term, FrameKind::Messages, batch, stamped);
        }
        let mut verdict = self.stamper.admit(&mut proposal.item, self.next_index(), now_ms);
        for _ in 0..COMMANDS_BEFORE_MAX {
            if !matches!(verdict, Verdict::First) {
                break;
            }
            self.close_batch(term, FrameKind::Messages, batch, stamped);
            let command = self.stamper.precede(&mut proposal.item, self.next_index(), now_ms);
            self.close_command(term, command, stamped);
            verdict = self.stamper.admit(&mut proposal.item, self.next_index(), now_ms);
        }
        match verdict {
            Verdict::Take { len, records } => {
                // Other kinds have a frame of their own, and a hint that is only one.
                let announced = kind != FrameKind::Messages || len <= proposal.size_hint;
                assert!(announced, "an item of {len} bytes announced {}", proposal.size_hint);
                batch.len += len;
                assert!(batch.len <= layout.max_payload_len(), "an item of {len} bytes fits into no frame");
                batch.records += usize::from(records);
                batch.items.push((proposal.item, proposal.ticket));
                if kind != FrameKind::Messages {
                    self.close_batch(term, kind, batch, stamped);
                }
            }
            Verdict::Refuse(answer) => out.done.push((proposal.ticket, Outcome::Answered(answer))),
            Verdict::Join { index, answer } => {
                // raft-rs knows nothing of what this round stamps, and says term 0.
                let log = &self.raft.raft.raft_log;
                let term = if index > log.last_index() { term } else { log.term(index).unwrap_or(term) };
                stamped.pending.push(Pending { index, term, ticket: proposal.ticket, answer });
            }
            Verdict::First => unreachable!("a stamper asks for no more commands than that"),
        }
    }

    fn next_index(&self) -> u64 {
        self.raft.store().tail().index + 1
    }

    /// Gives the batch its place, has it written and makes its entry.
    fn close_batch(&mut self, term: u64, kind: FrameKind, batch: &mut Batch<S>, stamped: &mut Stamped<S>) {
        if batch.items.is_empty() {
            return;
        }
        let batch = std::mem::replace(batch, Batch::new());
        let store = self.raft.store();
        let place = store.layout().place(store.tail().end(), frame_len(batch.len));
        let payload_at = place.at + FRAME_HEADER_LEN as u64;
        let index = self.next_index();
        let mut payload = BytesMut::with_capacity(batch.len);
        for (mut item, ticket) in batch.items {
            self.stamper.write(&mut item, payload_at + payload.len() as u64, &mut payload);
            let answer = self.stamper.answer(item, index);
            stamped.pending.push(Pending { index, term, ticket, answer });
        }
        assert_eq!(payload.len(), batch.len, "the stamper wrote another length than it announced");
        let records = u16::try_from(batch.records).expect("the stamper bounds the records of a frame");
        self.close_frame(term, kind, records, payload.freeze(), stamped);
    }

    fn close_command(&mut self, term: u64, command: Bytes, stamped: &mut Stamped<S>) {
        self.close_frame(term, FrameKind::Command, 0, command, stamped);
    }

    fn close_frame(&mut self, term: u64, kind: FrameKind, records: u16, payload: Bytes, stamped: &mut Stamped<S>) {
        let store = self.raft.mut_store();
        let (prev, layout) = (store.tail(), store.layout());
        let (at, header, blank) = make_header(&layout, &prev, prev.index + 1, term, kind, records, &payload);
        store.prepare(FrameBytes { at, header, payload: payload.clone(), blank });
        self.measuring.frame(records, payload.len());
        stamped.bytes += payload.len();
        stamped.entries.push(Entry { data: payload, context: entry::context(kind, records), ..Entry::default() });
    }

    /// Proposes all entries of a round in one message: one broadcast, one Ready.
    fn submit(&mut self, stamped: Stamped<S>, out: &mut Outputs<S>) -> bool {
        let mut message = Message { from: self.raft_id, ..Message::default() };
        message.set_msg_type(MessageType::MsgPropose);
        message.set_entries(stamped.entries.into());
        match self.raft.step(message) {
            Ok(()) => {
                let last = self.raft.raft.raft_log.last_index();
                assert_eq!(last, self.raft.store().tail().index, "raft-rs gave the entries other indexes");
                self.measuring.stamped(last, self.clock.mono);
                self.join_pending(stamped.pending);
                true
            }
            Err(error) => {
                // Not one of the reasons that were excluded above: a leader that is no member any more. Nothing was
                // appended, but the projection holds it: this leadership ends.
                tracing::warn!(group = %self.group, %error, "proposal dropped; stepping down");
                self.raft.mut_store().drop_prepared();
                let outcome = || Outcome::NotLeader { leader: None, term: self.raft.raft.term };
                out.done.extend(stamped.pending.into_iter().map(|pending| (pending.ticket, outcome())));
                let term = self.raft.raft.term;
                self.raft.raft.become_follower(term, 0);
                self.draw_election_timeout();
                true
            }
        }
    }

    /// Adds to the list of those that wait for a commit, keeping it ascending. Almost always an append at the end.
    fn join_pending(&mut self, pending: Vec<Pending<S>>) {
        for new in pending {
            let at = if self.pending.back().is_none_or(|last| last.index <= new.index) {
                self.pending.len()
            } else {
                self.pending.partition_point(|old| old.index <= new.index)
            };
            self.pending.insert(at, new);
        }
    }
}

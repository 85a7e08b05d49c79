//! ReadIndex (Raft thesis 6.4): one quorum round confirms the leadership for every read that waits, then they wait
//! until apply has reached the commit index of that round. Only a leader that serves takes reads.

use std::collections::VecDeque;
use std::time::Duration;

use raft::ReadState;

use super::{GroupCore, Leadership, Outputs, ReadTicket};
use crate::handle::ReadError;
use crate::plant::{self, Bug};
use crate::seam::Stamper;

/// Reads that may wait at once; above it they are told so at once.
const READS_MAX: usize = 65_536;

/// A read and the time at which it is given up.
type Waiting = (ReadTicket, Duration);

/// A quorum round under way.
struct Round {
    context: u64,
    asked_at: Duration,
    reads: Vec<Waiting>,
}

/// Reads in their three stages.
#[derive(Default)]
pub(super) struct Reads {
    /// For the next round: a round already under way may have been asked before they came.
    arrived: Vec<Waiting>,
    round: Option<Round>,
    /// Confirmed up to an index that apply has not reached.
    confirmed: VecDeque<(u64, Vec<Waiting>)>,
    failed: Vec<(ReadTicket, ReadError)>,
    next_context: u64,
    count: usize,
}

impl Reads {
    /// Whether no read waits.
    pub(super) fn is_empty(&self) -> bool {
        self.count == 0 && self.failed.is_empty()
    }

    /// When a round must be asked again, or a read be given up.
    pub(super) fn wake_at(&self) -> Option<Duration> {
        let round = self.round.as_ref().and_then(|round| round.reads.first());
        let confirmed = self.confirmed.front().and_then(|(_, reads)| reads.first());
        [round, confirmed, self.arrived.first()].into_iter().flatten().map(|(_, until)| *until).min()
    }
}

impl<S: Stamper> GroupCore<S> {
    /// Asks for a read barrier. Reached or failed in a later [`GroupCore::poll`].
    pub fn read_index(&mut self, ticket: ReadTicket) {
        if !matches!(self.leadership, Leadership::Serving { .. }) {
            self.reads.failed.push((ticket, self.not_leader()));
        } else if self.reads.count >= READS_MAX {
            self.reads.failed.push((ticket, ReadError::Busy));
        } else {
            self.reads.count += 1;
            self.reads.arrived.push((ticket, self.clock.mono + self.tuning.read_timeout));
        }
    }

    fn not_leader(&self) -> ReadError {
        ReadError::NotLeader { leader: self.known_leader(), term: self.raft.raft.term }
    }

    /// A quorum has confirmed a round.
    pub(super) fn read_confirmed(&mut self, state: ReadState) {
        let Some(context) = state.request_ctx.as_slice().try_into().ok().map(u64::from_le_bytes) else {
            return;
        };
        if self.reads.round.as_ref().is_some_and(|round| round.context == context) {
            let round = self.reads.round.take().expect("just seen");
            self.reads.confirmed.push_back((state.index, round.reads));
        }
    }

    /// Begins a quorum round for the reads that wait, or asks an unanswered one again.
    pub(super) fn ask_quorum(&mut self) {
        let now = self.clock.mono;
        if plant::on(Bug::StaleLeaderReads) {
            return;
        }
        let again = match &mut self.reads.round {
            None if self.reads.arrived.is_empty() => None,
            None => {
                self.reads.next_context += 1;
                let context = self.reads.next_context;
                let reads = std::mem::take(&mut self.reads.arrived);
                self.reads.round = Some(Round { context, asked_at: now, reads });
                Some(context)
            }
            Some(round) if now >= round.asked_at + self.tuning.read_retry => {
                // A lost heartbeat is not asked for again by raft-rs. A new context: answers to the old one must not
                // count for a question that was asked later.
                round.asked_at = now;
                self.reads.next_context += 1;
                round.context = self.reads.next_context;
                Some(round.context)
            }
            Some(_) => None,
        };
        if let Some(context) = again {
            self.raft.read_index(context.to_le_bytes().to_vec());
        }
    }

    /// Ends what can be ended.
    pub(super) fn poll_reads(&mut self, out: &mut Outputs<S>) {
        let now = self.clock.mono;
        out.reads.extend(self.reads.failed.drain(..).map(|(ticket, error)| (ticket, Err(error))));
        if plant::on(Bug::StaleLeaderReads) {
            let applied = self.applied.index;
            let arrived = std::mem::take(&mut self.reads.arrived);
            self.reads.count -= arrived.len();
            out.reads.extend(arrived.into_iter().map(|(ticket, _)| (ticket, Ok(applied))));
        }
        while self.reads.confirmed.front().is_some_and(|(index, _)| *index <= self.applied.index) {
            let (index, reads) = self.reads.confirmed.pop_front().expect("just seen");
            self.reads.count -= reads.len();
            out.reads.extend(reads.into_iter().map(|(ticket, _)| (ticket, Ok(index))));
        }
        self.give_up_reads(now, out);
    }

    fn give_up_reads(&mut self, now: Duration, out: &mut Outputs<S>) {
        let timed_out = ReadError::TimedOut(self.tuning.read_timeout.as_millis() as u64);
        let Reads { arrived, round, confirmed, count, .. } = &mut self.reads;
        let lists = round.iter_mut().map(|round| &mut round.reads);
        let lists = lists.chain(confirmed.iter_mut().map(|(_, reads)| reads)).chain(std::iter::once(arrived));
        for list in lists {
            // Ascending by time: those to give up stand in front.
            let late = list.iter().take_while(|(_, until)| now >= *until).count();
            *count -= late;
            out.reads.extend(list.drain(..late).map(|(ticket, _)| (ticket, Err(timed_out.clone()))));
        }
        if round.as_ref().is_some_and(|round| round.reads.is_empty()) {
            *round = None;
        }
        confirmed.retain(|(_, reads)| !reads.is_empty());
    }

    /// Fails everything that waits: the leadership has ended.
    pub(super) fn fail_reads(&mut self, out: &mut Outputs<S>) {
        let error = self.not_leader();
        let reads = std::mem::take(&mut self.reads);
        self.reads.next_context = reads.next_context;
        let waiting = reads.round.into_iter().flat_map(|round| round.reads);
        let waiting = waiting.chain(reads.confirmed.into_iter().flat_map(|(_, reads)| reads)).chain(reads.arrived);
        out.reads.extend(waiting.map(|(ticket, _)| (ticket, Err(error.clone()))));
        out.reads.extend(reads.failed.into_iter().map(|(ticket, error)| (ticket, Err(error))));
    }
}

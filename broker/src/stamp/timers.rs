//! What the leader decides over delayed messages: who ends the wait of each, once, and where it comes to lie then.
//!
//! Who proposes has looked the messages up in applied state, and says up to which entry that state was known to reach. What
//! entries behind it have done is in the [`Claims`]: of two that want to end one wait, the due time and its producer's recall, the
//! first in log order gets it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use ledgermq_dledger::plant::{self, Bug};
use ledgermq_dledger::{FrameKind, LogPos, Verdict};
use ledgermq_protocol::message::record;
use ledgermq_protocol::remoting::response_code::ResponseCode;

use super::item::{Answer, Refusal, record_size};
use super::projection::Projection;
use crate::command::{Command, MoveTimers, TIMERS_PER_COMMAND_MAX, TimerRef};

/// Claims that are remembered once their entry is applied: whoever has looked something up is served as long as his view is not
/// older than these.
const CLAIMS_KEPT: usize = 1 << 16;

/// Bytes that naming a message takes in the log, at most.
const REF_LEN: usize = 24;

/// Bytes in front of the records of a transition, beside the names: lengths, the command's header, padding.
const FRONT_LEN: usize = 24;

/// What is to become of delayed messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// They are due. Those whose topic is gone are dropped.
    Deliver,
    /// The log in front of them is to be given up.
    Carry,
    /// Their producer takes them back.
    Recall,
}

/// Delayed messages that were found waiting.
#[derive(Debug)]
pub struct TimerItem {
    seen: u64,
    purpose: Purpose,
    moves: Vec<TimerMove>,
    /// Set by `admit`.
    command: Bytes,
    store_ms: u64,
}

/// One of them.
#[derive(Debug)]
pub struct TimerMove {
    /// Which.
    pub timer: TimerRef,
    /// The topic that it goes to.
    pub topic: Arc<str>,
    /// The queue there; another one when the topic has no such queue.
    pub queue: u32,
    /// Its record for that topic, offsets and store time blank. Empty when it is recalled.
    pub record: BytesMut,
    /// Set by `admit`.
    queue_offset: u64,
}

impl TimerMove {
    /// A message that goes to `topic` and `queue` as `record`.
    pub fn new(timer: TimerRef, topic: Arc<str>, queue: u32, record: BytesMut) -> Self {
        TimerMove { timer, topic, queue, record, queue_offset: 0 }
    }

    /// A message that is taken back.
    pub fn recall(timer: TimerRef) -> Self {
        Self::new(timer, Arc::from(""), 0, BytesMut::new())
    }
}

impl TimerItem {
    /// Messages that waited when everything up to the entry `seen` was applied, or later.
    pub fn new(seen: u64, purpose: Purpose, moves: Vec<TimerMove>) -> Self {
        TimerItem { seen, purpose, moves, command: Bytes::new(), store_ms: 0 }
    }

    /// Bytes of the entry, about: the size hint of the proposal.
    pub fn size(&self) -> usize {
        FRONT_LEN + self.moves.iter().map(|one| REF_LEN + one.record.len()).sum::<usize>()
    }

    /// The messages.
    pub fn moves(&self) -> &[TimerMove] {
        &self.moves
    }

    pub(super) fn kind(&self) -> FrameKind {
        match self.purpose {
            Purpose::Deliver | Purpose::Carry => FrameKind::Transition,
            Purpose::Recall => FrameKind::Command,
        }
    }

    /// Appends the entry's payload, which begins at `at`.
    pub(super) fn write(&mut self, at: LogPos, out: &mut BytesMut) {
        if self.kind() == FrameKind::Command {
            return out.extend_from_slice(&self.command);
        }
        let start = out.len();
        out.put_u32_le(self.command.len() as u32);
        out.extend_from_slice(&self.command);
        out.resize(start + records_at(self.command.len()), 0);
        for one in &self.moves {
            let here = out.len();
            let physical_offset = at.0 + (here - start) as u64;
            out.extend_from_slice(&one.record);
            record::patch(&mut out[here..], one.queue_offset as i64, physical_offset as i64, self.store_ms as i64);
        }
    }
}

/// Where the records of a transition begin.
fn records_at(command_len: usize) -> usize {
    (4 + command_len).next_multiple_of(8)
}

/// Messages of which an entry in flight, or a recent one, has ended the wait.
#[derive(Debug, Default)]
pub(super) struct Claims {
    by_timer: HashMap<TimerRef, u64>,
    in_order: VecDeque<(u64, TimerRef)>,
    /// Raft index up to which claims are forgotten: who has not seen what that entry changed cannot be served.
    forgotten: u64,
}

impl Claims {
    /// None yet, and everything up to the entry `applied` is visible.
    pub(super) fn since(applied: u64) -> Self {
        Claims { forgotten: applied, ..Self::default() }
    }

    fn add(&mut self, timer: TimerRef, index: u64) {
        self.by_timer.insert(timer, index);
        self.in_order.push_back((index, timer));
    }

    /// The entry that has ended this wait.
    fn of(&self, timer: &TimerRef) -> Option<u64> {
        self.by_timer.get(timer).copied().filter(|_| !plant::on(Bug::TimerClaimsIgnored))
    }

    fn forget(&mut self, applied: u64) {
        while self.in_order.len() > CLAIMS_KEPT {
            let Some((index, timer)) = self.in_order.front().copied().filter(|(index, _)| *index <= applied) else {
                return;
            };
            self.in_order.pop_front();
            self.by_timer.remove(&timer);
            self.forgotten = index;
        }
    }
}

/// Takes those messages that nobody else has taken, and leaves the others out.
pub(super) fn admit_timers(
    projection: &mut Projection,
    applied: u64,
    item: &mut TimerItem,
    payload_max: usize,
    index: u64,
    now_ms: u64,
) -> Result<Verdict<Answer>, Refusal> {
    projection.claims.forget(applied);
    if item.seen < projection.claims.forgotten {
        let remark = "what waits has changed since it was looked at: look again";
        return Err(Refusal::new(ResponseCode::SERVICE_NOT_AVAILABLE, remark));
    }
    let mut command = MoveTimers::default();
    match item.purpose {
        Purpose::Recall => {
            for one in &item.moves {
                if let Some(index) = projection.claims.of(&one.timer) {
                    // Whether it is too late is known once that entry is committed.
                    return Ok(Verdict::Join { index, answer: Answer::Refused(too_late()) });
                }
            }
            command.dropped.extend(item.moves.iter().map(|one| one.timer));
        }
        Purpose::Deliver | Purpose::Carry => {
            keep_possible(projection, item, &mut command, payload_max, now_ms);
            if !command.dropped.is_empty() {
                tracing::warn!(
                    count = command.dropped.len(),
                    index,
                    "delayed messages are dropped: their topics are gone"
                );
            }
        }
    }
    if command.all().next().is_none() {
        return Err(Refusal::new(ResponseCode::SYSTEM_BUSY, "none of these messages can be moved now"));
    }
    for timer in command.delivered.iter().chain(&command.dropped) {
        projection.claims.add(*timer, index);
    }
    let records = (command.delivered.len() + command.carried.len()) as u16;
    if records > 0 {
        projection.last_store_ms = now_ms.max(projection.last_store_ms);
        item.store_ms = projection.last_store_ms;
    }
    item.command = Command::MoveTimers(command).encode();
    let records_len = item.moves.iter().map(|one| one.record.len()).sum::<usize>();
    let len = match item.kind() {
        FrameKind::Command => item.command.len(),
        _ => records_at(item.command.len()) + records_len,
    };
    Ok(Verdict::Take { len, records })
}

/// Why a delayed message cannot be taken back.
pub(crate) fn too_late() -> Refusal {
    Refusal::new(ResponseCode::ILLEGAL_OPERATION, "recall failed: the message is delivered or recalled already")
}

/// Leaves in `item` those messages whose records the entry will hold, in the order of `command`, and gives them their places.
fn keep_possible(
    projection: &mut Projection,
    item: &mut TimerItem,
    command: &mut MoveTimers,
    payload_max: usize,
    now_ms: u64,
) {
    let carries = item.purpose == Purpose::Carry;
    let mut len = FRONT_LEN;
    let mut taken = 0;
    item.moves.retain_mut(|one| {
        let is_early = !carries && one.timer.due_ms > now_ms && !plant::on(Bug::TimersEarly);
        let is_taken = projection.claims.of(&one.timer).is_some();
        let fits = len + REF_LEN + one.record.len() <= payload_max && taken < TIMERS_PER_COMMAND_MAX;
        if is_early || is_taken || !fits {
            return false;
        }
        taken += 1;
        len += REF_LEN;
        let Some(topic) = projection.topics.get_mut(&one.topic) else {
            if !carries {
                command.dropped.push(one.timer);
            }
            return false;
        };
        if one.queue as usize >= topic.next.len() {
            one.queue = topic.choose_queue();
            one.set_queue();
        }
        let next = &mut topic.next[one.queue as usize];
        one.queue_offset = *next;
        *next += 1;
        len += one.record.len();
        if carries {
            command.carried.push(one.timer)
        } else {
            command.delivered.push(one.timer)
        }
        true
    });
}

impl TimerMove {
    fn set_queue(&mut self) {
        assert_eq!(record_size(&self.record), self.record.len(), "one record");
        self.record[record::QUEUE_ID_AT..][..4].copy_from_slice(&self.queue.to_be_bytes());
    }
}

//! What the leader proposes about delayed messages: those that are due, and those that lie where the log is to be given up.
//!
//! Both read rows and records as applied, and block on the disk. That a message still waits is decided at stamping.

use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use ledgermq_dledger::LogPos;
use ledgermq_dledger::log::LogView;
use ledgermq_dledger::plant::{self, Bug};
use ledgermq_protocol::message::properties::{self, name};
use ledgermq_protocol::message::recall::RecallHandle;
use ledgermq_protocol::message::record::{self, Message, RecordRef};
use ledgermq_protocol::names;

use super::TIMER_QUEUE;
use crate::apply::{KeyIndex, TimerRows};
use crate::command::TimerRef;
use crate::stamp::{Purpose, TimerItem, TimerMove};
use crate::store::KvError;
use crate::tables::{Tables, TimerPlace};

/// Most messages that one entry moves.
const MOVED_MAX: usize = 1_024;

/// Bytes of records from which on an entry takes no more of them. One message may be larger.
const MOVED_BYTES_MAX: usize = 1 << 20;

/// Places that the search for one message looks at: of messages with its unique key, and of strangers with the same hash.
const SEARCHED_MAX: usize = 1_024;

/// By how much [`Bug::TimersEarly`] is early.
const EARLY_MS: u64 = 1_000;

/// Where delayed messages are found.
#[derive(Clone)]
pub struct Waiting {
    /// Which ones wait.
    pub rows: TimerRows,
    /// Their records.
    pub log: LogView,
    /// Applied state.
    pub tables: Arc<Tables>,
    /// Who stores a message that is delivered.
    pub store_host: SocketAddr,
}

/// What was found by the order in which messages are due.
#[derive(Debug, Default)]
pub struct Due {
    /// Messages to deliver.
    pub item: Option<TimerItem>,
    /// The first message that waits, whether or not it is due: nothing waits between the place that the search began at and it.
    pub first: Option<TimerRef>,
    /// When the first message is due that is not due yet, ms since 1970; `None` when none waits, or the search did not come
    /// so far.
    pub next_ms: Option<u64>,
    /// Messages that are due, but cannot be read now.
    pub unreadable: usize,
}

/// What waits in front of a place in the log.
#[derive(Debug)]
pub enum Before {
    /// Nothing, now and for ever.
    Nothing,
    /// Something that must be carried forward first.
    Messages(TimerItem),
    /// It cannot be told, or not be carried, now.
    Unknown,
}

impl Waiting {
    /// Messages that are due at `now_ms` (ms since 1970), those that are due first in front, from `from` on.
    ///
    /// # Errors
    /// [`KvError`] when the store fails.
    pub fn due(&self, from: TimerRef, now_ms: u64) -> Result<Due, KvError> {
        let now_ms = if plant::on(Bug::TimersEarly) { now_ms + EARLY_MS } else { now_ms };
        let seen = self.tables.applied_index();
        let mut due = Due::default();
        let mut found = Page::default();
        self.rows.each_due(from, &mut |timer, place| {
            due.first.get_or_insert(timer);
            if timer.due_ms > now_ms {
                due.next_ms = Some(timer.due_ms);
                return ControlFlow::Break(());
            }
            found.add(timer, place)
        })?;
        let moves = found.moves(|timer, place| self.delivered(timer, place));
        due.unreadable = found.timers.len() - moves.len();
        due.item = (!moves.is_empty()).then(|| TimerItem::new(seen, Purpose::Deliver, moves));
        Ok(due)
    }

    /// What waits in front of log position `pos`, which the entry `index` begins at.
    ///
    /// # Errors
    /// [`KvError`] when the store fails.
    pub fn before(&self, index: u64, pos: u64) -> Result<Before, KvError> {
        if plant::on(Bug::TimersNotCarried) {
            return Ok(Before::Nothing);
        }
        let seen = self.tables.applied_index();
        // Once everything in front of `pos` is applied, nothing can come to wait there any more.
        if seen + 1 < index {
            return Ok(Before::Unknown);
        }
        let mut found = Page::default();
        self.each_before(pos, |timer, place| found.add(timer, place))?;
        if found.timers.is_empty() {
            return Ok(Before::Nothing);
        }
        let moves = found.moves(|timer, place| self.carried(timer, place));
        if moves.is_empty() {
            return Ok(Before::Unknown);
        }
        Ok(Before::Messages(TimerItem::new(seen, Purpose::Carry, moves)))
    }

    /// Bytes of what waits in front of log position `pos`.
    ///
    /// # Errors
    /// [`KvError`] when the store fails.
    pub fn bytes_before(&self, pos: u64) -> Result<u64, KvError> {
        let mut bytes = 0;
        self.each_before(pos, |_, place| {
            bytes += u64::from(place.size);
            ControlFlow::Continue(())
        })?;
        Ok(bytes)
    }

    /// The message that a recall handle names, to be dropped; `None` when no such message waits. It is found by its unique key, which
    /// may be that of several: a producer that tries again sends the same one.
    ///
    /// # Errors
    /// [`KvError`] when the store fails.
    pub fn recalled(&self, keys: &KeyIndex, handle: &RecallHandle) -> Result<Option<TimerItem>, KvError> {
        let seen = self.tables.applied_index();
        let Some(topic) = self.tables.topic(names::TIMER_TOPIC) else { return Ok(None) };
        let mut positions = Vec::new();
        keys.search(topic.key(), &handle.unique_key, &(0..=u64::MAX), &mut |pos| {
            positions.push(pos);
            if positions.len() == SEARCHED_MAX { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        let mut moves = Vec::new();
        for pos in positions {
            let Some((place, timer)) = self.rows.at(pos)? else { continue };
            if timer.due_ms == handle.due_ms as u64 && self.is_named(place, handle) {
                moves.push(TimerMove::recall(timer));
            }
        }
        Ok((!moves.is_empty()).then(|| TimerItem::new(seen, Purpose::Recall, moves)))
    }

    fn is_named(&self, place: TimerPlace, handle: &RecallHandle) -> bool {
        let Some(bytes) = self.record(place) else { return false };
        RecordRef::decode(&bytes).is_ok_and(|record| {
            let has = |property, value: &str| properties::get(record.properties(), property) == Some(value);
            has(name::REAL_TOPIC, &handle.topic) && has(name::UNIQ_KEY, &handle.unique_key)
        })
    }

    fn each_before(
        &self,
        pos: u64,
        mut visit: impl FnMut(TimerRef, TimerPlace) -> ControlFlow<()>,
    ) -> Result<(), KvError> {
        self.rows.each_place(self.tables.kept().pos, &mut |place, timer| match place.pos < pos {
            true => visit(timer, place),
            false => ControlFlow::Break(()),
        })
    }

    /// A message as it goes to its own topic.
    fn delivered(&self, timer: TimerRef, place: TimerPlace) -> Option<TimerMove> {
        let bytes = self.record(place)?;
        let waiting = RecordRef::decode(&bytes).ok()?;
        let topic = properties::get(waiting.properties(), name::REAL_TOPIC)?;
        let queue: u32 = properties::get(waiting.properties(), name::REAL_QID)?.parse().ok()?;
        let message = Message {
            topic,
            queue_id: i32::try_from(queue).ok()?,
            flag: waiting.flag(),
            sys_flag: waiting.sys_flag(),
            born_timestamp_ms: waiting.born_timestamp_ms(),
            born_host: waiting.born_host(),
            store_host: self.store_host,
            reconsume_times: waiting.reconsume_times(),
            prepared_transaction_offset: 0,
            body: waiting.body(),
            properties: waiting.properties(),
        };
        let mut record = BytesMut::new();
        record::encode_with_crc(&message, waiting.stored_body_crc(), &mut record).ok()?;
        // The name that the tables share, where they know it.
        let topic = self.tables.topic(topic).map_or_else(|| Arc::from(topic), |topic| Arc::clone(topic.name()));
        Some(TimerMove::new(timer, topic, queue, record))
    }

    /// A message as it waits on.
    fn carried(&self, timer: TimerRef, place: TimerPlace) -> Option<TimerMove> {
        let bytes = self.record(place)?;
        Some(TimerMove::new(timer, names::TIMER_TOPIC.into(), TIMER_QUEUE, BytesMut::from(&bytes[..])))
    }

    fn record(&self, place: TimerPlace) -> Option<Bytes> {
        let bytes = match self.log.read(LogPos(place.pos), place.size as usize) {
            Ok(bytes) => bytes,
            Err(error) => {
                // Damaged, and to be mended; or carried to another place since the row was read.
                tracing::debug!(pos = place.pos, %error, "a delayed message cannot be read");
                return None;
            }
        };
        let record = RecordRef::decode(&bytes).ok();
        let is_it = record
            .is_some_and(|record| record.physical_offset() as u64 == place.pos && record.topic() == names::TIMER_TOPIC);
        if !is_it {
            tracing::error!(pos = place.pos, "where a delayed message should wait there is another record");
            return None;
        }
        Some(bytes)
    }
}

/// Messages for one entry.
#[derive(Default)]
struct Page {
    timers: Vec<(TimerRef, TimerPlace)>,
    bytes: usize,
}

impl Page {
    fn add(&mut self, timer: TimerRef, place: TimerPlace) -> ControlFlow<()> {
        self.timers.push((timer, place));
        self.bytes += place.size as usize;
        let is_full = self.timers.len() == MOVED_MAX || self.bytes >= MOVED_BYTES_MAX;
        if is_full { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn moves(&self, of: impl Fn(TimerRef, TimerPlace) -> Option<TimerMove>) -> Vec<TimerMove> {
        self.timers.iter().filter_map(|(timer, place)| of(*timer, *place)).collect()
    }
}

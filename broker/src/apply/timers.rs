//! What entries change about delayed messages: which ones wait, and where their records lie.
//!
//! ```text
//! a record of the timer topic --> it waits, under (due, position)         MoveTimers --> delivered, dropped: it waits no more
//!                                                                            carried: it lies where the record behind the command is
//! ```
//! Rows of a round are collected here and written with its batch; one that comes and goes in the same round is never written.
//! [`TimerRows`] is the read side, for whoever looks for what is due.

use std::collections::{BTreeMap, VecDeque};
use std::ops::ControlFlow;
use std::sync::Arc;

use ledgermq_dledger::ApplyError;
use ledgermq_dledger::plant::{self, Bug};
use ledgermq_protocol::message::record::RecordRef;
use parking_lot::RwLock;

use super::machine::{BrokerMachine, store_failed};
use crate::command::{MoveTimers, TimerRef};
use crate::store::{Family, Kv, KvError, WriteBatch, rows};
use crate::tables::TimerPlace;

/// Delayed messages as of the last frame taken in.
#[derive(Debug, Default)]
pub(super) struct LiveTimers {
    /// How many wait.
    pub(super) waiting: u64,
    /// What the open round changes.
    changes: BTreeMap<TimerRef, Change>,
    /// Those whose records follow the command at hand.
    carried: VecDeque<TimerRef>,
}

/// A delayed message before and after the open round; `None` when it does not wait.
#[derive(Debug, Clone, Copy)]
struct Change {
    stored: Option<TimerPlace>,
    now: Option<TimerPlace>,
}

impl LiveTimers {
    /// Delayed messages of which the store knows.
    pub(super) fn new(waiting: u64) -> Self {
        LiveTimers { waiting, ..Self::default() }
    }

    /// The rows of the round.
    pub(super) fn fill(&self, batch: &mut WriteBatch) {
        for (timer, change) in &self.changes {
            if change.stored == change.now {
                continue;
            }
            if let Some(place) = change.stored {
                batch.delete(Family::TimerPlaces, &place.pos.to_be_bytes());
            }
            match change.now {
                Some(place) => {
                    batch.put(Family::Timers, &rows::timer_key(*timer), &rows::timer_value(place));
                    let value = rows::timer_place_value(*timer, place.size);
                    batch.put(Family::TimerPlaces, &place.pos.to_be_bytes(), &value);
                }
                None => batch.delete(Family::Timers, &rows::timer_key(*timer)),
            }
        }
    }

    /// Ends the round. Returns when the first of its new messages is due, ms since 1970.
    pub(super) fn end_round(&mut self) -> Option<u64> {
        let is_new = |change: &Change| change.stored.is_none() && change.now.is_some();
        let first = self.changes.iter().find(|(_, change)| is_new(change)).map(|(timer, _)| timer.due_ms);
        self.changes.clear();
        first
    }
}

impl BrokerMachine {
    /// A record of the timer topic: a new delayed message, or one that is carried by the command in front of it.
    pub(super) fn timer_stored(
        &mut self,
        index: u64,
        record: &RecordRef<'_>,
        due: Option<&str>,
    ) -> Result<(), ApplyError> {
        let malformed = |reason: String| ApplyError::Malformed { index, reason };
        let place = TimerPlace { pos: record.physical_offset() as u64, size: record.len() as u32 };
        let due_ms = due.and_then(|due| due.parse().ok());
        let due_ms: u64 =
            due_ms.ok_or_else(|| malformed(format!("the delayed message at {} has no time", place.pos)))?;
        let timer = match self.live.timers.carried.pop_front() {
            Some(timer) if timer.due_ms != due_ms => {
                return Err(malformed(format!("a message due at {due_ms} stands for one due at {}", timer.due_ms)));
            }
            Some(timer) => timer,
            None => {
                self.live.timers.waiting += 1;
                TimerRef { due_ms, first_pos: place.pos }
            }
        };
        let change = self.live.timers.changes.entry(timer);
        change.or_insert(Change { stored: None, now: None }).now = Some(place);
        Ok(())
    }

    /// Delivered and dropped messages wait no more; the records of carried ones follow.
    pub(super) fn move_timers(&mut self, index: u64, command: &MoveTimers) -> Result<(), ApplyError> {
        for timer in command.delivered.iter().chain(&command.dropped) {
            self.change_of(index, *timer)?.now = None;
            self.live.timers.waiting -= 1;
        }
        for timer in &command.carried {
            self.change_of(index, *timer)?;
        }
        self.live.timers.carried.extend(&command.carried);
        Ok(())
    }

    /// Every carried message has come with its record.
    pub(super) fn end_carrying(&mut self, index: u64) -> Result<(), ApplyError> {
        match self.live.timers.carried.front() {
            Some(timer) => Err(ApplyError::Malformed { index, reason: format!("no record follows for {timer:?}") }),
            None => Ok(()),
        }
    }

    /// A message that waits, to be changed. The stamper has refused all others.
    fn change_of(&mut self, index: u64, timer: TimerRef) -> Result<&mut Change, ApplyError> {
        if !self.live.timers.changes.contains_key(&timer) {
            let stored = row(&*self.kv, timer).map_err(|error| store_failed(index, &error))?;
            self.live.timers.changes.insert(timer, Change { stored, now: stored });
        }
        let change = self.live.timers.changes.get_mut(&timer).expect("just made");
        if change.now.is_none() {
            return Err(ApplyError::Malformed { index, reason: format!("{timer:?} does not wait") });
        }
        Ok(change)
    }

    /// The first delayed message that waits in front of `pos`: the log cannot begin there yet.
    pub(super) fn first_timer_before(&self, index: u64, pos: u64) -> Result<Option<TimerRef>, ApplyError> {
        if plant::on(Bug::TimersNotCarried) {
            return Ok(None);
        }
        let mut found = None;
        // What lies in front of the present begin was looked at when that was decided. What the round has put is behind `pos`.
        let scanned = each_place(&*self.kv, self.live.kept.pos, &mut |place, timer| {
            let waits_there =
                place.pos < pos && self.live.timers.changes.get(&timer).is_none_or(|change| change.now == Some(place));
            found = waits_there.then_some(timer);
            if waits_there || place.pos >= pos { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        scanned.map_err(|error| store_failed(index, &error))?;
        Ok(found)
    }
}

fn row(kv: &dyn Kv, timer: TimerRef) -> Result<Option<TimerPlace>, KvError> {
    let Some(value) = kv.get(Family::Timers, &rows::timer_key(timer))? else { return Ok(None) };
    rows::parse_timer_value(&value).map(Some).ok_or_else(|| bad_row(Family::Timers, &value))
}

fn bad_row(family: Family, row: &[u8]) -> KvError {
    KvError { place: format!("family {}", family.name()), reason: format!("row {} is damaged", row.escape_ascii()) }
}

/// Visits what waits by its place, from `pos` on.
fn each_place(
    kv: &dyn Kv,
    pos: u64,
    visit: &mut dyn FnMut(TimerPlace, TimerRef) -> ControlFlow<()>,
) -> Result<(), KvError> {
    let mut bad = None;
    kv.scan(Family::TimerPlaces, &pos.to_be_bytes(), &mut |key, value| match rows::parse_timer_place(key, value) {
        Some((place, timer)) => visit(place, timer),
        None => {
            bad = Some(bad_row(Family::TimerPlaces, key));
            ControlFlow::Break(())
        }
    })?;
    bad.map_or(Ok(()), Err)
}

/// The delayed messages that wait, as applied; what is read may be gone a moment later. Blocks: rows are on disk.
#[derive(Clone)]
pub struct TimerRows {
    /// Another one when a snapshot is taken over.
    kv: Arc<RwLock<Arc<dyn Kv>>>,
}

impl TimerRows {
    pub(super) fn new(kv: Arc<dyn Kv>) -> Self {
        TimerRows { kv: Arc::new(RwLock::new(kv)) }
    }

    pub(super) fn move_to(&self, kv: Arc<dyn Kv>) {
        *self.kv.write() = kv;
    }

    fn kv(&self) -> Arc<dyn Kv> {
        Arc::clone(&self.kv.read())
    }

    /// Visits what waits, in the order in which it is due, from `from` on, until the visitor breaks.
    ///
    /// # Errors
    /// [`KvError`] when the store fails.
    pub fn each_due(
        &self,
        from: TimerRef,
        visit: &mut dyn FnMut(TimerRef, TimerPlace) -> ControlFlow<()>,
    ) -> Result<(), KvError> {
        let mut bad = None;
        self.kv().scan(Family::Timers, &rows::timer_key(from), &mut |key, value| {
            let row = rows::parse_timer_key(key).zip(rows::parse_timer_value(value));
            let Some((timer, place)) = row else {
                bad = Some(bad_row(Family::Timers, key));
                return ControlFlow::Break(());
            };
            visit(timer, place)
        })?;
        bad.map_or(Ok(()), Err)
    }

    /// Visits what waits, in the order in which it lies in the log, from position `pos` on, until the visitor breaks.
    ///
    /// # Errors
    /// [`KvError`] when the store fails.
    pub fn each_place(
        &self,
        pos: u64,
        visit: &mut dyn FnMut(TimerPlace, TimerRef) -> ControlFlow<()>,
    ) -> Result<(), KvError> {
        each_place(&*self.kv(), pos, visit)
    }

    /// What waits with its record at a position.
    ///
    /// # Errors
    /// [`KvError`] when the store fails.
    pub fn at(&self, pos: u64) -> Result<Option<(TimerPlace, TimerRef)>, KvError> {
        let value = self.kv().get(Family::TimerPlaces, &pos.to_be_bytes())?;
        let Some(value) = value else { return Ok(None) };
        let parsed = rows::parse_timer_place(&pos.to_be_bytes(), &value);
        parsed.map(Some).ok_or_else(|| bad_row(Family::TimerPlaces, &value))
    }
}

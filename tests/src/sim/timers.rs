//! Delayed messages by the log: which wait, and that each is delivered once, not before its time, with what was sent.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use ledgermq_broker::apply::BrokerMachine;
use ledgermq_broker::command::TimerRef;
use ledgermq_dledger::LogPos;
use ledgermq_dledger::log::LogView;
use ledgermq_protocol::message::properties::{self, name};
use ledgermq_protocol::message::record::RecordRef;

/// A delayed message that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct WaitingMessage {
    pub(super) id: u64,
    pub(super) topic: String,
    pos: u64,
    size: u32,
}

/// All that the log says of delayed messages.
#[derive(Debug, Clone, Default)]
pub(super) struct OracleTimers {
    waiting: BTreeMap<TimerRef, WaitingMessage>,
    delivered: u64,
    carried: u64,
    pub(super) recalled: u64,
    /// Dropped since their topic was gone.
    pub(super) homeless: u64,
}

impl OracleTimers {
    /// A message that was sent with a delay.
    pub(super) fn waits(&mut self, id: u64, record: &RecordRef<'_>, pos: u64) -> Result<(), String> {
        let property = |name| properties::get(record.properties(), name);
        let due_ms = property(name::TIMER_OUT_MS).and_then(|due| due.parse().ok());
        let due_ms = due_ms.ok_or_else(|| format!("message {id} waits for no time"))?;
        let topic = property(name::REAL_TOPIC).ok_or_else(|| format!("message {id} waits for no topic"))?;
        let message = WaitingMessage { id, topic: topic.to_owned(), pos, size: record.len() as u32 };
        self.waiting.insert(TimerRef { due_ms, first_pos: pos }, message);
        Ok(())
    }

    /// Messages whose wait ends.
    pub(super) fn end(&mut self, timers: &[TimerRef]) -> Result<Vec<WaitingMessage>, String> {
        let end = |timer| self.waiting.remove(timer).ok_or_else(|| format!("{timer:?} ends, but does not wait"));
        timers.iter().map(end).collect()
    }

    pub(super) fn delivered(&mut self, timer: &TimerRef, id: u64, record: &RecordRef<'_>) -> Result<(), String> {
        let message = self.end(std::slice::from_ref(timer))?.remove(0);
        if (message.id, message.topic.as_str()) != (id, record.topic()) {
            return Err(format!("message {id} of topic {} is delivered for {message:?}", record.topic()));
        }
        if (record.store_timestamp_ms() as u64) < timer.due_ms {
            let then = record.store_timestamp_ms();
            return Err(format!("message {id} is delivered at {then}, before its time, {}", timer.due_ms));
        }
        self.delivered += 1;
        Ok(())
    }

    pub(super) fn carried(
        &mut self,
        timer: &TimerRef,
        id: u64,
        record: &RecordRef<'_>,
        pos: u64,
    ) -> Result<(), String> {
        let message = self.waiting.get_mut(timer).ok_or_else(|| format!("{timer:?} is carried, but does not wait"))?;
        if message.id != id || message.size as usize != record.len() {
            return Err(format!("message {id} is carried for {message:?}"));
        }
        message.pos = pos;
        self.carried += 1;
        Ok(())
    }

    /// How often things happened.
    pub(super) fn count(&self, counters: &mut BTreeMap<&'static str, u64>) {
        counters.insert("delayed message delivered", self.delivered);
        counters.insert("delayed message carried", self.carried);
        counters.insert("delayed message recalled", self.recalled);
        counters.insert("delayed message without its topic", self.homeless);
        counters.insert("delayed message still waiting", self.waiting.len() as u64);
    }
}

/// What waits in the machine is what waits by the log, and the log still has it.
pub(super) fn check(
    oracle: &OracleTimers,
    kept_pos: u64,
    machine: &BrokerMachine,
    view: &LogView,
) -> Result<(), String> {
    let (rows, mut by_due, mut by_place) = (machine.timers(), Vec::new(), Vec::new());
    let read = rows.each_due(TimerRef::default(), &mut |timer, place| {
        by_due.push((timer, place.pos, place.size));
        ControlFlow::Continue(())
    });
    read.map_err(|error| error.to_string())?;
    let read = rows.each_place(0, &mut |place, timer| {
        by_place.push((timer, place.pos, place.size));
        ControlFlow::Continue(())
    });
    read.map_err(|error| error.to_string())?;
    by_place.sort_unstable();
    let expected: Vec<_> = oracle.waiting.iter().map(|(timer, message)| (*timer, message.pos, message.size)).collect();
    if by_due != expected || by_place != expected {
        return Err(format!("there wait {by_due:?}, by their places {by_place:?}, by the log {expected:?}"));
    }
    if machine.tables().waiting_timers() != expected.len() as u64 {
        let count = machine.tables().waiting_timers();
        return Err(format!("{count} messages are counted, {} wait", expected.len()));
    }
    for (timer, pos, size) in expected {
        if pos < kept_pos || view.read(LogPos(pos), size as usize).is_err() {
            return Err(format!("{timer:?} waits at {pos}, which is given up; the log is kept from {kept_pos} on"));
        }
    }
    Ok(())
}

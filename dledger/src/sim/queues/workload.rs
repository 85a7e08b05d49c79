//! Clients of the queues, and what must hold of the answers that they get.

use std::collections::{BTreeMap, BTreeSet};

use rand::Rng;
use rand::rngs::SmallRng;

use super::machine::{QueueKey, QueueMachine, QueueStore, Vault};
use super::stamper::{Answer, Item, QueueStamper};
use super::{CONSUMERS, QUEUES, RECORD_LEN, Record};
use crate::group::ReadTicket;
use crate::handle::ReadError;
use crate::log::{Layout, LogView};
use crate::seam::{Outcome, Proposal};
use crate::sim::host::{Death, Host, Operation, Place, Violation};
use crate::sim::plan::Plan;
use crate::types::{LogPos, RaftId};

/// Newest acknowledged record of a queue: incarnation and offset.
type Newest = BTreeMap<u32, (u64, u64)>;

/// A proposal under way.
struct Sent {
    item: Item,
    /// Newest acknowledged record of its queue when it was sent.
    floor: Option<(u64, u64)>,
}

/// A read under way: what its answer must not be behind.
struct Asked {
    queues: Newest,
    offsets: BTreeMap<(u32, u32), u64>,
}

/// The layer above and its clients.
pub struct QueueHost {
    filler_max: u32,
    retention: bool,
    vault: Vault,
    next_ticket: u64,
    sent: BTreeMap<u64, Sent>,
    asked: BTreeMap<ReadTicket, Asked>,
    /// Ids of acknowledged records.
    acked: BTreeMap<QueueKey, BTreeMap<u64, u64>>,
    newest: Newest,
    ids: BTreeSet<u64>,
    /// Queues that somebody has asked to delete.
    deletes: BTreeSet<u32>,
    versions: BTreeMap<(u32, u32), u64>,
    /// Highest version acknowledged or served.
    known_offsets: BTreeMap<(u32, u32), u64>,
    counters: BTreeMap<&'static str, u64>,
}

impl QueueHost {
    /// Clients that keep to the plan's segment size.
    pub fn new(plan: &Plan) -> QueueHost {
        let payload_max = Layout { segment_size: plan.segment_size }.max_payload_len();
        QueueHost {
            filler_max: (payload_max - RECORD_LEN) as u32,
            retention: plan.retention,
            vault: Vault::default(),
            next_ticket: 0,
            sent: BTreeMap::new(),
            asked: BTreeMap::new(),
            acked: BTreeMap::new(),
            newest: BTreeMap::new(),
            ids: BTreeSet::new(),
            deletes: BTreeSet::new(),
            versions: BTreeMap::new(),
            known_offsets: BTreeMap::new(),
            counters: BTreeMap::new(),
        }
    }

    fn propose(&mut self, item: Item) -> Proposal<QueueStamper> {
        self.next_ticket += 1;
        let (queue, size_hint) = match &item {
            Item::Append { queue, id, filler, .. } => {
                self.ids.insert(*id);
                (*queue, RECORD_LEN + *filler as usize)
            }
            Item::Delete { queue, .. } => {
                self.deletes.insert(*queue);
                (*queue, super::COMMAND_LEN)
            }
            Item::Create { queue } | Item::Offset { queue, .. } => (*queue, super::COMMAND_LEN),
            Item::Truncate { .. } => (QUEUES, super::COMMAND_LEN),
        };
        let floor = self.newest.get(&queue).copied();
        self.sent.insert(self.next_ticket, Sent { item: item.clone(), floor });
        Proposal { item, ticket: self.next_ticket, size_hint }
    }

    fn append(&mut self, rng: &mut SmallRng) -> Item {
        let filler = match rng.random_range(0..30) {
            0 => rng.random_range(0..=self.filler_max),
            1..4 => rng.random_range(0..=self.filler_max / 8),
            _ => rng.random_range(0..256),
        };
        Item::Append { queue: rng.random_range(0..QUEUES), id: self.next_ticket + 1, filler, stamped: (0, 0) }
    }

    fn appended(&mut self, sent: &Sent, incarnation: u64, offset: u64) -> Result<(), Violation> {
        let Item::Append { queue, id, .. } = sent.item else {
            return Err(Violation::new("answers-fit", format!("{:?} was answered as a record", sent.item)));
        };
        let at = (incarnation, offset);
        if sent.floor.is_some_and(|floor| floor >= at) {
            let detail = format!("record {id} of queue {queue} got {at:?}, after {:?} had been told", sent.floor);
            return Err(Violation::new("real-time-order", detail));
        }
        let newest = self.newest.entry(queue).or_insert(at);
        *newest = (*newest).max(at);
        match self.acked.entry((queue, incarnation)).or_default().insert(offset, id) {
            Some(other) => {
                let detail = format!("records {other} and {id} of queue {queue} both got {at:?}");
                Err(Violation::new("one-record-per-offset", detail))
            }
            None => Ok(()),
        }
    }

    fn check_read(&self, node: RaftId, asked: &Asked, machine: &QueueMachine) -> Result<(), Violation> {
        for (queue, floor) in &asked.queues {
            let fits = match machine.queue(*queue) {
                Some((incarnation, next)) if incarnation == floor.0 => next > floor.1,
                Some((incarnation, _)) => incarnation > floor.0 && self.deletes.contains(queue),
                None => self.deletes.contains(queue),
            };
            if !fits {
                let seen = machine.queue(*queue);
                let detail =
                    format!("node {node} serves {seen:?} of queue {queue}, when asked {floor:?} was acknowledged");
                return Err(Violation::new("reads-see-acknowledged", detail));
            }
        }
        for ((consumer, queue), floor) in &asked.offsets {
            let seen = machine.offset(*consumer, *queue);
            if seen < *floor {
                let detail = format!("node {node} serves offset {seen} of consumer {consumer}, {floor} was known");
                return Err(Violation::new("offsets-never-fall", detail));
            }
        }
        Ok(())
    }

    fn count(&mut self, name: &'static str) {
        *self.counters.entry(name).or_default() += 1;
    }
}

impl Host for QueueHost {
    type Stamper = QueueStamper;
    type Machine = QueueMachine;
    type Store = QueueStore;

    fn store(&mut self, _node: RaftId, rng: &mut SmallRng) -> QueueStore {
        QueueStore::new(rng, &self.vault)
    }

    fn open(&mut self, place: Place<'_>, store: &mut QueueStore) -> Result<(QueueStamper, QueueMachine), String> {
        let machine = store.machine(place.fs, place.dir, place.meta)?;
        Ok((QueueStamper::new(&store.shared, place.view), machine))
    }

    fn lose_state(&mut self, store: &mut QueueStore) {
        store.lose();
    }

    fn died(&mut self, _node: RaftId, store: &mut QueueStore, death: Death, rng: &mut SmallRng) {
        store.died(death, rng);
        // No process holds on to what it had.
        store.detach();
    }

    fn forgive(&mut self) {
        self.acked.clear();
        self.newest.clear();
        self.known_offsets.clear();
        self.asked.clear();
        self.sent.clear();
    }

    fn operation(&mut self, _node: RaftId, _now_ms: u64, rng: &mut SmallRng) -> Operation<QueueStamper> {
        let queue = rng.random_range(0..QUEUES);
        let item = match rng.random_range(0..100) {
            0..15 => {
                self.next_ticket += 1;
                let asked = Asked { queues: self.newest.clone(), offsets: self.known_offsets.clone() };
                self.asked.insert(self.next_ticket, asked);
                return Operation::Read(self.next_ticket);
            }
            15..18 => Item::Delete { queue, incarnation: 0 },
            18..20 => Item::Create { queue },
            20..30 => {
                let consumer = rng.random_range(0..CONSUMERS);
                let version = self.versions.entry((consumer, queue)).or_default();
                *version += 1;
                Item::Offset { consumer, queue, version: *version }
            }
            97..100 if self.retention => Item::Truncate { kept: rng.random_range(0..4), stamped: (0, 0) },
            _ => self.append(rng),
        };
        Operation::Propose(self.propose(item))
    }

    fn probe(&mut self, rng: &mut SmallRng) -> Proposal<QueueStamper> {
        let item = self.append(rng);
        self.propose(item)
    }

    fn ended(&mut self, _node: RaftId, ticket: u64, outcome: Outcome<Answer>) -> Result<Option<u64>, Violation> {
        let Some(sent) = self.sent.remove(&ticket) else {
            return Err(Violation::new("one-outcome", format!("proposal {ticket} ended twice")));
        };
        let answer = match outcome {
            Outcome::Answered(answer) => answer,
            Outcome::NotLeader { .. } | Outcome::Busy(_) => {
                self.count("not taken");
                if let Item::Append { id, .. } = sent.item {
                    self.ids.remove(&id);
                }
                return Ok(None);
            }
            Outcome::Unknown => {
                self.count("unknown outcome");
                return Ok(None);
            }
        };
        match answer {
            Answer::Refused => {
                self.count("refused");
                Ok(None)
            }
            Answer::Appended { index, incarnation, offset } => {
                self.appended(&sent, incarnation, offset)?;
                Ok(Some(index))
            }
            Answer::Done { index } => {
                if let Item::Offset { consumer, queue, version } = sent.item {
                    let known = self.known_offsets.entry((consumer, queue)).or_default();
                    *known = (*known).max(version);
                }
                Ok(Some(index))
            }
        }
    }

    fn read(
        &mut self,
        node: RaftId,
        ticket: ReadTicket,
        reached: Result<u64, ReadError>,
        machine: &QueueMachine,
    ) -> Result<(), Violation> {
        let Some(asked) = self.asked.remove(&ticket) else {
            return Err(Violation::new("one-outcome", format!("read {ticket} ended twice")));
        };
        if reached.is_err() {
            self.count("failed read");
            return Ok(());
        }
        self.count("read");
        self.check_read(node, &asked, machine)?;
        for consumer in 0..CONSUMERS {
            for queue in 0..QUEUES {
                let known = self.known_offsets.entry((consumer, queue)).or_default();
                *known = (*known).max(machine.offset(consumer, queue));
            }
        }
        Ok(())
    }

    fn finish(&mut self, node: RaftId, machine: &QueueMachine, view: &LogView) -> Result<(), Violation> {
        let fail = |checker, detail: String| Err(Violation::new(checker, format!("node {node}: {detail}")));
        let mut seen = BTreeSet::new();
        let mut living = BTreeMap::new();
        for ((queue, incarnation), units) in machine.units() {
            living.insert(queue, incarnation);
            for (offset, (id, pos, len)) in units.iter().enumerate() {
                if !self.ids.contains(id) || !seen.insert(*id) {
                    return fail("no-phantom", format!("queue {queue} holds record {id}, never sent or there twice"));
                }
                if *pos < machine.keep() {
                    continue;
                }
                let bytes = view.read(LogPos(*pos), *len as usize);
                let there = bytes.ok().and_then(|mut bytes| Record::read(&mut bytes));
                if there.is_none_or(|there| (there.id, there.offset) != (*id, offset as u64)) {
                    return fail("records-readable", format!("queue {queue} offset {offset} leads to {there:?}"));
                }
            }
            for (offset, id) in self.acked.get(&(queue, incarnation)).into_iter().flatten() {
                if units.get(*offset as usize).is_none_or(|(there, ..)| there != id) {
                    return fail("acknowledged-present", format!("record {id} of queue {queue} is not at {offset}"));
                }
            }
        }
        for (queue, newest) in &self.newest {
            let gone = living.get(queue).is_none_or(|incarnation| *incarnation != newest.0);
            if gone && (!self.deletes.contains(queue) || living.get(queue).is_some_and(|it| *it < newest.0)) {
                return fail("acknowledged-present", format!("queue {queue} has lost incarnation {}", newest.0));
            }
        }
        let asked = Asked { queues: self.newest.clone(), offsets: self.known_offsets.clone() };
        self.check_read(node, &asked, machine)
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        self.counters.iter().map(|(name, times)| (*name, *times)).collect()
    }
}

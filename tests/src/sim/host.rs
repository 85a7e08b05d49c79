//! The broker's layer in the simulator, its clients, and what must hold of the answers that they get.

mod delays;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use ledgermq_broker::apply::{BrokerMachine, MachineConfig};
use ledgermq_broker::command::{Command, CommitOffsets, QueueOfTopic};
use ledgermq_broker::delay::TIMER_QUEUE;
use ledgermq_broker::delay::moves::{Before, Waiting};
use ledgermq_broker::stamp::{Answer, AutoCreate, BrokerStamper, Item};
use ledgermq_broker::store::{Kv, SimKv};
use ledgermq_broker::tables::{GroupQueue, Tables, TopicKey};
use ledgermq_dledger::group::ReadTicket;
use ledgermq_dledger::log::{Layout, LogView};
use ledgermq_dledger::sim::{Death, Host, Operation, Place, Plan, Violation};
use ledgermq_dledger::{Outcome, Proposal, RaftId, ReadError};
use ledgermq_protocol::names;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::operations::{self, CLIENTS, GROUPS, REWOUND, TOPICS, Wish};
use super::oracle::{Oracle, OracleTopic};
use super::{keys, timers};

/// What a command counts against the queue, as in the broker.
const COMMAND_SIZE_HINT: usize = 256;

/// A consumer's place: group, topic, queue.
type Consumer = (&'static str, TopicKey, u32);

/// A proposal under way.
#[derive(Debug)]
enum Sent {
    Messages { topic: String, ids: Vec<u64>, floor: u64 },
    Delayed { id: u64, floor: u64 },
    Offset { consumer: Consumer, offset: u64 },
    Other,
}

/// A read under way: what its answer must not be behind.
struct Asked {
    index: u64,
    offsets: BTreeMap<Consumer, u64>,
}

/// An acknowledged message.
struct Acked {
    topic: String,
    id: u64,
    queue: u32,
    offset: u64,
}

/// The broker's layer and its clients.
pub struct BrokerHost {
    payload_max: usize,
    config: MachineConfig,
    tables: BTreeMap<RaftId, Arc<Tables>>,
    wishes: VecDeque<Wish>,
    next: u64,
    sent: BTreeMap<u64, Sent>,
    asked: BTreeMap<ReadTicket, Asked>,
    /// Ids that may be in the log.
    ids: BTreeSet<u64>,
    /// By physical offset.
    acked: BTreeMap<u64, Acked>,
    /// Highest index known to be committed by an answer.
    acked_index: u64,
    /// Highest offset that was proposed, and that was acknowledged or served.
    proposed_offsets: BTreeMap<Consumer, u64>,
    known_offsets: BTreeMap<Consumer, u64>,
    oracle: Oracle,
    views: BTreeMap<RaftId, LogView>,
    waiting: BTreeMap<RaftId, Waiting>,
    retention: bool,
    counters: BTreeMap<&'static str, u64>,
}

impl BrokerHost {
    /// Clients and settings for a seed.
    pub fn new(seed: u64, plan: &Plan) -> BrokerHost {
        let rng = &mut SmallRng::seed_from_u64(seed ^ 0x0062_726f_6b65);
        let config = MachineConfig {
            open_files_max: rng.random_range(1..6),
            index_run_bytes: rng.random_range(2_000..200_000),
            flush_bytes: rng.random_range(4_000..100_000),
            index_run_keys: rng.random_range(20..2_000),
            index_in_background: false,
            ..MachineConfig::new("/data/group/gen-0/cq".into())
        };
        BrokerHost {
            payload_max: Layout { segment_size: plan.segment_size }.max_payload_len(),
            config,
            tables: BTreeMap::new(),
            wishes: VecDeque::new(),
            next: 0,
            sent: BTreeMap::new(),
            asked: BTreeMap::new(),
            ids: BTreeSet::new(),
            acked: BTreeMap::new(),
            acked_index: 0,
            proposed_offsets: BTreeMap::new(),
            known_offsets: BTreeMap::new(),
            oracle: Oracle::default(),
            views: BTreeMap::new(),
            waiting: BTreeMap::new(),
            retention: plan.retention,
            counters: BTreeMap::new(),
        }
    }

    /// The next operation will be this one.
    pub fn wish(&mut self, wish: Wish) {
        self.wishes.push_back(wish);
    }

    fn count(&mut self, name: &'static str) {
        *self.counters.entry(name).or_default() += 1;
    }

    fn ticket(&mut self, sent: Sent) -> u64 {
        self.next += 1;
        self.sent.insert(self.next, sent);
        self.next
    }

    fn command(&mut self, item: Item, sent: Sent) -> Operation<BrokerStamper<u64>> {
        let ticket = self.ticket(sent);
        Operation::Propose(Proposal { item, ticket, size_hint: COMMAND_SIZE_HINT })
    }

    fn send(&mut self, topic: &str, queue: i32, fillers: &[usize], create: AutoCreate) -> Proposal<BrokerStamper<u64>> {
        let ids: Vec<(u64, usize)> = fillers
            .iter()
            .map(|filler| {
                self.next += 1;
                self.ids.insert(self.next);
                (self.next, *filler)
            })
            .collect();
        let send = operations::send(topic, queue, &ids, create);
        let size_hint = send.size();
        let ids = ids.into_iter().map(|(id, _)| id).collect();
        let ticket = self.ticket(Sent::Messages { topic: topic.to_owned(), ids, floor: self.acked_index });
        Proposal { item: Item::Send(send), ticket, size_hint }
    }

    fn random_send(&mut self, rng: &mut SmallRng) -> Proposal<BrokerStamper<u64>> {
        let topic = *TOPICS.choose(rng).expect("not empty");
        if rng.random_ratio(1, 6) {
            return self.random_delayed(topic, rng);
        }
        let count = if rng.random_ratio(1, 5) { rng.random_range(2..=4) } else { 1 };
        let fillers: Vec<usize> = (0..count)
            .map(|_| if rng.random_ratio(1, 25) { rng.random_range(0..600) } else { rng.random_range(0..120) })
            .collect();
        let queue = if rng.random_bool(0.3) { -1 } else { rng.random_range(0..4) };
        let create = operations::creation(topic, rng);
        self.send(topic, queue, &fillers, create)
    }

    fn read_operation(&mut self) -> Operation<BrokerStamper<u64>> {
        self.next += 1;
        self.asked.insert(self.next, Asked { index: self.acked_index, offsets: self.known_offsets.clone() });
        Operation::Read(self.next)
    }

    /// A commit as the handler makes it: by what this node has applied. Each goes further than those before it, so that
    /// one that is served tells which ones were before.
    fn commit(
        &mut self,
        node: RaftId,
        topic: &str,
        group: &'static str,
        queue: u32,
    ) -> Option<Operation<BrokerStamper<u64>>> {
        let topic = self.tables.get(&node)?.topic(topic)?;
        let consumer = (group, topic.key().clone(), queue);
        let offset = self.proposed_offsets.get(&consumer).map_or(0, |offset| offset + 1);
        if queue >= topic.queue_count() || offset > topic.next_offset(queue) {
            return None;
        }
        self.proposed_offsets.insert(consumer.clone(), offset);
        let item = operations::commit(group, topic.name(), topic.incarnation(), queue, offset);
        Some(self.command(item, Sent::Offset { consumer, offset }))
    }

    /// A command about the offset of the group that is put elsewhere, made of the reset that waits and of the queue's end.
    fn rewind(
        &mut self,
        node: RaftId,
        topic: &str,
        command: impl FnOnce(Option<u64>, u64) -> (fn(CommitOffsets) -> Command, u64),
    ) -> Option<Operation<BrokerStamper<u64>>> {
        let tables = self.tables.get(&node)?;
        let topic = tables.topic(topic)?;
        let (kind, offset) = command(tables.reset(REWOUND, topic.key(), 0), topic.next_offset(0));
        let item = operations::offset(kind, topic.name(), topic.incarnation(), offset);
        Some(self.command(item, Sent::Other))
    }

    /// A lock, or its end, as the handler makes it: by what this node has applied.
    fn lock(&mut self, node: RaftId, topic: &str, rng: &mut SmallRng) -> Option<Operation<BrokerStamper<u64>>> {
        let topic = self.tables.get(&node)?.topic(topic)?;
        let queue = rng.random_range(0..topic.queue_count());
        let queue = QueueOfTopic { topic: topic.name().to_string(), incarnation: topic.incarnation(), queue };
        let (group, client) = (GROUPS.choose(rng)?, CLIENTS.choose(rng)?);
        let item = operations::lock(group, client, queue, rng.random_ratio(4, 5));
        Some(self.command(item, Sent::Other))
    }

    fn granted(&mut self, wish: &Wish, node: RaftId) -> Option<Operation<BrokerStamper<u64>>> {
        match *wish {
            Wish::Send { topic, queue, count } => {
                let create = AutoCreate::From { template: "TBW102".into(), queues: 2 };
                Some(Operation::Propose(self.send(topic, queue, &vec![20; count], create)))
            }
            Wish::Delete(topic) => Some(self.command(operations::delete(topic), Sent::Other)),
            Wish::Commit(topic) => self.commit(node, topic, GROUPS[0], 0),
            Wish::Group => Some(self.command(operations::put_group(), Sent::Other)),
            Wish::Reset(topic) => self.rewind(node, topic, |_, end| (Command::ResetOffsets, end / 2)),
            Wish::CommitEnd(topic) => self.rewind(node, topic, |_, end| (Command::CommitOffsets, end)),
            Wish::TakeUp(topic) => self.rewind(node, topic, |reset, end| match reset {
                Some(reset) => (Command::TakeUpResets, reset),
                None => (Command::CommitOffsets, end),
            }),
            Wish::Read => Some(self.read_operation()),
        }
    }

    fn sent_messages(
        &mut self,
        (topic, ids, floor): (String, Vec<u64>, u64),
        sent: &ledgermq_broker::stamp::Sent,
    ) -> Result<(), Violation> {
        if sent.index <= floor {
            let detail = format!("messages {ids:?} went into entry {}, after {floor} had been told", sent.index);
            return Err(Violation::new("real-time-order", detail));
        }
        let positions = std::iter::once(sent.physical_offset).chain(sent.more_physical_offsets.iter().copied());
        let positions: Vec<u64> = positions.collect();
        if positions.len() != ids.len() {
            return Err(Violation::new(
                "answers-fit",
                format!("{} messages, {} positions", ids.len(), positions.len()),
            ));
        }
        for (n, (id, position)) in ids.into_iter().zip(positions).enumerate() {
            let acked = Acked { topic: topic.clone(), id, queue: sent.queue_id, offset: sent.queue_offset + n as u64 };
            if let Some(other) = self.acked.insert(position, acked) {
                let detail = format!("messages {} and {id} were both told position {position}", other.id);
                return Err(Violation::new("one-message-per-position", detail));
            }
        }
        Ok(())
    }

    /// Gives old messages up, and carries what waits there first: as the broker's leader does it, but for why.
    fn truncate(&mut self, node: RaftId, rng: &mut SmallRng) -> Option<Operation<BrokerStamper<u64>>> {
        let starts = self.views.get(&node)?.segment_starts();
        let first = starts.iter().rev().nth(rng.random_range(0..3))?;
        let (index, pos) = (first.index, first.pos.0);
        if pos == 0 {
            return None;
        }
        match self.waiting.get(&node)?.before(index, pos).ok()? {
            Before::Nothing => Some(self.command(operations::truncate(index, pos), Sent::Other)),
            Before::Messages(item) => Some(self.moved(item)),
            Before::Unknown => None,
        }
    }

    /// Everything acknowledged is in the log where it was said to be, nothing that was not sent, nothing twice.
    fn check_log(&mut self) -> Result<(), Violation> {
        let oracle = &self.oracle;
        for (position, acked) in &self.acked {
            let there = oracle.by_position.get(position);
            let fits = there.is_some_and(|(id, (topic, _, queue, offset))| {
                (*id, topic, *queue, *offset) == (acked.id, &acked.topic, acked.queue, acked.offset)
            });
            if !fits {
                let Acked { topic, id, queue, offset } = acked;
                let detail =
                    format!("message {id}, acknowledged at {position} as {topic}/{queue}#{offset}: there is {there:?}");
                return Err(Violation::new("acknowledged-present", detail));
            }
        }
        let mut seen = BTreeSet::new();
        for (position, (id, place)) in &oracle.by_position {
            if !self.ids.contains(id) || !seen.insert(*id) {
                let detail = format!("message {id} at {position} ({place:?}) was never taken, or is there twice");
                return Err(Violation::new("no-phantom", detail));
            }
        }
        self.counters.insert("topic deletion", oracle.deletions);
        self.counters.insert("old messages given up", oracle.truncations);
        self.counters.insert("lock taken over", oracle.taken_over);
        oracle.timers.count(&mut self.counters);
        Ok(())
    }
}

/// The locks of the machine against what the log says: each is there, unless its lease is over and it was dropped.
fn check_locks(oracle: &Oracle, machine: &BrokerMachine) -> Result<(), String> {
    let mut seen = BTreeMap::new();
    for (GroupQueue { group, topic, queue }, lock) in machine.tables().locks() {
        let key = (topic.name.to_string(), topic.incarnation, group.to_string(), queue);
        seen.insert(key, (lock.client_id.to_string(), lock.expires_ms));
    }
    for (name, topic) in &oracle.topics {
        for ((group, queue), (client, until)) in &topic.locks {
            let there = seen.remove(&(name.clone(), topic.incarnation, group.clone(), *queue));
            let dropped = there.is_none() && *until <= oracle.locked_at_ms;
            if !dropped && there.as_ref() != Some(&(client.clone(), *until)) {
                return Err(format!(
                    "{name}/{queue} of {group} is locked by {there:?}, by the log by {client} until {until}"
                ));
            }
        }
    }
    match seen.first_key_value() {
        Some(more) => Err(format!("there is a lock that the log does not know: {more:?}")),
        None => Ok(()),
    }
}

/// A topic of the machine against what the log says of it.
fn check_topic(
    name: &str,
    topic: &OracleTopic,
    kept_pos: u64,
    machine: &BrokerMachine,
    view: &LogView,
) -> Result<(), String> {
    let tables = machine.tables();
    let there = tables.topic(name).ok_or("the topic is not there")?;
    if there.incarnation() != topic.incarnation {
        return Err(format!("its incarnation is {}, by the log {}", there.incarnation(), topic.incarnation));
    }
    for queue in 0..there.queue_count() {
        let expected = topic.messages.get(&queue).map_or(&[][..], Vec::as_slice);
        if there.next_offset(queue) != expected.len() as u64 {
            return Err(format!("queue {queue} ends at {}, by the log {}", there.next_offset(queue), expected.len()));
        }
        let mut from = expected.iter().filter(|stored| stored.physical_offset < kept_pos).count() as u64;
        if there.min_offset(queue) != from {
            return Err(format!("queue {queue} begins at {}, by the log {from}", there.min_offset(queue)));
        }
        while from < expected.len() as u64 {
            let units = machine.queues().read(&there, queue, from, 64).map_err(|error| error.to_string())?;
            if units.is_empty() {
                return Err(format!("queue {queue} has no unit {from}"));
            }
            for unit in units {
                let stored = expected[from as usize];
                if (unit.physical_offset, unit.size) != (stored.physical_offset, stored.size) {
                    return Err(format!("unit {from} of queue {queue} is {unit:?}, the message {stored:?}"));
                }
                if view.read(ledgermq_dledger::LogPos(unit.physical_offset), unit.size as usize).is_err() {
                    return Err(format!("unit {from} of queue {queue} leads to nothing"));
                }
                from += 1;
            }
        }
        for group in GROUPS.into_iter().chain([REWOUND]) {
            let expected = topic.offsets.get(&(group.to_owned(), queue)).copied();
            let seen = tables.offset(group, there.key(), queue);
            let waits = tables.reset(group, there.key(), queue).is_some();
            if waits != topic.resets.contains(&(group.to_owned(), queue)) {
                return Err(format!("{group} in queue {queue}: a reset waits: {waits}, by the log {}", !waits));
            }
            if seen != expected {
                return Err(format!("{group} is at {seen:?} of queue {queue}, by the log at {expected:?}"));
            }
        }
    }
    Ok(())
}

impl Host for BrokerHost {
    type Stamper = BrokerStamper<u64>;
    type Machine = BrokerMachine;
    type Store = (u64, SimKv);

    fn store(&mut self, _node: RaftId, rng: &mut SmallRng) -> (u64, SimKv) {
        (0, SimKv::new(rng.random()))
    }

    fn open(
        &mut self,
        place: Place<'_>,
        store: &mut Self::Store,
    ) -> Result<(BrokerStamper<u64>, BrokerMachine), String> {
        let (generation, kv) = store;
        let folder = place.dir.join(format!("gen-{}", place.meta.generation));
        if *generation != place.meta.generation && !kv.began_with(&folder.join("kv")) {
            // A snapshot that was switched to by a process that is gone, or a new beginning.
            *kv = SimKv::new(place.meta.generation);
            if place.fs.try_exists(&folder.join("kv")).map_err(|error| error.to_string())? {
                kv.load(&**place.fs, &folder.join("kv")).map_err(|error| error.to_string())?;
            }
        }
        *generation = place.meta.generation;
        let config = MachineConfig { queues_dir: folder.join("cq"), ..self.config.clone() };
        let opened: Arc<dyn Kv> = Arc::new(kv.clone());
        let mut machine =
            BrokerMachine::open(Arc::clone(place.fs), opened, &config).map_err(|error| error.to_string())?;
        let (kv, fs) = (kv.clone(), Arc::clone(place.fs));
        machine.reopen_with(Box::new(move |dir| {
            kv.load(&*fs, &dir.join("kv"))?;
            let config = MachineConfig { queues_dir: dir.join("cq"), ..config.clone() };
            Ok((Arc::new(kv.clone()) as Arc<dyn Kv>, config))
        }));
        let tables = machine.tables();
        self.tables.insert(place.node, Arc::clone(&tables));
        self.views.insert(place.node, place.view.clone());
        let waiting = Waiting {
            rows: machine.timers(),
            log: place.view.clone(),
            tables: Arc::clone(&tables),
            store_host: operations::STORE_HOST,
        };
        self.waiting.insert(place.node, waiting);
        let stamper = BrokerStamper::new(tables, operations::genesis(), self.payload_max);
        Ok((stamper.with_log(place.view.clone()), machine))
    }

    fn died(&mut self, node: RaftId, store: &mut Self::Store, _death: Death, _rng: &mut SmallRng) {
        self.tables.remove(&node);
        self.views.remove(&node);
        self.waiting.remove(&node);
        store.1.crash();
    }

    fn operation(&mut self, node: RaftId, _now_ms: u64, rng: &mut SmallRng) -> Operation<BrokerStamper<u64>> {
        if let Some(wish) = self.wishes.pop_front()
            && let Some(operation) = self.granted(&wish, node)
        {
            return operation;
        }
        let topic = *TOPICS.choose(rng).expect("not empty");
        match rng.random_range(0..100) {
            0..14 => self.read_operation(),
            14..18 => self.command(operations::delete(topic), Sent::Other),
            18..21 => {
                let (queues, replace) = (rng.random_range(1..=4), rng.random_bool(0.3));
                self.command(operations::put_topic(topic, queues, replace), Sent::Other)
            }
            21..26 => match self.lock(node, topic, rng) {
                Some(operation) => operation,
                None => Operation::Propose(self.random_send(rng)),
            },
            26..36 => {
                let group = *GROUPS.choose(rng).expect("not empty");
                let queue = rng.random_range(0..4);
                match self.commit(node, topic, group, queue) {
                    Some(operation) => operation,
                    None => Operation::Propose(self.random_send(rng)),
                }
            }
            36..44 => match self.deliver(node) {
                Some(operation) => operation,
                None => Operation::Propose(self.random_send(rng)),
            },
            44..46 => match self.recall(node, rng) {
                Some(operation) => operation,
                None => Operation::Propose(self.random_send(rng)),
            },
            97..100 if self.retention => match self.truncate(node, rng) {
                Some(operation) => operation,
                None => Operation::Propose(self.random_send(rng)),
            },
            _ => Operation::Propose(self.random_send(rng)),
        }
    }

    fn probe(&mut self, _rng: &mut SmallRng) -> Proposal<BrokerStamper<u64>> {
        self.send("%RETRY%billing", 0, &[0], AutoCreate::Plain { queues: 1 })
    }

    fn ended(&mut self, _node: RaftId, ticket: u64, outcome: Outcome<Answer>) -> Result<Option<u64>, Violation> {
        let Some(sent) = self.sent.remove(&ticket) else {
            return Err(Violation::new("one-outcome", format!("proposal {ticket} ended twice")));
        };
        let answer = match outcome {
            Outcome::Answered(answer) => answer,
            Outcome::Unknown => {
                self.count("unknown outcome");
                return Ok(None);
            }
            Outcome::NotLeader { .. } | Outcome::Busy(_) => {
                self.count("not taken");
                self.not_appended(&sent);
                return Ok(None);
            }
        };
        let index = match (answer, sent) {
            (Answer::Refused(_), sent) => {
                self.count("refused");
                self.not_appended(&sent);
                return Ok(None);
            }
            (Answer::Sent(told), Sent::Messages { topic, ids, floor }) => {
                self.sent_messages((topic, ids, floor), &told)?;
                told.index
            }
            (Answer::Sent(told), Sent::Delayed { id, floor }) if told.due_ms.is_some() => {
                let told = ledgermq_broker::stamp::Sent { queue_id: TIMER_QUEUE, ..told };
                self.sent_messages((names::TIMER_TOPIC.to_owned(), vec![id], floor), &told)?;
                told.index
            }
            (Answer::Done { index }, Sent::Offset { consumer, offset }) => {
                let known = self.known_offsets.entry(consumer).or_default();
                *known = (*known).max(offset);
                index
            }
            (Answer::Done { index }, Sent::Other) => index,
            (answer, sent) => {
                return Err(Violation::new("answers-fit", format!("{sent:?} was answered with {answer:?}")));
            }
        };
        self.acked_index = self.acked_index.max(index);
        Ok((index > 0).then_some(index))
    }

    fn read(
        &mut self,
        node: RaftId,
        ticket: ReadTicket,
        reached: Result<u64, ReadError>,
        machine: &BrokerMachine,
    ) -> Result<(), Violation> {
        let Some(asked) = self.asked.remove(&ticket) else {
            return Err(Violation::new("one-outcome", format!("read {ticket} ended twice")));
        };
        if reached.is_err() {
            self.count("failed read");
            return Ok(());
        }
        self.count("read");
        let tables = machine.tables();
        if tables.applied_index() < asked.index {
            let detail =
                format!("node {node} serves entry {}, when asked {} was told", tables.applied_index(), asked.index);
            return Err(Violation::new("reads-see-acknowledged", detail));
        }
        for ((group, topic, queue), floor) in &asked.offsets {
            // An offset dies with its topic.
            let lives = tables.topic(&topic.name).is_some_and(|there| there.key() == topic);
            let seen = tables.offset(group, topic, *queue);
            if lives && seen.is_none_or(|seen| seen < *floor) {
                let detail = format!("node {node} serves {seen:?} to {group} for {topic:?}/{queue}, {floor} was known");
                return Err(Violation::new("offsets-never-fall", detail));
            }
        }
        for topic in tables.topics() {
            for (group, queue) in
                GROUPS.iter().flat_map(|group| (0..topic.queue_count()).map(move |queue| (*group, queue)))
            {
                if let Some(offset) = tables.offset(group, topic.key(), queue) {
                    let known = self.known_offsets.entry((group, topic.key().clone(), queue)).or_default();
                    *known = (*known).max(offset);
                }
            }
        }
        Ok(())
    }

    fn applied(&mut self, node: RaftId, machine: &BrokerMachine) -> Result<(), Violation> {
        // Nobody applies another log than the others: whoever is first tells what is in it.
        let Some(view) = self.views.get(&node) else { return Ok(()) };
        let read = self.oracle.read(view, machine.tables().applied_index());
        read.map_err(|reason| Violation::new("log-makes-sense", reason))
    }

    fn finish(&mut self, node: RaftId, machine: &BrokerMachine, view: &LogView) -> Result<(), Violation> {
        let wrong = |name: &str, reason: String| {
            Violation::new("state-follows-log", format!("node {node}, topic {name}: {reason}"))
        };
        self.check_log()?;
        let oracle = &self.oracle;
        if machine.tables().kept().pos != oracle.kept_pos {
            let (kept, by_log) = (machine.tables().kept(), oracle.kept_pos);
            return Err(Violation::new(
                "state-follows-log",
                format!("node {node} keeps {kept:?}, by the log {by_log}"),
            ));
        }
        for (name, topic) in &oracle.topics {
            check_topic(name, topic, oracle.kept_pos, machine, view).map_err(|reason| wrong(name, reason))?;
            keys::check(name, topic, oracle, machine).map_err(|reason| wrong(name, reason))?;
        }
        timers::check(&oracle.timers, oracle.kept_pos, machine, view)
            .map_err(|reason| Violation::new("delayed-once", format!("node {node}: {reason}")))?;
        check_locks(oracle, machine)
            .map_err(|reason| Violation::new("state-follows-log", format!("node {node}: {reason}")))?;
        let more = machine.tables().topics().into_iter().find(|topic| !oracle.topics.contains_key(&**topic.name()));
        match more {
            Some(topic) => Err(wrong(topic.name(), "it is there, by the log it is not".to_owned())),
            None => Ok(()),
        }
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        self.counters.iter().map(|(name, times)| (*name, *times)).collect()
    }
}

impl BrokerHost {
    fn not_appended(&mut self, sent: &Sent) {
        let ids = match sent {
            Sent::Messages { ids, .. } => ids.as_slice(),
            Sent::Delayed { id, .. } => std::slice::from_ref(id),
            Sent::Offset { .. } | Sent::Other => &[],
        };
        ids.iter().for_each(|id| {
            self.ids.remove(id);
        });
    }
}

//! For tests: a log without Raft and disks, filled by the real stamper as the raft loop would, and machines that apply it.

use std::ops::{ControlFlow, RangeInclusive};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use ledgermq_dledger::fs::Fs;
use ledgermq_dledger::sim::disk::SimFs;
use ledgermq_dledger::{FRAME_HEADER_LEN, Frame, FrameKind, FramePos, LogPos, Stamper, StateMachine, Verdict};
use ledgermq_protocol::message::properties::{self, name};
use ledgermq_protocol::message::record::{self, Message, RecordRef, Records};
use ledgermq_protocol::names;

use super::{BrokerMachine, MachineConfig};
use crate::command::{Genesis, GroupSettings, Member, PutSubscriptionGroup, PutTopic, TimerRef, TopicSettings, perm};
use crate::delay::{self, Delay};
use crate::stamp::{Answer, AutoCreate, BrokerStamper, Item, Purpose, SendItem, TimerItem, TimerMove};
use crate::store::{Kv, SimKv};
use crate::tables::{Tables, TimerPlace, TopicKey};

/// Largest payload of a frame in tests.
pub(crate) const PAYLOAD_MAX: usize = 1 << 20;

pub(crate) fn genesis() -> Genesis {
    let template = TopicSettings { perm: perm::ALL & !perm::PRIORITY, ..TopicSettings::plain(8) };
    Genesis {
        group_id: Bytes::from_static(&[1; 16]),
        cluster: "DefaultCluster".to_owned(),
        broker_name: "broker-a".to_owned(),
        segment_size: 64 << 20,
        log_format: 1,
        members: vec![Member {
            raft_id: 1,
            replica_id: Bytes::from_static(&[2; 16]),
            raft_address: "127.0.0.1:10912".to_owned(),
            broker_address: "127.0.0.1:10911".to_owned(),
        }],
        topics: vec![PutTopic { topic: "TBW102".to_owned(), settings: template, replace: false }],
        groups: vec![PutSubscriptionGroup {
            group: "TOOLS_CONSUMER".to_owned(),
            settings: GroupSettings::standard(),
            replace: false,
        }],
    }
}

/// How a send from a client with automatic creation looks.
pub(crate) fn from_template(queues: u32) -> AutoCreate {
    AutoCreate::From { template: "TBW102".into(), queues }
}

/// A message of a client and a broker that do not matter.
pub(crate) fn message<'a>(topic: &'a str, queue_id: i32, body: &'a [u8], properties: &'a str) -> Message<'a> {
    Message {
        topic,
        queue_id,
        flag: 0,
        sys_flag: 0,
        born_timestamp_ms: 5,
        born_host: "127.0.0.1:1".parse().unwrap(),
        store_host: "127.0.0.1:2".parse().unwrap(),
        reconsume_times: 0,
        prepared_transaction_offset: 0,
        body,
        properties,
    }
}

/// A send of one message per body, all with these properties.
pub(crate) fn send(topic: &str, queue_id: i32, bodies: &[&str], properties: &str, auto_create: AutoCreate) -> Item {
    let mut records = BytesMut::new();
    for body in bodies {
        let message = message(topic, queue_id.max(0), body.as_bytes(), properties);
        record::encode(&message, &mut records).unwrap();
    }
    Item::Send(SendItem::new(topic.into(), queue_id, records, auto_create))
}

/// A send of one message that waits first.
pub(crate) fn delayed(topic: &str, queue: u32, body: &str, auto_create: AutoCreate, delay: Delay) -> Item {
    let mut properties = format!("UNIQ_KEY\u{1}u-{body}\u{2}TAGS\u{1}t\u{2}");
    delay::make_wait(&mut properties, topic, queue).unwrap();
    let mut record = BytesMut::new();
    let message = message(names::TIMER_TOPIC, delay::TIMER_QUEUE as i32, body.as_bytes(), &properties);
    record::encode(&message, &mut record).unwrap();
    Item::Send(SendItem::delayed(topic.into(), queue, record, auto_create, delay))
}

/// All that waits, by what is due first.
pub(crate) fn waiting(machine: &BrokerMachine) -> Vec<(TimerRef, TimerPlace)> {
    let mut all = Vec::new();
    let visit = &mut |timer: TimerRef, place: TimerPlace| {
        all.push((timer, place));
        ControlFlow::Continue(())
    };
    machine.timers().each_due(TimerRef::default(), visit).unwrap();
    all
}

/// The log of a leader.
pub(crate) struct Log {
    pub(crate) frames: Vec<Frame>,
    pub(crate) stamper: BrokerStamper<()>,
    pub(crate) now_ms: u64,
    term: u64,
}

impl Log {
    pub(crate) fn new(tables: Arc<Tables>) -> Self {
        Log { frames: Vec::new(), stamper: BrokerStamper::new(tables, genesis(), PAYLOAD_MAX), now_ms: 1000, term: 0 }
    }

    /// A log with its first leader, and the genesis command applied by `leader`.
    pub(crate) fn born(leader: &mut BrokerMachine) -> Self {
        let mut log = Log::new(leader.tables());
        log.lead(leader);
        log.apply_all(leader);
        log
    }

    /// A leadership begins: `leader` applies everything, the no-op of the term included, and the stamper starts from that.
    pub(crate) fn lead(&mut self, leader: &mut BrokerMachine) {
        self.stamper.end();
        self.term += 1;
        self.append(FrameKind::Noop, 0, Bytes::new());
        self.apply_all(leader);
        if let Some(command) = self.stamper.begin(self.term) {
            self.append(FrameKind::Command, 0, command);
        }
    }

    pub(crate) fn last_index(&self) -> u64 {
        self.frames.last().map_or(0, |frame| frame.at.index)
    }

    fn end(&self) -> LogPos {
        self.frames.last().map_or(LogPos(0), |frame| frame.at.end())
    }

    pub(crate) fn append(&mut self, kind: FrameKind, records: u16, payload: Bytes) {
        let len = (FRAME_HEADER_LEN + payload.len()).next_multiple_of(8) as u32;
        let index = self.last_index() + 1;
        let at = FramePos { index, term: self.term, pos: self.end(), len, chain: index as u32 };
        self.frames.push(Frame { at, kind, records, payload });
    }

    /// Stamps and appends as the raft loop does: what waits at the same time shares a frame when it can. Answers in order;
    /// a joined one as if its entry were committed.
    pub(crate) fn propose(&mut self, items: Vec<Item>) -> Vec<Answer> {
        let mut answers: Vec<Option<Answer>> = (0..items.len()).map(|_| None).collect();
        let mut open: Vec<(usize, Item, usize, u16)> = Vec::new();
        for (n, mut item) in items.into_iter().enumerate() {
            let mut asked_before = 0;
            loop {
                if self.stamper.kind(&item) != FrameKind::Messages {
                    self.close(&mut open, &mut answers);
                }
                match self.stamper.admit(&mut item, self.last_index() + 1, self.now_ms) {
                    Verdict::Take { len, records } => {
                        let alone = self.stamper.kind(&item) != FrameKind::Messages;
                        let command = self.stamper.kind(&item) == FrameKind::Command;
                        assert!(if command { records == 0 } else { records > 0 || alone });
                        open.push((n, item, len, records));
                        if alone {
                            self.close(&mut open, &mut answers);
                        }
                        break;
                    }
                    Verdict::Refuse(answer) | Verdict::Join { answer, .. } => {
                        answers[n] = Some(answer);
                        break;
                    }
                    Verdict::First => {
                        asked_before += 1;
                        assert!(asked_before <= 2, "two commands in front are the most");
                        self.close(&mut open, &mut answers);
                        let command = self.stamper.precede(&mut item, self.last_index() + 1, self.now_ms);
                        self.append(FrameKind::Command, 0, command);
                    }
                }
            }
        }
        self.close(&mut open, &mut answers);
        answers.into_iter().map(Option::unwrap).collect()
    }

    fn close(&mut self, open: &mut Vec<(usize, Item, usize, u16)>, answers: &mut [Option<Answer>]) {
        let Some((_, first, ..)) = open.first() else { return };
        let kind = self.stamper.kind(first);
        let index = self.last_index() + 1;
        let start = self.end() + FRAME_HEADER_LEN as u64;
        let mut payload = BytesMut::new();
        let mut announced = 0;
        for (n, mut item, len, records) in open.drain(..) {
            announced += records;
            let before = payload.len();
            self.stamper.write(&mut item, start + before as u64, &mut payload);
            assert_eq!(payload.len() - before, len, "as many bytes as announced");
            answers[n] = Some(self.stamper.answer(item, index));
        }
        if kind == FrameKind::Messages {
            assert_eq!(Records::new(&payload).count(), usize::from(announced));
        }
        self.append(kind, announced, payload.freeze());
    }

    /// Applies frames behind those that `machine` knows, up to index `to`, in rounds of at most `round` frames.
    pub(crate) fn apply(&self, machine: &mut BrokerMachine, to: u64, round: usize) {
        let from = machine.position;
        let frames: Vec<&Frame> = self.frames.iter().filter(|f| f.at.index > from && f.at.index <= to).collect();
        for frames in frames.chunks(round) {
            for frame in frames {
                if matches!(frame.kind, FrameKind::Messages | FrameKind::Command | FrameKind::Transition) {
                    machine.apply(frame).unwrap();
                }
            }
            machine.commit_round(frames.last().unwrap().at, None).unwrap();
        }
    }

    pub(crate) fn apply_all(&self, machine: &mut BrokerMachine) {
        self.apply(machine, self.last_index(), usize::MAX);
    }

    /// The bytes of a record, wherever it lies.
    pub(crate) fn record_at(&self, pos: u64) -> RecordRef<'_> {
        let frame = self.frames.iter().rfind(|frame| frame.payload_pos().0 <= pos).unwrap();
        RecordRef::decode(&frame.payload[(pos - frame.payload_pos().0) as usize..]).unwrap()
    }

    /// What the leader would propose about these messages, with a look at what `machine` has applied.
    pub(crate) fn moving(&self, machine: &BrokerMachine, purpose: Purpose, timers: &[(TimerRef, TimerPlace)]) -> Item {
        let of = |(timer, place): &(TimerRef, TimerPlace)| {
            let record = self.record_at(place.pos);
            let property = |name| properties::get(record.properties(), name).unwrap();
            match purpose {
                Purpose::Recall => TimerMove::recall(*timer),
                Purpose::Carry => TimerMove::new(*timer, names::TIMER_TOPIC.into(), 0, record.bytes().into()),
                Purpose::Deliver => {
                    let (topic, queue) = (property(name::REAL_TOPIC), property(name::REAL_QID).parse().unwrap());
                    let message = message(topic, queue, record.body(), record.properties());
                    let mut bytes = BytesMut::new();
                    record::encode(&message, &mut bytes).unwrap();
                    TimerMove::new(*timer, topic.into(), queue as u32, bytes)
                }
            }
        };
        let moves = timers.iter().map(of).collect();
        Item::Timers(TimerItem::new(machine.tables().applied_index(), purpose, moves))
    }

    /// All messages of a frame range, decoded.
    pub(crate) fn records(&self) -> impl Iterator<Item = RecordRef<'_>> {
        let messages = self.frames.iter().filter(|frame| frame.kind == FrameKind::Messages);
        messages.flat_map(|frame| Records::new(&frame.payload).map(Result::unwrap))
    }
}

/// A payload of [`FrameKind::Transition`].
pub(crate) fn transition(command: &[u8], records: &[u8]) -> Bytes {
    let mut payload = BytesMut::new();
    payload.put_u32_le(command.len() as u32);
    payload.extend_from_slice(command);
    payload.resize(payload.len().next_multiple_of(8), 0);
    payload.extend_from_slice(records);
    payload.freeze()
}

/// Small runs, few open files: everything happens often.
pub(crate) fn config() -> MachineConfig {
    MachineConfig {
        open_files_max: 3,
        index_run_bytes: 3000,
        index_run_keys: 60,
        index_in_background: false,
        flush_bytes: 8000,
        ..MachineConfig::new(PathBuf::from("/data/gen-1/cq"))
    }
}

pub(crate) fn open(fs: &SimFs, kv: &Arc<dyn Kv>) -> BrokerMachine {
    open_with(fs, kv, &config())
}

pub(crate) fn open_with(fs: &SimFs, kv: &Arc<dyn Kv>, config: &MachineConfig) -> BrokerMachine {
    let fs: Arc<dyn Fs> = Arc::new(fs.clone());
    BrokerMachine::open(fs, kv.clone(), config).unwrap()
}

/// The first `max` positions that the key index has for a key, newest first.
pub(crate) fn find(
    machine: &BrokerMachine,
    topic: &TopicKey,
    key: &str,
    stored_ms: RangeInclusive<u64>,
    max: usize,
) -> Vec<u64> {
    let mut found = Vec::new();
    let visit = &mut |physical_offset| {
        found.push(physical_offset);
        if found.len() == max { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    machine.key_index().search(topic, key, &stored_ms, visit).unwrap();
    found
}

/// All positions that the key index has for a key, newest first.
pub(crate) fn find_all(machine: &BrokerMachine, topic: &TopicKey, key: &str) -> Vec<u64> {
    find(machine, topic, key, 0..=u64::MAX, usize::MAX)
}

/// A machine on a new simulated disk.
pub(crate) fn new_machine() -> BrokerMachine {
    let kv: Arc<dyn Kv> = Arc::new(SimKv::new(0));
    open(&SimFs::new(), &kv)
}

//! What each kind of entry changes, and what must never happen unnoticed.

use std::sync::Arc;

use bytes::Bytes;
use ledgermq_dledger::{ApplyError, FrameKind, Membership, StateMachine};
use ledgermq_protocol::message::record::{self, RecordRef};
use parking_lot::Mutex;

use super::super::harness::*;
use super::super::{ApplyObserver, Round};
use crate::command::*;
use crate::stamp::{Answer, AutoCreate, Item};
use crate::store::{Family, Kv, SimKv};
use crate::tables::TopicKey;

fn commit(group: &str, topic: &str, incarnation: u64, queue: u32, offset: u64) -> Item {
    let commit = OffsetCommit { group: group.into(), topic: topic.into(), incarnation, queue, offset };
    Item::Command(Command::CommitOffsets(CommitOffsets { offsets: vec![commit] }))
}

fn delete(topic: &str) -> Item {
    Item::Command(Command::DeleteTopic(DeleteTopic { topic: topic.into() }))
}

/// A young group has its constants and system names after its first command, and nobody can change them again.
#[test]
fn genesis() {
    let mut machine = new_machine();
    let log = Log::born(&mut machine);
    let tables = machine.tables();
    assert_eq!(*tables.genesis().unwrap(), super::super::harness::genesis());
    assert_eq!(tables.topic("TBW102").unwrap().settings().write_queues, 8);
    assert_eq!(tables.topic("TBW102").unwrap().incarnation(), 2);
    assert!(tables.group("TOOLS_CONSUMER").is_some());
    assert_eq!((tables.topics_version(), tables.applied_index()), (2, log.last_index()));
}

/// A topic that is deleted and made again starts empty, and neither offsets nor files of its former self reach it.
#[test]
fn a_new_incarnation_starts_empty() {
    let mut machine = new_machine();
    let mut log = Log::born(&mut machine);
    log.propose(vec![send("A", 0, &["1", "2", "3"], "KEYS\u{1}k\u{2}", from_template(4))]);
    log.apply_all(&mut machine);
    let first = machine.tables().topic("A").unwrap();
    let group = PutSubscriptionGroup { group: "g".into(), settings: GroupSettings::standard(), replace: false };
    log.propose(vec![Item::Command(Command::PutSubscriptionGroup(group)), commit("g", "A", first.incarnation(), 0, 3)]);
    log.apply_all(&mut machine);
    assert_eq!(machine.tables().offset("g", first.key(), 0), Some(3));

    // Deletion, re-creation and a late commit of the old one, all in flight at once.
    let answers = log.propose(vec![
        delete("A"),
        send("A", 0, &["new"], "", from_template(4)),
        commit("g", "A", first.incarnation(), 0, 2),
    ]);
    assert!(matches!(&answers[1], Answer::Sent(sent) if sent.queue_offset == 0));
    assert!(matches!(&answers[2], Answer::Refused(refusal) if refusal.code == 17));
    log.apply_all(&mut machine);
    let second = machine.tables().topic("A").unwrap();
    assert!(second.incarnation() > first.incarnation());
    assert_eq!(second.next_offset(0), 1);
    assert_eq!(machine.tables().group_offsets("g"), []);
    assert_eq!(machine.queues().read(&second, 0, 0, 10).unwrap().len(), 1);
    assert_eq!(find_all(&machine, first.key(), "k").len(), 3);
    assert!(find_all(&machine, second.key(), "k").is_empty(), "a key of its former self");
    assert_eq!(machine.queues().read(&first, 0, 0, 10).unwrap().len(), 3, "files stay until the deletion is durable");
    machine.flush().unwrap();
    assert!(machine.queues().read(&first, 0, 0, 10).is_err());
}

/// Fewer queues and more again: offsets go on, never twice.
#[test]
fn queues_taken_away_come_back_where_they_were() {
    let mut machine = new_machine();
    let mut log = Log::born(&mut machine);
    let put = |queues| {
        let settings = TopicSettings::plain(queues);
        Item::Command(Command::PutTopic(PutTopic { topic: "A".into(), settings, replace: true }))
    };
    log.propose(vec![put(4), send("A", 3, &["1"], "", AutoCreate::No), put(2)]);
    let refused = log.propose(vec![send("A", 3, &["x"], "", AutoCreate::No)]);
    assert!(matches!(&refused[0], Answer::Refused(refusal) if refusal.code == 29));
    log.apply_all(&mut machine);
    assert_eq!(machine.tables().topic("A").unwrap().queue_count(), 4);
    log.lead(&mut machine);
    log.propose(vec![put(5), send("A", 3, &["2"], "", AutoCreate::No), send("A", 4, &["3"], "", AutoCreate::No)]);
    log.apply_all(&mut machine);
    let topic = machine.tables().topic("A").unwrap();
    assert_eq!((topic.next_offset(3), topic.next_offset(4), topic.next_offset(0)), (2, 1, 0));
    assert_eq!(machine.queues().read(&topic, 3, 0, 9).unwrap().len(), 2);
}

/// One entry that changes state and appends messages takes the same path as both.
#[test]
fn a_transition_is_a_command_and_messages() {
    let mut machine = new_machine();
    let mut log = Log::born(&mut machine);
    log.propose(vec![send("A", 0, &["1"], "", from_template(1))]);
    log.apply_all(&mut machine);
    let incarnation = machine.tables().topic("A").unwrap().incarnation();
    let offsets =
        vec![OffsetCommit { group: "TOOLS_CONSUMER".into(), topic: "A".into(), incarnation, queue: 0, offset: 1 }];
    let command = Command::CommitOffsets(CommitOffsets { offsets }).encode();
    let Some(first) = log.records().next() else { panic!("a record") };
    let mut records = first.bytes().to_vec();
    let start = transition(&command, &[]).len() as u64;
    let pos = log.frames.last().unwrap().at.end().0 + 48 + start;
    record::patch(&mut records, 1, pos as i64, 5000);
    log.append(FrameKind::Transition, 1, transition(&command, &records));
    log.apply_all(&mut machine);
    let topic = machine.tables().topic("A").unwrap();
    assert_eq!(topic.next_offset(0), 2);
    assert_eq!(machine.tables().offset("TOOLS_CONSUMER", topic.key(), 0), Some(1));
    assert_eq!(machine.queues().read(&topic, 0, 1, 1).unwrap()[0].physical_offset, pos);
    assert_eq!(machine.tables().last_store_ms(), 5000);
}

/// Whoever waits for changes hears of them once they can be read, with what a filter needs.
#[test]
fn observers_hear_of_what_can_be_read() {
    /// Topic, queue, first and next offset, tag hashes.
    type Advance = (String, u32, u64, u64, Vec<i64>);
    /// With the number of topics and groups.
    type Heard = (Vec<Advance>, usize, usize);
    struct Spy(Arc<Mutex<Vec<Heard>>>);
    impl ApplyObserver for Spy {
        fn applied(&mut self, round: &Round) {
            let queues = round.queues.iter().map(|advance| {
                assert_eq!(advance.topic.next_offset(advance.queue), advance.next());
                let tags = advance.units().map(|unit| unit.tags_code).collect();
                (advance.topic.name().to_string(), advance.queue, advance.first, advance.next(), tags)
            });
            self.0.lock().push((queues.collect(), round.topics.len(), round.groups.len()));
        }
    }
    let mut machine = new_machine();
    let mut log = Log::born(&mut machine);
    let heard = Arc::new(Mutex::new(Vec::new()));
    machine.observe(Box::new(Spy(heard.clone())));
    log.propose(vec![
        send("A", 0, &["1", "2"], "TAGS\u{1}TagA\u{2}", from_template(2)),
        send("A", 1, &["3"], "", AutoCreate::No),
        send("A", 0, &["4"], "", AutoCreate::No),
    ]);
    log.apply_all(&mut machine);
    let expected = vec![("A".to_owned(), 0, 0, 3, vec![2_598_919, 2_598_919, 0]), ("A".to_owned(), 1, 0, 1, vec![0])];
    assert_eq!(*heard.lock(), [(expected, 1, 0)]);
}

/// What the log announces and holds must agree; nothing that does not is ever skipped.
#[test]
fn entries_that_contradict_themselves_stop_apply() {
    let mut machine = new_machine();
    let mut log = Log::born(&mut machine);
    log.propose(vec![send("A", 0, &["1"], "", from_template(1))]);
    log.apply_all(&mut machine);
    let malformed = |kind, records, payload: Bytes| {
        let mut machine = new_machine();
        let mut log = Log::born(&mut machine);
        log.append(kind, records, payload);
        let result = machine.apply(log.frames.last().unwrap());
        assert!(matches!(result, Err(ApplyError::Malformed { index: 3, .. })), "{result:?}");
    };
    let record = Bytes::copy_from_slice(log.records().next().unwrap().bytes());
    malformed(FrameKind::Messages, 1, record.clone());
    malformed(FrameKind::Messages, 1, record.slice(..record.len() - 1));
    malformed(FrameKind::Messages, 1, Bytes::new());
    malformed(FrameKind::Command, 0, Bytes::from_static(b"\x03\0\x01\0"));
    malformed(FrameKind::Transition, 0, Bytes::from_static(b"\xff\0\0\0"));
    log.append(FrameKind::Command, 0, Bytes::from_static(b"\x63\0\x01\0"));
    let result = machine.apply(log.frames.last().unwrap());
    assert!(matches!(result, Err(ApplyError::UnknownCommand { kind: 0x1_0063, .. })), "{result:?}");
}

/// A gap or a double in a queue is a broken promise of the stamper: better dead than wrong.
#[test]
#[should_panic(expected = "gap or a double")]
fn a_queue_offset_out_of_order_is_fatal() {
    let mut machine = new_machine();
    let mut log = Log::born(&mut machine);
    log.propose(vec![send("A", 0, &["1"], "", from_template(1))]);
    log.apply_all(&mut machine);
    let mut record = log.records().next().unwrap().bytes().to_vec();
    let pos = log.frames.last().unwrap().at.end().0 + 48;
    record::patch(&mut record, 2, pos as i64, 5000);
    assert!(RecordRef::decode(&record).is_ok());
    log.append(FrameKind::Messages, 1, record.into());
    log.apply_all(&mut machine);
}

/// The membership comes back with the position that it was saved with.
#[test]
fn membership_is_saved_with_its_round() {
    let kv: Arc<dyn Kv> = Arc::new(SimKv::new(1));
    let fs = ledgermq_dledger::sim::disk::SimFs::new();
    let mut machine = open(&fs, &kv);
    let mut log = Log::born(&mut machine);
    let before = machine.digest().unwrap();
    log.append(FrameKind::ConfChangeV2, 0, Bytes::new());
    let membership = Membership { voters: vec![1, 2], learners: vec![3], auto_leave: true, ..Membership::default() };
    machine.commit_round(log.frames.last().unwrap().at, Some(&membership)).unwrap();
    assert_ne!(machine.digest().unwrap(), before);
    machine.flush().unwrap();
    let again = open(&fs, &kv);
    assert_eq!(again.applied(), machine.applied());
    assert_eq!(again.applied().membership, Some(membership));
    assert_eq!(again.replay_from(), 0, "no run of the key index has ended yet");
}

/// Rows of another version or a damaged store are named, not guessed at.
#[test]
fn a_row_that_cannot_be_read_is_named() {
    let kv: Arc<dyn Kv> = Arc::new(SimKv::new(1));
    let mut batch = crate::store::WriteBatch::default();
    let topic = TopicKey { name: "A".into(), incarnation: 9 };
    batch.put(Family::Queues, &crate::store::rows::queue_key(&topic, 0), &[0; 16]);
    kv.write(&batch).unwrap();
    let fs: Arc<dyn ledgermq_dledger::fs::Fs> = Arc::new(ledgermq_dledger::sim::disk::SimFs::new());
    let error = super::super::BrokerMachine::open(fs, kv, &config()).err().unwrap().to_string();
    assert!(error.starts_with("row A\\x00") && error.contains("family queues"), "{error}");
}

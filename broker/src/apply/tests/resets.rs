//! Resets of offsets: what they hold back until a consumer has taken them up, and how they end.

use std::sync::Arc;

use ledgermq_dledger::StateMachine;
use ledgermq_dledger::sim::disk::SimFs;

use super::super::BrokerMachine;
use super::super::harness::*;
use crate::command::*;
use crate::stamp::{Answer, Item};
use crate::store::{Kv, SimKv};
use crate::tables::TopicKey;

/// What a command about one offset is.
type Kind = fn(CommitOffsets) -> Command;

const COMMIT: Kind = Command::CommitOffsets;
const RESET: Kind = Command::ResetOffsets;
const TAKE_UP: Kind = Command::TakeUpResets;

fn offset(kind: Kind, topic: &TopicKey, queue: u32, offset: u64) -> Item {
    let (topic, incarnation) = (topic.name.to_string(), topic.incarnation);
    let commit = OffsetCommit { group: "g".into(), topic, incarnation, queue, offset };
    Item::Command(kind(CommitOffsets { offsets: vec![commit] }))
}

/// A leader with three messages in queue 0 of topic A, and group g.
fn with_messages(machine: &mut BrokerMachine) -> (Log, TopicKey) {
    let mut log = Log::born(machine);
    let group = PutSubscriptionGroup { group: "g".into(), settings: GroupSettings::standard(), replace: false };
    log.propose(vec![
        send("A", 0, &["1", "2", "3"], "", from_template(4)),
        Item::Command(Command::PutSubscriptionGroup(group)),
    ]);
    log.apply_all(machine);
    let topic = machine.tables().topic("A").unwrap().key().clone();
    (log, topic)
}

/// The group's offset in queue 0, and the reset that waits there.
fn at(machine: &BrokerMachine, topic: &TopicKey) -> (Option<u64>, Option<u64>) {
    let tables = machine.tables();
    (tables.offset("g", topic, 0), tables.reset("g", topic, 0))
}

/// A commit of what was in hand must not undo a reset, however many come, and counts again once the reset is taken up: by the
/// offset that it set, not by another one.
#[test]
fn commits_wait_for_the_reset_to_be_taken_up() {
    let mut machine = new_machine();
    let (mut log, a) = with_messages(&mut machine);
    let mut step = |machine: &mut BrokerMachine, items: Vec<Item>| {
        let answers = log.propose(items);
        assert!(answers.iter().all(|answer| matches!(answer, Answer::Done { .. })), "{answers:?}");
        log.apply_all(machine);
        at(machine, &a)
    };
    assert_eq!(step(&mut machine, vec![offset(COMMIT, &a, 0, 3)]), (Some(3), None));
    assert_eq!(step(&mut machine, vec![offset(TAKE_UP, &a, 0, 3)]), (Some(3), None), "nothing waits");
    // In the same round as the reset, too.
    let reset = vec![offset(RESET, &a, 0, 1), offset(COMMIT, &a, 0, 3), offset(COMMIT, &a, 1, 0)];
    assert_eq!(step(&mut machine, reset), (Some(1), Some(1)));
    assert_eq!(machine.tables().offset("g", &a, 1), Some(0), "another queue is not held back");
    assert_eq!(step(&mut machine, vec![offset(COMMIT, &a, 0, 1)]), (Some(1), Some(1)), "by chance the same place");
    assert_eq!(step(&mut machine, vec![offset(TAKE_UP, &a, 0, 3)]), (Some(1), Some(1)));
    assert_eq!(step(&mut machine, vec![offset(RESET, &a, 0, 0)]), (Some(0), Some(0)), "another one replaces it");
    assert_eq!(step(&mut machine, vec![offset(TAKE_UP, &a, 0, 1)]), (Some(0), Some(0)));
    assert_eq!(step(&mut machine, vec![offset(TAKE_UP, &a, 0, 0), offset(COMMIT, &a, 0, 2)]), (Some(2), None));
}

/// A reset for what is not there must be refused as a whole: somebody waits for all of it.
#[test]
fn what_cannot_be_reset_is_refused() {
    let mut machine = new_machine();
    let (mut log, a) = with_messages(&mut machine);
    let entry = |queue, offset| OffsetCommit {
        group: "g".into(),
        topic: "A".into(),
        incarnation: a.incarnation,
        queue,
        offset,
    };
    for (second, code) in [
        (entry(0, 4), 29),
        (entry(9, 0), 29),
        (OffsetCommit { group: "nobody".into(), ..entry(0, 0) }, 26),
        (OffsetCommit { topic: "Nope".into(), ..entry(0, 0) }, 17),
        (OffsetCommit { incarnation: a.incarnation + 1, ..entry(0, 0) }, 17),
    ] {
        let reset = Command::ResetOffsets(CommitOffsets { offsets: vec![entry(0, 1), second] });
        let answers = log.propose(vec![Item::Command(reset)]);
        assert!(matches!(&answers[0], Answer::Refused(refusal) if refusal.code == code), "{answers:?}");
    }
    log.apply_all(&mut machine);
    assert_eq!(machine.tables().group_offsets("g"), []);
}

/// A reset must survive a restart and a change of leader, be part of the state, and die with its topic and its group.
#[test]
fn a_reset_is_state_like_any_other() {
    let (fs, kv): (SimFs, Arc<dyn Kv>) = (SimFs::new(), Arc::new(SimKv::new(0)));
    let mut machine = open(&fs, &kv);
    let (mut log, a) = with_messages(&mut machine);
    log.propose(vec![offset(COMMIT, &a, 0, 1)]);
    log.apply_all(&mut machine);
    let digest = machine.digest().unwrap();
    log.propose(vec![offset(RESET, &a, 0, 1)]);
    log.apply_all(&mut machine);
    let with_reset = machine.digest().unwrap();
    assert_ne!(with_reset, digest);
    machine.flush().unwrap();
    drop(machine);

    let mut machine = open(&fs, &kv);
    assert_eq!(at(&machine, &a), (Some(1), Some(1)));
    assert_eq!(machine.digest().unwrap(), with_reset);
    let mut again = Log::new(machine.tables());
    std::mem::swap(&mut again.frames, &mut log.frames);
    let mut log = again;
    let applied = machine.applied().at.index;
    log.apply(&mut machine, applied, usize::MAX);
    log.lead(&mut machine);
    log.propose(vec![offset(COMMIT, &a, 0, 3)]);
    log.apply_all(&mut machine);
    assert_eq!(at(&machine, &a), (Some(1), Some(1)), "the machine that was opened again knows it");

    // With the group and its offsets.
    let group = |clean_offsets| {
        let delete = DeleteSubscriptionGroup { group: "g".into(), clean_offsets };
        let put = PutSubscriptionGroup { group: "g".into(), settings: GroupSettings::standard(), replace: false };
        vec![Item::Command(Command::DeleteSubscriptionGroup(delete)), Item::Command(Command::PutSubscriptionGroup(put))]
    };
    log.propose(group(false));
    log.propose(vec![offset(COMMIT, &a, 0, 3)]);
    log.apply_all(&mut machine);
    assert_eq!(at(&machine, &a), (Some(1), Some(1)), "its offsets have stayed, as they were");
    log.propose(group(true));
    log.propose(vec![offset(COMMIT, &a, 0, 3)]);
    log.apply_all(&mut machine);
    assert_eq!(at(&machine, &a), (Some(3), None));

    // With the topic.
    log.propose(vec![
        offset(RESET, &a, 0, 0),
        Item::Command(Command::DeleteTopic(DeleteTopic { topic: "A".into() })),
        send("A", 0, &["new"], "", from_template(4)),
    ]);
    log.apply_all(&mut machine);
    let second = machine.tables().topic("A").unwrap().key().clone();
    log.propose(vec![offset(COMMIT, &second, 0, 1)]);
    log.apply_all(&mut machine);
    assert_eq!((at(&machine, &a), at(&machine, &second)), ((None, None), (Some(1), None)));
}

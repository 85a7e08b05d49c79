//! Delayed messages: stamped, waiting, delivered once, carried, dropped; and what apply must never take.

use std::sync::Arc;

use ledgermq_dledger::sim::disk::SimFs;
use ledgermq_dledger::{ApplyError, FrameKind, StateMachine};
use ledgermq_protocol::message::properties::{self, name};
use ledgermq_protocol::names;

use super::super::BrokerMachine;
use super::super::harness::*;
use crate::command::{Command, DeleteTopic, MoveTimers, TimerRef, TruncatePrefix};
use crate::delay::Delay;
use crate::stamp::{Answer, AutoCreate, Item, Purpose, Sent};
use crate::store::{Family, Kv, SimKv, WriteBatch};
use crate::tables::TimerPlace;

fn sent(answer: &Answer) -> &Sent {
    match answer {
        Answer::Sent(sent) => sent,
        other => panic!("{other:?}"),
    }
}

fn code(answer: &Answer) -> i32 {
    match answer {
        Answer::Refused(refusal) => refusal.code,
        Answer::Sent(_) | Answer::Done { .. } => 0,
    }
}

/// Three messages for topic A, due at 1500, 2000 and 4000, in the log of a leader at 1000.
fn three() -> (BrokerMachine, Log) {
    let mut machine = new_machine();
    let mut log = Log::born(&mut machine);
    let answers = log.propose(vec![
        delayed("A", 1, "later", from_template(2), Delay::After(1_000)),
        delayed("A", 0, "soon", AutoCreate::No, Delay::After(500)),
        delayed("A", 1, "last", AutoCreate::No, Delay::At(4_000)),
    ]);
    assert_eq!(
        answers.iter().map(|answer| sent(answer).queue_offset).collect::<Vec<_>>(),
        [0, 1, 2],
        "of the timer topic"
    );
    assert_eq!(answers.iter().map(|answer| sent(answer).queue_id).collect::<Vec<_>>(), [1, 0, 1], "of their own");
    assert_eq!(
        answers.iter().map(|answer| sent(answer).due_ms).collect::<Vec<_>>(),
        [Some(2_000), Some(1_500), Some(4_000)]
    );
    log.apply_all(&mut machine);
    (machine, log)
}

/// A message that waits is in no queue that anybody consumes; when it is due it is there with everything that was sent, once.
#[test]
fn a_delayed_message_waits_and_is_delivered_once() {
    let (mut machine, mut log) = three();
    let topic = machine.tables().topic("A").unwrap();
    assert_eq!((topic.next_offset(0), topic.next_offset(1)), (0, 0));
    let hidden = machine.tables().topic(names::TIMER_TOPIC).unwrap();
    assert!(!hidden.settings().readable() && hidden.next_offset(0) == 3);
    let all = waiting(&machine);
    assert_eq!(all.iter().map(|(timer, _)| timer.due_ms).collect::<Vec<_>>(), [1_500, 2_000, 4_000]);
    assert_eq!(machine.tables().waiting_timers(), 3);
    let waits = log.record_at(all[0].1.pos);
    assert_eq!(properties::get(waits.properties(), name::TIMER_OUT_MS), Some("0000000001500"));

    // Too early by the clock that stamps: left out, whoever asks.
    log.now_ms = 1_499;
    let early = log.moving(&machine, Purpose::Deliver, &all);
    assert_ne!(code(&log.propose(vec![early])[0]), 0);
    log.now_ms = 2_000;
    let two_leaders = [log.moving(&machine, Purpose::Deliver, &all), log.moving(&machine, Purpose::Deliver, &all)];
    let answers = log.propose(two_leaders.into());
    assert_eq!((code(&answers[0]), code(&answers[1]) == 0), (0, false), "the second finds nothing left to take");
    log.apply_all(&mut machine);
    let topic = machine.tables().topic("A").unwrap();
    assert_eq!((topic.next_offset(0), topic.next_offset(1)), (1, 1));
    let unit = machine.queues().read(&topic, 0, 0, 1).unwrap()[0];
    let record = log.record_at(unit.physical_offset);
    assert_eq!((record.topic(), record.body(), record.queue_id()), ("A", &b"soon"[..], 0));
    assert_eq!((record.store_timestamp_ms(), record.queue_offset()), (2_000, 0));
    assert_eq!(properties::get(record.properties(), name::UNIQ_KEY), Some("u-soon"));
    assert_eq!(waiting(&machine).len(), 1);
    assert_eq!(machine.tables().waiting_timers(), 1);
    assert_eq!(find_all(&machine, topic.key(), "u-soon"), [unit.physical_offset]);
}

/// Whoever comes second waits for the first: a recall is told that it is too late only once the delivery is in the log, and what
/// was recalled is not delivered.
#[test]
fn a_recall_and_the_due_time_do_not_both_get_it() {
    let (mut machine, mut log) = three();
    let all = waiting(&machine);
    log.now_ms = 5_000;
    let answers = log.propose(vec![
        log.moving(&machine, Purpose::Recall, &all[..1]),
        log.moving(&machine, Purpose::Deliver, &all),
        log.moving(&machine, Purpose::Recall, &all[1..2]),
    ]);
    assert_eq!(answers.iter().map(code).collect::<Vec<_>>(), [0, 0, 604]);
    log.apply_all(&mut machine);
    let topic = machine.tables().topic("A").unwrap();
    assert_eq!((topic.next_offset(0), topic.next_offset(1), waiting(&machine).len()), (0, 2, 0));
    let late = log.moving(&machine, Purpose::Recall, &all[2..]);
    assert_eq!(code(&log.propose(vec![late])[0]), 604, "what is applied meanwhile is remembered for a while");
}

/// A new leader knows no claims, and nobody whose view is older than its leadership is served.
#[test]
fn claims_end_with_their_leadership() {
    let (mut machine, mut log) = three();
    let all = waiting(&machine);
    log.now_ms = 5_000;
    let old_view = log.moving(&machine, Purpose::Deliver, &all);
    let committed = log.last_index();
    let lost = log.moving(&machine, Purpose::Recall, &all[..1]);
    assert_eq!(code(&log.propose(vec![lost])[0]), 0);
    log.frames.retain(|frame| frame.at.index <= committed);
    log.lead(&mut machine);
    assert_ne!(code(&log.propose(vec![old_view])[0]), 0, "it was looked up before this leadership");
    let again = log.moving(&machine, Purpose::Deliver, &all);
    assert_eq!(code(&log.propose(vec![again])[0]), 0, "the lost recall has taken nothing");
    log.apply_all(&mut machine);
    assert_eq!(waiting(&machine), []);
}

/// Its topic was deleted while it waited: it must not come to life in another, and must not stop the timer.
#[test]
fn a_message_without_its_topic_is_dropped() {
    let (mut machine, mut log) = three();
    let all = waiting(&machine);
    log.now_ms = 5_000;
    let delete = Item::Command(Command::DeleteTopic(DeleteTopic { topic: "A".into() }));
    let answers = log.propose(vec![delete, log.moving(&machine, Purpose::Deliver, &all)]);
    assert_eq!(answers.iter().map(code).collect::<Vec<_>>(), [0, 0]);
    let frame = log.frames.last().unwrap();
    assert_eq!((frame.kind, frame.records), (FrameKind::Transition, 0));
    log.apply_all(&mut machine);
    assert_eq!((waiting(&machine), machine.tables().waiting_timers()), (vec![], 0));
}

/// Fewer queues than when it was sent: it goes to one that there is, and says so.
#[test]
fn a_queue_that_is_gone_is_replaced() {
    let (mut machine, mut log) = three();
    log.propose(vec![Item::Command(Command::DeleteTopic(DeleteTopic { topic: "A".into() }))]);
    log.propose(vec![send("A", 0, &["x"], "", from_template(1))]);
    log.apply_all(&mut machine);
    log.now_ms = 5_000;
    let all = waiting(&machine);
    let item = log.moving(&machine, Purpose::Deliver, &all);
    assert_eq!(code(&log.propose(vec![item])[0]), 0);
    log.apply_all(&mut machine);
    let topic = machine.tables().topic("A").unwrap();
    assert_eq!(topic.next_offset(0), 4);
    for unit in machine.queues().read(&topic, 0, 0, 9).unwrap() {
        assert_eq!(log.record_at(unit.physical_offset).queue_id(), 0);
    }
}

/// The log is given up behind a message that waits only once it lies further ahead; there it is the same message, found by the
/// same name.
#[test]
fn the_log_keeps_its_begin_until_what_waits_is_carried() {
    let (mut machine, mut log) = three();
    log.propose(vec![send("A", 0, &["x"], "", AutoCreate::No)]);
    log.apply_all(&mut machine);
    let at = log.frames.last().unwrap().at;
    let give_up = Command::TruncatePrefix(TruncatePrefix { index: at.index, pos: at.pos.0 }).encode();
    log.append(FrameKind::Command, 0, give_up.clone());
    log.apply_all(&mut machine);
    assert_eq!(machine.tables().kept().pos, 0, "it would lose three messages");

    let before = waiting(&machine);
    let carry = log.moving(&machine, Purpose::Carry, &before);
    assert_eq!(code(&log.propose(vec![carry])[0]), 0);
    // In the same round as its carrying.
    log.append(FrameKind::Command, 0, give_up);
    log.apply_all(&mut machine);
    assert_eq!(machine.tables().kept().pos, at.pos.0);
    let after = waiting(&machine);
    let names = |all: &[(TimerRef, TimerPlace)]| all.iter().map(|(timer, _)| *timer).collect::<Vec<_>>();
    assert_eq!(names(&after), names(&before));
    assert!(after.iter().all(|(_, place)| place.pos > at.pos.0));
    for ((timer, old), (_, new)) in before.iter().zip(&after) {
        let (old, new) = (log.record_at(old.pos), log.record_at(new.pos));
        assert_eq!((old.body(), old.properties()), (new.body(), new.properties()), "{timer:?}");
        assert!(new.physical_offset() > old.physical_offset());
    }
    let hidden = machine.tables().topic(names::TIMER_TOPIC).unwrap();
    assert_eq!((hidden.min_offset(0), hidden.next_offset(0)), (3, 6));
    log.now_ms = 5_000;
    let item = log.moving(&machine, Purpose::Deliver, &after);
    assert_eq!(code(&log.propose(vec![item])[0]), 0);
    log.apply_all(&mut machine);
    assert_eq!(waiting(&machine), []);
}

/// A start, and a replica that applies frame by frame, come to the same rows; the digest tells when they do not.
#[test]
fn rows_survive_crashes_and_are_part_of_the_state() {
    let fs = SimFs::new();
    let sim_kv = SimKv::new(7);
    let kv: Arc<dyn Kv> = Arc::new(sim_kv.clone());
    let mut machine = open(&fs, &kv);
    let mut log = Log::born(&mut machine);
    for n in 0..40u64 {
        log.now_ms += 10;
        log.propose(vec![delayed("A", 0, &format!("{n}"), from_template(1), Delay::After(50 + n % 7 * 30))]);
        log.apply_all(&mut machine);
        let due: Vec<_> = waiting(&machine).into_iter().filter(|(timer, _)| timer.due_ms <= log.now_ms).collect();
        if !due.is_empty() {
            let item = log.moving(&machine, if n % 5 == 0 { Purpose::Carry } else { Purpose::Deliver }, &due);
            assert_eq!(code(&log.propose(vec![item])[0]), 0);
        }
        if n % 9 == 0 {
            machine.flush().unwrap();
        }
        if n % 13 == 12 {
            sim_kv.crash();
            machine = open(&fs, &kv);
        }
        log.apply_all(&mut machine);
    }
    let mut one_by_one = new_machine();
    log.apply(&mut one_by_one, log.last_index(), 1);
    assert!(machine.tables().waiting_timers() > 3);
    assert_eq!(waiting(&machine), waiting(&one_by_one));
    let digest = machine.digest().unwrap();
    assert_eq!(digest, one_by_one.digest().unwrap());
    let mut batch = WriteBatch::default();
    batch.delete(Family::TimerPlaces, &waiting(&machine)[0].1.pos.to_be_bytes());
    kv.write(&batch).unwrap();
    assert_ne!(machine.digest().unwrap(), digest);
}

/// Entries that no stamper makes: a replica that took them would deliver twice, or differ from the others.
#[test]
fn what_does_not_wait_cannot_be_moved() {
    let (machine, mut log) = three();
    let stranger = TimerRef { due_ms: 1, first_pos: 1 };
    let known = waiting(&machine)[0].0;
    let drop = |dropped| Command::MoveTimers(MoveTimers { dropped, ..MoveTimers::default() }).encode();
    let carry = |carried| Command::MoveTimers(MoveTimers { carried, ..MoveTimers::default() }).encode();
    let mut refused = |kind, records, payload| {
        let (mut machine, _) = three();
        log.append(kind, records, payload);
        let frame = log.frames.pop().unwrap();
        assert!(matches!(machine.apply(&frame), Err(ApplyError::Malformed { .. })), "{kind:?}");
    };
    refused(FrameKind::Command, 0, drop(vec![stranger]));
    refused(FrameKind::Transition, 0, transition(&carry(vec![known]), &[]));
    refused(FrameKind::Transition, 0, transition(&drop(vec![known, stranger]), &[]));
}

//! What the stamper takes, refuses and stamps. That all it takes can be applied is tested with the state machine.

use bytes::BytesMut;
use ledgermq_dledger::{FrameKind, LogPos, Stamper, Verdict};
use ledgermq_protocol::message::record::{RecordRef, Records};

use super::*;
use crate::apply::harness::{Log, PAYLOAD_MAX, from_template, new_machine, send};
use crate::command::*;

fn put(topic: &str, settings: TopicSettings, replace: bool) -> Item {
    Item::Command(Command::PutTopic(PutTopic { topic: topic.into(), settings, replace }))
}

fn commits(list: &[(&str, &str, u64, u32, u64)]) -> Item {
    let offsets = list.iter().map(|&(group, topic, incarnation, queue, offset)| OffsetCommit {
        group: group.into(),
        topic: topic.into(),
        incarnation,
        queue,
        offset,
    });
    Item::Command(Command::CommitOffsets(CommitOffsets { offsets: offsets.collect() }))
}

fn code(answer: &Answer) -> i32 {
    match answer {
        Answer::Refused(refusal) => refusal.code,
        Answer::Sent(_) | Answer::Done { .. } => 0,
    }
}

fn sent(answer: &Answer) -> &Sent {
    match answer {
        Answer::Sent(sent) => sent,
        other => panic!("{other:?}"),
    }
}

/// The record that lies in the log is the one that the answer describes.
#[test]
fn stamps_are_what_the_answers_say() {
    let mut machine = new_machine();
    let mut log = Log::born(&mut machine);
    log.now_ms = 5000;
    let first = log.propose(vec![
        send("A", 1, &["one"], "", from_template(2)),
        send("A", 1, &["two", "three", "four"], "", from_template(2)),
    ]);
    log.now_ms = 4000;
    let second = log.propose(vec![send("A", 1, &["five"], "", from_template(2))]);
    let answers = [sent(&first[0]), sent(&first[1]), sent(&second[0])];
    assert_eq!(answers.map(|sent| sent.queue_offset), [0, 1, 4]);
    assert_eq!(answers.map(|sent| sent.store_timestamp_ms), [5000; 3], "the clock went back, store times do not");
    assert_eq!(answers[0].index, answers[1].index, "what waits together shares a frame");
    let mut places = Vec::new();
    for sent in answers {
        places.push(sent.physical_offset);
        places.extend(&sent.more_physical_offsets);
    }
    let records: Vec<RecordRef<'_>> = log.records().collect();
    assert_eq!(records.iter().map(|r| r.physical_offset() as u64).collect::<Vec<_>>(), places);
    assert_eq!(records.iter().map(RecordRef::queue_offset).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    assert!(records.iter().all(|r| r.queue_id() == 1 && r.store_timestamp_ms() == 5000 && r.body_is_intact()));
    let frame = log.frames.iter().find(|frame| frame.at.index == answers[0].index).unwrap();
    assert_eq!(places[0], frame.payload_pos().0);
}

/// Sends that create one topic in flight share one entry, and the topic gets what its template allows. A creation by name that
/// finds its topic changes nothing, but goes through the log: a leader that was deposed must not say that it is there.
#[test]
fn a_topic_is_created_once_and_before_its_first_message() {
    let mut machine = new_machine();
    let mut log = Log::born(&mut machine);
    let before = log.last_index();
    let answers = log.propose(vec![
        send("A", -1, &["1"], "", from_template(3)),
        send("A", -1, &["2"], "", from_template(5)),
        put("A", TopicSettings::plain(9), false),
        send("%RETRY%g", 0, &["3"], "", AutoCreate::Plain { queues: 1 }),
        send("Wide", 7, &["4"], "", from_template(100)),
    ]);
    assert_eq!((sent(&answers[0]).queue_id, sent(&answers[1]).queue_id), (0, 1));
    assert_eq!(sent(&answers[1]).index, before + 2, "behind one creation");
    assert_eq!(answers[2], Answer::Done { index: before + 3 });
    log.apply_all(&mut machine);
    let tables = machine.tables();
    let topic = tables.topic("A").unwrap();
    assert_eq!((topic.incarnation(), topic.settings().write_queues, topic.settings().perm), (before + 1, 3, 6));
    assert_eq!(tables.topic("%RETRY%g").unwrap().settings().read_queues, 1);
    assert_eq!(tables.topic("Wide").unwrap().settings().write_queues, 8, "not more than the template has");
    let last = log.last_index();
    let again = log.propose(vec![put("A", TopicSettings::plain(9), false)]);
    assert_eq!(again, [Answer::Done { index: last + 1 }]);
    log.apply_all(&mut machine);
    assert_eq!(machine.tables().topic("A").unwrap().settings().write_queues, 3);
    assert_eq!(machine.tables().topics_version(), before + 6, "of the last topic that was made");
}

/// What must not be stored is refused with the code that clients know, and leaves no trace in the log.
#[test]
fn refusals() {
    let mut machine = new_machine();
    let mut log = Log::born(&mut machine);
    let read_only = TopicSettings { perm: perm::READ, ..TopicSettings::plain(2) };
    log.propose(vec![put("R", read_only.clone(), true), put("A", TopicSettings::plain(2), true)]);
    log.apply_all(&mut machine);
    let incarnation = machine.tables().topic("A").unwrap().incarnation();
    let last = log.last_index();
    let from = |template: &str| AutoCreate::From { template: template.into(), queues: 4 };
    let big = "x".repeat(PAYLOAD_MAX);
    let g = "TOOLS_CONSUMER";
    let cases = [
        (send("R", 0, &["x"], "", AutoCreate::No), 16),
        (send("A", 2, &["x"], "", AutoCreate::No), 29),
        (send("New", 0, &["x"], "", AutoCreate::No), 17),
        (send("New", 0, &["x"], "", from("Nowhere")), 17),
        (send("New", 0, &["x"], "", from("A")), 17),
        (send("New/er", 0, &["x"], "", from("TBW102")), 29),
        (send("A", 0, &[&big], "", AutoCreate::No), 13),
        (put("bad name", TopicSettings::plain(1), true), 29),
        (put("A", TopicSettings::plain(0), true), 29),
        (Item::Command(Command::Genesis(crate::apply::harness::genesis())), 1),
        (commits(&[("nobody", "A", incarnation, 0, 0)]), 26),
        (commits(&[(g, "Nowhere", incarnation, 0, 0)]), 17),
        (commits(&[(g, "A", incarnation + 1, 0, 0)]), 17),
        (commits(&[(g, "A", incarnation, 2, 0)]), 29),
        (commits(&[(g, "A", incarnation, 0, 1)]), 29),
    ];
    for (n, (item, expected)) in cases.into_iter().enumerate() {
        assert_eq!(code(&log.propose(vec![item])[0]), expected, "case {n}");
    }
    assert_eq!(log.last_index(), last);
}

/// A send behind a deletion that is still in flight must not be acknowledged and then dropped; and a second deletion must not
/// be answered before the quorum has the first.
#[test]
fn a_deletion_in_flight_counts() {
    let mut machine = new_machine();
    let mut log = Log::born(&mut machine);
    log.propose(vec![put("A", TopicSettings::plain(2), true), send("A", 0, &["1"], "", AutoCreate::No)]);
    let delete = || Item::Command(Command::DeleteTopic(DeleteTopic { topic: "A".into() }));
    let answers = log.propose(vec![
        delete(),
        send("A", 0, &["2"], "", AutoCreate::No),
        delete(),
        send("A", 0, &["3"], "", from_template(2)),
    ]);
    let Answer::Done { index } = answers[0] else { panic!("{answers:?}") };
    assert_eq!((code(&answers[1]), &answers[2]), (17, &Answer::Done { index: index + 1 }));
    assert_eq!(sent(&answers[3]).queue_offset, 0, "of the new topic");
    log.apply_all(&mut machine);
}

/// Commits of many consumers travel together: those that died on the way must not take the others with them.
#[test]
fn a_list_of_commits_loses_only_what_is_invalid() {
    let mut machine = new_machine();
    let mut log = Log::born(&mut machine);
    log.propose(vec![send("A", 0, &["1", "2"], "", from_template(1))]);
    log.apply_all(&mut machine);
    let topic = machine.tables().topic("A").unwrap();
    let (inc, g) = (topic.incarnation(), "TOOLS_CONSUMER");
    let answers = log.propose(vec![commits(&[
        (g, "A", inc - 1, 0, 1),
        (g, "A", inc, 0, 1),
        ("nobody", "A", inc, 0, 1),
        (g, "A", inc, 0, 2),
        (g, "A", inc, 0, 3),
    ])]);
    assert_eq!(answers, [Answer::Done { index: log.last_index() }]);
    let last = log.last_index();
    log.propose(vec![commits(&[(g, "A", inc - 1, 0, 1), (g, "B", inc, 0, 1)]), commits(&[])]);
    assert_eq!(log.last_index(), last, "nothing is left, nothing is appended");
    log.apply_all(&mut machine);
    assert_eq!(machine.tables().offset(g, topic.key(), 0), Some(2));
    log.propose(vec![commits(&[(g, "A", inc, 0, 0)])]);
    log.apply_all(&mut machine);
    assert_eq!(machine.tables().offset(g, topic.key(), 0), Some(0), "a rewind is a commit too");
}

/// A new leader starts from what is applied, not from what an earlier leadership proposed and lost.
#[test]
fn the_projection_ends_with_its_leadership() {
    let mut machine = new_machine();
    let mut log = Log::born(&mut machine);
    log.propose(vec![send("A", 0, &["1"], "", from_template(1))]);
    log.apply_all(&mut machine);
    let committed = log.last_index();
    log.propose(vec![send("A", 0, &["lost"], "", AutoCreate::No), send("B", 0, &["lost"], "", from_template(1))]);
    log.frames.retain(|frame| frame.at.index <= committed);
    log.lead(&mut machine);
    let answers = log.propose(vec![send("A", 0, &["2"], "", AutoCreate::No), send("B", 0, &["x"], "", AutoCreate::No)]);
    assert_eq!(sent(&answers[0]).queue_offset, 1);
    assert_eq!(code(&answers[1]), 17);
    log.apply_all(&mut machine);
}

/// Before the genesis command is applied, its topics are there for sends already.
#[test]
fn a_young_group_takes_sends_behind_its_genesis() {
    let mut machine = new_machine();
    let mut log = Log::new(machine.tables());
    log.lead(&mut machine);
    assert!(machine.tables().genesis().is_none());
    let answers = log.propose(vec![
        send("TBW102", 0, &["1"], "", AutoCreate::No),
        send("A", 0, &["2"], "", from_template(4)),
        commits(&[("TOOLS_CONSUMER", "TBW102", 2, 0, 1)]),
    ]);
    assert_eq!(answers.iter().map(code).collect::<Vec<_>>(), [0, 0, 0]);
    log.apply_all(&mut machine);
    let topic = machine.tables().topic("TBW102").unwrap();
    assert_eq!(machine.tables().offset("TOOLS_CONSUMER", topic.key(), 0), Some(1));
    assert_eq!(log.stamper.begin(9), None, "genesis happens once");
}

/// The loop relies on exact lengths and on kinds; a queue chosen here stands in every record of the item.
#[test]
fn announced_bytes_and_kinds() {
    let mut machine = new_machine();
    let mut log = Log::born(&mut machine);
    let mut item = send("TBW102", -1, &["a", "bb"], "", AutoCreate::No);
    assert_eq!(log.stamper.kind(&item), FrameKind::Messages);
    let Verdict::Take { len, records: 2 } = log.stamper.admit(&mut item, 3, 7) else { panic!("it is taken") };
    let mut out = BytesMut::from(&b"before"[..]);
    log.stamper.write(&mut item, LogPos(800), &mut out);
    assert_eq!(out.len(), 6 + len);
    let places = |bytes: &[u8]| -> Vec<(i64, i32)> {
        Records::new(bytes).map(Result::unwrap).map(|record| (record.physical_offset(), record.queue_id())).collect()
    };
    let first_len = RecordRef::decode(&out[6..]).unwrap().len() as i64;
    assert_eq!(places(&out[6..]), [(800, 0), (800 + first_len, 0)]);
    out.clear();
    let mut item = send("TBW102", -1, &["a", "bb"], "", AutoCreate::No);
    log.stamper.admit(&mut item, 3, 7);
    log.stamper.write(&mut item, LogPos(0), &mut out);
    let Answer::Sent(sent) = log.stamper.answer(item, 3) else { panic!("it was sent") };
    assert_eq!(sent.queue_id, 1, "queues take turns");
    assert_eq!(places(&out), [(0, 1), (first_len, 1)]);
}

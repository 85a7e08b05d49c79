//! Old messages that are given up: where queues start then, and when files go.

use std::path::Path;
use std::sync::Arc;

use ledgermq_dledger::sim::disk::SimFs;
use ledgermq_dledger::{FrameKind, LogPos, StateMachine};

use super::super::harness::*;
use super::super::{BrokerMachine, UNIT_LEN};
use crate::command::{Command, TruncatePrefix};
use crate::store::{Family, Kv, SimKv};
use crate::tables::Kept;

/// Rows of the key index in the store.
fn index_rows(kv: &dyn Kv) -> usize {
    let mut rows = 0;
    kv.scan(Family::Index, b"", &mut |_, _| {
        rows += 1;
        std::ops::ControlFlow::Continue(())
    })
    .unwrap();
    rows
}

/// A log of 60 frames, each with a message in queue 0 or 1, and the machine that has applied it.
fn filled(fs: &SimFs, kv: &Arc<dyn Kv>) -> (BrokerMachine, Log) {
    let mut machine = open(fs, kv);
    let mut log = Log::born(&mut machine);
    for n in 0..60 {
        let key = format!("KEYS\u{1}k{n}\u{2}");
        log.propose(vec![send("A", n % 2, &[&"x".repeat(200)], &key, from_template(4))]);
        log.apply_all(&mut machine);
    }
    (machine, log)
}

fn give_up_before(log: &mut Log, machine: &mut BrokerMachine, nth: usize) -> Kept {
    let at = log.frames.iter().filter(|frame| frame.kind == FrameKind::Messages).nth(nth).unwrap().at;
    let command = Command::TruncatePrefix(TruncatePrefix { index: at.index, pos: at.pos.0 });
    log.append(FrameKind::Command, 0, command.encode());
    log.apply_all(machine);
    Kept { index: at.index, pos: at.pos.0 }
}

/// Readers see the new starts with the round; files, and the log, go only when no crash can bring the old starts back.
#[test]
fn starts_move_at_once_and_files_with_the_flush() {
    let fs = SimFs::new();
    let sim_kv = SimKv::new(5);
    let kv: Arc<dyn Kv> = Arc::new(sim_kv.clone());
    let (mut machine, mut log) = filled(&fs, &kv);
    machine.flush().unwrap();
    let rows = index_rows(&*kv);
    assert!(rows > 30, "{rows}");
    assert_eq!(machine.keep_from(), LogPos(0));

    let kept = give_up_before(&mut log, &mut machine, 41);
    let topic = machine.tables().topic("A").unwrap();
    assert_eq!(machine.tables().kept(), kept);
    assert_eq!([0, 1, 2].map(|queue| topic.min_offset(queue)), [21, 20, 0]);
    assert_eq!([0, 1, 2].map(|queue| topic.next_offset(queue)), [30, 30, 0]);
    let read = |machine: &BrokerMachine, from| machine.queues().read(&topic, 0, from, 99).unwrap().len();
    assert_eq!((read(&machine, 20), read(&machine, 21)), (0, 9));
    assert!(machine.queues().read(&topic, 0, 21, 1).unwrap()[0].physical_offset >= kept.pos);
    let file = || fs.contents(Path::new("/data/gen-1/cq/A@3/0")).unwrap();
    assert!(file()[..UNIT_LEN].iter().any(|byte| *byte != 0), "the file is whole until the flush");
    assert_eq!(machine.keep_from(), LogPos(0), "a crash could still want the frames before");
    assert!(machine.flush_due(), "somebody may wait for the room");

    machine.flush().unwrap();
    assert_eq!(machine.keep_from(), LogPos(kept.pos));
    assert!(!machine.flush_due());
    assert!(file()[..21 * UNIT_LEN].iter().all(|byte| *byte == 0), "the front is a hole");
    assert_eq!(file().len(), 30 * UNIT_LEN, "no unit moves");
    assert!(index_rows(&*kv) < rows - 20, "whole runs go");
    for n in 0..60u32 {
        let found = find_all(&machine, topic.key(), &format!("k{n}"));
        let found: Vec<u64> = found.into_iter().filter(|at| *at >= kept.pos).collect();
        assert_eq!(found.len(), usize::from(n >= 41), "k{n}");
    }
    // Earlier, and the same once more: nothing.
    let digest = machine.digest().unwrap();
    give_up_before(&mut log, &mut machine, 7);
    give_up_before(&mut log, &mut machine, 41);
    assert_eq!((machine.tables().kept(), machine.digest().unwrap()), (kept, digest));

    drop(machine);
    sim_kv.crash();
    fs.power_cut_with(&mut |_| ledgermq_dledger::sim::disk::Fate::Lost);
    let machine = open(&fs, &kv);
    assert_eq!((machine.tables().kept(), machine.keep_from()), (kept, LogPos(kept.pos)));
    assert!(machine.replay_from() + 1 >= kept.index);
    let topic = machine.tables().topic("A").unwrap();
    assert_eq!([0, 1].map(|queue| topic.min_offset(queue)), [21, 20]);
}

/// A queue of which everything is given up begins where it ends, and goes on there; units of the open round count too.
#[test]
fn a_queue_may_lose_all_it_has() {
    let mut machine = new_machine();
    let mut log = Log::born(&mut machine);
    for queue in [0, 0, 0, 1] {
        log.propose(vec![send("A", queue, &["x"], "", from_template(4))]);
    }
    let last = log.frames.last().unwrap().at;
    let command = Command::TruncatePrefix(TruncatePrefix { index: last.index, pos: last.pos.0 });
    log.append(FrameKind::Command, 0, command.encode());
    // Everything in one round: nothing is in the files yet when the starts are looked for.
    log.apply_all(&mut machine);
    let topic = machine.tables().topic("A").unwrap();
    assert_eq!([0, 1].map(|queue| (topic.min_offset(queue), topic.next_offset(queue))), [(3, 3), (0, 1)]);
    machine.flush().unwrap();
    log.propose(vec![send("A", 0, &["y"], "", from_template(4))]);
    log.apply_all(&mut machine);
    assert_eq!((topic.min_offset(0), topic.next_offset(0)), (3, 4));
    assert_eq!(machine.queues().read(&topic, 0, 3, 9).unwrap().len(), 1);
}

/// A command that gives up its own place, or what lies behind it, was never stamped.
#[test]
fn a_place_behind_the_command_is_refused() {
    let mut machine = new_machine();
    let mut log = Log::born(&mut machine);
    let next = log.last_index() + 1;
    let command = Command::TruncatePrefix(TruncatePrefix { index: next, pos: 1 << 20 });
    log.append(FrameKind::Command, 0, command.encode());
    let error = machine.apply(log.frames.last().unwrap()).unwrap_err().to_string();
    assert!(error.contains("gives up the log before entry"), "{error}");
}

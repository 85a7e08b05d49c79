//! A copy of applied state, taken over by a machine that others hold parts of.

use std::path::Path;
use std::sync::Arc;

use ledgermq_dledger::StateMachine;
use ledgermq_dledger::fs::{Fs, OsFs};

use super::super::harness::*;
use super::super::{BrokerMachine, MachineConfig};
use crate::store::{Kv, RocksBudget, RocksKv};

fn config_in(generation: &Path) -> MachineConfig {
    MachineConfig { queues_dir: generation.join("cq"), ..config() }
}

fn open_in(generation: &Path) -> BrokerMachine {
    let fs: Arc<dyn Fs> = Arc::new(OsFs);
    std::fs::create_dir_all(generation).unwrap();
    let kv: Arc<dyn Kv> = Arc::new(RocksKv::open(&generation.join("kv"), &RocksBudget::default()).unwrap());
    let mut machine = BrokerMachine::open(fs, kv, &config_in(generation)).unwrap();
    machine.reopen_with(Box::new(|dir| {
        let kv: Arc<dyn Kv> = Arc::new(RocksKv::open(&dir.join("kv"), &RocksBudget::default())?);
        Ok((kv, config_in(dir)))
    }));
    machine
}

/// What a taker pulls: the files that were named, as long as they were named.
fn copy(machine: &mut BrokerMachine, to: &Path) {
    let folder = tempfile::tempdir().unwrap();
    let files = machine.checkpoint(folder.path()).unwrap().unwrap();
    for file in files {
        let target = to.join(&file.name);
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        let bytes = std::fs::read(folder.path().join(&file.name)).unwrap();
        std::fs::write(target, &bytes[..file.size as usize]).unwrap();
    }
}

/// A replica that takes a snapshot would serve its old state, or parts of both.
#[test]
fn a_snapshot_is_taken_over_by_everybody_who_holds_a_part() {
    let dir = tempfile::tempdir().unwrap();
    let mut leader = open_in(&dir.path().join("leader"));
    let mut follower = open_in(&dir.path().join("gen-0"));
    let mut log = Log::born(&mut leader);
    let properties = |n: usize| format!("KEYS\u{1}k{n}\u{2}TAGS\u{1}t\u{2}");
    for n in 0..40 {
        log.propose(vec![send(["A", "B"][n % 2], 0, &["x", "y"], &properties(n), from_template(2))]);
        log.apply_all(&mut leader);
        if n == 10 {
            log.apply_all(&mut follower);
        }
    }
    let (tables, queues, keys) = (follower.tables(), follower.queues(), follower.key_index());
    let behind = tables.topic("A").unwrap();
    let generation = dir.path().join("gen-1");
    copy(&mut leader, &generation);

    // The giver goes on meanwhile, which the copy does not see.
    let at = log.last_index();
    let digest = leader.digest().unwrap();
    for n in 40..60 {
        log.propose(vec![send("A", 0, &["x"], &properties(n), from_template(2))]);
    }
    log.apply_all(&mut leader);

    follower.restore(&generation).unwrap();
    assert_eq!((follower.applied().at.index, follower.digest().unwrap()), (at, digest));
    let topic = tables.topic("A").unwrap();
    assert_eq!(topic.next_offset(0), 40);
    assert!(behind.next_offset(0) < 20);
    assert_eq!(queues.read(&topic, 0, 0, 100).unwrap().len(), 40);
    std::fs::remove_dir_all(dir.path().join("gen-0")).unwrap();
    assert_eq!(queues.read(&topic, 0, 0, 100).unwrap().len(), 40);

    // What lies outside of the store is collected again, then it goes on like the giver.
    let from = follower.replay_from();
    for frame in log.frames.iter().filter(|frame| frame.at.index > from && frame.at.index <= at) {
        if frame.kind != ledgermq_dledger::FrameKind::Noop {
            follower.apply(frame).unwrap();
        }
        follower.commit_round(frame.at, None).unwrap();
    }
    let mut found = 0;
    keys.search(topic.key(), "k38", &(0..=u64::MAX), &mut |_| {
        found += 1;
        std::ops::ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(found, 2);
    log.apply_all(&mut follower);
    assert_eq!(follower.digest().unwrap(), leader.digest().unwrap());
    assert_eq!(tables.topic("A").unwrap().next_offset(0), 60);

    // And it is the state of the new folder that a start finds.
    follower.flush().unwrap();
    let digest = follower.digest().unwrap();
    drop((follower, tables, queues, keys));
    assert_eq!(open_in(&generation).digest().unwrap(), digest);
}

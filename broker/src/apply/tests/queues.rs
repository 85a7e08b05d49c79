//! ConsumeQueue files, and reading them.

use std::path::Path;
use std::sync::Arc;

use ledgermq_dledger::StateMachine;
use ledgermq_dledger::sim::disk::SimFs;

use super::super::consume_queue::QueueError;
use super::super::harness::*;
use super::super::{Boundary, Unit};
use crate::stamp::AutoCreate;
use crate::store::{Kv, SimKv};

/// Files of one version are read by the next.
#[test]
fn golden_units() {
    let unit = Unit { physical_offset: 0x0102_0304_0506_0708, size: 0x090A_0B0C, tags_code: -2 };
    let bytes = b"\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\xff\xff\xff\xff\xff\xff\xff\xfe";
    assert_eq!(&unit.encode(), bytes);
    assert_eq!(Unit::decode(bytes), unit);
}

/// Folders are found again, and no name leads out of its place or past what a file system allows.
#[test]
fn a_file_per_queue_and_incarnation() {
    let fs = SimFs::new();
    let kv: Arc<dyn Kv> = Arc::new(SimKv::new(1));
    let mut machine = open(&fs, &kv);
    let mut log = Log::born(&mut machine);
    let long = format!("%RETRY%{}", "g".repeat(248));
    log.propose(vec![
        send("A", 2, &["1", "2"], "TAGS\u{1}TagA\u{2}", from_template(4)),
        send(&long, 0, &["1"], "", AutoCreate::Plain { queues: 1 }),
    ]);
    log.apply_all(&mut machine);
    let records: Vec<_> = log.records().map(|r| (r.physical_offset() as u64, r.len() as u32)).collect();
    let content = fs.contents(Path::new("/data/gen-1/cq/A@3/2")).unwrap();
    let unit = |n: usize| Unit { physical_offset: records[n].0, size: records[n].1, tags_code: 2_598_919 }.encode();
    assert_eq!(content, [unit(0), unit(1)].concat());
    assert!(fs.paths().iter().all(|path| path.components().all(|part| part.as_os_str().len() <= 255)));
    assert_eq!(fs.paths().len(), 2, "{:?}", fs.paths());
}

/// Thousands of queues must not take thousands of descriptors.
#[test]
fn open_files_are_bounded() {
    let mut machine = new_machine();
    let mut log = Log::born(&mut machine);
    for n in 0..40 {
        let sends = (0..3).map(|queue| send(&format!("T{}", n % 10), queue, &["x"], "", from_template(4))).collect();
        log.propose(sends);
        log.apply_all(&mut machine);
        assert!(machine.queues().open_files() <= config().open_files_max);
    }
    for topic in
        machine.tables().topics().iter().filter(|topic| topic.name().starts_with('T') && topic.next_offset(0) > 0)
    {
        for queue in 0..3 {
            assert_eq!(machine.queues().read(topic, queue, 0, 99).unwrap().len(), 4);
        }
    }
    assert!(machine.queues().open_files() <= config().open_files_max);
}

/// Reads stop at the ends that the tables know, and at their own limit.
#[test]
fn reads_are_clipped() {
    let mut machine = new_machine();
    let mut log = Log::born(&mut machine);
    log.propose((0..50).map(|n| send("A", 0, &[&n.to_string()], "", from_template(1))).collect());
    log.apply_all(&mut machine);
    let topic = machine.tables().topic("A").unwrap();
    let read = |from, max| machine.queues().read(&topic, 0, from, max).unwrap().len();
    assert_eq!((read(0, 10), read(45, 10), read(50, 10), read(u64::MAX, 10), read(0, usize::MAX)), (10, 5, 0, 0, 50));
    assert_eq!(machine.queues().read(&topic, 99, 0, 10).unwrap(), []);
}

/// Search by time is exact to the ms, also among equal times and at both ends.
#[test]
fn offset_by_time() {
    let mut machine = new_machine();
    let mut log = Log::born(&mut machine);
    for ms in [1000, 1010, 1010, 1020] {
        log.now_ms = ms;
        log.propose(vec![send("A", 0, &["x"], "", from_template(1))]);
    }
    log.apply_all(&mut machine);
    let topic = machine.tables().topic("A").unwrap();
    let by_time = |ms: i64, boundary| {
        let stored = |unit: &Unit| -> Result<Option<i64>, QueueError> {
            let record = log.records().find(|record| record.physical_offset() as u64 == unit.physical_offset);
            Ok(Some(record.unwrap().store_timestamp_ms()))
        };
        machine.queues().offset_by_time(&topic, 0, ms, boundary, stored).unwrap()
    };
    let lower = [0, 1000, 1001, 1010, 1011, 1020, 1021].map(|ms| by_time(ms, Boundary::Lower));
    assert_eq!(lower, [0, 0, 1, 1, 3, 3, 4]);
    let upper = [0, 1000, 1009, 1010, 1019, 1020, 9999].map(|ms| by_time(ms, Boundary::Upper));
    assert_eq!(upper, [0, 0, 0, 2, 2, 3, 3]);
    // Messages that go while they are searched count as older than any.
    let gone = |unit: &Unit| -> Result<Option<i64>, QueueError> {
        let record = log.records().find(|record| record.physical_offset() as u64 == unit.physical_offset);
        Ok(record.map(|record| record.store_timestamp_ms()).filter(|ms| *ms > 1000))
    };
    assert_eq!(machine.queues().offset_by_time(&topic, 0, 0, Boundary::Lower, gone).unwrap(), 1);
}

/// The digest is over what readers see: a queue file that differs by a bit must show, or replicas could differ unnoticed.
#[test]
fn the_digest_reads_the_queue_files() {
    let fs = SimFs::new();
    let kv: Arc<dyn Kv> = Arc::new(SimKv::new(1));
    let mut machine = open(&fs, &kv);
    let mut log = Log::born(&mut machine);
    log.propose(vec![send("A", 0, &["1", "2"], "", from_template(1))]);
    log.apply_all(&mut machine);
    let before = machine.digest().unwrap();
    fs.flip_bit(Path::new("/data/gen-1/cq/A@3/0"), 25, 0);
    assert_ne!(machine.digest().unwrap(), before);
    fs.flip_bit(Path::new("/data/gen-1/cq/A@3/0"), 25, 0);
    assert_eq!(machine.digest().unwrap(), before);
}

//! ConsumeQueue files and key index rows, and reading them.

use std::path::Path;
use std::sync::Arc;

use ledgermq_dledger::StateMachine;
use ledgermq_dledger::sim::disk::SimFs;

use super::super::consume_queue::QueueError;
use super::super::harness::*;
use super::super::key_index::{Entry, key_hash};
use super::super::{Boundary, Unit};
use crate::stamp::AutoCreate;
use crate::store::{Family, Kv, SimKv};
use crate::tables::TopicKey;

/// Files and rows of one version are read by the next.
#[test]
fn golden_layouts() {
    let unit = Unit { physical_offset: 0x0102_0304_0506_0708, size: 0x090A_0B0C, tags_code: -2 };
    let bytes = b"\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\xff\xff\xff\xff\xff\xff\xff\xfe";
    assert_eq!(&unit.encode(), bytes);
    assert_eq!(Unit::decode(bytes), unit);

    let entry = Entry { hash: 2, store_ms: 3, physical_offset: 4 };
    let row = b"\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0\x04";
    assert_eq!(&entry.row(1), row);
    let topic = TopicKey { name: "TopicTest".into(), incarnation: 7 };
    assert_eq!(
        key_hash(&topic, "order-1"),
        crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, b"TopicTest\0\0\0\0\0\0\0\0\x07order-1")
    );
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
        let stored = |unit: &Unit| -> Result<i64, QueueError> {
            let record = log.records().find(|record| record.physical_offset() as u64 == unit.physical_offset);
            Ok(record.unwrap().store_timestamp_ms())
        };
        machine.queues().offset_by_time(&topic, 0, ms, boundary, stored).unwrap()
    };
    let lower = [0, 1000, 1001, 1010, 1011, 1020, 1021].map(|ms| by_time(ms, Boundary::Lower));
    assert_eq!(lower, [0, 0, 1, 1, 3, 3, 4]);
    let upper = [0, 1000, 1009, 1010, 1019, 1020, 9999].map(|ms| by_time(ms, Boundary::Upper));
    assert_eq!(upper, [0, 0, 0, 2, 2, 3, 3]);
}

/// Keys are found in memory and in runs, newest first, by topic and time, and a run never mixes with the next.
#[test]
fn keys_are_found_in_memory_and_in_runs() {
    let kv: Arc<dyn Kv> = Arc::new(SimKv::new(1));
    let mut machine = open(&SimFs::new(), &kv);
    let mut log = Log::born(&mut machine);
    for n in 0..60 {
        log.now_ms = 1000 + n;
        let properties = format!("KEYS\u{1}red k{n}\u{2}UNIQ_KEY\u{1}u{n}\u{2}");
        log.propose(vec![send(["A", "B"][n as usize % 2], 0, &["x"], &properties, from_template(1))]);
        log.apply_all(&mut machine);
    }
    let mut runs = Vec::new();
    kv.scan(Family::Index, b"", &mut |row, _| {
        runs.push(row[..8].to_vec());
        std::ops::ControlFlow::Continue(())
    })
    .unwrap();
    assert!(runs.is_sorted() && runs.len() > 60 && runs.len() < 180, "some in runs, some in memory: {}", runs.len());
    runs.dedup();
    assert!(runs.len() > 2);
    let topic = machine.tables().topic("A").unwrap();
    let search = |key: &str, begin, end, max| machine.key_index().search(topic.key(), key, begin, end, max).unwrap();
    let positions = |from: i64, to: i64| -> Vec<u64> {
        let mut found: Vec<u64> = log
            .records()
            .filter(|r| r.topic() == "A" && (from..=to).contains(&r.store_timestamp_ms()))
            .map(|r| r.physical_offset() as u64)
            .collect();
        found.reverse();
        found
    };
    assert_eq!(search("red", 0, u64::MAX, 99), positions(0, i64::MAX));
    assert_eq!(search("red", 1010, 1020, 99), positions(1010, 1020));
    assert_eq!(search("red", 0, u64::MAX, 7), positions(0, i64::MAX)[..7]);
    for n in [0, 30, 58] {
        assert_eq!(search(&format!("k{n}"), 0, u64::MAX, 9), positions(1000 + n, 1000 + n));
        assert_eq!(search(&format!("u{n}"), 0, u64::MAX, 9), positions(1000 + n, 1000 + n));
    }
    assert!(search("k1", 0, u64::MAX, 9).is_empty(), "a key of the other topic");
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

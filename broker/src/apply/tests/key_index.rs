//! The key index: its rows, where its runs end, and what is found in it.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::BytesMut;
use ledgermq_dledger::StateMachine;
use ledgermq_dledger::sim::disk::SimFs;
use ledgermq_protocol::message::record::{self, Message};

use super::super::harness::*;
use super::super::key_index::{Entry, key_hash};
use super::super::{BrokerMachine, MachineConfig};
use crate::command::{Command, DeleteTopic};
use crate::stamp::{AutoCreate, Item, SendItem};
use crate::store::{Family, Kv, SimKv};
use crate::tables::TopicKey;

/// Rows of one version are read by the next.
#[test]
fn golden_rows_and_hash() {
    let entry = Entry { hash: 2, store_ms: 3, physical_offset: 4 };
    let row = b"\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0\x04";
    assert_eq!(&entry.row(1), row);
    let topic = TopicKey { name: "TopicTest".into(), incarnation: 7 };
    assert_eq!(
        key_hash(&topic, "order-1"),
        crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, b"TopicTest\0\0\0\0\0\0\0\0\x07order-1")
    );
}

/// Where the runs in a store start, one entry per row.
fn rows(kv: &Arc<dyn Kv>) -> Vec<u64> {
    let mut rows = Vec::new();
    kv.scan(Family::Index, b"", &mut |row, _| {
        rows.push(u64::from_be_bytes(*row.first_chunk().unwrap()));
        std::ops::ControlFlow::Continue(())
    })
    .unwrap();
    rows
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
    let mut runs = rows(&kv);
    assert!(runs.is_sorted() && runs.len() > 60 && runs.len() < 180, "some in runs, some in memory: {}", runs.len());
    runs.dedup();
    assert!(runs.len() > 2);
    let topic = machine.tables().topic("A").unwrap();
    let positions = |from: i64, to: i64| -> Vec<u64> {
        let mut found: Vec<u64> = log
            .records()
            .filter(|r| r.topic() == "A" && (from..=to).contains(&r.store_timestamp_ms()))
            .map(|r| r.physical_offset() as u64)
            .collect();
        found.reverse();
        found
    };
    assert_eq!(find_all(&machine, topic.key(), "red"), positions(0, i64::MAX));
    assert_eq!(find(&machine, topic.key(), "red", 1010..=1020, 99), positions(1010, 1020));
    for max in [1, 7, 29] {
        assert_eq!(find(&machine, topic.key(), "red", 0..=u64::MAX, max), positions(0, i64::MAX)[..max]);
    }
    for n in [0, 30, 58] {
        assert_eq!(find_all(&machine, topic.key(), &format!("k{n}")), positions(1000 + n, 1000 + n));
        assert_eq!(find_all(&machine, topic.key(), &format!("u{n}")), positions(1000 + n, 1000 + n));
    }
    assert!(find_all(&machine, topic.key(), "k1").is_empty(), "a key of the other topic");
}

/// Each kind of record must be indexed: IPv4 and IPv6 hosts move the fields behind them, a long topic changes the version.
#[test]
fn keys_of_all_record_versions_are_found() {
    let mut machine = new_machine();
    let mut log = Log::born(&mut machine);
    let long = format!("%RETRY%{}", "g".repeat(200));
    let (v4, v6) = ("127.0.0.1:1", "[2001:db8::1]:1");
    for (topic, born, store, key) in
        [("A", v4, v4, "k44"), ("A", v6, v4, "k64"), ("A", v6, v6, "k66"), (&*long, v6, v4, "k2")]
    {
        let message = Message {
            topic,
            queue_id: 0,
            flag: 0,
            sys_flag: 0,
            born_timestamp_ms: 5,
            born_host: born.parse().unwrap(),
            store_host: store.parse().unwrap(),
            reconsume_times: 0,
            prepared_transaction_offset: 0,
            body: b"x",
            properties: &format!("KEYS\u{1}{key}\u{2}UNIQ_KEY\u{1}u-{key}\u{2}"),
        };
        let mut records = BytesMut::new();
        record::encode(&message, &mut records).unwrap();
        log.propose(vec![Item::Send(SendItem::new(topic.into(), 0, records, AutoCreate::Plain { queues: 1 }))]);
    }
    log.apply_all(&mut machine);
    let mut versions = BTreeSet::new();
    for record in log.records() {
        versions.insert((record.is_v2(), record.sys_flag()));
        let topic = machine.tables().topic(record.topic()).unwrap();
        let words = ledgermq_protocol::message::properties::get(record.properties(), "KEYS").unwrap();
        for key in [words.to_owned(), format!("u-{words}")] {
            assert_eq!(find_all(&machine, topic.key(), &key), [record.physical_offset() as u64], "{key}");
        }
    }
    assert_eq!(versions.len(), 4);
}

/// A word that stands twice among the keys of a message, or is its unique key too, must not bring the message twice.
#[test]
fn a_message_is_found_once_per_key() {
    let mut machine = new_machine();
    let mut log = Log::born(&mut machine);
    log.propose(vec![send("A", 0, &["x", "y"], "KEYS\u{1}a b a u a\u{2}UNIQ_KEY\u{1}u\u{2}", from_template(1))]);
    log.apply_all(&mut machine);
    let topic = machine.tables().topic("A").unwrap();
    for key in ["a", "b", "u"] {
        assert_eq!(find_all(&machine, topic.key(), key).len(), 2, "{key}");
    }
}

/// A crash after a run was ingested and before the store remembers it: the rows are there, and the log brings them again. Each
/// message must be found once.
#[test]
fn a_run_that_was_ingested_but_not_recorded_is_made_again() {
    let mut seen = 0;
    for seed in 0..20 {
        let (fs, sim_kv) = (SimFs::new(), SimKv::new(seed));
        let kv: Arc<dyn Kv> = Arc::new(sim_kv.clone());
        let mut machine = open(&fs, &kv);
        let mut log = Log::born(&mut machine);
        machine.flush().unwrap();
        for n in 0..25 {
            log.propose(vec![send("A", 0, &[&"x".repeat(200)], &format!("KEYS\u{1}k{n} all\u{2}"), from_template(1))]);
        }
        log.apply(&mut machine, log.last_index(), 5);
        drop(machine);
        let ingested = rows(&kv);
        assert!(!ingested.is_empty());
        fs.crash();
        sim_kv.crash();
        assert_eq!(rows(&kv), ingested, "runs survive");
        let mut machine = open(&fs, &kv);
        let forgotten = machine.index.synced() == 0;
        seen += u32::from(forgotten);
        if let Some(topic) = machine.tables().topic("A").filter(|_| forgotten) {
            assert!(
                find_all(&machine, topic.key(), "all").is_empty(),
                "rows of a run that is not recorded are not there"
            );
        }
        let applied = machine.applied().at.index;
        log.apply(&mut machine, applied, 5);
        log.apply(&mut machine, log.last_index(), 5);
        assert_eq!(rows(&kv), ingested, "the same rows once more");
        let topic = machine.tables().topic("A").unwrap();
        assert_eq!(find_all(&machine, topic.key(), "all").len(), 25);
        for n in 0..25 {
            assert_eq!(find_all(&machine, topic.key(), &format!("k{n}")).len(), 1, "k{n}");
        }
    }
    assert!(seen > 0, "no seed lost the record of a run");
}

/// Replicas must agree where runs end, also one that takes in frames once more after their topic is gone.
#[test]
fn runs_end_at_the_same_place_when_a_topic_is_gone() {
    let config = MachineConfig { index_run_bytes: u64::MAX, index_run_keys: 10, ..config() };
    let (fs, sim_kv) = (SimFs::new(), SimKv::new(1));
    let kv: Arc<dyn Kv> = Arc::new(sim_kv.clone());
    let mut machine = open_with(&fs, &kv, &config);
    let mut log = Log::born(&mut machine);
    // Durable in the store only: the queue files and keys that follow are taken in again.
    let keys = "KEYS\u{1}a b c d e\u{2}UNIQ_KEY\u{1}u\u{2}";
    log.propose(vec![send("A", 0, &["x"], keys, from_template(1))]);
    log.propose(vec![Item::Command(Command::DeleteTopic(DeleteTopic { topic: "A".into() }))]);
    let before = log.last_index();
    log.apply_all(&mut machine);
    kv.flush().unwrap();
    drop(machine);
    sim_kv.crash();
    let mut machine = open_with(&fs, &kv, &config);
    assert_eq!((machine.replay_from(), machine.applied().at.index), (0, before));
    log.apply(&mut machine, before, usize::MAX);
    log.propose(vec![send("A", 0, &["y"], keys, from_template(1))]);
    log.apply_all(&mut machine);
    assert_eq!(machine.index.synced(), log.last_index(), "six keys and six: the second message ends a run");

    let kv: Arc<dyn Kv> = Arc::new(SimKv::new(2));
    let mut other = open_with(&SimFs::new(), &kv, &config);
    log.apply_all(&mut other);
    assert_eq!(other.index.synced(), machine.index.synced());
    let found = |machine: &BrokerMachine| find_all(machine, machine.tables().topic("A").unwrap().key(), "a");
    assert_eq!(found(&machine).len(), 1, "nothing of the former topic");
    assert_eq!(found(&machine), found(&other));
}

/// What the index costs on the apply thread, per message of about 1 KiB with two keys:
/// `cargo test -p ledgermq-broker --lib -- --ignored --nocapture key_index_cost`.
#[test]
#[ignore = "measures"]
fn key_index_cost() {
    use std::time::{Duration, Instant};

    use ledgermq_dledger::fs::OsFs;

    use crate::store::{RocksBudget, RocksKv};

    /// Messages per frame, frames per round, rounds.
    const SHAPE: (usize, usize, usize) = (32, 8, 1_200);
    let measured = |keys: &str, unique: &str, index_in_background: bool| {
        let dir = tempfile::tempdir().unwrap();
        let kv: Arc<dyn Kv> = Arc::new(RocksKv::open(&dir.path().join("kv"), &RocksBudget::default()).unwrap());
        let config = MachineConfig { index_in_background, ..MachineConfig::new(dir.path().join("cq")) };
        let mut machine = BrokerMachine::open(Arc::new(OsFs), kv, &config).unwrap();
        let mut log = Log::born(&mut machine);
        let body = "x".repeat(800);
        let (mut total, mut longest) = (Duration::ZERO, Duration::ZERO);
        for round in 0..SHAPE.2 {
            for frame in 0..SHAPE.1 {
                let serial = round * SHAPE.1 + frame;
                log.now_ms += 1;
                let items = (0..SHAPE.0).map(|n| {
                    let properties = format!("{keys}\u{1}order-{serial}-{n}\u{2}{unique}\u{1}{serial:016}{n:016}\u{2}");
                    send("A", n as i32 % 4, &[&body], &properties, from_template(4))
                });
                log.propose(items.collect());
            }
            let begin = Instant::now();
            log.apply(&mut machine, log.last_index(), SHAPE.1);
            longest = longest.max(begin.elapsed());
            total += begin.elapsed();
            // Frames that are applied are not needed any more.
            log.frames.drain(..log.frames.len() - 1);
        }
        (total.as_secs_f64() * 1e6 / (SHAPE.0 * SHAPE.1 * SHAPE.2) as f64, longest)
    };
    for _ in 0..3 {
        for (what, keys, unique, background) in [
            ("without keys", "XEYS", "XNIQ_KEY", true),
            ("with two, runs written on the spot", "KEYS", "UNIQ_KEY", false),
            ("with two, runs written in the background", "KEYS", "UNIQ_KEY", true),
        ] {
            let (per_message, longest_round) = measured(keys, unique, background);
            eprintln!("{per_message:.2} us per message {what}; longest round {longest_round:?}");
        }
    }
}

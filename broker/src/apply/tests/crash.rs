//! What a machine is after any crash and replay equals a twin that never crashed.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::Arc;

use ledgermq_dledger::sim::disk::SimFs;
use ledgermq_dledger::{FrameKind, StateMachine};
use ledgermq_protocol::message::properties;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::super::harness::*;
use super::super::{BrokerMachine, MachineConfig, UNIT_LEN};
use crate::command::*;
use crate::stamp::{Answer, AutoCreate, Item, OffsetBuffer};
use crate::store::{Kv, RocksBudget, RocksKv, SimKv};

const TOPICS: [&str; 4] = ["A", "B", "C", "%RETRY%g1"];
const GROUPS: [&str; 3] = ["g1", "g2", "TOOLS_CONSUMER"];

/// Something that clients might send just now.
fn random_item(rng: &mut StdRng, leader: &BrokerMachine, serial: &mut u32) -> Item {
    let topic = *TOPICS.choose(rng).unwrap();
    let group = *GROUPS.choose(rng).unwrap();
    match rng.random_range(0..100) {
        0..70 => {
            let bodies: Vec<String> =
                (0..rng.random_range(1..4)).map(|_| "x".repeat(rng.random_range(0..300))).collect();
            let bodies: Vec<&str> = bodies.iter().map(String::as_str).collect();
            *serial += 1;
            // One word stands there twice: still one answer.
            let (word, tag) = (*serial % 7, *serial % 3);
            let properties =
                format!("KEYS\u{1}k{word} all k{word}\u{2}UNIQ_KEY\u{1}u{serial}\u{2}TAGS\u{1}t{tag}\u{2}");
            let auto_create = match rng.random_range(0..4) {
                0 => AutoCreate::No,
                1 => AutoCreate::Plain { queues: 1 },
                _ => from_template(rng.random_range(1..5)),
            };
            send(topic, rng.random_range(-1..4), &bodies, &properties, auto_create)
        }
        70..75 => Item::Command(Command::DeleteTopic(DeleteTopic { topic: topic.to_owned() })),
        75..80 => {
            let mut settings = TopicSettings::plain(rng.random_range(1..6));
            settings.perm = *[6, 6, 6, 4].choose(rng).unwrap();
            let replace = rng.random();
            Item::Command(Command::PutTopic(PutTopic { topic: topic.to_owned(), settings, replace }))
        }
        80..83 => Item::Command(Command::PutSubscriptionGroup(PutSubscriptionGroup {
            group: group.to_owned(),
            settings: GroupSettings { retry_max_times: rng.random_range(0..20), ..GroupSettings::standard() },
            replace: rng.random(),
        })),
        83..85 => Item::Command(Command::DeleteSubscriptionGroup(DeleteSubscriptionGroup {
            group: group.to_owned(),
            clean_offsets: rng.random(),
        })),
        85..91 => {
            let tables = leader.tables();
            let queues = (0..rng.random_range(1..4)).filter_map(|_| {
                let topic = tables.topic(TOPICS.choose(rng).unwrap())?;
                let (topic, incarnation) = (topic.name().to_string(), topic.incarnation());
                Some(QueueOfTopic { topic, incarnation, queue: rng.random_range(0..5) })
            });
            let (group, queues) = (group.to_owned(), queues.collect());
            let client_id = format!("c{}", rng.random_range(0..3));
            Item::Command(if rng.random_ratio(1, 4) {
                Command::UnlockQueues(UnlockQueues { group, client_id, queues })
            } else {
                let lease_ms = rng.random_range(1..400);
                Command::LockQueues(LockQueues { group, client_id, at_ms: 0, lease_ms, queues })
            })
        }
        _ => {
            let mut buffer = OffsetBuffer::new();
            let tables = leader.tables();
            for _ in 0..rng.random_range(1..5) {
                let Some(topic) = tables.topic(TOPICS.choose(rng).unwrap()) else { continue };
                let queue = rng.random_range(0..topic.queue_count() + 1);
                let offset = rng.random_range(0..topic.next_offset(queue) + 3);
                buffer.put(0, &Arc::from(*GROUPS.choose(rng).unwrap()), topic.key(), queue, offset);
            }
            let none = Command::CommitOffsets(CommitOffsets::default());
            Item::Command(buffer.take_all().pop().unwrap_or(none))
        }
    }
}

/// Everything that a reader can see, compared one by one, so that a difference is named.
fn assert_same(a: &BrokerMachine, b: &BrokerMachine, context: &str) {
    let (tables_a, tables_b) = (a.tables(), b.tables());
    assert_eq!(a.applied().at, b.applied().at, "{context}");
    assert_eq!(tables_a.applied(), tables_b.applied(), "{context}");
    let names = |topics: Vec<Arc<crate::tables::Topic>>| topics.iter().map(|t| t.key().clone()).collect::<Vec<_>>();
    assert_eq!(names(tables_a.topics()), names(tables_b.topics()), "{context}");
    let kept = tables_a.kept();
    assert_eq!(kept, tables_b.kept(), "{context}");
    for (left, right) in tables_a.topics().iter().zip(tables_b.topics()) {
        assert_eq!(left.settings(), right.settings(), "{context} {}", left.name());
        assert_eq!(left.queue_count(), right.queue_count(), "{context} {}", left.name());
        for queue in 0..left.queue_count() {
            assert_eq!(left.next_offset(queue), right.next_offset(queue), "{context} {}/{queue}", left.name());
            let min = left.min_offset(queue);
            assert_eq!(min, right.min_offset(queue), "{context} {}/{queue}", left.name());
            let mut bytes = vec![vec![0; (left.next_offset(queue) - min) as usize * UNIT_LEN]; 2];
            a.queues.read_bytes(left.key(), queue, min, &mut bytes[0]).unwrap();
            b.queues.read_bytes(left.key(), queue, min, &mut bytes[1]).unwrap();
            assert_eq!(bytes[0], bytes[1], "{context} {}/{queue}", left.name());
        }
        for key in ["all", "k1", "k6"] {
            // What was given up may still be found, or not: nobody is told.
            let find_kept = |machine| find_all(machine, left.key(), key).into_iter().filter(|at| *at >= kept.pos);
            let (found_a, found_b): (Vec<u64>, Vec<u64>) = (find_kept(a).collect(), find_kept(b).collect());
            assert_eq!(found_a, found_b, "{context} {} key {key}", left.name());
        }
    }
    assert_eq!(a.index.synced(), b.index.synced(), "{context}: the last run of the key index ends elsewhere");
    assert_eq!(tables_a.groups(), tables_b.groups(), "{context}");
    for group in GROUPS {
        assert_eq!(tables_a.group_offsets(group), tables_b.group_offsets(group), "{context}");
    }
    assert_eq!(tables_a.locks(), tables_b.locks(), "{context}");
    assert_eq!(a.digest().unwrap(), b.digest().unwrap(), "{context}");
}

/// What stands in the log is what the state says, by a model that knows nothing of the machine: per incarnation and queue the
/// messages in log order, and each one found by its keys.
fn assert_matches_log(machine: &BrokerMachine, log: &Log, context: &str) {
    let tables = machine.tables();
    let kept = tables.kept();
    for topic in tables.topics() {
        let alive = |frame: &&ledgermq_dledger::Frame| {
            frame.kind == FrameKind::Messages
                && frame.at.index > topic.incarnation()
                && frame.at.index <= tables.applied_index()
        };
        let mut expected = vec![Vec::new(); topic.queue_count() as usize];
        let mut keys = BTreeMap::<String, (Vec<u64>, RangeInclusive<u64>)>::new();
        for frame in log.frames.iter().filter(alive) {
            for record in ledgermq_protocol::message::record::Records::new(&frame.payload) {
                let record = record.unwrap();
                if record.topic() == &**topic.name() {
                    assert_eq!(record.queue_offset() as usize, expected[record.queue_id() as usize].len(), "{context}");
                    expected[record.queue_id() as usize].push((record.physical_offset() as u64, record.len() as u32));
                    let stored_ms = record.store_timestamp_ms() as u64;
                    for key in keys_of(record.properties()) {
                        let (positions, window) = keys.entry(key).or_insert((Vec::new(), stored_ms..=stored_ms));
                        positions.insert(0, record.physical_offset() as u64);
                        *window = *window.start()..=stored_ms;
                    }
                }
            }
        }
        for (queue, expected) in expected.iter().enumerate() {
            let min = expected.iter().filter(|(pos, _)| *pos < kept.pos).count();
            assert_eq!(topic.min_offset(queue as u32), min as u64, "{context} {}/{queue}", topic.name());
            assert!(min == 0 || machine.queues().read(&topic, queue as u32, min as u64 - 1, 9).unwrap().is_empty());
            let units = machine.queues().read(&topic, queue as u32, min as u64, usize::MAX).unwrap();
            let units: Vec<_> = units.iter().map(|unit| (unit.physical_offset, unit.size)).collect();
            assert_eq!(&units, &expected[min..], "{context} {}/{queue}", topic.name());
        }
        for (key, (positions, window)) in keys {
            let found = find(machine, topic.key(), &key, window.clone(), usize::MAX);
            let of_kept = |found: Vec<u64>| found.into_iter().filter(|at| *at >= kept.pos).collect::<Vec<_>>();
            assert_eq!(of_kept(found), of_kept(positions), "{context} {} key {key}", topic.name());
            let (before, after) = (0..=window.start() - 1, window.end() + 1..=u64::MAX);
            let outside = [before, after].map(|window| find(machine, topic.key(), &key, window, usize::MAX));
            assert!(outside.iter().all(Vec::is_empty), "{context} {} key {key}: {outside:?}", topic.name());
        }
    }
}

/// The different keys of a message.
fn keys_of(properties: &str) -> BTreeSet<String> {
    let words = properties::get(properties, "KEYS").into_iter().flat_map(properties::keys);
    words.chain(properties::get(properties, "UNIQ_KEY")).map(str::to_owned).collect()
}

#[derive(Default)]
struct Seen {
    crashes: u32,
    power_cuts: u32,
    replays: u32,
    kv_behind: u32,
    recreated: u32,
    truncated: u32,
    refused: u32,
    given_up: u32,
    released: u32,
}

/// Gives up everything before some frame that is applied. The borders of segments mean nothing to the machine.
fn give_up(rng: &mut StdRng, leader: &BrokerMachine, log: &mut Log) -> bool {
    let (kept, applied) = (leader.tables().kept().index, leader.tables().applied_index());
    let frame = log.frames.iter().filter(|frame| (kept.max(1) + 1..=applied).contains(&frame.at.index));
    let Some(at) = frame.map(|frame| frame.at).take(40).collect::<Vec<_>>().choose(rng).copied() else { return false };
    let command = Command::TruncatePrefix(TruncatePrefix { index: at.index, pos: at.pos.0 });
    log.append(FrameKind::Command, 0, command.encode());
    true
}

fn run(seed: u64, seen: &mut Seen) {
    let rng = &mut StdRng::seed_from_u64(seed);
    let mut leader = new_machine();
    let mut twin = new_machine();
    let fs = SimFs::new();
    let sim_kv = SimKv::new(seed);
    let kv: Arc<dyn Kv> = Arc::new(sim_kv.clone());
    let mut victim = open(&fs, &kv);
    let mut log = Log::born(&mut leader);
    let mut serial = 0;
    let mut released = 0;
    for step in 0..60 {
        let context = format!("seed {seed} step {step}");
        log.now_ms = (log.now_ms as i64 + rng.random_range(-20..100)) as u64;
        let items = (0..rng.random_range(1..6)).map(|_| random_item(rng, &leader, &mut serial)).collect();
        for answer in log.propose(items) {
            seen.refused += u32::from(matches!(answer, Answer::Refused(_)));
        }
        if rng.random_ratio(1, 10) {
            // The leader loses what is not committed; the next one starts from what is.
            let committed = leader.position.max(victim.position).max(rng.random_range(0..=log.last_index()));
            seen.truncated += u32::from(committed < log.last_index());
            log.frames.retain(|frame| frame.at.index <= committed);
            log.lead(&mut leader);
        }
        if rng.random_ratio(1, 6) && give_up(rng, &leader, &mut log) {
            seen.given_up += 1;
        }
        let committed = rng.random_range(leader.position..=log.last_index());
        log.apply(&mut leader, committed, rng.random_range(1..5));
        let reach = rng.random_range(victim.position..=committed.max(victim.position));
        log.apply(&mut victim, reach, rng.random_range(1..5));
        if victim.flush_due() && rng.random() || rng.random_ratio(1, 15) {
            victim.flush().unwrap();
        }
        seen.released += u32::from(victim.keep_from().0 > released);
        released = released.max(victim.keep_from().0);
        if rng.random_ratio(1, 6) {
            let before = victim.applied().at.index;
            drop(victim);
            if rng.random() {
                fs.crash();
                seen.crashes += 1;
            } else {
                fs.power_cut(rng);
                seen.power_cuts += 1;
            }
            sim_kv.crash();
            victim = open(&fs, &kv);
            let applied = victim.applied().at.index;
            assert!(victim.replay_from() <= applied && applied <= before, "{context}");
            seen.replays += u32::from(victim.replay_from() < applied);
            seen.kv_behind += u32::from(applied < before);
            let next = log.frames.iter().find(|frame| frame.at.index > victim.replay_from());
            assert!(
                next.is_none_or(|next| next.at.pos.0 >= released),
                "{context}: it wants {next:?}, given up to {released}"
            );
            // As at start: first what the store has already, then what is known to be committed.
            log.apply(&mut victim, applied, rng.random_range(1..5));
            if rng.random_ratio(1, 4) {
                victim.flush().unwrap();
            }
            log.apply(&mut victim, before, rng.random_range(1..5));
        }
    }
    let deletions = log.frames.iter().filter(|frame| frame.kind == FrameKind::Command && frame.payload[0] == 3).count();
    seen.recreated += deletions as u32;
    log.apply_all(&mut leader);
    log.apply_all(&mut twin);
    log.apply_all(&mut victim);
    assert_matches_log(&twin, &log, &format!("seed {seed} twin"));
    assert_same(&twin, &leader, &format!("seed {seed} leader"));
    assert_same(&twin, &victim, &format!("seed {seed} victim"));
    victim.flush().unwrap();
    drop(victim);
    fs.power_cut(rng);
    sim_kv.crash();
    victim = open(&fs, &kv);
    assert_eq!(victim.applied().at.index, log.last_index(), "a flush makes everything durable");
    log.apply_all(&mut victim);
    assert_same(&twin, &victim, &format!("seed {seed} victim after a flush and a power cut"));
}

/// Crashes and power cuts at any point, flushes asked for and not, deletions and re-creations, leader changes that lose the
/// uncommitted end: the state is always that of the log.
#[test]
fn a_crashed_machine_equals_one_that_never_crashed() {
    let mut seen = Seen::default();
    for seed in 0..300 {
        run(seed, &mut seen);
    }
    let Seen { crashes, power_cuts, replays, kv_behind, recreated, truncated, refused, given_up, released } = seen;
    for (what, count) in [
        ("crashes", crashes),
        ("power cuts", power_cuts),
        ("replays of frames that the store had", replays),
        ("stores behind", kv_behind),
        ("deletions", recreated),
        ("lost ends", truncated),
        ("refusals", refused),
        ("old messages given up", given_up),
        ("log released", released),
    ] {
        assert!(count > 20, "{what}: {count}");
    }
}

/// RocksDB and the simulated store hold the same state, also when both are opened again, and whenever the thread that writes
/// runs of the key index gets ready.
#[test]
fn rocksdb_gives_the_same_state() {
    for seed in 0..3 {
        let rng = &mut StdRng::seed_from_u64(seed);
        let dir = tempfile::tempdir().unwrap();
        let rocks = || -> Arc<dyn Kv> { Arc::new(RocksKv::open(dir.path(), &RocksBudget::default()).unwrap()) };
        let fs = SimFs::new();
        let config = MachineConfig { index_in_background: true, ..config() };
        let mut on_rocks = open_with(&fs, &rocks(), &config);
        let mut leader = new_machine();
        let mut log = Log::born(&mut leader);
        let mut serial = 0;
        for _ in 0..100 {
            let items = (0..rng.random_range(1..6)).map(|_| random_item(rng, &leader, &mut serial)).collect();
            log.propose(items);
            if rng.random_ratio(1, 10) {
                give_up(rng, &leader, &mut log);
            }
            log.apply_all(&mut leader);
            log.apply(&mut on_rocks, log.last_index(), rng.random_range(1..5));
            if on_rocks.flush_due() {
                on_rocks.flush().unwrap();
            }
        }
        assert_same(&leader, &on_rocks, &format!("seed {seed}"));
        on_rocks.flush().unwrap();
        drop(on_rocks);
        fs.crash();
        let mut again = open_with(&fs, &rocks(), &config);
        assert_eq!(again.applied().at.index, log.last_index());
        log.apply_all(&mut again);
        assert_same(&leader, &again, &format!("seed {seed}, opened again"));
    }
}

/// A flush in the middle of the replay must not claim queue files that are not written yet.
#[test]
fn a_flush_during_replay_claims_only_what_is_replayed() {
    let mut leader = new_machine();
    let mut log = Log::born(&mut leader);
    let fs = SimFs::new();
    let sim_kv = SimKv::new(3);
    let kv: Arc<dyn Kv> = Arc::new(sim_kv.clone());
    let mut victim = open(&fs, &kv);
    for n in 0..20 {
        log.propose(vec![send("A", 0, &[&format!("{n}")], "", from_template(4))]);
    }
    log.apply_all(&mut victim);
    log.apply_all(&mut leader);
    // The store is durable, the queue files are not.
    kv.flush().unwrap();
    drop(victim);
    fs.power_cut_with(&mut |_| ledgermq_dledger::sim::disk::Fate::Lost);
    sim_kv.crash();
    let mut victim = open(&fs, &kv);
    assert_eq!((victim.replay_from(), victim.applied().at.index), (0, log.last_index()));
    log.apply(&mut victim, 5, 1);
    victim.flush().unwrap();
    drop(victim);
    fs.power_cut_with(&mut |_| ledgermq_dledger::sim::disk::Fate::Lost);
    sim_kv.crash();
    let mut victim = open(&fs, &kv);
    assert!(victim.replay_from() <= 5);
    log.apply_all(&mut victim);
    assert_same(&leader, &victim, "after two power cuts");
}

/// Runs seeds until one goes red; the planted bug must show. One per process: the choice is the process's.
#[cfg(feature = "planted-bugs")]
fn finds(bug: ledgermq_dledger::plant::Bug) {
    ledgermq_dledger::plant::choose(Some(bug));
    let red = (0..300).find(|seed| {
        let run = std::panic::AssertUnwindSafe(|| run(*seed, &mut Seen::default()));
        std::panic::catch_unwind(run).is_err()
    });
    ledgermq_dledger::plant::choose(None);
    let red = red.expect("no seed found the planted bug");
    eprintln!("{} is found by seed {red}", bug.name());
}

#[cfg(feature = "planted-bugs")]
#[test]
#[ignore = "plants a bug in the whole process: run alone"]
fn applied_apart_is_found() {
    finds(ledgermq_dledger::plant::Bug::AppliedApart);
}

#[cfg(feature = "planted-bugs")]
#[test]
#[ignore = "plants a bug in the whole process: run alone"]
fn incarnation_ignored_is_found() {
    finds(ledgermq_dledger::plant::Bug::IncarnationIgnored);
}

#[cfg(feature = "planted-bugs")]
#[test]
#[ignore = "plants a bug in the whole process: run alone"]
fn stale_projection_is_found() {
    finds(ledgermq_dledger::plant::Bug::StaleProjection);
}

#[cfg(feature = "planted-bugs")]
#[test]
#[ignore = "plants a bug in the whole process: run alone"]
fn prefix_beyond_flush_is_found() {
    finds(ledgermq_dledger::plant::Bug::PrefixBeyondFlush);
}

#[cfg(feature = "planted-bugs")]
#[test]
#[ignore = "plants a bug in the whole process: run alone"]
fn keys_forgotten_is_found() {
    finds(ledgermq_dledger::plant::Bug::KeysForgotten);
}

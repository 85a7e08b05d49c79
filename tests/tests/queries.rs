//! Questions for single messages, by key, by id and by time, of real processes that die between.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use ledgermq_tests::cluster::{Cluster, NODES, Node, PATIENCE, POLL, report, signal};
use ledgermq_tests::wire::{self, Connection, Record, code};
use ledgermq_tests::{payload, replicas};
use rustix::process::Signal;

/// The topic of all messages here.
const TOPIC: &str = "queries";

/// Messages sent to each of two leaders. With [`WORDS`] words each they end a run of the key index (131,072 keys), which is
/// then in RocksDB; the keys behind it are in memory.
const MESSAGES_PER_LEADER: usize = 1_100;

/// Words among the keys of a message: its own, one that it shares, and filling.
const WORDS: usize = 63;

/// Words that messages share: each has more messages than one answer holds. Those of a queue share words with no other.
const SHARED: usize = 20;

/// Queues of the topic, filled in turn.
const QUEUES: usize = 4;

/// Most messages of one answer.
const ANSWER_MAX: usize = 64;

/// One message in this many is looked for by its own keys.
const LOOKED_FOR_ONE_IN: usize = 5;

/// A message that was acknowledged: the number that makes its keys and body, and where it lies.
struct Sent {
    n: usize,
    position: u64,
}

fn unique_key(n: usize) -> String {
    format!("{n:032X}")
}

fn body_id(n: usize) -> String {
    format!("queries-{n}")
}

fn send(connection: &mut Connection, n: usize) -> Result<Sent> {
    let mut words = vec![format!("own-{n}"), format!("shared-{}", n % SHARED)];
    words.extend((words.len()..WORDS).map(|filling| format!("f{n}-{filling}")));
    let properties = format!("KEYS\u{1}{}\u{2}UNIQ_KEY\u{1}{}\u{2}", words.join(" "), unique_key(n));
    let fields = wire::send_fields("tests", TOPIC, (n % QUEUES) as i32, &properties);
    let answer = connection.call(code::SEND_V2, &fields, &payload::make(&body_id(n), 100))?.success("a send")?;
    let id = answer.fields.get("msgId").and_then(|id| id.as_str()).context("an answer without msgId")?;
    let position = id.get(id.len() - 16..).context("a short msgId")?;
    Ok(Sent { n, position: u64::from_str_radix(position, 16)? })
}

/// What a query finds; nothing must be code 22.
fn query(connection: &mut Connection, key: &str, unique: bool, end_ms: i64) -> Result<Vec<Record>> {
    const QUERY_NOT_FOUND: i32 = 22;
    let fields = [
        ("topic", TOPIC.to_owned()),
        ("key", key.to_owned()),
        ("maxNum", ANSWER_MAX.to_string()),
        ("beginTimestamp", "0".to_owned()),
        ("endTimestamp", end_ms.to_string()),
        ("_UNIQUE_KEY_QUERY", unique.to_string()),
    ];
    let answer = connection.call(code::QUERY_MESSAGE, &fields, &[])?;
    if answer.code == QUERY_NOT_FOUND {
        return Ok(Vec::new());
    }
    wire::records(&answer.success(key)?.body)
}

/// Looks for messages by all their keys, and for what is not there.
fn check_keys(node: &Node, sent: &[Sent]) -> Result<()> {
    let connection = &mut Connection::open(node.address())?;
    for Sent { n, position } in sent.iter().step_by(LOOKED_FOR_ONE_IN).chain(sent.last()) {
        for (key, unique) in [(unique_key(*n), true), (format!("own-{n}"), false), (format!("f{n}-62"), false)] {
            let found = query(connection, &key, unique, i64::MAX)?;
            let found: Vec<_> = found.iter().map(|r| (r.physical_offset, payload::id(&r.body))).collect();
            ensure!(found == [(*position, body_id(*n))], "node {}: {key} finds {found:?}", node.id);
        }
        let fields = [("offset", position.to_string())];
        let viewed = wire::records(&connection.call(code::VIEW_MESSAGE, &fields, &[])?.success("a view")?.body)?;
        ensure!(viewed.len() == 1 && payload::id(&viewed[0].body) == body_id(*n), "node {}: {viewed:?}", node.id);
        let fields = [("offset", (position + 1).to_string())];
        ensure!(connection.call(code::VIEW_MESSAGE, &fields, &[])?.code == 1, "a view inside of a message");
    }
    for (key, unique) in [("own-x".to_owned(), false), ("own-1".to_owned(), true), (unique_key(sent.len()), true)] {
        let found = query(connection, &key, unique, i64::MAX)?;
        ensure!(found.is_empty(), "node {}: {key} finds {found:?}", node.id);
    }
    Ok(())
}

/// All messages with a shared word, page by page, newest first.
fn pages(connection: &mut Connection, word: usize) -> Result<Vec<Record>> {
    let mut found: Vec<Record> = Vec::new();
    let mut end_ms = i64::MAX;
    loop {
        let page = query(connection, &format!("shared-{word}"), false, end_ms)?;
        ensure!(page.len() <= ANSWER_MAX, "an answer of {} messages", page.len());
        ensure!(page.is_sorted_by(|a, b| a.physical_offset > b.physical_offset), "not newest first: {page:?}");
        // The page before may have ended inside of a millisecond.
        let seen = found.last().map_or(u64::MAX, |record| record.physical_offset);
        let before = found.len();
        found.extend(page.into_iter().filter(|record| record.physical_offset < seen));
        match found.last() {
            Some(oldest) if found.len() > before => end_ms = oldest.store_ms,
            _ => return Ok(found),
        }
    }
}

/// Pages through all messages of each shared word.
fn check_pages(node: &Node, sent: &[Sent]) -> Result<()> {
    let connection = &mut Connection::open(node.address())?;
    for word in 0..SHARED {
        let found = pages(connection, word)?;
        let found: BTreeSet<u64> = found.iter().map(|record| record.physical_offset).collect();
        let of_word = sent.iter().filter(|sent| sent.n % SHARED == word);
        let expected: BTreeSet<u64> = of_word.map(|sent| sent.position).collect();
        ensure!(found == expected, "node {}: shared-{word} finds {} of {}", node.id, found.len(), expected.len());
    }
    Ok(())
}

/// Searches a queue by the times of its messages, which are known from queries by key.
fn check_times(leader: &Node) -> Result<()> {
    let connection = &mut Connection::open(leader.address())?;
    for queue in 0..QUEUES {
        let mut records = Vec::new();
        for word in (queue..SHARED).step_by(QUEUES) {
            records.extend(pages(connection, word)?);
        }
        records.sort_by_key(|record| record.queue_offset);
        let dense = records.iter().enumerate().all(|(n, record)| record.queue_offset == n as u64);
        ensure!(dense && records.iter().all(|record| record.queue == queue as i32), "queue {queue} has gaps");
        for record in records.iter().step_by(LOOKED_FOR_ONE_IN) {
            let ms = record.store_ms;
            let older = records.partition_point(|record| record.store_ms < ms) as i64;
            for (boundary, timestamp, expected) in [("LOWER", ms, older), ("UPPER", ms - 1, (older - 1).max(0))] {
                let fields = [
                    ("topic", TOPIC.to_owned()),
                    ("queueId", queue.to_string()),
                    ("timestamp", timestamp.to_string()),
                    ("boundaryType", boundary.to_owned()),
                ];
                let answer = connection.call(code::SEARCH_OFFSET, &fields, &[])?.success("a search by time")?;
                let offset = answer.number("offset")?;
                ensure!(offset == expected, "queue {queue}: {boundary} of {timestamp} gives {offset}, not {expected}");
            }
        }
    }
    Ok(())
}

/// Waits until a node has applied everything that was acknowledged, and looks for it.
fn check(node: &Node, sent: &[Sent]) -> Result<()> {
    let last = sent.last().context("nothing was sent")?;
    let deadline = Instant::now() + PATIENCE;
    while query(&mut Connection::open(node.address())?, &unique_key(last.n), true, i64::MAX)?.is_empty() {
        ensure!(Instant::now() < deadline, "node {} does not find message {}", node.id, last.n);
        std::thread::sleep(POLL);
    }
    check_keys(node, sent)?;
    check_pages(node, sent)
}

/// Bytes of RocksDB's tables under a folder.
fn table_bytes(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            bytes += table_bytes(&entry.path())?;
        } else if entry.path().extension().is_some_and(|end| end == "sst") {
            bytes += entry.metadata()?.len();
        }
    }
    Ok(bytes)
}

/// Would break: the key index. What was sent through two leaders must be found, and nothing else, by its keys and positions: at
/// the second leader, after all nodes died at once, and after a clean stop. A run of the index is in RocksDB when they die,
/// and the record of it is lost.
#[test]
fn messages_are_found_after_deaths_of_the_leader_and_of_all_nodes() {
    let mut cluster = Cluster::start().unwrap();
    let first = cluster.await_leader(None).unwrap();
    let mut connection = Connection::open(first.address()).unwrap();
    let mut sent: Vec<Sent> = (0..MESSAGES_PER_LEADER).map(|n| send(&mut connection, n).unwrap()).collect();
    check(&first, &sent).unwrap();
    cluster.kill(first.id).unwrap();
    let second = cluster.await_leader(Some(first.id)).unwrap();
    let mut connection = Connection::open(second.address()).unwrap();
    sent.extend((0..MESSAGES_PER_LEADER).map(|n| send(&mut connection, MESSAGES_PER_LEADER + n).unwrap()));
    check(&second, &sent).unwrap();
    check_times(&second).unwrap();
    cluster.restart(first.id).unwrap();
    check(&cluster.node(first.id).unwrap(), &sent).unwrap();
    for node in cluster.nodes().unwrap() {
        let bytes = table_bytes(&node.data_dir).unwrap();
        assert!(bytes > 1 << 20, "node {}: tables of {bytes} bytes, there is no run of the index", node.id);
    }

    for node in 1..=NODES {
        cluster.kill(node).unwrap();
    }
    for node in 1..=NODES {
        cluster.restart(node).unwrap();
    }
    let leader = cluster.await_leader(None).unwrap();
    check_times(&leader).unwrap();
    for node in cluster.nodes().unwrap() {
        check(&node, &sent).unwrap();
    }

    let follower = cluster.follower().unwrap();
    signal(follower.pid, Signal::TERM).unwrap();
    cluster.await_end(&follower).unwrap();
    let begin = Instant::now();
    let again = cluster.restart(follower.id).unwrap();
    check(&again, &sent).unwrap();
    report(&format!("everything found on a node {:?} after its start", begin.elapsed()));
    replicas::judge(&mut cluster).unwrap();
}

//! Old messages are given up by real processes that die meanwhile: the log stays short, nothing that is kept is lost, every
//! replica begins at the same message, and no member is cut off.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use ledgermq_tests::cluster::{Cluster, Node, PATIENCE, POLL, report};
use ledgermq_tests::history::{Event, History, queue_number};
use ledgermq_tests::load::{self, Load, Plan, QUEUES};
use ledgermq_tests::wire::{Connection, code};
use ledgermq_tests::{program, replicas};

/// Bytes of a segment.
const SEGMENT: u64 = 1 << 20;

/// Bytes of log that are to be kept.
const KEPT: u64 = 6 * SEGMENT;

/// Options of the cluster.
const OPTIONS: [&str; 8] =
    ["--groups", "1", "--segment-mib", "1", "--set", "retention_bytes=6291456", "--set", "retention_ms=0"];

/// Segments beyond [`KEPT`] that may be there: the one that is written to, one that is given up only as a whole, and spares.
const MORE_SEGMENTS: u64 = 5;

/// PULL_OFFSET_MOVED.
const OFFSET_MOVED: i32 = 21;

/// GET_EARLIEST_MSG_STORETIME.
const EARLIEST: i32 = 32;

/// Bytes of the log's files on a node.
fn log_bytes(node: &Node) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(node.data_dir.join("broker-a/log"))? {
        // A file may go while the folder is read.
        bytes += entry?.metadata().map_or(0, |file| file.len());
    }
    Ok(bytes)
}

/// Waits until the log of every node is as short as it should be.
fn await_short_logs(cluster: &Cluster) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let bytes = cluster.nodes()?.iter().map(log_bytes).collect::<Result<Vec<_>>>()?;
        if bytes.iter().all(|bytes| *bytes <= KEPT + MORE_SEGMENTS * SEGMENT) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "the logs have {bytes:?} bytes, {KEPT} are to be kept");
        std::thread::sleep(POLL);
    }
}

fn ask(leader: &Node, code: i32, topic: &str, queue: i32, more: &[(&'static str, String)], field: &str) -> Result<u64> {
    let mut fields = vec![("topic", topic.to_owned()), ("queueId", queue.to_string())];
    fields.extend_from_slice(more);
    let answer = Connection::open(leader.address())?.call(code, &fields, &[])?.success(field)?;
    Ok(answer.number(field)? as u64)
}

/// First offsets of all queues.
fn begins(leader: &Node, topic: &str) -> Result<Vec<u64>> {
    (0..QUEUES).map(|queue| ask(leader, code::MIN_OFFSET, topic, queue, &[], "offset")).collect()
}

/// What was acknowledged and is kept is there, once, without a gap; returns how many messages that are.
fn check_kept(history: &History, broker: &str, begins: &[u64]) -> Result<usize> {
    let (mut sent, mut acked, mut read) = (BTreeMap::new(), Vec::new(), BTreeMap::new());
    for event in &history.events {
        match event {
            Event::Invoke { process, op, hash, .. } => drop(sent.insert((process.clone(), *op), hash.clone())),
            Event::Ok { process, op, queue, offset, .. } => acked.push(((process.clone(), *op), *queue, *offset)),
            Event::Final { queue, offset, hash, .. } => {
                ensure!(read.insert((*queue, *offset), hash.clone()).is_none(), "{queue}#{offset} was read twice");
            }
            _ => {}
        }
    }
    for (queue, begin) in begins.iter().enumerate() {
        let queue = queue_number(broker, queue as i32);
        let offsets: Vec<u64> = read.keys().filter(|(of, _)| *of == queue).map(|(_, offset)| *offset).collect();
        ensure!(offsets.first().is_none_or(|first| first == begin), "queue {queue} begins at {begin}: {offsets:?}");
        ensure!(offsets.windows(2).all(|pair| pair[0] + 1 == pair[1]), "queue {queue} has a gap: {offsets:?}");
    }
    let mut kept = 0;
    for (call, queue, offset) in acked {
        let begin = (0..QUEUES).find(|id| queue_number(broker, *id) == queue).map(|id| begins[id as usize]);
        if offset < begin.context("an unknown queue")? {
            continue;
        }
        kept += 1;
        let there = read.get(&(queue, offset));
        ensure!(there == sent.get(&call), "{call:?}, acknowledged as {queue}#{offset}, is lost or another");
    }
    Ok(kept)
}

/// Queue and offset of what a consumer of the group `late` is given by the command line.
fn consume(cluster: &Cluster, topic: &str, more: &[&str]) -> Result<Vec<(u64, u64)>> {
    let mut command = std::process::Command::new(program::ledgermq()?);
    command.args(["consume", "--namesrv", cluster.namesrv(), "--topic", topic, "--group", "late", "--json"]).args(more);
    let done = program::output(&mut command)?;
    ensure!(done.status.success(), "consume: {}", program::words(&done));
    let number = |message: &serde_json::Value, name: &str| message[name].as_u64().context("not a message");
    String::from_utf8_lossy(&done.stdout)
        .lines()
        .map(|line| {
            let message: serde_json::Value = serde_json::from_str(line)?;
            Ok((number(&message, "queue")?, number(&message, "queue_offset")?))
        })
        .collect()
}

fn inspect(command: &str, folder: &Path) -> Result<()> {
    let done =
        program::output(std::process::Command::new(program::ledgermq()?).args(["inspect", command]).arg(folder))?;
    ensure!(done.status.success(), "inspect {command}: {}", program::words(&done));
    Ok(())
}

/// Would break: a prefix that goes too early, a begin that differs between replicas, files that pile up.
#[test]
fn a_log_that_is_kept_short_loses_nothing_that_it_keeps() {
    let mut cluster = Cluster::start_with(&OPTIONS).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let plan = Plan { topic: "short".into(), producers: 4, size: 8_192 };
    let load = Load::start(cluster.namesrv(), dir.path(), &plan).unwrap();
    load.await_acked(100).unwrap();
    assert_eq!(consume(&cluster, "short", &["--max", "8"]).unwrap().len(), 8);
    for _ in 0..4 {
        load.await_acked(800).unwrap();
        let leader = cluster.await_leader(None).unwrap();
        cluster.kill(leader.id).unwrap();
        cluster.await_leader(Some(leader.id)).unwrap();
        load.await_acked(400).unwrap();
        cluster.restart(leader.id).unwrap();
    }
    load.await_acked(2_000).unwrap();
    let acked = load.acked();
    let files = load.stop().unwrap();
    await_short_logs(&cluster).unwrap();

    let leader = cluster.await_leader(None).unwrap();
    let begins = begins(&leader, "short").unwrap();
    assert!(begins.iter().all(|begin| *begin > 0), "{begins:?}");
    let history = load::history(&cluster, "short", &files).unwrap();
    let kept = check_kept(&history, "broker-a", &begins).unwrap();
    assert!((300..acked as usize).contains(&kept), "{kept} of {acked}");

    // Who comes too late is told where to go on.
    let mut connection = Connection::open(leader.address()).unwrap();
    let fields = load::pull_fields("short", 0, 0);
    let answer = connection.call(code::PULL, &fields, &[]).unwrap();
    assert_eq!(
        (answer.code, answer.number("nextBeginOffset").unwrap() as u64),
        (OFFSET_MOVED, begins[0]),
        "{answer:?}"
    );
    let at = |ms: u64| [("timestamp", ms.to_string())];
    assert_eq!(ask(&leader, code::SEARCH_OFFSET, "short", 1, &at(1), "offset").unwrap(), begins[1]);
    let earliest = ask(&leader, EARLIEST, "short", 2, &[], "timestamp").unwrap();
    assert_eq!(ask(&leader, code::SEARCH_OFFSET, "short", 2, &at(earliest), "offset").unwrap(), begins[2]);
    let gone = connection.call(code::VIEW_MESSAGE, &[("offset", "48".to_owned())], &[]).unwrap();
    assert!(gone.code == 1 && gone.remark.contains("no message at"), "{gone:?}");

    // A consumer that stands far in front of that goes on with the first message that is kept.
    let read = consume(&cluster, "short", &[]).unwrap();
    let finals: Vec<_> = history.events.iter().filter(|event| matches!(event, Event::Final { .. })).collect();
    assert_eq!(read.len(), finals.len());
    for (queue, begin) in begins.iter().enumerate() {
        assert_eq!(read.iter().filter(|(of, _)| *of == queue as u64).map(|(_, offset)| offset).min(), Some(begin));
    }

    let folders = replicas::folders(&cluster).unwrap();
    replicas::judge(&mut cluster).unwrap();
    for folder in &folders {
        inspect("verify", &folder.join("broker-a")).unwrap();
    }
    report(&format!(
        "{acked} messages acknowledged over 4 kills of the leader, {kept} kept from {begins:?} on: none lost"
    ));
}

/// Would break: a member that was down comes back, and what it needs is gone.
#[test]
fn a_member_that_is_down_holds_the_log_back() {
    let mut cluster = Cluster::start_with(&OPTIONS).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let plan = Plan { topic: "held".into(), producers: 4, size: 8_192 };
    let load = Load::start(cluster.namesrv(), dir.path(), &plan).unwrap();
    load.await_acked(200).unwrap();
    let down = cluster.follower().unwrap();
    cluster.kill(down.id).unwrap();
    // What lay before that it has, but for what was under way.
    let has = load.acked() + 8;
    load.await_acked(2_500).unwrap();
    let leader = cluster.await_leader(None).unwrap();
    let gone: u64 = begins(&leader, "held").unwrap().iter().sum();
    assert!(gone <= has, "{gone} messages are gone, the member has {has} at most");
    assert!(log_bytes(&leader).unwrap() > KEPT + MORE_SEGMENTS * SEGMENT);
    // A new leader knows no more of it than the old one.
    cluster.kill(leader.id).unwrap();
    cluster.restart(down.id).unwrap();
    load.await_acked(100).unwrap();
    cluster.restart(leader.id).unwrap();
    let files = load.stop().unwrap();
    await_short_logs(&cluster).unwrap();
    let begins = begins(&cluster.await_leader(None).unwrap(), "held").unwrap();
    let history = load::history(&cluster, "held", &files).unwrap();
    check_kept(&history, "broker-a", &begins).unwrap();
    replicas::judge(&mut cluster).unwrap();
}

/// Would break: messages that go before they are as old as is said, or that stay for ever.
#[test]
fn messages_are_kept_for_so_long_and_not_much_longer() {
    /// For how long.
    const KEPT_MS: i64 = 3_000;
    /// Between two messages, and between two clocks.
    const EARLY_MS: i64 = 500;
    /// A segment goes as a whole, and somebody must look.
    const LATE_MS: i64 = 5_000;
    let options = ["--groups", "1", "--segment-mib", "1", "--set", "retention_ms=3000"];
    let mut cluster = Cluster::start_with(&options).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let plan = Plan { topic: "young".into(), producers: 4, size: 8_192 };
    let load = Load::start(cluster.namesrv(), dir.path(), &plan).unwrap();
    load.await_acked(100).unwrap();
    let leader = cluster.await_leader(None).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while begins(&leader, "young").unwrap()[0] == 0 {
        assert!(Instant::now() < deadline, "nothing goes");
        std::thread::sleep(POLL);
    }
    let mut ages = Vec::new();
    for _ in 0..10 {
        load.await_acked(200).unwrap();
        let earliest = ask(&leader, EARLIEST, "young", 0, &[], "timestamp").unwrap() as i64;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as i64;
        ages.push(now - earliest);
    }
    let fits = |age: &i64| (KEPT_MS - EARLY_MS..KEPT_MS + LATE_MS).contains(age);
    assert!(ages.iter().all(fits), "the first message is {ages:?} ms old, {KEPT_MS} ms are to be kept");
    report(&format!("the first message kept is {ages:?} ms old"));
    load.stop().unwrap();
    replicas::judge(&mut cluster).unwrap();
}

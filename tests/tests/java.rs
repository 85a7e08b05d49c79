//! The official Java client 5.x against a cluster of real processes.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use ledgermq_tests::checker::{Expect, check};
use ledgermq_tests::cluster::{Cluster, PATIENCE, POLL, report};
use ledgermq_tests::history::{Event, History, monotonic_ns};
use ledgermq_tests::java::Peer;
use ledgermq_tests::wire::Connection;
use ledgermq_tests::{load, replicas};

/// How long after a fault a group may still be handed messages again: the client persists its offsets every 5 s, notices
/// a change of members within 20 s, and asks a dead broker for 3 s at a time.
const REDELIVERY_WINDOW: Duration = Duration::from_secs(30);

/// How long the hand-over of a queue from one living member to another may take, in ns.
const HAND_OVER_NS: u64 = 2_000_000_000;

fn produce(cluster: &Cluster, dir: &Path, process: &str, topic: &str, more: &[(&str, &str)]) -> Result<Peer> {
    let mut options = vec![("namesrv", cluster.namesrv()), ("group", "java-producers"), ("topic", topic)];
    options.extend_from_slice(more);
    Peer::start("Produce", process, dir, &options)
}

fn consume(
    cluster: &Cluster,
    dir: &Path,
    process: &str,
    topic: &str,
    group: &str,
    more: &[(&str, &str)],
) -> Result<Peer> {
    let mut options = vec![("namesrv", cluster.namesrv()), ("group", group), ("topic", topic)];
    options.extend_from_slice(more);
    Peer::start("Consume", process, dir, &options)
}

fn delivered(history: &History) -> HashSet<String> {
    history
        .events
        .iter()
        .filter_map(|e| if let Event::Deliver { id, .. } = e { Some(id.clone()) } else { None })
        .collect()
}

/// Would break: what every RocketMQ producer does all day. Each message must be stored where its acknowledgement says,
/// with the bytes that were sent, and a list must be stored whole.
#[test]
fn producers_of_every_kind_find_their_messages_stored_as_acknowledged() {
    let cluster = Cluster::start().unwrap();
    let dir = tempfile::tempdir().unwrap();
    for (mode, count) in [("sync", 200), ("async", 1000), ("oneway", 300), ("batch", 200)] {
        let topic = format!("java-{mode}");
        let options = [("mode", mode), ("count", &count.to_string()), ("tagged", "1")];
        let mut peer = produce(&cluster, dir.path(), &topic, &topic, &options).unwrap();
        peer.await_mark("done", PATIENCE).unwrap();
        // Nobody tells when a one-way send has arrived: the queues do.
        await_stored(&cluster, &topic, count).unwrap();
        let history = load::history(&cluster, &topic, &[peer.stop().unwrap()]).unwrap();
        let result = check(&history, &Expect::default());
        assert!(result.clean(), "{mode}: {result}");
        assert_eq!(result.stored, count as usize, "{mode}: {result}");
        assert_eq!(result.acked, if mode == "oneway" { 0 } else { count as usize }, "{mode}: {result}");
    }
}

fn await_stored(cluster: &Cluster, topic: &str, count: u64) -> Result<()> {
    let leader = cluster.await_leader(None)?;
    let mut connection = Connection::open(leader.address())?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut stored = 0;
        for queue in 0..load::QUEUES {
            stored += load::max_offset(&mut connection, topic, queue)?;
        }
        if stored >= count {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{topic}: {stored} of {count} messages are stored");
        std::thread::sleep(POLL);
    }
}

/// Would break: consumption. A group sees every message once, with its tag and keys; a group that filters by a tag sees
/// exactly those; and messages that come while it waits reach it too.
#[test]
fn push_consumers_are_handed_every_message_with_its_tag_and_keys() {
    const COUNT: usize = 300;
    let cluster = Cluster::start().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let topic = "java-push";
    let first = ("count", "1");
    let mut seed = produce(&cluster, dir.path(), "seed", topic, &[("mode", "sync"), first, ("tagged", "1")]).unwrap();
    seed.await_mark("done", PATIENCE).unwrap();
    let mut all = consume(&cluster, dir.path(), "all", topic, "java-all", &[]).unwrap();
    let mut even = consume(&cluster, dir.path(), "even", topic, "java-even", &[("tags", "even || other")]).unwrap();
    let count = COUNT.to_string();
    let mut producer =
        produce(&cluster, dir.path(), "p", topic, &[("mode", "sync"), ("count", &count), ("tagged", "1")]).unwrap();
    producer.await_mark("done", PATIENCE).unwrap();
    all.await_history("every message", PATIENCE, |h| delivered(h).len() == COUNT + 1).unwrap();
    even.await_history("every even message", PATIENCE, |h| delivered(h).len() == COUNT / 2 + 1).unwrap();

    let files = [seed.stop().unwrap(), producer.stop().unwrap(), all.stop().unwrap(), even.stop().unwrap()];
    let history = load::history(&cluster, topic, &files).unwrap();
    let expect = Expect { complete_groups: vec![("java-all".into(), topic.into())], redelivery_only_in_faults: true };
    let result = check(&history, &expect);
    assert!(result.clean(), "{result}");
    for event in &history.events {
        let Event::Deliver { group, id, tag, keys, .. } = event else { continue };
        let number: usize = id.rsplit('-').next().unwrap().parse().unwrap();
        let expected = if number.is_multiple_of(2) { "even" } else { "odd" };
        assert_eq!(tag.as_deref(), Some(expected), "{event:?}");
        assert_eq!(keys.as_deref(), Some(format!("key-{id} every").as_str()), "{event:?}");
        assert!(group != "java-even" || expected == "even", "a filtered message came: {event:?}");
    }
}

/// Would break: sharing a topic's queues, and the takeover when a member dies without a word.
#[test]
fn two_members_of_a_group_share_the_queues_and_one_takes_over_from_a_dead_one() {
    const COUNT: usize = 400;
    let cluster = Cluster::start().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let topic = "java-share";
    let group = "java-sharers";
    let mut seed = produce(&cluster, dir.path(), "seed", topic, &[("mode", "sync"), ("count", "1")]).unwrap();
    seed.await_mark("done", PATIENCE).unwrap();
    let mut one = consume(&cluster, dir.path(), "one", topic, group, &[]).unwrap();
    one.await_history("the first message", PATIENCE, |h| !delivered(h).is_empty()).unwrap();
    let began = monotonic_ns();
    let mut two = consume(&cluster, dir.path(), "two", topic, group, &[]).unwrap();
    // Sending goes on until the second member has its share: the broker tells the first that somebody joined.
    let mut producer = produce(&cluster, dir.path(), "p", topic, &[("mode", "sync"), ("pause-ms", "5")]).unwrap();
    two.await_history("messages for the second member", PATIENCE, |h| delivered(h).len() > 20).unwrap();
    let settled = monotonic_ns();
    // What the first member had in its hands when a queue moved may be handed to both.
    let shared = Fault { what: "a member joined".into(), from: began, until: settled + HAND_OVER_NS };
    producer.await_history("more messages", PATIENCE, |h| acked_after(h, settled) >= COUNT).unwrap();
    assert_disjoint(&[one.history().unwrap(), two.history().unwrap()], settled + HAND_OVER_NS);

    let killed = monotonic_ns();
    let two = two.kill().unwrap();
    producer.await_history("messages after the kill", PATIENCE, |h| acked_after(h, killed) >= COUNT).unwrap();
    let producer = producer.stop().unwrap();
    let sent: HashSet<String> = ids_acked(&History::read(&[&producer]).unwrap());
    let seen_by_two = delivered(&History::read(&[&two]).unwrap());
    one.await_history("all that the dead member had not consumed", Duration::from_secs(15), |h| {
        let seen = delivered(h);
        sent.iter().all(|id| seen.contains(id) || seen_by_two.contains(id))
    })
    .unwrap();
    report(&format!("takeover after {} ms at most", (monotonic_ns() - killed) / 1_000_000));

    let files = [seed.stop().unwrap(), producer, one.stop().unwrap(), two];
    let mut history = load::history(&cluster, topic, &files).unwrap();
    let death =
        Fault { what: "a member was killed".into(), from: killed, until: killed + REDELIVERY_WINDOW.as_nanos() as u64 };
    history.events.extend([shared, death].map(Fault::event));
    let expect = Expect { complete_groups: vec![(group.into(), topic.into())], redelivery_only_in_faults: true };
    let result = check(&history, &expect);
    assert!(result.clean(), "{result}");
}

struct Fault {
    what: String,
    from: u64,
    until: u64,
}

impl Fault {
    fn event(self) -> Event {
        Event::Fault { t: self.from, until: self.until, what: self.what }
    }
}

fn acked_after(history: &History, since: u64) -> usize {
    history.events.iter().filter(|e| matches!(e, Event::Ok { t, .. } if *t > since)).count()
}

fn ids_acked(history: &History) -> HashSet<String> {
    let mut by_op = BTreeMap::new();
    let mut acked = HashSet::new();
    for event in &history.events {
        match event {
            Event::Invoke { op, id, .. } => {
                by_op.insert(*op, id.clone());
            }
            Event::Ok { op, .. } => {
                acked.insert(by_op[op].clone());
            }
            _ => {}
        }
    }
    acked
}

/// After the rebalance has settled, each queue belongs to one member, and each member has some.
fn assert_disjoint(members: &[History], since: u64) {
    let queues: Vec<BTreeSet<i32>> = members
        .iter()
        .map(|member| {
            let queue = |e: &Event| match e {
                Event::Deliver { t, queue, .. } if *t > since => Some(*queue),
                _ => None,
            };
            member.events.iter().filter_map(queue).collect()
        })
        .collect();
    assert!(queues.iter().all(|q| !q.is_empty()), "a member got nothing: {queues:?}");
    assert!(queues[0].is_disjoint(&queues[1]), "two members got messages of one queue: {queues:?}");
}

/// Would break: the main promise, as an unmodified client sees it. An ordered producer and a push consumer go on through
/// the death of two leaders; nothing acknowledged is lost, and per key the order stays.
#[test]
fn a_producer_and_a_consumer_live_through_the_death_of_two_leaders() {
    const ROUTE_POLL_MS: &str = "1000";
    const BETWEEN_KILLS: usize = 300;
    let mut cluster = Cluster::start().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let topic = "java-failover";
    let poll = ("poll-ms", ROUTE_POLL_MS);
    let ordered = [("mode", "ordered"), poll, ("timeout-ms", "1000"), ("pause-ms", "1")];
    let mut producer = produce(&cluster, dir.path(), "p", topic, &ordered).unwrap();
    producer.await_history("messages", PATIENCE, |h| h.acked() >= BETWEEN_KILLS).unwrap();
    let mut consumer = consume(&cluster, dir.path(), "c", topic, "java-survivors", &[poll]).unwrap();
    consumer.await_history("messages", PATIENCE, |h| delivered(h).len() >= BETWEEN_KILLS).unwrap();

    let mut faults = Vec::new();
    for _ in 0..2 {
        let leader = cluster.await_leader(None).unwrap();
        let killed = monotonic_ns();
        cluster.kill(leader.id).unwrap();
        producer.await_history("messages after a kill", PATIENCE, |h| acked_after(h, killed) >= BETWEEN_KILLS).unwrap();
        let silence = producer.history().unwrap().longest_silence(killed, monotonic_ns());
        report(&format!("java: longest silence after kill -9 of a leader {} ms", silence / 1_000_000));
        let until = killed + REDELIVERY_WINDOW.as_nanos() as u64;
        faults.push(Fault { what: "a leader was killed".into(), from: killed, until }.event());
        cluster.restart(leader.id).unwrap();
    }

    producer.await_history("the last messages", PATIENCE, |h| h.acked() > 4 * BETWEEN_KILLS).unwrap();
    let producer = producer.stop().unwrap();
    let sent = ids_acked(&History::read(&[&producer]).unwrap());
    consumer.await_history("all that was acknowledged", PATIENCE, |h| sent.is_subset(&delivered(h))).unwrap();
    let mut history = load::history(&cluster, topic, &[producer, consumer.stop().unwrap()]).unwrap();
    history.events.extend(faults);
    let expect =
        Expect { complete_groups: vec![("java-survivors".into(), topic.into())], redelivery_only_in_faults: true };
    let result = check(&history, &expect);
    assert!(result.clean(), "{result}");
    replicas::judge(&mut cluster).unwrap();
}

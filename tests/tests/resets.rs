//! Groups of official clients that are put elsewhere by `mqadmin`, on line and off line, against a cluster of real processes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use ledgermq_tests::cluster::{GROUP, PATIENCE};
use ledgermq_tests::history::{Event, History};
use ledgermq_tests::mqadmin::{Mqadmin, rows, value};
use ledgermq_tests::peer::{Library, Peer};
use ledgermq_tests::replicas;
use ledgermq_tests::stage::Stage;

/// Messages of each half.
const HALF: u64 = 40;

/// Offsets are committed so often that a commit of what was in hand meets every reset.
const PERSIST: (&str, &str) = ("persist-ms", "200");

fn now_ms() -> String {
    // Between messages: none is stored in this millisecond.
    std::thread::sleep(std::time::Duration::from_millis(5));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
    std::thread::sleep(std::time::Duration::from_millis(5));
    now.to_string()
}

/// How often each message was delivered, over several histories.
fn deliveries(files: &[PathBuf], more: Option<&Peer>) -> BTreeMap<String, usize> {
    let mut events = History::read(files).unwrap().events;
    events.extend(more.into_iter().flat_map(|peer| peer.history().unwrap().events));
    let mut counts = BTreeMap::new();
    for event in events {
        if let Event::Deliver { id, .. } = event {
            *counts.entry(id).or_default() += 1;
        }
    }
    counts
}

fn total(history: &History) -> usize {
    history.events.iter().filter(|e| matches!(e, Event::Deliver { .. })).count()
}

/// Resets a group and checks what is printed: a row per queue, whose offsets add up to `sum`.
fn reset(mqadmin: &mut Mqadmin, words: &[&str], sum: u64) {
    let printed = mqadmin.run(words).unwrap();
    let queues = rows(&printed, GROUP);
    assert_eq!(queues.len(), 4, "{printed}");
    assert_eq!(queues.iter().map(|row| row[2].parse::<u64>().unwrap()).sum::<u64>(), sum, "{printed}");
}

/// A group goes back in time while it runs, back again while it does not, and forward over a backlog: each time it is handed
/// exactly what lies behind the new place.
fn a_group_goes_where_it_is_put(library: Library) {
    let mut stage = Stage::start(library).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut mqadmin = Mqadmin::start(stage.cluster.namesrv(), dir.path()).unwrap();
    let (topic, group) = (stage.name("rewound"), stage.name("rewinders"));
    let words = ["updateTopic", "-c", "DefaultCluster", "-t", &topic, "-r", "4", "-w", "4"];
    mqadmin.run(&words).unwrap();
    mqadmin.run_until(&["topicRoute", "-t", &topic], "routable", |printed| printed.contains(GROUP)).unwrap();
    let member =
        |stage: &Stage, n: u32| stage.consume(&stage.name(&format!("member-{n}")), &topic, &group, &[PERSIST]).unwrap();
    let send = |stage: &Stage, what: &str| stage.send(&stage.name(what), &topic, "sync", HALF).unwrap();
    let half = HALF as usize;
    let by_time = |at: &str| ["resetOffsetByTime", "-g", &group, "-t", &topic, "-s", at].map(str::to_owned);

    send(&stage, "first");
    let middle = now_ms();
    send(&stage, "second");
    let mut running = member(&stage, 1);
    running.await_history("everything", PATIENCE, |h| total(h) == 2 * half).unwrap();
    // On line.
    let words = by_time(&middle);
    reset(&mut mqadmin, &words.each_ref().map(String::as_str), HALF);
    running.await_history("the second half again", PATIENCE, |h| total(h) == 3 * half).unwrap();
    for (id, count) in deliveries(&[], Some(&running)) {
        let again = id.contains("second");
        assert_eq!(count, if again { 2 } else { 1 }, "{id}");
    }
    let progress = ["consumerProgress", "-g", &group];
    let behind = |printed: &str| value(printed, "Consume Diff Total").map(str::to_owned);
    let caught_up = |printed: &str| behind(printed).as_deref() == Some("0");
    mqadmin.run_until(&progress, "caught up", caught_up).unwrap();
    let mut files = vec![running.stop().unwrap()];

    // Off line, to the first message of all.
    let words = by_time("1000");
    reset(&mut mqadmin, &words.each_ref().map(String::as_str), 0);
    let printed = mqadmin.run(&progress).unwrap();
    assert_eq!(behind(&printed), Some((2 * HALF).to_string()), "{printed}");
    let mut running = member(&stage, 2);
    running.await_history("everything again", PATIENCE, |h| total(h) == 2 * half).unwrap();
    mqadmin.run_until(&progress, "caught up", caught_up).unwrap();
    files.push(running.stop().unwrap());

    // Forward over a backlog.
    send(&stage, "skipped");
    reset(&mut mqadmin, &["skipAccumulatedMessage", "-g", &group, "-t", &topic], 3 * HALF);
    let mut running = member(&stage, 3);
    send(&stage, "last");
    running.await_history("the last messages", PATIENCE, |h| h.delivered_ids().len() == half).unwrap();
    mqadmin.run_until(&progress, "caught up", caught_up).unwrap();
    files.push(running.stop().unwrap());
    for (id, count) in deliveries(&files, None) {
        let expected = [("first", 2), ("second", 3), ("last", 1)].into_iter().find(|(part, _)| id.contains(part));
        assert_eq!(Some(count), expected.map(|(_, count)| count), "{id}");
    }
    replicas::judge(&mut stage.cluster).unwrap();
}

/// Would break: doing yesterday's work once more, by the client's own tools.
#[test]
fn a_group_of_java_5_goes_where_it_is_put() {
    a_group_goes_where_it_is_put(Library::Java5);
}

/// Would break: the same with the client that most installations still run, which commits what it had in hand for ten seconds after
/// it was told.
#[test]
fn a_group_of_java_4_goes_where_it_is_put() {
    a_group_goes_where_it_is_put(Library::Java4);
}

/// Would break: the same with Go.
#[test]
fn a_group_of_go_goes_where_it_is_put() {
    a_group_goes_where_it_is_put(Library::Go);
}

/// Would break: a reset that a failover forgets. The leader dies when the reset is answered, before any consumer knows of it.
#[test]
fn a_reset_outlives_the_leader_that_made_it() {
    let mut stage = Stage::start(Library::Java5).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut mqadmin = Mqadmin::start(stage.cluster.namesrv(), dir.path()).unwrap();
    let (topic, group) = (stage.name("failed-over"), stage.name("rewinders"));
    let words = ["updateTopic", "-c", "DefaultCluster", "-t", &topic, "-r", "4", "-w", "4"];
    mqadmin.run(&words).unwrap();
    mqadmin.run_until(&["topicRoute", "-t", &topic], "routable", |printed| printed.contains(GROUP)).unwrap();
    let half = HALF as usize;
    stage.send(&stage.name("only"), &topic, "sync", HALF).unwrap();
    let options = [PERSIST, ("poll-ms", "1000")];
    let mut member = stage.consume(&stage.name("member"), &topic, &group, &options).unwrap();
    member.await_history("everything", PATIENCE, |h| total(h) == half).unwrap();
    let leader = stage.cluster.await_leader(None).unwrap();
    reset(&mut mqadmin, &["resetOffsetByTime", "-g", &group, "-t", &topic, "-s", "1000"], 0);
    stage.cluster.kill(leader.id).unwrap();
    member
        .await_history("everything again", PATIENCE, |h| {
            let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
            for event in &h.events {
                if let Event::Deliver { id, .. } = event {
                    *counts.entry(id).or_default() += 1;
                }
            }
            counts.len() == half && counts.values().all(|count| *count >= 2)
        })
        .unwrap();
    stage.cluster.restart(leader.id).unwrap();
    member.stop().unwrap();
    replicas::judge(&mut stage.cluster).unwrap();
}

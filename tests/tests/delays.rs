//! Delayed messages and retries as the official clients know them, with leaders that die and logs that are given up meanwhile.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Result;
use ledgermq_tests::cluster::{Cluster, PATIENCE, POLL, report};
use ledgermq_tests::history::History;
use ledgermq_tests::later::{Notes, await_complete, check_stored};
use ledgermq_tests::load::{Load, Plan};
use ledgermq_tests::peer::{Library, Peer};
use ledgermq_tests::replicas;
use ledgermq_tests::stage::Stage;

/// By how much a message may come late on two busy cores, in ms.
const LATE_MAX_MS: u64 = 3_000;

/// Each way to say it, short and longer.
const PLAN: &str = "level=1*10,level=2*5,ms=700*10,sec=2*5,at=1500*10";

fn all_ways(library: Library, plan: &str) -> Result<()> {
    let stage = Stage::start(library)?;
    let (topic, group) = (stage.name("later"), stage.name("waiters"));
    stage.create_everywhere(&topic)?;
    let mut peer = stage.later(&stage.name("all-ways"), &topic, &group, plan, &[])?;
    await_complete(&mut peer, PATIENCE)?;
    let files = [peer.stop()?];
    let notes = Notes::of(&History::read(&files)?)?;
    let latest = notes.check_times()?;
    report(&format!("{}: {} delayed messages, the latest {latest} ms late", library.name(), notes.sent.len()));
    assert!(latest < LATE_MAX_MS);
    assert_eq!(check_stored(&stage, &topic, &files)?, notes.sent.len());
    Ok(())
}

/// Would break: levels and times of the client that comes with RocketMQ 5.
#[test]
fn java_5_gets_delayed_messages_at_their_time() {
    all_ways(Library::Java5, PLAN).unwrap();
}

/// Would break: the client that most installations still run.
#[test]
fn java_4_gets_delayed_messages_at_their_time() {
    all_ways(Library::Java4, PLAN).unwrap();
}

/// Would break: levels and times of the Go client.
#[test]
fn go_gets_delayed_messages_at_their_time() {
    all_ways(Library::Go, PLAN).unwrap();
}

/// Would break: taking back what was sent too early. Only the client 5.x can.
#[test]
fn what_java_5_recalls_never_comes() {
    let stage = Stage::start(Library::Java5).unwrap();
    let (topic, group) = (stage.name("recalled"), stage.name("recalling"));
    stage.create_everywhere(&topic).unwrap();
    let recalled = [("recall", "1")];
    let mut peer = stage.later(&stage.name("recaller"), &topic, &group, "at=4000*10,level=2*5", &recalled).unwrap();
    peer.await_mark("done", PATIENCE).unwrap();
    let others = stage.name("others");
    let mut other = stage.later(&others, &topic, &others, "ms=7000*1", &[]).unwrap();
    // What comes last is due behind all that was recalled.
    await_complete(&mut other, PATIENCE).unwrap();
    let files = [peer.stop().unwrap(), other.stop().unwrap()];
    let notes = Notes::of(&History::read(&files).unwrap()).unwrap();
    assert_eq!((notes.recalled.len(), notes.sent.len()), (15, 16));
    notes.check_times().unwrap();
    assert_eq!(check_stored(&stage, &topic, &files).unwrap(), 1);
}

/// Would break: the way of a message that cannot be worked off, for each client. The delays of the tries are seconds of the broker's
/// own choice, so the clients share a cluster and the time.
#[test]
fn what_fails_comes_again_later_and_later_and_ends_as_a_dead_letter() {
    let libraries = [Library::Java5, Library::Java4, Library::Go];
    let mut stage = Stage::start(libraries[0]).unwrap();
    let fails = [("fail", "9"), ("max-times", "2"), ("dead", "1")];
    let peers = libraries.map(|library| {
        stage.play_on(library);
        let (topic, group) = (stage.name("poison"), stage.name("failing"));
        stage.create_everywhere(&topic).unwrap();
        (library, stage.later(&stage.name("failer"), &topic, &group, "ms=10*3", &fails).unwrap())
    });
    for (library, peer) in peers {
        check_tries(library, peer).unwrap();
    }
}

/// Waits until every message of a peer is a dead letter, and checks the ladder.
fn check_tries(library: Library, mut peer: Peer) -> Result<()> {
    let done = |history: &History| {
        Notes::of(history).is_ok_and(|notes| {
            let tried_out = |got: &Vec<(u32, u64)>| got.iter().any(|(tries, _)| *tries == 2);
            let dead = library == Library::Go || notes.dead.len() == 3;
            notes.got.len() == 3 && notes.got.values().all(tried_out) && dead
        })
    };
    peer.await_history("dead letters", Duration::from_secs(120), done)?;
    let notes = Notes::of(&History::read(&[peer.stop()?])?)?;
    // The topic of the first retry came with the group, just now: clients find it when they next look for routes and share out
    // queues, every 20 to 30 s.
    let polls = 36_000;
    let late = if library == Library::Go { polls } else { 4_000 };
    for (id, got) in &notes.got {
        let first: BTreeMap<u32, u64> = got.iter().rev().copied().collect();
        let gaps: Vec<u64> = (0..2).map(|tries| first[&(tries + 1)] - first[&tries]).collect();
        let fits = |gap: u64, delay: u64, late: u64| (delay..delay + late).contains(&gap);
        assert!(fits(gaps[0], 10_000, polls) && fits(gaps[1], 30_000, late), "{id}: {gaps:?} ms");
        assert_eq!(got.len(), 3, "{id}: {got:?}");
    }
    if library != Library::Go {
        assert!(notes.dead.values().all(|dead| dead.len() == 1 && dead[0].0 == 3), "{:?}", notes.dead);
    }
    Ok(())
}

/// The leader dies while messages wait, and while some are being delivered.
fn survives_a_leader(library: Library) -> Result<()> {
    let mut stage = Stage::start(library)?;
    let (topic, group) = (stage.name("outlived"), stage.name("survivors"));
    stage.create_everywhere(&topic)?;
    let plan = "ms=2000*200,level=2*200,at=4000*200,ms=9000*50";
    let mut peer = stage.later(&stage.name("survivor"), &topic, &group, plan, &[])?;
    let sent = |count: usize| move |history: &History| Notes::of(history).is_ok_and(|notes| notes.sent.len() >= count);
    peer.await_history("half of the sends", PATIENCE, sent(300))?;
    let leader = stage.cluster.await_leader(None)?;
    stage.cluster.kill(leader.id)?;
    stage.cluster.await_leader(Some(leader.id))?;
    stage.cluster.restart(leader.id)?;
    await_complete(&mut peer, Duration::from_secs(120))?;
    let files = [peer.stop()?];
    let notes = Notes::of(&History::read(&files)?)?;
    let latest = notes.check_times()?;
    let stored = check_stored(&stage, &topic, &files)?;
    report(&format!(
        "{}: {} delayed messages over the death of a leader, {} with a failed send; {stored} are stored, the latest came {latest} ms late",
        library.name(),
        notes.sent.len(),
        notes.failed.len()
    ));
    replicas::judge(&mut stage.cluster)?;
    Ok(())
}

/// Would break: a message that is delivered by two leaders, or by none.
#[test]
fn java_5_gets_each_delayed_message_once_when_the_leader_dies() {
    survives_a_leader(Library::Java5).unwrap();
}

/// Would break: the same for Go programs.
#[test]
fn go_gets_each_delayed_message_once_when_the_leader_dies() {
    survives_a_leader(Library::Go).unwrap();
}

/// Would break: messages that wait longer than the log is kept.
#[test]
fn messages_that_wait_outlive_the_log_that_they_were_sent_into() {
    let options =
        ["--groups", "1", "--segment-mib", "1", "--set", "retention_ms=2000", "--set", "retention_forced=false"];
    let mut stage = Stage::over(Library::Java5, Cluster::start_with(&options).unwrap()).unwrap();
    let (topic, group) = (stage.name("kept"), stage.name("patient"));
    stage.create_everywhere(&topic).unwrap();
    let mut peer = stage.later(&stage.name("patient"), &topic, &group, "sec=30*50,ms=20000*50", &[]).unwrap();
    peer.await_mark("done", PATIENCE).unwrap();
    let leader = stage.cluster.await_leader(None).unwrap();
    let sent_until = stage.cluster.figure(leader.id, "ledgermq_log_end_bytes").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let filling = Plan { topic: "filling".into(), producers: 4, size: 1024 };
    let load = Load::start(stage.cluster.namesrv(), dir.path(), &filling).unwrap();
    // The log moves on under them, and another leader goes on carrying.
    let begin = |node: u64| {
        let log = stage.cluster.node(node).unwrap().data_dir.join("broker-a/log");
        let names = std::fs::read_dir(log).unwrap().filter_map(|entry| entry.unwrap().file_name().into_string().ok());
        names.filter_map(|name| name.split('.').next()?.parse::<u64>().ok()).min().unwrap_or(0)
    };
    let await_begin = |node: u64, behind: u64| {
        let deadline = Instant::now() + PATIENCE;
        while begin(node) <= behind {
            assert!(Instant::now() < deadline, "the log begins at {}, not behind {behind}", begin(node));
            std::thread::sleep(POLL);
        }
    };
    await_begin(leader.id, sent_until);
    stage.cluster.kill(leader.id).unwrap();
    let next = stage.cluster.await_leader(Some(leader.id)).unwrap();
    stage.cluster.restart(leader.id).unwrap();
    await_begin(next.id, begin(next.id) + (4 << 20));
    assert!(stage.cluster.figure(next.id, "ledgermq_delayed_messages").unwrap() > 0, "they still wait");
    await_complete(&mut peer, PATIENCE + Duration::from_secs(30)).unwrap();
    load.stop().unwrap();
    let notes = Notes::of(&History::read(&[peer.stop().unwrap()]).unwrap()).unwrap();
    assert_eq!((notes.sent.len(), notes.got.len()), (100, 100));
    let latest = notes.check_times().unwrap();
    report(&format!("100 messages outlived their log, the latest came {latest} ms late"));
    assert!(latest < LATE_MAX_MS);
    replicas::judge(&mut stage.cluster).unwrap();
}

//! Doubt and damage on real disks: groups that answer before their syncs, nodes that lose their power, bits that flip.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ledgermq_tests::alone;
use ledgermq_tests::checker::{Expect, check};
use ledgermq_tests::cluster::{Cluster, NODES, PATIENCE, POLL, alive, report, signal};
use ledgermq_tests::fault::Disks;
use ledgermq_tests::load::{self, Load, Plan};
use ledgermq_tests::wire::Connection;
use ledgermq_tests::{program, replicas};
use rustix::process::Signal;

/// All nodes answer from their page caches from now on.
fn go_async(cluster: &Cluster) {
    for node in 1..=NODES {
        cluster.configure(node, "flush = \"sync\"", "flush = \"async\"").unwrap();
        cluster.kill(node).unwrap();
        cluster.restart(node).unwrap();
    }
    cluster.await_leader(None).unwrap();
}

fn judge(cluster: &Cluster, topic: &str, files: &[PathBuf], name: &str) {
    let history = load::history(cluster, topic, files).unwrap();
    let result = check(&history, &Expect::default());
    report(&format!("{name}: {result}"));
    assert!(result.clean(), "{name}: {result}");
}

/// Would break: an answer before the page cache has it. Every process dies at once, again and again.
#[test]
fn all_processes_die_and_nothing_is_lost_that_was_answered_from_page_caches() {
    let mut cluster = Cluster::start().unwrap();
    go_async(&cluster);
    let dir = tempfile::tempdir().unwrap();
    for round in 0..3 {
        let topic = format!("caches-{round}");
        let load = Load::start(cluster.namesrv(), dir.path(), &Plan { topic: topic.clone(), producers: 6, size: 1024 })
            .unwrap();
        load.await_acked(2_000).unwrap();
        (1..=NODES).for_each(|node| cluster.kill(node).unwrap());
        let files = load.stop().unwrap();
        for node in 1..=NODES {
            cluster.restart(node).unwrap();
        }
        cluster.await_leader(None).unwrap();
        judge(&cluster, &topic, &files, &format!("all killed, round {round}"));
    }
    replicas::judge(&mut cluster).unwrap();
}

/// Would break: a node that has lost its page cache, and with it what it acknowledged, and helps to elect a leader that lacks
/// it. One node after the other loses its power, and right after it comes back its leader is gone for a while.
#[test]
fn a_node_that_loses_its_page_cache_costs_nothing_that_was_acknowledged() {
    const ROUNDS: u64 = 6;
    let _alone = alone::hold().unwrap();
    let disks = Disks::new().unwrap();
    let mut cluster = Cluster::start_in(disks.dir()).unwrap();
    go_async(&cluster);
    let dir = tempfile::tempdir().unwrap();
    let mut abstained = 0;
    for round in 0..ROUNDS {
        let plan = Plan { topic: format!("power-{round}"), producers: 6, size: 1024 };
        let folder = dir.path().join(round.to_string());
        std::fs::create_dir(&folder).unwrap();
        let load = Load::start(cluster.namesrv(), &folder, &plan).unwrap();
        load.await_acked(1_000).unwrap();
        let leader = cluster.await_leader(None).unwrap();
        let victim = if round % 2 == 0 { cluster.follower().unwrap() } else { leader };
        disks.cut_power_of([victim.id]).unwrap();
        // Its disk answers EIO, and the process may have ended by itself already.
        if alive(victim.pid).unwrap() {
            signal(victim.pid, Signal::KILL).unwrap();
        }
        cluster.await_end(&victim).unwrap();
        disks.restore_power_of([victim.id]).unwrap();
        cluster.boot_anew(victim.id).unwrap();
        cluster.restart(victim.id).unwrap();
        abstained += u64::from(cluster.log(victim.id).unwrap().contains("abstains from elections"));
        let leader = cluster.await_leader(None).unwrap();
        if leader.id != victim.id {
            cluster.kill(leader.id).unwrap();
            std::thread::sleep(Duration::from_secs(2));
            cluster.restart(leader.id).unwrap();
        }
        load.await_acked(500).unwrap();
        let files = load.stop().unwrap();
        judge(&cluster, &plan.topic, &files, &format!("power of one node, round {round}"));
    }
    assert!(abstained > 0, "no node was ever seen to abstain: the drill proves nothing");
    replicas::judge(&mut cluster).unwrap();
}

/// Would break: damage that is served, spreads, or stays. Bits flip in a full segment and in the one that is written, on the
/// leader and on a follower, while they run and while they are stopped.
#[test]
fn flipped_bits_are_mended_from_another_member() {
    let mut cluster = Cluster::start().unwrap();
    for node in 1..=NODES {
        cluster.configure(node, "scrub_bytes_per_second = 20971520", "scrub_bytes_per_second = 1073741824").unwrap();
        cluster.configure(node, "scrub_pause_ms = 600000", "scrub_pause_ms = 100").unwrap();
        cluster.kill(node).unwrap();
        cluster.restart(node).unwrap();
    }
    cluster.await_leader(None).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let plan = Plan { topic: "rot".into(), producers: 8, size: 32 << 10 };
    let load = Load::start(cluster.namesrv(), dir.path(), &plan).unwrap();
    // More than a segment of 64 MiB.
    load.await_acked(2_600).unwrap();
    let files = load.stop().unwrap();
    let leader = cluster.await_leader(None).unwrap().id;
    let follower = leader % NODES + 1;
    for (node, segment, offset, stopped) in [
        (follower, 0, 30_000_001_u64, false),
        (leader, 0, 50_000_000, false),
        (follower, 1, 1_000_003, false),
        (follower, 0, 12_345_678, true),
        (follower, 0, 40_000_001, true),
    ] {
        if stopped {
            // Its queues are nearly up to date then: the next start reads no message of the first segment again.
            let running = cluster.node(node).unwrap();
            signal(running.pid, Signal::TERM).unwrap();
            cluster.await_end(&running).unwrap();
        }
        let base = segment * (64_u64 << 20);
        let path = cluster.node(node).unwrap().data_dir.join(format!("broker-a/log/{base:020}"));
        let file = std::fs::File::options().read(true).write(true).open(&path).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, offset).unwrap();
        let before = if stopped { 0 } else { cluster.figure(node, "ledgermq_log_mended_runs_total").unwrap() };
        file.write_all_at(&[byte[0] ^ 16], offset).unwrap();
        file.sync_all().unwrap();
        if stopped {
            cluster.restart(node).unwrap();
        }
        let deadline = Instant::now() + PATIENCE;
        while cluster.figure(node, "ledgermq_log_mended_runs_total").unwrap_or(0) <= before {
            assert!(Instant::now() < deadline, "node {node} has not mended byte {offset} of segment {segment}");
            std::thread::sleep(POLL);
        }
        let mut now = [0];
        file.read_exact_at(&mut now, offset).unwrap();
        assert_eq!(now, byte, "byte {offset} of segment {segment} on node {node}");
    }
    // After a kill the queues are made again from the log: what is damaged there ends the start with a clear error, and changes
    // nothing.
    cluster.kill(follower).unwrap();
    let path = cluster.node(follower).unwrap().data_dir.join(format!("broker-a/log/{:020}", 64_u64 << 20));
    let before = std::fs::read(&path).unwrap();
    // The payload of the last message: a later one than the queues' files can have.
    let at = before.iter().rposition(|byte| *byte != 0).unwrap() - 10_000;
    let mut damaged = before.clone();
    damaged[at] ^= 1;
    std::fs::write(&path, &damaged).unwrap();
    let output = cluster.restart_output(follower).unwrap();
    if output.status.success() {
        let deadline = Instant::now() + PATIENCE;
        while cluster.figure(follower, "ledgermq_log_mended_runs_total").unwrap_or(0) == 0 {
            assert!(Instant::now() < deadline, "not mended");
            std::thread::sleep(POLL);
        }
    } else {
        let words = program::words(&output);
        assert!(words.contains("is damaged at byte") && words.contains("rejoin under a new raft id"), "{words}");
        assert!(std::fs::read(&path).unwrap() == damaged, "the log was changed");
        std::fs::write(&path, &before).unwrap();
        cluster.restart(follower).unwrap();
    }
    judge(&cluster, "rot", &files, "flipped bits");
    replicas::judge(&mut cluster).unwrap();
}

/// Would break: the last resort. Two of three nodes are lost for ever; the third goes on with everything that it has, and one that
/// comes back is no part of it.
#[test]
fn a_survivor_goes_on_alone_when_an_operator_says_so() {
    const SURVIVOR: u64 = 2;
    let mut cluster = Cluster::start().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let plan = Plan { topic: "survivor".into(), producers: 4, size: 1024 };
    let load = Load::start(cluster.namesrv(), dir.path(), &plan).unwrap();
    load.await_acked(1_000).unwrap();
    let files = load.stop().unwrap();
    replicas::await_same_state(&cluster).unwrap();
    (1..=NODES).for_each(|node| cluster.kill(node).unwrap());
    let config = cluster.dir().join(format!("node-{SURVIVOR}/broker.toml"));
    let recover = |confirm: &[&str]| {
        let mut command = Command::new(program::ledgermq().unwrap());
        command.args(["admin", "raft", "unsafe-recover", "--group", "broker-a", "-c"]).arg(&config).args(confirm);
        program::output(command.stdin(Stdio::null())).unwrap()
    };
    let refused = recover(&[]);
    assert!(!refused.status.success(), "without a confirmation: {}", program::words(&refused));
    let done = recover(&["--yes"]);
    assert!(done.status.success(), "{}", program::words(&done));
    assert!(program::words(&done).contains("removed: [1, 3]"), "{}", program::words(&done));

    cluster.restart(SURVIVOR).unwrap();
    let leader = cluster.await_leader(None).unwrap();
    assert_eq!(leader.id, SURVIVOR);
    cluster.restart(1).unwrap();
    judge(&cluster, "survivor", &files, "one survivor");
    load::lone_send(&mut Connection::open(leader.address()).unwrap(), "survivor-alone", "first").unwrap();
    cluster.stop().unwrap();
}

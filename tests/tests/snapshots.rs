//! Members that lie behind the beginning of the log come back by a snapshot, under load, whoever is killed meanwhile.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ledgermq_tests::cluster::{Cluster, GROUP, Node, PATIENCE, POLL, report};
use ledgermq_tests::load::{Load, Plan};
use ledgermq_tests::{program, replicas};
use serde_json::Value;

/// Options of the cluster: a short log, and nobody is waited for.
const OPTIONS: [&str; 14] = [
    "--groups",
    "1",
    "--segment-mib",
    "1",
    "--set",
    "retention_bytes=6291456",
    "--set",
    "retention_ms=0",
    "--set",
    "lag_hold_bytes=0",
    "--set",
    "lag_hold_ms=1000",
    // Old messages are given up again soon after a snapshot.
    "--set",
    "snapshot_linger_ms=2000",
];

/// Position of the first segment that a node has.
fn begin(node: &Node) -> Result<u64> {
    let names = std::fs::read_dir(node.data_dir.join("broker-a/log"))?;
    let names = names.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect::<Result<Vec<_>>>()?;
    let begins = names.iter().filter(|name| name.len() == 20).filter_map(|name| name.parse().ok());
    begins.min().context("a log without segments")
}

/// Behind the last segment that a node has.
fn end(node: &Node) -> Result<u64> {
    let names = std::fs::read_dir(node.data_dir.join("broker-a/log"))?;
    let names = names.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect::<Result<Vec<_>>>()?;
    let begins = names.iter().filter(|name| name.len() == 20).filter_map(|name| name.parse::<u64>().ok());
    Ok(begins.max().context("a log without segments")? + (1 << 20))
}

fn await_that(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<Duration> {
    let began = Instant::now();
    while !holds()? {
        ensure!(began.elapsed() < PATIENCE, "not in time: {what}");
        std::thread::sleep(POLL);
    }
    Ok(began.elapsed())
}

/// Kills a follower and waits until the log of the others begins behind everything that it has.
fn leave_behind(cluster: &mut Cluster, load: &Load) -> Result<Node> {
    load.await_acked(200)?;
    let down = cluster.follower()?;
    cluster.kill(down.id)?;
    let had = end(&down)?;
    await_that("the log begins behind the follower", || {
        load.await_acked(50)?;
        let others = cluster.nodes()?.into_iter().filter(|node| node.id != down.id);
        Ok(others.map(|node| begin(&node)).collect::<Result<Vec<_>>>()?.into_iter().all(|begin| begin >= had))
    })?;
    Ok(down)
}

fn is_pulling(node: &Node) -> bool {
    let take = node.data_dir.join("broker-a/snap/take");
    let has = |folder: &Path| std::fs::read_dir(folder).is_ok_and(|mut names| names.next().is_some());
    has(&take.join("log")) || has(&take.join("state"))
}

/// Would break: a follower that was away for too long never comes back, or comes back with something else.
#[test]
fn a_follower_behind_the_log_comes_back_by_a_snapshot_under_load() {
    let mut cluster = Cluster::start_with(&OPTIONS).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let plan = Plan { topic: "behind".into(), producers: 4, size: 4_096 };
    let load = Load::start(cluster.namesrv(), dir.path(), &plan).unwrap();
    let down = leave_behind(&mut cluster, &load).unwrap();
    let before = load.acked();
    let began = Instant::now();
    cluster.restart(down.id).unwrap();
    await_that("the follower has taken a snapshot", || Ok(down.generation() > Some(0))).unwrap();
    let took = began.elapsed();
    load.await_acked(500).unwrap();
    let acked = load.acked();
    load.stop().unwrap();
    report(&format!(
        "a snapshot was taken {:.1} s after the start of the follower; {} messages were acknowledged meanwhile",
        took.as_secs_f64(),
        acked - before
    ));
    replicas::judge(&mut cluster).unwrap();
}

/// Would break: a pull or an installation that dies half-way, on either side.
#[test]
fn taker_and_giver_are_killed_while_a_snapshot_is_taken() {
    let mut cluster = Cluster::start_with(&OPTIONS).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let plan = Plan { topic: "killed".into(), producers: 4, size: 4_096 };
    let load = Load::start(cluster.namesrv(), dir.path(), &plan).unwrap();
    let mut interrupted = 0;
    for round in 0..3u64 {
        let down = leave_behind(&mut cluster, &load).unwrap();
        let old = down.generation();
        cluster.restart(down.id).unwrap();
        let switched = || down.generation() > old && !is_pulling(&down);
        await_that("the pull begins", || Ok(is_pulling(&down) || switched())).unwrap();
        std::thread::sleep(Duration::from_millis(round * 7));
        interrupted += u64::from(!switched());
        if round % 2 == 0 {
            cluster.kill(down.id).unwrap();
            load.await_acked(100).unwrap();
            cluster.restart(down.id).unwrap();
        } else {
            let leader = cluster.await_leader(None).unwrap();
            cluster.kill(leader.id).unwrap();
            cluster.restart(leader.id).unwrap();
        }
        await_that("the follower has taken a snapshot", || Ok(switched())).unwrap();
        load.await_acked(100).unwrap();
    }
    load.stop().unwrap();
    report(&format!("{interrupted} of 3 snapshots were interrupted by a kill"));
    replicas::judge(&mut cluster).unwrap();
}

fn dev(cluster: &Cluster, args: &[&str]) -> Result<()> {
    program::run(Command::new(program::ledgermq()?).arg("dev").args(args).arg("--dir").arg(cluster.dir())).map(drop)
}

/// `ledgermq admin raft …`.
fn raft(cluster: &Cluster, args: &[&str]) -> Result<Value> {
    let mut command = Command::new(program::ledgermq()?);
    command.args(["admin", "--json", "--namesrv", cluster.namesrv(), "raft"]).args(args);
    let output = program::output(&mut command)?;
    ensure!(output.status.success(), "admin raft {args:?}: {}", program::words(&output));
    serde_json::from_slice(&output.stdout).context("the answer is no JSON")
}

/// Would break: a machine that is lost for good could not be replaced once old messages have been given up.
#[test]
fn an_empty_node_takes_the_place_of_a_lost_one_behind_the_logs_begin() {
    an_empty_node_replaces_a_lost_one(&OPTIONS).unwrap();
}

/// Would break: the files of a snapshot between nodes that meet over TLS, and a new node among them.
#[test]
fn an_empty_node_takes_the_place_of_a_lost_one_over_tls() {
    an_empty_node_replaces_a_lost_one(&[&OPTIONS[..], &["--tls"]].concat()).unwrap();
}

fn an_empty_node_replaces_a_lost_one(options: &[&str]) -> Result<()> {
    let mut cluster = Cluster::start_with(options)?;
    let dir = tempfile::tempdir()?;
    let plan = Plan { topic: "replaced".into(), producers: 4, size: 4_096 };
    let load = Load::start(cluster.namesrv(), dir.path(), &plan)?;
    let lost = leave_behind(&mut cluster, &load)?;
    std::fs::remove_dir_all(&lost.data_dir)?;
    let known: Vec<u64> = cluster.nodes()?.iter().map(|node| node.id).collect();
    dev(&cluster, &["add-node"])?;
    let new = cluster.nodes()?.into_iter().find(|node| !known.contains(&node.id)).context("no new node")?;
    let began = Instant::now();
    raft(&cluster, &["replace", &lost.id.to_string(), &new.groups[GROUP]])?;
    report(&format!("a lost node was replaced by an empty one in {:.1} s", began.elapsed().as_secs_f64()));
    assert!(begin(&new)? > 0 && new.generation() > Some(0), "the new node has no snapshot");
    let status = raft(&cluster, &["status"])?;
    let told = status.as_array().into_iter().flatten().find(|it| it["raftId"] == new.id);
    assert!(told.is_some_and(|it| it["snapshotsTaken"].as_u64() >= Some(1) && it["snapshot"].is_null()), "{status:?}");
    dev(&cluster, &["remove-node", &lost.id.to_string()])?;
    load.await_acked(500)?;
    load.stop()?;
    replicas::judge(&mut cluster)
}

/// Would break: a folder of state that is lost or damaged while its log is there, which has been cut, would be the end of the
/// replica.
#[test]
fn a_replica_without_its_state_takes_anothers() {
    let mut cluster = Cluster::start_with(&OPTIONS).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let plan = Plan { topic: "stateless".into(), producers: 4, size: 4_096 };
    let load = Load::start(cluster.namesrv(), dir.path(), &plan).unwrap();
    load.await_acked(200).unwrap();
    await_that("the log of everybody begins later", || {
        load.await_acked(50)?;
        Ok(cluster.nodes()?.iter().map(begin).collect::<Result<Vec<_>>>()?.into_iter().all(|begin| begin > 0))
    })
    .unwrap();
    type Harm = fn(&Path) -> std::io::Result<()>;
    let harms: [(&str, Harm); 2] = [
        ("whose state is gone", |state| std::fs::remove_dir_all(state)),
        ("whose state is damaged", |state| std::fs::write(state.join("kv/CURRENT"), "MANIFEST-000000\n")),
    ];
    for (what, harm) in harms {
        let down = cluster.follower().unwrap();
        cluster.kill(down.id).unwrap();
        let old = down.generation().unwrap();
        harm(&down.data_dir.join(format!("broker-a/gen-{old}"))).unwrap();
        let before = load.acked();
        let began = Instant::now();
        cluster.restart(down.id).unwrap();
        await_that("the replica has taken a state", || Ok(down.generation() > Some(old))).unwrap();
        report(&format!(
            "a replica {what} had one {:.1} s after its start; {} messages were acknowledged meanwhile",
            began.elapsed().as_secs_f64(),
            load.acked() - before
        ));
        load.await_acked(200).unwrap();
    }
    load.await_acked(500).unwrap();
    load.stop().unwrap();
    replicas::judge(&mut cluster).unwrap();
}

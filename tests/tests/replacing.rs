//! Groups whose members change while clients send 2,000 messages a second: nodes come, take the place of others, die and go. No
//! send may fail after the client's own retries, nothing acknowledged may be lost, and the replicas that remain must be one.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use ledgermq_tests::checker::{Expect, check};
use ledgermq_tests::cluster::{Cluster, GROUP, Node, PATIENCE, POLL, alive, report, signal};
use ledgermq_tests::load::{self, Load, Plan};
use ledgermq_tests::{program, replicas};
use rustix::process::Signal;
use serde_json::Value;

const TOPIC: &str = "members";

/// Messages of each producer's history that must be acknowledged between two changes.
const BETWEEN_CHANGES: u64 = 500;

/// `ledgermq bench produce`, again and again, each time for two seconds: it counts sends that fail after the client's retries.
struct Bench {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<u64>>,
}

impl Bench {
    fn start(namesrv: &str) -> Result<Bench> {
        let stop = Arc::new(AtomicBool::new(false));
        let (namesrv, stopped, program) = (namesrv.to_owned(), Arc::clone(&stop), program::ledgermq()?);
        let thread = std::thread::Builder::new().name("bench".into()).spawn(move || {
            let mut rounds = 0;
            while !stopped.load(Ordering::Relaxed) {
                let mut command = Command::new(&program);
                command.args(["bench", "produce", "--namesrv", &namesrv, "--topic", "bench", "--queues", "4"]);
                command.args(["--rate", "2000", "--in-flight", "64", "--size", "256", "--count", "4000"]);
                command.args(["--warm-up", "0.1", "--no-limits", "--json"]);
                let output = program::output(&mut command)?;
                ensure!(output.status.success(), "sends failed in round {rounds}: {}", program::words(&output));
                rounds += 1;
            }
            Ok(rounds)
        })?;
        Ok(Bench { stop, thread })
    }

    fn stop(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let rounds = self.thread.join().map_err(|_| anyhow::anyhow!("the bench's thread panicked"))??;
        report(&format!("{} sends of the bench, none failed", rounds * 4_000));
        ensure!(rounds > 0, "nothing was sent");
        Ok(())
    }
}

/// A cluster under load.
struct Scene {
    cluster: Cluster,
    load: Option<Load>,
    bench: Option<Bench>,
    folder: tempfile::TempDir,
    began: Instant,
}

impl Scene {
    fn start(nodes: u64) -> Result<Scene> {
        // A node that is told to end stays a moment only: these clients are told by its hints where to go.
        let linger = "drain_linger_ms=2000";
        let cluster = Cluster::start_with(&["--groups", "1", "--nodes", &nodes.to_string(), "--set", linger])?;
        cluster.await_leader(None)?;
        let folder = tempfile::tempdir()?;
        let plan = Plan { topic: TOPIC.to_owned(), producers: 4, size: 256 };
        let load = Load::start(cluster.namesrv(), folder.path(), &plan)?;
        let bench = Bench::start(cluster.namesrv())?;
        load.await_acked(BETWEEN_CHANGES)?;
        Ok(Scene { cluster, load: Some(load), bench: Some(bench), folder, began: Instant::now() })
    }

    /// `ledgermq admin …`.
    fn admin(&self) -> Result<Command> {
        let mut command = Command::new(program::ledgermq()?);
        command.args(["admin", "--json", "--namesrv", self.cluster.namesrv()]);
        Ok(command)
    }

    /// `ledgermq admin raft …`.
    fn raft_output(&self, args: &[&str]) -> Result<Output> {
        program::output(self.admin()?.arg("raft").args(args))
    }

    /// Broker names of a topic that is made now, and sent to.
    fn used_by(&self, topic: &str) -> Result<Value> {
        let mut command = Command::new(program::ledgermq()?);
        command.args(["bench", "produce", "--namesrv", self.cluster.namesrv(), "--topic", topic, "--queues", "4"]);
        command.args(["--count", "4000", "--warm-up", "0.1", "--no-limits", "--json"]);
        let report: Value = serde_json::from_slice(&program::run(&mut command)?.stdout)?;
        Ok(report["broker_names"].clone())
    }

    /// The same, which must go well.
    fn raft(&self, args: &[&str]) -> Result<Value> {
        let began = Instant::now();
        let output = self.raft_output(args)?;
        ensure!(output.status.success(), "admin raft {args:?}: {}", program::words(&output));
        let answer = serde_json::from_slice(&output.stdout).context("the answer is no JSON")?;
        report(&format!("{:?} admin raft {args:?} took {:?}: {answer}", self.began.elapsed(), began.elapsed()));
        if let Some(load) = &self.load {
            load.await_acked(BETWEEN_CHANGES)?;
        }
        Ok(answer)
    }

    /// The same, which must be refused with these words.
    fn refused(&self, args: &[&str], words: &str) -> Result<()> {
        let output = self.raft_output(args)?;
        let said = program::words(&output);
        ensure!(!output.status.success() && said.contains(words), "admin raft {args:?}: {said}");
        Ok(())
    }

    fn add_node(&self) -> Result<Node> {
        let known: Vec<u64> = self.cluster.nodes()?.iter().map(|node| node.id).collect();
        self.dev(&["add-node"])?;
        let new = self.cluster.nodes()?.into_iter().find(|node| !known.contains(&node.id));
        new.context("no node was added")
    }

    /// Stops a node whose replica was removed, once it has said so.
    fn remove_node(&self, id: u64) -> Result<()> {
        let node = self.cluster.node(id)?;
        if node.pid != 0 && alive(node.pid)? {
            self.await_words(id, "this replica was removed from its group")?;
            self.dev(&["remove-node", &id.to_string()])?;
            return self.cluster.await_end(&node);
        }
        self.dev(&["remove-node", &id.to_string()])
    }

    fn dev(&self, args: &[&str]) -> Result<()> {
        let mut command = Command::new(program::ledgermq()?);
        program::run(command.arg("dev").args(args).arg("--dir").arg(self.cluster.dir())).map(drop)
    }

    fn await_words(&self, node: u64, words: &str) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        while !self.cluster.log(node)?.contains(words) {
            ensure!(Instant::now() < until, "node {node} never said {words:?}");
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    /// What each replica says of itself, by Raft id.
    fn status(&self) -> Result<Vec<Value>> {
        let output = self.raft_output(&["status"])?;
        serde_json::from_slice(&output.stdout).context("the status is no JSON")
    }

    /// The leader's number, as the replicas tell it.
    fn leading(&self) -> Result<u64> {
        let until = Instant::now() + PATIENCE;
        loop {
            let status = self.status()?;
            let leader = status.iter().find(|replica| replica["role"] == "leader");
            if let Some(id) = leader.and_then(|replica| replica["raftId"].as_u64()) {
                return Ok(id);
            }
            ensure!(Instant::now() < until, "nobody leads: {status:?}");
            std::thread::sleep(POLL);
        }
    }

    fn await_voters(&self, voters: &[u64]) -> Result<()> {
        let status = self.status()?;
        let told = status.iter().find(|replica| replica["role"] == "leader").map(|replica| replica["voters"].clone());
        ensure!(told == Some(Value::from(voters)), "voters are {told:?}, not {voters:?}");
        Ok(())
    }

    /// The end: no send failed, nothing acknowledged is lost, and the replicas that are left are one.
    fn judge(self) -> Result<()> {
        self.judge_with(&[])
    }

    /// The same, for the replicas of another group in these folders too.
    fn judge_with(mut self, others: &[PathBuf]) -> Result<()> {
        self.bench.take().context("it was judged already")?.stop()?;
        let files = self.load.take().context("it was judged already")?.stop()?;
        let history = load::history(&self.cluster, TOPIC, &files)?;
        let result = check(&history, &Expect::default());
        report(&format!("{:?}: {result}", self.began.elapsed()));
        ensure!(result.clean(), "{result}");
        if self.cluster.nodes()?.len() > 1 {
            replicas::judge(&mut self.cluster)?;
        } else {
            self.cluster.stop()?;
        }
        if !others.is_empty() {
            let mut command = Command::new(program::ledgermq()?);
            program::run(command.args(["inspect", "compare"]).args(others))?;
        }
        drop(self.folder);
        Ok(())
    }
}

fn wipe(folder: &Path) -> Result<()> {
    std::fs::remove_dir_all(folder).with_context(|| format!("cannot wipe {}", folder.display()))
}

fn id(node: &Node) -> String {
    node.id.to_string()
}

/// Would break: moving a cluster to other machines while it serves.
#[test]
fn all_three_nodes_are_replaced_one_by_one() {
    let scene = Scene::start(3).unwrap();
    // Each node's number is its Raft id: `dev` gives out both in order.
    for old in 1..=3_u64 {
        let new = scene.add_node().unwrap();
        scene.raft(&["replace", &old.to_string(), &new.groups[GROUP]]).unwrap();
        scene.remove_node(old).unwrap();
    }
    scene.await_voters(&[4, 5, 6]).unwrap();
    scene.judge().unwrap();
}

/// Would break: growing and shrinking, and every refusal that keeps an operator from stopping his group.
#[test]
fn a_group_grows_to_five_and_shrinks_to_three() {
    let scene = Scene::start(3).unwrap();
    scene.refused(&["remove", "3"], "two voters").unwrap();
    scene.refused(&["remove", "1", "2", "3"], "last voter").unwrap();
    scene.refused(&["promote", "9", "--timeout", "1"], "no member").unwrap();
    scene.refused(&["remove", "9"], "never was a member").unwrap();
    for _ in 0..2 {
        let new = scene.add_node().unwrap();
        scene.raft(&["add-learner", &new.groups[GROUP]]).unwrap();
        scene.raft(&["promote", &id(&new)]).unwrap();
    }
    // The same place under another name: everybody dials it anew.
    let by_name = scene.cluster.node(2).unwrap().raft.replace("127.0.0.1", "localhost");
    scene.raft(&["move", "2", "--peer", &by_name]).unwrap();
    let status = scene.status().unwrap();
    let members = status.iter().flat_map(|replica| replica["members"].as_array()).flatten();
    assert!(members.filter(|it| it["raftId"] == 2).all(|it| it["peer"] == by_name.as_str()), "{status:?}");
    scene.await_voters(&[1, 2, 3, 4, 5]).unwrap();
    let other = 1 + scene.leading().unwrap() % 5;
    scene.raft(&["transfer", &other.to_string()]).unwrap();
    assert_eq!(scene.leading().unwrap(), other);
    let leader = scene.leading().unwrap();
    scene.raft(&["remove", &leader.to_string()]).unwrap();
    scene.remove_node(leader).unwrap();
    let follower = (1..=5).find(|it| *it != leader && *it != scene.leading().unwrap()).unwrap();
    scene.raft(&["remove", &follower.to_string()]).unwrap();
    scene.remove_node(follower).unwrap();
    scene.judge().unwrap();
}

/// Would break: a cluster that began as one node for a trial, and one that is taken down to it.
#[test]
fn one_node_becomes_three_five_three_and_one() {
    let scene = Scene::start(1).unwrap();
    for voters in [[2_u64, 3], [4, 5]] {
        for _ in voters {
            let new = scene.add_node().unwrap();
            scene.raft(&["add-learner", &new.groups[GROUP]]).unwrap();
        }
        let ids: Vec<String> = voters.iter().map(u64::to_string).collect();
        if voters[0] == 2 {
            scene.refused(&["promote", "2"], "two voters").unwrap();
        }
        scene.raft(&["promote", &ids[0], &ids[1]]).unwrap();
    }
    scene.await_voters(&[1, 2, 3, 4, 5]).unwrap();
    scene.raft(&["remove", "1", "2"]).unwrap();
    scene.remove_node(1).unwrap();
    scene.remove_node(2).unwrap();
    scene.raft(&["remove", "3", "4"]).unwrap();
    scene.remove_node(3).unwrap();
    scene.remove_node(4).unwrap();
    scene.await_voters(&[5]).unwrap();
    scene.judge().unwrap();
}

/// Would break: a group that has lost a machine for good.
#[test]
fn a_dead_node_is_replaced() {
    let scene = Scene::start(3).unwrap();
    let follower = scene.cluster.follower().unwrap();
    scene.cluster.kill(follower.id).unwrap();
    wipe(&follower.data_dir).unwrap();
    // A wiped folder must not look like a first start.
    assert!(!scene.cluster.restart_output(follower.id).unwrap().status.success());
    let leader = scene.leading().unwrap();
    let other = (1..=3).find(|it| *it != leader && *it != follower.id).unwrap();
    scene.refused(&["remove", &other.to_string(), "--two-voters"], "needs 2").unwrap();
    let new = scene.add_node().unwrap();
    scene.raft(&["replace", &id(&follower), &new.groups[GROUP]]).unwrap();
    scene.remove_node(follower.id).unwrap();
    scene.judge().unwrap();
}

/// Would break: a replacement that is cut short by the death of the leader.
#[test]
fn the_leader_dies_in_the_middle_of_a_replacement() {
    let scene = Scene::start(3).unwrap();
    let old = scene.cluster.follower().unwrap();
    let new = scene.add_node().unwrap();
    let leader = scene.cluster.leader().unwrap();
    std::thread::scope(|threads| {
        let verb = threads.spawn(|| scene.raft(&["replace", &id(&old), &new.groups[GROUP]]));
        scene.await_words(new.id, "membership changed").unwrap();
        scene.cluster.kill(leader.id).unwrap();
        scene.cluster.await_leader(Some(leader.id)).unwrap();
        scene.cluster.restart(leader.id).unwrap();
        verb.join().unwrap().unwrap();
    });
    scene.remove_node(old.id).unwrap();
    scene.judge().unwrap();
}

/// Would break: a cluster that is to carry more than its groups can.
#[test]
fn a_group_is_added_to_a_running_cluster() {
    const NEW: &str = "broker-d";
    let scene = Scene::start(3).unwrap();
    let birth = scene.folder.path().join("birth.json");
    let port = |id: u64, slot: u64| format!("127.0.0.1:{}", u64::from(scene.cluster.base_port()) + 10 * id + slot);
    let draw = |group: &str| {
        let mut command = scene.admin().unwrap();
        command.args(["group", "draw", "--segment-mib", "16", "--preferred", "3", "--group", group]);
        for id in 1..=3 {
            command.args(["--member", &format!("{},{}", port(id, 0), port(id, 5))]);
        }
        program::output(command.arg("--out").arg(&birth)).unwrap()
    };
    let create = |id: u64| {
        let mut command = scene.admin().unwrap();
        command.args(["group", "create", "--raft-id", &id.to_string(), "--birth"]).arg(&birth);
        program::output(command.arg("-c").arg(scene.cluster.dir().join(format!("node-{id}/broker.toml")))).unwrap()
    };
    let taken = draw(GROUP);
    assert!(program::words(&taken).contains("already"), "{}", program::words(&taken));
    assert!(draw(NEW).status.success());
    for id in 1..=3 {
        let created = create(id);
        assert!(created.status.success(), "{}", program::words(&created));
    }
    for node in scene.cluster.nodes().unwrap() {
        signal(node.pid, Signal::TERM).unwrap();
        scene.cluster.await_end(&node).unwrap();
        scene.cluster.restart(node.id).unwrap();
        scene.load.as_ref().unwrap().await_acked(BETWEEN_CHANGES).unwrap();
    }
    let leader = scene.cluster.await_leading(NEW).unwrap();
    assert_eq!(scene.used_by("wide").unwrap(), serde_json::json!([GROUP, NEW]));
    // It is there: a member without a memory must not come back this way.
    let again = program::words(&create(1));
    assert!(again.contains("group join"), "{again}");

    let led = (1..=3).find(|id| port(*id, 5) == leader).unwrap();
    scene.cluster.kill(led).unwrap();
    while scene.cluster.await_leading(NEW).is_ok_and(|now| now == leader) {
        std::thread::sleep(POLL);
    }
    assert_eq!(scene.used_by("wider").unwrap(), serde_json::json!([GROUP, NEW]));
    scene.cluster.restart(led).unwrap();
    let dir = scene.cluster.dir().to_owned();
    let folders: Vec<_> = (1..=3).map(|id| dir.join(format!("node-{id}/data/{NEW}"))).collect();
    scene.judge_with(&folders).unwrap();
}

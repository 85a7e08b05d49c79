//! Bits that flip in every kind of file of a node: each is mended, or does no harm, or ends the node with an error that names
//! the file; what was acknowledged is never lost.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use ledgermq_tests::checker::{Expect, check};
use ledgermq_tests::cluster::{Cluster, NODES, Node, PATIENCE, POLL, report, signal};
use ledgermq_tests::load::{self, Load, Plan};
use ledgermq_tests::{program, replicas};
use rustix::process::Signal;

const TOPIC: &str = "rot";

/// A cluster with some sealed segments and something of everything in its files.
struct Scene {
    cluster: Cluster,
    histories: Vec<PathBuf>,
    _folder: tempfile::TempDir,
}

impl Scene {
    fn start() -> Result<Scene> {
        let cluster = Cluster::start_with(&["--groups", "1", "--segment-mib", "1"])?;
        let folder = tempfile::tempdir()?;
        let load =
            Load::start(cluster.namesrv(), folder.path(), &Plan { topic: TOPIC.into(), producers: 6, size: 2_048 })?;
        load.await_acked(3_000)?;
        let histories = load.stop()?;
        replicas::await_same_state(&cluster)?;
        Ok(Scene { cluster, histories, _folder: folder })
    }

    fn stop_node(&self, node: &Node) -> Result<()> {
        signal(node.pid, Signal::TERM)?;
        self.cluster.await_end(node)
    }

    /// Flips a bit in a file of a stopped node, and starts it. What comes of it, in a word.
    fn flip(&self, node: &Node, path: &Path, offset: u64) -> Result<&'static str> {
        let name = path.strip_prefix(&node.data_dir)?.display().to_string();
        let what = || format!("byte {offset} of {name}");
        let before = std::fs::read(path).with_context(what)?;
        let mut damaged = before.clone();
        damaged[offset as usize] ^= 0x10;
        std::fs::write(path, &damaged)?;
        let output = self.cluster.restart_output(node.id)?;
        if output.status.success() {
            replicas::await_same_state(&self.cluster).with_context(what)?;
            return Ok("started, and its state is the others'");
        }
        let words = program::words(&output);
        let file = path.file_name().context("a file has a name")?.to_string_lossy();
        ensure!(words.contains(&*file) || words.contains("/kv"), "{}: the error names no file: {words}", what());
        ensure!(!words.contains("panicked"), "{}: {words}", what());
        // Nothing was lost or changed by the attempt.
        std::fs::write(path, &before)?;
        self.cluster.restart(node.id).with_context(what)?;
        replicas::await_same_state(&self.cluster).with_context(what)?;
        Ok("refused")
    }

    /// Reads all messages from this node, as the leader.
    fn read_from(&self, node: &Node) -> Result<()> {
        let mut command = Command::new(program::ledgermq()?);
        command.args(["admin", "--namesrv", self.cluster.namesrv(), "raft", "transfer", &node.id.to_string()]);
        program::run(&mut command)?;
        let leader = self.cluster.await_leader(None)?;
        ensure!(leader.id == node.id, "node {} leads instead of {}", leader.id, node.id);
        let history = load::history(&self.cluster, TOPIC, &self.histories)?;
        let result = check(&history, &Expect::default());
        ensure!(result.clean(), "read from node {}: {result}", node.id);
        Ok(())
    }
}

/// Files below `dir` whose name begins with `prefix` and ends with `suffix`, sorted.
fn files(dir: &Path, prefix: &str, suffix: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<PathBuf> = entries
        .filter(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            path.is_file() && name.starts_with(prefix) && name.ends_with(suffix)
        })
        .collect();
    found.sort();
    found
}

/// Would break: damage that is taken for truth, or a node that cannot say what is wrong with it.
#[test]
fn a_flipped_bit_in_any_file_is_mended_or_named() {
    let mut scene = Scene::start().unwrap();
    let leader = scene.cluster.await_leader(None).unwrap().id;
    let id = leader % NODES + 1;
    let group = scene.cluster.node(id).unwrap().data_dir.join("broker-a");
    type Choice = fn(&Path, &Path) -> Vec<PathBuf>;
    let kinds: [(&str, Choice); 8] = [
        ("meta", |group, _| vec![group.join("meta")]),
        ("sealed segment", |group, _| {
            files(&group.join("log"), "0", "").into_iter().filter(|p| p.extension().is_none()).take(1).collect()
        }),
        ("index", |group, _| files(&group.join("log"), "0", ".idx").into_iter().take(1).collect()),
        ("table", |_, kv| files(kv, "", ".sst").into_iter().take(3).collect()),
        ("manifest", |_, kv| files(kv, "MANIFEST", "")),
        ("current", |_, kv| files(kv, "CURRENT", "")),
        ("options", |_, kv| files(kv, "OPTIONS", "")),
        ("identity", |_, kv| files(kv, "IDENTITY", "")),
    ];
    let mut flips = 0;
    for (kind, choose) in kinds {
        let mut told = Vec::new();
        for place in 0..4 {
            let node = scene.cluster.node(id).unwrap();
            scene.stop_node(&node).unwrap();
            // A state that was damaged, or that would have needed a damaged part of the log, is made anew in another folder.
            let generation = node.generation().unwrap();
            let chosen = choose(&group, &group.join(format!("gen-{generation}/kv")));
            assert!(!chosen.is_empty(), "no {kind} in {}", group.display());
            let path = &chosen[place % chosen.len()];
            let len = std::fs::metadata(path).unwrap().len();
            // The meta file's two slots; else begin, middle and end.
            let offset = if kind == "meta" {
                [8, 4_096 + 8, 130, 4_096 + 130][place]
            } else {
                [0, len / 3, len / 2, len - 1][place]
            };
            let outcome = scene.flip(&node, path, offset).unwrap_or_else(|error| panic!("{kind}: {error:#}"));
            told.push(outcome);
            flips += 1;
        }
        report(&format!("flipped bits, {kind}: {told:?}"));
    }
    // Not all of this may have been harmless by chance.
    let log = scene.cluster.log(id).unwrap();
    assert!(log.contains("the state is damaged: it is made anew from the log"), "no state was found to be damaged");
    let node = scene.cluster.node(id).unwrap();
    scene.read_from(&node).unwrap();
    report(&format!("{flips} flipped bits"));
    replicas::judge(&mut scene.cluster).unwrap();
}

/// Would break: a node that must be made anew by hand because entries that its queues need again have gone bad.
#[test]
fn damage_in_entries_that_a_start_replays_is_mended() {
    let mut scene = Scene::start().unwrap();
    let id = scene.cluster.follower().unwrap().id;
    let node = scene.cluster.node(id).unwrap();
    // So little was never written out: the next start makes the queues of all entries again.
    scene.stop_node(&node).unwrap();
    let folder = node.data_dir.join("broker-a/log");
    let sealed = files(&folder, "0", "").into_iter().find(|path| path.extension().is_none()).unwrap();
    let whole = std::fs::read(&sealed).unwrap();
    let mut damaged = whole.clone();
    damaged[whole.len() / 2] ^= 0x10;
    std::fs::write(&sealed, &damaged).unwrap();

    scene.cluster.restart(id).unwrap();
    let log = scene.cluster.log(id).unwrap();
    assert!(log.contains("given up, to be made anew"), "the damage was not met");
    let deadline = std::time::Instant::now() + PATIENCE;
    while std::fs::read(&sealed).unwrap() != whole {
        assert!(std::time::Instant::now() < deadline, "{} is not mended", sealed.display());
        std::thread::sleep(POLL);
    }
    replicas::await_same_state(&scene.cluster).unwrap();
    let node = scene.cluster.node(id).unwrap();
    scene.read_from(&node).unwrap();
    replicas::judge(&mut scene.cluster).unwrap();
}

/// Would break: a queue that leads a consumer to another message, or to none, because of its file's damage.
#[test]
fn a_flipped_bit_in_a_queue_file_is_mended_from_the_log() {
    let mut scene = Scene::start().unwrap();
    let leader = scene.cluster.await_leader(None).unwrap().id;
    let node = scene.cluster.node(leader % NODES + 1).unwrap();
    scene.stop_node(&node).unwrap();
    let queues = node.data_dir.join("broker-a/gen-0/cq");
    let folder = std::fs::read_dir(&queues).unwrap().map(|it| it.unwrap().path());
    let folder = folder.into_iter().find(|it| it.file_name().unwrap().to_string_lossy().starts_with("rot@")).unwrap();
    let mut flips = 0;
    for path in files(&folder, "", "") {
        let mut bytes = std::fs::read(&path).unwrap();
        let units = bytes.len() / 20;
        assert!(units > 20, "{} has {units} messages", path.display());
        // Positions and sizes of the first unit, of two in a row and of the last one.
        for (unit, byte) in [(0, 7), (units / 2, 5), (units / 2 + 1, 10), (units - 1, 1)] {
            bytes[unit * 20 + byte] ^= 0x04;
            flips += 1;
        }
        std::fs::write(&path, &bytes).unwrap();
    }
    scene.cluster.restart(node.id).unwrap();
    let node = scene.cluster.node(node.id).unwrap();
    scene.read_from(&node).unwrap();
    let mended = scene.cluster.log(node.id).unwrap().matches("the unit is whole again").count();
    assert_eq!(mended, flips, "units that were mended");
    report(&format!("{flips} flipped bits in queue files, all mended"));
    let deadline = std::time::Instant::now() + PATIENCE;
    while let Err(error) = replicas::await_same_state(&scene.cluster) {
        assert!(std::time::Instant::now() < deadline, "{error:#}");
        std::thread::sleep(POLL);
    }
    replicas::judge(&mut scene.cluster).unwrap();
}

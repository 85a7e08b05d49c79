//! A node is killed at its N-th sync, write and rename, under load and while it starts: whatever was half done then, the next
//! start must make a whole of it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::fs::File;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Result, ensure};
use ledgermq_tests::cluster::{Cluster, PATIENCE, POLL, alive, report, signal};
use ledgermq_tests::drill::{self, Drill};
use ledgermq_tests::fault::Strace;
use ledgermq_tests::program;
use rustix::process::Signal;

/// What makes bytes durable, what writes them, and what gives and takes names.
const CALLS: [&str; 3] = [
    "fdatasync,fsync,syncfs",
    "pwrite64,pwritev,pwritev2,write",
    "rename,renameat,renameat2,unlink,unlinkat,ftruncate",
];

/// Small segments, so that names change often.
const OPTIONS: [&str; 4] = ["--groups", "1", "--segment-mib", "1"];

/// Would break: a file that is believed to be there, or whole, when its name or bytes were on their way at the moment of death.
/// Leader and follower die in turn.
#[test]
fn a_node_that_dies_at_its_nth_call_loses_nothing() {
    let mut drill = Drill::start("nth-call", Cluster::start_with(&OPTIONS).unwrap()).unwrap();
    let mut deaths = 0;
    for round in 0..drill::rounds(1).unwrap() as u64 {
        for (at, calls) in CALLS.into_iter().enumerate() {
            for nth in [1, 2, 5, 11] {
                let nth = nth + 13 * round;
                let leader = drill.cluster.await_leader(None).unwrap();
                let node = if (at as u64 + nth).is_multiple_of(2) { leader } else { drill.cluster.follower().unwrap() };
                drill
                    .fault(|cluster| {
                        let strace = Strace::attach(node.pid, calls, &format!("signal=KILL:when={nth}"))?;
                        let deadline = Instant::now() + PATIENCE / 4;
                        // Few threads give names at all, and not often.
                        while alive(node.pid)? && Instant::now() < deadline {
                            std::thread::sleep(POLL);
                        }
                        drop(strace);
                        if !alive(node.pid)? {
                            deaths += 1;
                            cluster.restart(node.id)?;
                        }
                        Ok(())
                    })
                    .unwrap();
            }
        }
    }
    assert!(deaths >= 9, "only {deaths} deaths: the drill proves nothing");
    report(&format!("drill: nth-call, {deaths} deaths"));
    drill.judge().unwrap();
}

/// How a start under strace ended.
#[derive(Debug, PartialEq, Eq)]
enum Started {
    Killed,
    Up,
}

/// Starts a node that does not run, kills it at its N-th call, or once it is up.
fn start_and_die(cluster: &Cluster, node: u64, calls: &str, nth: u64) -> Result<Started> {
    program::require("strace", "strace")?;
    let folder = cluster.dir().join(format!("node-{node}"));
    let said = folder.join("start.log");
    let output = File::create(&said)?;
    let mut child = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "--", "strace", "-f", "-o", "/dev/null", "-e", &format!("trace={calls}")])
        .args(["-e", &format!("inject={calls}:signal=KILL:when={nth}")])
        .arg(program::ledgermq()?)
        .args(["broker", "-c"])
        .arg(folder.join("broker.toml"))
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .spawn()?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        if child.try_wait()?.is_some() {
            return Ok(Started::Killed);
        }
        if std::fs::read_to_string(&said)?.contains("broker node started") {
            // strace dies with its tracee, and the other way round.
            let tracee = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", child.id()))?;
            let tracee: Option<u32> = tracee.split_whitespace().next().and_then(|pid| pid.parse().ok());
            if let Some(pid) = tracee {
                signal(pid, Signal::KILL)?;
            }
            child.wait()?;
            return Ok(Started::Up);
        }
        ensure!(Instant::now() < deadline, "node {node} neither starts nor dies");
        std::thread::sleep(POLL);
    }
}

/// Would break: a start that cannot be begun anew: recovery that dies half-way at each of its syncs, writes and renames.
#[test]
fn a_start_that_dies_half_way_is_begun_anew() {
    let mut drill = Drill::start("nth-start", Cluster::start_with(&OPTIONS).unwrap()).unwrap();
    let mut deaths = 0;
    for calls in CALLS {
        drill
            .fault(|cluster| {
                let node = cluster.follower()?;
                cluster.kill(node.id)?;
                for nth in 1..=12 {
                    match start_and_die(cluster, node.id, calls, nth)? {
                        Started::Killed => deaths += 1,
                        Started::Up => break,
                    }
                }
                cluster.restart(node.id)?;
                Ok(())
            })
            .unwrap();
    }
    assert!(deaths >= 8, "only {deaths} deaths: the drill proves nothing");
    report(&format!("drill: nth-start, {deaths} deaths"));
    drill.judge().unwrap();
}

//! A cluster of real processes, started by `ledgermq dev` on free loopback ports with its data in a folder of its own.
//!
//! Everything dies with the test, also when it panics or is killed: `dev` is started through `setpriv --pdeathsig`, and
//! the nodes die with `dev`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;

use crate::alone::{self, Alone};
use crate::program;
use crate::wire::{Connection, code};

/// Broker name of the first group.
pub const GROUP: &str = "broker-a";

/// Nodes of a test's cluster.
pub const NODES: u64 = 3;

/// Ports that a cluster uses, from its base port on.
const PORT_SPAN: u16 = 100;

/// Longest wait for a cluster to serve, a node to come back, or a cluster to stop.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Pause between two looks at something that has no event to wait for (another process's file, a route).
pub const POLL: Duration = Duration::from_millis(20);

fn unique() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// One node, as `cluster.json` tells it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Node {
    /// Number, 1 and up.
    pub id: u64,
    /// Process; 0 while it does not run.
    pub pid: u32,
    /// Data folder.
    pub data_dir: PathBuf,
    /// Raft address.
    pub raft: String,
    /// Address of `/healthz` and `/readyz`.
    pub http: String,
    /// Clients' address by broker name.
    pub groups: BTreeMap<String, String>,
}

impl Node {
    /// Number of the state folder of its first group: each state that is given up, and each snapshot that is switched to, raises
    /// it. `None` while there is none.
    pub fn generation(&self) -> Option<u64> {
        let names = std::fs::read_dir(self.data_dir.join(GROUP)).ok()?;
        let names = names.filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()));
        names.filter_map(|name| name.strip_prefix("gen-")?.parse().ok()).max()
    }
}

impl Node {
    /// Clients' address in the first group.
    pub fn address(&self) -> &str {
        &self.groups[GROUP]
    }
}

#[derive(Debug, Deserialize)]
struct ClusterFile {
    namesrv: String,
    namesrv_pids: Vec<u32>,
    nodes: Vec<Node>,
}

/// A running cluster.
#[derive(Debug)]
pub struct Cluster {
    dir: PathBuf,
    dev: Child,
    namesrv: String,
    base_port: u16,
    _folder: Option<tempfile::TempDir>,
    _alone: Option<Alone>,
}

impl Cluster {
    /// Starts three nodes with one group in a fresh folder, once no other test runs a cluster.
    pub fn start() -> Result<Cluster> {
        Cluster::start_with(&["--groups", "1"])
    }

    /// The same with other options of `ledgermq dev`.
    pub fn start_with(options: &[&str]) -> Result<Cluster> {
        let alone = alone::hold()?;
        let folder = tempfile::Builder::new().prefix("ledgermq-test-").tempdir()?;
        let mut cluster = Cluster::start_in_with(folder.path(), options)?;
        cluster._folder = Some(folder);
        cluster._alone = Some(alone);
        Ok(cluster)
    }

    /// Starts three nodes with one group in `dir`; whoever calls it holds [`Alone`].
    pub fn start_in(dir: &Path) -> Result<Cluster> {
        Cluster::start_in_with(dir, &["--groups", "1"])
    }

    /// The same with other options of `ledgermq dev`.
    pub fn start_in_with(dir: &Path, options: &[&str]) -> Result<Cluster> {
        let base_port = free_ports()?;
        program::require("setpriv", "util-linux")?;
        let log = File::options().create(true).append(true).open(dir.join("dev.log"))?;
        // A file left by an earlier run of this folder would be taken for the new cluster's.
        let _ = std::fs::remove_file(dir.join("cluster.json"));
        let dev = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(program::ledgermq()?)
            // Next to each node's config: what a drill says of the machine's boot. Not there: the machine's own.
            .env("LEDGERMQ_BOOT_ID_FILE", "../boot-id")
            .args(["dev", "--base-port", &base_port.to_string()])
            .args(options)
            .arg("--dir")
            .arg(dir)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start ledgermq dev")?;
        let mut cluster =
            Cluster { dir: dir.to_owned(), dev, namesrv: String::new(), base_port, _folder: None, _alone: None };
        let deadline = Instant::now() + PATIENCE;
        while !dir.join("cluster.json").try_exists()? {
            if let Some(status) = cluster.dev.try_wait()? {
                bail!("ledgermq dev ended with {status}: {}", tail(&dir.join("dev.log"), 20));
            }
            ensure!(Instant::now() < deadline, "no cluster.json within {PATIENCE:?}");
            std::thread::sleep(POLL);
        }
        cluster.namesrv = cluster.file()?.namesrv;
        Ok(cluster)
    }

    /// Changes a node's config, for its next start.
    pub fn configure(&self, node: u64, from: &str, to: &str) -> Result<()> {
        let path = self.dir.join(format!("node-{node}/broker.toml"));
        let text = std::fs::read_to_string(&path)?;
        ensure!(text.contains(from), "{from:?} is not in {}", path.display());
        Ok(std::fs::write(&path, text.replacen(from, to, 1))?)
    }

    /// Has a node believe, at its next start, that its machine has booted anew: its page cache is gone.
    pub fn boot_anew(&self, node: u64) -> Result<()> {
        let id = format!("00000000-0000-0000-0000-{:012x}", std::process::id() as u64 * 1_000 + unique());
        Ok(std::fs::write(self.dir.join(format!("node-{node}/boot-id")), id)?)
    }

    /// One figure of a node's health page.
    pub fn figure(&self, node: u64, name: &str) -> Result<u64> {
        let http = self.node(node)?.http;
        let mut stream = std::net::TcpStream::connect(&http)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: {http}\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let line = text.lines().find(|line| line.starts_with(name));
        let value = line.and_then(|line| line.rsplit(' ').next()).and_then(|value| value.parse().ok());
        value.with_context(|| format!("no {name} in {text}"))
    }

    /// Address of the name server.
    pub fn namesrv(&self) -> &str {
        &self.namesrv
    }

    /// The cluster's folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// First of the ports that this cluster uses.
    pub fn base_port(&self) -> u16 {
        self.base_port
    }

    fn file(&self) -> Result<ClusterFile> {
        let path = self.dir.join("cluster.json");
        let text = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("{} is not as promised", path.display()))
    }

    /// All nodes as the supervisor knows them now.
    pub fn nodes(&self) -> Result<Vec<Node>> {
        Ok(self.file()?.nodes)
    }

    /// One node as the supervisor knows it now.
    pub fn node(&self, id: u64) -> Result<Node> {
        self.nodes()?.into_iter().find(|n| n.id == id).with_context(|| format!("the cluster has no node {id}"))
    }

    /// The node that clients are sent to: brokerId 0 of the first group at the name server.
    pub fn leader(&self) -> Result<Node> {
        let address = leader_address(&self.namesrv)?;
        let found = self.nodes()?.into_iter().find(|n| n.address() == address);
        found.with_context(|| format!("the route names {address}, which is no node of the cluster"))
    }

    /// A node that does not lead.
    pub fn follower(&self) -> Result<Node> {
        let leader = self.leader()?.id;
        self.nodes()?.into_iter().find(|n| n.id != leader).context("a cluster of one node has no follower")
    }

    /// Broker names that each node leads by the route, by node number.
    pub fn led(&self) -> Result<BTreeMap<u64, Vec<String>>> {
        let info = cluster_info(&self.namesrv)?;
        let mut led = BTreeMap::new();
        for node in self.nodes()? {
            let own = node.groups.iter().filter(|(name, address)| {
                info["brokerAddrTable"][name.as_str()]["brokerAddrs"]["0"].as_str() == Some(address.as_str())
            });
            led.insert(node.id, own.map(|(name, _)| name.clone()).collect());
        }
        Ok(led)
    }

    /// Waits until each node leads as many groups as `wanted` says, by node number.
    pub fn await_led(&self, wanted: &[(u64, usize)]) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let led = self.led()?;
            if wanted.iter().all(|(node, count)| led.get(node).is_some_and(|names| names.len() == *count)) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "leaders are {led:?} after {PATIENCE:?}, wanted {wanted:?}");
            std::thread::sleep(POLL);
        }
    }

    /// Processes of the name servers; 0 for one that does not run.
    pub fn namesrv_pids(&self) -> Result<Vec<u32>> {
        Ok(self.file()?.namesrv_pids)
    }

    /// `kill -9` of a name server, counted from 1; waits until its process is gone.
    pub fn kill_namesrv(&self, n: usize) -> Result<()> {
        let pid = *self.namesrv_pids()?.get(n - 1).with_context(|| format!("there is no name server {n}"))?;
        signal(pid, Signal::KILL)?;
        let deadline = Instant::now() + PATIENCE;
        while alive(pid)? {
            ensure!(Instant::now() < deadline, "name server {n} (pid {pid}) did not end within {PATIENCE:?}");
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    /// Starts a name server that does not run.
    pub fn restart_namesrv(&self, n: usize) -> Result<()> {
        let mut command = Command::new(program::ledgermq()?);
        let command = command.args(["dev", "restart-namesrv", &n.to_string(), "--dir"]).arg(&self.dir);
        let output = program::output(command)?;
        ensure!(output.status.success(), "cannot restart name server {n}: {}", program::words(&output));
        Ok(())
    }

    /// Broker names of all groups.
    pub fn brokers(&self) -> Result<Vec<String>> {
        let first = self.nodes()?.into_iter().next().context("the cluster has no node")?;
        Ok(first.groups.into_keys().collect())
    }

    /// Waits for a leader of this broker name that answers, and names its address.
    pub fn await_leading(&self, broker: &str) -> Result<String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match leading_address(&self.namesrv, broker).and_then(|address| serves(&address).map(|()| address)) {
                Ok(address) => return Ok(address),
                Err(e) => ensure!(Instant::now() < deadline, "no leader of {broker} within {PATIENCE:?}: {e:#}"),
            }
            std::thread::sleep(POLL);
        }
    }

    /// Waits for a leader that answers, other than `not`.
    pub fn await_leader(&self, not: Option<u64>) -> Result<Node> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let why = match self.leader() {
                Ok(node) if Some(node.id) == not => format!("node {} still leads by the route", node.id),
                Ok(node) => match serves(node.address()) {
                    Ok(()) => return Ok(node),
                    Err(e) => format!("node {}: {e:#}", node.id),
                },
                Err(e) => format!("{e:#}"),
            };
            ensure!(Instant::now() < deadline, "no leader within {PATIENCE:?}: {why}");
            std::thread::sleep(POLL);
        }
    }

    /// `kill -9` of a node, and waits until its process is gone.
    pub fn kill(&self, id: u64) -> Result<()> {
        let node = self.node(id)?;
        signal(node.pid, Signal::KILL)?;
        self.await_end(&node)
    }

    /// Waits until the process of this node, as it was known then, is gone.
    pub fn await_end(&self, node: &Node) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while alive(node.pid)? {
            ensure!(Instant::now() < deadline, "node {} (pid {}) did not end within {PATIENCE:?}", node.id, node.pid);
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    /// Starts a node that does not run.
    pub fn restart(&self, id: u64) -> Result<Node> {
        let output = self.restart_output(id)?;
        ensure!(output.status.success(), "cannot restart node {id}: {}", program::words(&output));
        self.node(id)
    }

    /// Tries to start a node that does not run, and says how that ended.
    pub fn restart_output(&self, id: u64) -> Result<Output> {
        let mut command = Command::new(program::ledgermq()?);
        program::output(command.args(["dev", "restart-node", &id.to_string(), "--dir"]).arg(&self.dir))
    }

    /// Stops the cluster by SIGTERM and waits; an exit status other than 0 is an error. The data stays.
    pub fn stop(&mut self) -> Result<()> {
        signal(self.dev.id(), Signal::TERM)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.dev.try_wait()? {
                ensure!(status.success(), "ledgermq dev ended with {status} on SIGTERM");
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "ledgermq dev did not stop within {PATIENCE:?} of SIGTERM");
            std::thread::sleep(POLL);
        }
    }

    /// The log of a node.
    pub fn log(&self, id: u64) -> Result<String> {
        let path = self.dir.join(format!("node-{id}/broker.log"));
        let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // SIGKILL: a test that did not stop its cluster has failed, and the nodes die with `dev`.
        let _ = self.dev.kill();
        let _ = self.dev.wait();
        if std::thread::panicking() {
            let nodes = (1..=NODES).map(|id| self.dir.join(format!("node-{id}/broker.log")));
            for log in std::iter::once(self.dir.join("dev.log")).chain(nodes) {
                report(&format!("--- {}\n{}", log.display(), tail(&log, 30)));
            }
            if std::env::var_os("LEDGERMQ_TEST_KEEP").is_some()
                && let Some(folder) = self._folder.take()
            {
                report(&format!("kept {}", folder.keep().display()));
            }
        }
    }
}

/// Words for whoever reads the output of a failed test.
#[allow(clippy::print_stderr, reason = "a test's output is its report")]
pub fn report(words: &str) {
    eprintln!("{words}");
}

/// The last lines of a file, or why there are none.
fn tail(path: &Path, lines: usize) -> String {
    match std::fs::read(path) {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            let all: Vec<&str> = text.lines().collect();
            all[all.len().saturating_sub(lines)..].join("\n")
        }
        Err(e) => format!("{}: {e}", path.display()),
    }
}

/// Address of the leader of the first group, as the name server gives it to every client.
pub fn leader_address(namesrv: &str) -> Result<String> {
    leading_address(namesrv, GROUP)
}

fn leading_address(namesrv: &str, broker: &str) -> Result<String> {
    let info = cluster_info(namesrv)?;
    let address = &info["brokerAddrTable"][broker]["brokerAddrs"]["0"];
    Ok(address.as_str().with_context(|| format!("{broker} has no broker 0 in {info}"))?.to_owned())
}

/// The cluster as the first name server of a list that answers tells it.
fn cluster_info(namesrvs: &str) -> Result<serde_json::Value> {
    let mut last = anyhow::anyhow!("no name server is named");
    for namesrv in namesrvs.split(';') {
        match cluster_info_of(namesrv) {
            Ok(info) => return Ok(info),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn cluster_info_of(namesrv: &str) -> Result<serde_json::Value> {
    let answer = Connection::open(namesrv)?.call(code::CLUSTER_INFO, &[], &[])?.success("cluster info")?;
    // RocketMQ's own name server writes ids without quotes; these tests can be run against it too.
    let mut text = String::from_utf8(answer.body).context("the cluster info is no UTF-8")?;
    for id in 0..10 {
        for before in ['{', ','] {
            text = text.replace(&format!("{before}{id}:\""), &format!("{before}\"{id}\":\""));
        }
    }
    serde_json::from_str(&text).context("the cluster info is no JSON")
}

/// Whether a read that only a serving leader answers is answered.
fn serves(address: &str) -> Result<()> {
    let fields = [("topic", "TBW102".to_owned()), ("queueId", "0".to_owned())];
    let answer = Connection::open(address)?.call(code::MAX_OFFSET, &fields, &[])?;
    ensure!(answer.code == 0, "code {}, {}", answer.code, answer.remark);
    Ok(())
}

/// Sends a signal to a process that this test started.
pub fn signal(pid: u32, signal: Signal) -> Result<()> {
    let pid = Pid::from_raw(pid as i32).context("a process that does not run has no pid")?;
    kill_process(pid, signal).with_context(|| format!("cannot signal pid {}", pid.as_raw_nonzero()))
}

/// Whether a process runs; one that ended and waits for its parent does not.
pub fn alive(pid: u32) -> Result<bool> {
    match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        // The name, in parentheses, may hold anything; the state follows it.
        Ok(stat) => Ok(!stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'))),
        Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound) => Ok(false),
        // The process ended between open and read.
        Err(e) if e.raw_os_error() == Some(3) => Ok(false),
        Err(e) => Err(e).with_context(|| format!("cannot look at pid {pid}")),
    }
}

/// The first of enough free ports, below those that the kernel gives to outgoing connections.
fn free_ports() -> Result<u16> {
    const LOWEST: u16 = 20_000;
    const TRIES: u16 = 100;
    let first = (std::process::id() % 100) as u16;
    for n in 0..TRIES {
        let base = LOWEST + (first + n) % TRIES * PORT_SPAN;
        if (base..base + PORT_SPAN).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok()) {
            return Ok(base);
        }
    }
    bail!("no {PORT_SPAN} free ports in a row between {LOWEST} and {}", LOWEST + TRIES * PORT_SPAN)
}

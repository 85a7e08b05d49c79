//! The log path alone: three processes with one replica each, no client sockets, no broker. What a proposal costs from the raft loop
//! to the commit, in messages a second, latency and processor time, beside what the disk and loopback give in the same run.
//!
//! ```sh
//! cargo bench --profile dev -p ledgermq-dledger --bench log_path               # all rows, about a minute
//! cargo bench --profile dev -p ledgermq-dledger --bench log_path -- 64x1024    # outstanding x bytes, several apart by commas
//! ```
//! One task waits for each outstanding message and sends the next when it is committed. `LEDGERMQ_BENCH_DIR` names another folder
//! than Cargo's for the logs: its disk is what is measured.
#![allow(clippy::print_stdout, reason = "a benchmark that prints")]

mod limits;
mod node;
mod plain;

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use ledgermq_dledger::fs::{Fs, OsFs};
use ledgermq_dledger::log::meta::{FORMAT, GroupConstants, Identity, Member};
use ledgermq_dledger::{GroupId, replica};
use uuid::Uuid;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Replicas.
const NODES: u64 = 3;
/// Bytes of a segment.
const SEGMENT_SIZE: u64 = 64 << 20;
/// Outstanding messages and bytes of each, without arguments.
const ROWS: &str = "1x1024,16x1024,64x1024,256x1024,1024x1024,256x4096,64x65536";
/// Before the first row the log is filled until its segments are used again: what is measured has its files on the disk and in
/// memory already, as a broker has them after its first hours.
const FILL: (usize, usize) = (1024, 1024);
const FILL_WINDOWS: usize = 4;
/// Not counted at the start of a row.
const WARM_UP: Duration = Duration::from_millis(1_000);
/// Measured windows of a row, and how long each is.
const WINDOWS: usize = 3;
const WINDOW: Duration = Duration::from_millis(1_500);

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    if let [role, rest @ ..] = &arguments[..]
        && role == "node"
    {
        return node::run(rest);
    }
    if arguments.iter().any(|word| word == "--test") {
        // `cargo test --benches` only asks whether it starts.
        return Ok(());
    }
    let rows = rows(arguments.first().map_or(ROWS, String::as_str))?;
    let parent =
        std::env::var_os("LEDGERMQ_BENCH_DIR").map_or_else(|| env!("CARGO_TARGET_TMPDIR").into(), PathBuf::from);
    std::fs::create_dir_all(&parent)?;
    let dir = tempfile::tempdir_in(&parent)?;
    let limits = limits::measure(dir.path(), NODES as usize)?;
    println!("{limits}\n");
    let lone = limits.fdatasync_three.p50_us + limits.loopback.p50_us;
    println!("a lone append at best: one fdatasync while three processes sync + one round trip = {lone:.0} us\n");
    let mut cluster = Cluster::start(dir.path())?;
    cluster.measure(FILL.0, FILL.1, FILL_WINDOWS)?;
    println!(
        "{:>11} {:>7} {:>10} {:>19} {:>8} {:>8} {:>9} {:>10} {:>9} {:>9} {:>10}",
        "OUTSTANDING",
        "BYTES",
        "MSG/S",
        "RANGE",
        "P50 US",
        "P99 US",
        "P99.9 US",
        "CPU US/MSG",
        "MSG/ENTRY",
        "MSG/SYNC",
        "LOG MB/S"
    );
    for (outstanding, bytes) in rows {
        let row = cluster.measure(outstanding, bytes, WINDOWS)?;
        println!("{row}");
    }
    Ok(())
}

fn rows(text: &str) -> Result<Vec<(usize, usize)>> {
    let row = |row: &str| {
        let (outstanding, bytes) = row.split_once('x')?;
        Some((outstanding.parse().ok().filter(|n| (1..=65_536).contains(n))?, bytes.parse().ok()?))
    };
    text.split(',')
        .map(|it| row(it).ok_or_else(|| format!("{it}: give OUTSTANDINGxBYTES, such as 64x1024").into()))
        .collect()
}

/// A child process with a replica.
struct Node {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Node {
    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.from.read_line(&mut line)? == 0 {
            return Err("a replica has ended".into());
        }
        Ok(line.trim().to_owned())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Cluster {
    nodes: Vec<Node>,
    leader: usize,
}

impl Cluster {
    /// Creates the replicas, starts them and waits for the leader. The first member stands for election first.
    fn start(dir: &Path) -> Result<Cluster> {
        let (cluster_id, group) = (Uuid::new_v4(), GroupId(Uuid::new_v4()));
        let members: Vec<Member> = (1..=NODES).map(|raft_id| Member { raft_id, replica: Uuid::new_v4() }).collect();
        let fs: Arc<dyn Fs> = Arc::new(OsFs);
        let held: Vec<TcpListener> =
            members.iter().map(|_| TcpListener::bind("127.0.0.1:0")).collect::<std::io::Result<_>>()?;
        let addresses: Vec<String> =
            held.iter().map(|it| Ok(it.local_addr()?.to_string())).collect::<std::io::Result<_>>()?;
        drop(held);
        let mut nodes = Vec::new();
        for member in &members {
            let dir = dir.join(member.raft_id.to_string());
            std::fs::create_dir_all(&dir)?;
            let identity = Identity { cluster_id, group, replica: member.replica, raft_id: member.raft_id };
            let constants = GroupConstants { segment_size: SEGMENT_SIZE, format: FORMAT };
            replica::create(&fs, &dir, identity, constants, members.clone())?;
            let mut child = Command::new(std::env::current_exe()?)
                .args(["node", &member.raft_id.to_string()])
                .arg(&dir)
                .args([cluster_id.to_string(), group.0.to_string(), addresses.join(",")])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()?;
            let (to, from) = (child.stdin.take().ok_or("no input")?, child.stdout.take().ok_or("no output")?);
            nodes.push(Node { child, to, from: BufReader::new(from) });
        }
        // Every replica says whether it leads, once somebody does.
        let mut leader = None;
        for (n, node) in nodes.iter_mut().enumerate() {
            if node.line()? == "leads" {
                leader = Some(n);
            }
        }
        Ok(Cluster { nodes, leader: leader.ok_or("nobody leads")? })
    }

    fn measure(&mut self, outstanding: usize, bytes: usize, count: usize) -> Result<Row> {
        let (warm_up, window) = (WARM_UP.as_millis(), WINDOW.as_millis());
        let leader = &mut self.nodes[self.leader];
        writeln!(leader.to, "{outstanding} {bytes} {warm_up} {window} {count}")?;
        let mut windows = Vec::new();
        for _ in 0..count {
            self.expect("begin")?;
            let before = self.cpu_us()?;
            let figures = self.expect("end")?;
            let cpu_us = self.cpu_us()? - before;
            let numbers: Vec<f64> =
                figures.split_whitespace().map(str::parse).collect::<std::result::Result<_, _>>()?;
            let [messages, seconds, p50, p99, p999, entries, syncs, log_bytes] = numbers[..] else {
                return Err(format!("not the figures of a window: {figures}").into());
            };
            windows.push(Window {
                rate: messages / seconds,
                latencies: [p50, p99, p999],
                cpu_us: cpu_us / messages,
                per_entry: messages / entries,
                per_sync: messages / syncs,
                log_mb_s: log_bytes / seconds / 1e6,
            });
        }
        windows.sort_by(|a, b| a.rate.total_cmp(&b.rate));
        let range = (windows[0].rate, windows[windows.len() - 1].rate);
        Ok(Row { outstanding, bytes, range, median: windows.swap_remove(windows.len() / 2) })
    }

    /// Waits for a line of the leader that begins with `word`; returns the rest of it.
    fn expect(&mut self, word: &str) -> Result<String> {
        let line = self.nodes[self.leader].line()?;
        let rest = line.strip_prefix(word).ok_or_else(|| format!("the leader says: {line}"))?;
        Ok(rest.to_owned())
    }

    /// Processor time of all replicas so far, the leader's senders included.
    fn cpu_us(&self) -> Result<f64> {
        self.nodes.iter().try_fold(0.0, |sum, node| Ok(sum + cpu_us(node.child.id())?))
    }
}

/// Processor time of all threads of a process, in us (`/proc/<pid>/task/<tid>/schedstat`: ns on a processor first).
fn cpu_us(pid: u32) -> Result<f64> {
    let mut ns = 0;
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end meanwhile.
        let Ok(text) = std::fs::read_to_string(task?.path().join("schedstat")) else { continue };
        ns += text.split_whitespace().next().ok_or("an empty schedstat")?.parse::<u64>()?;
    }
    Ok(ns as f64 / 1e3)
}

struct Window {
    rate: f64,
    latencies: [f64; 3],
    cpu_us: f64,
    per_entry: f64,
    per_sync: f64,
    log_mb_s: f64,
}

struct Row {
    outstanding: usize,
    bytes: usize,
    range: (f64, f64),
    median: Window,
}

impl std::fmt::Display for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Window { rate, latencies: [p50, p99, p999], cpu_us, per_entry, per_sync, log_mb_s } = self.median;
        let range = format!("{:.0}..{:.0}", self.range.0, self.range.1);
        write!(
            f,
            "{:>11} {:>7} {rate:>10.0} {range:>19} {p50:>8.0} {p99:>8.0} {p999:>9.0} {cpu_us:>10.1} {per_entry:>9.1} {per_sync:>9.1} {log_mb_s:>10.0}",
            self.outstanding, self.bytes
        )
    }
}

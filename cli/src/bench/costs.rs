//! What a cluster costs: processor time, bytes to the disk and syncs, read at the borders of a window.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;

use super::proc::{self, MachineTicks, Memory};
use crate::dev::cluster_file::ClusterFile;
use crate::probe;

/// All counters at a moment. Of a cluster whose processes are not known, only this process and the machine.
#[derive(Debug, Clone)]
pub(crate) struct Reading {
    at: Instant,
    client_cpu_s: f64,
    machine: MachineTicks,
    servers: Option<Servers>,
}

/// Sums over the nodes of a cluster.
#[derive(Debug, Clone, Default, PartialEq)]
struct Servers {
    nodes: u64,
    cpu_s: f64,
    dirtied_bytes: u64,
    /// Of the disk of the data folders, where it can be told.
    device_bytes: Option<u64>,
    log: LogCounts,
    memory: Vec<Memory>,
}

/// What the logs of all replicas count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct LogCounts {
    jobs: u64,
    frame_bytes: u64,
    syncs: u64,
    meta_syncs: u64,
}

/// What happened between two readings.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Costs {
    /// Length in seconds.
    pub(crate) seconds: f64,
    /// Processor seconds of this process.
    pub(crate) client_cpu_s: f64,
    /// Share of the machine's processors that had nothing to do, 0 to 1.
    pub(crate) idle_share: f64,
    /// Share that the host of a virtual machine took, 0 to 1.
    pub(crate) stolen_share: f64,
    /// What the servers did; absent when their processes are not known.
    pub(crate) servers: Option<ServerCosts>,
}

/// What all nodes together did between two readings.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct ServerCosts {
    /// Nodes; each has a replica of every message.
    pub(crate) nodes: u64,
    /// Processor seconds.
    pub(crate) cpu_s: f64,
    /// Bytes that went to the disk of the data folders, by whomever: log, state, and the filling of segments ahead.
    pub(crate) device_bytes: Option<u64>,
    /// Bytes of pages that the nodes made dirty, as the kernel counts them.
    pub(crate) dirtied_bytes: u64,
    /// Write jobs with frames.
    pub(crate) jobs: u64,
    /// Bytes of frames.
    pub(crate) frame_bytes: u64,
    /// `fdatasync` calls for logs, their meta files included.
    pub(crate) syncs: u64,
    /// Resident memory of each node at the end, in MiB: all, and its own.
    pub(crate) resident_mib: Vec<[u64; 2]>,
}

impl Reading {
    /// Reads everything now.
    pub(crate) async fn take(cluster: Option<&ClusterFile>) -> Result<Reading> {
        let machine = proc::machine_ticks(&read("/proc/stat")?).context("/proc/stat is not as expected")?;
        let client_cpu_s =
            proc::cpu_seconds(&read("/proc/self/stat")?).context("/proc/self/stat is not as expected")?;
        let at = Instant::now();
        let servers = match cluster {
            Some(cluster) => Some(Servers::read(cluster).await?),
            None => None,
        };
        Ok(Reading { at, client_cpu_s, machine, servers })
    }

    /// What happened from `earlier` to here.
    pub(crate) fn since(&self, earlier: &Reading) -> Costs {
        let ticks = self.machine.total.saturating_sub(earlier.machine.total).max(1) as f64;
        let share = |now: u64, before: u64| now.saturating_sub(before) as f64 / ticks;
        Costs {
            seconds: (self.at - earlier.at).max(Duration::from_nanos(1)).as_secs_f64(),
            client_cpu_s: (self.client_cpu_s - earlier.client_cpu_s).max(0.0),
            idle_share: share(self.machine.idle, earlier.machine.idle),
            stolen_share: share(self.machine.stolen, earlier.machine.stolen),
            servers: self.servers.as_ref().zip(earlier.servers.as_ref()).map(|(now, before)| now.since(before)),
        }
    }
}

impl Servers {
    async fn read(cluster: &ClusterFile) -> Result<Servers> {
        let mut sum = Servers::default();
        for node in cluster.nodes.iter().filter(|node| node.pid != 0) {
            let file = |name: &str| read(&format!("/proc/{}/{name}", node.pid));
            let odd = |name: &str| format!("/proc/{}/{name} of node {} is not as expected", node.pid, node.id);
            sum.nodes += 1;
            sum.cpu_s += proc::cpu_seconds(&file("stat")?).with_context(|| odd("stat"))?;
            sum.dirtied_bytes += proc::dirtied_bytes(&file("io")?).with_context(|| odd("io"))?;
            sum.memory.push(proc::memory(&file("status")?).with_context(|| odd("status"))?);
            let http = node.http.parse().with_context(|| format!("{} is no address", node.http))?;
            let text = probe::http_text(http, "/metrics").await;
            sum.log.add(&text.with_context(|| format!("node {} does not answer /metrics on {}", node.id, node.http))?);
        }
        sum.device_bytes = cluster.nodes.first().and_then(|node| device_bytes(&node.data_dir));
        Ok(sum)
    }

    fn since(&self, earlier: &Servers) -> ServerCosts {
        let (now, before) = (&self.log, &earlier.log);
        let mib = |kib: u64| kib.div_ceil(1_024);
        ServerCosts {
            nodes: self.nodes,
            cpu_s: (self.cpu_s - earlier.cpu_s).max(0.0),
            device_bytes: self.device_bytes.zip(earlier.device_bytes).map(|(now, before)| now.saturating_sub(before)),
            dirtied_bytes: self.dirtied_bytes.saturating_sub(earlier.dirtied_bytes),
            jobs: now.jobs.saturating_sub(before.jobs),
            frame_bytes: now.frame_bytes.saturating_sub(before.frame_bytes),
            syncs: (now.syncs + now.meta_syncs).saturating_sub(before.syncs + before.meta_syncs),
            resident_mib: self.memory.iter().map(|it| [mib(it.resident_kib), mib(it.anonymous_kib)]).collect(),
        }
    }
}

impl LogCounts {
    /// Adds what a node's `/metrics` says, over all of its groups.
    fn add(&mut self, text: &str) {
        self.jobs += counter(text, "ledgermq_log_jobs_total");
        self.frame_bytes += counter(text, "ledgermq_log_frame_bytes_total");
        self.syncs += counter(text, "ledgermq_log_syncs_total");
        self.meta_syncs += counter(text, "ledgermq_log_meta_syncs_total");
    }
}

/// Sum over the labels of a counter in the text format of Prometheus; 0 if it is not there.
fn counter(text: &str, name: &str) -> u64 {
    let value = |line: &str| {
        let rest = line.strip_prefix(name)?;
        let (label, value) = rest.rsplit_once(' ')?;
        (label.is_empty() || label.starts_with('{')).then(|| value.parse::<u64>().ok())?
    };
    text.lines().filter_map(value).sum()
}

/// Bytes written so far to the disk that holds `folder`; `None` on a file system without a device of its own.
fn device_bytes(folder: &Path) -> Option<u64> {
    let device = std::fs::metadata(folder).ok()?.dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    proc::device_bytes(&std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")).ok()?)
}

fn read(path: &str) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Would break: syncs per message of nodes with several groups.
    #[test]
    fn a_counter_is_summed_over_its_labels_and_no_other_name() {
        let text = "# HELP a_total things\n# TYPE a_total counter\na_total{broker_name=\"broker-a\"} 5\n\
                    a_total{broker_name=\"broker-b\"} 7\na_total_more{x=\"y\"} 100\nb_total 3\n";
        assert_eq!(counter(text, "a_total"), 12);
        assert_eq!(counter(text, "b_total"), 3);
        assert_eq!(counter(text, "c_total"), 0);
    }

    /// Would break: every figure per message and per second.
    #[test]
    fn costs_are_differences_between_two_readings() {
        let at = Instant::now();
        let servers = |n: u64| Servers {
            nodes: 3,
            cpu_s: n as f64,
            dirtied_bytes: n * 1_000,
            device_bytes: Some(n * 700),
            log: LogCounts { jobs: n * 2, frame_bytes: n * 500, syncs: n * 3, meta_syncs: n },
            memory: vec![Memory { resident_kib: 2_049, anonymous_kib: 1_024 }],
        };
        let reading = |n: u64| Reading {
            at: at + Duration::from_secs(n),
            client_cpu_s: n as f64 / 2.0,
            machine: MachineTicks { total: n * 200, idle: n * 50, stolen: n * 2 },
            servers: Some(servers(n)),
        };
        let costs = reading(6).since(&reading(2));
        assert_eq!((costs.seconds, costs.client_cpu_s), (4.0, 2.0));
        assert_eq!((costs.idle_share, costs.stolen_share), (0.25, 0.01));
        let servers = costs.servers.unwrap();
        assert_eq!((servers.cpu_s, servers.dirtied_bytes, servers.jobs, servers.syncs), (4.0, 4_000, 8, 16));
        assert_eq!(servers.device_bytes, Some(2_800));
        assert_eq!((servers.frame_bytes, servers.resident_mib), (2_000, vec![[3, 1]]));
    }
}

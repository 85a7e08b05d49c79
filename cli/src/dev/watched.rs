//! A running local cluster as those see it who break it: who leads, who takes part, who is back. For drills and benches.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::cluster_file::{ClusterFile, NodeEntry};
use crate::probe::{self, LeaderProbe};

/// How often the cluster is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// Longest wait for anything: beyond it the cluster has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// See the module's head.
pub(crate) struct Watched {
    dir: PathBuf,
    probe: LeaderProbe,
}

impl Watched {
    /// The cluster in `dir`, with these name servers (joined by `;`).
    pub(crate) fn new(dir: PathBuf, namesrv: &str) -> Result<Watched> {
        Ok(Watched { dir, probe: LeaderProbe::new(namesrv)? })
    }

    /// All nodes as the supervisor knows them now.
    pub(crate) fn nodes(&self) -> Result<Vec<NodeEntry>> {
        Ok(ClusterFile::read(&self.dir)?.nodes)
    }

    /// The node that leads each of these broker names, as the name server knows it; once all are led.
    pub(crate) async fn leaders(&self, broker_names: &[&str]) -> Result<BTreeMap<String, NodeEntry>> {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Ok(addresses) = self.probe.leaders().await {
                let cluster = ClusterFile::read(&self.dir)?;
                let node = |name: &&str| {
                    let node = cluster.node_at(name, addresses.get(*name)?).filter(|node| node.pid != 0)?;
                    Some(((*name).to_owned(), node.clone()))
                };
                let leaders: Option<BTreeMap<_, _>> = broker_names.iter().map(node).collect();
                if let Some(leaders) = leaders {
                    return Ok(leaders);
                }
            }
            wait(until, "a leader of every broker name").await?;
        }
    }

    /// Every node says that it takes part under a leader that serves, but for one that is dead.
    pub(crate) async fn until_ready(&self, dead: Option<u64>) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        for node in self.nodes()?.into_iter().filter(|node| Some(node.id) != dead) {
            let address = node.http.parse().with_context(|| format!("{} is no address", node.http))?;
            while !probe::http_ok(address, "/readyz").await {
                wait(until, &format!("node {} to take part", node.id)).await?;
            }
        }
        Ok(())
    }

    /// Starts a node again that was killed; returns its process.
    pub(crate) async fn restart(&self, node: u64) -> Result<u32> {
        let until = Instant::now() + PATIENCE;
        while self.nodes()?.iter().any(|entry| entry.id == node && entry.pid != 0) {
            wait(until, "the supervisor to notice the kill").await?;
        }
        super::restart_node(&self.dir, node).await
    }
}

/// The broker names that a node leads.
pub(crate) fn led_by(leaders: &BTreeMap<String, NodeEntry>, node: u64) -> Vec<String> {
    leaders.iter().filter(|(_, leader)| leader.id == node).map(|(name, _)| name.clone()).collect()
}

/// Sends a signal to a node's process. `before` is called last before it, to note the time.
pub(crate) fn signal<T>(node: &NodeEntry, signal: Signal, before: impl FnOnce() -> T) -> Result<T> {
    let pid = i32::try_from(node.pid).ok().and_then(Pid::from_raw);
    let pid = pid.with_context(|| format!("the cluster file tells no process of node {}", node.id))?;
    let noted = before();
    kill_process(pid, signal).with_context(|| format!("cannot signal process {} of node {}", node.pid, node.id))?;
    Ok(noted)
}

/// Waits until the next look, at most until `until`.
pub(crate) async fn wait(until: Instant, what: &str) -> Result<()> {
    if Instant::now() > until {
        bail!("waited {} s for {what}, in vain", PATIENCE.as_secs());
    }
    tokio::time::sleep(LOOK_INTERVAL).await;
    Ok(())
}

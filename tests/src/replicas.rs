//! Whether the replicas of each group are one: the same state at the same applied position while they run, the same log bytes
//! once they are stopped (by `ledgermq inspect compare`, and by a script of plain `cmp`).

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::cluster::{Cluster, GROUP, PATIENCE, POLL};
use crate::program;
use crate::wire::Connection;

/// LEDGER_STATE_DIGEST: applied position and digest of the logical state.
const STATE_DIGEST: i32 = 91_002;

/// Waits until all nodes have applied the same index of each group, and demands the same digest there.
pub fn await_same_state(cluster: &Cluster) -> Result<()> {
    cluster.brokers()?.iter().try_for_each(|group| await_same_state_of(cluster, group).context(group.clone()))
}

fn await_same_state_of(cluster: &Cluster, group: &str) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut states = Vec::new();
        for node in cluster.nodes()? {
            states.push(state(&node.groups[group]).with_context(|| format!("node {}", node.id)));
        }
        let known: Vec<(u64, String)> = states.iter().filter_map(|s| s.as_ref().ok().cloned()).collect();
        if known.len() == states.len() && known.windows(2).all(|w| w[0].0 == w[1].0) {
            let (applied, first) = &known[0];
            ensure!(known.iter().all(|(_, digest)| digest == first), "digests differ at index {applied}: {known:?}");
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "the nodes do not reach one applied index: {states:?}");
        std::thread::sleep(POLL);
    }
}

/// Applied index and digest of the node at `address`.
fn state(address: &str) -> Result<(u64, String)> {
    let answer = Connection::open(address)?.call(STATE_DIGEST, &[], &[])?.success("state digest")?;
    let text: serde_json::Value = serde_json::from_slice(&answer.body).context("the digest is no JSON")?;
    let field = |name: &str| text.get(name).with_context(|| format!("no {name} in {text}"));
    let applied = field("applied")?.as_u64().with_context(|| format!("applied is no index in {text}"))?;
    Ok((applied, field("digest")?.to_string()))
}

/// Stops the cluster and demands equal log bytes of all replicas up to the smallest commit position, in each group.
pub fn stop_and_compare(cluster: &mut Cluster) -> Result<()> {
    let (folders, groups) = (folders(cluster)?, cluster.brokers()?);
    cluster.stop()?;
    for group in groups {
        let logs: Vec<PathBuf> = folders.iter().map(|folder| folder.join(&group)).collect();
        let inspect = compare_by_inspect(&logs)?;
        ensure!(inspect.status.success(), "{group}: inspect compare: {}", program::words(&inspect));
        let script = compare_by_script(&logs)?;
        ensure!(script.status.success(), "{group}: compare-logs.sh: {}", program::words(&script));
    }
    Ok(())
}

/// Everything that must hold after a test that kills nodes: all nodes up, one state, and one log.
pub fn judge(cluster: &mut Cluster) -> Result<()> {
    await_same_state(cluster)?;
    stop_and_compare(cluster)
}

/// Data folders of all nodes.
pub fn folders(cluster: &Cluster) -> Result<Vec<PathBuf>> {
    Ok(cluster.nodes()?.into_iter().map(|n| n.data_dir).collect())
}

/// `ledgermq inspect compare` over the first group's logs in these data folders.
pub fn inspect_compare(folders: &[PathBuf]) -> Result<Output> {
    compare_by_inspect(&logs(folders))
}

fn compare_by_inspect(logs: &[PathBuf]) -> Result<Output> {
    program::output(Command::new(program::ledgermq()?).args(["inspect", "compare"]).args(logs))
}

/// `scripts/compare-logs.sh` over the same.
pub fn compare_logs(folders: &[PathBuf]) -> Result<Output> {
    compare_by_script(&logs(folders))
}

fn compare_by_script(logs: &[PathBuf]) -> Result<Output> {
    let script = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/compare-logs.sh"));
    let mut command = Command::new("bash");
    program::output(command.arg(script).args(logs).env("LEDGERMQ_BIN", program::ledgermq()?))
}

/// Folder of the first group's replica in each data folder.
pub fn logs(folders: &[PathBuf]) -> Vec<PathBuf> {
    folders.iter().map(|folder| folder.join(GROUP)).collect()
}

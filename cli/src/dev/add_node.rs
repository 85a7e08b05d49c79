//! `ledgermq dev add-node`: one more node in a running local cluster, born as production does it: asked in by the groups' leaders.
//!
//! The supervisor gives the number, and starts the node once its folder is there. The groups take it in by `ledgermq admin raft`.

use std::path::Path;

use anyhow::{Context, Result, bail};
use ledgermq_broker::config::BrokerConfig;
use ledgermq_client::{Client, ClientConfig};

use super::certificates;
use super::cluster_file::ClusterFile;
use super::control::{self, Reply, Request};
use super::plan::{Plan, config_path, data_dir};
use crate::admin::join::{invitation, write_config};

/// Adds a node with a replica of each group, or of those named. Returns its number and the number of its replica in each group.
pub(crate) async fn add(dir: &Path, groups: &[String]) -> Result<(u64, u32, Vec<(String, u64)>)> {
    let dir = &std::fs::canonicalize(dir).with_context(|| format!("cannot use {}", dir.display()))?;
    let file = ClusterFile::read(dir)?;
    let id = match control::ask(dir, &Request::PlanNode).await? {
        Reply::Planned { id } => id,
        Reply::Refused(reason) => bail!("no node was added: {reason}"),
        Reply::Started { .. } => bail!("the cluster's supervisor speaks another version"),
    };
    let plan = Plan::read(dir)?.context("the cluster has no plan")?;
    let namesrvs: Vec<String> = file.namesrv.split(';').map(str::to_owned).collect();
    let admin = Client::new(ClientConfig::new(namesrvs))?.admin();
    let mut config: BrokerConfig = plan.broker_config(dir, 1);
    config.node_id = id;
    config.data_dir = data_dir(dir, id);
    (config.raft_listen, config.http_listen) = (plan.raft(id), plan.http(id));
    let first = BrokerConfig::load(&config_path(dir, 1))?;
    config.peer_tls = first.peer_tls.is_some().then(|| certificates::issue(dir, &plan, id)).transpose()?;
    config.groups.clear();
    std::fs::create_dir_all(&config.data_dir).with_context(|| format!("cannot create the folder of node {id}"))?;
    let mut joined = Vec::new();
    for (n, group) in plan.groups.iter().enumerate() {
        if !groups.is_empty() && !groups.contains(&group.name) {
            continue;
        }
        let invited = invitation(&admin, &group.name).await?;
        let raft_id = invited.accept(&mut config, plan.client(id, n), None, plan.raft(id).to_string())?;
        joined.push((group.name.clone(), raft_id));
    }
    write_config(&config_path(dir, id), &config)?;
    let pid = super::restart_node(dir, id).await?;
    Ok((id, pid, joined))
}

/// Stops a node for good. Its folder stays.
pub(crate) async fn remove(dir: &Path, id: u64) -> Result<()> {
    match control::ask(dir, &Request::RemoveNode { id }).await? {
        Reply::Planned { .. } => Ok(()),
        Reply::Refused(reason) => bail!("node {id} was not removed: {reason}"),
        Reply::Started { .. } => bail!("the cluster's supervisor speaks another version"),
    }
}

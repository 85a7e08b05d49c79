//! The birth of a local cluster: folders, configs and, on each member, the synced identity of each group's replica.
//!
//! A step of its own, never repeated for a folder that has a plan: a broker whose identity is gone must refuse to start,
//! since it may have forgotten a vote or an acknowledged message.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use ledgermq_broker::config::BrokerConfig;
use ledgermq_dledger::log::GroupConstants;
use ledgermq_dledger::log::meta::FORMAT;

use super::certificates;
use super::plan::{Plan, config_path, data_dir, node_dir};
use crate::admin::create::create_replica;

/// Most MiB of a segment: what production has. The default of a local cluster is smaller: its nodes share a disk.
const SEGMENT_MIB_MAX: u64 = 1024;

/// What may be different from cluster to cluster.
pub(crate) struct Wishes {
    /// MiB of a log segment.
    pub(crate) segment_mib: u64,
    /// Whether the nodes meet each other over TLS.
    pub(crate) tls: bool,
    /// Keys of broker.toml, as `key=value`.
    pub(crate) settings: Vec<String>,
}

impl Wishes {
    /// A drawn config with the wished settings in it.
    fn apply(&self, config: &BrokerConfig) -> Result<BrokerConfig> {
        let mut table = toml::Table::try_from(config).context("cannot encode the config")?;
        for setting in &self.settings {
            let (key, value) = setting.split_once('=').with_context(|| format!("--set {setting}: write KEY=VALUE"))?;
            let value = format!("value = {value}");
            let mut value: toml::Table = value.parse().with_context(|| format!("--set {setting}: VALUE is no TOML"))?;
            table.insert(key.trim().to_owned(), value.remove("value").expect("just written"));
        }
        table.try_into().context("a key that was given with --set")
    }
}

/// Makes the cluster in `dir`. The plan is written last: what a birth that was cut short left behind is never used.
pub(crate) fn create(dir: &Path, plan: &Plan, wishes: &Wishes) -> Result<()> {
    let in_range = (1..=SEGMENT_MIB_MAX).contains(&wishes.segment_mib);
    ensure!(in_range, "--segment-mib is {}: 1 to {SEGMENT_MIB_MAX} are allowed", wishes.segment_mib);
    for node in plan.node_ids() {
        refuse_foreign_data(&data_dir(dir, node))?;
    }
    if wishes.tls {
        certificates::create_authority(dir)?;
    }
    for node in plan.node_ids() {
        let mut config = plan.broker_config(dir, node);
        if wishes.tls {
            config.peer_tls = Some(certificates::issue(dir, plan, node)?);
        }
        let config = wishes.apply(&config)?;
        config.validate().context("the drawn config is not valid")?;
        let folder = node_dir(dir, node);
        std::fs::create_dir_all(data_dir(dir, node)).with_context(|| format!("cannot create {}", folder.display()))?;
        let path = config_path(dir, node);
        let text = toml::to_string(&config).context("cannot encode the config")?;
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        let constants = GroupConstants { segment_size: wishes.segment_mib << 20, format: FORMAT };
        for group in &config.groups {
            create_replica(&config, group, constants)
                .with_context(|| format!("cannot create the replicas of node {node}"))?;
        }
    }
    plan.write(dir)
}

/// A data folder without a plan beside it belongs to somebody else, or to a birth that was cut short: only a person can
/// tell which.
fn refuse_foreign_data(data: &Path) -> Result<()> {
    let entries = match std::fs::read_dir(data) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", data.display())),
    };
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot read {}", data.display()))?;
        // The root of a freshly made file system is not empty.
        if entry.file_name() != "lost+found" {
            bail!(
                "{} already holds data, but no dev.json tells of which cluster: name another folder with --dir, or remove it",
                data.display()
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Would break: data of another cluster being taken over, or a fresh file system being refused.
    #[test]
    fn a_data_folder_with_something_in_it_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        refuse_foreign_data(&dir.path().join("absent")).unwrap();
        std::fs::create_dir(dir.path().join("lost+found")).unwrap();
        refuse_foreign_data(dir.path()).unwrap();
        std::fs::create_dir(dir.path().join("broker-a")).unwrap();
        assert!(refuse_foreign_data(dir.path()).unwrap_err().to_string().contains("--dir"));
    }
}

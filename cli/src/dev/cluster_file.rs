//! `DIR/cluster.json`: where a local cluster can be reached, for drills, tests and people.
//!
//! Written by the supervisor once every group has a leader that serves, and again whenever a node was started anew (its
//! pid changes). Always replaced as a whole, so that a reader never sees half of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// Name of the file inside the cluster's folder.
pub(crate) const FILE_NAME: &str = "cluster.json";

/// The whole file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ClusterFile {
    /// Addresses of the name servers, joined by `;`.
    pub(crate) namesrv: String,
    /// Their processes, in the same order; 0 for one that does not run.
    pub(crate) namesrv_pids: Vec<u32>,
    /// The nodes, in the order of their ids.
    pub(crate) nodes: Vec<NodeEntry>,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeEntry {
    /// Number of the node, 1 and up.
    pub(crate) id: u64,
    /// Its process; 0 while it does not run.
    pub(crate) pid: u32,
    /// Its data folder.
    pub(crate) data_dir: PathBuf,
    /// Its Raft address.
    pub(crate) raft: String,
    /// Its address for `/healthz` and `/readyz`.
    pub(crate) http: String,
    /// Its clients' address in each group, by broker name.
    pub(crate) groups: BTreeMap<String, String>,
}

impl ClusterFile {
    /// Reads the file of the cluster in `dir`.
    pub(crate) fn read(dir: &Path) -> Result<ClusterFile> {
        let path = dir.join(FILE_NAME);
        let text = std::fs::read_to_string(&path).with_context(|| {
            format!(
                "cannot read {}: is a cluster running there (`ledgermq dev --dir {}`)?",
                path.display(),
                dir.display()
            )
        })?;
        serde_json::from_str(&text).with_context(|| format!("{} is not a cluster file", path.display()))
    }

    /// Replaces the file of the cluster in `dir`.
    pub(crate) fn write(&self, dir: &Path) -> Result<()> {
        let path = dir.join(FILE_NAME);
        let staged = dir.join(format!("{FILE_NAME}.next"));
        let mut text = serde_json::to_string_pretty(self).context("cannot encode the cluster file")?;
        text.push('\n');
        std::fs::write(&staged, text).with_context(|| format!("cannot write {}", staged.display()))?;
        std::fs::rename(&staged, &path).with_context(|| format!("cannot replace {}", path.display()))
    }

    /// Removes the file: the cluster no longer runs.
    pub(crate) fn remove(dir: &Path) {
        let _ = std::fs::remove_file(dir.join(FILE_NAME));
    }

    /// The node whose address in the group `broker_name` is `address`.
    pub(crate) fn node_at(&self, broker_name: &str, address: &str) -> Option<&NodeEntry> {
        self.nodes.iter().find(|node| node.groups.get(broker_name).is_some_and(|own| own == address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Would break: every script and test that reads the file by these names.
    #[test]
    fn the_file_has_the_promised_shape() {
        let file = ClusterFile {
            namesrv: "127.0.0.1:9876;127.0.0.1:9877".into(),
            namesrv_pids: vec![41, 0],
            nodes: vec![NodeEntry {
                id: 1,
                pid: 42,
                data_dir: "/data/node-1".into(),
                raft: "127.0.0.1:9886".into(),
                http: "127.0.0.1:9887".into(),
                groups: [("broker-a".to_owned(), "127.0.0.1:9888".to_owned())].into(),
            }],
        };
        let dir = tempfile::tempdir().unwrap();
        file.write(dir.path()).unwrap();
        let json: serde_json::Value =
            serde_json::from_slice(&std::fs::read(dir.path().join("cluster.json")).unwrap()).unwrap();
        assert_eq!(
            json,
            serde_json::json!({"namesrv": "127.0.0.1:9876;127.0.0.1:9877", "namesrv_pids": [41, 0], "nodes": [{"id": 1, "pid": 42, "data_dir": "/data/node-1",
                "raft": "127.0.0.1:9886", "http": "127.0.0.1:9887", "groups": {"broker-a": "127.0.0.1:9888"}}]})
        );
        let read = ClusterFile::read(dir.path()).unwrap();
        assert_eq!(read, file);
        assert_eq!(read.node_at("broker-a", "127.0.0.1:9888").map(|node| node.id), Some(1));
        assert_eq!(read.node_at("broker-b", "127.0.0.1:9888"), None);
    }
}

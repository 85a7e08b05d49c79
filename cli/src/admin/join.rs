//! `ledgermq admin group join`: the birth of a replica that joins a group which is there already.
//!
//! Run on the new node, before its broker. It asks the group's leader for what a member must know, writes the replica's folder with
//! a fresh identity, an empty log and the next free number, and puts the group into the node's config. The replica takes no part
//! until `ledgermq admin raft add-learner` (or `replace`) has it taken in.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use clap::Args;
use ledgermq_broker::config::{BrokerConfig, GroupConfig, MemberConfig};
use ledgermq_client::Admin;
use ledgermq_dledger::fs::{Fs, OsFs};
use ledgermq_dledger::log::{GroupConstants, Identity, Member};
use ledgermq_dledger::{GroupId, replica};
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::members::leader;
use crate::terminal::say;

/// A new replica.
#[derive(Debug, Args)]
pub(super) struct JoinArgs {
    /// Broker name of the group
    #[arg(long)]
    group: String,
    /// Config file (TOML) of this node; the group is added to it, and it is made when it is not there
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
    /// Address that clients of the group connect to on this node
    #[arg(long)]
    listen: SocketAddr,
    /// host:port that clients are told; the address above if absent
    #[arg(long)]
    advertise: Option<String>,
    /// host:port at which the other nodes reach this node's raft_listen; raft_listen itself if absent
    #[arg(long)]
    raft_advertise: Option<String>,
    #[command(flatten)]
    new: NewNode,
}

/// What a new config must say of its node.
#[derive(Debug, Args)]
pub(super) struct NewNode {
    /// Number of the node, for a new config
    #[arg(long)]
    pub(super) node_id: Option<u64>,
    /// Data folder, for a new config
    #[arg(long)]
    pub(super) data_dir: Option<PathBuf>,
    /// Address for the other nodes' Raft traffic, for a new config
    #[arg(long)]
    pub(super) raft_listen: Option<SocketAddr>,
    /// Address of the health page, for a new config
    #[arg(long)]
    pub(super) http_listen: Option<SocketAddr>,
}

/// What a new replica must know of a group, as its leader tells it.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Invitation {
    group: Uuid,
    pub(crate) broker_name: String,
    highest_raft_id: u64,
    members: Vec<Told>,
    birth: Birth,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Birth {
    cluster: String,
    cluster_id: Uuid,
    segment_size: u64,
    log_format: u32,
    members: Vec<Told>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Told {
    raft_id: u64,
    replica: Uuid,
    peer: String,
    client: String,
}

/// Asks the leader of a group.
pub(crate) async fn invitation(admin: &Admin, group: &str) -> Result<Invitation> {
    let (address, status) = leader(admin, group).await?;
    ensure!(!status["birth"].is_null(), "the leader at {address} has not begun to serve yet: try again");
    serde_json::from_value(status).with_context(|| format!("the leader at {address} runs another release"))
}

impl Invitation {
    /// Identity and name of the cluster.
    pub(crate) fn cluster(&self) -> (Uuid, &str) {
        (self.birth.cluster_id, &self.birth.cluster)
    }

    /// Creates the replica in the config's data folder and puts the group into the config. Returns the new replica's number.
    pub(crate) fn accept(
        &self,
        config: &mut BrokerConfig,
        listen: SocketAddr,
        advertise: Option<String>,
        peer: String,
    ) -> Result<u64> {
        let name = &self.broker_name;
        ensure!(config.cluster_id == self.birth.cluster_id, "the config belongs to another cluster than {name}");
        ensure!(config.groups.iter().all(|group| group.name != *name), "the config has the group {name} already");
        let raft_id = self.highest_raft_id + 1;
        let replica = Uuid::new_v4();
        let own = MemberConfig {
            raft_id,
            replica,
            raft: peer,
            broker: advertise.clone().unwrap_or_else(|| listen.to_string()),
        };
        let of_config = |it: &Told| MemberConfig {
            raft_id: it.raft_id,
            replica: it.replica,
            raft: it.peer.clone(),
            broker: it.client.clone(),
        };
        let group = GroupConfig {
            name: name.clone(),
            id: self.group,
            raft_id,
            listen,
            advertise,
            preferred_leader: None,
            flush: None,
            members: self.members.iter().map(of_config).chain([own]).collect(),
        };
        config.groups.push(group);
        config.validate().context("with the new group the config would not be valid")?;
        let fs: Arc<dyn Fs> = Arc::new(OsFs);
        let identity = Identity { cluster_id: config.cluster_id, group: GroupId(self.group), replica, raft_id };
        let constants = GroupConstants { segment_size: self.birth.segment_size, format: self.birth.log_format };
        let born = |it: &Told| Member { raft_id: it.raft_id, replica: it.replica };
        let birth_members = self.birth.members.iter().map(born).collect();
        replica::join(&fs, &config.data_dir.join(name), identity, constants, birth_members)?;
        Ok(raft_id)
    }
}

/// Writes a config so that a crash leaves the old one or the new one.
pub(crate) fn write_config(path: &Path, config: &BrokerConfig) -> Result<()> {
    let text = toml::to_string(config).context("cannot encode the config")?;
    let staged = path.with_extension("toml.next");
    let write = || -> std::io::Result<()> {
        let mut file = std::fs::File::create(&staged)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&staged, path)?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        std::fs::File::open(folder)?.sync_all()
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

/// Runs the subcommand.
pub(super) async fn join(admin: &Admin, namesrv: &[String], args: JoinArgs, as_json: bool) -> Result<()> {
    let invitation = invitation(admin, &args.group).await?;
    let mut config = load_or_make(&args.config, &args.new, invitation.cluster(), namesrv)?;
    let peer = args.raft_advertise.clone().unwrap_or_else(|| config.raft_listen.to_string());
    let raft_id = invitation.accept(&mut config, args.listen, args.advertise.clone(), peer)?;
    write_config(&args.config, &config)?;
    if as_json {
        say(json!({ "group": args.group, "raftId": raft_id, "config": args.config }));
    } else {
        let own = Value::from(args.advertise.unwrap_or_else(|| args.listen.to_string()));
        say(format_args!(
            "replica {raft_id} of {} is created: start the node with `ledgermq broker -c {}`, then give it to the group with \
             `ledgermq admin raft add-learner {} --group {}` and `promote {raft_id}`, or with `replace`",
            args.group,
            args.config.display(),
            own.as_str().unwrap_or_default(),
            args.group
        ));
    }
    Ok(())
}

/// The node's config, or a new one with the defaults of everything that is not said.
pub(super) fn load_or_make(
    path: &Path,
    args: &NewNode,
    (cluster_id, cluster): (Uuid, &str),
    namesrv: &[String],
) -> Result<BrokerConfig> {
    if path.try_exists().context("cannot look for the config")? {
        return Ok(BrokerConfig::load(path)?);
    }
    let missing = |flag: &str| format!("{} does not exist: say {flag} to make it", path.display());
    let said = json!({
        "cluster": cluster,
        "cluster_id": cluster_id,
        "node_id": args.node_id.with_context(|| missing("--node-id"))?,
        "data_dir": args.data_dir.clone().with_context(|| missing("--data-dir"))?,
        "raft_listen": args.raft_listen.with_context(|| missing("--raft-listen"))?,
        "http_listen": args.http_listen.with_context(|| missing("--http-listen"))?,
        "namesrv": namesrv,
        "groups": [],
    });
    serde_json::from_value(said).context("the new config cannot be made")
}

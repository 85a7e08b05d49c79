//! `ledgermq admin group draw` and `create`: the birth of a whole group, in a running cluster or as the first of a new one.
//!
//! ```text
//! draw: ids of group and replicas, constants, members --> FILE --copied to each chosen node--> create: folder with a synced
//!                                                                                               identity, group in the config
//! ```
//! The ids are drawn once, in one place, and no broker ever makes any: a node whose identity is gone must not come back as a member
//! that has forgotten its vote. For the same reason a file is used up when the group has begun to serve: `create` asks the name
//! servers first, and whoever comes later joins ([`super::join`]).

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use ledgermq_broker::config::{BrokerConfig, GroupConfig, MemberConfig};
use ledgermq_client::Admin;
use ledgermq_dledger::fs::{Fs, OsFs};
use ledgermq_dledger::log::meta::FORMAT;
use ledgermq_dledger::log::{GroupConstants, Identity, Member};
use ledgermq_dledger::{GroupId, replica};
use serde::{Deserialize, Serialize};
use serde_json::json;
use uuid::Uuid;

use super::join::{NewNode, invitation, load_or_make, write_config};
use crate::terminal::say;

/// Most members of a group at its birth.
const MEMBERS_MAX: usize = 7;

/// Longest birth file, bytes.
const BIRTH_LEN_MAX: u64 = 64 << 10;

/// A group that is to be.
#[derive(Debug, Args)]
pub(super) struct DrawArgs {
    /// Broker name of the group
    #[arg(long)]
    group: String,
    /// A member: host:port at which the other nodes reach its node's raft_listen, and host:port that clients are told; once for each,
    /// in the order of their Raft ids
    #[arg(long = "member", value_name = "RAFT,CLIENT", required = true)]
    members: Vec<String>,
    /// Raft id of the member that leads when it can
    #[arg(long, value_name = "RAFT ID")]
    preferred: Option<u64>,
    /// MiB of a log segment, the same on all replicas for ever
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u64).range(1..=1024))]
    segment_mib: u64,
    /// Name of a new cluster, whose first group this is; without it the name servers are asked which cluster runs
    #[arg(long, value_name = "NAME")]
    new_cluster: Option<String>,
    /// File for what was drawn; it is not there yet
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// One of its replicas.
#[derive(Debug, Args)]
pub(super) struct CreateArgs {
    /// File that `ledgermq admin group draw` has made
    #[arg(long, value_name = "FILE")]
    birth: PathBuf,
    /// Raft id of the replica that this node gets
    #[arg(long, value_name = "RAFT ID")]
    raft_id: u64,
    /// Config file (TOML) of this node; the group is added to it, and it is made when it is not there
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
    /// Address to listen on for clients of the group, where it is not the one that they are told
    #[arg(long)]
    listen: Option<SocketAddr>,
    #[command(flatten)]
    new: NewNode,
}

/// What all replicas of a group are born with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Birth {
    cluster: String,
    cluster_id: Uuid,
    group: String,
    id: Uuid,
    preferred_leader: Option<u64>,
    segment_size: u64,
    log_format: u32,
    members: Vec<MemberConfig>,
}

impl Birth {
    fn draw(args: &DrawArgs, cluster: String, cluster_id: Uuid) -> Result<Birth> {
        ensure!(
            args.members.len() <= MEMBERS_MAX,
            "{} members: a group is born with at most {MEMBERS_MAX}",
            args.members.len()
        );
        let member = |(raft_id, text): (u64, &String)| {
            let (raft, broker) = text.split_once(',').with_context(|| format!("--member {text}: write RAFT,CLIENT"))?;
            Ok(MemberConfig { raft_id, replica: Uuid::new_v4(), raft: raft.to_owned(), broker: broker.to_owned() })
        };
        let members: Vec<MemberConfig> = (1..).zip(&args.members).map(member).collect::<Result<_>>()?;
        if let Some(id) = args.preferred {
            ensure!(
                members.iter().any(|it| it.raft_id == id),
                "--preferred {id}: the members are 1 to {}",
                members.len()
            );
        }
        Ok(Birth {
            cluster,
            cluster_id,
            group: args.group.clone(),
            id: Uuid::new_v4(),
            preferred_leader: args.preferred,
            segment_size: args.segment_mib << 20,
            log_format: FORMAT,
            members,
        })
    }

    fn read(path: &Path) -> Result<Birth> {
        let len = std::fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?.len();
        ensure!(len <= BIRTH_LEN_MAX, "{} has {len} bytes: it is no file of `admin group draw`", path.display());
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_str(&text)
            .with_context(|| format!("{} is no file of `ledgermq admin group draw`", path.display()))
    }

    /// Creates a replica in the config's data folder and puts the group into the config.
    fn create(&self, config: &mut BrokerConfig, raft_id: u64, listen: Option<SocketAddr>) -> Result<()> {
        let name = &self.group;
        ensure!(config.cluster_id == self.cluster_id, "the config belongs to another cluster than {name}");
        ensure!(config.groups.iter().all(|group| group.name != *name), "the config has the group {name} already");
        let own = self.members.iter().find(|it| it.raft_id == raft_id);
        let own =
            own.with_context(|| format!("{name} has no member {raft_id}: they are 1 to {}", self.members.len()))?;
        let listen = match listen {
            Some(listen) => listen,
            None => own
                .broker
                .parse()
                .with_context(|| format!("{} is no IP address and port to listen on: say --listen", own.broker))?,
        };
        let told = own.broker.clone();
        let advertise = (told != listen.to_string()).then_some(told);
        config.groups.push(GroupConfig {
            name: name.clone(),
            id: self.id,
            raft_id,
            listen,
            advertise,
            preferred_leader: self.preferred_leader,
            flush: None,
            members: self.members.clone(),
        });
        config.validate().context("with the new group the config would not be valid")?;
        let constants = GroupConstants { segment_size: self.segment_size, format: self.log_format };
        create_replica(config, config.groups.last().expect("just pushed"), constants)
    }
}

/// The create step on one node, for one group of its config: a folder with a synced identity.
pub(crate) fn create_replica(config: &BrokerConfig, group: &GroupConfig, constants: GroupConstants) -> Result<()> {
    let fs: Arc<dyn Fs> = Arc::new(OsFs);
    let own = group.member(group.raft_id).context("the config leaves this node out")?;
    let identity = Identity {
        cluster_id: config.cluster_id,
        group: GroupId(group.id),
        replica: own.replica,
        raft_id: group.raft_id,
    };
    let members = group.members.iter().map(|it| Member { raft_id: it.raft_id, replica: it.replica }).collect();
    replica::create(&fs, &config.data_dir.join(&group.name), identity, constants, members)?;
    Ok(())
}

/// Draws a group.
pub(super) async fn draw(admin: &Admin, args: &DrawArgs, as_json: bool) -> Result<()> {
    let (cluster, cluster_id) = match &args.new_cluster {
        Some(name) => (name.clone(), Uuid::new_v4()),
        None => running_cluster(admin, &args.group).await?,
    };
    let birth = Birth::draw(args, cluster, cluster_id)?;
    let mut file = std::fs::File::create_new(&args.out)
        .with_context(|| format!("cannot make {}: a file that is there is not written over", args.out.display()))?;
    serde_json::to_writer_pretty(&mut file, &birth).context("cannot write what was drawn")?;
    file.sync_all().context("cannot write what was drawn")?;
    if as_json {
        say(json!({ "group": birth.group, "id": birth.id, "clusterId": birth.cluster_id, "file": args.out }));
    } else {
        say(format_args!(
            "{} is drawn: copy {1} to each of its nodes, run `ledgermq admin group create --birth {1} --raft-id N -c broker.toml` there, \
             N from 1 to {2}, and when all have it start their brokers again, one after the other",
            birth.group,
            args.out.display(),
            birth.members.len()
        ));
    }
    Ok(())
}

/// Creates this node's replica of it.
pub(super) async fn create(admin: &Admin, namesrv: &[String], args: &CreateArgs, as_json: bool) -> Result<()> {
    let birth = Birth::read(&args.birth)?;
    // A new cluster has no name server that answers yet.
    if let Ok(info) = admin.cluster().await {
        ensure!(
            !info.broker_addr_table.contains_key(&birth.group),
            "{} serves already, so a replica of it that has forgotten everything may not come back: use `ledgermq admin group join`",
            birth.group
        );
    }
    let mut config = load_or_make(&args.config, &args.new, (birth.cluster_id, &birth.cluster), namesrv)?;
    birth.create(&mut config, args.raft_id, args.listen)?;
    write_config(&args.config, &config)?;
    if as_json {
        say(json!({ "group": birth.group, "raftId": args.raft_id, "config": args.config }));
    } else {
        say(format_args!(
            "replica {} of {} is created: start the node (again) with `ledgermq broker -c {}`, once all members have theirs",
            args.raft_id,
            birth.group,
            args.config.display()
        ));
    }
    Ok(())
}

/// Name and identity of the cluster that the name servers know, which has no group of this name.
async fn running_cluster(admin: &Admin, group: &str) -> Result<(String, Uuid)> {
    let info = admin.cluster().await.context("for the first group of a new cluster say --new-cluster")?;
    ensure!(!info.broker_addr_table.contains_key(group), "there is a group {group} already");
    let Some(other) = info.broker_addr_table.keys().next() else {
        bail!("the name servers know no group: for the first of a new cluster say --new-cluster");
    };
    let invited = invitation(admin, other).await?;
    let (cluster_id, cluster) = invited.cluster();
    Ok((cluster.to_owned(), cluster_id))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(members: &[&str], preferred: Option<u64>) -> DrawArgs {
        DrawArgs {
            group: "broker-d".into(),
            members: members.iter().map(|it| (*it).to_owned()).collect(),
            preferred,
            segment_mib: 1,
            new_cluster: None,
            out: PathBuf::new(),
        }
    }

    fn config(dir: &Path, birth: &Birth) -> BrokerConfig {
        let new = NewNode {
            node_id: Some(1),
            data_dir: Some(dir.to_owned()),
            raft_listen: Some("127.0.0.1:7001".parse().unwrap()),
            http_listen: Some("127.0.0.1:7002".parse().unwrap()),
        };
        let namesrv = ["127.0.0.1:9876".to_owned()];
        load_or_make(&dir.join("broker.toml"), &new, (birth.cluster_id, &birth.cluster), &namesrv).unwrap()
    }

    /// Would break: replicas of one group that know different members, a second birth over the first, and a replica of nobody.
    #[test]
    fn a_drawn_group_is_created_once_on_each_member() {
        let dir = tempfile::tempdir().unwrap();
        let three = ["127.0.0.1:7001,127.0.0.1:7003", "host-2:7001,host-2:7003", "host-3:7001,host-3:7003"];
        let birth = Birth::draw(&args(&three, Some(2)), "c".into(), Uuid::new_v4()).unwrap();
        let path = dir.path().join("birth.json");
        std::fs::write(&path, serde_json::to_vec(&birth).unwrap()).unwrap();
        assert_eq!(Birth::read(&path).unwrap(), birth);

        let mut own = config(dir.path(), &birth);
        birth.create(&mut own, 1, None).unwrap();
        assert_eq!(own.groups[0].members, birth.members);
        assert!(dir.path().join("broker-d/meta").is_file());
        let again = birth.create(&mut own, 1, None).unwrap_err();
        assert!(again.to_string().contains("already"), "{again}");
        own.groups.clear();
        birth.create(&mut own, 1, None).expect_err("its folder is there");

        own.groups.clear();
        let refused = |id, listen: Option<&str>| {
            let mut other = own.clone();
            other.data_dir = dir.path().join("other");
            let listen = listen.map(|it| it.parse().unwrap());
            birth.create(&mut other, id, listen).map(|()| other).map_err(|error| format!("{error:#}"))
        };
        assert!(refused(4, None).unwrap_err().contains("no member 4"));
        assert!(refused(2, None).unwrap_err().contains("--listen"), "a name is no address");
        let other = refused(2, Some("127.0.0.1:7003")).unwrap();
        assert_eq!(other.groups[0].advertise.as_deref(), Some("host-2:7003"));
        let mut stranger = own.clone();
        stranger.cluster_id = Uuid::new_v4();
        assert!(birth.create(&mut stranger, 1, None).unwrap_err().to_string().contains("another cluster"));
    }

    #[test]
    fn what_cannot_be_a_group_is_not_drawn() {
        for (members, preferred, words) in [
            (&["127.0.0.1:1"][..], None, "RAFT,CLIENT"),
            (&["a:1,b:2"][..], Some(2), "--preferred"),
            (&["a:1,b:2"; MEMBERS_MAX + 1][..], None, "at most"),
        ] {
            let error = Birth::draw(&args(members, preferred), "c".into(), Uuid::new_v4()).unwrap_err();
            assert!(error.to_string().contains(words), "{error}");
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        std::fs::write(&path, "{}").unwrap();
        assert!(Birth::read(&path).unwrap_err().to_string().contains("group draw"));
    }
}

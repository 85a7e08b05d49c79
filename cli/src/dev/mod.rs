//! `ledgermq dev`: a local cluster of child processes, one terminal, a clean Ctrl-C.
//!
//! ```text
//! dev ── plan ── birth (once per folder) ── supervisor ─┬─ namesrv
//!                                             ▲         ├─ broker 1 … n
//!   dev restart-node, drill ── control socket ┘         └─ cluster.json, once every group has a leader that serves
//! ```
//! The children are processes of their own, so that a real SIGKILL is possible. A node that died stays dead until
//! somebody asks for it: a supervisor that heals by itself would hide what a drill wants to see.

mod add_node;
mod birth;
mod certificates;
pub(crate) mod cluster_file;
pub(crate) mod control;
pub(crate) mod parent;
mod plan;
mod supervisor;
pub(crate) mod watched;

use std::fs::File;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};

use crate::terminal::say;
use plan::{Hosts, Plan};

/// A local cluster.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct DevArgs {
    #[command(subcommand)]
    command: Option<DevCommand>,
    /// Number of nodes, 1 to 9; 1 is for development only: nothing is replicated
    #[arg(long, default_value_t = 3)]
    nodes: u64,
    /// Number of groups, 1 to 8; every node holds a replica of each, and each is led by another node
    #[arg(long, default_value_t = 3)]
    groups: u64,
    /// Number of name servers, 1 to 8
    #[arg(long, default_value_t = 1)]
    namesrvs: u64,
    /// Folder of the cluster: configs, logs and data; a cluster that is there already is started again
    #[arg(long, default_value = "ledgermq-dev")]
    dir: PathBuf,
    /// MiB of a log segment, 1 to 1024; of a new cluster only: all replicas of a group have the same
    #[arg(long, default_value_t = 64)]
    segment_mib: u64,
    /// A key of broker.toml for all nodes of a new cluster, as KEY=VALUE (retention_bytes=100000000); may be given several times
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
    /// Let the nodes meet each other over TLS, with a CA of this cluster's own; of a new cluster only
    #[arg(long)]
    tls: bool,
    /// First port; the first name server takes it, everything else is among the 99 that follow
    #[arg(long, default_value_t = 9876)]
    base_port: u16,
    /// IP address of each node of a new cluster, with {node} for its number; whoever reaches it may do anything [default: 127.0.0.1]
    #[arg(long, value_name = "ADDRESS")]
    host: Option<String>,
    /// IP address of the name servers of a new cluster [default: 127.0.0.1]
    #[arg(long, value_name = "ADDRESS")]
    namesrv_host: Option<IpAddr>,
    /// Command that each node of a new cluster is run under, with {node} for its number; it ends by executing what follows it, as
    /// `ip netns exec NAME`, `taskset` and `env` do
    #[arg(long, value_name = "COMMAND")]
    under: Option<String>,
    /// Planted bug that every broker runs with
    #[cfg(feature = "planted-bugs")]
    #[arg(long, value_name = "BUG", value_parser = crate::broker::parse_bug)]
    plant: Option<ledgermq_dledger::plant::Bug>,
}

#[derive(Debug, Subcommand)]
enum DevCommand {
    /// Start a node of a running cluster again, after it was killed
    RestartNode {
        /// Number of the node
        id: u64,
        /// Folder of the cluster
        #[arg(long, default_value = "ledgermq-dev")]
        dir: PathBuf,
    },
    /// Add a node to a running cluster; its groups take it in by `ledgermq admin raft add-learner` or `replace`
    AddNode {
        /// Broker names of the groups that it gets a replica of; all if absent
        #[arg(long, value_delimiter = ',')]
        groups: Vec<String>,
        /// Folder of the cluster
        #[arg(long, default_value = "ledgermq-dev")]
        dir: PathBuf,
    },
    /// Stop a node of a running cluster for good; first remove its replicas from their groups
    RemoveNode {
        /// Number of the node
        id: u64,
        /// Folder of the cluster
        #[arg(long, default_value = "ledgermq-dev")]
        dir: PathBuf,
    },
    /// Write new certificates for all nodes of a cluster with --tls; those that run take them up by themselves
    RenewTls {
        /// Folder of the cluster
        #[arg(long, default_value = "ledgermq-dev")]
        dir: PathBuf,
    },
    /// Start a name server of a running cluster again, after it was killed
    RestartNamesrv {
        /// Number of the name server
        n: u64,
        /// Folder of the cluster
        #[arg(long, default_value = "ledgermq-dev")]
        dir: PathBuf,
    },
}

/// Runs the subcommand.
pub(crate) fn run(args: DevArgs) -> Result<()> {
    // One thread, the main one: children die with the thread that started them (parent.rs).
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the async runtime")?;
    match args.command {
        Some(DevCommand::RestartNode { id, dir }) => runtime.block_on(restart_node(&dir, id)).map(|pid| {
            say(format_args!("node {id} runs as process {pid}"));
        }),
        Some(DevCommand::AddNode { groups, dir }) => {
            runtime.block_on(add_node::add(&dir, &groups)).map(|(id, pid, joined)| {
                let replicas: Vec<String> =
                    joined.iter().map(|(group, raft_id)| format!("{raft_id} in {group}")).collect();
                say(format_args!("node {id} runs as process {pid}, with replica {}", replicas.join(", ")));
            })
        }
        Some(DevCommand::RemoveNode { id, dir }) => {
            runtime.block_on(add_node::remove(&dir, id)).map(|()| say(format_args!("node {id} is stopped for good")))
        }
        Some(DevCommand::RenewTls { dir }) => {
            certificates::renew(&dir).map(|nodes| say(format_args!("{nodes} nodes have new certificates")))
        }
        Some(DevCommand::RestartNamesrv { n, dir }) => runtime.block_on(restart_namesrv(&dir, n)).map(|pid| {
            say(format_args!("name server {n} runs as process {pid}"));
        }),
        None => runtime.block_on(run_cluster(args)),
    }
}

/// Asks the supervisor of the cluster in `dir` to start a node, and returns its pid.
pub(crate) async fn restart_node(dir: &Path, id: u64) -> Result<u32> {
    match control::ask(dir, &control::Request::RestartNode { id }).await? {
        control::Reply::Started { pid } => Ok(pid),
        control::Reply::Refused(reason) => bail!("node {id} was not started: {reason}"),
        control::Reply::Planned { .. } => bail!("the cluster's supervisor speaks another version"),
    }
}

/// The same for a name server.
pub(crate) async fn restart_namesrv(dir: &Path, n: u64) -> Result<u32> {
    match control::ask(dir, &control::Request::RestartNamesrv { n }).await? {
        control::Reply::Started { pid } => Ok(pid),
        control::Reply::Refused(reason) => bail!("name server {n} was not started: {reason}"),
        control::Reply::Planned { .. } => bail!("the cluster's supervisor speaks another version"),
    }
}

async fn run_cluster(args: DevArgs) -> Result<()> {
    std::fs::create_dir_all(&args.dir).with_context(|| format!("cannot create {}", args.dir.display()))?;
    let dir = std::fs::canonicalize(&args.dir).with_context(|| format!("cannot use {}", args.dir.display()))?;
    let _lock = lock(&dir)?;
    cluster_file::ClusterFile::remove(&dir);
    let (plan, young) = match Plan::read(&dir)? {
        Some(plan) => (plan, false),
        None => {
            let mut plan = Plan::draw(args.namesrvs, args.nodes, args.groups, args.base_port)?;
            let under = args.under.iter().flat_map(|command| command.split_whitespace()).map(str::to_owned).collect();
            plan.hosts = Hosts { node: args.host, namesrv: args.namesrv_host, under };
            plan.hosts.validate()?;
            (plan, true)
        }
    };
    let born = (plan.namesrvs, plan.nodes, plan.groups.len() as u64, plan.base_port);
    if born != (args.namesrvs, args.nodes, args.groups, args.base_port) {
        bail!(
            "the cluster in {} has --namesrvs {} --nodes {} --groups {} --base-port {}: say the same, or name another folder \
             with --dir",
            dir.display(),
            born.0,
            born.1,
            born.2,
            born.3
        );
    }
    plan.check_ports()?;
    if young {
        birth::create(
            &dir,
            &plan,
            &birth::Wishes { segment_mib: args.segment_mib, tls: args.tls, settings: args.settings },
        )?;
    }
    #[cfg(feature = "planted-bugs")]
    let plant = args.plant.map(ledgermq_dledger::plant::Bug::name);
    #[cfg(not(feature = "planted-bugs"))]
    let plant = None;
    supervisor::Supervisor::start(dir, plan, plant)?.run().await
}

/// One supervisor per folder; the lock goes when the process ends, however it ends.
fn lock(dir: &Path) -> Result<File> {
    let path = dir.join("dev.lock");
    let file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    if rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err() {
        bail!("another `ledgermq dev` runs in {}: stop it, or name another folder with --dir", dir.display());
    }
    Ok(file)
}

//! `ledgermq admin`: look at a running cluster. Tables for people, `--json` for programs.

mod cluster;
mod raft;
mod topic;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use ledgermq_client::{Admin, Client, ClientConfig};

/// A running cluster.
#[derive(Debug, Args)]
pub(crate) struct AdminArgs {
    /// Name servers, host:port
    #[arg(long, global = true, value_delimiter = ',', default_value = "127.0.0.1:9876")]
    namesrv: Vec<String>,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: AdminCommand,
}

#[derive(Debug, Subcommand)]
enum AdminCommand {
    /// The brokers, and who leads
    Cluster,
    /// Topics
    Topic {
        #[command(subcommand)]
        command: topic::TopicCommand,
    },
    /// The replicas of each group
    Raft {
        #[command(subcommand)]
        command: RaftCommand,
    },
}

#[derive(Debug, Subcommand)]
enum RaftCommand {
    /// Term, role and positions of every replica
    Status,
}

/// Runs the subcommand.
pub(crate) fn run(args: AdminArgs) -> Result<()> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the async runtime")?;
    runtime.block_on(async {
        let client = Client::new(ClientConfig::new(args.namesrv))?;
        let admin: Admin = client.admin();
        match args.command {
            AdminCommand::Cluster => cluster::show(&admin, args.json).await,
            AdminCommand::Topic { command } => topic::run(&admin, command, args.json).await,
            AdminCommand::Raft { command: RaftCommand::Status } => raft::status(&admin, args.json).await,
        }
    })
}

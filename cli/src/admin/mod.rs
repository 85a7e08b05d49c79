//! `ledgermq admin`: look at a running cluster, and change it. Tables for people, `--json` for programs.

mod cluster;
pub(crate) mod create;
pub(crate) mod join;
pub(crate) mod members;
mod raft;
mod recover;
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
    /// Replicas of groups on this node
    Group {
        #[command(subcommand)]
        command: GroupCommand,
    },
    /// The replicas of each group: look at them, add, replace and remove them, choose the leader
    Raft {
        #[command(subcommand)]
        command: RaftCommand,
    },
}

#[derive(Debug, Subcommand)]
enum GroupCommand {
    /// Draw a new group, with members on the nodes that are named: a file for all of them
    Draw(create::DrawArgs),
    /// Create this node's replica of a group that was drawn, and put the group into this node's config
    Create(create::CreateArgs),
    /// Create this node's replica of a group that runs elsewhere, and put the group into this node's config
    Join(join::JoinArgs),
}

#[derive(Debug, Subcommand)]
enum RaftCommand {
    /// Term, role and positions of every replica; latencies, batch sizes and elections since its start
    Status,
    /// Hand the leadership of a group over
    Transfer(members::TransferArgs),
    /// Take a new replica into its group, without a vote: it gets the log
    AddLearner(members::LearnerArgs),
    /// Give learners their vote, once they have nearly the whole log
    Promote(members::PromoteArgs),
    /// Remove members for ever; their numbers are never used again
    Remove(members::RemoveArgs),
    /// Put a new member in the place of another: learner, log, then vote and removal in one step
    Replace(members::ReplaceArgs),
    /// Tell the group new addresses of a member
    Move(members::MoveArgs),
    /// Last resort when a majority is lost for ever: make this stopped node's replica the only member of its group
    UnsafeRecover(recover::RecoverArgs),
}

/// Runs the subcommand.
pub(crate) fn run(args: AdminArgs) -> Result<()> {
    let args = match args.command {
        // Of a stopped node: there is no cluster to talk to.
        AdminCommand::Raft { command: RaftCommand::UnsafeRecover(recover) } => return recover::run(&recover),
        command => AdminArgs { command, ..args },
    };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the async runtime")?;
    runtime.block_on(async {
        let client = Client::new(ClientConfig::new(args.namesrv.clone()))?;
        let admin: Admin = client.admin();
        match args.command {
            AdminCommand::Cluster => cluster::show(&admin, args.json).await,
            AdminCommand::Topic { command } => topic::run(&admin, command, args.json).await,
            AdminCommand::Group { command } => match command {
                GroupCommand::Draw(of) => create::draw(&admin, &of, args.json).await,
                GroupCommand::Create(of) => create::create(&admin, &args.namesrv, &of, args.json).await,
                GroupCommand::Join(of) => join::join(&admin, &args.namesrv, of, args.json).await,
            },
            AdminCommand::Raft { command } => match command {
                RaftCommand::Status => raft::status(&admin, args.json).await,
                RaftCommand::Transfer(of) => members::transfer(&admin, of, args.json).await,
                RaftCommand::AddLearner(of) => members::add_learner(&admin, of, args.json).await,
                RaftCommand::Promote(of) => members::promote(&admin, of, args.json).await,
                RaftCommand::Remove(of) => members::remove(&admin, of, args.json).await,
                RaftCommand::Replace(of) => members::replace(&admin, of, args.json).await,
                RaftCommand::Move(of) => members::move_member(&admin, of, args.json).await,
                RaftCommand::UnsafeRecover(_) => unreachable!("it has run"),
            },
        }
    })
}

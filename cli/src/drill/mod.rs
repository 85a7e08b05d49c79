//! `ledgermq drill`: break a cluster on purpose, and judge by what its clients saw.
//!
//! ```text
//! failover ─┬─ workload (ordered sends) ──► history.jsonl ──┐
//!           ├─ readers (tailing, then all) ► consumed.jsonl ┼─► verifier ─► report
//!           └─ faults (kill -9, restart) ──► history.jsonl ─┘
//! ```

mod body;
mod failover;
mod faults;
pub(crate) mod history;
mod load;
mod progress;
mod readers;
mod report;
pub(crate) mod silence;
mod verifier;
mod workload;

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};

/// Drills.
#[derive(Debug, Args)]
pub(crate) struct DrillArgs {
    #[command(subcommand)]
    command: DrillCommand,
}

#[derive(Debug, Subcommand)]
enum DrillCommand {
    /// Send ordered messages, kill leaders, read everything back, verify
    Failover(failover::FailoverArgs),
}

/// Runs the subcommand. The exit status is 0 only if every promise held.
pub(crate) fn run(args: DrillArgs) -> Result<ExitCode> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the async runtime")?;
    match args.command {
        DrillCommand::Failover(args) => runtime.block_on(failover::run(args)),
    }
}

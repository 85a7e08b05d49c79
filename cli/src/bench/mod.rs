//! `ledgermq bench`: how fast a cluster is, what it costs, and the limits of the machine in the same hour.
//!
//! ```text
//! target (cluster.json or name servers, topic) ─► limits (loopback, fdatasync), before any load
//!    └─► load: senders, readers ── windows ──► latencies, counts ─┐
//!        costs: /proc and /metrics at the window's borders ───────┴─► report: a table, or JSON
//! ```
//! Nothing that is printed comes from a broker's own opinion of its speed: latencies and counts are what the clients saw,
//! costs are what the kernel charged.

mod consume;
mod costs;
mod delay;
mod end_to_end;
mod failover;
mod figures;
mod limits;
mod load;
mod payload;
mod proc;
mod produce;
mod report;
mod schedule;
mod senders;
mod silences;
mod tally;
mod target;

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};

/// Measurements.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    command: BenchCommand,
}

#[derive(Debug, Subcommand)]
enum BenchCommand {
    /// Send messages as fast as they are acknowledged, or at a rate, and measure
    Produce(produce::ProduceArgs),
    /// Read a backlog with a new consumer group, and measure
    Consume(consume::ConsumeArgs),
    /// Send at a rate, read at the same time, and measure from the send call to the reader
    EndToEnd(end_to_end::EndToEndArgs),
    /// Send messages that wait for their time, and measure how late each comes
    Delay(delay::DelayArgs),
    /// Kill leaders under load, and measure how long each queue was silent
    Failover(failover::FailoverArgs),
}

/// Runs the subcommand. The exit status is 0 if everything was sent and read as it should be.
pub(crate) fn run(args: BenchArgs) -> Result<ExitCode> {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if let BenchCommand::Produce(args) = &args.command
        && let Some(threads) = args.threads()
    {
        runtime.worker_threads(threads);
    }
    let runtime = runtime.enable_all().build().context("cannot start the async runtime")?;
    match args.command {
        BenchCommand::Produce(args) => runtime.block_on(produce::run(args)),
        BenchCommand::Consume(args) => runtime.block_on(consume::run(args)),
        BenchCommand::EndToEnd(args) => runtime.block_on(end_to_end::run(args)),
        BenchCommand::Delay(args) => runtime.block_on(delay::run(args)),
        BenchCommand::Failover(args) => runtime.block_on(failover::run(args)),
    }
}

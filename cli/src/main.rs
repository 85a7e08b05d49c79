//! `ledgermq`: the one executable. Parses flags, sets up logging, runs a subcommand.

#![forbid(unsafe_code)]

mod admin;
mod bench;
mod broker;
mod consume;
mod dev;
mod drill;
mod inspect;
mod namesrv;
mod probe;
mod produce;
mod terminal;
mod version;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

/// A replicated message broker that speaks the protocol of RocketMQ
#[derive(Debug, Parser)]
#[command(name = "ledgermq", version = version::text(), arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a name server
    Namesrv(namesrv::NamesrvArgs),
    /// Run a broker node
    Broker(broker::BrokerArgs),
    /// Run a local cluster of child processes
    Dev(dev::DevArgs),
    /// Break a local cluster on purpose, and verify what its clients were promised
    Drill(drill::DrillArgs),
    /// Send messages
    Produce(produce::ProduceArgs),
    /// Read messages
    Consume(consume::ConsumeArgs),
    /// Measure a running cluster: throughput, latency, cost, silences
    Bench(bench::BenchArgs),
    /// Look at a running cluster
    Admin(admin::AdminArgs),
    /// Look at the logs of stopped replicas
    Inspect(inspect::InspectArgs),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    // Servers say what happens in their lives; tools only what a human must see.
    let level = match cli.command {
        Command::Namesrv(_) | Command::Broker(_) => "info",
        _ => "warn",
    };
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level)))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .init();
    let result = match cli.command {
        Command::Namesrv(args) => namesrv::run(args).map(|()| ExitCode::SUCCESS),
        Command::Broker(args) => broker::run(args).map(|()| ExitCode::SUCCESS),
        Command::Dev(args) => dev::run(args).map(|()| ExitCode::SUCCESS),
        Command::Drill(args) => drill::run(args),
        Command::Produce(args) => produce::run(args).map(|()| ExitCode::SUCCESS),
        Command::Consume(args) => consume::run(args).map(|()| ExitCode::SUCCESS),
        Command::Bench(args) => bench::run(args),
        Command::Admin(args) => admin::run(args).map(|()| ExitCode::SUCCESS),
        Command::Inspect(args) => inspect::run(args),
    };
    result.unwrap_or_else(|error| {
        terminal::note(format_args!("error: {error:#}"));
        ExitCode::FAILURE
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    /// Would break: any use of the program at all.
    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    /// Would break: telling a build with planted bugs from one without, at one look.
    #[test]
    fn the_version_names_planted_bugs_exactly_when_they_are_there() {
        assert_eq!(version::text().contains("planted-bugs"), ledgermq_dledger::plant::AVAILABLE);
        assert_eq!(version::text().contains("early-ack"), ledgermq_dledger::plant::AVAILABLE);
    }
}

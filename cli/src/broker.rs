//! `ledgermq broker -c broker.toml`: one node, until a signal ends it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use ledgermq_broker::config::BrokerConfig;
use ledgermq_broker::node::BrokerNode;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::dev::parent::ParentArgs;

/// A broker node.
#[derive(Debug, Args)]
pub(crate) struct BrokerArgs {
    /// Config file (TOML)
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
    /// Allow addresses that other machines can reach, though there is no authentication yet
    #[arg(long)]
    insecure: bool,
    /// Planted bug to run with
    #[cfg(feature = "planted-bugs")]
    #[arg(long, value_name = "BUG", value_parser = parse_bug)]
    plant: Option<ledgermq_dledger::plant::Bug>,
    #[command(flatten)]
    parent: ParentArgs,
}

/// Runs the subcommand.
pub(crate) fn run(args: BrokerArgs) -> Result<()> {
    args.parent.tie()?;
    #[cfg(feature = "planted-bugs")]
    if let Some(bug) = args.plant {
        ledgermq_dledger::plant::choose(Some(bug));
        tracing::warn!(bug = bug.name(), "runs with a planted bug");
    }
    let config = load(&args.config, args.insecure)?;
    tracing::info!(?config, "effective config");
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the async runtime")?;
    runtime.block_on(async {
        let node = BrokerNode::start(config).await?;
        let mut signals = Signals::watch()?;
        if signals.next().await == Ending::Drain {
            tokio::select! {
                () = node.drain() => {}
                _ = signals.next() => tracing::info!("a second signal: not waiting for clients any longer"),
            }
        }
        node.stop().await?;
        Ok(())
    })
}

/// Flags count before the file is judged: `--insecure` may be what makes it valid.
fn load(path: &Path, insecure: bool) -> Result<BrokerConfig> {
    if !insecure {
        return Ok(BrokerConfig::load(path)?);
    }
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read the config {}", path.display()))?;
    let mut config: BrokerConfig =
        toml::from_str(&text).with_context(|| format!("config {} is not valid", path.display()))?;
    config.insecure = true;
    config.validate()?;
    Ok(config)
}

/// How a signal asks a process to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// SIGTERM: so that no client notices.
    Drain,
    /// SIGINT: soon.
    Soon,
}

/// The signals that end a process.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// From now on these signals do not kill.
    pub(crate) fn watch() -> Result<Signals> {
        Ok(Signals {
            interrupt: signal(SignalKind::interrupt()).context("cannot watch for SIGINT")?,
            terminate: signal(SignalKind::terminate()).context("cannot watch for SIGTERM")?,
        })
    }

    /// The next one.
    pub(crate) async fn next(&mut self) -> Ending {
        let ending = tokio::select! {
            _ = self.interrupt.recv() => Ending::Soon,
            _ = self.terminate.recv() => Ending::Drain,
        };
        tracing::info!(?ending, "told to stop");
        ending
    }
}

/// Returns at the first SIGINT or SIGTERM.
pub(crate) async fn wait_for_signal() -> Result<()> {
    Signals::watch()?.next().await;
    Ok(())
}

/// The planted bug with a command-line name.
#[cfg(feature = "planted-bugs")]
pub(crate) fn parse_bug(name: &str) -> Result<ledgermq_dledger::plant::Bug, String> {
    use ledgermq_dledger::plant::Bug;
    Bug::from_name(name).ok_or_else(|| {
        let names: Vec<&str> = Bug::ALL.into_iter().map(Bug::name).collect();
        format!("no such planted bug; there are {}", names.join(", "))
    })
}

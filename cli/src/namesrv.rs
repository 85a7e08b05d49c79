//! `ledgermq namesrv`: one name server, until a signal ends it.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use ledgermq_namesrv::{Namesrv, NamesrvConfig};

use crate::dev::parent::ParentArgs;

/// A name server.
#[derive(Debug, Args)]
pub(crate) struct NamesrvArgs {
    /// Config file (TOML); without one the defaults hold
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address to listen on, over the config's `listen`
    #[arg(long)]
    listen: Option<SocketAddr>,
    /// Allow an address that other machines can reach, though there is no authentication yet
    #[arg(long)]
    insecure: bool,
    #[command(flatten)]
    parent: ParentArgs,
}

/// Runs the subcommand.
pub(crate) fn run(args: NamesrvArgs) -> Result<()> {
    args.parent.tie()?;
    let mut config = match &args.config {
        Some(path) => {
            // Flags count before the file is judged: `--insecure` may be what makes it valid.
            let text =
                std::fs::read_to_string(path).with_context(|| format!("cannot read the config {}", path.display()))?;
            toml::from_str(&text).with_context(|| format!("config {} is not valid", path.display()))?
        }
        None => NamesrvConfig::default(),
    };
    if let Some(listen) = args.listen {
        config.listen = listen;
    }
    config.insecure |= args.insecure;
    tracing::info!(?config, "effective config");
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the async runtime")?;
    runtime.block_on(async {
        let namesrv = Namesrv::start(config).await?;
        crate::broker::wait_for_signal().await?;
        namesrv.shutdown().await;
        Ok(())
    })
}

//! Children of `ledgermq dev` die when it dies, even by SIGKILL: the kernel sends them one, for they ask for it at start.
//!
//! The wish is bound to the *thread* that started the child, so `dev` starts them all on its main thread.

use anyhow::{Context, Result, bail};
use clap::Args;
use rustix::process::{Signal, getppid, set_parent_process_death_signal};

/// The hidden flag by which a child learns whose it is.
#[derive(Debug, Args)]
pub(crate) struct ParentArgs {
    /// Process that this one must not outlive
    #[arg(long, hide = true, value_name = "PID")]
    parent: Option<i32>,
}

impl ParentArgs {
    /// Ties this process to its parent, if it was told of one.
    pub(crate) fn tie(&self) -> Result<()> {
        let Some(parent) = self.parent else { return Ok(()) };
        set_parent_process_death_signal(Some(Signal::KILL)).context("cannot ask to die with the parent process")?;
        // The parent may have died before the wish was made.
        match getppid() {
            Some(now) if now.as_raw_nonzero().get() == parent => Ok(()),
            _ => bail!("process {parent}, which started this one, is gone"),
        }
    }
}

//! `ledgermq admin raft unsafe-recover`: a group that has lost its majority for ever goes on with one survivor.

use std::io::BufRead;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use ledgermq_broker::config::BrokerConfig;
use ledgermq_broker::node::salvage;
use uuid::Uuid;

use crate::terminal;

/// The survivor.
#[derive(Debug, Args)]
pub(crate) struct RecoverArgs {
    /// Config of the stopped node: its group gets a new id in it, and a copy of the old file is kept beside it
    #[arg(short, long)]
    config: PathBuf,
    /// Broker name of the group
    #[arg(long)]
    group: String,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

/// Shows what the survivor has, asks, and makes it the whole group.
pub(crate) fn run(args: &RecoverArgs) -> Result<()> {
    let config = BrokerConfig::load(&args.config)?;
    let group = config.groups.iter().find(|group| group.name == args.group);
    let group = group.with_context(|| format!("{} has no group {}", args.config.display(), args.group))?;
    let text = std::fs::read_to_string(&args.config)?;
    let old_id = group.id.to_string();
    ensure!(text.contains(&old_id), "{} does not spell the group's id as {old_id}", args.config.display());

    let found = salvage::survivor(&config, group)?;
    let doubts = if found.doubts.is_none() { "none".to_owned() } else { found.doubts.to_string() };
    terminal::say(format_args!(
        "group {} ({old_id}), replica {} in {}\n  \
         term {}, last entry {} of term {}, known to be committed up to {}, doubts: {doubts}\n\n\
         Of all survivors the one with the greatest (term of the last entry, last entry) has most: run this on each of them\n\
         without confirming, and go on with that one only. What may be lost: everything that was acknowledged and is not in its\n\
         log, that is what only the lost members had. What may come up: entries behind {} that were never acknowledged.\n\
         All entries of this log count as committed afterwards; every other member is removed; the group gets a new id, so that\n\
         a member that comes back is no part of it. Members are added anew later.\n",
        group.name,
        found.raft_id,
        found.dir.display(),
        found.term,
        found.last.index,
        found.last.term,
        found.commit_index,
        found.commit_index,
    ));
    if !args.yes {
        terminal::say(format_args!("Type the group's name ({}) to go on:", group.name));
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line)?;
        if line.trim() != group.name {
            bail!("not confirmed; nothing was changed");
        }
    }
    let new_id = Uuid::new_v4();
    let done = salvage::unsafe_recover(&config, group, new_id)?;
    let mut kept = args.config.clone().into_os_string();
    kept.push(format!(".before-{new_id}"));
    std::fs::copy(&args.config, &kept).context("cannot keep a copy of the config")?;
    let write = std::fs::write(&args.config, text.replace(&old_id, &new_id.to_string()));
    write.with_context(|| format!("set the id of group {} to {new_id} in {}", group.name, args.config.display()))?;
    terminal::say(format_args!(
        "replica {} is all of group {} ({new_id}) now, from entry {} of term {} on; removed: {:?}\nstart the node with {}",
        found.raft_id,
        group.name,
        done.last.index,
        done.term,
        done.removed,
        args.config.display(),
    ));
    Ok(())
}

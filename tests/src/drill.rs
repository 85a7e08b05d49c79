//! A drill: ordered load on a cluster, faults in rounds, the longest time without an acknowledgement in each, and one verdict.
//!
//! ```text
//! partitions, pauses, clocks, durability --> Drill --> Load, checker, replicas
//!                                              |
//!                                scripts/drills.sh reads its line
//! ```

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use crate::checker::{Expect, Report, check};
use crate::cluster::{Cluster, report};
use crate::history::monotonic_ns;
use crate::load::{self, Load, Plan};
use crate::replicas;

/// Messages that must be acknowledged before and after each fault.
pub const BETWEEN_FAULTS: u64 = 400;

/// How many rounds a drill makes: `short` in the tests, times `LEDGERMQ_DRILL_ROUNDS` in `scripts/drills.sh`.
///
/// # Errors
/// When the variable is no number above 0: a drill without rounds would be green.
pub fn rounds(short: usize) -> Result<usize> {
    let Ok(text) = std::env::var("LEDGERMQ_DRILL_ROUNDS") else { return Ok(short) };
    let times: usize = text.parse().ok().filter(|times| *times > 0).with_context(|| {
        format!("LEDGERMQ_DRILL_ROUNDS is {text:?}: give how many times as many rounds a drill makes, 1 or more")
    })?;
    Ok(short * times)
}

/// Whether the long drills were asked for.
pub fn long() -> bool {
    std::env::var_os("LEDGERMQ_DRILL_ROUNDS").is_some()
}

/// A cluster under load whose faults are timed.
#[derive(Debug)]
pub struct Drill {
    name: &'static str,
    /// The cluster.
    pub cluster: Cluster,
    load: Load,
    windows: Vec<(u64, u64)>,
    folder: tempfile::TempDir,
}

impl Drill {
    /// Puts `cluster` under load. The name is the topic's too.
    ///
    /// # Errors
    /// When no message is acknowledged.
    pub fn start(name: &'static str, cluster: Cluster) -> Result<Drill> {
        let folder = tempfile::tempdir()?;
        let plan = Plan { topic: name.to_owned(), producers: 4, size: 1024 };
        let load = Load::start(cluster.namesrv(), folder.path(), &plan)?;
        let drill = Drill { name, cluster, load, windows: Vec::new(), folder };
        drill.calm()?;
        Ok(drill)
    }

    /// Waits until the load has gone on for a while.
    ///
    /// # Errors
    /// When it does not go on.
    pub fn calm(&self) -> Result<()> {
        self.load.await_acked(BETWEEN_FAULTS)
    }

    /// Messages acknowledged so far.
    pub fn acked(&self) -> u64 {
        self.load.acked()
    }

    /// One fault: what it does, and that the load goes on afterwards. The time of both is looked at for the longest gap.
    ///
    /// # Errors
    /// When the fault fails, or the load does not go on.
    pub fn fault(&mut self, fault: impl FnOnce(&Cluster) -> Result<()>) -> Result<()> {
        let from = monotonic_ns();
        fault(&self.cluster)?;
        self.calm()?;
        self.windows.push((from, monotonic_ns()));
        Ok(())
    }

    /// The verdict: nothing acknowledged is lost, all replicas are one. Prints the line that `scripts/drills.sh` collects.
    ///
    /// # Errors
    /// When anything is wrong.
    pub fn judge(self) -> Result<Report> {
        let Drill { name, mut cluster, load, windows, folder } = self;
        ensure!(!windows.is_empty(), "{name}: no fault was made, so nothing was proven");
        let files: Vec<PathBuf> = load.stop()?;
        let history = load::history(&cluster, name, &files)?;
        let result = check(&history, &Expect::default());
        let gaps = windows.iter().map(|(from, until)| history.longest_silence(*from, *until) / 1_000_000);
        let longest = gaps.max().unwrap_or(0);
        ensure!(result.clean(), "{name}: {result}");
        replicas::judge(&mut cluster)?;
        report(&format!(
            "drill: {name}, {} faults, longest gap {longest} ms, {} acknowledged of {} sends, 0 lost, replicas equal",
            windows.len(),
            result.acked,
            result.sends
        ));
        drop(folder);
        Ok(result)
    }
}

//! What a fail-over drill does to its cluster: `kill -9` of the leader half-way, a restart, the same to the next leader.
//!
//! It strikes only while messages are under way, and the second time only when the first victim takes part again: a
//! cluster of three promises nothing beyond one node at a time.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::Semaphore;

use super::history::{Clock, Event, FaultAction, RecorderHandle};
use super::progress::Progress;
use crate::dev::cluster_file::{ClusterFile, NodeEntry};
use crate::probe::{self, LeaderProbe};

/// How often the script looks at its cluster.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// Longest wait for anything: beyond it the drill has failed.
const PATIENCE: Duration = Duration::from_secs(120);

/// The script.
pub(crate) struct FaultScript {
    /// Run id.
    pub(crate) run: u64,
    /// Folder of the cluster.
    pub(crate) dir: PathBuf,
    /// Broker name whose leader is killed.
    pub(crate) broker_name: String,
    /// Who leads.
    pub(crate) probe: LeaderProbe,
    /// The drill's clock.
    pub(crate) clock: Clock,
    /// Messages that the run means to send.
    pub(crate) messages: u64,
    /// Acknowledged messages so far.
    pub(crate) acknowledged: Arc<AtomicU64>,
    /// What may be sent; see [`FaultScript::budget`].
    pub(crate) budget: Arc<Semaphore>,
    /// Says what is done.
    pub(crate) progress: Progress,
}

impl FaultScript {
    /// The part of the messages that is kept back until the second kill is about to happen, so that it strikes under load
    /// however quick the senders are.
    fn kept_back(messages: u64) -> u64 {
        messages / 5
    }

    /// A budget for the senders of a run with `messages` messages.
    pub(crate) fn budget(messages: u64) -> Arc<Semaphore> {
        Arc::new(Semaphore::new(permits(messages - FaultScript::kept_back(messages))))
    }

    /// Runs to its end.
    pub(crate) async fn run(self, history: RecorderHandle<Event>) -> Result<()> {
        self.until_acknowledged(self.messages / 2).await?;
        let first = self.kill_leader(&history).await?;
        self.until_service_is_back().await?;
        self.restart(first, &history).await?;
        self.until_ready().await?;
        self.until_acknowledged(self.messages * 3 / 4).await?;

        self.budget.add_permits(permits(FaultScript::kept_back(self.messages)));
        // Under way again, if everything before had been sent.
        self.until_acknowledged(self.messages * 4 / 5 + 1).await?;
        let second = self.kill_leader(&history).await?;
        self.until_service_is_back().await?;
        self.restart(second, &history).await?;
        self.until_ready().await
    }

    async fn kill_leader(&self, history: &RecorderHandle<Event>) -> Result<u64> {
        let node = self.leader().await?;
        let pid = i32::try_from(node.pid).ok().and_then(Pid::from_raw);
        let pid =
            pid.with_context(|| format!("node {} leads, but the cluster file tells no process of it", node.id))?;
        let at_ns = self.clock.now_ns();
        kill_process(pid, Signal::KILL)
            .with_context(|| format!("cannot kill process {} of node {}", node.pid, node.id))?;
        self.progress.say(format_args!("kill -9 {}: node {}, the leader of {}", node.pid, node.id, self.broker_name));
        history
            .record(Event::Fault { run: self.run, at_ns, action: FaultAction::Kill, node: node.id, pid: node.pid })
            .await?;
        Ok(node.id)
    }

    async fn restart(&self, node: u64, history: &RecorderHandle<Event>) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        while ClusterFile::read(&self.dir)?.nodes.iter().any(|entry| entry.id == node && entry.pid != 0) {
            self.wait(until, "the supervisor to notice the kill").await?;
        }
        let pid = crate::dev::restart_node(&self.dir, node).await?;
        self.progress.say(format_args!("node {node} restarted as process {pid}"));
        let at_ns = self.clock.now_ns();
        history.record(Event::Fault { run: self.run, at_ns, action: FaultAction::Restart, node, pid }).await
    }

    /// The node that leads, as the name server knows it.
    async fn leader(&self) -> Result<NodeEntry> {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Ok(leaders) = self.probe.leaders().await
                && let Some(address) = leaders.get(&self.broker_name)
                && let Some(node) = ClusterFile::read(&self.dir)?.node_at(&self.broker_name, address)
                && node.pid != 0
            {
                return Ok(node.clone());
            }
            self.wait(until, "a leader").await?;
        }
    }

    async fn until_acknowledged(&self, count: u64) -> Result<()> {
        let mut seen = 0;
        let mut until = Instant::now() + PATIENCE;
        loop {
            let now = self.acknowledged.load(Ordering::Relaxed);
            if now >= count {
                return Ok(());
            }
            if now > seen {
                seen = now;
                until = Instant::now() + PATIENCE;
            }
            self.wait(until, "the next acknowledgement").await?;
        }
    }

    /// Service is back when many messages are acknowledged that were not before.
    async fn until_service_is_back(&self) -> Result<()> {
        let before = self.acknowledged.load(Ordering::Relaxed);
        self.until_acknowledged((before + self.messages / 20).min(self.messages)).await
    }

    /// Every node says that it takes part.
    async fn until_ready(&self) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        for node in ClusterFile::read(&self.dir)?.nodes {
            let address = node.http.parse().with_context(|| format!("{} is no address", node.http))?;
            while !probe::http_ok(address, "/readyz").await {
                self.wait(until, &format!("node {} to take part again", node.id)).await?;
            }
        }
        Ok(())
    }

    async fn wait(&self, until: Instant, what: &str) -> Result<()> {
        if Instant::now() > until {
            bail!("waited {} s for {what}, in vain", PATIENCE.as_secs());
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
        Ok(())
    }
}

fn permits(messages: u64) -> usize {
    usize::try_from(messages).unwrap_or(Semaphore::MAX_PERMITS).min(Semaphore::MAX_PERMITS)
}

//! What a fail-over drill does to its cluster: `kill -9` of the leader half-way, a restart, the same to the next leader;
//! then, so that nothing depends on luck, the followers are stopped for a moment and all nodes killed, and the leader of
//! that moment is started last.
//!
//! In that moment an honest leader can acknowledge nothing. One that acknowledges before a quorum has the message goes on
//! merrily, and is alone with what it promised: the unread bytes die with the followers. A plain kill catches it only now
//! and then, since what it sent a millisecond before its death still arrives.
//!
//! The script strikes only while messages are under way, and again only when the last victim takes part again.

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

/// How long the followers are stopped before the last strike: several round trips of every sender, and below the time in
/// which a leader that hears nobody steps down (500 ms).
const STOP_FOR: Duration = Duration::from_millis(200);

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
    /// Share of the messages, in percent, that may be sent before the first, second and third strike. The rest is kept back,
    /// so that each strike meets load, however quick the senders are.
    const SHARES: [u64; 3] = [60, 75, 100];

    /// A budget for the senders of a run with `messages` messages.
    pub(crate) fn budget(messages: u64) -> Arc<Semaphore> {
        Arc::new(Semaphore::new(permits(messages * FaultScript::SHARES[0] / 100)))
    }

    /// Runs to its end.
    pub(crate) async fn run(self, history: RecorderHandle<Event>) -> Result<()> {
        self.until_acknowledged(self.messages / 2).await?;
        let first = self.kill_leader(&history).await?;
        self.bring_back(first, &history).await?;

        self.until_acknowledged(self.share(0)).await?;
        self.allow_more(0);
        self.until_acknowledged(self.share(0) + 1).await?;
        let second = self.kill_leader(&history).await?;
        self.bring_back(second, &history).await?;

        let third = self.kill_all(&history).await?;
        for node in ClusterFile::read(&self.dir)?.nodes {
            if node.id != third {
                self.restart(node.id, &history).await?;
            }
        }
        // Their leader, not the acknowledgements, which a dishonest leader has given already.
        self.until_ready_without(Some(third)).await?;
        self.bring_back(third, &history).await
    }

    /// Messages that may be sent before a strike, counted from 0.
    fn share(&self, strike: usize) -> u64 {
        self.messages * FaultScript::SHARES[strike] / 100
    }

    /// Lets the senders go on from the share of one strike to that of the next.
    fn allow_more(&self, from: usize) {
        self.budget.add_permits(permits(self.share(from + 1) - self.share(from)));
    }

    async fn bring_back(&self, node: u64, history: &RecorderHandle<Event>) -> Result<()> {
        self.until_service_is_back().await?;
        self.restart(node, history).await?;
        self.until_ready().await
    }

    async fn kill_leader(&self, history: &RecorderHandle<Event>) -> Result<u64> {
        let node = self.leader().await?;
        self.signal(&node, Signal::KILL, FaultAction::Kill, history).await?;
        self.progress.say(format_args!("kill -9 {}: node {}, the leader of {}", node.pid, node.id, self.broker_name));
        Ok(node.id)
    }

    /// Returns the node that led. Senders go on when the followers are stopped: whatever is acknowledged from then on was
    /// acknowledged by the leader alone.
    async fn kill_all(&self, history: &RecorderHandle<Event>) -> Result<u64> {
        let leader = self.leader().await?;
        let followers: Vec<NodeEntry> =
            ClusterFile::read(&self.dir)?.nodes.into_iter().filter(|node| node.id != leader.id).collect();
        self.until_acknowledged(self.share(1)).await?;
        let strike = async {
            for node in &followers {
                self.signal(node, Signal::STOP, FaultAction::Stop, history).await?;
            }
            self.allow_more(1);
            tokio::time::sleep(STOP_FOR).await;
            for node in followers.iter().chain([&leader]) {
                self.signal(node, Signal::KILL, FaultAction::Kill, history).await?;
            }
            Ok(())
        };
        let struck: Result<()> = strike.await;
        if struck.is_err() {
            // Whatever went wrong: nobody stays stopped. Who cannot be told is dead.
            for node in &followers {
                let _ = self.signal(node, Signal::CONT, FaultAction::Continue, history).await;
            }
        }
        struck?;
        self.progress.say(format_args!(
            "followers stopped for {} ms, then kill -9 of all nodes; node {} led, and is started last",
            STOP_FOR.as_millis(),
            leader.id
        ));
        Ok(leader.id)
    }

    /// Sends a signal to a node, and writes down when.
    async fn signal(
        &self,
        node: &NodeEntry,
        signal: Signal,
        action: FaultAction,
        history: &RecorderHandle<Event>,
    ) -> Result<()> {
        let pid = i32::try_from(node.pid).ok().and_then(Pid::from_raw);
        let pid = pid.with_context(|| format!("the cluster file tells no process of node {}", node.id))?;
        let at_ns = self.clock.now_ns();
        kill_process(pid, signal).with_context(|| format!("cannot signal process {} of node {}", node.pid, node.id))?;
        history.record(Event::Fault { run: self.run, at_ns, action, node: node.id, pid: node.pid }).await
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

    /// Every node says that it takes part under a leader that serves.
    async fn until_ready(&self) -> Result<()> {
        self.until_ready_without(None).await
    }

    /// The same of all nodes but one.
    async fn until_ready_without(&self, dead: Option<u64>) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        for node in ClusterFile::read(&self.dir)?.nodes.into_iter().filter(|node| Some(node.id) != dead) {
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

//! What a fail-over drill does to its cluster: `kill -9` of the node that leads the first broker name half-way, a restart, the
//! same to another node; then, so that nothing depends on luck, the followers are stopped for a moment and all nodes killed, and the leader of
//! that moment is started last.
//!
//! In that moment an honest leader can acknowledge nothing. One that acknowledges before a quorum has the message goes on
//! merrily, and is alone with what it promised: the unread bytes die with the followers. A plain kill catches it only now
//! and then, since what it sent a millisecond before its death still arrives.
//!
//! The script strikes only while messages are under way, and again only when the last victim takes part again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use rustix::process::Signal;

use super::history::{Clock, Event, FaultAction, RecorderHandle};
use super::load::{Load, Part};
use super::progress::Progress;
use crate::dev::cluster_file::NodeEntry;
use crate::dev::watched::{self, PATIENCE, Watched, led_by, wait};

/// How long the other nodes are stopped before the last strike: several round trips of every sender, and below the time in
/// which a leader that hears nobody steps down (500 ms).
const STOP_FOR: Duration = Duration::from_millis(200);

/// The script.
pub(crate) struct FaultScript {
    /// Run id.
    pub(crate) run: u64,
    /// The cluster.
    pub(crate) cluster: Watched,
    /// The drill's clock.
    pub(crate) clock: Clock,
    /// How far the senders have come, and what they may send.
    pub(crate) load: Arc<Load>,
    /// Says what is done.
    pub(crate) progress: Progress,
}

impl FaultScript {
    /// Share of the messages, in percent, that may be sent before the first, second and third strike. The rest is kept back,
    /// so that each strike meets load, however quick the senders are.
    pub(crate) const SHARES: [u64; 3] = [60, 75, 100];

    /// Runs to its end.
    pub(crate) async fn run(self, history: RecorderHandle<Event>) -> Result<()> {
        let load = Arc::clone(&self.load);
        let target = &load.parts[0];
        self.until_acknowledged(target, target.messages / 2).await?;
        let first = self.kill_leader(target, &history).await?;
        self.bring_back(first, &history).await?;

        self.until_share(0).await?;
        load.allow(FaultScript::SHARES[1]);
        let target = self.led_by_another_than(first).await?;
        self.until_acknowledged(target, target.share(FaultScript::SHARES[0]) + 1).await?;
        let second = self.kill_leader(target, &history).await?;
        self.bring_back(second, &history).await?;

        let third = self.kill_all(&history).await?;
        for node in self.cluster.nodes()? {
            if node.id != third {
                self.restart(node.id, &history).await?;
            }
        }
        // Their leaders, not the acknowledgements, which a dishonest leader has given already.
        self.cluster.until_ready(Some(third)).await?;
        self.bring_back(third, &history).await
    }

    /// Waits until everything that may be sent before a strike, counted from 0, is acknowledged.
    async fn until_share(&self, strike: usize) -> Result<()> {
        for part in &self.load.parts {
            self.until_acknowledged(part, part.share(FaultScript::SHARES[strike])).await?;
        }
        Ok(())
    }

    /// A broker name that is led by another node than this one, if there is any: else the first.
    async fn led_by_another_than(&self, node: u64) -> Result<&Part> {
        let leaders = self.leaders().await?;
        let led_by_another = |part: &&Part| leaders.get(&part.broker_name).is_some_and(|leader| leader.id != node);
        Ok(self.load.parts.iter().skip(1).find(led_by_another).unwrap_or(&self.load.parts[0]))
    }

    async fn bring_back(&self, node: u64, history: &RecorderHandle<Event>) -> Result<()> {
        self.until_service_is_back().await?;
        self.restart(node, history).await?;
        self.cluster.until_ready(None).await
    }

    /// Kills the node that leads a broker name.
    async fn kill_leader(&self, target: &Part, history: &RecorderHandle<Event>) -> Result<u64> {
        let leaders = self.leaders().await?;
        let node = &leaders[&target.broker_name];
        let led = led_by(&leaders, node.id);
        self.signal(node, Signal::KILL, FaultAction::Kill, &led, history).await?;
        self.progress.say(format_args!("kill -9 {}: node {}, the leader of {}", node.pid, node.id, led.join(", ")));
        Ok(node.id)
    }

    /// Returns the node that led. Senders go on when the followers are stopped: whatever is acknowledged from then on was
    /// acknowledged by the leader alone.
    async fn kill_all(&self, history: &RecorderHandle<Event>) -> Result<u64> {
        self.until_share(1).await?;
        let leaders = self.leaders().await?;
        let leader = &leaders[&self.load.parts[0].broker_name];
        let others: Vec<NodeEntry> = self.cluster.nodes()?.into_iter().filter(|node| node.id != leader.id).collect();
        let strike = async {
            for node in &others {
                self.signal(node, Signal::STOP, FaultAction::Stop, &[], history).await?;
            }
            self.load.allow(FaultScript::SHARES[2]);
            tokio::time::sleep(STOP_FOR).await;
            for node in others.iter().chain([leader]) {
                self.signal(node, Signal::KILL, FaultAction::Kill, &led_by(&leaders, node.id), history).await?;
            }
            Ok(())
        };
        let struck: Result<()> = strike.await;
        if struck.is_err() {
            // Whatever went wrong: nobody stays stopped. Who cannot be told is dead.
            for node in &others {
                let _ = self.signal(node, Signal::CONT, FaultAction::Continue, &[], history).await;
            }
        }
        struck?;
        self.progress.say(format_args!(
            "the other nodes stopped for {} ms, then kill -9 of all; node {} led {}, and is started last",
            STOP_FOR.as_millis(),
            leader.id,
            self.load.parts[0].broker_name
        ));
        Ok(leader.id)
    }

    /// Sends a signal to a node, and writes down when.
    async fn signal(
        &self,
        node: &NodeEntry,
        signal: Signal,
        action: FaultAction,
        led: &[String],
        history: &RecorderHandle<Event>,
    ) -> Result<()> {
        let at_ns = watched::signal(node, signal, || self.clock.now_ns())?;
        let led = led.to_vec();
        history.record(Event::Fault { run: self.run, at_ns, action, node: node.id, pid: node.pid, led }).await
    }

    async fn restart(&self, node: u64, history: &RecorderHandle<Event>) -> Result<()> {
        let pid = self.cluster.restart(node).await?;
        self.progress.say(format_args!("node {node} restarted as process {pid}"));
        let at_ns = self.clock.now_ns();
        let action = FaultAction::Restart;
        history.record(Event::Fault { run: self.run, at_ns, action, node, pid, led: Vec::new() }).await
    }

    /// The node that leads each broker name with messages; once all are led.
    async fn leaders(&self) -> Result<BTreeMap<String, NodeEntry>> {
        let names: Vec<&str> = self.load.parts.iter().map(|part| part.broker_name.as_str()).collect();
        self.cluster.leaders(&names).await
    }

    async fn until_acknowledged(&self, part: &Part, count: u64) -> Result<()> {
        let mut seen = 0;
        let mut until = Instant::now() + PATIENCE;
        loop {
            let now = part.acknowledged();
            if now >= count {
                return Ok(());
            }
            if now > seen {
                seen = now;
                until = Instant::now() + PATIENCE;
            }
            wait(until, &format!("the next acknowledgement of {}", part.broker_name)).await?;
        }
    }

    /// Service is back when each broker name has acknowledged many messages that it had not before, or all it may.
    async fn until_service_is_back(&self) -> Result<()> {
        let wanted: Vec<u64> = self.load.parts.iter().map(|part| part.acknowledged() + part.messages / 20).collect();
        for (part, wanted) in self.load.parts.iter().zip(wanted) {
            self.until_acknowledged(part, wanted.min(part.allowed())).await?;
        }
        Ok(())
    }
}

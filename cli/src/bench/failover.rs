//! `ledgermq bench failover`: `kill -9` of the leader of each group in turn, under load, and how long each of its queues was
//! silent.
//!
//! One sender per queue, pinned to it, with one send under way: what another queue acknowledges says nothing about this one.
//! A send that fails is counted, and the same message is sent again until it is acknowledged.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use ledgermq_client::{Message, MessageQueue, Producer, ProducerConfig};
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use tokio::task::JoinSet;

use super::payload::Bodies;
use super::silences::{Kill, KillReport, QueueHistory, median_and_worst, of_kills};
use super::target::{GROUP, Target, TargetArgs};
use crate::dev::cluster_file::{ClusterFile, NodeEntry};
use crate::drill::history::{Clock, Event, FaultAction};
use crate::probe::{self, LeaderProbe};
use crate::terminal::{grouped, note, say, table};

/// Longest wait for anything: beyond it the bench has failed.
const PATIENCE: Duration = Duration::from_secs(120);

/// How often the script looks at its cluster.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// Pause before a failed send is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(10);

/// Most kills.
const KILLS_MAX: u32 = 1_000;

/// Most messages a second: each is kept until the end.
const RATE_MAX: u64 = 20_000;

/// A bench of fail-overs.
#[derive(Debug, Args)]
pub(crate) struct FailoverArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Kills; the leader of each group in turn
    #[arg(long, default_value_t = 20)]
    kills: u32,
    /// Messages a second, over all queues
    #[arg(long, default_value_t = 1_000)]
    rate: u64,
    /// Bytes of a body
    #[arg(long, default_value_t = 1_024)]
    size: usize,
    /// Seconds of calm before each kill, all nodes ready
    #[arg(long, default_value_t = 2.0, value_name = "SECONDS")]
    calm: f64,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// The result.
#[derive(Debug, Serialize)]
struct FailoverReport {
    bench: &'static str,
    broker_names: Vec<String>,
    queues: usize,
    acknowledged: u64,
    /// Calls that certainly stored nothing, and calls of which nobody knows; each was made again.
    failed_calls: u64,
    unknown_calls: u64,
    /// Over all kills, of the slowest queue that the killed node led.
    median_ms: f64,
    worst_ms: f64,
    /// The same by broker name.
    by_broker_name: BTreeMap<String, [f64; 2]>,
    kills: Vec<KillReport>,
    error: Option<String>,
}

/// What the senders share.
struct Shared {
    topic: String,
    clock: Clock,
    run: u64,
    interval: Duration,
    bodies: Bodies,
    stop: AtomicBool,
    /// By queue.
    acknowledged: Vec<AtomicU64>,
}

/// What one sender brings back.
struct Sent {
    history: QueueHistory,
    failed: u64,
    unknown: u64,
    error: Option<String>,
}

/// Runs the bench.
pub(crate) async fn run(args: FailoverArgs) -> Result<ExitCode> {
    ensure!((1..=KILLS_MAX).contains(&args.kills), "--kills is {}: give 1 to {KILLS_MAX}", args.kills);
    ensure!((1..=RATE_MAX).contains(&args.rate), "--rate is {}: give 1 to {RATE_MAX}", args.rate);
    ensure!((1..=4 << 20).contains(&args.size), "--size is {}: give 1 to {}", args.size, 4 << 20);
    ensure!((0.0..=3_600.0).contains(&args.calm), "--calm is {}: give 0 to 3600", args.calm);
    ensure!(args.target.namesrv.is_empty(), "nodes of another cluster cannot be killed: give --dir, not --namesrv");
    let target = Target::open(&args.target).await?;
    let dir = target.dir.clone().context("a local cluster has a folder")?;
    let client = target.client()?;
    let producer = client.producer(ProducerConfig::new(GROUP))?;
    let shared = Arc::new(Shared {
        topic: target.topic.clone(),
        clock: Clock::start(),
        run: target.run,
        interval: Duration::from_secs_f64(target.queues.len() as f64 / args.rate as f64),
        bodies: Bodies::new(args.size, None),
        stop: AtomicBool::new(false),
        acknowledged: target.queues.iter().map(|_| AtomicU64::new(0)).collect(),
    });
    let mut senders = JoinSet::new();
    for (n, queue) in target.queues.iter().enumerate() {
        senders.spawn(send_all(Arc::clone(&shared), producer.clone(), n, queue.clone()));
    }
    let script = Script {
        dir: dir.clone(),
        probe: LeaderProbe::new(&target.namesrvs[0])?,
        broker_names: target.broker_names(),
        shared: Arc::clone(&shared),
        calm: Duration::from_secs_f64(args.calm),
    };
    let killed = script.run(args.kills).await;
    shared.stop.store(true, Ordering::Relaxed);
    let mut sent = Vec::new();
    while let Some(ended) = senders.join_next().await {
        sent.push(ended.context("a sender was lost")?);
    }
    let report = report(&target, &shared, &killed?, sent)?;
    say(if args.json { serde_json::to_string(&report)? } else { report.text() });
    Ok(ExitCode::SUCCESS)
}

fn report(target: &Target, shared: &Shared, kills: &[Kill], sent: Vec<Sent>) -> Result<FailoverReport> {
    let (failed_calls, unknown_calls) = (sent.iter().map(|it| it.failed).sum(), sent.iter().map(|it| it.unknown).sum());
    let error = sent.iter().find_map(|it| it.error.clone());
    let histories: Vec<QueueHistory> = sent.into_iter().map(|it| it.history).collect();
    let kills = of_kills(kills, &histories);
    let (median_ms, worst_ms) =
        median_and_worst(kills.iter().map(|kill| kill.silence_ms)).context("nothing was killed")?;
    let by_broker_name = target.broker_names().into_iter().filter_map(|name| {
        let own = kills.iter().filter(|kill| kill.led.contains(&name)).map(|kill| kill.silence_ms);
        median_and_worst(own).map(|(median, worst)| (name.clone(), [median, worst]))
    });
    Ok(FailoverReport {
        bench: "failover",
        broker_names: target.broker_names(),
        queues: target.queues.len(),
        acknowledged: shared.acknowledged.iter().map(|count| count.load(Ordering::Relaxed)).sum(),
        failed_calls,
        unknown_calls,
        median_ms,
        worst_ms,
        by_broker_name: by_broker_name.collect(),
        kills,
        error,
    })
}

impl FailoverReport {
    fn text(&self) -> String {
        let ms = |value: f64| format!("{value:.0}");
        let rows: Vec<Vec<String>> = self
            .kills
            .iter()
            .enumerate()
            .map(|(n, kill)| {
                vec![
                    (n + 1).to_string(),
                    kill.node.to_string(),
                    kill.led.join(", "),
                    ms(kill.silence_ms),
                    ms(kill.others_ms),
                ]
            })
            .collect();
        let mut lines = vec![table(&["KILL", "NODE", "LED", "SILENCE MS", "OTHERS MS"], &rows)];
        for (name, [median, worst]) in &self.by_broker_name {
            lines.push(format!("{name}: median {} ms, worst {} ms", ms(*median), ms(*worst)));
        }
        lines.push(format!(
            "slowest queue led by the killed node, {} kills: median {} ms, worst {} ms",
            self.kills.len(),
            ms(self.median_ms),
            ms(self.worst_ms)
        ));
        lines.push(format!(
            "{} messages acknowledged on {} queues; calls that failed: {}, of unknown outcome: {}",
            grouped(self.acknowledged),
            self.queues,
            grouped(self.failed_calls),
            grouped(self.unknown_calls)
        ));
        lines.extend(self.error.clone());
        lines.join("\n")
    }
}

async fn send_all(shared: Arc<Shared>, producer: Producer, n: usize, queue: MessageQueue) -> Sent {
    let history = QueueHistory { broker_name: queue.broker_name.clone(), events: Vec::new() };
    let mut sent = Sent { history, failed: 0, unknown: 0, error: None };
    // Not all at once: an answer every moment, not a volley each interval.
    tokio::time::sleep(shared.interval.mul_f64(n as f64 / shared.acknowledged.len() as f64)).await;
    let (run, key) = (shared.run, n as u32);
    for seq in 0.. {
        let began = Instant::now();
        let message = Message::new(shared.topic.as_str(), shared.bodies.next(began));
        for attempt in 0.. {
            if shared.stop.load(Ordering::Relaxed) {
                return sent;
            }
            let at_ns = shared.clock.now_ns();
            sent.history.events.push(Event::Invoke { run, at_ns, key, seq, attempt, queue: key });
            let result = producer.send_to(&message, &queue).await;
            let at_ns = shared.clock.now_ns();
            match result {
                Ok(receipt) => {
                    let (queue_offset, msg_id) = (receipt.queue_offset.unsigned_abs(), String::new());
                    let ok = Event::Ok { run, at_ns, key, seq, attempt, queue: key, queue_offset, msg_id };
                    sent.history.events.push(ok);
                    shared.acknowledged[n].fetch_add(1, Ordering::Relaxed);
                    break;
                }
                Err(error) => {
                    *(if error.outcome_unknown() { &mut sent.unknown } else { &mut sent.failed }) += 1;
                    sent.error.get_or_insert_with(|| error.to_string());
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
            }
        }
        tokio::time::sleep(shared.interval.saturating_sub(began.elapsed())).await;
    }
    sent
}

/// The kills.
struct Script {
    dir: std::path::PathBuf,
    probe: LeaderProbe,
    broker_names: Vec<String>,
    shared: Arc<Shared>,
    calm: Duration,
}

impl Script {
    async fn run(&self, kills: u32) -> Result<Vec<Kill>> {
        let mut done = Vec::new();
        for n in 0..kills {
            self.until_ready().await?;
            tokio::time::sleep(self.calm).await;
            let name = &self.broker_names[n as usize % self.broker_names.len()];
            let (node, led) = self.leader(name).await?;
            let pid = i32::try_from(node.pid).ok().and_then(Pid::from_raw);
            let pid = pid.with_context(|| format!("the cluster file tells no process of node {}", node.id))?;
            let before = self.acknowledged();
            let at_ns = self.shared.clock.now_ns();
            kill_process(pid, Signal::KILL)
                .with_context(|| format!("cannot kill process {} of node {}", node.pid, node.id))?;
            note(format_args!(
                "{} of {kills}: kill -9 {}, node {}, leads {}",
                n + 1,
                node.pid,
                node.id,
                led.join(", ")
            ));
            let fault = Event::Fault {
                run: self.shared.run,
                at_ns,
                action: FaultAction::Kill,
                node: node.id,
                pid: node.pid,
                // Each queue's history is looked at by itself.
                led: Vec::new(),
            };
            done.push(Kill { node: node.id, led, fault });
            self.until_all_serve(&before).await?;
            self.restart(node.id).await?;
        }
        self.until_ready().await?;
        Ok(done)
    }

    fn acknowledged(&self) -> Vec<u64> {
        self.shared.acknowledged.iter().map(|count| count.load(Ordering::Relaxed)).collect()
    }

    /// Every queue has acknowledged two messages more: the one that was on its way, and one that was sent since.
    async fn until_all_serve(&self, before: &[u64]) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        while self.acknowledged().iter().zip(before).any(|(now, before)| *now < before + 2) {
            wait(until, "every queue to be served again").await?;
        }
        Ok(())
    }

    /// The node that leads a group, and the broker names of all groups that it leads.
    async fn leader(&self, broker_name: &str) -> Result<(NodeEntry, Vec<String>)> {
        let until = Instant::now() + PATIENCE;
        loop {
            let cluster = ClusterFile::read(&self.dir)?;
            if let Ok(leaders) = self.probe.leaders().await
                && let Some(node) = leaders.get(broker_name).and_then(|address| cluster.node_at(broker_name, address))
                && node.pid != 0
            {
                let own = |(name, address): &(&String, &String)| node.groups.get(*name) == Some(*address);
                let led = leaders.iter().filter(own).map(|(name, _)| name.clone()).collect();
                return Ok((node.clone(), led));
            }
            wait(until, "a leader").await?;
        }
    }

    async fn restart(&self, node: u64) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        while ClusterFile::read(&self.dir)?.nodes.iter().any(|entry| entry.id == node && entry.pid != 0) {
            wait(until, "the supervisor to notice the kill").await?;
        }
        crate::dev::restart_node(&self.dir, node).await?;
        Ok(())
    }

    /// Every node says that it takes part under a leader that serves.
    async fn until_ready(&self) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        for node in ClusterFile::read(&self.dir)?.nodes {
            let address = node.http.parse().with_context(|| format!("{} is no address", node.http))?;
            while !probe::http_ok(address, "/readyz").await {
                wait(until, &format!("node {} to take part", node.id)).await?;
            }
        }
        Ok(())
    }
}

async fn wait(until: Instant, what: &str) -> Result<()> {
    if Instant::now() > until {
        bail!("waited {} s for {what}, in vain", PATIENCE.as_secs());
    }
    tokio::time::sleep(LOOK_INTERVAL).await;
    Ok(())
}

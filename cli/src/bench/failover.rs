//! `ledgermq bench failover`: the leader of each group in turn is killed, stopped or asked to hand over, under load, and how long
//! each of its queues was silent.
//!
//! One sender per queue, pinned to it, with one send under way: what another queue acknowledges says nothing about this one.
//! A send that fails is counted, and the same message is sent again until it is acknowledged.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use ledgermq_client::{Admin, Message, MessageQueue, Producer, ProducerConfig};
use rustix::process::Signal;
use serde::Serialize;
use tokio::task::JoinSet;

use super::payload::Bodies;
use super::silences::{Kill, KillReport, QueueHistory, median_and_worst, of_kills, percentile_99};
use super::target::{GROUP, Target, TargetArgs};
use crate::admin::members::hand_over;
use crate::dev::cluster_file::NodeEntry;
use crate::dev::watched::{self, PATIENCE, Watched, led_by, wait};
use crate::drill::history::{Clock, Event, FaultAction};
use crate::terminal::{grouped, note, say, table};

/// Pause before a failed send is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(10);

/// Most kills.
const KILLS_MAX: u32 = 1_000;

/// How long a leader stays stopped after every queue is served again: long enough that it wakes up in another term.
const STOPPED_FOR: Duration = Duration::from_secs(1);

/// Most messages a second: each is kept until the end.
const RATE_MAX: u64 = 20_000;

/// A bench of fail-overs.
#[derive(Debug, Args)]
pub(crate) struct FailoverArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// What is done to the node
    #[arg(long, value_enum, default_value_t = Fault::Kill)]
    fault: Fault,
    /// How often; the leader of each group in turn
    #[arg(long, default_value_t = 20, alias = "times")]
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

/// What makes a leader stop leading.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Fault {
    /// kill -9; it is started again
    Kill,
    /// SIGSTOP: its connections stay open and nobody hears of its end; SIGCONT once another leader has served for a second
    Pause,
    /// It is asked to hand over, as before maintenance
    Transfer,
}

/// The result.
#[derive(Debug, Serialize)]
struct FailoverReport {
    bench: &'static str,
    fault: Fault,
    broker_names: Vec<String>,
    queues: usize,
    acknowledged: u64,
    /// Calls that certainly stored nothing, and calls of which nobody knows; each was made again.
    failed_calls: u64,
    unknown_calls: u64,
    /// Over all kills, of the slowest queue that the killed node led.
    median_ms: f64,
    /// 99th percentile; the worst of fewer than 100.
    p99_ms: f64,
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
        cluster: Watched::new(dir, &target.namesrvs.join(";"))?,
        broker_names: target.broker_names(),
        shared: Arc::clone(&shared),
        calm: Duration::from_secs_f64(args.calm),
        fault: args.fault,
        admin: client.admin(),
    };
    let killed = script.run(args.kills).await;
    shared.stop.store(true, Ordering::Relaxed);
    let mut sent = Vec::new();
    while let Some(ended) = senders.join_next().await {
        sent.push(ended.context("a sender was lost")?);
    }
    let report = report(args.fault, &target, &shared, &killed?, sent)?;
    say(if args.json { serde_json::to_string(&report)? } else { report.text() });
    Ok(ExitCode::SUCCESS)
}

fn report(fault: Fault, target: &Target, shared: &Shared, kills: &[Kill], sent: Vec<Sent>) -> Result<FailoverReport> {
    let (failed_calls, unknown_calls) = (sent.iter().map(|it| it.failed).sum(), sent.iter().map(|it| it.unknown).sum());
    let error = sent.iter().find_map(|it| it.error.clone());
    let histories: Vec<QueueHistory> = sent.into_iter().map(|it| it.history).collect();
    let kills = of_kills(kills, &histories);
    let (median_ms, worst_ms) =
        median_and_worst(kills.iter().map(|kill| kill.silence_ms)).context("nothing was killed")?;
    let p99_ms = percentile_99(kills.iter().map(|kill| kill.silence_ms)).context("nothing was killed")?;
    let by_broker_name = target.broker_names().into_iter().filter_map(|name| {
        let own = kills.iter().filter(|kill| kill.led.contains(&name)).map(|kill| kill.silence_ms);
        median_and_worst(own).map(|(median, worst)| (name.clone(), [median, worst]))
    });
    Ok(FailoverReport {
        bench: "failover",
        fault,
        broker_names: target.broker_names(),
        queues: target.queues.len(),
        acknowledged: shared.acknowledged.iter().map(|count| count.load(Ordering::Relaxed)).sum(),
        failed_calls,
        unknown_calls,
        median_ms,
        p99_ms,
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
        let what = match self.fault {
            Fault::Kill => "kill",
            Fault::Pause => "pause",
            Fault::Transfer => "transfer",
        };
        let mut lines = vec![table(&[what.to_uppercase().as_str(), "NODE", "LED", "SILENCE MS", "OTHERS MS"], &rows)];
        for (name, [median, worst]) in &self.by_broker_name {
            lines.push(format!("{name}: median {} ms, worst {} ms", ms(*median), ms(*worst)));
        }
        lines.push(format!(
            "slowest queue led by the node, {} x {what}: median {} ms, 99th percentile {} ms, worst {} ms",
            self.kills.len(),
            ms(self.median_ms),
            ms(self.p99_ms),
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
    cluster: Watched,
    broker_names: Vec<String>,
    shared: Arc<Shared>,
    calm: Duration,
    fault: Fault,
    admin: Admin,
}

impl Fault {
    fn verb(self) -> &'static str {
        match self {
            Fault::Kill => "kill -9 of",
            Fault::Pause => "kill -STOP of",
            Fault::Transfer => "hand-over by",
        }
    }
}

impl Script {
    async fn run(&self, kills: u32) -> Result<Vec<Kill>> {
        let names: Vec<&str> = self.broker_names.iter().map(String::as_str).collect();
        let mut done = Vec::new();
        for n in 0..kills {
            self.cluster.until_ready(None).await?;
            tokio::time::sleep(self.calm).await;
            let leaders = self.cluster.leaders(&names).await?;
            let node = &leaders[names[n as usize % names.len()]];
            let led = led_by(&leaders, node.id);
            note(format_args!(
                "{} of {kills}: {} node {}, leads {}",
                n + 1,
                self.fault.verb(),
                node.id,
                led.join(", ")
            ));
            let before = self.acknowledged();
            let at_ns = self.strike(node, &led).await?;
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
            let served = self.until_all_serve(&before).await;
            match self.fault {
                Fault::Kill => drop(served.and(self.cluster.restart(node.id).await)?),
                Fault::Pause => {
                    tokio::time::sleep(STOPPED_FOR).await;
                    // Also when nobody took over: a stopped process would be left behind.
                    watched::signal(node, Signal::CONT, || ())?;
                    served?;
                }
                Fault::Transfer => served?,
            }
        }
        self.cluster.until_ready(None).await?;
        Ok(done)
    }

    /// Does it, and says when it began, in ns of the clock.
    async fn strike(&self, node: &NodeEntry, led: &[String]) -> Result<u64> {
        let now = || self.shared.clock.now_ns();
        match self.fault {
            Fault::Kill => watched::signal(node, Signal::KILL, now),
            Fault::Pause => watched::signal(node, Signal::STOP, now),
            Fault::Transfer => {
                let at_ns = now();
                for name in led {
                    hand_over(&self.admin, name, None).await?;
                }
                Ok(at_ns)
            }
        }
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
}

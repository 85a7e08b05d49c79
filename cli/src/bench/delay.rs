//! `ledgermq bench delay`: messages that wait, all at the same time, and whether each comes when it is due.
//!
//! ```text
//! senders ── TIMER_DELIVER_MS ──► waiting ── due, spread over some time ──► readers: early, late by how much, twice, never
//! ```
//! By the wall clock of this machine, which is the brokers' too in a local cluster.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use clap::Args;
use hdrhistogram::Histogram;
use ledgermq_client::{Message, MessageQueue, Producer, ProducerConfig, PullConsumer, PullConsumerConfig};
use serde::Serialize;
use tokio::task::JoinSet;

use super::target::{GROUP, Target, TargetArgs};
use crate::terminal::{grouped, note, say, table};

/// Bytes in front of a body: which run, which message, when it is due.
const STAMP_LEN: usize = 24;

/// Most messages of a run: each has a bit.
const MESSAGES_MAX: u64 = 100_000_000;

/// Messages that a pull asks for, and how long a broker may hold it.
const PULL_BATCH: u32 = 32;
const PULL_WAIT: Duration = Duration::from_secs(5);

/// For how long messages are waited for that nothing has been heard of since.
const QUIET_MAX: Duration = Duration::from_secs(20);

/// Pause between two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// A bench of delayed messages.
#[derive(Debug, Args)]
pub(crate) struct DelayArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Messages that wait
    #[arg(long, default_value_t = 10_000)]
    messages: u64,
    /// Bytes of a body
    #[arg(long, default_value_t = 256)]
    size: usize,
    /// Sends under way at a time
    #[arg(long, default_value_t = 256)]
    in_flight: usize,
    /// Milliseconds from the begin of the run until the first message is due: more than sending takes
    #[arg(long, default_value_t = 10_000)]
    due_ms: u64,
    /// Milliseconds over which the messages are due, evenly; 0: all at one moment
    #[arg(long, default_value_t = 10_000)]
    spread_ms: u64,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What came of it.
#[derive(Debug, Serialize)]
struct DelayReport {
    messages: u64,
    /// Acknowledged before the first one was due.
    waiting: u64,
    sent_per_second: f64,
    /// From the first to the last delivery.
    delivered_per_second: f64,
    /// Sends that the client repeated: these messages may come twice.
    repeated: u64,
    failed: u64,
    early: u64,
    lost: u64,
    twice: u64,
    late_p50_ms: u64,
    late_p99_ms: u64,
    late_max_ms: u64,
}

/// What senders and readers share.
struct Run {
    id: u64,
    args: DelayArgs,
    base_ms: u64,
    topic: String,
    next: AtomicU64,
    acked: AtomicU64,
    acked_in_time: AtomicU64,
    repeated: AtomicU64,
    failed: AtomicU64,
    seen: Mutex<Seen>,
}

struct Seen {
    /// By message.
    came: Vec<bool>,
    count: u64,
    early: u64,
    twice: u64,
    late_ms: Histogram<u64>,
    first: Option<Instant>,
    last: Instant,
}

fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// Runs the bench.
pub(crate) async fn run(args: DelayArgs) -> Result<ExitCode> {
    ensure!(args.size >= STAMP_LEN, "--size is {}: give {STAMP_LEN} and up", args.size);
    let most = MESSAGES_MAX;
    ensure!((1..=most).contains(&args.messages), "--messages is {}: give 1 to {most}", args.messages);
    ensure!(args.in_flight >= 1, "--in-flight is 0: give 1 and up");
    let target = Target::open(&args.target).await?;
    let client = target.client()?;
    let consumer = Arc::new(client.pull_consumer(PullConsumerConfig::new(format!("{GROUP}-{:016x}", target.run)))?);
    let seen = Seen {
        came: vec![false; args.messages as usize],
        count: 0,
        early: 0,
        twice: 0,
        late_ms: Histogram::new(3)?,
        first: None,
        last: Instant::now(),
    };
    let run = Arc::new(Run {
        id: target.run,
        base_ms: wall_ms() + args.due_ms,
        topic: target.topic.clone(),
        args,
        next: AtomicU64::new(0),
        acked: AtomicU64::new(0),
        acked_in_time: AtomicU64::new(0),
        repeated: AtomicU64::new(0),
        failed: AtomicU64::new(0),
        seen: Mutex::new(seen),
    });
    let mut reading = JoinSet::new();
    for queue in target.queues.iter().cloned() {
        let offset = consumer.max_offset(&queue).await?;
        reading.spawn(Arc::clone(&run).read(Arc::clone(&consumer), queue, offset));
    }
    let began = Instant::now();
    let producer = Arc::new(client.producer(ProducerConfig::new(GROUP).with_in_flight_max(run.args.in_flight))?);
    let mut sending = JoinSet::new();
    for _ in 0..run.args.in_flight {
        sending.spawn(Arc::clone(&run).send(Arc::clone(&producer)));
    }
    while let Some(ended) = sending.join_next().await {
        ended.context("a sender was lost")?;
    }
    let sent_in = began.elapsed().as_secs_f64();
    note(format_args!("{} messages are sent", grouped(run.acked.load(Ordering::Relaxed))));
    run.until_read(&mut reading).await?;
    reading.shutdown().await;
    let report = run.report(sent_in);
    say(if run.args.json { serde_json::to_string(&report)? } else { report.text() });
    Ok(if report.clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Run {
    fn due_ms(&self, n: u64) -> u64 {
        let spread = u128::from(self.args.spread_ms) * u128::from(n) / u128::from(self.args.messages);
        self.base_ms + spread as u64
    }

    async fn send(self: Arc<Self>, producer: Arc<Producer>) {
        loop {
            let n = self.next.fetch_add(1, Ordering::Relaxed);
            if n >= self.args.messages {
                return;
            }
            let due_ms = self.due_ms(n);
            let mut body = vec![0; self.args.size];
            for (part, number) in body.chunks_exact_mut(8).zip([self.id, n, due_ms]) {
                part.copy_from_slice(&number.to_be_bytes());
            }
            let message = Message::new(self.topic.as_str(), body).with_property("TIMER_DELIVER_MS", due_ms.to_string());
            match producer.send(&message).await {
                Ok(receipt) => {
                    self.acked.fetch_add(1, Ordering::Relaxed);
                    self.acked_in_time.fetch_add(u64::from(wall_ms() < self.base_ms), Ordering::Relaxed);
                    self.repeated.fetch_add(u64::from(receipt.attempts > 1), Ordering::Relaxed);
                }
                Err(error) => {
                    if self.failed.fetch_add(1, Ordering::Relaxed) == 0 {
                        note(format_args!("a send failed: {error}"));
                    }
                }
            }
        }
    }

    async fn read(self: Arc<Self>, consumer: Arc<PullConsumer>, queue: MessageQueue, mut offset: i64) -> Result<()> {
        loop {
            let pulled = consumer.pull(&queue, offset, PULL_BATCH, PULL_WAIT).await?;
            let now_ms = wall_ms();
            offset = pulled.next_offset;
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            for message in &pulled.messages {
                self.came(&mut seen, message.stored_body(), now_ms);
            }
        }
    }

    fn came(&self, seen: &mut Seen, body: &[u8], now_ms: u64) {
        let number = |at: usize| body.get(at..at + 8).and_then(|part| part.try_into().ok()).map(u64::from_be_bytes);
        let (Some(id), Some(n), Some(due_ms)) = (number(0), number(8), number(16)) else { return };
        // Somebody else may send to the topic, too.
        if id != self.id || n >= self.args.messages {
            return;
        }
        let now = Instant::now();
        seen.first.get_or_insert(now);
        seen.last = now;
        if std::mem::replace(&mut seen.came[n as usize], true) {
            seen.twice += 1;
            return;
        }
        seen.count += 1;
        seen.early += u64::from(now_ms < due_ms);
        seen.late_ms.saturating_record(now_ms.saturating_sub(due_ms));
    }

    /// Waits until every acknowledged message has come, or nothing comes any more.
    async fn until_read(&self, reading: &mut JoinSet<Result<()>>) -> Result<()> {
        loop {
            if let Some(ended) = reading.try_join_next() {
                ended.context("a reader was lost")?.context("a reader gave up")?;
            }
            let (count, quiet) = {
                let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
                (seen.count, seen.last.elapsed())
            };
            let quiet_from_ms = self.due_ms(self.args.messages) + QUIET_MAX.as_millis() as u64;
            let is_over = wall_ms() > quiet_from_ms && quiet > QUIET_MAX;
            if count >= self.acked.load(Ordering::Relaxed) || is_over {
                return Ok(());
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    fn report(&self, sent_in: f64) -> DelayReport {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let acked = self.acked.load(Ordering::Relaxed);
        let delivered_in = seen.first.map_or(0.0, |first| (seen.last - first).as_secs_f64());
        DelayReport {
            messages: self.args.messages,
            waiting: self.acked_in_time.load(Ordering::Relaxed),
            sent_per_second: acked as f64 / sent_in,
            delivered_per_second: if delivered_in > 0.0 { seen.count as f64 / delivered_in } else { 0.0 },
            repeated: self.repeated.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            early: seen.early,
            lost: acked.saturating_sub(seen.count),
            twice: seen.twice,
            late_p50_ms: seen.late_ms.value_at_quantile(0.5),
            late_p99_ms: seen.late_ms.value_at_quantile(0.99),
            late_max_ms: seen.late_ms.max(),
        }
    }
}

impl DelayReport {
    /// Whether each came once, and none too early. One whose send was repeated may come twice.
    fn clean(&self) -> bool {
        self.early == 0 && self.lost == 0 && self.failed == 0 && self.twice <= self.repeated
    }

    fn text(&self) -> String {
        let heading = [
            "WAITING",
            "SENT/S",
            "DELIVERED/S",
            "LATE P50 MS",
            "P99 MS",
            "MAX MS",
            "EARLY",
            "LOST",
            "TWICE",
            "REPEATED",
            "FAILED",
        ];
        let cells = [
            self.waiting,
            self.sent_per_second as u64,
            self.delivered_per_second as u64,
            self.late_p50_ms,
            self.late_p99_ms,
            self.late_max_ms,
            self.early,
            self.lost,
            self.twice,
            self.repeated,
            self.failed,
        ];
        table(&heading, &[cells.map(grouped).to_vec()])
    }
}

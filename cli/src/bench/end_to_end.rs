//! `ledgermq bench end-to-end`: senders at a rate and readers that wait for them, in one process and by one clock.
//!
//! A message's way is measured from the moment at which it was due to be sent to the moment at which its reader has it.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use ledgermq_client::{MessageQueue, PullConsumer, PullConsumerConfig};
use tokio::task::JoinSet;

use super::load::LoadArgs;
use super::payload::{Bodies, STAMP_LEN, Stamp};
use super::produce::{figures, measure_limits, watch};
use super::report::{Report, Row};
use super::schedule::Windows;
use super::senders::Senders;
use super::tally::Tally;
use super::target::{GROUP, Target, TargetArgs};
use crate::terminal::{note, say};

/// Messages a second when nobody says another rate.
const RATE_DEFAULT: u64 = 500;

/// Messages that a pull asks for.
const PULL_BATCH: u32 = 32;

/// How long a broker may hold a pull.
const PULL_WAIT: Duration = Duration::from_secs(15);

/// Time for the last messages to reach their readers.
const LAST_MAX: Duration = Duration::from_secs(10);

/// Pause between two looks whether they have.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// A bench of the whole way.
#[derive(Debug, Args)]
pub(crate) struct EndToEndArgs {
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    load: LoadArgs,
    /// Leave out the limits of the machine, which take some seconds
    #[arg(long)]
    no_limits: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What the readers share.
struct Readers {
    consumer: PullConsumer,
    stamp: Stamp,
    windows: Windows,
    tally: Mutex<Tally>,
    received: AtomicU64,
}

/// Runs the bench.
pub(crate) async fn run(args: EndToEndArgs) -> Result<ExitCode> {
    let load = LoadArgs { rate: args.load.rate.or(Some(RATE_DEFAULT)), ..args.load.clone() }.load(None)?;
    ensure!(load.size >= STAMP_LEN, "--size is {}: a body that says when it was sent has {STAMP_LEN} bytes", load.size);
    let target = Target::open(&args.target).await?;
    let limits = if args.no_limits { None } else { Some(measure_limits(&target).await?) };
    let reading_client = target.client()?;
    let consumer = reading_client.pull_consumer(PullConsumerConfig::new(format!("{GROUP}-{:016x}", target.run)))?;
    let mut ends = Vec::new();
    for queue in &target.queues {
        ends.push(consumer.max_offset(queue).await?);
    }

    let stamp = Stamp { run: target.run, start: Instant::now() };
    let windows = Windows::timed(args.load.warm_up(), args.load.window(), args.load.runs);
    let readers = Arc::new(Readers {
        consumer,
        stamp,
        windows,
        tally: Mutex::new(Tally::new(windows.count())),
        received: AtomicU64::new(0),
    });
    let mut reading = JoinSet::new();
    for (queue, end) in target.queues.iter().cloned().zip(ends) {
        reading.spawn(Arc::clone(&readers).tail(queue, end));
    }
    note(format_args!("{} messages a second", load.rate.unwrap_or_default()));
    let senders = Senders::start(&target, &load, windows, Bodies::new(load.size, Some(stamp)))?;
    let (sent, costs) = watch(&target, windows, senders).await?;
    readers.until_received(sent.totals.acknowledged, &mut reading).await?;
    reading.shutdown().await;

    let mut read = readers.tally.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let missing = sent.totals.acknowledged.saturating_sub(read.totals.acknowledged);
    if missing > 0 {
        read.totals.failed = missing;
        let late = LAST_MAX.as_secs();
        read.totals.error = Some(format!("{missing} acknowledged messages did not reach a reader within {late} s"));
    }
    let mut report = Report::new("end-to-end", &target, limits);
    let (sent_figures, read_figures) = (figures(windows, &sent, &costs), figures(windows, &read, &costs));
    report.rows.push(Row { what: "send", load: load.clone(), windows: sent_figures, totals: sent.totals });
    report.rows.push(Row { what: "send to read", load, windows: read_figures, totals: read.totals });
    say(if args.json { report.json() } else { report.text() });
    Ok(if report.clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Readers {
    /// Reads a queue from `offset` on, for ever.
    async fn tail(self: Arc<Self>, queue: MessageQueue, mut offset: i64) -> Result<()> {
        loop {
            let pulled = self.consumer.pull(&queue, offset, PULL_BATCH, PULL_WAIT).await?;
            let now = Instant::now();
            offset = pulled.next_offset;
            let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
            for message in &pulled.messages {
                // Somebody else may send to the topic, too.
                if let Some(due) = self.stamp.read(message.stored_body()) {
                    tally.acknowledge(&self.windows, Some(due), now, 1, now - due);
                    self.received.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }

    /// Waits until as many messages were read, or time is up. A reader that ends is an error: it cannot end well.
    async fn until_received(&self, count: u64, reading: &mut JoinSet<Result<()>>) -> Result<()> {
        let until = Instant::now() + LAST_MAX;
        while self.received.load(Ordering::Relaxed) < count && Instant::now() < until {
            if let Some(ended) = reading.try_join_next() {
                ended.context("a reader was lost")?.context("a reader gave up")?;
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        Ok(())
    }
}

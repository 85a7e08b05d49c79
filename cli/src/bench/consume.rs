//! `ledgermq bench consume`: a new consumer group reads a backlog from its begin, all queues at once.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use ledgermq_client::{Client, MessageQueue, PullConsumer, PullConsumerConfig};
use tokio::task::JoinSet;

use super::costs::Reading;
use super::figures::Figures;
use super::load::Load;
use super::payload::Bodies;
use super::produce::measure_limits;
use super::report::{Report, Row};
use super::schedule::Windows;
use super::senders::Senders;
use super::tally::Tally;
use super::target::{GROUP, Target, TargetArgs};
use crate::terminal::{note, say};

/// Messages of a backlog that is made for the bench.
const BACKLOG_DEFAULT: u64 = 200_000;

/// Most messages that a pull asks for.
const PULL_MAX: u32 = 1_024;

/// Most readings of the backlog.
const RUNS_MAX: usize = 100;

/// Bodies and sends of a backlog that is made for the bench.
const FILL: Load = Load { in_flight: 16, connections: 1, size: 1_024, batch: 32, rate: None, count: None };

/// A bench of reads.
#[derive(Debug, Args)]
pub(crate) struct ConsumeArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Messages to send before anything is read [default: 200000, or none with --topic]
    #[arg(long)]
    count: Option<u64>,
    /// Bytes of their bodies
    #[arg(long, default_value_t = FILL.size)]
    size: usize,
    /// Messages that a pull asks for
    #[arg(long, default_value_t = 32)]
    pull_batch: u32,
    /// Readings of the whole backlog, each by a new group and over a new connection
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Leave out the limits of the machine, which take some seconds
    #[arg(long)]
    no_limits: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the bench.
pub(crate) async fn run(args: ConsumeArgs) -> Result<ExitCode> {
    ensure!((1..=PULL_MAX).contains(&args.pull_batch), "--pull-batch is {}: give 1 to {PULL_MAX}", args.pull_batch);
    ensure!((1..=RUNS_MAX).contains(&args.runs), "--runs is {}: give 1 to {RUNS_MAX}", args.runs);
    ensure!(
        (1..=(4 << 20) / FILL.batch).contains(&args.size),
        "--size is {}: give 1 to {}",
        args.size,
        (4 << 20) / FILL.batch
    );
    let target = Target::open(&args.target).await?;
    let limits = if args.no_limits { None } else { Some(measure_limits(&target).await?) };
    let fill = args.count.or(args.target.topic.is_none().then_some(BACKLOG_DEFAULT));
    if let Some(count) = fill.filter(|count| *count > 0) {
        note(format_args!("sending a backlog of {count} messages"));
        let load = Load { size: args.size, count: Some(count), ..FILL };
        let windows = Windows::open_ended(Duration::ZERO);
        let sent = Senders::start(&target, &load, windows, Bodies::new(load.size, None))?.finish().await?;
        if let Some(error) = sent.totals.error {
            bail!("the backlog could not be sent: {error}");
        }
    }
    let mut report = Report::new("consume", &target, limits);
    for n in 0..args.runs {
        note(format_args!("reading {} of {}", n + 1, args.runs));
        let client = target.client()?;
        report.rows.push(read_all(&target, &client, &args, n).await?);
        client.shutdown(Duration::from_secs(2)).await;
    }
    ensure!(report.rows.iter().any(|row| row.totals.acknowledged > 0), "topic {} holds no message", target.topic);
    say(if args.json { report.json() } else { report.text() });
    Ok(if report.clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Reads every queue from its begin to where it ends now.
async fn read_all(target: &Target, client: &Client, args: &ConsumeArgs, n: usize) -> Result<Row> {
    let group = format!("{GROUP}-{:016x}-{n}", target.run);
    let consumer = client.pull_consumer(PullConsumerConfig::new(group))?;
    let mut ranges = Vec::new();
    for queue in &target.queues {
        ranges.push((consumer.min_offset(queue).await?, consumer.max_offset(queue).await?));
    }
    let windows = Windows::open_ended(Duration::ZERO);
    let before = Reading::take(target.cluster.as_ref()).await?;
    let consumer = Arc::new(consumer);
    let mut readers = JoinSet::new();
    for (queue, range) in target.queues.iter().cloned().zip(ranges) {
        readers.spawn(read_queue(Arc::clone(&consumer), queue, range, args.pull_batch, windows));
    }
    let mut tally = Tally::new(1);
    while let Some(read) = readers.join_next().await {
        tally.merge(read.context("a reader was lost")??);
    }
    let costs = Reading::take(target.cluster.as_ref()).await?.since(&before);
    let begin = windows.border(0).expect("every window begins");
    let seconds = tally.last_ack.map_or(0.0, |last| last.saturating_duration_since(begin).as_secs_f64());
    let figures = Figures::whole(&tally.windows[0], seconds, &costs);
    let load = Load {
        in_flight: target.queues.len(),
        connections: 1,
        size: args.size,
        batch: args.pull_batch as usize,
        rate: None,
        count: Some(tally.totals.acknowledged),
    };
    Ok(Row { what: "read", load, windows: vec![figures], totals: tally.totals })
}

async fn read_queue(
    consumer: Arc<PullConsumer>,
    queue: MessageQueue,
    (mut offset, end): (i64, i64),
    batch: u32,
    windows: Windows,
) -> Result<Tally> {
    let mut tally = Tally::new(1);
    while offset < end {
        let asked = Instant::now();
        let pulled = consumer.pull(&queue, offset, batch, Duration::ZERO).await?;
        let answered = Instant::now();
        for (message, expected) in pulled.messages.iter().zip(offset..) {
            ensure!(
                message.queue_offset() == expected,
                "{} queue {}: offset {} was read where {expected} comes next",
                queue.broker_name,
                queue.queue_id,
                message.queue_offset()
            );
        }
        ensure!(
            pulled.next_offset > offset,
            "{} queue {}: nothing at offset {offset}, but the queue ends at {end}",
            queue.broker_name,
            queue.queue_id
        );
        let count = pulled.messages.len() as u64;
        tally.acknowledge(&windows, None, answered, count, answered - asked);
        offset = pulled.next_offset;
    }
    Ok(tally)
}

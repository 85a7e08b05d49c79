//! `ledgermq drill failover`: the quickstart's drill. Ordered messages, leaders killed, everything read back, one
//! table.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use ledgermq_client::{Client, ClientConfig, NewTopic, ProducerConfig, PullConsumerConfig};
use tokio::sync::watch;

use super::body::BODY_LEN_MIN;
use super::faults::FaultScript;
use super::history::{Clock, Event, Read, Recorder, read_lines};
use super::load::Load;
use super::progress::Progress;
use super::readers::Readers;
use super::report::Report;
use super::verifier::verify;
use super::workload::Workload;
use crate::dev::cluster_file::ClusterFile;
use crate::dev::watched::Watched;
use crate::terminal::say;

/// Fewer messages are over before a leader could be killed.
const MESSAGES_MIN: u64 = 1_000;

/// Largest body: what a broker takes, with room for its header.
const SIZE_MAX: usize = 4 << 20;

/// Group of the drill's producer and consumer.
const GROUP: &str = "ledgermq-drill";

/// A fail-over drill.
#[derive(Debug, Args)]
pub(crate) struct FailoverArgs {
    /// Folder of a running local cluster (`ledgermq dev --dir`)
    #[arg(long, default_value = "ledgermq-dev")]
    dir: PathBuf,
    /// Messages to send, at least 1000
    #[arg(long, default_value_t = 200_000)]
    messages: u64,
    /// Bytes of a body
    #[arg(long, default_value_t = 1024)]
    size: usize,
    /// Ordered keys; each has one message under way at a time
    #[arg(long, default_value_t = 64)]
    keys: u32,
    /// Queues of the topic, per broker name
    #[arg(long, default_value_t = 8)]
    queues: u32,
    /// Folder for history.jsonl and consumed.jsonl; by default a new one inside the cluster's folder
    #[arg(long, value_name = "DIR")]
    history: Option<PathBuf>,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

/// Runs the drill, and judges it.
pub(crate) async fn run(args: FailoverArgs) -> Result<ExitCode> {
    ensure!(args.messages >= MESSAGES_MIN, "--messages is {}: give at least {MESSAGES_MIN}", args.messages);
    ensure!((1..=4096).contains(&args.keys), "--keys is {}: give 1 to 4096", args.keys);
    ensure!((1..=1024).contains(&args.queues), "--queues is {}: give 1 to 1024", args.queues);
    ensure!(
        (BODY_LEN_MIN..=SIZE_MAX).contains(&args.size),
        "--size is {}: give {BODY_LEN_MIN} to {SIZE_MAX}",
        args.size
    );
    let cluster = ClusterFile::read(&args.dir)?;
    let run: u64 = rand::random();
    let folder = args.history.clone().unwrap_or_else(|| args.dir.join(format!("drill-{run:016x}")));
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let history = Recorder::create(&folder.join("history.jsonl"))?;
    let consumed = Recorder::create(&folder.join("consumed.jsonl"))?;

    let progress = Progress::new(args.messages);
    let driven = drive(&args, &cluster, run, &history, &consumed, &progress).await;
    progress.clear();
    let history = history.finish().await?;
    let consumed = consumed.finish().await?;
    // Without a final pass there is nothing to judge: every message would count as lost.
    driven.with_context(|| format!("the drill did not come to its end; evidence in {}", folder.display()))?;
    let events: Vec<Event> = read_lines(&history)?;
    let reads: Vec<Read> = read_lines(&consumed)?;
    let report = Report::new(verify(&events, &reads), &events, &reads);
    if args.json {
        say(report.json());
    } else {
        say(report.table());
        for example in report.examples() {
            say(format_args!("  {example}"));
        }
        say(format_args!("evidence in {}", folder.display()));
    }
    Ok(if report.green() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Everything that touches the cluster.
async fn drive(
    args: &FailoverArgs,
    cluster: &ClusterFile,
    run: u64,
    history: &Recorder<Event>,
    consumed: &Recorder<Read>,
    progress: &Progress,
) -> Result<()> {
    let topic = format!("drill-failover-{run:016x}");
    let namesrv = cluster.namesrv.as_str();
    let patient = Client::new(ClientConfig::new([namesrv]).with_deadline(Duration::from_secs(30)))?;
    let queues = i32::try_from(args.queues).context("too many queues")?;
    patient
        .admin()
        .create_topic(&NewTopic::new(topic.clone(), queues))
        .await
        .context("cannot create the drill's topic")?;
    // One attempt a send: the drill repeats by itself, and writes each try down.
    let blunt = Client::new(ClientConfig::new([namesrv]).with_attempts_max(1))?;
    let producer = blunt.producer(ProducerConfig::new(GROUP))?;
    let consumer = patient.pull_consumer(PullConsumerConfig::new(GROUP))?;
    let mut queues = producer.queues(&topic).await.context("the drill's topic has no route")?;
    ensure!(!queues.is_empty(), "the drill's topic has no queue");
    // Keys are dealt out in this order: every broker name is to have its share of them.
    queues.sort_by(|a, b| (a.queue_id, &a.broker_name).cmp(&(b.queue_id, &b.broker_name)));

    let clock = Clock::start();
    let load = Arc::new(Load::new(&queues, args.keys, args.messages, FaultScript::SHARES[0]));
    let begin = Event::Begin {
        run,
        topic: topic.clone(),
        queues: u32::try_from(queues.len()).context("too many queues")?,
        keys: args.keys,
        messages: args.messages,
        brokers: queues.iter().map(|queue| queue.broker_name.clone()).collect(),
    };
    history.handle().record(begin).await?;

    let readers = Readers { consumer, queues: Arc::new(queues.clone()), clock, read: Arc::new(AtomicU64::new(0)) };
    let (sent, all_sent) = watch::channel(false);
    let tail = tokio::spawn(readers.clone().tail(consumed.handle(), all_sent));
    let faults = FaultScript {
        run,
        cluster: Watched::new(args.dir.clone(), namesrv)?,
        clock,
        load: Arc::clone(&load),
        progress: progress.clone(),
    };
    let mut faults = tokio::spawn(faults.run(history.handle()));
    let workload = Workload {
        run,
        topic,
        queues,
        keys: args.keys,
        messages: args.messages,
        size: args.size,
        producer,
        clock,
        load: Arc::clone(&load),
    };
    let mut sending = tokio::spawn(workload.send_all(history.handle()));

    let bar = tokio::spawn(progress.clone().follow("acknowledged", Arc::clone(&load.acknowledged), args.messages));
    // Whoever fails first ends the other, which waits for what will not come.
    let ended = tokio::select! {
        ended = &mut sending => ended.context("the senders were lost")?,
        ended = &mut faults => match ended.context("the fault script was lost")? {
            Ok(()) => (&mut sending).await.context("the senders were lost")?,
            Err(error) => Err(error),
        },
    };
    bar.abort();
    if ended.is_err() {
        load.close();
        sending.abort();
        faults.abort();
        tail.abort();
        // The recorders end when their last handle is gone: with these tasks.
        let _ = tokio::join!(async { sending.is_finished() || sending.await.is_ok() }, tail);
        return ended;
    }
    if !faults.is_finished() {
        faults.await.context("the fault script was lost")??;
    }
    let _ = sent.send(true);
    tail.await.context("the tailing readers were lost")??;

    progress.say(format_args!("reading everything back"));
    readers.read.store(0, Ordering::Relaxed);
    let read = Arc::clone(&readers.read);
    let bar = tokio::spawn(progress.clone().follow("consumed", read, args.messages));
    let all = readers.read_all(consumed.handle()).await;
    bar.abort();
    all
}

//! `ledgermq consume`: read a topic by hand, all queues, from the first message on or where the group stands; or as a member of a
//! group, which shares the queues with the other members.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use ledgermq_client::{
    Client, ClientConfig, Delivery, Filter, MessageQueue, PullConsumer, PullConsumerConfig, PushConsumerConfig,
    ReceivedMessage, StartAt, Verdict,
};
use tokio::sync::{Notify, mpsc};

use crate::broker::wait_for_signal;
use crate::terminal::say;

/// Messages asked for at a time.
const PULL_MAX: u32 = 64;

/// How long a broker holds a pull until a message comes.
const PULL_WAIT: Duration = Duration::from_secs(15);

/// Batches that wait to be printed; above it the readers wait.
const WAITING_MAX: usize = 16;

/// Pause after a pull that failed for good.
const ERROR_PAUSE: Duration = Duration::from_secs(1);

/// Longest wait at the end of a member for what it is printing.
const GRACE: Duration = Duration::from_secs(5);

/// Messages to read.
#[derive(Debug, Args)]
pub(crate) struct ConsumeArgs {
    /// Name servers, host:port
    #[arg(long, value_delimiter = ',', default_value = "127.0.0.1:9876")]
    namesrv: Vec<String>,
    /// Topic
    #[arg(long)]
    topic: String,
    /// Tags, separated by ||
    #[arg(long, default_value = "*")]
    tags: String,
    /// SQL92 expression over message properties instead of tags, such as "price > 5 AND TAGS = 'paid'"
    #[arg(long, value_name = "EXPRESSION", conflicts_with = "tags")]
    filter_sql: Option<String>,
    /// Consumer group: begin where it stands, and commit what was printed. Without one, begin at the first message
    #[arg(long)]
    group: Option<String>,
    /// Wait for further messages at the end, until Ctrl-C. With a group, as a member of it: several commands share the queues
    #[arg(long)]
    follow: bool,
    /// As a member of a group: lock each queue while reading it, so that no two members read one at the same time
    #[arg(long, requires_all = ["group", "follow"])]
    ordered: bool,
    /// Stop after so many messages
    #[arg(long, value_name = "N")]
    max: Option<u64>,
    /// Print JSON, one object a line
    #[arg(long)]
    json: bool,
}

impl ConsumeArgs {
    fn filter(&self) -> Filter {
        match &self.filter_sql {
            Some(expression) => Filter::Sql(expression.clone()),
            None => Filter::Tags(self.tags.clone()),
        }
    }
}

/// What was read of a queue, and where its reader goes on.
struct Batch {
    queue: MessageQueue,
    messages: Vec<ReceivedMessage>,
}

/// Runs the subcommand.
pub(crate) fn run(args: ConsumeArgs) -> Result<()> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the async runtime")?;
    runtime.block_on(async {
        match args.group.clone() {
            Some(group) if args.follow => be_member(group, &args).await,
            _ => tokio::select! {
                done = read_all(&args) => done,
                stopped = wait_for_signal() => stopped,
            },
        }
    })
}

/// Prints its share of the topic, each queue in order, until a signal or the last message that was asked for.
async fn be_member(group: String, args: &ConsumeArgs) -> Result<()> {
    let client = Client::new(ClientConfig::new(args.namesrv.clone()))?;
    let config = PushConsumerConfig::new(group)
        .with_filtered(args.topic.clone(), args.filter())
        .with_start_at(StartAt::Begin)
        .with_ordered(args.ordered)
        .with_concurrency_per_queue(1);
    let (left, done) = (AtomicU64::new(args.max.unwrap_or(u64::MAX)), Arc::new(Notify::new()));
    let (json, enough) = (args.json, Arc::clone(&done));
    let print_one = move |delivery: Delivery| {
        let verdict = match left.fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| left.checked_sub(1)) {
            Ok(before) => {
                print(json, delivery.message_queue(), &delivery);
                if before == 1 {
                    enough.notify_one();
                }
                Verdict::Consumed
            }
            // Not asked for: it stays for others.
            Err(_) => Verdict::Later,
        };
        std::future::ready(verdict)
    };
    let consumer = client.push_consumer(config, print_one)?;
    let ended = tokio::select! {
        stopped = wait_for_signal() => stopped,
        () = done.notified() => Ok(()),
    };
    consumer.shutdown(GRACE).await;
    client.shutdown(GRACE).await;
    ended
}

async fn read_all(args: &ConsumeArgs) -> Result<()> {
    let client = Client::new(ClientConfig::new(args.namesrv.clone()))?;
    let group = args.group.clone().unwrap_or_else(|| "ledgermq-consume".to_owned());
    let consumer = client.pull_consumer(PullConsumerConfig::new(group).with_filter(args.filter()))?;
    let (sender, mut batches) = mpsc::channel(WAITING_MAX);
    for queue in consumer.queues(&args.topic).await? {
        tokio::spawn(read(consumer.clone(), queue, args.group.is_some(), args.follow, sender.clone()));
    }
    drop(sender);
    let mut left = args.max.unwrap_or(u64::MAX);
    while let Some(batch) = batches.recv().await {
        let Batch { queue, messages } = batch?;
        for message in &messages {
            if left == 0 {
                return Ok(());
            }
            left -= 1;
            print(args.json, &queue, message);
            if args.group.is_some() && left == 0 {
                consumer.commit_offset(&queue, message.queue_offset() + 1).await?;
            }
        }
        if let (Some(last), true) = (messages.last(), args.group.is_some()) {
            consumer.commit_offset(&queue, last.queue_offset() + 1).await?;
        }
    }
    Ok(())
}

/// Reads one queue, to its end or for ever.
async fn read(
    consumer: PullConsumer,
    queue: MessageQueue,
    committed: bool,
    follow: bool,
    batches: mpsc::Sender<Result<Batch>>,
) {
    let start = async {
        let at = if committed { consumer.committed_offset(&queue).await? } else { None };
        match at {
            Some(at) => Ok(at),
            None => consumer.min_offset(&queue).await,
        }
    };
    let mut next = match start.await {
        Ok(next) => next,
        Err(error) => {
            let _ = batches.send(Err(error.into())).await;
            return;
        }
    };
    loop {
        let wait = if follow { PULL_WAIT } else { Duration::ZERO };
        match consumer.pull(&queue, next, PULL_MAX, wait).await {
            Ok(pulled) => {
                let at_end = pulled.messages.is_empty() && pulled.next_offset == next;
                next = pulled.next_offset;
                if !pulled.messages.is_empty()
                    && batches.send(Ok(Batch { queue: queue.clone(), messages: pulled.messages })).await.is_err()
                {
                    return;
                }
                if at_end && !follow {
                    return;
                }
            }
            Err(error) if follow => {
                tracing::warn!(%error, queue = queue.queue_id, "a pull failed and is repeated");
                tokio::time::sleep(ERROR_PAUSE).await;
            }
            Err(error) => {
                let _ = batches.send(Err(error.into())).await;
                return;
            }
        }
    }
}

fn print(as_json: bool, queue: &MessageQueue, message: &ReceivedMessage) {
    let body = match message.body() {
        Ok(body) => String::from_utf8_lossy(&body).into_owned(),
        Err(error) => format!("<{error}>"),
    };
    if as_json {
        say(serde_json::json!({
            "topic": message.topic(),
            "broker_name": queue.broker_name,
            "queue": message.queue_id(),
            "queue_offset": message.queue_offset(),
            "id": message.id(),
            "tag": message.tag(),
            "keys": message.keys().collect::<Vec<_>>(),
            "stored_at_ms": message.store_timestamp_ms(),
            "body": body,
        }));
    } else {
        // One line a message, whatever its body holds.
        say(format_args!(
            "{} queue {} offset {}  {}",
            queue.broker_name,
            message.queue_id(),
            message.queue_offset(),
            body.escape_debug()
        ));
    }
}

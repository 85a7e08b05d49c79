//! `ledgermq produce`: send a few messages by hand, or the lines of standard input.

use std::io::BufRead;

use anyhow::{Context, Result};
use clap::Args;
use ledgermq_client::{Client, ClientConfig, Message, Producer, ProducerConfig};

use crate::terminal::say;

/// Messages to send.
#[derive(Debug, Args)]
pub(crate) struct ProduceArgs {
    /// Name servers, host:port
    #[arg(long, value_delimiter = ',', default_value = "127.0.0.1:9876")]
    namesrv: Vec<String>,
    /// Topic; created if the brokers allow it
    #[arg(long)]
    topic: String,
    /// Tag of every message
    #[arg(long)]
    tag: Option<String>,
    /// Key to find the messages by
    #[arg(long)]
    key: Option<String>,
    /// Messages with this ordering key stay in order
    #[arg(long, value_name = "KEY")]
    order: Option<String>,
    /// Producer group
    #[arg(long, default_value = "ledgermq-produce")]
    group: String,
    /// Print receipts as JSON, one object a line
    #[arg(long)]
    json: bool,
    /// Bodies, a message each; without any, the lines of standard input
    #[arg(value_name = "BODY")]
    bodies: Vec<String>,
}

/// Runs the subcommand.
pub(crate) fn run(args: ProduceArgs) -> Result<()> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the async runtime")?;
    let client = Client::new(ClientConfig::new(args.namesrv.clone()))?;
    let producer = client.producer(ProducerConfig::new(args.group.clone()))?;
    if !args.bodies.is_empty() {
        return runtime.block_on(async {
            for body in &args.bodies {
                send(&args, &producer, body.clone()).await?;
            }
            Ok(())
        });
    }
    for line in std::io::stdin().lock().lines() {
        let line = line.context("cannot read standard input")?;
        runtime.block_on(send(&args, &producer, line))?;
    }
    Ok(())
}

async fn send(args: &ProduceArgs, producer: &Producer, body: String) -> Result<()> {
    let mut message = Message::new(args.topic.clone(), body);
    if let Some(tag) = &args.tag {
        message = message.with_tag(tag.clone());
    }
    if let Some(key) = &args.key {
        message = message.with_key(key.clone());
    }
    let receipt = match &args.order {
        Some(key) => producer.send_ordered(&message, key).await?,
        None => producer.send(&message).await?,
    };
    if args.json {
        say(serde_json::json!({
            "topic": receipt.queue.topic,
            "broker_name": receipt.queue.broker_name,
            "queue": receipt.queue.queue_id,
            "queue_offset": receipt.queue_offset,
            "unique_key": receipt.unique_key,
            "offset_id": receipt.offset_id,
            "status": format!("{:?}", receipt.status),
        }));
    } else {
        say(format_args!(
            "{} queue {} offset {} id {}",
            receipt.queue.broker_name, receipt.queue.queue_id, receipt.queue_offset, receipt.unique_key
        ));
    }
    Ok(())
}

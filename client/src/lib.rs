//! LedgerMQ's client library. Speaks RocketMQ Remoting, so that it also works against Apache RocketMQ.
//!
//! A [`Client`] holds connections and routes; a [`Producer`] sends, a [`PushConsumer`] shares the queues of its topics with the
//! other members of its group and hands every message to a listener, a [`PullConsumer`] pulls from queues that its caller assigns,
//! [`Admin`] asks and changes what operators do. Requests follow a group's leader as it changes: by the hint of the broker that no
//! longer leads, by a route watch at the name server, by a poll each second. Every error says whether its outcome is unknown.
//!
//! ```no_run
//! use std::time::Duration;
//! use ledgermq_client::{Client, ClientConfig, Message, ProducerConfig, PushConsumerConfig, Verdict};
//!
//! # async fn bill(order: &[u8]) -> Result<(), std::io::Error> { Ok(()) }
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::new(ClientConfig::new(["127.0.0.1:9876"]))?;
//!
//! let producer = client.producer(ProducerConfig::new("orders"))?;
//! let message = Message::new("OrderTopic", "order 42 paid").with_tag("paid").with_key("42");
//! producer.send_ordered(&message, "42").await?;
//!
//! let config = PushConsumerConfig::new("billing").with_subscription("OrderTopic", "paid || refunded");
//! let consumer = client.push_consumer(config, |message| async move {
//!     let Ok(order) = message.body() else { return Verdict::Consumed };
//!     match bill(&order).await {
//!         Ok(()) => Verdict::Consumed,
//!         Err(_) => Verdict::Later,
//!     }
//! })?;
//!
//! tokio::signal::ctrl_c().await?;
//! consumer.shutdown(Duration::from_secs(10)).await;
//! client.shutdown(Duration::from_secs(5)).await;
//! # Ok(())
//! # }
//! ```
//!
//! Queues by hand, without a group's members:
//!
//! ```no_run
//! # use std::time::Duration;
//! # use ledgermq_client::{Client, MessageQueue, PullConsumerConfig};
//! # async fn example(client: Client, queue: MessageQueue) -> Result<(), Box<dyn std::error::Error>> {
//! let consumer = client.pull_consumer(PullConsumerConfig::new("audit"))?;
//! let offset = consumer.committed_offset(&queue).await?.unwrap_or(0);
//! let pulled = consumer.pull(&queue, offset, 32, Duration::from_secs(15)).await?;
//! for message in &pulled.messages {
//!     println!("{}: {} bytes", message.id(), message.body()?.len());
//! }
//! consumer.commit_offset(&queue, pulled.next_offset).await?;
//! # Ok(())
//! # }
//! ```
//!
//! What to do about a send that failed:
//!
//! ```no_run
//! # use ledgermq_client::{Message, Producer};
//! # async fn example(producer: Producer) {
//! let message = Message::new("OrderTopic", "order 42 paid");
//! match producer.send(&message).await {
//!     Ok(receipt) => println!("stored at {}", receipt.queue_offset),
//!     // It may be there or not: send it again if twice is better than never.
//!     Err(error) if error.outcome_unknown() => println!("unknown: {error}"),
//!     Err(error) => println!("certainly not stored: {error}"),
//! }
//! # }
//! ```

#![forbid(unsafe_code)]

mod admin;
mod client;
mod config;
mod connection;
mod connections;
mod consumer;
mod core;
mod error;
mod inbound;
mod leaders;
mod membership;
mod message;
mod producer;
mod retry;
mod route;
mod route_cache;
mod unique_key;
mod unpack;

pub use admin::{Admin, NewTopic};
pub use client::Client;
pub use config::{ClientConfig, NAMESRV_MAX};
pub use consumer::{
    ConsumeMode, Delivery, Filter, PullConsumer, PullConsumerConfig, PullResult, PullStatus, PushConsumer,
    PushConsumerConfig, StartAt, Subscription, Verdict,
};
pub use error::{CallError, Cause, ConfigError, MessageError, PullError, RequestError, RouteProblem, SendError};
pub use ledgermq_protocol::json::object_map::MessageQueue;
pub use message::{Message, ReceivedMessage};
pub use producer::{Producer, ProducerConfig, SendReceipt, SendStatus};
pub use route::TopicRoute;
pub use unpack::UnpackError;

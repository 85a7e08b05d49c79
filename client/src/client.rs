//! Client: one set of connections and routes, from which producers, consumers and admin calls are made.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::admin::Admin;
use crate::config::ClientConfig;
use crate::consumer::{Delivery, PullConsumer, PullConsumerConfig, PushConsumer, PushConsumerConfig, Verdict};
use crate::core::Core;
use crate::error::ConfigError;
use crate::producer::{Producer, ProducerConfig};

/// The shared part. Cheap to clone; connections and tasks end with the last clone of it and of what was made from it, or at
/// [`Client::shutdown`].
#[derive(Debug, Clone)]
pub struct Client {
    core: Arc<Core>,
}

impl Client {
    /// A client. Nothing is connected before it is used; it is used on a tokio runtime.
    ///
    /// # Errors
    /// [`ConfigError`] naming the field that is out of its bounds.
    pub fn new(config: ClientConfig) -> Result<Self, ConfigError> {
        config.validate()?;
        Ok(Self { core: Arc::new(Core::new(config)) })
    }

    /// A producer.
    ///
    /// # Errors
    /// [`ConfigError`] naming the field that is out of its bounds.
    pub fn producer(&self, config: ProducerConfig) -> Result<Producer, ConfigError> {
        Producer::new(Arc::clone(&self.core), config)
    }

    /// A pull consumer whose queues the caller assigns.
    ///
    /// # Errors
    /// [`ConfigError`] naming the field that is out of its bounds.
    pub fn pull_consumer(&self, config: PullConsumerConfig) -> Result<PullConsumer, ConfigError> {
        PullConsumer::new(Arc::clone(&self.core), config)
    }

    /// A push consumer, which joins its group at once: `listener` is given every message of its share of the queues. It should
    /// not block its thread, and is at work for at most [`PushConsumerConfig::concurrency`] messages at a time. A panic in it
    /// counts as [`Verdict::Later`].
    ///
    /// # Errors
    /// [`ConfigError`] naming the field that is out of its bounds, when this client is in the group already, or when there is no
    /// tokio runtime here.
    pub fn push_consumer<F, Fut>(&self, config: PushConsumerConfig, listener: F) -> Result<PushConsumer, ConfigError>
    where
        F: Fn(Delivery) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Verdict> + Send + 'static,
    {
        PushConsumer::start(Arc::clone(&self.core), config, listener)
    }

    /// Operators' requests.
    pub fn admin(&self) -> Admin {
        Admin::new(Arc::clone(&self.core))
    }

    /// Waits for what is under way, at most `grace`, then closes everything: also for the producers and consumers made from this
    /// client, whose next call fails. Push consumers end as by [`PushConsumer::shutdown`], with three quarters of `grace` for
    /// their listeners.
    pub async fn shutdown(&self, grace: Duration) {
        self.core.shutdown(grace).await;
    }
}

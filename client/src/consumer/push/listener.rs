//! What a listener gets and what it answers.

use std::future::Future;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;

use ledgermq_protocol::json::object_map::MessageQueue;

use crate::message::ReceivedMessage;

/// A listener at work.
type Listening = Pin<Box<dyn Future<Output = Verdict> + Send>>;

/// A listener, whatever the caller's type of it is.
pub(super) type Listener = Arc<dyn Fn(Delivery) -> Listening + Send + Sync>;

/// Forgets the caller's types.
pub(super) fn boxed<F, Fut>(listener: F) -> Listener
where
    F: Fn(Delivery) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Verdict> + Send + 'static,
{
    Arc::new(move |delivery| -> Listening { Box::pin(listener(delivery)) })
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// It is done with.
    Consumed,
    /// It is to come again later. This member keeps it and tries again after a delay that doubles from
    /// [`retry_delay_min`](crate::PushConsumerConfig::retry_delay_min) to
    /// [`retry_delay_max`](crate::PushConsumerConfig::retry_delay_max), for as long as it takes: this client does not give
    /// messages back to the broker yet, so there is no retry topic and no dead-letter topic behind this. Other messages of the queue go on
    /// meanwhile, but how far the queue got stays at this message, and pulling ahead of it ends at
    /// [`span_max`](crate::PushConsumerConfig::span_max). A listener that wants to give up after some
    /// [`attempts`](Delivery::attempt) puts the message elsewhere itself and answers [`Self::Consumed`].
    Later,
}

/// A message on its way to a listener. Everything of [`ReceivedMessage`] can be asked of it.
#[derive(Debug, Clone)]
pub struct Delivery {
    pub(super) queue: Arc<MessageQueue>,
    pub(super) message: Arc<ReceivedMessage>,
    pub(super) attempt: u32,
}

impl Delivery {
    /// The queue that it was pulled from.
    pub fn message_queue(&self) -> &MessageQueue {
        &self.queue
    }

    /// How often this member has given it to its listener, this time included: 1 the first time. Another member that takes the
    /// queue over begins with 1 again.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }
}

impl Deref for Delivery {
    type Target = ReceivedMessage;

    fn deref(&self) -> &ReceivedMessage {
        &self.message
    }
}

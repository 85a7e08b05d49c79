//! Consumers: the assigned pull consumer, whose caller names the queues, and the push consumer, which shares the queues of its
//! topics with the other members of its group and hands every message to a listener.

mod filter;
mod pull;
mod push;

pub use filter::Filter;
pub use pull::{PullConsumer, PullConsumerConfig, PullResult, PullStatus};
pub use push::{ConsumeMode, Delivery, PushConsumer, PushConsumerConfig, StartAt, Subscription, Verdict};

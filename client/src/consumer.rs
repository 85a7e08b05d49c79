//! Consumers. For now the assigned pull consumer; those that share queues among a group come with a later version.

mod pull;

pub use pull::{PullConsumer, PullConsumerConfig, PullResult, PullStatus};

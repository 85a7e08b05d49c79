//! How far a group got in a queue: asked for when a queue is taken, kept each interval and when it is given up.

use std::collections::HashMap;

use ledgermq_protocol::json::object_map::MessageQueue;
use ledgermq_protocol::names;
use parking_lot::Mutex;

use super::config::{ConsumeMode, StartAt};
use crate::consumer::pull::PullConsumer;
use crate::error::CallError;

/// Where offsets are kept.
#[derive(Debug)]
pub(super) enum OffsetStore {
    /// At the broker, for the whole group.
    Broker,
    /// Here, for as long as this consumer lives.
    Memory(Mutex<HashMap<MessageQueue, i64>>),
}

impl OffsetStore {
    pub(super) fn new(mode: ConsumeMode) -> Self {
        match mode {
            ConsumeMode::Clustering => Self::Broker,
            ConsumeMode::Broadcasting => Self::Memory(Mutex::default()),
        }
    }

    /// Where to begin in a queue. A place that was chosen, and not found, is kept before anything is consumed: a member that
    /// takes the queue over before the first commit would choose another one and skip what came between.
    pub(super) async fn start(
        &self,
        puller: &PullConsumer,
        queue: &MessageQueue,
        start_at: StartAt,
    ) -> Result<i64, CallError> {
        let kept = match self {
            Self::Broker => puller.group_offset(queue).await?,
            Self::Memory(kept) => kept.lock().get(queue).copied(),
        };
        if let Some(offset) = kept {
            return Ok(offset);
        }
        let chosen = match start_at {
            // A message in a retry topic was given back by a member: it is never old news.
            _ if names::is_retry_topic(&queue.topic) => puller.min_offset(queue).await?,
            StartAt::Begin => puller.min_offset(queue).await?,
            StartAt::End => puller.max_offset(queue).await?,
            StartAt::Time(timestamp_ms) => puller.offset_at(queue, timestamp_ms).await?,
        };
        self.keep(puller, queue, chosen).await?;
        Ok(chosen)
    }

    /// Keeps the next offset to consume.
    pub(super) async fn keep(&self, puller: &PullConsumer, queue: &MessageQueue, offset: i64) -> Result<(), CallError> {
        match self {
            Self::Broker => puller.commit_offset(queue, offset).await,
            Self::Memory(kept) => {
                kept.lock().insert(queue.clone(), offset);
                Ok(())
            }
        }
    }
}

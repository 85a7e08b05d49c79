//! The reading side of a drill: one reader per queue. A live pass tails the queues while messages are sent; a final pass
//! reads every queue from its first message to its end. What is read goes to the history as it is, unjudged.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use ledgermq_client::{MessageQueue, PullConsumer};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::body;
use super::history::{Clock, Pass, Read, RecorderHandle};

/// Messages asked for at a time.
const PULL_MAX: u32 = 256;

/// How long a tailing pull waits for a message.
const TAIL_WAIT: Duration = Duration::from_millis(500);

/// Longest time without progress before a reader gives up: longer than any fail-over.
const STUCK_AFTER: Duration = Duration::from_secs(60);

/// What the readers share.
#[derive(Clone)]
pub(crate) struct Readers {
    /// Pulls, with retries of its own: reading twice does no harm.
    pub(crate) consumer: PullConsumer,
    /// The queues, numbered by their place here.
    pub(crate) queues: Arc<Vec<MessageQueue>>,
    /// The drill's clock.
    pub(crate) clock: Clock,
    /// Messages read so far in the current pass.
    pub(crate) read: Arc<AtomicU64>,
}

impl Readers {
    /// Tails all queues until `sent` says that no more will come, and everything there is has been read.
    pub(crate) async fn tail(self, lines: RecorderHandle<Read>, sent: watch::Receiver<bool>) -> Result<()> {
        self.run(Pass::Live, lines, sent).await
    }

    /// Reads all queues once, from the first message to the end.
    pub(crate) async fn read_all(self, lines: RecorderHandle<Read>) -> Result<()> {
        let (_end, sent) = watch::channel(true);
        self.run(Pass::Final, lines, sent).await
    }

    async fn run(self, pass: Pass, lines: RecorderHandle<Read>, sent: watch::Receiver<bool>) -> Result<()> {
        let mut readers = JoinSet::new();
        for number in 0..self.queues.len() {
            readers.spawn(self.clone().read_queue(pass, number, lines.clone(), sent.clone()));
        }
        drop(lines);
        while let Some(ended) = readers.join_next().await {
            ended.context("a reader was lost")??;
        }
        Ok(())
    }

    async fn read_queue(
        self,
        pass: Pass,
        number: usize,
        lines: RecorderHandle<Read>,
        sent: watch::Receiver<bool>,
    ) -> Result<()> {
        let queue = &self.queues[number];
        let number = u32::try_from(number).context("too many queues")?;
        // A queue begins where it begins: a reader that always asked for 0 could not see a gap in front.
        let mut next = 0;
        let mut end = None;
        let mut progress = Instant::now();
        loop {
            if end.is_none() && *sent.borrow() {
                end = self.end_of(queue, &mut progress).await?;
            }
            if end.is_some_and(|end| next >= end) {
                return Ok(());
            }
            let wait = if end.is_some() { Duration::ZERO } else { TAIL_WAIT };
            match self.consumer.pull(queue, next, PULL_MAX, wait).await {
                Ok(pulled) => {
                    let at_ns = self.clock.now_ns();
                    if !pulled.messages.is_empty() {
                        progress = Instant::now();
                    }
                    self.read.fetch_add(pulled.messages.len() as u64, Ordering::Relaxed);
                    for message in &pulled.messages {
                        let queue_offset = u64::try_from(message.queue_offset())
                            .with_context(|| format!("queue {number} has an offset {}", message.queue_offset()))?;
                        let id = message.body().ok().and_then(|body| body::decode(&body));
                        lines.record(Read { pass, at_ns, queue: number, queue_offset, id }).await?;
                    }
                    if pulled.next_offset == next && end.is_some() {
                        // Committed, and not applied here yet.
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                    next = pulled.next_offset;
                }
                Err(error) => tracing::debug!(%error, queue = number, "a pull failed and is repeated"),
            }
            if progress.elapsed() > STUCK_AFTER {
                bail!(
                    "queue {number} cannot be read beyond offset {next} ({pass:?} pass), the end is {end:?}: no message \
                     for {} s",
                    STUCK_AFTER.as_secs()
                );
            }
        }
    }

    /// The exact end of a queue; `None` while nobody can tell.
    async fn end_of(&self, queue: &MessageQueue, progress: &mut Instant) -> Result<Option<i64>> {
        match self.consumer.max_offset(queue).await {
            Ok(end) => {
                *progress = Instant::now();
                Ok(Some(end))
            }
            Err(error) => {
                tracing::debug!(%error, "the end of a queue could not be had and is asked for again");
                Ok(None)
            }
        }
    }
}

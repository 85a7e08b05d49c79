//! The sending side: a fixed number of tasks, each with one send under way, spread over connections of their own.
//!
//! A task's work per message is small and known: a slice of a prepared body, the client's own encoding, two looks at the
//! clock and one entry in a histogram. Tallies are shared by the tasks of one connection, so that a thousand tasks need no
//! thousand histograms.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use ledgermq_client::{Client, Message, Producer, ProducerConfig};
use tokio::task::JoinSet;

use super::load::Load;
use super::payload::Bodies;
use super::schedule::{Allowance, DRAIN_MAX, Pacer, Place, Windows};
use super::tally::Tally;
use super::target::{GROUP, Target};

/// Time for the connections to close.
const CLOSE_MAX: Duration = Duration::from_secs(2);

/// Pause of a task whose send failed: a cluster that is down must not be asked a million times a second.
const FAILED_PAUSE: Duration = Duration::from_millis(10);

/// All senders of a bench.
pub(crate) struct Senders {
    tasks: JoinSet<()>,
    lanes: Vec<Arc<Lane>>,
    shared: Arc<Shared>,
}

/// What the senders share.
struct Shared {
    topic: String,
    load: Load,
    windows: Windows,
    pacer: Pacer,
    allowance: Allowance,
    bodies: Bodies,
}

/// A connection and what its senders saw.
struct Lane {
    client: Client,
    producer: Producer,
    tally: Mutex<Tally>,
}

impl Senders {
    /// Starts them: the warm-up has begun.
    pub(crate) fn start(target: &Target, load: &Load, windows: Windows, bodies: Bodies) -> Result<Senders> {
        let lane = |_| -> Result<Arc<Lane>> {
            let client = target.client()?;
            let config = ProducerConfig::new(GROUP).with_in_flight_max(load.in_flight);
            let producer = client.producer(config)?;
            Ok(Arc::new(Lane { client, producer, tally: Mutex::new(Tally::new(windows.count())) }))
        };
        let lanes: Vec<Arc<Lane>> = (0..load.connections).map(lane).collect::<Result<_>>()?;
        let shared = Arc::new(Shared {
            topic: target.topic.clone(),
            load: load.clone(),
            windows,
            pacer: Pacer::start(load.calls_per_second()),
            allowance: Allowance::new(load.count),
            bodies,
        });
        let mut tasks = JoinSet::new();
        for n in 0..load.in_flight {
            tasks.spawn(send_all(Arc::clone(&lanes[n % lanes.len()]), Arc::clone(&shared)));
        }
        Ok(Senders { tasks, lanes, shared })
    }

    /// Waits until all have ended: at the end of the last window, or when everything is sent.
    pub(crate) async fn finish(mut self) -> Result<Tally> {
        let end = self.shared.windows.border(self.shared.windows.count());
        let pacer = self.shared.pacer.clone();
        let stopper = end.map(|end| {
            tokio::spawn(async move {
                tokio::time::sleep_until((end + DRAIN_MAX).into()).await;
                pacer.stop();
            })
        });
        while let Some(ended) = self.tasks.join_next().await {
            ended.context("a sender was lost")?;
        }
        if let Some(stopper) = stopper {
            stopper.abort();
        }
        self.shared.pacer.stop();
        let mut all = Tally::new(self.shared.windows.count());
        for lane in self.lanes {
            all.merge(lane.tally.lock().unwrap_or_else(PoisonError::into_inner).clone());
            lane.client.shutdown(CLOSE_MAX).await;
        }
        if let Some(end) = end {
            all.totals.unsent = self.shared.pacer.untaken(end) * self.shared.load.batch as u64;
        }
        Ok(all)
    }
}

async fn send_all(lane: Arc<Lane>, shared: Arc<Shared>) {
    let batch = shared.load.batch as u64;
    let is_open = matches!(shared.pacer, Pacer::Open(_));
    while let Some(due) = shared.pacer.next().await {
        let now = Instant::now();
        match shared.windows.place(if is_open { due } else { now }) {
            Place::Over => return,
            // What is over is over: a cluster that cannot keep up leaves a backlog without end.
            _ if shared.windows.border(shared.windows.count()).is_some_and(|end| now > end + DRAIN_MAX) => return,
            _ => {}
        }
        let wanted = match shared.windows.place(now) {
            Place::WarmUp => batch,
            _ => shared.allowance.take(batch),
        };
        if wanted == 0 {
            return;
        }
        let sent = send(&lane.producer, &shared, due, wanted).await;
        let acked = Instant::now();
        let failed = sent.is_err();
        {
            let mut tally = lane.tally.lock().unwrap_or_else(PoisonError::into_inner);
            match sent {
                Ok(attempts) => {
                    tally.totals.retried_calls += u64::from(attempts > 1);
                    tally.acknowledge(&shared.windows, is_open.then_some(due), acked, wanted, acked - due);
                }
                Err(error) => tally.totals.fail(&error, wanted),
            }
        }
        if failed {
            tokio::time::sleep(FAILED_PAUSE).await;
        }
    }
}

/// One call; gives the number of attempts that it took.
async fn send(
    producer: &Producer,
    shared: &Shared,
    due: Instant,
    count: u64,
) -> Result<u32, ledgermq_client::SendError> {
    let message = || Message::new(shared.topic.as_str(), shared.bodies.next(due));
    let receipt = if shared.load.batch == 1 {
        producer.send(&message()).await?
    } else {
        let messages: Vec<Message> = (0..count).map(|_| message()).collect();
        producer.send_batch(&messages).await?
    };
    Ok(receipt.attempts)
}

//! Clients of the tests' own: producers that write histories, one thread and one queue each, and the final reading of
//! every queue. They follow the leader by the name server's route, like any client.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::cluster::{Cluster, PATIENCE, POLL, leader_address};
use crate::history::{Event, History, Writer, monotonic_ns, queue_number};
use crate::payload;
use crate::wire::{self, Connection, code};

/// Queues of a topic that is created by the first send.
pub const QUEUES: i32 = 4;

/// Sends after which a producer asks the name server whether somebody else leads: a route poll.
const ROUTE_POLL_SENDS: u64 = 200;

/// Answers after which nothing of the message can be in the log: illegal, not available, no permission, no topic,
/// bad parameter.
const SURELY_NOTHING: [i32; 5] = [13, 14, 16, 17, 29];

/// What producers send.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Topic; created by the first send.
    pub topic: String,
    /// Producers; number n sends to queue n modulo [`QUEUES`].
    pub producers: usize,
    /// Bytes of a body.
    pub size: usize,
}

/// Producers at work.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    acked: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Result<()>>>,
    histories: Vec<PathBuf>,
}

impl Load {
    /// Starts the producers; their histories go into `dir`.
    pub fn start(namesrv: &str, dir: &Path, plan: &Plan) -> Result<Load> {
        let stop = Arc::new(AtomicBool::new(false));
        let acked = Arc::new(AtomicU64::new(0));
        let mut load = Load { stop, acked, threads: Vec::new(), histories: Vec::new() };
        for n in 0..plan.producers {
            let process = format!("{}-producer-{n}", plan.topic);
            let path = dir.join(format!("{process}.jsonl"));
            let producer = Producer {
                namesrv: namesrv.to_owned(),
                process,
                queue: n as i32 % QUEUES,
                plan: plan.clone(),
                writer: Writer::create(&path)?,
                stop: Arc::clone(&load.stop),
                acked: Arc::clone(&load.acked),
            };
            load.histories.push(path);
            load.threads.push(std::thread::Builder::new().name(format!("producer-{n}")).spawn(|| producer.run())?);
        }
        Ok(load)
    }

    /// Messages acknowledged so far.
    pub fn acked(&self) -> u64 {
        self.acked.load(Ordering::Relaxed)
    }

    /// Waits until `more` further messages are acknowledged.
    pub fn await_acked(&self, more: u64) -> Result<()> {
        let goal = self.acked() + more;
        let deadline = Instant::now() + PATIENCE;
        while self.acked() < goal {
            ensure!(Instant::now() < deadline, "{} of {goal} messages acknowledged within {PATIENCE:?}", self.acked());
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    /// Stops the producers and names their history files.
    pub fn stop(mut self) -> Result<Vec<PathBuf>> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().map_err(|_| anyhow::anyhow!("a producer thread panicked"))??;
        }
        Ok(std::mem::take(&mut self.histories))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

struct Producer {
    namesrv: String,
    process: String,
    queue: i32,
    plan: Plan,
    writer: Writer,
    stop: Arc<AtomicBool>,
    acked: Arc<AtomicU64>,
}

impl Producer {
    fn run(mut self) -> Result<()> {
        let mut connection: Option<Connection> = None;
        for op in 0.. {
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            if op % ROUTE_POLL_SENDS == 0
                && let Some(open) = &connection
                && leader_address(&self.namesrv).is_ok_and(|leader| leader != open.address())
            {
                connection = None;
            }
            if connection.is_none() {
                connection = leader_address(&self.namesrv).and_then(|leader| Connection::open(&leader)).ok();
            }
            let Some(open) = connection.as_mut() else {
                std::thread::sleep(POLL);
                continue;
            };
            if !self.send(open, op)? {
                connection = None;
                std::thread::sleep(POLL);
            }
        }
        Ok(())
    }

    /// Sends message number `op` once; false when the connection should be given up.
    fn send(&mut self, connection: &mut Connection, op: u64) -> Result<bool> {
        let id = format!("{}-{op}", self.process);
        let body = payload::make(&id, self.plan.size);
        let (process, topic) = (self.process.clone(), self.plan.topic.clone());
        let fields = wire::send_fields("tests", &topic, self.queue, "");
        let hash = payload::hash(&body);
        self.writer.put(&Event::Invoke { t: monotonic_ns(), process, op, id, topic, hash, attempts: 1 })?;
        let outcome = connection.call(code::SEND_V2, &fields, &body);
        let (t, process) = (monotonic_ns(), self.process.clone());
        let event = match outcome {
            Ok(answer) if answer.code == 0 => {
                let (queue, offset) = (answer.number("queueId")?, answer.number("queueOffset")?);
                Event::Ok { t, process, op, queue: queue as i32, offset: offset as u64 }
            }
            Ok(answer) => {
                let error = format!("code {}, {}", answer.code, answer.remark);
                if SURELY_NOTHING.contains(&answer.code) {
                    Event::Fail { t, process, op, error }
                } else {
                    Event::Info { t, process, op, error }
                }
            }
            Err(e) => Event::Info { t, process, op, error: format!("{e:#}") },
        };
        let acked = matches!(event, Event::Ok { .. });
        self.writer.put(&event)?;
        if acked {
            self.acked.fetch_add(1, Ordering::Relaxed);
        }
        Ok(acked)
    }
}

/// Asks, again and again, whoever leads for the maximum offset of a queue: it must never fall, whoever answers.
#[derive(Debug)]
pub struct Observer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
    history: PathBuf,
}

impl Observer {
    /// Starts to ask; the answers go into a history in `dir`.
    pub fn start(namesrv: &str, dir: &Path, topic: &str, queue: i32) -> Result<Observer> {
        let stop = Arc::new(AtomicBool::new(false));
        let history = dir.join(format!("{topic}-observer.jsonl"));
        let mut writer = Writer::create(&history)?;
        let (namesrv, topic, stopped) = (namesrv.to_owned(), topic.to_owned(), Arc::clone(&stop));
        let thread = std::thread::Builder::new().name("observer".into()).spawn(move || {
            let what = format!("maximum offset of {topic} queue {queue}");
            while !stopped.load(Ordering::Relaxed) {
                let ask = leader_address(&namesrv).and_then(|leader| {
                    let mut connection = Connection::open(&leader)?;
                    max_offset(&mut connection, &topic, queue)
                });
                // Nobody leads for a moment after each kill: no answer is no wrong answer.
                if let Ok(value) = ask {
                    let process = "observer".to_owned();
                    writer.put(&Event::Observe { t: monotonic_ns(), process, what: what.clone(), value })?;
                }
                std::thread::sleep(POLL);
            }
            Ok(())
        })?;
        Ok(Observer { stop, thread: Some(thread), history })
    }

    /// Stops asking and names the history file.
    pub fn stop(mut self) -> Result<PathBuf> {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().map_err(|_| anyhow::anyhow!("the observer panicked"))??;
        }
        Ok(self.history.clone())
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Reads every queue of `topic` from its first message to its end at the leaders of all groups, as events of the reader `final`.
pub fn drain(cluster: &Cluster, topic: &str) -> Result<Vec<Event>> {
    let mut events = Vec::new();
    for broker in cluster.brokers()? {
        let mut connection = Connection::open(&cluster.await_leading(&broker)?)?;
        for id in 0..QUEUES {
            let end = max_offset(&mut connection, topic, id)?;
            let mut next = end_offset(&mut connection, code::MIN_OFFSET, topic, id)?;
            let deadline = Instant::now() + PATIENCE;
            while next < end {
                ensure!(Instant::now() < deadline, "{topic} queue {id}: read {next} of {end} within {PATIENCE:?}");
                next = pull(&mut connection, &broker, topic, id, next, &mut events)?;
            }
        }
    }
    Ok(events)
}

/// The offset behind the last message of a queue.
pub fn max_offset(connection: &mut Connection, topic: &str, queue: i32) -> Result<u64> {
    end_offset(connection, code::MAX_OFFSET, topic, queue)
}

fn end_offset(connection: &mut Connection, code: i32, topic: &str, queue: i32) -> Result<u64> {
    let fields = [("topic", topic.to_owned()), ("queueId", queue.to_string())];
    Ok(connection.call(code, &fields, &[])?.success("an end of a queue")?.number("offset")? as u64)
}

fn pull(
    connection: &mut Connection,
    broker: &str,
    topic: &str,
    queue: i32,
    from: u64,
    events: &mut Vec<Event>,
) -> Result<u64> {
    let fields = pull_fields(topic, queue, from);
    let what = || format!("pull of {topic} queue {queue} of {broker} at {from}");
    let answer = connection.call(code::PULL, &fields, &[])?.success(&what())?;
    let next = answer.number("nextBeginOffset")? as u64;
    let records = wire::records(&answer.body).with_context(what)?;
    ensure!(next > from && !records.is_empty(), "{}: no progress, next {next}", what());
    for record in records {
        ensure!((record.topic.as_str(), record.queue) == (topic, queue), "{}: {record:?} came", what());
        events.push(Event::Final {
            t: monotonic_ns(),
            process: "final".into(),
            topic: record.topic,
            queue: queue_number(broker, queue),
            offset: record.queue_offset,
            id: payload::id(&record.body),
            hash: payload::hash(&record.body),
        });
    }
    Ok(next)
}

/// Header of a pull of up to 32 messages from an offset on.
pub fn pull_fields(topic: &str, queue: i32, from: u64) -> [(&'static str, String); 11] {
    const SUBSCRIPTION_IN_HEADER: i32 = 4;
    [
        ("consumerGroup", "tests-final".to_owned()),
        ("topic", topic.to_owned()),
        ("queueId", queue.to_string()),
        ("queueOffset", from.to_string()),
        ("maxMsgNums", "32".to_owned()),
        ("sysFlag", SUBSCRIPTION_IN_HEADER.to_string()),
        ("commitOffset", "0".to_owned()),
        ("suspendTimeoutMillis", "0".to_owned()),
        ("subscription", "*".to_owned()),
        ("subVersion", "0".to_owned()),
        ("expressionType", "TAG".to_owned()),
    ]
}

/// The histories of clients with the final reading of `topic` behind them.
pub fn history(cluster: &Cluster, topic: &str, files: &[PathBuf]) -> Result<History> {
    let mut history = History::read(files)?;
    history.events.extend(drain(cluster, topic)?);
    Ok(history)
}

/// Sends one message alone and says how long its acknowledgement took.
pub fn lone_send(connection: &mut Connection, topic: &str, id: &str) -> Result<Duration> {
    let begin = Instant::now();
    connection
        .call(code::SEND_V2, &wire::send_fields("tests", topic, 0, ""), &payload::make(id, 1024))?
        .success("a lone send")?;
    Ok(begin.elapsed())
}

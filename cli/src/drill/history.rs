//! What the drill's clients saw, as they saw it: the only evidence that the verifier accepts.
//!
//! ```text
//! workload ── invoke, then ok | fail | info ──┐
//! fault script ── fault ──────────────────────┼─► Recorder (one thread, append only) ─► history.jsonl
//! readers ── read ────────────────────────────┴─► Recorder ───────────────────────────► consumed.jsonl
//! ```
//! One JSON object a line. An `invoke` is handed to the recorder before its send touches a socket. Nothing here asks a
//! broker what it believes to have happened, and nothing is ever rewritten.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Instant;

use anyhow::{Context, Result, anyhow};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

/// Lines that may wait for the recorder's thread. Above it senders wait: the drill slows down, memory stays bounded.
const RECORDER_QUEUE_MAX: usize = 65_536;

/// One thing that happened on the sending side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ev", rename_all = "snake_case")]
pub(crate) enum Event {
    /// First line of a history.
    Begin {
        /// Run id: every body carries it, so that messages of another run are phantoms.
        run: u64,
        /// Topic that the run writes to.
        topic: String,
        /// Queues that the run writes to, over all broker names; numbered from 0.
        queues: u32,
        /// Ordered keys.
        keys: u32,
        /// Messages that the run means to send.
        messages: u64,
        /// Broker name of each queue, in the order of their numbers.
        #[serde(default)]
        brokers: Vec<String>,
    },
    /// A send is about to leave.
    Invoke {
        /// Run id.
        run: u64,
        /// Monotonic ns since the start of the drill.
        at_ns: u64,
        /// Ordered key.
        key: u32,
        /// Number of the message within its key, from 0.
        seq: u64,
        /// Try of this message, from 0: a try whose outcome is unknown may have been appended.
        attempt: u32,
        /// Queue that the message is sent to.
        queue: u32,
    },
    /// The broker acknowledged it.
    Ok {
        /// Run id.
        run: u64,
        /// Monotonic ns since the start of the drill.
        at_ns: u64,
        /// Ordered key.
        key: u32,
        /// Number within the key.
        seq: u64,
        /// Try that was acknowledged.
        attempt: u32,
        /// Queue named in the reply.
        queue: u32,
        /// Queue offset named in the reply.
        queue_offset: u64,
        /// Message id named in the reply.
        msg_id: String,
    },
    /// It was refused, and certainly not appended.
    Fail {
        /// Run id.
        run: u64,
        /// Monotonic ns since the start of the drill.
        at_ns: u64,
        /// Ordered key.
        key: u32,
        /// Number within the key.
        seq: u64,
        /// Try that was refused.
        attempt: u32,
        /// The client's words.
        error: String,
    },
    /// Its outcome is unknown: it may be appended, or not.
    Info {
        /// Run id.
        run: u64,
        /// Monotonic ns since the start of the drill.
        at_ns: u64,
        /// Ordered key.
        key: u32,
        /// Number within the key.
        seq: u64,
        /// Try with the unknown outcome.
        attempt: u32,
        /// The client's words.
        error: String,
    },
    /// The drill did something to a node.
    Fault {
        /// Run id.
        run: u64,
        /// Monotonic ns since the start of the drill.
        at_ns: u64,
        /// What.
        action: FaultAction,
        /// Node.
        node: u64,
        /// Process that was hit, or that was started.
        pid: u32,
        /// Broker names that the node led.
        #[serde(default)]
        led: Vec<String>,
    },
}

/// What a drill does to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FaultAction {
    /// SIGKILL.
    Kill,
    /// SIGSTOP: it keeps its connections, and does nothing.
    Stop,
    /// SIGCONT.
    Continue,
    /// Started again.
    Restart,
}

/// Which reading of the queues a [`Read`] belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Pass {
    /// Tailing the queues while messages are sent.
    Live,
    /// Every queue from its first message to its end, once the faults are over.
    Final,
}

/// A message that a consumer got.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Read {
    /// Which reading.
    pub(crate) pass: Pass,
    /// Monotonic ns since the start of the drill.
    pub(crate) at_ns: u64,
    /// Queue it was read from.
    pub(crate) queue: u32,
    /// Queue offset that the consumer was told.
    pub(crate) queue_offset: u64,
    /// Who it says it is, when its body is byte for byte what the drill sends.
    pub(crate) id: Option<Identity>,
}

/// Who a message is, read back from its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct Identity {
    /// Run that sent it.
    pub(crate) run: u64,
    /// Ordered key.
    pub(crate) key: u32,
    /// Number within the key.
    pub(crate) seq: u64,
}

/// The drill's one clock: monotonic ns since it was made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock(Instant);

impl Clock {
    /// Starts at 0.
    pub(crate) fn start() -> Clock {
        Clock(Instant::now())
    }

    /// Now, in ns since the start.
    pub(crate) fn now_ns(&self) -> u64 {
        u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// Writes lines to one file, in the order in which they were handed over.
pub(crate) struct Recorder<T> {
    lines: mpsc::Sender<T>,
    writer: JoinHandle<std::io::Result<()>>,
    path: PathBuf,
}

/// Hands lines to a [`Recorder`].
pub(crate) struct RecorderHandle<T>(mpsc::Sender<T>);

impl<T> Clone for RecorderHandle<T> {
    fn clone(&self) -> Self {
        RecorderHandle(self.0.clone())
    }
}

impl<T> RecorderHandle<T> {
    /// Hands a line over; waits while the writer is behind. An error means that the file cannot be written any more:
    /// a drill without evidence must stop.
    pub(crate) async fn record(&self, line: T) -> Result<()> {
        self.0.send(line).await.map_err(|_| anyhow!("the history file can no longer be written: is the disk full?"))
    }
}

impl<T: Serialize + Send + 'static> Recorder<T> {
    /// Starts a new file at `path`.
    pub(crate) fn create(path: &Path) -> Result<Recorder<T>> {
        let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
        let (lines, mut waiting) = mpsc::channel::<T>(RECORDER_QUEUE_MAX);
        let writer = std::thread::Builder::new()
            .name("drill-history".into())
            .spawn(move || {
                let mut out = BufWriter::with_capacity(1 << 18, file);
                while let Some(line) = waiting.blocking_recv() {
                    serde_json::to_writer(&mut out, &line)?;
                    out.write_all(b"\n")?;
                    if waiting.is_empty() {
                        out.flush()?;
                    }
                }
                out.flush()
            })
            .context("cannot start the history thread")?;
        Ok(Recorder { lines, writer, path: path.to_owned() })
    }

    /// A handle for one of the clients.
    pub(crate) fn handle(&self) -> RecorderHandle<T> {
        RecorderHandle(self.lines.clone())
    }

    /// Waits until every line is in the file. All handles must be gone by then.
    pub(crate) async fn finish(self) -> Result<PathBuf> {
        drop(self.lines);
        let writer = self.writer;
        let path = self.path;
        tokio::task::spawn_blocking(move || writer.join())
            .await
            .context("the history thread was lost")?
            .map_err(|_| anyhow!("the history thread panicked"))?
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }
}

/// Reads a file of lines back.
pub(crate) fn read_lines<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut lines = Vec::new();
    for (number, line) in BufReader::with_capacity(1 << 18, file).lines().enumerate() {
        let line = line.with_context(|| format!("cannot read {}", path.display()))?;
        lines.push(
            serde_json::from_str(&line)
                .with_context(|| format!("{} line {}: not a line of a drill history", path.display(), number + 1))?,
        );
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Would break: the verifier judging something else than what the clients recorded.
    #[tokio::test]
    async fn lines_come_back_as_they_were_recorded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("history.jsonl");
        let recorder = Recorder::create(&path).unwrap();
        let handle = recorder.handle();
        let events = vec![
            Event::Begin {
                run: 7,
                topic: "t".into(),
                queues: 1,
                keys: 1,
                messages: 1,
                brokers: vec!["broker-a".into()],
            },
            Event::Invoke { run: 7, at_ns: 1, key: 0, seq: 0, attempt: 0, queue: 0 },
            Event::Info { run: 7, at_ns: 2, key: 0, seq: 0, attempt: 0, error: "connection \"lost\"\n".into() },
            Event::Fault {
                run: 7,
                at_ns: 3,
                action: FaultAction::Kill,
                node: 2,
                pid: 99,
                led: vec!["broker-a".into()],
            },
        ];
        for event in &events {
            handle.record(event.clone()).await.unwrap();
        }
        drop(handle);
        let written = recorder.finish().await.unwrap();
        assert_eq!(read_lines::<Event>(&written).unwrap(), events);
    }

    /// Would break: a cut or foreign history being taken for a short good one.
    #[test]
    fn a_foreign_line_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("history.jsonl");
        std::fs::write(&path, "{\"ev\":\"invoke\",\"run\":1").unwrap();
        let error = read_lines::<Event>(&path).unwrap_err();
        assert!(format!("{error:#}").contains("line 1"), "{error:#}");
    }
}

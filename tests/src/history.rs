//! Histories: what clients did and saw, one JSON object a line, written by the client side before and after each call.
//!
//! ```text
//! load.rs, peers (Java, Go) -- Event lines --> file --> History::read --> checker.rs
//! ```
//! All processes of a test run on one machine, so `t` (CLOCK_MONOTONIC, ns) of different files may be compared. A
//! history never holds anything a broker counted: the checker would then judge the broker by its own words.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// Longest line that a history may hold: an event carries names and numbers, never a body.
const LINE_MAX: usize = 64 << 10;

/// One thing that a client did or saw. `t` is CLOCK_MONOTONIC in ns; `process` names the client process or thread.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Event {
    /// A send begins. A retry by the application is another `Invoke` with the same `id` and a new `op`.
    Invoke {
        /// When.
        t: u64,
        /// Who.
        process: String,
        /// Number of this call, unique within the process.
        op: u64,
        /// Unique id of the message, part of its body.
        id: String,
        /// Topic.
        topic: String,
        /// CRC-32 of the body, 8 hex digits.
        hash: String,
        /// Wire attempts that the client library may make in this call.
        #[serde(default = "one")]
        attempts: u32,
    },
    /// The send was acknowledged with SEND_OK.
    Ok {
        /// When.
        t: u64,
        /// Who.
        process: String,
        /// The call.
        op: u64,
        /// Queue that took it, by its [`queue_number`].
        queue: i32,
        /// Its offset there.
        offset: u64,
    },
    /// The send surely had no effect (refused before anything was appended).
    Fail {
        /// When.
        t: u64,
        /// Who.
        process: String,
        /// The call.
        op: u64,
        /// The client's words.
        error: String,
    },
    /// The send's outcome is unknown: it may appear or not (time-outs, lost connections, one-way sends).
    Info {
        /// When.
        t: u64,
        /// Who.
        process: String,
        /// The call.
        op: u64,
        /// The client's words.
        error: String,
    },
    /// A record seen in the final reading of a queue, from offset 0 to its end.
    Final {
        /// When.
        t: u64,
        /// The reader; one per replica that is read.
        process: String,
        /// Topic.
        topic: String,
        /// Queue.
        queue: i32,
        /// Offset.
        offset: u64,
        /// Id found in the body.
        id: String,
        /// CRC-32 of the body as read.
        hash: String,
    },
    /// A message handed to a consumer's listener.
    Deliver {
        /// When.
        t: u64,
        /// The consumer.
        process: String,
        /// Its group.
        group: String,
        /// Topic.
        topic: String,
        /// Queue.
        queue: i32,
        /// Offset.
        offset: u64,
        /// Id found in the body.
        id: String,
        /// CRC-32 of the body.
        hash: String,
        /// Tag, when the message has one.
        #[serde(default)]
        tag: Option<String>,
        /// Keys, when the message has some.
        #[serde(default)]
        keys: Option<String>,
        /// The user property that peers set (`words.rs`), when the message has it.
        #[serde(default)]
        user: Option<String>,
        /// Whether this consumer promises one listener at a time per queue, so that deliveries must rise.
        #[serde(default)]
        ordered: bool,
    },
    /// A fault that the test made, from `t` until `until`: what happened inside may be delivered again.
    Fault {
        /// When it began.
        t: u64,
        /// When its after-effects must be over.
        until: u64,
        /// What it was.
        what: String,
    },
    /// A number that must never fall for one observer (maximum offset, term, commit index).
    Observe {
        /// When.
        t: u64,
        /// The observer.
        process: String,
        /// What was asked, of whom.
        what: String,
        /// The answer.
        value: u64,
    },
    /// A note for the test that runs the client (started, stopped).
    Mark {
        /// When.
        t: u64,
        /// Who.
        process: String,
        /// The note.
        what: String,
    },
}

fn one() -> u32 {
    1
}

/// A queue in histories: its id, plus 1,000 for each broker name before its own. `broker-b`'s queue 2 is 1002, and in a
/// cluster of one group a queue's number is its id. The peers count alike.
pub fn queue_number(broker: &str, id: i32) -> i32 {
    let place = broker.bytes().last().map_or(0, |letter| i32::from(letter.saturating_sub(b'a')));
    1_000 * place + id
}

/// CLOCK_MONOTONIC in ns: the clock of all histories, and of `System.nanoTime` on Linux.
pub fn monotonic_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    (time.tv_sec as u64) * 1_000_000_000 + time.tv_nsec as u64
}

/// Writes one history file. Every event is one `write` call: what was written is whole even if the process dies.
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    file: File,
    line: Vec<u8>,
}

impl Writer {
    /// Creates the file; an existing one is an error (two clients must not share a history).
    pub fn create(path: &Path) -> Result<Writer> {
        let file = File::create_new(path).with_context(|| format!("cannot create the history {}", path.display()))?;
        Ok(Writer { path: path.to_owned(), file, line: Vec::new() })
    }

    /// Appends one event.
    pub fn put(&mut self, event: &Event) -> Result<()> {
        self.line.clear();
        serde_json::to_writer(&mut self.line, event)?;
        self.line.push(b'\n');
        self.file.write_all(&self.line).with_context(|| format!("cannot append to {}", self.path.display()))
    }
}

/// All events of a test, in file order within each process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    /// The events.
    pub events: Vec<Event>,
}

impl History {
    /// Reads files; a last line without its end is left out (its writer was killed), any other odd line is an error.
    pub fn read<P: AsRef<Path>>(paths: &[P]) -> Result<History> {
        let mut events = Vec::new();
        for path in paths {
            let path = path.as_ref();
            let file = File::open(path).with_context(|| format!("cannot open the history {}", path.display()))?;
            let mut reader = BufReader::new(file);
            let mut line = String::new();
            for number in 1.. {
                line.clear();
                let length = reader.read_line(&mut line).with_context(|| format!("cannot read {}", path.display()))?;
                if length == 0 || !line.ends_with('\n') {
                    break;
                }
                anyhow::ensure!(length <= LINE_MAX, "{}:{number} is longer than {LINE_MAX} bytes", path.display());
                if line.trim().is_empty() {
                    continue;
                }
                let event = serde_json::from_str(&line)
                    .with_context(|| format!("{}:{number} is no event: {}", path.display(), line.trim_end()))?;
                events.push(event);
            }
        }
        Ok(History { events })
    }

    /// Number of acknowledged sends.
    pub fn acked(&self) -> usize {
        self.events.iter().filter(|e| matches!(e, Event::Ok { .. })).count()
    }

    /// Number of sends that were acknowledged after `since` (ns).
    pub fn acked_after(&self, since: u64) -> usize {
        self.events.iter().filter(|e| matches!(e, Event::Ok { t, .. } if *t > since)).count()
    }

    /// Ids of the messages that were acknowledged.
    pub fn acked_ids(&self) -> HashSet<&str> {
        let mut calls = HashMap::new();
        let mut acked = HashSet::new();
        for event in &self.events {
            match event {
                Event::Invoke { process, op, id, .. } => {
                    calls.insert((process, op), id.as_str());
                }
                Event::Ok { process, op, .. } => acked.extend(calls.get(&(process, op))),
                _ => {}
            }
        }
        acked
    }

    /// Ids of the messages that were delivered.
    pub fn delivered_ids(&self) -> HashSet<&str> {
        self.events.iter().filter_map(|e| if let Event::Deliver { id, .. } = e { Some(&**id) } else { None }).collect()
    }

    /// Longest time between two acknowledgements, or from `from` to the first and from the last to `until`, in ns.
    pub fn longest_silence(&self, from: u64, until: u64) -> u64 {
        let mut times: Vec<u64> = self
            .events
            .iter()
            .filter_map(|e| match e {
                Event::Ok { t, .. } if (from..=until).contains(t) => Some(*t),
                _ => None,
            })
            .collect();
        times.push(from);
        times.push(until);
        times.sort_unstable();
        times.windows(2).map(|w| w[1] - w[0]).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A killed writer must cost its last line only, and a damaged line must not pass unseen.
    #[test]
    fn half_a_last_line_is_left_out_and_an_odd_line_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("h.jsonl");
        let whole = r#"{"type":"ok","t":5,"process":"p","op":1,"queue":0,"offset":9}"#;
        std::fs::write(&path, format!("{whole}\n{}", &whole[..20])).unwrap();
        let history = History::read(&[&path]).unwrap();
        assert_eq!(history.events, vec![Event::Ok { t: 5, process: "p".into(), op: 1, queue: 0, offset: 9 }]);

        std::fs::write(&path, format!("{}\n{whole}\n", &whole[..20])).unwrap();
        let error = format!("{:#}", History::read(&[&path]).unwrap_err());
        assert!(error.contains("h.jsonl:1"), "{error}");
    }

    /// What a writer puts down must come back, and silence must count the edges of the window too.
    #[test]
    fn events_come_back_and_silence_is_measured() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("h.jsonl");
        let mut writer = Writer::create(&path).unwrap();
        let events: Vec<Event> = [10, 20, 70]
            .iter()
            .enumerate()
            .map(|(op, t)| Event::Ok { t: *t, process: "p".into(), op: op as u64, queue: 0, offset: op as u64 })
            .collect();
        for event in &events {
            writer.put(event).unwrap();
        }
        assert!(Writer::create(&path).is_err());
        let history = History::read(&[&path]).unwrap();
        assert_eq!(history.events, events);
        assert_eq!(history.longest_silence(0, 75), 50);
        assert_eq!(history.longest_silence(0, 200), 130);
    }
}

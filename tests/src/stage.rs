//! A cluster and one client library: where the scenarios play.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::checker::{Expect, Report, check};
use crate::cluster::{Cluster, PATIENCE, POLL};
use crate::history::{Event, History};
use crate::load;
use crate::peer::{Library, Peer};
use crate::wire::{Connection, code};

/// A running cluster, and peers on one library.
#[derive(Debug)]
pub struct Stage {
    /// The cluster.
    pub cluster: Cluster,
    library: Library,
    dir: tempfile::TempDir,
}

impl Stage {
    /// Starts a cluster of three nodes with one group.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(library: Library) -> Result<Stage> {
        Stage::start_with(library, 1)
    }

    /// Starts a cluster of three nodes with several groups.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start_with(library: Library, groups: usize) -> Result<Stage> {
        Stage::over(library, Cluster::start_with(&["--groups", &groups.to_string()])?)
    }

    /// Plays on a cluster that is there.
    ///
    /// # Errors
    /// When there is no room for the peers' files.
    pub fn over(library: Library, cluster: Cluster) -> Result<Stage> {
        Ok(Stage { cluster, library, dir: tempfile::tempdir()? })
    }

    /// Peers that are started from now on, and their names, are of another library.
    pub fn play_on(&mut self, library: Library) {
        self.library = library;
    }

    /// The library of peers that are started now.
    pub fn library(&self) -> Library {
        self.library
    }

    /// The name of a topic, group or process of this library: they share a cluster's names, and reports show them.
    pub fn name(&self, what: &str) -> String {
        format!("{}-{what}", self.library.name())
    }

    /// Starts a producer to `topic`.
    ///
    /// # Errors
    /// When it does not start.
    pub fn produce(&self, process: &str, topic: &str, mode: &str, more: &[(&str, &str)]) -> Result<Peer> {
        let mut options = vec![("mode", mode)];
        options.extend_from_slice(more);
        self.peer("Produce", process, topic, &self.name("producers"), &options)
    }

    /// Starts a push consumer of `topic`.
    ///
    /// # Errors
    /// When it does not start.
    pub fn consume(&self, process: &str, topic: &str, group: &str, more: &[(&str, &str)]) -> Result<Peer> {
        self.peer("Consume", process, topic, group, more)
    }

    /// Starts a consumer of `topic` that pulls.
    ///
    /// # Errors
    /// When it does not start.
    pub fn pull(&self, process: &str, topic: &str, group: &str, kind: &str, more: &[(&str, &str)]) -> Result<Peer> {
        let mut options = vec![("kind", kind)];
        options.extend_from_slice(more);
        self.peer("Pull", process, topic, group, &options)
    }

    /// Starts a producer that asks consumers of `topic`.
    ///
    /// # Errors
    /// When it does not start.
    pub fn request(&self, process: &str, topic: &str, more: &[(&str, &str)]) -> Result<Peer> {
        self.peer("Request", process, topic, &self.name("askers"), more)
    }

    /// Starts a push consumer of `topic` that answers.
    ///
    /// # Errors
    /// When it does not start.
    pub fn respond(&self, process: &str, topic: &str, group: &str, more: &[(&str, &str)]) -> Result<Peer> {
        self.peer("Respond", process, topic, group, more)
    }

    /// Starts a peer that sends delayed messages as `plan` says, and consumes them.
    ///
    /// # Errors
    /// When it does not start.
    pub fn later(&self, process: &str, topic: &str, group: &str, plan: &str, more: &[(&str, &str)]) -> Result<Peer> {
        let mut options = vec![("plan", plan)];
        options.extend_from_slice(more);
        self.peer("Later", process, topic, group, &options)
    }

    fn peer(&self, program: &str, process: &str, topic: &str, group: &str, more: &[(&str, &str)]) -> Result<Peer> {
        let mut options = vec![("namesrv", self.cluster.namesrv()), ("group", group), ("topic", topic)];
        options.extend_from_slice(more);
        Peer::start(self.library, program, process, self.path(), &options)
    }

    /// Makes `topic` in every group: the first send makes it in one alone.
    ///
    /// # Errors
    /// When a leader refuses.
    pub fn create_everywhere(&self, topic: &str) -> Result<()> {
        let queues = load::QUEUES.to_string();
        let fields = [
            ("topic", topic),
            ("defaultTopic", "TBW102"),
            ("readQueueNums", &queues),
            ("writeQueueNums", &queues),
            ("perm", "6"),
            ("topicFilterType", "SINGLE_TAG"),
            ("order", "false"),
        ]
        .map(|(name, value)| (name, value.to_owned()));
        for broker in self.cluster.brokers()? {
            let mut leader = Connection::open(&self.cluster.await_leading(&broker)?)?;
            leader.call(code::CREATE_TOPIC, &fields, &[])?.success("creating a topic")?;
        }
        Ok(())
    }

    /// Sends `count` messages with words by one producer, and waits until its calls are done.
    ///
    /// # Errors
    /// When they are not done in time.
    pub fn send(&self, process: &str, topic: &str, mode: &str, count: u64) -> Result<PathBuf> {
        let mut peer = self.produce(process, topic, mode, &[("count", &count.to_string()), ("words", "1")])?;
        peer.await_mark("done", PATIENCE)?;
        peer.stop()
    }

    /// Waits until the queues of `topic` hold `count` messages: nobody else tells when a one-way send has arrived.
    ///
    /// # Errors
    /// When they do not in time.
    pub fn await_stored(&self, topic: &str, count: u64) -> Result<()> {
        let leader = self.cluster.await_leader(None)?;
        let mut connection = Connection::open(leader.address())?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut stored = 0;
            for queue in 0..load::QUEUES {
                stored += load::max_offset(&mut connection, topic, queue)?;
            }
            if stored >= count {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{topic}: {stored} of {count} messages are stored");
            std::thread::sleep(POLL);
        }
    }

    /// Judges the histories of all clients of `topic`, and its final reading. `groups` had to be handed everything, and
    /// nothing twice but in a fault.
    ///
    /// # Errors
    /// When anything is wrong.
    pub fn judge(&self, topic: &str, groups: &[&str], files: &[PathBuf], faults: Vec<Event>) -> Result<Report> {
        let mut history = load::history(&self.cluster, topic, files)?;
        history.events.extend(faults);
        judge(&history, topic, groups)
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// [`Stage::judge`] for a history that the test has completed itself.
///
/// # Errors
/// When anything is wrong.
pub fn judge(history: &History, topic: &str, groups: &[&str]) -> Result<Report> {
    let complete_groups = groups.iter().map(|group| ((*group).to_owned(), topic.to_owned())).collect();
    let result = check(history, &Expect { complete_groups, redelivery_only_in_faults: true });
    ensure!(result.clean(), "{topic}: {result}");
    Ok(result)
}

/// A fault from `from`, whose after-effects are over within `window`; times in ns.
pub fn fault(what: &str, from: u64, window: Duration) -> Event {
    Event::Fault { t: from, until: from + window.as_nanos() as u64, what: what.to_owned() }
}

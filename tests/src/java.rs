//! The official Java client as a peer: builds the programs of `tests/java` once, and runs them. Maven fetches the client
//! library from Maven Central the first time; afterwards nothing is fetched.

use std::collections::hash_map::DefaultHasher;
use std::fs::File;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{FlockOperation, flock};

use crate::alone::build_dir;
use crate::cluster::{PATIENCE, POLL};
use crate::history::{Event, History};
use crate::program;

/// Most heap of one peer: several run beside a cluster.
const HEAP: &str = "-Xmx160m";

const PROJECT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/java");

/// Builds the peers unless they are built from the very same sources, and names their folder.
fn built() -> Result<PathBuf> {
    program::require("java", "default-jdk-headless")?;
    program::require("javac", "default-jdk-headless")?;
    program::require("mvn", "maven")?;
    let dir = build_dir()?.join("java-peers");
    std::fs::create_dir_all(&dir)?;
    let lock = File::create(dir.join("lock"))?;
    flock(&lock, FlockOperation::LockExclusive)?;
    let stamp = dir.join("stamp");
    let sources = digest(Path::new(PROJECT))?;
    if std::fs::read_to_string(&stamp).is_ok_and(|built| built == sources) {
        return Ok(dir);
    }
    let mut maven = Command::new("mvn");
    maven.args(["--batch-mode", "--quiet", "--file"]).arg(Path::new(PROJECT).join("pom.xml"));
    maven.arg(format!("-Dpeers.build={}", dir.display())).arg("process-classes");
    program::run(&mut maven).context("Maven cannot build the Java peers (the first build needs Maven Central)")?;
    std::fs::write(&stamp, sources)?;
    Ok(dir)
}

/// Digest of all files of the project, by name and content.
fn digest(root: &Path) -> Result<String> {
    let mut files = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
            let path = entry?.path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    files.sort();
    let mut hasher = DefaultHasher::new();
    for file in files {
        file.hash(&mut hasher);
        std::fs::read(&file)?.hash(&mut hasher);
    }
    Ok(format!("{:016x}", hasher.finish()))
}

/// A running Java program. It ends when its standard input does, so also when this test dies.
#[derive(Debug)]
pub struct Peer {
    process: String,
    child: Child,
    leash: Option<ChildStdin>,
    history: PathBuf,
    errors: PathBuf,
}

impl Peer {
    /// Starts `io.ledgermq.peer.<program>` as `process`; its history and what it complains of go into `dir`. Returns once
    /// its client has started.
    pub fn start(program: &str, process: &str, dir: &Path, options: &[(&str, &str)]) -> Result<Peer> {
        let built = built()?;
        let history = dir.join(format!("{process}.jsonl"));
        let errors = dir.join(format!("{process}.err"));
        let mut child = Command::new("java")
            .args([HEAP, "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"])
            .arg(format!("-Drocketmq.log.root={}", dir.join(format!("{process}-logs")).display()))
            .arg("-cp")
            .arg(format!("{}/classes:{}/lib/*", built.display(), built.display()))
            .arg(format!("io.ledgermq.peer.{program}"))
            .args(["--process", process])
            .args(options.iter().flat_map(|(name, value)| [format!("--{name}"), (*value).to_owned()]))
            .stdin(Stdio::piped())
            .stdout(File::create_new(&history)?)
            .stderr(File::create(&errors)?)
            .spawn()
            .context("cannot start java")?;
        let leash = child.stdin.take();
        let mut peer = Peer { process: process.to_owned(), child, leash, history, errors };
        peer.await_mark("started", PATIENCE)?;
        Ok(peer)
    }

    /// The history so far.
    pub fn history(&self) -> Result<History> {
        History::read(&[&self.history])
    }

    /// Waits for a note of the program.
    pub fn await_mark(&mut self, mark: &str, patience: Duration) -> Result<()> {
        let found = |event: &Event| matches!(event, Event::Mark { what, .. } if what == mark);
        self.await_history(&format!("the note '{mark}'"), patience, |h| h.events.iter().any(found))
    }

    /// Waits until the history satisfies `done`.
    pub fn await_history(&mut self, what: &str, patience: Duration, done: impl Fn(&History) -> bool) -> Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            let ended = self.child.try_wait()?;
            let history = self.history()?;
            if done(&history) {
                return Ok(());
            }
            if let Some(status) = ended {
                bail!("{} ended with {status} before {what}: {}", self.process, self.errors());
            }
            ensure!(
                Instant::now() < deadline,
                "{}: no {what} within {patience:?}; last events {:?}; {}",
                self.process,
                &history.events[history.events.len().saturating_sub(3)..],
                self.errors()
            );
            std::thread::sleep(POLL);
        }
    }

    /// Ends the program in order, and names its history file.
    pub fn stop(mut self) -> Result<PathBuf> {
        self.leash = None;
        self.await_mark("stopped", PATIENCE)?;
        let status = self.child.wait()?;
        ensure!(status.success(), "{} ended with {status}: {}", self.process, self.errors());
        Ok(self.history.clone())
    }

    /// Kills the program with SIGKILL, and names its history file.
    pub fn kill(mut self) -> Result<PathBuf> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(self.history.clone())
    }

    fn errors(&self) -> String {
        std::fs::read_to_string(&self.errors).unwrap_or_default()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

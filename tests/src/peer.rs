//! Official client libraries as peers: programs of `tests/java` and `tests/go`, all with the same command line
//! (`Produce`, `Consume`, `Pull`, `Request`, `Respond`, `Later`) and the same histories.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::cluster::{PATIENCE, POLL};
use crate::history::{Event, History};
use crate::{go, java};

/// Which client library a peer is built on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Library {
    /// Java 5.4.0.
    Java5,
    /// Java 4.9.8, which most installations still run.
    Java4,
    /// Go v2.1.2.
    Go,
}

impl Library {
    /// Name in topics and groups.
    pub fn name(self) -> &'static str {
        match self {
            Library::Java5 => "java5",
            Library::Java4 => "java4",
            Library::Go => "go",
        }
    }

    /// The command that runs `program`, without its options; `scratch` is for the library's own files.
    fn command(self, program: &str, scratch: &Path) -> Result<Command> {
        match self {
            Library::Java5 => java::command("5.4.0", program, scratch),
            Library::Java4 => java::command("4.9.8", program, scratch),
            Library::Go => go::command(program, scratch),
        }
    }
}

/// A running program. It ends when its standard input does, so also when this test dies.
#[derive(Debug)]
pub struct Peer {
    process: String,
    child: Child,
    leash: Option<ChildStdin>,
    history: PathBuf,
    errors: PathBuf,
}

impl Peer {
    /// Starts `program` on `library` as `process`; its history and what it complains of go into `dir`. Returns once its
    /// client has started.
    ///
    /// # Errors
    /// When the program cannot be built or started, or ends early.
    pub fn start(library: Library, program: &str, process: &str, dir: &Path, options: &[(&str, &str)]) -> Result<Peer> {
        let history = dir.join(format!("{process}.jsonl"));
        let errors = dir.join(format!("{process}.err"));
        let mut child = library
            .command(program, &dir.join(format!("{process}-files")))?
            .args(["--process", process])
            .args(options.iter().flat_map(|(name, value)| [format!("--{name}"), (*value).to_owned()]))
            .stdin(Stdio::piped())
            .stdout(File::create_new(&history)?)
            .stderr(File::create(&errors)?)
            .spawn()
            .with_context(|| format!("cannot start {program} on {library:?}"))?;
        let leash = child.stdin.take();
        let mut peer = Peer { process: process.to_owned(), child, leash, history, errors };
        peer.await_mark("started", PATIENCE)?;
        Ok(peer)
    }

    /// The history so far.
    ///
    /// # Errors
    /// When the file is no history.
    pub fn history(&self) -> Result<History> {
        History::read(&[&self.history])
    }

    /// Waits for a note of the program.
    ///
    /// # Errors
    /// When the time is over or the program ends.
    pub fn await_mark(&mut self, mark: &str, patience: Duration) -> Result<()> {
        let found = |event: &Event| matches!(event, Event::Mark { what, .. } if what == mark);
        self.await_history(&format!("the note '{mark}'"), patience, |h| h.events.iter().any(found))
    }

    /// Waits until the history satisfies `done`.
    ///
    /// # Errors
    /// When the time is over or the program ends.
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
    ///
    /// # Errors
    /// When it does not end, or says that it failed.
    pub fn stop(mut self) -> Result<PathBuf> {
        self.leash = None;
        self.await_mark("stopped", PATIENCE)?;
        let status = self.child.wait()?;
        ensure!(status.success(), "{} ended with {status}: {}", self.process, self.errors());
        Ok(self.history.clone())
    }

    /// Kills the program with SIGKILL, and names its history file.
    ///
    /// # Errors
    /// When it cannot be killed.
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

//! RocketMQ's own `mqadmin`, 5.4.0: its commands run one after the other in one JVM, and what they print is read. Their exit
//! code says nothing, it is 0 also when they fail. Maven fetches it from Maven Central the first time.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::cluster::PATIENCE;
use crate::java::built_by_maven;

const PROJECT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/mqadmin");

/// Most heap of the JVM: it runs beside a cluster.
const HEAP: &str = "-Xmx256m";

/// Pause between two runs of a command that waits for something: there is no event in another program's output.
const PAUSE: Duration = Duration::from_millis(200);

/// A JVM that runs commands. It ends when its standard input does, so also when this test dies.
#[derive(Debug)]
pub struct Mqadmin {
    namesrv: String,
    child: Child,
    commands: ChildStdin,
    printed: BufReader<ChildStdout>,
}

impl Mqadmin {
    /// Starts it for the cluster of a name server; its log files go into `dir`.
    ///
    /// # Errors
    /// When it cannot be built or started.
    pub fn start(namesrv: &str, dir: &Path) -> Result<Mqadmin> {
        let built = built_by_maven("mqadmin", PROJECT, &[])?;
        let mut child = Command::new("java")
            .env("LC_ALL", "C.UTF-8")
            .args([HEAP, "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"])
            .arg(format!("-Duser.home={}", dir.display()))
            .arg(format!("-Drocketmq.log.root={}", dir.display()))
            .arg("-cp")
            .arg(format!("{}/classes:{}/lib/*", built.display(), built.display()))
            .arg("io.ledgermq.mqadmin.Run")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start java")?;
        let commands = child.stdin.take().context("no pipe to java")?;
        let printed = BufReader::new(child.stdout.take().context("no pipe from java")?);
        Ok(Mqadmin { namesrv: namesrv.to_owned(), child, commands, printed })
    }

    /// Runs a command and returns what it printed, failures too.
    ///
    /// # Errors
    /// When the JVM has ended.
    pub fn print(&mut self, words: &[&str]) -> Result<String> {
        let words = if words[0].starts_with('@') {
            [&words[..1], &[&self.namesrv], &words[1..]].concat()
        } else {
            [words, &["-n", &self.namesrv]].concat()
        };
        writeln!(self.commands, "{}", words.join("\t")).context("the JVM of mqadmin takes no command")?;
        self.commands.flush()?;
        let mut len = String::new();
        self.printed.read_line(&mut len)?;
        let len = len.trim().parse().with_context(|| format!("{words:?} was not answered: {len:?}"))?;
        let mut bytes = vec![0; len];
        self.printed.read_exact(&mut bytes)?;
        String::from_utf8(bytes).with_context(|| format!("{words:?} printed what is no UTF-8"))
    }

    /// Runs a command that must not fail.
    ///
    /// # Errors
    /// When it printed the trace of an exception.
    pub fn run(&mut self, words: &[&str]) -> Result<String> {
        let printed = self.print(words)?;
        ensure!(!printed.contains("Exception"), "mqadmin {words:?} failed:\n{printed}");
        Ok(printed)
    }

    /// Runs a command until what it prints is as it should be; failures before that do not count.
    ///
    /// # Errors
    /// When it never is.
    pub fn run_until(&mut self, words: &[&str], what: &str, done: impl Fn(&str) -> bool) -> Result<String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let printed = self.print(words)?;
            if done(&printed) {
                return Ok(printed);
            }
            ensure!(Instant::now() < deadline, "mqadmin {words:?}: not {what} within {PATIENCE:?}:\n{printed}");
            std::thread::sleep(PAUSE);
        }
    }
}

impl Drop for Mqadmin {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The words of each line that begins with `first`.
pub fn rows<'a>(printed: &'a str, first: &str) -> Vec<Vec<&'a str>> {
    let lines = printed.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    lines.filter(|words| words.first() == Some(&first)).collect()
}

/// The value behind "name:" or "name    :".
pub fn value<'a>(printed: &'a str, name: &str) -> Option<&'a str> {
    printed.lines().find_map(|line| line.trim_start().strip_prefix(name)?.trim_start().strip_prefix(':')).map(str::trim)
}

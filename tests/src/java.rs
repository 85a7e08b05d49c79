//! Builds the peers on the official Java client (`tests/java`), and says how they are run. The same sources are compiled
//! against each version of the client. Maven fetches the client from Maven Central the first time; afterwards nothing is
//! fetched.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::built_once::built_once;
use crate::program;

/// Most heap of one peer: several run beside a cluster.
const HEAP: &str = "-Xmx160m";

const PROJECT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/java");

/// The folder of the peers on this version of the client.
fn built(version: &str) -> Result<PathBuf> {
    built_by_maven(&format!("java-peers-{version}"), PROJECT, &[format!("-Dclient.version={version}")])
}

/// Builds a Maven project once, with its libraries beside its classes, and names the folder.
pub(crate) fn built_by_maven(name: &str, project: &str, options: &[String]) -> Result<PathBuf> {
    program::require("java", "default-jdk-headless")?;
    program::require("javac", "default-jdk-headless")?;
    program::require("mvn", "maven")?;
    built_once(name, Path::new(project), |dir| {
        let mut maven = Command::new("mvn");
        maven.args(["--batch-mode", "--quiet", "--file"]).arg(Path::new(project).join("pom.xml")).args(options);
        maven.arg(format!("-Dpeers.build={}", dir.display())).arg("process-classes");
        let cannot = || format!("Maven cannot build {name} (the first build needs Maven Central)");
        program::run(&mut maven).with_context(cannot)?;
        Ok(())
    })
}

/// The command that runs `io.ledgermq.peer.<program>` on this version of the client, without its options. The client's logs
/// and its offsets of broadcasting groups go into `scratch`.
pub(crate) fn command(version: &str, program: &str, scratch: &Path) -> Result<Command> {
    let built = built(version)?;
    let mut command = Command::new("java");
    // Its words are in any script, whatever the locale of whoever runs the tests.
    command.env("LC_ALL", "C.UTF-8");
    command
        .args([HEAP, "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"])
        // The first is for 5.x, the second for 4.x.
        .arg(format!("-Drocketmq.log.root={}", scratch.display()))
        .arg(format!("-Drocketmq.client.logRoot={}", scratch.display()))
        .arg(format!("-Drocketmq.client.localOffsetStoreDir={}", scratch.join("offsets").display()))
        .arg("-cp")
        .arg(format!("{}/classes:{}/lib/*", built.display(), built.display()))
        .arg(format!("io.ledgermq.peer.{program}"));
    Ok(command)
}

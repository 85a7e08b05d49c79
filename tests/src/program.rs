//! The programs that tests run: the built `ledgermq`, and tools of the machine. A missing one fails the test with a
//! sentence; nothing is skipped.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use anyhow::{Context, Result, bail};

use crate::alone::build_dir;

/// The `ledgermq` executable: `LEDGERMQ_BIN`, or the one beside this test, brought up to date first.
pub fn ledgermq() -> Result<PathBuf> {
    static BUILT: OnceLock<std::result::Result<PathBuf, String>> = OnceLock::new();
    BUILT.get_or_init(|| build().map_err(|e| format!("{e:#}"))).clone().map_err(anyhow::Error::msg)
}

fn build() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("LEDGERMQ_BIN") {
        return Ok(path.into());
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "-p", "ledgermq", "--bin", "ledgermq", "--manifest-path"]);
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"));
    run(&mut command).context("cannot build ledgermq")?;
    Ok(build_dir()?.join("ledgermq"))
}

/// Fails with a sentence unless `name` can be run.
pub fn require(name: &str, package: &str) -> Result<()> {
    let found = std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]).any(|dir| dir.join(name).is_file())
    });
    anyhow::ensure!(found, "this test needs `{name}`: install the Debian package {package} (scripts/setup.sh does it)");
    Ok(())
}

/// Fails with a sentence unless the test may mount file systems and trace processes.
pub fn require_root() -> Result<()> {
    anyhow::ensure!(
        rustix::process::geteuid().is_root(),
        "this test mounts file systems and traces processes: run it as root"
    );
    Ok(())
}

/// Runs a command to its end; anything but success is an error with its words.
pub fn run(command: &mut Command) -> Result<Output> {
    let output = output(command)?;
    if !output.status.success() {
        bail!("{command:?} ended with {}: {}", output.status, words(&output));
    }
    Ok(output)
}

/// Runs a command to its end, whatever its status.
pub fn output(command: &mut Command) -> Result<Output> {
    command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {command:?}"))
}

/// What a command said, on both streams.
pub fn words(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)).trim().to_owned()
}

//! One cluster at a time on this machine: clusters on two cores disturb each other, and some tests measure time.
//! The lock works across test processes and threads, whatever runs the tests.

use std::fs::File;
use std::path::PathBuf;

use anyhow::{Context, Result};
use rustix::fs::{FlockOperation, flock};

/// The right to run a cluster; given back when dropped, or when the process dies.
#[derive(Debug)]
pub struct Alone {
    _file: File,
}

/// Waits for the right to run a cluster.
pub fn hold() -> Result<Alone> {
    let path = build_dir()?.join("ledgermq-tests.lock");
    let file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    flock(&file, FlockOperation::LockExclusive).with_context(|| format!("cannot lock {}", path.display()))?;
    Ok(Alone { _file: file })
}

/// The folder that holds the built executables: this test's own is in its `deps`.
pub fn build_dir() -> Result<PathBuf> {
    let own = std::env::current_exe().context("the test does not know its own executable")?;
    let dir = own.parent().and_then(|deps| deps.parent());
    Ok(dir.with_context(|| format!("{} lies in no build folder", own.display()))?.to_owned())
}

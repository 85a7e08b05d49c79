//! Builds the peer on the official Go client (`tests/go`), and says how it is run. Go fetches the modules of `go.sum` the
//! first time; afterwards nothing is fetched.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::built_once::built_once;
use crate::program;

const PROJECT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/go");

fn built() -> Result<PathBuf> {
    program::require("go", "golang-go")?;
    built_once("go-peer", Path::new(PROJECT), |dir| {
        let peer = dir.join("peer").display().to_string();
        for arguments in [&["vet", "."][..], &["build", "-o", &peer, "."]] {
            let mut go = Command::new("go");
            go.args(arguments).current_dir(PROJECT);
            // Only what go.sum names, with no C compiler and no other toolchain.
            go.env("GOFLAGS", "-mod=readonly -buildvcs=false").env("CGO_ENABLED", "0").env("GOTOOLCHAIN", "local");
            program::run(&mut go).context("Go cannot build the peer (the first build needs the Go module proxy)")?;
        }
        Ok(())
    })
}

/// The command that runs the peer's `program`, without its options. The client's offsets of broadcasting groups go into
/// `scratch`.
pub(crate) fn command(program: &str, scratch: &Path) -> Result<Command> {
    let mut command = Command::new(built()?.join("peer"));
    command.arg(program).env("rocketmq.client.localOffsetStoreDir", scratch.join("offsets"));
    Ok(command)
}

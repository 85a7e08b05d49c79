//! Snapshots: how a replica that lies behind the log's start, or has nothing at all, gets the state and the log of another.
//!
//! ```text
//! leader: Storage::snapshot -> apply thread: checkpoint -> Giver (checksums) -> Manifest -> MsgSnapshot
//! taker:  MsgSnapshot is held back -> Pull: files by range into snap/take -> verified, synced -> stepped
//!         -> Ready.snapshot -> log-io: one meta write switches over, files move to their places -> apply: restore
//! ```
//! `Snapshot.data` holds only the [`Manifest`]. Log segments are part of the pull: they are the same bytes on every replica and
//! prove themselves by their chain. Until the meta write the old state counts, from then on the new one: a start after a crash
//! in between finishes the move (`install.rs`). docs/formats.md draws the bytes.

pub(crate) mod give;
pub(crate) mod install;
mod manifest;
pub(crate) mod serve;
pub(crate) mod take;
mod throttle;
mod wire;
pub(crate) mod work;

pub use give::{Checkpoint, GiveError, Giver};
pub(crate) use manifest::conf_state;
pub use manifest::{Manifest, ManifestError, ManifestFile, SnapshotId};
pub use take::{Pull, PullError, Staged};
pub use work::SnapshotProgress;

/// Folder inside a group's folder for checkpoints that are given and snapshots that are taken.
pub(crate) const SNAP_DIR: &str = "snap";
/// Folder in it that holds this replica's own checkpoint.
pub(crate) const GIVE_DIR: &str = "give";
/// Folder in it that holds what was taken from a peer so far.
pub(crate) const TAKE_DIR: &str = "take";
/// Folder in [`TAKE_DIR`] of the state machine's files: becomes `gen-<n>`.
pub(crate) const STATE_DIR: &str = "state";

/// Name of the folder of a generation of the state machine's files.
pub(crate) fn generation_name(generation: u64) -> String {
    format!("gen-{generation}")
}

/// Most bytes in one request of a pull.
pub const REQUEST_BYTES_MAX: u64 = 1 << 20;
/// Most ranges in one request of a pull: several small files travel together.
pub const REQUEST_RANGES_MAX: usize = 64;

/// Bytes of one file of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileRange {
    /// Number of the file: those of the manifest in their order, then the log's segments, ascending.
    pub file: u32,
    /// First byte wanted.
    pub offset: u64,
    /// Number of bytes.
    pub len: u32,
}

#[cfg(test)]
mod tests;

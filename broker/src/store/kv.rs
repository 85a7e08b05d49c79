//! The key-value trait.

use std::ops::{ControlFlow, Range};
use std::path::Path;

use ledgermq_dledger::fs::Fs;
use thiserror::Error;

/// A family of keys with an order of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// Positions, constants, membership.
    Meta,
    /// Topics.
    Topics,
    /// Subscription groups.
    Groups,
    /// Consumer offsets.
    Offsets,
    /// Locks of queues that are consumed in order.
    Locks,
    /// Ends of the queues.
    Queues,
    /// Delayed messages that wait, by what is due first.
    Timers,
    /// The same by where they lie.
    TimerPlaces,
    /// The key index: only ever ingested.
    Index,
}

impl Family {
    /// All of them.
    pub const ALL: [Family; 9] = [
        Family::Meta,
        Family::Topics,
        Family::Groups,
        Family::Offsets,
        Family::Locks,
        Family::Queues,
        Family::Timers,
        Family::TimerPlaces,
        Family::Index,
    ];

    /// Name on disk.
    pub fn name(self) -> &'static str {
        match self {
            Family::Meta => "meta",
            Family::Topics => "topics",
            Family::Groups => "groups",
            Family::Offsets => "offsets",
            Family::Locks => "locks",
            Family::Queues => "queues",
            Family::Timers => "timers",
            Family::TimerPlaces => "timer_places",
            Family::Index => "index",
        }
    }
}

/// The store failed. Final: what it holds is no longer known.
#[derive(Debug, Error)]
#[error("{place}: {reason}")]
pub struct KvError {
    /// Folder or family.
    pub place: String,
    /// The store's own words.
    pub reason: String,
}

impl KvError {
    /// Whether the store found its own files to be other than it wrote them. RocksDB says so with its first word; a file that it
    /// names and does not find is one that a damaged name points to.
    pub fn is_damage(&self) -> bool {
        self.reason.starts_with("Corruption") || self.reason.contains("No such file or directory")
    }
}

/// Writes and removals that take effect together, in their order. Reusable: [`WriteBatch::clear`] keeps the memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WriteBatch {
    bytes: Vec<u8>,
    changes: Vec<Change>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Change {
    family: Family,
    key: Range<usize>,
    /// `None` removes the key.
    value: Option<Range<usize>>,
}

impl WriteBatch {
    /// Sets `key`.
    pub fn put(&mut self, family: Family, key: &[u8], value: &[u8]) {
        let key = self.keep(key);
        let value = Some(self.keep(value));
        self.changes.push(Change { family, key, value });
    }

    /// Removes `key`; one that is not there is no error.
    pub fn delete(&mut self, family: Family, key: &[u8]) {
        let key = self.keep(key);
        self.changes.push(Change { family, key, value: None });
    }

    /// The changes, in order: family, key, and the value unless the key is removed.
    pub fn iter(&self) -> impl Iterator<Item = (Family, &[u8], Option<&[u8]>)> {
        self.changes.iter().map(|change| {
            let value = change.value.clone().map(|value| &self.bytes[value]);
            (change.family, &self.bytes[change.key.clone()], value)
        })
    }

    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Forgets all changes.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.changes.clear();
    }

    fn keep(&mut self, bytes: &[u8]) -> Range<usize> {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        start..self.bytes.len()
    }
}

/// Is shown keys and values one by one, and says whether to go on.
pub type Visitor<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// An ordered key-value store.
///
/// After a crash it is as of the end of some batch, at or behind the last [`Kv::flush`]: never half a batch, never a batch
/// without those before it. Ingested runs are the exception: they are durable when the call returns.
pub trait Kv: Send + Sync + 'static {
    /// Takes all changes in, or none. Visible at once, durable some time later.
    ///
    /// # Errors
    /// [`KvError`]; the store must not be used any more.
    fn write(&self, batch: &WriteBatch) -> Result<(), KvError>;

    /// The value of `key`.
    ///
    /// # Errors
    /// [`KvError`].
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>, KvError>;

    /// Visits keys and values from `from` on (included), ascending, until the visitor breaks.
    ///
    /// # Errors
    /// [`KvError`].
    fn scan(&self, family: Family, from: &[u8], visit: &mut Visitor<'_>) -> Result<(), KvError>;

    /// Takes in keys without values, ascending and distinct, more cheaply than single writes; a key that is there already
    /// stays. Visible and durable when it returns. Not for families that are also written.
    ///
    /// # Errors
    /// [`KvError`]; some or none of the keys may be there then.
    fn ingest(&self, family: Family, keys: &mut dyn Iterator<Item = &[u8]>) -> Result<(), KvError>;

    /// Removes ingested keys in front of `end` for good, at once, as far as that needs no rewriting: whole runs go, one that
    /// `end` lies in may stay. Only for what no batch that a crash could fall back to names any more.
    ///
    /// # Errors
    /// [`KvError`]; some or none of the keys may be gone then.
    fn drop_ingested(&self, family: Family, end: &[u8]) -> Result<(), KvError>;

    /// Makes every batch written so far durable.
    ///
    /// # Errors
    /// [`KvError`]; the store must not be used any more.
    fn flush(&self) -> Result<(), KvError>;

    /// Copies the store as it is into the folder `dir`, which does not exist yet but its parent does: names and sizes of the files
    /// in it. The copy stays as it is, and can be opened like any store.
    ///
    /// # Errors
    /// [`KvError`]; the folder may be there in part.
    fn checkpoint(&self, fs: &dyn Fs, dir: &Path) -> Result<Vec<(String, u64)>, KvError>;
}

/// Visits all keys that start with `prefix`, ascending, until the visitor breaks.
pub(crate) fn scan_prefix(
    kv: &dyn Kv,
    family: Family,
    prefix: &[u8],
    mut visit: impl FnMut(&[u8], &[u8]) -> ControlFlow<()>,
) -> Result<(), KvError> {
    kv.scan(family, prefix, &mut |key, value| {
        if key.starts_with(prefix) { visit(key, value) } else { ControlFlow::Break(()) }
    })
}

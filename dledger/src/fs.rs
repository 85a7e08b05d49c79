//! The disk behind a trait: what the log needs of a file system, in one place, real ([`OsFs`]) and simulated
//! ([`crate::sim::disk::SimFs`]).
//!
//! Durability is spelled out: file content is durable after [`File::sync_data`], a created, renamed or removed name
//! after [`Fs::sync_dir`] of its folder. After an error of a sync nothing may be retried: the kernel marks failed pages
//! clean, so a second sync would succeed without having written them. Callers end the process instead.

mod os;

use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

pub use os::OsFs;

/// How to open a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// An existing file, for reading.
    Read,
    /// An existing file, for reading and writing.
    ReadWrite,
    /// A file that must not exist yet, for reading and writing.
    CreateNew,
}

/// A file system.
pub trait Fs: Send + Sync + 'static {
    /// Creates a folder and the folders above it. What exists already is no error. The new names are durable only
    /// after a [`Fs::sync_dir`] of each folder that got one.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Names in a folder, sorted.
    fn list(&self, path: &Path) -> io::Result<Vec<String>>;
    /// Whether the path exists.
    fn try_exists(&self, path: &Path) -> io::Result<bool>;
    /// Opens or creates a file.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>>;
    /// Renames a file or folder, replacing a file of the new name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Gives a file a second name, which must not exist yet.
    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file. Open handles and mappings live on.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Removes a folder and everything in it.
    fn remove_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a folder durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Makes everything on the file system that holds `path` durable (`syncfs`).
    fn sync_fs(&self, path: &Path) -> io::Result<()>;
    /// Bytes that may still be written on the file system that holds `path`.
    fn free_bytes(&self, path: &Path) -> io::Result<u64>;
}

/// An open file. All methods take positions: there is no cursor.
pub trait File: Send + Sync {
    /// Writes all of `bufs`, one behind the other, from `offset` on.
    fn write_at(&self, bufs: &[&[u8]], offset: u64) -> io::Result<()>;
    /// Reads into `buf` until it is full or the file ends; returns the number of bytes read.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Like [`File::read_at`], but from the disk: after a failed sync the page cache can show bytes that the disk does
    /// not have. Costs a disk read; for recovery.
    fn read_uncached_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Makes the content and the length durable (`fdatasync`). An error is final: see the module.
    fn sync_data(&self) -> io::Result<()>;
    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Names that lead to it ([`Fs::hard_link`]).
    fn links(&self) -> io::Result<u64>;
    /// Whether the file has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Cuts or extends (with zeros) the file. Never on a mapped file.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Gives the space of whole blocks in `len` bytes from `offset` on back to the file system. Bytes in the range read as zeros
    /// from here on, those of a block that is not whole perhaps as before; the length stays. Never on a mapped file.
    ///
    /// # Errors
    /// [`io::ErrorKind::Unsupported`] where the file system has no holes; nothing was changed then.
    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()>;
    /// Maps the first `len` bytes for reading. The file must be at least that long and never be cut.
    fn map(&self, len: u64) -> io::Result<Arc<dyn Mapping>>;
}

/// A file mapped for reading.
pub trait Mapping: Send + Sync {
    /// `len` bytes from `offset` on; an error when they do not lie inside. The real one copies nothing and keeps the
    /// mapping alive until the last slice is dropped; the simulated one copies.
    fn slice(self: Arc<Self>, offset: u64, len: usize) -> io::Result<Bytes>;
}

//! A simulated file system that keeps durable and volatile bytes apart, per file and per folder entry.
//!
//! Everything the log promises rests on which bytes survive; here a test decides that. A *crash* is the death of the
//! process: the page cache stays, handles die. A *power cut* keeps what was synced, and of the rest, sector by sector
//! and name by name, whatever the seeded generator says: old, new, an intermediate version, or torn, in any order.
//! Folder entries are durable only after a sync of their folder, stricter than most real file systems. Time does not
//! exist here. Fully deterministic: no clock, no thread, no randomness but what is passed in.

mod content;
mod names;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use rand::{Rng, RngCore};

use crate::fs::{File, Fs, Mapping, OpenMode};
use content::Content;
use names::{Names, Node};

pub use content::SECTOR;

/// Free space reported when no capacity was set.
const ENDLESS: u64 = 1 << 50;

/// How many unsynced things there were, and what happened to them. Never reset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SimCounters {
    /// Calls of `write_at`.
    pub writes: u64,
    /// Bytes in them.
    pub written_bytes: u64,
    /// Calls of `sync_data` that succeeded.
    pub syncs: u64,
    /// Calls of `sync_dir` and `sync_fs` that succeeded.
    pub dir_syncs: u64,
    /// Calls of reads.
    pub reads: u64,
    /// Calls that a planted fault failed.
    pub faults: u64,
    /// Process deaths.
    pub crashes: u64,
    /// Power cuts.
    pub power_cuts: u64,
    /// Unsynced sectors that a power cut kept.
    pub kept_sectors: u64,
    /// Unsynced sectors that a power cut lost, wholly or to an older version.
    pub lost_sectors: u64,
    /// Unsynced sectors that a power cut tore.
    pub torn_sectors: u64,
    /// Unsynced folder entries that a power cut undid.
    pub lost_names: u64,
}

/// Something unsynced at a power cut.
#[derive(Clone, Copy, Debug)]
pub enum Unsynced<'a> {
    /// A sector of a file, with this many versions between the durable and the newest one.
    Sector {
        /// The file, when it has a name.
        path: Option<&'a Path>,
        /// Sector number.
        sector: u64,
        /// Versions in between.
        versions: usize,
    },
    /// The length of a file.
    Length {
        /// The file, when it has a name.
        path: Option<&'a Path>,
    },
    /// A created, renamed or removed folder entry.
    Name {
        /// The path that it concerns.
        path: &'a Path,
    },
}

/// What a power cut leaves of it. For lengths and names anything but `Lost` is `Kept`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The newest state is on disk.
    Kept,
    /// The last synced state is on disk.
    Lost,
    /// The version with this number, oldest first, is on disk.
    Older(usize),
    /// The first bytes are the newest, the rest as last synced.
    Torn(usize),
}

#[derive(Default)]
struct Faults {
    /// Remaining syncs until one fails, and what its path must contain.
    sync: Option<(u64, String)>,
    /// Remaining reads until one fails, and what its path must contain.
    read: Option<(u64, String)>,
    /// Bytes that all files together may have.
    capacity: Option<u64>,
    /// Changes that still succeed before the power is off.
    changes_left: Option<u64>,
}

struct FileState {
    content: Content,
    /// Its last name, for messages and fault filters.
    path: PathBuf,
    /// Cloned into each handle: tells whether one is open.
    token: Arc<()>,
}

#[derive(Default)]
struct State {
    /// Raised by each crash and power cut: handles of an earlier one fail.
    incarnation: u64,
    files: BTreeMap<u64, FileState>,
    next_file: u64,
    names: Names,
    faults: Faults,
    off: bool,
    counters: SimCounters,
}

/// The simulated file system. Clones share the disk.
#[derive(Clone, Default)]
pub struct SimFs {
    state: Arc<Mutex<State>>,
}

/// What the simulator and tests do to the disk.
impl SimFs {
    /// An empty disk.
    pub fn new() -> SimFs {
        SimFs::default()
    }

    /// The process dies: the page cache survives, all handles fail from now on, planted faults are forgotten.
    pub fn crash(&self) {
        let mut state = self.state.lock();
        state.counters.crashes += 1;
        state.restart();
    }

    /// The power fails: synced state survives; of the rest `rng` decides piece by piece. How much is kept differs from
    /// cut to cut, from nothing to everything. Handles fail from now on, planted faults are forgotten.
    pub fn power_cut(&self, rng: &mut dyn RngCore) {
        let kept_percent = [0, 10, 50, 90, 100][rng.random_range(0..5)];
        let torn_percent = [0, 0, 20][rng.random_range(0..3)];
        self.power_cut_with(&mut |unsynced| {
            if let Unsynced::Sector { versions, .. } = unsynced {
                if rng.random_range(0..100) < torn_percent {
                    return Fate::Torn(rng.random_range(1..SECTOR));
                }
                if versions > 0 && rng.random_range(0..100) < 20 {
                    return Fate::Older(rng.random_range(0..versions));
                }
            }
            if rng.random_range(0..100) < kept_percent { Fate::Kept } else { Fate::Lost }
        });
    }

    /// A power cut whose every decision is the caller's. Sectors come by file and number, then names in the order of
    /// the calls that changed them.
    pub fn power_cut_with(&self, decide: &mut dyn FnMut(Unsynced<'_>) -> Fate) {
        let mut state = self.state.lock();
        let State { files, names, counters, .. } = &mut *state;
        counters.power_cuts += 1;
        for file in files.values_mut() {
            file.content.power_cut(Some(&file.path), decide, counters);
        }
        counters.lost_names += names.power_cut(decide);
        state.restart();
    }

    /// Number of unsynced sectors of all files.
    pub fn unsynced_sectors(&self) -> usize {
        self.state.lock().files.values().map(|file| file.content.unsynced()).sum()
    }

    /// Lets `changes` more changing calls (writes, syncs, folder changes) succeed; then the power is off and every call
    /// fails until [`SimFs::crash`] or a power cut.
    pub fn power_off_after(&self, changes: u64) {
        self.state.lock().faults.changes_left = Some(changes);
    }

    /// Whether the changes of [`SimFs::power_off_after`] are used up.
    pub fn is_off(&self) -> bool {
        self.state.lock().off
    }

    /// Makes the `nth` (1 = next) `sync_data` of a file whose path contains `path_part` fail with EIO. Nothing of that
    /// file's unsynced content reaches the disk then, but the cache goes on showing it, and a second sync succeeds
    /// without writing it: what Linux does.
    pub fn fail_sync(&self, nth: u64, path_part: &str) {
        self.state.lock().faults.sync = Some((nth, path_part.to_owned()));
    }

    /// Makes the `nth` (1 = next) read of a file whose path contains `path_part` fail with EIO.
    pub fn fail_read(&self, nth: u64, path_part: &str) {
        self.state.lock().faults.read = Some((nth, path_part.to_owned()));
    }

    /// Bounds the bytes that all files together may have; writes beyond fail with ENOSPC.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state.lock().faults.capacity = bytes;
    }

    /// Rot: flips one bit of a file, on disk and in the cache.
    ///
    /// # Panics
    /// When there is no such byte.
    pub fn flip_bit(&self, path: &Path, offset: u64, bit: u8) {
        let mut state = self.state.lock();
        let id = state.names.file(path).expect("the file to damage exists");
        state.files.get_mut(&id).expect("named files have content").content.flip_bit(offset, bit);
    }

    /// Sets a byte in the page cache alone.
    ///
    /// # Panics
    /// When there is no such byte.
    pub fn set_cached(&self, path: &Path, offset: u64, byte: u8) {
        let mut state = self.state.lock();
        let id = state.names.file(path).expect("the file to change exists");
        state.files.get_mut(&id).expect("named files have content").content.set_cached(offset, byte);
    }

    /// Makes a bad byte good wherever it is still found: on disk, in the cache, and in what a power cut might bring back. Nothing
    /// when there is no such file.
    pub fn heal_byte(&self, path: &Path, offset: u64, bad: u8, good: u8) {
        let state = &mut *self.state.lock();
        let file = state.names.file(path).ok().and_then(|id| state.files.get_mut(&id));
        file.into_iter().for_each(|file| file.content.heal_byte(offset, bad, good));
    }

    /// What a reader sees of a file; `None` when it does not exist.
    pub fn contents(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.state.lock();
        let id = state.names.file(path).ok()?;
        Some(state.files[&id].content.cached().to_vec())
    }

    /// What a reader sees of a range of a file; `None` when the file or a part of the range is not there.
    pub fn cached(&self, path: &Path, offset: u64, len: usize) -> Option<Vec<u8>> {
        let state = self.state.lock();
        let content = &state.files[&state.names.file(path).ok()?].content;
        let start = usize::try_from(offset).ok()?;
        content.cached().get(start..start.checked_add(len)?).map(<[u8]>::to_vec)
    }

    /// What a power cut that keeps nothing unsynced would leave of a range of a file; `None` when the file or a part of
    /// the range would not be there.
    pub fn durable(&self, path: &Path, offset: u64, len: usize) -> Option<Vec<u8>> {
        let state = self.state.lock();
        let content = &state.files.get(&state.names.durable_file(path)?)?.content;
        let start = usize::try_from(offset).ok()?;
        content.durable().get(start..start.checked_add(len)?).map(<[u8]>::to_vec)
    }

    /// Takes back faults that were planted and have not struck.
    pub fn forget_faults(&self) {
        let mut state = self.state.lock();
        state.faults = Faults { capacity: state.faults.capacity, ..Faults::default() };
    }

    /// All paths of files, sorted.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.state.lock().names.files().map(|(path, _)| path.clone()).collect()
    }

    /// What happened so far.
    pub fn counters(&self) -> SimCounters {
        self.state.lock().counters
    }
}

impl State {
    fn restart(&mut self) {
        self.incarnation += 1;
        self.off = false;
        self.faults = Faults { capacity: self.faults.capacity, ..Faults::default() };
        self.forget_unnamed(true);
    }

    /// Drops files that no name, durable or not, leads to, unless a live handle does.
    fn forget_unnamed(&mut self, handles_died: bool) {
        let named = self.names.referenced();
        self.files.retain(|id, file| named.contains(id) || (!handles_died && Arc::strong_count(&file.token) > 1));
    }

    fn check_on(&self) -> io::Result<()> {
        if self.off { Err(io::Error::other("the simulated power is off")) } else { Ok(()) }
    }

    /// Counts a changing call.
    fn change(&mut self) -> io::Result<()> {
        self.check_on()?;
        match &mut self.faults.changes_left {
            Some(0) => {
                self.off = true;
                self.check_on()
            }
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn used(&self) -> u64 {
        self.files.values().map(|file| file.content.cached().len() as u64).sum()
    }
}

/// Counts down a planted fault; true when it strikes now.
fn strikes(fault: &mut Option<(u64, String)>, path: &Path) -> bool {
    let Some((left, part)) = fault else { return false };
    if !path.to_string_lossy().contains(part.as_str()) {
        return false;
    }
    *left = left.saturating_sub(1);
    let now = *left == 0;
    if now {
        *fault = None;
    }
    now
}

/// What Linux answers when the disk cannot read or write.
fn eio() -> io::Error {
    io::Error::from_raw_os_error(5)
}

impl Fs for SimFs {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.change()?;
        state.names.create_dir_all(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let state = self.state.lock();
        state.check_on()?;
        state.names.list(path)
    }

    fn try_exists(&self, path: &Path) -> io::Result<bool> {
        let state = self.state.lock();
        state.check_on()?;
        Ok(state.names.node(path).is_some())
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let mut state = self.state.lock();
        let id = if mode == OpenMode::CreateNew {
            state.change()?;
            let id = state.next_file;
            state.names.create(path, Node::File(id))?;
            state.next_file += 1;
            let file = FileState { content: Content::default(), path: path.to_owned(), token: Arc::new(()) };
            state.files.insert(id, file);
            id
        } else {
            state.check_on()?;
            state.names.file(path)?
        };
        let token = state.files[&id].token.clone();
        let writable = mode != OpenMode::Read;
        Ok(Arc::new(SimFile { state: self.state.clone(), incarnation: state.incarnation, id, writable, _token: token }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.change()?;
        state.names.rename(from, to)?;
        if let Ok(id) = state.names.file(to) {
            state.files.get_mut(&id).expect("named files have content").path = to.to_owned();
        }
        Ok(())
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.change()?;
        let id = state.names.file(from)?;
        state.names.create(to, Node::File(id))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.change()?;
        state.names.remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.change()?;
        state.names.remove_dir_all(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.change()?;
        state.names.sync_dir(path)?;
        state.counters.dir_syncs += 1;
        state.forget_unnamed(false);
        Ok(())
    }

    fn sync_fs(&self, _path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.change()?;
        for file in state.files.values_mut() {
            file.content.sync();
        }
        state.names.sync_all();
        state.counters.dir_syncs += 1;
        state.forget_unnamed(false);
        Ok(())
    }

    fn free_bytes(&self, _path: &Path) -> io::Result<u64> {
        let state = self.state.lock();
        state.check_on()?;
        Ok(state.faults.capacity.map_or(ENDLESS, |capacity| capacity.saturating_sub(state.used())))
    }
}

struct SimFile {
    state: Arc<Mutex<State>>,
    incarnation: u64,
    id: u64,
    writable: bool,
    _token: Arc<()>,
}

impl SimFile {
    /// Runs `work` on the file when the handle is still alive.
    fn with<T>(&self, work: impl FnOnce(&mut State, u64) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.state.lock();
        if state.incarnation != self.incarnation {
            return Err(io::Error::other("this handle belongs to a process that has died"));
        }
        state.check_on()?;
        work(&mut state, self.id)
    }

    fn changing<T>(&self, work: impl FnOnce(&mut State, u64) -> io::Result<T>) -> io::Result<T> {
        if !self.writable {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        self.with(|state, id| {
            state.change()?;
            work(state, id)
        })
    }

    fn read(&self, buf: &mut [u8], offset: u64, uncached: bool) -> io::Result<usize> {
        self.with(|state, id| {
            state.counters.reads += 1;
            let file = state.files.get_mut(&id).expect("open files have content");
            if strikes(&mut state.faults.read, &file.path) {
                state.counters.faults += 1;
                return Err(eio());
            }
            if uncached {
                file.content.drop_cache(offset, buf.len() as u64);
            }
            Ok(file.content.read(buf, offset))
        })
    }
}

impl File for SimFile {
    fn write_at(&self, bufs: &[&[u8]], offset: u64) -> io::Result<()> {
        self.changing(|state, id| {
            let len: u64 = bufs.iter().map(|buf| buf.len() as u64).sum();
            let old_len = state.files[&id].content.cached().len() as u64;
            let growth = (offset + len).saturating_sub(old_len);
            if growth > 0 && state.faults.capacity.is_some_and(|capacity| state.used() + growth > capacity) {
                state.counters.faults += 1;
                return Err(io::ErrorKind::StorageFull.into());
            }
            state.counters.writes += 1;
            state.counters.written_bytes += len;
            let file = state.files.get_mut(&id).expect("open files have content");
            let mut at = offset;
            for buf in bufs {
                file.content.write(buf, at);
                at += buf.len() as u64;
            }
            Ok(())
        })
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.read(buf, offset, false)
    }

    fn read_uncached_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.read(buf, offset, true)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.with(|state, id| {
            state.change()?;
            let file = state.files.get_mut(&id).expect("open files have content");
            if strikes(&mut state.faults.sync, &file.path) {
                file.content.fail_sync();
                state.counters.faults += 1;
                return Err(eio());
            }
            file.content.sync();
            state.counters.syncs += 1;
            Ok(())
        })
    }

    fn len(&self) -> io::Result<u64> {
        self.with(|state, id| Ok(state.files[&id].content.cached().len() as u64))
    }

    fn links(&self) -> io::Result<u64> {
        self.with(|state, id| Ok(state.names.files().filter(|(_, of)| *of == id).count() as u64))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.changing(|state, id| {
            state.files.get_mut(&id).expect("open files have content").content.set_len(len);
            Ok(())
        })
    }

    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        self.changing(|state, id| {
            let content = &mut state.files.get_mut(&id).expect("open files have content").content;
            let end = (offset + len).min(content.cached().len() as u64);
            if offset < end {
                content.write(&vec![0; (end - offset) as usize], offset);
            }
            Ok(())
        })
    }

    fn map(&self, len: u64) -> io::Result<Arc<dyn Mapping>> {
        if self.len()? < len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let SimFile { state, incarnation, id, writable, _token } = self;
        let file = SimFile {
            state: state.clone(),
            incarnation: *incarnation,
            id: *id,
            writable: *writable,
            _token: _token.clone(),
        };
        Ok(Arc::new(SimMapping { file, len }))
    }
}

/// A mapping that copies what is in the cache at the time of the call.
struct SimMapping {
    file: SimFile,
    len: u64,
}

impl Mapping for SimMapping {
    fn slice(self: Arc<Self>, offset: u64, len: usize) -> io::Result<Bytes> {
        if offset.checked_add(len as u64).is_none_or(|end| end > self.len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut bytes = vec![0; len];
        self.file.with(|state, id| {
            state.files[&id].content.read(&mut bytes, offset);
            Ok(())
        })?;
        Ok(bytes.into())
    }
}

#[cfg(test)]
mod tests;

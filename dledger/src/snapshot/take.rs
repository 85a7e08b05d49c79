//! The taking side, without a network: which bytes are missing, where they go, and whether they are right in the end.
//!
//! ```text
//! Pull::begin -> (next -> a peer -> take)* -> finish -> Staged
//! ```
//! Files grow from front to back, so that a pull goes on where an earlier one, of this process or the one before, has ended. What
//! lies there is only believed once [`Pull::finish`] has checked it: files by their checksums, segments by the chain of their
//! frames. What turns out wrong is removed and pulled again.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::give::crc_of;
use super::manifest::{MANIFEST_LEN_MAX, Manifest, SnapshotId};
use super::{FileRange, REQUEST_BYTES_MAX, REQUEST_RANGES_MAX, SNAP_DIR, STATE_DIR, TAKE_DIR};
use crate::fs::{File, Fs, OpenMode};
use crate::log::meta::Meta;
use crate::log::recovery::{Recovered, RecoveryError, TailState, recover};
use crate::log::segment::{LOG_DIR, parse_segment_name, segment_path};
use crate::plant::{self, Bug};
use crate::types::LogPos;

/// Name of the file in [`TAKE_DIR`] that says what is being taken.
const MANIFEST_NAME: &str = "manifest";
/// Free space that must be left on the disk beside everything that is pulled.
const FREE_BYTES_MIN: u64 = 64 << 20;

/// Why a pull does not go on.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The disk.
    #[error("{path}: {source}", path = .path.display())]
    Io {
        /// File or folder.
        path: PathBuf,
        /// The system's own words.
        source: io::Error,
    },
    /// What came is not what the manifest says. It was removed: the pull can go on and fetches it again.
    #[error("{path} is not what the snapshot's manifest says: it is fetched again", path = .0.display())]
    Damaged(PathBuf),
    /// The snapshot does not fit on the disk.
    #[error("the snapshot needs {needed} bytes in {path}, where {free} are free: make room", path = .path.display())]
    NoRoom {
        /// The folder.
        path: PathBuf,
        /// Bytes still to come, and the reserve.
        needed: u64,
        /// Bytes free.
        free: u64,
    },
    /// An answer has another length than was asked for.
    #[error("the answer has {got} bytes instead of {wanted}")]
    Answer {
        /// As came.
        got: usize,
        /// As asked.
        wanted: u64,
    },
}

/// One file to be pulled.
struct Item {
    path: PathBuf,
    /// First byte that is there to be pulled.
    from: u64,
    size: u64,
    /// Checksum; `None` for a segment.
    crc: Option<u32>,
}

/// A snapshot on its way.
pub struct Pull {
    fs: Arc<dyn Fs>,
    /// The group's folder.
    group_dir: PathBuf,
    dir: PathBuf,
    meta: Meta,
    manifest: Manifest,
    id: SnapshotId,
    items: Vec<Item>,
    /// The file that is written, and up to where it is there.
    at: usize,
    offset: u64,
    open: Option<Arc<dyn File>>,
    total: u64,
    missing: u64,
}

/// A snapshot that is on this disk, whole, right and synced; nothing counts of it yet.
pub struct Staged {
    pub(crate) fs: Arc<dyn Fs>,
    /// The group's folder.
    pub(crate) group_dir: PathBuf,
    /// What it is.
    pub manifest: Manifest,
    pub(crate) recovered: Recovered,
}

impl fmt::Debug for Staged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Staged({:?})", self.manifest.tail)
    }
}

impl Pull {
    /// Begins, or goes on where a pull of the same or a similar snapshot has ended: segments and equal files that are there
    /// already are not fetched again. `dir` is the group's folder, `meta` that of this replica.
    ///
    /// # Errors
    /// [`PullError::Io`], [`PullError::NoRoom`].
    pub fn begin(fs: &Arc<dyn Fs>, dir: &Path, meta: &Meta, manifest: Manifest) -> Result<Pull, PullError> {
        let take = dir.join(SNAP_DIR).join(TAKE_DIR);
        keep_useful(fs, &take, &manifest)?;
        let state = take.join(STATE_DIR);
        let mut items = Vec::new();
        for file in &manifest.files {
            let path = state.join(&file.name);
            items.push(Item { path, from: file.from, size: file.size, crc: Some(file.crc) });
        }
        for base in manifest.segments() {
            let path = segment_path(&take, base);
            items.push(Item { path, from: 0, size: manifest.segment_len(base), crc: None });
        }
        let folders: BTreeSet<&Path> = items.iter().filter_map(|item| item.path.parent()).collect();
        for folder in folders.into_iter().chain([state.as_path()]) {
            fs.create_dir_all(folder).map_err(io_error(folder))?;
        }
        store_manifest(fs, &take, &manifest)?;
        let total = manifest.bytes();
        let mut pull = Pull {
            fs: fs.clone(),
            group_dir: dir.to_owned(),
            dir: take,
            meta: meta.clone(),
            id: manifest.id(),
            manifest,
            items,
            at: 0,
            offset: 0,
            open: None,
            total,
            missing: 0,
        };
        pull.look()?;
        let free = fs.free_bytes(&pull.dir).map_err(io_error(&pull.dir))?;
        let needed = pull.missing + FREE_BYTES_MIN;
        if free < needed {
            return Err(PullError::NoRoom { path: pull.dir, needed, free });
        }
        Ok(pull)
    }

    /// Which snapshot it is.
    pub fn id(&self) -> SnapshotId {
        self.id
    }

    /// Bytes that it has in all, and bytes that are still missing.
    pub fn progress(&self) -> (u64, u64) {
        (self.total, self.missing)
    }

    /// What to ask a peer for next, at most `bytes_max` (and [`REQUEST_BYTES_MAX`]) bytes; `None` when everything is there.
    pub fn next(&self, bytes_max: u64) -> Option<Vec<FileRange>> {
        let mut ranges = Vec::new();
        let mut room = bytes_max.clamp(1, REQUEST_BYTES_MAX);
        let mut offset = self.offset;
        for (n, item) in self.items.iter().enumerate().skip(self.at) {
            if n != self.at {
                // Behind the file that is being written nothing was looked at yet.
                offset = item.from;
            }
            if offset < item.size {
                let len = (item.size - offset).min(room);
                ranges.push(FileRange { file: n as u32, offset, len: len as u32 });
                room -= len;
            }
            if room == 0 || ranges.len() == REQUEST_RANGES_MAX || !self.is_fresh(n + 1) {
                break;
            }
        }
        (!ranges.is_empty()).then_some(ranges)
    }

    /// Whether nothing of an item is there yet: its length need not be asked for.
    fn is_fresh(&self, n: usize) -> bool {
        self.items.get(n).is_some_and(|item| matches!(self.fs.try_exists(&item.path), Ok(false)))
    }

    /// Takes the answer to [`Pull::next`].
    ///
    /// # Errors
    /// [`PullError::Io`], [`PullError::Answer`].
    pub fn take(&mut self, ranges: &[FileRange], bytes: &[u8]) -> Result<(), PullError> {
        let wanted: u64 = ranges.iter().map(|range| u64::from(range.len)).sum();
        if wanted != bytes.len() as u64 {
            return Err(PullError::Answer { got: bytes.len(), wanted });
        }
        let mut rest = bytes;
        for range in ranges {
            let n = range.file as usize;
            if n != self.at {
                self.open = None;
                self.at = n;
            }
            let (now, later) = rest.split_at(range.len as usize);
            rest = later;
            let path = &self.items[n].path;
            let file = match &self.open {
                Some(file) => file.clone(),
                None => open_or_create(&self.fs, path)?,
            };
            file.write_at(&[now], range.offset).map_err(io_error(path))?;
            self.open = Some(file);
            self.offset = range.offset + now.len() as u64;
            self.missing -= now.len() as u64;
        }
        self.skip_whole()
    }

    /// Looks at everything that is there.
    fn look(&mut self) -> Result<(), PullError> {
        self.open = None;
        self.missing = 0;
        for n in 0..self.items.len() {
            let there = self.there(n)?;
            self.missing += self.items[n].size - there;
        }
        self.at = 0;
        self.offset = if self.items.is_empty() { 0 } else { self.there(0)? };
        self.skip_whole()
    }

    /// Goes to the first file that is not whole.
    fn skip_whole(&mut self) -> Result<(), PullError> {
        while self.items.get(self.at).is_some_and(|item| self.offset >= item.size) {
            self.open = None;
            self.at += 1;
            self.offset = if self.at < self.items.len() { self.there(self.at)? } else { 0 };
        }
        Ok(())
    }

    /// Up to where a file is there.
    fn there(&self, n: usize) -> Result<u64, PullError> {
        let item = &self.items[n];
        let len = match self.fs.open(&item.path, OpenMode::Read) {
            Ok(file) => file.len().map_err(io_error(&item.path))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(io_error(&item.path)(error)),
        };
        Ok(len.clamp(item.from, item.size))
    }

    /// Checks everything and makes it durable.
    ///
    /// # Errors
    /// [`PullError::Damaged`]: the pull must go on ([`Pull::next`] has more). [`PullError::Io`] is final.
    pub fn finish(&mut self) -> Result<Staged, PullError> {
        assert!(self.at == self.items.len(), "a pull is finished when nothing is missing");
        let synced = !plant::on(Bug::SnapshotNotSynced);
        for n in 0..self.items.len() {
            let Item { path, from, size, crc } = &self.items[n];
            let file = open_or_create(&self.fs, path)?;
            match crc {
                Some(crc) => {
                    if from == size {
                        // Nothing was asked for, but it must be there.
                        file.set_len(*size).map_err(io_error(path))?;
                    }
                    if synced {
                        file.sync_data().map_err(io_error(path))?;
                    }
                    // From the disk: where a sync of an earlier run has failed, the page cache shows what is not there, and this
                    // sync has written nothing.
                    let read = |buf: &mut [u8], at| file.read_uncached_at(buf, at);
                    let right = file.len().map_err(io_error(path))? == *size
                        && crc_of(&read, *from, *size).map_err(io_error(path))? == *crc;
                    if !right {
                        let path = path.clone();
                        return Err(self.damaged(path)?);
                    }
                }
                None => {
                    file.set_len(self.manifest.constants.segment_size).map_err(io_error(path))?;
                    if synced {
                        file.sync_data().map_err(io_error(path))?;
                    }
                }
            }
        }
        // Segments are read from the disk from here on, so they are synced in any case.
        let proven = Meta {
            first: self.manifest.first,
            durable: self.manifest.first.before(),
            stale_until: LogPos(0),
            clean_shutdown: false,
            ..self.meta.clone()
        };
        let recovered = match recover(&self.fs, &self.dir, &proven) {
            Ok(found)
                if found.tail != self.manifest.tail
                    || found.tail_state != TailState::Clean
                    || !found.damage.is_empty() =>
            {
                return Err(self.damaged_at(found.tail.end())?);
            }
            Ok(found) => match found.mend.blanks.first() {
                Some((pos, _)) => return Err(self.damaged_at(*pos)?),
                None => found,
            },
            Err(RecoveryError::Damaged { pos, .. }) => {
                return Err(self.damaged_at(pos)?);
            }
            Err(RecoveryError::Io { path, source, .. }) => return Err(PullError::Io { path, source }),
            Err(
                RecoveryError::NotASegment { path, .. }
                | RecoveryError::MissingSegment(path)
                | RecoveryError::Meta { dir: path, .. },
            ) => return Err(PullError::Damaged(path)),
        };
        if synced {
            self.sync_folders()?;
        }
        Ok(Staged {
            fs: self.fs.clone(),
            group_dir: self.group_dir.clone(),
            manifest: self.manifest.clone(),
            recovered,
        })
    }

    /// Removes what is wrong, so that it is fetched again.
    fn damaged(&mut self, path: PathBuf) -> Result<PullError, PullError> {
        self.fs.remove_file(&path).map_err(io_error(&path))?;
        self.look()?;
        Ok(PullError::Damaged(path))
    }

    /// The log is wrong behind this position: in its segment, or at the beginning of the next.
    fn damaged_at(&mut self, pos: LogPos) -> Result<PullError, PullError> {
        let layout = self.manifest.constants.layout();
        let base = layout.base_of(pos.min(self.manifest.tail.pos));
        for base in [base + layout.segment_size, base] {
            let path = segment_path(&self.dir, base);
            if self.fs.try_exists(&path).map_err(io_error(&path))? {
                self.fs.remove_file(&path).map_err(io_error(&path))?;
            }
        }
        self.look()?;
        Ok(PullError::Damaged(segment_path(&self.dir, base)))
    }

    /// Makes the names durable, from the deepest folder to the group's.
    fn sync_folders(&self) -> Result<(), PullError> {
        let mut folders: BTreeSet<&Path> = BTreeSet::new();
        for item in &self.items {
            folders.extend(item.path.ancestors().skip(1).take_while(|folder| folder.starts_with(&self.group_dir)));
        }
        let state = self.dir.join(STATE_DIR);
        folders.insert(&state);
        for folder in folders.iter().rev() {
            self.fs.sync_dir(folder).map_err(io_error(folder))?;
        }
        Ok(())
    }
}

/// Gives up what was taken so far.
pub(crate) fn discard(fs: &Arc<dyn Fs>, dir: &Path) -> io::Result<()> {
    let take = dir.join(SNAP_DIR).join(TAKE_DIR);
    if fs.try_exists(&take)? { fs.remove_dir_all(&take) } else { Ok(()) }
}

/// The manifest of what was being taken when the last run ended.
pub(crate) fn left_over(fs: &Arc<dyn Fs>, dir: &Path) -> Option<Manifest> {
    read_manifest(fs, &dir.join(SNAP_DIR).join(TAKE_DIR))
}

/// Removes from the folder what the new snapshot has not, or has otherwise.
fn keep_useful(fs: &Arc<dyn Fs>, take: &Path, manifest: &Manifest) -> Result<(), PullError> {
    let exists = fs.try_exists(take).map_err(io_error(take))?;
    match read_manifest(fs, take) {
        Some(old) if old == *manifest => return Ok(()),
        Some(old) if old.constants == manifest.constants && old.group == manifest.group => {
            let new: BTreeMap<&str, _> = manifest.files.iter().map(|file| (file.name.as_str(), file)).collect();
            for file in old.files.iter().filter(|file| new.get(file.name.as_str()) != Some(file)) {
                let path = take.join(STATE_DIR).join(&file.name);
                if fs.try_exists(&path).map_err(io_error(&path))? {
                    fs.remove_file(&path).map_err(io_error(&path))?;
                }
            }
            let log = take.join(LOG_DIR);
            let wanted: BTreeSet<LogPos> = manifest.segments().collect();
            if fs.try_exists(&log).map_err(io_error(&log))? {
                let last = old.segments().last();
                for name in fs.list(&log).map_err(io_error(&log))? {
                    let base = parse_segment_name(&name);
                    let path = log.join(&name);
                    if !base.is_some_and(|base| wanted.contains(&base)) {
                        fs.remove_file(&path).map_err(io_error(&path))?;
                    } else if base == last {
                        // It may have been brought to its full length by then.
                        cut_to(fs, &path, old.segment_len(base.unwrap_or_default()))?;
                    }
                }
            }
        }
        _ if exists => fs.remove_dir_all(take).map_err(io_error(take))?,
        _ => {}
    }
    Ok(())
}

fn cut_to(fs: &Arc<dyn Fs>, path: &Path, len: u64) -> Result<(), PullError> {
    let file = fs.open(path, OpenMode::ReadWrite).map_err(io_error(path))?;
    if file.len().map_err(io_error(path))? > len { file.set_len(len).map_err(io_error(path)) } else { Ok(()) }
}

fn read_manifest(fs: &Arc<dyn Fs>, take: &Path) -> Option<Manifest> {
    let file = fs.open(&take.join(MANIFEST_NAME), OpenMode::Read).ok()?;
    let len = usize::try_from(file.len().ok()?).ok().filter(|len| *len <= MANIFEST_LEN_MAX)?;
    let mut bytes = vec![0; len];
    let read = file.read_at(&mut bytes, 0).ok()?;
    Manifest::decode(&bytes[..read]).ok()
}

fn store_manifest(fs: &Arc<dyn Fs>, take: &Path, manifest: &Manifest) -> Result<(), PullError> {
    if read_manifest(fs, take).as_ref() == Some(manifest) {
        return Ok(());
    }
    let path = take.join(MANIFEST_NAME);
    if fs.try_exists(&path).map_err(io_error(&path))? {
        fs.remove_file(&path).map_err(io_error(&path))?;
    }
    let file = fs.open(&path, OpenMode::CreateNew).map_err(io_error(&path))?;
    file.write_at(&[&manifest.encode()], 0).map_err(io_error(&path))
}

fn open_or_create(fs: &Arc<dyn Fs>, path: &Path) -> Result<Arc<dyn File>, PullError> {
    match fs.open(path, OpenMode::ReadWrite) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs.open(path, OpenMode::CreateNew).map_err(io_error(path))
        }
        opened => opened.map_err(io_error(path)),
    }
}

fn io_error(path: &Path) -> impl Fn(io::Error) -> PullError {
    let path = path.to_owned();
    move |source| PullError::Io { path: path.clone(), source }
}

//! ConsumeQueues: for each queue of a topic a file of units, which say where the messages lie in the CommitLog.
//!
//! ```text
//! cq/<topic>@<incarnation>/<queue>      unit n at byte n * 20, big-endian:
//!   u64 physical offset | u32 record size | i64 tag hash
//! ```
//! Apply writes, one write per touched queue and round; pulls read. The files follow the log and can be made again from it,
//! byte for byte, so nothing is synced here but by [`ConsumeQueues::sync`]; where a queue ends is said by the tables, never
//! by a file's length: behind the end may stand what a crash left.
//!
//! A file grows by appending and costs nothing until its queue has a message. When old messages go, the front of the file is
//! given back to the disk as a hole: unit n stays at n * 20.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ledgermq_dledger::fs::{File, Fs, OpenMode};
use parking_lot::{Mutex, RwLock};
use thiserror::Error;

use super::open_files::OpenFiles;
use crate::tables::{Topic, TopicKey};

/// Bytes of a unit.
pub const UNIT_LEN: usize = 20;
/// Most units that one read returns.
pub const UNITS_PER_READ_MAX: usize = 4096;
/// Longest part of a topic's name in its folder's name: file systems allow 255 bytes, names have up to 255, and the
/// incarnation needs 21. A name cut short stays unique by its incarnation, since one entry creates one topic; the genesis
/// entry, which creates several, has only short ones.
const FOLDER_NAME_LEN_MAX: usize = 200;

/// One message of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unit {
    /// Position of its record in the CommitLog.
    pub physical_offset: u64,
    /// Size of the record in bytes.
    pub size: u32,
    /// Hash of its tag; 0 without one.
    pub tags_code: i64,
}

impl Unit {
    /// The bytes in the file.
    pub fn encode(&self) -> [u8; UNIT_LEN] {
        let mut bytes = [0; UNIT_LEN];
        bytes[..8].copy_from_slice(&self.physical_offset.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.size.to_be_bytes());
        bytes[12..].copy_from_slice(&self.tags_code.to_be_bytes());
        bytes
    }

    /// Reads what [`Unit::encode`] made.
    pub fn decode(bytes: &[u8; UNIT_LEN]) -> Self {
        let part = |at: usize| *bytes[at..].first_chunk::<8>().expect("a unit has 20 bytes");
        Unit {
            physical_offset: u64::from_be_bytes(part(0)),
            size: u32::from_be_bytes(*bytes[8..].first_chunk().expect("a unit has 20 bytes")),
            tags_code: i64::from_be_bytes(part(12)),
        }
    }
}

/// A queue's file could not be used.
#[derive(Debug, Error)]
#[error("cannot {action} ConsumeQueue file {path}: {source}", path = .path.display())]
pub struct QueueError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// Which of the messages around a time is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Boundary {
    /// The first one not older.
    Lower,
    /// The last one not newer.
    Upper,
}

/// All ConsumeQueues of a group. Clones share the open files.
#[derive(Clone)]
pub struct ConsumeQueues {
    shared: Arc<Shared>,
}

struct Shared {
    fs: Arc<dyn Fs>,
    /// Another one when a snapshot is taken over.
    dir: RwLock<PathBuf>,
    /// Held while a file is opened, never while one is read or written.
    open: Mutex<OpenFiles>,
}

impl ConsumeQueues {
    /// Those in `dir`, which is created when missing; at most `open_files_max` stay open.
    pub(super) fn open(fs: Arc<dyn Fs>, dir: PathBuf, open_files_max: usize) -> Result<Self, QueueError> {
        fs.create_dir_all(&dir).map_err(|error| failed("create the folder of", &dir, error))?;
        let open = Mutex::new(OpenFiles::new(open_files_max));
        Ok(ConsumeQueues { shared: Arc::new(Shared { fs, dir: RwLock::new(dir), open }) })
    }

    /// The file system.
    pub(super) fn fs(&self) -> Arc<dyn Fs> {
        Arc::clone(&self.shared.fs)
    }

    /// Goes on with the files in another folder.
    pub(super) fn move_to(&self, dir: PathBuf) {
        // Nobody opens a file of the old folder after this.
        let mut open = self.shared.open.lock();
        *self.shared.dir.write() = dir;
        open.close_all();
    }

    /// Gives the file of a queue a second name below `to`, and returns it: the first one may go, the bytes stay.
    pub(super) fn link(&self, topic: &TopicKey, queue: u32, to: &Path) -> Result<String, QueueError> {
        let name = format!("{}/{queue}", folder_name(topic));
        let (from, to) = (self.shared.path(topic, queue), to.join(&name));
        let folder = to.parent().expect("a queue's file lies in its topic's folder");
        let fs = &self.shared.fs;
        fs.create_dir_all(folder).map_err(|error| failed("create the folder of", &to, error))?;
        fs.hard_link(&from, &to).map_err(|error| failed("link", &from, error))?;
        Ok(name)
    }

    /// Units of the messages from offset `from` on: at most `max` and [`UNITS_PER_READ_MAX`], none behind its last applied
    /// message. None at all when `from` lies before the queue's first message, also when that came about meanwhile.
    ///
    /// # Errors
    /// [`QueueError`] when the file is not what the tables say, or the disk fails.
    pub fn read(&self, topic: &Topic, queue: u32, from: u64, max: usize) -> Result<Vec<Unit>, QueueError> {
        if from < topic.min_offset(queue) {
            return Ok(Vec::new());
        }
        let count = topic.next_offset(queue).saturating_sub(from).min(max.min(UNITS_PER_READ_MAX) as u64) as usize;
        let mut bytes = vec![0; count * UNIT_LEN];
        self.read_bytes(topic.key(), queue, from, &mut bytes)?;
        if from < topic.min_offset(queue) {
            // The start has moved on, and what was read may be a hole by now.
            return Ok(Vec::new());
        }
        Ok(bytes.chunks_exact(UNIT_LEN).map(|unit| Unit::decode(unit.try_into().expect("that long"))).collect())
    }

    /// The queue offset that belongs to a time: with [`Boundary::Lower`] the first message stored at or after
    /// `timestamp_ms`, or the next offset when all are older; with [`Boundary::Upper`] the last one stored at or before it, or
    /// 0 when all are newer. `store_ms` reads the store timestamp of a unit's record, `None` when that is gone meanwhile.
    ///
    /// # Errors
    /// Those of `store_ms`, and [`QueueError`].
    pub fn offset_by_time<E: From<QueueError>>(
        &self,
        topic: &Topic,
        queue: u32,
        timestamp_ms: i64,
        boundary: Boundary,
        mut store_ms: impl FnMut(&Unit) -> Result<Option<i64>, E>,
    ) -> Result<u64, E> {
        let first = topic.min_offset(queue);
        // Store times never go back in a queue, so the messages wanted are a tail of it.
        let (mut low, mut high) = (first, topic.next_offset(queue));
        while low < high {
            let middle = low + (high - low) / 2;
            let unit = self.read(topic, queue, middle, 1)?;
            let stored = unit.first().map(&mut store_ms).transpose()?.flatten();
            let Some(stored) = stored else {
                // Retention has moved the start behind it meanwhile.
                low = middle + 1;
                continue;
            };
            let in_tail = if boundary == Boundary::Lower { stored >= timestamp_ms } else { stored > timestamp_ms };
            if in_tail { high = middle } else { low = middle + 1 }
        }
        Ok(match boundary {
            Boundary::Lower => low,
            Boundary::Upper if low == first => 0,
            Boundary::Upper => low - 1,
        })
    }

    /// Writes encoded units at offset `first`.
    pub(super) fn write(&self, topic: &TopicKey, queue: u32, first: u64, units: &[u8]) -> Result<(), QueueError> {
        let file = self.file(topic, queue, true)?.expect("a file that is missing is created");
        file.write_at(&[units], first * UNIT_LEN as u64)
            .map_err(|error| failed("write", &self.shared.path(topic, queue), error))
    }

    /// Writes one unit anew, which the log has and the file has lost.
    ///
    /// # Errors
    /// [`QueueError`] when the disk fails.
    pub fn mend(&self, topic: &TopicKey, queue: u32, offset: u64, unit: &Unit) -> Result<(), QueueError> {
        self.write(topic, queue, offset, &unit.encode())
    }

    /// Reads encoded units from offset `from` on until `bytes` is full.
    pub(super) fn read_bytes(
        &self,
        topic: &TopicKey,
        queue: u32,
        from: u64,
        bytes: &mut [u8],
    ) -> Result<(), QueueError> {
        if bytes.is_empty() {
            return Ok(());
        }
        let path = || self.shared.path(topic, queue);
        let Some(file) = self.file(topic, queue, false)? else {
            return Err(failed("find", &path(), io::ErrorKind::NotFound.into()));
        };
        let read = file.read_at(bytes, from * UNIT_LEN as u64).map_err(|error| failed("read", &path(), error))?;
        if read < bytes.len() {
            return Err(failed("read all units of", &path(), io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(())
    }

    /// Gives the units in front of offset `min` back to the disk, where it can: nobody reads them any more, and whatever a crash
    /// falls back to does not either. The others stay where they are. A file that a checkpoint shares is left whole: its bytes are
    /// what the checkpoint's manifest says. The next time that the queue's start moves on all of it goes.
    pub(super) fn punch_before(&self, topic: &TopicKey, queue: u32, min: u64) -> Result<(), QueueError> {
        let Some(file) = self.file(topic, queue, false)? else { return Ok(()) };
        let links = file.links().map_err(|error| failed("look at", &self.shared.path(topic, queue), error))?;
        if links > 1 {
            return Ok(());
        }
        match file.punch_hole(0, min * UNIT_LEN as u64) {
            // Not every file system knows holes. The file is then as long as its queue.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(()),
            done => done.map_err(|error| failed("punch a hole into", &self.shared.path(topic, queue), error)),
        }
    }

    /// Makes everything written so far durable, names included.
    pub(super) fn sync(&self) -> Result<(), QueueError> {
        let dir = &self.shared.dir();
        self.shared.fs.sync_fs(dir).map_err(|error| failed("sync the folder of", dir, error))
    }

    /// Removes the files of a topic that is gone. Who still reads one reads on.
    pub(super) fn remove(&self, topic: &TopicKey) -> Result<(), QueueError> {
        self.shared.open.lock().close_topic(topic);
        self.remove_folder(&folder_name(topic))
    }

    /// Removes the folders of topics that are not among `topics`: left by a crash between a deletion and its end.
    pub(super) fn remove_all_but<'a>(&self, topics: impl Iterator<Item = &'a TopicKey>) -> Result<(), QueueError> {
        let dir = &self.shared.dir();
        let known: std::collections::HashSet<String> = topics.map(folder_name).collect();
        let found = self.shared.fs.list(dir).map_err(|error| failed("list the folder of", dir, error))?;
        found.iter().filter(|name| !known.contains(*name)).try_for_each(|name| self.remove_folder(name))
    }

    fn remove_folder(&self, name: &str) -> Result<(), QueueError> {
        let folder = self.shared.dir().join(name);
        let there = self.shared.fs.try_exists(&folder).map_err(|error| failed("look for", &folder, error))?;
        if !there {
            return Ok(());
        }
        self.shared.fs.remove_dir_all(&folder).map_err(|error| failed("remove", &folder, error))
    }

    fn file(&self, topic: &TopicKey, queue: u32, create: bool) -> Result<Option<Arc<dyn File>>, QueueError> {
        let key = (topic.clone(), queue);
        let mut open = self.shared.open.lock();
        if let Some(file) = open.get(&key) {
            return Ok(Some(file));
        }
        let path = self.shared.path(topic, queue);
        let file = self.shared.open_file(&path, create)?;
        if let Some(file) = &file {
            open.put(key, file.clone());
        }
        Ok(file)
    }

    #[cfg(test)]
    pub(super) fn open_files(&self) -> usize {
        self.shared.open.lock().len()
    }
}

impl Shared {
    fn dir(&self) -> PathBuf {
        self.dir.read().clone()
    }

    fn path(&self, topic: &TopicKey, queue: u32) -> PathBuf {
        self.dir().join(folder_name(topic)).join(queue.to_string())
    }

    fn open_file(&self, path: &Path, create: bool) -> Result<Option<Arc<dyn File>>, QueueError> {
        match self.fs.open(path, OpenMode::ReadWrite) {
            Ok(file) => return Ok(Some(file)),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("open", path, error)),
            Err(_) if !create => return Ok(None),
            Err(_) => {}
        }
        let folder = path.parent().expect("a queue's file lies in its topic's folder");
        self.fs.create_dir_all(folder).map_err(|error| failed("create the folder of", path, error))?;
        self.fs.open(path, OpenMode::CreateNew).map(Some).map_err(|error| failed("create", path, error))
    }
}

/// Name of a topic's folder. Letters that no topic has are replaced, so that no name leads out of the folder.
fn folder_name(topic: &TopicKey) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '%' | '|' | '-' | '_');
    let name = topic.name.chars().take(FOLDER_NAME_LEN_MAX).map(|c| if allowed(c) { c } else { '_' });
    format!("{}@{}", name.collect::<String>(), topic.incarnation)
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> QueueError {
    QueueError { action, path: path.to_owned(), source }
}

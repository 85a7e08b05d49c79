//! The giving side: one checkpoint at a time, read by any number of takers.
//!
//! The state machine makes the copy on the apply thread ([`crate::StateMachine::checkpoint`]); checksums are computed here,
//! elsewhere, and reads come from threads that serve takers. Segments are read from the log itself.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::RwLock;

use super::manifest::{Manifest, ManifestFile, SnapshotId, id_of};
use super::{FileRange, GIVE_DIR, REQUEST_BYTES_MAX, REQUEST_RANGES_MAX, SNAP_DIR};
use crate::fs::{File, Fs, OpenMode};
use crate::log::meta::{FirstFrame, GroupConstants};
use crate::log::view::{LogView, ViewError};
use crate::plant::{self, Bug};
use crate::seam::{CheckpointFile, Membership};
use crate::types::{FramePos, GroupId};

/// Bytes read at a time for checksums.
const CHUNK: usize = 1 << 20;

/// Why nothing is given.
#[derive(Debug, thiserror::Error)]
pub enum GiveError {
    /// There is no such snapshot here any more.
    #[error("snapshot {0:?} is not here any more")]
    Gone(SnapshotId),
    /// The ranges do not lie inside of it, or are too many.
    #[error("the request asks for bytes that the snapshot has not")]
    Range,
    /// The log.
    #[error(transparent)]
    Log(#[from] ViewError),
    /// A file of the checkpoint.
    #[error("cannot read {path}: {source}", path = .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's own words.
        source: io::Error,
    },
}

/// What a checkpoint was made of, before its checksums are known.
#[derive(Debug)]
pub struct Checkpoint {
    /// Where the log in it begins.
    pub first: FirstFrame,
    /// Last frame applied.
    pub at: FramePos,
    /// Members as of it; `None` for those at birth.
    pub membership: Option<Membership>,
    /// Its files, in [`Giver::folder`].
    pub files: Vec<CheckpointFile>,
}

struct Given {
    id: SnapshotId,
    manifest: Manifest,
}

/// The checkpoint of a replica.
pub struct Giver {
    fs: Arc<dyn Fs>,
    dir: PathBuf,
    group: GroupId,
    constants: GroupConstants,
    birth: Membership,
    view: LogView,
    given: RwLock<Option<Given>>,
}

impl Giver {
    /// Nothing is given yet. `dir` is the group's folder.
    pub(crate) fn new(
        fs: &Arc<dyn Fs>,
        dir: &Path,
        group: GroupId,
        constants: GroupConstants,
        birth: Membership,
        view: LogView,
    ) -> Giver {
        let given = RwLock::new(None);
        Giver { fs: fs.clone(), dir: dir.join(SNAP_DIR).join(GIVE_DIR), group, constants, birth, view, given }
    }

    /// Folder of the checkpoint.
    pub fn folder(&self) -> &Path {
        &self.dir
    }

    /// Takes the old checkpoint back and makes an empty folder for the next one.
    pub(crate) fn prepare(&self) -> io::Result<()> {
        self.take_back()?;
        self.fs.create_dir_all(&self.dir)
    }

    /// Ends the giving: takers are told that it is gone.
    pub(crate) fn take_back(&self) -> io::Result<()> {
        *self.given.write() = None;
        if self.fs.try_exists(&self.dir)? { self.fs.remove_dir_all(&self.dir) } else { Ok(()) }
    }

    /// Reads all files for their checksums, and gives the checkpoint from now on.
    ///
    /// # Errors
    /// A file cannot be read; nothing is given then.
    pub(crate) fn publish(&self, checkpoint: Checkpoint) -> Result<Manifest, GiveError> {
        let Checkpoint { first, at, membership, files } = checkpoint;
        let checked = files.into_iter().map(|file| {
            let path = self.dir.join(&file.name);
            let crc = self.open(&path).and_then(|open| crc_of(&|buf, at| open.read_at(buf, at), file.from, file.size));
            let crc = crc.map_err(|source| GiveError::Io { path, source })?;
            Ok(ManifestFile { name: file.name, from: file.from, size: file.size, crc })
        });
        let files = checked.collect::<Result<_, GiveError>>()?;
        let membership = match membership {
            Some(membership) if !plant::on(Bug::SnapshotForgetsMembers) => membership,
            _ => self.birth.clone(),
        };
        if at.index < first.index {
            return Err(GiveError::Range);
        }
        let manifest = Manifest { group: self.group, constants: self.constants, first, tail: at, membership, files };
        let id = id_of(at.index, &manifest.encode());
        *self.given.write() = Some(Given { id, manifest: manifest.clone() });
        Ok(manifest)
    }

    /// The bytes of some ranges, one behind the other.
    ///
    /// # Errors
    /// [`GiveError`].
    pub fn read(&self, id: SnapshotId, ranges: &[FileRange]) -> Result<Vec<u8>, GiveError> {
        let given = self.given.read();
        let manifest = match &*given {
            Some(given) if given.id == id => &given.manifest,
            _ => return Err(GiveError::Gone(id)),
        };
        let total: u64 = ranges.iter().map(|range| u64::from(range.len)).sum();
        if total > REQUEST_BYTES_MAX || ranges.len() > REQUEST_RANGES_MAX {
            return Err(GiveError::Range);
        }
        let mut out = Vec::with_capacity(total as usize);
        for range in ranges {
            let end = range.offset.checked_add(u64::from(range.len)).ok_or(GiveError::Range)?;
            if let Some(file) = manifest.files.get(range.file as usize) {
                if range.offset < file.from || end > file.size {
                    return Err(GiveError::Range);
                }
                let path = self.dir.join(&file.name);
                let start = out.len();
                out.resize(start + range.len as usize, 0);
                let read = self.open(&path).and_then(|open| read_exact(&*open, &mut out[start..], range.offset));
                read.map_err(|source| GiveError::Io { path, source })?;
            } else {
                let base = manifest.segments().nth(range.file as usize - manifest.files.len());
                let base = base.filter(|base| end <= manifest.segment_len(*base)).ok_or(GiveError::Range)?;
                out.extend_from_slice(&self.view.read_copied(base + range.offset, range.len as usize)?);
            }
        }
        Ok(out)
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.fs.open(path, OpenMode::Read)
    }
}

fn read_exact(file: &dyn File, buf: &mut [u8], offset: u64) -> io::Result<()> {
    if file.read_at(buf, offset)? == buf.len() { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// CRC-32C of the bytes `from..size` of a file, which `read` reads into a buffer from an offset on.
pub(super) fn crc_of(read: &dyn Fn(&mut [u8], u64) -> io::Result<usize>, from: u64, size: u64) -> io::Result<u32> {
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    let mut buf = vec![0; CHUNK.min((size - from) as usize)];
    let mut at = from;
    while at < size {
        let len = (size - at).min(CHUNK as u64) as usize;
        if read(&mut buf[..len], at)? != len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        digest.update(&buf[..len]);
        at += len as u64;
    }
    Ok(digest.finalize() as u32)
}

//! The meta file of a replica: who it is, its term and vote, and where recovery begins.
//!
//! Two slots of one page each. A store writes the slot that is older and syncs it, so one valid slot always remains;
//! the valid slot with the highest sequence number counts. A new term or vote goes to both slots, each synced, before
//! any message that depends on it leaves: then rot in one slot cannot bring an older vote back. Nothing here may ever
//! be retried after a failed sync.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use uuid::Uuid;

use super::doubts::Doubts;
use super::frame::{Layout, payload_crc};
use crate::fs::{File, Fs, OpenMode};
use crate::plant::{self, Bug};
use crate::types::{FramePos, GroupId, LogPos, RaftId};

/// Bytes of one slot; the file holds two.
pub const SLOT_LEN: usize = 4096;

/// First four bytes of a slot: three letters and the format version.
pub const MAGIC: [u8; 4] = *b"LMM\x01";

/// Format version of frames and files that this code writes and reads.
pub const FORMAT: u32 = 1;

/// Members that a group may be born with; later ones come through the log.
pub const BIRTH_MEMBERS_MAX: usize = 16;

/// Name of the file in a group's folder.
pub const FILE_NAME: &str = "meta";

/// Name while it is being made.
const NEW_NAME: &str = "meta.new";

/// Offset of the members in a slot, and bytes of each.
const MEMBERS_AT: usize = 224;
const MEMBER_LEN: usize = 24;
const _: () = assert!(MEMBERS_AT + MEMBER_LEN * BIRTH_MEMBERS_MAX <= SLOT_LEN);

const FLAG_CLEAN: u8 = 1;
const FLAG_ASYNC: u8 = 2;
const FLAG_JOINING: u8 = 8;
const FLAG_INSTALLING: u8 = 128;

/// Offset of the number of the run.
const RUN_AT: usize = MEMBERS_AT + MEMBER_LEN * BIRTH_MEMBERS_MAX;

/// Who a replica is. Never changes while its folder lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster.
    pub cluster_id: Uuid,
    /// The Raft group.
    pub group: GroupId,
    /// This replica's own identity, drawn afresh for each folder: a wiped disk is somebody else.
    pub replica: Uuid,
    /// Its number in the group.
    pub raft_id: RaftId,
}

/// What all replicas of a group agree on from birth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupConstants {
    /// Bytes of a log segment.
    pub segment_size: u64,
    /// Format version of frames ([`FORMAT`]).
    pub format: u32,
}

impl GroupConstants {
    /// The geometry of the log.
    pub fn layout(&self) -> Layout {
        Layout { segment_size: self.segment_size }
    }
}

/// A member that the group was born with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its number.
    pub raft_id: RaftId,
    /// Its replica identity.
    pub replica: Uuid,
}

/// Where the log begins, and what the first frame is chained to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirstFrame {
    /// Raft index of the first frame that is kept.
    pub index: u64,
    /// Its position: a segment base.
    pub pos: LogPos,
    /// Term of the frame before it; 0 at the origin.
    pub prev_term: u64,
    /// Chain value of the frame before it; 0 at the origin.
    pub prev_chain: u32,
}

impl FirstFrame {
    /// The first frame of a log from which nothing was removed.
    pub const ORIGIN: FirstFrame = FirstFrame { index: 1, pos: LogPos(0), prev_term: 0, prev_chain: 0 };

    /// The frame before the first one, as a predecessor to place and chain from; its own bytes are gone.
    pub fn before(&self) -> FramePos {
        FramePos { index: self.index - 1, term: self.prev_term, pos: self.pos, len: 0, chain: self.prev_chain }
    }
}

/// The content of the meta file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Who this replica is.
    pub identity: Identity,
    /// What the group agreed on.
    pub constants: GroupConstants,
    /// Members at birth, at most [`BIRTH_MEMBERS_MAX`].
    pub birth_members: Vec<Member>,
    /// Boot of the machine in which this was written; a change means that the page cache was lost.
    pub boot_id: Uuid,
    /// Whether the last run ended by itself with everything synced.
    pub clean_shutdown: bool,
    /// Whether the run that wrote this answered before its syncs.
    pub async_flush: bool,
    /// Raft term.
    pub term: u64,
    /// Vote in that term; 0 is nobody.
    pub vote: RaftId,
    /// A commit index that is known to be reached. Never above `durable.index` (R3); may lag behind.
    pub commit_hint: u64,
    /// Last frame known to be on disk; recovery scans from here. Owned by the writer: what others put here is ignored.
    pub durable: FramePos,
    /// Where the log begins. Owned by the writer.
    pub first: FirstFrame,
    /// Frames of a truncated suffix may still lie between the end of the log and this position: they prove nothing in
    /// recovery. Zero when there are none. Owned by the writer.
    pub stale_until: LogPos,
    /// Why this replica abstains from elections: its log may lack entries that it has acknowledged. None: it votes.
    pub doubts: Doubts,
    /// Which start of this replica wrote this, from 1 on: peers tell messages of its earlier runs by it.
    pub run: u64,
    /// Number of the `gen-<n>` folder that holds the state machine's files.
    pub generation: u64,
    /// Made for a group that was there already: no vote before a configuration that it has applied names it.
    pub joining: bool,
    /// The snapshot that `first`, `durable` and `generation` name is decided for, but its files may still lie in `snap/take`: a
    /// start brings them to their places. Owned by the writer.
    pub installing: bool,
}

impl Meta {
    /// Meta of a replica that is being born: term 0, empty log.
    pub fn new(identity: Identity, constants: GroupConstants, birth_members: Vec<Member>) -> Meta {
        Meta {
            identity,
            constants,
            birth_members,
            boot_id: Uuid::nil(),
            clean_shutdown: false,
            async_flush: false,
            term: 0,
            vote: 0,
            commit_hint: 0,
            durable: FramePos::ORIGIN,
            first: FirstFrame::ORIGIN,
            stale_until: LogPos(0),
            doubts: Doubts::NONE,
            run: 0,
            generation: 0,
            joining: false,
            installing: false,
        }
    }

    /// Term, vote and commit index to start Raft with, given the last frame of the recovered log (R3, R9): a log with a
    /// newer term than the file proves that this replica has already helped in that term, so its vote counts as given.
    pub fn hard_state(&self, last: &FramePos) -> (u64, RaftId, u64) {
        let commit = self.commit_hint.min(last.index);
        if last.term > self.term { (last.term, self.identity.raft_id, commit) } else { (self.term, self.vote, commit) }
    }

    /// One slot's bytes. docs/formats.md draws them.
    ///
    /// # Panics
    /// With more than [`BIRTH_MEMBERS_MAX`] members.
    pub fn encode(&self, seq: u64) -> [u8; SLOT_LEN] {
        assert!(self.birth_members.len() <= BIRTH_MEMBERS_MAX, "{} members at birth", self.birth_members.len());
        let mut slot = [0u8; SLOT_LEN];
        let mut put = |at: usize, bytes: &[u8]| slot[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &MAGIC);
        put(8, &seq.to_le_bytes());
        put(16, self.identity.cluster_id.as_bytes());
        put(32, self.identity.group.0.as_bytes());
        put(48, self.identity.replica.as_bytes());
        put(64, &self.identity.raft_id.to_le_bytes());
        put(72, &self.constants.segment_size.to_le_bytes());
        put(80, &self.constants.format.to_le_bytes());
        let flag = |on: bool, bit: u8| if on { bit } else { 0 };
        put(
            84,
            &[flag(self.clean_shutdown, FLAG_CLEAN)
                | flag(self.async_flush, FLAG_ASYNC)
                | flag(self.joining, FLAG_JOINING)
                | flag(self.installing, FLAG_INSTALLING)],
        );
        put(88, self.boot_id.as_bytes());
        put(104, &self.term.to_le_bytes());
        put(112, &self.vote.to_le_bytes());
        put(120, &self.commit_hint.to_le_bytes());
        put(128, &encode_frame_pos(&self.durable));
        put(160, &self.first.index.to_le_bytes());
        put(168, &self.first.pos.0.to_le_bytes());
        put(176, &self.first.prev_term.to_le_bytes());
        put(184, &self.first.prev_chain.to_le_bytes());
        put(192, &self.stale_until.0.to_le_bytes());
        put(200, &self.doubts.bits().to_le_bytes());
        put(208, &self.generation.to_le_bytes());
        put(216, &(self.birth_members.len() as u16).to_le_bytes());
        for (n, member) in self.birth_members.iter().enumerate() {
            put(MEMBERS_AT + n * MEMBER_LEN, &member.raft_id.to_le_bytes());
            put(MEMBERS_AT + n * MEMBER_LEN + 8, member.replica.as_bytes());
        }
        put(RUN_AT, &self.run.to_le_bytes());
        let crc = payload_crc(&slot[8..]);
        slot[4..8].copy_from_slice(&crc.to_le_bytes());
        slot
    }

    /// Reads one slot: its sequence number and content, or `None` when it is torn, rotten or not a slot.
    pub fn decode(slot: &[u8]) -> Option<(u64, Meta)> {
        let slot: &[u8; SLOT_LEN] = slot.first_chunk()?;
        let u64_at = |at: usize| u64::from_le_bytes(slot[at..at + 8].try_into().expect("eight bytes"));
        let u32_at = |at: usize| u32::from_le_bytes(slot[at..at + 4].try_into().expect("four bytes"));
        let uuid_at = |at: usize| Uuid::from_bytes(slot[at..at + 16].try_into().expect("sixteen bytes"));
        if slot[0..4] != MAGIC || payload_crc(&slot[8..]) != u32_at(4) {
            return None;
        }
        let members = usize::from(u16::from_le_bytes([slot[216], slot[217]]));
        if members > BIRTH_MEMBERS_MAX {
            return None;
        }
        let first = FirstFrame {
            index: u64_at(160),
            pos: LogPos(u64_at(168)),
            prev_term: u64_at(176),
            prev_chain: u32_at(184),
        };
        if first.index == 0 || first.index >= COUNTER_END || first.pos.0 >= COUNTER_END {
            return None;
        }
        let flags = slot[84];
        let meta = Meta {
            identity: Identity {
                cluster_id: uuid_at(16),
                group: GroupId(uuid_at(32)),
                replica: uuid_at(48),
                raft_id: u64_at(64),
            },
            constants: GroupConstants { segment_size: u64_at(72), format: u32_at(80) },
            birth_members: (0..members)
                .map(|n| MEMBERS_AT + n * MEMBER_LEN)
                .map(|at| Member { raft_id: u64_at(at), replica: uuid_at(at + 8) })
                .collect(),
            boot_id: uuid_at(88),
            clean_shutdown: flags & FLAG_CLEAN != 0,
            async_flush: flags & FLAG_ASYNC != 0,
            term: u64_at(104),
            vote: u64_at(112),
            commit_hint: u64_at(120),
            durable: decode_frame_pos(&slot[128..160])?,
            first,
            stale_until: LogPos(u64_at(192)),
            doubts: Doubts::from_bits(u64_at(200)),
            run: u64_at(RUN_AT),
            generation: u64_at(208),
            joining: flags & FLAG_JOINING != 0,
            installing: flags & FLAG_INSTALLING != 0,
        };
        Some((u64_at(8), meta))
    }
}

/// A [`FramePos`] in 32 bytes: index, term, pos, len, chain. Also the record of an `.idx` file.
pub(crate) fn encode_frame_pos(at: &FramePos) -> [u8; 32] {
    let mut out = [0u8; 32];
    out[0..8].copy_from_slice(&at.index.to_le_bytes());
    out[8..16].copy_from_slice(&at.term.to_le_bytes());
    out[16..24].copy_from_slice(&at.pos.0.to_le_bytes());
    out[24..28].copy_from_slice(&at.len.to_le_bytes());
    out[28..32].copy_from_slice(&at.chain.to_le_bytes());
    out
}

/// Positions and indexes in files are below this, so that no sum of them overflows. A log of 100 GB/s would take a year
/// to get there.
const COUNTER_END: u64 = 1 << 62;

/// Reads what [`encode_frame_pos`] wrote; `None` when the bytes are too few or a counter is beyond all measure.
pub(crate) fn decode_frame_pos(bytes: &[u8]) -> Option<FramePos> {
    let bytes: &[u8; 32] = bytes.first_chunk()?;
    let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    let at =
        FramePos { index: u64_at(0), term: u64_at(8), pos: LogPos(u64_at(16)), len: u32_at(24), chain: u32_at(28) };
    (at.pos.0 < COUNTER_END && at.index < COUNTER_END).then_some(at)
}

/// Why a meta file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MetaError {
    /// There is none: the replica was never created here, or its disk was wiped.
    #[error("{path} is missing: create the group here, or, when this disk was wiped, remove the old replica from the group and rejoin under a new raft id", path = .0.display())]
    Missing(PathBuf),
    /// There is one already: a replica lives here.
    #[error("{path} exists already: a replica lives in this folder; choose another folder", path = .0.display())]
    Exists(PathBuf),
    /// Neither slot is valid.
    #[error("{path} has no valid slot: term and vote are lost, so remove this replica from the group and rejoin under a new raft id", path = .0.display())]
    Unreadable(PathBuf),
    /// Written by another version, or with a geometry that this one refuses.
    #[error("{path} has format {format} and segment size {segment_size}, which this version does not know: install the version that wrote it", path = .path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// Its format version.
        format: u32,
        /// Its segment size, bytes.
        segment_size: u64,
    },
    /// The two slots name different replicas.
    #[error("the two slots of {path} belong to different replicas: the file was copied or damaged; remove this replica from the group and rejoin under a new raft id", path = .0.display())]
    Mixed(PathBuf),
    /// The disk failed.
    #[error("{path}: {source}", path = .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's own words.
        source: io::Error,
    },
}

/// The open meta file. One owner: the log writer.
pub struct MetaFile {
    file: Arc<dyn File>,
    /// Sequence number of the newest slot.
    seq: u64,
    /// Slot (0 or 1) that is written next: the older one.
    older: u64,
}

impl MetaFile {
    /// Creates the file in the group folder `dir` (made when missing), with `meta` in both slots, everything durable
    /// when this returns.
    pub fn create(fs: &Arc<dyn Fs>, dir: &Path, meta: &Meta) -> Result<MetaFile, MetaError> {
        let path = dir.join(FILE_NAME);
        let io_error = |source| MetaError::Io { path: path.clone(), source };
        let missing: Vec<&Path> = dir
            .ancestors()
            .filter(|folder| !folder.as_os_str().is_empty())
            .map(|folder| fs.try_exists(folder).map(|exists| (folder, exists)))
            .take_while(|found| !matches!(found, Ok((_, true))))
            .map(|found| found.map(|(folder, _)| folder))
            .collect::<io::Result<_>>()
            .map_err(io_error)?;
        fs.create_dir_all(dir).map_err(io_error)?;
        if fs.try_exists(&path).map_err(io_error)? {
            return Err(MetaError::Exists(path));
        }
        let new = dir.join(NEW_NAME);
        let file = (|| {
            if fs.try_exists(&new)? {
                fs.remove_file(&new)?;
            }
            let file = fs.open(&new, OpenMode::CreateNew)?;
            file.write_at(&[&meta.encode(1), &meta.encode(2)], 0)?;
            file.sync_data()?;
            fs.rename(&new, &path)?;
            fs.sync_dir(dir)?;
            for parent in missing.iter().filter_map(|folder| folder.parent()) {
                fs.sync_dir(if parent.as_os_str().is_empty() { Path::new(".") } else { parent })?;
            }
            Ok(file)
        })()
        .map_err(io_error)?;
        Ok(MetaFile { file, seq: 2, older: 0 })
    }

    /// Reads the file without changing it: what the offline tools do.
    pub fn peek(fs: &Arc<dyn Fs>, dir: &Path) -> Result<Meta, MetaError> {
        let path = dir.join(FILE_NAME);
        let file = open_existing(fs, &path, OpenMode::Read)?;
        Ok(read_slots(&*file, &path)?.newest)
    }

    /// Opens the file and reads the newest valid slot. When the other slot is invalid or holds another term or vote, it
    /// is written anew and synced, so that both slots carry the vote again.
    pub fn open(fs: &Arc<dyn Fs>, dir: &Path) -> Result<(MetaFile, Meta), MetaError> {
        let path = dir.join(FILE_NAME);
        let file = open_existing(fs, &path, OpenMode::ReadWrite)?;
        // What a killed process left in the page cache counts from here on, so it must be on disk first.
        file.sync_data().map_err(|source| MetaError::Io { path: path.clone(), source })?;
        let Slots { newest, seq, slot, other_agrees } = read_slots(&*file, &path)?;
        let mut meta_file = MetaFile { file, seq, older: 1 - slot };
        if !other_agrees {
            meta_file.store(&newest).map_err(|source| MetaError::Io { path, source })?;
        }
        Ok((meta_file, newest))
    }

    /// Writes the older slot and syncs it.
    pub fn store(&mut self, meta: &Meta) -> io::Result<()> {
        self.write_older(meta)?;
        if plant::on(Bug::VoteNotSynced) { Ok(()) } else { self.file.sync_data() }
    }

    /// Writes both slots, each synced before the next is touched: for a new term or vote.
    pub fn store_both(&mut self, meta: &Meta) -> io::Result<()> {
        self.store(meta)?;
        self.store(meta)
    }

    fn write_older(&mut self, meta: &Meta) -> io::Result<()> {
        let seq = self.seq + 1;
        self.file.write_at(&[&meta.encode(seq)], self.older * SLOT_LEN as u64)?;
        self.seq = seq;
        self.older = 1 - self.older;
        Ok(())
    }
}

struct Slots {
    newest: Meta,
    seq: u64,
    /// Which of the two it lies in.
    slot: u64,
    /// Whether the other slot is valid and holds the same term and vote.
    other_agrees: bool,
}

fn open_existing(fs: &Arc<dyn Fs>, path: &Path, mode: OpenMode) -> Result<Arc<dyn File>, MetaError> {
    fs.open(path, mode).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => MetaError::Missing(path.to_owned()),
        _ => MetaError::Io { path: path.to_owned(), source },
    })
}

fn read_slots(file: &dyn File, path: &Path) -> Result<Slots, MetaError> {
    let mut bytes = vec![0u8; 2 * SLOT_LEN];
    // From the disk: after a failed sync the cache can show a vote that the disk does not have.
    file.read_uncached_at(&mut bytes, 0).map_err(|source| MetaError::Io { path: path.to_owned(), source })?;
    let a = Meta::decode(&bytes[..SLOT_LEN]);
    let b = Meta::decode(&bytes[SLOT_LEN..]);
    if let (Some((_, a)), Some((_, b))) = (&a, &b)
        && (a.identity != b.identity || a.constants != b.constants)
    {
        return Err(MetaError::Mixed(path.to_owned()));
    }
    let other_agrees = matches!((&a, &b), (Some((_, a)), Some((_, b))) if (a.term, a.vote) == (b.term, b.vote));
    let (slot, (seq, newest)) = match (a, b) {
        (Some(a), Some(b)) if b.0 > a.0 => (1, b),
        (Some(a), _) => (0, a),
        (None, Some(b)) => (1, b),
        (None, None) => return Err(MetaError::Unreadable(path.to_owned())),
    };
    let GroupConstants { segment_size, format } = newest.constants;
    if format != FORMAT || !newest.constants.layout().is_valid() {
        return Err(MetaError::Unsupported { path: path.to_owned(), format, segment_size });
    }
    Ok(Slots { newest, seq, slot, other_agrees })
}

#[cfg(test)]
mod tests;

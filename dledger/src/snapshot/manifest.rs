//! What a snapshot is made of: the only thing that travels inside raft-rs.

use std::collections::BTreeMap;
use std::fmt;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use raft::eraftpb::{ConfState, Snapshot, SnapshotMetadata};
use uuid::Uuid;

use crate::log::frame::{Layout, payload_crc};
use crate::log::meta::{FORMAT, FirstFrame, GroupConstants, decode_frame_pos, encode_frame_pos};
use crate::seam::{MemberInfo, Membership};
use crate::types::{FramePos, GroupId, LogPos};

/// First four bytes: three letters and the format version.
const MAGIC: [u8; 4] = *b"LMS\x01";
/// Bytes in front of the membership.
const FIXED_LEN: usize = 4 + 4 + 16 + 8 + 4 + 8 + 8 + 8 + 4 + 32;
/// Longest encoded manifest.
pub(crate) const MANIFEST_LEN_MAX: usize = 16 << 20;
/// Members in one list of a membership.
const MEMBERS_MAX: usize = 256;
/// Longest name of a file, in bytes.
const NAME_LEN_MAX: usize = 1_024;
/// Positions and sizes are below this, so that no sum overflows.
const COUNTER_END: u64 = 1 << 62;

/// A file of the state machine in a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestFile {
    /// Its place in the state machine's folder: parts with `/` between them.
    pub name: String,
    /// Bytes before this offset are a hole and are not part of it.
    pub from: u64,
    /// Its length.
    pub size: u64,
    /// CRC-32C of the bytes `from..size`.
    pub crc: u32,
}

/// A snapshot: up to which frame, and everything that it consists of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The group.
    pub group: GroupId,
    /// What the group agreed on at birth.
    pub constants: GroupConstants,
    /// Where the log begins.
    pub first: FirstFrame,
    /// Last frame that the state contains: index, term, next position and chain of the snapshot. The log in it ends here.
    pub tail: FramePos,
    /// Members as of that frame.
    pub membership: Membership,
    /// The state machine's files.
    pub files: Vec<ManifestFile>,
}

/// Which snapshot: two checkpoints of one index on different replicas differ in their files.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SnapshotId {
    /// Raft index of its last frame.
    pub index: u64,
    /// Checksum of its manifest.
    pub crc: u32,
}

impl fmt::Debug for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}~{:08x}", self.index, self.crc)
    }
}

/// Why bytes are no manifest, or not one for this replica.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Another format.
    #[error("the snapshot has a format that this version does not know: run the same release on all nodes")]
    Version,
    /// The checksum does not match.
    #[error("the checksum of the snapshot's manifest does not match")]
    Checksum,
    /// Something in it cannot be.
    #[error("the snapshot's manifest is malformed: {0}")]
    Malformed(&'static str),
    /// It belongs to another group, or to one with other constants.
    #[error("the snapshot is of another group, or of one with other constants")]
    Foreign,
}

impl Manifest {
    /// Which snapshot this is.
    pub fn id(&self) -> SnapshotId {
        id_of(self.tail.index, &self.encode())
    }

    /// Bases of the log segments in it, ascending.
    pub fn segments(&self) -> impl Iterator<Item = LogPos> + use<> {
        let layout: Layout = self.constants.layout();
        let first = layout.base_of(self.first.pos).0;
        // An empty log has no segment.
        let end = if self.tail.index < self.first.index { first } else { layout.base_of(self.tail.pos).0 + 1 };
        (first..end).step_by(layout.segment_size as usize).map(LogPos)
    }

    /// Bytes of the segment with this base that count: up to its end, or to the end of the log.
    pub(crate) fn segment_len(&self, base: LogPos) -> u64 {
        self.constants.segment_size.min(self.tail.end().0 - base.0)
    }

    /// Bytes to be pulled.
    pub fn bytes(&self) -> u64 {
        let files: u64 = self.files.iter().map(|file| file.size - file.from).sum();
        files + self.segments().map(|base| self.segment_len(base)).sum::<u64>()
    }

    /// Checks that it belongs to this group.
    pub(crate) fn check(&self, group: GroupId, constants: &GroupConstants) -> Result<(), ManifestError> {
        if self.group == group && self.constants == *constants { Ok(()) } else { Err(ManifestError::Foreign) }
    }

    /// The form on the wire and in `snap/take/manifest`.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(FIXED_LEN + 64 + self.files.len() * 64);
        out.extend_from_slice(&MAGIC);
        out.put_u32_le(0);
        out.extend_from_slice(self.group.0.as_bytes());
        out.put_u64_le(self.constants.segment_size);
        out.put_u32_le(self.constants.format);
        out.put_u64_le(self.first.index);
        out.put_u64_le(self.first.pos.0);
        out.put_u64_le(self.first.prev_term);
        out.put_u32_le(self.first.prev_chain);
        out.extend_from_slice(&encode_frame_pos(&self.tail));
        let Membership { voters, learners, voters_outgoing, learners_next, auto_leave, members, highest } =
            &self.membership;
        out.put_u8(u8::from(*auto_leave));
        for list in [voters, learners, voters_outgoing, learners_next] {
            out.put_u16_le(u16::try_from(list.len()).expect("a group has few members"));
            list.iter().for_each(|member| out.put_u64_le(*member));
        }
        out.put_u64_le(*highest);
        out.put_u16_le(u16::try_from(members.len()).expect("a group has few members"));
        for (raft_id, info) in members {
            out.put_u64_le(*raft_id);
            out.extend_from_slice(info.replica.as_bytes());
            put_text(&mut out, &info.peer);
            put_text(&mut out, &info.client);
        }
        out.put_u32_le(u32::try_from(self.files.len()).expect("bounded by the length of a manifest"));
        for file in &self.files {
            put_text(&mut out, &file.name);
            out.put_u64_le(file.from);
            out.put_u64_le(file.size);
            out.put_u32_le(file.crc);
        }
        let crc = payload_crc(&out[8..]);
        out[4..8].copy_from_slice(&crc.to_le_bytes());
        out.freeze()
    }

    /// Reads what [`Manifest::encode`] made. Names lead nowhere but into the folder.
    ///
    /// # Errors
    /// [`ManifestError`].
    pub fn decode(bytes: &[u8]) -> Result<Manifest, ManifestError> {
        let bad = ManifestError::Malformed;
        if bytes.len() < FIXED_LEN || bytes.len() > MANIFEST_LEN_MAX {
            return Err(bad("length"));
        }
        if bytes[..4] != MAGIC {
            return Err(ManifestError::Version);
        }
        if payload_crc(&bytes[8..]).to_le_bytes() != bytes[4..8] {
            return Err(ManifestError::Checksum);
        }
        let mut rest = &bytes[8..];
        let mut group = [0; 16];
        rest.copy_to_slice(&mut group);
        let constants = GroupConstants { segment_size: rest.get_u64_le(), format: rest.get_u32_le() };
        let first = FirstFrame {
            index: rest.get_u64_le(),
            pos: LogPos(rest.get_u64_le()),
            prev_term: rest.get_u64_le(),
            prev_chain: rest.get_u32_le(),
        };
        let tail = decode_frame_pos(&rest[..32]).ok_or(bad("last frame"))?;
        rest.advance(32);
        if constants.format != FORMAT || !constants.layout().is_valid() {
            return Err(bad("constants"));
        }
        let fits = (1..COUNTER_END).contains(&first.index)
            && first.pos.0 < COUNTER_END
            && first.pos == constants.layout().base_of(first.pos)
            && tail.index >= first.index
            && tail.pos >= first.pos
            && tail.end().0 - constants.layout().base_of(tail.pos).0 <= constants.segment_size;
        if !fits {
            return Err(bad("range of the log"));
        }
        let membership = take_membership(&mut rest).ok_or(bad("membership"))?;
        let count = if rest.remaining() >= 4 { rest.get_u32_le() } else { return Err(bad("files")) };
        let mut files = Vec::new();
        for _ in 0..count {
            files.push(take_file(&mut rest).ok_or(bad("files"))?);
        }
        if rest.has_remaining() {
            return Err(bad("bytes behind the last file"));
        }
        Ok(Manifest { group: GroupId(Uuid::from_bytes(group)), constants, first, tail, membership, files })
    }

    /// The raft-rs form: the manifest is all of its data.
    pub(crate) fn to_raft(&self) -> Snapshot {
        let mut metadata = SnapshotMetadata { index: self.tail.index, term: self.tail.term, ..Default::default() };
        metadata.set_conf_state(conf_state(&self.membership));
        let mut snapshot = Snapshot { data: self.encode(), ..Snapshot::default() };
        snapshot.set_metadata(metadata);
        snapshot
    }
}

/// Id of the snapshot with this encoded manifest.
pub(crate) fn id_of(index: u64, encoded: &[u8]) -> SnapshotId {
    SnapshotId { index, crc: u32::from_le_bytes([encoded[4], encoded[5], encoded[6], encoded[7]]) }
}

/// The raft-rs form of a membership.
pub(crate) fn conf_state(membership: &Membership) -> ConfState {
    ConfState {
        voters: membership.voters.clone(),
        learners: membership.learners.clone(),
        voters_outgoing: membership.voters_outgoing.clone(),
        learners_next: membership.learners_next.clone(),
        auto_leave: membership.auto_leave,
        ..ConfState::default()
    }
}

fn take_membership(rest: &mut &[u8]) -> Option<Membership> {
    let auto_leave = (rest.remaining() > 0).then(|| rest.get_u8())? != 0;
    let mut lists: [Vec<u64>; 4] = Default::default();
    for list in &mut lists {
        let count = usize::from((rest.remaining() >= 2).then(|| rest.get_u16_le())?);
        if count > MEMBERS_MAX || rest.remaining() < count * 8 {
            return None;
        }
        list.extend((0..count).map(|_| rest.get_u64_le()));
    }
    let [voters, learners, voters_outgoing, learners_next] = lists;
    let highest = (rest.remaining() >= 8).then(|| rest.get_u64_le())?;
    let count = usize::from((rest.remaining() >= 2).then(|| rest.get_u16_le())?);
    let mut members = BTreeMap::new();
    for _ in 0..count {
        if rest.remaining() < 24 {
            return None;
        }
        let raft_id = rest.get_u64_le();
        let mut replica = [0; 16];
        rest.copy_to_slice(&mut replica);
        let (peer, client) = (take_text(rest)?, take_text(rest)?);
        members.insert(raft_id, MemberInfo { replica: Uuid::from_bytes(replica), peer, client });
    }
    let membership = Membership { voters, learners, voters_outgoing, learners_next, auto_leave, members, highest };
    membership.ids().iter().eq(membership.members.keys()).then_some(membership)
}

fn put_text(out: &mut BytesMut, text: &str) {
    out.put_u16_le(u16::try_from(text.len()).expect("names and addresses are short"));
    out.extend_from_slice(text.as_bytes());
}

fn take_text(rest: &mut &[u8]) -> Option<String> {
    let len = usize::from((rest.remaining() >= 2).then(|| rest.get_u16_le())?);
    let text = std::str::from_utf8(rest.get(..len).filter(|_| len <= NAME_LEN_MAX)?).ok()?.to_owned();
    rest.advance(len);
    Some(text)
}

fn take_file(rest: &mut &[u8]) -> Option<ManifestFile> {
    let name = take_text(rest)?;
    if rest.remaining() < 20 {
        return None;
    }
    let file = ManifestFile { name, from: rest.get_u64_le(), size: rest.get_u64_le(), crc: rest.get_u32_le() };
    (is_inside(&file.name) && file.from <= file.size && file.size < COUNTER_END).then_some(file)
}

/// Whether a name stays inside the folder.
fn is_inside(name: &str) -> bool {
    name.split('/').all(|part| !part.is_empty() && part != "." && part != ".." && !part.contains(['\0', '\\']))
}

//! The few nouns that the whole crate shares: who a group and a replica are, and where a frame lies.
//!
//! They stand below everything else: no module here knows about disks, sockets or raft-rs.

use std::fmt;
use std::ops::Add;

use bytes::Bytes;
use uuid::Uuid;

/// Identity of a Raft group, drawn when the group is born and never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub Uuid);

impl fmt::Debug for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Number of a replica inside its group, 1 and up. A wiped disk gets a new one: 0 is nobody.
pub type RaftId = u64;

/// Absolute byte position in the CommitLog of one group. Position 0 is the first byte ever written.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct LogPos(pub u64);

impl Add<u64> for LogPos {
    type Output = LogPos;
    fn add(self, bytes: u64) -> LogPos {
        LogPos(self.0 + bytes)
    }
}

impl fmt::Debug for LogPos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "@{}", self.0)
    }
}

impl fmt::Display for LogPos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a frame carries (byte 38 of its header; docs/formats.md).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum FrameKind {
    /// A batch of whole message records.
    Messages = 0,
    /// Nothing: raft-rs appends one when a leader is elected.
    Noop = 1,
    /// A membership change, old form. Never proposed by us; understood so that it cannot be misread.
    ConfChange = 2,
    /// A membership change (joint consensus).
    ConfChangeV2 = 3,
    /// One state change of the layer above, opaque here.
    Command = 4,
    /// Filler at the end of a segment: no Raft index, no part in the chain.
    Blank = 5,
    /// A command and message records in one entry: `u32 command length | command | pad to 8 | records`.
    Transition = 6,
}

impl TryFrom<u8> for FrameKind {
    type Error = u8;
    fn try_from(byte: u8) -> Result<Self, u8> {
        Ok(match byte {
            0 => FrameKind::Messages,
            1 => FrameKind::Noop,
            2 => FrameKind::ConfChange,
            3 => FrameKind::ConfChangeV2,
            4 => FrameKind::Command,
            5 => FrameKind::Blank,
            6 => FrameKind::Transition,
            other => return Err(other),
        })
    }
}

/// Where a real frame lies, and the checksum that chains the next one to it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct FramePos {
    /// Raft index; 0 only for [`FramePos::ORIGIN`].
    pub index: u64,
    /// Raft term of the entry.
    pub term: u64,
    /// Position of the frame's first header byte.
    pub pos: LogPos,
    /// Bytes of the frame: header, payload and padding; a multiple of 8.
    pub len: u32,
    /// `header_crc` of the frame: the seed of the next frame's header checksum.
    pub chain: u32,
}

impl FramePos {
    /// The place before the first frame of a log.
    pub const ORIGIN: FramePos = FramePos { index: 0, term: 0, pos: LogPos(0), len: 0, chain: 0 };

    /// Position of the first byte behind the frame.
    pub fn end(&self) -> LogPos {
        self.pos + u64::from(self.len)
    }
}

impl fmt::Debug for FramePos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}t{}@{}+{}~{:08x}", self.index, self.term, self.pos, self.len, self.chain)
    }
}

/// A frame read back from the log, or about to be applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Where it lies.
    pub at: FramePos,
    /// What it carries.
    pub kind: FrameKind,
    /// Number of message records in the payload; 0 for kinds without messages.
    pub records: u16,
    /// The payload, without header and padding.
    pub payload: Bytes,
}

/// Bytes of header in front of each payload.
pub const FRAME_HEADER_LEN: usize = 48;

impl Frame {
    /// Position of the payload's first byte: physical offset of the first record of a message batch.
    pub fn payload_pos(&self) -> LogPos {
        self.at.pos + FRAME_HEADER_LEN as u64
    }

    /// The two parts of a [`FrameKind::Transition`] payload: the command, and the offset inside the payload at which
    /// the message records begin. `None` when the payload is too short for what it announces.
    pub fn split_transition(&self) -> Option<(Bytes, usize)> {
        split_transition(&self.payload)
    }
}

/// See [`Frame::split_transition`].
pub fn split_transition(payload: &Bytes) -> Option<(Bytes, usize)> {
    let announced = payload.get(..4)?;
    let command_len = u32::from_le_bytes([announced[0], announced[1], announced[2], announced[3]]) as usize;
    let records_at = 4usize.checked_add(command_len)?.checked_next_multiple_of(8)?;
    (records_at <= payload.len()).then(|| (payload.slice(4..4 + command_len), records_at))
}

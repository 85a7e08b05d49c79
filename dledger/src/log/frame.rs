//! The frame: 48 bytes of header in front of one Raft entry's payload, and the rule that says where it lies.
//!
//! Pure functions of bytes, no I/O; the writer, recovery, the peer transport and the offline tools all stand on this
//! one codec. A frame's position depends on the log prefix alone, and its header checksum is seeded with the header
//! checksum of the frame before it, so two replicas whose last `chain` is equal hold the same bytes. Nothing local
//! (sync batches, block sizes, configuration) may ever enter here. docs/formats.md draws the bytes.

use crc_fast::{CrcAlgorithm, Digest};

use crate::plant::{self, Bug};
use crate::types::{FRAME_HEADER_LEN, Frame, FrameKind, FramePos, LogPos};

/// Bytes of header in front of each payload.
pub const HEADER_LEN: usize = FRAME_HEADER_LEN;

/// First four bytes of each frame: three letters and the format version.
pub const MAGIC: [u8; 4] = *b"LMF\x01";

/// Frames begin at multiples of this many bytes.
pub const ALIGN: u64 = 8;

/// No frame is longer than this, whatever the segment size.
pub const FRAME_LEN_MAX: u32 = 16 * 1024 * 1024;

/// A frame is at most this part of a segment, so that blanks waste at most a quarter of it.
pub const SEGMENT_SHARE: u64 = 4;

/// Smallest segment (simulator); a frame of a segment this small holds at most 4 KiB.
pub const SEGMENT_SIZE_MIN: u64 = 16 * 1024;

/// Largest segment.
pub const SEGMENT_SIZE_MAX: u64 = 8 * 1024 * 1024 * 1024;

/// Segments are whole pages, since a job is padded with zeros to the end of its last page.
pub const PAGE: u64 = 4096;

const _: () = assert!(HEADER_LEN.is_multiple_of(ALIGN as usize));
const _: () = assert!(SEGMENT_SIZE_MIN.is_multiple_of(PAGE) && SEGMENT_SIZE_MAX.is_multiple_of(PAGE));

/// CRC-32C (Castagnoli; "CRC-32/ISCSI") of a payload.
pub fn payload_crc(payload: &[u8]) -> u32 {
    crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, payload) as u32
}

/// CRC-32C of `bytes`, continued from the checksum `seed` of whatever came before. Seed 0 is the plain CRC-32C.
fn chained_crc(seed: u32, bytes: &[u8]) -> u32 {
    let mut digest = Digest::new_with_init_state(CrcAlgorithm::Crc32Iscsi, u64::from(!seed));
    digest.update(bytes);
    digest.finalize() as u32
}

/// The seed of a header that follows a frame with this chain value.
fn seed_of(prev_chain: u32) -> u32 {
    if plant::on(Bug::UnchainedCrc) { 0 } else { prev_chain }
}

/// Bytes of a frame with this much payload: header, payload, and zeros up to a multiple of 8.
///
/// # Panics
/// When the sum does not fit 32 bits; callers bound payloads by [`Layout::max_frame_len`] long before.
pub fn frame_len(payload_len: usize) -> u32 {
    let len = (HEADER_LEN + payload_len).next_multiple_of(ALIGN as usize);
    u32::try_from(len).expect("payloads are bounded by the layout, far below 4 GiB")
}

/// Why 48 bytes are not a frame header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Fewer than 48 bytes.
    #[error("a frame header has 48 bytes, here are {0}")]
    Short(usize),
    /// Other first bytes: no frame, or one of another format version.
    #[error("frame magic is {0:02x?}, not {MAGIC:02x?}")]
    Magic([u8; 4]),
    /// A kind that this version does not know.
    #[error("frame kind {0} is unknown")]
    Kind(u8),
    /// A flag that this version does not know; flags are reserved and zero.
    #[error("frame flags are {0:#04x}, not zero")]
    Flags(u8),
    /// The two lengths contradict each other, or exceed the limit.
    #[error("frame length {frame_len} does not fit payload length {payload_len}")]
    Length {
        /// Bytes of the frame as announced.
        frame_len: u32,
        /// Bytes of payload as announced.
        payload_len: u32,
    },
    /// A blank with an index, term, payload or records, or a frame without an index.
    #[error("a {0:?} frame cannot have these fields")]
    Fields(FrameKind),
    /// The header checksum, seeded with the frame before, is another one.
    #[error("header checksum is {stored:08x}, computed {computed:08x}")]
    HeaderCrc {
        /// As stored.
        stored: u32,
        /// As computed.
        computed: u32,
    },
    /// The payload checksum is another one.
    #[error("payload checksum is {stored:08x}, computed {computed:08x}")]
    PayloadCrc {
        /// As stored.
        stored: u32,
        /// As computed.
        computed: u32,
    },
    /// The bytes between payload and frame end are not zero.
    #[error("padding behind the payload is not zero")]
    Padding,
}

/// A decoded frame header. Field order is that of the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Bytes of header, payload and padding; a multiple of 8.
    pub frame_len: u32,
    /// Raft index; 0 in a blank.
    pub index: u64,
    /// Raft term; 0 in a blank.
    pub term: u64,
    /// Position of the frame's first byte.
    pub pos: LogPos,
    /// Bytes of payload; 0 in a blank.
    pub payload_len: u32,
    /// Message records in the payload.
    pub records: u16,
    /// What the frame carries.
    pub kind: FrameKind,
    /// Checksum of the payload; 0 in a blank.
    pub payload_crc: u32,
    /// Checksum of bytes 0..44, seeded with the previous frame's. Set by [`Header::decode`]; [`Header::encode`]
    /// computes its own and ignores this one.
    pub header_crc: u32,
}

impl Header {
    /// Header of the blank that fills `len` bytes from `pos` to the end of its segment.
    pub fn blank(pos: LogPos, len: u32) -> Header {
        Header {
            frame_len: len,
            index: 0,
            term: 0,
            pos,
            payload_len: 0,
            records: 0,
            kind: FrameKind::Blank,
            payload_crc: 0,
            header_crc: 0,
        }
    }

    /// The 48 bytes, chained to the frame whose `header_crc` is `prev_chain` (0 before the first frame). The last four
    /// are this header's own chain value. A blank is never chained: pass anything.
    pub fn encode(&self, prev_chain: u32) -> [u8; HEADER_LEN] {
        let mut out = self.to_bytes();
        let crc = chained_crc(self.seed(prev_chain), &out[..44]);
        out[44..48].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// The 48 bytes with the checksum that the header carries: those that [`Header::decode`] came from.
    pub fn to_bytes(&self) -> [u8; HEADER_LEN] {
        let mut out = [0u8; HEADER_LEN];
        out[0..4].copy_from_slice(&MAGIC);
        out[4..8].copy_from_slice(&self.frame_len.to_le_bytes());
        out[8..16].copy_from_slice(&self.index.to_le_bytes());
        out[16..24].copy_from_slice(&self.term.to_le_bytes());
        out[24..32].copy_from_slice(&self.pos.0.to_le_bytes());
        out[32..36].copy_from_slice(&self.payload_len.to_le_bytes());
        out[36..38].copy_from_slice(&self.records.to_le_bytes());
        out[38] = self.kind as u8;
        out[39] = 0;
        out[40..44].copy_from_slice(&self.payload_crc.to_le_bytes());
        out[44..48].copy_from_slice(&self.header_crc.to_le_bytes());
        out
    }

    /// Header of a frame that was read back and checked.
    pub fn of_frame(frame: &Frame) -> Header {
        Header {
            frame_len: frame.at.len,
            index: frame.at.index,
            term: frame.at.term,
            pos: frame.at.pos,
            payload_len: frame.payload.len() as u32,
            records: frame.records,
            kind: frame.kind,
            payload_crc: payload_crc(&frame.payload),
            header_crc: frame.at.chain,
        }
    }

    /// Reads the first 48 bytes of `bytes` and checks everything that needs no neighbour: magic, kind, flags and
    /// lengths. The checksums are the caller's next step ([`Header::check_chain`], [`Header::check_payload`]).
    pub fn decode(bytes: &[u8]) -> Result<Header, FrameError> {
        let bytes: &[u8; HEADER_LEN] = bytes.first_chunk().ok_or(FrameError::Short(bytes.len()))?;
        let magic = [bytes[0], bytes[1], bytes[2], bytes[3]];
        if magic != MAGIC {
            return Err(FrameError::Magic(magic));
        }
        let header = Header {
            frame_len: u32_at(bytes, 4),
            index: u64_at(bytes, 8),
            term: u64_at(bytes, 16),
            pos: LogPos(u64_at(bytes, 24)),
            payload_len: u32_at(bytes, 32),
            records: u16::from_le_bytes([bytes[36], bytes[37]]),
            kind: FrameKind::try_from(bytes[38]).map_err(FrameError::Kind)?,
            payload_crc: u32_at(bytes, 40),
            header_crc: u32_at(bytes, 44),
        };
        if bytes[39] != 0 {
            return Err(FrameError::Flags(bytes[39]));
        }
        header.check_lengths()?;
        Ok(header)
    }

    fn check_lengths(&self) -> Result<(), FrameError> {
        let wrong = FrameError::Length { frame_len: self.frame_len, payload_len: self.payload_len };
        if self.frame_len > FRAME_LEN_MAX || !u64::from(self.frame_len).is_multiple_of(ALIGN) {
            return Err(wrong);
        }
        if self.kind == FrameKind::Blank {
            if (self.frame_len as usize) < HEADER_LEN {
                return Err(wrong);
            }
            let empty = self.index == 0 && self.term == 0 && self.payload_len == 0 && self.records == 0;
            return if empty && self.payload_crc == 0 { Ok(()) } else { Err(FrameError::Fields(self.kind)) };
        }
        if self.payload_len > FRAME_LEN_MAX || frame_len(self.payload_len as usize) != self.frame_len {
            return Err(wrong);
        }
        if self.index == 0 { Err(FrameError::Fields(self.kind)) } else { Ok(()) }
    }

    /// Checks the header checksum against the frame before it.
    pub fn check_chain(&self, prev_chain: u32) -> Result<(), FrameError> {
        let encoded = self.encode(prev_chain);
        let computed = u32_at(&encoded, 44);
        if computed == self.header_crc {
            Ok(())
        } else {
            Err(FrameError::HeaderCrc { stored: self.header_crc, computed })
        }
    }

    /// Checks the bytes behind the header: `rest` is payload and padding, `frame_len - 48` bytes.
    pub fn check_payload(&self, rest: &[u8]) -> Result<(), FrameError> {
        let payload_len = self.payload_len as usize;
        let Some(payload) = rest.get(..payload_len) else {
            return Err(FrameError::Length { frame_len: self.frame_len, payload_len: self.payload_len });
        };
        let computed = payload_crc(payload);
        if self.kind != FrameKind::Blank && computed != self.payload_crc {
            return Err(FrameError::PayloadCrc { stored: self.payload_crc, computed });
        }
        if rest[payload_len..].iter().any(|&byte| byte != 0) { Err(FrameError::Padding) } else { Ok(()) }
    }

    /// The value that the next header's checksum is seeded with.
    pub fn chain(&self) -> u32 {
        self.header_crc
    }

    /// Where this frame lies, for the chain of [`FramePos`]es. Meaningless for a blank.
    pub fn at(&self) -> FramePos {
        FramePos { index: self.index, term: self.term, pos: self.pos, len: self.frame_len, chain: self.header_crc }
    }

    fn seed(&self, prev_chain: u32) -> u32 {
        if self.kind == FrameKind::Blank { 0 } else { seed_of(prev_chain) }
    }
}

fn u32_at(bytes: &[u8; HEADER_LEN], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8; HEADER_LEN], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

/// The rest of a segment that a frame does not fit into: position of its first byte, number of bytes (a multiple of 8).
/// With 48 bytes or more it begins with a blank header; everything else in it is zero.
pub type Blank = (LogPos, u64);

/// Where a frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    /// What must be blanked before it.
    pub blank: Option<Blank>,
    /// Position of the frame.
    pub at: LogPos,
}

/// The geometry of a group's log: the same on all its replicas, for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Bytes of a segment.
    pub segment_size: u64,
}

impl Layout {
    /// Whether this is a geometry that we write: whole pages, within the bounds.
    pub fn is_valid(&self) -> bool {
        (SEGMENT_SIZE_MIN..=SEGMENT_SIZE_MAX).contains(&self.segment_size) && self.segment_size.is_multiple_of(PAGE)
    }

    /// Longest frame: 16 MiB, or a quarter of a segment.
    pub fn max_frame_len(&self) -> u32 {
        let share = u32::try_from(self.segment_size / SEGMENT_SHARE).unwrap_or(FRAME_LEN_MAX);
        share.min(FRAME_LEN_MAX)
    }

    /// Longest payload of one frame.
    pub fn max_payload_len(&self) -> usize {
        self.max_frame_len() as usize - HEADER_LEN
    }

    /// Base of the segment that holds the byte at `pos`.
    pub fn base_of(&self, pos: LogPos) -> LogPos {
        LogPos(pos.0 - pos.0 % self.segment_size)
    }

    /// Bytes from `pos` to the end of its segment; a whole segment when `pos` is a base.
    pub fn room(&self, pos: LogPos) -> u64 {
        self.segment_size - pos.0 % self.segment_size
    }

    /// Where a frame of `frame_len` bytes goes when the frame before it ends at `pos`: there when the rest of the
    /// segment can hold it, else at the next base, with the rest blanked.
    pub fn place(&self, pos: LogPos, frame_len: u32) -> Placement {
        let room = self.room(pos);
        if u64::from(frame_len) <= room {
            Placement { blank: None, at: pos }
        } else {
            Placement { blank: Some((pos, room)), at: pos + room }
        }
    }
}

/// Makes the header of the frame that follows `prev`. The one place where headers are made, on leader and follower.
///
/// # Panics
/// When the payload exceeds [`Layout::max_payload_len`] (whoever accepts payloads checks that first), `index` does not
/// follow `prev`, or the term falls.
pub fn make_header(
    layout: &Layout,
    prev: &FramePos,
    index: u64,
    term: u64,
    kind: FrameKind,
    records: u16,
    payload: &[u8],
) -> (FramePos, [u8; HEADER_LEN], Option<Blank>) {
    assert!(kind != FrameKind::Blank, "blanks are placed, not proposed");
    assert!(payload.len() <= layout.max_payload_len(), "payload of {} bytes exceeds the frame limit", payload.len());
    assert!(index == prev.index + 1, "frame {index} cannot follow {prev:?}");
    assert!(term >= prev.term, "term {term} cannot follow {prev:?}");
    let frame_len = frame_len(payload.len());
    let Placement { blank, at } = layout.place(prev.end(), frame_len);
    let header = Header {
        frame_len,
        index,
        term,
        pos: at,
        payload_len: payload.len() as u32,
        records,
        kind,
        payload_crc: payload_crc(payload),
        header_crc: 0,
    };
    let bytes = header.encode(prev.chain);
    (FramePos { index, term, pos: at, len: frame_len, chain: u32_at(&bytes, 44) }, bytes, blank)
}

/// The bytes that begin a blank: a header, or nothing when fewer than 48 bytes are left. All its other bytes are zero.
pub fn blank_header(blank: Blank) -> Option<[u8; HEADER_LEN]> {
    let (pos, len) = blank;
    (len >= HEADER_LEN as u64)
        .then(|| Header::blank(pos, u32::try_from(len).expect("a blank is shorter than a frame")).encode(0))
}

#[cfg(test)]
mod tests;

//! Requests and answers of a pull, on a peer connection of the lane for files: the taker asks, the giver answers, in turn.
//!
//! ```text
//! request: u32 length of what follows | u32 crc32c of what follows | u8 version | 3 x 0 | group uuid 16
//!          | u64 raft id of the taker | u64 index, u32 crc: which snapshot | u32 ranges | each: u32 file, u64 offset, u32 length
//! answer:  u32 length of the body | u32 crc32c of the body | u8 status | 3 x 0 | body: the bytes of the ranges, or why not (UTF-8)
//! ```
//! Integers are little-endian. Status 0: the bytes; 1: that snapshot is not there any more; 2: it cannot be read.

use std::io::{self, Read, Write};

use bytes::{Buf, BufMut, BytesMut};
use uuid::Uuid;

use super::{FileRange, REQUEST_BYTES_MAX, REQUEST_RANGES_MAX, SnapshotId};
use crate::log::frame::payload_crc;
use crate::types::{GroupId, RaftId};

const VERSION: u8 = 1;
/// Bytes of a request behind its checksum, without ranges.
const REQUEST_LEN: usize = 4 + 16 + 8 + 8 + 4 + 4;
const RANGE_LEN: usize = 4 + 8 + 4;
/// Bytes in front of an answer's body.
const ANSWER_HEAD_LEN: usize = 4 + 4 + 4;
/// Longest reason in an answer.
const REASON_MAX: usize = 1_024;

/// What a taker asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) group: GroupId,
    pub(super) taker: RaftId,
    pub(super) id: SnapshotId,
    pub(super) ranges: Vec<FileRange>,
}

/// What it is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    Bytes(Vec<u8>),
    Gone(String),
    Failed(String),
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

impl Request {
    pub(super) fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let mut out = BytesMut::with_capacity(8 + REQUEST_LEN + self.ranges.len() * RANGE_LEN);
        out.put_u64_le(0);
        out.put_u8(VERSION);
        out.put_bytes(0, 3);
        out.extend_from_slice(self.group.0.as_bytes());
        out.put_u64_le(self.taker);
        out.put_u64_le(self.id.index);
        out.put_u32_le(self.id.crc);
        out.put_u32_le(self.ranges.len() as u32);
        for range in &self.ranges {
            out.put_u32_le(range.file);
            out.put_u64_le(range.offset);
            out.put_u32_le(range.len);
        }
        let (len, crc) = (out.len() as u32 - 4, payload_crc(&out[8..]));
        out[..4].copy_from_slice(&len.to_le_bytes());
        out[4..8].copy_from_slice(&crc.to_le_bytes());
        to.write_all(&out)
    }

    /// The next request; `None` when the taker has ended the connection.
    pub(super) fn read(from: &mut impl Read) -> io::Result<Option<Request>> {
        let mut len = [0; 4];
        match from.read_exact(&mut len) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            read => read?,
        }
        let len = u32::from_le_bytes(len) as usize;
        if !(4 + REQUEST_LEN..=4 + REQUEST_LEN + REQUEST_RANGES_MAX * RANGE_LEN).contains(&len) {
            return Err(bad("a request for files has an impossible length"));
        }
        let mut body = vec![0; len];
        from.read_exact(&mut body)?;
        let mut rest = &body[..];
        let crc = rest.get_u32_le();
        if payload_crc(rest) != crc {
            return Err(bad("the checksum of a request for files does not match"));
        }
        if rest[0] != VERSION {
            return Err(bad("another version of the requests for files: run the same release on all nodes"));
        }
        rest.advance(4);
        let mut group = [0; 16];
        rest.copy_to_slice(&mut group);
        let taker = rest.get_u64_le();
        let id = SnapshotId { index: rest.get_u64_le(), crc: rest.get_u32_le() };
        let count = rest.get_u32_le() as usize;
        if rest.len() != count * RANGE_LEN {
            return Err(bad("a request for files has another length than it says"));
        }
        let range =
            |rest: &mut &[u8]| FileRange { file: rest.get_u32_le(), offset: rest.get_u64_le(), len: rest.get_u32_le() };
        let ranges = (0..count).map(|_| range(&mut rest)).collect();
        Ok(Some(Request { group: GroupId(Uuid::from_bytes(group)), taker, id, ranges }))
    }
}

impl Answer {
    pub(super) fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let (status, body) = match self {
            Answer::Bytes(bytes) => (0, &bytes[..]),
            Answer::Gone(reason) => (1, reason.as_bytes()),
            Answer::Failed(reason) => (2, reason.as_bytes()),
        };
        let body = if status == 0 { body } else { &body[..body.len().min(REASON_MAX)] };
        let mut head = BytesMut::with_capacity(ANSWER_HEAD_LEN);
        head.put_u32_le(body.len() as u32);
        head.put_u32_le(payload_crc(body));
        head.put_u8(status);
        head.put_bytes(0, 3);
        to.write_all(&head)?;
        to.write_all(body)
    }

    pub(super) fn read(from: &mut impl Read) -> io::Result<Answer> {
        let mut head = [0; ANSWER_HEAD_LEN];
        from.read_exact(&mut head)?;
        let mut head = &head[..];
        let (len, crc, status) = (head.get_u32_le(), head.get_u32_le(), head.get_u8());
        if u64::from(len) > REQUEST_BYTES_MAX {
            return Err(bad("an answer with files has an impossible length"));
        }
        let mut body = vec![0; len as usize];
        from.read_exact(&mut body)?;
        if payload_crc(&body) != crc {
            return Err(bad("the checksum of an answer with files does not match"));
        }
        let reason = || String::from_utf8_lossy(&body).into_owned();
        Ok(match status {
            0 => Answer::Bytes(body),
            1 => Answer::Gone(reason()),
            _ => Answer::Failed(reason()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Request {
        Request {
            group: GroupId(Uuid::from_u128(7)),
            taker: 3,
            id: SnapshotId { index: 9, crc: 5 },
            ranges: vec![FileRange { file: 1, offset: 1 << 40, len: 77 }, FileRange { file: 2, offset: 0, len: 1 }],
        }
    }

    #[test]
    fn what_is_sent_arrives() {
        let mut bytes = Vec::new();
        request().write(&mut bytes).unwrap();
        assert_eq!(Request::read(&mut &bytes[..]).unwrap(), Some(request()));
        assert_eq!(Request::read(&mut &[][..]).unwrap(), None);
        for answer in [Answer::Bytes(vec![7; 1_000]), Answer::Gone("gone".into()), Answer::Failed(String::new())] {
            let mut bytes = Vec::new();
            answer.write(&mut bytes).unwrap();
            assert_eq!(Answer::read(&mut &bytes[..]).unwrap(), answer);
        }
    }

    /// Bytes of a stranger would be taken for files, or end the process.
    #[test]
    fn damage_is_noticed() {
        let mut bytes = Vec::new();
        request().write(&mut bytes).unwrap();
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x41;
            assert!(!matches!(Request::read(&mut &damaged[..]), Ok(Some(_))), "byte {at}");
            assert!(!matches!(Request::read(&mut &bytes[..at]), Ok(Some(_))), "cut at {at}");
        }
    }
}

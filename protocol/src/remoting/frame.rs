//! The frame: a length, the header's encoding and length, the header, the body. Big-endian.
//!
//! ```text
//! 0        4      5             8                8 + header_len       4 + length
//! | length | type | header_len  | header         | body              |
//!   u32      u8     u24           JSON or binary
//! ```
//!
//! `length` counts what follows it. A connection feeds its read buffer to [`decode`] until that returns `None`, and writes what
//! [`encode`] or [`encode_head`] produce. Nothing here does I/O, and nothing here allocates on the word of an announced length:
//! the buffer grows only by bytes that arrived.

use bytes::{Buf, BufMut, BytesMut};
use thiserror::Error;

use super::command::{RemotingCommand, SerializeType};
use super::ext_fields::ExtLimit;
use super::{header_binary, header_json};

/// Largest frame, its length field included: what Java peers accept. Well above the message limit of 4 MiB, so that a message
/// over that limit can be answered with code 13 instead of a closed connection.
pub const DEFAULT_MAX_FRAME_LEN: usize = 16 * 1024 * 1024;

/// Largest header. The longest legal field is the property string: up to 32,767 bytes, of which each may be a control character
/// that JSON writes as six (`\u0001`), so 196,602 bytes. 256 KiB holds that and all other fields, and lets property strings that
/// are somewhat too long reach the handler, which answers code 13.
pub const DEFAULT_MAX_HEADER_LEN: usize = 256 * 1024;

/// Bytes before the header: length, type, header length.
pub const FRAME_PREFIX_LEN: usize = 8;

/// The largest value of the 24-bit header length, and the largest header that is sent: the answer to a batch of 50,000 small
/// messages names as many ids, and Java peers bound a header by its frame only.
pub const MAX_HEADER_LEN: usize = 0xFF_FFFF;

/// The bounds that [`decode`] enforces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameLimits {
    /// Largest frame in bytes, its length field included.
    pub max_frame_len: usize,
    /// Largest header in bytes.
    pub max_header_len: usize,
}

impl FrameLimits {
    /// For the side that reads answers to its own requests, which may hold long headers (see [`MAX_HEADER_LEN`]).
    pub fn for_answers() -> Self {
        Self { max_header_len: MAX_HEADER_LEN, ..Self::default() }
    }
}

impl Default for FrameLimits {
    fn default() -> Self {
        Self { max_frame_len: DEFAULT_MAX_FRAME_LEN, max_header_len: DEFAULT_MAX_HEADER_LEN }
    }
}

/// Why bytes are no frame, or a frame no command.
#[derive(Debug, Error)]
pub enum FrameError {
    /// The announced frame is longer than the limit (or its length is negative).
    #[error("frame of {len} bytes announced, the limit is {max}")]
    TooLong {
        /// Announced size with the length field.
        len: u64,
        /// The limit.
        max: usize,
    },
    /// The announced length does not even cover the header's prefix.
    #[error("frame length {len} is too short for a header")]
    TooShort {
        /// The value of the length field.
        len: u32,
    },
    /// The header would be longer than the limit or than its frame.
    #[error("header of {len} bytes announced, the limit is {max}")]
    HeaderTooLong {
        /// Announced header length.
        len: usize,
        /// The smaller of the limit and what the frame holds.
        max: usize,
    },
    /// The frame is whole, its header is not what the encoding asks for. The frame was consumed: the connection can go on.
    #[error("bad header: {error}")]
    BadHeader {
        /// What is wrong.
        error: HeaderError,
        /// The request, as far as it could be read (no fields, no body), when it can and may be answered.
        stub: Option<Box<RemotingCommand>>,
    },
}

impl FrameError {
    /// Whether the stream's position is lost, so that the connection must be closed.
    pub fn framing_is_lost(&self) -> bool {
        !matches!(self, FrameError::BadHeader { .. })
    }
}

/// Why a header is malformed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum HeaderError {
    /// The frame names an encoding that does not exist.
    #[error("unknown header encoding {0}, know 0 (JSON) and 1 (ROCKETMQ)")]
    UnknownEncoding(u8),
    /// The header, or a text in it, is not UTF-8.
    #[error("{what} is not UTF-8")]
    NotUtf8 {
        /// Which part.
        what: &'static str,
    },
    /// The JSON text is malformed.
    #[error("malformed JSON at byte {at}: {problem}")]
    Json {
        /// Byte position in the header.
        at: usize,
        /// What was expected or found.
        problem: &'static str,
    },
    /// A value has the wrong type or range.
    #[error("{field} {problem}")]
    Field {
        /// The header's field.
        field: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A required field is absent.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A length inside a binary header is negative or reaches past its end.
    #[error("{what} of {len} bytes does not fit the header")]
    Length {
        /// Which text.
        what: &'static str,
        /// The announced length.
        len: i64,
    },
    /// Too many or too large fields.
    #[error(transparent)]
    Ext(#[from] ExtLimit),
}

/// Why a command cannot be sent. The destination is then left as it was.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EncodeError {
    /// Header and body together pass what peers accept.
    #[error("frame of {len} bytes, peers accept {DEFAULT_MAX_FRAME_LEN}")]
    FrameTooLong {
        /// Size with the length field.
        len: usize,
    },
    /// The header passes its 24-bit length.
    #[error("header of {len} bytes, the limit is {MAX_HEADER_LEN}")]
    HeaderTooLong {
        /// Header size.
        len: usize,
    },
    /// The code does not survive the 16 bits of the binary header.
    #[error("code {0} cannot be sent in a binary header, use JSON")]
    CodeNotBinary(i32),
    /// A field's name passes the 16 bits of the binary header.
    #[error("field name of {len} bytes, the limit is 32767")]
    NameTooLong {
        /// Name size.
        len: usize,
    },
}

/// The start of a frame, before all of it has arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHead {
    /// Size of the whole frame in bytes, its length field included.
    pub frame_len: usize,
    /// Size of the header in bytes.
    pub header_len: usize,
    /// The encoding byte, unchecked.
    pub encoding: u8,
}

impl FrameHead {
    /// Size of the body in bytes.
    pub fn body_len(&self) -> usize {
        self.frame_len - FRAME_PREFIX_LEN - self.header_len
    }
}

/// Reads the prefix of the frame at the front of `buf`, or `None` while it has not arrived. For admission before a body is kept,
/// and to size a read: the caller may reserve for what is missing in bounded steps.
///
/// # Errors
/// As soon as the bytes at hand show that the frame breaks `limits`; the framing is then lost.
pub fn peek(buf: &[u8], limits: &FrameLimits) -> Result<Option<FrameHead>, FrameError> {
    let Some(length) = buf.first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_be_bytes(*length);
    let frame_len = u64::from(length) + 4;
    if frame_len > limits.max_frame_len as u64 {
        return Err(FrameError::TooLong { len: frame_len, max: limits.max_frame_len });
    }
    if length < 4 {
        return Err(FrameError::TooShort { len: length });
    }
    let frame_len = frame_len as usize;
    let Some(prefix) = buf.first_chunk::<FRAME_PREFIX_LEN>() else { return Ok(None) };
    let header_len = u32::from_be_bytes([0, prefix[5], prefix[6], prefix[7]]) as usize;
    let max = limits.max_header_len.min(frame_len - FRAME_PREFIX_LEN);
    if header_len > max {
        return Err(FrameError::HeaderTooLong { len: header_len, max });
    }
    Ok(Some(FrameHead { frame_len, header_len, encoding: prefix[4] }))
}

/// Takes one command off the front of `buf`, or returns `None` while its frame is incomplete. The body is a slice of `buf`'s
/// memory, not a copy.
///
/// # Errors
/// [`FrameError::BadHeader`] consumes the frame; any other error means that the framing is lost ([`FrameError::framing_is_lost`]).
pub fn decode(buf: &mut BytesMut, limits: &FrameLimits) -> Result<Option<RemotingCommand>, FrameError> {
    let Some(head) = peek(buf, limits)? else { return Ok(None) };
    if buf.len() < head.frame_len {
        return Ok(None);
    }
    let mut frame = buf.split_to(head.frame_len).freeze();
    frame.advance(FRAME_PREFIX_LEN);
    let header = frame.split_to(head.header_len);
    let body = frame;

    let Some(serialize) = SerializeType::from_byte(head.encoding) else {
        return Err(FrameError::BadHeader { error: HeaderError::UnknownEncoding(head.encoding), stub: None });
    };
    let mut command = RemotingCommand { serialize, ..RemotingCommand::default() };
    let decoded = match serialize {
        SerializeType::Json => header_json::decode(&header, &mut command),
        SerializeType::RocketMq => header_binary::decode(&header, &mut command),
    };
    match decoded {
        Ok(()) => {
            command.body = body;
            Ok(Some(command))
        }
        Err(Rejected { error, opaque_known }) => {
            let answerable = opaque_known && !command.is_response() && !command.is_oneway();
            command.ext = Default::default();
            command.remark = None;
            Err(FrameError::BadHeader { error, stub: answerable.then(|| Box::new(command)) })
        }
    }
}

/// A header that a decoder refused, and whether it had read the request's id by then.
pub(super) struct Rejected {
    pub(super) error: HeaderError,
    pub(super) opaque_known: bool,
}

/// Appends the frame of `command` to `dst`.
///
/// # Errors
/// [`EncodeError`] when no peer would accept the frame; `dst` is then unchanged.
pub fn encode(command: &RemotingCommand, dst: &mut BytesMut) -> Result<(), EncodeError> {
    encode_head(command, command.body.len(), dst)?;
    dst.extend_from_slice(&command.body);
    Ok(())
}

/// Appends the frame of `command` up to its body to `dst`. The caller sends `body_len` bytes of body right after, from wherever
/// they lie (a pull answer: slices of the CommitLog, in one vectored write). `command.body` is not looked at.
///
/// # Errors
/// [`EncodeError`] when no peer would accept the frame; `dst` is then unchanged.
pub fn encode_head(command: &RemotingCommand, body_len: usize, dst: &mut BytesMut) -> Result<(), EncodeError> {
    let start = dst.len();
    let written = write_head(command, body_len, dst, start);
    if written.is_err() {
        dst.truncate(start);
    }
    written
}

fn write_head(command: &RemotingCommand, body_len: usize, dst: &mut BytesMut, start: usize) -> Result<(), EncodeError> {
    dst.put_bytes(0, FRAME_PREFIX_LEN);
    match command.serialize {
        SerializeType::Json => header_json::encode(command, dst),
        SerializeType::RocketMq => header_binary::encode(command, dst)?,
    }
    let header_len = dst.len() - start - FRAME_PREFIX_LEN;
    if header_len > MAX_HEADER_LEN {
        return Err(EncodeError::HeaderTooLong { len: header_len });
    }
    let frame_len = (FRAME_PREFIX_LEN + header_len).saturating_add(body_len);
    if frame_len > DEFAULT_MAX_FRAME_LEN {
        return Err(EncodeError::FrameTooLong { len: frame_len });
    }
    let length = (frame_len - 4) as u32;
    dst[start..start + 4].copy_from_slice(&length.to_be_bytes());
    let typed_header_len = u32::from(command.serialize.byte()) << 24 | header_len as u32;
    dst[start + 4..start + FRAME_PREFIX_LEN].copy_from_slice(&typed_header_len.to_be_bytes());
    Ok(())
}

const _: () = assert!(DEFAULT_MAX_HEADER_LEN <= MAX_HEADER_LEN, "a header length is 24 bits");
const _: () = assert!(DEFAULT_MAX_FRAME_LEN <= i32::MAX as usize, "Java reads the length as a signed int");

#[cfg(test)]
mod tests;

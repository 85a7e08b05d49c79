//! Peer messages on the wire: a fixed header of our own, then raw frames exactly as they lie on disk.
//!
//! No protobuf: the leader sends header and payload slices as they are, the follower slices `Bytes` out of its read
//! buffer (no copy at either end), and network bytes never reach rust-protobuf (RUSTSEC-2024-0437).
//! Sans-IO: sockets live in [`super`], the simulator passes encoded messages through here too.
//!
//! ```text
//! u32 length of what follows | u32 crc32c of the header behind it | u8 version | u8 type | u8 reject | u8 0
//! u16 context length | u16 frame count | group uuid 16 | from to term log_term index commit commit_term reject_hint
//! request_snapshot priority wall_ms run: u64 each | context | frames, or the manifest of a snapshot
//! ```
//! All integers little-endian. docs/formats.md shows the bytes; a golden test holds them.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use raft::eraftpb::{Entry, Message, MessageType};
use uuid::Uuid;

use crate::entry::{self, Content};
use crate::group::{FETCH_CARRIER, REPORT_CARRIER};
use crate::log::frame::{self, HEADER_LEN, Header};
use crate::snapshot::Manifest;
use crate::types::{FrameKind, GroupId};

/// Version of this format.
pub(crate) const VERSION: u8 = 2;
/// Bytes of the length field.
pub(crate) const LENGTH_LEN: usize = 4;
/// Fixed header behind the length field.
const FIXED_LEN: usize = 4 + 4 + 4 + 16 + 12 * 8;
/// Longest message: one frame of 16 MiB, or 1 MiB of frames (`max_size_per_msg`), and headers; twice that is garbage.
pub(crate) const MESSAGE_LEN_MAX: usize = 20 << 20;
/// Frames in one message. raft-rs cuts by bytes; the smallest frame is 48 bytes, and 1 MiB holds 21,845 of these.
const FRAMES_MAX: usize = 32_768;
/// Bytes of context: a read-index counter or the transfer mark; never client data.
const CONTEXT_MAX: usize = 256;

/// One raft-rs message and the raw frames of its entries.
#[derive(Debug, Clone, PartialEq)]
pub struct PeerMessage {
    /// Group that it belongs to.
    pub group: GroupId,
    /// Which start of its sender it comes from ([`crate::log::Meta::run`]).
    pub run: u64,
    /// The message, with `entries` empty: they travel as frames.
    pub raft: Message,
    /// Frames of the entries, in order.
    pub frames: Vec<WireFrame>,
    /// Sender's wall clock, ms since 1970.
    pub wall_ms: u64,
}

/// A frame as it lies on disk, without its padding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WireFrame {
    /// The 48 header bytes.
    pub header: [u8; HEADER_LEN],
    /// The payload.
    pub payload: Bytes,
}

/// Why bytes of a peer are no message. The connection is closed; nothing was stepped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The length field announces too much or too little.
    #[error("peer message of {0} bytes is outside the limits")]
    Length(usize),
    /// Another format.
    #[error("peer speaks format version {0}, this node {VERSION}: run the same release on all nodes")]
    Version(u8),
    /// Header checksum.
    #[error("checksum of a peer message header does not match")]
    HeaderChecksum,
    /// Something in the header cannot be.
    #[error("peer message is malformed: {0}")]
    Malformed(&'static str),
    /// A frame inside is damaged.
    #[error("frame in a peer message: {0}")]
    Frame(String),
    /// The manifest of a snapshot is damaged, or of another version.
    #[error("snapshot in a peer message: {0}")]
    Snapshot(String),
}

impl PeerMessage {
    /// Whether it goes over the bulk connection: appends and snapshots share one FIFO lane; frames for a repair go there too.
    /// Everything else is small.
    pub fn is_bulk(&self) -> bool {
        matches!(self.raft.get_msg_type(), MessageType::MsgAppend | MessageType::MsgSnapshot | FETCH_CARRIER)
    }

    /// Bytes that [`encode`] will make.
    pub fn encoded_len(&self) -> usize {
        let frames: usize = self.frames.iter().map(|frame| frame::frame_len(frame.payload.len()) as usize).sum();
        LENGTH_LEN + FIXED_LEN + self.raft.context.len() + frames + self.raft.get_snapshot().data.len()
    }

    /// Splits the entries of `raft` off: the counterpart of [`PeerMessage::into_raft`].
    pub(crate) fn new(
        group: GroupId,
        run: u64,
        mut raft: Message,
        frames: Vec<WireFrame>,
        wall_ms: u64,
    ) -> PeerMessage {
        raft.entries.clear();
        PeerMessage { group, run, raft, frames, wall_ms }
    }

    /// The raft-rs message with its entries remade from the frames.
    pub(crate) fn into_raft(self) -> Result<(Message, Vec<Header>), CodecError> {
        let mut raft = self.raft;
        let mut headers = Vec::with_capacity(self.frames.len());
        let mut entries: Vec<Entry> = Vec::with_capacity(self.frames.len());
        for wire in self.frames {
            let header = Header::decode(&wire.header).map_err(|error| CodecError::Frame(error.to_string()))?;
            let content = Content { kind: header.kind, records: header.records, payload: wire.payload };
            let made = entry::entry(header.index, header.term, &content);
            entries.push(made.map_err(|error| CodecError::Frame(error.to_string()))?);
            headers.push(header);
        }
        raft.set_entries(entries.into());
        Ok((raft, headers))
    }
}

/// Appends the encoded form as pieces: small parts are copied into one buffer each, payloads are passed on uncopied.
pub fn encode(message: &PeerMessage, out: &mut impl Extend<Bytes>) {
    let raft = &message.raft;
    let total = message.encoded_len();
    assert!(total <= MESSAGE_LEN_MAX, "a message of {total} bytes cannot be sent");
    let frame_count = u16::try_from(message.frames.len()).expect("raft-rs cuts messages at 1 MiB");
    let context_len = u16::try_from(raft.context.len()).expect("contexts are a few bytes");

    let mut fixed = BytesMut::with_capacity(LENGTH_LEN + FIXED_LEN + raft.context.len() + HEADER_LEN);
    fixed.put_u32_le((total - LENGTH_LEN) as u32);
    fixed.put_u32_le(0);
    fixed.put_u8(VERSION);
    fixed.put_u8(raft.get_msg_type() as u8);
    fixed.put_u8(u8::from(raft.reject));
    fixed.put_u8(0);
    fixed.put_u16_le(context_len);
    fixed.put_u16_le(frame_count);
    fixed.extend_from_slice(message.group.0.as_bytes());
    for value in [
        raft.from,
        raft.to,
        raft.term,
        raft.log_term,
        raft.index,
        raft.commit,
        raft.commit_term,
        raft.reject_hint,
        raft.request_snapshot,
        raft.priority as u64,
        message.wall_ms,
        message.run,
    ] {
        fixed.put_u64_le(value);
    }
    fixed.extend_from_slice(&raft.context);
    let crc = frame::payload_crc(&fixed[LENGTH_LEN + 4..]);
    fixed[LENGTH_LEN..LENGTH_LEN + 4].copy_from_slice(&crc.to_le_bytes());

    let mut small = fixed;
    for wire in &message.frames {
        let pad = frame::frame_len(wire.payload.len()) as usize - HEADER_LEN - wire.payload.len();
        small.extend_from_slice(&wire.header);
        out.extend([small.split().freeze()]);
        if !wire.payload.is_empty() {
            out.extend([wire.payload.clone()]);
        }
        small.extend_from_slice(&[0; 8][..pad]);
    }
    if !small.is_empty() {
        out.extend([small.freeze()]);
    }
    let manifest = &raft.get_snapshot().data;
    if !manifest.is_empty() {
        out.extend([manifest.clone()]);
    }
}

/// Decodes one message from `body`, the bytes behind the length field.
pub fn decode(mut body: Bytes) -> Result<PeerMessage, CodecError> {
    if body.len() < FIXED_LEN || body.len() > MESSAGE_LEN_MAX {
        return Err(CodecError::Length(body.len()));
    }
    let crc = body.get_u32_le();
    let version = body[0];
    if version != VERSION {
        return Err(CodecError::Version(version));
    }
    let context_len = usize::from(u16::from_le_bytes([body[4], body[5]]));
    let frame_count = usize::from(u16::from_le_bytes([body[6], body[7]]));
    let header_len = FIXED_LEN - 4 + context_len;
    if context_len > CONTEXT_MAX || header_len > body.len() {
        return Err(CodecError::Malformed("context length"));
    }
    if frame::payload_crc(&body[..header_len]) != crc {
        return Err(CodecError::HeaderChecksum);
    }
    if frame_count > FRAMES_MAX {
        return Err(CodecError::Malformed("frame count"));
    }
    let mut head = body.split_to(header_len);
    head.advance(1);
    let message_type = message_type(head.get_u8()).ok_or(CodecError::Malformed("unknown type"))?;
    let reject = head.get_u8() != 0;
    head.advance(1 + 4);
    let mut group = [0; 16];
    head.copy_to_slice(&mut group);
    let mut raft = Message::default();
    raft.set_msg_type(message_type);
    raft.reject = reject;
    raft.from = head.get_u64_le();
    raft.to = head.get_u64_le();
    raft.term = head.get_u64_le();
    raft.log_term = head.get_u64_le();
    raft.index = head.get_u64_le();
    raft.commit = head.get_u64_le();
    raft.commit_term = head.get_u64_le();
    raft.reject_hint = head.get_u64_le();
    raft.request_snapshot = head.get_u64_le();
    raft.priority = head.get_u64_le() as i64;
    let wall_ms = head.get_u64_le();
    let run = head.get_u64_le();
    raft.context = head;

    let mut frames = Vec::with_capacity(frame_count.min(1_024));
    for _ in 0..frame_count {
        frames.push(take_frame(&mut body)?);
    }
    if message_type == MessageType::MsgSnapshot {
        // Its index, term and members are in the manifest, and nowhere else.
        let manifest = Manifest::decode(&body).map_err(|error| CodecError::Snapshot(error.to_string()))?;
        raft.set_snapshot(manifest.to_raft());
    } else if !body.is_empty() {
        return Err(CodecError::Malformed("bytes behind the last frame"));
    }
    Ok(PeerMessage { group: GroupId(Uuid::from_bytes(group)), run, raft, frames, wall_ms })
}

/// Takes one frame off the front and checks its payload checksum. Its place and chain are checked when raft-rs has
/// taken the entry: an append may lawfully be a duplicate, leave a gap or conflict.
fn take_frame(body: &mut Bytes) -> Result<WireFrame, CodecError> {
    let Some(raw) = body.get(..HEADER_LEN) else {
        return Err(CodecError::Malformed("frame header is cut off"));
    };
    let mut header = [0; HEADER_LEN];
    header.copy_from_slice(raw);
    let decoded = Header::decode(&header).map_err(|error| CodecError::Frame(error.to_string()))?;
    let payload_len = decoded.payload_len as usize;
    let frame_len = decoded.frame_len as usize;
    if decoded.kind == FrameKind::Blank || frame_len != frame::frame_len(payload_len) as usize || frame_len > body.len()
    {
        return Err(CodecError::Malformed("frame length"));
    }
    let frame = body.split_to(frame_len);
    let payload = frame.slice(HEADER_LEN..HEADER_LEN + payload_len);
    if frame::payload_crc(&payload) != decoded.payload_crc {
        return Err(CodecError::Frame(format!("payload checksum of entry {} does not match", decoded.index)));
    }
    Ok(WireFrame { header, payload })
}

/// The types that peers may send each other. Local types and proposals are refused here: raft-rs 0.7 would forward a
/// follower's proposal, stamped for another leader's tail.
fn message_type(byte: u8) -> Option<MessageType> {
    use MessageType::*;
    [
        MsgAppend,
        MsgAppendResponse,
        MsgRequestVote,
        MsgRequestVoteResponse,
        MsgHeartbeat,
        MsgHeartbeatResponse,
        MsgSnapshot,
        MsgTimeoutNow,
        MsgRequestPreVote,
        MsgRequestPreVoteResponse,
        REPORT_CARRIER,
        FETCH_CARRIER,
    ]
    .into_iter()
    .find(|kind| *kind as u8 == byte)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::frame::{Layout, make_header};
    use crate::types::FramePos;
    use proptest::prelude::*;

    fn joined(message: &PeerMessage) -> BytesMut {
        let mut pieces = Vec::new();
        encode(message, &mut pieces);
        let mut all = BytesMut::new();
        pieces.iter().for_each(|piece| all.extend_from_slice(piece));
        assert_eq!(all.len(), message.encoded_len());
        all
    }

    fn sample(payloads: &[Vec<u8>], context: Vec<u8>) -> PeerMessage {
        let layout = Layout { segment_size: 1 << 20 };
        let mut raft =
            Message { from: 1, to: 2, term: 5, index: 9, commit: 4, context: context.into(), ..Message::default() };
        raft.set_msg_type(MessageType::MsgAppend);
        let mut prev = FramePos::ORIGIN;
        let frames = payloads.iter().enumerate().map(|(i, payload)| {
            let made = make_header(&layout, &prev, i as u64 + 1, 5, FrameKind::Messages, 1, payload);
            prev = made.0;
            WireFrame { header: made.1, payload: payload.clone().into() }
        });
        PeerMessage { group: GroupId(Uuid::from_u128(7)), run: 3, frames: frames.collect(), raft, wall_ms: 77 }
    }

    proptest! {
        #[test]
        fn what_is_sent_arrives(payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..5),
                                context in prop::collection::vec(any::<u8>(), 0..16)) {
            let message = sample(&payloads, context);
            let mut bytes = joined(&message);
            let len = bytes.get_u32_le() as usize;
            prop_assert_eq!(len, bytes.len());
            prop_assert_eq!(decode(bytes.freeze()).unwrap(), message);
        }

        /// One damaged byte anywhere is noticed or harmless (padding), and never panics.
        #[test]
        fn damage_is_noticed(at in 0usize..400, flip in 1u8..=255) {
            let message = sample(&[vec![1; 100], vec![2; 90]], vec![9; 8]);
            let mut bytes = joined(&message);
            let body = &mut bytes[LENGTH_LEN..];
            let at = at % body.len();
            body[at] ^= flip;
            if let Ok(back) = decode(Bytes::copy_from_slice(body)) {
                for (got, sent) in back.frames.iter().zip(&message.frames) {
                    prop_assert_eq!(&got.payload, &sent.payload);
                }
            }
        }

        #[test]
        fn garbage_never_panics(bytes: Vec<u8>) {
            let _ = decode(bytes.into());
        }
    }
}

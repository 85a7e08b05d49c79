//! The one place that turns raft-rs entries into frames' contents and back (docs/formats.md, "Entries").
//!
//! `Entry.data` is the payload. `Entry.context` of a normal entry holds header bytes 36..40 (records, kind, flags),
//! which raft-rs never interprets; every replica remakes headers from entries, so nothing else may hold them.

use bytes::{BufMut, Bytes, BytesMut};
use raft::eraftpb::{Entry, EntryType};

use crate::types::{Frame, FrameKind};

/// Bytes of `Entry.context` of a normal entry.
const CONTEXT_LEN: usize = 4;

/// What a frame of an entry holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) kind: FrameKind,
    pub(crate) records: u16,
    pub(crate) payload: Bytes,
}

/// An entry that cannot stand in the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("entry {index}: {reason}")]
pub(crate) struct EntryError {
    index: u64,
    reason: &'static str,
}

/// The context of a normal entry.
pub(crate) fn context(kind: FrameKind, records: u16) -> Bytes {
    let [low, high] = records.to_le_bytes();
    Bytes::copy_from_slice(&[low, high, kind as u8, 0])
}

/// Frame content of `entry`.
pub(crate) fn content(entry: &Entry) -> Result<Content, EntryError> {
    let fail = |reason| EntryError { index: entry.index, reason };
    match entry.get_entry_type() {
        EntryType::EntryNormal if entry.context.is_empty() => {
            if !entry.data.is_empty() {
                return Err(fail("data without a kind"));
            }
            Ok(Content { kind: FrameKind::Noop, records: 0, payload: Bytes::new() })
        }
        EntryType::EntryNormal => {
            if entry.context.len() != CONTEXT_LEN {
                return Err(fail("context is not four bytes"));
            }
            let kind = FrameKind::try_from(entry.context[2]).map_err(|_| fail("unknown kind"))?;
            match kind {
                FrameKind::Messages | FrameKind::Command | FrameKind::Transition => {}
                _ => return Err(fail("kind does not belong to a normal entry")),
            }
            if entry.context[3] != 0 {
                return Err(fail("flags are reserved"));
            }
            let records = u16::from_le_bytes([entry.context[0], entry.context[1]]);
            Ok(Content { kind, records, payload: entry.data.clone() })
        }
        conf => {
            let kind = if conf == EntryType::EntryConfChange { FrameKind::ConfChange } else { FrameKind::ConfChangeV2 };
            let context_len = u32::try_from(entry.context.len()).map_err(|_| fail("context too long"))?;
            let mut payload = BytesMut::with_capacity(4 + entry.context.len() + entry.data.len());
            payload.put_u32_le(context_len);
            payload.extend_from_slice(&entry.context);
            payload.extend_from_slice(&entry.data);
            Ok(Content { kind, records: 0, payload: payload.freeze() })
        }
    }
}

/// The entry whose frame this is: the inverse of [`content`].
pub(crate) fn entry(index: u64, term: u64, content: &Content) -> Result<Entry, EntryError> {
    let fail = |reason| EntryError { index, reason };
    let mut entry = Entry { index, term, ..Entry::default() };
    match content.kind {
        FrameKind::Noop => {
            if !content.payload.is_empty() || content.records != 0 {
                return Err(fail("a no-op holds nothing"));
            }
        }
        FrameKind::Messages | FrameKind::Command | FrameKind::Transition => {
            entry.data = content.payload.clone();
            entry.context = context(content.kind, content.records);
        }
        FrameKind::ConfChange | FrameKind::ConfChangeV2 => {
            let payload = &content.payload;
            let announced = payload.get(..4).ok_or_else(|| fail("membership change is too short"))?;
            let context_len = u32::from_le_bytes([announced[0], announced[1], announced[2], announced[3]]) as usize;
            let data_at = context_len.checked_add(4).filter(|at| *at <= payload.len());
            let data_at = data_at.ok_or_else(|| fail("membership change is shorter than its context"))?;
            entry.context = payload.slice(4..data_at);
            entry.data = payload.slice(data_at..);
            entry.set_entry_type(if content.kind == FrameKind::ConfChange {
                EntryType::EntryConfChange
            } else {
                EntryType::EntryConfChangeV2
            });
        }
        FrameKind::Blank => return Err(fail("a blank is no entry")),
    }
    Ok(entry)
}

/// The entry of a frame read back from the log.
pub(crate) fn entry_of_frame(frame: &Frame) -> Result<Entry, EntryError> {
    let content = Content { kind: frame.kind, records: frame.records, payload: frame.payload.clone() };
    entry(frame.at.index, frame.at.term, &content)
}

/// Whether an entry changes the membership.
pub(crate) fn is_conf_change(entry: &Entry) -> bool {
    entry.get_entry_type() != EntryType::EntryNormal
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn kinds() -> impl Strategy<Value = FrameKind> {
        prop_oneof![
            Just(FrameKind::Messages),
            Just(FrameKind::Command),
            Just(FrameKind::Transition),
            Just(FrameKind::ConfChange),
            Just(FrameKind::ConfChangeV2),
            Just(FrameKind::Noop),
        ]
    }

    proptest! {
        /// Every replica remakes headers from entries: the content must survive the way through raft-rs.
        #[test]
        fn content_survives_the_entry(kind in kinds(), records: u16, body: Vec<u8>) {
            let content_in = match kind {
                FrameKind::Noop => Content { kind, records: 0, payload: Bytes::new() },
                FrameKind::ConfChange | FrameKind::ConfChangeV2 => {
                    let mut payload = vec![0, 0, 0, 0];
                    payload.extend_from_slice(&body);
                    Content { kind, records: 0, payload: payload.into() }
                }
                _ => Content { kind, records, payload: body.into() },
            };
            let made = entry(7, 3, &content_in).unwrap();
            prop_assert_eq!(content(&made).unwrap(), content_in);
        }

        /// Bytes from a peer never panic here.
        #[test]
        fn any_payload_is_an_entry_or_an_error(kind in kinds(), records: u16, body: Vec<u8>) {
            let _ = entry(1, 1, &Content { kind, records, payload: body.into() });
        }
    }
}

//! A full check of one replica's files: every header, every payload, every blank.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{InspectError, OfflineLog};
use crate::fs::Fs;
use crate::log::frame::blank_header;
use crate::log::{Doubts, Identity, TailState};
use crate::types::{FrameKind, FramePos, LogPos};

/// What a verification found. Damage is an error of [`verify`], not a field.
#[derive(Debug, Clone)]
pub struct Verification {
    /// The group's folder.
    pub dir: PathBuf,
    /// Who the replica is.
    pub identity: Identity,
    /// Raft term of the meta file.
    pub term: u64,
    /// Vote in that term.
    pub vote: u64,
    /// Raft index and position of the first frame kept.
    pub first: (u64, LogPos),
    /// Last entry known to be committed.
    pub commit_index: u64,
    /// Position behind that entry.
    pub commit_end: LogPos,
    /// Last frame known to be durable when the meta file was written.
    pub durable: FramePos,
    /// Last frame found.
    pub tail: FramePos,
    /// Why the replica abstains from elections; none: it votes.
    pub doubts: Doubts,
    /// What lies behind it.
    pub tail_state: TailState,
    /// Bytes of a segment.
    pub segment_size: u64,
    /// Frames of each kind.
    pub frames: BTreeMap<FrameKind, u64>,
    /// Message records in all frames.
    pub records: u64,
    /// Payload bytes of all frames.
    pub payload_bytes: u64,
    /// Blanks that are not as they must be: segment ends that a power cut left half written. A start mends them.
    pub broken_blanks: Vec<LogPos>,
}

/// Checks a stopped replica's log from its first frame to its last.
pub fn verify(fs: &Arc<dyn Fs>, dir: &Path) -> Result<Verification, InspectError> {
    let log = OfflineLog::open(fs, dir)?;
    if log.tail_state == TailState::Hole {
        return Err(InspectError::Hole { dir: log.dir, last: log.tail.index, pos: log.tail.end() });
    }
    let layout = log.view.layout();
    let mut frames: BTreeMap<FrameKind, u64> = BTreeMap::new();
    let (mut records, mut payload_bytes) = (0, 0);
    let mut broken_blanks = Vec::new();
    let mut end = log.view.first().1;
    for frame in log.view.iter(log.view.first().0) {
        let frame = frame?;
        if let Some((pos, len)) = layout.place(end, frame.at.len).blank {
            let bytes = log.view.read_copied(pos, len as usize)?;
            let head = blank_header((pos, len));
            let head = head.as_ref().map_or(&[][..], |head| &head[..]);
            if !bytes.starts_with(head) || bytes[head.len()..].iter().any(|&byte| byte != 0) {
                broken_blanks.push(pos);
            }
        }
        end = frame.at.end();
        *frames.entry(frame.kind).or_default() += 1;
        records += u64::from(frame.records);
        payload_bytes += frame.payload.len() as u64;
    }
    Ok(Verification {
        identity: log.meta.identity,
        term: log.meta.term,
        vote: log.meta.vote,
        first: log.view.first(),
        commit_index: log.commit_index(),
        commit_end: log.end_of(log.commit_index())?,
        durable: log.meta.durable,
        tail: log.tail,
        doubts: log.meta.doubts,
        tail_state: log.tail_state,
        segment_size: layout.segment_size,
        frames,
        records,
        payload_bytes,
        broken_blanks,
        dir: log.dir,
    })
}

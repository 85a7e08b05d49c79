//! The part of recovery below the durable frame: no payload is read. What is damaged there can only be mended from another
//! member; where the frames behind the damage prove themselves it is noted and the start goes on, else the start is refused.

use std::io;
use std::sync::Arc;

use super::super::index::{SegmentIndex, SparseIndex, idx_len_max};
use super::super::meta::Meta;
use super::super::scan::{Check, HOP_CHUNK, Scanner, SegmentFiles};
use super::super::segment::idx_path;
use super::{Place, RecoveryError};
use crate::fs::{Fs, OpenMode};
use crate::log::frame::{ALIGN, HEADER_LEN, Header};
use crate::log::scrub::Run;
use crate::types::{FrameKind, FramePos, LogPos};

/// Fills `index` up to the durable frame and returns that frame.
pub(super) fn to_durable(
    fs: &Arc<dyn Fs>,
    place: &Place<'_>,
    files: &SegmentFiles,
    meta: &Meta,
    index: &mut SparseIndex,
    damage: &mut Vec<Run>,
) -> Result<FramePos, RecoveryError> {
    let mut prev = meta.first.before();
    let durable = meta.durable;
    if durable.index < meta.first.index {
        return Ok(prev);
    }
    let durable_base = place.layout.base_of(durable.pos);
    let mut scanner = Scanner::new(place.layout, files, false, HOP_CHUNK);
    for &base in files.keys().take_while(|&&base| base <= durable_base) {
        if base < durable_base
            && let Some(segment) = load_idx(fs, place, base, &prev, &mut scanner)?
        {
            prev = segment.last;
            index.insert(segment);
            continue;
        }
        prev = hop(place, &mut scanner, base, prev, (meta, &mut *index, &mut *damage))?;
    }
    if prev != durable {
        let reason = format!("found {prev:?} where the meta file names {durable:?}");
        return Err(damaged(place, durable.pos, durable.index, meta, reason));
    }
    Ok(prev)
}

/// Walks the headers of one segment, to its end or to the durable frame.
fn hop(
    place: &Place<'_>,
    scanner: &mut Scanner<'_>,
    base: LogPos,
    mut prev: FramePos,
    (meta, index, damage): (&Meta, &mut SparseIndex, &mut Vec<Run>),
) -> Result<FramePos, RecoveryError> {
    while prev.index < meta.durable.index {
        match scanner.next(&prev, Check::Header).map_err(|error| place.io_error(error))? {
            Ok((header, _)) if place.layout.base_of(header.pos) != base => break,
            Ok((header, _)) => {
                let at = header.at();
                index.push(&place.layout, &prev, at);
                prev = at;
            }
            Err(reason) => match behind_damage(place, scanner, &prev, meta)? {
                Some(at) => {
                    damage.push(Run { prev, begin: prev.end(), end: at, blank: None });
                    index.push_behind_gap(&place.layout, &prev, at);
                    prev = at;
                }
                None => return Err(damaged(place, prev.end(), prev.index + 1, meta, reason.to_string())),
            },
        }
    }
    Ok(prev)
}

/// The first frame behind damage that is proved by those behind it: their chain leads to the durable frame. Only where
/// nothing but the bytes between is unknown: the term must be the same on both sides.
fn behind_damage(
    place: &Place<'_>,
    scanner: &mut Scanner<'_>,
    prev: &FramePos,
    meta: &Meta,
) -> Result<Option<FramePos>, RecoveryError> {
    let mut pos = LogPos(prev.end().0.next_multiple_of(ALIGN));
    while pos <= meta.durable.pos {
        let room = place.layout.room(pos);
        if room < HEADER_LEN as u64 {
            pos = pos + room;
            continue;
        }
        let bytes = scanner.bytes(pos, HEADER_LEN).map_err(|error| place.io_error(error))?;
        let header = bytes.and_then(|bytes| Header::decode(bytes).ok());
        let at = header.filter(|header| header.pos == pos && header.kind != FrameKind::Blank).map(|header| header.at());
        if let Some(at) = at
            && at.term == prev.term
            && (prev.index + 2..=meta.durable.index).contains(&at.index)
            && leads_to_durable(place, scanner, at, meta)?
        {
            // Not the very next one: its header does not continue the log, although its checksum may lead to the one behind it.
            return Ok(Some(at));
        }
        pos = pos + ALIGN;
    }
    Ok(None)
}

fn leads_to_durable(
    place: &Place<'_>,
    scanner: &mut Scanner<'_>,
    mut at: FramePos,
    meta: &Meta,
) -> Result<bool, RecoveryError> {
    while at.index < meta.durable.index {
        match scanner.next(&at, Check::Header).map_err(|error| place.io_error(error))? {
            Ok((header, _)) => at = header.at(),
            Err(_) => return Ok(false),
        }
    }
    Ok(at == meta.durable)
}

/// The index file of a full segment, when it is there, valid, continues `prev`, and its seal record is the header that
/// lies in the log. Anything else is no error: the segment is walked instead.
fn load_idx(
    fs: &Arc<dyn Fs>,
    place: &Place<'_>,
    base: LogPos,
    prev: &FramePos,
    scanner: &mut Scanner<'_>,
) -> Result<Option<SegmentIndex>, RecoveryError> {
    let Some(segment) = read_idx(fs, place, base) else { return Ok(None) };
    // The first kept frame's predecessor is known by index, term and chain only; its own bytes may be gone.
    let continues = (segment.prev.index, segment.prev.term, segment.prev.chain) == (prev.index, prev.term, prev.chain);
    if !continues {
        return Ok(None);
    }
    let last = scanner.bytes(segment.last.pos, HEADER_LEN).map_err(|error| place.io_error(error))?;
    let sealed = last.and_then(|bytes| Header::decode(bytes).ok()).is_some_and(|header| header.at() == segment.last);
    Ok(sealed.then_some(segment))
}

/// Reads and decodes an index file; `None` for whatever is wrong with it.
fn read_idx(fs: &Arc<dyn Fs>, place: &Place<'_>, base: LogPos) -> Option<SegmentIndex> {
    let read = || -> io::Result<Vec<u8>> {
        let file = fs.open(&idx_path(place.dir, base), OpenMode::Read)?;
        let len = file.len()?;
        if len > idx_len_max(&place.layout) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut bytes = vec![0; len as usize];
        let read = file.read_at(&mut bytes, 0)?;
        bytes.truncate(read);
        Ok(bytes)
    };
    SegmentIndex::decode(&read().ok()?, base, &place.layout)
}

fn damaged(place: &Place<'_>, pos: LogPos, index: u64, meta: &Meta, reason: String) -> RecoveryError {
    RecoveryError::Damaged {
        path: place.path(pos),
        at: place.offset(pos),
        pos,
        index,
        durable: meta.durable.index,
        reason,
    }
}

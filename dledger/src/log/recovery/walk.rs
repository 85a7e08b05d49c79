//! The part of recovery below the durable frame: no payload is read, and nothing may be wrong.

use std::io;
use std::sync::Arc;

use super::super::index::{SegmentIndex, SparseIndex, idx_len_max};
use super::super::meta::Meta;
use super::super::scan::{Check, HOP_CHUNK, Scanner, SegmentFiles};
use super::super::segment::idx_path;
use super::{Place, RecoveryError};
use crate::fs::{Fs, OpenMode};
use crate::log::frame::{HEADER_LEN, Header};
use crate::types::{FramePos, LogPos};

/// Fills `index` up to the durable frame and returns that frame.
pub(super) fn to_durable(
    fs: &Arc<dyn Fs>,
    place: &Place<'_>,
    files: &SegmentFiles,
    meta: &Meta,
    index: &mut SparseIndex,
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
        prev = hop(place, &mut scanner, base, prev, meta, index)?;
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
    meta: &Meta,
    index: &mut SparseIndex,
) -> Result<FramePos, RecoveryError> {
    while prev.index < meta.durable.index {
        match scanner.next(&prev, Check::Header).map_err(|error| place.io_error(error))? {
            Ok((header, _)) if place.layout.base_of(header.pos) != base => break,
            Ok((header, _)) => {
                let at = header.at();
                index.push(&place.layout, &prev, at);
                prev = at;
            }
            Err(reason) => return Err(damaged(place, prev.end(), prev.index + 1, meta, reason.to_string())),
        }
    }
    Ok(prev)
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

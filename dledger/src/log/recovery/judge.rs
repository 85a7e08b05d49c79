//! What the bytes behind the last good frame say: nothing, a torn job, or that acknowledged data has gone bad.

use super::super::frame::{ALIGN, HEADER_LEN, Header, Layout, PAGE};
use super::super::scan::{Check, READ_CHUNK, Scanner, SegmentFiles};
use super::{Place, RecoveryError, TailState};
use crate::types::{FrameKind, FramePos, LogPos};

/// How far behind the last good frame other frames are looked for.
pub const EVIDENCE_WINDOW: u64 = 64 * 1024 * 1024;

/// Bytes of log that one write job spans at most, blanks included (R11): the writer keeps to it, so a power cut leaves
/// no hole with frames behind it farther than this.
pub const TORN_JOB_SPAN: u64 = 8 * 1024 * 1024;

/// What was found.
pub(super) struct Verdict {
    pub(super) state: TailState,
    /// First non-zero byte behind the tail, and the number of bytes to the last one.
    pub(super) zero: Option<(LogPos, u64)>,
}

/// Everything of interest in the window.
#[derive(Default)]
struct Findings {
    /// First and last page with a byte that is not zero: position of its first byte, and behind its last byte.
    dirty: Option<(LogPos, LogPos)>,
    /// End of the last header that is at home where it lies.
    evidence: Option<LogPos>,
    /// Whether a header lies there that was at home when the file was another segment: the file was used before.
    recycled: bool,
}

/// Looks at what lies behind `tail`. Frames below `stale_until` prove nothing: a truncation left them there.
pub(super) fn judge(
    place: &Place<'_>,
    files: &SegmentFiles,
    tail: &FramePos,
    stale_until: LogPos,
) -> Result<Verdict, RecoveryError> {
    let hole = tail.end();
    let mut scanner = Scanner::new(place.layout, files, true, READ_CHUNK);
    // A header that continues the chain over a torn payload: whatever looks like a frame inside is payload.
    let torn = scanner.next(tail, Check::Header).map_err(|error| place.io_error(error))?.ok();
    let torn = torn.map(|(header, _)| (header.pos, header.at().end()));
    let files_end = files.last_key_value().map_or(hole, |(base, _)| *base + place.layout.segment_size);
    let window_end = LogPos(hole.0.saturating_add(EVIDENCE_WINDOW)).max(stale_until).min(files_end);

    let dirty = dirty_range(place, &mut scanner, hole, window_end)?;
    let mut findings = Findings { dirty, ..Findings::default() };
    if let Some((begin, end)) = findings.dirty {
        let mut pos = LogPos(begin.0.next_multiple_of(ALIGN));
        while pos < end {
            if let Some((from, to)) = torn
                && (from..to).contains(&pos)
            {
                pos = to;
                continue;
            }
            let room = place.layout.room(pos);
            if room < HEADER_LEN as u64 {
                pos = pos + room;
                continue;
            }
            let bytes = scanner.bytes(pos, HEADER_LEN).map_err(|error| place.io_error(error))?;
            pos = match bytes.and_then(|bytes| Header::decode(bytes).ok()) {
                Some(header) if is_at_home(&place.layout, &header, pos) => {
                    let (frame_end, next) = measure(place, &mut scanner, &header)?;
                    if pos > hole && pos >= stale_until {
                        findings.evidence = Some(frame_end);
                    }
                    next
                }
                Some(header) => {
                    findings.recycled |= was_at_home(&place.layout, &header, pos);
                    pos + ALIGN
                }
                None => pos + ALIGN,
            };
        }
    }
    // In a file that was used before, old bytes are no trace of a torn job, and stay: only what could ever be taken for frames
    // of this log goes.
    let torn_end = torn.map(|(_, end)| end.min(files_end));
    let traces =
        if findings.recycled { findings.evidence.max(torn_end).map(|end| (hole, end)) } else { findings.dirty };
    let state = match (findings.evidence, traces) {
        (Some(evidence), _) if evidence.0 > hole.0 + TORN_JOB_SPAN => TailState::Hole,
        (Some(_), _) => TailState::TornJob,
        (None, Some(_)) => TailState::TornTail,
        (None, None) => TailState::Clean,
    };
    Ok(Verdict { state, zero: traces.map(|(begin, end)| (begin, end.0 - begin.0)) })
}

/// A header that belonged where it lies when the file was a segment in front of this one.
fn was_at_home(layout: &Layout, header: &Header, pos: LogPos) -> bool {
    let offset = |pos: LogPos| pos.0 % layout.segment_size;
    header.pos < pos && offset(header.pos) == offset(pos)
}

/// A real frame's header, and it says that it belongs where it lies.
fn is_at_home(layout: &Layout, header: &Header, pos: LogPos) -> bool {
    header.kind != FrameKind::Blank
        && header.pos == pos
        && header.frame_len <= layout.max_frame_len()
        && u64::from(header.frame_len) <= layout.room(pos)
}

/// How far a frame at home proves that something was written (its end when its payload is whole, else the end of its
/// header), and where the search goes on.
fn measure(place: &Place<'_>, scanner: &mut Scanner<'_>, header: &Header) -> Result<(LogPos, LogPos), RecoveryError> {
    let body = header.pos + HEADER_LEN as u64;
    let rest = scanner.bytes(body, header.frame_len as usize - HEADER_LEN).map_err(|error| place.io_error(error))?;
    let whole = rest.is_some_and(|rest| header.check_payload(rest).is_ok());
    let end = header.at().end();
    Ok(if whole { (end, end) } else { (body, header.pos + ALIGN) })
}

/// The pages of `from..to` that are not all zero: where the first begins and the last ends.
fn dirty_range(
    place: &Place<'_>,
    scanner: &mut Scanner<'_>,
    from: LogPos,
    to: LogPos,
) -> Result<Option<(LogPos, LogPos)>, RecoveryError> {
    let mut dirty: Option<(LogPos, LogPos)> = None;
    let mut at = from;
    while at < to {
        // From the second round on `at` is the first byte of a page.
        let len = place.layout.room(at).min(to.0 - at.0).min(READ_CHUNK as u64 - at.0 % PAGE);
        let Some(bytes) = scanner.bytes(at, len as usize).map_err(|error| place.io_error(error))? else { break };
        let mut done = 0;
        while done < bytes.len() {
            let page_at = at + done as u64;
            let page_len = ((PAGE - page_at.0 % PAGE) as usize).min(bytes.len() - done);
            if !is_zero(&bytes[done..done + page_len]) {
                let begin = dirty.map_or(page_at, |(begin, _)| begin);
                dirty = Some((begin, page_at + page_len as u64));
            }
            done += page_len;
        }
        at = at + len;
    }
    Ok(dirty)
}

fn is_zero(bytes: &[u8]) -> bool {
    // Without an early exit the loop is vectorised; a page is small enough to be read whole.
    bytes.iter().fold(0u8, |sum, byte| sum | byte) == 0
}

//! Verification of what lies on the disk, run by run, and where a damaged run's good bytes must fit in.
//!
//! A *run* is what lies behind one frame that the index in memory knows, up to the next such frame: some 64 KiB. Both
//! are known with their chain values, so bytes from a peer can be proved to be those that were here before: every header is
//! chained to the one before it, from the known frame on, and the last one must be the known end.

use super::frame::{Blank, Header, Layout};
use super::scan::{Check, READ_CHUNK, ScanError, Scanner, follows};
use super::view::{LogView, ViewError};
use super::writer::FrameBytes;
use crate::transport::codec::WireFrame;
use crate::types::{FramePos, LogPos};

/// A part of the log behind a known frame, up to another known one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The frame before it; its own bytes are not part of the run.
    pub prev: FramePos,
    /// Position of its first byte.
    pub begin: LogPos,
    /// Its last frame.
    pub end: FramePos,
    /// The blank behind it, when it reaches to the end of a full segment.
    pub blank: Option<Blank>,
}

impl Run {
    /// Bytes to look at.
    pub fn len(&self) -> u64 {
        self.end.end().0 - self.begin.0 + self.blank.map_or(0, |(_, len)| len)
    }

    /// Never.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The frames of this run as they must be written, made from what a peer sent; `None` when these are not the frames
    /// that belong here.
    pub fn prove(&self, layout: &Layout, sent: &[WireFrame]) -> Option<Vec<FrameBytes>> {
        let mut frames: Vec<FrameBytes> = Vec::with_capacity(sent.len());
        for wire in sent {
            let header = Header::decode(&wire.header).ok()?;
            let prev = frames.last().map_or(self.prev, |frame| frame.at);
            follows(layout, &header, header.pos, &prev).ok()?;
            frames.push(FrameBytes {
                at: header.at(),
                header: wire.header,
                payload: wire.payload.clone(),
                blank: None,
            });
        }
        frames.last().is_some_and(|last| last.at == self.end).then_some(frames)
    }
}

impl LogView {
    /// The run that begins behind this position, or holds it, among frames up to the index `until`; `None` when there is
    /// none.
    pub fn run_from(&self, pos: LogPos, until: u64) -> Option<Run> {
        let run = self.known_run(pos)?;
        (run.end.index <= until && run.end.end() <= self.published()).then_some(run)
    }

    /// The damaged runs that hold entries behind `applied`, or those around it: what a start will read.
    pub fn damaged_behind(&self, applied: &FramePos) -> Vec<Run> {
        let mut damaged = Vec::new();
        let mut pos = applied.pos;
        while let Some(run) = self.run_from(pos, u64::MAX) {
            if run.end.index > applied.index && !self.is_whole(&run).unwrap_or(false) {
                damaged.push(run);
            }
            pos = run.end.end();
        }
        damaged
    }

    /// Whether a run is on the disk as it was written. Full segments are read from the disk itself, not from the page cache.
    ///
    /// # Errors
    /// The disk failed, which is damage too.
    pub fn is_whole(&self, run: &Run) -> Result<bool, ViewError> {
        let layout = self.layout();
        self.is_run_whole(run, layout.base_of(run.begin) < layout.base_of(self.published()))
    }

    /// The same, from the disk or from the page cache.
    pub(super) fn is_run_whole(&self, run: &Run, uncached: bool) -> Result<bool, ViewError> {
        let layout = self.layout();
        let files = self.files();
        let mut scanner = Scanner::new(layout, &files, uncached, READ_CHUNK);
        let check = |scanner: &mut Scanner<'_>| -> Result<bool, ScanError> {
            let mut at = run.prev;
            while at.index < run.end.index {
                match scanner.next(&at, Check::Payload)? {
                    Ok((header, _)) => at = header.at(),
                    Err(_) => return Ok(false),
                }
            }
            Ok(at == run.end && run.blank.map_or(Ok(true), |blank| scanner.blank_is_whole(blank))?)
        };
        check(&mut scanner).map_err(|error| self.io_error(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::frame::make_header;
    use crate::types::FrameKind;

    /// Whatever a peer sends, only the very bytes that were there may be written over them.
    #[test]
    fn only_the_frames_that_belong_there_are_proved() {
        let layout = Layout { segment_size: 1 << 20 };
        let mut at = vec![FramePos::ORIGIN];
        let mut sent = Vec::new();
        for n in 1..=5u64 {
            let payload = vec![n as u8; 100];
            let prev = at[n as usize - 1];
            let (next, header, _) = make_header(&layout, &prev, n, 1, FrameKind::Messages, 1, &payload);
            at.push(next);
            sent.push(WireFrame { header, payload: payload.into() });
        }
        let run = Run { prev: at[1], begin: at[1].end(), end: at[4], blank: None };
        let good = &sent[1..4];
        let frames = run.prove(&layout, good).expect("these are they");
        assert_eq!(frames.iter().map(|frame| frame.at).collect::<Vec<_>>(), at[2..=4]);

        for wrong in [&sent[1..3], &sent[1..5], &sent[0..4], &sent[2..4], &[]] {
            assert!(run.prove(&layout, wrong).is_none());
        }
        // Another history with the same numbers, lengths and checksums of its own.
        for n in 0..3 {
            let other = vec![9; 100];
            let prev = at[n + 1];
            let (_, header, _) = make_header(&layout, &prev, prev.index + 1, 1, FrameKind::Messages, 1, &other);
            let mut mixed = good.to_vec();
            mixed[n] = WireFrame { header, payload: other.into() };
            assert!(run.prove(&layout, &mixed).is_none(), "frame {n}");
        }
        for bit in 0..48 * 8 {
            let mut mixed = good.to_vec();
            mixed[0].header[bit / 8] ^= 1 << (bit % 8);
            assert!(run.prove(&layout, &mixed).is_none(), "bit {bit}");
        }
    }
}

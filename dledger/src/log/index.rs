//! Where frames lie without reading the log: one sampled frame per 64 KiB, and the runs of equal terms.
//!
//! Kept in memory for the whole log (about 512 KiB per GiB), and per full segment in a `.idx` file beside it, with the
//! segment's last frame as the seal record. The files can always be rebuilt from the log, so they are never synced;
//! a checksum finds a torn one. They must never say more than the log does: a truncation deletes them first.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::frame::{Layout, payload_crc};
use super::meta::{decode_frame_pos, encode_frame_pos};
use crate::types::{FramePos, LogPos};

/// Bytes of log between two samples. A look-up hops at most this far through headers.
pub const STRIDE: u64 = 64 * 1024;

/// First four bytes of an `.idx` file: three letters and the format version.
pub const MAGIC: [u8; 4] = *b"LMI\x01";

/// Bytes before the samples.
const HEAD_LEN: usize = 96;
/// Bytes of one sample: a [`FramePos`].
const SAMPLE_LEN: usize = 32;
/// Bytes of one term run.
const RUN_LEN: usize = 16;

/// Longest `.idx` file of a segment of this size: one sample per stride, and at most one term run per smallest frame.
pub fn idx_len_max(layout: &Layout) -> u64 {
    let samples = layout.segment_size / STRIDE + 1;
    let runs = layout.segment_size / super::frame::HEADER_LEN as u64;
    HEAD_LEN as u64 + samples * SAMPLE_LEN as u64 + runs * RUN_LEN as u64
}

/// The index of one segment that holds at least one frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentIndex {
    /// Position of the segment's first byte.
    pub base: LogPos,
    /// The frame before the segment's first one.
    pub prev: FramePos,
    /// Sampled frames, ascending; the first frame of the segment is always one.
    pub samples: Vec<FramePos>,
    /// Last frame in the segment.
    pub last: FramePos,
    /// First index and term of each run of equal terms; the first run begins with the segment's first frame.
    pub runs: Vec<(u64, u64)>,
}

impl SegmentIndex {
    fn new(base: LogPos, prev: FramePos, first: FramePos) -> SegmentIndex {
        SegmentIndex { base, prev, samples: vec![first], last: first, runs: vec![(first.index, first.term)] }
    }

    fn push(&mut self, at: FramePos) {
        assert!(at.index == self.last.index + 1, "{at:?} cannot follow {:?} in the index", self.last);
        if at.term != self.last.term {
            self.runs.push((at.index, at.term));
        }
        if self.samples.last().is_none_or(|sample| at.pos.0 >= sample.pos.0 + STRIDE) {
            self.samples.push(at);
        }
        self.last = at;
    }

    /// The bytes of the `.idx` file.
    pub fn encode(&self, layout: &Layout) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEAD_LEN + self.samples.len() * SAMPLE_LEN + self.runs.len() * RUN_LEN);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.base.0.to_le_bytes());
        out.extend_from_slice(&layout.segment_size.to_le_bytes());
        out.extend_from_slice(&(self.samples.len() as u32).to_le_bytes());
        out.extend_from_slice(&(self.runs.len() as u32).to_le_bytes());
        out.extend_from_slice(&encode_frame_pos(&self.prev));
        out.extend_from_slice(&encode_frame_pos(&self.last));
        for sample in &self.samples {
            out.extend_from_slice(&encode_frame_pos(sample));
        }
        for (first_index, term) in &self.runs {
            out.extend_from_slice(&first_index.to_le_bytes());
            out.extend_from_slice(&term.to_le_bytes());
        }
        let crc = payload_crc(&out[8..]);
        out[4..8].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads an `.idx` file; `None` when it is torn, rotten, of another segment, or contradicts itself.
    pub fn decode(bytes: &[u8], base: LogPos, layout: &Layout) -> Option<SegmentIndex> {
        let head: &[u8; HEAD_LEN] = bytes.first_chunk()?;
        let u32_at = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("four bytes"));
        let u64_at = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("eight bytes"));
        let fits = head[0..4] == MAGIC && u64_at(8) == base.0 && u64_at(16) == layout.segment_size;
        if !fits || payload_crc(&bytes[8..]) != u32_at(4) {
            return None;
        }
        let samples_len = (u32_at(24) as usize).checked_mul(SAMPLE_LEN)?;
        let runs_len = (u32_at(28) as usize).checked_mul(RUN_LEN)?;
        let body = &bytes[HEAD_LEN..];
        if samples_len.checked_add(runs_len)? != body.len() {
            return None;
        }
        let (samples, runs) = body.split_at(samples_len);
        let index = SegmentIndex {
            base,
            prev: decode_frame_pos(&head[32..64])?,
            last: decode_frame_pos(&head[64..96])?,
            samples: samples.chunks_exact(SAMPLE_LEN).map(decode_frame_pos).collect::<Option<_>>()?,
            runs: runs
                .chunks_exact(RUN_LEN)
                .map(|run| Some((u64_le(run.first_chunk()?), u64_le(run.last_chunk()?))))
                .collect::<Option<_>>()?,
        };
        index.is_consistent(layout).then_some(index)
    }

    fn is_consistent(&self, layout: &Layout) -> bool {
        let end = self.base + layout.segment_size;
        let (Some(first), Some(last_sample), Some(run)) =
            (self.samples.first(), self.samples.last(), self.runs.first())
        else {
            return false;
        };
        first.index == self.prev.index + 1
            && first.pos == self.base
            && *run == (first.index, first.term)
            && self.samples.windows(2).all(|pair| pair[0].index < pair[1].index && pair[0].end() <= pair[1].pos)
            && self.runs.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 < pair[1].1)
            && self.runs.last().is_some_and(|run| run.0 <= self.last.index && run.1 == self.last.term)
            && last_sample.index <= self.last.index
            && last_sample.pos <= self.last.pos
            && self.last.end() <= end
    }
}

fn u64_le(bytes: &[u8; 8]) -> u64 {
    u64::from_le_bytes(*bytes)
}

/// The index of a whole log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SparseIndex {
    segments: BTreeMap<LogPos, Arc<SegmentIndex>>,
}

impl SparseIndex {
    /// Adds the frame behind the last one. `prev` is the frame before it.
    pub fn push(&mut self, layout: &Layout, prev: &FramePos, at: FramePos) {
        let base = layout.base_of(at.pos);
        match self.segments.get_mut(&base) {
            Some(segment) => Arc::make_mut(segment).push(at),
            None => {
                self.segments.insert(base, Arc::new(SegmentIndex::new(base, *prev, at)));
            }
        }
    }

    /// Adds a frame behind damage: the frames between it and `prev` are not known.
    pub fn push_behind_gap(&mut self, layout: &Layout, prev: &FramePos, at: FramePos) {
        let base = layout.base_of(at.pos);
        match self.segments.get_mut(&base) {
            Some(segment) => {
                let segment = Arc::make_mut(segment);
                segment.samples.push(at);
                segment.last = at;
            }
            None => {
                self.segments.insert(base, Arc::new(SegmentIndex::new(base, *prev, at)));
            }
        }
    }

    /// Adds the index of a full segment, read from its file.
    pub fn insert(&mut self, segment: SegmentIndex) {
        self.segments.insert(segment.base, Arc::new(segment));
    }

    /// Index of the segment with this base.
    pub fn segment(&self, base: LogPos) -> Option<&Arc<SegmentIndex>> {
        self.segments.get(&base)
    }

    /// Drops every frame behind `cut`, and every frame when `cut` is the one before the first.
    pub fn truncate(&mut self, cut: &FramePos) {
        self.segments.retain(|_, segment| segment.prev.index < cut.index);
        let Some(mut entry) = self.segments.last_entry() else { return };
        if entry.get().last.index <= cut.index {
            return;
        }
        let segment = Arc::make_mut(entry.get_mut());
        segment.samples.retain(|sample| sample.index <= cut.index);
        segment.runs.retain(|run| run.0 <= cut.index);
        segment.last = *cut;
    }

    /// Drops the segments in front of this base.
    pub fn remove_before(&mut self, base: LogPos) {
        self.segments = self.segments.split_off(&base);
    }

    /// The nearest sampled frame at or before `index`: where to begin hopping.
    pub fn floor(&self, index: u64) -> Option<FramePos> {
        let candidates = self.segments.values();
        // Bases ascend with indexes; a binary search over the map's keys is not possible by index, so walk from the
        // back: look-ups are mostly near the end, and a log has few segments.
        let segment = candidates.rev().find(|segment| segment.prev.index < index)?;
        let at = segment.samples.partition_point(|sample| sample.index <= index);
        segment.samples.get(at.checked_sub(1)?).copied()
    }

    /// The frame at `pos`, when it was sampled, or the nearest sample before it.
    pub fn floor_pos(&self, pos: LogPos) -> Option<FramePos> {
        let (_, segment) = self.segments.range(..=pos).next_back()?;
        let at = segment.samples.partition_point(|sample| sample.pos <= pos);
        segment.samples.get(at.checked_sub(1)?).copied()
    }

    /// The known frames before and at the end of what holds `pos`, or of what comes next behind it, and where that begins. A
    /// segment's last frame is known too.
    pub fn run_around(&self, pos: LogPos) -> Option<(FramePos, LogPos, FramePos)> {
        // The segments in front may have been given up.
        let (_, segment) = self.segments.range(..=pos).next_back().or_else(|| self.segments.first_key_value())?;
        let segment = if segment.last.end() > pos { segment } else { self.segments.range(pos..).next()?.1 };
        let at = segment.samples.partition_point(|sample| sample.end() <= pos);
        let end = segment.samples.get(at).copied().unwrap_or(segment.last);
        Some(match at.checked_sub(1) {
            None => (segment.prev, segment.base, end),
            Some(before) => (segment.samples[before], segment.samples[before].end(), end),
        })
    }

    /// Last frame.
    pub fn last(&self) -> Option<FramePos> {
        self.segments.last_key_value().map(|(_, segment)| segment.last)
    }

    /// First index and term of each run of equal terms in the whole log, ascending.
    pub fn term_runs(&self) -> Vec<(u64, u64)> {
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for &(first_index, term) in self.segments.values().flat_map(|segment| &segment.runs) {
            if runs.last().is_none_or(|last| last.1 != term) {
                runs.push((first_index, term));
            }
        }
        runs
    }

    /// Segments with at least one frame.
    pub fn segments(&self) -> impl DoubleEndedIterator<Item = &Arc<SegmentIndex>> {
        self.segments.values()
    }
}

#[cfg(test)]
mod tests;

//! What goes to disk together.

use std::sync::Arc;

use bytes::Bytes;

use super::super::frame::{Blank, HEADER_LEN, Layout, Placement, frame_len};
use super::super::meta::Meta;
use crate::snapshot::Staged;
use crate::types::FramePos;

/// One frame to write, as [`crate::log::make_header`] placed it.
#[derive(Clone, Debug)]
pub struct FrameBytes {
    /// Where it goes.
    pub at: FramePos,
    /// Its header.
    pub header: [u8; HEADER_LEN],
    /// Its payload, without padding.
    pub payload: Bytes,
    /// What must be blanked before it.
    pub blank: Option<Blank>,
}

impl FrameBytes {
    /// Zero bytes between the payload and the frame's end.
    pub(super) fn pad_len(&self) -> u64 {
        u64::from(self.at.len) - (HEADER_LEN + self.payload.len()) as u64
    }

    /// Checks that this frame is the one that belongs behind `prev`: the last look before the disk.
    ///
    /// # Panics
    /// When it is not.
    pub(super) fn check_follows(&self, layout: &Layout, prev: &FramePos) {
        let at = &self.at;
        assert!(at.index == prev.index + 1, "{at:?} cannot follow {prev:?}");
        assert!(at.term >= prev.term, "{at:?} cannot follow {prev:?}");
        assert!(at.len == frame_len(self.payload.len()), "{at:?} has {} bytes of payload", self.payload.len());
        let placement = Placement { blank: self.blank, at: at.pos };
        assert!(layout.place(prev.end(), at.len) == placement, "{at:?} behind {prev:?} is placed at {placement:?}");
        assert!(self.header[HEADER_LEN - 4..] == at.chain.to_le_bytes(), "{at:?} has another header");
    }
}

/// A meta file write that goes before the frames of its job.
#[derive(Clone, Debug)]
pub struct MetaWrite {
    /// The new content. `durable` and `stale_until` are filled in by the writer; `commit_hint` is cut to the durable
    /// index (R3) and, when that cut something off, stored again after the job's sync (R10).
    pub meta: Meta,
    /// Whether term or vote changed: both slots, each synced.
    pub both_slots: bool,
}

/// What goes to disk together.
#[derive(Clone, Debug, Default)]
pub struct WriteJob {
    /// Drop every frame behind this one first. All earlier jobs are synced before.
    pub truncate_to: Option<FramePos>,
    /// Frames that follow the (cut) tail without a gap.
    pub frames: Vec<FrameBytes>,
    /// Meta file write; done before everything else.
    pub meta: Option<MetaWrite>,
    /// Frames to write once more where they are, byte for byte what was there before it went bad; and blanks.
    pub rewrite: Vec<FrameBytes>,
    /// Blanks to write once more.
    pub reblank: Option<Blank>,
    /// A snapshot that takes the place of the whole log before the frames are written. All earlier jobs are synced before.
    pub install: Option<Arc<Staged>>,
}

impl WriteJob {
    /// Whether it only adds frames: no term, vote, commit index of a membership change, or cut.
    pub fn is_frames_only(&self) -> bool {
        self.meta.is_none() && self.install.is_none() && self.truncate_to.is_none() && self.rewrite.is_empty()
    }
}

//! Segment files and the supply of prepared spare ones.
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::frame::Layout;
use crate::fs::Fs;

/// Keeps prepared, zero-filled segment files ready.
pub struct SegmentSupply {}

impl SegmentSupply {
    /// Prepares a spare only when one is needed, on the caller's thread: simulator and tools.
    pub fn inline(_fs: &Arc<dyn Fs>, _dir: &Path, _layout: Layout) -> io::Result<SegmentSupply> {
        Ok(SegmentSupply {})
    }
    /// Keeps one spare ready from a thread of its own, filling at most `pace` bytes per second unless one is waited for.
    pub fn background(_fs: &Arc<dyn Fs>, _dir: &Path, _layout: Layout, _pace: u64) -> io::Result<SegmentSupply> {
        Ok(SegmentSupply {})
    }
}

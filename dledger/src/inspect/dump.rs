//! Frames one by one, for a reader's eyes.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use super::{InspectError, OfflineLog};
use crate::fs::Fs;
use crate::types::Frame;

/// A frame and its file.
#[derive(Debug)]
pub struct DumpedFrame<'a> {
    /// The frame, with its payload.
    pub frame: &'a Frame,
    /// Name of the segment file.
    pub segment: String,
    /// Offset of the header in it.
    pub offset: u64,
}

/// Hands the frames from `from_index` (0 = the first one) on to `sink`, in order, until it breaks or the log ends.
/// Both checksums of each frame have been verified.
pub fn dump(
    fs: &Arc<dyn Fs>,
    dir: &Path,
    from_index: u64,
    sink: &mut dyn FnMut(DumpedFrame<'_>) -> ControlFlow<()>,
) -> Result<(), InspectError> {
    let log = OfflineLog::open(fs, dir)?;
    let layout = log.view.layout();
    for frame in log.view.iter(from_index.max(log.view.first().0)) {
        let frame = frame?;
        let base = layout.base_of(frame.at.pos);
        let offset = frame.at.pos.0 - base.0;
        let dumped = DumpedFrame { frame: &frame, segment: crate::log::segment::segment_name(base), offset };
        if sink(dumped).is_break() {
            break;
        }
    }
    Ok(())
}

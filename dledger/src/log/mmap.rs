//! Read-only mappings of segment files: the only unsafe code of the workspace.
//!
//! Readers take slices out of a mapping without a copy; the mapping lives until the last slice is dropped, also when
//! the file has been removed meanwhile. Nothing is ever written through a mapping: a failed write would be a SIGBUS
//! without an error code, and there is no order between such writes.
#![allow(unsafe_code, reason = "a file mapping has no safe constructor; the two conditions are stated below")]

use std::fs::File;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use memmap2::{Mmap, MmapOptions};

use crate::fs::Mapping;

struct FileMapping {
    map: Mmap,
}

/// What a [`Bytes`] made of a mapping owns.
struct MappedRange {
    mapping: Arc<FileMapping>,
    start: usize,
    end: usize,
}

impl AsRef<[u8]> for MappedRange {
    fn as_ref(&self) -> &[u8] {
        &self.mapping.map[self.start..self.end]
    }
}

/// Maps the first `len` bytes of `file` for reading.
pub(crate) fn map_file(file: &File, len: u64) -> io::Result<Arc<dyn Mapping>> {
    let present = file.metadata()?.len();
    if present < len {
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            format!("cannot map {len} bytes of a file that has {present}"),
        ));
    }
    let len = usize::try_from(len).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
    // SAFETY: two things would make a shared read-only mapping unsound. (1) The file shrinks: segments are created at
    // full length and never cut, only unlinked, and the length was checked above. (2) Bytes change under a live slice:
    // all writes go through `pwritev` behind the published end of the log, and slices are handed out only below it
    // (`LogView`); a conflict truncation lowers the published end before a byte behind the cut changes, and committed
    // bytes, the only ones that outlive a call, are never truncated.
    let map = unsafe { MmapOptions::new().len(len).map(file)? };
    Ok(Arc::new(FileMapping { map }))
}

impl Mapping for FileMapping {
    fn slice(self: Arc<Self>, offset: u64, len: usize) -> io::Result<Bytes> {
        let start = usize::try_from(offset).ok();
        let end = start.and_then(|start| start.checked_add(len)).filter(|&end| end <= self.map.len());
        let (Some(start), Some(end)) = (start, end) else {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("{len} bytes at {offset} lie outside of a mapping of {} bytes", self.map.len()),
            ));
        };
        Ok(Bytes::from_owner(MappedRange { mapping: self, start, end }))
    }
}

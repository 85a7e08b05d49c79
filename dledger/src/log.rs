//! The log of one group on one disk: the CommitLog.
//!
//! ```text
//! raft loop -- WriteJob --> LogWriter (log-io thread) --> segments, .idx, meta
//!                               | new segments, sparse index
//! apply, broker, peers, tools <-- LogView (any thread, below the published position)
//! start: MetaFile::open -> recover (reads only) -> LogWriter::open (mends, then writes)
//! ```
//! A group's folder holds `meta` and `log/`; docs/formats.md draws every byte.

pub mod costs;
pub mod doubts;
pub mod frame;
pub mod index;
pub mod meta;
pub(crate) mod mmap;
pub mod recovery;
mod scan;
pub mod scrub;
pub mod segment;
pub mod view;
pub mod writer;

pub use costs::{LogCosts, LogCounters};
pub use doubts::Doubts;
pub use frame::{Blank, FrameError, HEADER_LEN, Header, Layout, Placement, frame_len, make_header, payload_crc};
pub use index::SparseIndex;
pub use meta::{FirstFrame, GroupConstants, Identity, Member, Meta, MetaError, MetaFile};
pub use recovery::{Recovered, RecoveryError, TailState, recover};
pub use segment::SegmentSupply;
pub use view::{LogView, ViewError};
pub use writer::{FrameBytes, LogWriter, MetaWrite, WriteJob};

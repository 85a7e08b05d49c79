//! A replicated log of opaque byte records: the CommitLog is the Raft log, one log, byte-identical on every replica.
//!
//! This crate knows neither topics nor RocketMQ. The layer above gives it a [`StateMachine`] (what a committed frame
//! changes) and a [`Stamper`] (what a proposal becomes, given everything proposed before it).

mod apply;
mod doorbell;
mod entry;
pub mod fs;
pub mod group;
mod handle;
mod histogram;
pub mod inspect;
pub mod log;
pub mod log_io;
mod node;
pub mod plant;
mod queue;
mod raft_loop;
pub mod replica;
pub mod salvage;
mod scrub;
mod seam;
pub mod sim;
pub mod snapshot;
mod storage;
pub mod transport;
mod types;

pub use apply::Applier;
pub use handle::{
    GroupHandle, GroupStatus, PROPOSAL_BYTES_MAX, PeerStatus, ReadError, Role, RoleView, Standing, Unfit,
};
pub use histogram::{Distribution, Histogram};
pub use node::{GroupSetup, Layer, MemberAddress, Node, NodeConfig, NodeError};
pub use scrub::Scrub;
pub use seam::*;
pub use transport::{PeerTlsError, PeerTlsFiles};
pub use types::{FRAME_HEADER_LEN, Frame, FrameKind, FramePos, GroupId, LogPos, RaftId, split_transition};

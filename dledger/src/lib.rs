//! A replicated log of opaque byte records: the CommitLog is the Raft log, one log, byte-identical on every replica.
//!
//! This crate knows neither topics nor RocketMQ. The layer above gives it a [`StateMachine`] (what a committed frame
//! changes) and a [`Stamper`] (what a proposal becomes, given everything proposed before it).

pub mod fs;
pub mod inspect;
pub mod log;
pub mod plant;
mod seam;
pub mod sim;
mod types;

pub use seam::*;
pub use types::{FRAME_HEADER_LEN, Frame, FrameKind, FramePos, GroupId, LogPos, RaftId, split_transition};

//! The command that gives up old messages: the log of every replica may begin later.

use prost::Message;

use super::{CommandError, well_formed};

/// Gives up everything in front of the frame `index`, which is the first one of a segment. Decided by the leader alone
/// ([`crate::node`], retention): so every replica has the same first messages. One that names an earlier place than the command
/// before it changes nothing.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct TruncatePrefix {
    /// Raft index of the first frame that is kept.
    #[prost(uint64, tag = "1")]
    pub index: u64,
    /// Its log position: a segment's first byte.
    #[prost(uint64, tag = "2")]
    pub pos: u64,
}

impl TruncatePrefix {
    pub(super) fn check(&self) -> Result<(), CommandError> {
        well_formed("the place where the log is to begin", self.index > 1 && self.pos > 0)
    }
}

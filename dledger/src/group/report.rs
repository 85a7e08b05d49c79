//! What replicas tell each other of their logs outside of Raft: questions and answers about ends, commit indexes and runs.
//!
//! They travel as peer messages of a type that raft-rs keeps for itself and never sends, so they need no format of their
//! own but for the context, and never reach raft-rs ([`super::doubt`] takes them out before). docs/formats.md has the bytes.

use bytes::{Buf, BufMut, BytesMut};
use raft::eraftpb::{Message, MessageType};

use crate::types::RaftId;

/// The type that carries reports.
pub(crate) const CARRIER: MessageType = MessageType::MsgCheckQuorum;

/// Format of the context.
const VERSION: u8 = 1;
const FIXED_LEN: usize = 1 + 1 + 2 + 4 * 8 + 2 * 4;
/// Voters that fit; a report of a larger group leaves the rest out, and nobody takes it for complete.
const VOTERS_MAX: usize = 24;

const ASKS: u8 = 1;
const LEADS: u8 = 2;
const KNOWS_LEADER: u8 = 4;

/// One replica's word on its log, at a moment of the run that its message names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Report {
    /// Whether an answer is wanted.
    pub(super) asks: bool,
    /// Whether the sender leads, and has committed an entry of its own term: only then is its commit index the group's.
    pub(super) leads: bool,
    /// Whether the sender knows a leader, itself included.
    pub(super) knows_leader: bool,
    /// In an answer: the run of the replica that asked.
    pub(super) to_run: u64,
    /// The question, and the one that an answer belongs to.
    pub(super) round: u64,
    /// Last entry: term, index.
    pub(super) last: (u64, u64),
    /// Commit index, and the chain value of the frame there (0 when the log no longer has it).
    pub(super) commit: (u64, u32),
    /// In an answer: the commit index that the question named.
    pub(super) asked_commit: u64,
    /// In an answer: an index that both know to be committed, and the chain value there; index 0 for none.
    pub(super) common: (u64, u32),
    /// Voters of the sender's membership, both halves of a joint one.
    pub(super) voters: Vec<RaftId>,
    /// Whether these are all.
    pub(super) voters_complete: bool,
}

impl Report {
    pub(super) fn into_message(self, from: RaftId, to: RaftId, term: u64) -> Message {
        let mut message = Message { from, to, term, ..Message::default() };
        message.set_msg_type(CARRIER);
        (message.log_term, message.index) = self.last;
        message.commit = self.commit.0;
        let flag = |on: bool, bit: u8| if on { bit } else { 0 };
        let mut context = BytesMut::with_capacity(FIXED_LEN + VOTERS_MAX * 8);
        context.put_u8(VERSION);
        context.put_u8(flag(self.asks, ASKS) | flag(self.leads, LEADS) | flag(self.knows_leader, KNOWS_LEADER));
        context.put_u16_le(u16::try_from(self.voters.len()).unwrap_or(u16::MAX));
        for value in [self.to_run, self.round, self.asked_commit, self.common.0] {
            context.put_u64_le(value);
        }
        context.put_u32_le(self.common.1);
        context.put_u32_le(self.commit.1);
        self.voters.iter().take(VOTERS_MAX).for_each(|voter| context.put_u64_le(*voter));
        message.context = context.freeze();
        message
    }

    /// The report in a message; `None` for what no replica sends.
    pub(super) fn of_message(message: &Message) -> Option<Report> {
        let mut context = &message.context[..];
        if context.len() < FIXED_LEN || context.get_u8() != VERSION {
            return None;
        }
        let flags = context.get_u8();
        let count = usize::from(context.get_u16_le());
        let [to_run, round, asked_commit, common] = std::array::from_fn(|_| context.get_u64_le());
        let (common_chain, commit_chain) = (context.get_u32_le(), context.get_u32_le());
        if context.len() != count.min(VOTERS_MAX) * 8 {
            return None;
        }
        Some(Report {
            asks: flags & ASKS != 0,
            leads: flags & LEADS != 0,
            knows_leader: flags & KNOWS_LEADER != 0,
            to_run,
            round,
            last: (message.log_term, message.index),
            commit: (message.commit, commit_chain),
            asked_commit,
            common: (common, common_chain),
            voters: std::iter::from_fn(|| context.has_remaining().then(|| context.get_u64_le())).collect(),
            voters_complete: count <= VOTERS_MAX,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_heard() {
        let report = Report {
            asks: true,
            leads: true,
            knows_leader: true,
            to_run: 3,
            round: 4,
            last: (5, 6),
            commit: (7, 8),
            asked_commit: 9,
            common: (10, 11),
            voters: vec![1, 2, 3],
            voters_complete: true,
        };
        let message = report.clone().into_message(1, 2, 5);
        assert_eq!(Report::of_message(&message), Some(report.clone()));
        for cut in 0..message.context.len() {
            let short = Message { context: message.context.slice(..cut), ..message.clone() };
            assert_eq!(Report::of_message(&short), None, "{cut} bytes");
        }
        let many = Report { voters: (1..40).collect(), ..report }.into_message(1, 2, 5);
        let heard = Report::of_message(&many).expect("a report");
        assert!(!heard.voters_complete && heard.voters.len() == VOTERS_MAX);
    }
}

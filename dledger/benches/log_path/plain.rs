//! The layer above in its plainest form: payloads go into the log as they come, nothing is made of them afterwards.

use bytes::{Bytes, BytesMut};
use ledgermq_dledger::{
    AppliedState, ApplyError, Completions, Frame, FrameKind, FramePos, LogPos, Membership, Outcome, Stamper,
    StateMachine, Verdict,
};
use tokio::sync::oneshot;

use crate::SEGMENT_SIZE;

/// Takes every payload as it is.
pub(crate) struct Plain;

impl Stamper for Plain {
    type Item = Bytes;
    type Ticket = oneshot::Sender<Outcome<()>>;
    type Answer = ();

    fn kind(&self, _item: &Bytes) -> FrameKind {
        FrameKind::Messages
    }
    fn admit(&mut self, item: &mut Bytes, _index: u64, _now_ms: u64) -> Verdict<()> {
        Verdict::Take { len: item.len(), records: 1 }
    }
    fn precede(&mut self, _item: &mut Bytes, _index: u64, _now_ms: u64) -> Bytes {
        unreachable!("nothing asks for it")
    }
    fn write(&mut self, item: &mut Bytes, _at: LogPos, out: &mut BytesMut) {
        out.extend_from_slice(item);
    }
    fn answer(&mut self, _item: Bytes, _index: u64) {}
    fn begin(&mut self, _term: u64) -> Option<Bytes> {
        None
    }
    fn end(&mut self) {}
}

/// Bytes of log that are kept; what is older is given up, and its segments are used again.
pub(crate) const KEPT: u64 = 256 << 20;

/// Knows how far it is, and no more.
#[derive(Default)]
pub(crate) struct Nothing(FramePos);

impl StateMachine for Nothing {
    fn applied(&self) -> AppliedState {
        AppliedState { at: self.0, membership: None }
    }
    fn replay_from(&self) -> u64 {
        self.0.index
    }
    fn apply(&mut self, _frame: &Frame) -> Result<(), ApplyError> {
        Ok(())
    }
    fn commit_round(&mut self, applied: FramePos, _membership: Option<&Membership>) -> Result<(), ApplyError> {
        self.0 = applied;
        Ok(())
    }
    fn flush(&mut self) -> Result<(), ApplyError> {
        Ok(())
    }
    fn flush_due(&self) -> bool {
        false
    }
    /// No replica of a benchmark lags by that much, and none is started again: nothing needs what is older.
    fn keep_from(&self) -> LogPos {
        let kept = self.0.end().0.saturating_sub(KEPT);
        LogPos(kept - kept % SEGMENT_SIZE)
    }
    fn digest(&self) -> Result<u64, ApplyError> {
        Ok(self.0.index)
    }
}

/// Wakes whoever waits.
pub(crate) struct Answers;

impl Completions<Plain> for Answers {
    fn complete(&mut self, done: &mut Vec<(oneshot::Sender<Outcome<()>>, Outcome<()>)>) {
        for (ticket, outcome) in done.drain(..) {
            let _ = ticket.send(outcome);
        }
    }
}

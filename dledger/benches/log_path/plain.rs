//! The layer above in its plainest form: payloads go into the log as they come, nothing is made of them afterwards.

use bytes::{Bytes, BytesMut};
use ledgermq_dledger::{
    AppliedState, ApplyError, Completions, Frame, FrameKind, FramePos, LogPos, Membership, Outcome, Stamper,
    StateMachine, Verdict,
};
use tokio::sync::oneshot;

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

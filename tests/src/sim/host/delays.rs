//! What clients and the leader's timer do about delayed messages.

use std::ops::ControlFlow;

use ledgermq_broker::command::TimerRef;
use ledgermq_broker::stamp::{BrokerStamper, Item, Purpose, TimerItem, TimerMove};
use ledgermq_broker::tables::TimerPlace;
use ledgermq_dledger::sim::Operation;
use ledgermq_dledger::{Proposal, RaftId};
use rand::Rng;
use rand::rngs::SmallRng;

use super::{BrokerHost, Sent, operations};

/// A delay of messages that still wait when the world ends.
const LONG_DELAY_MS: u64 = 3_600_000;

impl BrokerHost {
    /// A message that waits: mostly for so short that its time comes while the world lives.
    pub(super) fn random_delayed(&mut self, topic: &str, rng: &mut SmallRng) -> Proposal<BrokerStamper<u64>> {
        self.next += 1;
        let id = self.next;
        self.ids.insert(id);
        let ms = if rng.random_ratio(1, 4) { LONG_DELAY_MS } else { rng.random_range(0..3_000) };
        let (queue, filler) = (rng.random_range(0..4), rng.random_range(0..120));
        let create = operations::creation(topic, rng);
        let item = Item::Send(operations::delayed(topic, queue, (id, filler), create, ms));
        let (size_hint, floor) = (item.size_hint(), self.acked_index);
        Proposal { item, ticket: self.ticket(Sent::Delayed { id, floor }), size_hint }
    }

    pub(super) fn moved(&mut self, item: TimerItem) -> Operation<BrokerStamper<u64>> {
        let item = Item::Timers(item);
        let size_hint = item.size_hint();
        Operation::Propose(Proposal { item, ticket: self.ticket(Sent::Other), size_hint })
    }

    /// What is due, as the leader's timer proposes it, but for waiting until the last proposal has ended.
    pub(super) fn deliver(&mut self, node: RaftId) -> Option<Operation<BrokerStamper<u64>>> {
        let waiting = self.waiting.get(&node)?;
        // No message was stored later by the clocks that stamp: a little before what it is now.
        let now_ms = waiting.tables.last_store_ms();
        let item = waiting.due(TimerRef::default(), now_ms).ok()?.item?;
        Some(self.moved(item))
    }

    /// A recall, as the handler makes it.
    pub(super) fn recall(&mut self, node: RaftId, rng: &mut SmallRng) -> Option<Operation<BrokerStamper<u64>>> {
        let waiting = self.waiting.get(&node)?;
        let seen = waiting.tables.applied_index();
        let (mut left, mut found) = (rng.random_range(0..8), None);
        let visit = &mut |timer: TimerRef, _: TimerPlace| {
            found = Some(timer);
            left -= 1;
            if left < 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        waiting.rows.each_due(TimerRef::default(), visit).ok()?;
        let recalled = TimerMove::recall(found?);
        Some(self.moved(TimerItem::new(seen, Purpose::Recall, vec![recalled])))
    }
}

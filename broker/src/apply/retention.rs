//! What giving up old messages changes: where queues start, which runs of the key index are left, and what of the log this
//! replica can do without.
//!
//! The command names a place in the log; which messages lie before it is read off the ConsumeQueues, so every replica comes to
//! the same starts. Files follow with the next flush, when no crash can bring the old starts back.
//!
//! ```text
//! command --> starts of the queues (round) --> flush: rows durable --> holes in queue files, runs dropped --> keep_from
//! ```

use ledgermq_dledger::{ApplyError, LogPos};

use super::consume_queue::{QueueError, UNIT_LEN, Unit};
use super::live::UNTOUCHED;
use super::machine::{BrokerMachine, queue_failed, store_failed};
use super::round::QueueAdvance;
use crate::tables::{Effect, Kept, TopicKey};

impl BrokerMachine {
    /// Messages in front of `kept` are given up, by the entry `index`.
    pub(super) fn truncate(&mut self, index: u64, kept: Kept) -> Result<(), ApplyError> {
        if kept.pos <= self.live.kept.pos {
            return Ok(());
        }
        if let Some(timer) = self.first_timer_before(index, kept.pos)? {
            // Every replica finds the same. The leader that asked for it has not looked.
            tracing::error!(index, pos = kept.pos, ?timer, "the log keeps its begin: a delayed message waits there");
            return Ok(());
        }
        self.live.kept = kept;
        self.live.effects.push(Effect::Truncated(kept));
        let keys: Vec<TopicKey> = self.live.topics.values().map(|live| live.topic.key().clone()).collect();
        for key in keys {
            for queue in 0..self.live.topics[&key.name].min.len() as u32 {
                let at = queue as usize;
                let live = &self.live.topics[&key.name];
                if live.min[at] == live.next[at] || live.min_pos[at] >= kept.pos {
                    continue;
                }
                let found = self.first_from(&key, queue, kept.pos);
                let (first, pos) = found.map_err(|error| queue_failed(index, &error))?;
                let live = self.live.topics.get_mut(&key.name).expect("just seen");
                live.min_pos[at] = pos;
                if first > live.min[at] {
                    live.min[at] = first;
                    self.raised.push((key.clone(), queue));
                }
            }
        }
        Ok(())
    }

    /// Offset and position of the first message of a queue that lies at or behind `pos`; the next offset, and 0, when there is
    /// none.
    fn first_from(&self, key: &TopicKey, queue: u32, pos: u64) -> Result<(u64, u64), QueueError> {
        let live = &self.live.topics[&key.name];
        let touched = live.touched[queue as usize];
        let fresh = (touched != UNTOUCHED).then(|| &self.touched[touched]);
        let (mut low, mut high) = (live.min[queue as usize], live.next[queue as usize]);
        // Mostly nothing of a queue lies before, and one look tells.
        let (mut middle, mut first_pos) = (low, 0);
        while low < high {
            let found = self.position_of(key, queue, middle, fresh)?;
            if found < pos {
                low = middle + 1;
            } else {
                (high, first_pos) = (middle, found);
            }
            middle = low + (high - low) / 2;
        }
        Ok((low, first_pos))
    }

    /// Where a message of a queue lies: its unit may be one of the open round, which are not in the file yet.
    fn position_of(
        &self,
        key: &TopicKey,
        queue: u32,
        offset: u64,
        fresh: Option<&QueueAdvance>,
    ) -> Result<u64, QueueError> {
        let unit = match fresh.filter(|fresh| offset >= fresh.first) {
            Some(fresh) => fresh.units().nth((offset - fresh.first) as usize).expect("offsets of a round are dense"),
            None => {
                let mut bytes = [0; UNIT_LEN];
                self.queues.read_bytes(key, queue, offset, &mut bytes)?;
                Unit::decode(&bytes)
            }
        };
        Ok(unit.physical_offset)
    }

    /// Gives files back to the disk that nobody needs now that the starts are durable.
    pub(super) fn give_back(&mut self, at: u64, runs_from: u64) -> Result<(), ApplyError> {
        self.index.drop_rows_before(runs_from).map_err(|error| store_failed(at, &error))?;
        for (key, queue) in std::mem::take(&mut self.raised) {
            let live = self.live.topics.get(&key.name).filter(|live| *live.topic.key() == key);
            let Some(live) = live else { continue };
            let min = live.min[queue as usize];
            self.queues.punch_before(&key, queue, min).map_err(|error| queue_failed(at, &error))?;
        }
        self.raised_before = 0;
        Ok(())
    }

    /// Whether a start from what is durable now would take in no frame before `kept`.
    pub(super) fn needs_nothing_before(&self, kept: Kept) -> bool {
        self.queues_synced.min(self.index.recorded()) + 1 >= kept.index
    }

    /// What [`ledgermq_dledger::StateMachine::keep_from`] says when the machine is opened: all that the store holds is durable.
    pub(super) fn released_at_start(&self) -> LogPos {
        LogPos(if self.needs_nothing_before(self.live.kept) { self.live.kept.pos } else { 0 })
    }
}

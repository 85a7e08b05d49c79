//! A digest of what readers may see: equal on two replicas that have applied the same log prefix.
//!
//! Over content only, in a fixed order, never over files: queue units are read back through the files, so a file that was made
//! again wrongly shows.

use std::ops::ControlFlow;

use crc_fast::{CrcAlgorithm, Digest};
use ledgermq_dledger::ApplyError;
use prost::Message;

use super::consume_queue::{QueueError, UNIT_LEN, UNITS_PER_READ_MAX};
use super::machine::{BrokerMachine, queue_failed, store_failed};
use crate::command::TimerRef;
use crate::store::KvError;
use crate::store::rows::MembershipRow;
use crate::tables::{Committed, TimerPlace, Topic};

/// CRC-64/NVME over everything, each part with its length in front.
pub(super) fn digest(machine: &BrokerMachine) -> Result<u64, ApplyError> {
    let at = machine.applied.at.index;
    let tables = &machine.tables;
    let mut parts = Parts(Digest::new(CrcAlgorithm::Crc64Nvme));
    parts.number(tables.last_store_ms());
    parts.number(tables.topics_version());
    parts.number(tables.groups_version());
    parts.bytes(&tables.genesis().map(|genesis| genesis.encode_to_vec()).unwrap_or_default());
    let kept = tables.kept();
    parts.number(kept.index);
    parts.number(kept.pos);
    let membership =
        machine.applied.membership.as_ref().map(|membership| MembershipRow::from(membership).encode_to_vec());
    parts.bytes(&membership.unwrap_or_default());
    let topics = tables.topics();
    parts.number(topics.len() as u64);
    for topic in topics {
        parts.bytes(topic.name().as_bytes());
        parts.number(topic.incarnation());
        parts.bytes(&topic.settings().encode_to_vec());
        parts.number(u64::from(topic.queue_count()));
        for queue in 0..topic.queue_count() {
            parts.queue(machine, &topic, queue).map_err(|error| queue_failed(at, &error))?;
        }
    }
    let groups = tables.groups();
    parts.number(groups.len() as u64);
    for (name, settings) in groups {
        parts.bytes(name.as_bytes());
        parts.bytes(&settings.encode_to_vec());
    }
    // Offsets outlive their group when it is deleted without them.
    let with_offsets = tables.groups_with_offsets();
    parts.number(with_offsets.len() as u64);
    for group in with_offsets {
        parts.bytes(group.as_bytes());
        for kept in tables.group_offsets(&group) {
            parts.bytes(kept.topic.name.as_bytes());
            parts.number(kept.topic.incarnation);
            parts.number(u64::from(kept.queue));
            parts.number(Committed { offset: kept.offset, is_reset: kept.is_reset }.bits());
        }
    }
    let locks = tables.locks();
    parts.number(locks.len() as u64);
    for (key, lock) in locks {
        parts.bytes(key.group.as_bytes());
        parts.bytes(key.topic.name.as_bytes());
        parts.number(key.topic.incarnation);
        parts.number(u64::from(key.queue));
        parts.bytes(lock.client_id.as_bytes());
        parts.number(lock.expires_ms);
    }
    parts.timers(machine).map_err(|error| store_failed(at, &error))?;
    Ok(parts.0.finalize())
}

struct Parts(Digest);

impl Parts {
    fn number(&mut self, number: u64) {
        self.0.update(&number.to_be_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.update(bytes);
    }

    /// The delayed messages that wait: by their time and by their place, which must be the same ones.
    fn timers(&mut self, machine: &BrokerMachine) -> Result<(), KvError> {
        let timers = machine.timers();
        self.number(machine.tables.waiting_timers());
        timers.each_due(TimerRef::default(), &mut |timer, place| self.timer(timer, place))?;
        timers.each_place(0, &mut |place, timer| self.timer(timer, place))
    }

    fn timer(&mut self, timer: TimerRef, place: TimerPlace) -> ControlFlow<()> {
        [timer.due_ms, timer.first_pos, place.pos, u64::from(place.size)]
            .into_iter()
            .for_each(|part| self.number(part));
        ControlFlow::Continue(())
    }

    fn queue(&mut self, machine: &BrokerMachine, topic: &Topic, queue: u32) -> Result<(), QueueError> {
        let (min, next) = (topic.min_offset(queue), topic.next_offset(queue));
        self.number(min);
        self.number(next);
        let mut units = vec![0; UNIT_LEN * (next - min).min(UNITS_PER_READ_MAX as u64) as usize];
        let mut at = min;
        while at < next {
            let count = (next - at).min(UNITS_PER_READ_MAX as u64) as usize;
            let units = &mut units[..count * UNIT_LEN];
            machine.queues.read_bytes(topic.key(), queue, at, units)?;
            self.0.update(units);
            at += count as u64;
        }
        Ok(())
    }
}

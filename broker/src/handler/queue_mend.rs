//! Units of ConsumeQueues that do not lead to their messages: the files carry no checksums, so what has gone bad there shows when a
//! record is not the one that was looked for. The log has the message; it is looked for there, and the unit written anew.
//!
//! ```text
//! pull --> unit --> record: its own queue, offset and position say whether it is the one
//!            ^                    | no
//!            '-- written anew <-- the log from the message before it on
//! ```

use bytes::Bytes;
use ledgermq_dledger::log::LogView;
use ledgermq_dledger::{FrameKind, LogPos};
use ledgermq_protocol::message::properties::{self, name};
use ledgermq_protocol::message::record::{PHYSICAL_OFFSET_AT, QUEUE_ID_AT, QUEUE_OFFSET_AT, RecordRef, TOTAL_SIZE_AT};
use ledgermq_protocol::message::tags::tags_code;
use ledgermq_protocol::remoting::response_code::ResponseCode;

use super::pull::unreadable;
use crate::apply::Unit;
use crate::replica::Replica;
use crate::stamp::Refusal;
use crate::tables::Topic;

/// Messages before a damaged one that are tried as the place to begin the search with.
const NEIGHBOURS_MAX: u64 = 32;

/// Whether the record that was found by a unit is the message of this queue and offset.
pub(super) fn leads_to(record: &[u8], unit: &Unit, queue: u32, offset: u64) -> bool {
    let number = |at: usize| record.get(at..).and_then(|rest| rest.first_chunk()).copied().map(u32::from_be_bytes);
    let long = |at: usize| record.get(at..).and_then(|rest| rest.first_chunk()).copied().map(u64::from_be_bytes);
    number(TOTAL_SIZE_AT) == Some(unit.size)
        && number(QUEUE_ID_AT) == Some(queue)
        && long(QUEUE_OFFSET_AT) == Some(offset)
        && long(PHYSICAL_OFFSET_AT) == Some(unit.physical_offset)
}

/// Finds the message of a queue's offset in the log, writes its unit anew and returns both. Blocks.
///
/// # Errors
/// A refusal that names the queue and the offset, when the log cannot be read or does not have it.
pub(super) fn mend(replica: &Replica, topic: &Topic, queue: u32, offset: u64) -> Result<(Unit, Bytes), Refusal> {
    let log = replica.handle.reader();
    let topic_name = topic.name();
    tracing::error!(topic = %topic_name, queue, offset, "a unit of this queue is damaged: looking for its message in the log");
    let from = search_from(replica, topic, queue, offset)?;
    let applied = replica.handle.applied_index();
    for frame in log.iter(from) {
        let frame = frame.map_err(|error| unreadable(&error))?;
        if frame.at.index > applied {
            break;
        }
        let mut at = match frame.kind {
            FrameKind::Messages => 0,
            FrameKind::Transition => frame.split_transition().map_or(frame.payload.len(), |(_, records_at)| records_at),
            _ => continue,
        };
        while at < frame.payload.len() {
            let record = RecordRef::decode(&frame.payload[at..]).map_err(|error| unreadable(&error))?;
            let physical_offset = frame.payload_pos().0 + at as u64;
            let is_it = record.topic() == &**topic_name
                && (record.queue_id() as u32, record.queue_offset() as u64) == (queue, offset);
            if is_it {
                // As apply does: the last one counts.
                let tags = properties::iter(record.properties()).filter(|(property, _)| *property == name::TAGS).last();
                let tags = tags.map(|(_, value)| value);
                let (size, tags_code) = (record.len() as u32, tags_code(tags));
                let unit = Unit { physical_offset, size, tags_code };
                replica.queues.mend(topic.key(), queue, offset, &unit).map_err(|error| unreadable(&error))?;
                tracing::info!(topic = %topic_name, queue, offset, physical_offset, "the unit is whole again");
                return Ok((unit, frame.payload.slice(at..at + record.len())));
            }
            at += record.len();
        }
    }
    let lost =
        format!("message {offset} of queue {queue} of topic {topic_name} is not in the log, from entry {from} on");
    tracing::error!("{lost}");
    Err(Refusal::new(ResponseCode::SYSTEM_ERROR, lost))
}

/// Raft index of the entry to begin the search with: that of the nearest message before it whose unit is whole, else the first one
/// that may hold messages of the topic.
fn search_from(replica: &Replica, topic: &Topic, queue: u32, offset: u64) -> Result<u64, Refusal> {
    let log = replica.handle.reader();
    let min = topic.min_offset(queue);
    for before in (min.max(offset.saturating_sub(NEIGHBOURS_MAX))..offset).rev() {
        let units = replica.queues.read(topic, queue, before, 1).map_err(|error| unreadable(&error))?;
        let Some(unit) = units.first() else { break };
        if let Some(index) = index_of(log, unit, queue, before) {
            return Ok(index);
        }
    }
    Ok(log.first().0.max(topic.incarnation()))
}

/// Raft index of the entry with a unit's message; `None` when the unit does not lead to it.
fn index_of(log: &LogView, unit: &Unit, queue: u32, offset: u64) -> Option<u64> {
    let record = log.read(LogPos(unit.physical_offset), unit.size as usize).ok()?;
    if !leads_to(&record, unit, queue, offset) {
        return None;
    }
    log.frame_around(LogPos(unit.physical_offset)).ok()?.map(|at| at.index)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A unit of another message, or of none, would be served.
    #[test]
    fn only_the_very_message_is_led_to() {
        let unit = Unit { physical_offset: 4_096, size: 100, tags_code: 0 };
        let mut record = [0; 100];
        record[TOTAL_SIZE_AT..TOTAL_SIZE_AT + 4].copy_from_slice(&100_u32.to_be_bytes());
        record[QUEUE_ID_AT..QUEUE_ID_AT + 4].copy_from_slice(&3_u32.to_be_bytes());
        record[QUEUE_OFFSET_AT..QUEUE_OFFSET_AT + 8].copy_from_slice(&7_u64.to_be_bytes());
        record[PHYSICAL_OFFSET_AT..PHYSICAL_OFFSET_AT + 8].copy_from_slice(&4_096_u64.to_be_bytes());
        assert!(leads_to(&record, &unit, 3, 7));
        assert!(!leads_to(&record, &unit, 2, 7));
        assert!(!leads_to(&record, &unit, 3, 8));
        assert!(!leads_to(&record, &Unit { size: 101, ..unit }, 3, 7));
        assert!(!leads_to(&record, &Unit { physical_offset: 4_104, ..unit }, 3, 7));
        assert!((0..36).all(|len| !leads_to(&record[..len], &unit, 3, 7)));
    }
}

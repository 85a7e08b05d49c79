//! What the key index finds, against the log: each message by its own keys and no other, once; none of a topic's former self.

use std::ops::{ControlFlow, RangeInclusive};

use ledgermq_broker::apply::BrokerMachine;
use ledgermq_broker::tables::TopicKey;
use ledgermq_protocol::names;

use super::oracle::{Oracle, OracleTopic};

/// One message in this many is searched for in the whole index, the others in the millisecond in which they were stored: a
/// search goes through every run of its time.
const WHOLE_ONE_IN: u64 = 16;

/// Everything that the index has for a key.
fn find(
    machine: &BrokerMachine,
    topic: &TopicKey,
    key: &str,
    stored_ms: &RangeInclusive<u64>,
) -> Result<Vec<u64>, String> {
    let mut found = Vec::new();
    let visit = &mut |position| {
        found.push(position);
        ControlFlow::Continue(())
    };
    machine.key_index().search(topic, key, stored_ms, visit).map_err(|error| error.to_string())?;
    Ok(found)
}

/// The keys that [`super::operations::send`] gives a message: every other one is looked for by the second.
fn key_of(id: u64) -> String {
    if id.is_multiple_of(2) { format!("key{id}") } else { format!("u{id}") }
}

/// Searches for every message of a topic, and for some of its former selves.
pub(super) fn check(name: &str, topic: &OracleTopic, oracle: &Oracle, machine: &BrokerMachine) -> Result<(), String> {
    if name == names::TIMER_TOPIC {
        // A message that was carried is there twice.
        return Ok(());
    }
    let here = TopicKey { name: name.into(), incarnation: topic.incarnation };
    let whole = 0..=u64::MAX;
    // What was given up may still be found for a while: the broker shows nobody.
    let kept = topic.messages.values().flatten().filter(|stored| stored.physical_offset >= oracle.kept_pos);
    for stored in kept {
        let then = stored.store_ms as u64..=stored.store_ms as u64;
        let window = if stored.id.is_multiple_of(WHOLE_ONE_IN) { &whole } else { &then };
        let found = find(machine, &here, &key_of(stored.id), window)?;
        if found != [stored.physical_offset] {
            let detail = format!("message {} at {}", stored.id, stored.physical_offset);
            return Err(format!("{detail} is found by key {} at {found:?}", key_of(stored.id)));
        }
    }
    for (position, (id, (of, incarnation, ..))) in &oracle.by_position {
        let former = of == name && *incarnation != topic.incarnation && id.is_multiple_of(WHOLE_ONE_IN);
        if former && !find(machine, &here, &key_of(*id), &whole)?.is_empty() {
            return Err(format!("message {id} at {position}, of its incarnation {incarnation}, is found by key"));
        }
    }
    Ok(())
}

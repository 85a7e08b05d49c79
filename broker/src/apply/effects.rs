//! What the effects of a round are in the store.

use std::sync::Arc;

use ledgermq_dledger::plant::{self, Bug};
use prost::Message;

use crate::store::rows::{self, KeepRow, TopicRow};
use crate::store::{Family, WriteBatch};
use crate::tables::{Effect, Kept, Tables, Topic, TopicKey};

/// Adds what `effect` changes in the store. `before` are those of the same round in front of it, which the tables do not show yet.
pub(super) fn put(batch: &mut WriteBatch, effect: &Effect, before: &[Effect], tables: &Tables) {
    match effect {
        Effect::Genesis(genesis) => batch.put(Family::Meta, rows::meta::GENESIS, &genesis.encode_to_vec()),
        Effect::TopicPut(topic) => {
            let row = TopicRow {
                incarnation: topic.incarnation(),
                settings: topic.settings().clone(),
                queue_count: topic.queue_count(),
            };
            batch.put(Family::Topics, topic.name().as_bytes(), &row.encode_to_vec());
        }
        Effect::TopicDropped(topic) => drop_topic(batch, topic, before, tables),
        Effect::GroupPut { group, settings } => {
            batch.put(Family::Groups, group.as_bytes(), &settings.encode_to_vec());
        }
        Effect::GroupDropped { group, clean_offsets } => {
            batch.delete(Family::Groups, group.as_bytes());
            if *clean_offsets {
                let kept = tables.group_offsets(group);
                let kept = kept.iter().map(|kept| rows::offset_key(group, &kept.topic, kept.queue));
                let set = offsets_set(before).filter(|(of, _, _)| *of == group);
                let set = set.map(|(_, topic, queue)| rows::offset_key(group, topic, queue));
                kept.chain(set).for_each(|key| batch.delete(Family::Offsets, &key));
            }
        }
        Effect::OffsetSet { group, topic, queue, committed } => {
            let value = committed.bits().to_be_bytes();
            batch.put(Family::Offsets, &rows::offset_key(group, topic, *queue), &value);
        }
        Effect::LockSet { key, lock } => batch.put(Family::Locks, &rows::lock_key(key), &rows::lock_value(lock)),
        Effect::LockDropped(key) => batch.delete(Family::Locks, &rows::lock_key(key)),
        Effect::Truncated(Kept { index, pos }) => {
            let row = KeepRow { index: *index, pos: *pos };
            batch.put(Family::Meta, rows::meta::KEEP, &row.encode_to_vec());
        }
    }
}

fn drop_topic(batch: &mut WriteBatch, topic: &Topic, before: &[Effect], tables: &Tables) {
    batch.delete(Family::Topics, topic.name().as_bytes());
    let key = topic.key();
    for queue in 0..topic.queue_count() {
        batch.delete(Family::Queues, &rows::queue_key(key, queue));
    }
    if plant::on(Bug::IncarnationIgnored) {
        return;
    }
    tables.with_offsets(|offsets| {
        for (group, queue) in offsets.of_topic(key) {
            batch.delete(Family::Offsets, &rows::offset_key(group, key, queue));
        }
    });
    for (group, _, queue) in offsets_set(before).filter(|(_, of, _)| *of == key) {
        batch.delete(Family::Offsets, &rows::offset_key(group, key, queue));
    }
}

fn offsets_set(effects: &[Effect]) -> impl Iterator<Item = (&Arc<str>, &TopicKey, u32)> {
    effects.iter().filter_map(|effect| match effect {
        Effect::OffsetSet { group, topic, queue, .. } => Some((group, topic, *queue)),
        _ => None,
    })
}

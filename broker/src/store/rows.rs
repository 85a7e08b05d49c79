//! Keys and values of the store, byte by byte (docs/formats.md). Integers in keys are big-endian, so that their order is the
//! order of the numbers; names never contain a zero byte, so that it ends them.
//!
//! ```text
//! meta     a name, see `meta`                                     protobuf, or u64
//! topics   topic                                                  protobuf TopicRow
//! groups   group                                                  protobuf GroupSettings
//! offsets  group 0 topic 0 u64 incarnation u32 queue              u64 offset, its highest bit set by a reset
//! locks    group 0 topic 0 u64 incarnation u32 queue              u64 end of the lease, ms | client id
//! queues   topic 0 u64 incarnation u32 queue                      u64 first offset | u64 next offset
//! timers   u64 due ms | u64 first position                        u64 position | u32 size
//! timer_places  u64 position                                      u64 due ms | u64 first position | u32 size
//! index    u64 start of the run | u64 hash | u64 store ms | u64 physical offset      nothing
//! ```

use bytes::Bytes;
use ledgermq_dledger::{AppliedState, FramePos, LogPos, MemberInfo, Membership};
use prost::Message;
use uuid::Uuid;

use crate::command::{TimerRef, TopicSettings};
use crate::tables::{GroupQueue, QueueLock, TimerPlace, TopicKey};

/// Keys of the meta family.
pub(crate) mod meta {
    /// [`super::AppliedRow`].
    pub(crate) const APPLIED: &[u8] = b"applied";
    /// [`super::MembershipRow`]; absent until the first change.
    pub(crate) const MEMBERSHIP: &[u8] = b"membership";
    /// The genesis command.
    pub(crate) const GENESIS: &[u8] = b"genesis";
    /// `u64` Raft index up to which the ConsumeQueue files are durable.
    pub(crate) const QUEUES_SYNCED: &[u8] = b"cq_synced";
    /// [`super::IndexSyncedRow`]: up to where the key index is durable.
    pub(crate) const INDEX_SYNCED: &[u8] = b"index_synced";
    /// [`super::KeepRow`]: where the log may begin; absent until something was given up.
    pub(crate) const KEEP: &[u8] = b"keep";
    /// In front of `u64 start`: [`super::RunRow`], one per run of the key index.
    pub(crate) const RUN_PREFIX: &[u8] = b"run\0";
}

/// How far the store is, and what moved on with it.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct AppliedRow {
    #[prost(uint64, tag = "1")]
    pub(crate) index: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) term: u64,
    #[prost(uint64, tag = "3")]
    pub(crate) pos: u64,
    #[prost(uint32, tag = "4")]
    pub(crate) len: u32,
    #[prost(fixed32, tag = "5")]
    pub(crate) chain: u32,
    /// Largest store timestamp of an applied message.
    #[prost(uint64, tag = "6")]
    pub(crate) last_store_ms: u64,
    /// Raft index of the last change of a topic.
    #[prost(uint64, tag = "7")]
    pub(crate) topics_version: u64,
    /// Raft index of the last change of a subscription group.
    #[prost(uint64, tag = "8")]
    pub(crate) groups_version: u64,
    /// Delayed messages that wait: rows of their family.
    #[prost(uint64, tag = "9")]
    pub(crate) waiting_timers: u64,
}

impl AppliedRow {
    /// The place; what moved on with it is 0.
    pub(crate) fn new(at: FramePos) -> Self {
        let FramePos { index, term, pos, len, chain } = at;
        AppliedRow { index, term, pos: pos.0, len, chain, ..AppliedRow::default() }
    }

    pub(crate) fn at(&self) -> FramePos {
        FramePos { index: self.index, term: self.term, pos: LogPos(self.pos), len: self.len, chain: self.chain }
    }
}

/// A [`Membership`].
#[derive(Clone, PartialEq, Message)]
pub(crate) struct MembershipRow {
    #[prost(uint64, repeated, tag = "1")]
    voters: Vec<u64>,
    #[prost(uint64, repeated, tag = "2")]
    learners: Vec<u64>,
    #[prost(uint64, repeated, tag = "3")]
    voters_outgoing: Vec<u64>,
    #[prost(uint64, repeated, tag = "4")]
    learners_next: Vec<u64>,
    #[prost(bool, tag = "5")]
    auto_leave: bool,
    #[prost(message, repeated, tag = "6")]
    members: Vec<MemberRow>,
    #[prost(uint64, tag = "7")]
    highest: u64,
}

/// A member of it.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct MemberRow {
    #[prost(uint64, tag = "1")]
    raft_id: u64,
    #[prost(bytes = "vec", tag = "2")]
    replica: Vec<u8>,
    #[prost(string, tag = "3")]
    peer: String,
    #[prost(string, tag = "4")]
    client: String,
}

impl From<&Membership> for MembershipRow {
    fn from(membership: &Membership) -> Self {
        let Membership { voters, learners, voters_outgoing, learners_next, auto_leave, members, highest } =
            membership.clone();
        let row = |(raft_id, info): (u64, MemberInfo)| MemberRow {
            raft_id,
            replica: info.replica.as_bytes().to_vec(),
            peer: info.peer,
            client: info.client,
        };
        let members = members.into_iter().map(row).collect();
        MembershipRow { voters, learners, voters_outgoing, learners_next, auto_leave, members, highest }
    }
}

impl From<MembershipRow> for Membership {
    fn from(row: MembershipRow) -> Self {
        let MembershipRow { voters, learners, voters_outgoing, learners_next, auto_leave, members, highest } = row;
        let member = |row: MemberRow| {
            // The store checks its own bytes: another length was never written.
            let replica = Uuid::from_slice(&row.replica).unwrap_or_default();
            (row.raft_id, MemberInfo { replica, peer: row.peer, client: row.client })
        };
        let members = members.into_iter().map(member).collect();
        Membership { voters, learners, voters_outgoing, learners_next, auto_leave, members, highest }
    }
}

/// What the store says at start.
pub(crate) fn applied_state(row: &AppliedRow, membership: Option<MembershipRow>) -> AppliedState {
    AppliedState { at: row.at(), membership: membership.map(Membership::from) }
}

/// A topic.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct TopicRow {
    #[prost(uint64, tag = "1")]
    pub(crate) incarnation: u64,
    #[prost(message, required, tag = "2")]
    pub(crate) settings: TopicSettings,
    /// Queues that there ever were: not fewer than the settings say.
    #[prost(uint32, tag = "3")]
    pub(crate) queue_count: u32,
}

/// The first frame whose messages are kept.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(crate) struct KeepRow {
    /// Raft index.
    #[prost(uint64, tag = "1")]
    pub(crate) index: u64,
    /// Log position.
    #[prost(uint64, tag = "2")]
    pub(crate) pos: u64,
}

/// Up to where the runs of the key index go.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(crate) struct IndexSyncedRow {
    /// Raft index of the last frame in a run.
    #[prost(uint64, tag = "1")]
    pub(crate) index: u64,
    /// Log position behind that frame: start of the next run.
    #[prost(uint64, tag = "2")]
    pub(crate) pos: u64,
}

/// One run of the key index.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(crate) struct RunRow {
    /// Smallest store timestamp in it.
    #[prost(uint64, tag = "1")]
    pub(crate) first_ms: u64,
    /// Largest store timestamp in it.
    #[prost(uint64, tag = "2")]
    pub(crate) last_ms: u64,
}

/// Key of a queue's ends.
pub(crate) fn queue_key(topic: &TopicKey, queue: u32) -> Vec<u8> {
    let mut key = Vec::with_capacity(topic.name.len() + 13);
    push_queue(&mut key, topic, queue);
    key
}

/// Key of a consumer offset.
pub(crate) fn offset_key(group: &str, topic: &TopicKey, queue: u32) -> Vec<u8> {
    let mut key = Vec::with_capacity(group.len() + topic.name.len() + 14);
    key.extend_from_slice(group.as_bytes());
    key.push(0);
    push_queue(&mut key, topic, queue);
    key
}

fn push_queue(key: &mut Vec<u8>, topic: &TopicKey, queue: u32) {
    key.extend_from_slice(topic.name.as_bytes());
    key.push(0);
    key.extend_from_slice(&topic.incarnation.to_be_bytes());
    key.extend_from_slice(&queue.to_be_bytes());
}

/// Reads what [`queue_key`] wrote.
pub(crate) fn parse_queue_key(key: &[u8]) -> Option<(TopicKey, u32)> {
    let name_len = key.iter().position(|byte| *byte == 0)?;
    let (name, rest) = (&key[..name_len], &key[name_len + 1..]);
    let (incarnation, rest) = rest.split_first_chunk::<8>()?;
    let queue: [u8; 4] = rest.try_into().ok()?;
    let name = std::str::from_utf8(name).ok()?.into();
    Some((TopicKey { name, incarnation: u64::from_be_bytes(*incarnation) }, u32::from_be_bytes(queue)))
}

/// Reads what [`offset_key`] wrote.
pub(crate) fn parse_offset_key(key: &[u8]) -> Option<(&str, TopicKey, u32)> {
    let group_len = key.iter().position(|byte| *byte == 0)?;
    let (topic, queue) = parse_queue_key(&key[group_len + 1..])?;
    Some((std::str::from_utf8(&key[..group_len]).ok()?, topic, queue))
}

/// Key of a lock.
pub(crate) fn lock_key(key: &GroupQueue) -> Vec<u8> {
    offset_key(&key.group, &key.topic, key.queue)
}

/// Value of a lock.
pub(crate) fn lock_value(lock: &QueueLock) -> Vec<u8> {
    [&lock.expires_ms.to_be_bytes(), lock.client_id.as_bytes()].concat()
}

/// Reads what [`lock_key`] and [`lock_value`] wrote.
pub(crate) fn parse_lock(key: &[u8], value: &[u8]) -> Option<(GroupQueue, QueueLock)> {
    let (group, topic, queue) = parse_offset_key(key)?;
    let (expires, client_id) = value.split_first_chunk::<8>()?;
    let client_id = std::str::from_utf8(client_id).ok()?.into();
    let lock = QueueLock { client_id, expires_ms: u64::from_be_bytes(*expires) };
    Some((GroupQueue { group: group.into(), topic, queue }, lock))
}

/// Value of a queue's ends.
pub(crate) fn queue_ends(min: u64, next: u64) -> [u8; 16] {
    let mut value = [0; 16];
    value[..8].copy_from_slice(&min.to_be_bytes());
    value[8..].copy_from_slice(&next.to_be_bytes());
    value
}

/// Reads what [`queue_ends`] wrote: first and next offset.
pub(crate) fn parse_queue_ends(value: &[u8]) -> Option<(u64, u64)> {
    let (min, next) = value.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*min), u64::from_be_bytes(next.try_into().ok()?)))
}

/// Key of a delayed message that waits.
pub(crate) fn timer_key(timer: TimerRef) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&timer.due_ms.to_be_bytes());
    key[8..].copy_from_slice(&timer.first_pos.to_be_bytes());
    key
}

/// Value of a delayed message that waits.
pub(crate) fn timer_value(place: TimerPlace) -> [u8; 12] {
    let mut value = [0; 12];
    value[..8].copy_from_slice(&place.pos.to_be_bytes());
    value[8..].copy_from_slice(&place.size.to_be_bytes());
    value
}

/// Reads what [`timer_key`] wrote.
pub(crate) fn parse_timer_key(key: &[u8]) -> Option<TimerRef> {
    let (due_ms, first_pos) = key.split_first_chunk::<8>()?;
    Some(TimerRef { due_ms: u64::from_be_bytes(*due_ms), first_pos: parse_u64(first_pos)? })
}

/// Reads what [`timer_value`] wrote.
pub(crate) fn parse_timer_value(value: &[u8]) -> Option<TimerPlace> {
    let (pos, size) = value.split_first_chunk::<8>()?;
    Some(TimerPlace { pos: u64::from_be_bytes(*pos), size: u32::from_be_bytes(size.try_into().ok()?) })
}

/// Value of the place of a delayed message; the key is the position.
pub(crate) fn timer_place_value(timer: TimerRef, size: u32) -> [u8; 20] {
    let mut value = [0; 20];
    value[..16].copy_from_slice(&timer_key(timer));
    value[16..].copy_from_slice(&size.to_be_bytes());
    value
}

/// Reads a place of a delayed message: its position is the key.
pub(crate) fn parse_timer_place(key: &[u8], value: &[u8]) -> Option<(TimerPlace, TimerRef)> {
    let (timer, size) = value.split_first_chunk::<16>()?;
    let size = u32::from_be_bytes(size.try_into().ok()?);
    Some((TimerPlace { pos: parse_u64(key)?, size }, parse_timer_key(timer)?))
}

/// Reads a big-endian number that is the whole value.
pub(crate) fn parse_u64(value: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(value.try_into().ok()?))
}

/// Key of a run's row in the meta family.
pub(crate) fn run_key(start: u64) -> Vec<u8> {
    [meta::RUN_PREFIX, &start.to_be_bytes()].concat()
}

/// Decodes a row.
pub(crate) fn decode<M: Message + Default>(value: Vec<u8>) -> Option<M> {
    M::decode(Bytes::from(value)).ok()
}

#[cfg(test)]
mod law;

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows written by one version must be found by the next.
    #[test]
    fn golden_keys_and_values() {
        let topic = TopicKey { name: "T".into(), incarnation: 258 };
        assert_eq!(queue_key(&topic, 3), b"T\0\0\0\0\0\0\0\x01\x02\0\0\0\x03");
        assert_eq!(offset_key("g", &topic, 3), b"g\0T\0\0\0\0\0\0\0\x01\x02\0\0\0\x03");
        assert_eq!(queue_ends(1, 2), [0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2]);
        assert_eq!(run_key(64 << 20), b"run\0\0\0\0\0\x04\0\0\0");
        let at = FramePos { index: 3, term: 2, pos: LogPos(300), len: 64, chain: 0xAABB_CCDD };
        let row = AppliedRow {
            last_store_ms: 1,
            topics_version: 2,
            groups_version: 3,
            waiting_timers: 4,
            ..AppliedRow::new(at)
        };
        assert_eq!(
            row.encode_to_vec(),
            b"\x08\x03\x10\x02\x18\xac\x02\x20\x40\x2d\xdd\xcc\xbb\xaa\x30\x01\x38\x02\x40\x03\x48\x04"
        );
        assert_eq!(decode::<AppliedRow>(row.encode_to_vec()).unwrap().at(), at);
        assert_eq!(IndexSyncedRow { index: 1, pos: 2 }.encode_to_vec(), b"\x08\x01\x10\x02");
        assert_eq!(KeepRow { index: 1, pos: 2 }.encode_to_vec(), b"\x08\x01\x10\x02");
        assert_eq!(RunRow { first_ms: 1, last_ms: 2 }.encode_to_vec(), b"\x08\x01\x10\x02");
        let topic_row = TopicRow { incarnation: 5, settings: TopicSettings::plain(1), queue_count: 2 };
        assert_eq!(topic_row.encode_to_vec(), b"\x08\x05\x12\x06\x08\x01\x10\x01\x18\x06\x18\x02");
    }

    /// What is written is read back; what is not ours is refused, not misread.
    #[test]
    fn keys_parse() {
        let topic = TopicKey { name: "%RETRY%g".into(), incarnation: u64::MAX };
        assert_eq!(parse_queue_key(&queue_key(&topic, 7)), Some((topic.clone(), 7)));
        assert_eq!(parse_offset_key(&offset_key("group", &topic, 7)), Some(("group", topic.clone(), 7)));
        for bad in [&b""[..], b"T", b"T\0\0\0\0\0\0\0\0\x01\0\0\0", b"T\0\0\0\0\0\0\0\0\x01\0\0\0\x01\x01"] {
            assert_eq!(parse_queue_key(bad), None);
        }
        assert_eq!(parse_queue_ends(&[0; 15]), None);
        let key = GroupQueue { group: "g".into(), topic, queue: 3 };
        let lock = QueueLock { client_id: "10.0.0.1@7#8".into(), expires_ms: 258 };
        assert_eq!(lock_value(&lock), b"\0\0\0\0\0\0\x01\x0210.0.0.1@7#8");
        assert_eq!(parse_lock(&lock_key(&key), &lock_value(&lock)), Some((key, lock)));
        assert_eq!(parse_lock(b"", &[0; 8]), None);
        let (timer, place) = (TimerRef { due_ms: 258, first_pos: 3 }, TimerPlace { pos: 4, size: 5 });
        assert_eq!(timer_key(timer), *b"\0\0\0\0\0\0\x01\x02\0\0\0\0\0\0\0\x03");
        assert_eq!(timer_value(place), *b"\0\0\0\0\0\0\0\x04\0\0\0\x05");
        assert_eq!(parse_timer_key(&timer_key(timer)), Some(timer));
        assert_eq!(parse_timer_value(&timer_value(place)), Some(place));
        let by_place = timer_place_value(timer, place.size);
        assert_eq!(by_place, *b"\0\0\0\0\0\0\x01\x02\0\0\0\0\0\0\0\x03\0\0\0\x05");
        assert_eq!(parse_timer_place(&4u64.to_be_bytes(), &by_place), Some((place, timer)));
        assert_eq!(parse_timer_place(&[0; 7], &by_place), None);
        assert_eq!((parse_timer_key(&[0; 15]), parse_timer_value(&[0; 13])), (None, None));
    }

    /// Rows and keys with every byte changed in turn: a damaged store is refused or read as what it says, never a panic.
    #[test]
    fn damaged_keys_and_values_obey_the_law() {
        let topic = TopicKey { name: "T".into(), incarnation: 258 };
        let key = GroupQueue { group: "g".into(), topic: topic.clone(), queue: 3 };
        let lock = QueueLock { client_id: "10.0.0.1@7#8".into(), expires_ms: 258 };
        let at = FramePos { index: 3, term: 2, pos: LogPos(300), len: 64, chain: 0xAABB_CCDD };
        let membership = Membership { voters: vec![1, 2, 3], auto_leave: true, ..Membership::default() };
        let lock_key = lock_key(&key);
        let (timer, place) = (TimerRef { due_ms: 258, first_pos: 3 }, TimerPlace { pos: 4, size: 5 });
        let all = [
            queue_key(&topic, 3),
            offset_key("g", &topic, 3),
            queue_ends(1, 2).to_vec(),
            [&[lock_key.len() as u8], &lock_key[..], &lock_value(&lock)].concat(),
            AppliedRow { last_store_ms: 1, topics_version: 2, groups_version: 3, ..AppliedRow::new(at) }
                .encode_to_vec(),
            MembershipRow::from(&membership).encode_to_vec(),
            TopicRow { incarnation: 5, settings: TopicSettings::plain(1), queue_count: 2 }.encode_to_vec(),
            RunRow { first_ms: 1, last_ms: 2 }.encode_to_vec(),
            timer_key(timer).to_vec(),
            timer_value(place).to_vec(),
            [&place.pos.to_be_bytes()[..], &timer_place_value(timer, place.size)].concat(),
        ];
        let seeds = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds/store_row");
        for (n, bytes) in all.iter().enumerate() {
            let seed = seeds.join(format!("row_{n}.bin"));
            if std::env::var_os("LEDGERMQ_WRITE_SEEDS").is_some() {
                std::fs::write(&seed, bytes).unwrap();
            }
            assert_eq!(std::fs::read(&seed).unwrap(), *bytes, "{} holds another row now", seed.display());
            for at in 0..bytes.len() {
                law::check(&bytes[..at]);
                for value in 0..=u8::MAX {
                    let mut mutated = bytes.clone();
                    mutated[at] = value;
                    law::check(&mutated);
                }
            }
        }
    }
}

//! What must hold for any bytes that a damaged store hands back as key or value. Run by the tests of [`super`] and by the fuzzer
//! (`fuzz/fuzz_targets/store_row.rs`).

use prost::Message;

use crate::store::rows::{
    AppliedRow, IndexSyncedRow, KeepRow, MembershipRow, RunRow, TopicRow, decode, lock_key, lock_value, offset_key,
    parse_lock, parse_offset_key, parse_queue_ends, parse_queue_key, parse_timer_key, parse_timer_place,
    parse_timer_value, parse_u64, queue_ends, queue_key, timer_key, timer_place_value, timer_value,
};
use crate::tables::Committed;

/// Reads `bytes` as each key and value that there is: what is accepted is written as the same bytes, or, for protobuf rows, read
/// again as the same row.
///
/// # Panics
/// When the law is broken.
pub(crate) fn check(bytes: &[u8]) {
    if let Some((topic, queue)) = parse_queue_key(bytes) {
        assert_eq!(queue_key(&topic, queue), bytes);
    }
    if let Some((group, topic, queue)) = parse_offset_key(bytes) {
        assert_eq!(offset_key(group, &topic, queue), bytes);
    }
    if let Some((min, next)) = parse_queue_ends(bytes) {
        assert_eq!(queue_ends(min, next), bytes);
    }
    if let Some(number) = parse_u64(bytes) {
        assert_eq!(number.to_be_bytes(), bytes);
        assert_eq!(Committed::from_bits(number).bits(), number);
    }
    if let Some(timer) = parse_timer_key(bytes) {
        assert_eq!(timer_key(timer), bytes);
    }
    if let Some(place) = parse_timer_value(bytes) {
        assert_eq!(timer_value(place), bytes);
    }
    if let Some((key, value)) = bytes.split_at_checked(8)
        && let Some((place, timer)) = parse_timer_place(key, value)
    {
        assert_eq!(place.pos.to_be_bytes(), key);
        assert_eq!(timer_place_value(timer, place.size), value);
    }
    // The first byte says where the key ends and the value begins.
    if let Some((key_len, rest)) = bytes.split_first()
        && let Some((key, value)) = rest.split_at_checked(usize::from(*key_len))
        && let Some((parsed, lock)) = parse_lock(key, value)
    {
        assert_eq!(lock_key(&parsed), key);
        assert_eq!(lock_value(&lock), value);
    }
    row::<AppliedRow>(bytes);
    row::<MembershipRow>(bytes);
    row::<TopicRow>(bytes);
    row::<IndexSyncedRow>(bytes);
    row::<RunRow>(bytes);
    row::<KeepRow>(bytes);
}

fn row<M: Message + Default + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
    if let Some(row) = decode::<M>(bytes.to_vec()) {
        assert_eq!(decode::<M>(row.encode_to_vec()).as_ref(), Some(&row));
    }
}

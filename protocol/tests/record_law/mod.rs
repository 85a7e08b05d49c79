//! What must hold for any bytes that are taken for stored messages or a batch, and any text for properties, a subscription, a
//! message id or a recall handle. One function, run by the fuzzer (`fuzz/`) and by the replay beside this folder.

use bytes::BytesMut;
use ledgermq_protocol::message::batch::{BatchElements, encode_element};
use ledgermq_protocol::message::recall::RecallHandle;
use ledgermq_protocol::message::record::{RecordRef, Records};
use ledgermq_protocol::message::tags::TagFilter;
use ledgermq_protocol::message::{id, properties};

/// Checks the laws: no panic; a record lies inside its bytes and its parts inside the record; a batch that can be read is written
/// the same; what was set in properties is read, and what was removed is not.
pub(crate) fn check(bytes: &[u8]) {
    if let Ok(record) = RecordRef::decode(bytes) {
        assert_eq!(record.bytes(), &bytes[..record.len()]);
        let parts = record.body().len() + record.topic().len() + record.properties().len();
        assert!(parts <= record.len(), "{parts} bytes of parts in a record of {}", record.len());
        let _ = (record.born_host(), record.store_host(), record.body_is_intact(), record.is_v2());
        assert_eq!(RecordRef::decode(record.bytes()).map(|again| again.len()), Ok(record.len()));
        check_text(record.properties());
    }
    let mut read = 0;
    for record in Records::new(bytes) {
        match record {
            Ok(record) => read += record.len(),
            Err(_) => break,
        }
    }
    assert!(read <= bytes.len());

    let elements: Result<Vec<_>, _> = BatchElements::new(bytes).collect();
    if let Ok(elements) = elements {
        let mut written = BytesMut::new();
        elements.iter().for_each(|element| encode_element(element, &mut written));
        let again: Vec<_> =
            BatchElements::new(&written).map(|element| element.expect("what we write we read")).collect();
        assert_eq!(again, elements);
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        check_text(text);
    }
}

fn check_text(text: &str) {
    for (name, value) in properties::iter(text) {
        assert!(text.contains(name) && text.contains(value));
    }
    if let Ok(filter) = TagFilter::parse(text) {
        let _ = filter.matches(7);
    }
    if let Ok((host, offset)) = id::parse_offset_id(text) {
        assert_eq!(id::parse_offset_id(&id::offset_id(host, offset)), Ok((host, offset)));
    }
    let _ = id::uniq_key_time_ms(text, 1_700_000_000_000);
    if let Ok(handle) = RecallHandle::decode(text) {
        assert_eq!(RecallHandle::decode(&handle.encode()), Ok(handle));
    }
    let mut changed = text.to_owned();
    if properties::set(&mut changed, "LAW", "kept").is_ok() {
        assert_eq!(properties::get(&changed, "LAW"), Some("kept"), "in {changed:?}");
        while properties::remove(&mut changed, "LAW") {}
        assert_eq!(properties::get(&changed, "LAW"), None, "in {changed:?}");
    }
}

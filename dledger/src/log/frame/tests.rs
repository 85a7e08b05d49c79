use proptest::prelude::*;

use super::*;

const SMALL: Layout = Layout { segment_size: SEGMENT_SIZE_MIN };

fn header(index: u64, term: u64, pos: u64, payload: &[u8]) -> Header {
    Header {
        frame_len: frame_len(payload.len()),
        index,
        term,
        pos: LogPos(pos),
        payload_len: payload.len() as u32,
        records: 3,
        kind: FrameKind::Messages,
        payload_crc: payload_crc(payload),
        header_crc: 0,
    }
}

#[test]
fn the_checksum_is_crc32c() {
    assert_eq!(payload_crc(b"123456789"), 0xe306_9283);
    assert_eq!(payload_crc(b""), 0);
    // Continuing is the same as computing in one go.
    assert_eq!(chained_crc(payload_crc(b"12345"), b"6789"), 0xe306_9283);
    assert_eq!(chained_crc(0, b"123456789"), 0xe306_9283);
}

#[test]
fn a_frame_that_fills_the_segment_exactly_needs_no_blank() {
    let end = LogPos(SMALL.segment_size - 256);
    assert_eq!(SMALL.place(end, 256), Placement { blank: None, at: end });
    let next = LogPos(SMALL.segment_size);
    assert_eq!(SMALL.place(next, 256), Placement { blank: None, at: next });
    assert_eq!(SMALL.place(end, 264), Placement { blank: Some((end, 256)), at: next });
}

#[test]
fn a_rest_shorter_than_a_header_is_plain_zeros() {
    for rest in [8, 16, 40] {
        let end = LogPos(SMALL.segment_size - rest);
        let blank = SMALL.place(end, 48).blank.unwrap();
        assert_eq!(blank, (end, rest));
        assert_eq!(blank_header(blank), None);
    }
    assert!(blank_header((LogPos(SMALL.segment_size - 48), 48)).is_some());
}

#[test]
fn a_blank_is_not_chained_and_stands_for_nothing() {
    let blank = Header::blank(LogPos(800), 96);
    assert_eq!(blank.encode(1), blank.encode(2));
    let decoded = Header::decode(&blank.encode(0)).unwrap();
    assert_eq!((decoded.kind, decoded.index, decoded.frame_len), (FrameKind::Blank, 0, 96));
    let mut pretender = blank;
    pretender.index = 1;
    assert_eq!(Header::decode(&pretender.encode(0)), Err(FrameError::Fields(FrameKind::Blank)));
}

#[test]
fn frames_are_limited_to_a_quarter_of_a_segment() {
    assert_eq!(SMALL.max_frame_len(), 4096);
    assert_eq!(Layout { segment_size: 1 << 30 }.max_frame_len(), FRAME_LEN_MAX);
    assert!(!Layout { segment_size: SEGMENT_SIZE_MIN + 8 }.is_valid());
    assert!(!Layout { segment_size: SEGMENT_SIZE_MIN - PAGE }.is_valid());
    assert!(!Layout { segment_size: SEGMENT_SIZE_MAX + PAGE }.is_valid());
}

#[test]
#[should_panic(expected = "exceeds the frame limit")]
fn a_payload_beyond_the_limit_is_a_bug_of_the_caller() {
    let payload = vec![0; SMALL.max_payload_len() + 1];
    make_header(&SMALL, &FramePos::ORIGIN, 1, 1, FrameKind::Messages, 1, &payload);
}

#[test]
fn contradicting_fields_are_refused() {
    let good = header(7, 2, 96, b"abc");
    let spoilt = |spoil: fn(&mut Header)| {
        let mut header = good;
        spoil(&mut header);
        Header::decode(&header.encode(0)).unwrap_err()
    };
    assert!(matches!(spoilt(|h| h.frame_len += 8), FrameError::Length { .. }));
    assert!(matches!(spoilt(|h| h.frame_len += 1), FrameError::Length { .. }));
    assert!(matches!(spoilt(|h| h.payload_len = u32::MAX), FrameError::Length { .. }));
    assert_eq!(spoilt(|h| h.index = 0), FrameError::Fields(FrameKind::Messages));
    let mut bytes = good.encode(0);
    bytes[39] = 1;
    assert_eq!(Header::decode(&bytes), Err(FrameError::Flags(1)));
    bytes[38] = 7;
    assert_eq!(Header::decode(&bytes), Err(FrameError::Kind(7)));
    bytes[3] = 2;
    assert_eq!(Header::decode(&bytes), Err(FrameError::Magic(*b"LMF\x02")));
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded_and_any_flipped_bit_is_seen(
        index in 1u64.., term: u64, pos: u64, payload in proptest::collection::vec(any::<u8>(), 0..300),
        prev: u32, bit in 0usize..48 * 8,
    ) {
        let header = header(index, term, pos, &payload);
        let bytes = header.encode(prev);
        let decoded = Header::decode(&bytes).unwrap();
        prop_assert_eq!(Header { header_crc: 0, ..decoded }, header);
        prop_assert_eq!(decoded.to_bytes(), bytes);
        prop_assert_eq!(decoded.check_chain(prev), Ok(()));
        prop_assert!(decoded.check_chain(prev ^ 1 << (bit % 32)).is_err());
        let mut rest = payload.clone();
        rest.resize(decoded.frame_len as usize - HEADER_LEN, 0);
        prop_assert_eq!(decoded.check_payload(&rest), Ok(()));
        if let Some(byte) = rest.get_mut(bit) {
            *byte ^= 2;
            prop_assert!(decoded.check_payload(&rest).is_err());
        }
        let mut flipped = bytes;
        flipped[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(Header::decode(&flipped).is_err() || Header::decode(&flipped).unwrap().check_chain(prev).is_err());
    }

    #[test]
    fn placement_never_straddles_and_never_goes_back(pos in 0u64..1 << 40, len in 6u32..=512) {
        let (end, len) = (LogPos(pos * 8), len * 8);
        let Placement { blank, at } = SMALL.place(end, len);
        prop_assert_eq!(SMALL.base_of(at), SMALL.base_of(at + (u64::from(len) - 1)));
        match blank {
            None => prop_assert_eq!(at, end),
            Some((from, rest)) => {
                prop_assert_eq!(from, end);
                prop_assert_eq!(from + rest, at);
                prop_assert!(rest < u64::from(len));
                prop_assert_eq!(at.0 % SMALL.segment_size, 0);
            }
        }
    }
}

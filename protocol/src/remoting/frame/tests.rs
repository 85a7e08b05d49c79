use super::*;

fn prefix(length: u32, encoding: u8, header_len: u32) -> BytesMut {
    let mut buf = BytesMut::new();
    buf.put_u32(length);
    buf.put_u32(u32::from(encoding) << 24 | header_len);
    buf
}

fn error(mut buf: BytesMut) -> FrameError {
    decode(&mut buf, &FrameLimits::default()).expect_err("a bad frame was taken")
}

/// Whoever connects may announce anything: a wrong length must end the connection before memory is spent on it.
#[test]
fn announced_lengths_are_judged_at_once() {
    // Four bytes are enough to know; a TLS hello and an HTTP request look like huge frames.
    for start in [&b"\x7f\xff\xff\xff"[..], b"\xff\xff\xff\xff", b"\x16\x03\x01\x02", b"GET "] {
        let error = error(BytesMut::from(start));
        assert!(matches!(error, FrameError::TooLong { .. }) && error.framing_is_lost(), "{start:?}");
    }
    let most = DEFAULT_MAX_FRAME_LEN as u32 - 4;
    assert!(matches!(error(prefix(most + 1, 0, 2)), FrameError::TooLong { .. }));
    assert!(matches!(error(BytesMut::from(&[0, 0, 0, 3][..])), FrameError::TooShort { len: 3 }));
    assert!(matches!(error(prefix(4, 0, 1)), FrameError::HeaderTooLong { len: 1, max: 0 }));
    let long = DEFAULT_MAX_HEADER_LEN as u32 + 1;
    assert!(matches!(error(prefix(most, 0, long)), FrameError::HeaderTooLong { .. }));

    let mut largest = prefix(most, 0, DEFAULT_MAX_HEADER_LEN as u32);
    let capacity = largest.capacity();
    assert!(decode(&mut largest, &FrameLimits::default()).expect("lengths within the limits").is_none());
    assert_eq!((largest.len(), largest.capacity()), (FRAME_PREFIX_LEN, capacity), "waiting costs nothing");
}

/// A request with a bad header is answered if it says who it is, and the connection goes on with the next frame.
#[test]
fn a_bad_header_does_not_end_the_connection() {
    let frame = |header: &str, buf: &mut BytesMut| {
        buf.put_u32(4 + header.len() as u32);
        buf.put_u32(header.len() as u32);
        buf.put_slice(header.as_bytes());
    };
    let mut buf = BytesMut::new();
    frame(r#"{"code":10,"opaque":5,"extFields":{"a":[]}}"#, &mut buf);
    frame(r#"{"code":10,"opaque":6,"flag":2,"extFields":{"a":[]}}"#, &mut buf);
    frame("{", &mut buf);
    frame(r#"{"code":10,"opaque":7}"#, &mut buf);
    let limits = FrameLimits::default();
    let stubs: Vec<_> = (0..3)
        .map(|_| match decode(&mut buf, &limits) {
            Err(FrameError::BadHeader { stub, .. }) => stub.map(|stub| (stub.code, stub.opaque)),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(stubs, [Some((10, 5)), None, None], "one-way requests and unreadable ones get no answer");
    assert_eq!(decode(&mut buf, &limits).unwrap().unwrap().opaque, 7);
}

/// A frame that no peer takes must not be sent, nor half of it.
#[test]
fn what_cannot_be_sent_is_refused() {
    let mut dst = BytesMut::from(&b"kept"[..]);
    let command = RemotingCommand::request(91_001, 1);
    assert!(matches!(encode_head(&command, DEFAULT_MAX_FRAME_LEN, &mut dst), Err(EncodeError::FrameTooLong { .. })));
    assert!(matches!(encode_head(&command, usize::MAX, &mut dst), Err(EncodeError::FrameTooLong { .. })));
    let binary = command.clone().with_serialize(SerializeType::RocketMq);
    assert_eq!(encode(&binary, &mut dst), Err(EncodeError::CodeNotBinary(91_001)));
    let name = "n".repeat(40_000);
    let binary = RemotingCommand::request(1, 1).with_serialize(SerializeType::RocketMq).with_ext(&name, "v");
    assert_eq!(encode(&binary, &mut dst), Err(EncodeError::NameTooLong { len: 40_000 }));
    let controls = RemotingCommand::request(1, 1).with_ext("v", &"\u{1}".repeat(MAX_HEADER_LEN / 6));
    assert!(matches!(encode(&controls, &mut dst), Err(EncodeError::HeaderTooLong { .. })));
    assert_eq!(dst, b"kept"[..]);
}

/// Properties of the longest legal length, of the bytes that JSON blows up most, must pass.
#[test]
fn the_longest_legal_header_passes() {
    let properties = "\u{1}".repeat(crate::message::properties::MAX_PROPERTIES_LEN);
    let command = RemotingCommand::request(10, 1).with_ext("properties", &properties);
    let mut buf = BytesMut::new();
    encode(&command, &mut buf).unwrap();
    assert!(buf.len() > 6 * properties.len());
    assert_eq!(decode(&mut buf, &FrameLimits::default()).unwrap(), Some(command));
}

/// The answer to a batch of tens of thousands of messages lists their ids in its header; our client must read it.
#[test]
fn answers_may_have_long_headers() {
    let ids = vec!["C0A8010200002A9F0000000000000400"; 50_000].join(",");
    let command = RemotingCommand::response(0, 1, SerializeType::Json).with_ext("msgId", &ids);
    let mut buf = BytesMut::new();
    encode(&command, &mut buf).unwrap();
    assert!(decode(&mut buf.clone(), &FrameLimits::default()).is_err());
    assert_eq!(decode(&mut buf, &FrameLimits::for_answers()).unwrap(), Some(command));
}

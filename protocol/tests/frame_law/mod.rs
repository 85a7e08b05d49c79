//! What must hold for any bytes that a connection may deliver. One function, run by the fuzzer (`fuzz/`), by the property tests
//! and by the replay of its corpus.

use bytes::BytesMut;
use ledgermq_protocol::remoting::command::{RemotingCommand, SerializeType};
use ledgermq_protocol::remoting::frame::{self, EncodeError, FrameError, FrameLimits};

/// Largest stretch that is delivered at once in the second reading.
const MAX_CHUNK: usize = 13;

/// Checks the laws on `stream`, the bytes of one connection:
/// no panic; the same commands however the bytes are cut into deliveries; every decoded command can be written and read again.
pub(crate) fn check(stream: &[u8]) {
    let at_once = read(stream, stream.len().max(1));
    let chunk = 1 + usize::from(stream.first().copied().unwrap_or(0)) % MAX_CHUNK;
    let in_pieces = read(stream, chunk);
    assert_eq!(at_once, in_pieces, "the cutting into deliveries of {chunk} bytes changed what was read");
    for command in at_once.iter().filter_map(|read| read.as_ref().ok()) {
        round_trip(command);
    }
}

/// Everything that comes out of a connection: commands, bad headers (read on), and at most one end of framing. Errors as text.
fn read(stream: &[u8], chunk: usize) -> Vec<Result<RemotingCommand, String>> {
    let limits = FrameLimits::default();
    let mut buf = BytesMut::new();
    let mut out = Vec::new();
    for delivery in stream.chunks(chunk) {
        buf.extend_from_slice(delivery);
        loop {
            match frame::decode(&mut buf, &limits) {
                Ok(Some(command)) => out.push(Ok(command)),
                Ok(None) => break,
                Err(error) => {
                    check_stub(&error);
                    out.push(Err(format!("{error:?}")));
                    if error.framing_is_lost() {
                        return out;
                    }
                }
            }
        }
    }
    out
}

/// A request that is answered although its header is bad must be one that may be answered.
fn check_stub(error: &FrameError) {
    if let FrameError::BadHeader { stub: Some(stub), .. } = error {
        assert!(!stub.is_response() && !stub.is_oneway() && stub.ext.is_empty() && stub.body.is_empty());
    }
}

fn round_trip(command: &RemotingCommand) {
    let limits = FrameLimits::for_answers();
    let mut buf = BytesMut::from(&b"before"[..]);
    match frame::encode(command, &mut buf) {
        Ok(()) => {
            let mut frame = buf.split_off(6);
            let again = frame::decode(&mut frame, &limits).expect("what we write we can read");
            assert_eq!(again.as_ref(), Some(command));
            assert!(frame.is_empty());
        }
        // The same values can take more bytes in our spelling than in the sender's.
        Err(EncodeError::FrameTooLong { .. } | EncodeError::HeaderTooLong { .. }) => {}
        Err(error) => panic!("a decoded command cannot be written: {error}"),
    }
    assert_eq!(buf, b"before"[..]);

    // In the other encoding the values must be the same, but for what the binary one cannot express.
    let other = match command.serialize {
        SerializeType::Json => SerializeType::RocketMq,
        SerializeType::RocketMq => SerializeType::Json,
    };
    let translated = command.clone().with_serialize(other);
    buf.clear();
    if frame::encode(&translated, &mut buf).is_err() {
        return;
    }
    let again = frame::decode(&mut buf, &limits).expect("what we write we can read").expect("a whole frame");
    assert_eq!((again.code, again.opaque, again.flag), (command.code, command.opaque, command.flag));
    assert_eq!((again.language, &again.body), (command.language, &command.body));
    assert_eq!(again.remark.unwrap_or_default(), command.remark.clone().unwrap_or_default());
    for (name, value) in command.ext.iter().filter(|(name, value)| !name.is_empty() && !value.is_empty()) {
        assert_eq!(again.ext.get(name), Some(value));
    }
}

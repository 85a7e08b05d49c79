//! Frames made by the official Java library: what we decode from them must be what Java put in.

use bytes::BytesMut;
use ledgermq_protocol::remoting::command::{Language, RemotingCommand, SerializeType};
use ledgermq_protocol::remoting::frame::{self, FrameLimits};

mod vectors;
use vectors::hex_vectors;

fn decode(name: &str) -> RemotingCommand {
    let bytes = hex_vectors(include_str!("vectors/frames.hex.json"), name);
    let mut buf = BytesMut::from(&bytes[..]);
    let decoded = frame::decode(&mut buf, &FrameLimits::default());
    let command = decoded.expect("a good header").expect("a whole frame");
    assert!(buf.is_empty(), "{name}: {} bytes left", buf.len());
    command
}

fn fields(pairs: &[(&str, &str)]) -> ledgermq_protocol::remoting::ext_fields::ExtFields {
    pairs.iter().copied().collect()
}

const PROPERTIES: &str = "TAGS\u{1}TagA\u{2}UNIQ_KEY\u{1}7F00000100010000000000000000ABCD\u{2}WAIT\u{1}true\u{2}";

/// A send of a Java producer in either header encoding must come out as the same request.
#[test]
fn send_v2_in_both_encodings() {
    let json = decode("frame.req.send_v2.json");
    assert_eq!((json.code, json.opaque, json.flag, json.version), (310, 7, 0, 493));
    assert_eq!((json.language, json.serialize), (Language::Java, SerializeType::Json));
    assert_eq!(&json.body[..], b"Hello RocketMQ");
    let sent = [
        ("a", "PG"),
        ("b", "TopicTest"),
        ("c", "TBW102"),
        ("d", "4"),
        ("e", "1"),
        ("f", "0"),
        ("g", "1700000000000"),
        ("h", "0"),
        ("i", PROPERTIES),
        ("j", "0"),
        ("k", "false"),
        ("m", "false"),
        ("n", "broker-a"),
    ];
    assert_eq!(json.ext, fields(&sent));

    let binary = decode("frame.req.send_v2.rmq");
    assert_eq!(binary.serialize, SerializeType::RocketMq);
    assert_eq!(RemotingCommand { serialize: SerializeType::Json, ..binary }, json);
}

/// Responses and one-way requests are told apart by the flag alone.
#[test]
fn responses_and_oneway() {
    for name in ["frame.resp.send_ok.json", "frame.resp.send_ok.rmq"] {
        let response = decode(name);
        assert!(response.is_response() && !response.is_oneway());
        assert_eq!(response.ext.get("msgId"), Some("C0A8010200002A9F0000000000000400"));
        assert_eq!(response.ext.get("queueOffset"), Some("5"));
    }
    for name in ["frame.resp.error.json", "frame.resp.error.rmq"] {
        let error = decode(name);
        assert_eq!((error.code, error.opaque), (17, 9));
        assert_eq!(error.remark.as_deref(), Some("topic[x] not exist"));
        assert!(error.ext.is_empty());
    }
    let end = decode("frame.req.end_tx_oneway.json");
    assert!(end.is_oneway() && !end.is_response());
    assert_eq!(end.ext.get("commitOrRollback"), Some("8"));
}

/// Pull in both encodings; POP's code is cut to 16 bits in the binary one and must come back whole.
#[test]
fn pull_and_pop() {
    let json = decode("frame.req.pull.json");
    let binary = decode("frame.req.pull.rmq");
    assert_eq!(json.code, 11);
    assert_eq!(json.ext, binary.ext);
    let json = decode("frame.req.pop.json");
    let binary = decode("frame.req.pop.rmq.truncated_code");
    assert_eq!((json.code, binary.code), (200_050, 200_050));
    assert_eq!(json.ext, binary.ext);
    assert_eq!(decode("frame.req.route.json").ext.get("acceptStandardJsonOnly"), Some("true"));
}

/// Everything that we decode we can encode and decode again, in both encodings.
#[test]
fn decoded_vectors_round_trip() {
    for (name, _) in vectors::names(include_str!("vectors/frames.hex.json")) {
        for serialize in [SerializeType::Json, SerializeType::RocketMq] {
            let command = decode(&name).with_serialize(serialize);
            let mut buf = BytesMut::new();
            frame::encode(&command, &mut buf).unwrap();
            assert_eq!(frame::decode(&mut buf, &FrameLimits::default()).unwrap().unwrap(), command, "{name}");
        }
    }
}

/// Java writes JSON keys sorted; where its field order agrees with ours the bytes must be the same.
#[test]
fn an_error_response_is_written_as_java_writes_it() {
    for name in ["frame.resp.error.json", "frame.resp.error.rmq"] {
        let mut buf = BytesMut::new();
        frame::encode(&decode(name), &mut buf).unwrap();
        assert_eq!(buf, hex_vectors(include_str!("vectors/frames.hex.json"), name), "{name}");
    }
}

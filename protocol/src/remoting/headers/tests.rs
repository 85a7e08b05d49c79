use super::group::UnregisterClient;
use super::offset::{Boundary, SearchOffset};
use super::register::RegisterBroker;
use super::send::{SendMessage, SendMessageResponse};
use super::*;
use crate::remoting::request_code::RequestCode;

fn v1() -> ExtFields {
    ExtFields::from_iter([
        ("producerGroup", "PG"),
        ("topic", "T"),
        ("defaultTopic", "TBW102"),
        ("defaultTopicQueueNums", "4"),
        ("queueId", "-1"),
        ("sysFlag", "0"),
        ("bornTimestamp", "1700000000000"),
        ("flag", "7"),
        ("batch", "TRUE"),
        ("maxReconsumeTimes", "16"),
        ("bname", "broker-a"),
        ("ns", "ignored"),
    ])
}

/// One handler serves both spellings, so a slip in the short names would swap fields silently.
#[test]
fn both_spellings_of_a_send_are_one_header() {
    let ext = v1();
    let sent = SendMessage::from_ext(RequestCode::SEND_MESSAGE, &ext).unwrap();
    assert_eq!((sent.queue_id, sent.born_timestamp_ms, sent.flag), (-1, 1_700_000_000_000, 7));
    assert_eq!((sent.batch, sent.max_reconsume_times, sent.unit_mode), (Some(true), Some(16), None));
    let mut short = ExtFields::new();
    sent.to_ext(RequestCode::SEND_MESSAGE_V2, &mut short);
    assert_eq!((short.get("l"), short.get("m"), short.get("n")), (Some("16"), Some("true"), Some("broker-a")));
    assert_eq!((short.get("i"), short.get("j")), (None, None));
    assert_eq!(SendMessage::from_ext(RequestCode::SEND_BATCH_MESSAGE, &short).unwrap(), sent);
}

/// A client can only be mended if the answer says which field is wrong.
#[test]
fn errors_name_the_field() {
    let mut ext = v1();
    ext.insert("queueId", "many");
    let error = SendMessage::from_ext(RequestCode::SEND_MESSAGE, &ext).unwrap_err();
    assert_eq!(error.to_string(), "field queueId is not a 32-bit integer: \"many\"");
    ext.insert("queueId", "2147483648");
    assert!(SendMessage::from_ext(RequestCode::SEND_MESSAGE, &ext).is_err());
    ext.remove("queueId");
    let error = SendMessage::from_ext(RequestCode::SEND_MESSAGE, &ext).unwrap_err();
    assert_eq!(error, FieldError::Missing { field: "queueId" });
    let error = SendMessage::from_ext(RequestCode::SEND_MESSAGE_V2, &v1()).unwrap_err();
    assert_eq!(error.to_string(), "field a is missing");
    let long = ExtFields::from_iter([("msgId", "x"), ("queueId", &"9".repeat(1000)), ("queueOffset", "0")]);
    assert!(SendMessageResponse::from_ext(&long).unwrap_err().to_string().len() < 128);
}

/// Absent, empty and defaulted optional fields must not be refused.
#[test]
fn optional_fields() {
    let ext = ExtFields::from_iter([("clientID", "c"), ("producerGroup", "")]);
    let header = UnregisterClient::from_ext(&ext).unwrap();
    assert_eq!((header.producer_group, header.consumer_group), (None, None));
    let mut ext = ExtFields::from_iter([("topic", "t"), ("queueId", "0"), ("timestamp", "5")]);
    assert_eq!(SearchOffset::from_ext(&ext).unwrap().boundary, Boundary::Lower);
    ext.insert("boundaryType", "uppeR");
    assert_eq!(SearchOffset::from_ext(&ext).unwrap().boundary, Boundary::Upper);
}

/// What a header writes, it reads.
#[test]
fn a_header_round_trips() {
    let header = RegisterBroker {
        broker_name: "broker-a".into(),
        broker_addr: "127.0.0.1:10911".into(),
        cluster_name: "c".into(),
        ha_server_addr: None,
        broker_id: 0,
        heartbeat_timeout_ms: Some(10_000),
        enable_acting_master: Some(false),
        compressed: Some(true),
        body_crc32: Some(77),
        group_uuid: Some("u".into()),
        term: Some(i64::MAX),
    };
    let command = RemotingCommand::request(103, 1).with_header(&header);
    assert_eq!(command.header::<RegisterBroker>().unwrap(), header);
    assert!(!command.ext.contains("haServerAddr"));
}

//! Pulls and offsets against fake brokers.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use fake::{Fake, Reply, Routes, answer, client, config, namesrv, not_leader};
use ledgermq_client::{
    CallError, Client, ConfigError, Filter, MessageQueue, PullConsumer, PullConsumerConfig, PullError, PullStatus,
};
use ledgermq_protocol::message::record::{self, Message};
use ledgermq_protocol::remoting::command::RemotingCommand;
use ledgermq_protocol::remoting::headers::offset::{OffsetResponse, UpdateConsumerOffset};
use ledgermq_protocol::remoting::headers::pull::{PullMessage, PullMessageResponse};
use ledgermq_protocol::remoting::request_code::RequestCode;
use ledgermq_protocol::remoting::response_code::ResponseCode;

#[allow(dead_code, reason = "each test program uses its part of it")]
mod fake;

fn queue() -> MessageQueue {
    MessageQueue { broker_name: "broker-a".to_owned(), queue_id: 0, topic: "TopicTest".to_owned() }
}

fn consumer(client: &Client, tags: &str) -> PullConsumer {
    client.pull_consumer(PullConsumerConfig::new("CG").with_tags(tags)).unwrap()
}

fn offsets(code: i32) -> RemotingCommand {
    answer(code).with_header(&PullMessageResponse {
        suggest_which_broker_id: 0,
        next_begin_offset: 7,
        min_offset: 1,
        max_offset: 9,
        topic_sys_flag: None,
        group_sys_flag: None,
    })
}

/// Records as a broker concatenates them: body, system flag and tag of each.
fn records(messages: &[(&[u8], i32, &str)]) -> BytesMut {
    let mut bytes = BytesMut::new();
    for (n, (body, sys_flag, tag)) in messages.iter().enumerate() {
        let mut record = BytesMut::new();
        let message = Message {
            topic: "TopicTest",
            queue_id: 0,
            flag: 5,
            sys_flag: *sys_flag,
            born_timestamp_ms: 1,
            born_host: "127.0.0.1:5000".parse().unwrap(),
            store_host: "[::1]:10911".parse().unwrap(),
            reconsume_times: 2,
            prepared_transaction_offset: 0,
            body,
            properties: &format!("TAGS\u{1}{tag}\u{2}UNIQ_KEY\u{1}K{n}\u{2}KEYS\u{1}k1 k2\u{2}"),
        };
        record::encode(&message, &mut record).unwrap();
        record::patch(&mut record, 3 + n as i64, 4096 + n as i64, 1_700_000_000_000);
        bytes.extend_from_slice(&record);
    }
    bytes
}

async fn with_broker(reply: impl Fn(&RemotingCommand) -> Reply + Send + Sync + 'static) -> (Fake, Fake, Client) {
    let broker = Fake::start(reply).await;
    let namesrv = namesrv(&Routes::new(&broker.addr, &[], true)).await;
    let client = client(&[&namesrv]);
    (broker, namesrv, client)
}

/// What a record holds must arrive whole, and what the hash filter let through by chance must not.
#[tokio::test]
async fn records_arrive_as_messages() {
    // "AaBB" and "BBBB" have the same Java hash.
    let body = records(&[(b"plain", 0, "AaBB"), (b"other", 0, "BBBB"), (b"\x78\x9cgarbage", 0x301, "AaBB")]);
    let (broker, _namesrv, client) =
        with_broker(move |_| Reply::Answer(offsets(ResponseCode::SUCCESS).with_body(body.clone()))).await;
    let pulled = consumer(&client, "AaBB || x").pull(&queue(), 3, 32, Duration::from_millis(50)).await.unwrap();
    assert_eq!(pulled.status, PullStatus::Found);
    assert_eq!((pulled.next_offset, pulled.min_offset, pulled.max_offset), (7, 1, 9));
    assert_eq!(pulled.messages.len(), 2);
    let first = &pulled.messages[0];
    assert_eq!((&*first.body().unwrap(), &*first.id(), first.tag()), (&b"plain"[..], "K0", Some("AaBB")));
    assert_eq!(
        (first.queue_offset(), first.physical_offset(), first.store_timestamp_ms()),
        (3, 4096, 1_700_000_000_000)
    );
    assert_eq!((first.flag(), first.reconsume_times(), first.keys().collect::<Vec<_>>()), (5, 2, vec!["k1", "k2"]));
    assert_eq!(first.store_host(), "[::1]:10911".parse().unwrap());
    assert_eq!(first.queue("broker-a"), queue());
    assert!(pulled.messages[1].body().is_err(), "a compressed body that is none is told, not invented");

    let header: PullMessage = broker.requests()[0].header().unwrap();
    assert_eq!((header.consumer_group.as_str(), header.queue_offset, header.max_msg_nums), ("CG", 3, 32));
    assert_eq!((header.sys_flag, header.suspend_timeout_ms), (6, 50));
    assert_eq!(header.subscription.as_deref(), Some("AaBB || x"));
}

/// An expression over properties is the broker's to judge: it must reach it, and nothing that comes back is dropped here.
#[tokio::test]
async fn filters_by_properties_are_judged_by_the_broker() {
    let body = records(&[(b"one", 0, "A"), (b"two", 0, "B")]);
    let (broker, _namesrv, client) =
        with_broker(move |_| Reply::Answer(offsets(ResponseCode::SUCCESS).with_body(body.clone()))).await;
    let config = PullConsumerConfig::new("CG").with_filter(Filter::Sql("a > 5".to_owned()));
    let pulled = client.pull_consumer(config).unwrap().pull(&queue(), 3, 32, Duration::ZERO).await.unwrap();
    assert_eq!(pulled.messages.len(), 2);
    let header: PullMessage = broker.requests()[0].header().unwrap();
    assert_eq!((header.subscription.as_deref(), header.expression_type.as_deref()), (Some("a > 5"), Some("SQL92")));
    let empty = PullConsumerConfig::new("CG").with_filter(Filter::Sql(" ".to_owned()));
    assert!(matches!(client.pull_consumer(empty), Err(ConfigError::Value { key: "filter", .. })));
}

/// Each answer without messages says something else about where to go on.
#[tokio::test]
async fn answers_without_messages() {
    let cases = [
        (ResponseCode::PULL_NOT_FOUND, PullStatus::NoNewMessage),
        (ResponseCode::PULL_RETRY_IMMEDIATELY, PullStatus::NoMatch),
        (ResponseCode::PULL_OFFSET_MOVED, PullStatus::OffsetOutOfRange),
    ];
    for (code, status) in cases {
        let (_broker, _namesrv, client) = with_broker(move |_| Reply::Answer(offsets(code))).await;
        let pulled = consumer(&client, "*").pull(&queue(), 3, 1, Duration::ZERO).await.unwrap();
        assert_eq!((pulled.status, pulled.next_offset, pulled.messages.len()), (status, 7, 0));
    }
}

/// Damage between the broker's disk and here must not be handed on as a message.
#[tokio::test]
async fn damaged_records_are_refused() {
    let good = records(&[(b"one", 0, "T"), (b"two", 0, "T")]);
    let mut flipped = good.clone();
    let at = flipped.windows(3).position(|bytes| bytes == b"two").unwrap();
    flipped[at] ^= 1;
    let mut cut = good.clone();
    cut.truncate(good.len() - 1);
    for body in [flipped, cut] {
        let (_broker, _namesrv, client) =
            with_broker(move |_| Reply::Answer(offsets(ResponseCode::SUCCESS).with_body(body.clone()))).await;
        let error = consumer(&client, "*").pull(&queue(), 3, 32, Duration::ZERO).await.unwrap_err();
        let expected =
            matches!(error, PullError::Checksum { queue_offset: 4, .. } | PullError::Record { index: 1, .. });
        assert!(expected, "{error}");
    }
}

/// A parked pull must move to the new leader as soon as the route names it, and take the offset along.
#[tokio::test]
async fn a_parked_pull_follows_the_leader() {
    let hung = Fake::start(|_| Reply::Silence).await;
    let new = Fake::start(|_| Reply::Answer(offsets(ResponseCode::PULL_NOT_FOUND))).await;
    let routes = Routes::new(&hung.addr, &[&new.addr], true);
    let namesrv = namesrv(&routes).await;
    let client = client(&[&namesrv]);
    let pulling = tokio::spawn({
        let consumer = consumer(&client, "*");
        async move { consumer.pull(&queue(), 5, 32, Duration::from_secs(15)).await }
    });
    hung.until(1).await;
    let started = std::time::Instant::now();
    routes.elect(&new.addr, &[]);
    assert_eq!(pulling.await.unwrap().unwrap().status, PullStatus::NoNewMessage);
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    let header: PullMessage = new.requests()[0].header().unwrap();
    assert_eq!(header.queue_offset, 5);
}

/// Refusals that would come again end the pull with their reason; passing ones are retried.
#[tokio::test]
async fn refused_pulls() {
    let (broker, _namesrv, client) =
        with_broker(|_| Reply::Answer(answer(ResponseCode::NO_PERMISSION).with_remark("closed"))).await;
    let error = consumer(&client, "*").pull(&queue(), 0, 1, Duration::ZERO).await.unwrap_err();
    assert!(matches!(&error, PullError::Call(CallError::Refused { code: 16, remark, .. }) if remark == "closed"));
    assert_eq!(broker.requests().len(), 1);

    let calls = AtomicUsize::new(0);
    let codes = [ResponseCode::SYSTEM_BUSY, ResponseCode::SYSTEM_ERROR, ResponseCode::FLOW_CONTROL];
    let (_broker, _namesrv, client) = with_broker(move |_| {
        let code = codes.get(calls.fetch_add(1, Ordering::Relaxed));
        Reply::Answer(code.map_or_else(|| offsets(ResponseCode::PULL_NOT_FOUND), |code| answer(*code)))
    })
    .await;
    consumer(&client, "*").pull(&queue(), 0, 1, Duration::ZERO).await.unwrap();
}

/// Offsets come from the leader only; none is not zero.
#[tokio::test]
async fn offsets_on_the_wire() {
    let calls = AtomicUsize::new(0);
    let (broker, _namesrv, client) = with_broker(move |request| {
        let offset = |offset| answer(ResponseCode::SUCCESS).with_header(&OffsetResponse { offset });
        Reply::Answer(match request.code {
            RequestCode::QUERY_CONSUMER_OFFSET if calls.fetch_add(1, Ordering::Relaxed) == 0 => {
                answer(ResponseCode::QUERY_NOT_FOUND)
            }
            RequestCode::QUERY_CONSUMER_OFFSET => offset(12),
            RequestCode::GET_MIN_OFFSET => offset(3),
            RequestCode::GET_MAX_OFFSET => offset(44),
            RequestCode::SEARCH_OFFSET_BY_TIMESTAMP => offset(20),
            RequestCode::UPDATE_CONSUMER_OFFSET => answer(ResponseCode::SUCCESS),
            code => panic!("not expected: {code}"),
        })
    })
    .await;
    let consumer = consumer(&client, "*");
    assert_eq!(consumer.queues("TopicTest").await.unwrap(), [queue()]);
    assert_eq!(consumer.committed_offset(&queue()).await.unwrap(), None);
    assert_eq!(consumer.committed_offset(&queue()).await.unwrap(), Some(12));
    assert_eq!(consumer.min_offset(&queue()).await.unwrap(), 3);
    assert_eq!(consumer.max_offset(&queue()).await.unwrap(), 44);
    assert_eq!(consumer.offset_at(&queue(), 1_000).await.unwrap(), 20);
    consumer.commit_offset(&queue(), 13).await.unwrap();
    let last = broker.requests().pop().unwrap();
    let header: UpdateConsumerOffset = last.header().unwrap();
    assert_eq!((header.commit_offset, header.consumer_group.as_str(), last.is_oneway()), (13, "CG", false));
}

/// A commit must follow the leader like a send, and an unknown topic end at once.
#[tokio::test]
async fn commits_follow_the_hint() {
    let new = Fake::start(|_| Reply::Answer(answer(ResponseCode::SUCCESS))).await;
    let hint = new.addr.clone();
    let (_old, _namesrv, client) = with_broker(move |_| Reply::Answer(not_leader(Some((&hint, 2))))).await;
    consumer(&client, "*").commit_offset(&queue(), 1).await.unwrap();
    let missing = MessageQueue { topic: "Missing".to_owned(), ..queue() };
    let error = consumer(&client, "*").commit_offset(&missing, 1).await.unwrap_err();
    assert!(matches!(error, CallError::NoRoute(_)) && !error.outcome_unknown());
}

/// A config that cannot work is told when it is given.
#[tokio::test]
async fn bad_configs() {
    let namesrv = namesrv(&Routes::new("a:1", &[], true)).await;
    let client = client(&[&namesrv]);
    let error = client.pull_consumer(PullConsumerConfig::new("CG").with_tags(" || ")).unwrap_err();
    assert!(matches!(error, ConfigError::Value { key: "filter", .. }));
    assert!(matches!(client.pull_consumer(PullConsumerConfig::new("a b")), Err(ConfigError::Group(_))));
    for change in [
        |config: &mut ledgermq_client::ClientConfig| config.namesrvs.clear(),
        |config: &mut ledgermq_client::ClientConfig| config.namesrvs[0] = "nowhere".to_owned(),
        |config: &mut ledgermq_client::ClientConfig| config.attempts_max = 0,
        |config: &mut ledgermq_client::ClientConfig| config.deadline = Duration::ZERO,
    ] {
        let mut config = config(&[&namesrv]);
        change(&mut config);
        assert!(Client::new(config).is_err());
    }
}

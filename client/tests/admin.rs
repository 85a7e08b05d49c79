//! Operators' requests, and the life of a client: many answers on one connection, servers that ask, the end.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::Duration;

use fake::{Fake, Reply, Routes, SOON, answer, client, config, dead_addr, namesrv, not_leader, stored};
use ledgermq_client::{CallError, Cause, Client, Message, NewTopic, ProducerConfig, RequestError, SendError};
use ledgermq_protocol::extension::code;
use ledgermq_protocol::remoting::command::RemotingCommand;
use ledgermq_protocol::remoting::headers::topic::CreateTopic;
use ledgermq_protocol::remoting::request_code::RequestCode;
use ledgermq_protocol::remoting::response_code::ResponseCode;
use parking_lot::Mutex;
use tokio::sync::oneshot;

#[allow(dead_code, reason = "each test program uses its part of it")]
mod fake;

/// A topic must be usable when its creation returns: at the leader, by whatever way, and with its route.
#[tokio::test]
async fn a_created_topic_has_its_route() {
    let routes = Routes::new("unset:1", &[], true);
    routes.set_queue_nums(4);
    let leader = {
        let routes = routes.clone();
        Fake::start(move |_| {
            // The registration comes a little later than the answer.
            let routes = routes.clone();
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(100)).await;
                routes.add_topic("NewTopic");
            });
            Reply::Answer(answer(ResponseCode::SUCCESS))
        })
        .await
    };
    let hint = leader.addr.clone();
    let old = Fake::start(move |_| Reply::Answer(not_leader(Some((&hint, 3))))).await;
    routes.elect(&old.addr, &[&leader.addr]);
    let namesrv = namesrv(&routes).await;
    let client = client(&[&namesrv]);
    let admin = client.admin();
    assert!(matches!(admin.route("NewTopic").await, Err(CallError::NoRoute(_))));
    admin.create_topic(&NewTopic::new("NewTopic", 4)).await.unwrap();
    assert_eq!(admin.route("NewTopic").await.unwrap().write_queues().len(), 4);
    let header: CreateTopic = leader.requests()[0].header().unwrap();
    assert_eq!((header.topic.as_str(), header.write_queue_nums, header.perm), ("NewTopic", 4, 6));
    let info = admin.cluster().await.unwrap();
    assert_eq!(info.broker_addr_table["broker-a"].leader_addr(), Some(old.addr.as_str()));
}

/// A refusal to create carries the broker's reason.
#[tokio::test]
async fn a_refused_creation_says_why() {
    let broker = Fake::start(|_| Reply::Answer(answer(ResponseCode::INVALID_PARAMETER).with_remark("bad name"))).await;
    let namesrv = namesrv(&Routes::new(&broker.addr, &[], true)).await;
    let error = client(&[&namesrv]).admin().create_topic(&NewTopic::new("x y", 4)).await.unwrap_err();
    assert!(error.to_string().contains("bad name") && error.code() == Some(29), "{error}");
}

/// The private requests return JSON as it is; brokers that do not know them say so.
#[tokio::test]
async fn raft_status_is_json() {
    let ours = Fake::start(|request| {
        assert!(matches!(request.code, code::LEDGER_RAFT_STATUS | code::LEDGER_STATE_DIGEST));
        Reply::Answer(answer(ResponseCode::SUCCESS).with_body(r#"{"groups":[{"name":"broker-a","term":3}]}"#))
    })
    .await;
    let official = Fake::start(|_| Reply::Answer(answer(ResponseCode::REQUEST_CODE_NOT_SUPPORTED))).await;
    let broken = Fake::start(|_| Reply::Answer(answer(ResponseCode::SUCCESS).with_body("{"))).await;
    let client = Client::new(config(&[&ours])).unwrap();
    let admin = client.admin();
    assert_eq!(admin.raft_status(&ours.addr).await.unwrap()["groups"][0]["term"], 3);
    admin.state_digest(&ours.addr).await.unwrap();
    assert_eq!(admin.raft_status(&official.addr).await.unwrap_err().code(), Some(3));
    assert!(matches!(admin.raft_status(&broken.addr).await, Err(CallError::Malformed { .. })));
    let error = admin.raft_status(&dead_addr().await).await.unwrap_err();
    assert!(matches!(error, CallError::GaveUp { cause: Cause::Request(RequestError::Connect { .. }), .. }), "{error}");
}

/// A request and where its answer is to go.
type Parked = (RemotingCommand, oneshot::Sender<RemotingCommand>);

/// Answers come in any order; each must reach the caller of its request, over a single connection.
#[tokio::test]
async fn answers_out_of_order_reach_their_callers() {
    let parked: Arc<Mutex<Vec<Parked>>> = Arc::default();
    let broker = {
        let parked = Arc::clone(&parked);
        Fake::start(move |request| {
            let (sender, later) = oneshot::channel();
            parked.lock().push((request.clone(), sender));
            Reply::Later(later)
        })
        .await
    };
    let namesrv = namesrv(&Routes::new(&broker.addr, &[], true)).await;
    let client = Client::new(config(&[&namesrv]).with_attempt_timeout(SOON).with_deadline(SOON)).unwrap();
    let producer = client.producer(ProducerConfig::new("PG")).unwrap();
    let mut sending = tokio::task::JoinSet::new();
    for n in 0..100i64 {
        let producer = producer.clone();
        sending.spawn(async move {
            let receipt = producer.send(&Message::new("TopicTest", n.to_string())).await.unwrap();
            assert_eq!(receipt.queue_offset, n);
        });
    }
    broker.until(100).await;
    for (request, sender) in parked.lock().drain(..).rev() {
        let n = std::str::from_utf8(&request.body).unwrap().parse().unwrap();
        sender.send(stored(&request, n)).unwrap();
    }
    while let Some(joined) = sending.join_next().await {
        joined.unwrap();
    }
}

/// Shutdown lets what is under way end, and then nothing is sent any more.
#[tokio::test]
async fn shutdown_waits_for_what_is_under_way() {
    let (sender, later) = oneshot::channel();
    let later = Mutex::new(Some(later));
    let broker = Fake::start(move |_| Reply::Later(later.lock().take().expect("one request only"))).await;
    let namesrv = namesrv(&Routes::new(&broker.addr, &[], true)).await;
    let client = Client::new(config(&[&namesrv]).with_attempt_timeout(SOON).with_deadline(SOON)).unwrap();
    let producer = client.producer(ProducerConfig::new("PG")).unwrap();
    let sending = tokio::spawn({
        let producer = producer.clone();
        async move { producer.send(&Message::new("TopicTest", "m")).await }
    });
    let request = broker.until(1).await.remove(0);
    let stopping = tokio::spawn({
        let client = client.clone();
        async move { client.shutdown(SOON).await }
    });
    tokio::task::yield_now().await;
    assert!(!stopping.is_finished());
    sender.send(stored(&request, 1)).unwrap();
    sending.await.unwrap().unwrap();
    tokio::time::timeout(SOON, stopping).await.unwrap().unwrap();
    let error = producer.send(&Message::new("TopicTest", "m")).await.unwrap_err();
    assert!(!error.outcome_unknown());
    assert!(matches!(error, SendError::Call(CallError::GaveUp { .. })), "{error}");
    assert_eq!(broker.requests().len(), 1);
}

/// Shutdown does not wait for ever: what is still under way ends with an unknown outcome.
#[tokio::test]
async fn shutdown_ends_with_its_grace() {
    let broker = Fake::start(|_| Reply::Silence).await;
    let namesrv = namesrv(&Routes::new(&broker.addr, &[], true)).await;
    let client = Client::new(config(&[&namesrv]).with_attempt_timeout(SOON).with_deadline(SOON)).unwrap();
    let producer = client.producer(ProducerConfig::new("PG")).unwrap();
    let sending = tokio::spawn(async move { producer.send(&Message::new("TopicTest", "m")).await });
    broker.until(1).await;
    client.shutdown(Duration::from_millis(20)).await;
    let error = tokio::time::timeout(Duration::from_secs(2), sending).await.unwrap().unwrap().unwrap_err();
    assert!(error.outcome_unknown(), "{error}");
}

/// What a broker asks of its clients is declined, so that it need not wait; one-way notices are let pass.
#[tokio::test]
async fn requests_of_a_broker_are_declined() {
    let broker = Fake::start(|request| {
        if request.is_response() {
            return Reply::Silence;
        }
        // The opaque number is set to that of the request, which makes this a request of the broker's own.
        Reply::Answer(RemotingCommand::request(RequestCode::GET_CONSUMER_RUNNING_INFO, 0))
    })
    .await;
    let namesrv = namesrv(&Routes::new(&broker.addr, &[], true)).await;
    let client = client(&[&namesrv]);
    let producer = client.producer(ProducerConfig::new("PG")).unwrap();
    let sending = tokio::spawn(async move { producer.send(&Message::new("TopicTest", "m")).await });
    let declined = broker.until(2).await.remove(1);
    assert!(declined.is_response());
    assert_eq!(declined.code, ResponseCode::REQUEST_CODE_NOT_SUPPORTED);
    sending.abort();
}

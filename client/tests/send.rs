//! Sends against fake brokers: what goes over the wire, and what becomes of it when brokers change, die or say no.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use fake::{Fake, Reply, Routes, SOON, answer, client, config, dead_addr, namesrv, not_leader, stored, unique_key};
use ledgermq_client::{
    CallError, Cause, Client, Message, MessageError, ProducerConfig, RequestError, SendError, SendStatus,
};
use ledgermq_protocol::json::Body;
use ledgermq_protocol::message::batch::BatchElements;
use ledgermq_protocol::message::properties;
use ledgermq_protocol::remoting::headers::send::SendMessage;
use ledgermq_protocol::remoting::response_code::ResponseCode;
use ledgermq_protocol::route::{BrokerData, QueueData, TopicRouteData};

#[allow(dead_code, reason = "each test program uses its part of it")]
mod fake;

/// A broker that stores everything.
async fn storing() -> Fake {
    let offset = AtomicI64::new(0);
    Fake::start(move |request| {
        if request.is_oneway() {
            return Reply::Silence;
        }
        Reply::Answer(stored(request, offset.fetch_add(1, Ordering::Relaxed)))
    })
    .await
}

fn message(body: &str) -> Message {
    Message::new("TopicTest", body.to_owned())
}

fn producer(client: &Client) -> ledgermq_client::Producer {
    client.producer(ProducerConfig::new("PG")).unwrap()
}

fn gave_up(error: SendError) -> (Cause, u32, bool) {
    match error {
        SendError::Call(CallError::GaveUp { cause, attempts, outcome_unknown, .. }) => {
            (cause, attempts, outcome_unknown)
        }
        other => panic!("gave up in another way: {other}"),
    }
}

/// A broker reads single letters and a property string; a wrong one loses the message or its tag.
#[tokio::test]
async fn a_send_on_the_wire() {
    let broker = storing().await;
    let routes = Routes::new(&broker.addr, &[], false);
    let namesrv = namesrv(&routes).await;
    let client = client(&[&namesrv]);
    let message = message("m0").with_tag("TagA").with_key("k0").with_property("p", "1").with_flag(9);
    let receipt = producer(&client).send(&message).await.unwrap();
    assert_eq!((receipt.status, receipt.queue_offset, receipt.attempts), (SendStatus::Ok, 0, 1));
    assert_eq!((receipt.queue.broker_name.as_str(), receipt.queue.queue_id), ("broker-a", 0));
    assert_eq!(receipt.unique_key, message.unique_key());

    let request = &broker.requests()[0];
    assert_eq!(request.code, 310);
    assert_eq!(request.body, "m0");
    let header = SendMessage::from_ext(310, &request.ext).unwrap();
    assert_eq!((header.producer_group, header.topic, header.default_topic), ("PG", "TopicTest", "TBW102"));
    assert_eq!((header.flag, header.sys_flag, header.broker_name), (9, 0, Some("broker-a")));
    let properties = header.properties.unwrap();
    for (name, value) in [("TAGS", "TagA"), ("KEYS", "k0"), ("p", "1"), ("WAIT", "true")] {
        assert_eq!(properties::get(properties, name), Some(value));
    }
}

/// Bodies are compressed only on request, and marked then.
#[tokio::test]
async fn compression_is_opt_in() {
    let broker = storing().await;
    let namesrv = namesrv(&Routes::new(&broker.addr, &[], false)).await;
    let client = client(&[&namesrv]);
    let large = message(&"a".repeat(8_192));
    producer(&client).send(&large).await.unwrap();
    let packing = client.producer(ProducerConfig::new("PG").with_compress_from(4_096)).unwrap();
    packing.send(&large).await.unwrap();
    packing.send(&message("small")).await.unwrap();
    let sizes: Vec<(usize, String)> = broker
        .requests()
        .iter()
        .map(|request| (request.body.len(), request.ext.get("f").unwrap().to_owned()))
        .collect();
    assert_eq!(sizes[0], (8_192, "0".to_owned()));
    assert!(sizes[1].0 < 100 && sizes[1].1 == "769", "{sizes:?}");
    assert_eq!(sizes[2], (5, "0".to_owned()));
}

/// A batch is one request whose elements the broker can tell apart.
#[tokio::test]
async fn a_batch_on_the_wire() {
    let broker = storing().await;
    let namesrv = namesrv(&Routes::new(&broker.addr, &[], false)).await;
    let client = client(&[&namesrv]);
    let batch = [message("a").with_tag("x"), message("bb")];
    let receipt = producer(&client).send_batch(&batch).await.unwrap();
    assert_eq!(receipt.unique_key, batch[0].unique_key());
    let request = &broker.requests()[0];
    assert_eq!((request.code, request.ext.get("m")), (320, Some("true")));
    let elements: Vec<_> = BatchElements::new(&request.body).collect::<Result<_, _>>().unwrap();
    assert_eq!(elements.iter().map(|element| element.body).collect::<Vec<_>>(), [&b"a"[..], b"bb"]);
    assert_eq!(properties::get(elements[1].properties, "UNIQ_KEY"), Some(batch[1].unique_key()));

    let mixed = [message("a"), Message::new("Other", "b")];
    let refused = producer(&client).send_batch(&mixed).await.unwrap_err();
    assert!(matches!(refused, SendError::Message(MessageError::BatchTopics { .. })));
    let none = producer(&client).send_batch(&[]).await.unwrap_err();
    assert!(matches!(none, SendError::Message(MessageError::BatchSize { .. })) && !none.outcome_unknown());
}

/// A one-way send must say so on the wire, or the broker's answer is one that nobody waits for.
#[tokio::test]
async fn a_oneway_send_asks_for_no_answer() {
    let broker = storing().await;
    let namesrv = namesrv(&Routes::new(&broker.addr, &[], false)).await;
    let client = client(&[&namesrv]);
    producer(&client).send_oneway(&message("m")).await.unwrap();
    assert!(broker.until(1).await[0].is_oneway());
}

/// The broker that no longer leads names the leader: the next attempt goes there at once, and so do all later sends.
#[tokio::test]
async fn a_hint_is_followed_at_once() {
    let new = storing().await;
    let hint = new.addr.clone();
    let old = Fake::start(move |_| Reply::Answer(not_leader(Some((&hint, 2))))).await;
    // The name server never learns of the new leader.
    let namesrv = namesrv(&Routes::new(&old.addr, &[&new.addr], true)).await;
    let client = client(&[&namesrv]);
    let producer = producer(&client);
    let receipt = producer.send(&message("m")).await.unwrap();
    assert_eq!(receipt.attempts, 2);
    for _ in 0..3 {
        assert_eq!(producer.send(&message("m")).await.unwrap().attempts, 1);
    }
    assert_eq!((old.requests().len(), new.requests().len()), (1, 4));
    assert_eq!(unique_key(&old.requests()[0]), unique_key(&new.requests()[0]), "a retry is the same message");
}

/// Two brokers that each name the other must not be asked in a tight circle.
#[tokio::test]
async fn circular_hints_are_bounded() {
    let routes = Routes::new("unset:1", &[], true);
    let (a_listener, b_listener) = (
        tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap(),
        tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap(),
    );
    let (a_addr, b_addr) = (a_listener.local_addr().unwrap().to_string(), b_listener.local_addr().unwrap().to_string());
    let (to_a, to_b) = (a_addr.clone(), b_addr.clone());
    let a = Fake::on(a_listener, move |_| Reply::Answer(not_leader(Some((&to_b, 2)))));
    let b = Fake::on(b_listener, move |_| Reply::Answer(not_leader(Some((&to_a, 2)))));
    routes.elect(&a_addr, &[&b_addr]);
    let namesrv = namesrv(&routes).await;
    let client = Client::new(config(&[&namesrv]).with_deadline(Duration::from_secs(1))).unwrap();
    let error = producer(&client).send(&message("m")).await.unwrap_err();
    let (cause, attempts, outcome_unknown) = gave_up(error);
    assert!(matches!(cause, Cause::Refused { code: ResponseCode::SERVICE_NOT_AVAILABLE, .. }), "{cause}");
    assert!(!outcome_unknown, "a broker that does not lead stores nothing");
    assert!((6..40).contains(&attempts), "{attempts} attempts");
    assert_eq!(a.requests().len() + b.requests().len(), attempts as usize);
}

/// The leader dies with the answer half written. The other member is asked without delay, and the outcome of the whole is the
/// success of the second copy.
#[tokio::test]
async fn a_connection_cut_inside_an_answer() {
    let new = storing().await;
    let old = Fake::start(|request| Reply::CutInside(stored(request, 0))).await;
    let namesrv = namesrv(&Routes::new(&old.addr, &[&new.addr], true)).await;
    let client = client(&[&namesrv]);
    let started = Instant::now();
    let receipt = producer(&client).send(&message("m")).await.unwrap();
    assert_eq!(receipt.attempts, 2);
    assert!(started.elapsed() < Duration::from_millis(400), "{:?}", started.elapsed());
    assert_eq!(unique_key(&old.requests()[0]), unique_key(&new.requests()[0]));
}

/// Nobody answers: the error comes at the deadline and says that the message may be stored.
#[tokio::test]
async fn silence_ends_at_the_deadline_with_an_unknown_outcome() {
    let silent = Fake::start(|_| Reply::Silence).await;
    let namesrv = namesrv(&Routes::new(&silent.addr, &[], true)).await;
    let config = config(&[&namesrv]).with_attempt_timeout(Duration::from_millis(100));
    let client = Client::new(config.with_deadline(Duration::from_millis(600))).unwrap();
    let started = Instant::now();
    let (cause, attempts, outcome_unknown) = gave_up(producer(&client).send(&message("m")).await.unwrap_err());
    assert!(matches!(cause, Cause::Request(RequestError::TimedOut { .. } | RequestError::Lost { .. })), "{cause}");
    assert!(outcome_unknown);
    assert!(attempts >= 3, "{attempts} attempts");
    assert!(started.elapsed() >= Duration::from_millis(590) && started.elapsed() < Duration::from_secs(2));
}

/// Nobody listens: the error says that nothing was stored, since nothing was sent.
#[tokio::test]
async fn refused_connections_leave_no_doubt() {
    let namesrv = namesrv(&Routes::new(&dead_addr().await, &[&dead_addr().await], true)).await;
    let client = Client::new(config(&[&namesrv]).with_deadline(Duration::from_millis(300))).unwrap();
    let (cause, _, outcome_unknown) = gave_up(producer(&client).send(&message("m")).await.unwrap_err());
    assert!(matches!(cause, Cause::Request(RequestError::Connect { .. })), "{cause}");
    assert!(!outcome_unknown);
}

/// Retries end by count, and what the codes mean for the outcome is told: busy is certain, a system error is not.
#[tokio::test]
async fn retries_are_bounded_and_codes_mean_what_they_mean() {
    for (code, unknown) in [(ResponseCode::SYSTEM_BUSY, false), (ResponseCode::SYSTEM_ERROR, true)] {
        let broker = Fake::start(move |_| Reply::Answer(answer(code).with_remark("no"))).await;
        let namesrv = namesrv(&Routes::new(&broker.addr, &[], true)).await;
        let client = Client::new(config(&[&namesrv]).with_attempts_max(3)).unwrap();
        let (cause, attempts, outcome_unknown) = gave_up(producer(&client).send(&message("m")).await.unwrap_err());
        assert!(matches!(cause, Cause::Refused { code: got, .. } if got == code), "{cause}");
        assert_eq!((attempts, outcome_unknown, broker.requests().len()), (3, unknown, 3));
    }
}

/// A refusal that would come again must not be repeated.
#[tokio::test]
async fn final_refusals_are_not_retried() {
    for code in [ResponseCode::MESSAGE_ILLEGAL, ResponseCode::NO_PERMISSION, ResponseCode::INVALID_PARAMETER, 777] {
        let broker = Fake::start(move |_| Reply::Answer(answer(code).with_remark("because"))).await;
        let namesrv = namesrv(&Routes::new(&broker.addr, &[], true)).await;
        let error = producer(&client(&[&namesrv])).send(&message("m")).await.unwrap_err();
        assert!(!error.outcome_unknown());
        assert!(error.to_string().contains("because"), "{error}");
        assert!(matches!(error, SendError::Call(CallError::Refused { code: got, .. }) if got == code));
        assert_eq!(broker.requests().len(), 1);
    }
}

/// An attempt with an unknown outcome makes a later certain refusal uncertain as well.
#[tokio::test]
async fn doubt_stays_through_later_refusals() {
    let calls = AtomicUsize::new(0);
    let broker = Fake::start(move |_| match calls.fetch_add(1, Ordering::Relaxed) {
        0 => Reply::Cut,
        _ => Reply::Answer(answer(ResponseCode::MESSAGE_ILLEGAL)),
    })
    .await;
    let namesrv = namesrv(&Routes::new(&broker.addr, &[], true)).await;
    let error = producer(&client(&[&namesrv])).send(&message("m")).await.unwrap_err();
    assert!(error.outcome_unknown(), "{error}");
}

/// A success without queue and offset cannot be used, but the message is stored.
#[tokio::test]
async fn an_unreadable_success_is_an_unknown_outcome() {
    let broker = Fake::start(|_| Reply::Answer(answer(ResponseCode::SUCCESS))).await;
    let namesrv = namesrv(&Routes::new(&broker.addr, &[], true)).await;
    let error = producer(&client(&[&namesrv])).send(&message("m")).await.unwrap_err();
    assert!(matches!(error, SendError::Call(CallError::Malformed { .. })) && error.outcome_unknown());
}

/// A leader that hangs (stopped, packets dropped) while the route already names another: its answer is not waited for until the
/// attempt's time is over.
#[tokio::test]
async fn the_watch_ends_the_wait_for_a_hung_leader() {
    let hung = Fake::start(|_| Reply::Silence).await;
    let new = storing().await;
    let routes = Routes::new(&hung.addr, &[&new.addr], true);
    let namesrv = namesrv(&routes).await;
    let config = config(&[&namesrv]).with_attempt_timeout(Duration::from_secs(15));
    let client = Client::new(config.with_deadline(Duration::from_secs(20))).unwrap();
    let sending = tokio::spawn({
        let producer = producer(&client);
        async move { producer.send(&message("m")).await }
    });
    hung.until(1).await;
    let started = Instant::now();
    routes.elect(&new.addr, &[&hung.addr]);
    let receipt = tokio::time::timeout(SOON, sending).await.unwrap().unwrap().unwrap();
    assert_eq!(receipt.attempts, 2);
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
}

/// A name server without the watch: the poll alone must find the new leader.
#[tokio::test]
async fn without_a_watch_the_poll_finds_the_leader() {
    let old = Fake::start(|_| Reply::Answer(not_leader(None))).await;
    let new = storing().await;
    let routes = Routes::new(&old.addr, &[], false);
    let namesrv = namesrv(&routes).await;
    let client = client(&[&namesrv]);
    let sending = tokio::spawn({
        let producer = producer(&client);
        async move { producer.send(&message("m")).await }
    });
    old.until(2).await;
    routes.elect(&new.addr, &[]);
    sending.await.unwrap().unwrap();
}

/// One name server of two is down, or lags behind: the other one's knowledge counts.
#[tokio::test]
async fn any_name_server_suffices() {
    let old = Fake::start(|_| Reply::Answer(not_leader(None))).await;
    let new = storing().await;
    let lagging = Routes::new(&old.addr, &[], true);
    let current = Routes::new(&old.addr, &[], true);
    current.elect(&new.addr, &[]);
    let (lagging, current) = (namesrv(&lagging).await, namesrv(&current).await);
    let mut config = config(&[&lagging, &current]);
    config.namesrvs.insert(0, dead_addr().await);
    let client = Client::new(config).unwrap();
    let producer = producer(&client);
    producer.send(&message("m")).await.unwrap();
    let wrong = old.requests().len();
    lagging.until(lagging.requests().len() + 2).await;
    for _ in 0..5 {
        producer.send(&message("m")).await.unwrap();
    }
    assert_eq!(old.requests().len(), wrong, "terms keep the client from going back");
}

/// Messages of one key: the next one must not leave before the one before it is acknowledged, through a change of leader too.
#[tokio::test]
async fn ordered_sends_go_one_after_the_other() {
    let unacknowledged = Arc::new(AtomicUsize::new(0));
    let new = {
        let unacknowledged = Arc::clone(&unacknowledged);
        Fake::start(move |request| {
            assert_eq!(unacknowledged.fetch_add(1, Ordering::SeqCst), 0, "two sends of one queue are under way");
            let (later, reply) = tokio::sync::oneshot::channel();
            let (request, unacknowledged) = (request.clone(), Arc::clone(&unacknowledged));
            tokio::spawn(async move {
                tokio::task::yield_now().await;
                unacknowledged.fetch_sub(1, Ordering::SeqCst);
                later.send(stored(&request, 0)).unwrap();
            });
            Reply::Later(reply)
        })
        .await
    };
    let calls = AtomicUsize::new(0);
    let hint = new.addr.clone();
    let old = Fake::start(move |request| match calls.fetch_add(1, Ordering::Relaxed) {
        0..10 => Reply::Answer(stored(request, 0)),
        _ => Reply::Answer(not_leader(Some((&hint, 2)))),
    })
    .await;
    let routes = Routes::new(&old.addr, &[&new.addr], true);
    let namesrv = namesrv(&routes).await;
    let client = client(&[&namesrv]);
    let producer = producer(&client);
    let mut sending = tokio::task::JoinSet::new();
    for n in 0..50 {
        let producer = producer.clone();
        sending.spawn(async move { producer.send_ordered(&message(&n.to_string()), "key").await.unwrap() });
        // Each call is made before the next: the order of the calls is the order of the queue.
        tokio::task::yield_now().await;
    }
    sending.join_all().await;
    let mut bodies: Vec<String> = Vec::new();
    for request in old.requests().iter().take(10).chain(&new.requests()) {
        bodies.push(String::from_utf8(request.body.to_vec()).unwrap());
    }
    assert_eq!(bodies, (0..50).map(|n| n.to_string()).collect::<Vec<_>>());
    let header = SendMessage::from_ext(310, &new.requests()[0].ext).unwrap().properties.unwrap().to_owned();
    assert_eq!(properties::get(&header, "__SHARDINGKEY"), Some("key"));
}

/// A key goes where stock clients send it: to the queue of its Java hash.
#[tokio::test]
async fn keys_go_to_the_queue_of_their_hash() {
    let broker = storing().await;
    let routes = Routes::new(&broker.addr, &[], true);
    routes.set_queue_nums(4);
    let namesrv = namesrv(&routes).await;
    let client = client(&[&namesrv]);
    let producer = producer(&client);
    // "TagA".hashCode() = 2598919, 2598919 % 4 = 3; "polygenelubricants" has the hash that has no absolute value.
    assert_eq!(producer.send_ordered(&message("m"), "TagA").await.unwrap().queue.queue_id, 3);
    assert_eq!(producer.send_ordered(&message("m"), "polygenelubricants").await.unwrap().queue.queue_id, 0);
    let last = producer.send_select(&message("m"), |queues| queues.last()).await.unwrap();
    assert_eq!(last.queue.queue_id, 3);
    let none = producer.send_select(&message("m"), |_| None).await.unwrap_err();
    assert!(matches!(none, SendError::Message(MessageError::NoQueueChosen(_))));
    let taken: std::collections::BTreeSet<i32> = {
        let mut taken = std::collections::BTreeSet::new();
        for _ in 0..4 {
            taken.insert(producer.send(&message("m")).await.unwrap().queue.queue_id);
        }
        taken
    };
    assert_eq!(taken.len(), 4, "unpinned sends take turns");
}

/// An unknown topic goes to the brokers of TBW102, if the producer may; else the error names the topic at once.
#[tokio::test]
async fn unknown_topics() {
    let broker = storing().await;
    let routes = Routes::new(&broker.addr, &[], true);
    let namesrv = namesrv(&routes).await;
    let client = client(&[&namesrv]);
    let new = Message::new("NewTopic", "m");
    let error = producer(&client).send(&new).await.unwrap_err();
    assert!(error.to_string().contains("topic NewTopic does not exist"), "{error}");
    routes.add_topic("TBW102");
    let strict = client.producer(ProducerConfig::new("PG").with_auto_create_topics(false)).unwrap();
    assert!(strict.send(&new).await.is_err());
    producer(&client).send(&new).await.unwrap();
    let request = &broker.requests()[0];
    assert_eq!(
        (request.ext.get("b"), request.ext.get("c"), request.ext.get("d")),
        (Some("NewTopic"), Some("TBW102"), Some("4"))
    );
}

/// A name server that has just started answers "not ready": that is waited for, not passed on.
#[tokio::test]
async fn a_name_server_that_is_not_ready_is_waited_for() {
    let broker = storing().await;
    let routes = Routes::new(&broker.addr, &[], false);
    let calls = AtomicUsize::new(0);
    let namesrv = Fake::start(move |request| match calls.fetch_add(1, Ordering::Relaxed) {
        0..4 => Reply::Answer(answer(ResponseCode::SYSTEM_ERROR).with_remark("not ready")),
        _ => routes.reply(request),
    })
    .await;
    producer(&client(&[&namesrv])).send(&message("m")).await.unwrap();
}

/// While all name servers are down, the last route serves.
#[tokio::test]
async fn sends_go_on_without_name_servers() {
    let broker = storing().await;
    let namesrv = namesrv(&Routes::new(&broker.addr, &[], true)).await;
    let client = Client::new(config(&[&namesrv]).with_deadline(Duration::from_secs(1))).unwrap();
    let producer = producer(&client);
    producer.send(&message("m")).await.unwrap();
    drop(namesrv);
    // Over several polls that fail.
    let started = Instant::now();
    while started.elapsed() < Duration::from_millis(350) {
        producer.send(&message("m")).await.unwrap();
    }
    let error = producer.send(&Message::new("Other", "m")).await.unwrap_err();
    assert!(error.to_string().contains("name server"), "{error}");
}

/// With two groups, a send that fails at one goes to the other: a dead leader then costs one attempt, not an election.
#[tokio::test]
async fn another_broker_name_takes_over() {
    let up = storing().await;
    let dead = dead_addr().await;
    let namesrv = {
        let (up, dead) = (up.addr.clone(), dead.clone());
        Fake::start(move |_| {
            let names = [("broker-a", &dead), ("broker-b", &up)];
            let route = TopicRouteData {
                broker_datas: names
                    .iter()
                    .map(|(name, addr)| BrokerData {
                        broker_name: (*name).to_owned(),
                        broker_addrs: [(0, (*addr).clone())].into(),
                        ..BrokerData::default()
                    })
                    .collect(),
                queue_datas: names
                    .iter()
                    .map(|(name, _)| QueueData {
                        broker_name: (*name).to_owned(),
                        perm: 6,
                        read_queue_nums: 4,
                        write_queue_nums: 4,
                        topic_sys_flag: 0,
                    })
                    .collect(),
                ..TopicRouteData::default()
            };
            Reply::Answer(answer(ResponseCode::SUCCESS).with_body(route.to_json()))
        })
        .await
    };
    let client = Client::new(config(&[&namesrv]).with_route_watch(false)).unwrap();
    let producer = producer(&client);
    for _ in 0..8 {
        let receipt = producer.send(&message("m")).await.unwrap();
        assert_eq!(receipt.queue.broker_name, "broker-b");
        assert!(receipt.attempts <= 2, "{} attempts", receipt.attempts);
    }
}

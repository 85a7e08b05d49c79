//! Push consumers against fake brokers: sharing of queues, offsets, redeliveries, ends.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use fake::group::Broker;
use fake::{Fake, Routes, SOON, config, namesrv};
use ledgermq_client::{Client, ConfigError, ConsumeMode, Delivery, PushConsumer, PushConsumerConfig, StartAt, Verdict};
use tokio::sync::{Semaphore, watch};

#[allow(dead_code, reason = "each test program uses its part of it")]
mod fake;

const COMMIT_INTERVAL: Duration = Duration::from_millis(20);

/// Longer than any test: what happens, happens without the timer.
const NEVER: Duration = Duration::from_secs(3600);

/// A message that a listener was given.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    member: &'static str,
    queue_id: i32,
    offset: i64,
    attempt: u32,
}

/// What the listeners of a test were given, in order.
#[derive(Clone)]
struct Log(watch::Sender<Vec<Seen>>);

impl Log {
    fn new() -> Self {
        Self(watch::Sender::new(Vec::new()))
    }

    fn note(&self, member: &'static str, delivery: &Delivery) {
        let (queue_id, offset) = (delivery.message_queue().queue_id, delivery.queue_offset());
        let seen = Seen { member, queue_id, offset, attempt: delivery.attempt() };
        self.0.send_modify(|log| log.push(seen));
    }

    async fn until(&self, wanted: impl Fn(&[Seen]) -> bool) -> Vec<Seen> {
        let mut log = self.0.subscribe();
        let waited = tokio::time::timeout(SOON, log.wait_for(|log| wanted(log))).await;
        match waited {
            Ok(log) => log.unwrap().clone(),
            Err(_) => panic!("not seen: {:?}", self.0.borrow()),
        }
    }

    /// Waits until every message of `queues` with `each` messages was seen.
    async fn all(&self, queues: i32, each: i64) -> Vec<Seen> {
        self.until(|log| distinct(log).len() as i64 == i64::from(queues) * each).await
    }
}

fn distinct(log: &[Seen]) -> BTreeSet<(i32, i64)> {
    log.iter().map(|seen| (seen.queue_id, seen.offset)).collect()
}

fn push_config() -> PushConsumerConfig {
    let config = PushConsumerConfig::new("CG").with_subscription("TopicTest", "*");
    PushConsumerConfig { rebalance_interval: NEVER, pull_wait: Duration::from_secs(1), ..config }
        .with_start_at(StartAt::Begin)
        .with_commit_interval(COMMIT_INTERVAL)
        .with_retry_delays(Duration::from_millis(20), Duration::from_millis(100))
}

/// A broker with `queues` queues of `each` messages, a name server that leads to it.
async fn with_queues(queues: i32, each: i64) -> (Broker, Fake, Routes, Fake) {
    let broker = Broker::new();
    for queue_id in 0..queues {
        (0..each).for_each(|_| broker.append(queue_id, "A"));
    }
    let fake = broker.serve().await;
    let routes = Routes::new(&fake.addr, &[], true);
    routes.set_queue_nums(queues);
    let namesrv = namesrv(&routes).await;
    (broker, fake, routes, namesrv)
}

fn member(namesrv: &Fake, id: &str) -> Client {
    Client::new(config(&[namesrv]).with_client_id(id)).unwrap()
}

/// A listener that notes what it is given, and goes on as `then` says.
fn noting<F, Fut>(log: &Log, id: &'static str, then: F) -> impl Fn(Delivery) -> Pending + Send + Sync + 'static
where
    F: Fn(Delivery) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Verdict> + Send + 'static,
{
    let log = log.clone();
    move |delivery: Delivery| {
        log.note(id, &delivery);
        Box::pin(then(delivery)) as Pending
    }
}

type Pending = Pin<Box<dyn Future<Output = Verdict> + Send>>;

/// A member that consumes everything and notes it.
fn consume(client: &Client, config: PushConsumerConfig, id: &'static str, log: &Log) -> PushConsumer {
    client.push_consumer(config, noting(log, id, |_| async { Verdict::Consumed })).unwrap()
}

async fn assigned(consumer: &PushConsumer, queues: &[i32]) {
    let mut assignment = consumer.assignment();
    let is_it = |held: &Vec<ledgermq_client::MessageQueue>| held.iter().map(|queue| queue.queue_id).eq(queues.to_vec());
    let in_time = tokio::time::timeout(SOON, assignment.wait_for(is_it)).await.is_ok();
    assert!(in_time, "{queues:?} expected, {:?} assigned", assignment.borrow());
}

/// A commit must never pass a message that is not done, and must come to all that are.
#[tokio::test]
async fn the_lowest_unfinished_offset_is_committed() {
    let (broker, _fake, _routes, namesrv) = with_queues(1, 5).await;
    let client = member(&namesrv, "a");
    let (log, gate) = (Log::new(), Arc::new(Semaphore::new(0)));
    let held = Arc::clone(&gate);
    let listener = noting(&log, "a", move |delivery| {
        let held = Arc::clone(&held);
        async move {
            if delivery.queue_offset() == 2 {
                held.acquire().await.unwrap().forget();
            }
            Verdict::Consumed
        }
    });
    let consumer = client.push_consumer(push_config(), listener).unwrap();
    log.all(1, 5).await;
    let commits = broker.commits(|commits| commits.contains(&(0, 2))).await;
    assert!(commits.iter().all(|(_, offset)| *offset <= 2), "{commits:?}");
    gate.add_permits(1);
    let commits = broker.commits(|commits| commits.contains(&(0, 5))).await;
    assert!(commits.is_sorted(), "{commits:?}");
    consumer.shutdown(SOON).await;
}

/// A message for later, or one that its listener panicked at, must come again, and not hold up the others.
#[tokio::test]
async fn messages_come_again() {
    let (broker, _fake, _routes, namesrv) = with_queues(1, 4).await;
    let client = member(&namesrv, "a");
    let log = Log::new();
    let listener = noting(&log, "a", |delivery| async move {
        match (delivery.queue_offset(), delivery.attempt()) {
            (0, 1..=3) => Verdict::Later,
            (1, 1) => panic!("as it happens"),
            _ => Verdict::Consumed,
        }
    });
    let consumer = client.push_consumer(push_config().with_concurrency_per_queue(1), listener).unwrap();
    let seen = log.until(|log| log.iter().any(|seen| (seen.offset, seen.attempt) == (0, 4))).await;
    let first: Vec<i64> = seen.iter().filter(|seen| seen.attempt == 1).map(|seen| seen.offset).collect();
    assert_eq!(first, [0, 1, 2, 3], "one at a time, in order apart from those that come again");
    assert!(seen.iter().any(|seen| (seen.offset, seen.attempt) == (1, 2)));
    let commits = broker.commits(|commits| commits.contains(&(0, 4))).await;
    assert!(commits.iter().all(|(_, offset)| [0, 1, 4].contains(offset)), "{commits:?}");
    consumer.shutdown(SOON).await;
}

/// Members share queues by RocketMQ's rule, at once when one comes, and a member that leaves in peace costs no message and no
/// second delivery.
#[tokio::test]
async fn members_share_and_take_over() {
    let (broker, _fake, _routes, namesrv) = with_queues(4, 0).await;
    let (a, b) = (member(&namesrv, "a"), member(&namesrv, "b"));
    let log = Log::new();
    let first = consume(&a, push_config(), "a", &log);
    assigned(&first, &[0, 1, 2, 3]).await;
    let second = consume(&b, push_config(), "b", &log);
    assigned(&first, &[0, 1]).await;
    assigned(&second, &[2, 3]).await;
    (0..25).for_each(|n| broker.append(n % 4, "A"));
    log.until(|log| log.len() == 25).await;
    first.shutdown(SOON).await;
    assigned(&second, &[0, 1, 2, 3]).await;
    (25..100).for_each(|n| broker.append(n % 4, "A"));
    let seen = log.until(|log| log.len() >= 100).await;
    second.shutdown(SOON).await;
    assert_eq!((seen.len(), distinct(&seen).len()), (100, 100), "each message once");
    let by_member =
        |id| seen.iter().filter(|seen| seen.member == id).map(|seen| seen.queue_id).collect::<BTreeSet<_>>();
    assert_eq!(by_member("a"), BTreeSet::from([0, 1]));
    assert_eq!(by_member("b"), BTreeSet::from([0, 1, 2, 3]));
}

/// A member that is killed must be replaced at once, from its last commit on.
#[tokio::test]
async fn a_killed_member_is_replaced() {
    let (broker, _fake, _routes, namesrv) = with_queues(4, 0).await;
    let log = Log::new();
    let other = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let victim = {
        let (a, log) = (member(&namesrv, "a"), log.clone());
        other.spawn(async move { (consume(&a, push_config(), "a", &log), a) }).await.unwrap()
    };
    let b = member(&namesrv, "b");
    let survivor = consume(&b, push_config(), "b", &log);
    assigned(&victim.0, &[0, 1]).await;
    assigned(&survivor, &[2, 3]).await;
    (0..200).for_each(|n| broker.append(n % 4, "A"));
    log.until(|log| log.iter().any(|seen| seen.member == "a")).await;
    other.shutdown_background();
    (200..400).for_each(|n| broker.append(n % 4, "A"));
    assigned(&survivor, &[0, 1, 2, 3]).await;
    log.all(4, 100).await;
    broker.commits(|commits| (0..4).all(|queue_id| commits.contains(&(queue_id, 100)))).await;
    survivor.shutdown(SOON).await;
}

/// The end in peace: nothing is begun any more, what is at work is waited for and committed, the group is left, no task remains.
#[tokio::test]
async fn a_shutdown_waits_commits_and_leaves() {
    let (broker, fake, _routes, namesrv) = with_queues(1, 10).await;
    let before = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    // A watch would stay parked at the fake name server.
    let client = Client::new(config(&[&namesrv]).with_route_watch(false)).unwrap();
    let (log, gate) = (Log::new(), Arc::new(Semaphore::new(0)));
    let held = Arc::clone(&gate);
    let listener = noting(&log, "a", move |_| {
        let held = Arc::clone(&held);
        async move {
            held.acquire().await.unwrap().forget();
            Verdict::Consumed
        }
    });
    // Only at the end, so that the last commit is seen alone.
    let config = push_config().with_concurrency_per_queue(3).with_commit_interval(NEVER);
    let consumer = client.push_consumer(config, listener).unwrap();
    log.until(|log| log.len() == 3).await;
    let ending = tokio::spawn({
        let consumer = consumer.clone();
        async move { consumer.shutdown(SOON).await }
    });
    assigned(&consumer, &[]).await;
    gate.add_permits(2);
    // The two that were let go have no successor: the third one is still waited for.
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!ending.is_finished());
    gate.add_permits(1);
    ending.await.unwrap();
    assert_eq!(log.0.borrow().len(), 3);
    assert_eq!(broker.commits(|_| true).await.last(), Some(&(0, 3)));
    assert!(consumer.assignment().borrow().is_empty());
    let told = fake.membership(|told| told.iter().any(|request| request.code == 35)).await;
    assert_eq!(told.last().unwrap().ext.get("consumerGroup"), Some("CG"));

    client.shutdown(SOON).await;
    // Tasks that were ended are gone once the runtime has looked at them.
    let metrics = tokio::runtime::Handle::current().metrics();
    tokio::time::timeout(SOON, async {
        while metrics.num_alive_tasks() > before {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap_or_else(|_| panic!("{} tasks are left, {before} were there", metrics.num_alive_tasks()));
}

/// A listener that does not end must not hold up the end for longer than the grace; its message is not committed.
#[tokio::test]
async fn a_shutdown_ends_with_its_grace() {
    let (broker, _fake, _routes, namesrv) = with_queues(1, 2).await;
    let client = member(&namesrv, "a");
    let log = Log::new();
    let listener = noting(&log, "a", |delivery| async move {
        if delivery.queue_offset() == 1 {
            std::future::pending::<()>().await;
        }
        Verdict::Consumed
    });
    let consumer = client.push_consumer(push_config(), listener).unwrap();
    log.all(1, 2).await;
    tokio::time::timeout(SOON / 2, client.shutdown(Duration::from_secs(1))).await.unwrap();
    assert_eq!(broker.commits(|_| true).await.last(), Some(&(0, 1)));
    // It has ended with its client.
    tokio::time::timeout(SOON, consumer.shutdown(SOON)).await.unwrap();
}

/// A slow listener must not fill the memory: pulling waits at the bound, and goes on below it.
#[tokio::test]
async fn the_buffer_of_a_queue_is_bounded() {
    let (broker, _fake, _routes, namesrv) = with_queues(1, 200).await;
    let client = member(&namesrv, "a");
    let (log, gate) = (Log::new(), Arc::new(Semaphore::new(0)));
    let listener = {
        let (log, gate) = (log.clone(), Arc::clone(&gate));
        move |delivery: Delivery| {
            let (log, gate) = (log.clone(), Arc::clone(&gate));
            async move {
                gate.acquire().await.unwrap().forget();
                log.note("a", &delivery);
                Verdict::Consumed
            }
        }
    };
    let config = PushConsumerConfig { buffer_messages_max: 40, ..push_config() };
    let consumer = client.push_consumer(config, listener).unwrap();
    broker.sent(40).await;
    // Nothing more may come, which only time can show.
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(broker.sent(40).await, 40);
    gate.add_permits(10);
    assert_eq!(broker.sent(50).await, 50);
    gate.add_permits(200);
    log.all(1, 200).await;
    consumer.shutdown(SOON).await;
}

/// Members of a broadcasting group must all get all, and leave no offset at the broker.
#[tokio::test]
async fn broadcasting_reaches_every_member() {
    let (broker, _fake, _routes, namesrv) = with_queues(3, 20).await;
    let (a, b) = (member(&namesrv, "a"), member(&namesrv, "b"));
    let log = Log::new();
    let config = || push_config().with_mode(ConsumeMode::Broadcasting);
    let consumers = [consume(&a, config(), "a", &log), consume(&b, config(), "b", &log)];
    let seen = log.until(|log| log.len() >= 120).await;
    for id in ["a", "b"] {
        let own: Vec<Seen> = seen.iter().filter(|seen| seen.member == id).cloned().collect();
        assert_eq!((own.len(), distinct(&own).len()), (60, 60));
    }
    assert!(broker.commits(|_| true).await.is_empty());
    for consumer in consumers {
        consumer.shutdown(SOON).await;
    }
}

/// A leader that is killed must not stop the group: members follow to the new one, which knows them already.
#[tokio::test]
async fn members_follow_the_leader() {
    let broker = Broker::new();
    let (old, new) = (broker.serve().await, broker.serve().await);
    let routes = Routes::new(&old.addr, &[&new.addr], true);
    routes.set_queue_nums(2);
    let namesrv = namesrv(&routes).await;
    let (a, b) = (member(&namesrv, "a"), member(&namesrv, "b"));
    let log = Log::new();
    let (first, second) = (consume(&a, push_config(), "a", &log), consume(&b, push_config(), "b", &log));
    assigned(&first, &[0]).await;
    assigned(&second, &[1]).await;
    (0..20).for_each(|n| broker.append(n % 2, "A"));
    log.all(2, 10).await;
    let beat = |told: &[ledgermq_protocol::remoting::command::RemotingCommand]| told.len() >= 2;
    new.membership(beat).await;
    drop(old);
    routes.elect(&new.addr, &[]);
    (0..20).for_each(|n| broker.append(n % 2, "A"));
    log.all(2, 20).await;
    broker.commits(|commits| commits.contains(&(0, 20)) && commits.contains(&(1, 20))).await;
    first.shutdown(SOON).await;
    assigned(&second, &[0, 1]).await;
    second.shutdown(SOON).await;
}

/// Queues that a topic gets later must be consumed without a restart, and at once.
#[tokio::test]
async fn new_queues_are_taken() {
    let (broker, fake, routes, namesrv) = with_queues(1, 3).await;
    let client = member(&namesrv, "a");
    let log = Log::new();
    let consumer = consume(&client, push_config(), "a", &log);
    log.all(1, 3).await;
    for queue_id in 1..3 {
        (0..3).for_each(|_| broker.append(queue_id, "A"));
    }
    routes.set_queue_nums(3);
    routes.elect(&fake.addr, &[]);
    log.all(3, 3).await;
    consumer.shutdown(SOON).await;
}

/// Where a group begins: at its offset, else where it says, and a place that was chosen is kept before the first message.
#[tokio::test]
async fn the_start() {
    let cases = [
        (None, StartAt::End, vec![10]),
        (None, StartAt::Begin, (0..=10).collect()),
        (Some(7), StartAt::End, vec![7, 8, 9, 10]),
    ];
    for (offset, start_at, expected) in cases {
        let (broker, _fake, _routes, namesrv) = with_queues(1, 10).await;
        if let Some(offset) = offset {
            broker.set_offset("CG", 0, offset);
        }
        let client = member(&namesrv, "a");
        let log = Log::new();
        let config = push_config().with_start_at(start_at).with_concurrency_per_queue(1);
        let consumer = consume(&client, config, "a", &log);
        broker.commits(|commits| !commits.is_empty()).await;
        broker.append(0, "A");
        let seen = log.until(|log| log.iter().any(|seen| seen.offset == 10)).await;
        assert_eq!(seen.iter().map(|seen| seen.offset).collect::<Vec<_>>(), expected, "{start_at:?}");
        consumer.shutdown(SOON).await;
    }
}

/// A queue whose messages were deleted meanwhile must go on where the broker says, not stand still.
#[tokio::test]
async fn a_place_that_is_gone_is_jumped_over() {
    let (broker, _fake, _routes, namesrv) = with_queues(1, 10).await;
    broker.set_offset("CG", 0, 2);
    broker.truncate(6);
    let client = member(&namesrv, "a");
    let log = Log::new();
    let consumer = consume(&client, push_config().with_concurrency_per_queue(1), "a", &log);
    let seen = log.until(|log| log.iter().any(|seen| seen.offset == 9)).await;
    assert_eq!(seen.iter().map(|seen| seen.offset).collect::<Vec<_>>(), [6, 7, 8, 9]);
    broker.commits(|commits| commits.contains(&(0, 10))).await;
    consumer.shutdown(SOON).await;
}

/// Only wanted tags must reach the listener, and the others must not hold back the offset.
#[tokio::test]
async fn tags_are_filtered() {
    let (broker, _fake, _routes, namesrv) = with_queues(1, 0).await;
    ["A", "B", "C", "A", "B"].into_iter().for_each(|tag| broker.append(0, tag));
    let client = member(&namesrv, "a");
    let log = Log::new();
    let config =
        PushConsumerConfig { subscriptions: Vec::new(), ..push_config() }.with_subscription("TopicTest", "A||C");
    let consumer = consume(&client, config, "a", &log);
    broker.commits(|commits| commits.contains(&(0, 5))).await;
    assert_eq!(distinct(&log.0.borrow()), BTreeSet::from([(0, 0), (0, 2), (0, 3)]));
    consumer.shutdown(SOON).await;
}

/// Where order counts, what is to come again comes before what is behind it, and a queue that another member has locked is left
/// alone until it is free.
#[tokio::test]
async fn ordered_queues_are_locked_and_repeat_before_they_go_on() {
    let (broker, _fake, _routes, namesrv) = with_queues(2, 4).await;
    broker.lock(1, Some("somebody"));
    let client = member(&namesrv, "a");
    let log = Log::new();
    let listener = noting(&log, "a", |delivery| async move {
        if (delivery.queue_offset(), delivery.attempt()) == (1, 1) { Verdict::Later } else { Verdict::Consumed }
    });
    let consumer = client.push_consumer(push_config().with_ordered(true), listener).unwrap();
    assigned(&consumer, &[0, 1]).await;
    let seen = log.all(1, 4).await;
    let order: Vec<(i64, u32)> = seen.iter().map(|seen| (seen.offset, seen.attempt)).collect();
    assert_eq!(order, [(0, 1), (1, 1), (1, 2), (2, 1), (3, 1)]);
    assert_eq!(broker.locks()[&1], "somebody");
    broker.lock(1, None);
    log.all(2, 4).await;
    assert!(broker.locks().values().all(|holder| holder == "a"));
    broker.commits(|commits| commits.contains(&(1, 4))).await;
    consumer.shutdown(SOON).await;
    assert!(broker.locks().is_empty(), "locks are given back");
}

/// Two consumers of one client in one group would be one member with two minds.
#[tokio::test]
async fn a_client_is_in_a_group_once() {
    let (_broker, _fake, _routes, namesrv) = with_queues(1, 1).await;
    let client = member(&namesrv, "a");
    let log = Log::new();
    let consumer = consume(&client, push_config(), "a", &log);
    let again = client.push_consumer(push_config(), |_| async { Verdict::Consumed });
    assert!(matches!(again, Err(ConfigError::GroupInUse(group)) if group == "CG"));
    log.all(1, 1).await;
    consumer.shutdown(SOON).await;
    // What was left can be joined again.
    consume(&client, push_config(), "a", &log).shutdown(SOON).await;
}

/// Without a runtime nothing could run: it must be said, not panicked.
#[test]
fn no_runtime_is_told() {
    let client = Client::new(ledgermq_client::ClientConfig::default()).unwrap();
    let made = client.push_consumer(push_config(), |_| async { Verdict::Consumed });
    assert_eq!(made.unwrap_err(), ConfigError::NoRuntime);
}

/// A consumer that is dropped must end as well, and leave.
#[tokio::test]
async fn a_dropped_consumer_leaves() {
    let (_broker, fake, _routes, namesrv) = with_queues(2, 1).await;
    let client = member(&namesrv, "a");
    let log = Log::new();
    let consumer = consume(&client, push_config(), "a", &log);
    log.all(2, 1).await;
    drop(consumer);
    fake.membership(|told| told.iter().any(|request| request.code == 35)).await;
}

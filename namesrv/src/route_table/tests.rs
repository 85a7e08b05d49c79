use std::time::Duration;

use ledgermq_protocol::json::Body;
use ledgermq_protocol::route::TopicRouteData;
use proptest::prelude::*;

use super::*;

const EXPIRY_MS: u64 = 10_000;

fn table() -> RouteTable {
    RouteTable::new(TableLimits { members_max: 16, topics_max: 16 })
}

fn queues(n: i32) -> Queues {
    Queues { read: n, write: n, perm: 6, topic_sys_flag: 0 }
}

fn registration(addr: &str, broker_id: i64, term: u64) -> Registration {
    Registration {
        speaker: Speaker {
            broker_name: "broker-a".to_owned(),
            addr: addr.to_owned(),
            broker_id,
            epoch: Epoch { group: Some(Uuid::from_u128(1)), term },
            connection: u64::from(addr.as_bytes()[0]),
            timeout_ms: EXPIRY_MS,
        },
        cluster: "C".to_owned(),
        data_version: DataVersion::default(),
        topics: vec![("TopicTest".to_owned(), queues(4))],
        partial: false,
    }
}

fn key(addr: &str) -> MemberKey {
    MemberKey { broker_name: "broker-a".to_owned(), addr: addr.to_owned() }
}

/// The members in the topic's route, by id.
fn shown(table: &RouteTable) -> Vec<(i64, String)> {
    table.assert_consistent();
    let Some(route) = table.route("TopicTest") else { return Vec::new() };
    let route = TopicRouteData::from_json(&route.body).unwrap();
    route.broker_datas[0].broker_addrs.clone().into_iter().collect()
}

fn ids(members: &[(i64, &str)]) -> Vec<(i64, String)> {
    members.iter().map(|(id, addr)| (*id, (*addr).to_owned())).collect()
}

/// The main case: the leader dies, its address stays until the successor is there, and it comes back as a follower.
#[test]
fn a_failover_as_clients_see_it() {
    let mut table = table();
    table.register(registration("a:1", 0, 1), 0).unwrap();
    table.register(registration("b:1", 2, 1), 0).unwrap();
    assert_eq!(table.register(registration("c:1", 3, 1), 0), Ok(Some("a:1".to_owned())));
    let before = table.route("TopicTest").unwrap();
    assert_eq!((before.terms.as_str(), before.suspects.as_str()), ("broker-a:1", ""));

    assert_eq!(table.lose_connection(u64::from(b'a')), [key("a:1")]);
    assert_eq!(shown(&table), ids(&[(0, "a:1"), (2, "b:1"), (3, "c:1")]), "stock clients keep the queues");
    let suspected = table.route("TopicTest").unwrap();
    assert_eq!(suspected.suspects, "broker-a");
    assert_eq!(suspected.body, before.body);
    assert_ne!(suspected.version, before.version);

    table.register(registration("b:1", 0, 2), 500).unwrap();
    assert_eq!(shown(&table), ids(&[(0, "b:1"), (3, "c:1")]));
    table.register(registration("a:1", 1, 2), 900).unwrap();
    assert_eq!(shown(&table), ids(&[(0, "b:1"), (1, "a:1"), (3, "c:1")]));
    assert_eq!(table.route("TopicTest").unwrap().terms, "broker-a:2");
}

/// A deposed leader that has not noticed must not get in, neither by registering nor by prolonging its old entry.
#[test]
fn a_deposed_leader_stays_out() {
    let mut table = table();
    table.register(registration("a:1", 0, 1), 0).unwrap();
    table.register(registration("b:1", 0, 2), 10).unwrap();
    assert!(matches!(table.register(registration("a:1", 0, 1), 20), Err(RegisterRefused::Claim(_))));
    let epoch = Epoch { group: Some(Uuid::from_u128(1)), term: 1 };
    assert_eq!(table.heartbeat(&key("a:1"), Some((0, epoch)), 1, 30), Sign::Unknown);
    assert_eq!(shown(&table), ids(&[(0, "b:1")]));
    // Not even when everybody else has expired here.
    table.expire(100_000);
    assert!(table.is_empty());
    assert!(matches!(table.register(registration("a:1", 0, 1), 100_001), Err(RegisterRefused::Claim(_))));
    assert!(table.is_empty(), "a refused registration leaves nothing behind");
    table.assert_consistent();
}

/// A leader that registers as a follower is shown as id 0 until a successor claims it, since without one stock clients would
/// drop the queues, but as a suspect; a follower that registers touches nobody else.
#[test]
fn a_follower_refreshes_just_its_own_entry() {
    let mut table = table();
    table.register(registration("a:1", 0, 5), 0).unwrap();
    table.register(registration("b:1", 2, 9), 0).unwrap();
    assert_eq!(shown(&table), ids(&[(0, "a:1"), (2, "b:1")]), "a follower's higher term unseats nobody");
    table.register(registration("a:1", 1, 5), 10).unwrap();
    assert_eq!(shown(&table), ids(&[(0, "a:1"), (2, "b:1")]));
    assert_eq!(table.route("TopicTest").unwrap().suspects, "broker-a");
    let generation = table.generation();
    table.register(registration("a:1", 1, 5), 15).unwrap();
    assert_eq!(table.generation(), generation, "a repetition is no change");
    table.register(registration("a:1", 0, 5), 20).unwrap();
    assert_eq!(shown(&table), ids(&[(0, "a:1"), (2, "b:1")]));
    assert_eq!(table.route("TopicTest").unwrap().suspects, "");
    table.register(registration("a:1", 1, 5), 30).unwrap();
    table.register(registration("b:1", 0, 10), 40).unwrap();
    table.register(registration("a:1", 1, 10), 50).unwrap();
    assert_eq!(shown(&table), ids(&[(0, "b:1"), (1, "a:1")]));
    assert_eq!(table.route("TopicTest").unwrap().suspects, "");
    table.assert_consistent();
}

/// A leader that stepped down and then vanished must not be shown for ever.
#[test]
fn a_leader_that_stepped_down_expires() {
    let mut table = table();
    table.register(registration("a:1", 0, 5), 0).unwrap();
    table.register(registration("a:1", 1, 5), 10).unwrap();
    table.register(registration("b:1", 2, 5), 9_000).unwrap();
    table.expire(EXPIRY_MS + 10);
    assert_eq!(shown(&table), ids(&[(2, "b:1")]));
    table.register(registration("b:1", 0, 6), 11_000).unwrap();
    assert_eq!(table.route("TopicTest").unwrap().suspects, "");
}

/// Expiry takes each member at its own time, and the topics with the last one.
#[test]
fn the_dead_expire() {
    let mut table = table();
    table.register(registration("a:1", 0, 1), 0).unwrap();
    table.register(registration("b:1", 2, 1), 5_000).unwrap();
    assert_eq!(table.expire(EXPIRY_MS), [key("a:1")]);
    assert_eq!(shown(&table), ids(&[(2, "b:1")]), "followers keep the topic readable");
    assert!(!table.all_led());
    table.expire(15_000);
    assert!(table.route("TopicTest").is_none());
    assert!(table.topic_names().is_empty());
}

/// Heartbeats keep an entry alive as long as they say what the table says.
#[test]
fn heartbeats_prolong_what_they_describe() {
    let mut table = table();
    table.register(registration("a:1", 0, 1), 0).unwrap();
    table.register(registration("b:1", 2, 1), 0).unwrap();
    let epoch = |term| Epoch { group: Some(Uuid::from_u128(1)), term };
    assert!(matches!(table.heartbeat(&key("a:1"), Some((0, epoch(1))), 1, 8_000), Sign::Known(_)));
    assert_eq!(
        table.heartbeat(&key("b:1"), Some((0, epoch(2))), 1, 8_000),
        Sign::Unknown,
        "a new leader must register"
    );
    assert_eq!(
        table.heartbeat(&key("a:1"), Some((0, epoch(2))), 1, 8_000),
        Sign::Unknown,
        "and so must one in a new term"
    );
    assert!(matches!(table.heartbeat(&key("b:1"), None, 1, 8_000), Sign::Known(_)), "official brokers give no role");
    assert!(table.expire(17_999).is_empty());
    assert_eq!(table.expire(18_000).len(), 2);
}

/// Topics that a full registration leaves out are gone; a partial one only adds and changes.
#[test]
fn topics_follow_the_leader() {
    let mut table = table();
    table.register(registration("a:1", 0, 1), 0).unwrap();
    let mut second = registration("a:1", 0, 1);
    second.topics = vec![("T2".to_owned(), queues(2))];
    second.partial = true;
    table.register(second.clone(), 1).unwrap();
    assert_eq!(table.topic_names(), ["T2", "TopicTest"]);
    let generation = table.generation();
    table.register(second.clone(), 2).unwrap();
    assert_eq!(table.generation(), generation, "a repetition is no change: it must wake nobody");
    second.partial = false;
    table.register(second, 3).unwrap();
    assert_eq!(table.topic_names(), ["T2"]);
    let mut follower = registration("b:1", 2, 1);
    follower.topics = vec![("T3".to_owned(), queues(2))];
    table.register(follower, 4).unwrap();
    assert_eq!(table.topic_names(), ["T2"], "a follower's topics are not asked for");
    table.assert_consistent();
}

/// A leader that was forgotten here must not come back with the topics alone that changed: the rest would be missing.
#[test]
fn a_partial_registration_needs_the_rest() {
    let mut table = table();
    let mut partial = registration("a:1", 0, 1);
    partial.topics = vec![("T2".to_owned(), queues(2))];
    partial.partial = true;
    assert!(matches!(table.register(partial.clone(), 0), Err(RegisterRefused::PartialUnknown { .. })));
    assert!(table.is_empty());
    table.register(registration("a:1", 0, 1), 0).unwrap();
    table.register(partial.clone(), 1).unwrap();
    partial.speaker.epoch.term = 2;
    assert!(matches!(table.register(partial.clone(), 1), Err(RegisterRefused::PartialUnknown { .. })));
    partial.speaker.epoch.term = 1;
    table.expire(100_000);
    assert!(table.register(partial, 100_000).is_err());
    table.assert_consistent();
}

/// Another group, or another cluster, cannot mix into a living broker name.
#[test]
fn strangers_are_refused() {
    let mut table = table();
    table.register(registration("a:1", 0, 1), 0).unwrap();
    let mut foreign = registration("x:1", 2, 1);
    foreign.speaker.epoch.group = Some(Uuid::from_u128(2));
    assert!(matches!(table.register(foreign.clone(), 1), Err(RegisterRefused::OtherGroup { .. })));
    foreign.speaker.broker_id = 0;
    assert!(matches!(table.register(foreign.clone(), 1), Err(RegisterRefused::Claim(_))));
    foreign.cluster = "D".to_owned();
    assert!(matches!(table.register(foreign.clone(), 1), Err(RegisterRefused::OtherCluster { .. })));
    table.expire(EXPIRY_MS);
    table.register(foreign, EXPIRY_MS).unwrap();
    assert_eq!(shown(&table), ids(&[(0, "x:1")]));
}

/// Bounds are refusals that say what to raise.
#[test]
fn full_tables_refuse() {
    let mut table = RouteTable::new(TableLimits { members_max: 1, topics_max: 1 });
    table.register(registration("a:1", 0, 1), 0).unwrap();
    let error = table.register(registration("b:1", 2, 1), 0).unwrap_err();
    assert_eq!(error.to_string(), "this name server holds at most 1 broker addresses: raise members_max");
    let mut more = registration("a:1", 0, 1);
    more.topics.push(("T2".to_owned(), queues(1)));
    assert!(table.register(more, 0).is_err());
    assert_eq!(table.topic_names(), ["TopicTest"]);
}

/// Brokers of Apache RocketMQ have no group; several of one name are master and slaves.
#[test]
fn official_brokers_register_too() {
    let mut table = table();
    let mut master = registration("a:1", 0, 0);
    master.speaker.epoch.group = None;
    let mut slave = registration("b:1", 1, 0);
    slave.speaker.epoch.group = None;
    table.register(master, 0).unwrap();
    assert_eq!(table.register(slave, 0), Ok(Some("a:1".to_owned())));
    assert_eq!(shown(&table), ids(&[(0, "a:1"), (1, "b:1")]));
    assert_eq!(table.route("TopicTest").unwrap().terms, "");
}

#[derive(Debug, Clone)]
enum Step {
    Register { addr: u8, broker_id: i64, group: u8, term: u64, topics: u8, partial: bool },
    Heartbeat { addr: u8, broker_id: i64, term: u64 },
    Unregister { addr: u8 },
    Lose { connection: u64 },
    Wait { ms: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..4u8, 0..3i64, prop_oneof![9 => Just(0u8), 1 => Just(1u8)], 0..6u64, 0..4u8, any::<bool>()).prop_map(
            |(addr, broker_id, group, term, topics, partial)| Step::Register { addr, broker_id, group, term, topics, partial }
        ),
        2 => (0..4u8, 0..3i64, 0..6u64).prop_map(|(addr, broker_id, term)| Step::Heartbeat { addr, broker_id, term }),
        1 => (0..4u8).prop_map(|addr| Step::Unregister { addr }),
        1 => (0..4u64).prop_map(|connection| Step::Lose { connection }),
        2 => (0..8_000u64).prop_map(|ms| Step::Wait { ms }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// Random registrations, heartbeats, departures, cuts and time: the tables stay consistent (so at most one leader is shown),
    /// the leader's term never goes back within a group, a living leader is never replaced by another group, nobody outlives
    /// its time, and every visible change moves the generation.
    #[test]
    fn tables_hold_together(steps in proptest::collection::vec(step(), 1..80)) {
        let mut table = table();
        let mut now = Duration::ZERO;
        let mut highest: HashMap<u8, u64> = HashMap::new();
        let mut last_sign: HashMap<String, u64> = HashMap::new();
        for step in steps {
            let now_ms = now.as_millis() as u64;
            let before = (table.generation(), table.cluster_info(), table.route("TopicTest"));
            match step {
                Step::Wait { ms } => {
                    now += Duration::from_millis(ms);
                    table.expire(now.as_millis() as u64);
                }
                Step::Register { addr, broker_id, group, term, topics, partial } => {
                    let mut new = registration(&format!("{addr}:1"), broker_id, term);
                    new.speaker.epoch.group = Some(Uuid::from_u128(u128::from(group)));
                    new.speaker.connection = u64::from(addr);
                    new.topics = (0..topics).map(|n| if n == 0 { "TopicTest".to_owned() } else { format!("T{n}") })
                        .map(|name| (name, queues(4))).collect();
                    new.partial = partial;
                    table.expire(now_ms);
                    let held = table.brokers.get("broker-a").and_then(|broker| broker.leader.holder().cloned());
                    let outcome = table.register(new, now_ms);
                    if outcome.is_ok() {
                        last_sign.insert(format!("{addr}:1"), now_ms);
                        if broker_id == 0 {
                            if let Some(held) = held {
                                prop_assert_eq!(held.epoch.group, Some(Uuid::from_u128(u128::from(group))));
                            }
                            let known = highest.insert(group, term);
                            // Another group in between starts afresh.
                            highest.retain(|other, _| *other == group);
                            prop_assert!(known.is_none_or(|known| known <= term));
                            let addr = format!("{addr}:1");
                            prop_assert_eq!(table.leader_of("broker-a"), Some(addr.as_str()));
                        }
                    }
                }
                Step::Heartbeat { addr, broker_id, term } => {
                    let addr = format!("{addr}:1");
                    let epoch = Epoch { group: Some(Uuid::from_u128(0)), term };
                    if table.heartbeat(&key(&addr), Some((broker_id, epoch)), 9, now_ms) != Sign::Unknown {
                        last_sign.insert(addr, now_ms);
                    }
                }
                Step::Unregister { addr } => table.unregister(&key(&format!("{addr}:1")), now_ms),
                Step::Lose { connection } => {
                    table.lose_connection(connection);
                }
            }
            table.assert_consistent();
            let now_ms = now.as_millis() as u64;
            for broker in table.brokers.values() {
                for addr in broker.members.keys() {
                    prop_assert!(last_sign[addr] + EXPIRY_MS > now_ms, "{} outlived its time", addr);
                }
            }
            let after = (table.generation(), table.cluster_info(), table.route("TopicTest"));
            prop_assert!(before.0 != after.0 || (before.1, before.2) == (after.1, after.2), "a silent change");
        }
    }
}

/// A topic that a tool deletes must leave the routes at once, and one that the leader still has must come back with whatever it
/// says next.
#[test]
fn a_forgotten_topic_comes_back_only_from_its_leader() {
    let mut table = table();
    let full = || registration("a:1", 0, 1);
    table.register(full(), 0).unwrap();
    table.register(registration("b:1", 2, 1), 0).unwrap();
    let epoch = Epoch { group: Some(Uuid::from_u128(1)), term: 1 };
    let beat = |table: &mut RouteTable, addr: &str, id| table.heartbeat(&key(addr), Some((id, epoch)), 97, 1);
    table.forget_topic("TopicTest", Some("D"));
    assert!(table.route("TopicTest").is_some(), "of another cluster");
    let generation = table.generation();
    table.forget_topic("TopicTest", Some("C"));
    table.assert_consistent();
    assert!(table.route("TopicTest").is_none() && table.topics_of_cluster("C").is_empty());
    assert!(table.generation() > generation, "watchers must be woken");
    assert_eq!(beat(&mut table, "b:1", 2), Sign::Known(DataVersion::default()), "a follower has nothing to tell");
    assert_eq!(beat(&mut table, "a:1", 0), Sign::Unknown);
    let partial = Registration { topics: vec![("Other".to_owned(), queues(1))], partial: true, ..full() };
    assert!(matches!(table.register(partial, 2), Err(RegisterRefused::PartialUnknown { .. })));
    table.register(full(), 3).unwrap();
    assert_eq!(table.topics_of_cluster("C"), ["TopicTest"]);
    assert_eq!(beat(&mut table, "a:1", 0), Sign::Known(DataVersion::default()));
    table.forget_topic("TopicTest", None);
    table.register(Registration { topics: Vec::new(), ..full() }, 4).unwrap();
    assert!(table.route("TopicTest").is_none(), "the leader has deleted it");
    table.assert_consistent();
}

//! Locks of queues that are consumed in order: one holder at a time, whoever leads.

use std::sync::Arc;

use ledgermq_dledger::StateMachine;

use super::super::BrokerMachine;
use super::super::harness::*;
use crate::command::*;
use crate::stamp::{Answer, AutoCreate, Item};
use crate::tables::{GroupQueue, TopicKey};

const LEASE_MS: u64 = 60_000;

fn queues(topic: &TopicKey, ids: &[u32]) -> Vec<QueueOfTopic> {
    let queue =
        |queue: &u32| QueueOfTopic { topic: topic.name.to_string(), incarnation: topic.incarnation, queue: *queue };
    ids.iter().map(queue).collect()
}

fn lock(group: &str, client: &str, topic: &TopicKey, ids: &[u32]) -> Item {
    Item::Command(Command::LockQueues(LockQueues {
        group: group.into(),
        client_id: client.into(),
        at_ms: 0,
        lease_ms: LEASE_MS,
        queues: queues(topic, ids),
    }))
}

fn unlock(group: &str, client: &str, topic: &TopicKey, ids: &[u32]) -> Item {
    let (group, client_id) = (group.into(), client.into());
    Item::Command(Command::UnlockQueues(UnlockQueues { group, client_id, queues: queues(topic, ids) }))
}

/// "group/topic/queue client end of the lease", of all locks.
fn locks(machine: &BrokerMachine) -> Vec<String> {
    let shown = |(key, lock): &(GroupQueue, crate::tables::QueueLock)| {
        format!("{}/{}/{} {} {}", key.group, key.topic.name, key.queue, lock.client_id, lock.expires_ms)
    };
    machine.tables().locks().iter().map(shown).collect()
}

/// A leader with topic A of four queues.
fn with_topic() -> (BrokerMachine, Log, TopicKey) {
    let mut machine = new_machine();
    let mut log = Log::born(&mut machine);
    log.propose(vec![send("A", 0, &["1"], "", from_template(4))]);
    log.apply_all(&mut machine);
    let topic = machine.tables().topic("A").unwrap().key().clone();
    (machine, log, topic)
}

/// Two clients must never hold one queue of a group; a dead one's queue must be free when its lease is over, not before.
#[test]
fn one_client_at_a_time() {
    let (mut machine, mut log, a) = with_topic();
    log.now_ms = 10_000;
    log.propose(vec![lock("g", "one", &a, &[0, 1]), lock("g", "two", &a, &[1, 2]), lock("h", "two", &a, &[1])]);
    log.apply_all(&mut machine);
    assert_eq!(locks(&machine), ["g/A/0 one 70000", "g/A/1 one 70000", "g/A/2 two 70000", "h/A/1 two 70000"]);
    log.now_ms = 30_000;
    log.propose(vec![lock("g", "one", &a, &[1]), unlock("g", "two", &a, &[0, 2])]);
    log.apply_all(&mut machine);
    assert_eq!(locks(&machine), ["g/A/0 one 70000", "g/A/1 one 90000", "h/A/1 two 70000"], "prolonged, and given back");
    log.now_ms = 69_999;
    log.propose(vec![lock("g", "two", &a, &[0])]);
    log.apply_all(&mut machine);
    assert_eq!(locks(&machine)[0], "g/A/0 one 70000");
    log.now_ms = 70_000;
    log.propose(vec![lock("g", "two", &a, &[0, 1])]);
    log.apply_all(&mut machine);
    assert_eq!(locks(&machine), ["g/A/0 two 130000", "g/A/1 one 90000"], "what has expired is dropped on the way");
}

/// The next leader may have a slow clock: leases must not grow by that, and no time must be counted twice. The one after it knows
/// every lock that was given.
#[test]
fn locks_outlive_their_leader() {
    let (mut machine, mut log, a) = with_topic();
    log.now_ms = 50_000;
    log.propose(vec![send("A", 0, &["2"], "", AutoCreate::No), lock("g", "one", &a, &[0])]);
    log.lead(&mut machine);
    log.now_ms = 40_000;
    log.propose(vec![lock("g", "two", &a, &[0, 1])]);
    log.apply_all(&mut machine);
    assert_eq!(locks(&machine), ["g/A/0 one 110000", "g/A/1 two 110000"], "not before the last message was stored");
}

/// A lock must not outlive what it is for, nor be given for what is not there; and a topic that is made again is another one.
#[test]
fn locks_die_with_their_topic_and_group() {
    let (mut machine, mut log, a) = with_topic();
    let group = PutSubscriptionGroup { group: "g".into(), settings: GroupSettings::standard(), replace: false };
    log.propose(vec![Item::Command(Command::PutSubscriptionGroup(group))]);
    let answers = log.propose(vec![lock("g", "one", &a, &[0, 7]), lock("h", "one", &a, &[0])]);
    assert!(answers.iter().all(|answer| matches!(answer, Answer::Done { .. })));
    log.apply_all(&mut machine);
    assert_eq!(machine.tables().lock_count(), 2, "there is no queue 7");
    let clean = DeleteSubscriptionGroup { group: "g".into(), clean_offsets: false };
    log.propose(vec![Item::Command(Command::DeleteSubscriptionGroup(clean))]);
    log.apply_all(&mut machine);
    assert_eq!(locks(&machine), ["h/A/0 one 61000"]);
    // Deleted, made again, and a client that does not know.
    log.propose(vec![
        Item::Command(Command::DeleteTopic(DeleteTopic { topic: "A".into() })),
        send("A", 0, &["new"], "", from_template(4)),
        lock("h", "one", &a, &[0]),
    ]);
    log.apply_all(&mut machine);
    assert_eq!(machine.tables().locks(), []);
    let key = GroupQueue { group: Arc::from("h"), topic: a, queue: 0 };
    assert_eq!(machine.tables().lock(&key), None);
    let digest = machine.digest().unwrap();
    let again = machine.tables().topic("A").unwrap().key().clone();
    log.propose(vec![lock("h", "one", &again, &[0])]);
    log.apply_all(&mut machine);
    assert_ne!(machine.digest().unwrap(), digest, "locks are part of the state");
}

//! What simulated clients ask of a broker.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use ledgermq_broker::command::{
    Command, CommitOffsets, DeleteTopic, Genesis, GroupSettings, LockQueues, Member, OffsetCommit,
    PutSubscriptionGroup, PutTopic, QueueOfTopic, TopicSettings, TruncatePrefix, UnlockQueues, perm,
};
use ledgermq_broker::delay::{self, Delay};
use ledgermq_broker::stamp::{AutoCreate, Item, SendItem};
use ledgermq_protocol::message::record::{self, Message};
use ledgermq_protocol::names;
use rand::Rng;
use rand::rngs::SmallRng;

/// Topics that clients use.
pub(super) const TOPICS: [&str; 3] = ["orders", "payments", "%RETRY%billing"];
/// Subscription groups, there from the start.
pub(super) const GROUPS: [&str; 2] = ["billing", "audit"];
/// A group that is put elsewhere; there once [`Wish::Group`] has made it.
pub(super) const REWOUND: &str = "rewound";
/// Clients that consume in order.
pub(super) const CLIENTS: [&str; 3] = ["one", "two", "three"];
/// Who stores messages.
pub(super) const STORE_HOST: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 2));
/// How long a lock holds: some of them end while a world lives.
const LEASE_MS: u64 = 3_000;
/// Template of topics that are made by their first message.
const TEMPLATE: &str = "TBW102";

/// An operation that a scenario asks for by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    /// Sends so many messages as one batch, to a queue or, below 0, any.
    Send {
        /// The topic.
        topic: &'static str,
        /// The queue.
        queue: i32,
        /// Number of messages.
        count: usize,
    },
    /// Deletes a topic.
    Delete(&'static str),
    /// Commits the next offset of the first queue.
    Commit(&'static str),
    /// Makes a group that is put elsewhere.
    Group,
    /// Puts it half-way back in the first queue.
    Reset(&'static str),
    /// Commits the end of the first queue for it, as a consumer that knows of no reset.
    CommitEnd(&'static str),
    /// Takes up the reset that waits there, as this node has applied it; commits the end when there is none.
    TakeUp(&'static str),
    /// Asks for a read barrier.
    Read,
}

/// What every group is born with here.
pub(super) fn genesis() -> Genesis {
    let template = TopicSettings { perm: perm::ALL & !perm::PRIORITY, ..TopicSettings::plain(4) };
    Genesis {
        group_id: Bytes::from_static(&[1; 16]),
        cluster: "DefaultCluster".to_owned(),
        broker_name: "broker-a".to_owned(),
        segment_size: 64 << 10,
        log_format: 1,
        members: vec![Member {
            raft_id: 1,
            replica_id: Bytes::from_static(&[2; 16]),
            raft_address: "127.0.0.1:10912".to_owned(),
            broker_address: "127.0.0.1:10911".to_owned(),
        }],
        topics: vec![PutTopic { topic: TEMPLATE.to_owned(), settings: template, replace: false }],
        groups: GROUPS
            .iter()
            .map(|group| PutSubscriptionGroup {
                group: (*group).to_owned(),
                settings: GroupSettings::standard(),
                replace: false,
            })
            .collect(),
    }
}

/// A send of messages with these ids, each with so many bytes of filler.
pub(super) fn send(topic: &str, queue: i32, ids: &[(u64, usize)], create: AutoCreate) -> SendItem {
    let mut records = BytesMut::new();
    for (id, filler) in ids {
        encode(topic, queue.max(0), &body(*id, *filler), &properties(*id), &mut records);
    }
    SendItem::new(Arc::from(topic), queue, records, create)
}

/// A send of one message that waits first.
pub(super) fn delayed(topic: &str, queue: u32, (id, filler): (u64, usize), create: AutoCreate, ms: u64) -> SendItem {
    let mut properties = properties(id);
    delay::make_wait(&mut properties, topic, queue).expect("short enough");
    let mut record = BytesMut::new();
    encode(names::TIMER_TOPIC, delay::TIMER_QUEUE as i32, &body(id, filler), &properties, &mut record);
    SendItem::delayed(Arc::from(topic), queue, record, create, Delay::After(ms))
}

fn properties(id: u64) -> String {
    format!("KEYS\u{1}key{id}\u{2}TAGS\u{1}t{}\u{2}UNIQ_KEY\u{1}u{id}\u{2}", id % 3)
}

fn encode(topic: &str, queue_id: i32, body: &[u8], properties: &str, records: &mut BytesMut) {
    let message = Message {
        topic,
        queue_id,
        flag: 0,
        sys_flag: 0,
        born_timestamp_ms: 5,
        born_host: "127.0.0.1:1".parse().expect("an address"),
        store_host: STORE_HOST,
        reconsume_times: 0,
        prepared_transaction_offset: 0,
        body,
        properties,
    };
    record::encode(&message, records).expect("small enough");
}

/// The body that tells the id.
fn body(id: u64, filler: usize) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    body.resize(8 + filler, id as u8);
    body
}

/// The id of a message, when its body is whole.
pub(super) fn id_of(body: &[u8]) -> Option<u64> {
    let id = u64::from_be_bytes(*body.first_chunk()?);
    body[8..].iter().all(|byte| *byte == id as u8).then_some(id)
}

/// How an unknown topic is to be made.
pub(super) fn creation(topic: &str, rng: &mut SmallRng) -> AutoCreate {
    if topic.starts_with("%RETRY%") {
        return AutoCreate::Plain { queues: 1 };
    }
    match rng.random_range(0..8) {
        0 => AutoCreate::No,
        _ => AutoCreate::From { template: TEMPLATE.into(), queues: rng.random_range(1..=4) },
    }
}

/// A commit of one offset.
pub(super) fn commit(group: &str, topic: &str, incarnation: u64, queue: u32, offset: u64) -> Item {
    let commit = OffsetCommit { group: group.to_owned(), topic: topic.to_owned(), incarnation, queue, offset };
    Item::Command(Command::CommitOffsets(CommitOffsets { offsets: vec![commit] }))
}

/// The creation of [`REWOUND`].
pub(super) fn put_group() -> Item {
    let settings = GroupSettings::standard();
    let put = PutSubscriptionGroup { group: REWOUND.to_owned(), settings, replace: false };
    Item::Command(Command::PutSubscriptionGroup(put))
}

/// A command about the offset of [`REWOUND`] in the first queue.
pub(super) fn offset(kind: fn(CommitOffsets) -> Command, topic: &str, incarnation: u64, offset: u64) -> Item {
    let group = REWOUND.to_owned();
    let commit = OffsetCommit { group, topic: topic.to_owned(), incarnation, queue: 0, offset };
    Item::Command(kind(CommitOffsets { offsets: vec![commit] }))
}

/// A lock of one queue, or the end of it.
pub(super) fn lock(group: &str, client: &str, queue: QueueOfTopic, take: bool) -> Item {
    let (group, client_id, queues) = (group.to_owned(), client.to_owned(), vec![queue]);
    Item::Command(if take {
        Command::LockQueues(LockQueues { group, client_id, at_ms: 0, lease_ms: LEASE_MS, queues })
    } else {
        Command::UnlockQueues(UnlockQueues { group, client_id, queues })
    })
}

/// The begin of a log's messages.
pub(super) fn truncate(index: u64, pos: u64) -> Item {
    Item::Command(Command::TruncatePrefix(TruncatePrefix { index, pos }))
}

/// A deletion.
pub(super) fn delete(topic: &str) -> Item {
    Item::Command(Command::DeleteTopic(DeleteTopic { topic: topic.to_owned() }))
}

/// A creation, or a change of the number of queues.
pub(super) fn put_topic(topic: &str, queues: u32, replace: bool) -> Item {
    let settings = TopicSettings::plain(queues);
    Item::Command(Command::PutTopic(PutTopic { topic: topic.to_owned(), settings, replace }))
}

//! What must hold for any bytes that come as the body of a request or answer. One function, run by the fuzzer (`fuzz/`) and by the
//! replay beside this folder.

use ledgermq_protocol::consumer_list::{ConsumerConnection, ConsumerList, GroupList, ProducerConnection};
use ledgermq_protocol::heartbeat::{CheckClientRequestBody, HeartbeatData, SubscriptionData};
use ledgermq_protocol::json::Body;
use ledgermq_protocol::kv_table::KvTable;
use ledgermq_protocol::lock::{LockBatchRequest, LockBatchResponse};
use ledgermq_protocol::register::RegisterBrokerBody;
use ledgermq_protocol::route::{BrokerMemberGroupBody, ClusterInfo, TopicList, TopicRouteData};
use ledgermq_protocol::stats::{ConsumeStats, GetConsumerStatusBody, ResetOffsetBody, TopicStatsTable};
use ledgermq_protocol::subscription_group::{SubscriptionGroupConfig, SubscriptionGroupWrapper};
use ledgermq_protocol::topic::{CreateTopicList, DataVersion, TopicConfig, TopicConfigSerializeWrapper};

/// The law for each kind of body.
const KINDS: [fn(&[u8]); 22] = [
    law::<HeartbeatData>,
    law::<SubscriptionData>,
    law::<CheckClientRequestBody>,
    law::<TopicStatsTable>,
    law::<ConsumeStats>,
    law::<ResetOffsetBody>,
    law::<GetConsumerStatusBody>,
    law::<LockBatchRequest>,
    law::<LockBatchResponse>,
    law::<ConsumerList>,
    law::<ConsumerConnection>,
    law::<ProducerConnection>,
    law::<GroupList>,
    law::<DataVersion>,
    law::<TopicConfig>,
    law::<TopicConfigSerializeWrapper>,
    law::<CreateTopicList>,
    law::<KvTable>,
    law::<SubscriptionGroupConfig>,
    law::<SubscriptionGroupWrapper>,
    law::<TopicRouteData>,
    other,
];

/// Checks the laws on a body; the first byte says for which kind: no panic, and what is read is written so that it is read the
/// same.
pub(crate) fn check(bytes: &[u8]) {
    let Some((kind, body)) = bytes.split_first() else { return };
    KINDS[usize::from(*kind) % KINDS.len()](body);
}

/// Checks them for every kind.
#[allow(dead_code, reason = "the fuzzer takes one kind at a time")]
pub(crate) fn check_all(body: &[u8]) {
    KINDS.iter().for_each(|law| law(body));
}

fn law<B: Body>(body: &[u8]) {
    let Ok(read) = B::from_json(body) else { return };
    let written = read.to_json();
    let again = match B::from_json(&written) {
        Ok(again) => again,
        Err(error) => panic!("what we write we can read: {error} in {}", String::from_utf8_lossy(&written)),
    };
    assert_eq!(again.to_json(), written);
}

fn other(body: &[u8]) {
    law::<ClusterInfo>(body);
    law::<TopicList>(body);
    law::<BrokerMemberGroupBody>(body);
    law::<RegisterBrokerBody>(body);
    for compressed in [false, true] {
        let crc = crc32fast::hash(body) as i32;
        if let Ok(read) = RegisterBrokerBody::decode(body, compressed, crc) {
            let (written, crc) = read.encode(compressed);
            RegisterBrokerBody::decode(&written, compressed, crc).expect("what we write we can read");
        }
    }
}

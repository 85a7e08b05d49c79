//! The topics and subscription groups that a group is born with: the names that RocketMQ's own clients and tools expect.

use ledgermq_protocol::names;

use super::{GroupSettings, PutSubscriptionGroup, PutTopic, TopicSettings, perm};

/// Queues of the template of automatic creation.
const TEMPLATE_QUEUES: u32 = 8;

/// Topics for [`super::Genesis::topics`]. The template TBW102 can always be inherited from; whether a send may use it is the
/// broker's config. Topics of mechanisms that do not exist here as topics (delays, half messages, traces) are left out.
pub fn system_topics(cluster: &str, broker_name: &str) -> Vec<PutTopic> {
    let template =
        TopicSettings { perm: perm::READ | perm::WRITE | perm::INHERIT, ..TopicSettings::plain(TEMPLATE_QUEUES) };
    let unsendable = TopicSettings { perm: perm::READ, ..TopicSettings::plain(1) };
    let inherited = |perm| TopicSettings { perm: perm | perm::INHERIT, ..TopicSettings::plain(1) };
    let mut topics = vec![
        put(names::AUTO_CREATE_TOPIC, template),
        put("SELF_TEST_TOPIC", unsendable.clone()),
        put("OFFSET_MOVED_EVENT", unsendable),
        put(&names::reply_topic(cluster), TopicSettings::plain(1)),
        put(broker_name, inherited(perm::READ | perm::WRITE)),
    ];
    if cluster != broker_name {
        topics.push(put(cluster, inherited(perm::READ)));
    }
    topics
}

/// Subscription groups for [`super::Genesis::groups`]: those that tools use without creating them.
pub fn system_groups() -> Vec<PutSubscriptionGroup> {
    let names = [names::TOOLS_CONSUMER_GROUP, "SELF_TEST_C_GROUP", "__MONITOR_CONSUMER"];
    let group = |name: &str| PutSubscriptionGroup {
        group: name.to_owned(),
        settings: GroupSettings::standard(),
        replace: false,
    };
    names.map(group).into()
}

fn put(topic: &str, settings: TopicSettings) -> PutTopic {
    PutTopic { topic: topic.to_owned(), settings, replace: false }
}

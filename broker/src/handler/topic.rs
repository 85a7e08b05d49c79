//! Topics: UPDATE_AND_CREATE_TOPIC, DELETE_TOPIC_IN_BROKER, GET_TOPIC_CONFIG, GET_ALL_TOPIC_CONFIG and
//! GET_SYSTEM_TOPIC_LIST_FROM_BROKER.

use std::collections::BTreeMap;
use std::sync::Arc;

use ledgermq_protocol::json::Body;
use ledgermq_protocol::names;
use ledgermq_protocol::remoting::command::RemotingCommand;
use ledgermq_protocol::remoting::headers::topic::{CreateTopic, DeleteTopicInBroker, TopicOnly};
use ledgermq_protocol::remoting::response_code::ResponseCode;
use ledgermq_protocol::route::TopicList;
use ledgermq_protocol::topic::{DataVersion, TopicConfig, TopicConfigSerializeWrapper, TopicFilterType};

use super::{carry_out, header, refused, topic_named};
use crate::command::{Command, DeleteTopic, PutTopic, TopicSettings};
use crate::replica::Replica;
use crate::server::outbox::Responder;
use crate::stamp::Refusal;
use crate::tables::{Tables, Topic};

/// Creates a topic or changes its settings; answers once the change is in the log and visible here.
pub async fn create(replica: Arc<Replica>, request: RemotingCommand, responder: Responder) {
    carry_out(&replica, prepare(&replica, &request).map(Command::PutTopic), responder).await;
}

fn prepare(replica: &Replica, request: &RemotingCommand) -> Result<PutTopic, Refusal> {
    let wanted: CreateTopic = header(request)?;
    let illegal = |remark: String| Refusal::new(ResponseCode::INVALID_PARAMETER, remark);
    names::check_topic(&wanted.topic).map_err(|error| illegal(error.to_string()))?;
    check_not_system(replica, &wanted.topic)?;
    let count = |what: &str, value: i32| {
        u32::try_from(value).map_err(|_| illegal(format!("{what} is {value}, must not be negative")))
    };
    let known = replica.tables().topic(&wanted.topic);
    let mut attributes = known.map(|topic| topic.settings().attributes.clone()).unwrap_or_default();
    change_attributes(&mut attributes, wanted.attributes.as_deref().unwrap_or_default()).map_err(illegal)?;
    let settings = TopicSettings {
        read_queues: count("readQueueNums", wanted.read_queue_nums)?,
        write_queues: count("writeQueueNums", wanted.write_queue_nums)?,
        perm: count("perm", wanted.perm)?,
        sys_flag: wanted.topic_sys_flag.unwrap_or(0),
        order: wanted.order.unwrap_or(false),
        multi_tag: wanted.topic_filter_type.as_deref() == Some("MULTI_TAG"),
        attributes,
    };
    settings.check().map_err(|error| illegal(error.to_string()))?;
    Ok(PutTopic { topic: wanted.topic, settings, replace: true })
}

/// Deletes a topic with its messages and the offsets committed for it; answers once that is in the log and visible here. One
/// that does not exist is no error: whoever repeats a deletion wants it gone.
pub async fn delete(replica: Arc<Replica>, request: RemotingCommand, responder: Responder) {
    carry_out(&replica, prepare_delete(&replica, &request).map(Command::DeleteTopic), responder).await;
}

fn prepare_delete(replica: &Replica, request: &RemotingCommand) -> Result<DeleteTopic, Refusal> {
    let DeleteTopicInBroker { topic } = header(request)?;
    names::check_topic(&topic).map_err(|error| Refusal::new(ResponseCode::INVALID_PARAMETER, error.to_string()))?;
    check_not_system(replica, &topic)?;
    Ok(DeleteTopic { topic })
}

fn check_not_system(replica: &Replica, topic: &str) -> Result<(), Refusal> {
    let identity = replica.identity();
    let own = [identity.cluster.as_str(), &identity.broker_name, &names::reply_topic(&identity.cluster)];
    if names::is_system_topic(topic) || own.contains(&topic) {
        let remark = format!("topic {topic} belongs to the system");
        return Err(Refusal::new(ResponseCode::INVALID_PARAMETER, remark));
    }
    Ok(())
}

/// Carries out "+key=value,-key".
fn change_attributes(attributes: &mut BTreeMap<String, String>, changes: &str) -> Result<(), String> {
    for change in changes.split(',').map(str::trim).filter(|change| !change.is_empty()) {
        if let Some((key, value)) = change.strip_prefix('+').and_then(|set| set.split_once('=')) {
            attributes.insert(key.to_owned(), value.to_owned());
        } else if let Some(key) = change.strip_prefix('-') {
            attributes.remove(key);
        } else {
            return Err(format!("attribute change {change:?} is neither +key=value nor -key"));
        }
    }
    Ok(())
}

/// Answers with the settings of one topic. Static topics, of which a caller may ask with `lo`, there are none.
pub async fn config(replica: Arc<Replica>, request: RemotingCommand, responder: Responder) {
    replica.catch_up().await;
    let topic = header(&request).and_then(|asked: TopicOnly| topic_named(&replica, &asked.topic));
    let answer = responder.command(ResponseCode::SUCCESS);
    let answer = match topic {
        Ok(topic) => answer.with_body(topic_config(&topic).to_json()),
        Err(refusal) => refused(answer, refusal),
    };
    responder.send(answer);
}

/// Answers with the topics that belong to the system and exist here, and the names that no topic may have.
pub fn system_topics(replica: &Replica, responder: Responder) {
    let identity = replica.identity();
    let mut topic_list = vec![identity.cluster.clone(), identity.broker_name.clone()];
    topic_list.push(names::reply_topic(&identity.cluster));
    let topics = replica.tables().topics();
    topic_list.extend(topics.iter().map(|topic| topic.name().to_string()).filter(|name| names::is_system_topic(name)));
    let body = TopicList { broker_addr: None, topic_list }.to_json();
    let answer = responder.command(ResponseCode::SUCCESS).with_body(body);
    responder.send(answer);
}

/// Answers with all topics. Without a total a 5.4 client asks no second time.
pub fn all_topics(replica: &Replica, responder: Responder) {
    let term = replica.role().term;
    let body = topic_table(replica.tables(), term).to_json();
    let answer = responder.command(ResponseCode::SUCCESS).with_body(body);
    responder.send(answer);
}

/// All topics with the version by which a name server tells whether they changed.
pub(crate) fn topic_table(tables: &Tables, term: u64) -> TopicConfigSerializeWrapper {
    // The version first: a change in between must make the table look older than it is, never newer.
    let version = data_version(tables.topics_version(), term);
    let topics = tables.topics().into_iter().map(|topic| (topic.name().to_string(), topic_config(&topic))).collect();
    TopicConfigSerializeWrapper::new(version, topics)
}

/// The version of the topics as peers compare it. The term is the epoch; the rest follows from the log, so that all replicas
/// agree.
pub(crate) fn data_version(version: u64, term: u64) -> DataVersion {
    DataVersion { counter: version as i64, state_version: term as i64, timestamp: 0 }
}

pub(crate) fn topic_config(topic: &Topic) -> TopicConfig {
    let settings = topic.settings();
    TopicConfig {
        attributes: settings.attributes.clone(),
        order: settings.order,
        perm: settings.perm as i32,
        read_queue_nums: settings.read_queues as i32,
        topic_filter_type: if settings.multi_tag { TopicFilterType::MultiTag } else { TopicFilterType::SingleTag },
        topic_name: topic.name().to_string(),
        topic_sys_flag: settings.sys_flag,
        write_queue_nums: settings.write_queues as i32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A malformed change must be refused, not silently left out.
    #[test]
    fn attributes_are_set_and_removed() {
        let mut attributes = BTreeMap::from([("old".to_owned(), "1".to_owned())]);
        change_attributes(&mut attributes, "+message.type=FIFO,-old,").unwrap();
        assert_eq!(attributes, BTreeMap::from([("message.type".to_owned(), "FIFO".to_owned())]));
        assert!(change_attributes(&mut attributes, "message.type=FIFO").is_err());
    }
}

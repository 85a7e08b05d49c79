//! The whole picture, for operators and tools: GET_BROKER_CLUSTER_INFO, lists of topics, and DELETE_TOPIC_IN_NAMESRV.

use ledgermq_protocol::json::Body;
use ledgermq_protocol::remoting::command::RemotingCommand;
use ledgermq_protocol::remoting::headers::route::TopicsByCluster;
use ledgermq_protocol::remoting::headers::topic::DeleteTopicInNamesrv;
use ledgermq_protocol::remoting::response_code::ResponseCode;
use ledgermq_protocol::route::TopicList;

use super::Refusal;
use crate::server::Server;

pub(super) fn cluster_info(server: &Server, request: &RemotingCommand) -> Result<RemotingCommand, Refusal> {
    let table = server.table.read();
    // An empty picture is no picture while brokers may still report.
    if table.is_empty() && !server.is_ready(&table) {
        return Err(Refusal::not_ready());
    }
    let info = table.cluster_info();
    drop(table);
    Ok(RemotingCommand::response_to(request, ResponseCode::SUCCESS).with_body(info.to_json()))
}

pub(super) fn topics(server: &Server, request: &RemotingCommand) -> Result<RemotingCommand, Refusal> {
    let table = server.table.read();
    if table.is_empty() && !server.is_ready(&table) {
        return Err(Refusal::not_ready());
    }
    let list = TopicList { broker_addr: None, topic_list: table.topic_names() };
    drop(table);
    Ok(RemotingCommand::response_to(request, ResponseCode::SUCCESS).with_body(list.to_json()))
}

/// A cluster that is not known has no topics.
pub(super) fn topics_of_cluster(server: &Server, request: &RemotingCommand) -> Result<RemotingCommand, Refusal> {
    let TopicsByCluster { cluster } = request.header()?;
    let table = server.table.read();
    if table.is_empty() && !server.is_ready(&table) {
        return Err(Refusal::not_ready());
    }
    let list = TopicList { broker_addr: None, topic_list: table.topics_of_cluster(&cluster) };
    drop(table);
    Ok(RemotingCommand::response_to(request, ResponseCode::SUCCESS).with_body(list.to_json()))
}

/// The names that no topic may have: clusters and broker names. The rest is known to a broker, which the asker asks next.
pub(super) fn system_topics(server: &Server, request: &RemotingCommand) -> Result<RemotingCommand, Refusal> {
    let info = server.table.read().cluster_info();
    let broker_addr = info.broker_addr_table.values().find_map(|broker| broker.broker_addrs.values().next().cloned());
    let clusters = info.cluster_addr_table.into_iter();
    let topic_list = clusters.flat_map(|(cluster, names)| std::iter::once(cluster).chain(names)).collect();
    let list = TopicList { broker_addr, topic_list };
    Ok(RemotingCommand::response_to(request, ResponseCode::SUCCESS).with_body(list.to_json()))
}

/// Takes a topic out of the routes at once. Brokers decide what exists: one that still has it brings it back within a second.
pub(super) fn forget_topic(server: &Server, request: &RemotingCommand) -> Result<RemotingCommand, Refusal> {
    let DeleteTopicInNamesrv { topic, cluster_name } = request.header()?;
    server.change(|table, _| table.forget_topic(&topic, cluster_name.as_deref()));
    Ok(RemotingCommand::response_to(request, ResponseCode::SUCCESS))
}

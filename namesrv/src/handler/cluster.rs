//! GET_BROKER_CLUSTER_INFO and GET_ALL_TOPIC_LIST_FROM_NAMESERVER: the whole picture, for operators and tools.

use ledgermq_protocol::json::Body;
use ledgermq_protocol::remoting::command::RemotingCommand;
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

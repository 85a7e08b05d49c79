//! GET_ROUTEINFO_BY_TOPIC: who serves a topic. The question that every client asks, every 30 s or more often.
//!
//! The route of TBW102 is one like any other: brokers that create topics automatically register it.

use ledgermq_protocol::extension::field;
use ledgermq_protocol::remoting::command::RemotingCommand;
use ledgermq_protocol::remoting::headers::route::RouteInfo;
use ledgermq_protocol::remoting::response_code::ResponseCode;

use super::Refusal;
use crate::route_table::snapshot::RouteSnapshot;
use crate::server::Server;

pub(super) fn route(server: &Server, request: &RemotingCommand) -> Result<RemotingCommand, Refusal> {
    let RouteInfo { topic, .. } = request.header()?;
    let table = server.table.read();
    let Some(route) = table.route(&topic) else {
        let ready = server.is_ready(&table);
        return Err(if ready { no_route(&topic) } else { Refusal::not_ready() });
    };
    drop(table);
    let answer = RemotingCommand::response_to(request, ResponseCode::SUCCESS).with_body(route.body.clone());
    let extended = request.ext.get(field::ROUTE_TERMS) == Some("true");
    Ok(if extended { with_extension(answer, &route) } else { answer })
}

/// Adds what only LedgerMQ's own clients read.
pub(super) fn with_extension(mut answer: RemotingCommand, route: &RouteSnapshot) -> RemotingCommand {
    answer.ext.insert_display(field::ROUTE_VERSION, route.version);
    answer.ext.insert(field::ROUTE_TERMS, &route.terms);
    answer.ext.insert(field::ROUTE_SUSPECTS, &route.suspects);
    answer
}

pub(super) fn no_route(topic: &str) -> Refusal {
    let shown: String = topic.chars().take(ledgermq_protocol::names::MAX_RETRY_TOPIC_LEN).collect();
    Refusal::new(
        ResponseCode::TOPIC_NOT_EXIST,
        format!(
            "No topic route info in name server for the topic: {shown}; create it, or send to it where brokers create topics"
        ),
    )
}

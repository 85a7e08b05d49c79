//! Requests by code. Table work is done on the spot; only a route watch becomes a task of its own.

use std::sync::Arc;

use ledgermq_protocol::extension::code as private;
use ledgermq_protocol::remoting::command::RemotingCommand;
use ledgermq_protocol::remoting::headers::FieldError;
use ledgermq_protocol::remoting::request_code::RequestCode;
use ledgermq_protocol::remoting::response_code::ResponseCode;

use crate::server::Server;
use crate::server::connection::Peer;

mod cluster;
mod kv;
mod register;
mod route;
mod watch;

/// A refusal: the code and the text for people.
#[derive(Debug)]
struct Refusal {
    code: i32,
    remark: String,
}

impl Refusal {
    fn new(code: i32, remark: impl Into<String>) -> Self {
        Self { code, remark: remark.into() }
    }

    fn invalid(remark: impl Into<String>) -> Self {
        Self::new(ResponseCode::INVALID_PARAMETER, remark)
    }

    fn not_ready() -> Self {
        Self::new(
            ResponseCode::SYSTEM_ERROR,
            "name server not ready: it has just started and brokers are still to report, try again",
        )
    }

    fn answer(self, request: &RemotingCommand) -> RemotingCommand {
        RemotingCommand::response_to(request, self.code).with_remark(self.remark)
    }
}

impl From<FieldError> for Refusal {
    fn from(error: FieldError) -> Self {
        Self::invalid(error.to_string())
    }
}

/// Carries out one request and answers it, unless it wants no answer.
pub(crate) fn handle(server: &Arc<Server>, peer: &Arc<Peer>, request: RemotingCommand) {
    if request.code == private::LEDGER_WATCH_ROUTE {
        return watch::watch(server, peer, request);
    }
    let outcome = match request.code {
        RequestCode::REGISTER_BROKER => register::register(server, peer, &request),
        RequestCode::UNREGISTER_BROKER => register::unregister(server, &request),
        RequestCode::BROKER_HEARTBEAT => register::heartbeat(server, peer, &request),
        RequestCode::QUERY_DATA_VERSION => register::query_data_version(server, peer, &request),
        RequestCode::GET_ROUTEINFO_BY_TOPIC => route::route(server, &request),
        RequestCode::GET_BROKER_CLUSTER_INFO => cluster::cluster_info(server, &request),
        RequestCode::GET_ALL_TOPIC_LIST_FROM_NAMESERVER => cluster::topics(server, &request),
        RequestCode::GET_TOPICS_BY_CLUSTER => cluster::topics_of_cluster(server, &request),
        RequestCode::GET_SYSTEM_TOPIC_LIST_FROM_NS => cluster::system_topics(server, &request),
        RequestCode::DELETE_TOPIC_IN_NAMESRV => cluster::forget_topic(server, &request),
        RequestCode::PUT_KV_CONFIG => kv::put(server, &request),
        RequestCode::GET_KV_CONFIG => kv::get(server, &request),
        RequestCode::DELETE_KV_CONFIG => kv::delete(server, &request),
        RequestCode::GET_KVLIST_BY_NAMESPACE => kv::list(server, &request),
        code => Err(not_supported(code)),
    };
    if !request.is_oneway() {
        peer.outbox.send(&outcome.unwrap_or_else(|refusal| refusal.answer(&request)));
    }
}

fn not_supported(code: i32) -> Refusal {
    let name = RequestCode::name(code).or_else(|| private::name(code)).unwrap_or("unknown");
    Refusal::new(
        ResponseCode::REQUEST_CODE_NOT_SUPPORTED,
        format!(" request type {code} not supported: {name}, by this name server"),
    )
}

//! PUT_KV_CONFIG, GET_KV_CONFIG, DELETE_KV_CONFIG and GET_KVLIST_BY_NAMESPACE.

use ledgermq_protocol::json::Body;
use ledgermq_protocol::kv_table::KvTable;
use ledgermq_protocol::remoting::command::RemotingCommand;
use ledgermq_protocol::remoting::headers::route::{KvConfigKey, KvConfigValue, KvNamespace, PutKvConfig};
use ledgermq_protocol::remoting::response_code::ResponseCode;

use super::Refusal;
use crate::server::Server;

pub(super) fn put(server: &Server, request: &RemotingCommand) -> Result<RemotingCommand, Refusal> {
    let PutKvConfig { namespace, key, value } = request.header()?;
    server.kv.write().put(namespace, key, value).map_err(|error| Refusal::invalid(error.to_string()))?;
    Ok(RemotingCommand::response_to(request, ResponseCode::SUCCESS))
}

pub(super) fn get(server: &Server, request: &RemotingCommand) -> Result<RemotingCommand, Refusal> {
    let KvConfigKey { namespace, key } = request.header()?;
    let value = server.kv.read().get(&namespace, &key).map(str::to_owned);
    if value.is_none() {
        return Err(not_found(&format!("key {key} in namespace {namespace}")));
    }
    Ok(RemotingCommand::response_to(request, ResponseCode::SUCCESS).with_header(&KvConfigValue { value }))
}

pub(super) fn delete(server: &Server, request: &RemotingCommand) -> Result<RemotingCommand, Refusal> {
    let KvConfigKey { namespace, key } = request.header()?;
    server.kv.write().delete(&namespace, &key);
    Ok(RemotingCommand::response_to(request, ResponseCode::SUCCESS))
}

pub(super) fn list(server: &Server, request: &RemotingCommand) -> Result<RemotingCommand, Refusal> {
    let KvNamespace { namespace } = request.header()?;
    let table = server.kv.read().namespace(&namespace).cloned();
    let table = table.ok_or_else(|| not_found(&format!("namespace {namespace}")))?;
    Ok(RemotingCommand::response_to(request, ResponseCode::SUCCESS).with_body(KvTable { table }.to_json()))
}

fn not_found(what: &str) -> Refusal {
    let shown: String = what.chars().take(2 * crate::kv::NAME_LEN_MAX).collect();
    Refusal::new(ResponseCode::QUERY_NOT_FOUND, format!("there is no {shown}"))
}

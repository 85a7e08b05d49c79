//! GET_CONSUMER_LIST_BY_GROUP: the members of a group, from which each computes its share of the queues.
//!
//! Answered from this replica's own heartbeats, leader or not: consumers send theirs to every member.

use ledgermq_protocol::consumer_list::ConsumerList;
use ledgermq_protocol::json::Body;
use ledgermq_protocol::remoting::command::RemotingCommand;
use ledgermq_protocol::remoting::headers::group::ConsumerListByGroup;
use ledgermq_protocol::remoting::response_code::ResponseCode;

use super::header;
use crate::replica::Replica;
use crate::server::outbox::Responder;

/// Answers with the client ids.
pub fn consumer_list(replica: &Replica, request: &RemotingCommand, responder: Responder) {
    let group = match header::<ConsumerListByGroup>(request) {
        Ok(asked) => asked.consumer_group,
        Err(refusal) => return responder.refuse(refusal.code, refusal.remark),
    };
    let consumer_id_list = replica.consumers.client_ids(&group);
    if consumer_id_list.is_empty() {
        // Not an empty list: a client would give up all its queues, where an error makes it keep them.
        return responder.refuse(ResponseCode::SYSTEM_ERROR, format!("no consumer of group {group} is known here"));
    }
    let answer = responder.command(ResponseCode::SUCCESS).with_body(ConsumerList { consumer_id_list }.to_json());
    responder.send(answer);
}

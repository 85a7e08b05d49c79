//! Which handler a request goes to. What is not built yet is refused by its name; nothing is faked.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use ledgermq_protocol::extension::{self, code};
use ledgermq_protocol::remoting::command::RemotingCommand;
use ledgermq_protocol::remoting::request_code::RequestCode;
use ledgermq_protocol::remoting::response_code::ResponseCode;

use super::connection::Service;
use super::forward::{Forwarder, is_for_leader, stores_messages};
use super::outbox::{Connection, Responder};
use crate::handler::{
    batch, broker_stats, client_calls, client_config, clone_offset, connections, consume_stats, consumer_list,
    heartbeat, lock, members, offset, pull, query_message, queue_ends, raft_status, recall, reply, reset_offset,
    runtime_info, send, send_back, subscription_group, topic, topic_stats, view_message,
};
use crate::replica::Replica;

/// Requests of one connection that may wait for the log or a quorum at a time; one more is answered SYSTEM_BUSY.
pub const WAITING_REQUESTS_MAX: usize = 1_024;

/// The requests of one group.
pub struct Dispatch {
    here: Arc<Here>,
    forwarder: Arc<Forwarder>,
}

impl Dispatch {
    /// For one replica of those of a node.
    pub fn new(replica: Arc<Replica>, node: Vec<Arc<Replica>>, forwarder: Arc<Forwarder>) -> Self {
        Self { here: Arc::new(Here { replica, node, forwarder: Arc::clone(&forwarder) }), forwarder }
    }
}

impl Service for Dispatch {
    fn handle(&self, request: RemotingCommand, responder: Responder) {
        let replica = &self.here.replica;
        if matches!(request.code, code::LEDGER_CHANGE_MEMBERS | code::LEDGER_TRANSFER) {
            return self.of_operator(request, responder);
        }
        if !is_for_leader(request.code) {
            return self.here.handle(request, responder);
        }
        let elsewhere = match responder.forwarded() {
            // Sent by another member for a term that has passed: it is to look again.
            Some(mark) => !replica.takes_requests() || mark.term != replica.role().term,
            None => {
                self.forwarder.note_asked();
                !replica.takes_requests()
            }
        };
        if elsewhere {
            let here = Arc::clone(&self.here);
            return self.forwarder.hold(request, responder, move |request, responder| {
                here.handle(request, responder);
                // It comes from no connection's reader any more.
                here.replica.ring();
            });
        }
        self.here.handle(request, responder);
    }

    fn taken_in(&self) {
        self.here.replica.ring();
    }

    fn closed(&self, connection: &Arc<Connection>) {
        let replica = &self.here.replica;
        replica.ring();
        replica.consumers.drop_connection(connection.id());
        replica.producers.drop_connection(connection.id());
        replica.requesters.drop_connection(connection.id());
        if connection.has_parked.load(Ordering::Relaxed) {
            replica.pulls.drop_connection(connection.id());
        }
    }
}

impl Dispatch {
    /// What changes the group itself.
    fn of_operator(&self, request: RemotingCommand, responder: Responder) {
        if let Some(responder) = self.here.refuse_private(responder) {
            let (replica, forwarder) = (Arc::clone(&self.here.replica), Arc::clone(&self.forwarder));
            match request.code {
                code::LEDGER_TRANSFER => spawn(responder, |to| members::transfer(replica, forwarder, request, to)),
                _ => spawn(responder, |to| members::change(replica, forwarder, request, to)),
            }
        }
    }
}

/// Requests that this replica serves itself.
struct Here {
    replica: Arc<Replica>,
    /// All replicas of the node, this one included.
    node: Vec<Arc<Replica>>,
    /// To the other members.
    forwarder: Arc<Forwarder>,
}

impl Here {
    /// Whether this replica would take the leadership of its group over.
    fn may_lead(&self, responder: Responder) {
        if self.replica.is_draining() {
            return responder.refuse(ResponseCode::SERVICE_NOT_AVAILABLE, "this node is about to stop");
        }
        if let Some(unfit) = self.replica.handle.unfit() {
            return responder
                .refuse(ResponseCode::SERVICE_NOT_AVAILABLE, format!("this replica should not lead: {unfit}"));
        }
        if self.replica.room.is_low() {
            return responder.refuse(ResponseCode::SERVICE_NOT_AVAILABLE, self.replica.room.to_string());
        }
        let answer = responder.command(ResponseCode::SUCCESS);
        responder.send(answer);
    }

    /// Refuses a private request where others could reach the port; gives the responder back where it may be answered.
    fn refuse_private(&self, responder: Responder) -> Option<Responder> {
        if self.replica.private_requests {
            return Some(responder);
        }
        responder.refuse(ResponseCode::NO_PERMISSION, "answered only on a loopback address, or with insecure = true");
        None
    }

    fn private(&self, request: &RemotingCommand, responder: Responder) {
        let Some(responder) = self.refuse_private(responder) else { return };
        match request.code {
            extension::code::LEDGER_RAFT_STATUS => {
                spawn(responder, |to| raft_status::raft_status(self.node.clone(), to));
            }
            _ => spawn(responder, |to| raft_status::state_digest(Arc::clone(&self.replica), to)),
        }
    }
}

impl Here {
    fn handle(&self, request: RemotingCommand, responder: Responder) {
        let replica = &self.replica;
        let shared = || Arc::clone(replica);
        if stores_messages(request.code)
            && let Some(no_room) = replica.no_room()
        {
            return responder.refuse(ResponseCode::SERVICE_NOT_AVAILABLE, no_room);
        }
        match request.code {
            RequestCode::SEND_MESSAGE | RequestCode::SEND_MESSAGE_V2 => send::send(replica, &request, responder),
            RequestCode::SEND_BATCH_MESSAGE => batch::send_batch(replica, &request, responder),
            RequestCode::CONSUMER_SEND_MSG_BACK => spawn(responder, |to| send_back::send_back(shared(), request, to)),
            RequestCode::RECALL_MESSAGE => spawn(responder, |to| recall::recall(shared(), request, to)),
            RequestCode::PULL_MESSAGE | RequestCode::LITE_PULL_MESSAGE => pull::pull(replica, &request, responder),
            RequestCode::QUERY_CONSUMER_OFFSET => spawn(responder, |to| offset::query(shared(), request, to)),
            RequestCode::UPDATE_CONSUMER_OFFSET => offset::update(replica, &request, responder),
            RequestCode::GET_MAX_OFFSET
            | RequestCode::GET_MIN_OFFSET
            | RequestCode::GET_EARLIEST_MSG_STORETIME
            | RequestCode::SEARCH_OFFSET_BY_TIMESTAMP => {
                spawn(responder, |to| queue_ends::queue_ends(shared(), request, to));
            }
            RequestCode::HEART_BEAT => heartbeat::heartbeat(replica, &request, responder),
            RequestCode::UNREGISTER_CLIENT => heartbeat::unregister(replica, &request, responder),
            RequestCode::LOCK_BATCH_MQ => spawn(responder, |to| lock::lock(shared(), request, to)),
            RequestCode::UNLOCK_BATCH_MQ => spawn(responder, |to| lock::unlock(shared(), request, to)),
            RequestCode::GET_CONSUMER_LIST_BY_GROUP => consumer_list::consumer_list(replica, &request, responder),
            RequestCode::CHECK_CLIENT_CONFIG => client_config::check_client_config(&request, responder),
            RequestCode::UPDATE_AND_CREATE_TOPIC => spawn(responder, |to| topic::create(shared(), request, to)),
            RequestCode::GET_ALL_TOPIC_CONFIG => topic::all_topics(replica, responder),
            RequestCode::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP => {
                spawn(responder, |to| subscription_group::create(shared(), request, to));
            }
            RequestCode::GET_ALL_SUBSCRIPTIONGROUP_CONFIG => subscription_group::all_groups(replica, responder),
            RequestCode::GET_BROKER_RUNTIME_INFO => spawn(responder, |to| runtime_info::runtime_info(shared(), to)),
            RequestCode::DELETE_TOPIC_IN_BROKER => spawn(responder, |to| topic::delete(shared(), request, to)),
            RequestCode::DELETE_SUBSCRIPTIONGROUP => {
                spawn(responder, |to| subscription_group::delete(shared(), request, to));
            }
            RequestCode::GET_TOPIC_CONFIG => spawn(responder, |to| topic::config(shared(), request, to)),
            RequestCode::GET_SYSTEM_TOPIC_LIST_FROM_BROKER => topic::system_topics(replica, responder),
            RequestCode::GET_SUBSCRIPTIONGROUP_CONFIG => {
                spawn(responder, |to| subscription_group::config(shared(), request, to));
            }
            RequestCode::GET_TOPIC_STATS_INFO => spawn(responder, |to| topic_stats::topic_stats(shared(), request, to)),
            RequestCode::GET_CONSUME_STATS => {
                spawn(responder, |to| consume_stats::consume_stats(shared(), request, to));
            }
            RequestCode::QUERY_CONSUME_TIME_SPAN => {
                spawn(responder, |to| consume_stats::time_spans(shared(), request, to));
            }
            RequestCode::GET_ALL_CONSUMER_OFFSET => spawn(responder, |to| consume_stats::all_offsets(shared(), to)),
            RequestCode::VIEW_BROKER_STATS_DATA => {
                spawn(responder, |to| broker_stats::broker_stats(shared(), request, to));
            }
            RequestCode::GET_CONSUMER_CONNECTION_LIST
            | RequestCode::GET_PRODUCER_CONNECTION_LIST
            | RequestCode::QUERY_SUBSCRIPTION_BY_CONSUMER => connections::connections(replica, &request, responder),
            RequestCode::QUERY_TOPIC_CONSUME_BY_WHO | RequestCode::QUERY_TOPICS_BY_CONSUMER => {
                spawn(responder, |to| connections::who_consumes(shared(), request, to));
            }
            RequestCode::VIEW_MESSAGE_BY_ID => spawn(responder, |to| view_message::view_message(shared(), request, to)),
            RequestCode::QUERY_MESSAGE => spawn(responder, |to| query_message::query_message(shared(), request, to)),
            RequestCode::SEND_REPLY_MESSAGE | RequestCode::SEND_REPLY_MESSAGE_V2 => {
                let (node, forwarder) = (self.node.clone(), Arc::clone(&self.forwarder));
                spawn(responder, |to| reply::send_reply(shared(), node, forwarder, request, to));
            }
            RequestCode::PUSH_REPLY_MESSAGE_TO_CLIENT => {
                spawn(responder, |to| reply::push_reply(self.node.clone(), request, to));
            }
            RequestCode::INVOKE_BROKER_TO_RESET_OFFSET => {
                spawn(responder, |to| reset_offset::reset_offset(shared(), request, to));
            }
            RequestCode::CLONE_GROUP_OFFSET => {
                spawn(responder, |to| clone_offset::clone_offset(shared(), request, to));
            }
            RequestCode::QUERY_CORRECTION_OFFSET => {
                spawn(responder, |to| clone_offset::correction_offset(shared(), request, to));
            }
            RequestCode::INVOKE_BROKER_TO_GET_CONSUMER_STATUS => {
                spawn(responder, |to| client_calls::consumer_status(shared(), request, to));
            }
            RequestCode::GET_CONSUMER_RUNNING_INFO => {
                spawn(responder, |to| client_calls::running_info(shared(), request, to));
            }
            RequestCode::CONSUME_MESSAGE_DIRECTLY => {
                spawn(responder, |to| client_calls::consume_directly(shared(), request, to));
            }
            extension::code::LEDGER_RAFT_STATUS | extension::code::LEDGER_STATE_DIGEST => {
                self.private(&request, responder);
            }
            extension::code::LEDGER_MAY_LEAD => self.may_lead(responder),
            code => not_supported(code, responder),
        }
    }
}

fn not_supported(code: i32, responder: Responder) {
    let name = RequestCode::name(code).or_else(|| extension::code::name(code)).unwrap_or("unknown");
    let remark = format!("request type {code} ({name}) not supported");
    responder.refuse(ResponseCode::REQUEST_CODE_NOT_SUPPORTED, remark);
}

/// Runs a handler that waits, as a task of its own.
fn spawn<F: Future<Output = ()> + Send + 'static>(responder: Responder, handler: impl FnOnce(Responder) -> F) {
    let connection = Arc::clone(responder.connection());
    if connection.running.fetch_add(1, Ordering::Relaxed) >= WAITING_REQUESTS_MAX {
        connection.running.fetch_sub(1, Ordering::Relaxed);
        let remark = format!("[TIMEOUT_CLEAN_QUEUE] {WAITING_REQUESTS_MAX} requests of this connection are waiting");
        return responder.refuse(ResponseCode::SYSTEM_BUSY, remark);
    }
    let waiting = Waiting(connection);
    let handler = handler(responder);
    tokio::spawn(async move {
        handler.await;
        drop(waiting);
    });
}

/// Counts a request that waits, until it is answered or its task ends.
struct Waiting(Arc<Connection>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}

//! SEND_BATCH_MESSAGE: several messages for one queue in one request, stored as records of their own with consecutive offsets.
//!
//! All or nothing: they share one entry of the log. Flag, body and properties of each are stored byte for byte.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::BytesMut;
use ledgermq_protocol::message::batch::BatchElements;
use ledgermq_protocol::message::properties::{self, name};
use ledgermq_protocol::message::record::{self, Message};
use ledgermq_protocol::names;
use ledgermq_protocol::remoting::command::RemotingCommand;
use ledgermq_protocol::remoting::headers::send::SendMessage;

use super::send::{
    Prepared, Sending, Target, check_body, check_names, check_properties, check_sys_flag, illegal, submit,
};
use crate::replica::Replica;
use crate::server::outbox::Responder;
use crate::stamp::{Refusal, SendItem};

/// Most messages of one batch. Each is named in the answer with 32 hex digits, and the answer's header is bounded.
pub const BATCH_MESSAGES_MAX: usize = 4_096;

/// Most bytes of a batch in its stored form: a frame of the log must hold it.
pub const BATCH_STORED_BYTES_MAX: usize = 8 << 20;

/// Handles one batch.
pub fn send_batch(replica: &Arc<Replica>, request: &RemotingCommand, responder: Responder) {
    submit(replica, prepare(&replica.sending, request, responder.client()), responder);
}

fn prepare(sending: &Sending, request: &RemotingCommand, born_host: SocketAddr) -> Result<Prepared, Refusal> {
    let header = SendMessage::from_ext(request.code, &request.ext).map_err(super::bad_field)?;
    check_names(&header)?;
    if names::is_retry_topic(header.topic) {
        return Err(illegal("a batch cannot be sent to a retry topic"));
    }
    check_sys_flag(header.sys_flag)?;
    check_body(request.body.len())?;
    let target = Target::of(sending, &header);
    let mut records = BytesMut::with_capacity(request.body.len() * 2);
    let mut count = 0;
    for element in BatchElements::new(&request.body) {
        let element = element.map_err(|error| illegal(error.to_string()))?;
        if count == BATCH_MESSAGES_MAX {
            return Err(illegal(format!("batch of more than {BATCH_MESSAGES_MAX} messages")));
        }
        let message_of_batch =
            |refusal: Refusal| Refusal::new(refusal.code, format!("message {count} of the batch: {}", refusal.remark));
        if check_properties(element.properties).map_err(message_of_batch)? {
            return Err(message_of_batch(illegal("a batch cannot be delayed: send its messages one by one")));
        }
        let message = Message {
            topic: &target.topic,
            queue_id: target.queue_id,
            flag: element.flag,
            sys_flag: header.sys_flag,
            born_timestamp_ms: header.born_timestamp_ms,
            born_host,
            store_host: sending.identity.store_host,
            reconsume_times: header.reconsume_times.unwrap_or(0),
            prepared_transaction_offset: 0,
            body: element.body,
            properties: element.properties,
        };
        record::encode(&message, &mut records).map_err(|error| message_of_batch(illegal(error.to_string())))?;
        if records.len() > BATCH_STORED_BYTES_MAX {
            return Err(illegal(format!("the batch is larger than {BATCH_STORED_BYTES_MAX} bytes in its stored form")));
        }
        count += 1;
    }
    if count == 0 {
        return Err(illegal("a batch without a message"));
    }
    let unique_key = header.properties.and_then(|given| properties::get(given, name::UNIQ_KEY)).map(Box::from);
    Ok((SendItem::new(target.topic, target.queue_id, records, target.auto_create), unique_key))
}

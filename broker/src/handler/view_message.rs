//! VIEW_MESSAGE_BY_ID: one message by its physical offset, which its id carries.
//!
//! Answered by every replica: the id pins the address of the leader that stored the message, which may follow by now.

use std::sync::Arc;

use ledgermq_dledger::LogPos;
use ledgermq_protocol::message::record::{MAX_RECORD_LEN, RecordRef};
use ledgermq_protocol::remoting::command::RemotingCommand;
use ledgermq_protocol::remoting::headers::pull::ViewMessage;
use ledgermq_protocol::remoting::response_code::ResponseCode;

use super::header;
use crate::replica::Replica;
use crate::server::outbox::Responder;

/// Bytes in front of a record that say how long it is.
const SIZE_LEN: usize = 4;

/// Answers with the record.
pub async fn view_message(replica: Arc<Replica>, request: RemotingCommand, responder: Responder) {
    let asked: ViewMessage = match header(&request) {
        Ok(asked) => asked,
        Err(refusal) => return responder.refuse(refusal.code, refusal.remark),
    };
    replica.catch_up().await;
    match record(&replica, asked.physical_offset) {
        Some(bytes) => {
            let answer = responder.command(ResponseCode::SUCCESS);
            responder.send_slices(answer, vec![bytes]);
        }
        None => {
            let remark = format!("no message at physical offset {}", asked.physical_offset);
            responder.refuse(ResponseCode::SYSTEM_ERROR, remark);
        }
    }
}

/// The record at an offset, if one starts there and is applied. The offset is a client's: anything may lie there.
fn record(replica: &Replica, physical_offset: i64) -> Option<bytes::Bytes> {
    let position = u64::try_from(physical_offset).ok()?;
    let end = replica.tables().applied().end().0;
    if position.checked_add(SIZE_LEN as u64)? > end {
        return None;
    }
    let log = replica.handle.reader();
    let size = log.read(LogPos(position), SIZE_LEN).ok()?;
    let size = u32::from_be_bytes(*size.first_chunk::<SIZE_LEN>()?) as usize;
    if size > MAX_RECORD_LEN || position + size as u64 > end {
        return None;
    }
    let bytes = log.read(LogPos(position), size).ok()?;
    let decoded = RecordRef::decode(&bytes).ok()?;
    (decoded.physical_offset() == physical_offset).then_some(())?;
    Some(bytes)
}

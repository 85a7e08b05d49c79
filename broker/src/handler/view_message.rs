//! VIEW_MESSAGE_BY_ID: one message by its physical offset, which its id carries.
//!
//! Answered by every replica: the id pins the address of the leader that stored the message, which may follow by now. The
//! request has the offset only, so an id of another cluster finds what lies at that offset here, if a message starts there.

use std::sync::Arc;

use bytes::Bytes;
use ledgermq_dledger::log::view::ViewError;
use ledgermq_dledger::{Frame, FrameKind, LogPos};
use ledgermq_protocol::message::record::Records;
use ledgermq_protocol::remoting::command::RemotingCommand;
use ledgermq_protocol::remoting::headers::pull::ViewMessage;
use ledgermq_protocol::remoting::response_code::ResponseCode;

use super::pull::{COLD_READS, unreadable};
use super::{from_disk, header};
use crate::replica::Replica;
use crate::server::outbox::Responder;
use crate::stamp::Refusal;

/// Answers with the record.
pub async fn view_message(replica: Arc<Replica>, request: RemotingCommand, responder: Responder) {
    let asked: ViewMessage = match header(&request) {
        Ok(asked) => asked,
        Err(refusal) => return responder.refuse(refusal.code, refusal.remark),
    };
    match find(&replica, asked.physical_offset).await {
        Ok(bytes) => {
            let answer = responder.command(ResponseCode::SUCCESS);
            responder.send_slices(answer, vec![bytes]);
        }
        Err(refusal) => responder.refuse(refusal.code, refusal.remark),
    }
}

/// The record at a physical offset that a client names, as of everything that is committed.
pub(super) async fn find(replica: &Arc<Replica>, physical_offset: i64) -> Result<Bytes, Refusal> {
    replica.catch_up().await;
    let not_there =
        || Refusal::new(ResponseCode::SYSTEM_ERROR, format!("no message at physical offset {physical_offset}"));
    read(replica, physical_offset).await?.ok_or_else(not_there)
}

/// The record at a physical offset that a client names, read on a thread that may wait for the disk; `None` when there is none.
pub(super) async fn read(replica: &Arc<Replica>, physical_offset: i64) -> Result<Option<Bytes>, Refusal> {
    let _turn = COLD_READS.acquire().await.expect("the semaphore is never closed");
    let reader = Arc::clone(replica);
    let read = from_disk("a read of a message", move || record(&reader, physical_offset)).await?;
    read.map_err(|error| unreadable(&error))
}

/// The record at an offset, if one starts there and is applied. The offset is a client's: anything may lie there, also bytes
/// inside a body that look like a record. So the frame around it is read, and its records gone through from the first one on.
fn record(replica: &Replica, physical_offset: i64) -> Result<Option<Bytes>, ViewError> {
    let Ok(position) = u64::try_from(physical_offset) else { return Ok(None) };
    let position = LogPos(position);
    if position >= replica.tables().applied().end() || position.0 < replica.tables().kept().pos {
        return Ok(None);
    }
    let log = replica.handle.reader();
    let Some(around) = log.frame_around(position)? else { return Ok(None) };
    match log.frame_at(around.pos) {
        Err(ViewError::Gone { .. }) => Ok(None),
        frame => Ok(record_in(&frame?, position)),
    }
}

/// The record of a frame that starts at `position`.
fn record_in(frame: &Frame, position: LogPos) -> Option<Bytes> {
    let records_at = match frame.kind {
        FrameKind::Messages => 0,
        FrameKind::Transition => frame.split_transition()?.1,
        FrameKind::Command | FrameKind::Noop | FrameKind::ConfChange | FrameKind::ConfChangeV2 | FrameKind::Blank => {
            return None;
        }
    };
    let wanted = usize::try_from(position.0.checked_sub(frame.payload_pos().0)?).ok()?;
    let mut at = records_at;
    for record in Records::new(&frame.payload[records_at..]) {
        let end = at + record.ok()?.len();
        if at >= wanted {
            return (at == wanted).then(|| frame.payload.slice(at..end));
        }
        at = end;
    }
    None
}

//! QUERY_MESSAGE: the messages of a topic that carry a key or a unique key, by the time at which they were stored.
//!
//! ```text
//! key index (positions by hash, newest first) --> record at each --> has it this topic and key? --> one vectored write
//! ```
//! Answered by every replica from what it has applied; the leader's answer has everything that was acknowledged before the
//! question. Newest first, as RocketMQ answers.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use ledgermq_dledger::LogPos;
use ledgermq_dledger::log::view::ViewError;
use ledgermq_protocol::message::properties::{self, name};
use ledgermq_protocol::message::record::RecordRef;
use ledgermq_protocol::remoting::command::RemotingCommand;
use ledgermq_protocol::remoting::headers::pull::{QueryMessage, QueryMessageResponse, index_type};
use ledgermq_protocol::remoting::response_code::ResponseCode;
use tokio::sync::Semaphore;

use super::pull::unreadable;
use super::{from_disk, header, refused};
use crate::replica::Replica;
use crate::server::outbox::Responder;
use crate::stamp::Refusal;

/// Most messages of one answer, whatever was asked for: RocketMQ's own bound.
pub const MESSAGES_MAX: usize = 64;

/// Most messages of one answer to a query by unique key, whatever was asked for: RocketMQ's own number. A producer that tries
/// again sends a message with the unique key of its first attempt.
pub const UNIQUE_MESSAGES_MAX: usize = 32;

/// Bytes of one answer. One message may be larger. As many of them as may be made at a time fit what may wait for a client.
pub const BYTES_MAX: usize = 2 << 20;

/// Queries that run at a time, in the whole process: each may go through the index of the whole log.
const QUERIES_MAX: usize = 2;

/// Positions that one query looks at which turn out to belong to another key of the same hash. Nobody meets one by chance.
const STRANGERS_MAX: usize = 1_024;

/// Bytes in front of a record that say how long it is.
const SIZE_LEN: usize = 4;

static QUERIES: Semaphore = Semaphore::const_new(QUERIES_MAX);

/// Answers a query.
pub async fn query_message(replica: Arc<Replica>, request: RemotingCommand, responder: Responder) {
    let query = match header(&request).and_then(Query::checked) {
        Ok(query) => query,
        Err(refusal) => return responder.refuse(refusal.code, refusal.remark),
    };
    replica.catch_up().await;
    responder.connection().room().await;
    let turn = QUERIES.acquire().await.expect("the semaphore is never closed");
    let searching = from_disk("a query by key", move || {
        // As of before the search: what is told about the index is true of what was searched.
        let (last_store_ms, end) = (replica.tables().last_store_ms(), replica.tables().applied().end());
        let header = QueryMessageResponse {
            index_last_update_timestamp_ms: last_store_ms as i64,
            index_last_update_physical_offset: end.0 as i64,
        };
        (header, find(&replica, &query))
    });
    match searching.await {
        Ok((header, found)) => answer(responder, &header, found),
        Err(refusal) => responder.refuse(refusal.code, refusal.remark),
    }
    drop(turn);
}

fn answer(responder: Responder, header: &QueryMessageResponse, found: Result<Found, Refusal>) {
    let mut answer = responder.command(ResponseCode::SUCCESS).with_header(header);
    match found {
        Ok(Found { records, cut }) if !records.is_empty() => {
            if cut {
                answer.remark =
                    Some(format!("more messages match than {BYTES_MAX} bytes hold: ask for a shorter time"));
            }
            responder.send_slices(answer, records);
        }
        Ok(_) => responder.send(refused(
            answer,
            Refusal::new(
                ResponseCode::QUERY_NOT_FOUND,
                "no message of this topic and time has this key; check topic, key and time range",
            ),
        )),
        Err(refusal) => responder.send(refused(answer, refusal)),
    }
}

/// What is asked for, within the bounds.
struct Query {
    topic: String,
    key: String,
    unique: bool,
    messages_max: usize,
    /// Both included, ms since 1970.
    begin_ms: u64,
    end_ms: u64,
}

impl Query {
    fn checked(asked: QueryMessage) -> Result<Self, Refusal> {
        let not_supported = |remark: &str| Err(Refusal::new(ResponseCode::REQUEST_CODE_NOT_SUPPORTED, remark));
        if asked.index_type.as_deref() == Some(index_type::TAG) {
            return not_supported("queries by tag are not supported: query by key, or pull with a tag filter");
        }
        if asked.last_key.is_some_and(|last_key| !last_key.is_empty()) {
            return not_supported("lastKey is not supported: go on with a shorter time range");
        }
        let unique = asked.by_unique_key == Some(true) || asked.index_type.as_deref() == Some(index_type::UNIQUE_KEY);
        let messages_max = match usize::try_from(asked.max_num) {
            _ if unique => UNIQUE_MESSAGES_MAX,
            Ok(asked) => asked.clamp(1, MESSAGES_MAX),
            Err(_) => 1,
        };
        // Nothing was stored before 1970: a range that ends there is empty.
        let (begin_ms, end_ms) = match u64::try_from(asked.end_timestamp_ms) {
            Ok(end_ms) => (u64::try_from(asked.begin_timestamp_ms).unwrap_or(0), end_ms),
            Err(_) => (1, 0),
        };
        Ok(Query { topic: asked.topic, key: asked.key, unique, messages_max, begin_ms, end_ms })
    }

    /// Whether a record is one of those asked for. RocketMQ finds a message by its unique key also when it is asked for a key.
    fn wants(&self, record: &RecordRef<'_>) -> bool {
        let property = |name| properties::get(record.properties(), name);
        let is_unique_key = || property(name::UNIQ_KEY) == Some(self.key.as_str());
        let is_word = || property(name::KEYS).is_some_and(|words| properties::keys(words).any(|key| key == self.key));
        record.topic() == self.topic && (is_unique_key() || (!self.unique && is_word()))
    }
}

#[derive(Default)]
struct Found {
    records: Vec<Bytes>,
    /// Whether more would have been found but for their size.
    cut: bool,
}

fn find(replica: &Replica, query: &Query) -> Result<Found, Refusal> {
    let mut found = Found::default();
    let Some(topic) = replica.tables().topic(&query.topic) else { return Ok(found) };
    let (mut bytes, mut strangers, mut failed) = (0, 0, None);
    let searched = replica.keys.search(topic.key(), &query.key, &(query.begin_ms..=query.end_ms), &mut |position| {
        let record = match record_at(replica, position) {
            Ok(Some(record)) => record,
            // Given up, and with it everything older.
            Ok(None) => return ControlFlow::Break(()),
            Err(refusal) => {
                failed = Some(refusal);
                return ControlFlow::Break(());
            }
        };
        if !RecordRef::decode(&record).is_ok_and(|record| query.wants(&record)) {
            strangers += 1;
            return if strangers < STRANGERS_MAX { ControlFlow::Continue(()) } else { ControlFlow::Break(()) };
        }
        if bytes + record.len() > BYTES_MAX && !found.records.is_empty() {
            found.cut = true;
            return ControlFlow::Break(());
        }
        bytes += record.len();
        found.records.push(record);
        if found.records.len() < query.messages_max { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    match (searched, failed) {
        (Err(error), _) => Err(unreadable(&error)),
        (Ok(()), Some(refusal)) => Err(refusal),
        (Ok(()), None) => Ok(found),
    }
}

/// The record at a position at which apply saw one; `None` when it was given up since.
fn record_at(replica: &Replica, position: u64) -> Result<Option<Bytes>, Refusal> {
    if position < replica.tables().kept().pos {
        return Ok(None);
    }
    let log = replica.handle.reader();
    let read = || -> Result<Bytes, ViewError> {
        let size = log.read(LogPos(position), SIZE_LEN)?;
        let size = u32::from_be_bytes(*size.first_chunk().expect("as many bytes as asked for"));
        log.read(LogPos(position), size as usize)
    };
    match read() {
        Err(ViewError::Gone { .. }) => Ok(None),
        read => read.map(Some).map_err(|error| unreadable(&error)),
    }
}

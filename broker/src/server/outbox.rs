//! A client connection as everybody but its own two tasks sees it: who the peer is, and a bounded queue of what it is sent.
//!
//! Handlers, the raft loop and the apply thread put answers in; the connection's writer takes all that waits, encodes it and
//! writes it in one go. Putting in never blocks and never does I/O. What passes the bound closes the connection, so a client
//! that does not read costs a fixed amount of memory.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use ledgermq_protocol::extension::{Forwarded, field};
use ledgermq_protocol::remoting::command::{RemotingCommand, SerializeType};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::admission::Claim;
use super::call::{CallError, Calls};
use super::ticket::Completed;

/// What an answer counts beside its body: header, bookkeeping.
const ANSWER_BYTES: usize = 256;

/// How long a request may wait for its client to read earlier answers before the connection is given up.
pub(crate) const ROOM_WAIT: Duration = Duration::from_secs(30);

/// Something for a client.
#[derive(Debug)]
pub enum Outgoing {
    /// A command with its body inside.
    Command(RemotingCommand),
    /// A command whose body lies in pieces elsewhere (slices of the CommitLog), sent without a copy.
    Slices(RemotingCommand, Vec<Bytes>),
    /// A proposal that ended; the writer makes the answer, not the raft loop.
    Completed(Completed),
}

impl Outgoing {
    fn bytes(&self) -> usize {
        ANSWER_BYTES
            + match self {
                Outgoing::Command(command) => command.body.len(),
                Outgoing::Slices(_, slices) => slices.iter().map(Bytes::len).sum(),
                Outgoing::Completed(_) => 0,
            }
    }
}

/// Why a connection was closed from our side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseReason {
    /// The peer sends no more.
    EndOfStream,
    /// The socket failed.
    Peer,
    /// More answers wait than the peer's share.
    NotReading,
    /// Nothing came or went for too long.
    Idle,
    /// The first frame did not come in time, or a frame stopped half-way.
    SlowFrame,
    /// The peer's bytes are not Remoting.
    FramingLost,
    /// The node stops.
    Stopping,
}

/// A client connection. Shared by reference count; the sockets are with its tasks.
pub struct Connection {
    id: u64,
    peer: SocketAddr,
    unread_bytes_max: usize,
    queue: Mutex<Queue>,
    /// Mirror of `queue.bytes`, to look at without the lock.
    bytes: AtomicUsize,
    filled: Notify,
    drained: Notify,
    /// The peer sends no more: nothing must be kept for it that only its end would clear.
    ended: AtomicBool,
    closed: AtomicBool,
    closing: Notify,
    /// What we ask of the client.
    pub(super) calls: Calls,
    /// Requests that have no answer yet.
    unanswered: AtomicUsize,
    /// Requests of this connection that run as tasks of their own.
    pub(crate) running: AtomicUsize,
    /// Whether a pull of this connection was ever parked: then its end must be told to the table.
    pub(crate) has_parked: AtomicBool,
    /// Milliseconds since the server started at which something was last written.
    pub(crate) written_at_ms: AtomicU64,
}

#[derive(Default)]
struct Queue {
    items: Vec<Outgoing>,
    bytes: usize,
    /// Bytes that the writer has taken and not finished.
    writing: usize,
    reason: Option<CloseReason>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("id", &self.id).field("peer", &self.peer).finish()
    }
}

impl Connection {
    /// A connection to `peer`; `id` is unique in the process, `unread_bytes_max` bounds what waits for the peer.
    pub fn new(id: u64, peer: SocketAddr, unread_bytes_max: usize) -> Arc<Self> {
        Arc::new(Self {
            id,
            peer,
            unread_bytes_max,
            queue: Mutex::default(),
            bytes: AtomicUsize::new(0),
            filled: Notify::new(),
            drained: Notify::new(),
            ended: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            closing: Notify::new(),
            calls: Calls::default(),
            unanswered: AtomicUsize::new(0),
            running: AtomicUsize::new(0),
            has_parked: AtomicBool::new(false),
            written_at_ms: AtomicU64::new(0),
        })
    }

    /// Number of the connection, unique in the process.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The peer's address.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Puts something in and wakes the writer. On a closed connection it is dropped.
    pub fn send(&self, item: Outgoing) {
        if self.put(item) {
            self.wake();
        }
    }

    /// Puts something in without waking the writer; true when the queue was empty, so that the caller must [`Self::wake`].
    pub fn put(&self, item: Outgoing) -> bool {
        let bytes = item.bytes();
        let mut queue = self.queue.lock();
        if queue.reason.is_some() {
            return false;
        }
        if queue.bytes + queue.writing + bytes > self.unread_bytes_max && queue.bytes + queue.writing > 0 {
            drop(queue);
            self.close(CloseReason::NotReading);
            return false;
        }
        queue.bytes += bytes;
        self.bytes.store(queue.bytes + queue.writing, Ordering::Relaxed);
        queue.items.push(item);
        queue.items.len() == 1
    }

    /// Wakes the writer.
    pub fn wake(&self) {
        self.filled.notify_one();
    }

    /// Ends the connection: what waits is dropped, both tasks end. The first reason stays.
    pub fn close(&self, reason: CloseReason) {
        let dropped = {
            let mut queue = self.queue.lock();
            if queue.reason.is_some() {
                return;
            }
            queue.reason = Some(reason);
            queue.bytes = 0;
            std::mem::take(&mut queue.items)
        };
        drop(dropped);
        self.ended.store(true, Ordering::Release);
        self.closed.store(true, Ordering::Release);
        self.calls.end();
        self.closing.notify_waiters();
        self.filled.notify_one();
        self.drained.notify_waiters();
    }

    /// The peer sends no more. What is under way is still answered; what was asked of it is not.
    pub fn end(&self) {
        self.ended.store(true, Ordering::Release);
        self.calls.end();
    }

    /// Whether the peer sends no more.
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Asks the client something and waits for its answer. The request gets a number of its own.
    ///
    /// # Errors
    /// [`CallError`]; but for [`CallError::Full`] the client may have done what it was asked.
    pub async fn call(&self, mut request: RemotingCommand, timeout: Duration) -> Result<RemotingCommand, CallError> {
        let waiting = self.calls.begin()?;
        request.opaque = waiting.opaque;
        self.send(Outgoing::Command(request));
        waiting.answered(timeout).await
    }

    /// For the reader: a response of the client.
    pub(super) fn answered(&self, response: RemotingCommand) {
        self.calls.answer(response);
    }

    /// Waits until every request is answered and every answer is with the system, or the connection has closed.
    pub async fn quiet(&self) {
        loop {
            let drained = self.drained.notified();
            let unanswered = self.unanswered.load(Ordering::Acquire);
            if (unanswered == 0 && self.unread_bytes() == 0) || self.is_closed() {
                return;
            }
            drained.await;
        }
    }

    /// Whether the connection has closed.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Why it ended, if it did.
    pub fn close_reason(&self) -> Option<CloseReason> {
        self.queue.lock().reason
    }

    /// Waits until the connection has ended.
    pub async fn closed(&self) {
        loop {
            let closing = self.closing.notified();
            if self.is_closed() {
                return;
            }
            closing.await;
        }
    }

    /// Waits until less than half of the peer's share is waiting for it: to be called before an answer with a large body is
    /// made. A peer that reads nothing meanwhile is closed.
    pub async fn room(&self) {
        loop {
            if self.has_room() {
                return;
            }
            let drained = self.drained.notified();
            if self.has_room() || self.is_closed() {
                return;
            }
            if tokio::time::timeout(ROOM_WAIT, drained).await.is_err() {
                self.close(CloseReason::NotReading);
            }
        }
    }

    /// Whether less than half of the peer's share is waiting for it.
    pub fn has_room(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) <= self.unread_bytes_max / 2
    }

    /// Bytes that wait for the peer.
    pub fn unread_bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Number of answers and requests that wait for the writer.
    pub fn waiting(&self) -> usize {
        self.queue.lock().items.len()
    }

    /// For the writer: all that waits, once something does; `None` when the connection has ended.
    pub(super) async fn take(&self, spare: Vec<Outgoing>) -> Option<Vec<Outgoing>> {
        let mut spare = spare;
        debug_assert!(spare.is_empty());
        loop {
            {
                let mut queue = self.queue.lock();
                if queue.reason.is_some() {
                    return None;
                }
                if !queue.items.is_empty() {
                    queue.writing = queue.bytes;
                    queue.bytes = 0;
                    std::mem::swap(&mut spare, &mut queue.items);
                    return Some(spare);
                }
            }
            self.filled.notified().await;
        }
    }

    /// For the writer: what it took is with the system.
    pub(super) fn written(&self, now_ms: u64) {
        let mut queue = self.queue.lock();
        queue.writing = 0;
        self.bytes.store(queue.bytes, Ordering::Relaxed);
        drop(queue);
        self.written_at_ms.store(now_ms, Ordering::Relaxed);
        self.drained.notify_waiters();
    }
}

/// Where the answer to one request goes. Knows whether one is wanted at all.
#[derive(Debug)]
pub struct Responder {
    connection: Arc<Connection>,
    opaque: i32,
    serialize: SerializeType,
    oneway: bool,
    /// Set when another member forwarded the request.
    forwarded: Option<Forwarded>,
    /// The request's share of the byte budget, held until the answer is queued.
    claim: Claim,
}

impl Responder {
    /// For `request` that came on `connection`.
    pub fn new(connection: Arc<Connection>, request: &RemotingCommand, claim: Claim) -> Self {
        connection.unanswered.fetch_add(1, Ordering::AcqRel);
        // A mark that cannot be read is nobody's of this cluster: the request then counts as the sender's own.
        let forwarded = request.ext.get(field::FORWARDED).and_then(|mark| mark.parse().ok());
        let (opaque, serialize, oneway) = (request.opaque, request.serialize, request.is_oneway());
        Self { connection, opaque, serialize, oneway, forwarded, claim }
    }

    /// What another member said of the request when it forwarded it.
    pub fn forwarded(&self) -> Option<Forwarded> {
        self.forwarded
    }

    /// Who sent the request: the peer, or the client whose request a member forwarded.
    pub fn client(&self) -> SocketAddr {
        self.forwarded.map_or(self.connection.peer, |forwarded| forwarded.client)
    }

    /// The connection.
    pub fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// Whether the sender wants no answer.
    pub fn is_oneway(&self) -> bool {
        self.oneway
    }

    /// An empty answer with `code`, to be filled and given to [`Self::send`].
    pub fn command(&self, code: i32) -> RemotingCommand {
        RemotingCommand::response(code, self.opaque, self.serialize)
    }

    /// Answers. Nothing is sent for a one-way request, whatever the outcome.
    pub fn send(self, answer: RemotingCommand) {
        if !self.oneway {
            self.connection.send(Outgoing::Command(answer));
        }
    }

    /// Answers with what another broker answered to the same request.
    pub fn relay(self, mut answer: RemotingCommand) {
        answer.opaque = self.opaque;
        answer.serialize = self.serialize;
        self.send(answer);
    }

    /// Answers with a body that lies in pieces.
    pub fn send_slices(self, answer: RemotingCommand, slices: Vec<Bytes>) {
        if !self.oneway {
            self.connection.send(Outgoing::Slices(answer, slices));
        }
    }

    /// Answers with an error.
    pub fn refuse(self, code: i32, remark: impl Into<String>) {
        let answer = self.command(code).with_remark(remark);
        self.send(answer);
    }

    /// Frees the request's share of the byte budget early: the request's bytes are no longer kept.
    pub fn release_claim(&mut self) {
        self.claim = Claim::default();
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        if self.connection.unanswered.fetch_sub(1, Ordering::AcqRel) == 1 && self.connection.has_ended() {
            self.connection.drained.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(unread_bytes_max: usize) -> Arc<Connection> {
        Connection::new(1, SocketAddr::from(([127, 0, 0, 1], 1)), unread_bytes_max)
    }

    fn command(body: usize) -> Outgoing {
        Outgoing::Command(RemotingCommand::response(0, 1, SerializeType::Json).with_body(vec![0u8; body]))
    }

    /// A client that reads nothing must cost a bounded amount of memory: it is closed and its queue is dropped.
    #[tokio::test]
    async fn a_client_that_does_not_read_is_closed() {
        let connection = connection(10_000);
        for _ in 0..5 {
            connection.send(command(1_000));
        }
        assert!(!connection.is_closed());
        for _ in 0..5 {
            connection.send(command(1_000));
        }
        assert_eq!(connection.close_reason(), Some(CloseReason::NotReading));
        connection.closed().await;
        assert!(connection.take(Vec::new()).await.is_none());
    }

    /// One answer larger than the whole share (a 4 MiB message) must still reach a client that reads.
    #[tokio::test]
    async fn one_large_answer_passes_an_empty_queue() {
        let connection = connection(1_000);
        connection.send(command(5_000));
        assert_eq!(connection.take(Vec::new()).await.map(|items| items.len()), Some(1));
    }

    /// Requests with large answers must wait while the client is behind, and go on as soon as it has read.
    #[tokio::test]
    async fn room_comes_back_with_reading() {
        let connection = connection(10_000);
        connection.send(command(8_000));
        let waiting = tokio::spawn({
            let connection = Arc::clone(&connection);
            async move { connection.room().await }
        });
        connection.take(Vec::new()).await.unwrap();
        assert!(connection.unread_bytes() > 8_000, "what is being written still counts");
        connection.written(1);
        waiting.await.unwrap();
        assert_eq!(connection.unread_bytes(), 0);
    }

    /// A one-way request must get no answer at all, not even an error: the client would take it for another request's.
    #[tokio::test]
    async fn oneway_requests_are_never_answered() {
        let connection = connection(10_000);
        let request = RemotingCommand::oneway(15, 7);
        Responder::new(Arc::clone(&connection), &request, Claim::default()).refuse(1, "no");
        assert_eq!(connection.unread_bytes(), 0);
    }
}

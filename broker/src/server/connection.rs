//! One client connection: a task that reads frames and hands requests on, and a task that writes answers.
//!
//! ```text
//! socket -> read buffer -> frame::decode -> Service::handle      (answers come back whenever, in any order)
//! socket <- vectored write <- frame::encode <- Connection (outbox)
//! ```
//! The reader claims the bytes of a request from the node's budget as they arrive and stops reading while the client does not
//! take its answers. Bytes that are no frame end this connection and nothing else; a frame with a bad header is answered.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use ledgermq_protocol::remoting::command::RemotingCommand;
use ledgermq_protocol::remoting::frame::{self, FrameError, FrameHead, FrameLimits, HeaderError};
use ledgermq_protocol::remoting::response_code::ResponseCode;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::Instant;

use super::admission::{Budget, Claim};
use super::log_gate::LogGate;
use super::outbox::{CloseReason, Connection, Outgoing, Responder};

/// Most bytes asked of the socket at a time, and the step in which the buffer of a large frame grows.
const READ_BYTES_MAX: usize = 64 * 1024;

/// A frame up to this size claims its whole length at once; a larger one claims what has arrived, in steps of this size.
const CLAIM_STEP: usize = 64 * 1024;

/// Reads in a row before the task lets the others of its thread run: one client that floods must not starve them.
const READS_PER_TURN: u32 = 16;

/// Time for the rest of a frame, once its first byte is there. 4 MiB then need 70 KiB a second.
const FRAME_TIMEOUT: Duration = Duration::from_secs(60);

/// Time in which a write must move at least one byte.
const WRITE_STALL: Duration = Duration::from_secs(30);

/// Requests handled in a row before the service is told, even if more have arrived: the first must not wait for all others.
const REQUESTS_PER_TURN: u64 = 64;

/// How long requests that are under way may still be answered once the peer sends no more.
const LINGER: Duration = Duration::from_secs(3);

/// Heads larger than this are not gathered into one buffer with others.
const HEAD_BUFFER_BYTES: usize = 16 * 1024;

/// Who handles the requests of a server.
pub trait Service: Send + Sync + 'static {
    /// Handles one request. It must not block; what takes time runs as a task of its own. The answer goes through `responder`.
    /// It may put its work off until [`Self::taken_in`].
    fn handle(&self, request: RemotingCommand, responder: Responder);

    /// Everything that had arrived is handled, or much of it: what was put off is begun now. Called before the reader waits for
    /// anything.
    fn taken_in(&self) {}

    /// The peer sends no more: forget whatever was kept for it. What is under way may still be answered.
    fn closed(&self, connection: &Arc<Connection>);
}

/// What the two tasks need to know.
#[derive(Debug, Clone)]
pub struct ConnectionSettings {
    /// Bounds on frames.
    pub frame: FrameLimits,
    /// No byte either way for this long closes the connection.
    pub idle: Duration,
    /// Time for the first whole frame.
    pub first_frame: Duration,
    /// Bytes of answers that may wait for the client.
    pub unread_bytes_max: usize,
    /// The node's budget of request bytes.
    pub budget: Budget,
    /// When the server started: the origin of times kept as numbers.
    pub started: Instant,
}

/// Lines about connections that misbehave.
static MISBEHAVIOUR: LogGate = LogGate::new();

/// Runs a connection until it ends. Returns why.
pub async fn run<S: Service>(
    socket: TcpStream,
    connection: Arc<Connection>,
    settings: ConnectionSettings,
    service: Arc<S>,
) -> CloseReason {
    // Small answers must not wait for the client's acknowledgements. A socket that cannot be told so still works.
    let _ = socket.set_nodelay(true);
    let (read, write) = socket.into_split();
    let _ending = Ending { connection: &connection, service: &*service };
    let writer = tokio::spawn(write_answers(write, Arc::clone(&connection), settings.started));
    let mut reader = Reader {
        socket: read,
        buffer: BytesMut::new(),
        claim: Claim::default(),
        frame_since: None,
        frames: 0,
        reads: 0,
        opened: Instant::now(),
        connection: Arc::clone(&connection),
        settings,
    };
    let closed = connection.closed();
    let ended = tokio::select! {
        reason = reader.run(&*service) => Some(reason),
        () = closed => None,
    };
    connection.end();
    // At once: the others of its groups take its queues over, and its held pulls are nobody's any more.
    service.closed(&connection);
    if let Some(reason) = ended {
        if matches!(reason, CloseReason::EndOfStream | CloseReason::FramingLost) {
            let _ = tokio::time::timeout(LINGER, connection.quiet()).await;
        }
        connection.close(reason);
    }
    let reason = connection.close_reason().unwrap_or(CloseReason::Peer);
    let usual = [CloseReason::EndOfStream, CloseReason::Peer, CloseReason::Stopping, CloseReason::Idle];
    if !usual.contains(&reason)
        && let Some(held_back) = MISBEHAVIOUR.pass()
    {
        tracing::warn!(peer = %connection.peer(), ?reason, held_back, "connection closed");
    }
    // The writer ends by itself once the connection is closed; what it had taken may still go out.
    let _ = writer.await;
    reason
}

/// Ends a connection whose reader is gone for whatever reason, a handler that panicked included: the writer would wait for ever.
struct Ending<'a, S: Service> {
    connection: &'a Arc<Connection>,
    service: &'a S,
}

impl<S: Service> Drop for Ending<'_, S> {
    fn drop(&mut self) {
        self.connection.close(CloseReason::Peer);
        self.service.closed(self.connection);
    }
}

struct Reader {
    socket: OwnedReadHalf,
    buffer: BytesMut,
    /// Claim of the frame at the front of the buffer.
    claim: Claim,
    /// When the first byte of that frame was read.
    frame_since: Option<Instant>,
    frames: u64,
    /// Reads since the task last let others run.
    reads: u32,
    opened: Instant,
    connection: Arc<Connection>,
    settings: ConnectionSettings,
}

impl Reader {
    async fn run<S: Service>(&mut self, service: &S) -> CloseReason {
        loop {
            loop {
                match self.next_frame(service).await {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(reason) => return reason,
                }
                if self.frames.is_multiple_of(REQUESTS_PER_TURN) {
                    service.taken_in();
                }
            }
            service.taken_in();
            // Whoever does not read its answers is not read from either.
            self.connection.room().await;
            match self.fill().await {
                Ok(true) => {}
                Ok(false) => return CloseReason::EndOfStream,
                Err(reason) => return reason,
            }
            self.reads += 1;
            if self.reads.is_multiple_of(READS_PER_TURN) {
                tokio::task::yield_now().await;
            }
        }
    }

    /// Handles the frame at the front of the buffer; false when it has not arrived.
    async fn next_frame<S: Service>(&mut self, service: &S) -> Result<bool, CloseReason> {
        let head = match frame::peek(&self.buffer, &self.settings.frame) {
            Ok(Some(head)) => head,
            Ok(None) => return Ok(false),
            Err(error) => return Err(self.lost(&error)),
        };
        let arrived = self.buffer.len().min(head.frame_len);
        let step = if head.frame_len <= CLAIM_STEP { head.frame_len } else { arrived.next_multiple_of(CLAIM_STEP) };
        if !self.settings.budget.try_grow(&mut self.claim, step) {
            service.taken_in();
            if self.settings.budget.grow(&mut self.claim, step).await {
                return Ok(true);
            }
            self.skip_frame(head).await?;
            return Ok(true);
        }
        if arrived < head.frame_len {
            return Ok(false);
        }
        self.frame_since = None;
        self.frames += 1;
        let claim = std::mem::take(&mut self.claim);
        match frame::decode(&mut self.buffer, &self.settings.frame) {
            Ok(Some(command)) if command.is_response() => self.connection.answered(command),
            Ok(Some(command)) => {
                if !self.connection.has_room() {
                    service.taken_in();
                    self.connection.room().await;
                }
                let responder = Responder::new(Arc::clone(&self.connection), &command, claim);
                service.handle(command, responder);
            }
            Ok(None) => unreachable!("the whole frame is in the buffer"),
            Err(FrameError::BadHeader { error, stub }) => self.bad_header(&error, stub, claim)?,
            Err(error) => return Err(self.lost(&error)),
        }
        Ok(true)
    }

    /// Answers a request whose header cannot be decoded, naming the field; closes when there is nobody to answer.
    fn bad_header(
        &self,
        error: &HeaderError,
        stub: Option<Box<RemotingCommand>>,
        claim: Claim,
    ) -> Result<(), CloseReason> {
        match stub {
            Some(stub) => {
                let responder = Responder::new(Arc::clone(&self.connection), &stub, claim);
                responder.refuse(ResponseCode::SYSTEM_ERROR, format!("request header cannot be decoded: {error}"));
                Ok(())
            }
            // A field was wrong in a request that wants no answer: the peer speaks Remoting, the stream is in order.
            None if matches!(error, HeaderError::Field { .. } | HeaderError::Ext(_)) => Ok(()),
            None => {
                if let Some(held_back) = MISBEHAVIOUR.pass() {
                    tracing::warn!(peer = %self.connection.peer(), %error, held_back, "header cannot be decoded");
                }
                Err(CloseReason::FramingLost)
            }
        }
    }

    /// The budget is spent: lets the rest of the frame pass without keeping its body, and says so.
    async fn skip_frame(&mut self, head: FrameHead) -> Result<(), CloseReason> {
        let kept = frame::FRAME_PREFIX_LEN + head.header_len;
        while self.buffer.len() < kept {
            if !self.fill().await? {
                return Err(CloseReason::EndOfStream);
            }
        }
        let mut body_left = head.frame_len - kept;
        let in_buffer = body_left.min(self.buffer.len() - kept);
        let rest = self.buffer.split_off(kept + in_buffer);
        let mut alone = std::mem::replace(&mut self.buffer, rest);
        alone.truncate(kept);
        alone[..4].copy_from_slice(&((kept - 4) as u32).to_be_bytes());
        body_left -= in_buffer;
        self.claim = Claim::default();
        while body_left > 0 {
            let passed = body_left.min(self.buffer.len());
            self.buffer.advance(passed);
            body_left -= passed;
            if body_left > 0 && !self.fill().await? {
                return Err(CloseReason::EndOfStream);
            }
        }
        self.frame_since = None;
        self.frames += 1;
        match frame::decode(&mut alone, &self.settings.frame) {
            Ok(Some(command)) if !command.is_response() => {
                let responder = Responder::new(Arc::clone(&self.connection), &command, Claim::default());
                responder.refuse(
                    ResponseCode::SYSTEM_BUSY,
                    "[TIMEOUT_CLEAN_QUEUE] too many bytes of requests are in flight on this broker, try again later",
                );
                Ok(())
            }
            Ok(_) => Ok(()),
            Err(FrameError::BadHeader { error, stub }) => self.bad_header(&error, stub, Claim::default()),
            Err(error) => Err(self.lost(&error)),
        }
    }

    fn lost(&self, error: &FrameError) -> CloseReason {
        if let Some(held_back) = MISBEHAVIOUR.pass() {
            tracing::warn!(peer = %self.connection.peer(), %error, held_back, "not a Remoting frame");
        }
        CloseReason::FramingLost
    }

    /// Reads what is there, or waits for it. False at the end of the stream.
    async fn fill(&mut self) -> Result<bool, CloseReason> {
        loop {
            if self.buffer.capacity() - self.buffer.len() < READ_BYTES_MAX / 4 {
                self.buffer.reserve(READ_BYTES_MAX);
            }
            // A bounded read: one peer's stream must not make the buffer grow beyond a step at a time.
            match self.socket.try_read_buf(&mut self.buffer) {
                Ok(0) => return Ok(false),
                Ok(_) => {
                    self.frame_since.get_or_insert_with(Instant::now);
                    return Ok(true);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Err(CloseReason::Peer),
            }
            if self.buffer.is_empty() {
                // A connection that waits holds no buffer: there may be many.
                self.buffer = BytesMut::new();
            }
            self.wait_readable().await?;
        }
    }

    async fn wait_readable(&mut self) -> Result<(), CloseReason> {
        let now = Instant::now();
        let (deadline, reason) = if self.frames == 0 {
            (self.opened + self.settings.first_frame, CloseReason::SlowFrame)
        } else if self.buffer.is_empty() {
            (now + self.settings.idle, CloseReason::Idle)
        } else {
            (*self.frame_since.get_or_insert(now) + FRAME_TIMEOUT, CloseReason::SlowFrame)
        };
        match tokio::time::timeout_at(deadline, self.socket.readable()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(CloseReason::Peer),
            // Idle means that nothing went either way.
            Err(_) if reason == CloseReason::Idle && self.written_lately() => Ok(()),
            Err(_) => Err(reason),
        }
    }

    fn written_lately(&self) -> bool {
        let written_at_ms = self.connection.written_at_ms.load(Ordering::Relaxed);
        let written = self.settings.started + Duration::from_millis(written_at_ms);
        written > self.opened && written.elapsed() < self.settings.idle
    }
}

/// Writes whatever waits, a batch at a time, until the connection ends.
async fn write_answers(mut socket: OwnedWriteHalf, connection: Arc<Connection>, started: Instant) {
    let mut taken = Vec::new();
    let mut heads = BytesMut::with_capacity(HEAD_BUFFER_BYTES);
    while let Some(batch) = connection.take(std::mem::take(&mut taken)).await {
        let mut pieces = Pieces::default();
        taken = batch;
        for item in taken.drain(..) {
            encode(item, &mut heads, &mut pieces);
        }
        pieces.push(heads.split().freeze());
        while pieces.has_remaining() {
            match tokio::time::timeout(WRITE_STALL, socket.write_buf(&mut pieces)).await {
                Ok(Ok(n)) if n > 0 => {}
                Ok(_) => return connection.close(CloseReason::Peer),
                Err(_) => return connection.close(CloseReason::NotReading),
            }
        }
        connection.written(started.elapsed().as_millis() as u64);
        heads.reserve(HEAD_BUFFER_BYTES);
    }
    // Best effort: the peer may be gone.
    let _ = socket.shutdown().await;
}

fn encode(item: Outgoing, heads: &mut BytesMut, pieces: &mut Pieces) {
    let (command, slices) = match item {
        Outgoing::Command(command) => (command, Vec::new()),
        Outgoing::Slices(command, slices) => (command, slices),
        Outgoing::Completed(completed) => match completed.into_answer() {
            Some(answer) => (answer, Vec::new()),
            None => return,
        },
    };
    let body_len = command.body.len() + slices.iter().map(Bytes::len).sum::<usize>();
    if let Err(error) = frame::encode_head(&command, body_len, heads) {
        if !command.is_response() {
            // A call: the client would take a stub for the answer to a request of its own. The caller's time-out tells.
            tracing::debug!(code = command.code, %error, "a request for a client cannot be sent");
            return;
        }
        // Nothing we make is that large; the client at least learns it.
        let stub = RemotingCommand::response(ResponseCode::SYSTEM_ERROR, command.opaque, command.serialize)
            .with_remark(format!("the answer cannot be sent: {error}"));
        frame::encode_head(&stub, 0, heads).expect("an answer without fields and body fits");
        return;
    }
    if body_len == 0 {
        return;
    }
    pieces.push(heads.split().freeze());
    if !command.body.is_empty() {
        pieces.push(command.body);
    }
    for slice in slices {
        pieces.push(slice);
    }
}

/// Pieces of memory to be written in order with vectored writes.
#[derive(Default)]
struct Pieces {
    queue: VecDeque<Bytes>,
    remaining: usize,
}

impl Pieces {
    fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.remaining += piece.len();
            self.queue.push_back(piece);
        }
    }
}

impl Buf for Pieces {
    fn remaining(&self) -> usize {
        self.remaining
    }

    fn chunk(&self) -> &[u8] {
        self.queue.front().map_or(&[], |piece| piece)
    }

    fn chunks_vectored<'a>(&'a self, dst: &mut [IoSlice<'a>]) -> usize {
        let n = dst.len().min(self.queue.len());
        for (slot, piece) in dst.iter_mut().zip(&self.queue) {
            *slot = IoSlice::new(piece);
        }
        n
    }

    fn advance(&mut self, mut count: usize) {
        self.remaining -= count;
        while count > 0 {
            let front = self.queue.front_mut().expect("no more is advanced than remains");
            let step = count.min(front.len());
            front.advance(step);
            count -= step;
            if front.is_empty() {
                self.queue.pop_front();
            }
        }
    }
}

#[cfg(test)]
mod tests;

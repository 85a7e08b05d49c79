//! One connection: frames in, requests to the handlers, answers to the outbox.
//!
//! It reads no further while its peer leaves answers unread, and gives up a peer that is silent, stops inside a frame, or whose
//! bytes are no Remoting. A request that cannot be read is answered when its id could be; other connections never notice.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use ledgermq_protocol::remoting::command::RemotingCommand;
use ledgermq_protocol::remoting::frame::{self, FrameError, FrameLimits};
use ledgermq_protocol::remoting::response_code::ResponseCode;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::TcpStream;
use tokio::sync::SemaphorePermit;
use tokio::time::{Instant, timeout_at};
use tracing::{debug, warn};

use super::Server;
use super::outbox::{self, Outbox};
use crate::handler;
use crate::liveness::ConnectionId;

/// Longest time that a frame may take from its first byte to its last, and that a large one may wait for room.
const FRAME_TIME_MAX: Duration = Duration::from_secs(30);

/// Longest time that a peer may take to read answers before its next request is looked at.
const ROOM_WAIT_MAX: Duration = Duration::from_secs(30);

/// How long answers may still be written to a peer that sends no more.
const LINGER: Duration = Duration::from_secs(3);

/// Frames up to this size need no share of the budget for large requests: `connections_max` bounds their sum well enough.
const SMALL_FRAME_LEN: usize = 64 * 1024;

/// Bytes per unit of that budget.
pub(super) const BUDGET_UNIT: usize = 1024;

/// What a connection knows of itself.
pub(crate) struct Peer {
    pub(crate) id: ConnectionId,
    pub(crate) outbox: Outbox,
    /// Whether a broker has spoken on it, so that its loss means something.
    pub(crate) is_broker: std::sync::atomic::AtomicBool,
    /// Route watches parked on it.
    pub(crate) watches: std::sync::atomic::AtomicUsize,
}

/// Serves one accepted socket until either side ends it.
pub(super) async fn serve(server: Arc<Server>, id: ConnectionId, socket: TcpStream) {
    // Latency matters more than the number of packets; a socket that refuses is still usable.
    let _ = socket.set_nodelay(true);
    let (reader, writer) = socket.into_split();
    let (outbox, queued) = outbox::outbox(server.config.unread_bytes_max);
    let peer = Arc::new(Peer { id, outbox, is_broker: false.into(), watches: 0.into() });
    let writing = tokio::spawn(queued.drain_into(writer));
    let finished = tokio::select! {
        end = read_requests(&server, &peer, reader) => {
            debug!(connection = id, %end, "connection ended");
            matches!(end, End::Peer)
        }
        () = peer.outbox.closed() => {
            debug!(connection = id, "connection closed");
            false
        }
        () = server.stopped() => false,
    };
    if finished {
        // It may have closed its sending side only, and wait for the answer.
        let _ = tokio::time::timeout(LINGER, peer.outbox.quiet()).await;
    }
    peer.outbox.close();
    // The writer sees the closed outbox; it cannot fail otherwise.
    let _ = writing.await;
    if peer.is_broker.load(std::sync::atomic::Ordering::Acquire) {
        server.lose_connection(id);
    }
}

/// Why reading ended.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("the peer closed it")]
    Peer,
    #[error("the socket failed: {0}")]
    Socket(#[from] std::io::Error),
    #[error("nothing came for too long")]
    Idle,
    #[error("a frame did not become whole in time")]
    SlowFrame,
    #[error("the peer does not read its answers")]
    NotReading,
    #[error(transparent)]
    Framing(#[from] FrameError),
}

async fn read_requests(server: &Arc<Server>, peer: &Arc<Peer>, mut socket: impl AsyncRead + Unpin) -> End {
    let idle = Duration::from_millis(server.config.idle_ms);
    let limits = FrameLimits::default();
    let mut buf = BytesMut::new();
    let mut claim: Option<SemaphorePermit<'_>> = None;
    let mut frame_deadline: Option<Instant> = None;
    loop {
        match next_request(&mut buf, &limits, &peer.outbox) {
            Ok(Some(request)) => {
                frame_deadline = None;
                if let Some(request) = request {
                    if tokio::time::timeout(ROOM_WAIT_MAX, peer.outbox.room()).await.is_err() {
                        return End::NotReading;
                    }
                    handler::handle(server, peer, request);
                }
                claim = None;
                continue;
            }
            Ok(None) => {}
            Err(error) => return error.into(),
        }
        if !buf.is_empty() {
            let deadline = *frame_deadline.get_or_insert_with(|| Instant::now() + FRAME_TIME_MAX);
            match frame::peek(&buf, &limits) {
                Ok(Some(head)) if head.frame_len > SMALL_FRAME_LEN && claim.is_none() => {
                    let units = head.frame_len.div_ceil(BUDGET_UNIT) as u32;
                    match timeout_at(deadline, server.large_requests.acquire_many(units)).await {
                        Ok(Ok(permit)) => claim = Some(permit),
                        Ok(Err(_)) | Err(_) => return End::SlowFrame,
                    }
                }
                Ok(_) => {}
                Err(error) => return error.into(),
            }
        }
        let deadline = frame_deadline.unwrap_or_else(|| Instant::now() + idle);
        match timeout_at(deadline, socket.read_buf(&mut buf)).await {
            Ok(Ok(0)) => return End::Peer,
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return error.into(),
            Err(_) if frame_deadline.is_some() => return End::SlowFrame,
            Err(_) => return End::Idle,
        }
    }
}

/// Takes the next frame off `buf`: `None` while it is incomplete, `Some(None)` for one that was answered or dropped right here.
fn next_request(
    buf: &mut BytesMut,
    limits: &FrameLimits,
    outbox: &Outbox,
) -> Result<Option<Option<RemotingCommand>>, FrameError> {
    match frame::decode(buf, limits) {
        Ok(None) => Ok(None),
        // We ask our peers nothing, so a response belongs to nobody.
        Ok(Some(command)) if command.is_response() => Ok(Some(None)),
        Ok(Some(command)) => Ok(Some(Some(command))),
        Err(FrameError::BadHeader { error, stub }) => {
            if let Some(stub) = stub {
                let answer = RemotingCommand::response_to(&stub, ResponseCode::SYSTEM_ERROR);
                outbox.send(&answer.with_remark(format!("cannot read the request's header: {error}")));
            } else {
                warn!(%error, "a frame without a readable header was dropped");
            }
            Ok(Some(None))
        }
        Err(lost) => Err(lost),
    }
}

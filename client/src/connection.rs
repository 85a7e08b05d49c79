//! One TCP connection to a broker or name server: many requests at once, told apart by their opaque number.
//!
//! Callers encode and queue, one task writes what has gathered, one reads and hands each answer to its caller. It never retries
//! and never picks an address; it says of every request that failed whether its bytes may have reached the peer.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use ledgermq_protocol::remoting::command::RemotingCommand;
use ledgermq_protocol::remoting::frame::{self, FrameLimits};
use ledgermq_protocol::remoting::response_code::ResponseCode;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::Instant;
use tracing::debug;

use crate::error::RequestError;
use crate::inbound::Inbound;

/// Bytes of requests on one connection that are not answered yet. Who comes later waits, within its own time.
const IN_FLIGHT_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What a request counts at least, so that their number is bounded too: 16,384.
const REQUEST_BYTES_MIN: usize = 4 * 1024;

/// Bytes per unit of the semaphore, which counts in 32 bits.
const UNIT: usize = 64;

/// Most frames that are written with one call.
const FRAMES_PER_WRITE: usize = 256;

/// A connection without traffic is closed on our side after this time, before a server does it (120 s) while a request is on the
/// way.
const IDLE_MAX: Duration = Duration::from_secs(100);

/// After so many time-outs in a row without a byte from the peer, the connection is given up.
const SILENT_TIMEOUTS_MAX: u64 = 3;

/// An open connection. Ends when it is dropped by everybody, closed, or lost.
#[derive(Debug)]
pub(crate) struct Connection {
    /// Tells it from others to the same address, earlier or later.
    id: u64,
    addr: Arc<str>,
    next_opaque: AtomicI32,
    frames: mpsc::UnboundedSender<Frame>,
    in_flight: Arc<Semaphore>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    addr: Arc<str>,
    inbound: Arc<Inbound>,
    waiting: Mutex<Waiting>,
    closed: AtomicBool,
    closing: Notify,
    /// Time-outs since the last byte came.
    silent_timeouts: AtomicU64,
}

#[derive(Debug, Default)]
struct Waiting {
    callers: HashMap<i32, Caller>,
    /// Why the connection ended; nobody may start to wait then.
    end: Option<Arc<str>>,
}

#[derive(Debug)]
struct Caller {
    answer: oneshot::Sender<Result<RemotingCommand, RequestError>>,
    /// Whether the writer has taken the frame.
    written: bool,
}

#[derive(Debug)]
struct Frame {
    bytes: Bytes,
    /// `None` for a one-way request.
    opaque: Option<i32>,
    /// For a one-way request: its share of the bound, which ends once it is written.
    _claim: Option<OwnedSemaphorePermit>,
}

impl Connection {
    /// Connects to `addr` ("host:port", resolved anew each time) within `timeout`. `id` is the caller's; what the peer sends
    /// unasked goes to `inbound`.
    pub(crate) async fn open(
        id: u64,
        addr: &Arc<str>,
        timeout: Duration,
        inbound: &Arc<Inbound>,
    ) -> Result<Arc<Self>, RequestError> {
        let failed = |why: String| RequestError::Connect { addr: addr.to_string(), why: why.into() };
        let socket = match tokio::time::timeout(timeout, TcpStream::connect(&**addr)).await {
            Ok(Ok(socket)) => socket,
            Ok(Err(error)) => return Err(failed(error.to_string())),
            Err(_) => return Err(failed(format!("no answer within {} ms", timeout.as_millis()))),
        };
        // Latency matters more than the number of packets; a socket that refuses is still usable.
        let _ = socket.set_nodelay(true);
        let (reader, writer) = socket.into_split();
        let (frames, queued) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            addr: Arc::clone(addr),
            inbound: Arc::clone(inbound),
            waiting: Mutex::default(),
            closed: AtomicBool::new(false),
            closing: Notify::new(),
            silent_timeouts: AtomicU64::new(0),
        });
        tokio::spawn(write_frames(Arc::clone(&shared), queued, writer));
        tokio::spawn(read_answers(Arc::clone(&shared), frames.downgrade(), reader));
        let in_flight = Arc::new(Semaphore::new(IN_FLIGHT_BYTES_MAX / UNIT));
        Ok(Arc::new(Self { id, addr: Arc::clone(addr), next_opaque: AtomicI32::new(1), frames, in_flight, shared }))
    }

    /// Its number among the connections of the client.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Whether requests can still be sent.
    pub(crate) fn is_open(&self) -> bool {
        !self.shared.closed.load(Ordering::Acquire)
    }

    /// Sends a request and waits for its answer until `deadline`. Its opaque number is set here.
    pub(crate) async fn request(
        &self,
        mut request: RemotingCommand,
        deadline: Instant,
    ) -> Result<RemotingCommand, RequestError> {
        let started = Instant::now();
        let opaque = self.next_opaque.fetch_add(1, Ordering::Relaxed);
        request.opaque = opaque;
        let bytes = encode(&request)?;
        drop(request);
        let _claim = self.claim(bytes.len(), deadline).await?;
        let (answer, answered) = oneshot::channel();
        {
            let mut waiting = self.shared.waiting.lock();
            if let Some(why) = &waiting.end {
                return Err(RequestError::NotSent { addr: self.addr.to_string(), why: Arc::clone(why) });
            }
            waiting.callers.insert(opaque, Caller { answer, written: false });
        }
        // However this ends, a cancelled future included, the entry goes.
        let _entry = Entry { shared: &self.shared, opaque };
        if self.frames.send(Frame { bytes, opaque: Some(opaque), _claim: None }).is_err() {
            return Err(self.shared.not_sent());
        }
        match tokio::time::timeout_at(deadline, answered).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(self.shared.lost("the connection ended")),
            Err(_) => Err(self.timed_out(opaque, started)),
        }
    }

    /// Queues a request that wants no answer.
    pub(crate) async fn oneway(&self, mut request: RemotingCommand, deadline: Instant) -> Result<(), RequestError> {
        request.opaque = self.next_opaque.fetch_add(1, Ordering::Relaxed);
        let bytes = encode(&request)?;
        let claim = self.claim(bytes.len(), deadline).await?;
        if !self.is_open() || self.frames.send(Frame { bytes, opaque: None, _claim: Some(claim) }).is_err() {
            return Err(self.shared.not_sent());
        }
        Ok(())
    }

    /// Ends the connection; whoever waits is told.
    pub(crate) fn close(&self, why: &str) {
        self.shared.end(why);
    }

    async fn claim(&self, len: usize, deadline: Instant) -> Result<OwnedSemaphorePermit, RequestError> {
        let units = len.max(REQUEST_BYTES_MIN).div_ceil(UNIT) as u32;
        let busy = || RequestError::Busy { addr: self.addr.to_string(), bytes_max: IN_FLIGHT_BYTES_MAX };
        let acquired = tokio::time::timeout_at(deadline, Arc::clone(&self.in_flight).acquire_many_owned(units)).await;
        acquired.map_err(|_| busy())?.map_err(|_| busy())
    }

    fn timed_out(&self, opaque: i32, started: Instant) -> RequestError {
        let written = self.shared.waiting.lock().callers.get(&opaque).is_none_or(|caller| caller.written);
        let silent = self.shared.silent_timeouts.fetch_add(1, Ordering::AcqRel) + 1;
        if silent >= SILENT_TIMEOUTS_MAX {
            self.shared.end("the peer does not answer");
        }
        let after_ms = started.elapsed().as_millis() as u64;
        if written {
            RequestError::TimedOut { addr: self.addr.to_string(), after_ms }
        } else {
            let why = format!("not written within {after_ms} ms");
            RequestError::NotSent { addr: self.addr.to_string(), why: why.into() }
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.shared.end("no longer used");
    }
}

struct Entry<'a> {
    shared: &'a Shared,
    opaque: i32,
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.shared.waiting.lock().callers.remove(&self.opaque);
    }
}

fn encode(request: &RemotingCommand) -> Result<Bytes, RequestError> {
    let mut buf = BytesMut::with_capacity(512 + request.body.len());
    frame::encode(request, &mut buf).map_err(|error| RequestError::TooLarge(error.to_string()))?;
    Ok(buf.freeze())
}

impl Shared {
    /// Ends the connection once: fails everybody who waits, each by whether its frame was taken for writing.
    fn end(&self, why: &str) {
        let why: Arc<str> = why.into();
        let callers = {
            let mut waiting = self.waiting.lock();
            if waiting.end.is_some() {
                return;
            }
            waiting.end = Some(Arc::clone(&why));
            std::mem::take(&mut waiting.callers)
        };
        debug!(addr = &*self.addr, why = &*why, waiting = callers.len(), "connection ended");
        self.closed.store(true, Ordering::Release);
        self.closing.notify_waiters();
        self.inbound.connection_changed();
        for caller in callers.into_values() {
            let (addr, why) = (self.addr.to_string(), Arc::clone(&why));
            let error =
                if caller.written { RequestError::Lost { addr, why } } else { RequestError::NotSent { addr, why } };
            // A caller that has gone away needs no answer.
            let _ = caller.answer.send(Err(error));
        }
    }

    fn not_sent(&self) -> RequestError {
        let why = self.waiting.lock().end.clone().unwrap_or_else(|| "the connection is closed".into());
        RequestError::NotSent { addr: self.addr.to_string(), why }
    }

    fn lost(&self, otherwise: &str) -> RequestError {
        let why = self.waiting.lock().end.clone().unwrap_or_else(|| otherwise.into());
        RequestError::Lost { addr: self.addr.to_string(), why }
    }

    async fn until_closed(&self) {
        loop {
            let closing = self.closing.notified();
            if self.closed.load(Ordering::Acquire) {
                return;
            }
            closing.await;
        }
    }

    /// From here on the frames' outcome is unknown if the connection is lost.
    fn mark_written(&self, frames: &[Frame]) {
        let mut waiting = self.waiting.lock();
        for opaque in frames.iter().filter_map(|frame| frame.opaque) {
            if let Some(caller) = waiting.callers.get_mut(&opaque) {
                caller.written = true;
            }
        }
    }
}

async fn write_frames(
    shared: Arc<Shared>,
    mut queued: mpsc::UnboundedReceiver<Frame>,
    mut socket: impl AsyncWrite + Unpin,
) {
    let mut batch = Vec::with_capacity(FRAMES_PER_WRITE);
    let mut joined = BytesMut::new();
    loop {
        tokio::select! {
            taken = queued.recv_many(&mut batch, FRAMES_PER_WRITE) => if taken == 0 { break },
            () = shared.until_closed() => break,
        }
        shared.mark_written(&batch);
        let bytes: &[u8] = if let [single] = batch.as_slice() {
            &single.bytes
        } else {
            joined.clear();
            batch.iter().for_each(|frame| joined.extend_from_slice(&frame.bytes));
            &joined
        };
        let written = tokio::select! {
            written = socket.write_all(bytes) => written,
            () = shared.until_closed() => break,
        };
        if let Err(error) = written {
            shared.end(&format!("writing failed: {error}"));
            break;
        }
        batch.clear();
    }
    shared.end("no longer used");
    // A failed shutdown means that the peer is gone already.
    let _ = socket.shutdown().await;
}

async fn read_answers(
    shared: Arc<Shared>,
    frames: mpsc::WeakUnboundedSender<Frame>,
    mut socket: impl AsyncRead + Unpin,
) {
    let limits = FrameLimits::default();
    let mut buf = BytesMut::with_capacity(64 * 1024);
    let why = loop {
        match frame::decode(&mut buf, &limits) {
            Ok(Some(command)) if command.is_response() => {
                let caller = shared.waiting.lock().callers.remove(&command.opaque);
                // An answer that nobody waits for came after its time-out.
                if let Some(caller) = caller {
                    let _ = caller.answer.send(Ok(command));
                }
                continue;
            }
            Ok(Some(request)) => {
                if !shared.inbound.take(&request) {
                    decline(&request, &frames);
                }
                continue;
            }
            Ok(None) => {}
            Err(error) => break format!("the peer sent no Remoting frame: {error}"),
        }
        let read = tokio::select! {
            read = tokio::time::timeout(IDLE_MAX, socket.read_buf(&mut buf)) => read,
            () = shared.until_closed() => return,
        };
        match read {
            Ok(Ok(0)) if buf.is_empty() => break "the peer closed it".to_owned(),
            Ok(Ok(0)) => break "the peer closed it inside a frame".to_owned(),
            Ok(Ok(_)) => shared.silent_timeouts.store(0, Ordering::Release),
            Ok(Err(error)) => break format!("reading failed: {error}"),
            Err(_) if shared.waiting.lock().callers.is_empty() => break "idle".to_owned(),
            Err(_) => {}
        }
    };
    shared.end(&why);
}

/// Answers what a server asks us and we cannot do: it shall not wait for its time-out.
fn decline(request: &RemotingCommand, frames: &mpsc::WeakUnboundedSender<Frame>) {
    debug!(code = request.code, "request of a server declined");
    if request.is_oneway() {
        return;
    }
    let answer = RemotingCommand::response_to(request, ResponseCode::REQUEST_CODE_NOT_SUPPORTED)
        .with_remark(format!(" request type {} not supported by this client", request.code));
    if let (Ok(bytes), Some(frames)) = (encode(&answer), frames.upgrade()) {
        // A closed connection needs no answer.
        let _ = frames.send(Frame { bytes, opaque: None, _claim: None });
    }
}

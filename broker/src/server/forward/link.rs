//! A connection to another member's clients' port: made when first needed and again after it broke, many requests at a time.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use ledgermq_protocol::remoting::command::RemotingCommand;
use ledgermq_protocol::remoting::frame::{self, FrameLimits};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

/// Time for connecting.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);

/// A write that moves nothing for so long ends the connection.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// Frames that wait for the socket; above it their senders wait.
const FRAMES_MAX: usize = 1_024;

/// Bytes gathered for one write, and read at a time.
const CHUNK: usize = 64 << 10;

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LinkError {
    /// The request did not leave, or was not taken: it can be sent elsewhere.
    NotSent,
    /// It may have been carried out.
    Lost,
}

/// Who waits for which answer.
type Waiting = Arc<Mutex<HashMap<i32, oneshot::Sender<RemotingCommand>>>>;

/// To one member.
pub(super) struct Link {
    address: String,
    /// The lock is held while connecting: all who come meanwhile want the same connection.
    open: tokio::sync::Mutex<Option<Open>>,
    opaque: AtomicI32,
}

#[derive(Clone)]
struct Open {
    frames: mpsc::Sender<Bytes>,
    waiting: Waiting,
}

impl Link {
    pub(super) fn new(address: String) -> Self {
        Self { address, open: tokio::sync::Mutex::new(None), opaque: AtomicI32::new(0) }
    }

    /// Sends a request and waits for its answer.
    pub(super) async fn ask(&self, mut request: RemotingCommand) -> Result<RemotingCommand, LinkError> {
        let open = self.open().await?;
        request.opaque = self.opaque.fetch_add(1, Ordering::Relaxed);
        let frame = encode(&request)?;
        let (answer, wait) = oneshot::channel();
        open.waiting.lock().insert(request.opaque, answer);
        let _forget = Forget(&open.waiting, request.opaque);
        // The pump has ended: nothing of this frame was written.
        open.frames.send(frame).await.map_err(|_| LinkError::NotSent)?;
        wait.await.map_err(|_| LinkError::Lost)
    }

    /// Sends a request that wants no answer.
    pub(super) async fn tell(&self, request: RemotingCommand) -> Result<(), LinkError> {
        let open = self.open().await?;
        open.frames.send(encode(&request)?).await.map_err(|_| LinkError::NotSent)
    }

    async fn open(&self) -> Result<Open, LinkError> {
        let mut slot = self.open.lock().await;
        if let Some(open) = slot.as_ref().filter(|open| !open.frames.is_closed()) {
            return Ok(open.clone());
        }
        let connected = timeout(CONNECT_TIMEOUT, TcpStream::connect(&self.address)).await;
        let Ok(Ok(socket)) = connected else { return Err(LinkError::NotSent) };
        // A small answer must not wait for an acknowledgement. A socket that cannot be told so still works.
        let _ = socket.set_nodelay(true);
        let (frames, to_write) = mpsc::channel(FRAMES_MAX);
        let waiting = Waiting::default();
        let pumped = Arc::clone(&waiting);
        let address = self.address.clone();
        tokio::spawn(async move {
            let ended = pump(socket, to_write, &pumped).await;
            tracing::debug!(%address, ?ended, "the connection for forwarded requests ended");
            // Whoever still waits learns that the answer is lost.
            pumped.lock().clear();
        });
        let open = Open { frames, waiting };
        *slot = Some(open.clone());
        Ok(open)
    }
}

/// Takes a request out of the table that nobody waits for any more.
struct Forget<'a>(&'a Waiting, i32);

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.0.lock().remove(&self.1);
    }
}

fn encode(request: &RemotingCommand) -> Result<Bytes, LinkError> {
    let mut bytes = BytesMut::new();
    // One that is too large with the mark on it cannot be passed on.
    frame::encode(request, &mut bytes).map_err(|_| LinkError::NotSent)?;
    Ok(bytes.freeze())
}

/// Writes frames and hands answers out until either side ends. Dropping `frames` closes the channel: later senders see it.
async fn pump(socket: TcpStream, mut frames: mpsc::Receiver<Bytes>, waiting: &Waiting) -> io::Result<()> {
    let (mut reader, mut writer) = socket.into_split();
    let write = async {
        let mut gathered = BytesMut::with_capacity(CHUNK);
        while let Some(first) = frames.recv().await {
            gathered.extend_from_slice(&first);
            while gathered.len() < CHUNK
                && let Ok(next) = frames.try_recv()
            {
                gathered.extend_from_slice(&next);
            }
            let stalled = |_| io::Error::from(io::ErrorKind::TimedOut);
            timeout(WRITE_TIMEOUT, writer.write_all(&gathered)).await.map_err(stalled)??;
            gathered.clear();
        }
        Ok::<(), io::Error>(())
    };
    let read = async {
        let mut buffer = BytesMut::with_capacity(CHUNK);
        loop {
            let invalid = |error: frame::FrameError| io::Error::new(io::ErrorKind::InvalidData, error);
            while let Some(answer) = frame::decode(&mut buffer, &FrameLimits::default()).map_err(invalid)? {
                let waits = waiting.lock().remove(&answer.opaque).filter(|_| answer.is_response());
                if let Some(waits) = waits {
                    // Its request was given up in this very moment.
                    let _ = waits.send(answer);
                }
            }
            if reader.read_buf(&mut buffer).await? == 0 {
                return Err::<(), io::Error>(io::ErrorKind::UnexpectedEof.into());
            }
        }
    };
    tokio::select! {
        ended = write => ended,
        ended = read => ended,
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::net::TcpListener;

    use super::*;

    /// A member that answers each request with its own opaque, `answers` times per connection, and then hangs up.
    async fn member(answers: usize) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let mut buffer = BytesMut::new();
                let mut left = answers;
                while left > 0 {
                    if socket.read_buf(&mut buffer).await.unwrap() == 0 {
                        break;
                    }
                    while let Some(request) = frame::decode(&mut buffer, &FrameLimits::default()).unwrap() {
                        if left == 0 {
                            break;
                        }
                        left -= 1;
                        let answer = RemotingCommand::response(request.code, request.opaque, request.serialize);
                        let mut out = BytesMut::new();
                        frame::encode(&answer, &mut out).unwrap();
                        socket.write_all(&out).await.unwrap();
                    }
                }
            }
        });
        address
    }

    /// Requests under way together must each get their own answer, or a client is told another one's offset.
    #[tokio::test]
    async fn each_request_gets_its_own_answer() {
        let link = Arc::new(Link::new(member(1_000).await.to_string()));
        let asks: Vec<_> = (0..100)
            .map(|code| {
                let link = Arc::clone(&link);
                tokio::spawn(async move { link.ask(RemotingCommand::request(code, 5)).await })
            })
            .collect();
        for (code, ask) in (0..).zip(asks) {
            assert_eq!(ask.await.unwrap().unwrap().code, code);
        }
        assert!(link.open.lock().await.as_ref().unwrap().waiting.lock().is_empty());
    }

    /// What may have been carried out must not count as not sent: it would be sent twice; and a link must come back.
    #[tokio::test]
    async fn a_lost_answer_is_told_from_a_request_that_never_left() {
        let link = Link::new(member(1).await.to_string());
        // The member hangs up behind each answer. A request that meets the end of a connection fails, and a later one connects.
        let mut answered = 0;
        for code in 0..1_000 {
            answered += u32::from(link.ask(RemotingCommand::request(code, 0)).await.is_ok());
            if answered == 3 {
                break;
            }
        }
        assert_eq!(answered, 3, "the link does not come back");
        let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let link = Link::new(nobody.to_string());
        assert_eq!(link.ask(RemotingCommand::request(1, 0)).await, Err(LinkError::NotSent));
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let link = Link::new(silent.local_addr().unwrap().to_string());
        let hang_up = async {
            let (mut socket, _) = silent.accept().await.unwrap();
            let mut byte = [0; 1];
            socket.read_exact(&mut byte).await.unwrap();
        };
        let (answer, ()) = tokio::join!(link.ask(RemotingCommand::request(1, 0)), hang_up);
        assert_eq!(answer, Err(LinkError::Lost));
    }
}

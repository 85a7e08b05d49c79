//! What waits to be written to one peer: bounded by bytes, filled without waiting, emptied by the connection's writer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::{Bytes, BytesMut};
use ledgermq_protocol::remoting::command::RemotingCommand;
use ledgermq_protocol::remoting::frame;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, mpsc};
use tracing::warn;

/// Frames that the writer takes at once.
const FRAMES_PER_WRITE: usize = 64;

/// The filling side. Cheap to clone; the connection ends when it is closed by anybody.
#[derive(Debug, Clone)]
pub(crate) struct Outbox {
    frames: mpsc::UnboundedSender<Bytes>,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    /// Bytes that are queued or being written. This, not the channel, is the bound.
    bytes: AtomicUsize,
    bytes_max: usize,
    closed: AtomicBool,
    closing: Notify,
    drained: Notify,
}

/// The emptying side.
#[derive(Debug)]
pub(crate) struct OutboxReader {
    frames: mpsc::UnboundedReceiver<Bytes>,
    state: Arc<State>,
}

/// An outbox for a peer that may leave `bytes_max` bytes unread.
pub(crate) fn outbox(bytes_max: usize) -> (Outbox, OutboxReader) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let state = Arc::new(State {
        bytes: AtomicUsize::new(0),
        bytes_max,
        closed: AtomicBool::new(false),
        closing: Notify::new(),
        drained: Notify::new(),
    });
    (Outbox { frames: sender, state: Arc::clone(&state) }, OutboxReader { frames: receiver, state })
}

impl Outbox {
    /// Queues an answer. A peer that has left too much unread is closed; one answer always fits an empty outbox.
    pub(crate) fn send(&self, answer: &RemotingCommand) {
        let mut buf = BytesMut::new();
        if let Err(error) = frame::encode(answer, &mut buf) {
            warn!(code = answer.code, %error, "an answer does not fit a frame, the connection is closed");
            return self.close();
        }
        let len = buf.len();
        let before = self.state.bytes.fetch_add(len, Ordering::AcqRel);
        if (before > 0 && before + len > self.state.bytes_max) || self.frames.send(buf.freeze()).is_err() {
            self.close();
        }
    }

    /// Waits until at most half of the bound is used. Requests are read no faster than their answers are.
    pub(crate) async fn room(&self) {
        self.drained_so_that(|state| state.bytes.load(Ordering::Acquire) <= state.bytes_max / 2).await;
    }

    /// Waits until everything that was queued is with the system, or the connection is closed.
    pub(crate) async fn quiet(&self) {
        let is_quiet = |state: &State| state.bytes.load(Ordering::Acquire) == 0 || state.closed.load(Ordering::Acquire);
        self.drained_so_that(is_quiet).await;
    }

    async fn drained_so_that(&self, holds: impl Fn(&State) -> bool) {
        loop {
            let drained = self.state.drained.notified();
            if holds(&self.state) {
                return;
            }
            drained.await;
        }
    }

    /// Ends the connection; what is queued is dropped.
    pub(crate) fn close(&self) {
        self.state.closed.store(true, Ordering::Release);
        self.state.closing.notify_waiters();
        self.state.drained.notify_waiters();
    }

    /// Ends once the connection is closed.
    pub(crate) async fn closed(&self) {
        self.state.until_closed().await;
    }
}

impl State {
    async fn until_closed(&self) {
        loop {
            let closing = self.closing.notified();
            if self.closed.load(Ordering::Acquire) {
                return;
            }
            closing.await;
        }
    }
}

impl OutboxReader {
    /// Writes all that is queued until the outbox is closed or the socket fails.
    pub(crate) async fn drain_into(mut self, mut socket: impl AsyncWrite + Unpin) {
        let mut batch = Vec::with_capacity(FRAMES_PER_WRITE);
        let state = Arc::clone(&self.state);
        loop {
            tokio::select! {
                taken = self.frames.recv_many(&mut batch, FRAMES_PER_WRITE) => if taken == 0 { break },
                () = state.until_closed() => break,
            }
            let bytes: usize = batch.iter().map(Bytes::len).sum();
            let write = async {
                if let [single] = batch.as_slice() {
                    socket.write_all(single).await
                } else {
                    socket.write_all(&batch.concat()).await
                }
            };
            let written = tokio::select! {
                written = write => written,
                () = state.until_closed() => break,
            };
            if written.is_err() {
                break;
            }
            batch.clear();
            state.bytes.fetch_sub(bytes, Ordering::AcqRel);
            state.drained.notify_waiters();
        }
        state.closed.store(true, Ordering::Release);
        state.closing.notify_waiters();
        state.drained.notify_waiters();
        // A failed shutdown means that the peer is gone already.
        let _ = socket.shutdown().await;
    }
}

#[cfg(test)]
mod tests {
    use ledgermq_protocol::remoting::command::SerializeType;

    use super::*;

    fn answer(body: usize) -> RemotingCommand {
        RemotingCommand::response(0, 1, SerializeType::Json).with_body(vec![0u8; body])
    }

    /// A peer that reads nothing must cost a bounded amount of memory.
    #[tokio::test]
    async fn a_peer_that_does_not_read_is_closed() {
        let (outbox, _reader) = outbox(10_000);
        outbox.send(&answer(50_000));
        assert!(!outbox.state.closed.load(Ordering::Acquire), "one answer always fits");
        outbox.send(&answer(1));
        outbox.closed().await;
    }

    /// A reader that catches up makes room again.
    #[tokio::test]
    async fn room_comes_back_with_reading() {
        let (outbox, reader) = outbox(10_000);
        outbox.send(&answer(8_000));
        let (socket, mut peer) = tokio::io::duplex(1 << 16);
        tokio::spawn(reader.drain_into(socket));
        outbox.room().await;
        let mut head = [0; 4];
        tokio::io::AsyncReadExt::read_exact(&mut peer, &mut head).await.unwrap();
        assert!(u32::from_be_bytes(head) > 8_000);
    }
}

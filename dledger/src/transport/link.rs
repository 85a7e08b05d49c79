//! The dialing side of one lane to one peer: connects, says who it is, writes what waits in one go, and starts again
//! when the connection breaks.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::codec::{self, PeerMessage};
use super::{Lane, Local, Replicas, handshake};
use crate::raft_loop::{Inbox, LoopEvent};

/// Pause before the first new try; doubles up to the longest.
const PAUSE_MIN: Duration = Duration::from_millis(20);
/// Longest pause: a node that comes back is heard within this time.
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// A peer that takes no bytes for this long is cut off, so that the raft loop learns of it.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes gathered for one `writev`.
const GATHER_BYTES_MAX: usize = 4 << 20;
/// Slices in one `writev` (`IOV_MAX` is 1,024).
const SLICES_MAX: usize = 512;

/// A peer node: its address, and the replicas that live there.
pub(super) struct PeerNode {
    pub(super) address: String,
    pub(super) replicas: Replicas,
}

/// Runs until the raft loop has ended, or nobody of interest lives there any more.
pub(super) async fn run(
    local: Arc<Local>,
    peer: PeerNode,
    lane: Lane,
    mut messages: mpsc::Receiver<PeerMessage>,
    events: Inbox<LoopEvent>,
) {
    let mut pause = PAUSE_MIN;
    let mut refused = None;
    loop {
        match connect(&local, &peer, lane, &events).await {
            Ok(stream) => {
                pause = PAUSE_MIN;
                refused = None;
                // What waited for the connection is old; Raft knows what to send now.
                let mut dropped = false;
                while messages.try_recv().is_ok() {
                    dropped = true;
                }
                if dropped {
                    lost(&peer, &events);
                }
                match pump(stream, &mut messages).await {
                    Ok(()) => return,
                    Err(error) => tracing::info!(peer = %peer.address, ?lane, %error, "connection to peer broke"),
                }
            }
            Err(error) => {
                let text = error.to_string();
                if error.kind() == io::ErrorKind::ConnectionRefused && lane == Lane::Control {
                    for (group, peer) in peer.replicas.lock().iter() {
                        let _ = events.try_send(LoopEvent::Refused { group: *group, peer: *peer });
                    }
                }
                if error.kind() == io::ErrorKind::PermissionDenied && refused.as_ref() != Some(&text) {
                    tracing::error!(peer = %peer.address, reason = %text, "peer refuses this node");
                    refused = Some(text);
                }
            }
        }
        lost(&peer, &events);
        if messages.is_closed() {
            return;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Messages to the peer were lost, or may have been.
fn lost(peer: &PeerNode, events: &Inbox<LoopEvent>) {
    for (group, peer) in peer.replicas.lock().iter() {
        // The loop has ended when it takes nothing: so does this task, by its channel.
        let _ = events.try_send(LoopEvent::Unreachable { group: *group, peer: *peer });
    }
}

async fn connect(local: &Local, peer: &PeerNode, lane: Lane, events: &Inbox<LoopEvent>) -> io::Result<TcpStream> {
    let late = || io::Error::new(io::ErrorKind::TimedOut, "no connection in time");
    let mut stream = timeout(handshake::TIMEOUT, TcpStream::connect(&peer.address)).await.map_err(|_| late())??;
    stream.set_nodelay(true)?;
    super::notice_silence(&stream)?;
    let dialled = timeout(handshake::TIMEOUT, handshake::dial(&mut stream, local, lane)).await;
    for (group, by) in dialled.map_err(|_| late())?? {
        let _ = events.try_send(LoopEvent::Removed { group, by });
    }
    Ok(stream)
}

/// Writes messages until the channel closes (`Ok`) or the connection breaks.
async fn pump(stream: TcpStream, messages: &mut mpsc::Receiver<PeerMessage>) -> io::Result<()> {
    let (mut reader, mut writer) = stream.into_split();
    let mut nothing = [0; 1];
    let mut pieces = Vec::new();
    let mut waiting = VecDeque::new();
    loop {
        let first = tokio::select! {
            message = messages.recv() => message,
            // The peer never writes after the welcome: this ends when it has gone.
            gone = reader.read(&mut nothing) => {
                gone?;
                return Err(io::ErrorKind::ConnectionReset.into());
            }
        };
        let Some(first) = first else {
            return Ok(());
        };
        let mut gathered = first.encoded_len();
        codec::encode(&first, &mut pieces);
        while gathered < GATHER_BYTES_MAX
            && let Ok(next) = messages.try_recv()
        {
            gathered += next.encoded_len();
            codec::encode(&next, &mut pieces);
        }
        waiting.extend(pieces.drain(..));
        let written = timeout(WRITE_TIMEOUT, write_all(&mut writer, &mut waiting)).await;
        written.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "peer takes no bytes"))??;
    }
}

async fn write_all<W: AsyncWriteExt + Unpin>(writer: &mut W, waiting: &mut VecDeque<Bytes>) -> io::Result<()> {
    while !waiting.is_empty() {
        let slices: Vec<IoSlice<'_>> = waiting.iter().take(SLICES_MAX).map(|piece| IoSlice::new(piece)).collect();
        let mut written = writer.write_vectored(&slices).await?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        while let Some(front) = waiting.front_mut() {
            if written < front.len() {
                front.advance(written);
                break;
            }
            written -= front.len();
            waiting.pop_front();
        }
    }
    Ok(())
}

//! The accepting side of a peer connection: checks who dials, then decodes messages into the raft loop's inbox.
//! Framing lost or a message that cannot be: the connection ends, nothing else is touched.

use std::io;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use crossbeam_channel::TrySendError;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::codec::{self, LENGTH_LEN, MESSAGE_LEN_MAX, PeerMessage};
use super::{Local, handshake};
use crate::raft_loop::{Inbox, LoopEvent};

/// Bytes read at once when nothing bigger is announced.
const READ_CHUNK: usize = 256 << 10;
/// Pause while the raft loop's inbox is full: back-pressure to the peer by TCP.
const FULL_PAUSE: Duration = Duration::from_millis(1);

/// Serves one connection until it ends.
pub(super) async fn serve(
    mut stream: TcpStream,
    local: &Local,
    inbox: &Inbox<PeerMessage>,
    events: &Inbox<LoopEvent>,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    super::notice_silence(&stream)?;
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, "the peer did not say who it is");
    let mut changes = local.changes.subscribe();
    let (hello, opinion) = timeout(handshake::TIMEOUT, handshake::accept(&mut stream, local)).await.map_err(late)??;
    for (group, peer) in &opinion.unknown {
        // It is answered at the address that it names, until the log tells of it.
        let (group, peer, address) = (*group, *peer, hello.address.clone());
        let _ = events.try_send(LoopEvent::Met { group, peer, address });
    }
    let bad = |reason: String| io::Error::new(io::ErrorKind::InvalidData, reason);
    let mut buffer = BytesMut::with_capacity(READ_CHUNK);
    loop {
        while buffer.len() >= LENGTH_LEN {
            let len = u32::from_le_bytes([buffer[0], buffer[1], buffer[2], buffer[3]]) as usize;
            if len > MESSAGE_LEN_MAX {
                return Err(bad(codec::CodecError::Length(len).to_string()));
            }
            if buffer.len() < LENGTH_LEN + len {
                buffer.reserve(LENGTH_LEN + len - buffer.len());
                break;
            }
            buffer.advance(LENGTH_LEN);
            let message = codec::decode(buffer.split_to(len).freeze()).map_err(|error| bad(error.to_string()))?;
            let known = hello.replicas.iter().any(|(group, _, id)| (*group, *id) == (message.group, message.raft.from));
            if !known {
                return Err(bad(format!("a message of replica {}, which the peer is not", message.raft.from)));
            }
            if !opinion.removed.iter().any(|(group, _)| *group == message.group) {
                deliver(inbox, message).await?;
            }
        }
        if buffer.capacity() - buffer.len() < READ_CHUNK / 4 {
            buffer.reserve(READ_CHUNK);
        }
        let read = tokio::select! {
            read = stream.read_buf(&mut buffer) => read?,
            Ok(()) = changes.changed() => {
                let now = hello.opinion(local).map_err(bad)?;
                if now.removed != opinion.removed {
                    // Dialled again, it is told.
                    return Err(bad("a replica of it was removed from its group".to_owned()));
                }
                continue;
            }
        };
        if read == 0 {
            return Ok(());
        }
    }
}

async fn deliver(inbox: &Inbox<PeerMessage>, mut message: PeerMessage) -> io::Result<()> {
    loop {
        match inbox.try_send(message) {
            Ok(()) => return Ok(()),
            Err(TrySendError::Full(back)) => message = back,
            Err(TrySendError::Disconnected(_)) => return Err(io::ErrorKind::BrokenPipe.into()),
        }
        tokio::time::sleep(FULL_PAUSE).await;
    }
}

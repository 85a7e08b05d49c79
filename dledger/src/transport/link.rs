//! The dialing side of one lane to one peer: connects, says who it is, hands the socket to the raft loop, and starts again when
//! the loop has given it up.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::{Handover, Lane, Local, PeerStream, handshake, tls};
use crate::doorbell::Inbox;
use crate::raft_loop::LoopEvent;
use crate::types::{GroupId, RaftId};

/// Pause before the first new try; doubles up to the longest.
const PAUSE_MIN: Duration = Duration::from_millis(20);
/// Longest pause: a node that comes back is heard within this time.
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// Runs until it is aborted, or the raft loop has ended. `peer` is the number by which [`super::Links`] knows the address.
pub(super) async fn run(local: Arc<Local>, peer: u64, address: String, lane: Lane, events: Inbox<LoopEvent>) {
    let mut pause = PAUSE_MIN;
    let mut refused = None;
    loop {
        match connect(&local, &address, lane, &events).await {
            Ok(stream) => {
                pause = PAUSE_MIN;
                refused = None;
                let (ended, has_ended) = oneshot::channel();
                let handover = Handover::Dialled { peer, lane, stream, ended };
                if events.try_send(LoopEvent::Connected(Box::new(handover))).is_err() {
                    return;
                }
                // Nobody sends anything: it ends when the loop drops the other end.
                let _ = has_ended.await;
            }
            Err(error) => {
                let text = error.to_string();
                if error.kind() == io::ErrorKind::ConnectionRefused
                    && lane == Lane::Control
                    && events.try_send(LoopEvent::Refused { peer }).is_err()
                {
                    return;
                }
                if error.kind() == io::ErrorKind::PermissionDenied && refused.as_ref() != Some(&text) {
                    tracing::error!(peer = %address, reason = %text, "peer refuses this node");
                    refused = Some(text);
                }
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

async fn connect(local: &Local, address: &str, lane: Lane, events: &Inbox<LoopEvent>) -> io::Result<PeerStream> {
    let (stream, removed) = open(local, address, lane).await?;
    for (group, by) in removed {
        let _ = events.try_send(LoopEvent::Removed { group, by });
    }
    Ok(stream)
}

/// A connection, and the groups from which this node's replica was removed, with the number of who says so.
pub(super) async fn open(local: &Local, address: &str, lane: Lane) -> io::Result<(PeerStream, Vec<(GroupId, RaftId)>)> {
    let late = || io::Error::new(io::ErrorKind::TimedOut, "no connection in time");
    let stream = timeout(handshake::TIMEOUT, TcpStream::connect(address)).await.map_err(|_| late())??;
    stream.set_nodelay(true)?;
    super::notice_silence(&stream)?;
    timeout(handshake::TIMEOUT, meet(stream, local, address, lane)).await.map_err(|_| late())?.map_err(tls::explain)
}

async fn meet(
    mut stream: TcpStream,
    local: &Local,
    address: &str,
    lane: Lane,
) -> io::Result<(PeerStream, Vec<(GroupId, RaftId)>)> {
    let Some(certificates) = &local.tls else {
        let removed = handshake::dial(&mut stream, local, lane).await?;
        return Ok((PeerStream::Plain(stream.into_std()?), removed));
    };
    let host = tls::host_of(address).map_err(|reason| io::Error::new(io::ErrorKind::PermissionDenied, reason))?;
    let mut stream = TlsConnector::from(certificates.keys().client).connect(host, stream).await?;
    let removed = handshake::dial(&mut stream, local, lane).await?;
    let (socket, keys) = stream.into_inner();
    Ok((PeerStream::secured(socket.into_std()?, keys), removed))
}

/// A connection to a peer node for files of a snapshot; it blocks.
pub(crate) async fn connect_for_files(local: &Local, address: &str) -> io::Result<PeerStream> {
    let (stream, _) = open(local, address, Lane::Files).await?;
    stream.socket().set_nonblocking(false)?;
    Ok(stream)
}

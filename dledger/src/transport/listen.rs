//! The accepting side of peer connections: checks who dials, then hands the socket to the raft loop.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::{Certificate, Handover, Hello, Lane, Local, Opinion, PeerStream, Welcomed, handshake, tls};
use crate::doorbell::Inbox;
use crate::raft_loop::LoopEvent;
use crate::snapshot::serve::Gifts;
use crate::types::GroupId;

/// Pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Connections at a time whose other end is not known yet. One more is closed at once.
pub(super) const STRANGERS_MAX: usize = 256;

/// Accepts peers on `listener` until the runtime ends.
pub(crate) async fn listen(listener: TcpListener, local: Arc<Local>, events: Inbox<LoopEvent>, gifts: Arc<Gifts>) {
    let strangers = Arc::new(Semaphore::new(STRANGERS_MAX));
    loop {
        match listener.accept().await {
            Ok((stream, from)) => {
                let Ok(place) = Arc::clone(&strangers).try_acquire_owned() else {
                    tracing::debug!(peer = %from, limit = STRANGERS_MAX, "too many connections that have not said who they are");
                    continue;
                };
                let (local, events, gifts) = (Arc::clone(&local), events.clone(), Arc::clone(&gifts));
                tokio::spawn(async move {
                    match welcome(stream, from, &local, &events, &gifts).await {
                        // The loop has ended when it takes nothing.
                        Ok(Some(welcomed)) => {
                            drop(events.try_send(LoopEvent::Connected(Box::new(Handover::Accepted(welcomed)))))
                        }
                        // It reads files, on a thread of its own.
                        Ok(None) => {}
                        Err(error) => tracing::info!(peer = %from, %error, "peer connection ended"),
                    }
                    drop(place);
                });
            }
            Err(error) => {
                // Out of file descriptors, mostly: other connections go on, and so does this loop after a pause.
                tracing::error!(%error, "cannot accept a peer connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Hears who dials.
pub(super) async fn welcome(
    stream: TcpStream,
    from: SocketAddr,
    local: &Local,
    events: &Inbox<LoopEvent>,
    gifts: &Arc<Gifts>,
) -> io::Result<Option<Welcomed>> {
    stream.set_nodelay(true)?;
    super::notice_silence(&stream)?;
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, "the peer did not say who it is");
    let met = timeout(handshake::TIMEOUT, meet(stream, local)).await.map_err(late)?;
    let (stream, certificate, hello, opinion) = met.map_err(tls::explain)?;
    for (group, peer) in &opinion.unknown {
        // It is answered at the address that it names, until the log tells of it.
        let (group, peer, address) = (*group, *peer, hello.address.clone());
        let _ = events.try_send(LoopEvent::Met { group, peer, address });
    }
    if hello.lane == Lane::Files as u32 {
        let removed = |of: GroupId| opinion.removed.iter().any(|(group, _)| *group == of);
        let heard = hello.replicas.iter().filter(|(group, _, _)| !removed(*group));
        let replicas = heard.map(|(group, _, id)| (*group, *id)).collect();
        return gifts.serve(stream, replicas).map(|()| None);
    }
    Ok(Some(Welcomed { stream, from, certificate, hello, opinion }))
}

/// Who dials, and what is thought of it; over TLS if this node has certificates, else in plain, and never as the peer likes it.
async fn meet(mut stream: TcpStream, local: &Local) -> io::Result<(PeerStream, Option<Certificate>, Hello, Opinion)> {
    let Some(certificates) = &local.tls else {
        let (hello, opinion) = handshake::accept(&mut stream, local, None).await?;
        return Ok((PeerStream::Plain(stream.into_std()?), None, hello, opinion));
    };
    let mut first = [0];
    if stream.peek(&mut first).await? == 1 && first[0] != handshake::TLS_HANDSHAKE {
        return Err(handshake::refuse_plain(&mut stream).await);
    }
    let accepted = TlsAcceptor::from(certificates.keys().server).accept(stream).into_fallible().await;
    let mut stream = match accepted {
        Ok(stream) => stream,
        Err((error, mut stream)) => {
            handshake::linger(&mut stream).await;
            return Err(error);
        }
    };
    let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let certificate = shown.expect("who has no certificate is refused").clone().into_owned();
    let (hello, opinion) = handshake::accept(&mut stream, local, Some(&certificate)).await?;
    let (socket, keys) = stream.into_inner();
    Ok((PeerStream::secured(socket.into_std()?, keys), Some(certificate), hello, opinion))
}

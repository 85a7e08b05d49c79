//! The accepting side of peer connections: checks who dials, then hands the socket to the raft loop.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::{Handover, Lane, Local, Welcomed, handshake};
use crate::doorbell::Inbox;
use crate::raft_loop::LoopEvent;
use crate::snapshot::serve::Gifts;
use crate::types::GroupId;

/// Pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts peers on `listener` until the runtime ends.
pub(crate) async fn listen(listener: TcpListener, local: Arc<Local>, events: Inbox<LoopEvent>, gifts: Arc<Gifts>) {
    loop {
        match listener.accept().await {
            Ok((stream, from)) => {
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
async fn welcome(
    mut stream: TcpStream,
    from: SocketAddr,
    local: &Local,
    events: &Inbox<LoopEvent>,
    gifts: &Arc<Gifts>,
) -> io::Result<Option<Welcomed>> {
    stream.set_nodelay(true)?;
    super::notice_silence(&stream)?;
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, "the peer did not say who it is");
    let (hello, opinion) = timeout(handshake::TIMEOUT, handshake::accept(&mut stream, local)).await.map_err(late)??;
    for (group, peer) in &opinion.unknown {
        // It is answered at the address that it names, until the log tells of it.
        let (group, peer, address) = (*group, *peer, hello.address.clone());
        let _ = events.try_send(LoopEvent::Met { group, peer, address });
    }
    if hello.lane == Lane::Files as u32 {
        let removed = |of: GroupId| opinion.removed.iter().any(|(group, _)| *group == of);
        let heard = hello.replicas.iter().filter(|(group, _, _)| !removed(*group));
        let replicas = heard.map(|(group, _, id)| (*group, *id)).collect();
        return gifts.serve(stream.into_std()?, replicas).map(|()| None);
    }
    Ok(Some(Welcomed { stream: stream.into_std()?, from, hello, opinion }))
}

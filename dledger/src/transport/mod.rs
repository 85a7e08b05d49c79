//! Peer connections: one pair per peer node for all groups, both directions apart.
//!
//! Each node dials every other node twice: a control lane (votes, heartbeats, answers) and a bulk lane (appends), so
//! that four megabytes of log never delay a heartbeat. A connection carries messages one way, in order. What cannot be
//! sent is dropped and the raft loop is told: Raft sends again, but must not believe it was sent.
//!
//! ```text
//! peer-io runtime:  link (dial, handshake) --\  the connected
//!                   listen (accept, hello) ---> socket          raft loop:  Links = epoll + Outgoing, Incoming
//! ```
//! Names are resolved, connections made and strangers refused on a runtime of its own; from then on the raft loop reads and
//! writes the socket itself. A message then takes no other thread's turn on its way, at either end. TLS lies under all that: the
//! runtime makes its handshake, the raft loop seals and opens.

pub mod codec;
mod handshake;
mod incoming;
mod link;
mod links;
mod listen;
mod outgoing;
mod poller;
mod stream;
#[cfg(test)]
mod tests;
mod tls;
#[cfg(test)]
mod tls_tests;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::net::sockopt;
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::seam::Membership;
use crate::types::{GroupId, RaftId};

use handshake::{Hello, Opinion};
pub(crate) use link::connect_for_files;
pub(crate) use links::Links;
pub(crate) use listen::listen;
pub(crate) use stream::PeerStream;
pub(crate) use tls::PeerTls;
pub use tls::{PeerTlsError, PeerTlsFiles};

/// Connections from one node to another.
const LANES: usize = 2;

/// Which of the two connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lane {
    Control = 0,
    Bulk = 1,
    /// Files of a snapshot: the dialer asks, the acceptor answers, on threads of their own.
    Files = 2,
}

/// Who this node is to its peers.
#[derive(Debug)]
pub(crate) struct Local {
    cluster_id: Uuid,
    /// Drawn at each start: messages of an earlier run of a peer are told apart by it.
    run_id: Uuid,
    /// `host:port` at which peers reach this node.
    address: String,
    groups: Mutex<Vec<LocalGroup>>,
    /// Certificates; without them peers are met in plain.
    tls: Option<Arc<PeerTls>>,
}

/// A group that lives on this node.
#[derive(Debug, Clone)]
pub(crate) struct LocalGroup {
    pub(crate) group: GroupId,
    pub(crate) raft_id: RaftId,
    pub(crate) replica: Uuid,
    /// As applied here.
    pub(crate) membership: Arc<Membership>,
}

impl Local {
    /// A node in its new run.
    pub(crate) fn new(cluster_id: Uuid, address: String, groups: Vec<LocalGroup>) -> Local {
        Local { cluster_id, run_id: Uuid::new_v4(), address, groups: Mutex::new(groups), tls: None }
    }

    /// Peers are met with these certificates only.
    pub(crate) fn secured(self, tls: Option<Arc<PeerTls>>) -> Local {
        Local { tls, ..self }
    }

    /// A group has another membership: who connects is judged by it.
    fn set_membership(&self, group: GroupId, membership: &Arc<Membership>) {
        if let Some(ours) = self.groups.lock().iter_mut().find(|ours| ours.group == group) {
            ours.membership = Arc::clone(membership);
        }
    }
}

/// A connection whose other end is known, on its way to the raft loop. The socket does not block.
pub(crate) enum Handover {
    /// This node dialled the peer that [`Links`] knows by this number.
    Dialled { peer: u64, lane: Lane, stream: PeerStream, ended: oneshot::Sender<()> },
    /// A peer dialled this node.
    Accepted(Welcomed),
}

/// A certificate as the wire has it.
type Certificate = rustls::pki_types::CertificateDer<'static>;

/// A peer's connection to this node.
pub(crate) struct Welcomed {
    stream: PeerStream,
    from: SocketAddr,
    /// What it has shown, over TLS.
    certificate: Option<Certificate>,
    /// Who it is: nobody else is heard on this connection.
    hello: Hello,
    /// What was thought of it then.
    opinion: Opinion,
}

/// After so much silence from a peer's kernel a connection is given up and dialled anew: without it, a partition that
/// heals leaves a lane mute for as long again as it lasted, by TCP's back-off.
const SILENCE_MAX: Duration = Duration::from_secs(2);

/// Has the kernel notice a peer that has gone without a word, on idle connections too.
fn notice_silence(stream: &tokio::net::TcpStream) -> io::Result<()> {
    sockopt::set_tcp_user_timeout(stream, SILENCE_MAX.as_millis() as u32)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, SILENCE_MAX)?;
    sockopt::set_tcp_keepintvl(stream, Duration::from_secs(1))?;
    sockopt::set_tcp_keepcnt(stream, 3)?;
    Ok(())
}

//! Peer connections: one pair per peer node for all groups, both directions apart.
//!
//! Each node dials every other node twice: a control lane (votes, heartbeats, answers) and a bulk lane (appends), so
//! that four megabytes of log never delay a heartbeat. A connection carries messages one way, in order. What cannot be
//! sent is dropped and the raft loop is told: Raft sends again, but must not believe it was sent.

pub mod codec;
mod handshake;
mod link;
mod listen;

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt;
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::raft_loop::{Doorbell, Inbox, LoopEvent};
use crate::transport::codec::PeerMessage;
use crate::types::{GroupId, RaftId};

pub(crate) use handshake::LocalGroup;

/// Messages that may wait on one lane. Raft bounds what is in flight to a peer by 64 appends of 1 MiB; heartbeats and
/// answers are small.
const LANE_MESSAGES_MAX: usize = 512;

/// Which of the two connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lane {
    Control = 0,
    Bulk = 1,
}

/// Who this node is to its peers.
#[derive(Debug)]
pub(crate) struct Local {
    pub(crate) cluster_id: Uuid,
    /// Drawn at each start: messages of an earlier run of a peer are told apart by it.
    pub(crate) run_id: Uuid,
    pub(crate) groups: Vec<LocalGroup>,
}

/// A peer node: its address, and the replicas that live there.
#[derive(Debug, Clone)]
pub(crate) struct PeerNode {
    pub(crate) address: String,
    pub(crate) replicas: Vec<(GroupId, RaftId)>,
}

/// The sending ends, owned by the raft loop.
pub(crate) struct Links {
    lanes: Vec<[mpsc::Sender<PeerMessage>; 2]>,
    by_replica: HashMap<(GroupId, RaftId), usize>,
    bell: Doorbell,
}

impl Links {
    /// Starts the dialing tasks on the current tokio runtime.
    pub(crate) fn start(local: &Arc<Local>, peers: Vec<PeerNode>, events: &Inbox<LoopEvent>, bell: Doorbell) -> Links {
        let mut by_replica = HashMap::new();
        let lanes = peers.into_iter().enumerate().map(|(n, peer)| {
            by_replica.extend(peer.replicas.iter().map(|replica| (*replica, n)));
            [Lane::Control, Lane::Bulk].map(|lane| {
                let (sender, receiver) = mpsc::channel(LANE_MESSAGES_MAX);
                tokio::spawn(link::run(Arc::clone(local), peer.clone(), lane, receiver, events.clone()));
                sender
            })
        });
        Links { lanes: lanes.collect(), by_replica, bell }
    }

    /// Puts a message on its lane; `false` when it had to be dropped.
    pub(crate) fn send(&self, message: PeerMessage) -> bool {
        let Some(peer) = self.by_replica.get(&(message.group, message.raft.to)) else {
            return false;
        };
        let lane = if message.is_bulk() { Lane::Bulk } else { Lane::Control };
        self.lanes[*peer][lane as usize].try_send(message).is_ok()
    }

    pub(crate) fn bell(&self) -> &Doorbell {
        &self.bell
    }
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

/// Accepts peers on `listener` until the runtime ends.
pub(crate) async fn listen(listener: tokio::net::TcpListener, local: Arc<Local>, messages: Inbox<PeerMessage>) {
    loop {
        match listener.accept().await {
            Ok((stream, from)) => {
                let (local, messages) = (Arc::clone(&local), messages.clone());
                tokio::spawn(async move {
                    if let Err(error) = listen::serve(stream, &local, &messages).await {
                        tracing::info!(peer = %from, %error, "peer connection ended");
                    }
                });
            }
            Err(error) => {
                // Out of file descriptors, mostly: other connections go on, and so does this loop after a pause.
                tracing::error!(%error, "cannot accept a peer connection");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

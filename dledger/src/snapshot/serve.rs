//! Gives files to takers: one thread per connection of the lane for files, all of them behind one throttle.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::throttle::Throttle;
use super::wire::{Answer, Request};
use super::{GiveError, Giver};
use crate::transport::PeerStream;
use crate::types::{GroupId, RaftId};

/// Takers served at a time; a further one tries again.
const TAKERS_MAX: usize = 4;
/// A taker that asks nothing, or takes no bytes, for this long is cut off.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// What a node gives.
pub(crate) struct Gifts {
    givers: HashMap<GroupId, Arc<Giver>>,
    throttle: Throttle,
    takers: AtomicUsize,
    /// Told of each request that was answered.
    gives: Box<dyn Fn(GroupId, RaftId) + Send + Sync>,
}

impl Gifts {
    /// At most `rate` bytes per second for all takers.
    pub(crate) fn new(
        givers: HashMap<GroupId, Arc<Giver>>,
        rate: u64,
        gives: Box<dyn Fn(GroupId, RaftId) + Send + Sync>,
    ) -> Gifts {
        Gifts { givers, throttle: Throttle::new(rate), takers: AtomicUsize::new(0), gives }
    }

    /// Serves a connection on a thread of its own. `replicas` are those that the peer said to be.
    pub(crate) fn serve(self: &Arc<Self>, stream: PeerStream, replicas: Vec<(GroupId, RaftId)>) -> io::Result<()> {
        if self.takers.fetch_add(1, Ordering::AcqRel) >= TAKERS_MAX {
            self.takers.fetch_sub(1, Ordering::AcqRel);
            return Err(io::Error::other("too many takers of snapshots at a time"));
        }
        let gifts = Arc::clone(self);
        let thread = std::thread::Builder::new().name("snapshot-give".into());
        let spawned = thread.spawn(move || {
            if let Err(error) = gifts.answer_all(stream, &replicas) {
                tracing::info!(%error, "a taker of files is gone");
            }
            gifts.takers.fetch_sub(1, Ordering::AcqRel);
        });
        spawned.map(drop).inspect_err(|_| {
            self.takers.fetch_sub(1, Ordering::AcqRel);
        })
    }

    fn answer_all(&self, mut stream: PeerStream, replicas: &[(GroupId, RaftId)]) -> io::Result<()> {
        stream.socket().set_nonblocking(false)?;
        stream.socket().set_read_timeout(Some(SILENCE_MAX))?;
        stream.socket().set_write_timeout(Some(SILENCE_MAX))?;
        while let Some(request) = Request::read(&mut stream)? {
            if !replicas.contains(&(request.group, request.taker)) {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a request of a replica that the peer is not"));
            }
            let answer = match self.givers.get(&request.group).map(|giver| giver.read(request.id, &request.ranges)) {
                Some(Ok(bytes)) => Answer::Bytes(bytes),
                Some(Err(error @ GiveError::Gone(_))) => Answer::Gone(error.to_string()),
                Some(Err(error)) => Answer::Failed(error.to_string()),
                None => Answer::Gone(format!("group {} is not here", request.group)),
            };
            if let Answer::Bytes(bytes) = &answer {
                std::thread::sleep(self.throttle.take(bytes.len() as u64, Instant::now()));
                (self.gives)(request.group, request.taker);
            }
            answer.write(&mut stream)?;
        }
        Ok(())
    }
}

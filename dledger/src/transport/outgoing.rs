//! The sending side of one lane, on the raft loop: what waits, and the socket once a dialing task has made it.
//!
//! A round's messages leave in one `writev`. What the socket does not take waits here, bounded; what does not fit is dropped, and
//! the raft loop is told.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Read, Write};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use tokio::sync::oneshot;

use super::PeerStream;
use super::codec::{self, PeerMessage};
use super::poller::{Interest, Poller};

/// Messages that may wait on one lane. Raft bounds what is in flight to a peer by 64 appends of 1 MiB and group; heartbeats and
/// answers are small.
const MESSAGES_MAX: usize = 512;
/// Bytes of them; payloads are shared with the entries kept in memory.
const BYTES_MAX: usize = 64 << 20;
/// Bytes written in one go, before others have their turn.
const FLUSH_BYTES_MAX: usize = 4 << 20;
/// Slices in one `writev` (`IOV_MAX` is 1,024).
const SLICES_MAX: usize = 128;
/// A peer that takes no bytes for this long is cut off, so that Raft learns of it.
const STALL_MAX: Duration = Duration::from_secs(5);

/// One lane to one peer.
#[derive(Default)]
pub(super) struct Outgoing {
    open: Option<Open>,
    /// Encoded messages, in pieces.
    pieces: VecDeque<Bytes>,
    /// For each message that waits, even in part: where it ends, counted in [`Outgoing::queued`].
    ends: VecDeque<u64>,
    /// Bytes queued, and taken by the socket, since this value was made.
    queued: u64,
    written: u64,
}

struct Open {
    stream: PeerStream,
    number: u64,
    interest: Interest,
    /// When the socket last took something, while something waits for it.
    stalled_since: Option<Instant>,
    /// Dropped with the connection: the dialing task then makes another one.
    _ended: oneshot::Sender<()>,
}

impl Outgoing {
    /// Takes over a connected socket, which must not block; what it is watched by is `number`.
    pub(super) fn connected(
        &mut self,
        stream: PeerStream,
        ended: oneshot::Sender<()>,
        number: u64,
        poller: &Poller,
    ) -> io::Result<()> {
        self.close();
        poller.add(&stream, number)?;
        self.open = Some(Open { stream, number, interest: Interest::Readable, stalled_since: None, _ended: ended });
        Ok(())
    }

    /// Whether there is a connection.
    pub(super) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Queues a message for [`Outgoing::flush`]; `false` when it had to be dropped.
    pub(super) fn queue(&mut self, message: &PeerMessage) -> bool {
        let waiting = (self.queued - self.written) as usize;
        if self.open.is_none() || self.ends.len() >= MESSAGES_MAX || waiting >= BYTES_MAX {
            return false;
        }
        codec::encode(message, &mut self.pieces);
        self.queued += message.encoded_len() as u64;
        self.ends.push_back(self.queued);
        true
    }

    /// As [`Outgoing::flush`], unless the socket is known to be full: it wakes the loop when it is not any more.
    ///
    /// # Errors
    /// The connection broke.
    pub(super) fn flush_new(&mut self, poller: &Poller) -> io::Result<()> {
        let blocked = self.open.as_ref().is_some_and(|open| open.interest == Interest::ReadableOrWritable);
        if blocked || self.pieces.is_empty() { Ok(()) } else { self.flush(poller) }
    }

    /// Writes what waits, as far as the socket takes it.
    ///
    /// # Errors
    /// The connection broke.
    pub(super) fn flush(&mut self, poller: &Poller) -> io::Result<()> {
        let Some(open) = &mut self.open else { return Ok(()) };
        let mut flushed = 0;
        let mut full = false;
        while (!self.pieces.is_empty() || open.stream.holds_unsent()) && flushed < FLUSH_BYTES_MAX {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let count = self.pieces.len().min(SLICES_MAX);
            for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
                *slice = IoSlice::new(piece);
            }
            let wrote =
                if count == 0 { open.stream.flush().map(|()| 0) } else { open.stream.write_vectored(&slices[..count]) };
            let mut written = match wrote {
                Ok(0) if count > 0 => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    full = true;
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            open.stalled_since = None;
            flushed += written;
            self.written += written as u64;
            while let Some(front) = self.pieces.front_mut() {
                if written < front.len() {
                    front.advance(written);
                    break;
                }
                written -= front.len();
                self.pieces.pop_front();
            }
        }
        while self.ends.front().is_some_and(|end| *end <= self.written) {
            self.ends.pop_front();
        }
        if full {
            open.stalled_since.get_or_insert_with(Instant::now);
        }
        let waits = !self.pieces.is_empty() || open.stream.holds_unsent();
        let wanted = if waits { Interest::ReadableOrWritable } else { Interest::Readable };
        if wanted != open.interest {
            open.interest = wanted;
            poller.change(&open.stream, open.number, wanted)?;
        }
        Ok(())
    }

    /// The socket can be read: a peer never writes after its welcome, so it has gone.
    ///
    /// # Errors
    /// The connection broke.
    pub(super) fn readable(&mut self) -> io::Result<()> {
        let Some(open) = &mut self.open else { return Ok(()) };
        match open.stream.read(&mut [0]) {
            Ok(0) => Err(io::ErrorKind::ConnectionReset.into()),
            Ok(_) => {
                Err(io::Error::new(io::ErrorKind::InvalidData, "the peer talks on a connection that only listens"))
            }
            Err(error) if [io::ErrorKind::WouldBlock, io::ErrorKind::Interrupted].contains(&error.kind()) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Whether the peer has taken nothing for too long.
    pub(super) fn is_stalled(&self, now: Instant) -> bool {
        let since = self.open.as_ref().and_then(|open| open.stalled_since);
        since.is_some_and(|since| now.saturating_duration_since(since) > STALL_MAX)
    }

    #[cfg(test)]
    pub(super) fn write_raw(&self, bytes: &[u8]) {
        use std::os::fd::AsFd;
        let stream = &self.open.as_ref().expect("a connection").stream;
        rustix::io::write(stream.as_fd(), bytes).expect("the socket has room");
    }

    /// Gives the connection up; what waited is lost.
    pub(super) fn close(&mut self) {
        self.open = None;
        self.pieces.clear();
        self.ends.clear();
        self.written = self.queued;
    }
}

//! The receiving side of one connection, on the raft loop: bytes become messages, which are slices of the read buffer.
//! Framing lost or a message that cannot be: the connection ends, nothing else is touched.

use std::io::{self, Read};
use std::net::SocketAddr;

use bytes::{Buf, BytesMut};

use super::codec::{self, CodecError, LENGTH_LEN, MESSAGE_LEN_MAX, PeerMessage};
use super::{Certificate, Hello, Lane, Local, Opinion, PeerStream, Welcomed};

/// Size of a read buffer when nothing bigger is announced.
const READ_CHUNK: usize = 256 << 10;
/// A buffer with less room than this is replaced.
const READ_MIN: usize = 16 << 10;
/// Bytes read from one connection in a round, before others have their turn. TCP holds the peer back.
const ROUND_BYTES_MAX: usize = 2 << 20;

/// One connection of a peer that was welcomed.
pub(super) struct Incoming {
    stream: PeerStream,
    from: SocketAddr,
    certificate: Option<Certificate>,
    hello: Hello,
    opinion: Opinion,
    /// Initialised to its whole length, of which the first `filled` bytes are read and not taken yet.
    buffer: BytesMut,
    filled: usize,
}

impl Incoming {
    pub(super) fn new(welcomed: Welcomed) -> Incoming {
        let Welcomed { stream, from, certificate, hello, opinion } = welcomed;
        Incoming { stream, from, certificate, hello, opinion, buffer: BytesMut::new(), filled: 0 }
    }

    pub(super) fn from(&self) -> SocketAddr {
        self.from
    }

    pub(super) fn lane(&self) -> Lane {
        if self.hello.lane == Lane::Control as u32 { Lane::Control } else { Lane::Bulk }
    }

    /// Whether [`Incoming::receive`] may find something although the socket wakes nobody.
    pub(super) fn holds_more(&self) -> bool {
        self.stream.holds_more()
    }

    /// Why the peer must not be heard on this connection any more, now that a membership has changed. Dialled again, it is told.
    pub(super) fn objection(&self, local: &Local) -> Option<String> {
        match self.hello.opinion(local, self.certificate.as_ref()) {
            Ok(now) if now.removed == self.opinion.removed => None,
            Ok(_) => Some("a replica of it was removed from its group, or has come back".to_owned()),
            Err(reason) => Some(reason),
        }
    }

    /// Reads what has arrived, up to a round's share, and hands each whole message on.
    ///
    /// # Errors
    /// The connection has ended, or must: `UnexpectedEof` when the peer closed it.
    pub(super) fn receive(&mut self, deliver: &mut impl FnMut(PeerMessage)) -> io::Result<()> {
        let mut taken = 0;
        while taken < ROUND_BYTES_MAX {
            self.make_room();
            let room = self.buffer.len() - self.filled;
            let read = match self.stream.read(&mut self.buffer[self.filled..]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            self.filled += read;
            taken += read;
            while let Some(message) = self.take()? {
                if !self.opinion.removed.iter().any(|(group, _)| *group == message.group) {
                    deliver(message);
                }
            }
            if read < room {
                // More would wake the loop again: not worth a system call to find out.
                return Ok(());
            }
        }
        Ok(())
    }

    /// Announced length of the message at the front of the buffer, once it is there.
    fn announced(&self) -> Option<usize> {
        let length = self.buffer[..self.filled].first_chunk::<LENGTH_LEN>()?;
        Some(u32::from_le_bytes(*length) as usize)
    }

    /// Makes room for the rest of the message at the front, or for a good read. Messages that were taken may live on in the
    /// old buffer.
    fn make_room(&mut self) {
        let needed = self.announced().map_or(0, |length| LENGTH_LEN + length);
        let room = self.buffer.len() - self.filled;
        if room >= READ_MIN && self.buffer.len() >= needed {
            return;
        }
        let mut fresh = BytesMut::zeroed(READ_CHUNK.max(needed + READ_MIN));
        fresh[..self.filled].copy_from_slice(&self.buffer[..self.filled]);
        self.buffer = fresh;
    }

    /// The whole message at the front of the buffer.
    fn take(&mut self) -> io::Result<Option<PeerMessage>> {
        let bad = |reason: String| io::Error::new(io::ErrorKind::InvalidData, reason);
        let Some(length) = self.announced() else { return Ok(None) };
        if length > MESSAGE_LEN_MAX {
            return Err(bad(CodecError::Length(length).to_string()));
        }
        if self.filled < LENGTH_LEN + length {
            return Ok(None);
        }
        self.buffer.advance(LENGTH_LEN);
        let body = self.buffer.split_to(length).freeze();
        self.filled -= LENGTH_LEN + length;
        let message = codec::decode(body).map_err(|error| bad(error.to_string()))?;
        let mut replicas = self.hello.replicas.iter();
        if !replicas.any(|(group, _, id)| (*group, *id) == (message.group, message.raft.from)) {
            return Err(bad(format!("a message of replica {}, which the peer is not", message.raft.from)));
        }
        Ok(Some(message))
    }
}

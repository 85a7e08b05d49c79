//! A connected socket of a peer, plain or with TLS on it. Reads and writes as the socket does, blocking or not.
//!
//! A plain one costs a branch. Under TLS, ciphertext is read in big pieces and opened into the caller's buffer, and what is
//! written is sealed into a bounded queue that leaves with it.

use std::io::{self, IoSlice, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};

use rustls::Connection;

/// Ciphertext read in one go: some 16 records.
const CIPHER_CHUNK: usize = 256 << 10;

/// Sealed bytes that may wait for the socket: what one `writev` takes, and what a processor keeps near.
const SEALED_MAX: usize = 256 << 10;

/// A connection to or from a peer.
pub(crate) enum PeerStream {
    Plain(TcpStream),
    Tls(Box<Secured>),
}

/// A socket, and the keys.
pub(crate) struct Secured {
    socket: TcpStream,
    tls: Connection,
    /// Read from the socket and not opened yet: `cipher[next..filled]`. Without room until something is read.
    cipher: Vec<u8>,
    next: usize,
    filled: usize,
    /// Whether opened bytes may wait to be taken.
    opened: bool,
}

impl PeerStream {
    /// A socket over which both sides have shown who they are.
    pub(super) fn secured(socket: TcpStream, tls: impl Into<Connection>) -> PeerStream {
        let mut tls = tls.into();
        tls.set_buffer_limit(Some(SEALED_MAX));
        // What came right behind the handshake is opened already.
        PeerStream::Tls(Box::new(Secured { socket, tls, cipher: Vec::new(), next: 0, filled: 0, opened: true }))
    }

    /// The socket, for its options.
    pub(crate) fn socket(&self) -> &TcpStream {
        match self {
            PeerStream::Plain(socket) => socket,
            PeerStream::Tls(secured) => &secured.socket,
        }
    }

    /// Whether something may be had without the socket, which then wakes nobody for it.
    pub(super) fn holds_more(&self) -> bool {
        match self {
            PeerStream::Plain(_) => false,
            PeerStream::Tls(secured) => secured.opened || secured.next < secured.filled,
        }
    }

    /// Whether something that was written waits for the socket: [`Write::flush`] goes on with it.
    pub(super) fn holds_unsent(&self) -> bool {
        match self {
            PeerStream::Plain(_) => false,
            PeerStream::Tls(secured) => secured.tls.wants_write(),
        }
    }
}

impl AsFd for PeerStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            PeerStream::Plain(socket) => socket.as_fd(),
            PeerStream::Tls(secured) => secured.socket.as_fd(),
        }
    }
}

impl Read for PeerStream {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self {
            PeerStream::Plain(socket) => socket.read(out),
            PeerStream::Tls(secured) => secured.read(out),
        }
    }
}

impl Write for PeerStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            PeerStream::Plain(socket) => socket.write(bytes),
            PeerStream::Tls(secured) => secured.write(&[IoSlice::new(bytes)]),
        }
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            PeerStream::Plain(socket) => socket.write_vectored(slices),
            PeerStream::Tls(secured) => secured.write(slices),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            PeerStream::Plain(socket) => socket.flush(),
            PeerStream::Tls(secured) => secured.flush(),
        }
    }
}

impl Secured {
    /// Opens into `out` what has arrived; asks the socket only when nothing has.
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while done < out.len() {
            if self.opened {
                match self.tls.reader().read(&mut out[done..]) {
                    // The peer has said that it ends.
                    Ok(0) => return Ok(done),
                    Ok(read) => {
                        done += read;
                        continue;
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.opened = false,
                    Err(error) => return Err(error),
                }
            }
            if self.next < self.filled {
                let taken = self.tls.read_tls(&mut &self.cipher[self.next..self.filled])?;
                assert!(taken > 0, "a buffer from which everything opened was taken has room");
                self.next += taken;
                self.tls.process_new_packets().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
                self.opened = true;
                continue;
            }
            if done > 0 {
                break;
            }
            if self.cipher.is_empty() {
                self.cipher.resize(CIPHER_CHUNK, 0);
            }
            (self.next, self.filled) = (0, 0);
            self.filled = self.socket.read(&mut self.cipher)?;
            if self.filled == 0 {
                // Messages have lengths of their own: an end between two of them is one, with or without a farewell.
                return Ok(0);
            }
        }
        Ok(done)
    }

    /// Seals what the queue has room for, once what was sealed before has left.
    fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.flush()?;
        let written = self.tls.writer().write_vectored(slices)?;
        match self.flush() {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(written),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut self.socket) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

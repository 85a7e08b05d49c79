//! A small layer above for this crate's own simulations: numbered queues that are made by their first record, deleted
//! and made again, and consumers whose offsets only rise. It has everything that the broker's real one has, in little:
//! an atomic store that falls back to its last flush, files beside it that follow their own position, incarnations,
//! stamped offsets and positions, a projection, reads behind a barrier.

mod machine;
mod stamper;
mod workload;

pub use machine::{QueueMachine, QueueStore};
pub use stamper::{Answer, Item, QueueStamper};
pub use workload::QueueHost;

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Number of queues that the workload uses.
const QUEUES: u32 = 4;
/// Number of consumers.
const CONSUMERS: u32 = 3;

/// A state change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Command {
    /// The first command of a group.
    Genesis,
    /// Makes a queue, unless it exists; the entry's index becomes its incarnation.
    Create { queue: u32 },
    /// Deletes this incarnation of a queue.
    Delete { queue: u32, incarnation: u64 },
    /// A consumer has come this far.
    Offset { consumer: u32, queue: u32, version: u64 },
    /// Records before this position are given up; `index` is that of the frame there.
    Truncate { index: u64, pos: u64 },
}

impl Command {
    fn encode(self) -> Bytes {
        let (tag, fields) = match self {
            Command::Genesis => (0, [0, 0, 0]),
            Command::Create { queue } => (1, [u64::from(queue), 0, 0]),
            Command::Delete { queue, incarnation } => (2, [u64::from(queue), incarnation, 0]),
            Command::Offset { consumer, queue, version } => (3, [u64::from(consumer), u64::from(queue), version]),
            Command::Truncate { index, pos } => (4, [index, pos, 0]),
        };
        let mut out = BytesMut::with_capacity(COMMAND_LEN);
        out.put_u64_le(tag);
        fields.into_iter().for_each(|field| out.put_u64_le(field));
        out.freeze()
    }

    fn decode(mut bytes: Bytes) -> Option<Command> {
        if bytes.len() != COMMAND_LEN {
            return None;
        }
        let (tag, a, b, c) = (bytes.get_u64_le(), bytes.get_u64_le(), bytes.get_u64_le(), bytes.get_u64_le());
        Some(match tag {
            0 => Command::Genesis,
            1 => Command::Create { queue: a as u32 },
            2 => Command::Delete { queue: a as u32, incarnation: b },
            3 => Command::Offset { consumer: a as u32, queue: b as u32, version: c },
            4 => Command::Truncate { index: a, pos: b },
            _ => return None,
        })
    }
}

/// Bytes of a command.
const COMMAND_LEN: usize = 32;

/// A record, as stamped: where it lies is written into it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Record {
    len: u32,
    queue: u32,
    incarnation: u64,
    offset: u64,
    id: u64,
    pos: u64,
}

/// Bytes of a record without filler.
const RECORD_LEN: usize = 40;

impl Record {
    fn write(&self, out: &mut BytesMut) {
        out.put_u32_le(self.len);
        out.put_u32_le(self.queue);
        for field in [self.incarnation, self.offset, self.id, self.pos] {
            out.put_u64_le(field);
        }
        out.put_bytes(self.id as u8, self.len as usize - RECORD_LEN);
    }

    /// Takes a record off the front.
    fn read(bytes: &mut Bytes) -> Option<Record> {
        if bytes.len() < RECORD_LEN {
            return None;
        }
        let mut head = bytes.slice(..RECORD_LEN);
        let record = Record {
            len: head.get_u32_le(),
            queue: head.get_u32_le(),
            incarnation: head.get_u64_le(),
            offset: head.get_u64_le(),
            id: head.get_u64_le(),
            pos: head.get_u64_le(),
        };
        let filler = bytes.get(RECORD_LEN..record.len as usize)?;
        let whole = filler.iter().all(|byte| *byte == record.id as u8);
        bytes.advance(record.len as usize);
        whole.then_some(record)
    }
}

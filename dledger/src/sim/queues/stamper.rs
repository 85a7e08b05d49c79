//! What proposals become: offsets and positions are stamped against projected queues.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;

use super::machine::Shared;
use super::{COMMAND_LEN, Command, RECORD_LEN, Record};
use crate::log::LogView;
use crate::seam::{Stamper, Verdict};
use crate::types::{FrameKind, LogPos};

/// What a client wants.
#[derive(Debug, Clone)]
pub enum Item {
    /// A record for a queue, made when it does not exist.
    Append {
        /// The queue.
        queue: u32,
        /// Unique number.
        id: u64,
        /// Bytes of filler.
        filler: u32,
        /// Set at its turn: incarnation and offset.
        stamped: (u64, u64),
    },
    /// Makes a queue, unless it exists.
    Create {
        /// The queue.
        queue: u32,
    },
    /// Deletes a queue.
    Delete {
        /// The queue.
        queue: u32,
        /// Set at its turn.
        incarnation: u64,
    },
    /// A consumer has come this far.
    Offset {
        /// The consumer.
        consumer: u32,
        /// The queue.
        queue: u32,
        /// Rises with each commit of a consumer on a queue.
        version: u64,
    },
    /// Gives up old records, up to the last segment but `kept` that every member has.
    Truncate {
        /// Segments that stay nevertheless.
        kept: usize,
        /// Set at its turn: index and position of the first frame that stays.
        stamped: (u64, u64),
    },
}

/// What a client is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The record is committed.
    Appended {
        /// Raft index.
        index: u64,
        /// Of the queue.
        incarnation: u64,
        /// In the queue.
        offset: u64,
    },
    /// The command is committed.
    Done {
        /// Raft index.
        index: u64,
    },
    /// Nothing was appended.
    Refused,
}

/// The stamper.
pub struct QueueStamper {
    shared: Arc<Mutex<Shared>>,
    view: LogView,
    projection: Option<BTreeMap<u32, (u64, u64)>>,
}

impl QueueStamper {
    pub(super) fn new(shared: &Arc<Mutex<Shared>>, view: &LogView) -> QueueStamper {
        QueueStamper { shared: Arc::clone(shared), view: view.clone(), projection: None }
    }

    fn queues(&mut self) -> &mut BTreeMap<u32, (u64, u64)> {
        self.projection.as_mut().expect("only leaders stamp")
    }
}

impl Stamper for QueueStamper {
    type Item = Item;
    type Ticket = u64;
    type Answer = Answer;

    fn kind(&self, item: &Item) -> FrameKind {
        if matches!(item, Item::Append { .. }) { FrameKind::Messages } else { FrameKind::Command }
    }

    fn admit(&mut self, item: &mut Item, _index: u64, _now_ms: u64) -> Verdict<Answer> {
        let queues = self.queues();
        match item {
            Item::Append { queue, filler, stamped, .. } => {
                let Some((incarnation, next)) = queues.get_mut(queue) else {
                    return Verdict::First;
                };
                *stamped = (*incarnation, *next);
                *next += 1;
                Verdict::Take { len: RECORD_LEN + *filler as usize, records: 1 }
            }
            Item::Create { queue } => match queues.get(queue) {
                Some((incarnation, _)) => {
                    Verdict::Join { index: *incarnation, answer: Answer::Done { index: *incarnation } }
                }
                None => {
                    queues.insert(*queue, (_index, 0));
                    Verdict::Take { len: COMMAND_LEN, records: 0 }
                }
            },
            Item::Delete { queue, incarnation } => match queues.remove(queue) {
                Some((there, _)) => {
                    *incarnation = there;
                    Verdict::Take { len: COMMAND_LEN, records: 0 }
                }
                None => Verdict::Refuse(Answer::Refused),
            },
            Item::Offset { .. } => Verdict::Take { len: COMMAND_LEN, records: 0 },
            Item::Truncate { kept, stamped } => {
                let applied = self.shared.lock().tables.keep;
                let spared = self.view.spared();
                let starts = self.view.segment_starts();
                match starts.iter().rev().skip(*kept).find(|first| first.index <= spared) {
                    Some(first) if first.pos.0 > applied.1 => {
                        *stamped = (first.index, first.pos.0);
                        Verdict::Take { len: COMMAND_LEN, records: 0 }
                    }
                    _ => Verdict::Refuse(Answer::Refused),
                }
            }
        }
    }

    fn precede(&mut self, item: &mut Item, index: u64, _now_ms: u64) -> Bytes {
        let Item::Append { queue, .. } = item else { unreachable!("only records need their queue") };
        self.queues().insert(*queue, (index, 0));
        Command::Create { queue: *queue }.encode()
    }

    fn write(&mut self, item: &mut Item, at: LogPos, out: &mut BytesMut) {
        let command = match item {
            Item::Append { queue, id, filler, stamped: (incarnation, offset) } => {
                let len = RECORD_LEN as u32 + *filler;
                let (queue, incarnation, offset, id) = (*queue, *incarnation, *offset, *id);
                return Record { len, queue, incarnation, offset, id, pos: at.0 }.write(out);
            }
            Item::Create { queue } => Command::Create { queue: *queue },
            Item::Delete { queue, incarnation } => Command::Delete { queue: *queue, incarnation: *incarnation },
            Item::Offset { consumer, queue, version } => {
                Command::Offset { consumer: *consumer, queue: *queue, version: *version }
            }
            Item::Truncate { stamped: (index, pos), .. } => Command::Truncate { index: *index, pos: *pos },
        };
        out.extend_from_slice(&command.encode());
    }

    fn answer(&mut self, item: Item, index: u64) -> Answer {
        match item {
            Item::Append { stamped: (incarnation, offset), .. } => Answer::Appended { index, incarnation, offset },
            _ => Answer::Done { index },
        }
    }

    fn begin(&mut self, _term: u64) -> Option<Bytes> {
        let shared = self.shared.lock();
        // `end` has dropped what an earlier leadership had projected.
        self.projection.get_or_insert_with(|| shared.tables.queues.clone());
        (!shared.tables.genesis).then(|| Command::Genesis.encode())
    }

    fn end(&mut self) {
        self.projection = None;
    }
}

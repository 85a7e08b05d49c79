//! What a committed entry changes: the replicated state machine of a group.
//!
//! ```text
//! committed frame --> BrokerMachine::apply --> effects of a round --> ConsumeQueue files, one batch to the store,
//!                                                                    Tables, then ApplyObserver (long polls, registration)
//! ```
//! Runs on the apply thread of every replica. A pure function of log bytes and earlier state: no clock, no randomness, no
//! config that differs between replicas, no map order.

mod consume_queue;
mod digest;
mod effects;
mod index_writer;
mod key_index;
mod live;
mod machine;
mod open_files;
mod recovery;
mod retention;
mod round;
mod snapshot;
mod timers;

#[cfg(test)]
pub(crate) mod harness;
#[cfg(test)]
mod tests;

pub use consume_queue::{Boundary, ConsumeQueues, QueueError, UNIT_LEN, UNITS_PER_READ_MAX, Unit};
pub use key_index::KeyIndex;
pub use machine::{BrokerMachine, MachineConfig};
pub use recovery::OpenError;
pub use round::{ApplyObserver, QueueAdvance, Round};
pub use snapshot::Reopen;
pub use timers::TimerRows;

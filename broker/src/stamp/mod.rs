//! What the leader decides in log order, before anything is appended: see [`BrokerStamper`].
//!
//! ```text
//! handler -- Item --> BrokerStamper::admit (against the projection) --> log --> apply (no second opinion on messages)
//! one-way offset commits --> OffsetBuffer -- every 200 ms, one command --> handler side proposes it
//! ```

mod item;
mod offset_buffer;
mod projection;
mod send;
mod stamper;
mod timers;

#[cfg(test)]
mod tests;

pub use item::{Answer, AutoCreate, Item, Refusal, SendItem, Sent};
pub use offset_buffer::{BUFFERED_OFFSETS_MAX, COMMIT_INTERVAL_MS, OffsetBuffer};
pub use stamper::{
    BrokerStamper, LOCKS_MAX, OFFSETS_MAX, QUEUES_MAX, RECORDS_PER_ITEM_MAX, SUBSCRIPTION_GROUPS_MAX, TOPICS_MAX,
};

pub use timers::{Purpose, TimerItem, TimerMove};

pub(crate) use stamper::incarnation_of;
pub(crate) use timers::too_late;

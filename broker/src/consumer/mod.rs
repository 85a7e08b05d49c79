//! What a broker knows of its clients: members of consumer and producer groups, and the pulls that wait.

pub mod group;
mod joined;
pub mod long_poll;
pub mod producers;
pub mod requesters;
pub mod resets;
pub mod wake;

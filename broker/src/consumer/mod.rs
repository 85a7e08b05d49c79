//! What the broker knows of live consumers: members of groups, and pulls that wait. In memory of each replica, never in the log.

pub mod group;
pub mod long_poll;
pub mod wake;

//! The Remoting server of one group: bytes in, handler chosen, bytes out.

pub mod accept;
pub mod admission;
pub mod call;
pub mod connection;
pub mod dispatch;
pub mod forward;
mod log_gate;
pub mod outbox;
pub mod ticket;

//! RocketMQ's semantics on top of the replicated log: one node of a LedgerMQ cluster.
//!
//! A send reads down the tree: `server/connection`, `server/dispatch`, `handler/send`, the group's handle in dledger, and at the
//! commit `server/ticket`; then `state/` applies it and `consumer/long_poll` wakes. A pull: `handler/pull`, the ConsumeQueue in
//! `state/`, slices of the log, `server/connection`.

#![forbid(unsafe_code)]

pub mod config;
pub mod consumer;
pub mod http;
pub mod server;

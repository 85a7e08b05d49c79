//! RocketMQ's semantics on top of the replicated log: one node of a LedgerMQ cluster.
//!
//! A send reads down the tree: `server/connection`, `server/dispatch`, `handler/send`, the group's handle in dledger, and at the
//! commit `server/ticket`; then `apply/` takes it in and `consumer/long_poll` wakes. A pull: `handler/pull`, the ConsumeQueue in
//! `apply/`, slices of the log, `server/connection`.

#![forbid(unsafe_code)]

pub mod apply;
pub mod command;
pub mod config;
pub mod consumer;
pub mod delay;
pub mod filter;
pub mod handler;
pub mod http;
pub mod identity;
pub mod node;
pub mod registration;
pub mod replica;
pub mod server;
pub mod stamp;
pub mod stats;
pub mod store;
pub mod tables;

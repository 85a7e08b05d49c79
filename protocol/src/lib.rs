//! RocketMQ's Remoting protocol: bytes to types and back.
//!
//! Every other crate speaks through this one: the broker and the name server decode requests and encode answers with it, the
//! client does the reverse, and the record that [`message::record`] lays out is what the CommitLog stores. It never opens a
//! socket or a file, never reads a clock and never draws a random number: what depends on those is passed in.
//!
//! Bytes from a peer are bounded before they are believed: each length, count and nesting depth is checked against a named
//! constant, and a violation is a typed error, never a panic.

#![forbid(unsafe_code)]

pub mod consumer_list;
pub mod extension;
pub mod heartbeat;
pub mod json;
pub mod kv_table;
pub mod lock;
pub mod message;
pub mod names;
pub mod register;
pub mod remoting;
pub mod route;
pub mod stats;
pub mod subscription_group;
pub mod topic;

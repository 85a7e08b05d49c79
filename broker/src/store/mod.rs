//! Where applied state is kept: a small ordered key-value store behind a trait, with two implementations.
//!
//! RocksDB ([`RocksKv`]) ships; [`SimKv`] stands in for it in the simulator. The trait holds nothing that only RocksDB can do.
//! It has no log of its own: the CommitLog is the log, and after a crash the store is as of some earlier batch, from which
//! apply goes on.

mod kv;
mod rocks;
pub(crate) mod rows;
mod sim_kv;

#[cfg(test)]
mod suite;

pub use kv::{Family, Kv, KvError, Visitor, WriteBatch};
pub use rocks::{RocksBudget, RocksKv};
pub use sim_kv::SimKv;

pub(crate) use kv::scan_prefix;

//! The simulator with the broker's real state machine and stamper: what ships, but for RocksDB, whose place a simulated
//! store takes (one suite in the broker runs on both).
//!
//! ```text
//! operations (sends, batches, delayed messages, topics deleted and made again, offsets, reads) --> dledger::sim --> BrokerMachine
//!                                             answers --> BrokerHost, the end --> Oracle, which reads the log itself
//! ```

mod host;
mod keys;
mod operations;
mod oracle;
mod timers;

pub use host::BrokerHost;
pub use operations::Wish;

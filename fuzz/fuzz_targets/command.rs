//! Any bytes as a command of the log. The law is shared with the tests of `broker`; the decoder is compiled from its sources, since
//! the crate as a whole would bring RocksDB.
//!
//! `cargo +nightly fuzz run command fuzz/corpus/command fuzz/seeds/command`

#![no_main]
#![allow(dead_code, reason = "the law needs only a part of the module")]

#[path = "../../broker/src/command/mod.rs"]
pub mod command;

extern crate self as ledgermq_broker;

#[path = "../../broker/tests/command_law/mod.rs"]
mod command_law;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| command_law::check(bytes));

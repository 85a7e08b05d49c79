//! Any bytes as an SQL92 expression and the properties of a message. The law is shared with the tests of `broker`; the module is
//! compiled from its sources, since the crate as a whole would bring RocksDB.
//!
//! `cargo +nightly fuzz run sql_filter fuzz/corpus/sql_filter fuzz/seeds/sql_filter`

#![no_main]
#![allow(dead_code, reason = "the law needs only a part of the module")]

#[path = "../../broker/src/filter/mod.rs"]
pub mod filter;

extern crate self as ledgermq_broker;

#[path = "../../broker/tests/filter_law/mod.rs"]
mod filter_law;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| filter_law::check(bytes));

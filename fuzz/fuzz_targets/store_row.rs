//! Any bytes as a key or a value of the store. The decoders and their law are compiled from the sources of `broker`, since the crate
//! as a whole would bring RocksDB.
//!
//! `cargo +nightly fuzz run store_row fuzz/corpus/store_row fuzz/seeds/store_row`

#![no_main]
#![allow(dead_code, unused_imports, reason = "the law needs only a part of the modules")]

#[path = "../../broker/src/command/mod.rs"]
pub mod command;

#[path = "../../broker/src/tables/mod.rs"]
pub mod tables;

#[path = "../../broker/src/store/rows.rs"]
mod rows;

/// The path that the law knows.
mod store {
    pub(crate) use super::rows;
}

#[path = "../../broker/src/store/rows/law.rs"]
mod law;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| law::check(bytes));

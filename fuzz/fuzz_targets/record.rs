//! Bytes of stored messages, batches and texts, through their decoders. The law is shared with the tests of `protocol`.
//!
//! `cargo +nightly fuzz run record fuzz/corpus/record fuzz/seeds/record`

#![no_main]

#[path = "../../protocol/tests/record_law/mod.rs"]
mod record_law;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| record_law::check(bytes));

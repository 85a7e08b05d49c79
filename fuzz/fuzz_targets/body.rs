//! A byte that names a kind of body, and a body, through the JSON reader. The law is shared with the tests of `protocol`.
//!
//! `cargo +nightly fuzz run body fuzz/corpus/body fuzz/seeds/body`

#![no_main]

#[path = "../../protocol/tests/body_law/mod.rs"]
mod body_law;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| body_law::check(bytes));

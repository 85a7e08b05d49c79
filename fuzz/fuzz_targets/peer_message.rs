//! Bytes of a peer message, or of a meta file's slot, through their decoders. The law is shared with the tests of `dledger`.
//!
//! `cargo +nightly fuzz run peer_message fuzz/corpus/peer_message fuzz/seeds/peer_message`

#![no_main]

#[path = "../../dledger/tests/peer_law/mod.rs"]
mod peer_law;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| peer_law::check(bytes));

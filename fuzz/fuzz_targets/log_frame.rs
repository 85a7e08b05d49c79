//! Bytes of two segment files, through recovery. The law is shared with the tests of `dledger`.
//!
//! `cargo +nightly fuzz run log_frame fuzz/corpus/log_frame fuzz/seeds/log_frame`

#![no_main]

#[path = "../../dledger/tests/log_frame_law/mod.rs"]
mod log_frame_law;

libfuzzer_sys::fuzz_target!(|image: &[u8]| log_frame_law::check(image));

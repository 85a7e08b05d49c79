//! Bytes of a connection, through the Remoting frame decoder. The law is shared with the tests of `protocol`.
//!
//! `cargo +nightly fuzz run remoting_frame fuzz/corpus/remoting_frame fuzz/seeds/remoting_frame`

#![no_main]

#[path = "../../protocol/tests/frame_law/mod.rs"]
mod frame_law;

libfuzzer_sys::fuzz_target!(|stream: &[u8]| frame_law::check(stream));

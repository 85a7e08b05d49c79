//! Replays the fuzzer's seeds of SQL92 expressions, whole, cut and with every byte changed in turn, through the fuzzer's law.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod filter_law;

use std::path::Path;

const SEEDS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/seeds/sql_filter");

/// A regression here is a client that takes a broker down with its subscription, or an expression that means something else than it
/// says.
#[test]
fn seeds_and_their_mutations_obey_the_law() {
    let mut seeds = 0;
    for entry in std::fs::read_dir(Path::new(SEEDS)).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        seeds += 1;
        filter_law::check(&bytes);
        for at in 0..bytes.len() {
            filter_law::check(&bytes[..at]);
            for value in [0, b' ', b'\'', b'(', b')', b'-', b'.', b'1', b'e', b'=', 0xC3, 0xFF] {
                let mut mutated = bytes.clone();
                mutated[at] = value;
                filter_law::check(&mutated);
            }
        }
    }
    assert!(seeds > 0, "no seeds");
}

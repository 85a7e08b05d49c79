//! Replays `fuzz/seeds/log_frame` on the stable compiler, whole, cut and with flipped bits.
//!
//! What would break: a segment image that once made recovery fail does so again, unnoticed until somebody fuzzes.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test that cannot go on says where")]

mod log_frame_law;
mod log_support;

use std::path::Path;

use log_support::{Entry, SMALL, reference_bytes};

const SEEDS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/seeds/log_frame");

/// The images that the folder holds, by name.
fn images() -> Vec<(&'static str, Vec<u8>)> {
    let layout = ledgermq_dledger::log::Layout { segment_size: SMALL };
    let entry = |term, len: usize, byte| Entry::new(term, vec![byte; len]);
    let short: Vec<Entry> = vec![entry(1, 0, 0), entry(1, 6, 1), entry(2, 100, 2)];
    let long: Vec<Entry> = (0..9).map(|n| entry(1 + u64::from(n) / 4, 2500, n)).collect();
    let whole = reference_bytes(&layout, &long);
    let mut hole = reference_bytes(&layout, &short);
    hole[48 + 20] ^= 1;
    let mut no_blank = whole.clone();
    let end = ledgermq_dledger::log::frame_len(2500) as usize * 6;
    no_blank[end..SMALL as usize].fill(0xee);
    vec![
        ("three_frames.bin", reference_bytes(&layout, &short)),
        ("over_a_segment_end.bin", whole.clone()),
        ("torn_payload.bin", whole[..whole.len() - 900].to_vec()),
        ("hole.bin", hole),
        ("blank_never_written.bin", no_blank),
        ("zeros.bin", vec![0; 64]),
        ("noise.bin", (0..2000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect()),
    ]
}

#[test]
fn the_seeds_are_lawful() {
    for (name, image) in images() {
        let path = Path::new(SEEDS).join(name);
        if std::env::var_os("LEDGERMQ_WRITE_SEEDS").is_some() {
            std::fs::write(&path, &image).unwrap();
        }
        assert_eq!(std::fs::read(&path).unwrap(), image, "{name} is out of date");
    }
    let mut count = 0;
    for file in std::fs::read_dir(SEEDS).unwrap() {
        let image = std::fs::read(file.unwrap().path()).unwrap();
        log_frame_law::check(&image);
        for at in (0..image.len()).step_by(37) {
            log_frame_law::check(&image[..at]);
            let mut flipped = image.clone();
            flipped[at] ^= 1 << (at % 8);
            log_frame_law::check(&flipped);
        }
        count += 1;
    }
    assert!(count >= images().len());
}

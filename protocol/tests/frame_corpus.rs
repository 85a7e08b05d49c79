//! Replays the fuzzer's seeds, and the golden frames, through the fuzzer's law: what it once found stays found without it.

mod frame_law;
mod vectors;

/// A regression here is a panic or a misread frame on bytes that anyone can send.
#[test]
fn seeds_obey_the_law() {
    let seeds = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds/remoting_frame");
    let mut count = 0;
    for entry in std::fs::read_dir(&seeds).unwrap() {
        frame_law::check(&std::fs::read(entry.unwrap().path()).unwrap());
        count += 1;
    }
    assert!(count >= 20, "only {count} seeds in {}", seeds.display());
}

/// All golden frames in one stream, then each with every byte changed in turn.
#[test]
fn golden_frames_and_their_mutations_obey_the_law() {
    let names = vectors::names(include_str!("vectors/frames.hex.json"));
    let frames: Vec<_> = names.values().map(|hex| vectors::from_hex(hex)).collect();
    frame_law::check(&frames.concat());
    for frame in &frames {
        for at in 0..frame.len() {
            for value in [0, 1, b'"', b'{', b'\\', 0x7F, 0x80, 0xFF, frame[at] ^ 1] {
                let mut mutated = frame.clone();
                mutated[at] = value;
                frame_law::check(&mutated);
            }
            frame_law::check(&frame[..at]);
        }
    }
}

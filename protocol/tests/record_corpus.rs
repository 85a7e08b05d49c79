//! Replays the fuzzer's seeds and the golden messages, with every byte changed in turn, through the fuzzer's law.

mod record_law;
mod vectors;

/// A regression here is a panic, or a record that reaches outside its bytes, on what anyone can send or a disk can return.
#[test]
fn golden_messages_and_their_mutations_obey_the_law() {
    let messages = vectors::names(include_str!("vectors/messages.hex.json"));
    let mut count = 0;
    for hex in messages.values().filter(|text| text.bytes().all(|byte| byte.is_ascii_hexdigit()) && text.len() % 2 == 0)
    {
        let golden = vectors::from_hex(hex);
        record_law::check(&golden);
        for at in 0..golden.len() {
            for value in [0, 1, 2, 0x7F, 0x80, 0xFF, golden[at] ^ 1, golden[at] ^ 0x10] {
                let mut mutated = golden.clone();
                mutated[at] = value;
                record_law::check(&mutated);
            }
            record_law::check(&golden[..at]);
        }
        count += 1;
    }
    assert!(count >= 4, "only {count} golden messages");
}

#[test]
fn seeds_obey_the_law() {
    let seeds = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds/record");
    let mut count = 0;
    for entry in std::fs::read_dir(&seeds).unwrap() {
        record_law::check(&std::fs::read(entry.unwrap().path()).unwrap());
        count += 1;
    }
    assert!(count > 0, "no seeds in {}", seeds.display());
}

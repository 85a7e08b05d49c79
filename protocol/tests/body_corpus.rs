//! Replays the fuzzer's seeds and the golden bodies, whole, cut and changed, through the fuzzer's law.

mod body_law;
mod vectors;

/// A regression here is a panic on a body that anyone can send, or one that is passed on other than it came.
#[test]
fn golden_bodies_and_their_mutations_obey_the_law() {
    let files = [include_str!("vectors/bodies.5.4.0.json"), include_str!("vectors/bodies.5.3.3-differences.json")];
    let bodies: Vec<String> = files.into_iter().flat_map(|file| vectors::names(file).into_values()).collect();
    assert!(bodies.len() >= 10, "only {} golden bodies", bodies.len());
    for golden in &bodies {
        body_law::check_all(golden.as_bytes());
        // Every kind against every place would take minutes: the fuzzer has them.
        for at in (0..golden.len()).step_by(7) {
            body_law::check_all(&golden.as_bytes()[..at]);
            for value in [b'"', b'{', b'[', b'9', b'-', b'\\', 0xFF] {
                let mut mutated = golden.clone().into_bytes();
                mutated[at] = value;
                body_law::check_all(&mutated);
            }
        }
    }
}

#[test]
fn seeds_obey_the_law() {
    let seeds = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds/body");
    let mut count = 0;
    for entry in std::fs::read_dir(&seeds).unwrap() {
        body_law::check(&std::fs::read(entry.unwrap().path()).unwrap());
        count += 1;
    }
    assert!(count > 0, "no seeds in {}", seeds.display());
}

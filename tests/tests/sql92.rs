//! SQL92 filters against RocketMQ's own engine.

use ledgermq_tests::sql92::{Case, Cases, Verdict, our_verdict, verdicts_of_rocketmq};

/// Cases of one run.
const COUNT: usize = 100_000;

/// Most disagreements that are shown.
const SHOWN_MAX: usize = 20;

/// Would break: a consumer that moves here from RocketMQ, and gets other messages by the same expression, or is refused.
#[test]
fn expressions_are_accepted_and_judged_as_by_rocketmq() {
    let seed = std::env::var("LEDGERMQ_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let mut cases = Cases::new(seed);
    let cases: Vec<Case> = (0..COUNT).map(|_| cases.next_case()).collect();
    let theirs = verdicts_of_rocketmq(&cases).unwrap();
    let mut seen = [0; 3];
    let mut differences = Vec::new();
    for (case, theirs) in cases.iter().zip(theirs) {
        // What is refused here on purpose.
        let Some(ours) = our_verdict(case) else { continue };
        seen[ours as usize] += 1;
        if ours != theirs {
            differences.push((case, ours, theirs));
        }
    }
    assert!(
        differences.is_empty(),
        "seed {seed}: {} of {COUNT} differ (ours, theirs): {:#?}",
        differences.len(),
        &differences[..differences.len().min(SHOWN_MAX)]
    );
    // The cases would prove nothing if nearly all had one outcome.
    for verdict in [Verdict::Refused, Verdict::Matches, Verdict::Differs] {
        assert!(seen[verdict as usize] > COUNT / 20, "{verdict:?}: {seen:?}");
    }
}

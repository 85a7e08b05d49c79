use proptest::prelude::*;

use super::*;

fn group(n: u128) -> Option<Uuid> {
    Some(Uuid::from_u128(n))
}

fn epoch(n: u128, term: u64) -> Epoch {
    Epoch { group: group(n), term }
}

/// A deposed leader that keeps registering must never get id 0 back from its successor.
#[test]
fn a_lower_term_of_the_same_group_is_refused() {
    let mut slot = LeaderSlot::default();
    slot.claim("a:1", epoch(1, 4)).unwrap();
    let taken = slot.claim("b:1", epoch(1, 5)).unwrap();
    assert_eq!(taken, Taken { deposed: Some("a:1".to_owned()), changed: true });
    assert_eq!(slot.claim("a:1", epoch(1, 4)), Err(ClaimRefused::TermBehind { known: 5, claimed: 4 }));
    assert!(slot.is_held_by("b:1"));
}

/// The leader that repeats itself, or wins again, keeps its place; only the new term is a change.
#[test]
fn the_holder_may_repeat_itself() {
    let mut slot = LeaderSlot::default();
    assert!(slot.claim("a:1", epoch(1, 4)).unwrap().changed);
    assert!(!slot.claim("a:1", epoch(1, 4)).unwrap().changed);
    assert!(slot.claim("a:1", epoch(1, 6)).unwrap().changed);
}

/// A foreign cluster that was given the same broker name must not take the queues of a live one, however high its term.
#[test]
fn another_group_waits_for_expiry() {
    let mut slot = LeaderSlot::default();
    slot.claim("a:1", epoch(1, 4)).unwrap();
    assert!(matches!(slot.claim("x:1", epoch(2, 99)), Err(ClaimRefused::OtherGroup { .. })));
    assert!(matches!(slot.claim("x:1", Epoch { group: None, term: 99 }), Err(ClaimRefused::OtherGroup { .. })));
    assert!(slot.release("a:1"));
    assert!(
        slot.claim("x:1", epoch(2, 1)).unwrap().changed,
        "terms of different groups have nothing to do with each other"
    );
}

/// After the successor expired at this name server (cut off from it), the leader of the older term must still not come back.
#[test]
fn a_group_cannot_go_back_even_when_nobody_holds_the_place() {
    let mut slot = LeaderSlot::default();
    slot.claim("a:1", epoch(1, 5)).unwrap();
    slot.release("a:1");
    assert_eq!(slot.claim("b:1", epoch(1, 4)), Err(ClaimRefused::TermBehind { known: 5, claimed: 4 }));
    slot.claim("b:1", epoch(1, 5)).unwrap();
}

/// Release must hit only the holder: a follower's message must not unseat the leader.
#[test]
fn only_the_holder_can_release() {
    let mut slot = LeaderSlot::default();
    slot.claim("a:1", epoch(1, 5)).unwrap();
    assert!(!slot.release("b:1"));
    assert!(slot.is_held_by("a:1"));
}

/// Apache brokers have no group: RocketMQ's rule holds, by which only another address with an older epoch is refused.
#[test]
fn brokers_without_a_group_follow_rocketmqs_rule() {
    let mut slot = LeaderSlot::default();
    let none = |term| Epoch { group: None, term };
    slot.claim("a:1", none(3)).unwrap();
    slot.claim("a:1", none(0)).unwrap();
    slot.claim("b:1", none(0)).unwrap();
    slot.claim("b:1", none(2)).unwrap();
    assert_eq!(slot.claim("a:1", none(1)), Err(ClaimRefused::TermBehind { known: 2, claimed: 1 }));
}

#[derive(Debug, Clone)]
enum Step {
    Claim { addr: u8, group: Option<u8>, term: u64 },
    Release { addr: u8 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..4u8, proptest::option::weighted(0.9, 0..2u8), 0..6u64)
            .prop_map(|(addr, group, term)| Step::Claim { addr, group, term }),
        1 => (0..4u8).prop_map(|addr| Step::Release { addr }),
    ]
}

proptest! {
    /// Whatever claims come in whatever order: as long as a group holds the place without a break by another, its term never goes
    /// back, and another group gets in only after a release.
    #[test]
    fn terms_never_go_back(steps in proptest::collection::vec(step(), 0..64)) {
        let mut slot = LeaderSlot::default();
        for step in steps {
            let before = slot.holder().cloned();
            match step {
                Step::Claim { addr, group, term } => {
                    let epoch = Epoch { group: group.map(|n| Uuid::from_u128(u128::from(n))), term };
                    let outcome = slot.claim(&format!("{addr}:1"), epoch);
                    let after = slot.holder().cloned();
                    match outcome {
                        Ok(_) => {
                            prop_assert_eq!(after.as_ref().map(|holder| holder.epoch), Some(epoch));
                            if let Some(before) = before {
                                prop_assert_eq!(before.epoch.group, epoch.group);
                                prop_assert!(epoch.group.is_none() || before.epoch.term <= epoch.term);
                            }
                        }
                        Err(_) => prop_assert_eq!(after, before),
                    }
                }
                Step::Release { addr } => {
                    let addr = format!("{addr}:1");
                    let held = slot.release(&addr);
                    prop_assert_eq!(held, before.is_some_and(|holder| holder.addr == addr));
                    prop_assert!(!held || slot.holder().is_none());
                }
            }
        }
    }
}

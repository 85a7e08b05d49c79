//! Scenarios with the broker's real state machine that chance alone would hardly meet.

use std::time::Duration;

use ledgermq_dledger::sim::{self, Death, Plan, SimConfig, Stats, Violation, World};
use ledgermq_tests::sim::{BrokerHost, Wish};

/// Seeds of each scenario.
const SEEDS: u64 = 20;

fn play(plan: &Plan, script: impl Fn(u64, &mut World<BrokerHost>) -> Result<(), Violation>) -> Stats {
    let config = SimConfig::new("cargo test -p ledgermq-tests --test simulation_scenarios");
    let mut total = Stats::default();
    for seed in 1..=SEEDS {
        let played = sim::scenario(seed, plan.clone(), BrokerHost::new, &config, |world| {
            script(seed, world)?;
            world.finish()
        });
        total.merge(&played.unwrap_or_else(|failure| panic!("{failure}")));
    }
    total
}

/// Gives a leader that is on its way out these wishes, in each of twelve rounds.
fn while_leaders_change<const N: usize>(wishes: [Wish; N]) -> Stats {
    play(&Plan::calm(3, 3), |seed, world| {
        for round in 0..12u64 {
            let leader = world.await_leader(Duration::from_secs(5))?;
            for wish in wishes.clone() {
                world.host_mut().wish(wish);
                world.operate(leader);
            }
            // Before, in the middle of, or after what that takes.
            world.run_for(Duration::from_micros((seed * 397 + round * 811) % 6_000))?;
            match (seed + round) % 4 {
                0 => world.transfer(leader, leader % 3 + 1),
                1 => world.partition(&[leader]),
                2 => world.kill(leader, Death::PowerCut)?,
                _ => {}
            }
            world.run_for(Duration::from_millis(1_500))?;
            world.heal();
        }
        Ok(())
    })
}

/// Sends that stand behind a deletion, and a topic made again, come to a leader that is on its way out: what the next one
/// has must be one history of the topic, never parts of two.
#[test]
fn a_topic_is_deleted_and_made_again_while_leaders_change() {
    let send = |count| Wish::Send { topic: "orders", queue: 0, count };
    let total = while_leaders_change([
        send(2),
        Wish::Commit("orders"),
        Wish::Delete("orders"),
        send(1),
        send(3),
        Wish::Commit("orders"),
        Wish::Delete("orders"),
        Wish::Read,
        send(1),
    ]);
    println!("{total}");
    for name in ["topic deletion", "leader change", "unknown outcome", "acknowledged"] {
        assert!(total.counters.get(name).is_some_and(|times| *times >= SEEDS), "too few of {name}");
    }
}

/// Resets, commits from before and their taking up come to leaders that are on their way out: where the group is, and whether
/// commits count, must follow from the log alone, on every replica.
#[test]
fn a_group_is_put_elsewhere_while_leaders_change() {
    let send = Wish::Send { topic: "orders", queue: 0, count: 3 };
    let total = while_leaders_change([
        Wish::Group,
        send.clone(),
        Wish::CommitEnd("orders"),
        Wish::Reset("orders"),
        Wish::CommitEnd("orders"),
        Wish::TakeUp("orders"),
        Wish::CommitEnd("orders"),
        send.clone(),
        Wish::Reset("orders"),
    ]);
    println!("{total}");
    for name in ["leader change", "unknown outcome", "acknowledged"] {
        assert!(total.counters.get(name).is_some_and(|times| *times >= SEEDS), "too few of {name}");
    }
}

/// Two leaders of one group would both commit, after a member forgot a change that it had seen committed (R10).
#[test]
fn a_restarted_member_remembers_committed_changes() {
    let mut plan = Plan::calm(5, 5);
    plan.tuning.hint_interval = Duration::from_secs(10);
    let total = play(&plan, |_, world| world.forgotten_change().map(drop));
    println!("{total}");
    assert!(total.counters.get("forgotten change").is_some_and(|times| *times >= SEEDS / 2), "it hardly came about");
}

/// A reader would be told less than what had been acknowledged before it asked.
#[test]
fn a_deposed_leader_serves_nothing() {
    let total = play(&Plan::calm(3, 3), |_, world| world.stale_leader().map(drop));
    println!("{total}");
}

//! Scenarios that chance alone would hardly meet, on the simulated group.

#![allow(clippy::print_stdout, reason = "counts are read by people")]

use std::time::Duration;

use ledgermq_dledger::group::Flush;
use ledgermq_dledger::sim::queues::QueueHost;
use ledgermq_dledger::sim::{self, Plan, SimConfig, Stats, Violation, World};

/// Plays a scenario with several seeds; it must come to its point in so many of them.
fn play(plan: &Plan, least: u32, script: impl Fn(&mut World<QueueHost>) -> Result<bool, Violation>) {
    let config = SimConfig::new("cargo test -p ledgermq-dledger --test sim_scenarios");
    let mut total = Stats::default();
    let mut reached = 0;
    for seed in 1..=20 {
        let played = sim::scenario(
            seed,
            plan.clone(),
            |_, plan| QueueHost::new(plan),
            &config,
            |world| {
                reached += u32::from(script(world)?);
                world.finish()
            },
        );
        total.merge(&played.unwrap_or_else(|failure| panic!("{failure}")));
    }
    println!("{reached} times: {total}");
    assert!(reached >= least, "it came to its point {reached} times only");
}

/// Two leaders of one group would both commit, after a member forgot a change that it had seen committed (R10).
#[test]
fn a_restarted_member_remembers_committed_changes() {
    let mut plan = Plan::calm(5, 5);
    plan.tuning.hint_interval = Duration::from_secs(10);
    play(&plan, 18, World::forgotten_change);
}

/// A vote would count that no configuration allows.
#[test]
fn a_learner_that_does_not_know_it_gets_no_vote() {
    let mut plan = Plan::calm(3, 4);
    // So that the log does not come in one piece.
    plan.tuning.message_bytes_max = 256;
    play(&plan, 15, World::unknowing_learner);
}

/// A reader would be told less than what had been acknowledged before it asked.
#[test]
fn a_deposed_leader_serves_nothing() {
    play(&Plan::calm(3, 3), 3, World::stale_leader);
}

/// A replica that has lost what it acknowledged, and the one that never had it, would be a majority: messages whose senders
/// were told that they are safe would be gone.
#[test]
fn a_lost_page_cache_costs_nothing_that_was_acknowledged() {
    let mut plan = Plan::calm(3, 3);
    plan.tuning.flush = Flush::Async;
    play(&plan, 15, World::lost_cache);
}

/// What a follower acknowledged before it lost its page cache would be counted, and be gone with the leader.
#[test]
fn an_old_word_of_a_restarted_follower_is_not_counted() {
    let mut plan = Plan::calm(3, 3);
    plan.tuning.flush = Flush::Async;
    play(&plan, 5, World::stale_word);
}

/// A loss of all page caches at once may cost what was answered from them, and must cost nothing else: replicas would differ, or
/// the group stand still.
#[test]
fn a_loss_of_all_page_caches_leaves_one_group() {
    for nodes in [3, 5] {
        let mut plan = Plan::calm(nodes, nodes);
        plan.tuning.flush = Flush::Async;
        play(&plan, 8, World::all_lose_their_caches);
    }
}

/// A loss of power of all nodes would leave the group without a leader for ever, or elect one while a log that may hold more
/// has not been heard.
#[test]
fn a_group_in_doubt_waits_for_all_and_goes_on() {
    play(&Plan::calm(3, 3), 20, World::all_in_doubt);
    play(&Plan::calm(5, 5), 20, World::all_in_doubt);
}

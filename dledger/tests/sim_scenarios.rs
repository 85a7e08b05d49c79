//! Scenarios that chance alone would hardly meet, on the simulated group.

#![allow(clippy::print_stdout, reason = "counts are read by people")]

use std::time::Duration;

use ledgermq_dledger::group::{Flush, MemberChange};
use ledgermq_dledger::sim::queues::QueueHost;
use ledgermq_dledger::sim::{self, Death, Plan, SimConfig, Stats, Violation, World};

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

/// A group in doubt would wait for a member that was removed and is gone, since one of the others has not heard of it.
#[test]
fn a_group_in_doubt_does_not_wait_for_who_was_removed() {
    play(&Plan::calm(5, 5), 18, World::removed_before_doubt);
}

/// A group whose log is cut soon, whoever lags.
fn cutting(birth: usize, nodes: usize) -> Plan {
    let mut plan = Plan::calm(birth, nodes);
    plan.segment_size = 16 << 10;
    plan.retention = true;
    plan.burst_max = 6;
    plan.tuning.lag_hold_bytes = 8 << 10;
    plan.tuning.lag_hold = Duration::from_millis(500);
    plan.tuning.snapshot_patience = Duration::from_millis(800);
    plan.tuning.snapshot_linger = Duration::from_millis(500);
    plan
}

/// Cuts a follower off until the log begins behind it, and lets it come back. Returns leader and follower.
fn left_behind(world: &mut World<QueueHost>) -> Result<(u64, u64), Violation> {
    let leader = world.await_leader(Duration::from_secs(4))?;
    world.run_for(Duration::from_millis(300))?;
    let lost = leader % 3 + 1;
    world.partition(&[lost]);
    world.run_for(Duration::from_secs(5))?;
    world.heal();
    Ok((world.newest_leader().unwrap_or(leader), lost))
}

/// A follower behind the beginning of the log would stay there for ever.
#[test]
fn a_follower_behind_the_log_takes_a_snapshot_under_load() {
    play(&cutting(3, 3), 18, |world| {
        left_behind(world)?;
        world.await_count("snapshot installed", 1, Duration::from_secs(5))
    });
}

/// Half a snapshot would be taken for a whole one, or the old state be lost with it.
#[test]
fn a_taker_dies_at_any_moment_of_a_snapshot() {
    for (n, death) in [Death::Killed, Death::PowerCut].into_iter().enumerate() {
        for delay in [0, 300, 1_000, 2_000, 4_000, 8_000, 15_000, 30_000] {
            let mut plan = cutting(3, 3);
            plan.die_in_install(n as u32 * 2);
            play(&plan, 18, |world| {
                let (leader, taker) = left_behind(world)?;
                if !world.await_count("pull begun", 1, Duration::from_secs(5))? {
                    return Ok(false);
                }
                let Some((goal, _)) = world.indexes(leader) else { return Ok(false) };
                world.run_for(Duration::from_micros(delay))?;
                world.kill(taker, death)?;
                // A start finishes what was switched to: such a snapshot is never counted as installed.
                world.await_applied(taker, goal, Duration::from_secs(15))
            });
        }
    }
}

/// A taker would wait for a giver that is gone, or mix the files of two.
#[test]
fn a_giver_dies_in_the_middle_of_a_pull() {
    play(&cutting(3, 3), 15, |world| {
        let (giver, _) = left_behind(world)?;
        if !world.await_count("pull begun", 1, Duration::from_secs(5))? {
            return Ok(false);
        }
        world.run_for(Duration::from_millis(3))?;
        world.kill(giver, Death::PowerCut)?;
        world.await_count("snapshot installed", 1, Duration::from_secs(10))
    });
}

/// The leader would take a member for busy with a snapshot that it never got.
#[test]
fn a_snapshot_is_lost_on_its_way() {
    play(&cutting(3, 3), 15, |world| {
        let (_, taker) = left_behind(world)?;
        if !world.await_count("pull begun", 1, Duration::from_secs(5))? {
            return Ok(false);
        }
        world.partition(&[taker]);
        world.run_for(Duration::from_secs(4))?;
        world.heal();
        world.await_count("snapshot installed", 1, Duration::from_secs(8))
    });
}

/// An empty replica could not join a group whose log has been cut.
#[test]
fn an_empty_replica_joins_behind_the_beginning_of_the_log() {
    play(&cutting(3, 4), 15, |world| {
        let leader = world.await_leader(Duration::from_secs(4))?;
        if !world.await_count("prefix removal", 3, Duration::from_secs(12))? {
            return Ok(false);
        }
        let leader = world.newest_leader().unwrap_or(leader);
        world.add_learner(leader, 4);
        let there = world.await_count("snapshot installed", 1, Duration::from_secs(8))?;
        world.run_for(Duration::from_millis(500))?;
        if let Some(leader) = world.newest_leader() {
            world.change_members(leader, &[MemberChange::Promote(4)]);
        }
        world.run_for(Duration::from_millis(500))?;
        Ok(there)
    });
}

/// A second snapshot would be installed over a first one that is not on the disk yet.
#[test]
fn a_second_snapshot_comes_before_the_first_is_persisted() {
    play(&cutting(3, 3), 10, |world| {
        let (_, taker) = left_behind(world)?;
        if !world.await_count("snapshot stepped", 1, Duration::from_secs(6))? {
            return Ok(false);
        }
        world.stall_disk(taker, Duration::from_secs(4));
        world.run_for(Duration::from_secs(5))?;
        world.await_count("snapshot installed", 1, Duration::from_secs(8))
    });
}

/// A replica whose state was removed would never serve again, once the log does not begin with the first entry any more.
#[test]
fn a_replica_without_its_state_takes_anothers() {
    play(&cutting(3, 3), 15, |world| {
        world.await_leader(Duration::from_secs(4))?;
        if !world.await_count("prefix removal", 3, Duration::from_secs(12))? {
            return Ok(false);
        }
        let Some(leader) = world.newest_leader() else { return Ok(false) };
        world.come_back_without_state(leader % 3 + 1, Death::Killed)?;
        if !world.await_count("start without a state", 1, Duration::from_secs(2))? {
            return Ok(false);
        }
        world.await_count("snapshot installed", 1, Duration::from_secs(8))
    });
}

/// A replica without a state that asks for more than is committed would have the checkpoint made again and again under the hands of
/// another member, whose log is needed before anything else can be committed.
#[test]
fn who_asks_for_too_much_takes_no_snapshot_away_from_another() {
    let mut plan = cutting(3, 3);
    // A snapshot takes longer than the time between two heartbeats, with which it would be asked for anew.
    plan.delay(Duration::from_millis(20)..Duration::from_millis(40));
    play(&plan, 15, |world| {
        let first = world.await_leader(Duration::from_secs(4))?;
        world.run_for(Duration::from_millis(300))?;
        let behind = first % 3 + 1;
        world.partition(&[behind]);
        world.run_for(Duration::from_secs(5))?;
        let Some(leader) = world.newest_leader().filter(|leader| *leader != behind) else { return Ok(false) };
        world.come_back_without_state(6 - leader - behind, Death::Killed)?;
        world.kill(leader, Death::Killed)?;
        if !world.await_count("start without a state", 1, Duration::from_secs(4))? {
            return Ok(false);
        }
        world.heal();
        world.await_count("snapshot installed", 2, Duration::from_secs(10))
    });
}

/// A replica whose log has lost its end with the page cache, but not its state, would not start.
#[test]
fn a_state_ahead_of_a_log_that_begins_later_gives_way_to_anothers() {
    let mut plan = cutting(3, 3);
    plan.tuning.flush = Flush::Async;
    play(&plan, 1, |world| {
        world.await_leader(Duration::from_secs(4))?;
        if !world.await_count("prefix removal", 3, Duration::from_secs(12))? {
            return Ok(false);
        }
        let Some(leader) = world.newest_leader() else { return Ok(false) };
        world.come_back_without_state(leader % 3 + 1, Death::PowerCut)?;
        if !world.await_count("start without a state", 1, Duration::from_secs(2))? {
            return Ok(false);
        }
        world.await_count("snapshot installed", 1, Duration::from_secs(8))
    });
}

/// A member that is down would hold the log back for ever, when the leader changes after it has gone: the new one knows nothing
/// of it.
#[test]
fn a_new_leader_does_not_wait_for_a_member_that_is_gone() {
    let mut plan = cutting(3, 3);
    plan.tuning.lag_hold = Duration::from_secs(3_600);
    play(&plan, 18, |world| {
        let leader = world.await_leader(Duration::from_secs(4))?;
        world.run_for(Duration::from_millis(300))?;
        world.partition(&[leader % 3 + 1]);
        world.run_for(Duration::from_millis(300))?;
        world.kill(leader, Death::Killed)?;
        let goes_on = world.await_count("prefix removal", 8, Duration::from_secs(15))?;
        world.heal();
        Ok(goes_on && world.await_count("snapshot installed", 1, Duration::from_secs(8))?)
    });
}

//! The official Java client, 5.x and 4.x, against a cluster of real processes.

use ledgermq_tests::peer::Library;
use ledgermq_tests::stage::Stage;
use ledgermq_tests::{filtering, replicas, scenario};

/// Would break: what every RocketMQ producer does all day.
#[test]
fn producers_of_every_kind_find_their_messages_stored_as_acknowledged() {
    let stage = Stage::start(Library::Java5).unwrap();
    let modes = [("sync", 200), ("async", 1000), ("oneway", 300), ("batch", 200)];
    scenario::sends_are_stored_as_acknowledged(&stage, &modes).unwrap();
}

/// Would break: consumption, and everything that is not ASCII.
#[test]
fn push_consumers_are_handed_every_message_with_its_words() {
    let stage = Stage::start(Library::Java5).unwrap();
    scenario::push_consumers_get_every_message(&stage).unwrap();
}

/// Would break: the two models in which nobody takes anything over from anybody: broadcasting, and reading by pulls.
#[test]
fn broadcasting_reaches_every_member_and_pulling_goes_on_where_it_stopped() {
    let stage = Stage::start(Library::Java5).unwrap();
    scenario::broadcast_reaches_every_member(&stage).unwrap();
    scenario::pulling_goes_on_where_it_stopped(&stage, &["pull", "lite"]).unwrap();
}

/// Would break: consumers that want a part of a topic: by SQL92 over properties, by tags, pushed and pulled.
#[test]
fn filtered_groups_get_exactly_what_matches() {
    let mut stage = Stage::start(Library::Java5).unwrap();
    filtering::groups_get_exactly_what_matches(&stage).unwrap();
    filtering::a_bad_expression_is_refused_at_the_start(&stage).unwrap();
    stage.play_on(Library::Java4);
    filtering::groups_get_exactly_what_matches(&stage).unwrap();
}

/// Would break: filters when the leader that judges them dies.
#[test]
fn filtered_groups_get_exactly_what_matches_when_a_leader_dies() {
    let mut stage = Stage::start(Library::Java5).unwrap();
    let libraries = [Library::Java5, Library::Java4];
    filtering::groups_get_exactly_what_matches_when_a_leader_dies(&mut stage, &libraries).unwrap();
    replicas::judge(&mut stage.cluster).unwrap();
}

/// Would break: sharing a topic's queues, and the takeover when a member dies without a word.
#[test]
fn three_members_of_a_group_share_the_queues_and_two_take_over_from_a_dead_one() {
    let stage = Stage::start(Library::Java5).unwrap();
    scenario::a_group_of_three_takes_over_from_a_dead_member(&stage).unwrap();
}

/// Would break: ordered consumption. Queue locks must outlive the leader that granted them.
#[test]
fn ordered_consumers_keep_the_order_when_a_leader_dies_and_a_member_leaves() {
    let stage = Stage::start(Library::Java5).unwrap();
    scenario::ordered_consumers_keep_the_order(&stage, true).unwrap();
}

/// Would break: the main promise, as an unmodified client sees it.
#[test]
fn a_producer_and_a_consumer_live_through_the_death_of_two_leaders() {
    let mut stage = Stage::start(Library::Java5).unwrap();
    scenario::lives_through_the_death_of_leaders(&mut stage, &[Library::Java5], 2).unwrap();
    replicas::judge(&mut stage.cluster).unwrap();
}

/// Would break: groups that share, broadcast and pull, when the leader they ask dies under them.
#[test]
fn every_way_of_consuming_goes_on_when_a_leader_dies() {
    let mut stage = Stage::start(Library::Java5).unwrap();
    scenario::every_way_of_consuming_goes_on_when_a_leader_dies(&mut stage, &[Library::Java5]).unwrap();
    replicas::judge(&mut stage.cluster).unwrap();
}

/// Would break: what several groups are for.
#[test]
fn a_producer_with_its_defaults_sees_no_call_fail_when_one_of_three_leaders_dies() {
    let mut stage = Stage::start_with(Library::Java5, 3).unwrap();
    scenario::no_call_fails_when_one_of_several_leaders_dies(&stage).unwrap();
    replicas::judge(&mut stage.cluster).unwrap();
}

/// Would break: the client that most installations still run. Its frames and JSON differ from those of 5.x.
#[test]
fn the_client_4_sends_consumes_and_pulls() {
    let stage = Stage::start(Library::Java4).unwrap();
    scenario::sends_are_stored_as_acknowledged(&stage, &[("async", 300)]).unwrap();
    scenario::push_consumers_get_every_message(&stage).unwrap();
    scenario::pulling_goes_on_where_it_stopped(&stage, &["lite"]).unwrap();
}

/// Would break: ordered consumption by the client that most installations still run.
#[test]
fn ordered_consumers_of_the_client_4_keep_the_order_when_a_leader_dies() {
    let stage = Stage::start(Library::Java4).unwrap();
    scenario::ordered_consumers_keep_the_order(&stage, true).unwrap();
}

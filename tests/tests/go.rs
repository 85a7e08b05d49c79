//! The official Go client, v2, against a cluster of real processes.

use ledgermq_tests::cluster::{GROUP, PATIENCE};
use ledgermq_tests::peer::Library;
use ledgermq_tests::stage::Stage;
use ledgermq_tests::{filtering, scenario};

/// Would break: what Go programs do all day. The Go client has its own frames, its own hash of tags, and batches whose
/// messages have no unique key.
#[test]
fn go_programs_of_every_kind_find_what_was_acknowledged() {
    let stage = Stage::start(Library::Go).unwrap();
    let modes = [("sync", 200), ("async", 1000), ("oneway", 300), ("batch", 200)];
    scenario::sends_are_stored_as_acknowledged(&stage, &modes).unwrap();
    scenario::push_consumers_get_every_message(&stage).unwrap();
    scenario::broadcast_reaches_every_member(&stage).unwrap();
    scenario::pulling_goes_on_where_it_stopped(&stage, &["lite"]).unwrap();
}

/// Would break: reading queues by offset, without any group's offsets.
#[test]
fn a_go_program_reads_queues_from_their_start_to_their_end() {
    const COUNT: u64 = 400;
    let stage = Stage::start(Library::Go).unwrap();
    let (topic, group) = (stage.name("read"), stage.name("readers"));
    let sent = stage.send(&stage.name("read-producer"), &topic, "sync", COUNT).unwrap();
    let mut reader = stage.pull(&stage.name("reader"), &topic, &group, "pull", &[("broker", GROUP)]).unwrap();
    reader.await_mark("done", PATIENCE).unwrap();
    let result = stage.judge(&topic, &[&group], &[sent, reader.stop().unwrap()], Vec::new()).unwrap();
    assert_eq!(result.delivered, COUNT as usize, "{result}");
}

/// Would break: consumers that want a part of a topic, calm and when the leader that judges their filters dies.
#[test]
fn filtered_go_groups_get_exactly_what_matches() {
    let mut stage = Stage::start(Library::Go).unwrap();
    filtering::groups_get_exactly_what_matches(&stage).unwrap();
    filtering::groups_get_exactly_what_matches_when_a_leader_dies(&mut stage, &[Library::Go]).unwrap();
}

/// Would break: sharing a topic's queues, and the takeover when a member dies without a word.
#[test]
fn three_go_members_share_the_queues_and_two_take_over_from_a_dead_one() {
    let stage = Stage::start(Library::Go).unwrap();
    scenario::a_group_of_three_takes_over_from_a_dead_member(&stage).unwrap();
}

/// Would break: the main promise for the Go client, which asks for routes every 30 s and no sooner, and for Java 4.x. Both hold
/// on to a pull for 30 s after its connection is gone, so they share the wait.
#[test]
fn go_and_old_java_clients_live_through_the_death_of_a_leader() {
    let mut stage = Stage::start(Library::Go).unwrap();
    scenario::lives_through_the_death_of_leaders(&mut stage, &[Library::Go, Library::Java4], 1).unwrap();
}

/// Would break: groups that share, broadcast and pull, when the leader they ask dies under them. Go and Java 4.x share the wait.
#[test]
fn every_way_of_consuming_goes_on_when_a_leader_dies() {
    let mut stage = Stage::start(Library::Go).unwrap();
    scenario::every_way_of_consuming_goes_on_when_a_leader_dies(&mut stage, &[Library::Go, Library::Java4]).unwrap();
}

/// Would break: ordered consumption by Go programs, whose client takes its locks by requests of its own.
#[test]
fn ordered_go_consumers_keep_the_order_when_a_leader_dies_and_one_follows_another() {
    let stage = Stage::start(Library::Go).unwrap();
    scenario::ordered_consumers_keep_the_order(&stage, false).unwrap();
}

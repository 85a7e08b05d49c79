//! The shape of a cluster: several groups, one node, several name servers; and the planned end of a leader.

use std::process::Command;
use std::time::{Duration, Instant};

use ledgermq_tests::checker::{Expect, check};
use ledgermq_tests::cluster::{Cluster, PATIENCE, report, signal};
use ledgermq_tests::history::{Event, History, monotonic_ns};
use ledgermq_tests::load::{self, Load, Plan};
use ledgermq_tests::peer::{Library, Peer};
use ledgermq_tests::{program, replicas};
use rustix::process::Signal;

/// Messages that must be acknowledged before and after each event.
const BETWEEN: u64 = 500;

fn plan(topic: &str) -> Plan {
    Plan { topic: topic.into(), producers: 4, size: 1024 }
}

fn failures(history: &History) -> Vec<&Event> {
    history.events.iter().filter(|e| matches!(e, Event::Fail { .. } | Event::Info { .. })).take(3).collect()
}

/// Would break: all nodes at work. Three groups are led by three nodes from the start; a dead node's group is taken over, and it
/// gets it back some time after it came back; a drill over all groups loses nothing, and each group's replicas are one.
#[test]
fn three_groups_are_led_by_three_nodes_and_a_node_that_comes_back_leads_again() {
    const SPREAD: [(u64, usize); 3] = [(1, 1), (2, 1), (3, 1)];
    let mut cluster = Cluster::start_with(&["--groups", "3"]).unwrap();
    cluster.await_led(&SPREAD).unwrap();
    let first = cluster.led().unwrap();
    cluster.kill(1).unwrap();
    cluster.await_led(&[(1, 0)]).unwrap();
    cluster.restart(1).unwrap();
    let back = Instant::now();
    cluster.await_led(&SPREAD).unwrap();
    report(&format!("leaders spread again {} ms after the restart", back.elapsed().as_millis()));
    assert_eq!(cluster.led().unwrap(), first);

    let mut drill = Command::new(program::ledgermq().unwrap());
    drill.args(["drill", "failover", "--json", "--messages", "6000", "--dir"]).arg(cluster.dir());
    let output = program::output(&mut drill).unwrap();
    let verdict: serde_json::Value = serde_json::from_slice(&output.stdout).expect("the drill's JSON");
    assert!(output.status.success(), "{verdict}: {}", program::words(&output));
    let led = |strike: usize| verdict["silences"][strike]["led"].as_array().map_or(0, Vec::len);
    assert!(led(0) >= 1 && led(1) >= 1 && led(2) == 3, "{verdict}");
    replicas::judge(&mut cluster).unwrap();
}

/// Would break: the shape that people try first on a small machine. It says what it is, and keeps what it acknowledged through a
/// kill and a stop.
#[test]
fn a_single_node_serves_alone_and_says_that_it_is_for_development() {
    let mut cluster = Cluster::start_with(&["--nodes", "1", "--groups", "1"]).unwrap();
    let log = std::fs::read_to_string(cluster.dir().join("dev.log")).unwrap();
    assert!(log.contains("for development only"), "{log}");
    let dir = tempfile::tempdir().unwrap();
    let load = Load::start(cluster.namesrv(), dir.path(), &plan("alone")).unwrap();
    load.await_acked(BETWEEN).unwrap();
    cluster.kill(1).unwrap();
    cluster.restart(1).unwrap();
    load.await_acked(BETWEEN).unwrap();
    let history = load::history(&cluster, "alone", &load.stop().unwrap()).unwrap();
    let result = check(&history, &Expect::default());
    assert!(result.clean(), "{result}");
    cluster.stop().unwrap();
}

/// Would break: a rolling restart that nobody notices. The leader is told to stop under load: no send fails, neither of clients
/// that learn the new leader by polling nor of an official one, and the process leaves by itself once nobody needs it.
#[test]
fn no_send_fails_when_a_leader_is_told_to_stop() {
    let mut cluster = Cluster::start().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let load = Load::start(cluster.namesrv(), dir.path(), &plan("drained")).unwrap();
    let options = [
        ("namesrv", cluster.namesrv()),
        ("group", "java-drained"),
        ("topic", "drained-java"),
        ("mode", "sync"),
        ("poll-ms", "2000"),
        ("pause-ms", "1"),
    ];
    let mut java = Peer::start(Library::Java5, "Produce", "java", dir.path(), &options).unwrap();
    java.await_history("messages", PATIENCE, |h| h.acked() > 200).unwrap();
    for _ in 0..2 {
        load.await_acked(BETWEEN).unwrap();
        let leader = cluster.await_leader(None).unwrap();
        let from = monotonic_ns();
        signal(leader.pid, Signal::TERM).unwrap();
        let next = cluster.await_leader(Some(leader.id)).unwrap();
        load.await_acked(BETWEEN).unwrap();
        cluster.await_end(&leader).unwrap();
        let until = monotonic_ns();
        let acked = java.history().unwrap().acked();
        java.await_history("messages after the stop", PATIENCE, |h| h.acked() > acked + 200).unwrap();
        report(&format!(
            "node {} led after node {}, which left after {} ms; longest silence of the Java producer {} ms",
            next.id,
            leader.id,
            (until - from) / 1_000_000,
            java.history().unwrap().longest_silence(from, until) / 1_000_000
        ));
        let log = cluster.log(leader.id).unwrap();
        assert!(log.contains("everything is durable"), "node {} did not end in order", leader.id);
        cluster.restart(leader.id).unwrap();
    }
    for (topic, files) in [("drained", load.stop().unwrap()), ("drained-java", vec![java.stop().unwrap()])] {
        let history = load::history(&cluster, topic, &files).unwrap();
        let result = check(&history, &Expect::default());
        assert!(result.clean(), "{result}");
        assert_eq!(result.sends, result.acked, "{topic}: a send failed: {:?}", failures(&history));
    }
    replicas::judge(&mut cluster).unwrap();
}

/// Would break: the same for clients with their defaults, which keep an address for up to 30 s: the old process passes their sends
/// on until none of them needs it.
#[test]
fn no_send_of_an_official_client_with_its_defaults_fails_when_a_leader_is_told_to_stop() {
    let mut cluster = Cluster::start().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let start = |library: Library| {
        let topic = format!("lingering-{}", library.name());
        let options = [
            ("namesrv", cluster.namesrv()),
            ("group", topic.as_str()),
            ("topic", topic.as_str()),
            ("mode", "sync"),
            ("pause-ms", "2"),
        ];
        let peer = Peer::start(library, "Produce", library.name(), dir.path(), &options).unwrap();
        (library, topic, peer)
    };
    let mut peers = [Library::Java5, Library::Java4, Library::Go].map(start);
    for (_, _, peer) in &mut peers {
        peer.await_history("messages", PATIENCE, |h| h.acked() > 200).unwrap();
    }
    let leader = cluster.await_leader(None).unwrap();
    let from = monotonic_ns();
    signal(leader.pid, Signal::TERM).unwrap();
    cluster.await_leader(Some(leader.id)).unwrap();
    cluster.await_end(&leader).unwrap();
    let until = monotonic_ns();
    let mut told = Vec::new();
    for (library, _, peer) in &mut peers {
        let acked = peer.history().unwrap().acked();
        peer.await_history("messages after the stop", PATIENCE, |h| h.acked() > acked + 200).unwrap();
        let silence = peer.history().unwrap().longest_silence(from, until);
        told.push(format!("{} {} ms", library.name(), silence / 1_000_000));
    }
    report(&format!("the node left after {} ms; longest silences: {}", (until - from) / 1_000_000, told.join(", ")));
    assert!(cluster.log(leader.id).unwrap().contains("everything is durable"), "the node did not end in order");
    cluster.restart(leader.id).unwrap();
    for (library, topic, peer) in peers {
        let history = load::history(&cluster, &topic, &[peer.stop().unwrap()]).unwrap();
        let result = check(&history, &Expect::default());
        assert!(result.clean(), "{result}");
        assert_eq!(result.sends, result.acked, "{}: a send failed: {:?}", library.name(), failures(&history));
    }
    replicas::judge(&mut cluster).unwrap();
}

/// Would break: name servers that matter. One dies, then all; clients that run go on. All come back under load, and a leader that
/// dies afterwards is still found.
#[test]
fn clients_go_on_while_name_servers_die_and_come_back() {
    let mut cluster = Cluster::start_with(&["--groups", "1", "--namesrvs", "3"]).unwrap();
    assert_eq!(cluster.namesrv().split(';').count(), 3, "{}", cluster.namesrv());
    let dir = tempfile::tempdir().unwrap();
    let load = Load::start(cluster.namesrv(), dir.path(), &plan("names")).unwrap();
    let options = [
        ("namesrv", cluster.namesrv()),
        ("group", "java-names"),
        ("topic", "names-java"),
        ("mode", "sync"),
        ("poll-ms", "500"),
        ("pause-ms", "1"),
    ];
    let mut java = Peer::start(Library::Java5, "Produce", "java", dir.path(), &options).unwrap();
    let go_on = |what: &str, load: &Load, java: &mut Peer| {
        load.await_acked(BETWEEN).unwrap();
        let acked = java.history().unwrap().acked();
        java.await_history(what, PATIENCE, |h| h.acked() > acked + 300).unwrap();
    };
    go_on("messages", &load, &mut java);
    cluster.kill_namesrv(1).unwrap();
    go_on("messages without one name server", &load, &mut java);
    cluster.kill_namesrv(2).unwrap();
    cluster.kill_namesrv(3).unwrap();
    // Longer than the clients' route poll and the brokers' heartbeats.
    let without = Instant::now();
    while without.elapsed() < Duration::from_secs(3) {
        go_on("messages without any name server", &load, &mut java);
    }
    let quiet = java.history().unwrap();
    assert!(failures(&quiet).is_empty(), "the death of name servers alone fails no send: {:?}", failures(&quiet));
    for n in 1..=3 {
        cluster.restart_namesrv(n).unwrap();
    }
    go_on("messages with all name servers back", &load, &mut java);
    let leader = cluster.await_leader(None).unwrap();
    cluster.kill(leader.id).unwrap();
    go_on("messages after the death of a leader", &load, &mut java);
    cluster.restart(leader.id).unwrap();
    for (topic, files) in [("names", load.stop().unwrap()), ("names-java", vec![java.stop().unwrap()])] {
        let history = load::history(&cluster, topic, &files).unwrap();
        let result = check(&history, &Expect::default());
        assert!(result.clean(), "{topic}: {result}");
    }
    replicas::judge(&mut cluster).unwrap();
}

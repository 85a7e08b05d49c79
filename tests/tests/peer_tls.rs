//! A cluster whose nodes meet each other over TLS: it serves through the death of leaders, and its certificates are replaced under load.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use ledgermq_tests::checker::{Expect, check};
use ledgermq_tests::cluster::{Cluster, NODES, POLL};
use ledgermq_tests::load::{self, Load, Plan};
use ledgermq_tests::{program, replicas};

/// Messages that must be acknowledged before and after each fault.
const BETWEEN_FAULTS: u64 = 500;

/// A look at the files every 2 s, on busy cores.
const TAKEN_UP_WITHIN: Duration = Duration::from_secs(30);

/// What a node says when it uses new certificates.
const TAKEN_UP: &str = "new connections of peers use the new certificates";

fn plan(topic: &str) -> Plan {
    Plan { topic: topic.into(), producers: 6, size: 1024 }
}

fn renew(dir: &Path) -> Result<()> {
    let output = Command::new(program::ledgermq()?).args(["dev", "renew-tls", "--dir"]).arg(dir).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// How often a node has said that it uses new certificates. Its log goes on over a restart.
fn taken_up(cluster: &Cluster, node: u64) -> Result<usize> {
    Ok(cluster.log(node)?.matches(TAKEN_UP).count())
}

/// Renews the certificates, and waits until each node has taken them up.
fn renew_and_await(cluster: &Cluster) -> Result<()> {
    let before = (1..=NODES).map(|node| taken_up(cluster, node)).collect::<Result<Vec<_>>>()?;
    renew(cluster.dir())?;
    let start = Instant::now();
    for (node, before) in (1..=NODES).zip(before) {
        while taken_up(cluster, node)? == before {
            ensure!(start.elapsed() < TAKEN_UP_WITHIN, "node {node} does not take up its new certificates");
            std::thread::sleep(POLL);
        }
    }
    Ok(())
}

/// Would break: replication over TLS that loses, reorders or stalls where a connection is lost and made again.
#[test]
fn nothing_acknowledged_is_lost_when_leaders_are_killed_over_tls() {
    let mut cluster = Cluster::start_with(&["--groups", "1", "--tls"]).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let load = Load::start(cluster.namesrv(), dir.path(), &plan("tls-leaders")).unwrap();
    for _ in 0..5 {
        load.await_acked(BETWEEN_FAULTS).unwrap();
        let leader = cluster.await_leader(None).unwrap();
        cluster.kill(leader.id).unwrap();
        load.await_acked(BETWEEN_FAULTS).unwrap();
        cluster.restart(leader.id).unwrap();
    }
    load.await_acked(BETWEEN_FAULTS).unwrap();
    let history = load::history(&cluster, "tls-leaders", &load.stop().unwrap()).unwrap();
    let result = check(&history, &Expect::default());
    assert!(result.clean(), "{result}");
    replicas::judge(&mut cluster).unwrap();
}

/// Would break: an operator who has to stop a cluster to renew its certificates. No send fails while they are replaced, and the
/// connections of a node that comes back stand on the new ones.
#[test]
fn certificates_are_replaced_under_load_without_a_failed_send() {
    let mut cluster = Cluster::start_with(&["--groups", "1", "--tls"]).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let load = Load::start(cluster.namesrv(), dir.path(), &plan("tls-renewed")).unwrap();
    for _ in 0..2 {
        load.await_acked(BETWEEN_FAULTS).unwrap();
        renew_and_await(&cluster).unwrap();
        load.await_acked(BETWEEN_FAULTS).unwrap();
        // Its connections are made anew, in both directions.
        let follower = cluster.follower().unwrap();
        cluster.kill(follower.id).unwrap();
        load.await_acked(BETWEEN_FAULTS).unwrap();
        cluster.restart(follower.id).unwrap();
        load.await_acked(BETWEEN_FAULTS).unwrap();
    }
    let history = load::history(&cluster, "tls-renewed", &load.stop().unwrap()).unwrap();
    let result = check(&history, &Expect::default());
    assert!(result.clean(), "{result}");
    assert_eq!(result.sends, result.acked, "a send failed");
    replicas::judge(&mut cluster).unwrap();
}

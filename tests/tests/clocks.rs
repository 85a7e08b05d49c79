//! Wall clocks that jump by an hour, on one node: it must not lead, and store times must not go back. The clock is set through
//! libfaketime, in the running process; monotonic clocks are left alone.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use ledgermq_tests::alone;
use ledgermq_tests::cluster::Cluster;
use ledgermq_tests::drill::{self, Drill};
use ledgermq_tests::load::{QUEUES, pull_fields};
use ledgermq_tests::wire::{self, Connection, code};

/// The library that fakes the clocks of a program with threads.
fn library() -> Result<PathBuf> {
    let folders = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib"];
    let found =
        folders.iter().map(|folder| Path::new(folder).join("faketime/libfaketimeMT.so.1")).find(|it| it.is_file());
    found.context("this test needs libfaketime: install the Debian package faketime (scripts/setup.sh does it)")
}

/// Sets a node's clock: `+0`, `+1h`, `-1h`.
fn set(dir: &Path, node: u64, offset: &str) -> Result<()> {
    let file = dir.join(format!("clock-{node}"));
    let staged = dir.join(format!("clock-{node}.next"));
    std::fs::write(&staged, format!("{offset}\n"))?;
    Ok(std::fs::rename(staged, file)?)
}

/// Store times of each queue never fall, and all are true but for what clocks may differ by: a leader whose clock jumps stamps by
/// the others'.
fn judge_store_times(cluster: &Cluster, topic: &str, began: SystemTime) -> Result<()> {
    let ms = |time: SystemTime| time.duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as i64;
    let (from, until) = (ms(began) - 2_000, ms(SystemTime::now()) + 2_000);
    let mut connection = Connection::open(cluster.await_leader(None)?.address())?;
    for queue in 0..QUEUES {
        let (mut next, mut last) = (0, from);
        loop {
            let answer = connection.call(code::PULL, &pull_fields(topic, queue, next), &[])?;
            if answer.code != 0 {
                break;
            }
            for record in wire::records(&answer.body)? {
                let at = record.store_ms;
                ensure!(
                    (last..=until).contains(&at),
                    "queue {queue}: stored at {at}, after {last}, true {from} to {until}"
                );
                last = at;
            }
            next = answer.number("nextBeginOffset")? as u64;
        }
        ensure!(next > 0, "queue {queue} holds nothing");
    }
    Ok(())
}

/// Would break: store times that go back, and all that is due by them.
#[test]
fn a_clock_that_jumps_by_an_hour_does_not_lead() {
    const TOPIC: &str = "clocks";
    let _alone = alone::hold().unwrap();
    let dir = tempfile::Builder::new().prefix("ledgermq-test-").tempdir().unwrap();
    for node in 1..=3 {
        set(dir.path(), node, "+0").unwrap();
    }
    let under = format!(
        "env LD_PRELOAD={} FAKETIME_DONT_FAKE_MONOTONIC=1 FAKETIME_NO_CACHE=1 FAKETIME_TIMESTAMP_FILE={}/clock-{{node}}",
        library().unwrap().display(),
        dir.path().display()
    );
    let began = SystemTime::now();
    let cluster = Cluster::start_in_with(dir.path(), &["--groups", "1", "--under", &under]).unwrap();
    let mut drill = Drill::start(TOPIC, cluster).unwrap();
    for _ in 0..drill::rounds(1).unwrap() {
        for offset in ["+1h", "-1h"] {
            let odd = drill.cluster.await_leader(None).unwrap();
            drill
                .fault(|cluster| {
                    set(dir.path(), odd.id, offset)?;
                    cluster.await_leader(Some(odd.id)).map(drop)
                })
                .unwrap();
            // The next leader dies: of the two that are left the one with the true time must lead, and only that one.
            let next = drill.cluster.await_leader(Some(odd.id)).unwrap();
            let third = (1..=3).find(|id| *id != odd.id && *id != next.id).unwrap();
            drill
                .fault(|cluster| {
                    cluster.kill(next.id)?;
                    let leader = cluster.await_leader(Some(next.id))?.id;
                    ensure!(leader == third, "node {leader} leads, its clock is {offset} off");
                    Ok(())
                })
                .unwrap();
            drill.cluster.restart(next.id).unwrap();
            set(dir.path(), odd.id, "+0").unwrap();
            drill.calm().unwrap();
            std::thread::sleep(Duration::from_secs(1));
        }
    }
    judge_store_times(&drill.cluster, TOPIC, began).unwrap();
    drill.judge().unwrap();
}

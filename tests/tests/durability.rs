//! That SEND_OK means: synced on a majority. Syncs are delayed, disabled and failed; disks lose their power.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use ledgermq_tests::alone;
use ledgermq_tests::checker::{Expect, Report, check};
use ledgermq_tests::cluster::{Cluster, NODES, Node, PATIENCE, POLL, alive, report};
use ledgermq_tests::drill::{self, Drill};
use ledgermq_tests::fault::{ALL_SYNCS, Disks, FileSystem, Strace};
use ledgermq_tests::history::{Event, History};
use ledgermq_tests::load::{self, Load, Plan, lone_send};
use ledgermq_tests::replicas;
use ledgermq_tests::wire::{Connection, code};

/// The delay that strace adds to each `fdatasync`, in microseconds.
const DELAY_US: u64 = 500_000;

/// Lone sends in each setting.
const LONE_SENDS: usize = 4;

/// Times of lone sends while the `fdatasync` of these nodes is delayed.
fn lone_sends(leader: &Node, delayed: &[&Node], name: &str) -> Result<Vec<Duration>> {
    let mut straces = Vec::new();
    for node in delayed {
        straces.push(Strace::attach(node.pid, "fdatasync", &format!("delay_exit={DELAY_US}"))?);
    }
    let mut connection = Connection::open(leader.address())?;
    let mut times = Vec::new();
    for n in 0..LONE_SENDS {
        // Lone: whatever the send before left to be synced is synced.
        std::thread::sleep(Duration::from_micros(2 * DELAY_US));
        times.push(lone_send(&mut connection, "lone", &format!("{name}-{n}"))?);
    }
    for strace in straces {
        ensure!(strace.injected()? > 0, "no fdatasync was delayed ({name})");
        strace.detach()?;
    }
    report(&format!("lone sends, fdatasync delayed on {name}: {times:?}"));
    Ok(times)
}

/// Would break: an acknowledgement before the sync of a majority, or one that waits for more than a majority.
#[test]
fn a_lone_send_waits_for_the_sync_of_a_majority_and_for_no_more() {
    let cluster = Cluster::start().unwrap();
    let leader = cluster.await_leader(None).unwrap();
    let followers: Vec<Node> = cluster.nodes().unwrap().into_iter().filter(|n| n.id != leader.id).collect();
    lone_send(&mut Connection::open(leader.address()).unwrap(), "lone", "first").unwrap();

    let slow = Duration::from_micros(DELAY_US);
    let quick = Duration::from_millis(250);
    for (name, delayed) in [("the leader", &leader), ("a follower", &followers[0])] {
        let times = lone_sends(&leader, &[delayed], name).unwrap();
        assert!(times.iter().all(|time| *time < quick), "{name}: {times:?}");
    }
    let settings =
        [("both followers", [&followers[0], &followers[1]]), ("leader and follower", [&leader, &followers[1]])];
    for (name, delayed) in settings {
        let times = lone_sends(&leader, &delayed, name).unwrap();
        assert!(times.iter().all(|time| *time >= slow), "{name}: {times:?}");
    }
    assert_eq!(cluster.leader().unwrap().id, leader.id, "a slow disk is no reason for an election");
}

/// One power cut of all nodes under load, and what clients find afterwards.
struct PowerCut {
    cluster: Cluster,
    disks: Disks,
    histories: Vec<PathBuf>,
    folder: tempfile::TempDir,
    _alone: alone::Alone,
}

impl PowerCut {
    const TOPIC: &str = "power";

    fn start() -> Result<PowerCut> {
        PowerCut::start_on(FileSystem::Ext4)
    }

    fn start_on(system: FileSystem) -> Result<PowerCut> {
        let alone = alone::hold()?;
        let disks = Disks::with(system)?;
        let cluster = Cluster::start_in(disks.dir())?;
        Ok(PowerCut { cluster, disks, histories: Vec::new(), folder: tempfile::tempdir()?, _alone: alone })
    }

    fn load(&self, round: usize) -> Result<Load> {
        let dir = self.folder.path().join(round.to_string());
        std::fs::create_dir(&dir)?;
        let topic = format!("{}-{round}", PowerCut::TOPIC);
        Load::start(self.cluster.namesrv(), &dir, &Plan { topic, producers: 6, size: 1024 })
    }

    /// Cuts the power of all disks under `load`, ends all nodes, and gives the power back.
    fn cut(&mut self, load: Load) -> Result<()> {
        self.disks.cut_power()?;
        self.histories = load.stop()?;
        for node in self.cluster.nodes()? {
            // It may have ended by itself already: its disk answers EIO.
            if node.pid != 0 && alive(node.pid)? {
                self.cluster.kill(node.id)?;
            }
        }
        self.disks.restore_power()
    }

    /// Starts all nodes on what their disks kept.
    fn recover(&self) -> Result<()> {
        for node in 1..=NODES {
            self.cluster.restart(node)?;
        }
        self.cluster.await_leader(None).map(|_| ())
    }

    fn judge(&self, round: usize) -> Result<Report> {
        let topic = format!("{}-{round}", PowerCut::TOPIC);
        let history = load::history(&self.cluster, &topic, &self.histories)?;
        Ok(check(&history, &Expect::default()))
    }
}

impl Drop for PowerCut {
    fn drop(&mut self) {
        // The nodes must be gone before their disks are.
        if let Ok(nodes) = self.cluster.nodes() {
            for node in nodes.iter().filter(|n| n.pid != 0 && alive(n.pid).unwrap_or(false)) {
                let _ = self.cluster.kill(node.id);
            }
        }
    }
}

/// Messages acknowledged before each power cut.
const BEFORE_POWER_CUT: u64 = 2_000;

/// Would break: P1. All nodes lose their power at once, under load, again and again.
#[test]
fn nothing_acknowledged_is_lost_when_all_nodes_lose_their_power_at_once() {
    cut_all(FileSystem::Ext4, 5).unwrap();
}

/// Would break: P1 on the file system that many servers have: what XFS keeps of a file without a sync is not what ext4 keeps.
#[test]
fn nothing_acknowledged_is_lost_when_all_nodes_lose_their_power_at_once_on_xfs() {
    cut_all(FileSystem::Xfs, 2).unwrap();
}

fn cut_all(system: FileSystem, rounds: usize) -> Result<()> {
    let mut power = PowerCut::start_on(system)?;
    let rounds = drill::rounds(rounds)?;
    let mut acked = 0;
    for round in 0..rounds {
        let load = power.load(round)?;
        load.await_acked(BEFORE_POWER_CUT)?;
        power.cut(load)?;
        power.recover()?;
        let result = power.judge(round)?;
        report(&format!("power cut {round}: {result}"));
        ensure!(result.clean(), "{result}");
        ensure!(result.acked as u64 >= BEFORE_POWER_CUT, "the cut came before the load");
        acked += result.acked;
    }
    replicas::judge(&mut power.cluster)?;
    report(&format!(
        "drill: power loss of all nodes, {system:?}, {rounds} faults, {acked} acknowledged, 0 lost, replicas equal"
    ));
    Ok(())
}

/// Would break: a node that comes back with less than it acknowledged to its leader. Leader and follower lose their power in turn.
#[test]
fn a_node_that_loses_its_power_alone_comes_back_with_all_that_it_acknowledged() {
    let _alone = alone::hold().unwrap();
    let disks = Disks::new().unwrap();
    let mut drill = Drill::start("power-of-one", Cluster::start_in(disks.dir()).unwrap()).unwrap();
    for round in 0..drill::rounds(4).unwrap() {
        let leader = drill.cluster.await_leader(None).unwrap();
        let node = if round % 2 == 0 { leader } else { drill.cluster.follower().unwrap() };
        drill
            .fault(|cluster| {
                disks.cut_power_of([node.id])?;
                // A machine without power does nothing more; its disk alone would answer EIO, and the process end by itself.
                if alive(node.pid)? {
                    cluster.kill(node.id)?;
                }
                Ok(())
            })
            .unwrap();
        disks.restore_power_of([node.id]).unwrap();
        drill.cluster.restart(node.id).unwrap();
        drill.calm().unwrap();
    }
    drill.judge().unwrap();
}

/// Would break: the proof. With every sync turned into a no-op the same drill must end red, or a green one says nothing.
#[test]
fn the_same_power_cut_loses_messages_when_syncs_do_nothing() {
    const RUNS: usize = 3;
    // strace stops each system call of each node, so that a run acknowledges less in its time.
    const BEFORE: u64 = 300;
    for run in 0..RUNS {
        let mut power = PowerCut::start().unwrap();
        let nodes = power.cluster.nodes().unwrap();
        // What is synced before belongs to the picture: it must come back.
        let load = power.load(0).unwrap();
        load.await_acked(BEFORE).unwrap();
        let straces: Vec<Strace> =
            nodes.iter().map(|node| Strace::attach(node.pid, ALL_SYNCS, "retval=0").unwrap()).collect();
        load.await_acked(BEFORE).unwrap();
        for strace in &straces {
            assert!(strace.injected().unwrap() > 0, "run {run}: a node asked for no sync");
        }
        power.cut(load).unwrap();
        drop(straces);
        match power.recover().and_then(|()| power.judge(0)) {
            Err(why) => report(&format!("run {run} without syncs is red: {why:#}")),
            Ok(result) => {
                report(&format!("run {run} without syncs: {result}"));
                assert!(
                    !result.clean(),
                    "run {run}: a power cut without syncs lost nothing, so the drill proves nothing"
                );
            }
        }
    }
}

/// Would break: going on after a failed sync. The node must end with a clear error, and acknowledge nothing by it; the
/// others go on.
#[test]
fn a_failed_sync_ends_the_node_and_loses_nothing() {
    let mut cluster = Cluster::start().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let load =
        Load::start(cluster.namesrv(), dir.path(), &Plan { topic: "eio".into(), producers: 4, size: 1024 }).unwrap();
    for role in ["leader", "follower"] {
        load.await_acked(200).unwrap();
        let leader = cluster.await_leader(None).unwrap();
        let node = if role == "leader" { leader } else { cluster.follower().unwrap() };
        let strace = Strace::attach(node.pid, "fdatasync", "error=EIO:when=1").unwrap();
        let deadline = Instant::now() + PATIENCE;
        while alive(node.pid).unwrap() {
            assert!(Instant::now() < deadline, "the {role} goes on after a failed fdatasync");
            std::thread::sleep(POLL);
        }
        drop(strace);
        let log = cluster.log(node.id).unwrap().to_lowercase();
        let words = log.contains("input/output error") || log.contains("os error 5");
        assert!(words, "the {role} did not say why it ended");
        load.await_acked(500).unwrap();
        cluster.restart(node.id).unwrap();
    }
    load.await_acked(200).unwrap();
    let history = load::history(&cluster, "eio", &load.stop().unwrap()).unwrap();
    let result = check(&history, &Expect::default());
    assert!(result.clean(), "{result}");
    replicas::judge(&mut cluster).unwrap();
}

/// Would break: a disk that fills up. The leader gives way to a member with room and no send fails; where nobody has room sends are
/// refused with the cause, and nothing is lost; with room they are taken again within seconds, by themselves.
#[test]
fn a_full_disk_moves_the_leadership_and_then_refuses_sends_with_the_cause() {
    /// Left free: below the mark of one group with segments of 64 MiB (384 MiB), and enough for what is under way.
    const LEFT_BYTES: u64 = 200 << 20;
    let _alone = alone::hold().unwrap();
    let disks = Disks::new().unwrap();
    // Nothing old goes to make room.
    let options = ["--groups", "1", "--set", "retention_forced=false"];
    let mut cluster = Cluster::start_in_with(disks.dir(), &options).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let load =
        Load::start(cluster.namesrv(), dir.path(), &Plan { topic: "full".into(), producers: 4, size: 1024 }).unwrap();
    load.await_acked(500).unwrap();
    let leader = cluster.await_leader(None).unwrap();
    disks.fill(leader.id, LEFT_BYTES).unwrap();
    cluster.await_leader(Some(leader.id)).unwrap();
    load.await_acked(500).unwrap();
    let files = load.stop().unwrap();
    let history = load::history(&cluster, "full", &files).unwrap();
    let result = check(&history, &Expect::default());
    assert!(result.clean(), "{result}");
    assert_eq!(result.sends, result.acked, "no send fails while a member has room: {result}");

    for node in cluster.nodes().unwrap().iter().filter(|node| node.id != leader.id) {
        disks.fill(node.id, LEFT_BYTES).unwrap();
    }
    let deadline = Instant::now() + PATIENCE;
    let refused = loop {
        let mut connection = Connection::open(cluster.await_leader(None).unwrap().address()).unwrap();
        match load::lone_send(&mut connection, "full-probe", "probe") {
            Err(refusal) if format!("{refusal:#}").contains("has no room") => break format!("{refusal:#}"),
            _ => assert!(Instant::now() < deadline, "sends are taken though every disk is full"),
        }
        std::thread::sleep(POLL);
    };
    assert!(
        refused.contains("code 14") && refused.contains("MiB are free at") && refused.contains("/data"),
        "{refused}"
    );
    let mut reader = Connection::open(cluster.await_leader(None).unwrap().address()).unwrap();
    load::max_offset(&mut reader, "full", 0).unwrap();

    let room_again = Instant::now();
    for node in cluster.nodes().unwrap() {
        disks.make_room(node.id).unwrap();
    }
    loop {
        let leader = cluster.await_leader(None).unwrap();
        let sent = Connection::open(leader.address())
            .and_then(|mut connection| load::lone_send(&mut connection, "full-probe", "probe"));
        if sent.is_ok() {
            break;
        }
        assert!(room_again.elapsed() < Duration::from_secs(10), "sends are refused though there is room: {sent:?}");
        std::thread::sleep(POLL);
    }
    report(&format!(
        "refused with: {refused}\ntaken again {} ms after there was room",
        room_again.elapsed().as_millis()
    ));
    replicas::judge(&mut cluster).unwrap();
}

/// Would break: sends that are refused, or a leader that gives way, although old messages could make room on a disk that fills up.
#[test]
fn old_messages_make_room_before_sends_are_refused() {
    /// Free on each disk when the load goes on: more than is kept free, less than it writes.
    const LEFT_BYTES: u64 = 110 << 20;
    let _alone = alone::hold().unwrap();
    let disks = Disks::new().unwrap();
    let options =
        ["--groups", "1", "--segment-mib", "4", "--set", "disk_keep_bytes=67108864", "--set", "retention_ms=0"];
    let mut cluster = Cluster::start_in_with(disks.dir(), &options).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let plan = Plan { topic: "room".into(), producers: 4, size: 8 << 10 };
    let load = Load::start(cluster.namesrv(), dir.path(), &plan).unwrap();
    load.await_acked(1_500).unwrap();
    let leader = cluster.await_leader(None).unwrap();
    for node in cluster.nodes().unwrap() {
        disks.fill(node.id, LEFT_BYTES).unwrap();
    }
    // More than twice what is free.
    load.await_acked(28_000).unwrap();
    assert_eq!(cluster.await_leader(None).unwrap().id, leader.id, "nobody has to give way");
    let history = History::read(&load.stop().unwrap()).unwrap();
    let failed: Vec<_> =
        history.events.iter().filter(|event| matches!(event, Event::Fail { .. } | Event::Info { .. })).collect();
    assert!(failed.is_empty(), "{failed:?}");
    let mut connection = Connection::open(leader.address()).unwrap();
    let fields = [("topic", "room".to_owned()), ("queueId", "0".to_owned())];
    let begin = connection.call(code::MIN_OFFSET, &fields, &[]).unwrap().number("offset").unwrap();
    assert!(begin > 0, "nothing old has gone");
    report(&format!("the log begins at message {begin} of queue 0, and every send was taken"));
    replicas::judge(&mut cluster).unwrap();
}

//! Deaths of nodes under load, by `kill -9`. The page cache survives these: durability.rs has the power cuts.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use ledgermq_tests::checker::{Anomaly, Expect, check};
use ledgermq_tests::cluster::{Cluster, NODES, report, signal};
use ledgermq_tests::fault::{ALL_SYNCS, Strace};
use ledgermq_tests::history::{Event, History, monotonic_ns};
use ledgermq_tests::load::{self, Load, Observer, Plan};
use ledgermq_tests::wire::{self, Connection, code};
use ledgermq_tests::{payload, replicas};
use rustix::process::Signal;

fn plan(topic: &str, producers: usize) -> Plan {
    Plan { topic: topic.into(), producers, size: 1024 }
}

/// Messages that must be acknowledged before and after each fault.
const BETWEEN_FAULTS: u64 = 500;

/// Would break: the main promise. Leaders are killed under load, one after the other, and restarted.
#[test]
fn nothing_acknowledged_is_lost_when_leaders_are_killed() {
    const KILLS: usize = 20;
    // The election time-out is 600-950 ms; the rest is for two busy cores.
    const SILENCE_MAX_MS: u64 = 5_000;
    let mut cluster = Cluster::start().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let load = Load::start(cluster.namesrv(), dir.path(), &plan("leaders", 6)).unwrap();
    let observer = Observer::start(cluster.namesrv(), dir.path(), "leaders", 0).unwrap();
    let mut kills = Vec::new();
    for _ in 0..KILLS {
        load.await_acked(BETWEEN_FAULTS).unwrap();
        let leader = cluster.await_leader(None).unwrap();
        let from = monotonic_ns();
        cluster.kill(leader.id).unwrap();
        load.await_acked(BETWEEN_FAULTS).unwrap();
        kills.push((from, monotonic_ns()));
        cluster.restart(leader.id).unwrap();
    }
    load.await_acked(BETWEEN_FAULTS).unwrap();
    let mut files = load.stop().unwrap();
    files.push(observer.stop().unwrap());
    let history = load::history(&cluster, "leaders", &files).unwrap();
    let observed = history.events.iter().filter(|e| matches!(e, Event::Observe { .. })).count();
    assert!(observed > KILLS, "only {observed} maximum offsets were seen");
    let mut silences: Vec<u64> =
        kills.iter().map(|(from, until)| history.longest_silence(*from, *until) / 1_000_000).collect();
    silences.sort_unstable();
    let result = check(&history, &Expect::default());
    report(&format!("{result}\nlongest silences after kill -9 of a leader, ms: {silences:?}"));
    assert!(result.clean(), "{result}");
    assert!(silences.iter().all(|silence| *silence < SILENCE_MAX_MS), "{silences:?}");
    replicas::judge(&mut cluster).unwrap();
}

/// Would break: a follower's death must cost nobody anything: no send fails, none waits for long.
#[test]
fn no_send_fails_when_a_follower_is_killed() {
    let mut cluster = Cluster::start().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let load = Load::start(cluster.namesrv(), dir.path(), &plan("followers", 4)).unwrap();
    load.await_acked(BETWEEN_FAULTS).unwrap();
    let follower = cluster.follower().unwrap();
    let from = monotonic_ns();
    cluster.kill(follower.id).unwrap();
    load.await_acked(BETWEEN_FAULTS).unwrap();
    let until = monotonic_ns();
    cluster.restart(follower.id).unwrap();
    load.await_acked(BETWEEN_FAULTS).unwrap();
    let history = load::history(&cluster, "followers", &load.stop().unwrap()).unwrap();
    let result = check(&history, &Expect::default());
    assert!(result.clean(), "{result}");
    assert_eq!(result.sends, result.acked, "a send failed: {:?}", failures(&history));
    let silence = history.longest_silence(from, until) / 1_000_000;
    assert!(silence < 500, "no acknowledgement for {silence} ms after a follower's death");
    replicas::judge(&mut cluster).unwrap();
}

fn failures(history: &History) -> Vec<&Event> {
    history.events.iter().filter(|e| matches!(e, Event::Fail { .. } | Event::Info { .. })).take(3).collect()
}

/// Would break: coming back from nothing. All nodes die at once under load, and serve again soon after their start.
#[test]
fn nothing_acknowledged_is_lost_when_all_nodes_are_killed_at_once() {
    const ROUNDS: usize = 2;
    let mut cluster = Cluster::start().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let load = Load::start(cluster.namesrv(), dir.path(), &plan("all-nodes", 4)).unwrap();
    for _ in 0..ROUNDS {
        load.await_acked(BETWEEN_FAULTS).unwrap();
        for node in 1..=NODES {
            cluster.kill(node).unwrap();
        }
        let begin = Instant::now();
        for node in 1..=NODES {
            cluster.restart(node).unwrap();
        }
        cluster.await_leader(None).unwrap();
        let took = begin.elapsed();
        report(&format!("served {took:?} after the first start"));
        assert!(took < Duration::from_secs(15), "served only {took:?} after the start");
    }
    load.await_acked(BETWEEN_FAULTS).unwrap();
    let history = load::history(&cluster, "all-nodes", &load.stop().unwrap()).unwrap();
    let result = check(&history, &Expect::default());
    assert!(result.clean(), "{result}");
    replicas::judge(&mut cluster).unwrap();
}

/// Would break: a leader that was away and does not know it. It must acknowledge nothing of its own afterwards, and must not
/// tell an old maximum offset.
#[test]
fn a_leader_that_was_paused_neither_acknowledges_nor_answers_from_the_past() {
    const ROUNDS: usize = 3;
    let mut cluster = Cluster::start().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let load = Load::start(cluster.namesrv(), dir.path(), &plan("paused", 4)).unwrap();
    for _ in 0..ROUNDS {
        load.await_acked(BETWEEN_FAULTS).unwrap();
        let leader = cluster.await_leader(None).unwrap();
        let mut old = Connection::open(leader.address()).unwrap();
        signal(leader.pid, Signal::STOP).unwrap();
        let next = cluster.await_leader(Some(leader.id)).unwrap();
        load.await_acked(BETWEEN_FAULTS).unwrap();
        let known = load::max_offset(&mut Connection::open(next.address()).unwrap(), "paused", 0).unwrap();
        // Asked after that was told, and while it sleeps: the first thing that it sees.
        let fields = [("topic", "paused".to_owned()), ("queueId", "0".to_owned())];
        old.write(&wire::frame(code::MAX_OFFSET, 1, &fields, b"")).unwrap();
        signal(leader.pid, Signal::CONT).unwrap();
        let answer = old.answer_to(1).unwrap();
        if answer.code == 0 {
            let told = answer.number("offset").unwrap() as u64;
            assert!(told >= known, "the old leader tells offset {told}, {known} was told before");
        }
        load.await_acked(BETWEEN_FAULTS).unwrap();
    }
    let history = load::history(&cluster, "paused", &load.stop().unwrap()).unwrap();
    let result = check(&history, &Expect::default());
    assert!(result.clean(), "{result}");
    replicas::judge(&mut cluster).unwrap();
}

/// Would break: any place between two system calls of the log where a crash leaves something that recovery misreads.
#[test]
fn nothing_acknowledged_is_lost_when_a_node_is_killed_inside_any_of_its_writes() {
    const POINTS: [usize; 16] = [1, 2, 3, 4, 5, 6, 7, 8, 10, 13, 17, 21, 29, 40, 60, 90];
    const WRITES: &str = "pwrite64,pwritev,pwritev2,fdatasync,rename,renameat,renameat2,ftruncate,fallocate";
    let mut cluster = Cluster::start().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let load = Load::start(cluster.namesrv(), dir.path(), &plan("writes", 3)).unwrap();
    for (n, point) in POINTS.into_iter().enumerate() {
        load.await_acked(50).unwrap();
        let node = if n.is_multiple_of(2) { cluster.await_leader(None).unwrap() } else { cluster.follower().unwrap() };
        let strace = Strace::attach(node.pid, WRITES, &format!("signal=SIGKILL:when={point}")).unwrap();
        cluster.await_end(&node).unwrap();
        drop(strace);
        load.await_acked(50).unwrap();
        cluster.restart(node.id).unwrap();
    }
    load.await_acked(BETWEEN_FAULTS).unwrap();
    let history = load::history(&cluster, "writes", &load.stop().unwrap()).unwrap();
    let result = check(&history, &Expect::default());
    assert!(result.clean(), "{result}");
    replicas::judge(&mut cluster).unwrap();
}

/// Would break: a comparison that sees nothing. One flipped bit in one replica's log must fail both judges, and both must
/// pass again when it is flipped back.
#[test]
fn one_flipped_bit_fails_the_comparison_of_replicas() {
    let mut cluster = Cluster::start().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let load = Load::start(cluster.namesrv(), dir.path(), &plan("flip", 2)).unwrap();
    load.await_acked(BETWEEN_FAULTS).unwrap();
    let history = load::history(&cluster, "flip", &load.stop().unwrap()).unwrap();
    let id = history.events.iter().find_map(|e| if let Event::Final { id, .. } = e { Some(id.clone()) } else { None });
    let folders = replicas::folders(&cluster).unwrap();
    replicas::judge(&mut cluster).unwrap();

    let (file, at) = find_in_log(&folders[1], id.unwrap().as_bytes()).unwrap();
    flip(&file, at).unwrap();
    let inspect = replicas::inspect_compare(&folders).unwrap();
    assert!(!inspect.status.success(), "inspect compare did not see a flipped bit in {}", file.display());
    let script = replicas::compare_logs(&folders).unwrap();
    assert!(!script.status.success(), "compare-logs.sh did not see a flipped bit in {}", file.display());
    flip(&file, at).unwrap();
    assert!(replicas::inspect_compare(&folders).unwrap().status.success());
    assert!(replicas::compare_logs(&folders).unwrap().status.success());
}

/// The file under `folder` that holds `needle` in a log segment, and where.
fn find_in_log(folder: &Path, needle: &[u8]) -> Result<(PathBuf, usize)> {
    let mut folders = replicas::logs(&[folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            // Log segments are named by their base position.
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            if !name.is_empty() && name.bytes().all(|b| b.is_ascii_digit()) {
                let bytes = std::fs::read(&path)?;
                if let Some(at) = bytes.windows(needle.len()).position(|window| window == needle) {
                    return Ok((path, at));
                }
            }
        }
    }
    bail!("no log segment under {} holds the message", folder.display())
}

fn flip(file: &Path, at: usize) -> Result<()> {
    let file = File::options().read(true).write(true).open(file)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at as u64)?;
    byte[0] ^= 1;
    Ok(file.write_all_at(&byte, at as u64)?)
}

/// Would break: half a send that is stored, or a broken connection that disturbs another. Connections are cut in the middle
/// of frames and before answers, again and again.
#[test]
fn connections_cut_in_the_middle_store_nothing_twice_and_disturb_nobody() {
    const CUTS: u64 = 400;
    let mut cluster = Cluster::start().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let load = Load::start(cluster.namesrv(), dir.path(), &plan("cuts", 2)).unwrap();
    load.await_acked(20).unwrap();
    let leader = cluster.await_leader(None).unwrap();
    let mut cut = Vec::new();
    for n in 0..CUTS {
        let id = format!("cutter-{n}");
        let body = payload::make(&id, 1024);
        let fields = wire::send_fields("tests", "cuts", (n % 4) as i32, "");
        let frame = wire::frame(code::SEND_V2, 1, &fields, &body);
        // Every fifth is written whole and its answer not waited for: it may be stored once. The others end inside.
        let whole = n.is_multiple_of(5);
        let length = if whole { frame.len() } else { (n as usize * 37) % frame.len() };
        let (process, hash) = ("cutter".to_owned(), payload::hash(&body));
        let (t, topic) = (monotonic_ns(), "cuts".to_owned());
        cut.push(Event::Invoke { t, process: process.clone(), op: n, id, topic, hash, attempts: 1 });
        let mut connection = Connection::open(leader.address()).unwrap();
        connection.write(&frame[..length]).unwrap();
        drop(connection);
        let (t, error) = (monotonic_ns(), "cut".to_owned());
        cut.push(if whole {
            Event::Info { t, process, op: n, error }
        } else {
            Event::Fail { t, process, op: n, error }
        });
    }
    load.await_acked(BETWEEN_FAULTS).unwrap();
    let mut history = load::history(&cluster, "cuts", &load.stop().unwrap()).unwrap();
    assert!(failures(&history).is_empty(), "another connection noticed: {:?}", failures(&history));
    history.events.extend(cut);
    let result = check(&history, &Expect::default());
    assert!(result.clean(), "{result}");
    assert_eq!(result.count(Anomaly::FailedAppeared), 0);
    replicas::judge(&mut cluster).unwrap();
}

/// Would break: a leader whose disk hangs and who goes on leading, slow in everything that its own disk is needed for. It hands
/// over by itself; the others' disks acknowledge meanwhile, and no send fails.
#[test]
fn a_leader_with_a_hanging_disk_hands_over_and_no_send_fails() {
    const HANG_US: u32 = 8_000_000;
    let mut cluster = Cluster::start().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let load = Load::start(cluster.namesrv(), dir.path(), &plan("hanging", 4)).unwrap();
    load.await_acked(BETWEEN_FAULTS).unwrap();
    let leader = cluster.await_leader(None).unwrap();
    let from = monotonic_ns();
    let strace = Strace::attach(leader.pid, ALL_SYNCS, &format!("delay_exit={HANG_US}")).unwrap();
    let next = cluster.await_leader(Some(leader.id)).unwrap();
    let took = (monotonic_ns() - from) / 1_000_000;
    load.await_acked(BETWEEN_FAULTS).unwrap();
    let until = monotonic_ns();
    strace.detach().unwrap();
    let history = load::history(&cluster, "hanging", &load.stop().unwrap()).unwrap();
    let result = check(&history, &Expect::default());
    let silence = history.longest_silence(from, until) / 1_000_000;
    report(&format!("node {} led after {took} ms; longest silence {silence} ms\n{result}", next.id));
    assert!(result.clean(), "{result}");
    assert_eq!(result.sends, result.acked, "a send failed: {:?}", failures(&history));
    replicas::judge(&mut cluster).unwrap();
}

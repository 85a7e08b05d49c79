//! Members of a consumer group as processes: `ledgermq consume --group --follow`, which is the push consumer of the Rust client.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ledgermq_tests::checker::{Expect, check};
use ledgermq_tests::cluster::{Cluster, PATIENCE, POLL, report, signal};
use ledgermq_tests::history::{Event, History, monotonic_ns};
use ledgermq_tests::load::{self, Load, Plan, QUEUES};
use ledgermq_tests::wire::{Connection, code};
use ledgermq_tests::{payload, program, replicas};
use rustix::process::Signal;
use serde::Deserialize;

const TOPIC: &str = "members";
const GROUP: &str = "sharers";

/// Most times that a queue may change hands in the test of ordered members: once or twice for each member that comes or goes.
const HAND_OVERS_MAX: usize = 6;

/// Messages that must be acknowledged between two faults.
const BETWEEN_FAULTS: u64 = 500;

/// Longest time until the queues of a dead member are consumed by others: the broker tells them of the end of its connection.
/// Without that, the timer of 20 s would have to find it.
const TAKEOVER_MAX: Duration = Duration::from_secs(10);

/// A member, which prints what it consumes.
struct Member {
    name: String,
    child: Child,
    printed: File,
    errors: PathBuf,
    /// A line without its end: its writer is at it, or was killed.
    begun: Vec<u8>,
    /// What it has consumed, as far as it was looked at.
    deliveries: Vec<Event>,
    places: HashSet<(i32, u64)>,
}

/// What it prints of a message.
#[derive(Deserialize)]
struct Line {
    topic: String,
    queue: i32,
    queue_offset: u64,
    body: String,
}

impl Member {
    fn start(cluster: &Cluster, dir: &Path, number: usize, options: &[&str]) -> Result<Member> {
        let name = format!("member-{number}");
        let (out, errors) = (dir.join(format!("{name}.out")), dir.join(format!("{name}.err")));
        program::require("setpriv", "util-linux")?;
        // It dies with this test.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(program::ledgermq()?)
            .args(["consume", "--namesrv", cluster.namesrv(), "--topic", TOPIC, "--group", GROUP, "--follow", "--json"])
            .args(options)
            .stdin(Stdio::null())
            .stdout(File::create_new(&out)?)
            .stderr(File::create_new(&errors)?)
            .spawn()
            .context("cannot start a member")?;
        let (begun, deliveries, places) = (Vec::new(), Vec::new(), HashSet::new());
        Ok(Member { name, child, printed: File::open(&out)?, errors, begun, deliveries, places })
    }

    /// Looks at what it has printed since the last time.
    fn look(&mut self) -> Result<()> {
        self.printed.read_to_end(&mut self.begun)?;
        let Some(end) = self.begun.iter().rposition(|byte| *byte == b'\n') else { return Ok(()) };
        let begun = self.begun.split_off(end + 1);
        let whole = String::from_utf8(std::mem::replace(&mut self.begun, begun))?;
        for line in whole.lines() {
            let line: Line = serde_json::from_str(line).with_context(|| format!("{}: {line}", self.name))?;
            self.places.insert((line.queue, line.queue_offset));
            self.deliveries.push(Event::Deliver {
                t: monotonic_ns(),
                process: self.name.clone(),
                group: GROUP.to_owned(),
                topic: line.topic,
                queue: line.queue,
                offset: line.queue_offset,
                id: payload::id(line.body.as_bytes()),
                hash: payload::hash(line.body.as_bytes()),
                tag: None,
                keys: None,
                user: None,
                ordered: true,
            });
        }
        Ok(())
    }

    fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Ends it in order.
    fn stop(&mut self) -> Result<()> {
        signal(self.child.id(), Signal::TERM)?;
        let status = self.child.wait()?;
        let errors = std::fs::read_to_string(&self.errors)?;
        ensure!(status.success(), "{} ended with {status}: {errors}", self.name);
        Ok(())
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            report(&format!("--- {}\n{}", self.name, std::fs::read_to_string(&self.errors).unwrap_or_default()));
        }
    }
}

fn await_that(what: &str, patience: Duration, mut done: impl FnMut() -> Result<bool>) -> Result<Duration> {
    let begin = Instant::now();
    while !done()? {
        ensure!(begin.elapsed() < patience, "not within {patience:?}: {what}");
        std::thread::sleep(POLL);
    }
    Ok(begin.elapsed())
}

/// How many members the leader lists.
fn members_by_broker(cluster: &Cluster) -> Result<usize> {
    let mut connection = Connection::open(cluster.await_leader(None)?.address())?;
    let fields = [("consumerGroup", GROUP.to_owned())];
    let answer = connection.call(code::CONSUMER_CONNECTIONS, &fields, b"")?.success("the list of members")?;
    let list: serde_json::Value = serde_json::from_slice(&answer.body)?;
    Ok(list["connectionSet"].as_array().map_or(0, Vec::len))
}

/// Waits until every message of the final reading has been consumed by somebody.
fn await_all_consumed(history: &History, members: &mut [Member]) -> Result<Duration> {
    let stored = |event: &Event| match event {
        Event::Final { queue, offset, .. } => Some((*queue, *offset)),
        _ => None,
    };
    let stored: HashSet<(i32, u64)> = history.events.iter().filter_map(stored).collect();
    await_that("all is consumed", PATIENCE, || {
        members.iter_mut().try_for_each(Member::look)?;
        Ok(stored.iter().all(|place| members.iter().any(|member| member.places.contains(place))))
    })
}

/// Would break: consuming with the Rust client. Three members share the queues of a topic; one is killed, then the leader. All that
/// was acknowledged must be consumed, each queue in its order apart from what comes again, and a member that ends in order costs
/// nothing.
#[test]
fn members_take_over_from_each_other_and_follow_the_leader() {
    let mut cluster = Cluster::start().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let load =
        Load::start(cluster.namesrv(), dir.path(), &Plan { topic: TOPIC.into(), producers: 4, size: 256 }).unwrap();
    load.await_acked(20).unwrap();
    let mut members: Vec<Member> = (0..3).map(|n| Member::start(&cluster, dir.path(), n, &[]).unwrap()).collect();
    await_that("each member consumes", PATIENCE, || {
        members.iter_mut().try_for_each(Member::look)?;
        Ok(members.iter().all(|member| member.places.len() > 100))
    })
    .unwrap();
    assert_eq!(members_by_broker(&cluster).unwrap(), 3);
    load.await_acked(BETWEEN_FAULTS).unwrap();

    members[0].kill().unwrap();
    members[0].look().unwrap();
    let last = |queue| members[0].places.iter().filter(|(of, _)| *of == queue).map(|(_, at)| *at).max();
    let left: Vec<(i32, u64)> = (0..QUEUES).filter_map(|queue| Some((queue, last(queue)?))).collect();
    assert!(!left.is_empty());
    load.await_acked(BETWEEN_FAULTS).unwrap();
    let took = await_that("the others take over", TAKEOVER_MAX, || {
        members.iter_mut().try_for_each(Member::look)?;
        let others = || members[1..].iter().flat_map(|member| &member.places);
        Ok(left.iter().all(|(queue, last)| others().any(|(of, at)| of == queue && at > last)))
    })
    .unwrap();
    report(&format!("every queue is consumed again, {took:?} after {BETWEEN_FAULTS} further messages"));

    let leader = cluster.await_leader(None).unwrap();
    cluster.kill(leader.id).unwrap();
    load.await_acked(BETWEEN_FAULTS).unwrap();
    cluster.restart(leader.id).unwrap();
    load.await_acked(BETWEEN_FAULTS).unwrap();

    // One ends in order, and what comes after goes to the last.
    members[1].stop().unwrap();
    load.await_acked(BETWEEN_FAULTS).unwrap();
    let mut history = load::history(&cluster, TOPIC, &load.stop().unwrap()).unwrap();
    let took = await_all_consumed(&history, &mut members).unwrap();
    members[2].stop().unwrap();
    for member in &mut members {
        member.look().unwrap();
        history.events.append(&mut member.deliveries);
    }
    let expect = Expect { complete_groups: vec![(GROUP.into(), TOPIC.into())], ..Expect::default() };
    let result = check(&history, &expect);
    report(&format!("{result}\nthe last message was consumed {took:?} after the end of the load"));
    assert!(result.clean(), "{result}");
    replicas::judge(&mut cluster).unwrap();
}

/// Would break: consumption in order while members come and go and the leader dies. A queue is read by one member at a time, from
/// exactly where the one before it stopped: no message comes twice, and a queue changes hands a few times only.
#[test]
fn ordered_members_hand_queues_over_without_a_message_twice() {
    let cluster = Cluster::start().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let load =
        Load::start(cluster.namesrv(), dir.path(), &Plan { topic: TOPIC.into(), producers: 4, size: 256 }).unwrap();
    load.await_acked(20).unwrap();
    let mut members = Vec::new();
    for number in 0..3 {
        members.push(Member::start(&cluster, dir.path(), number, &["--ordered"]).unwrap());
        await_that("the new member consumes", PATIENCE, || {
            members[number].look()?;
            Ok(members[number].places.len() > 100)
        })
        .unwrap();
    }
    let leader = cluster.await_leader(None).unwrap();
    cluster.kill(leader.id).unwrap();
    load.await_acked(BETWEEN_FAULTS).unwrap();
    cluster.restart(leader.id).unwrap();
    load.await_acked(BETWEEN_FAULTS).unwrap();
    members[0].stop().unwrap();
    load.await_acked(BETWEEN_FAULTS).unwrap();
    let mut history = load::history(&cluster, TOPIC, &load.stop().unwrap()).unwrap();
    await_all_consumed(&history, &mut members).unwrap();
    members[1..].iter_mut().try_for_each(Member::stop).unwrap();

    let mut readers: BTreeMap<(i32, u64), usize> = BTreeMap::new();
    for (number, member) in members.iter_mut().enumerate() {
        member.look().unwrap();
        readers.extend(member.places.iter().map(|place| (*place, number)));
        history.events.append(&mut member.deliveries);
    }
    let expect = Expect { complete_groups: vec![(GROUP.into(), TOPIC.into())], redelivery_only_in_faults: true };
    let result = check(&history, &expect);
    report(&format!("{result}"));
    assert!(result.clean(), "{result}");
    for queue in 0..QUEUES {
        let of_queue: Vec<usize> =
            readers.iter().filter(|((of, _), _)| *of == queue).map(|(_, number)| *number).collect();
        let hand_overs = of_queue.windows(2).filter(|pair| pair[0] != pair[1]).count();
        assert!(hand_overs <= HAND_OVERS_MAX, "queue {queue} changed hands {hand_overs} times");
    }
}

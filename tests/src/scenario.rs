//! What people do with a broker every day, as stock clients see it. Each scenario runs on any library, and ends with the
//! checker's verdict; the first sentence of each says what would break.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::cluster::{PATIENCE, POLL, report};
use crate::history::{Event, History, monotonic_ns};
use crate::peer::{Library, Peer};
use crate::stage::{Stage, fault, judge};
use crate::{load, words};

/// How long the hand-over of a queue from one living member to another may take.
const HAND_OVER: Duration = Duration::from_secs(2);

/// How long after a fault a group may still be handed messages again: clients persist their offsets every 5 s, notice a
/// change of members within 20 s, and ask a dead broker for 3 s at a time (the Go client holds on to a pull for 30 s).
const REDELIVERY: Duration = Duration::from_secs(40);

/// Longest silence of a producer after the death of a leader, when it asks for routes every second: an election, which takes
/// less than a second, and a poll; the rest is for two busy cores.
const SILENCE_MAX: Duration = Duration::from_secs(3);

/// Messages of a phase whose length does not matter.
const PHASE: usize = 300;

/// What every producer does all day: each message must be stored where its acknowledgement says, with the bytes that were
/// sent, and a list must be stored whole.
///
/// # Errors
/// When that is not so.
pub fn sends_are_stored_as_acknowledged(stage: &Stage, modes: &[(&str, u64)]) -> Result<()> {
    for (mode, count) in modes {
        let topic = stage.name(mode);
        let file = stage.send(&topic, &topic, mode, *count)?;
        stage.await_stored(&topic, *count)?;
        let result = stage.judge(&topic, &[], &[file], Vec::new())?;
        let acked = if *mode == "oneway" { 0 } else { *count as usize };
        ensure!((result.stored, result.acked) == (*count as usize, acked), "{mode}: {result}");
    }
    Ok(())
}

/// Consumption: a group sees every message once, with its tag, keys and user property, in any script; a group that filters by
/// a tag sees exactly those; and messages that come while it waits reach it too, also those of a list.
///
/// # Errors
/// When that is not so.
pub fn push_consumers_get_every_message(stage: &Stage) -> Result<()> {
    const COUNT: u64 = 300;
    let topic = stage.name("push");
    let (all, even) = (stage.name("all"), stage.name("even"));
    let mut files = vec![stage.send(&stage.name("seed"), &topic, "sync", 1)?];
    let mut all_member = stage.consume(&all, &topic, &all, &[])?;
    let mut even_member = stage.consume(&even, &topic, &even, &[("tags", words::EVEN_ONLY)])?;
    files.push(stage.send(&stage.name("single"), &topic, "sync", COUNT)?);
    files.push(stage.send(&stage.name("list"), &topic, "batch", COUNT)?);
    let total = 1 + 2 * COUNT as usize;
    all_member.await_history("every message", PATIENCE, |h| h.delivered_ids().len() == total)?;
    even_member.await_history("every even message", PATIENCE, |h| h.delivered_ids().len() == total / 2 + 1)?;
    files.extend([all_member.stop()?, even_member.stop()?]);
    stage.judge(&topic, &[&all], &files, Vec::new())?;
    for event in &History::read(&files)?.events {
        words::check(event)?;
        if let Event::Deliver { group, id, .. } = event {
            ensure!(*group != even || words::is_even(id), "a message came that was filtered out: {event:?}");
        }
    }
    Ok(())
}

/// Broadcasting: every member must be handed every message once.
///
/// # Errors
/// When that is not so.
pub fn broadcast_reaches_every_member(stage: &Stage) -> Result<()> {
    const COUNT: u64 = 100;
    let topic = stage.name("broadcast");
    let mut files = vec![stage.send(&stage.name("broadcast-seed"), &topic, "sync", 1)?];
    let members = [stage.name("listener-1"), stage.name("listener-2")];
    let mut peers = Vec::new();
    for member in &members {
        peers.push(stage.consume(member, &topic, &stage.name("listeners"), &[("model", "broadcasting")])?);
    }
    files.push(stage.send(&stage.name("broadcaster"), &topic, "sync", COUNT)?);
    for mut peer in peers {
        peer.await_history("every message", PATIENCE, |h| h.delivered_ids().len() == 1 + COUNT as usize)?;
        files.push(peer.stop()?);
    }
    let mut history = load::history(&stage.cluster, &topic, &files)?;
    // Each member is a group of its own to the checker.
    for event in &mut history.events {
        if let Event::Deliver { group, process, .. } = event {
            group.clone_from(process);
        }
    }
    judge(&history, &topic, &[&members[0], &members[1]])?;
    Ok(())
}

/// Reading without a listener: a consumer that stops in order and another one that goes on in its place must be handed every
/// message exactly once between them, by the offsets that they commit.
///
/// # Errors
/// When that is not so.
pub fn pulling_goes_on_where_it_stopped(stage: &Stage, kinds: &[&str]) -> Result<()> {
    let topic = stage.name("pull");
    let mut files = vec![stage.send(&stage.name("pull-seed"), &topic, "sync", 8)?];
    let groups: Vec<String> = kinds.iter().map(|kind| stage.name(kind)).collect();
    let start = |turn: u32| -> Result<Vec<Peer>> {
        let member = |kind, group: &String| stage.pull(&format!("{group}-{turn}"), &topic, group, kind, &[]);
        kinds.iter().zip(&groups).map(|(kind, group)| member(kind, group)).collect()
    };
    let mut first = start(1)?;
    let producer = stage.produce(&stage.name("pull-producer"), &topic, "sync", &[("pause-ms", "5"), ("words", "1")])?;
    for peer in &mut first {
        peer.await_history("messages", PATIENCE, |h| h.delivered_ids().len() > 100)?;
    }
    for peer in first {
        files.push(peer.stop()?);
    }
    let mut second = start(2)?;
    for peer in &mut second {
        peer.await_history("messages", PATIENCE, |h| h.delivered_ids().len() > 100)?;
    }
    files.push(producer.stop()?);
    let so_far = History::read(&files)?;
    let sent = so_far.acked_ids();
    for (peer, group) in second.iter_mut().zip(&groups) {
        let before = delivered_to(&so_far, group);
        peer.await_history("the rest", PATIENCE, |h| {
            let now = h.delivered_ids();
            sent.iter().all(|id| before.contains(id) || now.contains(id))
        })?;
    }
    for peer in second {
        files.push(peer.stop()?);
    }
    stage.judge(&topic, &groups.iter().map(String::as_str).collect::<Vec<_>>(), &files, Vec::new())?;
    History::read(&files)?.events.iter().try_for_each(words::check)
}

fn delivered_to<'a>(history: &'a History, to: &str) -> BTreeSet<&'a str> {
    let id = |event: &'a Event| match event {
        Event::Deliver { group, id, .. } if group == to => Some(id.as_str()),
        _ => None,
    };
    history.events.iter().filter_map(id).collect()
}

/// Sharing a topic's queues among three members, and the takeover when one of them dies without a word.
///
/// # Errors
/// When that is not so.
pub fn a_group_of_three_takes_over_from_a_dead_member(stage: &Stage) -> Result<()> {
    const COUNT: usize = 400;
    let (topic, group) = (stage.name("share"), stage.name("sharers"));
    let mut files = vec![stage.send(&stage.name("share-seed"), &topic, "sync", 1)?];
    let began = monotonic_ns();
    let mut members = Vec::new();
    for member in ["one", "two", "three"] {
        members.push(stage.consume(&stage.name(member), &topic, &group, &[])?);
    }
    // Sending goes on until every member has its share: the broker tells the others that somebody joined.
    let mut producer = stage.produce(&stage.name("share-producer"), &topic, "sync", &[("pause-ms", "5")])?;
    for member in &mut members {
        member.await_history("messages", PATIENCE, |h| h.delivered_ids().len() > 20)?;
    }
    let settled = monotonic_ns() + HAND_OVER.as_nanos() as u64;
    // What a member had in its hands when a queue moved may be handed to another one too.
    let joined = Event::Fault { t: began, until: settled, what: "members joined".into() };
    producer.await_history("more messages", PATIENCE, |h| h.acked_after(settled) >= COUNT)?;
    let shares =
        members.iter().map(|member| Ok(queues_after(&member.history()?, settled))).collect::<Result<Vec<_>>>()?;
    ensure_disjoint(&shares)?;

    let killed = monotonic_ns();
    files.push(members.remove(1).kill()?);
    producer.await_history("messages after the kill", PATIENCE, |h| h.acked_after(killed) >= COUNT)?;
    files.push(producer.stop()?);
    let so_far = History::read(&files)?;
    let (sent, seen_by_dead) = (so_far.acked_ids(), so_far.delivered_ids());
    let deadline = Instant::now() + Duration::from_secs(15);
    loop {
        let histories = members.iter().map(Peer::history).collect::<Result<Vec<_>>>()?;
        let seen: BTreeSet<&str> = histories.iter().flat_map(|h| h.delivered_ids()).collect();
        let missing = sent.iter().filter(|id| !seen.contains(*id) && !seen_by_dead.contains(*id)).count();
        if missing == 0 {
            break;
        }
        ensure!(Instant::now() < deadline, "{missing} messages of a dead member's queues were not taken over");
        std::thread::sleep(POLL);
    }
    report(&format!("{group}: takeover after {} ms at most", (monotonic_ns() - killed) / 1_000_000));
    for member in members {
        files.push(member.stop()?);
    }
    stage.judge(&topic, &[&group], &files, vec![joined, fault("a member was killed", killed, REDELIVERY)])?;
    Ok(())
}

/// Queues from which a member was handed messages after `since`.
fn queues_after(member: &History, since: u64) -> BTreeSet<i32> {
    let queue = |event: &Event| match event {
        Event::Deliver { t, queue, .. } if *t > since => Some(*queue),
        _ => None,
    };
    member.events.iter().filter_map(queue).collect()
}

/// Each queue belongs to one member, and each member has some.
fn ensure_disjoint(shares: &[BTreeSet<i32>]) -> Result<()> {
    let all: BTreeSet<&i32> = shares.iter().flatten().collect();
    let disjoint = all.len() == shares.iter().map(BTreeSet::len).sum::<usize>();
    ensure!(
        disjoint && shares.iter().all(|share| !share.is_empty()),
        "the members' queues after a rebalance: {shares:?}"
    );
    Ok(())
}

/// Ordered consumption: a queue must be handed to one member at a time, in order, also when the leader that keeps the queue
/// locks dies, and when a member leaves. The second member is there from the start, or, for a library whose client gives locks
/// back only when it ends (Go: the others wait a minute for its lease), comes when the first one has left.
///
/// # Errors
/// When that is not so.
pub fn ordered_consumers_keep_the_order(stage: &Stage, second_from_the_start: bool) -> Result<()> {
    let (topic, group) = (stage.name("order"), stage.name("orderly"));
    let poll = ("poll-ms", "1000");
    let member = |name: &str| stage.consume(&stage.name(name), &topic, &group, &[("order", "1"), poll]);
    let mut files = vec![stage.send(&stage.name("order-seed"), &topic, "ordered", 16)?];
    let mut members = vec![member("order-one")?];
    if second_from_the_start {
        members.push(member("order-two")?);
    }
    let began = monotonic_ns();
    let paced = [("pause-ms", "3"), poll, ("timeout-ms", "1000")];
    let mut producer = stage.produce(&stage.name("order-producer"), &topic, "ordered", &paced)?;
    for member in &mut members {
        member.await_history("its share", PATIENCE, |h| !queues_after(h, began).is_empty())?;
    }

    let leader = stage.cluster.await_leader(None)?;
    let killed = monotonic_ns();
    stage.cluster.kill(leader.id)?;
    producer.await_history("messages after the kill", PATIENCE, |h| h.acked_after(killed) >= PHASE)?;
    stage.cluster.restart(leader.id)?;
    let left = monotonic_ns();
    files.push(members.pop().expect("somebody consumes").stop()?);
    let mut last = match members.pop() {
        Some(first) => first,
        None => member("order-two")?,
    };
    producer.await_history("messages after a member left", PATIENCE, |h| h.acked_after(left) >= PHASE)?;
    files.push(producer.stop()?);
    let so_far = History::read(&files)?;
    let (sent, seen) = (so_far.acked_ids(), so_far.delivered_ids());
    last.await_history("all that was acknowledged", PATIENCE, |h| {
        let now = h.delivered_ids();
        sent.iter().all(|id| seen.contains(id) || now.contains(id))
    })?;
    files.push(last.stop()?);

    let mut history = load::history(&stage.cluster, &topic, &files)?;
    history.events.push(fault("the leader was killed", killed, REDELIVERY));
    history.events.push(fault("a member left", left, HAND_OVER));
    // The order is the group's: its members are one consumer to the checker.
    for event in &mut history.events {
        if let Event::Deliver { group, process, .. } = event {
            process.clone_from(group);
        }
    }
    judge(&history, &topic, &[&group])?;
    Ok(())
}

/// The main promise, as unmodified clients see it: ordered producers and push consumers on several libraries go on through
/// the death of leaders; nothing acknowledged is lost, per key the order stays, and no silence is long. Reports the longest ones.
///
/// # Errors
/// When that is not so.
pub fn lives_through_the_death_of_leaders(stage: &mut Stage, libraries: &[Library], kills: usize) -> Result<()> {
    // The Go client cannot be told how often to ask for routes: it does so every 30 s.
    let poll = ("poll-ms", "1000");
    let paced = [("pause-ms", "1"), ("timeout-ms", "1000"), poll];
    let (mut producers, mut consumers) = (Vec::new(), Vec::new());
    for library in libraries {
        stage.play_on(*library);
        let (topic, group) = (stage.name("failover"), stage.name("survivors"));
        let mut producer = stage.produce(&stage.name("failover-producer"), &topic, "ordered", &paced)?;
        producer.await_history("messages", PATIENCE, |h| h.acked() >= PHASE)?;
        let mut consumer = stage.consume(&stage.name("failover-consumer"), &topic, &group, &[poll])?;
        consumer.await_history("messages", PATIENCE, |h| h.delivered_ids().len() >= PHASE)?;
        producers.push((*library, topic, producer));
        consumers.push((group, consumer));
    }

    let mut faults = Vec::new();
    for _ in 0..kills {
        let leader = stage.cluster.await_leader(None)?;
        let killed = monotonic_ns();
        stage.cluster.kill(leader.id)?;
        for (library, topic, producer) in &mut producers {
            producer.await_history("messages after a kill", PATIENCE, |h| h.acked_after(killed) >= PHASE)?;
            let silence = Duration::from_nanos(producer.history()?.longest_silence(killed, monotonic_ns()));
            report(&format!("{topic}: longest silence after kill -9 of a leader {} ms", silence.as_millis()));
            let polls_fast = *library != Library::Go;
            ensure!(!polls_fast || silence < SILENCE_MAX, "{topic}: no acknowledgement for {silence:?} after a kill");
        }
        faults.push(fault("a leader was killed", killed, REDELIVERY));
        stage.cluster.restart(leader.id)?;
    }
    let last = monotonic_ns();
    for ((_, topic, mut producer), (group, mut consumer)) in producers.into_iter().zip(consumers) {
        producer.await_history("the last messages", PATIENCE, |h| h.acked_after(last) >= PHASE)?;
        let producer = producer.stop()?;
        let sent = History::read(&[&producer])?;
        let acked = sent.acked_ids();
        consumer.await_history("all that was acknowledged", PATIENCE, |h| acked.is_subset(&h.delivered_ids()))?;
        stage.judge(&topic, &[&group], &[producer, consumer.stop()?], faults.clone())?;
    }
    Ok(())
}

/// Every way of consuming, fed by lists with words in any script, when the leader dies half-way and then a member of the group of
/// three: each group must still be handed everything, and again only what was under way.
///
/// # Errors
/// When that is not so.
pub fn every_way_of_consuming_goes_on_when_a_leader_dies(stage: &mut Stage, libraries: &[Library]) -> Result<()> {
    let poll = ("poll-ms", "1000");
    let mut plays = Vec::new();
    for library in libraries {
        stage.play_on(*library);
        let topic = stage.name("ways");
        let seed = stage.send(&stage.name("ways-seed"), &topic, "sync", 8)?;
        let (sharers, listeners) = (stage.name("ways-sharers"), stage.name("ways-listeners"));
        let mut groups = vec![sharers.clone()];
        let mut members = Vec::new();
        for member in ["one", "two", "three"] {
            members.push(stage.consume(&stage.name(&format!("ways-{member}")), &topic, &sharers, &[poll])?);
        }
        let mut others = Vec::new();
        for n in 1..=2 {
            let listener = stage.name(&format!("ways-listener-{n}"));
            others.push(stage.consume(&listener, &topic, &listeners, &[("model", "broadcasting"), poll])?);
            groups.push(listener);
        }
        // The Go client has no consumer that is handed queues by name and goes on by itself.
        let kinds: &[&str] = if *library == Library::Go { &["lite"] } else { &["pull", "lite"] };
        for kind in kinds {
            let group = stage.name(&format!("ways-{kind}"));
            others.push(stage.pull(&group, &topic, &group, kind, &[poll])?);
            groups.push(group);
        }
        let paced = [("pause-ms", "20"), ("timeout-ms", "1000"), ("words", "1"), poll];
        let producer = stage.produce(&stage.name("ways-producer"), &topic, "batch", &paced)?;
        plays.push(Ways { topic, listeners, groups, producer, members, others, files: vec![seed] });
    }
    let began = monotonic_ns();
    for play in &mut plays {
        for peer in play.members.iter_mut().chain(&mut play.others) {
            peer.await_history("messages", PATIENCE, |h| h.delivered_ids().len() > 20)?;
        }
    }
    let killed = monotonic_ns();
    let leader = stage.cluster.await_leader(None)?;
    stage.cluster.kill(leader.id)?;
    for play in &mut plays {
        play.producer.await_history("messages after the kill", PATIENCE, |h| h.acked_after(killed) >= PHASE)?;
    }
    stage.cluster.restart(leader.id)?;
    let left = monotonic_ns();
    for play in &mut plays {
        play.files.push(play.members.remove(1).kill()?);
    }
    for play in plays {
        let faults = vec![
            Event::Fault { t: began - PATIENCE.as_nanos() as u64, until: began, what: "members joined".into() },
            fault("the leader was killed", killed, REDELIVERY),
            fault("a member was killed", left, REDELIVERY),
        ];
        play.end(stage, left, faults)?;
    }
    Ok(())
}

/// One library's part in [`every_way_of_consuming_goes_on_when_a_leader_dies`].
struct Ways {
    topic: String,
    listeners: String,
    groups: Vec<String>,
    producer: Peer,
    members: Vec<Peer>,
    others: Vec<Peer>,
    files: Vec<PathBuf>,
}

impl Ways {
    fn end(mut self, stage: &Stage, left: u64, faults: Vec<Event>) -> Result<()> {
        self.producer.await_history("the last messages", PATIENCE, |h| h.acked_after(left) >= PHASE)?;
        self.files.push(self.producer.stop()?);
        let so_far = History::read(&self.files)?;
        let (sent, seen_by_dead) = (so_far.acked_ids(), so_far.delivered_ids());
        for peer in &mut self.others {
            peer.await_history("all that was acknowledged", PATIENCE, |h| sent.is_subset(&h.delivered_ids()))?;
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            let histories = self.members.iter().map(Peer::history).collect::<Result<Vec<_>>>()?;
            let seen: BTreeSet<&str> = histories.iter().flat_map(|h| h.delivered_ids()).collect();
            let missing = sent.iter().filter(|id| !seen.contains(*id) && !seen_by_dead.contains(*id)).count();
            if missing == 0 {
                break;
            }
            ensure!(
                Instant::now() < deadline,
                "{}: {missing} messages did not reach the members that live",
                self.topic
            );
            std::thread::sleep(POLL);
        }
        for peer in self.members.into_iter().chain(self.others) {
            self.files.push(peer.stop()?);
        }
        let mut history = load::history(&stage.cluster, &self.topic, &self.files)?;
        history.events.extend(faults);
        for event in &mut history.events {
            words::check(event)?;
            // Each member of a broadcasting group is a group of its own to the checker.
            if let Event::Deliver { group, process, .. } = event
                && *group == self.listeners
            {
                group.clone_from(process);
            }
        }
        judge(&history, &self.topic, &self.groups.iter().map(String::as_str).collect::<Vec<_>>())?;
        Ok(())
    }
}

/// Several groups, as an unmodified producer with its defaults sees them: a node dies, and no call fails, since the client
/// tries again at another broker name. Reports the longest silence over all groups, and of the dead node's group.
///
/// # Errors
/// When that is not so.
pub fn no_call_fails_when_one_of_several_leaders_dies(stage: &Stage) -> Result<()> {
    let topic = stage.name("groups");
    stage.create_everywhere(&topic)?;
    // The defaults: two more tries within the 3 s of a call, and a route poll every 30 s.
    let defaults = [("retries", "2"), ("pause-ms", "2")];
    let mut producer = stage.produce(&stage.name("groups-producer"), &topic, "sync", &defaults)?;
    producer.await_history("messages", PATIENCE, |h| h.acked() >= PHASE)?;
    let brokers = stage.cluster.brokers()?;
    let dead = stage.cluster.await_leader(None)?;
    let killed = monotonic_ns();
    stage.cluster.kill(dead.id)?;
    let of_dead = |e: &Event| matches!(e, Event::Ok { t, queue, .. } if *t > killed && *queue < 1_000);
    let others = |e: &Event| matches!(e, Event::Ok { t, queue, .. } if *t > killed && *queue >= 1_000);
    producer.await_history("messages in the other groups", PATIENCE, |h| {
        h.events.iter().filter(|e| others(e)).count() >= PHASE
    })?;
    stage.cluster.restart(dead.id)?;
    // It knows the old address only, until its next route poll.
    producer.await_history("messages in the dead node's group", PATIENCE, |h| {
        h.events.iter().filter(|e| of_dead(e)).count() >= PHASE / brokers.len()
    })?;
    let until = monotonic_ns();
    let file = producer.stop()?;
    let mut history = History::read(&[&file])?;
    let failed: Vec<&Event> =
        history.events.iter().filter(|e| matches!(e, Event::Fail { .. } | Event::Info { .. })).take(3).collect();
    ensure!(failed.is_empty(), "calls failed: {failed:?}");
    let all = history.longest_silence(killed, until) / 1_000_000;
    history.events.retain(|e| matches!(e, Event::Ok { queue, .. } if *queue < 1_000));
    let its = history.longest_silence(killed, until) / 1_000_000;
    report(&format!("{topic}: longest silence after kill -9 of a leader {all} ms, in its group {its} ms"));
    stage.judge(&topic, &[], &[file], Vec::new())?;
    Ok(())
}

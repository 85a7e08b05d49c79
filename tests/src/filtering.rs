//! Groups that want a part of a topic, by SQL92 over properties and by tags: exactly the messages that match must reach them. Runs on
//! any library, beside the scenarios.

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::cluster::PATIENCE;
use crate::history::{Event, History, monotonic_ns};
use crate::peer::{Library, Peer};
use crate::stage::{Stage, fault};
use crate::words;

/// Messages of a phase.
const PHASE: usize = 300;

/// How long after the death of a leader a group may be handed messages again ([`crate::scenario`] says why).
const REDELIVERY: Duration = Duration::from_secs(40);

/// Whether a filter lets the message of an id through.
type Passes = fn(&str) -> bool;

/// A consumer and what its filter lets through.
struct Member {
    peer: Peer,
    passes: Passes,
}

/// A push consumer and one that pulls, both by SQL92, and a push consumer by a tag, each its own group. The Go client's polls say TAG
/// whatever it subscribed with, so there the one that pulls has a tag, too.
fn members(stage: &Stage, topic: &str, more: &[(&str, &str)]) -> Result<Vec<Member>> {
    let with = |option| [&[option], more].concat();
    let name = |what: &str| format!("{topic}-{what}");
    let (sql, tags) = (with(("sql", words::SQL)), with(("tags", words::EVEN_ONLY)));
    let (by_sql, by_tag): (Passes, Passes) = (words::passes_sql, words::is_even);
    let (lite, passes) = if stage.library() == Library::Go { (&tags, by_tag) } else { (&sql, by_sql) };
    Ok(vec![
        Member { peer: stage.consume(&name("push"), topic, &name("push"), &sql)?, passes: by_sql },
        Member { peer: stage.pull(&name("lite"), topic, &name("lite"), "lite", lite)?, passes },
        Member { peer: stage.consume(&name("tags"), topic, &name("tags"), &tags)?, passes: by_tag },
    ])
}

/// Waits until each member has what it wants of all that was acknowledged; none may get anything else, or anything twice but in a
/// fault.
fn judge(stage: &Stage, topic: &str, members: Vec<Member>, mut files: Vec<PathBuf>, faults: Vec<Event>) -> Result<()> {
    let sent = History::read(&files)?;
    let acked = sent.acked_ids();
    for Member { mut peer, passes } in members {
        let wanted: HashSet<&str> = acked.iter().copied().filter(|id| passes(id)).collect();
        ensure!(
            !wanted.is_empty() && wanted.len() < acked.len(),
            "{topic}: a filter that holds nothing, or everything, back"
        );
        peer.await_history("all that matches", PATIENCE, |h| wanted.is_subset(&h.delivered_ids()))?;
        let file = peer.stop()?;
        for event in &History::read(&[&file])?.events {
            words::check(event)?;
            if let Event::Deliver { id, .. } = event {
                ensure!(passes(id), "{topic}: a message came that was filtered out: {event:?}");
            }
        }
        files.push(file);
    }
    stage.judge(topic, &[], &files, faults)?;
    Ok(())
}

/// Filters while nothing fails: on messages that were there before, that come one by one, and that come in lists.
///
/// # Errors
/// When a group is handed too much, too little, or twice.
pub fn groups_get_exactly_what_matches(stage: &Stage) -> Result<()> {
    let topic = stage.name("filtered");
    let mut files = vec![stage.send(&format!("{topic}-seed"), &topic, "sync", 32)?];
    let members = members(stage, &topic, &[])?;
    files.push(stage.send(&format!("{topic}-single"), &topic, "sync", PHASE as u64)?);
    files.push(stage.send(&format!("{topic}-list"), &topic, "batch", PHASE as u64)?);
    judge(stage, &topic, members, files, Vec::new())
}

/// Filters when the leader dies half-way, for several libraries at once.
///
/// # Errors
/// When a group is handed too much, too little, or anything twice but by the fault.
pub fn groups_get_exactly_what_matches_when_a_leader_dies(stage: &mut Stage, libraries: &[Library]) -> Result<()> {
    let poll = ("poll-ms", "1000");
    let mut plays = Vec::new();
    for library in libraries {
        stage.play_on(*library);
        let topic = stage.name("filtered-through-death");
        let seed = stage.send(&format!("{topic}-seed"), &topic, "sync", 32)?;
        let members = members(stage, &topic, &[poll])?;
        let paced = [("pause-ms", "2"), ("timeout-ms", "1000"), ("words", "1"), poll];
        let producer = stage.produce(&format!("{topic}-producer"), &topic, "sync", &paced)?;
        plays.push((topic, seed, members, producer));
    }
    for (_, _, members, producer) in &mut plays {
        producer.await_history("messages", PATIENCE, |h| h.acked() >= PHASE)?;
        for member in members {
            member.peer.await_history("messages", PATIENCE, |h| h.delivered_ids().len() > 20)?;
        }
    }
    let killed = monotonic_ns();
    let leader = stage.cluster.await_leader(None)?;
    stage.cluster.kill(leader.id)?;
    for (_, _, _, producer) in &mut plays {
        producer.await_history("messages after the kill", PATIENCE, |h| h.acked_after(killed) >= PHASE)?;
    }
    stage.cluster.restart(leader.id)?;
    let died = fault("the leader was killed", killed, REDELIVERY);
    for (topic, seed, members, producer) in plays {
        judge(stage, &topic, members, vec![seed, producer.stop()?], vec![died.clone()])?;
    }
    Ok(())
}

/// A bad expression must end a consumer at its start, with words that say where it is bad.
///
/// # Errors
/// When it starts, or ends with other words.
pub fn a_bad_expression_is_refused_at_the_start(stage: &Stage) -> Result<()> {
    let topic = stage.name("bad-filter");
    stage.send(&format!("{topic}-seed"), &topic, "sync", 1)?;
    let Err(error) = stage.consume(&format!("{topic}-push"), &topic, &format!("{topic}-push"), &[("sql", "n > 'x'")])
    else {
        anyhow::bail!("a consumer started with a bad expression");
    };
    let words = format!("{error:#}");
    ensure!(words.contains("CODE: 23") && words.contains("at character 5"), "{words}");
    Ok(())
}

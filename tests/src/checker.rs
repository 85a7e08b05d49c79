//! The judge of a history: what the promises D1-D5 forbid, each anomaly under its own name. No search: acknowledgements
//! carry (queue, offset), so the order is known and everything is sorting and look-ups, O(n log n).
//!
//! ```text
//! History --> Sends, Positions --> one function per property --> Report
//! ```
//! It must never know what the test did, only what was declared in the history and in [`Expect`]. It shares no code with
//! the verifier of `ledgermq drill`: two judges, written apart.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;

use crate::history::{Event, History};

/// Most anomalies of one kind that a report keeps; the count goes on.
const EXAMPLES_MAX: usize = 5;

/// What can be wrong. The names are those of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Anomaly {
    /// The history contradicts itself: an outcome without a call, two outcomes, a call number used twice.
    Malformed,
    /// Acknowledged, but not at its place in the final reading.
    Lost,
    /// Read, but never sent.
    Phantom,
    /// Read, though every send of it surely had no effect.
    FailedAppeared,
    /// Read with other bytes than were sent.
    Altered,
    /// In the log more often than it was put on the wire.
    Duplicate,
    /// One (queue, offset) seen with two ids, in acknowledgements, deliveries or replicas.
    Divergent,
    /// Offsets of a queue's final reading are not 0, 1, 2, …
    Gap,
    /// Sent after another send to the queue had been acknowledged, yet stored before it.
    RealTimeOrder,
    /// Two sends of one process to a queue, one after the other, whose offsets do not rise.
    ProducerOrder,
    /// A consumer that promises order was handed a new offset below an earlier one.
    DeliveryOrder,
    /// Delivered, but not in the final reading.
    Vanished,
    /// In the final reading, never delivered to a group that had to see everything.
    Undelivered,
    /// Delivered again to a group outside every declared fault.
    Redelivered,
    /// A number that must never fall did, for one observer.
    WentBack,
}

impl Anomaly {
    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Anomaly::Malformed => "malformed",
            Anomaly::Lost => "lost",
            Anomaly::Phantom => "phantom",
            Anomaly::FailedAppeared => "failed-appeared",
            Anomaly::Altered => "altered",
            Anomaly::Duplicate => "duplicate",
            Anomaly::Divergent => "divergent",
            Anomaly::Gap => "gap",
            Anomaly::RealTimeOrder => "real-time-order",
            Anomaly::ProducerOrder => "producer-order",
            Anomaly::DeliveryOrder => "delivery-order",
            Anomaly::Vanished => "vanished",
            Anomaly::Undelivered => "undelivered",
            Anomaly::Redelivered => "redelivered",
            Anomaly::WentBack => "went-back",
        }
    }
}

/// What the test expects beyond what every history must satisfy.
#[derive(Debug, Clone, Default)]
pub struct Expect {
    /// Groups that must have been handed every final message, as (group, topic).
    pub complete_groups: Vec<(String, String)>,
    /// Whether a group may be handed a message twice only inside a declared fault.
    pub redelivery_only_in_faults: bool,
}

/// The verdict with its counts.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Calls to send.
    pub sends: usize,
    /// Acknowledged calls.
    pub acked: usize,
    /// Calls whose outcome is unknown, those without any outcome included.
    pub unknown: usize,
    /// Records of the final reading, each position once.
    pub stored: usize,
    /// Deliveries to listeners.
    pub delivered: usize,
    /// Anomalies by kind: how many, and the first few in words.
    pub anomalies: BTreeMap<Anomaly, (usize, Vec<String>)>,
}

impl Report {
    /// Whether nothing was wrong.
    pub fn clean(&self) -> bool {
        self.anomalies.is_empty()
    }

    /// How often this anomaly was found.
    pub fn count(&self, anomaly: Anomaly) -> usize {
        self.anomalies.get(&anomaly).map_or(0, |(count, _)| *count)
    }

    fn add(&mut self, anomaly: Anomaly, what: impl FnOnce() -> String) {
        let (count, examples) = self.anomalies.entry(anomaly).or_default();
        *count += 1;
        if examples.len() < EXAMPLES_MAX {
            examples.push(what());
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { sends, acked, unknown, stored, delivered, .. } = self;
        write!(f, "sends {sends}, acked {acked}, unknown {unknown}, stored {stored}, delivered {delivered}")?;
        for (anomaly, (count, examples)) in &self.anomalies {
            write!(f, "\n{}: {count}", anomaly.name())?;
            for example in examples {
                write!(f, "\n  {example}")?;
            }
        }
        Ok(())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Acked { t: u64, queue: i32, offset: u64 },
    Failed,
    Unknown,
}

#[derive(Debug)]
struct Send<'a> {
    t: u64,
    process: &'a str,
    id: &'a str,
    topic: &'a str,
    attempts: u32,
    outcome: Outcome,
    /// The process had no other call under way when this one began.
    sequential: bool,
}

type Place<'a> = (&'a str, i32);

/// What was seen of the log: the final reading, and everything else that names a position.
#[derive(Default)]
struct Positions<'a> {
    stored: BTreeMap<Place<'a>, BTreeMap<u64, &'a str>>,
    by_id: HashMap<&'a str, BTreeSet<(Place<'a>, u64)>>,
}

/// Judges `history`.
pub fn check(history: &History, expect: &Expect) -> Report {
    let mut report = Report::default();
    let sends = collect_sends(history, &mut report);
    let positions = collect_positions(history, &sends, &mut report);
    check_content(history, &sends, &mut report);
    check_lost(&sends, &positions, &mut report);
    check_multiplicity(&sends, &positions, &mut report);
    check_density(&positions, &mut report);
    check_real_time(&sends, &positions, &mut report);
    check_producer_order(&sends, &mut report);
    check_deliveries(history, expect, &positions, &mut report);
    check_observations(history, &mut report);
    report
}

fn collect_sends<'a>(history: &'a History, report: &mut Report) -> Vec<Send<'a>> {
    let mut sends: Vec<Send<'a>> = Vec::new();
    let mut calls: HashMap<(&str, u64), usize> = HashMap::new();
    let mut settled: HashSet<usize> = HashSet::new();
    let mut open: HashMap<&str, u32> = HashMap::new();
    for event in &history.events {
        let (process, op, outcome) = match event {
            Event::Invoke { t, process, op, id, topic, attempts, .. } => {
                if calls.insert((process, *op), sends.len()).is_some() {
                    report.add(Anomaly::Malformed, || format!("{process} uses call number {op} twice"));
                }
                let under_way = open.entry(process).or_default();
                let sequential = *under_way == 0;
                *under_way += 1;
                sends.push(Send {
                    t: *t,
                    process,
                    id,
                    topic,
                    attempts: *attempts,
                    outcome: Outcome::Unknown,
                    sequential,
                });
                continue;
            }
            Event::Ok { t, process, op, queue, offset } => {
                (process, op, Outcome::Acked { t: *t, queue: *queue, offset: *offset })
            }
            Event::Fail { process, op, .. } => (process, op, Outcome::Failed),
            Event::Info { process, op, .. } => (process, op, Outcome::Unknown),
            _ => continue,
        };
        let Some(&at) = calls.get(&(process.as_str(), *op)) else {
            report.add(Anomaly::Malformed, || format!("{process} has an outcome for call {op}, which never began"));
            continue;
        };
        if settled.insert(at) {
            sends[at].outcome = outcome;
            let under_way = open.entry(process).or_default();
            *under_way = under_way.saturating_sub(1);
        } else {
            report.add(Anomaly::Malformed, || format!("{process} has two outcomes for call {op}"));
        }
    }
    report.sends = sends.len();
    report.acked = sends.iter().filter(|s| matches!(s.outcome, Outcome::Acked { .. })).count();
    report.unknown = sends.iter().filter(|s| s.outcome == Outcome::Unknown).count();
    sends
}

fn collect_positions<'a>(history: &'a History, sends: &[Send<'a>], report: &mut Report) -> Positions<'a> {
    let mut positions = Positions::default();
    let mut seen: HashMap<(Place<'a>, u64), (&'a str, &'static str)> = HashMap::new();
    let mut note = |place: Place<'a>, offset: u64, id: &'a str, source: &'static str, report: &mut Report| {
        let (first, by) = *seen.entry((place, offset)).or_insert((id, source));
        if first != id {
            let (topic, queue) = place;
            report.add(Anomaly::Divergent, || {
                format!("{topic} queue {queue} offset {offset} is {first} by {by} and {id} by {source}")
            });
        }
    };
    for event in &history.events {
        match event {
            Event::Final { topic, queue, offset, id, .. } => {
                note((topic, *queue), *offset, id, "the final reading", report);
                positions.stored.entry((topic, *queue)).or_default().entry(*offset).or_insert(id);
                positions.by_id.entry(id).or_default().insert(((topic, *queue), *offset));
                report.stored = positions.stored.values().map(BTreeMap::len).sum();
            }
            Event::Deliver { topic, queue, offset, id, .. } => {
                note((topic, *queue), *offset, id, "a delivery", report);
                report.delivered += 1;
            }
            _ => {}
        }
    }
    for send in sends {
        if let Outcome::Acked { queue, offset, .. } = send.outcome {
            note((send.topic, queue), offset, send.id, "an acknowledgement", report);
        }
    }
    positions
}

/// Phantom, failed-appeared and altered, for everything that was read or delivered.
fn check_content(history: &History, sends: &[Send<'_>], report: &mut Report) {
    let mut hashes: HashMap<&str, &str> = HashMap::new();
    for event in &history.events {
        if let Event::Invoke { id, hash, .. } = event {
            hashes.insert(id, hash);
        }
    }
    let mut possible: HashMap<&str, bool> = HashMap::new();
    for send in sends {
        *possible.entry(send.id).or_default() |= send.outcome != Outcome::Failed;
    }
    for event in &history.events {
        let (topic, queue, offset, id, hash) = match event {
            Event::Final { topic, queue, offset, id, hash, .. }
            | Event::Deliver { topic, queue, offset, id, hash, .. } => (topic, queue, offset, id, hash),
            _ => continue,
        };
        let at = || format!("{id} at {topic} queue {queue} offset {offset}");
        match hashes.get(id.as_str()) {
            None => report.add(Anomaly::Phantom, || format!("{} was never sent", at())),
            Some(sent) if sent != hash => {
                report.add(Anomaly::Altered, || format!("{} has the hash {hash}, sent was {sent}", at()));
            }
            Some(_) if !possible[id.as_str()] => {
                report.add(Anomaly::FailedAppeared, || format!("{} was refused each time", at()));
            }
            Some(_) => {}
        }
    }
}

fn check_lost(sends: &[Send<'_>], positions: &Positions<'_>, report: &mut Report) {
    for send in sends {
        let Outcome::Acked { queue, offset, .. } = send.outcome else { continue };
        let found = positions.stored.get(&(send.topic, queue)).and_then(|queue| queue.get(&offset));
        if found != Some(&send.id) {
            report.add(Anomaly::Lost, || {
                let place = format!("{} of {} at {} queue {queue} offset {offset}", send.id, send.process, send.topic);
                match found {
                    Some(other) => format!("{place}: there is {other}"),
                    None => format!("{place}: nothing is there"),
                }
            });
        }
    }
}

fn check_multiplicity(sends: &[Send<'_>], positions: &Positions<'_>, report: &mut Report) {
    let mut attempts: HashMap<&str, usize> = HashMap::new();
    for send in sends {
        let surely_none = send.outcome == Outcome::Failed;
        *attempts.entry(send.id).or_default() += if surely_none { 0 } else { send.attempts as usize };
    }
    for (id, places) in &positions.by_id {
        // An id with no possible attempt is a phantom or a refused one, and named so above.
        match attempts.get(id) {
            Some(&allowed) if allowed > 0 && places.len() > allowed => {
                report.add(Anomaly::Duplicate, || {
                    format!("{id} is stored {} times after at most {allowed} attempts: {places:?}", places.len())
                });
            }
            _ => {}
        }
    }
}

fn check_density(positions: &Positions<'_>, report: &mut Report) {
    for ((topic, queue), offsets) in &positions.stored {
        let mut next = 0;
        for &offset in offsets.keys() {
            if offset != next {
                report.add(Anomaly::Gap, || format!("{topic} queue {queue}: {offset} follows where {next} should"));
            }
            next = offset + 1;
        }
    }
}

/// For each queue: whatever was invoked after the acknowledgement of offset `o` returned must lie above `o`.
fn check_real_time(sends: &[Send<'_>], positions: &Positions<'_>, report: &mut Report) {
    let mut begins: HashMap<Place<'_>, Vec<(u64, u64, &str)>> = HashMap::new();
    let mut returns: HashMap<Place<'_>, Vec<(u64, u64, &str)>> = HashMap::new();
    let mut earliest: HashMap<&str, u64> = HashMap::new();
    for send in sends {
        let first = earliest.entry(send.id).or_insert(send.t);
        *first = (*first).min(send.t);
        if let Outcome::Acked { t, queue, offset } = send.outcome {
            returns.entry((send.topic, queue)).or_default().push((t, offset, send.id));
            begins.entry((send.topic, queue)).or_default().push((send.t, offset, send.id));
        }
    }
    for (place, offsets) in &positions.stored {
        for (offset, id) in offsets {
            if let Some(t) = earliest.get(id) {
                begins.entry(*place).or_default().push((*t, *offset, id));
            }
        }
    }
    for (place, mut begun) in begins {
        let mut returned = returns.remove(&place).unwrap_or_default();
        begun.sort_unstable();
        begun.dedup();
        returned.sort_unstable();
        let mut returned = returned.into_iter().peekable();
        let mut highest: Option<(u64, &str)> = None;
        for (t, offset, id) in begun {
            while let Some((_, offset, id)) = returned.next_if(|(done, _, _)| *done < t) {
                if highest.is_none_or(|(highest, _)| offset > highest) {
                    highest = Some((offset, id));
                }
            }
            if let Some((before, other)) = highest.filter(|(before, _)| *before >= offset) {
                report.add(Anomaly::RealTimeOrder, || {
                    let (topic, queue) = place;
                    format!("{topic} queue {queue}: {id} at {offset} began after {other} at {before} was acknowledged")
                });
            }
        }
    }
}

/// The same from the order of lines, without any clock: sequential calls of one process to one queue.
fn check_producer_order(sends: &[Send<'_>], report: &mut Report) {
    let mut last: HashMap<(&str, Place<'_>), (u64, &str)> = HashMap::new();
    for send in sends {
        let Outcome::Acked { queue, offset, .. } = send.outcome else { continue };
        let entry = last.entry((send.process, (send.topic, queue)));
        let previous = *entry.and_modify(|_| {}).or_insert((offset, send.id));
        if send.sequential && previous.1 != send.id && offset <= previous.0 {
            report.add(Anomaly::ProducerOrder, || {
                format!("{}: {} at {offset} was sent after {} at {}", send.process, send.id, previous.1, previous.0)
            });
        }
        if offset >= previous.0 {
            last.insert((send.process, (send.topic, queue)), (offset, send.id));
        }
    }
}

fn check_deliveries(history: &History, expect: &Expect, positions: &Positions<'_>, report: &mut Report) {
    let faults: Vec<(u64, u64)> = history
        .events
        .iter()
        .filter_map(|e| if let Event::Fault { t, until, .. } = e { Some((*t, *until)) } else { None })
        .collect();
    let mut delivered: HashMap<&str, HashSet<(Place<'_>, u64)>> = HashMap::new();
    let mut highest: HashMap<(&str, Place<'_>), u64> = HashMap::new();
    // By time: of two deliveries the later one is the redelivery, in whichever file it stands.
    let mut deliveries: Vec<&Event> = history.events.iter().filter(|e| matches!(e, Event::Deliver { .. })).collect();
    deliveries.sort_by_key(|e| if let Event::Deliver { t, .. } = e { *t } else { 0 });
    for event in deliveries {
        let Event::Deliver { t, process, group, topic, queue, offset, id, ordered, .. } = event else { continue };
        let place: Place<'_> = (topic, *queue);
        let at = || format!("{id} at {topic} queue {queue} offset {offset} to {process}");
        if positions.stored.get(&place).is_none_or(|queue| !queue.contains_key(offset)) {
            report.add(Anomaly::Vanished, || format!("{} is not in the final reading", at()));
        }
        let again = !delivered.entry(group).or_default().insert((place, *offset));
        let excused = faults.iter().any(|(from, until)| (*from..=*until).contains(t));
        if again && expect.redelivery_only_in_faults && !excused {
            report.add(Anomaly::Redelivered, || format!("{} was delivered again in quiet", at()));
        }
        if *ordered && !again {
            let highest = highest.entry((process, place)).or_insert(*offset);
            if *offset < *highest {
                report.add(Anomaly::DeliveryOrder, || format!("{} came after offset {highest}", at()));
            }
            *highest = (*highest).max(*offset);
        }
    }
    for (group, topic) in &expect.complete_groups {
        let seen = delivered.remove(group.as_str()).unwrap_or_default();
        for ((stored_topic, queue), offsets) in &positions.stored {
            for (offset, id) in offsets.iter().filter(|_| stored_topic == topic) {
                if !seen.contains(&((*stored_topic, *queue), *offset)) {
                    report.add(Anomaly::Undelivered, || {
                        format!("{id} at {topic} queue {queue} offset {offset} to group {group}")
                    });
                }
            }
        }
        // The set is put back: a group may have to be complete for several topics.
        delivered.insert(group, seen);
    }
}

fn check_observations(history: &History, report: &mut Report) {
    let mut highest: HashMap<(&str, &str), u64> = HashMap::new();
    for event in &history.events {
        let Event::Observe { process, what, value, .. } = event else { continue };
        let highest = highest.entry((process, what)).or_insert(*value);
        if value < highest {
            report.add(Anomaly::WentBack, || format!("{process} saw {what} fall from {highest} to {value}"));
        }
        *highest = (*highest).max(*value);
    }
}

#[cfg(test)]
mod tests;

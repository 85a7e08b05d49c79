//! Decides what a drill has shown, from the clients' own history and from what consumers read: nothing else.
//!
//! Acknowledgements carry (queue, queue offset), so the order is known and no search is needed: sorting is the dearest
//! step. Each rule has a name ([`Anomaly`]), and each name has a hand-made bad history in the tests below.
//! This module must never look at a broker's counters, and never mend what it is given.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::history::{Event, Identity, Pass, Read};

/// Examples kept of each kind of anomaly; the rest is only counted.
const EXAMPLES_MAX: usize = 5;

/// A broken promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Anomaly {
    /// Acknowledged, and not there in the end.
    Lost,
    /// More copies than tries that can have been appended: the cluster doubled it by itself.
    Duplicated,
    /// Within a key, the first occurrence of a message stands behind that of a later one.
    OutOfOrder,
    /// Read, though it was never sent by this run, or every try was refused for certain.
    Phantom,
    /// A body that no client sent.
    Corrupt,
    /// One queue offset stands for two messages: in acknowledgements, or between one and what was read there.
    OffsetClash,
    /// Queue offsets of a reading that are not 0, 1, 2 and so on.
    Gap,
    /// Two readings disagree about a queue offset.
    Diverged,
    /// Acknowledged before another send of the same queue began, yet at the higher offset.
    StaleOrder,
    /// Messages of one key in more than one queue.
    KeyMoved,
    /// A message that was never acknowledged, so that the drill proves less than it says.
    Unsettled,
    /// The history contradicts itself.
    MalformedHistory,
}

impl Anomaly {
    /// The name in the report.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Anomaly::Lost => "lost",
            Anomaly::Duplicated => "duplicated",
            Anomaly::OutOfOrder => "out of order",
            Anomaly::Phantom => "phantom",
            Anomaly::Corrupt => "corrupt",
            Anomaly::OffsetClash => "offset clash",
            Anomaly::Gap => "gap",
            Anomaly::Diverged => "diverged",
            Anomaly::StaleOrder => "stale order",
            Anomaly::KeyMoved => "key moved",
            Anomaly::Unsettled => "unsettled",
            Anomaly::MalformedHistory => "malformed history",
        }
    }
}

/// How often an anomaly was met, with the first few places.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    /// How often.
    pub(crate) count: u64,
    /// The first of them, in words.
    pub(crate) examples: Vec<String>,
}

/// What the evidence says.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    /// Distinct messages with an acknowledgement.
    pub(crate) acknowledged: u64,
    /// Messages read in the final pass, copies included.
    pub(crate) consumed: u64,
    /// Copies beyond the first, whoever is to blame for them.
    pub(crate) duplicates: u64,
    /// Tries with an unknown outcome.
    pub(crate) unknown_tries: u64,
    /// Tries that were refused for certain.
    pub(crate) failed_tries: u64,
    /// Every broken promise.
    pub(crate) findings: BTreeMap<Anomaly, Finding>,
}

impl Verdict {
    /// Whether every promise held.
    pub(crate) fn clean(&self) -> bool {
        self.findings.is_empty()
    }

    /// How often an anomaly was met.
    pub(crate) fn count(&self, anomaly: Anomaly) -> u64 {
        self.findings.get(&anomaly).map_or(0, |finding| finding.count)
    }

    fn found(&mut self, anomaly: Anomaly, place: impl FnOnce() -> String) {
        let finding = self.findings.entry(anomaly).or_default();
        finding.count += 1;
        if finding.examples.len() < EXAMPLES_MAX {
            finding.examples.push(place());
        }
    }
}

/// Key, and number within the key: who a message of the run is.
type MessageId = (u32, u64);

/// Judges a run.
pub(crate) fn verify(events: &[Event], reads: &[Read]) -> Verdict {
    let mut verdict = Verdict::default();
    let Some(Event::Begin { run, queues, .. }) = events.first() else {
        verdict.found(Anomaly::MalformedHistory, || "the first line is no `begin`".into());
        return verdict;
    };
    let sends = Sends::gather(*run, &events[1..], &mut verdict);
    verdict.acknowledged = sends.acks().count() as u64;
    sends.check_settled(&mut verdict);
    sends.check_acknowledged_offsets(&mut verdict);
    sends.check_real_time(&mut verdict);

    let finals = Reading::gather(*queues, Pass::Final, reads, &mut verdict);
    let live = Reading::gather(*queues, Pass::Live, reads, &mut verdict);
    verdict.consumed = finals.queues.values().map(|queue| queue.len() as u64).sum();
    finals.check_against_sends(&sends, &mut verdict);
    finals.check_key_order(&mut verdict);
    live.check_same_as(&finals, &mut verdict);
    verdict
}

/// How one try ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Open,
    Acked,
    Failed,
    Unknown,
}

#[derive(Debug, Clone, Copy)]
struct Try {
    invoked_ns: u64,
    end: End,
}

#[derive(Debug, Clone, Copy)]
struct Ack {
    queue: u32,
    queue_offset: u64,
    at_ns: u64,
    invoked_ns: u64,
}

#[derive(Debug, Default)]
struct Sent {
    tries: Vec<Try>,
    ack: Option<Ack>,
}

impl Sent {
    /// Copies that the tries can account for.
    fn copies_max(&self) -> u64 {
        self.tries.iter().filter(|attempt| attempt.end != End::Failed).count() as u64
    }
}

/// Every message of the run, from the history.
struct Sends {
    run: u64,
    by_id: HashMap<MessageId, Sent>,
}

impl Sends {
    fn gather(run: u64, events: &[Event], verdict: &mut Verdict) -> Sends {
        let mut by_id: HashMap<MessageId, Sent> = HashMap::with_capacity(events.len() / 2);
        for event in events {
            let (of_run, key, seq, attempt, end) = match event {
                Event::Begin { .. } => {
                    verdict.found(Anomaly::MalformedHistory, || "a second `begin`".into());
                    continue;
                }
                Event::Fault { .. } => continue,
                Event::Invoke { run: of_run, at_ns, key, seq, attempt, .. } => {
                    let sent = by_id.entry((*key, *seq)).or_default();
                    if *of_run != run || *attempt as usize != sent.tries.len() {
                        verdict.found(Anomaly::MalformedHistory, || {
                            format!(
                                "key {key} seq {seq}: try {attempt} of run {of_run:016x} does not follow the one before"
                            )
                        });
                    }
                    sent.tries.push(Try { invoked_ns: *at_ns, end: End::Open });
                    continue;
                }
                Event::Ok { run, key, seq, attempt, .. } => (*run, *key, *seq, *attempt, End::Acked),
                Event::Fail { run, key, seq, attempt, .. } => (*run, *key, *seq, *attempt, End::Failed),
                Event::Info { run, key, seq, attempt, .. } => (*run, *key, *seq, *attempt, End::Unknown),
            };
            let sent = by_id.entry((key, seq)).or_default();
            let Some(tried) =
                sent.tries.get_mut(attempt as usize).filter(|tried| tried.end == End::Open && of_run == run)
            else {
                verdict.found(Anomaly::MalformedHistory, || {
                    format!("key {key} seq {seq}: an outcome of try {attempt}, which is not open")
                });
                continue;
            };
            tried.end = end;
            match event {
                Event::Ok { at_ns, queue, queue_offset, .. } => {
                    let ack =
                        Ack { queue: *queue, queue_offset: *queue_offset, at_ns: *at_ns, invoked_ns: tried.invoked_ns };
                    if sent.ack.replace(ack).is_some() {
                        verdict.found(Anomaly::MalformedHistory, || format!("key {key} seq {seq}: acknowledged twice"));
                    }
                }
                Event::Fail { .. } => verdict.failed_tries += 1,
                _ => verdict.unknown_tries += 1,
            }
        }
        Sends { run, by_id }
    }

    fn acks(&self) -> impl Iterator<Item = (MessageId, Ack)> + '_ {
        self.by_id.iter().filter_map(|(id, sent)| sent.ack.map(|ack| (*id, ack)))
    }

    fn check_settled(&self, verdict: &mut Verdict) {
        let mut open: Vec<_> = self.by_id.iter().filter(|(_, sent)| sent.ack.is_none()).map(|(id, _)| *id).collect();
        open.sort_unstable();
        for (key, seq) in open {
            verdict.found(Anomaly::Unsettled, || format!("key {key} seq {seq} was sent and never acknowledged"));
        }
    }

    fn check_acknowledged_offsets(&self, verdict: &mut Verdict) {
        // (queue, queue offset) to message.
        let mut at: HashMap<(u32, u64), MessageId> = HashMap::with_capacity(self.by_id.len());
        let mut acks: Vec<_> = self.acks().collect();
        acks.sort_unstable_by_key(|(_, ack)| ack.at_ns);
        for ((key, seq), ack) in acks {
            if let Some((other_key, other_seq)) = at.insert((ack.queue, ack.queue_offset), (key, seq)) {
                verdict.found(Anomaly::OffsetClash, || {
                    format!(
                        "queue {} offset {} was acknowledged for key {other_key} seq {other_seq} and for key {key} seq {seq}",
                        ack.queue, ack.queue_offset
                    )
                });
            }
        }
    }

    /// A acknowledged before B began, same queue: A lies in front of B.
    fn check_real_time(&self, verdict: &mut Verdict) {
        let mut queues: BTreeMap<u32, Vec<(MessageId, Ack)>> = BTreeMap::new();
        for (id, ack) in self.acks() {
            queues.entry(ack.queue).or_default().push((id, ack));
        }
        for (queue, acks) in queues {
            let mut by_end = acks.clone();
            by_end.sort_unstable_by_key(|(_, ack)| ack.at_ns);
            let mut by_start = acks;
            by_start.sort_unstable_by_key(|(_, ack)| ack.invoked_ns);
            let mut ended = by_end.into_iter().peekable();
            let mut highest: Option<(MessageId, u64)> = None;
            for ((key, seq), ack) in by_start {
                while let Some((id, before)) = ended.next_if(|(_, other)| other.at_ns < ack.invoked_ns) {
                    if highest.is_none_or(|(_, offset)| before.queue_offset > offset) {
                        highest = Some((id, before.queue_offset));
                    }
                }
                let Some(((other_key, other_seq), offset)) = highest else { continue };
                if ack.queue_offset <= offset {
                    verdict.found(Anomaly::StaleOrder, || {
                        format!(
                            "queue {queue}: key {other_key} seq {other_seq} was acknowledged at {offset} before key {key} \
                             seq {seq} began, which got {}",
                            ack.queue_offset
                        )
                    });
                }
            }
        }
    }
}

/// One reading of all queues. A queue's entries stand in the order in which they were read.
struct Reading {
    pass: Pass,
    queues: BTreeMap<u32, Vec<Option<Identity>>>,
}

impl Reading {
    fn gather(queue_count: u32, pass: Pass, reads: &[Read], verdict: &mut Verdict) -> Reading {
        let mut queues: BTreeMap<u32, Vec<Option<Identity>>> = BTreeMap::new();
        for read in reads.iter().filter(|read| read.pass == pass) {
            if read.queue >= queue_count {
                verdict
                    .found(Anomaly::Phantom, || format!("a message in queue {}, which the run never used", read.queue));
            }
            let queue = queues.entry(read.queue).or_default();
            let expected = queue.len() as u64;
            if read.queue_offset != expected {
                verdict.found(Anomaly::Gap, || {
                    format!(
                        "queue {}: offset {} was read where {expected} comes next ({pass:?} pass)",
                        read.queue, read.queue_offset
                    )
                });
                // Each hole is reported once: what follows it is judged by its own offsets.
                if read.queue_offset > expected && read.queue_offset - expected <= reads.len() as u64 {
                    queue.resize(read.queue_offset as usize, None);
                } else {
                    continue;
                }
            }
            queue.push(read.id);
        }
        Reading { pass, queues }
    }

    fn check_against_sends(&self, sends: &Sends, verdict: &mut Verdict) {
        let mut copies: HashMap<MessageId, u64> = HashMap::with_capacity(sends.by_id.len());
        for (queue, entries) in &self.queues {
            for (queue_offset, id) in entries.iter().enumerate() {
                let Some(id) = id else {
                    verdict.found(Anomaly::Corrupt, || {
                        format!("queue {queue} offset {queue_offset}: missing, or not a body that a drill sends")
                    });
                    continue;
                };
                match sends.by_id.get(&(id.key, id.seq)) {
                    Some(sent) if id.run == sends.run && sent.copies_max() > 0 => {
                        *copies.entry((id.key, id.seq)).or_default() += 1;
                    }
                    _ => verdict.found(Anomaly::Phantom, || {
                        format!(
                            "queue {queue} offset {queue_offset}: key {} seq {} of run {:016x} was never sent, or always refused",
                            id.key, id.seq, id.run
                        )
                    }),
                }
            }
        }
        let mut ids: Vec<_> = sends.by_id.keys().copied().collect();
        ids.sort_unstable();
        for (key, seq) in ids {
            let sent = &sends.by_id[&(key, seq)];
            let count = copies.get(&(key, seq)).copied().unwrap_or(0);
            verdict.duplicates += count.saturating_sub(1);
            if count > sent.copies_max() {
                verdict.found(Anomaly::Duplicated, || {
                    format!(
                        "key {key} seq {seq}: {count} copies of {} tries that can have been appended",
                        sent.copies_max()
                    )
                });
            }
            let Some(ack) = sent.ack else { continue };
            if count == 0 {
                verdict.found(Anomaly::Lost, || {
                    format!("key {key} seq {seq}, acknowledged at queue {} offset {}", ack.queue, ack.queue_offset)
                });
                continue;
            }
            let there = self.queues.get(&ack.queue).and_then(|entries| entries.get(ack.queue_offset as usize));
            if there.copied().flatten() != Some(Identity { run: sends.run, key, seq }) {
                verdict.found(Anomaly::OffsetClash, || {
                    format!(
                        "key {key} seq {seq} was acknowledged at queue {} offset {}, where another message was read",
                        ack.queue, ack.queue_offset
                    )
                });
            }
        }
    }

    /// Within a key, first occurrences rise, and stay in one queue.
    fn check_key_order(&self, verdict: &mut Verdict) {
        let mut key_queue: HashMap<u32, u32> = HashMap::new();
        for (queue, entries) in &self.queues {
            let mut seen: HashSet<MessageId> = HashSet::with_capacity(entries.len());
            let mut highest: HashMap<u32, u64> = HashMap::new();
            for (queue_offset, id) in entries.iter().enumerate() {
                let Some(id) = id else { continue };
                if *key_queue.entry(id.key).or_insert(*queue) != *queue {
                    verdict.found(Anomaly::KeyMoved, || {
                        format!(
                            "key {} is in queue {} and, at offset {queue_offset}, in queue {queue}",
                            id.key, key_queue[&id.key]
                        )
                    });
                }
                if !seen.insert((id.key, id.seq)) {
                    continue;
                }
                let highest = highest.entry(id.key).or_insert(id.seq);
                if id.seq < *highest {
                    verdict.found(Anomaly::OutOfOrder, || {
                        format!(
                            "queue {queue} offset {queue_offset}: key {} seq {} comes behind seq {highest}",
                            id.key, id.seq
                        )
                    });
                }
                *highest = (*highest).max(id.seq);
            }
        }
    }

    /// What was read once is read again at the same place.
    fn check_same_as(&self, other: &Reading, verdict: &mut Verdict) {
        for (queue, entries) in &self.queues {
            let others = other.queues.get(queue).map_or(&[][..], Vec::as_slice);
            for (queue_offset, id) in entries.iter().enumerate() {
                let there = others.get(queue_offset);
                if there != Some(id) {
                    verdict.found(Anomaly::Diverged, || {
                        format!(
                            "queue {queue} offset {queue_offset}: {id:?} in the {:?} pass, {there:?} in the {:?} pass",
                            self.pass, other.pass
                        )
                    });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;

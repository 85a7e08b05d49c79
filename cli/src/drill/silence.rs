//! How long clients were left without an answer: the longest silence around each kill, from the history alone.
//!
//! A silence is a time in which at least one message was waiting for its acknowledgement and none came. A drill that has
//! nothing to send is not silent.

use std::collections::HashMap;

use super::history::{Event, FaultAction};

/// The silence that belongs to one kill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KillSilence {
    /// Node that was killed.
    pub(crate) node: u64,
    /// Longest silence, in ns, that ended between this kill and the next one.
    pub(crate) silence_ns: u64,
}

/// The longest silence of each kill, in the order of the kills.
pub(crate) fn after_kills(events: &[Event]) -> Vec<KillSilence> {
    let gaps = silences(events);
    let kills: Vec<(u64, u64)> = events
        .iter()
        .filter_map(|event| match event {
            Event::Fault { at_ns, action: FaultAction::Kill, node, .. } => Some((*at_ns, *node)),
            _ => None,
        })
        .collect();
    let until = |n: usize| kills.get(n + 1).map_or(u64::MAX, |(at_ns, _)| *at_ns);
    kills
        .iter()
        .enumerate()
        .map(|(n, &(at_ns, node))| {
            // The silence of the next kill begins a moment before it, with the last answer of the victim.
            let own = gaps.iter().filter(|gap| gap.1 > at_ns && gap.1 <= until(n));
            KillSilence { node, silence_ns: own.map(|gap| gap.1 - gap.0).max().unwrap_or(0) }
        })
        .collect()
}

/// Every silence, as (begin, end).
fn silences(events: &[Event]) -> Vec<(u64, u64)> {
    #[derive(PartialEq, Eq, PartialOrd, Ord)]
    enum Change {
        Answered,
        Waits,
    }
    // (time, change): a message waits from its first try to its acknowledgement, through all failed tries between.
    let mut changes: Vec<(u64, Change)> = Vec::with_capacity(events.len());
    let mut waiting: HashMap<(u32, u64), ()> = HashMap::new();
    let mut last_ns = 0;
    for event in events {
        match event {
            Event::Invoke { at_ns, key, seq, .. } => {
                last_ns = last_ns.max(*at_ns);
                if waiting.insert((*key, *seq), ()).is_none() {
                    changes.push((*at_ns, Change::Waits));
                }
            }
            Event::Ok { at_ns, .. } => {
                last_ns = last_ns.max(*at_ns);
                changes.push((*at_ns, Change::Answered));
            }
            Event::Fail { at_ns, .. } | Event::Info { at_ns, .. } => last_ns = last_ns.max(*at_ns),
            Event::Begin { .. } | Event::Fault { .. } => {}
        }
    }
    changes.sort_unstable();
    let mut gaps = Vec::with_capacity(changes.len());
    let mut pending = 0_u64;
    let mut since_ns = 0;
    for (at_ns, change) in changes {
        match change {
            Change::Waits => {
                if pending == 0 {
                    since_ns = at_ns;
                }
                pending += 1;
            }
            Change::Answered => {
                gaps.push((since_ns, at_ns));
                pending = pending.saturating_sub(1);
                since_ns = at_ns;
            }
        }
    }
    if pending > 0 {
        gaps.push((since_ns, last_ns));
    }
    gaps
}

#[cfg(test)]
mod tests {
    use super::*;

    fn invoke(at_ns: u64, key: u32, seq: u64) -> Event {
        Event::Invoke { run: 1, at_ns, key, seq, attempt: 0, queue: 0 }
    }

    fn ok(at_ns: u64, key: u32, seq: u64) -> Event {
        Event::Ok { run: 1, at_ns, key, seq, attempt: 0, queue: 0, queue_offset: 0, msg_id: String::new() }
    }

    fn kill(at_ns: u64, node: u64) -> Event {
        Event::Fault { run: 1, at_ns, action: FaultAction::Kill, node, pid: 1 }
    }

    /// Would break: the figure that the drill is about.
    #[test]
    fn each_kill_gets_its_own_longest_silence() {
        let events = [
            invoke(0, 0, 0),
            ok(10, 0, 0),
            invoke(10, 0, 1),
            kill(15, 2),
            ok(500, 0, 1),
            invoke(500, 0, 2),
            ok(520, 0, 2),
            invoke(520, 0, 3),
            kill(530, 3),
            ok(1900, 0, 3),
        ];
        assert_eq!(
            after_kills(&events),
            [KillSilence { node: 2, silence_ns: 490 }, KillSilence { node: 3, silence_ns: 1380 }]
        );
    }

    /// Would break: counting the drill's own pauses against the cluster.
    #[test]
    fn nobody_waiting_is_no_silence() {
        let events = [invoke(0, 0, 0), kill(5, 1), ok(10, 0, 0), invoke(1000, 0, 1), ok(1007, 0, 1)];
        assert_eq!(after_kills(&events), [KillSilence { node: 1, silence_ns: 10 }]);
    }

    /// Would break: a failed try ending a silence that its client still sits in.
    #[test]
    fn a_retry_does_not_end_a_silence() {
        let retry = Event::Invoke { run: 1, at_ns: 50, key: 0, seq: 0, attempt: 1, queue: 0 };
        let info = Event::Info { run: 1, at_ns: 40, key: 0, seq: 0, attempt: 0, error: String::new() };
        let events = [invoke(0, 0, 0), kill(5, 1), info, retry, ok(80, 0, 0)];
        assert_eq!(after_kills(&events), [KillSilence { node: 1, silence_ns: 80 }]);
    }

    /// Would break: a cluster that never answers again looking quick.
    #[test]
    fn a_silence_that_never_ends_counts_to_the_last_try() {
        let retry = Event::Invoke { run: 1, at_ns: 5000, key: 0, seq: 0, attempt: 1, queue: 0 };
        let events = [invoke(0, 0, 0), kill(5, 1), retry];
        assert_eq!(after_kills(&events), [KillSilence { node: 1, silence_ns: 5000 }]);
    }
}

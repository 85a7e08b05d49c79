//! How long clients were left without an answer: the longest silence around each kill, from the history alone.
//!
//! A silence is a time in which at least one message was waiting for its acknowledgement and none came. A drill that has
//! nothing to send is not silent.

use std::collections::HashSet;

use super::history::{Event, FaultAction};

/// Kills that follow each other so closely are one strike at several nodes.
const ONE_STRIKE_NS: u64 = 50_000_000;

/// The silence that belongs to one kill.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KillSilence {
    /// Nodes that were killed.
    pub(crate) nodes: Vec<u64>,
    /// Longest silence, in ns, that ended between this kill and the next one.
    pub(crate) silence_ns: u64,
    /// For how long nodes had been stopped before, in ns: the silence holds that too.
    pub(crate) stopped_ns: u64,
}

/// The longest silence of each kill, in the order of the kills.
pub(crate) fn after_kills(events: &[Event]) -> Vec<KillSilence> {
    let gaps = silences(events);
    let mut kills: Vec<(u64, Vec<u64>, u64)> = Vec::new();
    let mut stopped_at = None;
    for event in events {
        let Event::Fault { at_ns, action, node, .. } = event else { continue };
        match action {
            FaultAction::Stop => stopped_at = stopped_at.or(Some(*at_ns)),
            FaultAction::Continue => stopped_at = None,
            FaultAction::Kill => match kills.last_mut() {
                Some(strike) if at_ns.saturating_sub(strike.0) < ONE_STRIKE_NS => strike.1.push(*node),
                _ => {
                    let stopped_ns = stopped_at.take().map_or(0, |since| at_ns.saturating_sub(since));
                    kills.push((*at_ns, vec![*node], stopped_ns));
                }
            },
            FaultAction::Restart => {}
        }
    }
    let until = |n: usize| kills.get(n + 1).map_or(u64::MAX, |kill| kill.0);
    kills
        .iter()
        .enumerate()
        .map(|(n, (at_ns, nodes, stopped_ns))| {
            // The silence of the next kill begins a moment before it, with the last answer of the victim.
            let own = gaps.iter().filter(|gap| gap.1 > *at_ns && gap.1 <= until(n));
            KillSilence {
                nodes: nodes.clone(),
                silence_ns: own.map(|gap| gap.1 - gap.0).max().unwrap_or(0),
                stopped_ns: *stopped_ns,
            }
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
    let mut waiting: HashSet<(u32, u64)> = HashSet::new();
    let mut last_ns = 0;
    for event in events {
        match event {
            Event::Invoke { at_ns, key, seq, .. } => {
                last_ns = last_ns.max(*at_ns);
                if waiting.insert((*key, *seq)) {
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

    const MS: u64 = 1_000_000;

    fn invoke(at_ms: u64, key: u32, seq: u64) -> Event {
        Event::Invoke { run: 1, at_ns: at_ms * MS, key, seq, attempt: 0, queue: 0 }
    }

    fn ok(at_ms: u64, key: u32, seq: u64) -> Event {
        Event::Ok { run: 1, at_ns: at_ms * MS, key, seq, attempt: 0, queue: 0, queue_offset: 0, msg_id: String::new() }
    }

    fn kill(at_ms: u64, node: u64) -> Event {
        fault(at_ms, FaultAction::Kill, node)
    }

    fn fault(at_ms: u64, action: FaultAction, node: u64) -> Event {
        Event::Fault { run: 1, at_ns: at_ms * MS, action, node, pid: 1 }
    }

    fn after(node: u64, silence_ms: u64) -> KillSilence {
        KillSilence { nodes: vec![node], silence_ns: silence_ms * MS, stopped_ns: 0 }
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
        assert_eq!(after_kills(&events), [after(2, 490), after(3, 1380)]);
    }

    /// Would break: counting the drill's own pauses against the cluster.
    #[test]
    fn nobody_waiting_is_no_silence() {
        let events = [invoke(0, 0, 0), kill(5, 1), ok(10, 0, 0), invoke(1000, 0, 1), ok(1007, 0, 1)];
        assert_eq!(after_kills(&events), [after(1, 10)]);
    }

    /// Would break: a failed try ending a silence that its client still sits in.
    #[test]
    fn a_retry_does_not_end_a_silence() {
        let retry = Event::Invoke { run: 1, at_ns: 50 * MS, key: 0, seq: 0, attempt: 1, queue: 0 };
        let info = Event::Info { run: 1, at_ns: 40 * MS, key: 0, seq: 0, attempt: 0, error: String::new() };
        let events = [invoke(0, 0, 0), kill(5, 1), info, retry, ok(80, 0, 0)];
        assert_eq!(after_kills(&events), [after(1, 80)]);
    }

    /// Would break: a cluster that never answers again looking quick.
    #[test]
    fn a_silence_that_never_ends_counts_to_the_last_try() {
        let retry = Event::Invoke { run: 1, at_ns: 5000 * MS, key: 0, seq: 0, attempt: 1, queue: 0 };
        let events = [invoke(0, 0, 0), kill(5, 1), retry];
        assert_eq!(after_kills(&events), [after(1, 5000)]);
    }

    /// Would break: telling what the drill did from what the cluster took.
    #[test]
    fn a_strike_at_all_nodes_is_one_and_tells_how_long_they_had_been_stopped() {
        let events = [
            invoke(0, 0, 0),
            fault(10, FaultAction::Stop, 2),
            fault(12, FaultAction::Stop, 3),
            kill(210, 2),
            kill(211, 3),
            kill(211, 1),
            ok(600, 0, 0),
            kill(700, 2),
        ];
        assert_eq!(
            after_kills(&events),
            [KillSilence { nodes: vec![2, 3, 1], silence_ns: 600 * MS, stopped_ns: 200 * MS }, after(2, 0)]
        );
    }
}

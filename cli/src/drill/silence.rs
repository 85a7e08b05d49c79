//! How long clients were left without an answer: the longest silence around each kill, from the history alone.
//!
//! A silence is a time in which at least one message was waiting for its acknowledgement and none came. A drill that has
//! nothing to send is not silent. It is taken for each broker name that the killed node led, and the longest counts: that other
//! groups went on answering proves nothing.

use std::collections::{BTreeSet, HashSet};

use super::history::{Event, FaultAction};

/// Kills that follow each other so closely are one strike at several nodes.
const ONE_STRIKE_NS: u64 = 50_000_000;

/// The silence that belongs to one kill.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KillSilence {
    /// Nodes that were killed.
    pub(crate) nodes: Vec<u64>,
    /// Broker names that they led.
    pub(crate) led: Vec<String>,
    /// Longest silence, in ns, that ended between this kill and the next one.
    pub(crate) silence_ns: u64,
    /// For how long nodes had been stopped before, in ns: the silence holds that too.
    pub(crate) stopped_ns: u64,
}

/// Kills at one moment.
struct Strike {
    at_ns: u64,
    nodes: Vec<u64>,
    led: BTreeSet<String>,
    stopped_ns: u64,
}

/// The longest silence of each kill, in the order of the kills.
pub(crate) fn after_kills(events: &[Event]) -> Vec<KillSilence> {
    let brokers = match events.first() {
        Some(Event::Begin { brokers, .. }) => brokers.as_slice(),
        _ => &[],
    };
    let strikes = strikes(events);
    let until = |n: usize| strikes.get(n + 1).map_or(u64::MAX, |next| next.at_ns);
    let longest = |n: usize, gaps: &[(u64, u64)]| {
        // The silence of the next kill begins a moment before it, with the last answer of the victim.
        let own = gaps.iter().filter(|gap| gap.1 > strikes[n].at_ns && gap.1 <= until(n));
        own.map(|gap| gap.1 - gap.0).max().unwrap_or(0)
    };
    let silence = |(n, strike): (usize, &Strike)| {
        let silence_ns = if strike.led.is_empty() {
            longest(n, &silences(events, |_| true))
        } else {
            let of = |name: &String| {
                longest(n, &silences(events, |queue| brokers.get(queue as usize).is_none_or(|broker| broker == name)))
            };
            strike.led.iter().map(of).max().unwrap_or(0)
        };
        KillSilence {
            nodes: strike.nodes.clone(),
            led: strike.led.iter().cloned().collect(),
            silence_ns,
            stopped_ns: strike.stopped_ns,
        }
    };
    strikes.iter().enumerate().map(silence).collect()
}

fn strikes(events: &[Event]) -> Vec<Strike> {
    let mut strikes: Vec<Strike> = Vec::new();
    let mut stopped_at = None;
    for event in events {
        let Event::Fault { at_ns, action, node, led, .. } = event else { continue };
        match action {
            FaultAction::Stop => stopped_at = stopped_at.or(Some(*at_ns)),
            FaultAction::Continue => stopped_at = None,
            FaultAction::Kill => match strikes.last_mut() {
                Some(strike) if at_ns.saturating_sub(strike.at_ns) < ONE_STRIKE_NS => {
                    strike.nodes.push(*node);
                    strike.led.extend(led.iter().cloned());
                }
                _ => {
                    let stopped_ns = stopped_at.take().map_or(0, |since| at_ns.saturating_sub(since));
                    let led = led.iter().cloned().collect();
                    strikes.push(Strike { at_ns: *at_ns, nodes: vec![*node], led, stopped_ns });
                }
            },
            FaultAction::Restart => {}
        }
    }
    strikes
}

/// Every silence of the queues that are asked for, as (begin, end).
fn silences(events: &[Event], of_queue: impl Fn(u32) -> bool) -> Vec<(u64, u64)> {
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
            Event::Invoke { at_ns, key, seq, queue, .. } => {
                last_ns = last_ns.max(*at_ns);
                if of_queue(*queue) && waiting.insert((*key, *seq)) {
                    changes.push((*at_ns, Change::Waits));
                }
            }
            Event::Ok { at_ns, queue, .. } => {
                last_ns = last_ns.max(*at_ns);
                if of_queue(*queue) {
                    changes.push((*at_ns, Change::Answered));
                }
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
        Event::Fault { run: 1, at_ns: at_ms * MS, action, node, pid: 1, led: Vec::new() }
    }

    fn after(node: u64, silence_ms: u64) -> KillSilence {
        KillSilence { nodes: vec![node], led: Vec::new(), silence_ns: silence_ms * MS, stopped_ns: 0 }
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
            [
                KillSilence { nodes: vec![2, 3, 1], led: Vec::new(), silence_ns: 600 * MS, stopped_ns: 200 * MS },
                after(2, 0)
            ]
        );
    }

    /// Would break: an answer of a group that went on hiding the silence of the one whose leader was killed.
    #[test]
    fn only_the_queues_of_the_killed_leader_count() {
        let begin = Event::Begin {
            run: 1,
            topic: "t".into(),
            queues: 2,
            keys: 2,
            messages: 9,
            brokers: vec!["broker-a".into(), "broker-b".into()],
        };
        let on = |event: Event, number: u32| match event {
            Event::Invoke { run, at_ns, key, seq, attempt, .. } => {
                Event::Invoke { run, at_ns, key, seq, attempt, queue: number }
            }
            Event::Ok { run, at_ns, key, seq, attempt, queue_offset, msg_id, .. } => {
                Event::Ok { run, at_ns, key, seq, attempt, queue: number, queue_offset, msg_id }
            }
            other => other,
        };
        let kill = Event::Fault {
            run: 1,
            at_ns: 20 * MS,
            action: FaultAction::Kill,
            node: 1,
            pid: 1,
            led: vec!["broker-a".into()],
        };
        let events = [
            begin,
            on(invoke(0, 0, 0), 0),
            on(invoke(0, 1, 0), 1),
            on(ok(10, 0, 0), 0),
            on(invoke(10, 0, 1), 0),
            kill,
            on(ok(100, 1, 0), 1),
            on(invoke(100, 1, 1), 1),
            on(ok(200, 1, 1), 1),
            on(ok(310, 0, 1), 0),
        ];
        let expected =
            KillSilence { nodes: vec![1], led: vec!["broker-a".into()], silence_ns: 300 * MS, stopped_ns: 0 };
        assert_eq!(after_kills(&events), [expected]);
    }
}

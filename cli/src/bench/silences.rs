//! How long the queues of a killed node were silent: per kill, the longest silence among the queues that it led.
//!
//! What other groups acknowledge meanwhile proves nothing for the clients of these, so it is shown apart.

use serde::Serialize;

use crate::drill::history::Event;
use crate::drill::silence;

/// One kill.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kill {
    /// The node.
    pub(crate) node: u64,
    /// The broker names that it led.
    pub(crate) led: Vec<String>,
    /// As it goes into a history.
    pub(crate) fault: Event,
}

/// What the clients of one queue saw.
#[derive(Debug)]
pub(crate) struct QueueHistory {
    /// Broker name of the queue.
    pub(crate) broker_name: String,
    /// Sends and acknowledgements, in order.
    pub(crate) events: Vec<Event>,
}

/// What one kill did.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct KillReport {
    /// The node.
    pub(crate) node: u64,
    /// The broker names that it led.
    pub(crate) led: Vec<String>,
    /// Longest silence of a queue that it led, in ms.
    pub(crate) silence_ms: f64,
    /// Longest silence of any other queue, in ms.
    pub(crate) others_ms: f64,
}

/// The silences around each kill, in their order.
pub(crate) fn of_kills(kills: &[Kill], queues: &[QueueHistory]) -> Vec<KillReport> {
    let mut reports: Vec<KillReport> = kills
        .iter()
        .map(|kill| KillReport { node: kill.node, led: kill.led.clone(), silence_ms: 0.0, others_ms: 0.0 })
        .collect();
    for queue in queues {
        let events: Vec<Event> =
            queue.events.iter().cloned().chain(kills.iter().map(|kill| kill.fault.clone())).collect();
        for (report, kill) in reports.iter_mut().zip(silence::after_kills(&events)) {
            let own = report.led.contains(&queue.broker_name);
            let longest = if own { &mut report.silence_ms } else { &mut report.others_ms };
            *longest = longest.max(kill.silence_ns as f64 / 1e6);
        }
    }
    reports
}

/// Median (of an even number the mean of the middle two) and largest; `None` without any.
pub(crate) fn median_and_worst(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let worst = *values.last()?;
    let (low, high) = (values[(values.len() - 1) / 2], values[values.len() / 2]);
    Some(((low + high) / 2.0, worst))
}

/// 99th percentile by nearest rank: the worst of fewer than 100; `None` without any.
pub(crate) fn percentile_99(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let rank = (values.len() * 99).div_ceil(100);
    values.get(rank.checked_sub(1)?).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drill::history::FaultAction;

    const MS: u64 = 1_000_000;

    fn kill(at_ms: u64, node: u64, led: &str) -> Kill {
        let fault =
            Event::Fault { run: 1, at_ns: at_ms * MS, action: FaultAction::Kill, node, pid: 1, led: Vec::new() };
        Kill { node, led: vec![led.into()], fault }
    }

    /// A queue whose sends are acknowledged after `gaps` of silence, in ms.
    fn queue(broker_name: &str, gaps: &[u64]) -> QueueHistory {
        let mut events = Vec::new();
        let mut at_ns = 0;
        for (seq, gap) in gaps.iter().enumerate() {
            let seq = seq as u64;
            events.push(Event::Invoke { run: 1, at_ns, key: 0, seq, attempt: 0, queue: 0 });
            at_ns += gap * MS;
            let (queue_offset, msg_id) = (seq, String::new());
            events.push(Event::Ok { run: 1, at_ns, key: 0, seq, attempt: 0, queue: 0, queue_offset, msg_id });
        }
        QueueHistory { broker_name: broker_name.into(), events }
    }

    /// Would break: the promise about fail-over. A surviving group must not hide the silence of the one that was hit, nor a
    /// quick queue that of a slow one.
    #[test]
    fn the_slowest_queue_of_the_killed_node_counts() {
        let kills = [kill(15, 1, "broker-a"), kill(900, 2, "broker-b")];
        let queues = [
            queue("broker-a", &[10, 400, 10, 600, 10]),
            queue("broker-a", &[10, 700, 200, 10, 10]),
            queue("broker-b", &[10, 20, 30, 830, 800]),
        ];
        let reports = of_kills(&kills, &queues);
        assert_eq!((reports[0].silence_ms, reports[0].others_ms), (700.0, 830.0));
        assert_eq!((reports[1].silence_ms, reports[1].others_ms), (800.0, 600.0));
    }

    /// Would break: the figures that are held against the promise.
    #[test]
    fn median_and_worst_are_over_all_kills() {
        assert_eq!(median_and_worst([3.0, 1.0, 2.0].into_iter()), Some((2.0, 3.0)));
        assert_eq!(median_and_worst([4.0, 1.0, 2.0, 3.0].into_iter()), Some((2.5, 4.0)));
        assert_eq!(median_and_worst(std::iter::empty()), None);
    }

    /// Would break: the other one. Of 100 values one may be worse.
    #[test]
    fn the_99th_percentile_is_a_value_that_was_seen() {
        assert_eq!(percentile_99((1..=100).map(f64::from)), Some(99.0));
        assert_eq!(percentile_99((1..=50).map(f64::from)), Some(50.0));
        assert_eq!(percentile_99(std::iter::empty()), None);
    }
}

//! One table of what a drill has shown, and the same for programs. Everything in it comes from the clients' history.

use std::collections::HashMap;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::history::{Event, Pass, Read};
use super::silence::{self, KillSilence};
use super::verifier::{Anomaly, Verdict};
use crate::terminal::grouped;

/// Percentiles of a latency, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Percentiles {
    pub(crate) p50_us: u64,
    pub(crate) p95_us: u64,
    pub(crate) p99_us: u64,
    pub(crate) max_us: u64,
}

/// The result of a drill.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) verdict: Verdict,
    pub(crate) silences: Vec<KillSilence>,
    /// First try to acknowledgement.
    pub(crate) send: Option<Percentiles>,
    /// First try to the tailing consumer.
    pub(crate) end_to_end: Option<Percentiles>,
    /// Acknowledgements per second, over the time in which messages were sent.
    pub(crate) per_second: f64,
    /// The messages that the run meant to send.
    pub(crate) wanted: u64,
}

impl Report {
    /// Puts the figures together.
    pub(crate) fn new(verdict: Verdict, events: &[Event], reads: &[Read]) -> Report {
        let mut first_try: HashMap<(u32, u64), u64> = HashMap::with_capacity(events.len() / 2);
        let mut send = latencies();
        let (mut began, mut ended, mut wanted) = (u64::MAX, 0, 0);
        for event in events {
            match event {
                Event::Begin { messages, .. } => wanted = *messages,
                Event::Invoke { at_ns, key, seq, .. } => {
                    first_try.entry((*key, *seq)).or_insert(*at_ns);
                    began = began.min(*at_ns);
                }
                Event::Ok { at_ns, key, seq, .. } => {
                    ended = ended.max(*at_ns);
                    if let Some(first) = first_try.get(&(*key, *seq)) {
                        send.saturating_record(at_ns.saturating_sub(*first) / 1_000);
                    }
                }
                Event::Fail { .. } | Event::Info { .. } | Event::Fault { .. } => {}
            }
        }
        let mut end_to_end = latencies();
        for read in reads.iter().filter(|read| read.pass == Pass::Live) {
            // Only the first copy: a retried message is late once.
            if let Some(id) = read.id
                && let Some(first) = first_try.remove(&(id.key, id.seq))
            {
                end_to_end.saturating_record(read.at_ns.saturating_sub(first) / 1_000);
            }
        }
        let seconds = ended.saturating_sub(began) as f64 / 1e9;
        let per_second = if seconds > 0.0 { verdict.acknowledged as f64 / seconds } else { 0.0 };
        let silences = silence::after_kills(events);
        Report { verdict, silences, send: percentiles(&send), end_to_end: percentiles(&end_to_end), per_second, wanted }
    }

    /// Whether the drill ends green: every promise held, for every message that was to be sent.
    pub(crate) fn green(&self) -> bool {
        self.verdict.clean() && self.verdict.acknowledged == self.wanted
    }

    /// The table.
    pub(crate) fn table(&self) -> String {
        let count = |anomaly| grouped(self.verdict.count(anomaly));
        let mut rows: Vec<(String, String)> = vec![
            ("acknowledged".into(), grouped(self.verdict.acknowledged)),
            ("consumed".into(), grouped(self.verdict.consumed)),
            ("lost".into(), count(Anomaly::Lost)),
            ("duplicated".into(), self.duplicated()),
            ("out of order".into(), count(Anomaly::OutOfOrder)),
        ];
        for (n, kill) in self.silences.iter().enumerate() {
            let label = match kill.nodes.len() {
                1 => format!("longest silence, kill {}", n + 1),
                _ => "longest silence, all killed".to_owned(),
            };
            let nodes: Vec<String> = kill.nodes.iter().map(u64::to_string).collect();
            let whom = if nodes.len() == 1 { "node" } else { "nodes" };
            let led = if kill.led.is_empty() { String::new() } else { format!(", which led {}", kill.led.join(", ")) };
            let stopped = match kill.stopped_ns / 1_000_000 {
                0 => String::new(),
                ms => format!(", the followers having been stopped for {ms} ms"),
            };
            rows.push((
                label,
                format!("{} ms ({whom} {}{led}{stopped})", kill.silence_ns / 1_000_000, nodes.join(", ")),
            ));
        }
        let failed = self.verdict.failed_tries + self.verdict.unknown_tries;
        rows.push(("sends that failed".into(), format!("{} (repeated by the drill)", grouped(failed))));
        rows.push(("send latency".into(), latency_cell(self.send)));
        rows.push(("end-to-end latency".into(), latency_cell(self.end_to_end)));
        rows.push(("messages per second".into(), grouped(self.per_second.round() as u64)));
        for (anomaly, finding) in &self.verdict.findings {
            if !matches!(anomaly, Anomaly::Lost | Anomaly::OutOfOrder) {
                rows.push((anomaly.name().into(), grouped(finding.count)));
            }
        }
        rows.push(("verdict".into(), self.verdict_text()));
        let width = rows.iter().map(|(label, _)| label.len()).max().unwrap_or(0);
        rows.iter().map(|(label, value)| format!("{label:<width$}  {value}")).collect::<Vec<_>>().join("\n")
    }

    /// The first places of each broken promise, a line each.
    pub(crate) fn examples(&self) -> Vec<String> {
        let of = |(anomaly, finding): (&Anomaly, &super::verifier::Finding)| {
            finding.examples.iter().map(|example| format!("{}: {example}", anomaly.name())).collect::<Vec<_>>()
        };
        self.verdict.findings.iter().flat_map(of).collect()
    }

    /// The report for programs.
    pub(crate) fn json(&self) -> serde_json::Value {
        let anomalies: serde_json::Map<String, serde_json::Value> = self
            .verdict
            .findings
            .iter()
            .map(|(anomaly, finding)| (anomaly.name().to_owned(), finding.count.into()))
            .collect();
        let silences: Vec<_> = self
            .silences
            .iter()
            .map(|kill| {
                serde_json::json!({
                    "nodes": kill.nodes,
                    "led": kill.led,
                    "silence_ms": kill.silence_ns as f64 / 1e6,
                    "followers_stopped_ms": kill.stopped_ns as f64 / 1e6,
                })
            })
            .collect();
        serde_json::json!({
            "green": self.green(),
            "wanted": self.wanted,
            "acknowledged": self.verdict.acknowledged,
            "consumed": self.verdict.consumed,
            "lost": self.verdict.count(Anomaly::Lost),
            "duplicated": self.verdict.duplicates,
            "out_of_order": self.verdict.count(Anomaly::OutOfOrder),
            "unknown_tries": self.verdict.unknown_tries,
            "refused_tries": self.verdict.failed_tries,
            "anomalies": anomalies,
            "silences": silences,
            "send_latency": self.send,
            "end_to_end_latency": self.end_to_end,
            "messages_per_second": self.per_second,
        })
    }

    fn duplicated(&self) -> String {
        let text = grouped(self.verdict.duplicates);
        match self.verdict.unknown_tries {
            0 => text,
            tries => format!("{text} (of {} sends that were repeated, their outcome being unknown)", grouped(tries)),
        }
    }

    fn verdict_text(&self) -> String {
        if self.green() {
            return "GREEN: nothing acknowledged was lost, no order was broken".into();
        }
        let mut broken: Vec<&str> = self.verdict.findings.keys().map(|anomaly| anomaly.name()).collect();
        if broken.is_empty() {
            broken.push("not everything was sent");
        }
        format!("RED: {}", broken.join(", "))
    }
}

/// A histogram from 1 us to 10 minutes, three significant digits.
fn latencies() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000, 3).expect("the bounds are constants that fit each other")
}

fn percentiles(histogram: &Histogram<u64>) -> Option<Percentiles> {
    (!histogram.is_empty()).then(|| Percentiles {
        p50_us: histogram.value_at_quantile(0.50),
        p95_us: histogram.value_at_quantile(0.95),
        p99_us: histogram.value_at_quantile(0.99),
        max_us: histogram.max(),
    })
}

fn latency_cell(latency: Option<Percentiles>) -> String {
    let Some(latency) = latency else { return "-".into() };
    let ms = |us: u64| format!("{:.1} ms", us as f64 / 1e3);
    format!(
        "p50 {}, p95 {}, p99 {}, max {}",
        ms(latency.p50_us),
        ms(latency.p95_us),
        ms(latency.p99_us),
        ms(latency.max_us)
    )
}

#[cfg(test)]
mod tests {
    use super::super::history::{FaultAction, Identity};
    use super::super::verifier::verify;
    use super::*;

    fn run(read_back: bool) -> Report {
        let mut events =
            vec![Event::Begin { run: 1, topic: "t".into(), queues: 1, keys: 1, messages: 2, brokers: Vec::new() }];
        let mut reads = Vec::new();
        for seq in 0..2 {
            let at_ns = seq * 10_000_000;
            events.push(Event::Invoke { run: 1, at_ns, key: 0, seq, attempt: 0, queue: 0 });
            let msg_id = String::new();
            let at_ns = at_ns + 5_000_000;
            events.push(Event::Ok { run: 1, at_ns, key: 0, seq, attempt: 0, queue: 0, queue_offset: seq, msg_id });
            if seq == 0 {
                events.push(Event::Fault {
                    run: 1,
                    at_ns,
                    action: FaultAction::Kill,
                    node: 2,
                    pid: 7,
                    led: Vec::new(),
                });
            }
            for pass in [Pass::Live, Pass::Final] {
                let id = Some(Identity { run: 1, key: 0, seq });
                if read_back || seq == 0 {
                    reads.push(Read { pass, at_ns: at_ns + 1_000_000, queue: 0, queue_offset: seq, id });
                }
            }
        }
        Report::new(verify(&events, &reads), &events, &reads)
    }

    /// Would break: the table that a person judges by, and the exit status that a script judges by.
    #[test]
    fn a_good_run_is_green_and_its_figures_are_right() {
        let report = run(true);
        assert!(report.green());
        assert_eq!(report.send.unwrap().p50_us / 10, 500);
        assert_eq!(report.end_to_end.unwrap().max_us / 10, 600);
        assert_eq!(
            report.silences,
            [KillSilence { led: Vec::new(), nodes: vec![2], silence_ns: 5_000_000, stopped_ns: 0 }]
        );
        assert_eq!(report.per_second.round() as u64, 133);
        let table = report.table();
        for row in
            ["acknowledged", "consumed", "lost", "duplicated", "out of order", "longest silence, kill 1", "GREEN"]
        {
            assert!(table.contains(row), "{table}");
        }
    }

    #[test]
    fn a_loss_is_red_everywhere() {
        let report = run(false);
        assert!(!report.green());
        assert!(report.table().contains("RED: lost"), "{}", report.table());
        assert_eq!(report.json()["lost"], 1);
        assert_eq!(report.json()["green"], false);
        assert!(report.examples()[0].starts_with("lost: key 0 seq 1"));
    }

    #[test]
    fn a_run_that_sent_less_than_it_should_is_red() {
        let mut report = run(true);
        report.wanted = 3;
        assert!(!report.green());
        assert!(report.table().contains("RED: not everything was sent"));
    }
}

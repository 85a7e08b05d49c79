//! What a bench prints: a table for people, one JSON object for programs.

use serde::Serialize;

use super::figures::{Figures, median};
use super::limits::Limits;
use super::load::Load;
use super::tally::{Percentiles, Totals};
use super::target::Target;
use crate::terminal::{grouped, table};

/// One load and its windows.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    /// What was measured: `send`, `read`, or `send to read`.
    pub(crate) what: &'static str,
    /// The load.
    pub(crate) load: Load,
    /// Its windows.
    pub(crate) windows: Vec<Figures>,
    /// What lies outside of them, and what failed.
    pub(crate) totals: Totals,
}

/// A whole bench.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// Which one.
    pub(crate) bench: &'static str,
    /// The topic.
    pub(crate) topic: String,
    /// Broker names, that is groups, that its queues are spread over.
    pub(crate) broker_names: Vec<String>,
    /// The limits of the machine in the same run.
    pub(crate) limits: Option<Limits>,
    /// The loads.
    pub(crate) rows: Vec<Row>,
}

impl Report {
    /// Of a bench of `target`, without rows yet.
    pub(crate) fn new(bench: &'static str, target: &Target, limits: Option<Limits>) -> Report {
        Report { bench, topic: target.topic.clone(), broker_names: target.broker_names(), limits, rows: Vec::new() }
    }

    /// Whether every message was acknowledged.
    pub(crate) fn clean(&self) -> bool {
        self.rows.iter().all(|row| row.totals.errors() == 0)
    }

    /// For programs.
    pub(crate) fn json(&self) -> String {
        serde_json::to_string(self).expect("a report holds nothing that JSON cannot")
    }

    /// For people: the window with the median rate of each load.
    pub(crate) fn text(&self) -> String {
        let heading = [
            "WHAT",
            "IN FLIGHT",
            "BATCH",
            "BYTES",
            "RATE",
            "MSG/S",
            "RANGE",
            "P50 MS",
            "P99 MS",
            "P99.9 MS",
            "MAX MS",
            "SERVER US",
            "CLIENT US",
            "IDLE %",
            "SYNCS/MSG",
            "MSG/JOB",
            "LOG B",
            "DISK B",
            "ERRORS",
        ];
        let rows: Vec<Vec<String>> = self.rows.iter().map(Row::cells).collect();
        let mut lines: Vec<String> = self.limits.iter().flat_map(Limits::lines).collect();
        let groups = self.broker_names.len();
        lines.push(format!("{}, {groups} group{}", self.bench, if groups == 1 { "" } else { "s" }));
        lines.push(table(&heading, &rows));
        lines.push(
            "SERVER US, CLIENT US: processor time per message, of all nodes and of this program. SYNCS/MSG, LOG B, DISK B: per \
             message and replica."
                .to_owned(),
        );
        lines.extend(self.rows.iter().filter_map(|row| row.totals.error.clone()).take(1));
        lines.join("\n")
    }
}

impl Row {
    fn cells(&self) -> Vec<String> {
        let none = || "-".to_owned();
        let Load { in_flight, batch, size, rate, .. } = self.load;
        let mut cells = vec![
            self.what.to_owned(),
            grouped(in_flight as u64),
            batch.to_string(),
            grouped(size as u64),
            rate.map_or("closed".to_owned(), grouped),
        ];
        let Some(shown) = median(&self.windows) else {
            cells.extend(std::iter::repeat_with(none).take(13));
            cells.push(grouped(self.totals.errors()));
            return cells;
        };
        cells.push(grouped(shown.per_second.round() as u64));
        cells.push(range(&self.windows));
        let Percentiles { p50_us, p99_us, p999_us, max_us } = shown.latency.unwrap_or_default();
        cells.extend([p50_us, p99_us, p999_us, max_us].map(millis));
        cells.push(shown.servers.as_ref().map_or_else(none, |servers| format!("{:.1}", servers.cpu_us)));
        cells.push(format!("{:.1}", shown.client_cpu_us));
        cells.push(format!("{:.0}", shown.idle_share * 100.0));
        match &shown.servers {
            Some(servers) => cells.extend([
                format!("{:.4}", servers.syncs_per_message),
                format!("{:.1}", servers.messages_per_job),
                format!("{:.0}", servers.log_bytes_per_message),
                servers.disk_bytes_per_message.map_or_else(none, |bytes| format!("{bytes:.0}")),
            ]),
            None => cells.extend(std::iter::repeat_with(none).take(4)),
        }
        cells.push(grouped(self.totals.errors()));
        cells
    }
}

/// The least and the most messages a second of several windows.
fn range(windows: &[Figures]) -> String {
    let rates = windows.iter().map(|window| window.per_second.round() as u64);
    match (rates.clone().min(), rates.max()) {
        (Some(least), Some(most)) if windows.len() > 1 => format!("{}..{}", grouped(least), grouped(most)),
        _ => "-".to_owned(),
    }
}

/// Microseconds as milliseconds.
pub(crate) fn millis(us: u64) -> String {
    format!("{}.{:02}", us / 1_000, us % 1_000 / 10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::costs::Costs;
    use crate::bench::tally::{Latencies, WindowTally};

    fn figures(messages: u64) -> Figures {
        let mut latencies = Latencies::new();
        latencies.record(std::time::Duration::from_micros(1_234));
        let costs = Costs { seconds: 1.0, client_cpu_s: 0.5, idle_share: 0.25, stolen_share: 0.0, servers: None };
        Figures::new(&WindowTally { messages, latencies }, 1.0, &costs)
    }

    fn report(windows: Vec<Figures>, failed: u64) -> Report {
        let load = Load { in_flight: 64, connections: 1, size: 1_024, batch: 1, rate: None, count: None };
        let totals = Totals { failed, ..Totals::default() };
        Report {
            bench: "produce",
            topic: "T".into(),
            broker_names: vec!["broker-a".into()],
            limits: None,
            rows: vec![Row { what: "send", load, windows, totals }],
        }
    }

    /// Would break: the table, and every program that reads the figures by these names.
    #[test]
    fn a_report_shows_the_median_and_the_range() {
        let report = report(vec![figures(9_000), figures(40_000), figures(20_000)], 0);
        let text = report.text();
        assert!(text.contains("20,000  9,000..40,000"), "{text}");
        assert!(text.contains("1.23"), "{text}");
        let json: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
        let window = &json["rows"][0]["windows"][1];
        assert_eq!((&window["messages"], &window["latency"]["p50_us"]), (&40_000.into(), &1_234.into()));
        assert_eq!(json["rows"][0]["totals"]["failed"], 0);
        assert!(report.clean());
    }

    /// Would break: a bench with failed sends that looks clean, or one without windows that panics.
    #[test]
    fn errors_are_shown() {
        let report = report(Vec::new(), 3);
        assert!(report.text().contains(" 3\n"), "{}", report.text());
        assert!(!report.clean());
    }
}

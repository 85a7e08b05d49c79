//! The figures of a window, per message: what the report shows and programs read.

use serde::Serialize;

use super::costs::Costs;
use super::tally::{Percentiles, WindowTally};

/// The figures of one window.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Figures {
    /// Messages acknowledged, or read.
    pub(crate) messages: u64,
    /// Length of the window.
    pub(crate) seconds: f64,
    /// Messages a second.
    pub(crate) per_second: f64,
    /// Of the calls.
    pub(crate) latency: Option<Percentiles>,
    /// Processor time of this process: microseconds per message, which is seconds per million.
    pub(crate) client_cpu_us: f64,
    /// Share of the machine's processors that had nothing to do, 0 to 1.
    pub(crate) idle_share: f64,
    /// Share that the host of a virtual machine took, 0 to 1.
    pub(crate) stolen_share: f64,
    /// What the servers did, when their processes are known.
    pub(crate) servers: Option<ServerFigures>,
}

/// What the servers did.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct ServerFigures {
    /// Processor time of all nodes: microseconds per message, which is seconds per million.
    pub(crate) cpu_us: f64,
    /// `fdatasync` calls for logs, per message and replica.
    pub(crate) syncs_per_message: f64,
    /// `fdatasync` calls for logs a second, over all replicas.
    pub(crate) syncs_per_second: f64,
    /// Messages that share a write job, that is an entry or several of them.
    pub(crate) messages_per_job: f64,
    /// Bytes of log per message and replica.
    pub(crate) log_bytes_per_message: f64,
    /// Bytes that the disk was given, by anybody, per message and replica, where that can be told.
    pub(crate) disk_bytes_per_message: Option<f64>,
    /// Bytes of pages made dirty, as the kernel counts them, per message and replica.
    pub(crate) dirtied_bytes_per_message: f64,
    /// Resident memory of each node in MiB: all, and its own.
    pub(crate) resident_mib: Vec<[u64; 2]>,
}

impl Figures {
    /// Of a load that is over, `seconds` long: whatever was spent from its begin to its end is its own.
    pub(crate) fn whole(tally: &WindowTally, seconds: f64, costs: &Costs) -> Figures {
        Figures::new(tally, seconds, &Costs { seconds, ..costs.clone() })
    }

    /// Of a window of `seconds` in a load that goes on, with what was spent meanwhile.
    pub(crate) fn new(tally: &WindowTally, seconds: f64, costs: &Costs) -> Figures {
        let messages = tally.messages;
        // Costs are read some milliseconds beside the border: they are taken for their own length.
        let per_message = |spent: f64| per(spent / costs.seconds * seconds, messages);
        Figures {
            messages,
            seconds,
            per_second: if seconds > 0.0 { messages as f64 / seconds } else { 0.0 },
            latency: tally.latencies.percentiles(),
            client_cpu_us: per_message(costs.client_cpu_s * 1e6),
            idle_share: costs.idle_share,
            stolen_share: costs.stolen_share,
            servers: costs.servers.as_ref().map(|servers| {
                let per_replica = |spent: u64| per_message(spent as f64 / servers.nodes.max(1) as f64);
                let jobs = per_replica(servers.jobs);
                ServerFigures {
                    cpu_us: per_message(servers.cpu_s * 1e6),
                    syncs_per_message: per_replica(servers.syncs),
                    syncs_per_second: servers.syncs as f64 / costs.seconds,
                    messages_per_job: if jobs > 0.0 { 1.0 / jobs } else { 0.0 },
                    log_bytes_per_message: per_replica(servers.frame_bytes),
                    disk_bytes_per_message: servers.device_bytes.map(per_replica),
                    dirtied_bytes_per_message: per_replica(servers.dirtied_bytes),
                    resident_mib: servers.resident_mib.clone(),
                }
            }),
        }
    }
}

fn per(spent: f64, messages: u64) -> f64 {
    if messages == 0 { 0.0 } else { spent / messages as f64 }
}

/// The window with the median rate; of an even number the lower one of the middle.
pub(crate) fn median(windows: &[Figures]) -> Option<&Figures> {
    let mut sorted: Vec<&Figures> = windows.iter().collect();
    sorted.sort_by(|a, b| a.per_second.total_cmp(&b.per_second));
    sorted.get(sorted.len().saturating_sub(1) / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::costs::ServerCosts;
    use crate::bench::tally::Latencies;

    fn tally(messages: u64) -> WindowTally {
        WindowTally { messages, latencies: Latencies::new() }
    }

    fn costs(seconds: f64) -> Costs {
        let servers = ServerCosts {
            nodes: 3,
            cpu_s: 5.0,
            device_bytes: Some(900_000_000),
            dirtied_bytes: 1_200_000_000,
            jobs: 30_000,
            frame_bytes: 360_000_000,
            syncs: 15_000,
            resident_mib: vec![[50, 20]; 3],
        };
        Costs { seconds, client_cpu_s: 1.0, idle_share: 0.1, stolen_share: 0.0, servers: Some(servers) }
    }

    /// Would break: every claim about cost.
    #[test]
    fn costs_are_given_per_message_and_replica() {
        let figures = Figures::new(&tally(100_000), 5.0, &costs(5.0));
        assert_eq!((figures.per_second, figures.client_cpu_us), (20_000.0, 10.0));
        let servers = figures.servers.unwrap();
        assert_eq!((servers.cpu_us, servers.syncs_per_message, servers.syncs_per_second), (50.0, 0.05, 3_000.0));
        assert_eq!((servers.log_bytes_per_message, servers.disk_bytes_per_message), (1_200.0, Some(3_000.0)));
        assert_eq!(servers.dirtied_bytes_per_message, 4_000.0);
        assert!((servers.messages_per_job - 10.0).abs() < 1e-9);
    }

    /// Would break: short windows, when the costs are read over a slightly longer time than the messages are counted.
    #[test]
    fn costs_are_taken_for_the_length_of_the_window() {
        let figures = Figures::new(&tally(100_000), 5.0, &costs(10.0));
        assert_eq!(figures.client_cpu_us, 5.0);
        assert_eq!(figures.servers.unwrap().cpu_us, 25.0);
        let nothing = Figures::new(&tally(0), 5.0, &costs(5.0));
        assert_eq!((nothing.per_second, nothing.client_cpu_us), (0.0, 0.0));
    }

    /// Would break: runs of a fixed number of messages, which may be over sooner than their costs are read.
    #[test]
    fn a_load_that_is_over_bears_all_of_its_costs() {
        let figures = Figures::whole(&tally(100_000), 1.0, &costs(5.0));
        assert_eq!((figures.per_second, figures.client_cpu_us), (100_000.0, 10.0));
        assert_eq!(figures.servers.unwrap().cpu_us, 50.0);
    }

    /// Would break: which of several windows is shown.
    #[test]
    fn the_median_window_is_one_of_them() {
        let windows: Vec<Figures> =
            [300, 100, 200].map(|messages| Figures::new(&tally(messages), 1.0, &costs(1.0))).into();
        assert_eq!(median(&windows).unwrap().messages, 200);
        assert_eq!(median(&windows[..2]).unwrap().messages, 100);
        assert!(median(&[]).is_none());
    }
}

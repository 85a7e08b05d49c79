//! How a bench loads its cluster: the options that its commands share, checked.

use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Args;
use serde::Serialize;

/// Most sends under way at a time.
const IN_FLIGHT_MAX: usize = 16_384;

/// Most connections.
const CONNECTIONS_MAX: usize = 1_024;

/// Most messages of a batch: what a broker takes.
const BATCH_MAX: usize = 4_096;

/// Largest body, and largest batch: what a broker takes.
const SIZE_MAX: usize = 4 << 20;

/// Most windows.
const RUNS_MAX: usize = 100;

/// Longest warm-up or window, in seconds: a day.
const SECONDS_MAX: f64 = 86_400.0;

/// Options of every load.
#[derive(Debug, Clone, Args)]
pub(crate) struct LoadArgs {
    /// Sends under way at a time; each is a task that waits for its acknowledgement
    #[arg(long, default_value_t = 64)]
    pub(crate) in_flight: usize,
    /// Connections to each broker, over which the sends are spread
    #[arg(long, default_value_t = 1)]
    pub(crate) connections: usize,
    /// Bytes of a body
    #[arg(long, default_value_t = 1024)]
    pub(crate) size: usize,
    /// Messages of one send; more than 1 are sent as a batch
    #[arg(long, default_value_t = 1)]
    pub(crate) batch: usize,
    /// Messages a second; latencies then count from the moment at which a message was due [default: as fast as answered]
    #[arg(long)]
    pub(crate) rate: Option<u64>,
    /// Seconds of load before anything is counted
    #[arg(long, default_value_t = 3.0, value_name = "SECONDS")]
    pub(crate) warm_up: f64,
    /// Seconds of a window
    #[arg(long, default_value_t = 5.0, value_name = "SECONDS")]
    pub(crate) duration: f64,
    /// Windows, one behind the other; the one with the median rate is shown
    #[arg(long, default_value_t = 1)]
    pub(crate) runs: usize,
}

/// A load.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Load {
    /// Sends under way at a time.
    pub(crate) in_flight: usize,
    /// Connections to each broker.
    pub(crate) connections: usize,
    /// Bytes of a body.
    pub(crate) size: usize,
    /// Messages of one send.
    pub(crate) batch: usize,
    /// Messages a second, of an open loop.
    pub(crate) rate: Option<u64>,
    /// Messages after the warm-up, instead of windows by time.
    pub(crate) count: Option<u64>,
}

impl LoadArgs {
    /// The load, if it can be.
    pub(crate) fn load(&self, count: Option<u64>) -> Result<Load> {
        ensure!(
            (1..=IN_FLIGHT_MAX).contains(&self.in_flight),
            "--in-flight is {}: give 1 to {IN_FLIGHT_MAX}",
            self.in_flight
        );
        ensure!(
            (1..=CONNECTIONS_MAX.min(self.in_flight)).contains(&self.connections),
            "--connections is {}: give 1 to {}, not more than --in-flight",
            self.connections,
            CONNECTIONS_MAX.min(self.in_flight)
        );
        ensure!((1..=BATCH_MAX).contains(&self.batch), "--batch is {}: give 1 to {BATCH_MAX}", self.batch);
        ensure!((1..=SIZE_MAX).contains(&self.size), "--size is {}: give 1 to {SIZE_MAX}", self.size);
        ensure!(
            self.size * self.batch <= SIZE_MAX,
            "--batch {} of --size {} is more than the {SIZE_MAX} bytes that a request may have",
            self.batch,
            self.size
        );
        ensure!(self.rate != Some(0), "--rate is 0: leave it out to send as fast as messages are acknowledged");
        ensure!((1..=RUNS_MAX).contains(&self.runs), "--runs is {}: give 1 to {RUNS_MAX}", self.runs);
        ensure!((0.0..=SECONDS_MAX).contains(&self.warm_up), "--warm-up is {}: give 0 to {SECONDS_MAX}", self.warm_up);
        ensure!(
            (0.01..=SECONDS_MAX).contains(&self.duration),
            "--duration is {}: give 0.01 to {SECONDS_MAX}",
            self.duration
        );
        ensure!(count != Some(0), "--count is 0: give at least 1");
        Ok(Load {
            in_flight: self.in_flight,
            connections: self.connections,
            size: self.size,
            batch: self.batch,
            rate: self.rate,
            count,
        })
    }

    /// Time before the first window.
    pub(crate) fn warm_up(&self) -> Duration {
        Duration::from_secs_f64(self.warm_up)
    }

    /// Length of a window.
    pub(crate) fn window(&self) -> Duration {
        Duration::from_secs_f64(self.duration)
    }
}

impl Load {
    /// Calls a second of an open loop.
    pub(crate) fn calls_per_second(&self) -> Option<f64> {
        self.rate.map(|rate| rate as f64 / self.batch as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        load: LoadArgs,
    }

    fn parse(line: &str) -> LoadArgs {
        Line::parse_from(std::iter::once("x").chain(line.split_whitespace())).load
    }

    /// Would break: a sentence instead of a panic, or of a bench that measures something else.
    #[test]
    fn what_cannot_be_is_refused_by_name() {
        for (line, flag) in [
            ("--in-flight 0", "--in-flight"),
            ("--in-flight 4 --connections 5", "--connections"),
            ("--batch 5000", "--batch"),
            ("--size 1048576 --batch 5", "--batch"),
            ("--rate 0", "--rate"),
            ("--runs 0", "--runs"),
            ("--warm-up=-1", "--warm-up"),
            ("--warm-up NaN", "--warm-up"),
            ("--duration 0", "--duration"),
        ] {
            let error = parse(line).load(None).unwrap_err().to_string();
            assert!(error.contains(flag), "{line}: {error}");
        }
        assert!(parse("").load(Some(0)).unwrap_err().to_string().contains("--count"));
        assert_eq!(parse("--rate 640 --batch 32").load(None).unwrap().calls_per_second(), Some(20.0));
    }
}

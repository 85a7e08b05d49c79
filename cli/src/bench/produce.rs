//! `ledgermq bench produce`: one load, or the matrix of loads that is compared over time.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;

use super::costs::{Costs, Reading};
use super::figures::Figures;
use super::limits::Limits;
use super::load::{Load, LoadArgs};
use super::payload::Bodies;
use super::report::{Report, Row};
use super::schedule::Windows;
use super::senders::Senders;
use super::tally::Tally;
use super::target::{Target, TargetArgs};
use crate::terminal::{note, say};

/// Sends in flight of the matrix.
const MATRIX_IN_FLIGHT: [usize; 4] = [1, 16, 64, 256];

/// Messages per send of the matrix.
const MATRIX_BATCH: [usize; 2] = [1, 32];

/// Most worker threads of this program.
const THREADS_MAX: usize = 256;

/// A bench of sends.
#[derive(Debug, Args)]
pub(crate) struct ProduceArgs {
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    load: LoadArgs,
    /// Send so many messages after the warm-up, instead of windows by time
    #[arg(long, conflicts_with_all = ["duration", "runs", "matrix"])]
    count: Option<u64>,
    /// 1, 16, 64 and 256 in flight, single and in batches of 32, one after the other
    #[arg(long, conflicts_with_all = ["in_flight", "batch", "rate"])]
    matrix: bool,
    /// Worker threads of this program [default: one per processor]
    #[arg(long)]
    threads: Option<usize>,
    /// Leave out the limits of the machine, which take some seconds
    #[arg(long)]
    no_limits: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl ProduceArgs {
    /// Worker threads, if they are given and can be.
    pub(crate) fn threads(&self) -> Option<usize> {
        self.threads.map(|threads| threads.clamp(1, THREADS_MAX))
    }
}

/// Runs the bench.
pub(crate) async fn run(args: ProduceArgs) -> Result<ExitCode> {
    ensure!(args.threads.is_none_or(|it| (1..=THREADS_MAX).contains(&it)), "--threads: give 1 to {THREADS_MAX}");
    let loads = loads(&args)?;
    let target = Target::open(&args.target).await?;
    let limits = if args.no_limits { None } else { Some(measure_limits(&target).await?) };
    let mut report = Report::new("produce", &target, limits);
    for load in loads {
        note(format_args!("{} in flight, batch {}", load.in_flight, load.batch));
        report.rows.push(measure(&target, load, &args.load).await?);
    }
    say(if args.json { report.json() } else { report.text() });
    Ok(if report.clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn loads(args: &ProduceArgs) -> Result<Vec<Load>> {
    if !args.matrix {
        return Ok(vec![args.load.load(args.count)?]);
    }
    let mut loads = Vec::new();
    for batch in MATRIX_BATCH {
        for in_flight in MATRIX_IN_FLIGHT {
            let connections = args.load.connections.min(in_flight);
            loads.push(LoadArgs { in_flight, batch, connections, ..args.load.clone() }.load(None)?);
        }
    }
    Ok(loads)
}

/// The limits of the machine, before it has anything to do.
pub(crate) async fn measure_limits(target: &Target) -> Result<Limits> {
    let folder = target.dir.clone().unwrap_or_else(|| PathBuf::from("."));
    note("measuring the limits of the machine");
    tokio::task::spawn_blocking(move || Limits::measure(&folder)).await.context("the measuring thread was lost")?
}

/// One load from its warm-up to its last answer.
async fn measure(target: &Target, load: Load, args: &LoadArgs) -> Result<Row> {
    let windows = match load.count {
        None => Windows::timed(args.warm_up(), args.window(), args.runs),
        Some(_) => Windows::open_ended(args.warm_up()),
    };
    let senders = Senders::start(target, &load, windows, Bodies::new(load.size, None))?;
    let (tally, costs) = watch(target, windows, senders).await?;
    let figures = figures(windows, &tally, &costs);
    Ok(Row { what: "send", load, windows: figures, totals: tally.totals })
}

/// Lets the senders run, and reads the costs at the borders of the windows.
pub(crate) async fn watch(target: &Target, windows: Windows, senders: Senders) -> Result<(Tally, Vec<Costs>)> {
    let cluster = target.cluster.as_ref();
    let mut readings = Vec::new();
    for n in 0..=windows.count() {
        if let Some(border) = windows.border(n) {
            tokio::time::sleep_until(border.into()).await;
            readings.push(Reading::take(cluster).await?);
        }
    }
    let tally = senders.finish().await?;
    if windows.length().is_none() {
        readings.push(Reading::take(cluster).await?);
    }
    Ok((tally, readings.windows(2).map(|pair| pair[1].since(&pair[0])).collect()))
}

/// The figures of each window.
pub(crate) fn figures(windows: Windows, tally: &Tally, costs: &[Costs]) -> Vec<Figures> {
    let whole = windows.border(0).zip(tally.last_ack).map(|(begin, last)| last.saturating_duration_since(begin));
    let seconds = windows.length().or(whole).unwrap_or(Duration::ZERO).as_secs_f64();
    let figures = if windows.length().is_some() { Figures::new } else { Figures::whole };
    tally.windows.iter().zip(costs).map(|(tally, costs)| figures(tally, seconds, costs)).collect()
}

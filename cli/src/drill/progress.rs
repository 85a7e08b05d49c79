//! What a person sees while a drill runs: a bar on a terminal, plain lines elsewhere. Always on standard error.

use std::fmt::Display;
use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::terminal::{grouped, note};

/// How often the bar moves.
const BAR_INTERVAL: Duration = Duration::from_millis(100);

/// How often a plain line is written.
const LINE_INTERVAL: Duration = Duration::from_secs(2);

/// Shows one phase after the other. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
}

impl Progress {
    /// For a phase of `total` steps.
    pub(crate) fn new(total: u64) -> Progress {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{msg:18} [{bar:40}] {pos}/{len}  {per_sec}  {elapsed}")
                .expect("the template is a constant that parses")
                .progress_chars("=> ");
            ProgressBar::new(total).with_style(style)
        });
        Progress { bar }
    }

    /// Says something beside the bar.
    pub(crate) fn say(&self, line: impl Display) {
        match &self.bar {
            Some(bar) => bar.println(line.to_string()),
            None => note(line),
        }
    }

    /// Follows `done` through a phase until the task is aborted.
    pub(crate) async fn follow(self, phase: &'static str, done: Arc<AtomicU64>, total: u64) {
        if let Some(bar) = &self.bar {
            bar.reset();
            bar.set_length(total);
            bar.set_message(phase);
        }
        loop {
            let now = done.load(Ordering::Relaxed);
            match &self.bar {
                Some(bar) => {
                    bar.set_position(now);
                    tokio::time::sleep(BAR_INTERVAL).await;
                }
                None => {
                    note(format_args!("{phase}: {} of {}", grouped(now), grouped(total)));
                    tokio::time::sleep(LINE_INTERVAL).await;
                }
            }
        }
    }

    /// Takes the bar away: the table comes next.
    pub(crate) fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

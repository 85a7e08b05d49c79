//! What a run tells: counters, the trace hash, and for a failure everything that is needed to see it again.

use std::any::Any;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;

use super::host::Violation;
use crate::plant::Bug;

/// What is the same for all seeds of a run.
#[derive(Debug, Clone)]
pub struct SimConfig {
    /// Command line that replays a seed when `LEDGERMQ_SIM_FIRST_SEED` and `LEDGERMQ_SIM_SEEDS=1` are put in front.
    pub replay: String,
    /// Prints every event to standard error: for one seed, never for many.
    pub print: bool,
}

impl SimConfig {
    /// `replay`, with printing on when `LEDGERMQ_SIM_PRINT` is set.
    pub fn new(replay: &str) -> SimConfig {
        SimConfig { replay: replay.to_owned(), print: std::env::var_os("LEDGERMQ_SIM_PRINT").is_some() }
    }
}

/// The seeds that the environment asks for: `LEDGERMQ_SIM_SEEDS` many (else `default_count`) from
/// `LEDGERMQ_SIM_FIRST_SEED` (else 1) on.
///
/// # Panics
/// When a variable is no number: a test that runs other seeds than it was told would be worse.
pub fn seeds_from_env(default_count: u64) -> std::ops::Range<u64> {
    let number = |name: &str, default: u64| match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")),
        Err(_) => default,
    };
    let first = number("LEDGERMQ_SIM_FIRST_SEED", 1);
    first..first + number("LEDGERMQ_SIM_SEEDS", default_count)
}

/// Plants the bug that `LEDGERMQ_SIM_PLANT` names, in the whole process.
///
/// # Panics
/// When there is none of that name, or this build has none at all.
pub fn plant_from_env() -> Option<Bug> {
    let name = std::env::var("LEDGERMQ_SIM_PLANT").ok().filter(|name| !name.is_empty())?;
    let names = Bug::ALL.map(Bug::name).join(", ");
    let bug = Bug::from_name(&name).unwrap_or_else(|| panic!("no planted bug is called {name}; there are {names}"));
    #[cfg(feature = "planted-bugs")]
    crate::plant::choose(Some(bug));
    #[cfg(not(feature = "planted-bugs"))]
    panic!("this build has no planted bugs, {} neither: add --features planted-bugs", bug.name());
    #[cfg(feature = "planted-bugs")]
    Some(bug)
}

/// What happened in a run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Events handled.
    pub events: u64,
    /// Virtual time, ms.
    pub virtual_ms: u64,
    /// Hash over every event in order: equal for equal seeds.
    pub trace: u64,
    /// How often things happened.
    pub counters: BTreeMap<&'static str, u64>,
}

impl Stats {
    /// Those of `names` that never happened: a run without them proves less than it seems to.
    pub fn missing<'a>(&self, names: &[&'a str]) -> Vec<&'a str> {
        names.iter().copied().filter(|name| self.counters.get(name).is_none_or(|times| *times == 0)).collect()
    }

    /// Counts `name` once more.
    pub(super) fn count(&mut self, name: &'static str) {
        self.add(name, 1);
    }

    pub(super) fn add(&mut self, name: &'static str, times: u64) {
        *self.counters.entry(name).or_default() += times;
    }

    /// Adds another run. The trace is a hash of both.
    pub fn merge(&mut self, other: &Stats) {
        self.events += other.events;
        self.virtual_ms += other.virtual_ms;
        self.trace = mix(self.trace, other.trace);
        for (name, times) in &other.counters {
            self.add(name, *times);
        }
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} events in {} virtual s, trace {:016x};", self.events, self.virtual_ms / 1000, self.trace)?;
        self.counters.iter().try_for_each(|(name, times)| write!(f, " {name} {times}"))
    }
}

/// One round of a 64-bit hash.
pub(super) fn mix(hash: u64, value: u64) -> u64 {
    let mixed = (hash ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ (mixed >> 29)
}

/// How far a run came; outlives a panic.
#[derive(Clone, Default)]
pub(super) struct Progress {
    pub(super) step: Rc<Cell<u64>>,
    pub(super) time: Rc<Cell<u64>>,
}

/// The text that a panic carries.
pub(super) fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no text").to_owned()
}

/// A seed that broke something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// Number of the event.
    pub step: u64,
    /// Virtual time, ms.
    pub at_ms: u64,
    /// The checker that broke; `panic` when an assertion of the code itself did.
    pub checker: &'static str,
    /// What it saw.
    pub detail: String,
    /// Command line that shows it again.
    pub replay: String,
}

impl Failure {
    pub(super) fn new(seed: u64, progress: &Progress, violation: Violation, config: &SimConfig) -> Failure {
        Failure {
            seed,
            step: progress.step.get(),
            at_ms: progress.time.get() / 1000,
            checker: violation.checker,
            detail: violation.detail,
            replay: format!("LEDGERMQ_SIM_FIRST_SEED={seed} LEDGERMQ_SIM_SEEDS=1 {}", config.replay),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Failure { seed, step, at_ms, checker, detail, replay } = self;
        write!(f, "seed {seed} broke `{checker}` at step {step} ({at_ms} ms): {detail}\nreplay: {replay}")
    }
}

impl std::error::Error for Failure {}

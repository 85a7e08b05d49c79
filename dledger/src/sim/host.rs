//! What the simulator needs of the layer above: how to open it, what to ask of it, and what must hold of the answers.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rand::rngs::SmallRng;

use crate::fs::Fs;
use crate::group::ReadTicket;
use crate::handle::ReadError;
use crate::log::{LogView, Meta};
use crate::seam::{Outcome, Proposal, Stamper, StateMachine};
use crate::types::RaftId;

/// Something that must never happen has happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Name of the checker, for people and for the list of planted bugs.
    pub checker: &'static str,
    /// What it saw.
    pub detail: String,
}

impl Violation {
    /// A violation that `checker` saw.
    pub fn new(checker: &'static str, detail: impl Into<String>) -> Violation {
        Violation { checker, detail: detail.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.checker, self.detail)
    }
}

/// How a node ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Death {
    /// The process died; what it wrote is in the page cache still.
    Killed,
    /// The machine lost its power; what was not synced is gone, or torn.
    PowerCut,
}

/// Where a layer above is opened.
pub struct Place<'a> {
    /// The node.
    pub node: RaftId,
    /// Its disk.
    pub fs: &'a Arc<dyn Fs>,
    /// The group's folder on it.
    pub dir: &'a Path,
    /// Who lives there.
    pub meta: &'a Meta,
    /// Read side of the recovered log.
    pub view: &'a LogView,
}

/// What a client does next.
pub enum Operation<S: Stamper> {
    /// Appends something.
    Propose(Proposal<S>),
    /// Asks for a read barrier; [`Host::read`] is called when it is reached or has failed.
    Read(ReadTicket),
}

/// The layer above and its clients. Everything random comes from the generator that is passed in.
pub trait Host {
    /// What proposals become.
    type Stamper: Stamper;
    /// What frames change.
    type Machine: StateMachine;
    /// What of a node outlives its process, apart from its disk: the atomic store.
    type Store;

    /// A store for a node that has none.
    fn store(&mut self, node: RaftId, rng: &mut SmallRng) -> Self::Store;

    /// Opens the layer above.
    ///
    /// # Errors
    /// Why it refuses; the run fails then.
    fn open(&mut self, place: Place<'_>, store: &mut Self::Store) -> Result<(Self::Stamper, Self::Machine), String>;

    /// The node has died: the store falls back to what it had flushed. Proposals and reads in flight there are never
    /// answered.
    fn died(&mut self, node: RaftId, store: &mut Self::Store, death: Death, rng: &mut SmallRng);

    /// The state of a dead node is gone, where the layer can lose it.
    fn lose_state(&mut self, store: &mut Self::Store) {
        let _ = store;
    }

    /// What a client sends to `node` now; `now_ms` is virtual time.
    fn operation(&mut self, node: RaftId, now_ms: u64, rng: &mut SmallRng) -> Operation<Self::Stamper>;

    /// Something that changes nothing of importance, and must be committed soon once all faults have stopped.
    fn probe(&mut self, rng: &mut SmallRng) -> Proposal<Self::Stamper>;

    /// A proposal ended on `node`. Returns the Raft index of the entry when it was answered as committed.
    ///
    /// # Errors
    /// What must not be.
    fn ended(
        &mut self,
        node: RaftId,
        ticket: <Self::Stamper as Stamper>::Ticket,
        outcome: Outcome<<Self::Stamper as Stamper>::Answer>,
    ) -> Result<Option<u64>, Violation>;

    /// A read barrier ended: on success everything up to the index is applied in `machine`.
    ///
    /// # Errors
    /// What must not be.
    fn read(
        &mut self,
        node: RaftId,
        ticket: ReadTicket,
        reached: Result<u64, ReadError>,
        machine: &Self::Machine,
    ) -> Result<(), Violation>;

    /// A majority has lost its page caches at once, under a group that answers from there: what was acknowledged before may be
    /// gone, and what comes up may be anything that was once proposed.
    fn forgive(&mut self) {}

    /// A look at a machine that has just applied a round.
    ///
    /// # Errors
    /// What must not be.
    fn applied(&mut self, node: RaftId, machine: &Self::Machine) -> Result<(), Violation> {
        let _ = (node, machine);
        Ok(())
    }

    /// The end: all members have applied the same log. Called once per member.
    ///
    /// # Errors
    /// What must not be.
    fn finish(&mut self, node: RaftId, machine: &Self::Machine, view: &LogView) -> Result<(), Violation>;

    /// How often things happened in the workload.
    fn counters(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }
}

//! Where the log begins: which of its first segments nobody needs any more, and when they go.
//!
//! Two steps, apart. The layer above *decides* that the log may begin later, in a command that the leader proposes
//! ([`crate::seam::StateMachine::keep_from`] is what it has decided, everywhere the same); a leader proposes that only up to the
//! entries that every member has on its own disk ([`LogView::spared`](crate::log::view::LogView::spared)), so that whoever leads later can bring each of them
//! up to date. Each replica then *removes* for itself, whole segments, once its own state can do without them (R7).
//!
//! ```text
//!  progress of members --> LogView::spared --> Stamper: a prefix may be given up --> log --> StateMachine::keep_from
//!                                                                                               |  applied and flushed here
//!       log-io: meta `first` synced, files go  <-- Outputs::remove_before <-- GroupCore::poll <-+
//! ```

use std::collections::BTreeMap;
use std::time::Duration;

use raft::StateRole;

use super::{GroupCore, Outputs};
use crate::plant::{self, Bug};
use crate::seam::Stamper;
use crate::types::{LogPos, RaftId};

/// How far a member was at some moment: once it has that, it was up to date at that moment.
#[derive(Debug, Clone, Copy)]
struct Mark {
    commit: u64,
    taken: Duration,
    /// Where the log ended then.
    end: LogPos,
}

/// What the group knows about the beginning of its log.
#[derive(Debug, Default)]
pub(super) struct Prefix {
    /// Everything before may go, as far as this replica's own state is concerned.
    keep_from: LogPos,
    /// Per member the commit index that it is measured by, and when it was last up to date.
    marks: BTreeMap<RaftId, (Mark, Duration)>,
}

impl<S: Stamper> GroupCore<S> {
    /// The state machine, and whatever a crash would leave of it, needs nothing of the log before `pos`.
    pub fn keep_log_from(&mut self, pos: LogPos) {
        self.prefix.keep_from = self.prefix.keep_from.max(pos);
    }

    /// Once a tick: tells the layer above how much every member has on its disk.
    pub(super) fn note_spared(&mut self) {
        let spared = if self.raft.raft.state == StateRole::Leader { self.spared() } else { 0 };
        if self.raft.raft.state != StateRole::Leader {
            self.prefix.marks.clear();
        }
        self.raft.store().view().spare(spared);
    }

    /// The smallest index that a member of the group has acknowledged. Members that lag by more than the tuning allows do not
    /// count.
    fn spared(&mut self) -> u64 {
        let now = self.clock.mono;
        let commit = self.raft.raft.raft_log.committed;
        let end = self.raft.store().tail().end();
        if plant::on(Bug::PrefixIgnoresFollowers) {
            return commit;
        }
        let progress: Vec<(RaftId, u64)> =
            self.raft.raft.prs().iter().map(|(id, progress)| (*id, progress.matched)).collect();
        self.prefix.marks.retain(|id, _| progress.iter().any(|(member, _)| member == id));
        let mut spared = commit.min(self.durable.index);
        for (id, matched) in progress.into_iter().filter(|(id, _)| *id != self.raft_id) {
            let (mark, up_to_date) = self.prefix.marks.entry(id).or_insert((Mark { commit, taken: now, end }, now));
            if matched >= mark.commit {
                *up_to_date = mark.taken;
                *mark = Mark { commit, taken: now, end };
            }
            // Not heard of since it or this leadership began: it may have had everything then, and lacks what came since.
            let there = match matched {
                0 => mark.end,
                _ => self.raft.store().view().near(matched).map_or(LogPos(0), |at| at.pos),
            };
            let behind = end.0.saturating_sub(there.0);
            let lost = behind > self.tuning.lag_hold_bytes || now - *up_to_date > self.tuning.lag_hold;
            if !lost {
                spared = spared.min(matched);
            }
        }
        spared
    }

    /// Lets go of the segments before the last one that may begin the log.
    pub(super) fn remove_prefix(&mut self, out: &mut Outputs<S>) {
        let layout = self.raft.store().layout();
        let base = layout.base_of(self.prefix.keep_from);
        if base <= layout.base_of(self.raft.store().start().pos) || self.snapshot_holds_prefix() {
            return;
        }
        // Behind the last segment with a frame there is nothing to begin with.
        let Some(first) = self.raft.store().view().segment_start(base) else { return };
        if first.index > self.durable.index.min(self.applied.index) {
            return;
        }
        tracing::info!(group = %self.group, index = first.index, pos = first.pos.0, "the log begins later");
        self.raft.mut_store().remove_before(&first);
        self.meta.first = first;
        out.remove_before = Some(first);
    }
}

//! What a group says of itself, to its loop, to people and to checkers.

use std::sync::Arc;

use raft::{ProgressState, StateRole};

use super::{GroupCore, Measures};
use crate::handle::{GroupStatus, PeerStatus, RoleView, Standing};
use crate::log::meta::Meta;
use crate::seam::Stamper;
use crate::types::{GroupId, RaftId};

impl<S: Stamper> GroupCore<S> {
    /// The group.
    pub fn group(&self) -> GroupId {
        self.group
    }

    /// This replica's number.
    pub fn raft_id(&self) -> RaftId {
        self.raft_id
    }

    /// Role, term and leader as of the last poll.
    pub fn role(&self) -> RoleView {
        self.role
    }

    /// Committed index.
    pub fn commit_index(&self) -> u64 {
        self.raft.raft.raft_log.committed
    }

    /// Index of the last entry, durable or not.
    pub fn last_index(&self) -> u64 {
        self.raft.raft.raft_log.last_index()
    }

    /// Index up to which apply has reported.
    pub fn applied_index(&self) -> u64 {
        self.applied.index
    }

    /// Bytes of memory that entries take.
    pub fn cache_bytes(&self) -> usize {
        self.raft.store().cache_bytes()
    }

    /// The meta slot as it should stand at a clean stop. Everything handed to log-io must be durable.
    pub fn closing_meta(&mut self) -> Meta {
        let mut meta = self.current_meta();
        // A cut that is held back will not come: the old suffix stays.
        for keep in self.held.iter().filter_map(|task| task.job.truncate_to) {
            meta.commit_hint = meta.commit_hint.min(keep.index);
        }
        meta.clean_shutdown = true;
        meta
    }

    /// Latencies, batch sizes and elections, which go on being recorded.
    pub fn measures(&self) -> Arc<Measures> {
        self.measuring.shared()
    }

    /// Term and vote, for checkers.
    pub fn hard_state(&self) -> (u64, RaftId) {
        (self.raft.raft.term, self.raft.raft.vote)
    }

    fn standing(&self) -> Standing {
        if self.meta.joining {
            Standing::Joining
        } else if self.is_removed() {
            Standing::Removed
        } else if self.membership.learners.contains(&self.raft_id) {
            Standing::Learner
        } else {
            Standing::Voter
        }
    }

    /// A picture of the group for people and metrics.
    pub fn status(&self) -> GroupStatus {
        let peers = if self.raft.raft.state == StateRole::Leader {
            let mut peers: Vec<_> = self
                .raft
                .raft
                .prs()
                .iter()
                .filter(|(id, _)| **id != self.raft_id)
                .map(|(id, progress)| PeerStatus {
                    raft_id: *id,
                    matched: progress.matched,
                    committed: progress.committed_index,
                    active: progress.recent_active,
                    lag_bytes: self.lag_bytes(progress.matched),
                    in_snapshot: progress.state == ProgressState::Snapshot,
                })
                .collect();
            peers.sort_by_key(|peer| peer.raft_id);
            peers
        } else {
            Vec::new()
        };
        GroupStatus {
            group: self.group,
            raft_id: self.raft_id,
            role: self.role,
            last: self.raft.store().tail(),
            durable: self.durable,
            commit: self.commit_index(),
            applied: self.applied.index,
            membership: self.membership.clone(),
            replica: self.meta.identity.replica,
            standing: self.standing(),
            unfit: self.unfit(),
            doubts: self.doubts(),
            repairs: self.repairs(),
            clock_off_ms: self.clock_off_ms(),
            peers,
        }
    }
}

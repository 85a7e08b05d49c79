//! How the membership of a simulated group changes: what an operator would ask for, right and wrong.

use rand::Rng;
use rand::seq::IndexedRandom;
use uuid::Uuid;

use super::host::Host;
use super::node::replica_uuid;
use super::world::World;
use crate::group::MemberChange;
use crate::seam::{MemberInfo, Membership};
use crate::types::RaftId;

/// Who a node is in the tables of members; `moves` counts its addresses.
pub(super) fn info(seed: u64, id: RaftId, moves: u32) -> MemberInfo {
    MemberInfo {
        replica: replica_uuid(seed, id),
        peer: format!("n{id}:{}", moves + 1),
        client: format!("c{id}:{}", moves + 1),
    }
}

impl<H: Host> World<H> {
    /// One change, drawn from what operators do: learners come in, get votes, take somebody's place; members go, or move; and now
    /// and then somebody gives a wiped disk its old number, or takes away more than the group can spare.
    pub(super) fn change_some_member(&mut self) {
        let Some(leader) = self.newest_leader() else {
            return;
        };
        let Some(live) = &self.node(leader).live else {
            return;
        };
        let members: Membership = live.core.membership().clone();
        let next = members.highest + 1;
        let stranger = (next <= self.plan.nodes as u64).then_some(next);
        let removed = (1..=members.highest).find(|id| members.has_removed(*id));
        let voter = members.voters.choose(&mut self.rng).copied();
        let learner = members.learners.choose(&mut self.rng).copied();
        let seed = self.seed;
        let steps = match (self.rng.random_range(0..8), stranger, learner, voter) {
            (0..=2, Some(new), None, _) => vec![MemberChange::AddLearner(new, info(seed, new, 0))],
            (0..=1, _, Some(learner), _) => vec![MemberChange::Promote(learner)],
            (2..=4, _, Some(learner), Some(old)) => vec![MemberChange::Promote(learner), MemberChange::Remove(old)],
            (5, _, Some(learner), _) if self.rng.random_ratio(1, 3) => vec![MemberChange::Remove(learner)],
            (6, _, _, Some(id)) => {
                let moves = self.rng.random_range(1..9);
                vec![MemberChange::Move(id, info(seed, id, moves))]
            }
            (7, _, _, _) if removed.is_some() => {
                let id = removed.expect("just seen");
                let replica = Uuid::from_u64_pair(0xab2, seed ^ id);
                vec![MemberChange::AddLearner(id, MemberInfo { replica, ..info(seed, id, 0) })]
            }
            (_, _, _, Some(old)) => vec![MemberChange::Remove(old)],
            _ => return,
        };
        self.change_members(leader, &steps);
    }
}

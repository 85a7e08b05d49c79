//! Who a group's replica is for its clients: names and addresses that stand in answers, records and registrations.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use ledgermq_dledger::{Membership, RaftId};
use ledgermq_protocol::extension::field;
use ledgermq_protocol::remoting::command::RemotingCommand;
use ledgermq_protocol::remoting::response_code::ResponseCode;
use parking_lot::RwLock;

/// One replica of one group, as its clients know it.
#[derive(Debug)]
pub struct Identity {
    /// RocketMQ cluster.
    pub cluster: String,
    /// Broker name: one per group.
    pub broker_name: String,
    /// This replica's number.
    pub raft_id: RaftId,
    /// `host:port` that clients are told.
    pub advertised: String,
    /// `host:port` at which the other members reach this node.
    pub peer: String,
    /// Its resolved address: stands in the records that this replica stamps, and in their message ids.
    pub store_host: SocketAddr,
    /// Clients' address of every member, this one included: as the config tells it until the log does.
    pub members: Members,
}

/// Clients' addresses by number.
#[derive(Debug, Default)]
pub struct Members {
    /// By the config.
    config: BTreeMap<RaftId, String>,
    now: RwLock<BTreeMap<RaftId, String>>,
}

impl Members {
    /// As the config tells them.
    pub fn of_config(config: impl IntoIterator<Item = (RaftId, String)>) -> Self {
        let config: BTreeMap<_, _> = config.into_iter().collect();
        Self { now: RwLock::new(config.clone()), config }
    }

    /// As the applied membership tells them. What it leaves open is taken from the config.
    pub fn follow(&self, membership: &Membership) {
        let mut now: BTreeMap<_, _> = membership
            .members
            .iter()
            .filter(|(_, info)| !info.client.is_empty())
            .map(|(id, info)| (*id, info.client.clone()))
            .collect();
        // Of a replica that lags behind, the config may know more than its log.
        for (id, address) in self.config.iter().filter(|(id, _)| !membership.has_removed(**id)) {
            now.entry(*id).or_insert_with(|| address.clone());
        }
        *self.now.write() = now;
    }

    /// Their numbers.
    pub fn ids(&self) -> Vec<RaftId> {
        self.now.read().keys().copied().collect()
    }

    /// Address of a member.
    pub fn address_of(&self, raft_id: RaftId) -> Option<String> {
        self.now.read().get(&raft_id).cloned()
    }
}

impl Identity {
    /// Clients' address of a member.
    pub fn address_of(&self, raft_id: RaftId) -> Option<String> {
        self.members.address_of(raft_id)
    }

    /// Turns `answer` into a refusal of a request that only the leader serves. All stock clients retry code 14; ours goes to the
    /// leader that is named.
    pub fn not_leader(&self, mut answer: RemotingCommand, leader: Option<RaftId>, term: u64) -> RemotingCommand {
        answer.code = ResponseCode::SERVICE_NOT_AVAILABLE;
        let known = leader.filter(|id| *id != self.raft_id).and_then(|id| self.address_of(id));
        answer.remark = Some(match &known {
            Some(address) => format!("this member of {} does not lead, the leader is {address}", self.broker_name),
            None => format!("{} has no leader that serves at the moment, try again", self.broker_name),
        });
        if let Some(address) = known {
            answer.ext.insert(field::LEADER, &address);
            answer.ext.insert_display(field::TERM, term);
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use ledgermq_dledger::MemberInfo;

    use super::*;

    /// Would break: clients being sent to a member that is gone, or not to the one that took its place.
    #[test]
    fn addresses_follow_the_log() {
        let members = Members::of_config([(1, "a:1".to_owned()), (2, "b:1".to_owned())]);
        assert_eq!(members.address_of(2).as_deref(), Some("b:1"));
        let info = |client: &str| MemberInfo { client: client.to_owned(), ..MemberInfo::default() };
        let mut membership = Membership {
            voters: vec![1, 2],
            members: [(1, info("")), (2, info(""))].into(),
            highest: 2,
            ..Membership::default()
        };
        members.follow(&membership);
        assert_eq!(members.address_of(2).as_deref(), Some("b:1"), "the log does not tell yet");
        membership.voters = vec![1, 3];
        membership.members = [(1, info("a:9")), (3, info("c:1"))].into();
        membership.highest = 3;
        members.follow(&membership);
        assert_eq!(members.address_of(1).as_deref(), Some("a:9"));
        assert_eq!(members.address_of(2), None);
        assert_eq!(members.address_of(3).as_deref(), Some("c:1"));
    }
}

//! Who a group's replica is for its clients: names and addresses that stand in answers, records and registrations.

use std::net::SocketAddr;

use ledgermq_dledger::RaftId;
use ledgermq_protocol::extension::field;
use ledgermq_protocol::remoting::command::RemotingCommand;
use ledgermq_protocol::remoting::response_code::ResponseCode;

/// One replica of one group, as its clients know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// RocketMQ cluster.
    pub cluster: String,
    /// Broker name: one per group.
    pub broker_name: String,
    /// This replica's number.
    pub raft_id: RaftId,
    /// `host:port` that clients are told.
    pub advertised: String,
    /// Its resolved address: stands in the records that this replica stamps, and in their message ids.
    pub store_host: SocketAddr,
    /// Clients' address of every member, this one included.
    pub members: Vec<(RaftId, String)>,
}

impl Identity {
    /// Clients' address of a member.
    pub fn address_of(&self, raft_id: RaftId) -> Option<&str> {
        self.members.iter().find(|(id, _)| *id == raft_id).map(|(_, address)| address.as_str())
    }

    /// Turns `answer` into a refusal of a request that only the leader serves. All stock clients retry code 14; ours goes to the
    /// leader that is named.
    pub fn not_leader(&self, mut answer: RemotingCommand, leader: Option<RaftId>, term: u64) -> RemotingCommand {
        answer.code = ResponseCode::SERVICE_NOT_AVAILABLE;
        let known = leader.filter(|id| *id != self.raft_id).and_then(|id| self.address_of(id));
        answer.remark = Some(match known {
            Some(address) => format!("this member of {} does not lead, the leader is {address}", self.broker_name),
            None => format!("{} has no leader that serves at the moment, try again", self.broker_name),
        });
        if let Some(address) = known {
            answer.ext.insert(field::LEADER, address);
            answer.ext.insert_display(field::TERM, term);
        }
        answer
    }
}

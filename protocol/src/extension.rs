//! What LedgerMQ adds to the protocol: private request codes, and fields that official peers ignore.
//!
//! Nothing that an official client needs may depend on any of it. The codes do not fit the 16 bits of a binary header, so these
//! requests are always sent with JSON headers.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

/// Private request codes, outside of all ranges in use by RocketMQ.
pub mod code {
    /// To a broker: how the Raft groups of its node stand. No fields; the answer's body is JSON.
    pub const LEDGER_RAFT_STATUS: i32 = 91001;
    /// To a broker: digest of its logical state. No fields; the answer's body is JSON.
    pub const LEDGER_STATE_DIGEST: i32 = 91002;
    /// To a broker, by the leader of its group: would it lead? No fields. SUCCESS means yes; SERVICE_NOT_AVAILABLE that it is
    /// about to stop or not ready.
    pub const LEDGER_MAY_LEAD: i32 = 91003;
    /// To the leader of a group: change the membership of its group. The body is JSON: `learners` and `moves` (objects of
    /// `raftId`, `replica`, `peer`, `client`), `promote` and `remove` (numbers), `twoVoters`; all of it is one change.
    /// Answered when the change is applied, with the voters and learners.
    pub const LEDGER_CHANGE_MEMBERS: i32 = 91004;
    /// To the leader of a group: hand the leadership over. The body is JSON: `to` (a number), or nothing for whoever can best.
    pub const LEDGER_TRANSFER: i32 = 91005;
    /// To a name server: answer once the route of a topic has another version than the one given.
    /// Fields [`super::field::TOPIC`] and [`super::field::ROUTE_VERSION`]; see [`super::WATCH_HOLD_MS`].
    pub const LEDGER_WATCH_ROUTE: i32 = 91010;

    /// The name of a private code.
    pub fn name(code: i32) -> Option<&'static str> {
        match code {
            LEDGER_RAFT_STATUS => Some("LEDGER_RAFT_STATUS"),
            LEDGER_STATE_DIGEST => Some("LEDGER_STATE_DIGEST"),
            LEDGER_MAY_LEAD => Some("LEDGER_MAY_LEAD"),
            LEDGER_CHANGE_MEMBERS => Some("LEDGER_CHANGE_MEMBERS"),
            LEDGER_TRANSFER => Some("LEDGER_TRANSFER"),
            LEDGER_WATCH_ROUTE => Some("LEDGER_WATCH_ROUTE"),
            _ => None,
        }
    }
}

/// Longest time for which a name server holds a route watch, in milliseconds. Then it answers with the version unchanged.
pub const WATCH_HOLD_MS: u64 = 15_000;

/// Names of fields.
pub mod field {
    /// Topic of a route watch.
    pub const TOPIC: &str = "topic";
    /// In a route watch: the version that the asker has, 0 for none. In its answer, and in that of GET_ROUTEINFO_BY_TOPIC to
    /// whoever asked with [`ROUTE_TERMS`]: the version of the body. An opaque 64-bit number, decimal, never 0.
    pub const ROUTE_VERSION: &str = "ledgermq_route_version";
    /// In an answer with a route: the Raft term in which each leader registered, "broker-a:7,broker-b:9". In a request for a
    /// route: "true" asks for it.
    pub const ROUTE_TERMS: &str = "ledgermq_route_terms";
    /// In an answer with a route: the broker names whose leader's connection to the name server is lost, joined by commas.
    /// Their addresses stay in the route until a successor registers.
    pub const ROUTE_SUSPECTS: &str = "ledgermq_route_suspects";
    /// In an answer of a broker that does not lead, a refusal (code 14) or the forwarded answer of the leader: the leader's
    /// address.
    pub const LEADER: &str = "ledgermq_leader";
    /// In a registration or heartbeat: the uuid of the Raft group.
    pub const GROUP: &str = "ledgermq_group";
    /// In a registration or heartbeat: the Raft term in which its sender speaks, decimal. Beside [`LEADER`]: that leader's term.
    pub const TERM: &str = "ledgermq_term";
    /// In a request that another member forwards to the leader: see [`super::Forwarded`].
    pub const FORWARDED: &str = "ledgermq_forwarded";
    /// In a heartbeat: the data version with which its sender registered, JSON.
    pub const DATA_VERSION: &str = "ledgermq_data_version";
    /// In the answer to a heartbeat: "true" when the name server does not hold what the heartbeat says, so that its sender must
    /// register in full.
    pub const MUST_REGISTER: &str = "ledgermq_must_register";
    /// In a registration: "true" when its topics are only those that changed; topics that it does not name stay as they are.
    pub const PARTIAL: &str = "ledgermq_partial";
}

/// What a forwarded request tells the leader: written into [`field::FORWARDED`] as "term wait_ms client".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forwarded {
    /// Term in which the forwarding member believes the receiver to lead: in any other one the request is refused.
    pub term: u64,
    /// Milliseconds for which the request may still wait for a leader that serves.
    pub wait_ms: u64,
    /// The client, as the forwarding member sees it: BORNHOST of what it sends.
    pub client: SocketAddr,
}

impl fmt::Display for Forwarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.term, self.wait_ms, self.client)
    }
}

impl FromStr for Forwarded {
    type Err = NotForwarded;

    fn from_str(text: &str) -> Result<Self, NotForwarded> {
        let mut words = text.split(' ');
        let mut next = || words.next().ok_or(NotForwarded);
        let term = next()?.parse().map_err(|_| NotForwarded)?;
        let wait_ms = next()?.parse().map_err(|_| NotForwarded)?;
        let client = next()?.parse().map_err(|_| NotForwarded)?;
        if words.next().is_some() { Err(NotForwarded) } else { Ok(Self { term, wait_ms, client }) }
    }
}

/// The text of [`field::FORWARDED`] is not "term wait_ms client".
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{} is not \"term wait_ms client\"", field::FORWARDED)]
pub struct NotForwarded;

#[cfg(test)]
mod tests {
    use super::*;

    /// The leader must read what the other member wrote, and take nothing else for it.
    #[test]
    fn a_forwarded_mark_is_read_back() {
        for client in ["10.0.0.1:4711", "[::1]:9"] {
            let mark = Forwarded { term: 7, wait_ms: 1_000, client: client.parse().unwrap() };
            assert_eq!(mark.to_string().parse(), Ok(mark));
        }
        for bad in ["", "7", "7 1000", "7 1000 nobody", "-1 0 10.0.0.1:1", "7 1000 10.0.0.1:1 x", "7  1000 10.0.0.1:1"]
        {
            assert_eq!(bad.parse::<Forwarded>(), Err(NotForwarded), "{bad:?}");
        }
    }
}

//! What LedgerMQ adds to the protocol: private request codes, and fields that official peers ignore.
//!
//! Nothing that an official client needs may depend on any of it. The codes do not fit the 16 bits of a binary header, so these
//! requests are always sent with JSON headers.

/// Private request codes, outside of all ranges in use by RocketMQ.
pub mod code {
    /// To a broker: how the Raft groups of its node stand. No fields; the answer's body is JSON.
    pub const LEDGER_RAFT_STATUS: i32 = 91001;
    /// To a broker: digest of its logical state. No fields; the answer's body is JSON.
    pub const LEDGER_STATE_DIGEST: i32 = 91002;
    /// To a name server: answer once the route of a topic has another version than the one given.
    /// Fields [`super::field::TOPIC`] and [`super::field::ROUTE_VERSION`]; see [`super::WATCH_HOLD_MS`].
    pub const LEDGER_WATCH_ROUTE: i32 = 91010;

    /// The name of a private code.
    pub fn name(code: i32) -> Option<&'static str> {
        match code {
            LEDGER_RAFT_STATUS => Some("LEDGER_RAFT_STATUS"),
            LEDGER_STATE_DIGEST => Some("LEDGER_STATE_DIGEST"),
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
    /// In an answer with code 14 of a broker that does not lead: the address of the leader that it knows.
    pub const LEADER: &str = "ledgermq_leader";
    /// In a registration or heartbeat: the uuid of the Raft group.
    pub const GROUP: &str = "ledgermq_group";
    /// In a registration or heartbeat: the Raft term in which its sender speaks, decimal. Beside [`LEADER`]: that leader's term.
    pub const TERM: &str = "ledgermq_term";
    /// In a heartbeat: the data version with which its sender registered, JSON.
    pub const DATA_VERSION: &str = "ledgermq_data_version";
    /// In the answer to a heartbeat: "true" when the name server does not hold what the heartbeat says, so that its sender must
    /// register in full.
    pub const MUST_REGISTER: &str = "ledgermq_must_register";
    /// In a registration: "true" when its topics are only those that changed; topics that it does not name stay as they are.
    pub const PARTIAL: &str = "ledgermq_partial";
}

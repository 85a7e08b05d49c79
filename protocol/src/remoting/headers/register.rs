//! What brokers tell the name server.
//!
//! Ours use the official requests, so that an official broker can register at our name server and ours at an official one. What
//! the official ones do not know travels in fields that they ignore ([`crate::extension`]).

use super::headers;
use crate::extension::field;

headers! {
    /// REGISTER_BROKER. The body is [`crate::register::RegisterBrokerBody`].
    RegisterBroker {
        /// Broker name: one Raft group.
        broker_name: String = "brokerName",
        /// Advertised address of this member, "ip:port".
        broker_addr: String = "brokerAddr",
        /// Cluster.
        cluster_name: String = "clusterName",
        /// Address for the reference's replication; opaque here.
        ha_server_addr: Option<String> = "haServerAddr",
        /// 0 for the leader.
        broker_id: i64 = "brokerId",
        /// How long the registration lives without a sign of life, ms.
        heartbeat_timeout_ms: Option<i64> = "heartbeatTimeoutMillis",
        /// Reference only.
        enable_acting_master: Option<bool> = "enableActingMaster",
        /// Whether the body is compressed.
        compressed: Option<bool> = "compressed",
        /// Checksum of the body as sent ([`crate::message::record::body_crc`]); 0 when it is not to be checked.
        body_crc32: Option<i32> = "bodyCrc32",
        /// Uuid of the Raft group. Ours only.
        group_uuid: Option<String> = field::GROUP,
        /// Raft term in which the sender is (or follows) the leader. Ours only.
        term: Option<i64> = field::TERM,
    }

    /// The answer to REGISTER_BROKER.
    RegisterBrokerResponse {
        /// The leader's address for the reference's replication.
        ha_server_addr: Option<String> = "haServerAddr",
        /// The leader's address.
        master_addr: Option<String> = "masterAddr",
    }

    /// UNREGISTER_BROKER.
    UnregisterBroker {
        /// Broker name.
        broker_name: String = "brokerName",
        /// Advertised address.
        broker_addr: String = "brokerAddr",
        /// Cluster.
        cluster_name: String = "clusterName",
        /// Id under which it registered.
        broker_id: i64 = "brokerId",
        /// Uuid of the Raft group. Ours only.
        group_uuid: Option<String> = field::GROUP,
        /// Raft term of the sender. Ours only.
        term: Option<i64> = field::TERM,
    }

    /// QUERY_DATA_VERSION. The body is [`crate::topic::DataVersion`], as is that of the answer.
    QueryDataVersion {
        /// Broker name.
        broker_name: String = "brokerName",
        /// Advertised address.
        broker_addr: String = "brokerAddr",
        /// Cluster.
        cluster_name: String = "clusterName",
        /// Id.
        broker_id: i64 = "brokerId",
    }

    /// The answer to QUERY_DATA_VERSION.
    QueryDataVersionResponse {
        /// Whether the name server holds another version, so that the broker must register.
        changed: bool = "changed",
    }

    /// BROKER_HEARTBEAT.
    BrokerHeartbeat {
        /// Cluster.
        cluster_name: String = "clusterName",
        /// Advertised address.
        broker_addr: String = "brokerAddr",
        /// Broker name.
        broker_name: String = "brokerName",
        /// Id.
        broker_id: Option<i64> = "brokerId",
        /// Reference only: epoch of its controller mode.
        epoch: Option<i32> = "epoch",
        /// End of the log, bytes.
        max_offset: Option<i64> = "maxOffset",
        /// Committed end of the log, bytes.
        confirm_offset: Option<i64> = "confirmOffset",
        /// How long the registration lives without a sign of life, ms. The reference spells it so.
        heartbeat_timeout_ms: Option<i64> = "heartbeatTimeoutMills",
        /// Uuid of the Raft group. Ours only.
        group_uuid: Option<String> = field::GROUP,
        /// Raft term of the sender. Ours only.
        term: Option<i64> = field::TERM,
    }
}

//! What clients ask the name server.

use super::headers;

headers! {
    /// GET_ROUTEINFO_BY_TOPIC. The answer's body is [`crate::route::TopicRouteData`].
    RouteInfo {
        /// Topic.
        topic: String = "topic",
        /// Whether only standard JSON is understood. Ours always is.
        accept_standard_json_only: Option<bool> = "acceptStandardJsonOnly",
    }

    /// GET_TOPICS_BY_CLUSTER.
    TopicsByCluster {
        /// Cluster.
        cluster: String = "cluster",
    }

    /// GET_BROKER_MEMBER_GROUP. The answer's body is [`crate::route::BrokerMemberGroupBody`].
    BrokerMemberGroup {
        /// Cluster.
        cluster_name: String = "clusterName",
        /// Broker name.
        broker_name: String = "brokerName",
    }

    /// PUT_KV_CONFIG.
    PutKvConfig {
        /// Namespace.
        namespace: String = "namespace",
        /// Key.
        key: String = "key",
        /// Value.
        value: String = "value",
    }

    /// GET_KV_CONFIG and DELETE_KV_CONFIG.
    KvConfigKey {
        /// Namespace.
        namespace: String = "namespace",
        /// Key.
        key: String = "key",
    }

    /// The answer to GET_KV_CONFIG.
    KvConfigValue {
        /// Value.
        value: Option<String> = "value",
    }

    /// GET_KVLIST_BY_NAMESPACE.
    KvNamespace {
        /// Namespace.
        namespace: String = "namespace",
    }

    /// WIPE_WRITE_PERM_OF_BROKER and ADD_WRITE_PERM_OF_BROKER.
    WritePermOfBroker {
        /// Broker name.
        broker_name: String = "brokerName",
    }
}

//! Membership of producer and consumer groups: heartbeat answer, leaving, member lists, change notices.

use super::headers;

headers! {
    /// The answer to HEART_BEAT. Without the first field clients always send full heartbeats.
    HeartbeatResponse {
        /// Whether the broker understands light heartbeats.
        supports_v2: Option<bool> = "IS_SUPPORT_HEART_BEAT_V2",
        /// Whether the broker holds other subscriptions than the fingerprint says.
        subscription_changed: Option<bool> = "IS_SUB_CHANGE",
    }

    /// UNREGISTER_CLIENT.
    UnregisterClient {
        /// The client.
        client_id: String = "clientID",
        /// Producer group to leave.
        producer_group: Option<String> = "producerGroup",
        /// Consumer group to leave.
        consumer_group: Option<String> = "consumerGroup",
    }

    /// GET_CONSUMER_LIST_BY_GROUP. The answer's body is [`crate::consumer_list::ConsumerList`].
    ConsumerListByGroup {
        /// Consumer group.
        consumer_group: String = "consumerGroup",
    }

    /// NOTIFY_CONSUMER_IDS_CHANGED, one-way from broker to client.
    NotifyConsumerIdsChanged {
        /// Consumer group whose members changed.
        consumer_group: String = "consumerGroup",
    }
}

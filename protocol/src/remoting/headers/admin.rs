//! Requests of operators and their tools that need a header and are not about topics, groups or routes alone.

use super::headers;

headers! {
    /// GET_ALL_TOPIC_CONFIG: absent fields before 5.4. Whoever answers with everything leaves the total out.
    AllTopicConfig {
        /// First topic wanted.
        topic_seq: Option<i32> = "topicSeq",
        /// The caller's version, JSON.
        data_version: Option<String> = "dataVersion",
        /// Most topics wanted.
        max_topic_num: Option<i32> = "maxTopicNum",
    }

    /// GET_ALL_SUBSCRIPTIONGROUP_CONFIG: as [`AllTopicConfig`].
    AllSubscriptionGroupConfig {
        /// First group wanted.
        group_seq: Option<i32> = "groupSeq",
        /// The caller's version, JSON.
        data_version: Option<String> = "dataVersion",
        /// Most groups wanted.
        max_group_num: Option<i32> = "maxGroupNum",
    }

    /// GET_CONSUMER_CONNECTION_LIST.
    ConsumerConnectionList {
        /// Consumer group.
        consumer_group: String = "consumerGroup",
    }

    /// GET_PRODUCER_CONNECTION_LIST.
    ProducerConnectionList {
        /// Producer group.
        producer_group: String = "producerGroup",
    }

    /// GET_CONSUME_STATS. The answer's body is [`crate::stats::ConsumeStats`].
    ConsumeStats {
        /// Consumer group.
        consumer_group: String = "consumerGroup",
        /// Only this topic.
        topic: Option<String> = "topic",
    }
}

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
        /// Only these topics, joined by ';'.
        topic_list: Option<String> = "topicList",
    }

    /// QUERY_CONSUME_TIME_SPAN and QUERY_SUBSCRIPTION_BY_CONSUMER.
    TopicAndGroup {
        /// Topic.
        topic: String = "topic",
        /// Consumer group.
        group: String = "group",
    }

    /// VIEW_BROKER_STATS_DATA. The answer's body is [`crate::stats::BrokerStatsData`].
    ViewBrokerStats {
        /// What is counted, see [`crate::stats::name`].
        stats_name: String = "statsName",
        /// Of what: a topic, "topic@group" or a cluster.
        stats_key: String = "statsKey",
    }
}

//! Creating, changing, reading and deleting topics and subscription groups.

use super::headers;

headers! {
    /// UPDATE_AND_CREATE_TOPIC.
    CreateTopic {
        /// Topic.
        topic: String = "topic",
        /// Legacy: the template topic.
        default_topic: Option<String> = "defaultTopic",
        /// Queues to consume from.
        read_queue_nums: i32 = "readQueueNums",
        /// Queues to send to.
        write_queue_nums: i32 = "writeQueueNums",
        /// Permission bits: 4 read, 2 write, 1 inherit.
        perm: i32 = "perm",
        /// "SINGLE_TAG" or "MULTI_TAG".
        topic_filter_type: Option<String> = "topicFilterType",
        /// Flag of the topic.
        topic_sys_flag: Option<i32> = "topicSysFlag",
        /// Whether its messages are ordered.
        order: Option<bool> = "order",
        /// Changes of attributes: "+key=value,-key".
        attributes: Option<String> = "attributes",
    }

    /// DELETE_TOPIC_IN_BROKER.
    DeleteTopicInBroker {
        /// Topic.
        topic: String = "topic",
    }

    /// DELETE_TOPIC_IN_NAMESRV.
    DeleteTopicInNamesrv {
        /// Topic.
        topic: String = "topic",
        /// Only in this cluster.
        cluster_name: Option<String> = "clusterName",
    }

    /// GET_TOPIC_CONFIG, GET_TOPIC_STATS_INFO and QUERY_TOPIC_CONSUME_BY_WHO.
    TopicOnly {
        /// Topic.
        topic: String = "topic",
    }

    /// GET_SUBSCRIPTIONGROUP_CONFIG and QUERY_TOPICS_BY_CONSUMER.
    SubscriptionGroup {
        /// Group.
        group: String = "group",
    }

    /// DELETE_SUBSCRIPTIONGROUP.
    DeleteSubscriptionGroup {
        /// Group.
        group: String = "groupName",
        /// Whether its offsets go too.
        clean_offset: Option<bool> = "cleanOffset",
    }
}

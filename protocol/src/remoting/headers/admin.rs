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

    /// INVOKE_BROKER_TO_RESET_OFFSET, and RESET_CONSUMER_CLIENT_OFFSET, one-way from broker to client. The body of the latter, and
    /// of the answer to the former, is [`crate::stats::ResetOffsetBody`].
    ResetOffset {
        /// Topic.
        topic: String = "topic",
        /// Consumer group.
        group: String = "group",
        /// Go on with the first message stored then or later, ms since 1970; below 0 behind the last one.
        timestamp_ms: i64 = "timestamp",
        /// `Some(false)`: only back, never forward.
        force: Option<bool> = "isForce",
        /// Only this queue; absent or below 0 for all of them.
        queue_id: Option<i32> = "queueId",
        /// Of one queue: go on here; absent or -1 to go by time.
        offset: Option<i64> = "offset",
    }

    /// INVOKE_BROKER_TO_GET_CONSUMER_STATUS, and GET_CONSUMER_STATUS_FROM_CLIENT from broker to client. The body of both answers
    /// is [`crate::stats::GetConsumerStatusBody`].
    ConsumerStatus {
        /// Topic.
        topic: String = "topic",
        /// Consumer group.
        group: String = "group",
        /// Only this client, by its id.
        client: Option<String> = "clientAddr",
    }

    /// GET_CONSUMER_RUNNING_INFO: asked of the broker, and by it of the client.
    ConsumerRunningInfo {
        /// Consumer group.
        consumer_group: String = "consumerGroup",
        /// The client.
        client_id: String = "clientId",
        /// Whether its threads are wanted, too.
        jstack: Option<bool> = "jstackEnable",
    }

    /// CONSUME_MESSAGE_DIRECTLY: asked of the broker, and by it of the client, with the message as body.
    ConsumeMessageDirectly {
        /// Consumer group.
        consumer_group: String = "consumerGroup",
        /// The client; absent for any member of the group.
        client_id: Option<String> = "clientId",
        /// The message's id as a broker gives it.
        msg_id: Option<String> = "msgId",
        /// Who has the message. Set by the broker.
        broker_name: Option<String> = "brokerName",
        /// The message's topic.
        topic: Option<String> = "topic",
        /// The topic's flags. Set by the broker.
        topic_sys_flag: Option<i32> = "topicSysFlag",
        /// The group's flags. Set by the broker.
        group_sys_flag: Option<i32> = "groupSysFlag",
    }

    /// QUERY_CORRECTION_OFFSET. The answer's body is [`crate::stats::CorrectionOffsets`].
    QueryCorrectionOffset {
        /// Topic.
        topic: String = "topic",
        /// The group that the others are compared with.
        compare_group: String = "compareGroup",
        /// Groups that do not count, joined by ','.
        filter_groups: Option<String> = "filterGroups",
    }

    /// CLONE_GROUP_OFFSET.
    CloneGroupOffset {
        /// Group whose offsets are copied.
        src_group: String = "srcGroup",
        /// Group that gets them.
        dest_group: String = "destGroup",
        /// Only this topic.
        topic: Option<String> = "topic",
        /// `Some(true)`: also of topics to which the group does not subscribe now.
        offline: Option<bool> = "offline",
    }
}

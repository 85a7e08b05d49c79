//! Consumer offsets, and the offsets that bound a queue.

use super::{Field, FieldError, headers};
use crate::remoting::ext_fields::ExtFields;

/// Which of two neighbours a search by time returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Boundary {
    /// The first message stored at the time or later.
    #[default]
    Lower,
    /// The last message stored at the time or before.
    Upper,
}

impl<'a> Field<'a> for Boundary {
    /// "upper" in any case, else lower: as Java reads it.
    fn read(_: &'static str, text: Option<&'a str>) -> Result<Self, FieldError> {
        let upper = text.is_some_and(|text| text.eq_ignore_ascii_case("upper"));
        Ok(if upper { Boundary::Upper } else { Boundary::Lower })
    }

    fn write(&self, field: &'static str, ext: &mut ExtFields) {
        ext.insert(field, if *self == Boundary::Upper { "UPPER" } else { "LOWER" });
    }
}

headers! {
    /// QUERY_CONSUMER_OFFSET.
    QueryConsumerOffset {
        /// Consumer group.
        consumer_group: String = "consumerGroup",
        /// Topic.
        topic: String = "topic",
        /// Queue.
        queue_id: i32 = "queueId",
        /// `Some(false)`: never answer 0 for a group without an offset.
        set_zero_if_not_found: Option<bool> = "setZeroIfNotFound",
    }

    /// UPDATE_CONSUMER_OFFSET.
    UpdateConsumerOffset {
        /// Consumer group.
        consumer_group: String = "consumerGroup",
        /// Topic.
        topic: String = "topic",
        /// Queue.
        queue_id: i32 = "queueId",
        /// Next message to consume.
        commit_offset: i64 = "commitOffset",
    }

    /// GET_MAX_OFFSET.
    MaxOffset {
        /// Topic.
        topic: String = "topic",
        /// Queue.
        queue_id: i32 = "queueId",
        /// Whether only committed messages count. Here none other are ever visible.
        committed: Option<bool> = "committed",
    }

    /// GET_MIN_OFFSET.
    MinOffset {
        /// Topic.
        topic: String = "topic",
        /// Queue.
        queue_id: i32 = "queueId",
    }

    /// SEARCH_OFFSET_BY_TIMESTAMP.
    SearchOffset {
        /// Topic.
        topic: String = "topic",
        /// Queue.
        queue_id: i32 = "queueId",
        /// Store time, ms since 1970.
        timestamp_ms: i64 = "timestamp",
        /// Which neighbour.
        boundary: Boundary = "boundaryType",
    }

    /// The answer to QUERY_CONSUMER_OFFSET, GET_MAX_OFFSET, GET_MIN_OFFSET and SEARCH_OFFSET_BY_TIMESTAMP.
    OffsetResponse {
        /// The queue offset.
        offset: i64 = "offset",
    }

    /// GET_EARLIEST_MSG_STORETIME.
    EarliestStoreTime {
        /// Topic.
        topic: String = "topic",
        /// Queue.
        queue_id: i32 = "queueId",
    }

    /// The answer to GET_EARLIEST_MSG_STORETIME.
    EarliestStoreTimeResponse {
        /// Store time of the queue's first message, ms since 1970; -1 when it is empty.
        timestamp_ms: i64 = "timestamp",
    }
}

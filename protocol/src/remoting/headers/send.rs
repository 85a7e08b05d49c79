//! SEND_MESSAGE, its short-named V2 form, SEND_BATCH_MESSAGE, the reply sends, and their answer.

use super::{Field, FieldError, headers};
use crate::remoting::ext_fields::ExtFields;
use crate::remoting::request_code::RequestCode;

/// The parameters of a send, in either spelling. Borrowed from the command, since a send is the request that counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SendMessage<'a> {
    /// Producer group.
    pub producer_group: &'a str,
    /// Topic.
    pub topic: &'a str,
    /// The topic whose settings an unknown topic copies (TBW102).
    pub default_topic: &'a str,
    /// How many queues an automatically created topic gets at most.
    pub default_topic_queue_nums: i32,
    /// Queue; negative lets the broker choose.
    pub queue_id: i32,
    /// System flag of the message.
    pub sys_flag: i32,
    /// When the message was made, ms since 1970.
    pub born_timestamp_ms: i64,
    /// The user's flag.
    pub flag: i32,
    /// The property string; absent when there is none.
    pub properties: Option<&'a str>,
    /// How often consumers gave the message back.
    pub reconsume_times: Option<i32>,
    /// Legacy.
    pub unit_mode: Option<bool>,
    /// Whether the body is a batch.
    pub batch: Option<bool>,
    /// When such a message goes to the dead letters.
    pub max_reconsume_times: Option<i32>,
    /// The broker name that the client means.
    pub broker_name: Option<&'a str>,
}

/// The wire names of the fields, in the order of the struct.
type Names = [&'static str; 14];

const LONG_NAMES: Names = [
    "producerGroup",
    "topic",
    "defaultTopic",
    "defaultTopicQueueNums",
    "queueId",
    "sysFlag",
    "bornTimestamp",
    "flag",
    "properties",
    "reconsumeTimes",
    "unitMode",
    "batch",
    "maxReconsumeTimes",
    "bname",
];

/// `l` and `m` change places: in the short form the maximum comes before the batch mark.
const SHORT_NAMES: Names = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "m", "l", "n"];

impl<'a> SendMessage<'a> {
    /// Reads the header of a request with `code`, which decides the spelling.
    ///
    /// # Errors
    /// [`FieldError`] naming the first field that is missing or malformed.
    pub fn from_ext(code: i32, ext: &'a ExtFields) -> Result<Self, FieldError> {
        // One walk over the fields instead of one search per name: this header counts.
        let short = has_short_names(code);
        let names = if short { &SHORT_NAMES } else { &LONG_NAMES };
        let mut values = [None; 14];
        for (name, value) in ext.iter() {
            let slot = if short { short_slot(name) } else { LONG_NAMES.iter().position(|known| *known == name) };
            if let Some(slot) = slot {
                values[slot] = Some(value);
            }
        }
        Self::read(names, &values)
    }

    /// The property string of a request with `code`, without a look at anything else.
    pub fn properties_of(code: i32, ext: &'a ExtFields) -> Option<&'a str> {
        const PROPERTIES: usize = 8;
        ext.get(if has_short_names(code) { SHORT_NAMES[PROPERTIES] } else { LONG_NAMES[PROPERTIES] })
    }

    /// Writes the header for a request with `code`.
    pub fn to_ext(&self, code: i32, ext: &mut ExtFields) {
        self.write(if has_short_names(code) { &SHORT_NAMES } else { &LONG_NAMES }, ext);
    }

    fn read(names: &Names, values: &[Option<&'a str>; 14]) -> Result<Self, FieldError> {
        Ok(Self {
            producer_group: Field::read(names[0], values[0])?,
            topic: Field::read(names[1], values[1])?,
            default_topic: Field::read(names[2], values[2])?,
            default_topic_queue_nums: Field::read(names[3], values[3])?,
            queue_id: Field::read(names[4], values[4])?,
            sys_flag: Field::read(names[5], values[5])?,
            born_timestamp_ms: Field::read(names[6], values[6])?,
            flag: Field::read(names[7], values[7])?,
            properties: Field::read(names[8], values[8])?,
            reconsume_times: Field::read(names[9], values[9])?,
            unit_mode: Field::read(names[10], values[10])?,
            batch: Field::read(names[11], values[11])?,
            max_reconsume_times: Field::read(names[12], values[12])?,
            broker_name: Field::read(names[13], values[13])?,
        })
    }

    fn write(&self, names: &Names, ext: &mut ExtFields) {
        self.producer_group.write(names[0], ext);
        self.topic.write(names[1], ext);
        self.default_topic.write(names[2], ext);
        self.default_topic_queue_nums.write(names[3], ext);
        self.queue_id.write(names[4], ext);
        self.sys_flag.write(names[5], ext);
        self.born_timestamp_ms.write(names[6], ext);
        self.flag.write(names[7], ext);
        self.properties.write(names[8], ext);
        self.reconsume_times.write(names[9], ext);
        self.unit_mode.write(names[10], ext);
        self.batch.write(names[11], ext);
        self.max_reconsume_times.write(names[12], ext);
        self.broker_name.write(names[13], ext);
    }
}

/// Where a short name stands in [`SHORT_NAMES`].
fn short_slot(name: &str) -> Option<usize> {
    match name.as_bytes() {
        [b'l'] => Some(12),
        [b'm'] => Some(11),
        [letter @ b'a'..=b'n'] => Some(usize::from(letter - b'a')),
        _ => None,
    }
}

/// Whether requests with `code` carry the names a to n.
fn has_short_names(code: i32) -> bool {
    matches!(code, RequestCode::SEND_MESSAGE_V2 | RequestCode::SEND_BATCH_MESSAGE | RequestCode::SEND_REPLY_MESSAGE_V2)
}

headers! {
    /// The answer to a stored message. Java reads queue id and offset without a check, so all three must always be there.
    SendMessageResponse {
        /// Offset id of the record; of a batch, the ids of all its messages, joined by commas.
        msg_id: String = "msgId",
        /// Queue that took the message.
        queue_id: i32 = "queueId",
        /// Its place there; of a batch, that of the first message.
        queue_offset: i64 = "queueOffset",
        /// The unique key, for a transaction's producer.
        transaction_id: Option<String> = "transactionId",
        /// Id of an inner batch.
        batch_uniq_id: Option<String> = "batchUniqId",
        /// Handle to recall a delayed message.
        recall_handle: Option<String> = "recallHandle",
        /// Region name that trace messages use ("DefaultRegion").
        region: Option<String> = "MSG_REGION",
        /// Whether the client shall trace.
        trace_on: Option<bool> = "TRACE_ON",
    }

    /// PUSH_REPLY_MESSAGE_TO_CLIENT, from broker to client: a reply to a request of this client, with the reply's body.
    PushReply {
        /// Producer group of whoever replied.
        producer_group: String = "producerGroup",
        /// The reply topic of the cluster.
        topic: String = "topic",
        /// As in the send.
        default_topic: String = "defaultTopic",
        /// As in the send.
        default_topic_queue_nums: i32 = "defaultTopicQueueNums",
        /// As in the send.
        queue_id: i32 = "queueId",
        /// System flag of the reply: how its body is compressed.
        sys_flag: i32 = "sysFlag",
        /// When the reply was made, ms since 1970.
        born_timestamp_ms: i64 = "bornTimestamp",
        /// The user's flag.
        flag: i32 = "flag",
        /// The reply's properties: whose reply it is, and to which request.
        properties: Option<String> = "properties",
        /// As in the send.
        reconsume_times: Option<i32> = "reconsumeTimes",
        /// Legacy.
        unit_mode: Option<bool> = "unitMode",
        /// Address of whoever replied.
        born_host: String = "bornHost",
        /// Address of the broker that took the reply.
        store_host: String = "storeHost",
        /// When it took it, ms since 1970.
        store_timestamp_ms: i64 = "storeTimestamp",
    }

    /// CONSUMER_SEND_MSG_BACK: give a message back for another try.
    ConsumerSendMsgBack {
        /// Consumer group.
        group: String = "group",
        /// Physical offset of the message.
        physical_offset: i64 = "offset",
        /// Delay level; negative sends to the dead letters, 0 lets the broker choose.
        delay_level: i32 = "delayLevel",
        /// The message's id as the client shows it.
        origin_msg_id: Option<String> = "originMsgId",
        /// The message's topic.
        origin_topic: Option<String> = "originTopic",
        /// When to give up.
        max_reconsume_times: Option<i32> = "maxReconsumeTimes",
    }

    /// RECALL_MESSAGE: take a delayed message back.
    RecallMessage {
        /// The topic that the message is for.
        topic: String = "topic",
        /// As the answer to the send gave it, see [`crate::message::recall`].
        recall_handle: String = "recallHandle",
        /// Producer group.
        producer_group: Option<String> = "producerGroup",
    }

    /// The answer to RECALL_MESSAGE.
    RecallMessageResponse {
        /// Unique key of the message.
        msg_id: String = "msgId",
    }
}

impl SendMessageResponse {
    /// The region that the reference reports when it is not configured otherwise.
    pub const DEFAULT_REGION: &'static str = "DefaultRegion";
}

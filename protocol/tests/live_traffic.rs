//! Traffic captured between official 5.4.0 clients, tools and servers: our typed headers and bodies must take it, and lose nothing
//! of a header but what they say they ignore.

use ledgermq_protocol::consumer_list::{ConsumerConnection, ConsumerList, GroupList, ProducerConnection};
use ledgermq_protocol::heartbeat::HeartbeatData;
use ledgermq_protocol::json::Body;
use ledgermq_protocol::kv_table::KvTable;
use ledgermq_protocol::lock::{LockBatchRequest, LockBatchResponse};
use ledgermq_protocol::message::batch::BatchElements;
use ledgermq_protocol::register::RegisterBrokerBody;
use ledgermq_protocol::remoting::ext_fields::ExtFields;
use ledgermq_protocol::remoting::headers::send::{ConsumerSendMsgBack, SendMessage, SendMessageResponse};
use ledgermq_protocol::remoting::headers::{Header, admin, group, offset, pull, register, route, topic};
use ledgermq_protocol::remoting::request_code::RequestCode;
use ledgermq_protocol::remoting::response_code::ResponseCode;
use ledgermq_protocol::route::{ClusterInfo, TopicList, TopicRouteData};
use ledgermq_protocol::stats::{ConsumeStats, ResetOffsetBody, TopicStatsTable};
use ledgermq_protocol::subscription_group::SubscriptionGroupConfig;
use ledgermq_protocol::topic::TopicConfig;
use serde_json::Value;

mod vectors;

/// Fields that clients send and we have no use for.
const IGNORED: [&str; 7] = ["bname", "ReqT", "unitMode", "force", "bodyCrc32", "lo", "compressed"];

struct Captured {
    code: i32,
    ext: ExtFields,
    /// Absent when there was none, or when the capture cut it short.
    body: Option<Vec<u8>>,
}

fn captured(part: &Value) -> Captured {
    let header = &part["header"];
    let fields = header["extFields"].as_object();
    let ext = fields.into_iter().flatten().map(|(name, value)| (name, value.as_str().expect("texts only"))).collect();
    let body = match (part["body"]["text"].as_str(), part["body"]["hex"].as_str()) {
        (Some(text), _) if !text.ends_with("...") => Some(text.as_bytes().to_vec()),
        (_, Some(hex)) if !hex.ends_with("...") => Some(vectors::from_hex(hex)),
        _ => None,
    };
    Captured { code: header["code"].as_i64().expect("a code") as i32, ext, body }
}

/// Reads a header and writes it again: nothing may be missing or different.
fn header<H: Header>(captured: &Captured) {
    let mut written = ExtFields::new();
    H::from_ext(&captured.ext).unwrap_or_else(|error| panic!("{}: {error}", captured.code)).to_ext(&mut written);
    same_fields(captured, &written);
}

fn same_fields(captured: &Captured, written: &ExtFields) {
    for (name, value) in captured.ext.iter().filter(|(name, value)| !IGNORED.contains(name) && !value.is_empty()) {
        assert_eq!(written.get(name), Some(value), "{}: field {name}", captured.code);
    }
}

fn body<B: Body>(captured: &Captured) {
    if let Some(body) = &captured.body {
        let read = B::from_json(body).unwrap_or_else(|error| panic!("{}: {error}", captured.code));
        B::from_json(&read.to_json()).unwrap_or_else(|error| panic!("{} again: {error}", captured.code));
    }
}

/// Whether the request's kind has types here; checks them.
fn request(request: &Captured) -> bool {
    use RequestCode as Code;
    match request.code {
        Code::SEND_MESSAGE_V2 | Code::SEND_BATCH_MESSAGE | Code::SEND_REPLY_MESSAGE_V2 => {
            let mut written = ExtFields::new();
            let sent = SendMessage::from_ext(request.code, &request.ext).expect("an official send");
            sent.to_ext(request.code, &mut written);
            same_fields(request, &written);
            if let (Code::SEND_BATCH_MESSAGE, Some(body)) = (request.code, &request.body) {
                assert!(BatchElements::new(body).all(|element| element.is_ok()));
            }
        }
        Code::PULL_MESSAGE | Code::LITE_PULL_MESSAGE => header::<pull::PullMessage>(request),
        Code::QUERY_MESSAGE => header::<pull::QueryMessage>(request),
        Code::QUERY_CONSUMER_OFFSET => header::<offset::QueryConsumerOffset>(request),
        Code::UPDATE_CONSUMER_OFFSET => header::<offset::UpdateConsumerOffset>(request),
        Code::GET_MAX_OFFSET => header::<offset::MaxOffset>(request),
        Code::GET_MIN_OFFSET => header::<offset::MinOffset>(request),
        Code::UPDATE_AND_CREATE_TOPIC => header::<topic::CreateTopic>(request),
        Code::GET_ALL_TOPIC_CONFIG => header::<admin::AllTopicConfig>(request),
        Code::GET_ALL_SUBSCRIPTIONGROUP_CONFIG => header::<admin::AllSubscriptionGroupConfig>(request),
        Code::HEART_BEAT => body::<HeartbeatData>(request),
        Code::UNREGISTER_CLIENT => header::<group::UnregisterClient>(request),
        Code::CONSUMER_SEND_MSG_BACK => header::<ConsumerSendMsgBack>(request),
        Code::GET_CONSUMER_LIST_BY_GROUP => header::<group::ConsumerListByGroup>(request),
        Code::NOTIFY_CONSUMER_IDS_CHANGED => header::<group::NotifyConsumerIdsChanged>(request),
        Code::LOCK_BATCH_MQ | Code::UNLOCK_BATCH_MQ => body::<LockBatchRequest>(request),
        Code::PUT_KV_CONFIG => header::<route::PutKvConfig>(request),
        Code::DELETE_KV_CONFIG => header::<route::KvConfigKey>(request),
        Code::REGISTER_BROKER => {
            header::<register::RegisterBroker>(request);
            body::<RegisterBrokerBody>(request);
        }
        Code::GET_ROUTEINFO_BY_TOPIC => header::<route::RouteInfo>(request),
        Code::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP => body::<SubscriptionGroupConfig>(request),
        Code::GET_TOPIC_STATS_INFO | Code::GET_TOPIC_CONFIG => header::<topic::TopicOnly>(request),
        Code::GET_CONSUMER_CONNECTION_LIST => header::<admin::ConsumerConnectionList>(request),
        Code::GET_PRODUCER_CONNECTION_LIST => header::<admin::ProducerConnectionList>(request),
        Code::WIPE_WRITE_PERM_OF_BROKER | Code::ADD_WRITE_PERM_OF_BROKER => header::<route::WritePermOfBroker>(request),
        Code::DELETE_SUBSCRIPTIONGROUP => header::<topic::DeleteSubscriptionGroup>(request),
        Code::GET_CONSUME_STATS => header::<admin::ConsumeStats>(request),
        Code::DELETE_TOPIC_IN_BROKER => header::<topic::DeleteTopicInBroker>(request),
        Code::DELETE_TOPIC_IN_NAMESRV => header::<topic::DeleteTopicInNamesrv>(request),
        _ => return false,
    }
    true
}

fn response(code: i32, response: &Captured) {
    use RequestCode as Code;
    match (code, response.code) {
        (
            Code::PULL_MESSAGE | Code::LITE_PULL_MESSAGE,
            ResponseCode::SUCCESS
            | ResponseCode::PULL_NOT_FOUND
            | ResponseCode::PULL_RETRY_IMMEDIATELY
            | ResponseCode::PULL_OFFSET_MOVED,
        ) => header::<pull::PullMessageResponse>(response),
        (_, code) if code != ResponseCode::SUCCESS => {}
        (Code::SEND_MESSAGE_V2 | Code::SEND_BATCH_MESSAGE | Code::SEND_REPLY_MESSAGE_V2, _) => {
            header::<SendMessageResponse>(response);
        }
        (Code::QUERY_MESSAGE, _) => header::<pull::QueryMessageResponse>(response),
        (Code::QUERY_CONSUMER_OFFSET | Code::GET_MAX_OFFSET | Code::GET_MIN_OFFSET, _) => {
            header::<offset::OffsetResponse>(response);
        }
        (Code::HEART_BEAT, _) => header::<group::HeartbeatResponse>(response),
        (Code::GET_CONSUMER_LIST_BY_GROUP, _) => body::<ConsumerList>(response),
        (Code::LOCK_BATCH_MQ, _) => body::<LockBatchResponse>(response),
        (Code::GET_ROUTEINFO_BY_TOPIC, _) => body::<TopicRouteData>(response),
        (Code::GET_BROKER_CLUSTER_INFO, _) => body::<ClusterInfo>(response),
        (Code::GET_BROKER_RUNTIME_INFO, _) => body::<KvTable>(response),
        (Code::GET_TOPIC_STATS_INFO, _) => body::<TopicStatsTable>(response),
        (Code::GET_CONSUMER_CONNECTION_LIST, _) => body::<ConsumerConnection>(response),
        (Code::GET_PRODUCER_CONNECTION_LIST, _) => body::<ProducerConnection>(response),
        (Code::GET_ALL_TOPIC_LIST_FROM_NAMESERVER | Code::GET_SYSTEM_TOPIC_LIST_FROM_BROKER, _) => {
            body::<TopicList>(response);
        }
        (Code::GET_CONSUME_STATS, _) => body::<ConsumeStats>(response),
        (Code::INVOKE_BROKER_TO_RESET_OFFSET, _) => body::<ResetOffsetBody>(response),
        (Code::QUERY_TOPIC_CONSUME_BY_WHO, _) => body::<GroupList>(response),
        (Code::GET_TOPIC_CONFIG, _) => body::<TopicConfig>(response),
        _ => {}
    }
}

/// An unmodified client must not meet a field that we cannot read.
#[test]
fn captured_traffic_is_understood() {
    let captures: Vec<Value> = serde_json::from_str(include_str!("vectors/live-5.4.0.json")).unwrap();
    let mut typed = 0;
    for capture in &captures {
        let asked = captured(&capture["request"]);
        assert!(RequestCode::name(asked.code).is_some(), "no name for code {}", asked.code);
        typed += usize::from(request(&asked));
        for answer in capture["responses"].as_array().unwrap() {
            let answer = captured(answer);
            assert!(ResponseCode::name(answer.code).is_some(), "no name for response code {}", answer.code);
            response(asked.code, &answer);
        }
    }
    assert!(typed >= 35, "only {typed} of {} requests were of a kind that has types", captures.len());
}

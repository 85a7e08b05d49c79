//! GET_BROKER_RUNTIME_INFO: the table that `mqadmin clusterList` and `brokerStatus` print.
//!
//! What RocketMQ counts and we do not yet is given as zero, since its tools fail on missing keys.

use std::collections::BTreeMap;

use ledgermq_protocol::json::Body;
use ledgermq_protocol::kv_table::KvTable;
use ledgermq_protocol::remoting::response_code::ResponseCode;

use super::raft_status::role_name;
use crate::replica::{Replica, wall_clock_ms};
use crate::server::outbox::Responder;

/// Keys that RocketMQ's tools read and for which there is no figure yet.
const NOT_COUNTED: [&str; 32] = [
    "sendThreadPoolQueueSize",
    "sendThreadPoolQueueHeadWaitTimeMills",
    "sendThreadPoolQueueCapacity",
    "pullThreadPoolQueueSize",
    "pullThreadPoolQueueHeadWaitTimeMills",
    "pullThreadPoolQueueCapacity",
    "queryThreadPoolQueueHeadWaitTimeMills",
    "pageCacheLockTimeMills",
    "commitLogDiskRatio",
    "consumeQueueDiskRatio",
    "timerReadBehind",
    "timerOffsetBehind",
    "timerCongestNum",
    "timerEnqueueTps",
    "timerDequeueTps",
    "msgPutTotalYesterdayMorning",
    "msgPutTotalTodayMorning",
    "msgPutTotalTodayNow",
    "msgGetTotalYesterdayMorning",
    "msgGetTotalTodayMorning",
    "msgGetTotalTodayNow",
    "putMessageTimesTotal",
    "putMessageSizeTotal",
    "getMessageEntireTimeMax",
    "putMessageEntireTimeMax",
    "putMessageAverageSize",
    "dispatchMaxBuffer",
    "dispatchBehindBytes",
    "earliestMessageTimeStamp",
    "remainTransientStoreBufferNumbs",
    "totalMemKBytes",
    "startAcceptSendRequestTimeStamp",
];

/// Rates, as RocketMQ prints them: over 10 s, 1 min and 10 min.
const RATES: [&str; 6] = ["putTps", "getTransferredTps", "getTotalTps", "getFoundTps", "getMissTps", "putLatency99"];

/// Answers with the table.
pub fn runtime_info(replica: &Replica, responder: Responder) {
    let role = replica.role();
    let mut table: BTreeMap<String, String> = BTreeMap::new();
    let mut set = |key: &str, value: String| drop(table.insert(key.to_owned(), value));
    for key in NOT_COUNTED {
        set(key, "0".to_owned());
    }
    for key in RATES {
        set(key, "0.0 0.0 0.0".to_owned());
    }
    set("brokerActive", "true".to_owned());
    set("brokerVersionDesc", format!("LedgerMQ {}", env!("CARGO_PKG_VERSION")));
    set("brokerVersion", ledgermq_protocol::remoting::command::VERSION.to_string());
    set("bootTimestamp", (wall_clock_ms() - replica.now_ms() as i64).to_string());
    set("runtime", format!("{} seconds", replica.now_ms() / 1000));
    set("commitLogMinOffset", replica.handle.reader().first().1.0.to_string());
    set("commitLogMaxOffset", replica.tables().applied().end().0.to_string());
    set("ledgermq.role", role_name(role.role).to_owned());
    set("ledgermq.term", role.term.to_string());
    set("ledgermq.commitIndex", replica.handle.commit_index().to_string());
    set("ledgermq.appliedIndex", replica.handle.applied_index().to_string());
    let answer = responder.command(ResponseCode::SUCCESS).with_body(KvTable { table }.to_json());
    responder.send(answer);
}

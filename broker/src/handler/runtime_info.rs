//! GET_BROKER_RUNTIME_INFO: the table that `mqadmin clusterList` and `brokerStatus` print.
//!
//! What RocketMQ counts and we do not is given as zero, since its tools fail on missing keys.

use std::collections::BTreeMap;
use std::sync::Arc;

use ledgermq_dledger::FrameKind;
use ledgermq_protocol::json::Body;
use ledgermq_protocol::kv_table::KvTable;
use ledgermq_protocol::message::record::RecordRef;

use super::answer_from_disk;
use super::queue_ends::NO_MESSAGE_MS;
use super::raft_status::role_name;
use crate::replica::{Replica, wall_clock_ms};
use crate::server::outbox::Responder;
use crate::stats::Rates;

/// Keys that RocketMQ's tools read and that mean nothing here: there are no thread pools, no lock around the page cache and no
/// timer wheel.
const NOT_COUNTED: [&str; 27] = [
    "sendThreadPoolQueueSize",
    "sendThreadPoolQueueHeadWaitTimeMills",
    "sendThreadPoolQueueCapacity",
    "pullThreadPoolQueueSize",
    "pullThreadPoolQueueHeadWaitTimeMills",
    "pullThreadPoolQueueCapacity",
    "queryThreadPoolQueueSize",
    "queryThreadPoolQueueHeadWaitTimeMills",
    "queryThreadPoolQueueCapacity",
    "ackThreadPoolQueueSize",
    "ackThreadPoolQueueHeadWaitTimeMills",
    "ackThreadPoolQueueCapacity",
    "pageCacheLockTimeMills",
    "consumeQueueDiskRatio",
    "timerReadBehind",
    "timerOffsetBehind",
    "timerCongestNum",
    "timerEnqueueTps",
    "timerDequeueTps",
    "getMessageEntireTimeMax",
    "putMessageEntireTimeMax",
    "putMessageFailedTimes",
    "dispatchMaxBuffer",
    "dispatchBehindBytes",
    "remainTransientStoreBufferNumbs",
    "totalMemKBytes",
    "startAcceptSendRequestTimeStamp",
];

/// Most frames that are looked at for the first message per request.
const FRAMES_SEARCHED_MAX: usize = 4_096;

/// The search for the first message of the log, which may stand behind many commands.
#[derive(Debug, Default)]
pub struct FirstMessage {
    /// Raft index up to which there is none.
    searched: u64,
    /// Raft index of its entry, and when it was stored.
    found: Option<(u64, i64)>,
}

/// Answers with the table.
pub async fn runtime_info(replica: Arc<Replica>, responder: Responder) {
    replica.catch_up().await;
    answer_from_disk(responder, move |answer| Ok(answer.with_body(KvTable { table: table(&replica) }.to_json()))).await;
}

fn table(replica: &Replica) -> BTreeMap<String, String> {
    let role = replica.role();
    let all = replica.stats.overall(replica.tables(), replica.now());
    // As decided: this replica's files may go a little later.
    let start = replica.tables().kept().pos.max(replica.handle.reader().first().1.0);
    let end = replica.tables().applied().end().0;
    let mut table: BTreeMap<String, String> = BTreeMap::new();
    let mut set = |key: &str, value: String| drop(table.insert(key.to_owned(), value));
    for key in NOT_COUNTED {
        set(key, "0".to_owned());
    }
    set("brokerActive", "true".to_owned());
    set("brokerVersionDesc", format!("LedgerMQ {}", env!("CARGO_PKG_VERSION")));
    set("brokerVersion", ledgermq_protocol::remoting::command::VERSION.to_string());
    set("bootTimestamp", (wall_clock_ms() - replica.now_ms() as i64).to_string());
    set("runtime", format!("{} seconds", replica.now_ms() / 1000));
    set("commitLogMinOffset", start.to_string());
    set("commitLogMaxOffset", end.to_string());
    set("earliestMessageTimeStamp", first_store_ms(replica).unwrap_or(NO_MESSAGE_MS).to_string());
    for (direction, count) in [("Put", all.put), ("Get", all.got)] {
        set(&format!("msg{direction}TotalYesterdayMorning"), count.yesterday_morning.to_string());
        set(&format!("msg{direction}TotalTodayMorning"), count.today_morning.to_string());
        set(&format!("msg{direction}TotalTodayNow"), count.now.to_string());
    }
    set("putMessageTimesTotal", all.put.now.to_string());
    set("putTps", rates(all.put_rates));
    set("getTransferredTps", rates(all.got_rates));
    set("getFoundTps", rates(all.found_rates));
    set("getMissTps", rates(all.missed_rates));
    set("getTotalTps", rates(std::array::from_fn(|n| all.found_rates[n] + all.missed_rates[n])));
    set("putLatency99", "0".to_owned());
    set("putLatency999", "0".to_owned());
    let messages = replica.tables().topics().iter().map(|topic| topic.messages()).sum::<u64>();
    set("putMessageSizeTotal", (end - start).to_string());
    set("putMessageAverageSize", format!("{:.1}", (end - start) as f64 / messages.max(1) as f64));
    let total = replica.room.total_bytes();
    // Nothing of nothing, when the system does not tell.
    let free = replica.room.free_bytes().min(total);
    let used_ratio = if total == 0 { 0.0 } else { 1.0 - free as f64 / total as f64 };
    set("commitLogDiskRatio", format!("{used_ratio:.4}"));
    set("commitLogDirCapacity", format!("Total : {} MiB, Free : {} MiB.", total >> 20, free >> 20));
    set("ledgermq.role", role_name(role.role).to_owned());
    set("ledgermq.term", role.term.to_string());
    set("ledgermq.commitIndex", replica.handle.commit_index().to_string());
    set("ledgermq.appliedIndex", replica.handle.applied_index().to_string());
    table
}

/// As RocketMQ prints rates: over 10 s, 1 min and 10 min.
fn rates([seconds, minute, minutes]: Rates) -> String {
    format!("{seconds:.2} {minute:.2} {minutes:.2}")
}

/// When the first message that is kept was stored; `None` while there is none, or it is not found yet.
fn first_store_ms(replica: &Replica) -> Option<i64> {
    let mut first = replica.first_message.lock();
    let kept = replica.tables().kept().index.max(replica.handle.reader().first().0);
    if let Some((index, store_ms)) = first.found {
        if index >= kept {
            return Some(store_ms);
        }
        first.found = None;
    }
    let applied = replica.tables().applied_index();
    let from = (first.searched + 1).max(kept);
    for frame in replica.handle.reader().iter(from).take(FRAMES_SEARCHED_MAX) {
        let frame = frame.ok().filter(|frame| frame.at.index <= applied)?;
        if frame.kind == FrameKind::Messages {
            let store_ms = RecordRef::decode(&frame.payload).ok().map(|record| record.store_timestamp_ms())?;
            first.found = Some((frame.at.index, store_ms));
            return Some(store_ms);
        }
        first.searched = frame.at.index;
    }
    None
}

//! A fake broker with queues, offsets and members: what a push consumer needs of one. Several addresses can serve the same queues,
//! as the replicas of a group do; each knows its own members.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use ledgermq_protocol::consumer_list::ConsumerList;
use ledgermq_protocol::heartbeat::{HeartbeatData, MessageModel};
use ledgermq_protocol::json::Body;
use ledgermq_protocol::lock::{LockBatchRequest, LockBatchResponse};
use ledgermq_protocol::message::record::{self, Message};
use ledgermq_protocol::remoting::command::RemotingCommand;
use ledgermq_protocol::remoting::headers::group::NotifyConsumerIdsChanged;
use ledgermq_protocol::remoting::headers::offset::{OffsetResponse, QueryConsumerOffset, UpdateConsumerOffset};
use ledgermq_protocol::remoting::headers::pull::{FLAG_SUSPEND, PullMessage, PullMessageResponse};
use ledgermq_protocol::remoting::request_code::RequestCode;
use ledgermq_protocol::remoting::response_code::ResponseCode;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::{Fake, Heard, Lines, Reply, SOON, answer};

/// The queues and offsets of a group of brokers.
#[derive(Clone)]
pub(crate) struct Broker {
    state: Arc<Mutex<State>>,
    /// Wakes when anything changed.
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    queues: BTreeMap<i32, Vec<Bytes>>,
    /// First offset of each queue; messages below were deleted.
    first: i64,
    offsets: BTreeMap<(String, i32), i64>,
    /// Every commit, in order.
    commits: Vec<(i32, i64)>,
    /// Messages sent out.
    sent: usize,
    /// Who has locked each queue.
    locks: BTreeMap<i32, String>,
}

impl Broker {
    pub(crate) fn new() -> Self {
        Self { state: Arc::default(), changed: watch::Sender::new(0) }
    }

    /// Appends a message with `tag` to a queue of TopicTest.
    pub(crate) fn append(&self, queue_id: i32, tag: &str) {
        let mut state = self.state.lock();
        let queue = state.queues.entry(queue_id).or_default();
        let mut record = BytesMut::new();
        let message = Message {
            topic: "TopicTest",
            queue_id,
            flag: 0,
            sys_flag: 0,
            born_timestamp_ms: 1,
            born_host: "127.0.0.1:5000".parse().unwrap(),
            store_host: "127.0.0.1:10911".parse().unwrap(),
            reconsume_times: 0,
            prepared_transaction_offset: 0,
            body: b"body",
            properties: &format!("TAGS\u{1}{tag}\u{2}"),
        };
        record::encode(&message, &mut record).unwrap();
        record::patch(&mut record, queue.len() as i64, 0, 1);
        queue.push(record.freeze());
        drop(state);
        self.wake();
    }

    /// Deletes all messages below `first`.
    pub(crate) fn truncate(&self, first: i64) {
        self.state.lock().first = first;
    }

    /// Sets a group's offset.
    pub(crate) fn set_offset(&self, group: &str, queue_id: i32, offset: i64) {
        self.state.lock().offsets.insert((group.to_owned(), queue_id), offset);
    }

    /// Locks a queue for `client_id`, or frees it.
    pub(crate) fn lock(&self, queue_id: i32, client_id: Option<&str>) {
        let mut state = self.state.lock();
        match client_id {
            Some(id) => state.locks.insert(queue_id, id.to_owned()),
            None => state.locks.remove(&queue_id),
        };
    }

    /// Who has locked each queue.
    pub(crate) fn locks(&self) -> BTreeMap<i32, String> {
        self.state.lock().locks.clone()
    }

    /// Every commit, once they are as the test wants them.
    pub(crate) async fn commits(&self, wanted: impl Fn(&[(i32, i64)]) -> bool) -> Vec<(i32, i64)> {
        self.until(|state| wanted(&state.commits)).await;
        self.state.lock().commits.clone()
    }

    /// Messages sent out, once they are at least `count`.
    pub(crate) async fn sent(&self, count: usize) -> usize {
        self.until(|state| state.sent >= count).await;
        self.state.lock().sent
    }

    async fn until(&self, wanted: impl Fn(&State) -> bool) {
        let mut changed = self.changed.subscribe();
        let waited = tokio::time::timeout(SOON, changed.wait_for(|_| wanted(&self.state.lock()))).await;
        waited.expect("it must come about").unwrap();
    }

    fn wake(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    /// Serves the queues at an address of its own.
    pub(crate) async fn serve(&self) -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let members: Arc<Mutex<BTreeMap<u64, HeartbeatData>>> = Arc::default();
        let lines = Lines::default();
        let (broker, known) = (self.clone(), Arc::clone(&members));
        let reply = move |request: &RemotingCommand| broker.reply(request, &known);
        let told = lines.clone();
        Fake::hearing(listener, reply, lines, move |number, heard| {
            let mut members = members.lock();
            let before = members.clone();
            match heard {
                Heard::Request(request) if request.code == RequestCode::HEART_BEAT => {
                    members.insert(number, HeartbeatData::from_json(&request.body).unwrap());
                }
                Heard::Request(request) => {
                    let group = request.ext.get("consumerGroup").unwrap_or_default();
                    if let Some(data) = members.get_mut(&number) {
                        data.consumer_data_set.retain(|consumer| consumer.group_name != group);
                    }
                }
                Heard::End => drop(members.remove(&number)),
            }
            for group in groups(&before).union(&groups(&members)) {
                if ids(&before, group) == ids(&members, group) {
                    continue;
                }
                let header = NotifyConsumerIdsChanged { consumer_group: group.clone() };
                let notice = RemotingCommand::oneway(RequestCode::NOTIFY_CONSUMER_IDS_CHANGED, 0).with_header(&header);
                members.keys().for_each(|number| told.tell(*number, &notice));
            }
        })
    }

    fn reply(&self, request: &RemotingCommand, members: &Mutex<BTreeMap<u64, HeartbeatData>>) -> Reply {
        let offset = |offset| Reply::Answer(answer(ResponseCode::SUCCESS).with_header(&OffsetResponse { offset }));
        let queue_id: i32 = request.ext.get("queueId").and_then(|id| id.parse().ok()).unwrap_or_default();
        match request.code {
            RequestCode::GET_CONSUMER_LIST_BY_GROUP => {
                let ids = ids(&members.lock(), request.ext.get("consumerGroup").unwrap());
                if ids.is_empty() {
                    return Reply::Answer(answer(ResponseCode::SYSTEM_ERROR));
                }
                let body = ConsumerList { consumer_id_list: ids.into_iter().collect() }.to_json();
                Reply::Answer(answer(ResponseCode::SUCCESS).with_body(body))
            }
            RequestCode::QUERY_CONSUMER_OFFSET => {
                let query: QueryConsumerOffset = request.header().unwrap();
                match self.state.lock().offsets.get(&(query.consumer_group, queue_id)) {
                    Some(held) => offset(*held),
                    None => Reply::Answer(answer(ResponseCode::QUERY_NOT_FOUND)),
                }
            }
            RequestCode::UPDATE_CONSUMER_OFFSET => {
                let update: UpdateConsumerOffset = request.header().unwrap();
                let mut state = self.state.lock();
                state.offsets.insert((update.consumer_group, queue_id), update.commit_offset);
                state.commits.push((queue_id, update.commit_offset));
                drop(state);
                self.wake();
                Reply::Answer(answer(ResponseCode::SUCCESS))
            }
            RequestCode::GET_MIN_OFFSET => offset(self.state.lock().first),
            RequestCode::GET_MAX_OFFSET => {
                offset(self.state.lock().queues.get(&queue_id).map_or(0, |queue| queue.len() as i64))
            }
            RequestCode::LOCK_BATCH_MQ => {
                let asked = LockBatchRequest::from_json(&request.body).unwrap();
                let mut state = self.state.lock();
                let mut granted = LockBatchResponse::default();
                for queue in asked.mq_set {
                    let holder = state.locks.entry(queue.queue_id).or_insert_with(|| asked.client_id.clone());
                    if *holder == asked.client_id {
                        granted.lock_ok_mq_set.push(queue);
                    }
                }
                Reply::Answer(answer(ResponseCode::SUCCESS).with_body(granted.to_json()))
            }
            RequestCode::UNLOCK_BATCH_MQ => {
                let asked = LockBatchRequest::from_json(&request.body).unwrap();
                let mut state = self.state.lock();
                for queue in asked.mq_set {
                    if state.locks.get(&queue.queue_id) == Some(&asked.client_id) {
                        state.locks.remove(&queue.queue_id);
                    }
                }
                Reply::Answer(answer(ResponseCode::SUCCESS))
            }
            RequestCode::PULL_MESSAGE => self.pull(request.header().unwrap()),
            code => panic!("not expected: {code}"),
        }
    }

    fn pull(&self, pull: PullMessage) -> Reply {
        if pull.sys_flag & FLAG_SUSPEND == 0 || self.has(&pull) {
            return Reply::Answer(self.look(&pull));
        }
        let (later, parked) = tokio::sync::oneshot::channel();
        let broker = self.clone();
        tokio::spawn(async move {
            let hold = Duration::from_millis(pull.suspend_timeout_ms as u64);
            let mut changed = broker.changed.subscribe();
            // Whether it came or not, it is looked at once more.
            let _ = tokio::time::timeout(hold, changed.wait_for(|_| broker.has(&pull))).await;
            let _ = later.send(broker.look(&pull));
        });
        Reply::Later(parked)
    }

    fn has(&self, pull: &PullMessage) -> bool {
        let state = self.state.lock();
        let end = state.queues.get(&pull.queue_id).map_or(0, |queue| queue.len() as i64);
        pull.queue_offset < end || pull.queue_offset < state.first || pull.queue_offset > end
    }

    fn look(&self, pull: &PullMessage) -> RemotingCommand {
        let mut state = self.state.lock();
        let first = state.first;
        let queue = state.queues.entry(pull.queue_id).or_default();
        let end = queue.len() as i64;
        let from = pull.queue_offset;
        let mut body = BytesMut::new();
        let (code, next) = if from < first {
            (ResponseCode::PULL_OFFSET_MOVED, first)
        } else if from > end {
            (ResponseCode::PULL_OFFSET_MOVED, end)
        } else if from == end {
            (ResponseCode::PULL_NOT_FOUND, from)
        } else {
            let next = end.min(from + i64::from(pull.max_msg_nums));
            queue[from as usize..next as usize].iter().for_each(|record| body.extend_from_slice(record));
            (ResponseCode::SUCCESS, next)
        };
        if code == ResponseCode::SUCCESS {
            state.sent += (next - from) as usize;
        }
        drop(state);
        self.wake();
        let header = PullMessageResponse {
            suggest_which_broker_id: 0,
            next_begin_offset: next,
            min_offset: first,
            max_offset: end,
            topic_sys_flag: None,
            group_sys_flag: None,
        };
        answer(code).with_header(&header).with_body(body)
    }
}

fn groups(members: &BTreeMap<u64, HeartbeatData>) -> BTreeSet<String> {
    let consumers = members.values().flat_map(|data| &data.consumer_data_set);
    let sharing = consumers.filter(|consumer| consumer.message_model == MessageModel::Clustering);
    sharing.map(|consumer| consumer.group_name.clone()).collect()
}

fn ids(members: &BTreeMap<u64, HeartbeatData>, group: &str) -> BTreeSet<String> {
    let is_in = |data: &&HeartbeatData| data.consumer_data_set.iter().any(|consumer| consumer.group_name == group);
    members.values().filter(is_in).map(|data| data.client_id.clone()).collect()
}

//! Membership: the groups that this client is in, told to brokers by heartbeats.
//!
//! One task a client, from its first group on. Consumers are told to every member of every broker name that is known, so that
//! whoever leads next knows them already; a client of producers alone tells leaders only. A broker forgets a client whose
//! connection ends, so each new connection is told at once, and everybody again after each interval.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use ledgermq_protocol::heartbeat::{ConsumerData, HeartbeatData, ProducerData};
use ledgermq_protocol::json::Body;
use ledgermq_protocol::remoting::command::RemotingCommand;
use ledgermq_protocol::remoting::headers::group::UnregisterClient;
use ledgermq_protocol::remoting::request_code::RequestCode;
use ledgermq_protocol::remoting::response_code::ResponseCode;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;
use tracing::debug;

use crate::connections::Connections;
use crate::error::RequestError;
use crate::inbound::Inbound;
use crate::leaders::Leaders;
use crate::unique_key::local_ip;

/// Longest wait for the answer to a heartbeat.
const BEAT_TIMEOUT: Duration = Duration::from_secs(3);

/// Pause after a heartbeat that failed: a broker that comes back should know its consumers soon.
const FAILED_PAUSE: Duration = Duration::from_secs(2);

/// Longest wait for the answer to a leave. A broker that does not hear it notices the end of the connection, or the silence.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);

/// Numbers the clients of this process, for their ids.
static CLIENTS: AtomicU32 = AtomicU32::new(0);

/// An id that no other client has: address, process, and a number in the process.
pub(crate) fn new_client_id() -> String {
    let number = CLIENTS.fetch_add(1, Ordering::Relaxed);
    let run: u32 = rand::random();
    format!("{}@{}#{number}-{run:08x}", local_ip(), std::process::id())
}

/// The groups, and who has been told of them.
#[derive(Debug)]
pub(crate) struct Membership {
    client_id: String,
    interval: Duration,
    connections: Arc<Connections>,
    leaders: Arc<Leaders>,
    inbound: Arc<Inbound>,
    groups: Mutex<Groups>,
    /// Counts changes of the groups.
    version: watch::Sender<u64>,
    /// There are groups, and the task is still to be started.
    to_start: AtomicBool,
}

#[derive(Debug, Default)]
struct Groups {
    /// Producer groups, each with the number of producers that are in it.
    producers: BTreeMap<String, usize>,
    consumers: BTreeMap<String, ConsumerData>,
    /// Producer groups that were left and of which brokers are still to be told.
    left: Vec<String>,
    told: HashMap<String, Told>,
    task: Option<AbortHandle>,
    stopped: bool,
}

/// What a broker was told last.
#[derive(Debug, Clone, Copy)]
struct Told {
    connection: u64,
    version: u64,
    at: Instant,
}

/// A heartbeat ready to be sent.
struct Beat {
    version: u64,
    body: Bytes,
    to_all_members: bool,
}

impl Membership {
    pub(crate) fn new(
        client_id: String,
        interval: Duration,
        connections: Arc<Connections>,
        leaders: Arc<Leaders>,
        inbound: Arc<Inbound>,
    ) -> Self {
        Self {
            client_id,
            interval,
            connections,
            leaders,
            inbound,
            groups: Mutex::default(),
            version: watch::Sender::new(0),
            to_start: AtomicBool::new(false),
        }
    }

    /// The id by which brokers and other members know this client.
    pub(crate) fn client_id(&self) -> &str {
        &self.client_id
    }

    /// A producer is in `group` from now on.
    pub(crate) fn join_producer(&self, group: &str) {
        *self.groups.lock().producers.entry(group.to_owned()).or_default() += 1;
        self.changed();
    }

    /// A producer leaves `group`. Brokers are told soon, as far as they can be reached.
    pub(crate) fn leave_producer(&self, group: &str) {
        let mut groups = self.groups.lock();
        let Some(count) = groups.producers.get_mut(group) else { return };
        *count -= 1;
        if *count == 0 {
            groups.producers.remove(group);
            groups.left.push(group.to_owned());
            drop(groups);
            self.changed();
        }
    }

    /// A consumer is in its group from now on. `false` when another one of this client is already.
    pub(crate) fn join_consumer(&self, data: ConsumerData) -> bool {
        let mut groups = self.groups.lock();
        if groups.consumers.contains_key(&data.group_name) {
            return false;
        }
        groups.consumers.insert(data.group_name.clone(), data);
        drop(groups);
        self.changed();
        true
    }

    /// The consumer leaves its group, and the brokers that are connected know it when this returns, or had
    /// [`LEAVE_TIMEOUT`] to answer.
    pub(crate) async fn leave_consumer(self: &Arc<Self>, group: &str) {
        self.groups.lock().consumers.remove(group);
        self.changed();
        let header = UnregisterClient {
            client_id: self.client_id.clone(),
            producer_group: None,
            consumer_group: Some(group.to_owned()),
        };
        self.leave(header).await;
    }

    /// Starts to tell, if there is something to tell and nobody does yet. Called on a runtime, before each operation.
    pub(crate) fn start(self: &Arc<Self>) {
        if !self.to_start.load(Ordering::Relaxed) || !self.to_start.swap(false, Ordering::AcqRel) {
            return;
        }
        let mut groups = self.groups.lock();
        if groups.task.is_none() && !groups.stopped {
            groups.task = Some(tokio::spawn(keep_told(Arc::clone(self))).abort_handle());
        }
    }

    /// Ends the task.
    pub(crate) fn stop(&self) {
        let mut groups = self.groups.lock();
        groups.stopped = true;
        if let Some(task) = groups.task.take() {
            task.abort();
        }
    }

    fn changed(&self) {
        self.version.send_modify(|version| *version += 1);
        if self.groups.lock().task.is_none() {
            self.to_start.store(true, Ordering::Release);
        }
    }

    /// The heartbeat of now; `None` when there is nothing to tell.
    fn beat(&self) -> Option<Beat> {
        let groups = self.groups.lock();
        if groups.producers.is_empty() && groups.consumers.is_empty() {
            return None;
        }
        let data = HeartbeatData {
            client_id: self.client_id.clone(),
            producer_data_set: groups.producers.keys().map(|name| ProducerData { group_name: name.clone() }).collect(),
            consumer_data_set: groups.consumers.values().cloned().collect(),
            ..HeartbeatData::default()
        };
        let to_all_members = !groups.consumers.is_empty();
        Some(Beat { version: *self.version.borrow(), body: data.to_json(), to_all_members })
    }

    /// When `addr` is to be told next.
    fn due(&self, addr: &str, version: u64, now: Instant) -> Instant {
        let told = self.groups.lock().told.get(addr).copied();
        match told {
            Some(told) if told.version == version && self.connections.open_id(addr) == Some(told.connection) => {
                told.at + self.interval
            }
            _ => now,
        }
    }

    /// Tells one broker, unless the groups changed meanwhile. Whether it knows them now.
    async fn tell(&self, addr: &str, version: u64, body: Bytes) -> Result<bool, RequestError> {
        let deadline = Instant::now() + BEAT_TIMEOUT;
        let connection = self.connections.connection(addr, deadline).await?;
        if *self.version.borrow() != version {
            // A group that was left must not be joined again by a heartbeat that comes late.
            return Ok(false);
        }
        let request = RemotingCommand::request(RequestCode::HEART_BEAT, 0).with_body(body);
        let answer = connection.request(request, deadline).await?;
        if answer.code != ResponseCode::SUCCESS {
            let (code, remark) = (answer.code, answer.remark.unwrap_or_default());
            debug!(addr, code, remark, "heartbeat refused");
            return Ok(false);
        }
        let told = Told { connection: connection.id(), version, at: Instant::now() };
        self.groups.lock().told.insert(addr.to_owned(), told);
        Ok(true)
    }

    /// Tells all who may know this client, and are connected, that it leaves a group: also those who have not answered its
    /// heartbeat yet.
    async fn leave(self: &Arc<Self>, header: UnregisterClient) {
        let known = self.leaders.addresses(true);
        let request = RemotingCommand::request(RequestCode::UNREGISTER_CLIENT, 0).with_header(&header);
        let deadline = Instant::now() + LEAVE_TIMEOUT;
        let mut leaving = JoinSet::new();
        for addr in known.into_iter().filter(|addr| self.connections.open_id(addr).is_some()) {
            let (membership, request) = (Arc::clone(self), request.clone());
            leaving.spawn(async move {
                if let Err(error) = membership.connections.request(&addr, request, deadline).await {
                    debug!(%error, "a broker was not told of a leave");
                }
            });
        }
        while leaving.join_next().await.is_some() {}
    }
}

/// The task of a client.
async fn keep_told(membership: Arc<Membership>) {
    let mut leader_changes = membership.leaders.changes();
    let mut turnover = membership.inbound.turnover();
    let mut versions = membership.version.subscribe();
    // Addresses, and whether they may be told again at once.
    let mut telling: JoinSet<(String, bool)> = JoinSet::new();
    let mut under_way: HashSet<String> = HashSet::new();
    let mut not_before: HashMap<String, Instant> = HashMap::new();
    loop {
        // Whatever changes from here on wakes the wait below.
        leader_changes.mark_unchanged();
        turnover.mark_unchanged();
        versions.mark_unchanged();
        let left = std::mem::take(&mut membership.groups.lock().left);
        for group in left {
            let client_id = membership.client_id.clone();
            let header = UnregisterClient { client_id, producer_group: Some(group), consumer_group: None };
            membership.leave(header).await;
        }
        let now = Instant::now();
        let mut wake_at = now + membership.interval;
        if let Some(beat) = membership.beat() {
            let addresses = membership.leaders.addresses(beat.to_all_members);
            not_before.retain(|addr, _| addresses.contains(addr));
            membership.groups.lock().told.retain(|addr, _| addresses.contains(addr));
            for addr in addresses {
                if under_way.contains(&addr) {
                    continue;
                }
                let paused_until = not_before.get(&addr).copied().unwrap_or(now);
                let due = membership.due(&addr, beat.version, now).max(paused_until);
                if due > now {
                    wake_at = wake_at.min(due);
                    continue;
                }
                under_way.insert(addr.clone());
                let (membership, body, version) = (Arc::clone(&membership), beat.body.clone(), beat.version);
                telling.spawn(async move {
                    let is_told = membership.tell(&addr, version, body).await.unwrap_or_else(|error| {
                        debug!(%error, "heartbeat failed");
                        false
                    });
                    (addr, is_told || *membership.version.borrow() != version)
                });
            }
        }
        // The senders live in what the task holds: none of these can end.
        tokio::select! {
            Some(Ok((addr, at_once))) = telling.join_next() => {
                under_way.remove(&addr);
                if !at_once {
                    not_before.insert(addr, Instant::now() + FAILED_PAUSE);
                }
            }
            _ = leader_changes.changed() => {}
            _ = turnover.changed() => {}
            _ = versions.changed() => {}
            () = tokio::time::sleep_until(wake_at) => {}
        }
    }
}

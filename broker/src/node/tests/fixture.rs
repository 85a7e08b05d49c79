//! Nodes in a temporary folder, and a client that speaks Remoting to them.

use std::collections::VecDeque;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::BytesMut;
use ledgermq_dledger::fs::Fs;
use ledgermq_dledger::log::meta::FORMAT;
use ledgermq_dledger::log::{GroupConstants, Identity as LogIdentity, Member as LogMember};
use ledgermq_dledger::{GroupId, replica};
use ledgermq_protocol::heartbeat::{ConsumerData, HeartbeatData, SubscriptionData};
use ledgermq_protocol::json::Body;
use ledgermq_protocol::message::record::RecordRef;
use ledgermq_protocol::remoting::command::RemotingCommand;
use ledgermq_protocol::remoting::ext_fields::ExtFields;
use ledgermq_protocol::remoting::frame;
use ledgermq_protocol::remoting::headers::offset::{QueryConsumerOffset, UpdateConsumerOffset};
use ledgermq_protocol::remoting::headers::pull::PullMessage;
use ledgermq_protocol::remoting::headers::send::SendMessage;
use ledgermq_protocol::remoting::request_code::RequestCode;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use uuid::Uuid;

use super::super::*;
use crate::config::{FlushMode, MemberConfig};

/// Time in which everything here must happen.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// Nodes of one cluster with one group, `broker-a`.
pub(super) struct Cluster {
    pub(super) nodes: Vec<BrokerNode>,
    pub(super) configs: Vec<BrokerConfig>,
    _dir: TempDir,
}

/// Ports that were free a moment ago, below those that the system gives to clients' sockets: nobody takes them by chance.
fn free_addresses(count: usize) -> Vec<SocketAddr> {
    const FIRST: u32 = 10_000;
    const SPAN: u32 = 20_000;
    /// Tests run in processes of their own, too: each starts somewhere else.
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let start = std::process::id().wrapping_mul(97);
    let candidates = std::iter::from_fn(|| {
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        Some(SocketAddr::from(([127, 0, 0, 1], (FIRST + start.wrapping_add(n) % SPAN) as u16)))
    });
    candidates.filter(|address| StdListener::bind(address).is_ok()).take(count).collect()
}

/// Configs of a cluster that was just born in `dir`.
pub(super) fn born(dir: &Path, members: usize) -> Vec<BrokerConfig> {
    let addresses = free_addresses(members * 3);
    let (cluster_id, group_id) = (Uuid::new_v4(), Uuid::new_v4());
    let member = |n: usize| MemberConfig {
        raft_id: n as u64 + 1,
        replica: Uuid::new_v4(),
        raft: addresses[n * 3].to_string(),
        broker: addresses[n * 3 + 1].to_string(),
    };
    let all: Vec<MemberConfig> = (0..members).map(member).collect();
    let config = |n: usize| BrokerConfig {
        cluster: "TestCluster".into(),
        cluster_id,
        node_id: n as u64 + 1,
        data_dir: dir.join(format!("node-{n}")),
        raft_listen: addresses[n * 3],
        http_listen: addresses[n * 3 + 2],
        namesrv: Vec::new(),
        flush: FlushMode::Sync,
        auto_create_topics: true,
        disk_keep_bytes: 0,
        retention_ms: 0,
        retention_bytes: 0,
        retention_forced: false,
        delay_max_ms: 3_600_000,
        lag_hold_bytes: 20 << 30,
        lag_hold_ms: 3_600_000,
        snapshot_linger_ms: 30_000,
        drain_linger_ms: 35_000,
        insecure: false,
        peer_tls: None,
        limits: Limits::default(),
        groups: vec![GroupConfig {
            name: "broker-a".into(),
            id: group_id,
            raft_id: n as u64 + 1,
            listen: addresses[n * 3 + 1],
            advertise: None,
            preferred_leader: None,
            flush: None,
            members: all.clone(),
        }],
    };
    let configs: Vec<BrokerConfig> = (0..members).map(config).collect();
    for config in &configs {
        create_replica(config);
    }
    configs
}

fn create_replica(config: &BrokerConfig) {
    let group = &config.groups[0];
    let identity = LogIdentity {
        cluster_id: config.cluster_id,
        group: GroupId(group.id),
        replica: group.member(group.raft_id).unwrap().replica,
        raft_id: group.raft_id,
    };
    let members =
        group.members.iter().map(|member| LogMember { raft_id: member.raft_id, replica: member.replica }).collect();
    let constants = GroupConstants { segment_size: 64 << 20, format: FORMAT };
    let fs: Arc<dyn Fs> = Arc::new(OsFs);
    std::fs::create_dir_all(&config.data_dir).unwrap();
    replica::create(&fs, &config.data_dir.join(&group.name), identity, constants, members).unwrap();
}

impl Cluster {
    /// Starts `members` nodes and waits for a leader that serves.
    pub(super) async fn start(members: usize) -> Self {
        Self::start_with(members, |_| {}).await
    }

    /// As [`Self::start`], with changes to each config.
    pub(super) async fn start_with(members: usize, change: impl Fn(&mut BrokerConfig)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut configs = born(dir.path(), members);
        configs.iter_mut().for_each(change);
        let mut nodes = Vec::new();
        for config in &configs {
            nodes.push(BrokerNode::start(config.clone()).await.unwrap());
        }
        let cluster = Self { nodes, configs, _dir: dir };
        cluster.leader().await;
        cluster
    }

    /// The node that leads and serves, once there is one and the others know it.
    pub(super) async fn leader(&self) -> usize {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let leader = self
                .nodes
                .iter()
                .position(|node| node.replicas[0].serves() && node.replicas[0].tables().genesis().is_some());
            if let Some(leader) = leader {
                let id = self.nodes[leader].replicas[0].identity().raft_id;
                if self.nodes.iter().all(|node| node.replicas[0].role().leader == Some(id)) {
                    return leader;
                }
            }
            assert!(Instant::now() < deadline, "no leader");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// A node that does not lead.
    pub(super) async fn follower(&self) -> usize {
        let leader = self.leader().await;
        (leader + 1) % self.nodes.len()
    }

    /// A client of a node.
    pub(super) async fn client(&self, node: usize) -> Client {
        Client::connect(self.configs[node].groups[0].listen).await
    }

    /// A client of the leader.
    pub(super) async fn leader_client(&self) -> Client {
        self.client(self.leader().await).await
    }

    pub(super) async fn stop(self) {
        for node in self.nodes {
            node.stop().await.unwrap();
        }
    }
}

/// A connection to a broker.
pub(super) struct Client {
    socket: TcpStream,
    buffer: BytesMut,
    opaque: i32,
    /// Requests that the broker sent while something else was awaited.
    pub(super) pushed: VecDeque<RemotingCommand>,
}

impl Client {
    pub(super) async fn connect(address: SocketAddr) -> Self {
        let socket = TcpStream::connect(address).await.unwrap();
        Self { socket, buffer: BytesMut::new(), opaque: 0, pushed: VecDeque::new() }
    }

    /// Its own address, as the broker sees it.
    pub(super) fn address(&self) -> SocketAddr {
        self.socket.local_addr().unwrap()
    }

    /// Sends without waiting; returns the request's id.
    pub(super) async fn send(&mut self, mut request: RemotingCommand) -> i32 {
        self.opaque += 1;
        request.opaque = self.opaque;
        let mut bytes = BytesMut::new();
        frame::encode(&request, &mut bytes).unwrap();
        self.socket.write_all(&bytes).await.unwrap();
        self.opaque
    }

    async fn next(&mut self) -> RemotingCommand {
        loop {
            if let Some(command) = frame::decode(&mut self.buffer, &FrameLimits::default()).unwrap() {
                return command;
            }
            let read = tokio::time::timeout(PATIENCE, self.socket.read_buf(&mut self.buffer)).await;
            assert_ne!(read.expect("an answer").unwrap(), 0, "the broker closed the connection");
        }
    }

    /// The answer to a request.
    pub(super) async fn answer(&mut self, opaque: i32) -> RemotingCommand {
        loop {
            let command = self.next().await;
            if command.is_response() && command.opaque == opaque {
                return command;
            }
            self.pushed.push_back(command);
        }
    }

    /// Answers a request that the broker sent.
    pub(super) async fn respond(&mut self, to: &RemotingCommand, code: i32, body: &[u8]) {
        let mut bytes = BytesMut::new();
        frame::encode(&RemotingCommand::response_to(to, code).with_body(body.to_vec()), &mut bytes).unwrap();
        self.socket.write_all(&bytes).await.unwrap();
    }

    pub(super) async fn ask(&mut self, request: RemotingCommand) -> RemotingCommand {
        let opaque = self.send(request).await;
        self.answer(opaque).await
    }

    /// The next request that the broker sends by itself.
    pub(super) async fn pushed(&mut self) -> RemotingCommand {
        match self.pushed.pop_front() {
            Some(command) => command,
            None => self.next().await,
        }
    }

    /// The next request with this code that the broker sends by itself; others before it are dropped.
    pub(super) async fn called(&mut self, code: i32) -> RemotingCommand {
        loop {
            let pushed = self.pushed().await;
            if pushed.code == code && !pushed.is_response() {
                return pushed;
            }
        }
    }

    /// Sends a message and expects success.
    pub(super) async fn produce(&mut self, topic: &str, queue: i32, body: &str, tag: &str) -> i64 {
        let properties = if tag.is_empty() { String::new() } else { format!("TAGS\u{1}{tag}\u{2}") };
        let answer = self.ask(send_request(topic, queue, body.as_bytes(), &properties)).await;
        assert_eq!(answer.code, 0, "{answer:?}");
        answer.ext.get("queueOffset").unwrap().parse().unwrap()
    }

    pub(super) async fn beat(&mut self, client_id: &str, group: &str, topic: &str, expression: &str, version: i64) {
        let answer = self.ask(heartbeat_request(client_id, group, topic, expression, version)).await;
        assert_eq!(answer.code, 0, "{answer:?}");
    }

    pub(super) async fn offset(&mut self, group: &str, topic: &str, queue: i32) -> RemotingCommand {
        let header = QueryConsumerOffset {
            consumer_group: group.into(),
            topic: topic.into(),
            queue_id: queue,
            set_zero_if_not_found: None,
        };
        self.ask(RemotingCommand::request(RequestCode::QUERY_CONSUMER_OFFSET, 0).with_header(&header)).await
    }

    /// Waits until a group and its retry topic are there: their creation goes through the log.
    pub(super) async fn group_exists(&mut self, cluster: &Cluster, group: &str) {
        let leader = cluster.leader().await;
        let tables = cluster.nodes[leader].replicas[0].tables();
        let deadline = Instant::now() + PATIENCE;
        while tables.group(group).is_none() || tables.topic(&format!("%RETRY%{group}")).is_none() {
            assert!(Instant::now() < deadline, "no group {group}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

pub(super) fn send_header<'a>(topic: &'a str, queue_id: i32, properties: &'a str) -> SendMessage<'a> {
    SendMessage {
        producer_group: "PG",
        topic,
        default_topic: "TBW102",
        default_topic_queue_nums: 4,
        queue_id,
        sys_flag: 0,
        born_timestamp_ms: 1_700_000_000_000,
        flag: 7,
        properties: Some(properties),
        reconsume_times: Some(0),
        unit_mode: Some(false),
        batch: Some(false),
        max_reconsume_times: None,
        broker_name: None,
    }
}

pub(super) fn request_with(code: i32, header: &SendMessage<'_>, body: &[u8]) -> RemotingCommand {
    let mut request = RemotingCommand::request(code, 0).with_body(body.to_vec());
    let mut ext = ExtFields::new();
    header.to_ext(code, &mut ext);
    request.ext = ext;
    request
}

pub(super) fn send_request(topic: &str, queue: i32, body: &[u8], properties: &str) -> RemotingCommand {
    request_with(RequestCode::SEND_MESSAGE_V2, &send_header(topic, queue, properties), body)
}

pub(super) fn pull_header(group: &str, topic: &str, queue: i32, offset: i64, sys_flag: i32) -> PullMessage {
    PullMessage {
        consumer_group: group.into(),
        topic: topic.into(),
        queue_id: queue,
        queue_offset: offset,
        max_msg_nums: 32,
        sys_flag,
        commit_offset: 0,
        suspend_timeout_ms: 15_000,
        subscription: Some("*".into()),
        sub_version: 0,
        expression_type: Some("TAG".into()),
        max_msg_bytes: None,
    }
}

pub(super) fn pull_request(header: &PullMessage) -> RemotingCommand {
    RemotingCommand::request(RequestCode::PULL_MESSAGE, 0).with_header(header)
}

pub(super) fn update_request(group: &str, topic: &str, queue: i32, offset: i64) -> RemotingCommand {
    let header = UpdateConsumerOffset {
        consumer_group: group.into(),
        topic: topic.into(),
        queue_id: queue,
        commit_offset: offset,
    };
    RemotingCommand::request(RequestCode::UPDATE_CONSUMER_OFFSET, 0).with_header(&header)
}

pub(super) fn heartbeat_request(
    client_id: &str,
    group: &str,
    topic: &str,
    expression: &str,
    version: i64,
) -> RemotingCommand {
    let data = HeartbeatData {
        client_id: client_id.into(),
        consumer_data_set: vec![ConsumerData {
            group_name: group.into(),
            subscription_data_set: vec![SubscriptionData::by_tags(topic, expression, version).unwrap()],
            ..ConsumerData::default()
        }],
        ..HeartbeatData::default()
    };
    RemotingCommand::request(RequestCode::HEART_BEAT, 0).with_body(data.to_json())
}

/// Bodies of the records in a pull's answer.
pub(super) fn bodies(answer: &RemotingCommand) -> Vec<String> {
    records(answer).iter().map(|record| String::from_utf8(record.body().to_vec()).unwrap()).collect()
}

pub(super) fn records(answer: &RemotingCommand) -> Vec<RecordRef<'_>> {
    let mut rest = &answer.body[..];
    let mut records = Vec::new();
    while !rest.is_empty() {
        let record = RecordRef::decode(rest).unwrap();
        rest = &rest[record.len()..];
        records.push(record);
    }
    records
}

pub(super) fn field(answer: &RemotingCommand, name: &str) -> i64 {
    let text = answer.ext.get(name).unwrap_or_else(|| panic!("no {name} in {answer:?}"));
    text.parse().unwrap()
}

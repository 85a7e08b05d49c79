//! A peer on a socket: brokers and clients as a name server sees them.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::BytesMut;
use ledgermq_namesrv::{Namesrv, NamesrvConfig};
use ledgermq_protocol::extension::{code, field};
use ledgermq_protocol::register::RegisterBrokerBody;
use ledgermq_protocol::remoting::command::RemotingCommand;
use ledgermq_protocol::remoting::frame::{self, FrameLimits};
use ledgermq_protocol::remoting::headers::register::{BrokerHeartbeat, RegisterBroker};
use ledgermq_protocol::remoting::request_code::RequestCode;
use ledgermq_protocol::topic::{DataVersion, TopicConfig, TopicConfigSerializeWrapper};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longest time that anything in these tests may take.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// The uuid of the group in these tests.
pub(crate) const GROUP: &str = "6f1c0c52-95a4-4e7e-9d0a-2f8f7b6c0001";

/// A name server on a free port that believes its table at once.
pub(crate) async fn namesrv() -> Namesrv {
    namesrv_with(|config| config.ready_max_ms = 0).await
}

pub(crate) async fn namesrv_with(change: impl FnOnce(&mut NamesrvConfig)) -> Namesrv {
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut config = NamesrvConfig { listen, ready_min_ms: 0, ..NamesrvConfig::default() };
    change(&mut config);
    Namesrv::start(config).await.unwrap()
}

pub(crate) struct Peer {
    socket: TcpStream,
    buf: BytesMut,
    next_opaque: i32,
}

impl Peer {
    pub(crate) async fn connect(namesrv: &Namesrv) -> Self {
        let socket = TcpStream::connect(namesrv.local_addr()).await.unwrap();
        Self { socket, buf: BytesMut::new(), next_opaque: 100 }
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).await.unwrap();
    }

    /// Sends no more; still reads.
    pub(crate) async fn finish(&mut self) {
        self.socket.shutdown().await.unwrap();
    }

    /// Sends a request and returns its opaque number.
    pub(crate) async fn send(&mut self, mut request: RemotingCommand) -> i32 {
        self.next_opaque += 1;
        request.opaque = self.next_opaque;
        let mut bytes = BytesMut::new();
        frame::encode(&request, &mut bytes).unwrap();
        self.write(&bytes).await;
        request.opaque
    }

    /// The next command that comes; `None` when the connection was closed.
    pub(crate) async fn receive(&mut self) -> Option<RemotingCommand> {
        let limits = FrameLimits::default();
        loop {
            if let Some(command) = frame::decode(&mut self.buf, &limits).unwrap() {
                return Some(command);
            }
            let read = tokio::time::timeout(SOON, self.socket.read_buf(&mut self.buf)).await;
            if matches!(read.expect("something must come"), Ok(0) | Err(_)) {
                return None;
            }
        }
    }

    pub(crate) async fn ask(&mut self, request: RemotingCommand) -> RemotingCommand {
        let opaque = self.send(request).await;
        let answer = self.receive().await.expect("the connection stays open");
        assert!(answer.is_response());
        assert_eq!(answer.opaque, opaque);
        answer
    }

    pub(crate) async fn register(&mut self, broker: &Broker, id: i64, term: i64) -> RemotingCommand {
        self.ask(broker.registration(id, term)).await
    }
}

/// A member of a group that registers.
#[derive(Clone)]
pub(crate) struct Broker {
    pub(crate) name: &'static str,
    pub(crate) addr: String,
    pub(crate) group: Option<&'static str>,
    pub(crate) topics: Vec<TopicConfig>,
}

impl Broker {
    pub(crate) fn new(addr: &str) -> Self {
        Self {
            name: "broker-a",
            addr: addr.to_owned(),
            group: Some(GROUP),
            topics: vec![TopicConfig::new("TopicTest", 4, 6)],
        }
    }

    pub(crate) fn data_version() -> DataVersion {
        DataVersion { counter: 3, state_version: 0, timestamp: 1_700_000_000_000 }
    }

    pub(crate) fn registration(&self, id: i64, term: i64) -> RemotingCommand {
        let topics = self.topics.iter().map(|topic| (topic.topic_name.clone(), topic.clone())).collect();
        let body = RegisterBrokerBody {
            topic_config_serialize_wrapper: TopicConfigSerializeWrapper::new(Self::data_version(), topics),
            ..RegisterBrokerBody::default()
        };
        let (body, crc) = body.encode(false);
        let header = RegisterBroker {
            broker_name: self.name.to_owned(),
            broker_addr: self.addr.clone(),
            cluster_name: "DefaultCluster".to_owned(),
            ha_server_addr: None,
            broker_id: id,
            heartbeat_timeout_ms: None,
            enable_acting_master: Some(false),
            compressed: Some(false),
            body_crc32: Some(crc),
            group_uuid: self.group.map(str::to_owned),
            term: self.group.map(|_| term),
        };
        RemotingCommand::request(RequestCode::REGISTER_BROKER, 0).with_header(&header).with_body(body)
    }

    pub(crate) fn heartbeat(&self, id: i64, term: i64) -> RemotingCommand {
        let header = BrokerHeartbeat {
            cluster_name: "DefaultCluster".to_owned(),
            broker_addr: self.addr.clone(),
            broker_name: self.name.to_owned(),
            broker_id: Some(id),
            epoch: None,
            max_offset: None,
            confirm_offset: None,
            heartbeat_timeout_ms: None,
            group_uuid: self.group.map(str::to_owned),
            term: self.group.map(|_| term),
        };
        RemotingCommand::request(RequestCode::BROKER_HEARTBEAT, 0).with_header(&header)
    }
}

pub(crate) fn route(topic: &str) -> RemotingCommand {
    RemotingCommand::request(RequestCode::GET_ROUTEINFO_BY_TOPIC, 0).with_ext("topic", topic)
}

pub(crate) fn watch(topic: &str, version: &str) -> RemotingCommand {
    RemotingCommand::request(code::LEDGER_WATCH_ROUTE, 0)
        .with_ext(field::TOPIC, topic)
        .with_ext(field::ROUTE_VERSION, version)
}

pub(crate) fn text(command: &RemotingCommand) -> &str {
    std::str::from_utf8(&command.body).unwrap()
}

//! What a name server is told, seen by one that only listens.

use std::collections::VecDeque;

use bytes::BytesMut;
use ledgermq_protocol::extension::field as ext;
use ledgermq_protocol::register::RegisterBrokerBody;
use ledgermq_protocol::remoting::command::RemotingCommand;
use ledgermq_protocol::remoting::frame;
use ledgermq_protocol::remoting::headers::register::{BrokerHeartbeat, RegisterBroker};
use ledgermq_protocol::remoting::request_code::RequestCode;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::super::*;
use super::fixture::*;

/// A name server that answers everything with success and remembers it.
#[derive(Clone, Default)]
struct Listening {
    heard: Arc<Mutex<VecDeque<RemotingCommand>>>,
    must_register: Arc<std::sync::atomic::AtomicBool>,
}

impl Listening {
    async fn start(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let listening = self.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(listening.clone().talk(socket));
            }
        });
        address
    }

    async fn talk(self, mut socket: TcpStream) {
        let (mut buffer, mut out) = (BytesMut::new(), BytesMut::new());
        while socket.read_buf(&mut buffer).await.is_ok_and(|read| read > 0) {
            while let Some(request) = frame::decode(&mut buffer, &FrameLimits::default()).unwrap() {
                let mut answer = RemotingCommand::response_to(&request, 0);
                if request.code == RequestCode::BROKER_HEARTBEAT {
                    let flag = self.must_register.swap(false, std::sync::atomic::Ordering::SeqCst);
                    answer = answer.with_ext(ext::MUST_REGISTER, if flag { "true" } else { "false" });
                }
                self.heard.lock().push_back(request);
                frame::encode(&answer, &mut out).unwrap();
            }
            if socket.write_all(&out.split()).await.is_err() {
                return;
            }
        }
    }

    /// The next request for which `wanted` holds; the others before it are forgotten.
    async fn await_request(&self, what: &str, wanted: impl Fn(&RemotingCommand) -> bool) -> RemotingCommand {
        let deadline = Instant::now() + PATIENCE;
        loop {
            while let Some(request) = self.heard.lock().pop_front() {
                if wanted(&request) {
                    return request;
                }
            }
            assert!(Instant::now() < deadline, "no {what}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

fn registration(request: &RemotingCommand) -> Option<(RegisterBroker, RegisterBrokerBody)> {
    (request.code == RequestCode::REGISTER_BROKER).then(|| {
        let header: RegisterBroker = request.header().unwrap();
        let (compressed, crc) = (header.compressed.unwrap(), header.body_crc32.unwrap());
        let body = RegisterBrokerBody::decode(&request.body, compressed, crc).unwrap();
        (header, body)
    })
}

/// The leader must be known as broker 0 with its term at once, followers never; topics must travel as they change, and a name
/// server that lost its memory must get everything again.
#[tokio::test]
async fn leaders_and_topics_are_registered_as_they_change() {
    let namesrv = Listening::default();
    let address = namesrv.start().await;
    let cluster = Cluster::start_with(3, |config| config.namesrv = vec![address.clone()]).await;
    let leader = cluster.leader().await;
    let leads = |request: &RemotingCommand| registration(request).is_some_and(|(header, _)| header.broker_id == 0);
    let (header, body) = registration(&namesrv.await_request("leader", leads).await).unwrap();
    let replica = &cluster.nodes[leader].replicas()[0];
    assert_eq!(header.broker_addr, cluster.configs[leader].groups[0].listen.to_string());
    assert_eq!(header.group_uuid, Some(replica.handle.group().to_string()));
    assert_eq!(header.term, Some(replica.role().term as i64));
    let wrapper = &body.topic_config_serialize_wrapper;
    assert_eq!(wrapper.data_version.state_version, replica.role().term as i64);
    assert!(wrapper.topic_config_table.len() > 1, "an official name server refuses one topic alone");

    let mut client = cluster.client(leader).await;
    client.produce("Fresh", 0, "m", "").await;
    let fresh = |request: &RemotingCommand| {
        registration(request).is_some_and(|(header, body)| {
            header.broker_id == 0 && body.topic_config_serialize_wrapper.topic_config_table.contains_key("Fresh")
        })
    };
    let told = namesrv.await_request("new topic", fresh).await;
    assert_eq!(told.ext.get(ext::PARTIAL), Some("true"));
    assert_eq!(registration(&told).unwrap().1.topic_config_serialize_wrapper.topic_config_table.len(), 1);

    let beat = |request: &RemotingCommand| request.code == RequestCode::BROKER_HEARTBEAT;
    let heartbeat: BrokerHeartbeat = namesrv.await_request("heartbeat", beat).await.header().unwrap();
    let follower = heartbeat.broker_addr != header.broker_addr;
    assert_eq!(heartbeat.broker_id == Some(0), !follower);
    assert!(heartbeat.term.is_some() && heartbeat.group_uuid.is_some());
    namesrv.must_register.store(true, std::sync::atomic::Ordering::SeqCst);
    let full = |request: &RemotingCommand| {
        registration(request).is_some_and(|(_, body)| body.topic_config_serialize_wrapper.topic_config_table.len() > 2)
    };
    assert_eq!(namesrv.await_request("full registration", full).await.ext.get(ext::PARTIAL), None);

    let unregister = |request: &RemotingCommand| request.code == RequestCode::UNREGISTER_BROKER;
    cluster.stop().await;
    namesrv.await_request("farewell", unregister).await;
}

/// A heartbeat must not grow with the topics: tens of megabytes a minute of them have killed live brokers. While nothing changes,
/// nothing but heartbeats may be sent.
#[tokio::test]
async fn a_heartbeat_is_small_however_many_topics_there_are() {
    const TOPICS: usize = 1_000;
    const HEARTBEAT_BYTES_MAX: usize = 1_024;
    let namesrv = Listening::default();
    let address = namesrv.start().await;
    let cluster = Cluster::start_with(1, |config| config.namesrv = vec![address.clone()]).await;
    let mut client = cluster.leader_client().await;
    let mut asked = Vec::new();
    for n in 0..TOPICS {
        asked.push(client.send(send_request(&format!("topic-{n:04}"), 0, b"m", "")).await);
    }
    for opaque in asked {
        assert_eq!(client.answer(opaque).await.code, 0);
    }
    let mut told = std::collections::BTreeSet::new();
    while told.len() < TOPICS {
        let next = namesrv.await_request("registration", |request| registration(request).is_some()).await;
        let topics = registration(&next).unwrap().1.topic_config_serialize_wrapper.topic_config_table;
        told.extend(topics.into_keys().filter(|topic| topic.starts_with("topic-")));
    }
    let settled = Instant::now();
    for _ in 0..2 {
        let heartbeat = namesrv.await_request("anything", |_| true).await;
        assert_eq!(heartbeat.code, RequestCode::BROKER_HEARTBEAT, "{:?} after everything was told", settled.elapsed());
        let mut bytes = BytesMut::new();
        frame::encode(&heartbeat, &mut bytes).unwrap();
        assert!(bytes.len() < HEARTBEAT_BYTES_MAX, "{} bytes", bytes.len());
    }
    cluster.stop().await;
}

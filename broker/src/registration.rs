//! Tells the name servers who this replica is: leader or follower, in which term, with which topics.
//!
//! One task per group and name server, so that one that hangs holds up nobody. It registers in full on a new connection, on every
//! change of role and when the name server asks; with the changed topics alone when topics changed; and sends a light heartbeat
//! every second otherwise. Group uuid and term go with each, so that a name server refuses a deposed leader. It only reports:
//! nothing here decides who leads.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use ledgermq_dledger::Role;
use ledgermq_protocol::extension::field;
use ledgermq_protocol::json::Body;
use ledgermq_protocol::names;
use ledgermq_protocol::register::RegisterBrokerBody;
use ledgermq_protocol::remoting::command::RemotingCommand;
use ledgermq_protocol::remoting::frame::{self, FrameLimits};
use ledgermq_protocol::remoting::headers::register::{BrokerHeartbeat, RegisterBroker, UnregisterBroker};
use ledgermq_protocol::remoting::request_code::RequestCode;
use ledgermq_protocol::remoting::response_code::ResponseCode;
use ledgermq_protocol::topic::{DataVersion, TopicConfig, TopicConfigSerializeWrapper};
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::handler::topic::topic_table;
use crate::identity::Identity;
use crate::replica::Replica;

/// Pause between two signs of life.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);

/// Time for connecting, and for one request: a name server that is slower is as good as away.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);

/// How long a registration counts without a sign of life, as asked of an official name server; ours has its own rule.
const LIFETIME_MS: i64 = 10_000;

/// Topics from which on a registration is sent compressed.
const COMPRESS_TOPICS: usize = 64;

/// What a name server was told, or is to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Statement {
    broker_id: i64,
    term: u64,
    version: DataVersion,
}

/// Why a name server was not told.
#[derive(Debug, Error)]
enum TellError {
    #[error("cannot connect: {0}")]
    Connect(std::io::Error),
    #[error("connection failed: {0}")]
    Io(#[from] std::io::Error),
    #[error("no answer within {} ms", REQUEST_TIMEOUT.as_millis())]
    Timeout,
    #[error("it answers with what is no Remoting frame: {0}")]
    Frame(#[from] frame::FrameError),
    #[error("the registration is too large: {0}")]
    Encode(#[from] frame::EncodeError),
    #[error("refused with code {code}: {remark}")]
    Refused { code: i32, remark: String },
}

/// Reports one replica to one name server until `stop` turns true, then takes its entry back.
pub async fn report(
    replica: Arc<Replica>,
    namesrv: String,
    mut topics_changed: watch::Receiver<u64>,
    mut stop: watch::Receiver<bool>,
) {
    let mut reporter = Reporter { replica: Arc::clone(&replica), namesrv, link: None, told: None, well: None };
    let mut role = replica.handle.watch_role();
    let mut membership = replica.handle.watch_membership();
    loop {
        role.mark_unchanged();
        membership.mark_unchanged();
        topics_changed.mark_unchanged();
        let result = tokio::time::timeout(REQUEST_TIMEOUT, reporter.tell()).await.unwrap_or(Err(TellError::Timeout));
        reporter.note(result);
        tokio::select! {
            biased;
            stopped = stop.wait_for(|stop| *stop) => {
                drop(stopped);
                break;
            }
            // A sender that is gone is about to stop us as well; until then the interval goes on.
            Ok(()) = role.changed() => {}
            Ok(()) = topics_changed.changed() => {}
            Ok(()) = membership.changed() => {}
            () = tokio::time::sleep(HEARTBEAT_INTERVAL) => {}
        }
    }
    // A name server that cannot be reached forgets us by itself.
    let _ = tokio::time::timeout(REQUEST_TIMEOUT, reporter.unregister()).await;
}

struct Reporter {
    replica: Arc<Replica>,
    namesrv: String,
    link: Option<Link>,
    /// What the name server knows, when it was told on this connection.
    told: Option<(Statement, BTreeMap<String, TopicConfig>)>,
    /// Whether the last report went well, to log changes only.
    well: Option<bool>,
}

impl Reporter {
    async fn tell(&mut self) -> Result<(), TellError> {
        if !is_listed(&self.replica) {
            if self.told.is_some() {
                self.unregister().await?;
                self.told = None;
            }
            return Ok(());
        }
        if self.link.is_none() {
            self.told = None;
            self.link = Some(Link::connect(&self.namesrv).await?);
        }
        let statement = self.statement();
        match &self.told {
            Some((told, _)) if *told == statement => self.heartbeat(statement).await,
            Some((told, _)) if (told.broker_id, told.term) == (statement.broker_id, statement.term) => {
                self.register(statement, true).await
            }
            _ => self.register(statement, false).await,
        }
    }

    fn statement(&self) -> Statement {
        statement(&self.replica)
    }

    async fn register(&mut self, statement: Statement, partial: bool) -> Result<(), TellError> {
        let identity = Arc::clone(self.replica.identity());
        let mut table = topic_table(self.replica.tables(), statement.term);
        if !self.replica.sending.auto_create_topics {
            // Without automatic creation nobody may find brokers for unknown topics by it.
            table.topic_config_table.remove(names::AUTO_CREATE_TOPIC);
        }
        let statement = Statement { version: table.data_version, ..statement };
        let known = self.told.take().map(|(_, topics)| topics).filter(|_| partial);
        let (wrapper, partial) = match known.and_then(|known| changed(&known, &table.topic_config_table)) {
            Some(topics) => (TopicConfigSerializeWrapper::new(table.data_version, topics), true),
            None => (table.clone(), false),
        };
        let mut request = register_request(&identity, &self.group(), statement, wrapper);
        if partial {
            request.ext.insert(field::PARTIAL, "true");
        }
        self.ask(request).await?;
        self.told = Some((statement, table.topic_config_table));
        Ok(())
    }

    async fn heartbeat(&mut self, statement: Statement) -> Result<(), TellError> {
        let identity = self.replica.identity();
        let header = BrokerHeartbeat {
            cluster_name: identity.cluster.clone(),
            broker_addr: identity.advertised.clone(),
            broker_name: identity.broker_name.clone(),
            broker_id: Some(statement.broker_id),
            epoch: None,
            max_offset: None,
            confirm_offset: None,
            heartbeat_timeout_ms: Some(LIFETIME_MS),
            group_uuid: Some(self.group()),
            term: Some(statement.term as i64),
        };
        let version = statement.version.to_json();
        let version = std::str::from_utf8(&version).expect("JSON is text");
        let request = RemotingCommand::request(RequestCode::BROKER_HEARTBEAT, 0)
            .with_header(&header)
            .with_ext(field::DATA_VERSION, version);
        let answer = self.ask(request).await?;
        if answer.ext.get(field::MUST_REGISTER) == Some("true") {
            return self.register(statement, false).await;
        }
        Ok(())
    }

    async fn unregister(&mut self) -> Result<(), TellError> {
        let (identity, statement) = (self.replica.identity(), self.statement());
        let header = UnregisterBroker {
            broker_name: identity.broker_name.clone(),
            broker_addr: identity.advertised.clone(),
            cluster_name: identity.cluster.clone(),
            broker_id: statement.broker_id,
            group_uuid: Some(self.group()),
            term: Some(statement.term as i64),
        };
        self.ask(RemotingCommand::request(RequestCode::UNREGISTER_BROKER, 0).with_header(&header)).await.map(drop)
    }

    fn group(&self) -> String {
        self.replica.handle.group().to_string()
    }

    async fn ask(&mut self, request: RemotingCommand) -> Result<RemotingCommand, TellError> {
        let Some(link) = &mut self.link else {
            return Err(TellError::Connect(std::io::ErrorKind::NotConnected.into()));
        };
        let answer = link.ask(request).await?;
        if answer.code != ResponseCode::SUCCESS {
            return Err(TellError::Refused { code: answer.code, remark: answer.remark.unwrap_or_default() });
        }
        Ok(answer)
    }

    /// Logs when it starts or stops to go well, and forgets a connection that failed.
    fn note(&mut self, result: Result<(), TellError>) {
        let broker_name = &self.replica.identity().broker_name;
        let namesrv = &self.namesrv;
        match &result {
            Ok(()) if self.well != Some(true) => tracing::info!(%broker_name, %namesrv, "registered"),
            Err(error) if self.well != Some(false) => tracing::warn!(%broker_name, %namesrv, %error, "not registered"),
            _ => {}
        }
        self.well = Some(result.is_ok());
        if let Err(error) = result {
            self.told = None;
            if !matches!(error, TellError::Refused { .. }) {
                self.link = None;
            }
        }
    }
}

/// What is to be said now. Only a leader that serves is broker 0, and nobody else ever is. At the birth of a group it first
/// applies the genesis, to bring the topics of that.
/// Whether clients are to know of this replica: voters only. What a learner has may end long before the log does.
fn is_listed(replica: &Replica) -> bool {
    let own = replica.identity().raft_id;
    let membership = replica.handle.membership();
    let leads = matches!(replica.role().role, Role::Leader { .. });
    leads || membership.voters.contains(&own) || membership.voters_outgoing.contains(&own)
}

fn statement(replica: &Replica) -> Statement {
    let role = replica.role();
    let leads = role.serves() && replica.tables().genesis().is_some();
    let broker_id = if leads { 0 } else { replica.identity().raft_id as i64 };
    assert!(leads || broker_id > 0, "members are numbered from 1 up");
    let version = crate::handler::topic::data_version(replica.tables().topics_version(), role.term);
    Statement { broker_id, term: role.term, version }
}

fn register_request(
    identity: &Identity,
    group: &str,
    statement: Statement,
    wrapper: TopicConfigSerializeWrapper,
) -> RemotingCommand {
    let compressed = wrapper.topic_config_table.len() >= COMPRESS_TOPICS;
    let body = RegisterBrokerBody { filter_server_list: Vec::new(), topic_config_serialize_wrapper: wrapper };
    let (body, body_crc32) = body.encode(compressed);
    let header = RegisterBroker {
        broker_name: identity.broker_name.clone(),
        broker_addr: identity.advertised.clone(),
        cluster_name: identity.cluster.clone(),
        ha_server_addr: Some(identity.advertised.clone()),
        broker_id: statement.broker_id,
        heartbeat_timeout_ms: Some(LIFETIME_MS),
        enable_acting_master: Some(false),
        compressed: Some(compressed),
        body_crc32: Some(body_crc32),
        group_uuid: Some(group.to_owned()),
        term: Some(statement.term as i64),
    };
    RemotingCommand::request(RequestCode::REGISTER_BROKER, 0).with_header(&header).with_body(body)
}

/// The topics that are new or other than `known`; `None` when one is gone, which only a full registration can say.
fn changed(
    known: &BTreeMap<String, TopicConfig>,
    now: &BTreeMap<String, TopicConfig>,
) -> Option<BTreeMap<String, TopicConfig>> {
    if known.keys().any(|topic| !now.contains_key(topic)) {
        return None;
    }
    let other = now.iter().filter(|(topic, config)| known.get(*topic) != Some(config));
    Some(other.map(|(topic, config)| (topic.clone(), config.clone())).collect())
}

/// A connection to a name server, one request at a time.
struct Link {
    socket: TcpStream,
    buffer: BytesMut,
    opaque: i32,
}

impl Link {
    async fn connect(address: &str) -> Result<Self, TellError> {
        let socket = TcpStream::connect(address).await.map_err(TellError::Connect)?;
        // A heartbeat must not wait for the acknowledgement of the last one.
        let _ = socket.set_nodelay(true);
        Ok(Self { socket, buffer: BytesMut::new(), opaque: 0 })
    }

    async fn ask(&mut self, mut request: RemotingCommand) -> Result<RemotingCommand, TellError> {
        self.opaque = self.opaque.wrapping_add(1);
        request.opaque = self.opaque;
        let mut out = BytesMut::new();
        frame::encode(&request, &mut out)?;
        self.socket.write_all(&out).await?;
        loop {
            while let Some(answer) = frame::decode(&mut self.buffer, &FrameLimits::default())? {
                // An answer to a request that was given up, or a request of its own, is not ours.
                if answer.is_response() && answer.opaque == self.opaque {
                    return Ok(answer);
                }
            }
            if self.socket.read_buf(&mut self.buffer).await? == 0 {
                return Err(TellError::Io(std::io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topics(names: &[(&str, i32)]) -> BTreeMap<String, TopicConfig> {
        names.iter().map(|(name, queues)| ((*name).to_owned(), TopicConfig::new(*name, *queues, 6))).collect()
    }

    /// A partial registration must carry every change, and never be used where a topic is gone: it would stay routable.
    #[test]
    fn only_changed_topics_travel() {
        let known = topics(&[("a", 4), ("b", 4)]);
        assert_eq!(changed(&known, &topics(&[("a", 4), ("b", 8), ("c", 1)])), Some(topics(&[("b", 8), ("c", 1)])));
        assert_eq!(changed(&known, &known), Some(topics(&[])));
        assert_eq!(changed(&known, &topics(&[("a", 4)])), None);
    }

    /// What the name server decides by must be in every registration, under the names that it reads.
    #[test]
    fn a_registration_names_group_and_term() {
        let identity = Identity {
            cluster: "c".into(),
            broker_name: "broker-a".into(),
            raft_id: 2,
            advertised: "127.0.0.1:10911".into(),
            store_host: ([127, 0, 0, 1], 10911).into(),
            peer: "127.0.0.1:10912".into(),
            members: crate::identity::Members::default(),
        };
        let version = DataVersion { counter: 5, state_version: 9, timestamp: 0 };
        let statement = Statement { broker_id: 2, term: 9, version };
        for count in [1, COMPRESS_TOPICS] {
            let names: Vec<String> = (0..count).map(|n| format!("t{n}")).collect();
            let table = topics(&names.iter().map(|name| (name.as_str(), 4)).collect::<Vec<_>>());
            let wrapper = TopicConfigSerializeWrapper::new(version, table.clone());
            let request = register_request(&identity, "uuid", statement, wrapper);
            assert_eq!(request.ext.get(field::GROUP), Some("uuid"));
            assert_eq!(request.ext.get(field::TERM), Some("9"));
            let header: RegisterBroker = request.header().unwrap();
            let body =
                RegisterBrokerBody::decode(&request.body, header.compressed.unwrap(), header.body_crc32.unwrap());
            let wrapper = body.unwrap().topic_config_serialize_wrapper;
            assert_eq!((wrapper.data_version, wrapper.topic_config_table), (version, table));
        }
    }
}

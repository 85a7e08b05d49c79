//! What brokers tell: REGISTER_BROKER, UNREGISTER_BROKER, BROKER_HEARTBEAT, QUERY_DATA_VERSION.
//!
//! Reads and checks what came, then lets the route table decide. Brokers of Apache RocketMQ send the same requests without a
//! group and a term; theirs then is RocketMQ's own rule.

use std::sync::atomic::Ordering;

use ledgermq_protocol::extension::field;
use ledgermq_protocol::json::Body;
use ledgermq_protocol::names;
use ledgermq_protocol::register::RegisterBrokerBody;
use ledgermq_protocol::remoting::command::RemotingCommand;
use ledgermq_protocol::remoting::headers::register::{
    BrokerHeartbeat, QueryDataVersion, QueryDataVersionResponse, RegisterBroker, RegisterBrokerResponse,
    UnregisterBroker,
};
use ledgermq_protocol::remoting::response_code::ResponseCode;
use ledgermq_protocol::route::LEADER_ID;
use ledgermq_protocol::topic::{DataVersion, TopicConfig};
use tracing::{info, warn};
use uuid::Uuid;

use super::Refusal;
use crate::leader::Epoch;
use crate::liveness::MemberKey;
use crate::route_table::{Queues, Registration, Sign, Speaker};
use crate::server::Server;
use crate::server::connection::Peer;

/// How long a sign of life of an Apache broker counts when it does not say: RocketMQ's own default. It speaks every 30 s.
const OFFICIAL_TIMEOUT_MS: i64 = 120_000;

/// Bounds of what it may ask for.
const OFFICIAL_TIMEOUT_MIN_MS: i64 = 1_000;
const OFFICIAL_TIMEOUT_MAX_MS: i64 = 600_000;

/// Longest broker or cluster name, and longest address.
const NAME_LEN_MAX: usize = 127;
const ADDR_LEN_MAX: usize = 255;

pub(super) fn register(server: &Server, peer: &Peer, request: &RemotingCommand) -> Result<RemotingCommand, Refusal> {
    let header: RegisterBroker = request.header()?;
    let key = member_key(&header.broker_name, &header.broker_addr)?;
    check_name("clusterName", &header.cluster_name)?;
    if header.broker_id < 0 {
        return Err(Refusal::invalid(format!("field brokerId is negative: {}", header.broker_id)));
    }
    let compressed = header.compressed.unwrap_or(false);
    let body = RegisterBrokerBody::decode(&request.body, compressed, header.body_crc32.unwrap_or(0))
        .map_err(|error| Refusal::new(ResponseCode::SYSTEM_ERROR, format!("cannot read the registration: {error}")))?;
    let wrapper = body.topic_config_serialize_wrapper;
    let data_version = wrapper.data_version;
    let epoch = epoch(header.group_uuid.as_deref(), header.term)?;
    // Without a term of its own, a broker speaks in RocketMQ's epoch, and it may send only the topics that changed.
    let official = epoch.is_none();
    let epoch = epoch.unwrap_or(Epoch { group: None, term: data_version.state_version.max(0) as u64 });
    let registration = Registration {
        speaker: Speaker {
            broker_name: key.broker_name.clone(),
            addr: key.addr.clone(),
            broker_id: header.broker_id,
            epoch,
            connection: peer.id,
            timeout_ms: timeout_ms(server, official, header.heartbeat_timeout_ms),
        },
        cluster: header.cluster_name,
        data_version,
        topics: wrapper.topic_config_table.into_values().filter_map(topic_queues).collect(),
        partial: official || request.ext.get(field::PARTIAL) == Some("true"),
    };
    peer.is_broker.store(true, Ordering::Release);
    let leads = header.broker_id == LEADER_ID;
    let (before, outcome) = server.change(|table, now_ms| {
        let before = table.leader_of(&key.broker_name).map(str::to_owned);
        (before, table.register(registration, now_ms))
    });
    match outcome {
        Ok(leader) => {
            if before != leader {
                let new = leader.as_deref().unwrap_or("(none)");
                info!(broker_name = key.broker_name, leader = new, term = epoch.term, by = key.addr, "leader changed");
            }
            let master_addr = leader.filter(|_| !leads);
            let response = RegisterBrokerResponse { ha_server_addr: None, master_addr };
            Ok(RemotingCommand::response_to(request, ResponseCode::SUCCESS).with_header(&response))
        }
        Err(refused) => {
            warn!(broker_name = key.broker_name, addr = key.addr, term = epoch.term, %refused, "registration refused");
            let what = format!("registration of {} as broker {} refused: {refused}", key.addr, key.broker_name);
            Err(Refusal::new(ResponseCode::SYSTEM_ERROR, what))
        }
    }
}

pub(super) fn unregister(server: &Server, request: &RemotingCommand) -> Result<RemotingCommand, Refusal> {
    let header: UnregisterBroker = request.header()?;
    let key = member_key(&header.broker_name, &header.broker_addr)?;
    server.change(|table, now_ms| table.unregister(&key, now_ms));
    info!(broker_name = key.broker_name, addr = key.addr, "broker unregistered");
    Ok(RemotingCommand::response_to(request, ResponseCode::SUCCESS))
}

pub(super) fn heartbeat(server: &Server, peer: &Peer, request: &RemotingCommand) -> Result<RemotingCommand, Refusal> {
    let header: BrokerHeartbeat = request.header()?;
    let key = member_key(&header.broker_name, &header.broker_addr)?;
    let epoch = epoch(header.group_uuid.as_deref(), header.term)?;
    let role = epoch.zip(header.broker_id).map(|(epoch, broker_id)| (broker_id, epoch));
    let data_version = match request.ext.get(field::DATA_VERSION) {
        Some(text) => Some(data_version(text.as_bytes())?),
        None => None,
    };
    peer.is_broker.store(true, Ordering::Release);
    let must_register = match server.change(|table, now_ms| table.heartbeat(&key, role, peer.id, now_ms)) {
        Sign::Known(held) => data_version.is_some_and(|theirs| theirs != held),
        Sign::Unknown => true,
    };
    let flag = if must_register { "true" } else { "false" };
    Ok(RemotingCommand::response_to(request, ResponseCode::SUCCESS).with_ext(field::MUST_REGISTER, flag))
}

pub(super) fn query_data_version(
    server: &Server,
    peer: &Peer,
    request: &RemotingCommand,
) -> Result<RemotingCommand, Refusal> {
    let header: QueryDataVersion = request.header()?;
    let key = member_key(&header.broker_name, &header.broker_addr)?;
    let theirs = data_version(&request.body)?;
    peer.is_broker.store(true, Ordering::Release);
    let (leads, sign) = server.change(|table, now_ms| {
        let sign = table.heartbeat(&key, None, peer.id, now_ms);
        (table.leader_of(&key.broker_name) == Some(&key.addr), sign)
    });
    let answer = RemotingCommand::response_to(request, ResponseCode::SUCCESS);
    // Another role than the registered one needs a registration, whatever the version says.
    let held = match sign {
        Sign::Known(held) if leads == (header.broker_id == LEADER_ID) => Some(held),
        Sign::Known(_) | Sign::Unknown => None,
    };
    let response = QueryDataVersionResponse { changed: held != Some(theirs) };
    let answer = answer.with_header(&response);
    Ok(match held {
        Some(held) => answer.with_body(held.to_json()),
        None => answer,
    })
}

fn data_version(json: &[u8]) -> Result<DataVersion, Refusal> {
    DataVersion::from_json(json).map_err(|error| Refusal::invalid(format!("cannot read the data version: {error}")))
}

/// The group and term of one of our brokers; `None` for an official one.
fn epoch(group: Option<&str>, term: Option<i64>) -> Result<Option<Epoch>, Refusal> {
    let Some(group) = group else { return Ok(None) };
    let group = Uuid::parse_str(group)
        .map_err(|error| Refusal::invalid(format!("field {} is not a uuid: {error}", field::GROUP)))?;
    let Some(Ok(term)) = term.map(u64::try_from) else {
        return Err(Refusal::invalid(format!(
            "field {} must come with {} and be at least 0",
            field::TERM,
            field::GROUP
        )));
    };
    Ok(Some(Epoch { group: Some(group), term }))
}

fn timeout_ms(server: &Server, official: bool, asked_ms: Option<i64>) -> u64 {
    if !official {
        return server.config.expiry_ms;
    }
    let asked_ms = asked_ms.unwrap_or(OFFICIAL_TIMEOUT_MS);
    asked_ms.clamp(OFFICIAL_TIMEOUT_MIN_MS, OFFICIAL_TIMEOUT_MAX_MS) as u64
}

/// What a client needs of a topic. One with a name that no client may use is left out, with a warning, not held against the rest.
fn topic_queues(topic: TopicConfig) -> Option<(String, Queues)> {
    if let Err(error) = names::check_topic(&topic.topic_name) {
        warn!(topic = topic.topic_name, %error, "a registered topic was left out");
        return None;
    }
    let queues = Queues {
        read: topic.read_queue_nums.max(0),
        write: topic.write_queue_nums.max(0),
        perm: topic.perm,
        topic_sys_flag: topic.topic_sys_flag,
    };
    Some((topic.topic_name, queues))
}

fn member_key(broker_name: &str, addr: &str) -> Result<MemberKey, Refusal> {
    check_name("brokerName", broker_name)?;
    check_addr(addr)?;
    Ok(MemberKey { broker_name: broker_name.to_owned(), addr: addr.to_owned() })
}

/// Names go into JSON that the Go client cuts by hand, and into lists with commas and colons.
fn check_name(field: &str, name: &str) -> Result<(), Refusal> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '%' | '|' | '#' | '@');
    if name.is_empty() || name.len() > NAME_LEN_MAX || !name.chars().all(fits) {
        let shown: String = name.chars().take(NAME_LEN_MAX).collect();
        let what = format!("field {field} is {shown:?}: give 1 to {NAME_LEN_MAX} letters, digits or _-.%|#@");
        return Err(Refusal::invalid(what));
    }
    Ok(())
}

fn check_addr(addr: &str) -> Result<(), Refusal> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '[' | ']' | '%');
    let parts = addr.rsplit_once(':').filter(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
    if addr.len() > ADDR_LEN_MAX || !addr.chars().all(fits) || parts.is_none() {
        let shown: String = addr.chars().take(ADDR_LEN_MAX).collect();
        return Err(Refusal::invalid(format!("field brokerAddr is {shown:?}: give host:port")));
    }
    Ok(())
}

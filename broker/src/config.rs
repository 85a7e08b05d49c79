//! `broker.toml`: what one broker node is told at start.
//!
//! Read once by `ledgermq broker` (and written by `ledgermq dev`), checked as a whole by [`BrokerConfig::validate`] before
//! anything is opened or bound. Nothing here creates a group: identities come from the create step, and a key that this
//! version does not know is refused, never ignored.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use uuid::Uuid;

/// Most groups that one node may hold a replica of: each costs a port, a RocksDB and its open files.
pub const GROUPS_MAX: usize = 16;

/// Most members of one group.
pub const MEMBERS_MAX: usize = 9;

/// Most name servers: each costs a connection and a heartbeat per second and group.
pub const NAMESRV_MAX: usize = 8;

/// Least [`BrokerConfig::disk_keep_bytes`] other than 0.
const DISK_KEEP_MIN: u64 = 64 << 20;

/// Largest [`BrokerConfig::disk_keep_bytes`].
const DISK_KEEP_MAX: u64 = 1 << 50;

/// Least [`BrokerConfig::retention_ms`] other than 0.
const RETENTION_MIN_MS: u64 = 1_000;

/// Least [`BrokerConfig::retention_bytes`] other than 0.
const RETENTION_BYTES_MIN: u64 = 1 << 20;

/// Largest [`BrokerConfig::retention_bytes`].
const RETENTION_BYTES_MAX: u64 = 1 << 50;

/// Range of [`BrokerConfig::delay_max_ms`].
const DELAY_MAX_MIN_MS: u64 = 1_000;
const DELAY_MAX_MAX_MS: u64 = 10 * 365 * 86_400_000;

/// Longest [`BrokerConfig::drain_linger_ms`].
const DRAIN_LINGER_MAX_MS: u64 = 600_000;
/// Range of [`BrokerConfig::snapshot_linger_ms`].
const SNAPSHOT_LINGER_MIN_MS: u64 = 1_000;
const SNAPSHOT_LINGER_MAX_MS: u64 = 3_600_000;

/// The whole file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BrokerConfig {
    /// Name of the RocketMQ cluster, as `mqadmin clusterList` shows it. Default `DefaultCluster`; 1 to 127 of `A-Z a-z 0-9 _ -`.
    #[serde(default = "default_cluster")]
    pub cluster: String,
    /// Identity of the cluster, drawn by the create step; a data folder of another cluster is refused. Required.
    pub cluster_id: Uuid,
    /// Number of this node, for people, logs and metrics. Required, 1 and up.
    pub node_id: u64,
    /// Folder of this node's data; one per node, locked while in use. Required.
    pub data_dir: PathBuf,
    /// Address that the other nodes' Raft traffic comes in on, for all groups. Default `127.0.0.1:10912`.
    #[serde(default = "default_raft_listen")]
    pub raft_listen: SocketAddr,
    /// Address of `/healthz`, `/readyz` and `/metrics`. Default `127.0.0.1:5557`.
    #[serde(default = "default_http_listen")]
    pub http_listen: SocketAddr,
    /// Name servers, `host:port` each; every group registers with all of them. Default `["127.0.0.1:9876"]`; at most 8.
    #[serde(default = "default_namesrv")]
    pub namesrv: Vec<String>,
    /// When a send is acknowledged: `"sync"` once it is on the disks of a majority, `"async"` once it is in the page caches of a
    /// majority (a loss of power of a majority at once may then lose the last 10 ms). For groups that do not say. Default `"sync"`.
    #[serde(default)]
    pub flush: FlushMode,
    /// Whether a send to an unknown topic creates it (RocketMQ's `autoCreateTopicEnable`). Default true.
    #[serde(default = "yes")]
    pub auto_create_topics: bool,
    /// Bytes of the disk under `data_dir` that are kept free: below them the node leads no group while another member has room, and
    /// refuses sends where none has. Default 0: two segments per group and 256 MiB; otherwise 64 MiB to 1 PiB.
    #[serde(default)]
    pub disk_keep_bytes: u64,
    /// Milliseconds after which messages are given up, counted from the store time of the last one in their log segment. Only
    /// whole segments go, and never the one that is written to. Default 259,200,000 (72 hours, RocketMQ's `fileReservedTime`); 0:
    /// never by age; otherwise 1,000 and up.
    #[serde(default = "default_retention_ms")]
    pub retention_ms: u64,
    /// Bytes of log of each group above which its oldest segments are given up. Default 0: no bound; otherwise 1 MiB to 1 PiB.
    #[serde(default)]
    pub retention_bytes: u64,
    /// Whether the oldest segments are given up, however young, when the disk has less than one and a half times
    /// `disk_keep_bytes` free, until it has twice as much; else sends are refused below `disk_keep_bytes`. Default true (RocketMQ's `cleanFileForciblyEnable`).
    #[serde(default = "yes")]
    pub retention_forced: bool,
    /// Longest delay of a message in milliseconds (RocketMQ's `timerMaxDelaySec`); a longer one is refused. Messages that wait
    /// outlive `retention_ms` and `retention_bytes`. Default 3,456,000,000 (40 days); 1,000 to 315,360,000,000 (10 years).
    #[serde(default = "default_delay_max_ms")]
    pub delay_max_ms: u64,
    /// Bytes of log by which a member may lag until old messages are no longer kept for it: it takes a snapshot when it comes
    /// back. Default 21,474,836,480 (20 GiB); 0 to 1 PiB.
    #[serde(default = "default_lag_hold_bytes")]
    pub lag_hold_bytes: u64,
    /// The same in milliseconds for which it has not been up to date. Default 3,600,000 (1 hour); 1,000 and up.
    #[serde(default = "default_lag_hold_ms")]
    pub lag_hold_ms: u64,
    /// Milliseconds for which the copy that a snapshot was given from is kept after the last member needed it: another one takes
    /// it too, and no old message is given up meanwhile. Default 30,000; 1,000 to 3,600,000.
    #[serde(default = "default_snapshot_linger_ms")]
    pub snapshot_linger_ms: u64,
    /// Milliseconds for which a node that was told to stop (SIGTERM) goes on passing requests to the new leaders, until no client
    /// has sent any for 5 s: stock clients keep an address for up to 30 s. Default 35,000; 0 to 600,000.
    #[serde(default = "default_drain_linger_ms")]
    pub drain_linger_ms: u64,
    /// Allows addresses that are not loopback, while there is no authentication: anyone who reaches them may do anything.
    /// Default false.
    #[serde(default)]
    pub insecure: bool,
    /// Certificates with which the nodes meet each other, the same CA on all nodes: `{ cert = "…", key = "…", ca = "…" }`. Default: none,
    /// Raft traffic is in plain. Read again when they change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_tls: Option<PeerTlsConfig>,
    /// Bounds on memory and connections.
    #[serde(default)]
    pub limits: Limits,
    /// The groups that this node holds a replica of, at least one.
    pub groups: Vec<GroupConfig>,
}

/// TLS of the Raft address: PEM files, replaced in place while the node runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerTlsConfig {
    /// This node's certificate, and those between it and the CA. It must name the host of the node's Raft address as `members` or the
    /// log tell it (a DNS name or an IP address), and allow use by servers and by clients. Required.
    pub cert: PathBuf,
    /// Its private key. Required.
    pub key: PathBuf,
    /// The CA that signs the nodes' certificates; several while one is being replaced. Required.
    pub ca: PathBuf,
}

/// When old messages are given up. Decided by the leader of a group, so it should be the same on all nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// See [`BrokerConfig::retention_ms`].
    pub ms: u64,
    /// See [`BrokerConfig::retention_bytes`].
    pub bytes: u64,
    /// See [`BrokerConfig::retention_forced`].
    pub forced: bool,
}

/// Durability of an acknowledged send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FlushMode {
    /// Acknowledged once a majority has it on disk.
    #[default]
    Sync,
    /// Acknowledged once a majority has it in its page cache; on disk within 10 ms or 4 MiB. No process that dies, and no minority
    /// that loses its power, costs an acknowledged message; a majority that loses its power at once may.
    Async,
}

/// Bounds of one node. Each holds for all its groups together unless it says otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Open client connections. Default 10,000; 1 to 1,000,000. One more is closed at once.
    pub connections_max: usize,
    /// Bytes of requests that were read and not yet answered. Default 64 MiB; 32 MiB to 4 GiB, since one frame may have 16.
    /// Above it a request waits 200 ms and is then answered SYSTEM_BUSY (2).
    pub inflight_bytes_max: usize,
    /// Bytes of answers that wait for one client to read them. Default 8 MiB; 1 MiB to 1 GiB. Above it the client is closed.
    pub unread_bytes_max: usize,
    /// Milliseconds without a byte either way after which a connection is closed. Default 120,000; 1,000 to 3,600,000.
    pub idle_ms: u64,
    /// Milliseconds that a connection may take to send its first whole frame. Default 30,000; 100 to 3,600,000.
    pub first_frame_ms: u64,
    /// Pull requests parked until a message arrives, per group. Default 100,000; 1 to 10,000,000. One more is answered at once.
    pub parked_pulls_max: usize,
    /// Bytes of log per second that are read in the background to find what has gone bad; it is mended from another member.
    /// Default 20 MiB; 0 for never, otherwise 64 KiB to 10 GiB.
    pub scrub_bytes_per_second: u64,
    /// Milliseconds between two such passes over all logs. Default 600,000; 10 to 604,800,000.
    pub scrub_pause_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 10_000,
            inflight_bytes_max: 64 << 20,
            unread_bytes_max: 8 << 20,
            idle_ms: 120_000,
            first_frame_ms: 30_000,
            parked_pulls_max: 100_000,
            scrub_bytes_per_second: 20 << 20,
            scrub_pause_ms: 600_000,
        }
    }
}

/// One replica group on this node: one broker name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupConfig {
    /// Broker name, the same on all members. Required; 1 to 127 of `A-Z a-z 0-9 _ -`.
    pub name: String,
    /// Identity of the group, drawn by the create step. Required.
    pub id: Uuid,
    /// Number of this node's replica in the group: one of `members`. Required, 1 and up.
    pub raft_id: u64,
    /// Address that clients of this group connect to. Required; one port per group.
    pub listen: SocketAddr,
    /// `host:port` that clients are told. Default: `listen`. Its resolved address stands in every message id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advertise: Option<String>,
    /// Number of the member that should lead while it is well: the groups of a cluster name different nodes, so that all of them
    /// work. Default: none, whoever is elected leads. One of `members`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preferred_leader: Option<u64>,
    /// When a send to this group is acknowledged, see the key of the node. Default: as there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flush: Option<FlushMode>,
    /// All members when this node's replica was created, this one included. Required, 1 to 9. Once the log tells who the members
    /// are, and where, the log counts.
    pub members: Vec<MemberConfig>,
}

/// A member of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemberConfig {
    /// Its number in the group. Required, 1 and up.
    pub raft_id: u64,
    /// Its replica uuid, drawn by the create step; a peer with another one is refused. Required.
    pub replica: Uuid,
    /// Its Raft address, `host:port`. Required.
    pub raft: String,
    /// Its clients' address, `host:port`: named in answers of a member that does not lead. Required.
    pub broker: String,
}

impl GroupConfig {
    /// The address that clients are told.
    pub fn advertised(&self) -> String {
        self.advertise.clone().unwrap_or_else(|| self.listen.to_string())
    }

    /// The member with this number.
    pub fn member(&self, raft_id: u64) -> Option<&MemberConfig> {
        self.members.iter().find(|member| member.raft_id == raft_id)
    }
}

/// What is wrong with a TOML text and where, without the quotation that follows in the parser's own display: a refusal is
/// one sentence.
fn one_line(error: &toml::de::Error) -> String {
    let text = error.to_string();
    let place = text.lines().next().unwrap_or_default();
    let message = error.message().replace('\n', " ");
    if place == message { message } else { format!("{place}: {message}") }
}

/// Why a config cannot be used. Each text names the key and says how to mend it.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the config {path}: {error}; name a readable broker.toml with -c")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's words.
        error: std::io::Error,
    },
    /// The text is not the TOML that is expected: an unknown key, a wrong type, a missing key.
    #[error("config {path} is not valid: {}; correct or remove it", one_line(error))]
    Parse {
        /// The file.
        path: PathBuf,
        /// What and where.
        error: Box<toml::de::Error>,
    },
    /// A value is out of range.
    #[error("config key {key} is {value}: {mend}")]
    Value {
        /// The key.
        key: String,
        /// Its value.
        value: String,
        /// What is allowed.
        mend: String,
    },
    /// Two keys contradict each other.
    #[error("config keys {first} and {second} contradict each other: {mend}")]
    Conflict {
        /// One key.
        first: String,
        /// The other.
        second: String,
        /// What would be right.
        mend: String,
    },
}

impl BrokerConfig {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|error| ConfigError::Read { path: path.to_owned(), error })?;
        let config: Self = toml::from_str(&text)
            .map_err(|error| ConfigError::Parse { path: path.to_owned(), error: Box::new(error) })?;
        config.validate()?;
        Ok(config)
    }

    /// When old messages are given up.
    pub fn retention(&self) -> Retention {
        Retention { ms: self.retention_ms, bytes: self.retention_bytes, forced: self.retention_forced }
    }

    /// Refuses values out of range and keys that contradict each other.
    ///
    /// # Errors
    /// The first problem found.
    pub fn validate(&self) -> Result<(), ConfigError> {
        check_name("cluster", &self.cluster)?;
        check(self.node_id >= 1, "node_id", self.node_id, "give each node a number from 1 up")?;
        check(self.namesrv.len() <= NAMESRV_MAX, "namesrv", self.namesrv.len(), "name at most 8 name servers")?;
        for address in &self.namesrv {
            check_host_port("namesrv", address)?;
        }
        check(
            self.drain_linger_ms <= DRAIN_LINGER_MAX_MS,
            "drain_linger_ms",
            self.drain_linger_ms,
            "allowed are 0 to 600000",
        )?;
        check(
            self.disk_keep_bytes == 0 || (DISK_KEEP_MIN..=DISK_KEEP_MAX).contains(&self.disk_keep_bytes),
            "disk_keep_bytes",
            self.disk_keep_bytes,
            "allowed are 0 and 67108864 (64 MiB) to 1125899906842624 (1 PiB)",
        )?;
        check(
            self.retention_ms == 0 || self.retention_ms >= RETENTION_MIN_MS,
            "retention_ms",
            self.retention_ms,
            "allowed are 0 and 1000 and up",
        )?;
        check(
            self.retention_bytes == 0 || (RETENTION_BYTES_MIN..=RETENTION_BYTES_MAX).contains(&self.retention_bytes),
            "retention_bytes",
            self.retention_bytes,
            "allowed are 0 and 1048576 (1 MiB) to 1125899906842624 (1 PiB)",
        )?;
        check(
            (DELAY_MAX_MIN_MS..=DELAY_MAX_MAX_MS).contains(&self.delay_max_ms),
            "delay_max_ms",
            self.delay_max_ms,
            "allowed are 1000 to 315360000000 (10 years)",
        )?;
        check(
            self.lag_hold_bytes <= RETENTION_BYTES_MAX,
            "lag_hold_bytes",
            self.lag_hold_bytes,
            "allowed are 0 to 1125899906842624 (1 PiB)",
        )?;
        check(self.lag_hold_ms >= RETENTION_MIN_MS, "lag_hold_ms", self.lag_hold_ms, "allowed are 1000 and up")?;
        check(
            (SNAPSHOT_LINGER_MIN_MS..=SNAPSHOT_LINGER_MAX_MS).contains(&self.snapshot_linger_ms),
            "snapshot_linger_ms",
            self.snapshot_linger_ms,
            "allowed are 1000 to 3600000",
        )?;
        self.limits.validate()?;
        check((1..=GROUPS_MAX).contains(&self.groups.len()), "groups", self.groups.len(), "give 1 to 16 [[groups]]")?;
        for (n, group) in self.groups.iter().enumerate() {
            group.validate(n)?;
        }
        self.check_distinct()?;
        self.check_loopback()
    }

    fn check_distinct(&self) -> Result<(), ConfigError> {
        let mut binds =
            vec![("raft_listen".to_owned(), self.raft_listen), ("http_listen".to_owned(), self.http_listen)];
        for (n, group) in self.groups.iter().enumerate() {
            binds.push((format!("groups[{n}].listen"), group.listen));
            for (m, other) in self.groups[..n].iter().enumerate() {
                let same = |what: &str| ConfigError::Conflict {
                    first: format!("groups[{m}].{what}"),
                    second: format!("groups[{n}].{what}"),
                    mend: "two groups of a node need different ones".to_owned(),
                };
                if other.name == group.name {
                    return Err(same("name"));
                }
                if other.id == group.id {
                    return Err(same("id"));
                }
            }
        }
        for (n, (first, address)) in binds.iter().enumerate() {
            if let Some((second, _)) = binds[n + 1..].iter().find(|(_, other)| other == address && address.port() != 0)
            {
                return Err(ConfigError::Conflict {
                    first: first.clone(),
                    second: second.clone(),
                    mend: format!("both say {address}, give each a port of its own"),
                });
            }
        }
        Ok(())
    }

    fn check_loopback(&self) -> Result<(), ConfigError> {
        if self.insecure {
            return Ok(());
        }
        let groups = self.groups.iter().enumerate().map(|(n, group)| (format!("groups[{n}].listen"), group.listen));
        // Over TLS the Raft address hears nobody but the nodes.
        let raft = self.peer_tls.is_none().then(|| ("raft_listen".to_owned(), self.raft_listen));
        let all = raft.into_iter().chain([("http_listen".to_owned(), self.http_listen)]);
        for (key, address) in all.chain(groups) {
            if !address.ip().is_loopback() {
                return Err(ConfigError::Conflict {
                    first: key,
                    second: "insecure".to_owned(),
                    mend: format!(
                        "{address} is not a loopback address and there is no authentication yet: bind 127.0.0.1, or set \
                         insecure = true (--insecure) if everyone who reaches the port may do anything"
                    ),
                });
            }
        }
        Ok(())
    }
}

impl Limits {
    fn validate(&self) -> Result<(), ConfigError> {
        let in_range = |key: &str, value: u64, low: u64, high: u64| {
            check(
                (low..=high).contains(&value),
                &format!("limits.{key}"),
                value,
                &format!("allowed are {low} to {high}"),
            )
        };
        in_range("connections_max", self.connections_max as u64, 1, 1_000_000)?;
        in_range("inflight_bytes_max", self.inflight_bytes_max as u64, 32 << 20, 4 << 30)?;
        in_range("unread_bytes_max", self.unread_bytes_max as u64, 1 << 20, 1 << 30)?;
        in_range("idle_ms", self.idle_ms, 1_000, 3_600_000)?;
        in_range("first_frame_ms", self.first_frame_ms, 100, 3_600_000)?;
        in_range("scrub_pause_ms", self.scrub_pause_ms, 10, 604_800_000)?;
        if self.scrub_bytes_per_second > 0 {
            in_range("scrub_bytes_per_second", self.scrub_bytes_per_second, 64 << 10, 10 << 30)?;
        }
        in_range("parked_pulls_max", self.parked_pulls_max as u64, 1, 10_000_000)
    }
}

impl GroupConfig {
    fn validate(&self, n: usize) -> Result<(), ConfigError> {
        let key = |name: &str| format!("groups[{n}].{name}");
        check_name(&key("name"), &self.name)?;
        check(self.raft_id >= 1, &key("raft_id"), self.raft_id, "members are numbered from 1 up")?;
        check_host_port(&key("advertise"), &self.advertised())?;
        if self.advertise.is_none() && (self.listen.ip().is_unspecified() || self.listen.port() == 0) {
            return Err(ConfigError::Conflict {
                first: key("listen"),
                second: key("advertise"),
                mend: format!("clients cannot connect to {}: set advertise to host:port", self.listen),
            });
        }
        check(
            (1..=MEMBERS_MAX).contains(&self.members.len()),
            &key("members"),
            self.members.len(),
            "list all members of the group, 1 to 9, this node's included",
        )?;
        for (m, member) in self.members.iter().enumerate() {
            let key = |name: &str| format!("groups[{n}].members[{m}].{name}");
            check(member.raft_id >= 1, &key("raft_id"), member.raft_id, "members are numbered from 1 up")?;
            check_host_port(&key("raft"), &member.raft)?;
            check_host_port(&key("broker"), &member.broker)?;
            if self.members[..m].iter().any(|other| other.raft_id == member.raft_id) {
                return Err(ConfigError::Value {
                    key: key("raft_id"),
                    value: member.raft_id.to_string(),
                    mend: "another member of the group has it, numbers are unique".to_owned(),
                });
            }
        }
        if let Some(preferred) = self.preferred_leader
            && self.member(preferred).is_none()
        {
            return Err(ConfigError::Conflict {
                first: key("preferred_leader"),
                second: key("members"),
                mend: format!("no member has raft_id {preferred}, name one of them or none"),
            });
        }
        if self.member(self.raft_id).is_none() {
            return Err(ConfigError::Conflict {
                first: key("raft_id"),
                second: key("members"),
                mend: format!("no member has raft_id {}, list this node too", self.raft_id),
            });
        }
        Ok(())
    }
}

fn check(right: bool, key: &str, value: impl ToString, mend: &str) -> Result<(), ConfigError> {
    if right {
        return Ok(());
    }
    Err(ConfigError::Value { key: key.to_owned(), value: value.to_string(), mend: mend.to_owned() })
}

fn check_name(key: &str, name: &str) -> Result<(), ConfigError> {
    let right = (1..=127).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
    check(right, key, format!("{name:?}"), "use 1 to 127 letters, digits, '_' and '-'")
}

fn check_host_port(key: &str, address: &str) -> Result<(), ConfigError> {
    let right = address.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && port.parse::<u16>().is_ok() && !host.contains(char::is_whitespace)
    });
    check(right, key, format!("{address:?}"), "write host:port, for example 127.0.0.1:10911")
}

fn default_cluster() -> String {
    "DefaultCluster".to_owned()
}

fn default_raft_listen() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 10912))
}

fn default_http_listen() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 5557))
}

fn default_namesrv() -> Vec<String> {
    vec!["127.0.0.1:9876".to_owned()]
}

fn default_retention_ms() -> u64 {
    72 * 3_600_000
}

fn default_lag_hold_bytes() -> u64 {
    20 << 30
}

fn default_snapshot_linger_ms() -> u64 {
    30_000
}

fn default_delay_max_ms() -> u64 {
    40 * 86_400_000
}

fn default_lag_hold_ms() -> u64 {
    3_600_000
}

fn default_drain_linger_ms() -> u64 {
    35_000
}

fn yes() -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
        cluster_id = "6f0f7d52-65b0-4a57-b1c2-0d7e3a5b1a01"
        node_id = 1
        data_dir = "/tmp/data"
        [[groups]]
        name = "broker-a"
        id = "6f0f7d52-65b0-4a57-b1c2-0d7e3a5b1a02"
        raft_id = 1
        listen = "127.0.0.1:10911"
        members = [
            { raft_id = 1, replica = "6f0f7d52-65b0-4a57-b1c2-0d7e3a5b1a03", raft = "127.0.0.1:10912", broker = "127.0.0.1:10911" },
            { raft_id = 2, replica = "6f0f7d52-65b0-4a57-b1c2-0d7e3a5b1a04", raft = "127.0.0.1:20912", broker = "127.0.0.1:20911" },
        ]
    "#;

    fn parse(text: &str) -> Result<BrokerConfig, String> {
        let config: BrokerConfig = toml::from_str(text).map_err(|error| error.to_string())?;
        config.validate().map_err(|error| error.to_string())?;
        Ok(config)
    }

    /// A minimal file must work, and survive being written and read again (`ledgermq dev` writes it).
    #[test]
    fn a_minimal_file_gets_the_defaults_and_round_trips() {
        let config = parse(GOOD).unwrap();
        assert_eq!(config.http_listen.port(), 5557);
        assert_eq!(config.groups[0].advertised(), "127.0.0.1:10911");
        let again = parse(&toml::to_string(&config).unwrap()).unwrap();
        assert_eq!(config, again);
    }

    /// Over TLS the Raft address needs no other protection; the clients' ones still do.
    #[test]
    fn peer_tls_stands_for_insecure_on_the_raft_address() {
        let tls = "peer_tls = { cert = \"a.pem\", key = \"b.pem\", ca = \"c.pem\" }";
        let text = GOOD.replacen("node_id = 1", &format!("node_id = 1\nraft_listen = \"0.0.0.0:1\"\n{tls}"), 1);
        let config = parse(&text).unwrap();
        assert_eq!(parse(&toml::to_string(&config).unwrap()).unwrap(), config);
        let error = parse(&text.replacen("ca = \"c.pem\"", "ca = \"c.pem\", pin = 1", 1)).unwrap_err();
        assert!(error.contains("pin"), "{error}");
        let open = text.replacen("listen = \"127.0.0.1:10911\"", "listen = \"10.0.0.1:10911\"", 1);
        assert!(parse(&open).unwrap_err().contains("insecure"));
    }

    /// A wrong key or value must be refused with its name, so that a typing error never means a default.
    #[test]
    fn each_bad_key_is_named() {
        let bad: [(&str, &str, &[&str]); 17] = [
            ("node_id = 1", "node_id = 1\nnode_name = \"x\"", &["node_name"]),
            ("node_id = 1", "node_id = 0", &["node_id"]),
            ("node_id = 1", "node_id = 1\nflush = \"never\"", &["never", "sync", "async"]),
            ("node_id = 1", "node_id = 1\nlimits = { idle_ms = 5 }", &["limits.idle_ms", "1000"]),
            ("node_id = 1", "node_id = 1\nraft_listen = \"0.0.0.0:1\"", &["raft_listen", "insecure"]),
            ("node_id = 1", "node_id = 1\nhttp_listen = \"127.0.0.1:10911\"", &["http_listen", "groups[0].listen"]),
            ("name = \"broker-a\"", "name = \"../x\"", &["groups[0].name"]),
            ("raft_id = 1\n        listen", "raft_id = 7\n        listen", &["groups[0].raft_id", "members"]),
            (
                "raft_id = 1\n        listen",
                "raft_id = 1\n        preferred_leader = 9\n        listen",
                &["preferred_leader", "members"],
            ),
            ("node_id = 1", "node_id = 1\ndisk_keep_bytes = 5", &["disk_keep_bytes", "67108864"]),
            ("node_id = 1", "node_id = 1\nretention_ms = 999", &["retention_ms", "1000"]),
            ("node_id = 1", "node_id = 1\nretention_bytes = 7", &["retention_bytes", "1048576"]),
            ("node_id = 1", "node_id = 1\nlag_hold_ms = 7", &["lag_hold_ms", "1000"]),
            ("node_id = 1", "node_id = 1\ndelay_max_ms = 7", &["delay_max_ms", "1000"]),
            ("node_id = 1", "node_id = 1\ndrain_linger_ms = 600001", &["drain_linger_ms", "600000"]),
            ("node_id = 1", "node_id = 1\nsnapshot_linger_ms = 9", &["snapshot_linger_ms", "1000", "3600000"]),
            ("raft_id = 2,", "raft_id = 1,", &["groups[0].members[1].raft_id"]),
        ];
        for (from, to, names) in bad {
            let text = GOOD.replacen(from, to, 1);
            assert_ne!(text, GOOD);
            let error = parse(&text).expect_err(to);
            for name in names {
                assert!(error.contains(name), "{error} should name {name}");
            }
        }
    }
}

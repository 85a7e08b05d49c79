//! What a name server is told at start.
//!
//! Read once by `ledgermq namesrv` (and made by `ledgermq dev`), checked as a whole by [`NamesrvConfig::validate`] before a port
//! is bound. An unknown key is refused, never ignored.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The whole file. `Default` is the production setting on a loopback address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NamesrvConfig {
    /// Address that brokers and clients connect to. Default `127.0.0.1:9876`; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Allows an address that is not loopback, while there is no authentication: anyone who reaches it may redirect clients.
    /// Default false.
    pub insecure: bool,
    /// Milliseconds after which a LedgerMQ broker that was not heard of is dropped. Default 10,000; 1,000 to 600,000.
    /// Brokers of Apache RocketMQ speak every 30 s and get the time that they ask for, else 120,000.
    pub expiry_ms: u64,
    /// Longest time after the start in which an unknown topic is answered "not ready" instead of "does not exist", in
    /// milliseconds. Default 10,000; 0 to 600,000. Ends earlier once the brokers have reported.
    pub ready_max_ms: u64,
    /// How long the brokers are given to report at least, in milliseconds. Default 3,000 (three heartbeats of a LedgerMQ broker);
    /// 0 to `ready_max_ms`.
    pub ready_min_ms: u64,
    /// Open connections. Default 10,000; 1 to 1,000,000. One more is closed at once.
    pub connections_max: usize,
    /// Milliseconds without a byte from the peer after which a connection is closed. Default 120,000; 1,000 to 3,600,000.
    pub idle_ms: u64,
    /// Bytes of answers that wait for one peer to read them. Default 8 MiB; 64 KiB to 1 GiB. Above it the connection is closed.
    pub unread_bytes_max: usize,
    /// Bytes of large requests (above 64 KiB) that may be arriving at the same time, over all connections. Default 64 MiB;
    /// 16 MiB to 4 GiB. Above it they wait.
    pub inflight_bytes_max: usize,
    /// Route watches parked at the same time. Default 100,000; 0 to 10,000,000. One more is answered SYSTEM_BUSY.
    pub watches_max: usize,
    /// Broker addresses over all names. Default 4,096; 1 to 100,000. One more is refused.
    pub members_max: usize,
    /// Topics. Default 200,000; 1 to 10,000,000. A registration that brings more is refused.
    pub topics_max: usize,
}

impl Default for NamesrvConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 9876)),
            insecure: false,
            expiry_ms: 10_000,
            ready_max_ms: 10_000,
            ready_min_ms: 3_000,
            connections_max: 10_000,
            idle_ms: 120_000,
            unread_bytes_max: 8 << 20,
            inflight_bytes_max: 64 << 20,
            watches_max: 100_000,
            members_max: 4_096,
            topics_max: 200_000,
        }
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
    #[error("cannot read the config {path}: {error}; name a readable file with -c")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's words.
        error: std::io::Error,
    },
    /// The text is not the TOML that is expected.
    #[error("config {path} is not valid: {}; correct or remove it", one_line(error))]
    Parse {
        /// The file.
        path: PathBuf,
        /// What and where.
        error: Box<toml::de::Error>,
    },
    /// A number is out of range.
    #[error("config key {key} is {value}: give {min} to {max}")]
    Range {
        /// The key.
        key: &'static str,
        /// Its value.
        value: u64,
        /// Smallest allowed value.
        min: u64,
        /// Largest allowed value.
        max: u64,
    },
    /// The address is reachable from elsewhere and nobody said that this is wanted.
    #[error(
        "config key listen is {0}, which other machines can reach, and there is no authentication yet: \
         use a loopback address, or allow it with insecure = true (--insecure)"
    )]
    NotLoopback(SocketAddr),
}

impl NamesrvConfig {
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

    /// Checks every bound.
    ///
    /// # Errors
    /// The first key that is out of its bounds.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let range = |key, value: u64, min, max| {
            if (min..=max).contains(&value) { Ok(()) } else { Err(ConfigError::Range { key, value, min, max }) }
        };
        range("expiry_ms", self.expiry_ms, 1_000, 600_000)?;
        range("ready_max_ms", self.ready_max_ms, 0, 600_000)?;
        range("ready_min_ms", self.ready_min_ms, 0, self.ready_max_ms)?;
        range("connections_max", self.connections_max as u64, 1, 1_000_000)?;
        range("idle_ms", self.idle_ms, 1_000, 3_600_000)?;
        range("unread_bytes_max", self.unread_bytes_max as u64, 64 << 10, 1 << 30)?;
        range("inflight_bytes_max", self.inflight_bytes_max as u64, 16 << 20, 4 << 30)?;
        range("watches_max", self.watches_max as u64, 0, 10_000_000)?;
        range("members_max", self.members_max as u64, 1, 100_000)?;
        range("topics_max", self.topics_max as u64, 1, 10_000_000)?;
        if !self.listen.ip().is_loopback() && !self.insecure {
            return Err(ConfigError::NotLoopback(self.listen));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A key that does nothing, or a value that cannot work, must stop the start and not surprise somebody later.
    #[test]
    fn bad_files_are_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("namesrv.toml");
        let load = |text: &str| {
            std::fs::write(&path, text).unwrap();
            NamesrvConfig::load(&path)
        };
        assert_eq!(load("expiry_ms = 2000").unwrap().expiry_ms, 2000);
        assert!(load("expiry = 2000").unwrap_err().to_string().contains("expiry"));
        assert!(load("expiry_ms = 1").unwrap_err().to_string().contains("expiry_ms is 1: give 1000 to 600000"));
        assert!(load("listen = \"0.0.0.0:9876\"").unwrap_err().to_string().contains("insecure = true"));
        load("listen = \"0.0.0.0:9876\"\ninsecure = true").unwrap();
        assert!(matches!(NamesrvConfig::load(&dir.path().join("none")), Err(ConfigError::Read { .. })));
    }

    /// The defaults must pass their own check.
    #[test]
    fn the_default_is_valid() {
        NamesrvConfig::default().validate().unwrap();
    }
}

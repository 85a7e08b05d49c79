//! What a client is told: how to find the cluster, and its times.

use std::time::Duration;

use crate::error::ConfigError;

/// Most name servers.
pub const NAMESRV_MAX: usize = 8;

/// Longest client id in bytes: what LedgerMQ's brokers take.
const CLIENT_ID_LEN_MAX: usize = 255;

/// Settings that producers, consumers and admin calls of one client share. `Default` needs only the name servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientConfig {
    /// Name servers, "host:port" each; 1 to [`NAMESRV_MAX`]. Any one of them suffices.
    pub namesrvs: Vec<String>,
    /// How often the route of a topic in use is asked for. Default 1 s; 10 ms to 1 h.
    pub route_poll_interval: Duration,
    /// Whether to be told of route changes by name servers that can (LedgerMQ's), beside the polling. Default true.
    pub route_watch: bool,
    /// Longest time to connect. Default 1 s; 1 ms to 1 min.
    pub connect_timeout: Duration,
    /// Longest time that one attempt may take before another one is made. Default 2 s; 1 ms to 1 h. Should be above the time
    /// that a healthy cluster ever needs, since a send that is repeated too early is stored twice.
    pub attempt_timeout: Duration,
    /// Longest time that an operation may take with all its retries. Default 6 s; 1 ms to 1 h.
    pub deadline: Duration,
    /// Most attempts within the deadline. Default 64; 1 to 10,000.
    pub attempts_max: u32,
    /// How often brokers are told that this client's producers and consumers live. Default 30 s; 100 ms to 1 min, since brokers
    /// forget who is silent for 2 min.
    pub heartbeat_interval: Duration,
    /// The id of the client, by which brokers list it and by whose order members of a group share queues; 1 to 255 bytes, no
    /// other client may have it. Default: made of address, process and a number.
    pub client_id: Option<String>,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            namesrvs: vec!["127.0.0.1:9876".to_owned()],
            route_poll_interval: Duration::from_secs(1),
            route_watch: true,
            connect_timeout: Duration::from_secs(1),
            attempt_timeout: Duration::from_secs(2),
            deadline: Duration::from_secs(6),
            attempts_max: 64,
            heartbeat_interval: Duration::from_secs(30),
            client_id: None,
        }
    }
}

impl ClientConfig {
    /// The defaults with these name servers; each may be a list joined by `;`, as RocketMQ's clients take it.
    pub fn new<A: Into<String>>(namesrvs: impl IntoIterator<Item = A>) -> Self {
        let lists = namesrvs.into_iter().map(Into::into);
        let namesrvs = lists.flat_map(|list| list.split(';').map(str::to_owned).collect::<Vec<_>>()).collect();
        Self { namesrvs, ..Self::default() }
    }

    /// Sets [`Self::deadline`].
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Sets [`Self::attempt_timeout`].
    pub fn with_attempt_timeout(mut self, timeout: Duration) -> Self {
        self.attempt_timeout = timeout;
        self
    }

    /// Sets [`Self::attempts_max`].
    pub fn with_attempts_max(mut self, attempts_max: u32) -> Self {
        self.attempts_max = attempts_max;
        self
    }

    /// Sets [`Self::route_poll_interval`].
    pub fn with_route_poll_interval(mut self, interval: Duration) -> Self {
        self.route_poll_interval = interval;
        self
    }

    /// Sets [`Self::route_watch`].
    pub fn with_route_watch(mut self, watch: bool) -> Self {
        self.route_watch = watch;
        self
    }

    /// Sets [`Self::heartbeat_interval`].
    pub fn with_heartbeat_interval(mut self, interval: Duration) -> Self {
        self.heartbeat_interval = interval;
        self
    }

    /// Sets [`Self::client_id`].
    pub fn with_client_id(mut self, client_id: impl Into<String>) -> Self {
        self.client_id = Some(client_id.into());
        self
    }

    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        if self.namesrvs.is_empty() || self.namesrvs.len() > NAMESRV_MAX {
            let value = format!("a list of {}", self.namesrvs.len());
            return Err(ConfigError::Value { key: "namesrvs", value, mend: "give 1 to 8 addresses" });
        }
        for addr in &self.namesrvs {
            let parts = addr.rsplit_once(':').filter(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
            if parts.is_none() {
                return Err(ConfigError::Value { key: "namesrvs", value: addr.clone(), mend: "give host:port" });
            }
        }
        let hour = Duration::from_secs(3600);
        let ms = Duration::from_millis;
        range("route_poll_interval", self.route_poll_interval, ms(10), hour, "give 10 ms to 1 h")?;
        range("connect_timeout", self.connect_timeout, ms(1), ms(60_000), "give 1 ms to 1 min")?;
        range("attempt_timeout", self.attempt_timeout, ms(1), hour, "give 1 ms to 1 h")?;
        range("deadline", self.deadline, ms(1), hour, "give 1 ms to 1 h")?;
        range("heartbeat_interval", self.heartbeat_interval, ms(100), ms(60_000), "give 100 ms to 1 min")?;
        if let Some(id) = self.client_id.as_ref().filter(|id| id.is_empty() || id.len() > CLIENT_ID_LEN_MAX) {
            return Err(ConfigError::Value { key: "client_id", value: id.clone(), mend: "give 1 to 255 bytes" });
        }
        if !(1..=10_000).contains(&self.attempts_max) {
            let value = self.attempts_max.to_string();
            return Err(ConfigError::Value { key: "attempts_max", value, mend: "give 1 to 10,000" });
        }
        Ok(())
    }
}

pub(crate) fn range(
    key: &'static str,
    value: Duration,
    min: Duration,
    max: Duration,
    mend: &'static str,
) -> Result<(), ConfigError> {
    if value < min || value > max {
        return Err(ConfigError::Value { key, value: format!("{value:?}"), mend });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Would break: a list of name servers as RocketMQ's users write it, or as a local cluster's file does.
    #[test]
    fn name_servers_of_a_list_are_told_apart() {
        assert_eq!(ClientConfig::new(["127.0.0.1:1"]).namesrvs, ["127.0.0.1:1"]);
        assert_eq!(ClientConfig::new(["127.0.0.1:1;127.0.0.1:2"]).namesrvs, ["127.0.0.1:1", "127.0.0.1:2"]);
    }
}

//! Small questions to a running cluster: does a node answer its probe, and who leads.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use ledgermq_client::{Client, ClientConfig};
use ledgermq_protocol::route::LEADER_ID;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Time for a node to answer a probe.
const HTTP_TIMEOUT: Duration = Duration::from_secs(2);

/// Longest answer to a probe that is read.
const ANSWER_MAX: u64 = 64 << 10;

/// Time for a name server to say who leads.
const LEADERS_TIMEOUT: Duration = Duration::from_secs(1);

/// Whether `GET path` is answered with 200.
pub(crate) async fn http_ok(address: SocketAddr, path: &str) -> bool {
    http_text(address, path).await.is_some()
}

/// The body of a `GET path` that is answered with 200.
pub(crate) async fn http_text(address: SocketAddr, path: &str) -> Option<String> {
    let ask = async {
        let mut socket = TcpStream::connect(address).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        socket.take(ANSWER_MAX).read_to_end(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = tokio::time::timeout(HTTP_TIMEOUT, ask).await.ok()?.ok()?;
    let text = String::from_utf8_lossy(&answer);
    let (head, body) = text.split_once("\r\n\r\n")?;
    head.starts_with("HTTP/1.1 200").then(|| body.to_owned())
}

/// Asks one name server, over one connection, who leads.
pub(crate) struct LeaderProbe {
    client: Client,
}

impl LeaderProbe {
    /// For the name servers at `namesrv`, joined by `;`; connects when asked.
    pub(crate) fn new(namesrv: &str) -> Result<LeaderProbe> {
        let config = ClientConfig::new([namesrv])
            .with_deadline(LEADERS_TIMEOUT)
            .with_attempt_timeout(LEADERS_TIMEOUT)
            .with_attempts_max(1)
            .with_route_watch(false);
        Ok(LeaderProbe { client: Client::new(config)? })
    }

    /// The address that leads each broker name; a broker name without a leader is missing.
    pub(crate) async fn leaders(&self) -> Result<BTreeMap<String, String>> {
        let cluster = self.client.admin().cluster().await.context("the name server does not tell who leads")?;
        let leader = |addresses: &BTreeMap<i64, String>| addresses.get(&LEADER_ID).cloned();
        Ok(cluster
            .broker_addr_table
            .into_iter()
            .filter_map(|(name, broker)| Some((name, leader(&broker.broker_addrs)?)))
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    async fn answer(with: &'static [u8]) -> bool {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut request = [0; 256];
            let _ = socket.read(&mut request).await.unwrap();
            socket.write_all(with).await.unwrap();
        });
        let ok = http_ok(address, "/healthz").await;
        server.await.unwrap();
        ok
    }

    /// Would break: waiting for a node that is there, or not waiting for one that is not.
    #[tokio::test]
    async fn only_a_200_counts() {
        assert!(answer(b"HTTP/1.1 200 OK\r\n\r\nok\n").await);
        assert!(!answer(b"HTTP/1.1 503 Service Unavailable\r\n\r\n").await);
        assert!(!answer(b"").await);
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        assert!(!http_ok(free, "/healthz").await);
    }
}

//! `/healthz`, `/readyz` and `/metrics`: three answers for whoever watches the process, over the smallest HTTP/1.1 that serves them.
//!
//! Stands beside the Remoting servers and asks the node through [`Readiness`]. It reads one bounded request per connection,
//! answers and closes; it never takes a request body and never touches messages.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// Longest request head; probes send some hundred bytes.
const REQUEST_MAX: usize = 4096;

/// Connections at a time; one more waits in the listener's backlog.
const CONNECTIONS_MAX: usize = 64;

/// Time for a whole exchange.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(5);

/// What `/readyz` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadyReport {
    /// Whether every group has a leader that serves, and this node has applied what it knows to be committed.
    pub ready: bool,
    /// One line per group, for people.
    pub text: String,
}

/// Who knows whether the node is ready.
pub trait Readiness: Send + Sync + 'static {
    /// The current report.
    fn report(&self) -> impl Future<Output = ReadyReport> + Send;

    /// Figures in the text format of Prometheus.
    fn metrics(&self) -> String;
}

/// Serves until the task is aborted.
pub async fn serve<R: Readiness>(listener: TcpListener, readiness: Arc<R>) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let slot = Arc::clone(&slots).acquire_owned().await.expect("the semaphore is never closed");
        match listener.accept().await {
            Ok((socket, _)) => {
                let readiness = Arc::clone(&readiness);
                tokio::spawn(async move {
                    let _slot = slot;
                    // A probe that hangs up or stalls gets nothing, and nobody has to know.
                    let _ = tokio::time::timeout(EXCHANGE_TIMEOUT, exchange(socket, &*readiness)).await;
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept an HTTP connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn exchange<R: Readiness>(mut socket: TcpStream, readiness: &R) -> std::io::Result<()> {
    let mut head = Vec::with_capacity(512);
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if head.len() >= REQUEST_MAX {
            return respond(
                &mut socket,
                "431 Request Header Fields Too Large",
                "the request head is over 4096 bytes\n",
            )
            .await;
        }
        let room = REQUEST_MAX - head.len();
        if (&mut socket).take(room as u64).read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let mut words = line.split(|byte| *byte == b' ');
    match (words.next(), words.next()) {
        (Some(b"GET" | b"HEAD"), Some(b"/healthz")) => respond(&mut socket, "200 OK", "ok\n").await,
        (Some(b"GET" | b"HEAD"), Some(b"/readyz")) => {
            let report = readiness.report().await;
            let status = if report.ready { "200 OK" } else { "503 Service Unavailable" };
            respond(&mut socket, status, &report.text).await
        }
        (Some(b"GET" | b"HEAD"), Some(b"/metrics")) => respond(&mut socket, "200 OK", &readiness.metrics()).await,
        (Some(b"GET" | b"HEAD"), Some(_)) => {
            respond(&mut socket, "404 Not Found", "know /healthz, /readyz and /metrics\n").await
        }
        (Some(_), Some(_)) => respond(&mut socket, "405 Method Not Allowed", "only GET\n").await,
        _ => respond(&mut socket, "400 Bad Request", "not an HTTP request\n").await,
    }
}

async fn respond(socket: &mut TcpStream, status: &str, text: &str) -> std::io::Result<()> {
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}",
        text.len()
    );
    socket.write_all(answer.as_bytes()).await?;
    socket.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed(bool);

    impl Readiness for Fixed {
        async fn report(&self) -> ReadyReport {
            ReadyReport { ready: self.0, text: "broker-a: leader 1\n".to_owned() }
        }

        fn metrics(&self) -> String {
            "ledgermq_leads 1\n".to_owned()
        }
    }

    async fn ask(ready: bool, request: &[u8]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(serve(listener, Arc::new(Fixed(ready))));
        let mut socket = TcpStream::connect(address).await.unwrap();
        socket.write_all(request).await.unwrap();
        let mut answer = String::new();
        // A server that closes with unread bytes behind it resets the connection: what came before that counts.
        let _ = socket.read_to_string(&mut answer).await;
        server.abort();
        answer
    }

    /// A probe must tell a serving node from one that only runs, and bad requests must be answered, not hang.
    #[tokio::test]
    async fn probes_are_answered_by_path_and_state() {
        assert!(ask(false, b"GET /healthz HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 200"));
        assert!(ask(true, b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n").await.contains("broker-a: leader 1"));
        assert!(ask(false, b"GET /readyz HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 503"));
        assert!(ask(true, b"GET /metrics HTTP/1.1\r\n\r\n").await.contains("ledgermq_leads 1"));
        assert!(ask(true, b"GET /etc/passwd HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 404"));
        assert!(ask(true, b"POST /healthz HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 405"));
        assert!(ask(true, b"\x00\x00\r\n\r\n").await.starts_with("HTTP/1.1 400"));
        assert!(ask(true, &[b'x'; REQUEST_MAX]).await.starts_with("HTTP/1.1 431"));
    }
}

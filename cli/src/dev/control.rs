//! The unix socket in the cluster's folder, through which `ledgermq dev restart-node` and the drills ask the running
//! supervisor for something: a restarted node must be the supervisor's own child, or it would outlive the cluster.
//!
//! One JSON line in, one JSON line out, then the connection ends.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};

/// Name of the socket inside the cluster's folder.
const SOCKET_NAME: &str = "dev.sock";

/// Longest line either way.
const LINE_MAX: u64 = 4096;

/// Time for a request to arrive; a supervisor must not wait for a silent visitor.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Requests that wait for the supervisor.
const WAITING_MAX: usize = 16;

/// What can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Request {
    /// Start a node that does not run; answered once its process answers `/healthz`.
    RestartNode {
        /// Number of the node.
        id: u64,
    },
    /// Give out the number of a node that is to be added, and keep it in the plan.
    PlanNode,
    /// Stop a node and forget it.
    RemoveNode {
        /// Number of the node.
        id: u64,
    },
    /// Start a name server that does not run; answered at once.
    RestartNamesrv {
        /// Number of the name server, from 1.
        n: u64,
    },
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reply {
    /// The node runs, as this process.
    Started {
        /// Its pid.
        pid: u32,
    },
    /// The plan says so now.
    Planned {
        /// Number of the node.
        id: u64,
    },
    /// It was not done, for this reason.
    Refused(String),
}

/// A request that waits for its answer.
pub(crate) struct Asked {
    pub(crate) request: Request,
    pub(crate) answer: oneshot::Sender<Reply>,
}

/// The listening side. Removes its socket when dropped.
pub(crate) struct ControlServer {
    socket: PathBuf,
    asked: mpsc::Receiver<Asked>,
    task: tokio::task::JoinHandle<()>,
}

impl ControlServer {
    /// Listens in `dir`. The caller holds the folder's lock: a socket that is there already is a dead supervisor's.
    pub(crate) fn listen(dir: &Path) -> Result<ControlServer> {
        let socket = dir.join(SOCKET_NAME);
        match std::fs::remove_file(&socket) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove the old {}", socket.display()));
            }
            _ => {}
        }
        let (_folder, short) = short_path(dir)?;
        let listener = UnixListener::bind(&short).with_context(|| format!("cannot listen on {}", socket.display()))?;
        let (sender, asked) = mpsc::channel(WAITING_MAX);
        let task = tokio::spawn(async move {
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => {
                        tokio::spawn(serve(stream, sender.clone()));
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept on the control socket");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                }
            }
        });
        Ok(ControlServer { socket, asked, task })
    }

    /// The next request.
    pub(crate) async fn next(&mut self) -> Option<Asked> {
        self.asked.recv().await
    }
}

impl Drop for ControlServer {
    fn drop(&mut self) {
        self.task.abort();
        let _ = std::fs::remove_file(&self.socket);
    }
}

async fn serve(stream: UnixStream, supervisor: mpsc::Sender<Asked>) {
    if let Err(error) = exchange(stream, supervisor).await {
        tracing::debug!(%error, "a control connection ended early");
    }
}

async fn exchange(stream: UnixStream, supervisor: mpsc::Sender<Asked>) -> Result<()> {
    let (input, mut output) = stream.into_split();
    let mut line = String::new();
    tokio::time::timeout(REQUEST_TIMEOUT, BufReader::new(input.take(LINE_MAX)).read_line(&mut line)).await??;
    let reply = match serde_json::from_str(&line) {
        Ok(request) => {
            let (answer, wait) = oneshot::channel();
            supervisor.send(Asked { request, answer }).await.map_err(|_| anyhow!("the supervisor is stopping"))?;
            wait.await.unwrap_or_else(|_| Reply::Refused("the cluster is stopping".into()))
        }
        Err(error) => Reply::Refused(format!("not a request: {error}")),
    };
    let mut text = serde_json::to_string(&reply)?;
    text.push('\n');
    output.write_all(text.as_bytes()).await?;
    Ok(())
}

/// Asks the supervisor of the cluster in `dir`.
pub(crate) async fn ask(dir: &Path, request: &Request) -> Result<Reply> {
    let (_folder, short) = short_path(dir)?;
    let stream = UnixStream::connect(&short)
        .await
        .with_context(|| format!("no cluster runs in {}: start it with `ledgermq dev --dir {0}`", dir.display()))?;
    let (input, mut output) = stream.into_split();
    let mut text = serde_json::to_string(request)?;
    text.push('\n');
    output.write_all(text.as_bytes()).await.context("the cluster's supervisor went away")?;
    let mut line = String::new();
    BufReader::new(input.take(LINE_MAX)).read_line(&mut line).await.context("the cluster's supervisor went away")?;
    if line.is_empty() {
        bail!("the cluster's supervisor went away before it answered");
    }
    serde_json::from_str(&line).context("the cluster's supervisor speaks another version")
}

/// A path of few bytes to the socket in `dir`: socket addresses end after 107 bytes, folders of tests do not.
fn short_path(dir: &Path) -> Result<(File, PathBuf)> {
    let folder = File::open(dir).with_context(|| format!("cannot open the folder {}", dir.display()))?;
    let path = PathBuf::from(format!("/proc/self/fd/{}/{SOCKET_NAME}", folder.as_raw_fd()));
    Ok((folder, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Would break: restarting a node of a cluster whose folder has a long name.
    #[tokio::test]
    async fn a_request_reaches_the_supervisor_of_a_deep_folder() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("d".repeat(120));
        std::fs::create_dir(&dir).unwrap();
        let mut server = ControlServer::listen(&dir).unwrap();
        let client = tokio::spawn({
            let dir = dir.clone();
            async move { ask(&dir, &Request::RestartNode { id: 2 }).await }
        });
        let asked = server.next().await.unwrap();
        assert_eq!(asked.request, Request::RestartNode { id: 2 });
        asked.answer.send(Reply::Started { pid: 77 }).unwrap();
        assert_eq!(client.await.unwrap().unwrap(), Reply::Started { pid: 77 });
    }

    /// Would break: a supervisor that falls over, or hangs, on a foreign line.
    #[tokio::test]
    async fn a_foreign_line_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let _server = ControlServer::listen(dir.path()).unwrap();
        let mut stream = UnixStream::connect(dir.path().join(SOCKET_NAME)).await.unwrap();
        stream.write_all(b"{\"op\":\"format-disk\"}\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.contains("refused") && answer.contains("format-disk"), "{answer}");
    }

    /// Would break: a clear answer when nothing runs.
    #[tokio::test]
    async fn without_a_cluster_the_error_says_how_to_start_one() {
        let dir = tempfile::tempdir().unwrap();
        let error = ask(dir.path(), &Request::RestartNode { id: 1 }).await.unwrap_err();
        assert!(error.to_string().contains("ledgermq dev --dir"), "{error}");
    }
}

//! Calls from the broker to a connected client: what waits for the client's answer.
//!
//! A handler makes a [`Connection::call`](super::outbox::Connection::call); the request goes out with everything else that the
//! connection's writer sends, and its reader hands responses to `Calls::answer`. Most connections are never called: until then the
//! table has allocated nothing, and nothing but a response or the connection's end looks at it.

use std::collections::HashMap;
use std::time::Duration;

use ledgermq_protocol::remoting::command::RemotingCommand;
use parking_lot::Mutex;
use thiserror::Error;
use tokio::sync::oneshot;

/// Calls of one connection that may wait for their answers at a time: each may bring a frame of the greatest size.
pub const CALLS_MAX: usize = 64;

/// Why a call has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum CallError {
    /// Too many calls wait for this client.
    #[error("{CALLS_MAX} calls wait for this client already")]
    Full,
    /// The connection ended, before or while the client was asked: it may have done what it was asked.
    #[error("the connection to the client ended")]
    Closed,
    /// The client did not answer: it may have done what it was asked, or still do it.
    #[error("the client did not answer within {0:?}")]
    TimedOut(Duration),
}

/// The calls of one connection.
#[derive(Debug, Default)]
pub(super) struct Calls {
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    /// Number of the next call: ours, apart from those of the client's own requests.
    next: i32,
    waiting: HashMap<i32, oneshot::Sender<RemotingCommand>>,
    /// No answer can come any more.
    ended: bool,
}

/// A call that waits. Dropped, it is forgotten: a late answer is nobody's.
#[derive(Debug)]
pub(super) struct Waiting<'a> {
    calls: &'a Calls,
    pub(super) opaque: i32,
    answer: oneshot::Receiver<RemotingCommand>,
}

impl Calls {
    /// Takes a place for a call.
    ///
    /// # Errors
    /// [`CallError::Full`], or [`CallError::Closed`] when no answer can come.
    pub(super) fn begin(&self) -> Result<Waiting<'_>, CallError> {
        let mut table = self.table.lock();
        if table.ended {
            return Err(CallError::Closed);
        }
        if table.waiting.len() >= CALLS_MAX {
            return Err(CallError::Full);
        }
        let opaque = table.next;
        table.next = table.next.wrapping_add(1);
        let (sender, answer) = oneshot::channel();
        table.waiting.insert(opaque, sender);
        Ok(Waiting { calls: self, opaque, answer })
    }

    /// Takes a response that came. One that nobody waits for is dropped.
    pub(super) fn answer(&self, response: RemotingCommand) {
        let waiting = self.table.lock().waiting.remove(&response.opaque);
        if let Some(waiting) = waiting {
            // Given up in this very moment.
            let _ = waiting.send(response);
        }
    }

    /// No answer can come any more: whoever waits learns it at once.
    pub(super) fn end(&self) {
        let waiting = {
            let mut table = self.table.lock();
            table.ended = true;
            std::mem::take(&mut table.waiting)
        };
        drop(waiting);
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.table.lock().waiting.len()
    }
}

impl Waiting<'_> {
    /// The answer.
    ///
    /// # Errors
    /// [`CallError::TimedOut`] after `timeout`, [`CallError::Closed`] as soon as none can come.
    pub(super) async fn answered(mut self, timeout: Duration) -> Result<RemotingCommand, CallError> {
        match tokio::time::timeout(timeout, &mut self.answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(CallError::Closed),
            Err(_) => Err(CallError::TimedOut(timeout)),
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.calls.table.lock().waiting.remove(&self.opaque);
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::Arc;

    use ledgermq_protocol::remoting::command::SerializeType;

    use super::super::outbox::{CloseReason, Connection, Outgoing};
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn connection() -> Arc<Connection> {
        Connection::new(1, SocketAddr::from(([127, 0, 0, 1], 1)), 1 << 20)
    }

    fn calling(
        connection: &Arc<Connection>,
        code: i32,
        timeout: Duration,
    ) -> tokio::task::JoinHandle<Result<RemotingCommand, CallError>> {
        let connection = Arc::clone(connection);
        tokio::spawn(async move { connection.call(RemotingCommand::request(code, 77), timeout).await })
    }

    /// What the client is sent, once there are so many.
    async fn sent(connection: &Connection, count: usize) -> Vec<RemotingCommand> {
        let mut sent = Vec::new();
        while sent.len() < count {
            for item in connection.take(Vec::new()).await.unwrap() {
                match item {
                    Outgoing::Command(command) => sent.push(command),
                    other => panic!("{other:?}"),
                }
            }
            connection.written(1);
        }
        sent
    }

    fn response(to: &RemotingCommand, code: i32) -> RemotingCommand {
        RemotingCommand::response(code, to.opaque, SerializeType::Json)
    }

    /// Answers come in any order; one given to another call would tell an admin another client's state.
    #[tokio::test]
    async fn each_call_gets_its_own_answer() {
        let connection = connection();
        let calls: Vec<_> = (0..10).map(|code| calling(&connection, code, LONG)).collect();
        let sent = sent(&connection, 10).await;
        for request in sent.iter().rev() {
            assert!(!request.is_oneway() && !request.is_response());
            connection.answered(response(request, 100 + request.code));
        }
        for (code, call) in (100..).zip(calls) {
            assert_eq!(call.await.unwrap().unwrap().code, code);
        }
        // Twice, or to what was never asked: dropped.
        connection.answered(response(&sent[0], 0));
        assert_eq!(connection.calls.len(), 0);
    }

    /// A client that never answers must not pile calls up, nor keep its callers for ever.
    #[tokio::test(start_paused = true)]
    async fn calls_are_bounded_and_time_out() {
        let connection = connection();
        let timeout = Duration::from_secs(5);
        let calls: Vec<_> = (0..CALLS_MAX as i32).map(|code| calling(&connection, code, timeout)).collect();
        let sent = sent(&connection, CALLS_MAX).await;
        assert_eq!(connection.call(RemotingCommand::request(1, 0), timeout).await, Err(CallError::Full));
        for call in calls {
            assert_eq!(call.await.unwrap(), Err(CallError::TimedOut(timeout)));
        }
        assert_eq!(connection.calls.len(), 0, "those that timed out have made room");
        let late = calling(&connection, 9, timeout);
        connection.answered(response(&sent[0], 7));
        assert_eq!(late.await.unwrap(), Err(CallError::TimedOut(timeout)), "a late answer is no other call's");
    }

    /// A caller must not wait for a client that is gone; nor may a call wait that comes after the end.
    #[tokio::test]
    async fn the_end_of_the_connection_ends_its_calls() {
        for ended in [|c: &Connection| c.end(), |c: &Connection| c.close(CloseReason::Peer)] {
            let connection = connection();
            let call = calling(&connection, 1, LONG);
            sent(&connection, 1).await;
            ended(&connection);
            assert_eq!(call.await.unwrap(), Err(CallError::Closed));
            assert_eq!(connection.call(RemotingCommand::request(1, 0), LONG).await, Err(CallError::Closed));
        }
    }

    /// A caller that gives up leaves nothing behind.
    #[tokio::test]
    async fn a_call_that_is_given_up_is_forgotten() {
        let connection = connection();
        let call = calling(&connection, 1, LONG);
        sent(&connection, 1).await;
        assert_eq!(connection.calls.len(), 1);
        call.abort();
        assert!(call.await.is_err());
        assert_eq!(connection.calls.len(), 0);
    }
}

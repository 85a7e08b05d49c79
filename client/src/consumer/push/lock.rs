//! The lock of a queue, for consumers that consume in order: while it is held, no other member of the group is given messages of
//! the queue.
//!
//! Brokers hold a lock for 60 s after it was last asked for; here it counts for half of that, so that clocks need not agree. A
//! member that cannot renew its lock in that time stops before another one can get it.

use std::sync::Arc;
use std::time::Duration;

use ledgermq_protocol::json::Body;
use ledgermq_protocol::json::object_map::MessageQueue;
use ledgermq_protocol::lock::{LockBatchRequest, LockBatchResponse};
use ledgermq_protocol::remoting::command::RemotingCommand;
use ledgermq_protocol::remoting::request_code::RequestCode;
use ledgermq_protocol::remoting::response_code::ResponseCode;
use tokio::time::Instant;

use super::Shared;
use crate::core::{Ask, refused};
use crate::error::CallError;
use crate::retry::Attempts;

/// How long a lock counts from the moment at which it was asked for.
const VALID_FOR: Duration = Duration::from_secs(30);

/// How often it is renewed.
const RENEW_INTERVAL: Duration = Duration::from_secs(10);

/// Pause before a lock is asked for again that another member has, or that could not be asked for.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// Longest time of one question, with all its retries.
const ASK_DEADLINE: Duration = Duration::from_secs(5);

/// Most attempts of one question.
const ASK_ATTEMPTS_MAX: u32 = 32;

/// A lock, as far as this member knows.
#[derive(Debug, Clone, Copy)]
pub(super) struct QueueLock {
    /// Until when it counts.
    valid_until: Instant,
    /// When to ask for it again.
    ask_at: Instant,
}

/// What a broker said.
pub(super) type Granted = (Instant, Result<bool, CallError>);

impl QueueLock {
    /// One that is not held yet.
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self { valid_until: now, ask_at: now }
    }

    pub(super) fn is_held(&self, now: Instant) -> bool {
        now < self.valid_until
    }

    pub(super) fn valid_until(&self) -> Instant {
        self.valid_until
    }

    pub(super) fn ask_at(&self) -> Instant {
        self.ask_at
    }

    /// Takes an answer in. A refusal ends the lock at once; no answer lets it run out.
    pub(super) fn answered(&mut self, asked_at: Instant, granted: &Result<bool, CallError>) {
        let now = Instant::now();
        match granted {
            Ok(true) => (self.valid_until, self.ask_at) = (asked_at + VALID_FOR, asked_at + RENEW_INTERVAL),
            Ok(false) => (self.valid_until, self.ask_at) = (now, now + RETRY_PAUSE),
            Err(_) => self.ask_at = now + RETRY_PAUSE,
        }
    }
}

/// Asks the leader for the lock, or for more time.
pub(super) async fn ask(shared: Arc<Shared>, queue: MessageQueue) -> Granted {
    let asked_at = Instant::now();
    let granted = call(&shared, RequestCode::LOCK_BATCH_MQ, &queue).await.and_then(|(addr, answer)| {
        let held = LockBatchResponse::from_json(&answer.body)
            .map_err(|error| CallError::Malformed { addr, why: error.to_string() })?;
        Ok(held.lock_ok_mq_set.contains(&queue))
    });
    (asked_at, granted)
}

/// Gives the lock back. When that fails it runs out.
pub(super) async fn give_back(shared: &Shared, queue: &MessageQueue) -> Result<(), CallError> {
    call(shared, RequestCode::UNLOCK_BATCH_MQ, queue).await.map(|_| ())
}

async fn call(shared: &Shared, code: i32, queue: &MessageQueue) -> Result<(String, RemotingCommand), CallError> {
    let body = LockBatchRequest {
        client_id: shared.core.membership.client_id().to_owned(),
        consumer_group: shared.config.group.clone(),
        mq_set: vec![queue.clone()],
        only_this_broker: true,
    };
    let request = RemotingCommand::request(code, 0).with_body(body.to_json());
    let timeout = shared.core.config.attempt_timeout.min(ASK_DEADLINE / 2);
    // To lock or unlock twice is to do it once.
    let ask = Ask { broker_name: &queue.broker_name, topic: Some(&queue.topic), timeout, is_read: true };
    let mut attempts = Attempts::new(ASK_DEADLINE, ASK_ATTEMPTS_MAX);
    let passes = |code| matches!(code, ResponseCode::SYSTEM_ERROR | ResponseCode::SYSTEM_BUSY);
    let (addr, answer) = shared.core.call(&ask, &request, &mut attempts, passes).await?;
    if answer.code == ResponseCode::SUCCESS {
        return Ok((addr, answer));
    }
    Err(attempts.give_up(refused(addr, answer).cause))
}

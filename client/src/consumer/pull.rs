//! Assigned pull consumer: the caller says which queue and from where, and keeps or commits its own offsets.
//!
//! Each pull goes to the leader of the queue's broker name and follows it as it changes. Nothing is fetched ahead and nothing is
//! committed unasked. It is no member of its group: brokers do not list it, and it takes no part in the sharing of queues.

use std::sync::Arc;
use std::time::Duration;

use ledgermq_protocol::json::object_map::MessageQueue;
use ledgermq_protocol::message::record::Records;
use ledgermq_protocol::names;
use ledgermq_protocol::remoting::command::RemotingCommand;
use ledgermq_protocol::remoting::headers::offset::{
    Boundary, MaxOffset, MinOffset, OffsetResponse, QueryConsumerOffset, SearchOffset, UpdateConsumerOffset,
};
use ledgermq_protocol::remoting::headers::pull::{FLAG_SUBSCRIPTION, FLAG_SUSPEND, PullMessage, PullMessageResponse};
use ledgermq_protocol::remoting::request_code::RequestCode;
use ledgermq_protocol::remoting::response_code::ResponseCode;

use super::filter::Filter;
use crate::core::{Ask, Core};
use crate::error::{CallError, Cause, ConfigError, PullError, RouteProblem};
use crate::message::ReceivedMessage;
use crate::retry::Attempts;

/// Most messages that one pull asks for.
const PULL_MAX: u32 = 1_024;

/// Longest time that a pull may be held by the broker.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// Settings of a pull consumer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullConsumerConfig {
    /// Consumer group, whose offsets it reads and commits; 1 to 120 of `%|a-zA-Z0-9_-`.
    pub group: String,
    /// Which messages. Default all.
    pub filter: Filter,
    /// Whether each body is checked against the checksum in its record. Default true.
    pub check_bodies: bool,
}

impl PullConsumerConfig {
    /// The defaults for a group.
    pub fn new(group: impl Into<String>) -> Self {
        Self { group: group.into(), filter: Filter::all(), check_bodies: true }
    }

    /// Sets [`Self::filter`] to tags: `*` for all, else up to 1,024 separated by `||`.
    pub fn with_tags(self, tags: impl Into<String>) -> Self {
        self.with_filter(Filter::Tags(tags.into()))
    }

    /// Sets [`Self::filter`].
    pub fn with_filter(mut self, filter: Filter) -> Self {
        self.filter = filter;
        self
    }
}

/// What a pull found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullStatus {
    /// Messages (none of them, if the broker's filter by hash let through only others).
    Found,
    /// Nothing at this offset yet.
    NoNewMessage,
    /// Nothing of what was looked at is wanted: go on at the next offset.
    NoMatch,
    /// The offset lies outside of the queue: go on at the next offset, which lies inside.
    OffsetOutOfRange,
}

/// The answer to a pull.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullResult {
    /// What was found.
    pub status: PullStatus,
    /// The messages, in queue order.
    pub messages: Vec<ReceivedMessage>,
    /// Where to go on.
    pub next_offset: i64,
    /// First offset of the queue.
    pub min_offset: i64,
    /// Next offset to be written, as a hint: [`PullConsumer::max_offset`] is exact.
    pub max_offset: i64,
}

/// Pulls from queues that the caller names. Cheap to clone.
#[derive(Debug, Clone)]
pub struct PullConsumer {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    core: Arc<Core>,
    config: PullConsumerConfig,
    /// The wanted tags as texts; `None` for all.
    tags: Option<Vec<String>>,
}

impl PullConsumer {
    pub(crate) fn new(core: Arc<Core>, config: PullConsumerConfig) -> Result<Self, ConfigError> {
        names::check_group(&config.group)?;
        let tags = config.filter.tags("filter")?;
        Ok(Self { inner: Arc::new(Inner { core, config, tags }) })
    }

    /// The queues of `topic` to pull from, sorted.
    ///
    /// # Errors
    /// [`CallError`] when the route cannot be had.
    pub async fn queues(&self, topic: &str) -> Result<Vec<MessageQueue>, CallError> {
        let attempts = self.inner.core.attempts();
        match self.inner.core.routes.route(topic, attempts.deadline()).await {
            Ok(route) if route.read_queues().is_empty() => {
                Err(CallError::NoRoute(RouteProblem::NoQueue { topic: topic.to_owned(), to: "read" }))
            }
            Ok(route) => Ok(route.read_queues().to_vec()),
            Err(problem @ RouteProblem::TopicNotExist(_)) => Err(CallError::NoRoute(problem)),
            Err(problem) => Err(attempts.give_up(Cause::NoRoute(problem))),
        }
    }

    /// Up to `max` messages from `offset` on (1 to 1,024; brokers may return fewer). Without any, the broker holds the request
    /// for up to `wait` (at most 60 s) until one comes.
    ///
    /// # Errors
    /// [`PullError`] after all retries. Pulling again does no harm.
    pub async fn pull(
        &self,
        queue: &MessageQueue,
        offset: i64,
        max: u32,
        wait: Duration,
    ) -> Result<PullResult, PullError> {
        let core = &self.inner.core;
        let _running = core.run();
        let wait = wait.min(WAIT_MAX);
        let mut attempts = Attempts::new(wait + core.config.deadline, core.config.attempts_max);
        let suspend = if wait.is_zero() { 0 } else { FLAG_SUSPEND };
        let header = PullMessage {
            consumer_group: self.inner.config.group.clone(),
            topic: queue.topic.clone(),
            queue_id: queue.queue_id,
            queue_offset: offset,
            max_msg_nums: max.clamp(1, PULL_MAX) as i32,
            sys_flag: FLAG_SUBSCRIPTION | suspend,
            commit_offset: 0,
            suspend_timeout_ms: wait.as_millis() as i64,
            subscription: Some(self.inner.config.filter.expression().to_owned()),
            sub_version: 0,
            expression_type: Some(self.inner.config.filter.expression_type().to_owned()),
            max_msg_bytes: None,
        };
        let request = RemotingCommand::request(RequestCode::PULL_MESSAGE, 0).with_header(&header);
        let timeout = wait + core.config.attempt_timeout;
        let (addr, answer) = self.call(queue, &request, &mut attempts, timeout, true).await?;
        self.inner.read_pull(addr, answer, &attempts)
    }

    /// The group's committed offset, or `None` if it has none for the queue.
    ///
    /// # Errors
    /// [`CallError`] after all retries.
    pub async fn committed_offset(&self, queue: &MessageQueue) -> Result<Option<i64>, CallError> {
        self.query_offset(queue, Some(false)).await
    }

    /// As [`Self::committed_offset`], but a broker may say 0 for a group that is new to a young queue.
    pub(crate) async fn group_offset(&self, queue: &MessageQueue) -> Result<Option<i64>, CallError> {
        self.query_offset(queue, None).await
    }

    async fn query_offset(&self, queue: &MessageQueue, zero_if_none: Option<bool>) -> Result<Option<i64>, CallError> {
        let header = QueryConsumerOffset {
            consumer_group: self.inner.config.group.clone(),
            topic: queue.topic.clone(),
            queue_id: queue.queue_id,
            set_zero_if_not_found: zero_if_none,
        };
        let request = RemotingCommand::request(RequestCode::QUERY_CONSUMER_OFFSET, 0).with_header(&header);
        match self.offset(queue, &request).await {
            Ok(offset) => Ok(Some(offset)),
            Err(CallError::Refused { code: ResponseCode::QUERY_NOT_FOUND, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Commits the group's offset: the next message to consume. Returns once the broker has it.
    ///
    /// # Errors
    /// [`CallError`] after all retries.
    pub async fn commit_offset(&self, queue: &MessageQueue, offset: i64) -> Result<(), CallError> {
        let header = UpdateConsumerOffset {
            consumer_group: self.inner.config.group.clone(),
            topic: queue.topic.clone(),
            queue_id: queue.queue_id,
            commit_offset: offset,
        };
        let request = RemotingCommand::request(RequestCode::UPDATE_CONSUMER_OFFSET, 0).with_header(&header);
        let _running = self.inner.core.run();
        let mut attempts = self.inner.core.attempts();
        let timeout = self.inner.core.config.attempt_timeout;
        let (addr, answer) = self.call(queue, &request, &mut attempts, timeout, false).await?;
        success(addr, answer, &attempts).map(|_| ())
    }

    /// First offset of the queue.
    ///
    /// # Errors
    /// [`CallError`] after all retries.
    pub async fn min_offset(&self, queue: &MessageQueue) -> Result<i64, CallError> {
        let header = MinOffset { topic: queue.topic.clone(), queue_id: queue.queue_id };
        self.offset(queue, &RemotingCommand::request(RequestCode::GET_MIN_OFFSET, 0).with_header(&header)).await
    }

    /// Next offset that the queue will give away: every message acknowledged before this call lies below it.
    ///
    /// # Errors
    /// [`CallError`] after all retries.
    pub async fn max_offset(&self, queue: &MessageQueue) -> Result<i64, CallError> {
        let header = MaxOffset { topic: queue.topic.clone(), queue_id: queue.queue_id, committed: Some(true) };
        self.offset(queue, &RemotingCommand::request(RequestCode::GET_MAX_OFFSET, 0).with_header(&header)).await
    }

    /// The first offset whose message was stored at `timestamp_ms` (since 1970) or later.
    ///
    /// # Errors
    /// [`CallError`] after all retries.
    pub async fn offset_at(&self, queue: &MessageQueue, timestamp_ms: i64) -> Result<i64, CallError> {
        let (topic, queue_id) = (queue.topic.clone(), queue.queue_id);
        let header = SearchOffset { topic, queue_id, timestamp_ms, boundary: Boundary::Lower };
        let request = RemotingCommand::request(RequestCode::SEARCH_OFFSET_BY_TIMESTAMP, 0).with_header(&header);
        self.offset(queue, &request).await
    }

    async fn offset(&self, queue: &MessageQueue, request: &RemotingCommand) -> Result<i64, CallError> {
        let _running = self.inner.core.run();
        let mut attempts = self.inner.core.attempts();
        let timeout = self.inner.core.config.attempt_timeout;
        let (addr, answer) = self.call(queue, request, &mut attempts, timeout, true).await?;
        let (addr, answer) = success(addr, answer, &attempts)?;
        let header: OffsetResponse =
            answer.header().map_err(|error| CallError::Malformed { addr, why: error.to_string() })?;
        Ok(header.offset)
    }

    async fn call(
        &self,
        queue: &MessageQueue,
        request: &RemotingCommand,
        attempts: &mut Attempts,
        timeout: Duration,
        is_read: bool,
    ) -> Result<(String, RemotingCommand), CallError> {
        // The route brings the leader; from the second time on it comes from memory.
        let route = self.inner.core.routes.route(&queue.topic, attempts.deadline()).await;
        match route {
            Err(problem @ RouteProblem::TopicNotExist(_)) => return Err(CallError::NoRoute(problem)),
            Err(problem) => return Err(attempts.give_up(Cause::NoRoute(problem))),
            Ok(_) => {}
        }
        let ask = Ask { broker_name: &queue.broker_name, topic: Some(&queue.topic), timeout, is_read };
        self.inner.core.call(&ask, request, attempts, retries).await
    }
}

fn retries(code: i32) -> bool {
    matches!(
        code,
        ResponseCode::SYSTEM_ERROR
            | ResponseCode::SYSTEM_BUSY
            | ResponseCode::SUBSCRIPTION_NOT_LATEST
            | ResponseCode::FLOW_CONTROL
            | ResponseCode::GO_AWAY
    )
}

fn success(addr: String, answer: RemotingCommand, attempts: &Attempts) -> Result<(String, RemotingCommand), CallError> {
    if answer.code == ResponseCode::SUCCESS {
        return Ok((addr, answer));
    }
    let remark = answer.remark.unwrap_or_default();
    Err(CallError::Refused { addr, code: answer.code, remark, outcome_unknown: attempts.outcome_unknown() })
}

impl Inner {
    fn read_pull(&self, addr: String, answer: RemotingCommand, attempts: &Attempts) -> Result<PullResult, PullError> {
        let status = match answer.code {
            ResponseCode::SUCCESS => PullStatus::Found,
            ResponseCode::PULL_NOT_FOUND => PullStatus::NoNewMessage,
            ResponseCode::PULL_RETRY_IMMEDIATELY => PullStatus::NoMatch,
            ResponseCode::PULL_OFFSET_MOVED => PullStatus::OffsetOutOfRange,
            code => {
                let remark = answer.remark.unwrap_or_default();
                let outcome_unknown = attempts.outcome_unknown();
                return Err(CallError::Refused { addr, code, remark, outcome_unknown }.into());
            }
        };
        let header: PullMessageResponse =
            answer.header().map_err(|error| CallError::Malformed { addr: addr.clone(), why: error.to_string() })?;
        let messages = if status == PullStatus::Found { self.read_records(&addr, &answer)? } else { Vec::new() };
        Ok(PullResult {
            status,
            messages,
            next_offset: header.next_begin_offset,
            min_offset: header.min_offset,
            max_offset: header.max_offset,
        })
    }

    fn read_records(&self, addr: &str, answer: &RemotingCommand) -> Result<Vec<ReceivedMessage>, PullError> {
        let mut messages = Vec::new();
        for (index, record) in Records::new(&answer.body).enumerate() {
            let record = record.map_err(|error| PullError::Record { addr: addr.to_owned(), index, error })?;
            if self.config.check_bodies && !record.body_is_intact() {
                return Err(PullError::Checksum { addr: addr.to_owned(), queue_offset: record.queue_offset() });
            }
            let message = ReceivedMessage::new(&record, &answer.body);
            // The broker compares hashes; equal ones of other tags end here.
            let wanted = match (&self.tags, message.tag()) {
                (None, _) => true,
                (Some(tags), Some(tag)) => tags.iter().any(|wanted| wanted == tag),
                (Some(_), None) => false,
            };
            if wanted {
                messages.push(message);
            }
        }
        Ok(messages)
    }
}

//! Errors, by what the caller can do about them. Each one that concerns a write says whether its outcome is unknown.

use std::sync::Arc;

use ledgermq_protocol::message::properties::PropertyError;
use ledgermq_protocol::message::record::DecodeError;
use ledgermq_protocol::names::NameError;
use ledgermq_protocol::remoting::response_code::ResponseCode;
use thiserror::Error;

/// One request on one connection brought no answer.
#[derive(Debug, Clone, Error)]
pub enum RequestError {
    /// The address could not be connected to. Nothing was sent.
    #[error("cannot connect to {addr}: {why}")]
    Connect {
        /// The address.
        addr: String,
        /// The system's words.
        why: Arc<str>,
    },
    /// The connection ended, or the time was over, before the request was written. Nothing was sent.
    #[error("not sent to {addr}: {why}")]
    NotSent {
        /// The address.
        addr: String,
        /// What happened.
        why: Arc<str>,
    },
    /// Too much is in flight to this address. Nothing was sent.
    #[error("not sent to {addr}: {bytes_max} bytes of requests are in flight to it already")]
    Busy {
        /// The address.
        addr: String,
        /// The bound.
        bytes_max: usize,
    },
    /// The request does not fit a frame. Nothing was sent.
    #[error("the request cannot be sent: {0}")]
    TooLarge(String),
    /// No answer came in time. The request may have been carried out.
    #[error("no answer from {addr} within {after_ms} ms")]
    TimedOut {
        /// The address.
        addr: String,
        /// How long was waited.
        after_ms: u64,
    },
    /// The connection was lost after the request was written. The request may have been carried out.
    #[error("connection to {addr} lost while waiting for its answer: {why}")]
    Lost {
        /// The address.
        addr: String,
        /// What happened.
        why: Arc<str>,
    },
    /// The route named another leader while the request was in flight. It may have been carried out.
    #[error("{addr} no longer leads, its answer was not waited for")]
    LeaderMoved {
        /// The address.
        addr: String,
    },
    /// The client was shut down. Nothing was sent.
    #[error("the client is shut down")]
    Stopped,
}

impl RequestError {
    /// Whether the peer may have carried the request out.
    pub fn outcome_unknown(&self) -> bool {
        matches!(self, Self::TimedOut { .. } | Self::Lost { .. } | Self::LeaderMoved { .. })
    }
}

/// What stood in the way of the last attempt.
#[derive(Debug, Clone, Error)]
pub enum Cause {
    /// No answer.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// An answer that says no.
    #[error("{addr} answered {}: {remark}", CodeName(*code))]
    Refused {
        /// Who answered.
        addr: String,
        /// The response code.
        code: i32,
        /// What the broker says about it.
        remark: String,
    },
    /// The route names nobody to ask.
    #[error("no address of {broker_name} is known")]
    NoAddress {
        /// The broker name.
        broker_name: String,
    },
    /// The route could not be had.
    #[error("no route: {0}")]
    NoRoute(RouteProblem),
}

/// Why there is no route for a topic.
#[derive(Debug, Clone, Error)]
pub enum RouteProblem {
    /// The name server does not know the topic.
    #[error("topic {0} does not exist")]
    TopicNotExist(String),
    /// No name server could be asked.
    #[error("no name server answers: {0}")]
    Unreachable(RequestError),
    /// No name server has answered within the deadline.
    #[error("no name server has answered yet")]
    NoAnswer,
    /// A name server refused.
    #[error("name server {addr} answered {}: {remark}", CodeName(*code))]
    Refused {
        /// Which one.
        addr: String,
        /// The response code.
        code: i32,
        /// Its words.
        remark: String,
    },
    /// A name server's answer cannot be read.
    #[error("name server {addr} sent a route that cannot be read: {why}")]
    Malformed {
        /// Which one.
        addr: String,
        /// What is wrong.
        why: String,
    },
    /// The topic has no queue that can be used.
    #[error("topic {topic} has no queue to {to}")]
    NoQueue {
        /// The topic.
        topic: String,
        /// "write" or "read".
        to: &'static str,
    },
}

/// An operation failed, after all retries that it allowed.
#[derive(Debug, Clone, Error)]
pub enum CallError {
    /// The answer is final: sending the same again would not help.
    #[error("{addr} refused with {}: {remark}{}", CodeName(*code), unknown_note(*outcome_unknown))]
    Refused {
        /// Who answered.
        addr: String,
        /// The response code.
        code: i32,
        /// What the broker says about it.
        remark: String,
        /// Whether an earlier attempt may have been carried out.
        outcome_unknown: bool,
    },
    /// Time or attempts are used up.
    #[error("gave up after {attempts} attempts in {elapsed_ms} ms: {cause}{}", unknown_note(*outcome_unknown))]
    GaveUp {
        /// The last problem.
        cause: Cause,
        /// How often it was tried.
        attempts: u32,
        /// How long it took.
        elapsed_ms: u64,
        /// Whether any attempt may have been carried out.
        outcome_unknown: bool,
    },
    /// There is no route, and waiting would not bring one.
    #[error("no route: {0}")]
    NoRoute(RouteProblem),
    /// The answer says yes but cannot be read. The request was carried out.
    #[error("{addr} sent an answer that cannot be read: {why}")]
    Malformed {
        /// Who answered.
        addr: String,
        /// What is wrong.
        why: String,
    },
}

impl CallError {
    /// Whether the operation may have been carried out. `false` means that it certainly was not.
    pub fn outcome_unknown(&self) -> bool {
        match self {
            Self::Refused { outcome_unknown, .. } | Self::GaveUp { outcome_unknown, .. } => *outcome_unknown,
            Self::NoRoute(_) => false,
            Self::Malformed { .. } => true,
        }
    }

    /// The response code of the refusal, if it was one.
    pub fn code(&self) -> Option<i32> {
        match self {
            Self::Refused { code, .. } | Self::GaveUp { cause: Cause::Refused { code, .. }, .. } => Some(*code),
            _ => None,
        }
    }
}

/// A message cannot be sent as it is. Nothing was sent.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MessageError {
    /// The topic's name.
    #[error(transparent)]
    Topic(#[from] NameError),
    /// The body is empty.
    #[error("the body is empty")]
    EmptyBody,
    /// The body, or the batch, is too long.
    #[error("{what} of {len} bytes, the limit is {max}")]
    TooLong {
        /// "body" or "batch".
        what: &'static str,
        /// Its length.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// A property cannot be written.
    #[error("property {name}: {error}")]
    Property {
        /// Its name.
        name: String,
        /// What is wrong.
        error: PropertyError,
    },
    /// A batch without messages, or with too many.
    #[error("a batch of {len} messages: give 1 to {max}")]
    BatchSize {
        /// Number of messages.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// The messages of a batch name different topics.
    #[error("a batch has one topic, this one has {first} and {other}")]
    BatchTopics {
        /// The first message's topic.
        first: String,
        /// Another one.
        other: String,
    },
    /// The selector returned a queue of another topic, or no queue.
    #[error("the selector chose no queue of topic {0}")]
    NoQueueChosen(String),
}

/// A send failed.
#[derive(Debug, Clone, Error)]
pub enum SendError {
    /// The message is at fault. Nothing was sent.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// The broker or the way to it.
    #[error(transparent)]
    Call(#[from] CallError),
}

impl SendError {
    /// Whether the message may have been stored all the same. `false` means that it certainly was not; with `true`, sending it
    /// again may store it twice.
    pub fn outcome_unknown(&self) -> bool {
        match self {
            Self::Message(_) => false,
            Self::Call(error) => error.outcome_unknown(),
        }
    }
}

/// A pull failed. Nothing is lost by it: pull again.
#[derive(Debug, Clone, Error)]
pub enum PullError {
    /// The broker or the way to it.
    #[error(transparent)]
    Call(#[from] CallError),
    /// A record in the answer is damaged.
    #[error("record {index} from {addr} is damaged: {error}")]
    Record {
        /// Who sent it.
        addr: String,
        /// Which one, from 0.
        index: usize,
        /// What is wrong.
        error: DecodeError,
    },
    /// A record's body does not match its checksum.
    #[error("the body at queue offset {queue_offset} from {addr} does not match its checksum")]
    Checksum {
        /// Who sent it.
        addr: String,
        /// Its place.
        queue_offset: i64,
    },
}

/// A config cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// A value is out of its bounds.
    #[error("client config {key} is {value}: {mend}")]
    Value {
        /// The field.
        key: &'static str,
        /// Its value.
        value: String,
        /// What is allowed.
        mend: &'static str,
    },
    /// The group's name.
    #[error(transparent)]
    Group(#[from] NameError),
    /// A client can be in a consumer group once.
    #[error("this client consumes for group {0} already: shut that consumer down first, or use another client")]
    GroupInUse(String),
    /// A push consumer starts its tasks when it is made.
    #[error("a push consumer is made on a tokio runtime, there is none here")]
    NoRuntime,
}

fn unknown_note(outcome_unknown: bool) -> &'static str {
    if outcome_unknown { " (the outcome is unknown: it may have been carried out)" } else { "" }
}

/// A response code with its name.
struct CodeName(i32);

impl std::fmt::Display for CodeName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match ResponseCode::name(self.0) {
            Some(name) => write!(f, "{name} ({})", self.0),
            None => write!(f, "code {}", self.0),
        }
    }
}

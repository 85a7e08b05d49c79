//! The commands in the log: every state change that is not a message.
//!
//! A handler builds one, the stamper checks it against projected state and proposes it, apply takes it in on every replica.
//! What stands here is written to the log and must be readable for ever (docs/formats.md):
//!
//! ```text
//! u16 kind | u16 version | protobuf body          both little-endian
//! ```
//! Kind and version stand in front of the body, because a protobuf reader skips fields that it does not know: a replica that
//! applied only the known half of a command would silently differ from the others. So whoever adds a field or a meaning
//! raises the version of that kind, and an older program stops at it with [`ApplyError::UnknownCommand`].

mod locks;
mod settings;
mod timers;
mod truncate;

#[cfg(test)]
mod tests;

use bytes::{BufMut, Bytes, BytesMut};
use ledgermq_dledger::ApplyError;
use ledgermq_protocol::names::{self, NameError};
use prost::Message;
use thiserror::Error;

pub use locks::{LEASE_MS_MAX, LOCK_CLIENT_LEN_MAX, LOCKS_PER_COMMAND_MAX, LockQueues, QueueOfTopic, UnlockQueues};
pub use settings::{
    ATTRIBUTE_NAME_LEN_MAX, ATTRIBUTE_VALUE_LEN_MAX, ATTRIBUTES_MAX, GroupSettings, QUEUES_PER_TOPIC_MAX,
    RETRY_POLICY_LEN_MAX, SettingsError, TopicSettings, perm,
};
pub use timers::{MoveTimers, TIMERS_PER_COMMAND_MAX, TimerRef};
pub use truncate::TruncatePrefix;

/// Most offsets in one [`CommitOffsets`]: bounds the work of one entry. The buffer of one-way commits splits above it.
pub const OFFSETS_PER_COMMAND_MAX: usize = 4096;
/// Most members that a group is born with.
pub const MEMBERS_MAX: usize = 9;
/// Most topics, and most subscription groups, that a group is born with: the system's own.
pub const GENESIS_NAMES_MAX: usize = 64;
/// Longest address of a member in bytes: a host name (253) and a port.
pub const ADDRESS_LEN_MAX: usize = 260;
/// Longest command in bytes, header included: 4096 offsets with the longest names, with room.
pub const COMMAND_LEN_MAX: usize = 2 << 20;

const HEADER_LEN: usize = 4;
/// The only version of every kind so far.
const VERSION: u16 = 1;

/// One state change. The number in front of each kind in [`Command::kind`] is what the log holds.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Constants of the group: its first command, exactly once.
    Genesis(Genesis),
    /// Creates a topic or changes its settings.
    PutTopic(PutTopic),
    /// Ends an incarnation of a topic, with its queues and the offsets committed for it.
    DeleteTopic(DeleteTopic),
    /// Creates a subscription group or changes its settings.
    PutSubscriptionGroup(PutSubscriptionGroup),
    /// Ends a subscription group.
    DeleteSubscriptionGroup(DeleteSubscriptionGroup),
    /// Sets consumer offsets.
    CommitOffsets(CommitOffsets),
    /// Locks queues for a client that consumes in order, for a while.
    LockQueues(LockQueues),
    /// Gives such locks back.
    UnlockQueues(UnlockQueues),
    /// Gives up old messages.
    TruncatePrefix(TruncatePrefix),
    /// Delivers, carries or drops delayed messages.
    MoveTimers(MoveTimers),
    /// Puts groups elsewhere. Until a consumer has taken that up, [`Command::CommitOffsets`] changes none of these offsets.
    ResetOffsets(CommitOffsets),
    /// A consumer goes on where a reset has put its group. Changes nothing when the reset was to another offset.
    TakeUpResets(CommitOffsets),
}

/// What a replica group is born with and never changes, and the topics and groups that exist from the start.
#[derive(Clone, PartialEq, Message)]
pub struct Genesis {
    /// Uuid of the group, 16 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub group_id: Bytes,
    /// Name of the RocketMQ cluster.
    #[prost(string, tag = "2")]
    pub cluster: String,
    /// Name of the broker: one per group.
    #[prost(string, tag = "3")]
    pub broker_name: String,
    /// Bytes of a log segment.
    #[prost(uint64, tag = "4")]
    pub segment_size: u64,
    /// Version of the log's format.
    #[prost(uint32, tag = "5")]
    pub log_format: u32,
    /// The first members.
    #[prost(message, repeated, tag = "6")]
    pub members: Vec<Member>,
    /// Topics that exist from the start.
    #[prost(message, repeated, tag = "7")]
    pub topics: Vec<PutTopic>,
    /// Subscription groups that exist from the start.
    #[prost(message, repeated, tag = "8")]
    pub groups: Vec<PutSubscriptionGroup>,
}

/// A replica as its group is born with it.
#[derive(Clone, PartialEq, Message)]
pub struct Member {
    /// Its number, 1 and up.
    #[prost(uint64, tag = "1")]
    pub raft_id: u64,
    /// Its replica uuid, 16 bytes.
    #[prost(bytes = "bytes", tag = "2")]
    pub replica_id: Bytes,
    /// `host:port` of its Raft listener.
    #[prost(string, tag = "3")]
    pub raft_address: String,
    /// `host:port` that clients are told.
    #[prost(string, tag = "4")]
    pub broker_address: String,
}

/// Creates a topic, or changes it when `replace` is set.
#[derive(Clone, PartialEq, Message)]
pub struct PutTopic {
    /// The topic.
    #[prost(string, tag = "1")]
    pub topic: String,
    /// Its settings.
    #[prost(message, required, tag = "2")]
    pub settings: TopicSettings,
    /// Whether an existing topic gets these settings. Without it an existing topic stays as it is: an automatic
    /// creation never overwrites what somebody configured.
    #[prost(bool, tag = "3")]
    pub replace: bool,
}

/// Deletes a topic; one that does not exist is no error.
#[derive(Clone, PartialEq, Message)]
pub struct DeleteTopic {
    /// The topic.
    #[prost(string, tag = "1")]
    pub topic: String,
}

/// Creates a subscription group, or changes it when `replace` is set.
#[derive(Clone, PartialEq, Message)]
pub struct PutSubscriptionGroup {
    /// The subscription group.
    #[prost(string, tag = "1")]
    pub group: String,
    /// Its settings.
    #[prost(message, required, tag = "2")]
    pub settings: GroupSettings,
    /// Whether an existing group gets these settings.
    #[prost(bool, tag = "3")]
    pub replace: bool,
}

/// Deletes a subscription group; one that does not exist is no error.
#[derive(Clone, PartialEq, Message)]
pub struct DeleteSubscriptionGroup {
    /// The subscription group.
    #[prost(string, tag = "1")]
    pub group: String,
    /// Whether its committed offsets go too.
    #[prost(bool, tag = "2")]
    pub clean_offsets: bool,
}

/// Consumer offsets, in order: of two for one key the later one holds.
#[derive(Clone, PartialEq, Message)]
pub struct CommitOffsets {
    /// At most [`OFFSETS_PER_COMMAND_MAX`].
    #[prost(message, repeated, tag = "1")]
    pub offsets: Vec<OffsetCommit>,
}

/// The next queue offset that a subscription group wants to consume.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct OffsetCommit {
    /// The subscription group.
    #[prost(string, tag = "1")]
    pub group: String,
    /// The topic.
    #[prost(string, tag = "2")]
    pub topic: String,
    /// Its incarnation, as the broker knew it when the consumer committed: a commit dies with its topic.
    #[prost(uint64, tag = "3")]
    pub incarnation: u64,
    /// The queue.
    #[prost(uint32, tag = "4")]
    pub queue: u32,
    /// The offset; at most the queue's next one.
    #[prost(uint64, tag = "5")]
    pub offset: u64,
}

/// Why a command must not enter the log. The text goes into the answer's remark.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CommandError {
    /// A topic's or group's name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A setting.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// Too many of something.
    #[error("{count} {what} in one command, the limit is {max}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        count: usize,
        /// The limit.
        max: usize,
    },
    /// A part that does not have the form it must have.
    #[error("{what} is malformed")]
    Malformed {
        /// Which.
        what: &'static str,
    },
}

impl Command {
    /// The number that stands for this kind in the log.
    pub fn kind(&self) -> u16 {
        match self {
            Command::Genesis(_) => 1,
            Command::PutTopic(_) => 2,
            Command::DeleteTopic(_) => 3,
            Command::PutSubscriptionGroup(_) => 4,
            Command::DeleteSubscriptionGroup(_) => 5,
            Command::CommitOffsets(_) => 6,
            Command::LockQueues(_) => 7,
            Command::UnlockQueues(_) => 8,
            Command::TruncatePrefix(_) => 9,
            Command::MoveTimers(_) => 10,
            // Between them and 9 others may come.
            Command::ResetOffsets(_) => 16,
            Command::TakeUpResets(_) => 17,
        }
    }

    /// Bytes for the log, at most [`COMMAND_LEN_MAX`] when [`Command::check`] passes.
    pub fn encode(&self) -> Bytes {
        match self {
            Command::Genesis(body) => self.encode_body(body),
            Command::PutTopic(body) => self.encode_body(body),
            Command::DeleteTopic(body) => self.encode_body(body),
            Command::PutSubscriptionGroup(body) => self.encode_body(body),
            Command::DeleteSubscriptionGroup(body) => self.encode_body(body),
            Command::CommitOffsets(body) | Command::ResetOffsets(body) | Command::TakeUpResets(body) => {
                self.encode_body(body)
            }
            Command::LockQueues(body) => self.encode_body(body),
            Command::UnlockQueues(body) => self.encode_body(body),
            Command::TruncatePrefix(body) => self.encode_body(body),
            Command::MoveTimers(body) => self.encode_body(body),
        }
    }

    /// Bytes that [`Command::encode`] makes.
    pub fn encoded_len(&self) -> usize {
        HEADER_LEN
            + match self {
                Command::Genesis(body) => body.encoded_len(),
                Command::PutTopic(body) => body.encoded_len(),
                Command::DeleteTopic(body) => body.encoded_len(),
                Command::PutSubscriptionGroup(body) => body.encoded_len(),
                Command::DeleteSubscriptionGroup(body) => body.encoded_len(),
                Command::CommitOffsets(body) | Command::ResetOffsets(body) | Command::TakeUpResets(body) => {
                    body.encoded_len()
                }
                Command::LockQueues(body) => body.encoded_len(),
                Command::UnlockQueues(body) => body.encoded_len(),
                Command::TruncatePrefix(body) => body.encoded_len(),
                Command::MoveTimers(body) => body.encoded_len(),
            }
    }

    fn encode_body(&self, body: &impl Message) -> Bytes {
        let mut bytes = BytesMut::with_capacity(HEADER_LEN + body.encoded_len());
        bytes.put_u16_le(self.kind());
        bytes.put_u16_le(VERSION);
        body.encode(&mut bytes).expect("a BytesMut grows");
        bytes.freeze()
    }

    /// Reads the command of the entry `index`, and checks it.
    ///
    /// # Errors
    /// [`ApplyError::UnknownCommand`] for a kind or version of a newer program, [`ApplyError::Malformed`] for the rest.
    pub fn decode(index: u64, bytes: Bytes) -> Result<Self, ApplyError> {
        let malformed = |reason: String| ApplyError::Malformed { index, reason };
        let Some(header) = bytes.first_chunk::<HEADER_LEN>() else {
            return Err(malformed(format!("a command of {} bytes", bytes.len())));
        };
        if bytes.len() > COMMAND_LEN_MAX {
            return Err(malformed(format!("a command of {} bytes, the limit is {COMMAND_LEN_MAX}", bytes.len())));
        }
        let kind = u16::from_le_bytes([header[0], header[1]]);
        let version = u16::from_le_bytes([header[2], header[3]]);
        let unknown = ApplyError::UnknownCommand { index, kind: u32::from(version) << 16 | u32::from(kind) };
        if version != VERSION {
            return Err(unknown);
        }
        let body = bytes.slice(HEADER_LEN..);
        let command = match kind {
            1 => Genesis::decode(body).map(Command::Genesis),
            2 => PutTopic::decode(body).map(Command::PutTopic),
            3 => DeleteTopic::decode(body).map(Command::DeleteTopic),
            4 => PutSubscriptionGroup::decode(body).map(Command::PutSubscriptionGroup),
            5 => DeleteSubscriptionGroup::decode(body).map(Command::DeleteSubscriptionGroup),
            6 => CommitOffsets::decode(body).map(Command::CommitOffsets),
            7 => LockQueues::decode(body).map(Command::LockQueues),
            8 => UnlockQueues::decode(body).map(Command::UnlockQueues),
            9 => TruncatePrefix::decode(body).map(Command::TruncatePrefix),
            10 => MoveTimers::decode(body).map(Command::MoveTimers),
            16 => CommitOffsets::decode(body).map(Command::ResetOffsets),
            17 => CommitOffsets::decode(body).map(Command::TakeUpResets),
            _ => return Err(unknown),
        };
        let command = command.map_err(|error| malformed(format!("command of kind {kind}: {error}")))?;
        command.check().map_err(|error| malformed(format!("command of kind {kind}: {error}")))?;
        Ok(command)
    }

    /// Checks names, counts and ranges: what can be said without any state.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), CommandError> {
        match self {
            Command::Genesis(genesis) => genesis.check(),
            Command::PutTopic(put) => put.check(),
            Command::DeleteTopic(delete) => Ok(names::check_topic(&delete.topic)?),
            Command::PutSubscriptionGroup(put) => put.check(),
            Command::DeleteSubscriptionGroup(delete) => Ok(names::check_group(&delete.group)?),
            Command::CommitOffsets(commit) | Command::ResetOffsets(commit) | Command::TakeUpResets(commit) => {
                commit.check()
            }
            Command::LockQueues(lock) => lock.check(),
            Command::UnlockQueues(unlock) => unlock.check(),
            Command::TruncatePrefix(truncate) => truncate.check(),
            Command::MoveTimers(timers) => timers.check(),
        }
    }
}

impl Genesis {
    fn check(&self) -> Result<(), CommandError> {
        at_most("members", self.members.len(), MEMBERS_MAX)?;
        at_most("topics", self.topics.len(), GENESIS_NAMES_MAX)?;
        at_most("subscription groups", self.groups.len(), GENESIS_NAMES_MAX)?;
        well_formed("the group's uuid", self.group_id.len() == 16)?;
        well_formed("the cluster's name", names::check_topic(&self.cluster).is_ok())?;
        well_formed("the broker's name", names::check_topic(&self.broker_name).is_ok())?;
        well_formed("the list of members", !self.members.is_empty())?;
        for (n, member) in self.members.iter().enumerate() {
            well_formed("a member's number", member.raft_id != 0)?;
            well_formed("a member's uuid", member.replica_id.len() == 16)?;
            well_formed("a member's Raft address", (1..=ADDRESS_LEN_MAX).contains(&member.raft_address.len()))?;
            well_formed("a member's broker address", (1..=ADDRESS_LEN_MAX).contains(&member.broker_address.len()))?;
            let twice = self.members[..n].iter().any(|other| other.raft_id == member.raft_id);
            well_formed("the list of members: one stands in it twice", !twice)?;
        }
        self.topics.iter().try_for_each(PutTopic::check)?;
        self.groups.iter().try_for_each(PutSubscriptionGroup::check)
    }
}

impl PutTopic {
    fn check(&self) -> Result<(), CommandError> {
        names::check_topic(&self.topic)?;
        Ok(self.settings.check()?)
    }
}

impl PutSubscriptionGroup {
    fn check(&self) -> Result<(), CommandError> {
        names::check_group(&self.group)?;
        Ok(self.settings.check()?)
    }
}

impl CommitOffsets {
    fn check(&self) -> Result<(), CommandError> {
        at_most("offsets", self.offsets.len(), OFFSETS_PER_COMMAND_MAX)?;
        for commit in &self.offsets {
            names::check_group(&commit.group)?;
            names::check_topic(&commit.topic)?;
            well_formed("an offset", i64::try_from(commit.offset).is_ok())?;
        }
        Ok(())
    }
}

fn at_most(what: &'static str, count: usize, max: usize) -> Result<(), CommandError> {
    if count <= max { Ok(()) } else { Err(CommandError::TooMany { what, count, max }) }
}

fn well_formed(what: &'static str, holds: bool) -> Result<(), CommandError> {
    if holds { Ok(()) } else { Err(CommandError::Malformed { what }) }
}

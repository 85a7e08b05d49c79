//! One replica of one group as its handlers see it: the log's handle, applied state, and what is known of its clients.
//!
//! Handlers get a reference to it, [`crate::node`] makes it. It proposes, asks for read barriers and keeps one-way offset
//! commits until they are due; it decides nothing about messages.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ledgermq_dledger::plant::{self, Bug};
use ledgermq_dledger::{GroupHandle, Outcome, Proposal, ReadError, Role, RoleView};
use ledgermq_protocol::names;
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};

use crate::command::{Command, GroupSettings, PutSubscriptionGroup, PutTopic, TopicSettings};
use crate::consumer::group::ConsumerGroups;
use crate::consumer::long_poll::ParkedPulls;
use crate::consumer::producers::ProducerGroups;
use crate::consumer::requesters::Requesters;
use crate::consumer::resets::ToldOfResets;
use crate::delay::moves::Waiting;
use crate::handler::pull::ParkedPull;
use crate::handler::runtime_info::FirstMessage;
use crate::handler::send::Sending;
use crate::identity::Identity;
use crate::node::delay::Timer;
use crate::node::room::Room;
use crate::server::ticket::{SendTicket, Ticket, complete_now};
use crate::stamp::{Answer, BrokerStamper, Item, OffsetBuffer};
use crate::stats::{Now, Stats};
use crate::tables::{Tables, TopicKey};

/// Time after which a handler stops waiting for a proposal: an election and its retry fit in. Longer than any client waits.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Time in which what is committed must be applied for an answer that depends on it.
const CATCH_UP_TIMEOUT: Duration = Duration::from_millis(500);

/// Groups that are being created at a time; further ones wait for their next heartbeat.
const GROUPS_IN_CREATION_MAX: usize = 1_024;

/// Why the log took nothing: its queue is full, or the node stops.
const QUEUE_FULL: &str = "the queue of proposals is full";

/// A replica with everything that its handlers share.
pub struct Replica {
    /// For sends.
    pub sending: Sending,
    /// The group's log.
    pub handle: GroupHandle<BrokerStamper<Ticket>>,
    /// Live consumers.
    pub consumers: ConsumerGroups,
    /// Live producers.
    pub producers: ProducerGroups,
    /// Clients to whom replies can be handed.
    pub requesters: Requesters,
    /// Whom this replica has told of resets of offsets.
    pub(crate) told: ToldOfResets,
    /// Messages in and out.
    pub stats: Stats,
    /// The first message of the log, as far as it was looked for.
    pub(crate) first_message: Mutex<FirstMessage>,
    /// Pulls that wait.
    pub pulls: Arc<ParkedPulls<ParkedPull>>,
    /// Reads of ConsumeQueues.
    pub queues: crate::apply::ConsumeQueues,
    /// Searches of the key index.
    pub keys: crate::apply::KeyIndex,
    /// Delayed messages that wait.
    pub waiting: Waiting,
    /// What the timer has done, and what wakes it.
    pub(crate) timer: Timer,
    /// One-way commits that wait. The lock is held while what is taken out is proposed, so that commits of one key enter the
    /// log in the order in which they came.
    pub(crate) offsets: Mutex<OffsetBuffer>,
    /// Groups whose creation was proposed by a heartbeat or pull.
    pub(crate) in_creation: Mutex<HashSet<String>>,
    /// Whether something was proposed since the log was last told to take up what waits.
    pub(crate) unrung: AtomicBool,
    /// Changes with every applied round.
    pub(crate) applied: watch::Receiver<u64>,
    /// Whether requests for the leader are taken; closed for the moment of a hand-over.
    pub(crate) gate: Gate,
    /// Set once the node is to stop: it leads no more.
    pub(crate) draining: AtomicBool,
    /// The disk of the node.
    pub(crate) room: Arc<Room>,
    /// Set while the disk is full and no other member has room.
    pub(crate) refuses_sends: AtomicBool,
    /// Whether private requests are answered: only where nobody else can reach the port.
    pub private_requests: bool,
    /// Identity of the cluster.
    pub cluster_id: uuid::Uuid,
    /// Origin of times kept as numbers.
    pub started: Instant,
}

/// Whether requests for the leader are taken. Those that come while it is closed wait, and go to whoever leads afterwards.
#[derive(Debug)]
pub(crate) struct Gate {
    /// Mirror of `watch`, to look at without a lock.
    open: AtomicBool,
    watch: watch::Sender<bool>,
}

impl Default for Gate {
    fn default() -> Self {
        Self { open: AtomicBool::new(true), watch: watch::Sender::new(true) }
    }
}

impl Gate {
    /// Closes the gate until the guard is dropped, however that comes about.
    pub(crate) fn close(&self) -> ClosedGate<'_> {
        self.set_open(false);
        ClosedGate(self)
    }

    fn set_open(&self, open: bool) {
        self.open.store(open, Ordering::Release);
        self.watch.send_replace(open);
    }
}

/// Keeps a [`Gate`] closed.
#[derive(Debug)]
pub(crate) struct ClosedGate<'a>(&'a Gate);

impl Drop for ClosedGate<'_> {
    fn drop(&mut self) {
        self.0.set_open(true);
    }
}

impl Replica {
    /// Names and addresses.
    pub fn identity(&self) -> &Arc<Identity> {
        &self.sending.identity
    }

    /// Applied state.
    pub fn tables(&self) -> &Tables {
        &self.sending.tables
    }

    /// The current role.
    pub fn role(&self) -> RoleView {
        self.handle.role()
    }

    /// Whether this replica leads and serves, as far as it knows.
    pub fn serves(&self) -> bool {
        self.handle.role().serves()
    }

    /// Whether requests for the leader are served here now.
    pub fn takes_requests(&self) -> bool {
        self.serves() && self.gate.open.load(Ordering::Acquire)
    }

    /// A watch on whether the gate for such requests is open.
    pub(crate) fn watch_gate(&self) -> watch::Receiver<bool> {
        self.gate.watch.subscribe()
    }

    /// Why sends are refused, when the disk is full and no other member has room.
    pub(crate) fn no_room(&self) -> Option<String> {
        let refuses = self.refuses_sends.load(Ordering::Relaxed);
        let identity = self.identity();
        refuses.then(|| format!("replica {} of {} has no room: {}", identity.raft_id, identity.broker_name, self.room))
    }

    /// Whether this node is about to stop.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Proposes messages; the client is answered when they are committed, or at once when the log takes nothing. The log takes
    /// them up at [`Self::ring`], so that what came together is written together.
    pub fn propose_send(&self, item: Item, ticket: SendTicket) {
        let size_hint = item.size_hint();
        let proposal = Proposal { item, ticket: Ticket::Send(ticket), size_hint };
        if let Err(Proposal { ticket: Ticket::Send(ticket), .. }) = self.handle.enqueue(proposal) {
            complete_now(ticket, Outcome::Busy(QUEUE_FULL));
        }
        self.unrung.store(true, Ordering::Release);
    }

    /// Has the log take up what was proposed since the last call, by any connection.
    pub fn ring(&self) {
        if self.unrung.load(Ordering::Relaxed) && self.unrung.swap(false, Ordering::AcqRel) {
            self.handle.ring();
        }
    }

    /// Proposes a command and returns what will tell the outcome.
    pub(crate) fn propose(&self, command: Command) -> oneshot::Receiver<Outcome<Answer>> {
        self.propose_item(Item::Command(command))
    }

    fn propose_item(&self, item: Item) -> oneshot::Receiver<Outcome<Answer>> {
        let (answer, waiting) = oneshot::channel();
        let size_hint = item.size_hint();
        let proposal = Proposal { item, ticket: Ticket::Call(answer), size_hint };
        if let Err(Proposal { ticket: Ticket::Call(answer), .. }) = self.handle.propose(proposal) {
            // Whoever asked may have gone already.
            let _ = answer.send(Outcome::Busy(QUEUE_FULL));
        }
        waiting
    }

    /// Proposes a command and waits for the outcome.
    pub async fn call(&self, command: Command) -> Outcome<Answer> {
        let waiting = self.propose(command);
        outcome(waiting).await
    }

    /// As [`Self::call`], for anything that can be appended.
    pub(crate) async fn call_item(&self, item: Item) -> Outcome<Answer> {
        outcome(self.propose_item(item)).await
    }

    /// Waits until this replica is confirmed as the leader and has applied everything committed before the call.
    ///
    /// # Errors
    /// [`ReadError`]; nothing may be answered from applied state then, but by a replica that says it is a follower.
    pub async fn read_barrier(&self) -> Result<(), ReadError> {
        if plant::on(Bug::StaleLeaderReads) && matches!(self.role().role, Role::Leader { .. }) {
            return Ok(());
        }
        self.handle.read_barrier().await.map(|_| ())
    }

    /// Milliseconds since the start of this replica.
    pub fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// Both clocks, for figures.
    pub(crate) fn now(&self) -> Now {
        Now { monotone_ms: self.now_ms(), wall_ms: wall_clock_ms() }
    }

    /// Takes samples of what goes in and out, on a thread that may take its time.
    pub(crate) fn sample_stats(self: &Arc<Self>) {
        let replica = Arc::clone(self);
        drop(tokio::task::spawn_blocking(move || replica.stats.sample(replica.tables(), replica.now())));
    }

    /// Keeps a one-way offset commit until it is due. On a replica that does not lead it is dropped.
    pub(crate) fn buffer_offset(&self, group: &Arc<str>, topic: &TopicKey, queue: u32, offset: u64) {
        if !self.serves() {
            return;
        }
        let mut offsets = self.offsets.lock();
        if !offsets.put(self.now_ms(), group, topic, queue, offset) {
            for command in offsets.take_all() {
                drop(self.propose(command));
            }
            offsets.put(self.now_ms(), group, topic, queue, offset);
        }
    }

    /// Proposes the one-way commits that have waited long enough; forgets all of them when this replica no longer leads.
    pub(crate) fn flush_due_offsets(&self) {
        let mut offsets = self.offsets.lock();
        if !matches!(self.role().role, Role::Leader { .. }) {
            offsets.clear();
            return;
        }
        for command in offsets.take_due(self.now_ms()) {
            // Nobody waits for a one-way commit; a lost one is repeated by the consumer seconds later.
            drop(self.propose(command));
        }
    }

    /// Proposes all one-way commits at once and waits until they are in the log: before a planned end.
    pub(crate) async fn flush_all_offsets(&self) {
        let proposed: Vec<_> = {
            let mut offsets = self.offsets.lock();
            offsets.take_all().into_iter().map(|command| self.propose(command)).collect()
        };
        for waiting in proposed {
            let _ = outcome(waiting).await;
        }
    }

    /// Creates a subscription group and its retry topic in the background, if they are not there and this replica leads. A
    /// follower ignores it: the client's next heartbeat to the leader does it.
    pub(crate) fn ensure_group(self: &Arc<Self>, group: &str) {
        let retry_topic = names::retry_topic(group);
        let settings = self.tables().group(group);
        let has_topic = self.tables().topic(&retry_topic).is_some();
        if (settings.is_some() && has_topic) || !self.serves() || names::check_group(group).is_err() {
            return;
        }
        {
            let mut in_creation = self.in_creation.lock();
            if in_creation.len() >= GROUPS_IN_CREATION_MAX || !in_creation.insert(group.to_owned()) {
                return;
            }
        }
        let retry_queues = settings.as_ref().map_or(1, |settings| settings.retry_queues).max(0) as u32;
        let mut commands = Vec::new();
        if settings.is_none() {
            let settings = GroupSettings::standard();
            let put = PutSubscriptionGroup { group: group.to_owned(), settings, replace: false };
            commands.push(Command::PutSubscriptionGroup(put));
        }
        if !has_topic && retry_queues > 0 {
            let settings = TopicSettings::plain(retry_queues);
            commands.push(Command::PutTopic(PutTopic { topic: retry_topic, settings, replace: false }));
        }
        let (replica, group) = (Arc::clone(self), group.to_owned());
        tokio::spawn(async move {
            for command in commands {
                match replica.call(command).await {
                    Outcome::Answered(Answer::Done { index }) => replica.applied(index).await,
                    other => tracing::debug!(%group, ?other, "subscription group not created"),
                }
            }
            replica.in_creation.lock().remove(&group);
        });
    }

    /// Waits until this replica has applied an index, or a while.
    pub(crate) async fn applied(&self, index: u64) {
        self.wait_applied(index, CALL_TIMEOUT).await;
    }

    /// Whether something is committed that is not applied here yet.
    pub(crate) fn is_behind(&self) -> bool {
        self.tables().applied_index() < self.handle.commit_index()
    }

    /// Waits until everything is applied that is committed now: a client may hold the answer to a send that this replica has
    /// not applied yet.
    pub(crate) async fn catch_up(&self) {
        self.wait_applied(self.handle.commit_index(), CATCH_UP_TIMEOUT).await;
    }

    async fn wait_applied(&self, index: u64, timeout: Duration) {
        let mut applied = self.applied.clone();
        let there = applied.wait_for(|_| self.tables().applied_index() >= index);
        // Who waits answers from what is applied then; a node that stops wakes nobody any more.
        let _ = tokio::time::timeout(timeout, there).await;
    }
}

/// Waits for the outcome of a proposal. One that cannot be had any more is unknown.
pub(crate) async fn outcome(waiting: oneshot::Receiver<Outcome<Answer>>) -> Outcome<Answer> {
    match tokio::time::timeout(CALL_TIMEOUT, waiting).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(_)) | Err(_) => Outcome::Unknown,
    }
}

/// The wall clock, ms since 1970; 0 for a clock before that.
pub(crate) fn wall_clock_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}

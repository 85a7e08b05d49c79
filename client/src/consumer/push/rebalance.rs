//! Which queues are ours: asks who is in the group, takes the share that falls to this member, and gives up what falls to others.
//!
//! Runs each interval, and at once when a broker says that members changed, when a route changed, or when a queue was given up
//! that comes back. A list that cannot be had changes nothing: the queues stay where they are.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use ledgermq_protocol::consumer_list::ConsumerList;
use ledgermq_protocol::json::Body;
use ledgermq_protocol::json::object_map::MessageQueue;
use ledgermq_protocol::names;
use ledgermq_protocol::remoting::command::RemotingCommand;
use ledgermq_protocol::remoting::headers::group::ConsumerListByGroup;
use ledgermq_protocol::remoting::request_code::RequestCode;
use ledgermq_protocol::remoting::response_code::ResponseCode;
use tokio::sync::watch;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use super::Shared;
use super::allocation::share;
use super::config::ConsumeMode;
use super::dispatch::{Dispatch, Stop};
use crate::core::Ask;
use crate::error::RouteProblem;
use crate::retry::Attempts;
use crate::route::TopicRoute;

/// Shortest time between two rebalances: every member of every broker name tells of one change.
const GAP: Duration = Duration::from_millis(200);

/// Pause before members are asked for again that could not be had.
const MEMBERS_PAUSE: Duration = Duration::from_millis(500);

/// Longest wait for the first route of a topic. The rebalance runs again when it comes.
const ROUTE_WAIT: Duration = Duration::from_secs(1);

/// Longest time in which one broker name is asked for the members, with all its retries.
const MEMBERS_DEADLINE: Duration = Duration::from_secs(3);

/// Most attempts of that.
const MEMBERS_ATTEMPTS_MAX: u32 = 8;

/// The task that owns the queues of a consumer.
pub(super) struct Rebalance {
    shared: Arc<Shared>,
    held: HashMap<MessageQueue, Held>,
    tasks: JoinSet<()>,
    by_task: HashMap<Id, MessageQueue>,
    assignment: watch::Sender<Vec<MessageQueue>>,
}

/// A queue with a task.
struct Held {
    stop: watch::Sender<Stop>,
    /// It is being given up.
    leaving: bool,
    /// It came back meanwhile, and is taken again when its task has ended.
    wanted: bool,
}

/// What a rebalance found.
struct Plan {
    /// Our queues of each topic about which something is known.
    topics: Vec<(String, Vec<MessageQueue>)>,
    /// Whether the members could be had.
    complete: bool,
}

impl Rebalance {
    pub(super) fn new(shared: Arc<Shared>, assignment: watch::Sender<Vec<MessageQueue>>) -> Self {
        Self { shared, held: HashMap::new(), tasks: JoinSet::new(), by_task: HashMap::new(), assignment }
    }

    /// Runs until the consumer or its client is to end.
    pub(super) async fn run(mut self, mut ending: watch::Receiver<Option<Instant>>) {
        let shared = Arc::clone(&self.shared);
        let _running = shared.core.run();
        let mut closing = shared.core.closing();
        let until = tokio::select! {
            until = asked_to_end(&mut ending) => until,
            until = asked_to_end(&mut closing) => until,
            never = self.rebalance_forever() => match never {},
        };
        self.end(until, ending).await;
    }

    /// May be dropped at any `await`: what is held changes only between them.
    async fn rebalance_forever(&mut self) -> Infallible {
        let shared = Arc::clone(&self.shared);
        let mut routes = shared.core.routes.changes();
        loop {
            routes.mark_unchanged();
            let started = Instant::now();
            let plan = plan(&shared).await;
            let pause = if plan.complete { shared.config.rebalance_interval } else { MEMBERS_PAUSE };
            self.carry_out(plan);
            let next = tokio::time::sleep_until(started + pause);
            tokio::pin!(next);
            loop {
                tokio::select! {
                    () = &mut next => break,
                    () = shared.wake.notified() => break,
                    // The sender lives in the client, which we hold.
                    _ = routes.changed() => break,
                    Some(ended) = self.tasks.join_next_with_id() => {
                        if self.ended(ended) {
                            break;
                        }
                    }
                }
            }
            tokio::time::sleep_until(started + GAP).await;
        }
    }

    fn carry_out(&mut self, plan: Plan) {
        for (topic, queues) in plan.topics {
            let ours: HashSet<&MessageQueue> = queues.iter().collect();
            for (queue, held) in &mut self.held {
                if queue.topic != topic {
                    continue;
                }
                let is_ours = ours.contains(queue);
                held.wanted = held.leaving && is_ours;
                if !held.leaving && !is_ours {
                    held.leaving = true;
                    held.stop.send_replace(Stop::HandOver);
                }
            }
            for queue in queues {
                if !self.held.contains_key(&queue) {
                    self.take(queue);
                }
            }
        }
        self.publish();
    }

    fn take(&mut self, queue: MessageQueue) {
        let (stop, stopped) = watch::channel(Stop::No);
        let dispatch = Dispatch::new(Arc::clone(&self.shared), queue.clone());
        let task = self.tasks.spawn(dispatch.run(stopped));
        self.by_task.insert(task.id(), queue.clone());
        self.held.insert(queue, Held { stop, leaving: false, wanted: false });
    }

    /// The task of a queue has ended. Whether the queue is to be taken again: it came back, or its lock was lost.
    fn ended(&mut self, ended: Result<(Id, ()), JoinError>) -> bool {
        let (id, ()) = ended.unwrap_or_else(|error| {
            error!(%error, "the task of a queue ended by a bug and is started again");
            (error.id(), ())
        });
        let Some(queue) = self.by_task.remove(&id) else { return false };
        let Some(held) = self.held.remove(&queue) else { return false };
        held.wanted || !held.leaving
    }

    fn publish(&self) {
        let mut ours: Vec<MessageQueue> =
            self.held.iter().filter(|(_, held)| !held.leaving).map(|(queue, _)| queue.clone()).collect();
        ours.sort();
        self.assignment.send_if_modified(|held| {
            let changed = *held != ours;
            if changed {
                info!(group = self.shared.config.group, queues = ours.len(), "assignment changed");
                *held = ours;
            }
            changed
        });
    }

    fn stop_all(&self, until: Instant) {
        for held in self.held.values() {
            held.stop.send_replace(Stop::Shutdown(until));
        }
    }

    /// Ends all queues, leaves the group.
    async fn end(mut self, mut until: Instant, mut ending: watch::Receiver<Option<Instant>>) {
        self.stop_all(until);
        self.assignment.send_replace(Vec::new());
        loop {
            tokio::select! {
                ended = self.tasks.join_next() => if ended.is_none() { break },
                // Somebody is in more of a hurry.
                Ok(()) = ending.changed() => {
                    until = ending.borrow_and_update().map_or(until, |sooner| sooner.min(until));
                    self.stop_all(until);
                }
            }
        }
        let group = &self.shared.config.group;
        self.shared.core.inbound.unwatch_group(group);
        self.shared.core.membership.leave_consumer(group).await;
        debug!(group, "consumer ended");
    }
}

/// Waits until somebody asks for the end, and says until when listeners may go on.
async fn asked_to_end(ending: &mut watch::Receiver<Option<Instant>>) -> Instant {
    loop {
        if let Some(until) = *ending.borrow_and_update() {
            return until;
        }
        if ending.changed().await.is_err() {
            return Instant::now();
        }
    }
}

/// Our share of every topic, as far as it can be told now.
async fn plan(shared: &Shared) -> Plan {
    let mut plan = Plan { topics: Vec::new(), complete: true };
    // Topics on the same broker names have the same members.
    let mut members_at: HashMap<Vec<String>, Option<Vec<String>>> = HashMap::new();
    for topic in shared.pullers.keys() {
        let route = match shared.core.routes.route(topic, Instant::now() + ROUTE_WAIT).await {
            Ok(route) => route,
            Err(RouteProblem::TopicNotExist(_)) if names::is_retry_topic(topic) => continue,
            Err(problem) => {
                warn!(topic, %problem, "nothing can be consumed of this topic yet");
                continue;
            }
        };
        if shared.config.mode == ConsumeMode::Broadcasting {
            plan.topics.push((topic.clone(), route.read_queues().to_vec()));
            continue;
        }
        if route.read_queues().is_empty() {
            plan.topics.push((topic.clone(), Vec::new()));
            continue;
        }
        let names = broker_names(&route);
        let members = match members_at.get(&names) {
            Some(members) => members.clone(),
            None => {
                let members = members(shared, topic, &names).await;
                members_at.insert(names, members.clone());
                members
            }
        };
        let me = shared.core.membership.client_id();
        match members.as_ref().and_then(|members| Some((members.len(), members.iter().position(|id| id == me)?))) {
            Some((count, me)) => plan.topics.push((topic.clone(), share(route.read_queues(), count, me).to_vec())),
            None => plan.complete = false,
        }
    }
    plan
}

fn broker_names(route: &TopicRoute) -> Vec<String> {
    let names: BTreeSet<&String> = route.read_queues().iter().map(|queue| &queue.broker_name).collect();
    names.into_iter().cloned().collect()
}

/// The members of the group, sorted, from the first broker name that can tell and knows us: all members ask in the same order, so
/// that they get the same list. `None` when there is none.
async fn members(shared: &Shared, topic: &str, names: &[String]) -> Option<Vec<String>> {
    let group = &shared.config.group;
    let header = ConsumerListByGroup { consumer_group: group.clone() };
    let request = RemotingCommand::request(RequestCode::GET_CONSUMER_LIST_BY_GROUP, 0).with_header(&header);
    for broker_name in names {
        let timeout = shared.core.config.attempt_timeout.min(MEMBERS_DEADLINE / 2);
        let ask = Ask { broker_name, topic: Some(topic), timeout, is_read: true };
        let mut attempts = Attempts::new(MEMBERS_DEADLINE, MEMBERS_ATTEMPTS_MAX);
        let (addr, answer) = match shared.core.call(&ask, &request, &mut attempts, |_| false).await {
            Ok(answered) => answered,
            Err(error) => {
                debug!(group, broker_name, %error, "members could not be asked for");
                continue;
            }
        };
        if answer.code != ResponseCode::SUCCESS {
            // It has not heard our heartbeat yet.
            debug!(group, addr, remark = answer.remark, "members are not known here");
            continue;
        }
        match ConsumerList::from_json(&answer.body) {
            Ok(ConsumerList { consumer_id_list: mut ids }) => {
                ids.sort_unstable();
                ids.dedup();
                if ids.iter().any(|id| id == shared.core.membership.client_id()) {
                    return Some(ids);
                }
                debug!(group, addr, "this member is not known here yet");
            }
            Err(error) => warn!(group, addr, %error, "a list of members cannot be read"),
        }
    }
    None
}

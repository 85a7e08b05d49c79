//! The routes of the topics in use, kept fresh: by a poll, by a watch where the name server offers one, and at once when a request
//! failed.
//!
//! Each topic has a task that lives as long as the client. What it learns about leaders goes to [`crate::leaders`], which all
//! topics share. A route that cannot be had leaves the last one in place: clients go on while all name servers are down.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use ledgermq_protocol::extension::{WATCH_HOLD_MS, code, field};
use ledgermq_protocol::json::Body;
use ledgermq_protocol::remoting::command::RemotingCommand;
use ledgermq_protocol::remoting::headers::route::RouteInfo;
use ledgermq_protocol::remoting::request_code::RequestCode;
use ledgermq_protocol::remoting::response_code::ResponseCode;
use ledgermq_protocol::route::TopicRouteData;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tracing::{debug, info};

use crate::config::ClientConfig;
use crate::connections::Connections;
use crate::error::{RequestError, RouteProblem};
use crate::leaders::Leaders;
use crate::route::TopicRoute;

/// Topics whose routes are kept fresh. Beyond it, routes are asked for at each use.
const TOPICS_MAX: usize = 4_096;

/// Longest time for one name server to answer. Then the next one is asked.
const NAMESRV_TIMEOUT: Duration = Duration::from_secs(2);

/// Shortest time between two questions for one topic, however many requests fail meanwhile.
const REFRESH_GAP: Duration = Duration::from_millis(20);

/// The same after a question that failed.
const FAILURE_GAP: Duration = Duration::from_millis(100);

/// How long a watch may outlast the time for which the name server holds it.
const WATCH_SLACK: Duration = Duration::from_secs(3);

/// Pause after a watch failed, before the next one.
const WATCH_PAUSE: Duration = Duration::from_secs(1);

/// Routes of all topics in use.
#[derive(Debug)]
pub(crate) struct RouteCache {
    asker: Arc<Asker>,
    topics: Mutex<Topics>,
}

#[derive(Debug, Default)]
struct Topics {
    by_name: HashMap<String, Arc<Topic>>,
    tasks: Vec<AbortHandle>,
    stopped: bool,
}

/// What is known of one topic: the route, or why there is none, after the first answer.
type Known = Option<Result<Arc<TopicRoute>, RouteProblem>>;

#[derive(Debug)]
struct Topic {
    name: String,
    known: watch::Sender<Known>,
    refresh: Notify,
}

/// Who asks name servers.
#[derive(Debug)]
struct Asker {
    config: ClientConfig,
    connections: Arc<Connections>,
    leaders: Arc<Leaders>,
    /// Counts changes of the routes of all topics in use.
    changes: watch::Sender<u64>,
    /// Which name server to ask next.
    next: AtomicUsize,
    /// Where the last answer came from.
    answered: AtomicUsize,
    /// Which name servers turned out not to know the watch.
    no_watch: Vec<AtomicBool>,
}

/// A route with what our name server adds.
struct Answer {
    route: TopicRouteData,
    version: Option<u64>,
}

impl RouteCache {
    pub(crate) fn new(config: ClientConfig, connections: Arc<Connections>, leaders: Arc<Leaders>) -> Self {
        let no_watch = config.namesrvs.iter().map(|_| AtomicBool::new(!config.route_watch)).collect();
        let asker = Asker {
            config,
            connections,
            leaders,
            changes: watch::Sender::new(0),
            next: AtomicUsize::new(0),
            answered: AtomicUsize::new(0),
            no_watch,
        };
        Self { asker: Arc::new(asker), topics: Mutex::default() }
    }

    /// The route of a topic. From the second time on it comes from memory; the first time it is waited for until `deadline`.
    ///
    /// # Errors
    /// Why there is none: at once when a name server says so, else after `deadline`.
    pub(crate) async fn route(&self, name: &str, deadline: Instant) -> Result<Arc<TopicRoute>, RouteProblem> {
        let Some(topic) = self.topic(name) else {
            return self.asker.fetch(name, deadline).await.map(|answer| Arc::new(TopicRoute::new(name, answer.route)));
        };
        let mut known = topic.known.subscribe();
        if let Some(Ok(route)) = &*known.borrow_and_update() {
            return Ok(Arc::clone(route));
        }
        // Whatever problem is remembered may be over.
        topic.refresh.notify_one();
        loop {
            let changed = tokio::time::timeout_at(deadline, known.changed()).await;
            let latest = known.borrow_and_update().clone();
            match (latest, changed) {
                (Some(Ok(route)), _) => return Ok(route),
                (Some(Err(problem @ RouteProblem::TopicNotExist(_))), _) => return Err(problem),
                (Some(Err(problem)), Err(_) | Ok(Err(_))) => return Err(problem),
                (None, Ok(Err(_))) => return Err(RouteProblem::Unreachable(RequestError::Stopped)),
                (None, Err(_)) => return Err(RouteProblem::NoAnswer),
                (_, Ok(Ok(()))) => topic.refresh.notify_one(),
            }
        }
    }

    /// Wakes whenever the route of a topic in use is another one than before.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.asker.changes.subscribe()
    }

    /// Asks for the route of a topic in use anew, soon: something went wrong with it.
    pub(crate) fn refresh(&self, name: &str) {
        if let Some(topic) = self.topics.lock().by_name.get(name) {
            topic.refresh.notify_one();
        }
    }

    /// Asks a name server now, past the memory.
    pub(crate) async fn fetch(&self, name: &str, deadline: Instant) -> Result<Arc<TopicRoute>, RouteProblem> {
        self.asker.fetch(name, deadline).await.map(|answer| Arc::new(TopicRoute::new(name, answer.route)))
    }

    /// Sends a request to any name server that answers.
    pub(crate) async fn ask(
        &self,
        request: &RemotingCommand,
        deadline: Instant,
    ) -> Result<(String, RemotingCommand), RequestError> {
        self.asker.ask(request, deadline).await.map(|(at, answer)| (self.asker.config.namesrvs[at].clone(), answer))
    }

    /// Ends all tasks.
    pub(crate) fn stop(&self) {
        let mut topics = self.topics.lock();
        topics.stopped = true;
        for task in topics.tasks.drain(..) {
            task.abort();
        }
        // Whoever waits for a first route sees the senders go.
        topics.by_name.clear();
    }

    fn topic(&self, name: &str) -> Option<Arc<Topic>> {
        let mut topics = self.topics.lock();
        if let Some(topic) = topics.by_name.get(name) {
            return Some(Arc::clone(topic));
        }
        if topics.stopped || topics.by_name.len() >= TOPICS_MAX {
            return None;
        }
        let topic = Arc::new(Topic { name: name.to_owned(), known: watch::Sender::new(None), refresh: Notify::new() });
        topics.by_name.insert(name.to_owned(), Arc::clone(&topic));
        let task = tokio::spawn(keep_fresh(Arc::clone(&self.asker), Arc::clone(&topic)));
        topics.tasks.push(task.abort_handle());
        Some(topic)
    }
}

/// The task of one topic. The watch goes on while polls come and go: one that is dropped would stay parked at the name server.
async fn keep_fresh(asker: Arc<Asker>, topic: Arc<Topic>) {
    let mut version = 0;
    let watching = asker.watch(&topic.name, version, Instant::now());
    tokio::pin!(watching);
    loop {
        let asked_at = Instant::now();
        let outcome = asker.fetch(&topic.name, asked_at + NAMESRV_TIMEOUT * 2).await;
        let gap = if outcome.is_ok() { REFRESH_GAP } else { FAILURE_GAP };
        asker.learn(&topic, outcome, &mut version);
        let next_poll = asked_at + asker.config.route_poll_interval;
        let not_before = Instant::now() + gap;
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(next_poll) => break,
                () = topic.refresh.notified() => {
                    tokio::time::sleep_until(not_before).await;
                    break;
                }
                watched = &mut watching => {
                    let again_at = Instant::now() + if watched.is_some() { Duration::ZERO } else { WATCH_PAUSE };
                    if let Some(outcome) = watched {
                        asker.learn(&topic, outcome, &mut version);
                    }
                    watching.set(asker.watch(&topic.name, version, again_at));
                }
            }
        }
    }
}

impl Asker {
    /// Keeps what a question or a watch brought.
    fn learn(&self, topic: &Topic, outcome: Result<Answer, RouteProblem>, version: &mut u64) {
        match outcome {
            Ok(answer) => {
                *version = answer.version.unwrap_or(0);
                let route = TopicRoute::new(&topic.name, answer.route);
                let changed = topic.known.send_if_modified(|known| {
                    let is_new = !matches!(known, Some(Ok(held)) if **held == route);
                    if is_new {
                        debug!(topic = topic.name, "route changed");
                        *known = Some(Ok(Arc::new(route)));
                    }
                    is_new
                });
                if changed {
                    self.changes.send_modify(|count| *count += 1);
                }
            }
            Err(problem) => {
                *version = 0;
                topic.known.send_modify(|known| match known {
                    // The last route is better than none: brokers may well live without name servers.
                    Some(Ok(_)) => debug!(topic = topic.name, %problem, "route kept"),
                    _ => *known = Some(Err(problem)),
                });
            }
        }
    }

    async fn fetch(&self, topic: &str, deadline: Instant) -> Result<Answer, RouteProblem> {
        let header = RouteInfo { topic: topic.to_owned(), accept_standard_json_only: Some(true) };
        let request = RemotingCommand::request(RequestCode::GET_ROUTEINFO_BY_TOPIC, 0)
            .with_header(&header)
            .with_ext(field::ROUTE_TERMS, "true");
        let (at, answer) = self.ask(&request, deadline).await.map_err(RouteProblem::Unreachable)?;
        self.read(at, topic, answer)
    }

    /// Asks one name server after the other, beginning with the one after the last that answered: so a poll sees them all in
    /// turn, and one that lags does not hide what the others know.
    async fn ask(
        &self,
        request: &RemotingCommand,
        deadline: Instant,
    ) -> Result<(usize, RemotingCommand), RequestError> {
        let count = self.config.namesrvs.len();
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        let mut last = RequestError::Stopped;
        for step in 0..count {
            let at = first.wrapping_add(step) % count;
            let addr = &self.config.namesrvs[at];
            let timeout = deadline.min(Instant::now() + NAMESRV_TIMEOUT);
            match self.connections.request(addr, request.clone(), timeout).await {
                Ok(answer) => {
                    self.answered.store(at, Ordering::Relaxed);
                    return Ok((at, answer));
                }
                Err(error) => {
                    debug!(namesrv = addr, %error, "name server did not answer");
                    last = error;
                }
            }
        }
        Err(last)
    }

    /// One watch, not before `not_before`, at the name server that answered last or the next one that can watch. Never ends when
    /// none can. `None` when it failed or nothing changed.
    async fn watch(&self, topic: &str, version: u64, not_before: Instant) -> Option<Result<Answer, RouteProblem>> {
        tokio::time::sleep_until(not_before).await;
        let count = self.config.namesrvs.len();
        let first = self.answered.load(Ordering::Relaxed);
        let able = (0..count).map(|step| (first + step) % count).find(|at| !self.no_watch[*at].load(Ordering::Relaxed));
        let Some(at) = able else { return std::future::pending().await };
        let mut request = RemotingCommand::request(code::LEDGER_WATCH_ROUTE, 0).with_ext(field::TOPIC, topic);
        request.ext.insert_display(field::ROUTE_VERSION, version);
        let deadline = Instant::now() + Duration::from_millis(WATCH_HOLD_MS) + WATCH_SLACK;
        let answer = match self.connections.request(&self.config.namesrvs[at], request, deadline).await {
            Ok(answer) => answer,
            Err(error) => {
                debug!(topic, %error, "route watch failed");
                return None;
            }
        };
        match answer.code {
            ResponseCode::REQUEST_CODE_NOT_SUPPORTED => {
                info!(namesrv = self.config.namesrvs[at], "name server has no route watch, polling alone");
                self.no_watch[at].store(true, Ordering::Relaxed);
                None
            }
            ResponseCode::SUCCESS if answer.body.is_empty() => None,
            ResponseCode::SUCCESS | ResponseCode::TOPIC_NOT_EXIST => Some(self.read(at, topic, answer)),
            _ => None,
        }
    }

    fn read(&self, at: usize, topic: &str, answer: RemotingCommand) -> Result<Answer, RouteProblem> {
        let addr = || self.config.namesrvs[at].clone();
        match answer.code {
            ResponseCode::SUCCESS => {}
            ResponseCode::TOPIC_NOT_EXIST => return Err(RouteProblem::TopicNotExist(topic.to_owned())),
            code => {
                let remark = answer.remark.unwrap_or_default();
                return Err(RouteProblem::Refused { addr: addr(), code, remark });
            }
        }
        let route = TopicRouteData::from_json(&answer.body)
            .map_err(|error| RouteProblem::Malformed { addr: addr(), why: error.to_string() })?;
        let terms: HashMap<&str, u64> = answer.ext.get(field::ROUTE_TERMS).map(terms).unwrap_or_default();
        for broker in &route.broker_datas {
            self.leaders.learn_route(broker, terms.get(broker.broker_name.as_str()).copied());
        }
        let version = answer.ext.get(field::ROUTE_VERSION).and_then(|version| version.parse().ok());
        Ok(Answer { route, version })
    }
}

/// "broker-a:7,broker-b:9". What cannot be read is left out: a term that is missing only makes the client more careful.
fn terms(text: &str) -> HashMap<&str, u64> {
    let pairs = text.split(',').filter_map(|pair| pair.rsplit_once(':'));
    pairs.filter_map(|(name, term)| Some((name, term.parse().ok()?))).collect()
}

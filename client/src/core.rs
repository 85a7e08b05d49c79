//! What producers, consumers and admin calls of one client share, and the way of every request to a broker name.
//!
//! [`Core::attempt`] makes one attempt: it picks the address, sends, and turns the outcome into knowledge (a hint followed, an
//! address suspected, the route asked for anew). [`Core::pause`] waits for the next one, shorter if a leader changes meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ledgermq_protocol::extension::field;
use ledgermq_protocol::remoting::command::RemotingCommand;
use ledgermq_protocol::remoting::response_code::ResponseCode;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tracing::debug;

use crate::config::ClientConfig;
use crate::connections::Connections;
use crate::error::{CallError, Cause, RequestError};
use crate::inbound::Inbound;
use crate::leaders::{Leader, Leaders};
use crate::membership::{Membership, new_client_id};
use crate::retry::Attempts;
use crate::route_cache::RouteCache;

/// How long the answer of a former leader is waited for once another one is known: it may still be on its way, and a send that is
/// given up too early is stored twice.
const MOVED_GRACE: Duration = Duration::from_millis(150);

/// Hints that are followed at once. Beyond it brokers send us in circles, and each further one costs a pause.
const HINTS_AT_ONCE_MAX: u32 = 4;

/// The part of a shutdown's time for which listeners in hand are waited for.
const LISTENERS_SHARE: f64 = 0.75;

/// The shared part of a client.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) config: ClientConfig,
    pub(crate) connections: Arc<Connections>,
    pub(crate) leaders: Arc<Leaders>,
    pub(crate) inbound: Arc<Inbound>,
    pub(crate) membership: Arc<Membership>,
    pub(crate) routes: RouteCache,
    /// Until when consumers may end in peace, once the client is being shut down.
    closing: watch::Sender<Option<Instant>>,
    running: AtomicUsize,
    idle: Notify,
}

/// What to ask, and of whom.
pub(crate) struct Ask<'a> {
    /// Whose leader.
    pub(crate) broker_name: &'a str,
    /// The topic whose route names it, to be refreshed on trouble; `None` when it came from the cluster.
    pub(crate) topic: Option<&'a str>,
    /// How long one attempt may take.
    pub(crate) timeout: Duration,
    /// Whether an attempt that is given up may be repeated without harm.
    pub(crate) is_read: bool,
}

/// An attempt that brought no answer worth reading.
pub(crate) struct Failed {
    pub(crate) cause: Cause,
    pub(crate) outcome_unknown: bool,
    /// Another address is known now: it can be tried without a pause.
    pub(crate) try_at_once: bool,
}

/// An operation under way: shutdown waits for it.
pub(crate) struct Running<'a>(&'a Core);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if self.0.running.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.idle.notify_waiters();
        }
    }
}

impl Core {
    pub(crate) fn new(config: ClientConfig) -> Self {
        let inbound = Arc::new(Inbound::new());
        let connections = Arc::new(Connections::new(config.connect_timeout, Arc::clone(&inbound)));
        let leaders = Arc::new(Leaders::new());
        let routes = RouteCache::new(config.clone(), Arc::clone(&connections), Arc::clone(&leaders));
        let client_id = config.client_id.clone().unwrap_or_else(new_client_id);
        let membership = Membership::new(
            client_id,
            config.heartbeat_interval,
            Arc::clone(&connections),
            Arc::clone(&leaders),
            Arc::clone(&inbound),
        );
        Self {
            config,
            connections,
            leaders,
            inbound,
            membership: Arc::new(membership),
            routes,
            closing: watch::Sender::new(None),
            running: AtomicUsize::new(0),
            idle: Notify::new(),
        }
    }

    /// Tells when the client is being shut down: until when consumers may end in peace.
    pub(crate) fn closing(&self) -> watch::Receiver<Option<Instant>> {
        self.closing.subscribe()
    }

    /// Marks an operation as under way.
    pub(crate) fn run(&self) -> Running<'_> {
        self.membership.start();
        self.running.fetch_add(1, Ordering::AcqRel);
        Running(self)
    }

    /// The attempts of an operation with the client's own bounds.
    pub(crate) fn attempts(&self) -> Attempts {
        Attempts::new(self.config.deadline, self.config.attempts_max)
    }

    /// Waits for what is under way, at most `grace`, and then ends everything.
    pub(crate) async fn shutdown(&self, grace: Duration) {
        let deadline = Instant::now() + grace;
        // Listeners may take part of it; the rest is for the last commits.
        self.closing.send_replace(Some(Instant::now() + grace.mul_f64(LISTENERS_SHARE)));
        loop {
            let idle = self.idle.notified();
            if self.running.load(Ordering::Acquire) == 0 {
                break;
            }
            if tokio::time::timeout_at(deadline, idle).await.is_err() {
                debug!(running = self.running.load(Ordering::Acquire), "shutdown no longer waits");
                break;
            }
        }
        self.stop();
    }

    /// Ends everything now.
    pub(crate) fn stop(&self) {
        self.membership.stop();
        self.routes.stop();
        self.connections.stop();
    }

    /// One attempt. An answer with code 14 (not the leader, or not now) is a failure; any other answer is for the caller to read.
    pub(crate) async fn attempt(
        &self,
        ask: &Ask<'_>,
        request: RemotingCommand,
        attempts: &Attempts,
    ) -> Result<(String, RemotingCommand), Failed> {
        let Some(addr) = self.leaders.choose(ask.broker_name, attempts.failed()) else {
            self.refresh(ask);
            let cause = Cause::NoAddress { broker_name: ask.broker_name.to_owned() };
            return Err(Failed { cause, outcome_unknown: false, try_at_once: false });
        };
        let deadline = attempts.attempt_deadline(ask.timeout);
        let is_leader = self.leaders.leader(ask.broker_name).is_some_and(|leader| leader.addr == addr);
        let outcome = tokio::select! {
            outcome = self.connections.request(&addr, request, deadline) => outcome,
            () = self.leader_moved(ask, &addr), if is_leader => Err(RequestError::LeaderMoved { addr: addr.clone() }),
        };
        match outcome {
            Ok(answer) => {
                self.leaders.trust(&addr);
                if answer.code != ResponseCode::SERVICE_NOT_AVAILABLE {
                    // A member that forwarded the request names the leader, so that the next one goes there itself.
                    if let Some(leader) = hint(&answer) {
                        self.leaders.learn_hint(ask.broker_name, leader);
                    }
                    return Ok((addr, answer));
                }
                Err(self.sent_away(ask, addr, answer, attempts))
            }
            Err(error) => {
                let moved = matches!(error, RequestError::LeaderMoved { .. });
                if !moved {
                    self.leaders.suspect(&addr);
                    self.refresh(ask);
                }
                // Whoever else is known can be asked at once: another member names the leader, or forwards.
                let other = self.leaders.choose(ask.broker_name, attempts.failed() + 1);
                let try_at_once = other.is_some_and(|other| other != addr) && attempts.failed() < HINTS_AT_ONCE_MAX;
                let outcome_unknown = error.outcome_unknown();
                Err(Failed { cause: error.into(), outcome_unknown, try_at_once })
            }
        }
    }

    /// Notes a failed attempt and waits as long as is right before the next one.
    pub(crate) async fn pause(&self, attempts: &mut Attempts, failed: Failed) -> Result<(), CallError> {
        let mut changes = self.leaders.changes();
        let pause = attempts.failed_with(failed.cause.clone(), failed.outcome_unknown)?;
        if !failed.try_at_once {
            // A new leader ends the pause; the client's own end does so too.
            let _ = tokio::time::timeout(pause, changes.changed()).await;
        }
        if Instant::now() >= attempts.deadline() {
            return Err(attempts.give_up(failed.cause));
        }
        Ok(())
    }

    /// Sends one request to the leader of a broker name until it is answered: with success, or finally.
    ///
    /// `retries` says of a response code that is not success whether trying again may help.
    pub(crate) async fn call(
        &self,
        ask: &Ask<'_>,
        request: &RemotingCommand,
        attempts: &mut Attempts,
        retries: impl Fn(i32) -> bool,
    ) -> Result<(String, RemotingCommand), CallError> {
        loop {
            let failed = match self.attempt(ask, request.clone(), attempts).await {
                Ok((addr, answer)) if !retries(answer.code) => return Ok((addr, answer)),
                Ok((addr, answer)) => refused(addr, answer),
                Err(failed) => failed,
            };
            self.pause(attempts, failed).await?;
        }
    }

    fn sent_away(&self, ask: &Ask<'_>, addr: String, answer: RemotingCommand, attempts: &Attempts) -> Failed {
        let hinted = hint(&answer).is_some_and(|leader| self.leaders.learn_hint(ask.broker_name, leader));
        if !hinted {
            self.refresh(ask);
        }
        let remark = answer.remark.unwrap_or_default();
        let cause = Cause::Refused { addr, code: answer.code, remark };
        Failed { cause, outcome_unknown: false, try_at_once: hinted && attempts.failed() < HINTS_AT_ONCE_MAX }
    }

    fn refresh(&self, ask: &Ask<'_>) {
        if let Some(topic) = ask.topic {
            self.routes.refresh(topic);
        }
    }

    async fn leader_moved(&self, ask: &Ask<'_>, addr: &str) {
        self.leaders.moved_away(ask.broker_name, addr).await;
        if !ask.is_read {
            tokio::time::sleep(MOVED_GRACE).await;
        }
    }
}

/// The leader that a member names which does not lead.
fn hint(answer: &RemotingCommand) -> Option<Leader> {
    let addr = answer.ext.get(field::LEADER)?.to_owned();
    let term = answer.ext.get(field::TERM).and_then(|term| term.parse().ok());
    Some(Leader { addr, term })
}

impl Drop for Core {
    fn drop(&mut self) {
        self.stop();
    }
}

/// An answer that says no, as a failed attempt. SYSTEM_ERROR leaves the outcome open: brokers answer it when a message may or may
/// not have been stored.
pub(crate) fn refused(addr: String, answer: RemotingCommand) -> Failed {
    let outcome_unknown = answer.code == ResponseCode::SYSTEM_ERROR;
    let remark = answer.remark.unwrap_or_default();
    Failed { cause: Cause::Refused { addr, code: answer.code, remark }, outcome_unknown, try_at_once: false }
}

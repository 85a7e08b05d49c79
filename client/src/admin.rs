//! Admin: what operators ask and change, over the same protocol as everybody else.
//!
//! Broker names and their leaders come from the cluster's picture at a name server, asked for anew whenever a broker cannot help.

use std::sync::Arc;
use std::time::Duration;

use ledgermq_protocol::extension::code;
use ledgermq_protocol::json::Body;
use ledgermq_protocol::remoting::command::RemotingCommand;
use ledgermq_protocol::remoting::headers::topic::CreateTopic;
use ledgermq_protocol::remoting::request_code::RequestCode;
use ledgermq_protocol::remoting::response_code::ResponseCode;
use ledgermq_protocol::route::{ClusterInfo, PERM_READ, PERM_WRITE, TopicList};

use crate::core::{Ask, Core, refused};
use crate::error::{CallError, Cause, RouteProblem};
use crate::retry::Attempts;
use crate::route::TopicRoute;

/// How often to look whether a topic that was created has its route.
const ROUTE_LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// How long a node may take to carry out an order: a change of members waits for the log, and for the other members.
const ORDER_TIMEOUT: Duration = Duration::from_secs(13);

/// A topic to be created or changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTopic {
    /// Its name.
    pub name: String,
    /// Queues per broker name. Default 8.
    pub queue_nums: i32,
    /// Permission bits: 4 read, 2 write. Default both.
    pub perm: i32,
    /// Only on these broker names. Default: on all of the cluster.
    pub broker_names: Option<Vec<String>>,
}

impl NewTopic {
    /// A topic with `queue_nums` queues on every broker name, to read and write.
    pub fn new(name: impl Into<String>, queue_nums: i32) -> Self {
        Self { name: name.into(), queue_nums, perm: PERM_READ | PERM_WRITE, broker_names: None }
    }

    /// Sets [`Self::broker_names`].
    pub fn with_broker_names<N: Into<String>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        self.broker_names = Some(names.into_iter().map(Into::into).collect());
        self
    }
}

/// Operators' requests. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Admin {
    core: Arc<Core>,
}

impl Admin {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        Self { core }
    }

    /// Every broker name with its members, and the names of each cluster.
    ///
    /// # Errors
    /// [`CallError`] when no name server answers within the deadline.
    pub async fn cluster(&self) -> Result<ClusterInfo, CallError> {
        let _running = self.core.run();
        self.cluster_within(&mut self.core.attempts()).await
    }

    /// All topics that a name server knows.
    ///
    /// # Errors
    /// As [`Self::cluster`].
    pub async fn topics(&self) -> Result<Vec<String>, CallError> {
        let _running = self.core.run();
        let list: TopicList =
            self.ask_namesrv(RequestCode::GET_ALL_TOPIC_LIST_FROM_NAMESERVER, &mut self.core.attempts()).await?;
        Ok(list.topic_list)
    }

    /// The route of a topic as a name server has it now.
    ///
    /// # Errors
    /// [`CallError::NoRoute`] when it does not exist, or when no name server answers within the deadline.
    pub async fn route(&self, topic: &str) -> Result<Arc<TopicRoute>, CallError> {
        let _running = self.core.run();
        let mut attempts = self.core.attempts();
        loop {
            match self.core.routes.fetch(topic, attempts.deadline()).await {
                Ok(route) => return Ok(route),
                Err(problem @ RouteProblem::TopicNotExist(_)) => return Err(CallError::NoRoute(problem)),
                Err(problem) => {
                    let pause = attempts.failed_with(Cause::NoRoute(problem), false)?;
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    /// Creates or changes a topic on each of its broker names, and waits until its route says so.
    ///
    /// # Errors
    /// [`CallError`] of the first broker name that refuses. Others may have it then; creating it again does no harm.
    pub async fn create_topic(&self, topic: &NewTopic) -> Result<(), CallError> {
        let _running = self.core.run();
        let mut attempts = self.core.attempts();
        let names = match &topic.broker_names {
            Some(names) => names.clone(),
            None => self.cluster_within(&mut attempts).await?.broker_addr_table.into_keys().collect(),
        };
        if names.is_empty() {
            return Err(attempts.give_up(Cause::NoAddress { broker_name: "any broker".to_owned() }));
        }
        let header = CreateTopic {
            topic: topic.name.clone(),
            default_topic: Some(ledgermq_protocol::names::AUTO_CREATE_TOPIC.to_owned()),
            read_queue_nums: topic.queue_nums,
            write_queue_nums: topic.queue_nums,
            perm: topic.perm,
            topic_filter_type: Some("SINGLE_TAG".to_owned()),
            topic_sys_flag: Some(0),
            order: Some(false),
            attributes: None,
        };
        let request = RemotingCommand::request(RequestCode::UPDATE_AND_CREATE_TOPIC, 0).with_header(&header);
        for name in &names {
            let mut attempts = self.core.attempts();
            let (addr, answer) = self.call_leader(name, &request, &mut attempts).await?;
            success(addr, answer, &attempts)?;
        }
        self.until_routed(topic, &names).await
    }

    /// How the Raft groups of the node at `addr` (a Remoting address) stand, as that node tells it. LedgerMQ only.
    ///
    /// # Errors
    /// [`CallError`] when the node does not answer within one attempt's time, or does not know the request.
    pub async fn raft_status(&self, addr: &str) -> Result<serde_json::Value, CallError> {
        self.ask_node(addr, code::LEDGER_RAFT_STATUS).await
    }

    /// Digest of the logical state of the replica at `addr` (a Remoting address). LedgerMQ only.
    ///
    /// # Errors
    /// As [`Self::raft_status`].
    pub async fn state_digest(&self, addr: &str) -> Result<serde_json::Value, CallError> {
        self.ask_node(addr, code::LEDGER_STATE_DIGEST).await
    }

    /// Has the leader at `addr` (a Remoting address) change the membership of its group, and waits until that is applied; `change`
    /// is what the extension's LEDGER_CHANGE_MEMBERS says. LedgerMQ only.
    ///
    /// # Errors
    /// [`CallError::Refused`] with the reason; without an answer the change may have been made.
    pub async fn change_members(&self, addr: &str, change: &serde_json::Value) -> Result<serde_json::Value, CallError> {
        self.order(addr, code::LEDGER_CHANGE_MEMBERS, change).await
    }

    /// Has the leader at `addr` (a Remoting address) hand its leadership over: to member `to` of the object, or to whoever can take
    /// it best. LedgerMQ only.
    ///
    /// # Errors
    /// As [`Self::change_members`].
    pub async fn transfer(&self, addr: &str, to: &serde_json::Value) -> Result<serde_json::Value, CallError> {
        self.order(addr, code::LEDGER_TRANSFER, to).await
    }

    /// One attempt: whoever gives the order looks whether it must be repeated.
    async fn order(&self, addr: &str, code: i32, body: &serde_json::Value) -> Result<serde_json::Value, CallError> {
        let _running = self.core.run();
        let attempts = self.core.attempts();
        let deadline = tokio::time::Instant::now() + ORDER_TIMEOUT;
        let request = RemotingCommand::request(code, 0).with_body(body.to_string().into_bytes());
        let answer = match self.core.connections.request(addr, request, deadline).await {
            Ok(answer) => answer,
            Err(error) => return Err(attempts.give_up(error.into())),
        };
        let (addr, answer) = success(addr.to_owned(), answer, &attempts)?;
        serde_json::from_slice(&answer.body).map_err(|error| CallError::Malformed { addr, why: error.to_string() })
    }

    async fn ask_node(&self, addr: &str, code: i32) -> Result<serde_json::Value, CallError> {
        let _running = self.core.run();
        let mut attempts = self.core.attempts();
        let deadline = attempts.attempt_deadline(self.core.config.attempt_timeout);
        let answer = match self.core.connections.request(addr, RemotingCommand::request(code, 0), deadline).await {
            Ok(answer) => answer,
            Err(error) => {
                // A question changes nothing: its outcome is not unknown, it just has no answer.
                attempts.failed_with(error.clone().into(), false)?;
                return Err(attempts.give_up(error.into()));
            }
        };
        let (addr, answer) = success(addr.to_owned(), answer, &attempts)?;
        serde_json::from_slice(&answer.body).map_err(|error| CallError::Malformed { addr, why: error.to_string() })
    }

    async fn cluster_within(&self, attempts: &mut Attempts) -> Result<ClusterInfo, CallError> {
        let info: ClusterInfo = self.ask_namesrv(RequestCode::GET_BROKER_CLUSTER_INFO, attempts).await?;
        for broker in info.broker_addr_table.values() {
            self.core.leaders.learn_route(broker, None);
        }
        Ok(info)
    }

    async fn ask_namesrv<B: Body>(&self, code: i32, attempts: &mut Attempts) -> Result<B, CallError> {
        let request = RemotingCommand::request(code, 0);
        loop {
            let cause = match self.core.routes.ask(&request, attempts.deadline()).await {
                Ok((addr, answer)) if answer.code == ResponseCode::SUCCESS => {
                    return B::from_json(&answer.body)
                        .map_err(|error| CallError::Malformed { addr, why: error.to_string() });
                }
                // SYSTEM_ERROR: it has just started and brokers are still to report.
                Ok((addr, answer)) if answer.code == ResponseCode::SYSTEM_ERROR => refused(addr, answer).cause,
                Ok((addr, answer)) => return Err(refusal(addr, answer, attempts)),
                Err(error) => error.into(),
            };
            let pause = attempts.failed_with(cause, false)?;
            tokio::time::sleep(pause).await;
        }
    }

    /// As [`Core::call`], with the cluster's picture instead of a topic's route.
    async fn call_leader(
        &self,
        broker_name: &str,
        request: &RemotingCommand,
        attempts: &mut Attempts,
    ) -> Result<(String, RemotingCommand), CallError> {
        let timeout = self.core.config.attempt_timeout;
        let ask = Ask { broker_name, topic: None, timeout, is_read: false };
        if self.core.leaders.leader(broker_name).is_none() {
            self.cluster_within(attempts).await?;
        }
        loop {
            let failed = match self.core.attempt(&ask, request.clone(), attempts).await {
                Ok((addr, answer)) if matches!(answer.code, ResponseCode::SYSTEM_ERROR | ResponseCode::SYSTEM_BUSY) => {
                    refused(addr, answer)
                }
                Ok(answered) => return Ok(answered),
                Err(failed) => failed,
            };
            self.core.pause(attempts, failed).await?;
            self.cluster_within(attempts).await?;
        }
    }

    async fn until_routed(&self, topic: &NewTopic, names: &[String]) -> Result<(), CallError> {
        let mut attempts = self.core.attempts();
        loop {
            let problem = match self.core.routes.fetch(&topic.name, attempts.deadline()).await {
                Ok(route) if is_routed(&route, topic, names) => {
                    self.core.routes.refresh(&topic.name);
                    return Ok(());
                }
                Ok(_) => RouteProblem::NoQueue { topic: topic.name.clone(), to: "use on every broker name" },
                Err(problem) => problem,
            };
            // Not a failed attempt, only not yet.
            if tokio::time::Instant::now() + ROUTE_LOOK_INTERVAL >= attempts.deadline() {
                attempts.failed_with(Cause::NoRoute(problem.clone()), true)?;
                return Err(attempts.give_up(Cause::NoRoute(problem)));
            }
            tokio::time::sleep(ROUTE_LOOK_INTERVAL).await;
        }
    }
}

fn is_routed(route: &TopicRoute, topic: &NewTopic, names: &[String]) -> bool {
    names.iter().all(|name| {
        route.data().queue_datas.iter().any(|queues| {
            queues.broker_name == *name
                && queues.read_queue_nums == topic.queue_nums
                && queues.write_queue_nums == topic.queue_nums
                && queues.perm == topic.perm
        })
    })
}

fn success(addr: String, answer: RemotingCommand, attempts: &Attempts) -> Result<(String, RemotingCommand), CallError> {
    if answer.code == ResponseCode::SUCCESS { Ok((addr, answer)) } else { Err(refusal(addr, answer, attempts)) }
}

fn refusal(addr: String, answer: RemotingCommand, attempts: &Attempts) -> CallError {
    let remark = answer.remark.unwrap_or_default();
    CallError::Refused { addr, code: answer.code, remark, outcome_unknown: attempts.outcome_unknown() }
}

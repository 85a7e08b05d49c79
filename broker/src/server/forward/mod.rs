//! Requests that only the leader serves and that came to a member which does not: held for a moment until somebody leads,
//! then served here or passed on to the leader, one hop.
//!
//! ```text
//! dispatch --(not serving)--> Forwarder: wait for a role --+--> serves now: the handler here
//!                                                          +--> another leads: link --> its answer, relayed
//!                                                          +--> nobody in time: SERVICE_NOT_AVAILABLE (14)
//! ```
//! Stock clients keep an address for up to 30 s: a planned hand-over, and a kill for whoever asks a survivor, must not fail their
//! sends. What is held keeps its share of the node's byte budget, and is bounded by number too.

mod link;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use ledgermq_dledger::{Outcome, RaftId, RoleView};
use ledgermq_protocol::extension::{Forwarded, code, field};
use ledgermq_protocol::remoting::command::RemotingCommand;
use ledgermq_protocol::remoting::request_code::RequestCode;
use ledgermq_protocol::remoting::response_code::ResponseCode;
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::link::{Link, LinkError};
use super::outbox::Responder;
use super::ticket::failed;
use crate::replica::Replica;

/// Longest time that a request waits for a leader: an election fits in, and the sender, whose own patience is 3 s by default,
/// still has time for another try.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// Longest time that the leader may take to answer a forwarded request.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// Requests that wait or are passed on at a time, per group; one more is answered SYSTEM_BUSY.
const HELD_MAX: usize = 4_096;

/// Pause before a leader that refused, or could not be reached, is asked again.
const PAUSE: Duration = Duration::from_millis(20);

/// Whether a request stores messages.
pub fn stores_messages(code: i32) -> bool {
    matches!(
        code,
        RequestCode::SEND_MESSAGE
            | RequestCode::SEND_MESSAGE_V2
            | RequestCode::SEND_BATCH_MESSAGE
            | RequestCode::CONSUMER_SEND_MSG_BACK
    )
}

/// Whether a request is served by the leader alone.
pub fn is_for_leader(code: i32) -> bool {
    matches!(
        code,
        RequestCode::END_TRANSACTION
            | RequestCode::UPDATE_CONSUMER_OFFSET
            | RequestCode::LOCK_BATCH_MQ
            | RequestCode::UNLOCK_BATCH_MQ
            | RequestCode::UPDATE_AND_CREATE_TOPIC
            | RequestCode::DELETE_TOPIC_IN_BROKER
            | RequestCode::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP
            | RequestCode::DELETE_SUBSCRIPTIONGROUP
            | RequestCode::INVOKE_BROKER_TO_RESET_OFFSET
            | RequestCode::CLONE_GROUP_OFFSET
            | RequestCode::RECALL_MESSAGE
    ) || stores_messages(code)
        || is_read(code)
}

/// Those of them that can be asked again when the answer is lost.
fn is_read(code: i32) -> bool {
    matches!(
        code,
        RequestCode::QUERY_CONSUMER_OFFSET
            | RequestCode::GET_MAX_OFFSET
            | RequestCode::GET_MIN_OFFSET
            | RequestCode::GET_EARLIEST_MSG_STORETIME
            | RequestCode::SEARCH_OFFSET_BY_TIMESTAMP
            | RequestCode::GET_TOPIC_STATS_INFO
            | RequestCode::GET_CONSUME_STATS
            | RequestCode::QUERY_CONSUME_TIME_SPAN
            | RequestCode::GET_ALL_CONSUMER_OFFSET
            | RequestCode::QUERY_CORRECTION_OFFSET
    )
}

/// Passes requests of one group on.
pub struct Forwarder {
    replica: Arc<Replica>,
    /// To other members, with the address that each was made for.
    links: Mutex<HashMap<RaftId, (String, Arc<Link>)>>,
    held: AtomicUsize,
    /// When a client last sent a request for the leader here, in ms since the replica's start; 0 for never.
    asked_ms: AtomicU64,
}

/// How the wait for a leader ended.
enum Leader {
    /// This replica serves.
    Here,
    /// Another one leads.
    There(RaftId, u64),
    /// Nobody in time.
    Nowhere(RoleView),
}

impl Forwarder {
    /// For one replica. Connects when something is to be passed on.
    pub fn new(replica: Arc<Replica>) -> Arc<Self> {
        Arc::new(Self { links: Mutex::default(), held: AtomicUsize::new(0), asked_ms: AtomicU64::new(0), replica })
    }

    /// Takes a request that this replica cannot serve now. `here` serves it, should this replica come to lead.
    pub fn hold(
        self: &Arc<Self>,
        request: RemotingCommand,
        responder: Responder,
        here: impl FnOnce(RemotingCommand, Responder) + Send + 'static,
    ) {
        if self.held.fetch_add(1, Ordering::Relaxed) >= HELD_MAX {
            self.held.fetch_sub(1, Ordering::Relaxed);
            let remark = format!("[TIMEOUT_CLEAN_QUEUE] {HELD_MAX} requests wait for a leader already");
            return responder.refuse(ResponseCode::SYSTEM_BUSY, remark);
        }
        let held = Held(Arc::clone(self));
        tokio::spawn(async move { held.0.run(request, responder, here).await });
    }

    /// Notes that a client sent a request for the leader here.
    pub fn note_asked(&self) {
        self.asked_ms.store(self.replica.now_ms().max(1), Ordering::Relaxed);
    }

    /// For how long no client has sent one; `None` when none ever did.
    pub fn unasked_for(&self) -> Option<Duration> {
        match self.asked_ms.load(Ordering::Relaxed) {
            0 => None,
            at => Some(Duration::from_millis(self.replica.now_ms().saturating_sub(at))),
        }
    }

    /// The connection to another member, where it is reached now. As many as there are members.
    fn link(&self, member: RaftId) -> Option<Arc<Link>> {
        let address = self.replica.identity().address_of(member)?;
        let mut links = self.links.lock();
        if let Some((made_for, link)) = links.get(&member)
            && *made_for == address
        {
            return Some(Arc::clone(link));
        }
        links.retain(|id, _| self.replica.identity().address_of(*id).is_some());
        let link = Arc::new(Link::new(address.clone()));
        links.insert(member, (address, Arc::clone(&link)));
        Some(link)
    }

    /// Whether a member would take the leadership over.
    pub async fn may_lead(&self, member: RaftId) -> bool {
        let Some(link) = self.link(member) else { return false };
        let question = RemotingCommand::request(code::LEDGER_MAY_LEAD, 0);
        let answer = tokio::time::timeout(WAIT_MAX, link.ask(question)).await;
        matches!(answer, Ok(Ok(answer)) if answer.code == ResponseCode::SUCCESS)
    }

    /// Asks all other members at once, and returns the first answer with SUCCESS.
    pub async fn ask_others(&self, request: &RemotingCommand, timeout: Duration) -> Option<RemotingCommand> {
        let own = self.replica.identity().raft_id;
        let others = self.replica.identity().members.ids().into_iter().filter(|id| *id != own);
        let mut asked = JoinSet::new();
        for link in others.filter_map(|member| self.link(member)) {
            let request = request.clone();
            asked.spawn(async move { tokio::time::timeout(timeout, link.ask(request)).await });
        }
        while let Some(answered) = asked.join_next().await {
            if let Ok(Ok(Ok(answer))) = answered
                && answer.code == ResponseCode::SUCCESS
            {
                return Some(answer);
            }
        }
        None
    }

    async fn run(&self, request: RemotingCommand, responder: Responder, here: impl FnOnce(RemotingCommand, Responder)) {
        let forwarded = responder.forwarded();
        let wait = forwarded.map_or(WAIT_MAX, |mark| Duration::from_millis(mark.wait_ms).min(WAIT_MAX));
        let deadline = Instant::now() + wait;
        let mut asked = None;
        let mut refusal = None;
        loop {
            match self.leader(deadline, forwarded, asked.take()).await {
                Leader::Here => return here(request, responder),
                Leader::Nowhere(role) => match refusal {
                    Some(refusal) => return responder.relay(refusal),
                    None => return self.refuse(responder, role),
                },
                Leader::There(leader, term) => match self.pass_on(&request, &responder, leader, term, deadline).await {
                    // It took nothing: not the leader any more, or without room. Its words are the answer if nobody else's are.
                    Ok(answer) if answer.code == ResponseCode::SERVICE_NOT_AVAILABLE => {
                        refusal = Some(answer);
                        asked = Some((leader, term));
                    }
                    Ok(answer) => return responder.relay(answer),
                    Err(LinkError::NotSent) => asked = Some((leader, term)),
                    Err(LinkError::Lost) if is_read(request.code) => asked = Some((leader, term)),
                    Err(LinkError::Lost) => {
                        let answer = responder.command(ResponseCode::SUCCESS);
                        return responder.send(failed(answer, Outcome::Unknown, self.replica.identity()));
                    }
                },
            }
        }
    }

    /// Waits until somebody can be asked. `asked` was asked in vain just now, and is asked again only after a pause.
    async fn leader(
        &self,
        deadline: Instant,
        forwarded: Option<Forwarded>,
        mut asked: Option<(RaftId, u64)>,
    ) -> Leader {
        let mut roles = self.replica.handle.watch_role();
        let mut gate = self.replica.watch_gate();
        let own = self.replica.identity().raft_id;
        loop {
            let role = *roles.borrow_and_update();
            let open = *gate.borrow_and_update();
            // One hop: whoever was sent here in another term, or to one that does not lead in it, looks for itself.
            if forwarded.is_some_and(|mark| mark.term != role.term || role.leader != Some(own)) {
                return Leader::Nowhere(role);
            }
            if role.serves() && open {
                return Leader::Here;
            }
            if let Some(leader) = role.leader
                && leader != own
                && asked != Some((leader, role.term))
            {
                return Leader::There(leader, role.term);
            }
            let pause = asked.map_or(deadline, |_| deadline.min(Instant::now() + PAUSE));
            tokio::select! {
                // A node that stops drops the sender: then only the deadline ends the wait.
                Ok(()) = roles.changed() => {}
                Ok(()) = gate.changed() => {}
                () = tokio::time::sleep_until(pause) => asked = None,
            }
            if Instant::now() >= deadline {
                return Leader::Nowhere(role);
            }
        }
    }

    async fn pass_on(
        &self,
        request: &RemotingCommand,
        responder: &Responder,
        leader: RaftId,
        term: u64,
        deadline: Instant,
    ) -> Result<RemotingCommand, LinkError> {
        let Some(link) = self.link(leader) else {
            return Err(LinkError::NotSent);
        };
        let wait_ms = deadline.saturating_duration_since(Instant::now()).as_millis() as u64;
        let mark = Forwarded { term, wait_ms, client: responder.client() };
        let mut request = request.clone();
        // The client's own fields may have used up the limits of a header.
        request.ext.try_insert(field::FORWARDED, &mark.to_string()).map_err(|_| LinkError::NotSent)?;
        if responder.is_oneway() {
            link.tell(request).await?;
            return Ok(responder.command(ResponseCode::SUCCESS));
        }
        let answer = tokio::time::timeout(ANSWER_MAX, link.ask(request)).await.map_err(|_| LinkError::Lost)??;
        let mut answer = answer;
        if let Some(address) = self.replica.identity().address_of(leader) {
            // A hint: an answer without room for it is as good.
            let _ = answer.ext.try_insert(field::LEADER, &address);
            let _ = answer.ext.try_insert(field::TERM, &term.to_string());
        }
        Ok(answer)
    }

    fn refuse(&self, responder: Responder, role: RoleView) {
        let answer = responder.command(ResponseCode::SUCCESS);
        responder.send(self.replica.identity().not_leader(answer, role.leader, role.term));
    }
}

/// Counts a request while it is held.
struct Held(Arc<Forwarder>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.held.fetch_sub(1, Ordering::Relaxed);
    }
}

//! Who waits for a proposal, and how its outcome gets there: the way back of a send, from the raft loop to the client.
//!
//! The raft loop hands over ended proposals a batch at a time. All answers for one connection are queued together and its writer
//! is woken once; the writer encodes them. Nothing here waits, and no answer is made on the raft loop.

use std::sync::Arc;

use ledgermq_dledger::{Completions, Outcome};
use ledgermq_protocol::message::id::offset_id;
use ledgermq_protocol::message::recall::RecallHandle;
use ledgermq_protocol::remoting::command::RemotingCommand;
use ledgermq_protocol::remoting::headers::send::SendMessageResponse;
use ledgermq_protocol::remoting::response_code::ResponseCode;
use tokio::sync::oneshot;

use super::outbox::{Connection, Outgoing, Responder};
use crate::identity::Identity;
use crate::stamp::{Answer, BrokerStamper, Sent};

/// Who waits for a proposal.
#[derive(Debug)]
pub enum Ticket {
    /// A client that sent messages.
    Send(SendTicket),
    /// A handler that goes on with the outcome.
    Call(oneshot::Sender<Outcome<Answer>>),
}

/// A client that sent messages.
#[derive(Debug)]
pub struct SendTicket {
    /// Where the answer goes.
    pub responder: Responder,
    /// Unique key of the message, which a producer of transactions wants back.
    pub unique_key: Option<Box<str>>,
    /// Topic of a message that waits and can be recalled meanwhile.
    pub recall: Option<Arc<str>>,
    /// Who answers.
    pub identity: Arc<Identity>,
}

/// A send that ended.
#[derive(Debug)]
pub struct Completed {
    ticket: SendTicket,
    outcome: Outcome<Answer>,
}

impl Completed {
    /// A send with its outcome.
    pub fn new(ticket: SendTicket, outcome: Outcome<Answer>) -> Self {
        Self { ticket, outcome }
    }

    /// The answer for the client; `None` when it wants none.
    ///
    /// Codes 10, 11 and 12 never occur: clients take them for success, and here a message is on a majority's disks or it is not.
    pub fn into_answer(self) -> Option<RemotingCommand> {
        let SendTicket { responder, unique_key, recall, identity } = self.ticket;
        if responder.is_oneway() {
            return None;
        }
        let answer = responder.command(ResponseCode::SUCCESS);
        Some(match self.outcome {
            Outcome::Answered(Answer::Sent(sent)) => stored(answer, &sent, unique_key, recall.as_deref(), &identity),
            other => failed(answer, other, &identity),
        })
    }
}

/// Queues the answer of an ended send, at once.
pub fn complete_now(ticket: SendTicket, outcome: Outcome<Answer>) {
    let connection = Arc::clone(ticket.responder.connection());
    connection.send(Outgoing::Completed(Completed::new(ticket, outcome)));
}

/// Turns `answer` into what an outcome other than success means to a client.
pub fn failed(mut answer: RemotingCommand, outcome: Outcome<Answer>, identity: &Identity) -> RemotingCommand {
    let (code, remark) = match outcome {
        Outcome::Answered(Answer::Refused(refusal)) => (refusal.code, refusal.remark),
        Outcome::NotLeader { leader, term } => return identity.not_leader(answer, leader, term),
        Outcome::Busy(cause) => (ResponseCode::SYSTEM_BUSY, format!("[TIMEOUT_CLEAN_QUEUE] {cause}, try again later")),
        Outcome::Unknown => (
            ResponseCode::SYSTEM_ERROR,
            format!(
                "{} lost its leader while this was in flight: the outcome is unknown, it may or may not have been stored",
                identity.broker_name
            ),
        ),
        Outcome::Answered(other) => {
            (ResponseCode::SYSTEM_ERROR, format!("the log answered with something else than was asked: {other:?}"))
        }
    };
    answer.code = code;
    answer.remark = Some(remark);
    answer
}

fn stored(
    answer: RemotingCommand,
    sent: &Sent,
    unique_key: Option<Box<str>>,
    recall: Option<&str>,
    identity: &Identity,
) -> RemotingCommand {
    let mut msg_id = offset_id(identity.store_host, sent.physical_offset as i64);
    for physical_offset in &sent.more_physical_offsets {
        msg_id.push(',');
        msg_id.push_str(&offset_id(identity.store_host, *physical_offset as i64));
    }
    let recallable = recall.zip(unique_key.as_deref()).zip(sent.due_ms);
    let recall_handle = recallable.map(|((topic, unique_key), due_ms)| RecallHandle {
        topic: topic.to_owned(),
        broker_name: identity.broker_name.clone(),
        due_ms: due_ms as i64,
        unique_key: unique_key.to_owned(),
    });
    answer.with_header(&SendMessageResponse {
        msg_id,
        queue_id: sent.queue_id as i32,
        queue_offset: sent.queue_offset as i64,
        transaction_id: unique_key.map(String::from),
        batch_uniq_id: None,
        recall_handle: recall_handle.map(|handle| handle.encode()),
        region: Some(SendMessageResponse::DEFAULT_REGION.to_owned()),
        trace_on: Some(true),
    })
}

/// The raft loop's way out.
#[derive(Debug, Default)]
pub struct Answers {
    touched: Vec<Arc<Connection>>,
}

impl Completions<BrokerStamper<Ticket>> for Answers {
    fn complete(&mut self, done: &mut Vec<(Ticket, Outcome<Answer>)>) {
        for (ticket, outcome) in done.drain(..) {
            match ticket {
                Ticket::Send(ticket) if ticket.responder.is_oneway() => {}
                Ticket::Send(ticket) => {
                    let connection = Arc::clone(ticket.responder.connection());
                    if connection.put(Outgoing::Completed(Completed::new(ticket, outcome))) {
                        self.touched.push(connection);
                    }
                }
                // A handler whose client is gone has stopped waiting.
                Ticket::Call(waiting) => drop(waiting.send(outcome)),
            }
        }
        for connection in self.touched.drain(..) {
            connection.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use ledgermq_protocol::extension::field;

    use super::*;
    use crate::identity::Members;
    use crate::server::admission::Claim;
    use crate::stamp::Refusal;

    fn identity() -> Arc<Identity> {
        Arc::new(Identity {
            cluster: "c".into(),
            broker_name: "broker-a".into(),
            raft_id: 1,
            advertised: "192.168.1.2:10911".into(),
            store_host: SocketAddr::from(([192, 168, 1, 2], 10911)),
            peer: "192.168.1.2:10912".into(),
            members: Members::of_config([(1, "192.168.1.2:10911".into()), (2, "192.168.1.3:10911".into())]),
        })
    }

    fn connection(id: u64) -> Arc<Connection> {
        Connection::new(id, SocketAddr::from(([127, 0, 0, 1], 1)), 1 << 20)
    }

    fn ticket(connection: &Arc<Connection>, request: &RemotingCommand) -> SendTicket {
        SendTicket {
            responder: Responder::new(Arc::clone(connection), request, Claim::default()),
            unique_key: Some("KEY".into()),
            recall: Some("T".into()),
            identity: identity(),
        }
    }

    fn answer(outcome: Outcome<Answer>) -> RemotingCommand {
        let ticket = ticket(&connection(1), &RemotingCommand::request(10, 7));
        Completed::new(ticket, outcome).into_answer().unwrap()
    }

    /// Java reads three fields of a successful answer without a check; a batch names all its messages.
    #[test]
    fn a_stored_message_is_answered_with_its_places() {
        let sent = Sent {
            queue_id: 3,
            queue_offset: 41,
            physical_offset: 1024,
            more_physical_offsets: vec![2048],
            ..Sent::default()
        };
        let answer = answer(Outcome::Answered(Answer::Sent(sent)));
        assert_eq!((answer.code, answer.opaque), (0, 7));
        assert_eq!(answer.ext.get("msgId"), Some("C0A8010200002A9F0000000000000400,C0A8010200002A9F0000000000000800"));
        assert_eq!(answer.ext.get("queueId"), Some("3"));
        assert_eq!(answer.ext.get("queueOffset"), Some("41"));
        assert_eq!(answer.ext.get("transactionId"), Some("KEY"));
        assert_eq!(answer.ext.get("MSG_REGION"), Some("DefaultRegion"));
        assert_eq!(answer.ext.get("TRACE_ON"), Some("true"));
        assert_eq!(answer.ext.get("recallHandle"), None, "it waits for nothing");
    }

    /// A producer can take a message back only with what it is told here.
    #[test]
    fn a_delayed_message_is_answered_with_its_handle() {
        let sent = Sent { due_ms: Some(1_700_000_000_000), ..Sent::default() };
        let answer = answer(Outcome::Answered(Answer::Sent(sent)));
        let handle = RecallHandle::decode(answer.ext.get("recallHandle").unwrap()).unwrap();
        let expected = ("T", "broker-a", 1_700_000_000_000, "KEY");
        let RecallHandle { topic, broker_name, due_ms, unique_key } = &handle;
        assert_eq!((topic.as_str(), broker_name.as_str(), *due_ms, unique_key.as_str()), expected);
    }

    /// The code decides whether a client sends again: a wrong one loses or doubles messages.
    #[test]
    fn each_failure_has_its_code() {
        let away = answer(Outcome::NotLeader { leader: Some(2), term: 9 });
        assert_eq!(away.code, ResponseCode::SERVICE_NOT_AVAILABLE);
        assert_eq!(away.ext.get(field::LEADER), Some("192.168.1.3:10911"));
        assert_eq!(away.ext.get(field::TERM), Some("9"));
        assert!(away.remark.unwrap().contains("192.168.1.3:10911"));
        for leader in [None, Some(1), Some(77)] {
            let away = answer(Outcome::NotLeader { leader, term: 9 });
            assert_eq!((away.code, away.ext.get(field::LEADER)), (ResponseCode::SERVICE_NOT_AVAILABLE, None));
        }
        assert_eq!(answer(Outcome::Busy("the queue is full")).code, ResponseCode::SYSTEM_BUSY);
        let unknown = answer(Outcome::Unknown);
        assert_eq!(unknown.code, ResponseCode::SYSTEM_ERROR);
        assert!(unknown.remark.unwrap().contains("unknown"));
        let refused = answer(Outcome::Answered(Answer::Refused(Refusal::new(17, "no topic"))));
        assert_eq!((refused.code, refused.remark.as_deref()), (17, Some("no topic")));
    }

    /// The answers of one commit must reach each connection together, and one-way sends must stay silent.
    #[tokio::test]
    async fn a_batch_of_outcomes_is_queued_before_the_writer_wakes() {
        let (a, b) = (connection(1), connection(2));
        let request = RemotingCommand::request(10, 1);
        let (call, called) = oneshot::channel();
        let outcome = || Outcome::Answered(Answer::Done { index: 5 });
        let mut done = vec![
            (Ticket::Send(ticket(&a, &request)), outcome()),
            (Ticket::Send(ticket(&b, &request)), outcome()),
            (Ticket::Send(ticket(&b, &RemotingCommand::oneway(10, 2))), outcome()),
            (Ticket::Call(call), outcome()),
            (Ticket::Send(ticket(&a, &request)), outcome()),
        ];
        Answers::default().complete(&mut done);
        assert!(done.is_empty());
        assert_eq!(a.take(Vec::new()).await.unwrap().len(), 2);
        assert_eq!(b.take(Vec::new()).await.unwrap().len(), 1);
        assert_eq!(called.await.unwrap(), outcome());
    }
}

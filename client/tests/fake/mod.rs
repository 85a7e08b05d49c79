//! Fake name servers and brokers: each request is logged and answered as the test says, also by silence or a cut connection.
//! Heartbeats and leaves are logged apart and answered with success, so that tests of other things need not know of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use ledgermq_client::{Client, ClientConfig};
use ledgermq_protocol::extension::{code, field};
use ledgermq_protocol::json::Body;
use ledgermq_protocol::message::properties;
use ledgermq_protocol::remoting::command::RemotingCommand;
use ledgermq_protocol::remoting::frame::{self, FrameLimits};
use ledgermq_protocol::remoting::headers::send::{SendMessage, SendMessageResponse};
use ledgermq_protocol::remoting::request_code::RequestCode;
use ledgermq_protocol::remoting::response_code::ResponseCode;
use ledgermq_protocol::route::{BrokerData, QueueData, TopicRouteData};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

pub(crate) mod group;

/// Longest time that anything in these tests may take.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// What a fake does with a request.
pub(crate) enum Reply {
    /// Answers it.
    Answer(RemotingCommand),
    /// Answers it once the sender is used.
    Later(tokio::sync::oneshot::Receiver<RemotingCommand>),
    /// Does nothing.
    Silence,
    /// Closes the connection.
    Cut,
    /// Closes the connection in the middle of the answer.
    CutInside(RemotingCommand),
}

/// What happened to the membership of a client: a heartbeat, a leave, or the end of its connection.
pub(crate) enum Heard<'a> {
    Request(&'a RemotingCommand),
    End,
}

/// The connections of a fake by number, to send something unasked.
#[derive(Clone, Default)]
pub(crate) struct Lines {
    by_number: Arc<Mutex<BTreeMap<u64, mpsc::UnboundedSender<Bytes>>>>,
    next: Arc<AtomicU64>,
}

impl Lines {
    /// Sends a request of the server's own.
    pub(crate) fn tell(&self, number: u64, request: &RemotingCommand) {
        let mut bytes = BytesMut::new();
        frame::encode(request, &mut bytes).unwrap();
        if let Some(line) = self.by_number.lock().get(&number) {
            // A connection that ends meanwhile.
            let _ = line.send(bytes.freeze());
        }
    }

    /// Closes all.
    pub(crate) fn cut(&self) {
        for line in self.by_number.lock().values() {
            let _ = line.send(Bytes::new());
        }
    }
}

/// A server on a free port. Ends when it is dropped, connections included.
pub(crate) struct Fake {
    pub(crate) addr: String,
    pub(crate) lines: Lines,
    log: watch::Sender<Vec<RemotingCommand>>,
    membership: watch::Sender<Vec<RemotingCommand>>,
    accepting: tokio::task::JoinHandle<()>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Fake {
    pub(crate) async fn start(reply: impl Fn(&RemotingCommand) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::on(listener, reply)
    }

    pub(crate) fn on(listener: TcpListener, reply: impl Fn(&RemotingCommand) -> Reply + Send + Sync + 'static) -> Self {
        Self::hearing(listener, reply, Lines::default(), |_, _| {})
    }

    /// One that is told of memberships, with the number of the connection.
    pub(crate) fn hearing(
        listener: TcpListener,
        reply: impl Fn(&RemotingCommand) -> Reply + Send + Sync + 'static,
        lines: Lines,
        heard: impl Fn(u64, Heard<'_>) + Send + Sync + 'static,
    ) -> Self {
        let addr = listener.local_addr().unwrap().to_string();
        let log = watch::Sender::new(Vec::new());
        let membership = watch::Sender::new(Vec::new());
        let server =
            Arc::new(Server { reply, heard, lines: lines.clone(), log: log.clone(), membership: membership.clone() });
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                connections.spawn(serve(socket, Arc::clone(&server)));
            }
        });
        Self { addr, lines, log, membership, accepting }
    }

    /// Heartbeats and leaves so far, once they are as the test wants them.
    pub(crate) async fn membership(&self, wanted: impl Fn(&[RemotingCommand]) -> bool) -> Vec<RemotingCommand> {
        let mut log = self.membership.subscribe();
        let waited = tokio::time::timeout(SOON, log.wait_for(|log| wanted(log))).await;
        match waited {
            Ok(log) => log.unwrap().clone(),
            Err(_) => panic!("heartbeats must come, there are {:?}", self.membership.borrow()),
        }
    }

    /// What came so far.
    pub(crate) fn requests(&self) -> Vec<RemotingCommand> {
        self.log.borrow().clone()
    }

    /// What came so far, once it is at least `count`.
    pub(crate) async fn until(&self, count: usize) -> Vec<RemotingCommand> {
        let mut log = self.log.subscribe();
        let waited = tokio::time::timeout(SOON, log.wait_for(|log| log.len() >= count)).await;
        waited.expect("requests must come").unwrap().clone()
    }
}

struct Server<R, H> {
    reply: R,
    heard: H,
    lines: Lines,
    log: watch::Sender<Vec<RemotingCommand>>,
    membership: watch::Sender<Vec<RemotingCommand>>,
}

/// Tells of the end of a connection, however it comes.
struct Ends<R, H: Fn(u64, Heard<'_>)>(Arc<Server<R, H>>, u64);

impl<R, H: Fn(u64, Heard<'_>)> Drop for Ends<R, H> {
    fn drop(&mut self) {
        self.0.lines.by_number.lock().remove(&self.1);
        (self.0.heard)(self.1, Heard::End);
    }
}

async fn serve<R, H>(socket: TcpStream, server: Arc<Server<R, H>>)
where
    R: Fn(&RemotingCommand) -> Reply + Send + Sync + 'static,
    H: Fn(u64, Heard<'_>) + Send + Sync + 'static,
{
    let (mut reader, mut writer) = socket.into_split();
    let (out, mut queued) = mpsc::unbounded_channel::<Bytes>();
    let number = server.lines.next.fetch_add(1, Ordering::Relaxed);
    server.lines.by_number.lock().insert(number, out.clone());
    let _ends = Ends(Arc::clone(&server), number);
    let mut writing = JoinSet::new();
    writing.spawn(async move {
        while let Some(bytes) = queued.recv().await {
            if bytes.is_empty() || writer.write_all(&bytes).await.is_err() {
                return;
            }
        }
    });
    let mut buf = BytesMut::new();
    let limits = FrameLimits::default();
    loop {
        while let Some(request) = frame::decode(&mut buf, &limits).unwrap() {
            if matches!(request.code, RequestCode::HEART_BEAT | RequestCode::UNREGISTER_CLIENT)
                && !request.is_response()
            {
                (server.heard)(number, Heard::Request(&request));
                server.membership.send_modify(|log| log.push(request.clone()));
                drop(out.send(encode(&request, answer(ResponseCode::SUCCESS))));
                continue;
            }
            server.log.send_modify(|log| log.push(request.clone()));
            match (server.reply)(&request) {
                Reply::Answer(answer) => drop(out.send(encode(&request, answer))),
                Reply::Later(answer) => {
                    let out = out.clone();
                    tokio::spawn(async move {
                        if let Ok(answer) = answer.await {
                            drop(out.send(encode(&request, answer)));
                        }
                    });
                }
                Reply::Silence => {}
                Reply::Cut => return,
                Reply::CutInside(answer) => {
                    let bytes = encode(&request, answer);
                    drop(out.send(bytes.slice(..bytes.len() / 2)));
                    drop(out.send(Bytes::new()));
                    writing.join_next().await;
                    return;
                }
            }
        }
        tokio::select! {
            read = reader.read_buf(&mut buf) => if matches!(read, Ok(0) | Err(_)) { return },
            // The test cut it.
            _ = writing.join_next() => return,
        }
    }
}

fn encode(request: &RemotingCommand, mut answer: RemotingCommand) -> Bytes {
    answer.opaque = request.opaque;
    let mut bytes = BytesMut::new();
    frame::encode(&answer, &mut bytes).unwrap();
    bytes.freeze()
}

/// An answer with a code; its opaque number is set when it is sent.
pub(crate) fn answer(code: i32) -> RemotingCommand {
    RemotingCommand::response(code, 0, Default::default())
}

/// The answer of a broker that does not lead.
pub(crate) fn not_leader(hint: Option<(&str, u64)>) -> RemotingCommand {
    let answer = answer(ResponseCode::SERVICE_NOT_AVAILABLE).with_remark("this member does not lead");
    match hint {
        Some((leader, term)) => answer.with_ext(field::LEADER, leader).with_ext(field::TERM, &term.to_string()),
        None => answer,
    }
}

/// The answer to a stored message.
pub(crate) fn stored(request: &RemotingCommand, queue_offset: i64) -> RemotingCommand {
    let header = SendMessage::from_ext(request.code, &request.ext).unwrap();
    answer(ResponseCode::SUCCESS).with_header(&SendMessageResponse {
        msg_id: "7F000001000078BF0000000000000000".to_owned(),
        queue_id: header.queue_id,
        queue_offset,
        transaction_id: None,
        batch_uniq_id: None,
        recall_handle: None,
        region: None,
        trace_on: None,
    })
}

pub(crate) fn is_send(request: &RemotingCommand) -> bool {
    matches!(request.code, RequestCode::SEND_MESSAGE_V2 | RequestCode::SEND_BATCH_MESSAGE)
}

pub(crate) fn unique_key(request: &RemotingCommand) -> String {
    let header = SendMessage::from_ext(request.code, &request.ext).unwrap();
    properties::get(header.properties.unwrap(), "UNIQ_KEY").unwrap().to_owned()
}

/// The route of one topic on one broker name, as a fake name server tells it. Changed by the test.
#[derive(Clone)]
pub(crate) struct Routes {
    state: Arc<Mutex<State>>,
    watched: bool,
}

struct State {
    topics: Vec<String>,
    leader: String,
    followers: Vec<String>,
    term: u64,
    queue_nums: i32,
    /// Watches, each with whether its topic is known.
    parked: Vec<(bool, tokio::sync::oneshot::Sender<RemotingCommand>)>,
}

impl Routes {
    /// Of `TopicTest` with one queue. `watched` says whether the name server knows the watch.
    pub(crate) fn new(leader: &str, followers: &[&str], watched: bool) -> Self {
        let state = State {
            topics: vec!["TopicTest".to_owned()],
            leader: leader.to_owned(),
            followers: followers.iter().map(|addr| (*addr).to_owned()).collect(),
            term: 1,
            queue_nums: 1,
            parked: Vec::new(),
        };
        Self { state: Arc::new(Mutex::new(state)), watched }
    }

    pub(crate) fn add_topic(&self, topic: &str) {
        self.state.lock().topics.push(topic.to_owned());
    }

    pub(crate) fn set_queue_nums(&self, queue_nums: i32) {
        self.state.lock().queue_nums = queue_nums;
    }

    /// A new leader registers: parked watches are answered.
    pub(crate) fn elect(&self, leader: &str, followers: &[&str]) {
        let mut state = self.state.lock();
        state.leader = leader.to_owned();
        state.followers = followers.iter().map(|addr| (*addr).to_owned()).collect();
        state.term += 1;
        let new = state.answer();
        for (known, parked) in state.parked.drain(..) {
            let answer = if known { new.clone() } else { answer(ResponseCode::TOPIC_NOT_EXIST) };
            // A watch whose client is gone.
            let _ = parked.send(answer);
        }
    }

    pub(crate) fn reply(&self, request: &RemotingCommand) -> Reply {
        let mut state = self.state.lock();
        let topic = request.ext.get("topic").unwrap_or_default().to_owned();
        let known = state.topics.contains(&topic);
        match request.code {
            RequestCode::GET_ROUTEINFO_BY_TOPIC if known => Reply::Answer(state.answer()),
            RequestCode::GET_ROUTEINFO_BY_TOPIC => Reply::Answer(answer(ResponseCode::TOPIC_NOT_EXIST)),
            RequestCode::GET_BROKER_CLUSTER_INFO => {
                let mut info = ledgermq_protocol::route::ClusterInfo::default();
                info.broker_addr_table.insert("broker-a".to_owned(), state.broker());
                Reply::Answer(answer(ResponseCode::SUCCESS).with_body(info.to_json()))
            }
            code::LEDGER_WATCH_ROUTE if self.watched => {
                if known && request.ext.get(field::ROUTE_VERSION) != Some(&state.term.to_string()) {
                    return Reply::Answer(state.answer());
                }
                let (parked, later) = tokio::sync::oneshot::channel();
                state.parked.push((known, parked));
                Reply::Later(later)
            }
            _ => Reply::Answer(answer(ResponseCode::REQUEST_CODE_NOT_SUPPORTED)),
        }
    }
}

impl State {
    fn broker(&self) -> BrokerData {
        let mut broker = BrokerData { broker_name: "broker-a".to_owned(), ..BrokerData::default() };
        broker.broker_addrs.insert(0, self.leader.clone());
        broker.broker_addrs.extend(self.followers.iter().zip(1..).map(|(addr, id)| (id, addr.clone())));
        broker
    }

    fn answer(&self) -> RemotingCommand {
        let route = TopicRouteData {
            broker_datas: vec![self.broker()],
            queue_datas: vec![QueueData {
                broker_name: "broker-a".to_owned(),
                perm: 6,
                read_queue_nums: self.queue_nums,
                topic_sys_flag: 0,
                write_queue_nums: self.queue_nums,
            }],
            ..TopicRouteData::default()
        };
        answer(ResponseCode::SUCCESS)
            .with_body(route.to_json())
            .with_ext(field::ROUTE_VERSION, &self.term.to_string())
            .with_ext(field::ROUTE_TERMS, &format!("broker-a:{}", self.term))
    }
}

/// A name server with these routes.
pub(crate) async fn namesrv(routes: &Routes) -> Fake {
    let routes = routes.clone();
    Fake::start(move |request| routes.reply(request)).await
}

/// A client with short times.
pub(crate) fn client(namesrvs: &[&Fake]) -> Client {
    Client::new(config(namesrvs)).unwrap()
}

pub(crate) fn config(namesrvs: &[&Fake]) -> ClientConfig {
    ClientConfig::new(namesrvs.iter().map(|namesrv| namesrv.addr.as_str()))
        .with_route_poll_interval(Duration::from_millis(100))
        .with_attempt_timeout(Duration::from_millis(500))
        .with_deadline(Duration::from_secs(5))
}

/// A port on which nobody listens.
pub(crate) async fn dead_addr() -> String {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string()
}

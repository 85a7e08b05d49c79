//! Connections over real loopback sockets, with peers that behave and peers that do not.

use std::net::SocketAddr;

use ledgermq_protocol::remoting::command::SerializeType;
use parking_lot::Mutex;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

use super::super::accept::{ServerSettings, serve};
use super::*;

/// Answers at once with the request's body.
const ECHO: i32 = 1;
/// Holds the request until a `RELEASE`.
const HOLD: i32 = 2;
/// Answers everything held, last first, then itself.
const RELEASE: i32 = 3;
/// Answers with 256 KiB in pieces.
const PIECES: i32 = 4;
/// Panics.
const PANIC: i32 = 5;
/// Answered once everything that has arrived is taken in.
const PUT_OFF: i32 = 6;

const PIECE: &[u8] = &[7; 64 * 1024];

#[derive(Default)]
struct Fake {
    held: Mutex<Vec<(RemotingCommand, Responder)>>,
    put_off: Mutex<Vec<Responder>>,
    /// How many were answered together, each time.
    together: Mutex<Vec<usize>>,
    closed: Mutex<Vec<u64>>,
}

impl Service for Fake {
    fn handle(&self, request: RemotingCommand, responder: Responder) {
        match request.code {
            HOLD => self.held.lock().push((request, responder)),
            RELEASE => {
                for (held, waiting) in self.held.lock().drain(..).rev() {
                    let answer = waiting.command(0).with_body(held.body);
                    waiting.send(answer);
                }
                let answer = responder.command(0);
                responder.send(answer);
            }
            PUT_OFF => self.put_off.lock().push(responder),
            PANIC => panic!("a handler with a bug"),
            PIECES => {
                let answer = responder.command(0);
                responder.send_slices(answer, vec![Bytes::from_static(PIECE); 4]);
            }
            _ => {
                let answer = responder.command(0).with_body(request.body);
                responder.send(answer);
            }
        }
    }

    fn taken_in(&self) {
        let put_off = std::mem::take(&mut *self.put_off.lock());
        if !put_off.is_empty() {
            self.together.lock().push(put_off.len());
        }
        for responder in put_off {
            let answer = responder.command(0);
            responder.send(answer);
        }
    }

    fn closed(&self, connection: &Arc<Connection>) {
        let mut closed = self.closed.lock();
        if !closed.contains(&connection.id()) {
            closed.push(connection.id());
        }
    }
}

struct Server {
    address: SocketAddr,
    service: Arc<Fake>,
    budget: Budget,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

async fn start(change: impl FnOnce(&mut ConnectionSettings, &mut usize)) -> Server {
    let mut connection = ConnectionSettings {
        frame: FrameLimits::default(),
        idle: Duration::from_secs(60),
        first_frame: Duration::from_secs(30),
        unread_bytes_max: 8 << 20,
        budget: Budget::new(64 << 20),
        started: Instant::now(),
    };
    let mut connections_max = 1000;
    change(&mut connection, &mut connections_max);
    let budget = connection.budget.clone();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = Arc::new(Fake::default());
    let (stop, stopped) = watch::channel(false);
    let settings = ServerSettings { connection, slots: Arc::new(Semaphore::new(connections_max)) };
    let task = tokio::spawn(serve(listener, settings, Arc::clone(&service), stopped));
    Server { address, service, budget, stop, task }
}

struct Client {
    socket: TcpStream,
    buffer: BytesMut,
}

impl Client {
    async fn connect(server: &Server) -> Self {
        Self { socket: TcpStream::connect(server.address).await.unwrap(), buffer: BytesMut::new() }
    }

    async fn send(&mut self, command: &RemotingCommand) {
        let mut frame = BytesMut::new();
        frame::encode(command, &mut frame).unwrap();
        self.socket.write_all(&frame).await.unwrap();
    }

    /// The next answer; `None` when the server has closed.
    async fn answer(&mut self) -> Option<RemotingCommand> {
        loop {
            if let Some(command) = frame::decode(&mut self.buffer, &FrameLimits::default()).unwrap() {
                return Some(command);
            }
            match self.socket.read_buf(&mut self.buffer).await {
                Ok(n) if n > 0 => {}
                _ => return None,
            }
        }
    }

    async fn ask(&mut self, code: i32, opaque: i32, body: &[u8]) -> Option<RemotingCommand> {
        self.send(&RemotingCommand::request(code, opaque).with_body(body.to_vec())).await;
        self.answer().await
    }

    async fn is_closed(&mut self) -> bool {
        self.answer().await.is_none()
    }
}

/// Bytes that are no frame must end their own connection and no other one.
#[tokio::test]
async fn lost_framing_closes_only_its_own_connection() {
    let server = start(|_, _| {}).await;
    let mut good = Client::connect(&server).await;
    assert_eq!(good.ask(ECHO, 1, b"x").await.unwrap().opaque, 1);
    let broken: [&[u8]; 5] = [
        b"GET / HTTP/1.1\r\n\r\n",
        &[0xFF; 64],
        &[0, 0, 0, 3, 0, 0, 0, 0],
        &[0x7F, 0xFF, 0xFF, 0xFF, 0, 0, 0, 1],
        &[0, 0, 0, 8, 0, 0, 0, 200, 1, 1, 1, 1],
    ];
    for bytes in broken {
        let mut bad = Client::connect(&server).await;
        bad.socket.write_all(bytes).await.unwrap();
        assert!(bad.is_closed().await, "{bytes:?}");
    }
    for seed in 0..50u64 {
        let mut bad = Client::connect(&server).await;
        let noise: Vec<u8> =
            (0..1000).map(|n| ((seed * 1000 + n).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8).collect();
        // The server may close before all of it is written.
        let _ = bad.socket.write_all(&noise).await;
        let _ = bad.socket.shutdown().await;
        assert!(bad.is_closed().await, "noise {seed}");
    }
    assert_eq!(good.ask(ECHO, 2, b"y").await.unwrap().body, b"y"[..]);
    drop(good);
    server.stop.send(true).unwrap();
    server.task.await.unwrap();
    assert_eq!(server.service.closed.lock().len(), 56);
    assert_eq!(server.budget.free_bytes(), 64 << 20, "every claim is given back");
}

/// A header that cannot be decoded inside a whole frame must be answered with what is wrong, and the connection goes on.
#[tokio::test]
async fn a_bad_header_is_answered_by_name() {
    let server = start(|_, _| {}).await;
    let mut client = Client::connect(&server).await;
    let header = br#"{"code":10,"opaque":77,"flag":0,"version":"many","language":"JAVA"}"#;
    let mut frame = BytesMut::new();
    frame.extend_from_slice(&(4 + header.len() as u32).to_be_bytes());
    frame.extend_from_slice(&(header.len() as u32).to_be_bytes());
    frame.extend_from_slice(header);
    client.socket.write_all(&frame).await.unwrap();
    let answer = client.answer().await.unwrap();
    assert_eq!((answer.code, answer.opaque), (ResponseCode::SYSTEM_ERROR, 77));
    assert!(answer.remark.unwrap().contains("version"));
    assert_eq!(client.ask(ECHO, 78, b"").await.unwrap().opaque, 78);
}

/// Requests are answered in any order, one-way ones never, and in the encoding that they came in.
#[tokio::test]
async fn answers_carry_the_id_and_encoding_of_their_request() {
    let server = start(|_, _| {}).await;
    let mut client = Client::connect(&server).await;
    client.send(&RemotingCommand::request(HOLD, 1).with_body(&b"first"[..])).await;
    client.send(&RemotingCommand::oneway(HOLD, 2)).await;
    client.send(&RemotingCommand::request(HOLD, 3).with_serialize(SerializeType::RocketMq)).await;
    client.send(&RemotingCommand::request(RELEASE, 4)).await;
    let mut answers = Vec::new();
    for _ in 0..3 {
        answers.push(client.answer().await.unwrap());
    }
    assert_eq!(answers.iter().map(|answer| answer.opaque).collect::<Vec<_>>(), [3, 1, 4]);
    assert_eq!(answers[0].serialize, SerializeType::RocketMq);
    assert_eq!(answers[1].body, b"first"[..]);
    assert!(answers.iter().all(RemotingCommand::is_response));
    // A response from a client is no request.
    client.send(&RemotingCommand::response(0, 9, SerializeType::Json)).await;
    assert_eq!(client.ask(ECHO, 5, b"").await.unwrap().opaque, 5);
}

/// A peer that ends its side after the last request must still get its answers: scripts and old clients do that.
#[tokio::test]
async fn what_is_under_way_is_answered_after_the_end_of_the_stream() {
    let server = start(|_, _| {}).await;
    let mut client = Client::connect(&server).await;
    client.send(&RemotingCommand::request(HOLD, 1)).await;
    client.send(&RemotingCommand::request(PIECES, 2)).await;
    client.socket.shutdown().await.unwrap();
    assert_eq!(client.answer().await.unwrap().opaque, 2);
    let (held, responder) = loop {
        if let Some(held) = server.service.held.lock().pop() {
            break held;
        }
        tokio::task::yield_now().await;
    };
    responder.send(RemotingCommand::response_to(&held, 0));
    assert_eq!(client.answer().await.unwrap().opaque, 1);
    assert!(client.is_closed().await);
}

/// An answer made of slices must arrive whole, also between others in one batch.
#[tokio::test]
async fn slices_arrive_in_order_and_whole() {
    let server = start(|_, _| {}).await;
    let mut client = Client::connect(&server).await;
    for opaque in 0..20 {
        client.send(&RemotingCommand::request(if opaque % 2 == 0 { PIECES } else { ECHO }, opaque)).await;
    }
    for opaque in 0..20 {
        let answer = client.answer().await.unwrap();
        assert_eq!(answer.opaque, opaque);
        assert_eq!(answer.body.len(), if opaque % 2 == 0 { 4 * PIECE.len() } else { 0 });
        assert!(answer.body.iter().all(|byte| *byte == 7));
    }
}

/// Peers that announce large frames and send nothing must not hold what they announced.
#[tokio::test]
async fn an_announced_length_holds_no_memory() {
    let server = start(|_, _| {}).await;
    let mut slow = Vec::new();
    for _ in 0..100 {
        let mut client = Client::connect(&server).await;
        client.socket.write_all(&(16u32 << 20).saturating_sub(4).to_be_bytes()).await.unwrap();
        client.socket.write_all(&[0, 0, 0, 50, b'{']).await.unwrap();
        slow.push(client);
    }
    let mut good = Client::connect(&server).await;
    assert_eq!(good.ask(ECHO, 1, &vec![1; 4 << 20]).await.unwrap().body.len(), 4 << 20);
    assert!(server.budget.free_bytes() >= (64 << 20) - 101 * CLAIM_STEP);
}

/// A spent budget must be answered with SYSTEM_BUSY at once, and the connection must be usable afterwards.
#[tokio::test]
async fn a_spent_budget_is_answered_busy() {
    let server = start(|settings, _| settings.budget = Budget::new(1 << 20)).await;
    let mut holder = Client::connect(&server).await;
    holder.send(&RemotingCommand::request(HOLD, 1).with_body(vec![1; 900 << 10])).await;
    let mut client = Client::connect(&server).await;
    while server.service.held.lock().is_empty() {
        tokio::task::yield_now().await;
    }
    let answer = client.ask(ECHO, 2, &vec![2; 3 << 20]).await.unwrap();
    assert_eq!((answer.code, answer.opaque), (ResponseCode::SYSTEM_BUSY, 2));
    assert!(answer.remark.unwrap().starts_with("[TIMEOUT_CLEAN_QUEUE]"));
    assert_eq!(client.ask(ECHO, 3, b"small").await.unwrap().body, b"small"[..]);
    client.ask(RELEASE, 4, b"").await.unwrap();
    assert_eq!(holder.answer().await.unwrap().opaque, 1);
    assert_eq!(server.budget.free_bytes(), 1 << 20);
}

/// A client that asks for much and reads nothing must be closed; what waits for it stays within its share.
#[tokio::test]
async fn a_client_that_does_not_read_is_given_up() {
    let server = start(|settings, _| settings.unread_bytes_max = 1 << 20).await;
    let mut client = Client::connect(&server).await;
    for opaque in 0..200 {
        client.send(&RemotingCommand::request(HOLD, opaque)).await;
    }
    while server.service.held.lock().len() < 200 {
        tokio::task::yield_now().await;
    }
    let connection = Arc::clone(server.service.held.lock()[0].1.connection());
    let held: Vec<_> = server.service.held.lock().drain(..).collect();
    for (_, responder) in held {
        let answer = responder.command(0);
        responder.send_slices(answer, vec![Bytes::from_static(PIECE); 4]);
        assert!(connection.unread_bytes() <= 1 << 20);
    }
    connection.closed().await;
    assert_eq!(connection.close_reason(), Some(CloseReason::NotReading));
}

/// A connection that never sends a whole frame, or goes silent, must not stay for ever.
#[tokio::test]
async fn silent_and_slow_connections_are_closed() {
    let server = start(|settings, _| {
        settings.first_frame = Duration::from_millis(100);
        settings.idle = Duration::from_millis(100);
    })
    .await;
    let mut silent = Client::connect(&server).await;
    let mut half = Client::connect(&server).await;
    half.socket.write_all(&[0, 0, 1]).await.unwrap();
    assert!(silent.is_closed().await);
    assert!(half.is_closed().await);
    let mut idle = Client::connect(&server).await;
    assert!(idle.ask(ECHO, 1, b"").await.is_some());
    assert!(idle.is_closed().await);
}

/// One connection too many must be closed at once, and its place be free again when another one ends.
#[tokio::test]
async fn connections_are_counted() {
    let server = start(|_, connections_max| *connections_max = 1).await;
    let mut first = Client::connect(&server).await;
    assert!(first.ask(ECHO, 1, b"").await.is_some());
    assert!(Client::connect(&server).await.is_closed().await);
    drop(first);
    loop {
        let mut next = Client::connect(&server).await;
        // The server may not have seen the end of the first one yet.
        let mut frame = BytesMut::new();
        frame::encode(&RemotingCommand::request(ECHO, 2), &mut frame).unwrap();
        if next.socket.write_all(&frame).await.is_ok() && next.answer().await.is_some() {
            break;
        }
    }
}

/// A bug in a handler must cost its own connection, which must not stay half alive, and nothing else.
#[tokio::test]
async fn a_panicking_handler_ends_its_connection_only() {
    let server = start(|_, _| {}).await;
    let mut good = Client::connect(&server).await;
    assert!(good.ask(ECHO, 1, b"").await.is_some());
    let mut bad = Client::connect(&server).await;
    assert!(bad.ask(ECHO, 1, b"").await.is_some());
    bad.send(&RemotingCommand::request(PANIC, 2)).await;
    assert!(bad.is_closed().await);
    assert!(good.ask(ECHO, 2, b"").await.is_some());
    let deadline = Instant::now() + Duration::from_secs(10);
    while server.service.closed.lock().is_empty() {
        assert!(Instant::now() < deadline, "the ended connection is not forgotten");
        tokio::task::yield_now().await;
    }
}

/// Stopping must end all connections, whatever they are doing.
#[tokio::test]
async fn stopping_closes_everything() {
    let server = start(|_, _| {}).await;
    let mut client = Client::connect(&server).await;
    client.send(&RemotingCommand::request(HOLD, 1)).await;
    while server.service.held.lock().is_empty() {
        tokio::task::yield_now().await;
    }
    server.stop.send(true).unwrap();
    server.task.await.unwrap();
    assert!(client.is_closed().await);
    assert!(TcpStream::connect(server.address).await.is_err());
}

/// Would break: sends that wait for the next tick of the log, or share nothing although they came together.
#[tokio::test]
async fn requests_that_came_together_are_begun_together_and_at_once() {
    let server = start(|_, _| {}).await;
    let mut client = Client::connect(&server).await;
    let mut frames = BytesMut::new();
    for opaque in 0..5 {
        frame::encode(&RemotingCommand::request(PUT_OFF, opaque), &mut frames).unwrap();
    }
    client.socket.write_all(&frames).await.unwrap();
    for opaque in 0..5 {
        assert_eq!(client.answer().await.unwrap().opaque, opaque);
    }
    assert_eq!(*server.service.together.lock(), [5]);
}

/// Would break: a request that waits for room which only the requests before it can give back, while these wait for it.
#[tokio::test]
async fn what_is_put_off_is_begun_before_the_reader_waits_for_room() {
    let server = start(|settings, _| settings.budget = Budget::new(3 * 1024)).await;
    let mut client = Client::connect(&server).await;
    let mut frames = BytesMut::new();
    for opaque in 0..2 {
        let request = RemotingCommand::request(PUT_OFF, opaque).with_body(vec![0u8; 2 * 1024]);
        frame::encode(&request, &mut frames).unwrap();
    }
    client.socket.write_all(&frames).await.unwrap();
    for opaque in 0..2 {
        let answer = client.answer().await.unwrap();
        assert_eq!((answer.opaque, answer.code), (opaque, 0), "{:?}", answer.remark);
    }
}

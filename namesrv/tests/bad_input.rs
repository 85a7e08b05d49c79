//! Peers that misbehave: each gets an answer or a closed connection, and nobody else notices.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::SocketAddr;

use ledgermq_namesrv::{Namesrv, NamesrvConfig, StartError};
use ledgermq_protocol::remoting::command::RemotingCommand;
use ledgermq_protocol::remoting::request_code::RequestCode;
use ledgermq_protocol::remoting::response_code::ResponseCode;
use peer::{Broker, Peer, namesrv, namesrv_with, route};

#[allow(dead_code, reason = "each test program uses its part of it")]
mod peer;

/// Bytes that are no frames end their own connection only.
#[tokio::test]
async fn lost_framing_closes_one_connection() {
    let namesrv = namesrv().await;
    let mut bystander = Peer::connect(&namesrv).await;
    bystander.register(&Broker::new("a:1"), 0, 1).await;
    let broken: [&[u8]; 5] = [
        b"GET / HTTP/1.1\r\nHost: namesrv\r\n\r\n",
        &[0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0],
        &[0x7F, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0],
        &[0, 0, 0, 2, 0, 0],
        &[0, 0, 0, 8, 0, 0, 0, 99, 0, 0, 0, 0],
    ];
    for bytes in broken {
        let mut peer = Peer::connect(&namesrv).await;
        peer.write(bytes).await;
        assert!(peer.receive().await.is_none(), "{bytes:?}");
    }
    assert_eq!(bystander.ask(route("TopicTest")).await.code, 0);
}

/// A header that cannot be read is answered as far as its id can, and the connection goes on.
#[tokio::test]
async fn bad_headers_are_answered() {
    let namesrv = namesrv().await;
    let mut peer = Peer::connect(&namesrv).await;
    let header = br#"{"code":105,"opaque":7,"extFields":7}"#;
    let mut bytes = ((header.len() + 4) as u32).to_be_bytes().to_vec();
    bytes.extend((header.len() as u32).to_be_bytes());
    bytes.extend(header);
    peer.write(&bytes).await;
    let answer = peer.receive().await.unwrap();
    assert_eq!((answer.opaque, answer.code), (7, ResponseCode::SYSTEM_ERROR));
    assert!(answer.remark.unwrap().contains("extFields"));
    assert_eq!(peer.ask(route("TopicTest")).await.code, ResponseCode::TOPIC_NOT_EXIST);
}

/// What is not offered is refused by name; what is malformed is refused by field.
#[tokio::test]
async fn refusals_say_what_is_wrong() {
    let namesrv = namesrv().await;
    let mut peer = Peer::connect(&namesrv).await;
    let codes = [
        (RequestCode::GET_NAMESRV_CONFIG, "GET_NAMESRV_CONFIG"),
        (RequestCode::WIPE_WRITE_PERM_OF_BROKER, "WIPE_WRITE_PERM_OF_BROKER"),
        (RequestCode::UPDATE_NAMESRV_CONFIG, "UPDATE_NAMESRV_CONFIG"),
        (RequestCode::SEND_MESSAGE, "SEND_MESSAGE"),
        (31_999, "unknown"),
        (91_001, "LEDGER_RAFT_STATUS"),
    ];
    for (code, name) in codes {
        let answer = peer.ask(RemotingCommand::request(code, 0)).await;
        assert_eq!(answer.code, ResponseCode::REQUEST_CODE_NOT_SUPPORTED, "{name}");
        assert!(answer.remark.as_ref().unwrap().contains(name), "{answer:?}");
    }
    let good = Broker::new("a:1").registration(0, 1);
    let cases = [
        (RemotingCommand::request(RequestCode::GET_ROUTEINFO_BY_TOPIC, 0), "topic"),
        (good.clone().with_ext("brokerId", "-1"), "brokerId"),
        (good.clone().with_ext("brokerId", "x"), "brokerId"),
        (good.clone().with_ext("brokerAddr", "no port"), "brokerAddr"),
        (good.clone().with_ext("brokerAddr", "a\":1"), "brokerAddr"),
        (good.clone().with_ext("brokerName", "a,b"), "brokerName"),
        (good.clone().with_ext("brokerName", &"x".repeat(128)), "brokerName"),
        (good.clone().with_ext("ledgermq_group", "none"), "ledgermq_group"),
        (good.clone().with_ext("ledgermq_term", "-1"), "ledgermq_term"),
        (RemotingCommand::request(91_010, 0), "topic"),
        (RemotingCommand::request(91_010, 0).with_ext("topic", "a b"), "topic"),
        (
            RemotingCommand::request(91_010, 0).with_ext("topic", "T").with_ext("ledgermq_route_version", "x"),
            "ledgermq_route_version",
        ),
    ];
    for (request, field) in cases {
        let answer = peer.ask(request).await;
        assert_eq!(answer.code, ResponseCode::INVALID_PARAMETER, "{field}: {answer:?}");
        assert!(answer.remark.as_ref().unwrap().contains(field), "{answer:?}");
    }
    for (body, crc) in [(&b"{"[..], "0"), (b"7", "0"), (b"{}", "77")] {
        let answer = peer.ask(good.clone().with_body(body.to_vec()).with_ext("bodyCrc32", crc)).await;
        assert_eq!(answer.code, ResponseCode::SYSTEM_ERROR, "{body:?}: {answer:?}");
    }
    assert_eq!(peer.ask(route("TopicTest")).await.code, ResponseCode::TOPIC_NOT_EXIST, "nothing of it was entered");
}

/// A one-way request must get no answer, or the client takes it for that of another request.
#[tokio::test]
async fn oneway_requests_are_never_answered() {
    let namesrv = namesrv().await;
    let mut peer = Peer::connect(&namesrv).await;
    for code in [RequestCode::GET_ROUTEINFO_BY_TOPIC, RequestCode::GET_BROKER_CLUSTER_INFO, 31_999, 91_010] {
        peer.send(RemotingCommand::oneway(code, 0).with_ext("topic", "T")).await;
    }
    peer.ask(route("TopicTest")).await;
}

/// Parked watches must be bounded, and their places come back with the connection that held them.
#[tokio::test]
async fn watches_are_bounded() {
    let namesrv = namesrv_with(|config| {
        config.ready_max_ms = 0;
        config.watches_max = 100;
    })
    .await;
    let mut broker = Peer::connect(&namesrv).await;
    broker.register(&Broker::new("a:1"), 0, 1).await;
    let mut greedy = Peer::connect(&namesrv).await;
    for _ in 0..101 {
        greedy.send(peer::watch("Unborn", "0")).await;
    }
    assert_eq!(greedy.receive().await.unwrap().code, ResponseCode::SYSTEM_BUSY);
    drop(greedy);
    let mut next = Peer::connect(&namesrv).await;
    loop {
        next.send(peer::watch("Unborn", "0")).await;
        let answer = next.ask(route("TopicTest")).await;
        if answer.code != ResponseCode::SYSTEM_BUSY {
            break;
        }
        next.receive().await.unwrap();
    }
}

/// One connection too many is closed, and the others go on.
#[tokio::test]
async fn connections_are_bounded() {
    let namesrv = namesrv_with(|config| {
        config.ready_max_ms = 0;
        config.connections_max = 2;
    })
    .await;
    let mut first = Peer::connect(&namesrv).await;
    let mut second = Peer::connect(&namesrv).await;
    first.ask(route("T")).await;
    second.ask(route("T")).await;
    assert!(Peer::connect(&namesrv).await.receive().await.is_none());
    first.ask(route("T")).await;
}

/// What cannot work must stop the start with a sentence that says how to mend it; a stopped server frees its port.
#[tokio::test]
async fn a_start_that_cannot_work_says_why() {
    let namesrv = namesrv().await;
    let taken = NamesrvConfig { listen: namesrv.local_addr(), ..NamesrvConfig::default() };
    let error = Namesrv::start(taken.clone()).await.unwrap_err().to_string();
    assert!(error.contains("cannot listen") && error.contains("choose another"), "{error}");
    let open = NamesrvConfig { listen: SocketAddr::from(([0, 0, 0, 0], 0)), ..NamesrvConfig::default() };
    assert!(matches!(Namesrv::start(open).await, Err(StartError::Config(_))));
    namesrv.shutdown().await;
    Namesrv::start(taken).await.unwrap().shutdown().await;
}

/// A peer that closes its sending side behind its last request still waits for the answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_sends_no_more_is_answered() {
    let namesrv = namesrv().await;
    for round in 0..500 {
        let mut peer = Peer::connect(&namesrv).await;
        let opaque = peer.send(RemotingCommand::request(4711, 0)).await;
        peer.finish().await;
        let answer = peer.receive().await.unwrap_or_else(|| panic!("round {round}: closed without an answer"));
        assert_eq!((answer.opaque, answer.code), (opaque, ResponseCode::REQUEST_CODE_NOT_SUPPORTED));
        assert!(peer.receive().await.is_none(), "the connection ends behind it");
    }
}

//! What a replica has measured, as the metrics page and the status tell it.

use ledgermq_protocol::extension::code;
use ledgermq_protocol::remoting::command::RemotingCommand;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::fixture::*;

async fn page(cluster: &Cluster) -> String {
    let mut socket = TcpStream::connect(cluster.nodes[0].http()).await.unwrap();
    socket.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").await.unwrap();
    let mut text = String::new();
    socket.read_to_string(&mut text).await.unwrap();
    text
}

fn figure(page: &str, name: &str) -> u64 {
    let line = page.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("no {name} in {page}"));
    line.trim().parse().unwrap()
}

/// Would break: a figure that stands still, a sum that does not fit its buckets, and a page that tells other than the status.
#[tokio::test]
async fn latencies_batches_and_elections_are_told() {
    const SENDS: u64 = 5;
    let cluster = Cluster::start(1).await;
    let mut client = cluster.leader_client().await;
    client.produce("measured", 0, "creates the topic", "").await;
    let before = page(&cluster).await;
    for _ in 0..SENDS {
        client.produce("measured", 0, "body", "").await;
    }
    let after = page(&cluster).await;
    // One after the other, so each has a round and a frame of its own.
    for name in [
        "append_latency_microseconds",
        "replication_latency_microseconds",
        "fdatasync_microseconds",
        "batch_records",
        "batch_bytes",
    ] {
        let of = |page: &str, what: &str| figure(page, &format!("ledgermq_{name}_{what}{{broker_name=\"broker-a\"}}"));
        let grown = of(&after, "count") - of(&before, "count");
        assert!(grown >= SENDS, "{name}: {grown} more after {SENDS} sends");
        let up_to =
            |le: &str| figure(&after, &format!("ledgermq_{name}_bucket{{broker_name=\"broker-a\",le=\"{le}\"}}"));
        assert_eq!(up_to("+Inf"), of(&after, "count"), "{name}");
        assert!(up_to("15") <= up_to("1023") && up_to("1023") <= up_to("33554431"), "{name}");
    }
    let records = |page: &str| figure(page, "ledgermq_batch_records_sum{broker_name=\"broker-a\"}");
    assert_eq!(records(&after) - records(&before), SENDS);
    let won = "ledgermq_elections_won_total{broker_name=\"broker-a\",reason=\"start\"}";
    assert_eq!(figure(&after, won), 1);

    let answer = client.ask(RemotingCommand::request(code::LEDGER_RAFT_STATUS, 0)).await;
    let status: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    let measures = &status["groups"][0]["measures"];
    let fsync = &measures["fdatasyncUs"];
    assert!(fsync["count"].as_u64().unwrap() >= SENDS, "{measures}");
    assert!(
        fsync["p50"].as_u64() <= fsync["p99"].as_u64() && fsync["p99"].as_u64() <= fsync["max"].as_u64(),
        "{fsync}"
    );
    assert_eq!(measures["batchRecords"]["p50"], 1, "{measures}");
    assert_eq!((&measures["electionsWon"]["start"], &measures["lastWon"]["reason"]), (&1.into(), &"start".into()));
    cluster.stop().await;
}

//! `ledgermq bench` against real processes: its counts must be those of the brokers, or none of its figures mean anything.

use std::process::Command;

use anyhow::{Context, Result};
use ledgermq_tests::cluster::Cluster;
use ledgermq_tests::program;
use ledgermq_tests::wire::{Connection, code};
use serde_json::Value;

const QUEUES: i64 = 4;

/// Messages that all queues of a topic hold, as its leader counts them.
fn stored(cluster: &Cluster, topic: &str) -> Result<i64> {
    let mut connection = Connection::open(cluster.leader()?.address())?;
    let mut sum = 0;
    for queue in 0..QUEUES {
        let fields = [("topic", topic.to_owned()), ("queueId", queue.to_string())];
        sum += connection.call(code::MAX_OFFSET, &fields, &[])?.success("max offset")?.number("offset")?;
    }
    Ok(sum)
}

fn bench(cluster: &Cluster, args: &[&str]) -> Result<Value> {
    let mut command = Command::new(program::ledgermq()?);
    command.arg("bench").args(args).arg("--json").arg("--dir").arg(cluster.dir());
    let output = program::run(&mut command)?;
    serde_json::from_slice(&output.stdout).context("the report is no JSON")
}

/// Would break: every figure of docs/performance.md. What a bench says it sent and read is what the brokers hold.
#[test]
fn the_counts_of_a_bench_are_those_of_the_brokers() {
    let cluster = Cluster::start().unwrap();
    let queues = QUEUES.to_string();
    let mut sent = 0;
    for (batch, count) in [("1", 2_000), ("32", 40_000)] {
        let count_arg = count.to_string();
        let report = bench(
            &cluster,
            &[
                "produce",
                "--topic",
                "counted",
                "--queues",
                &queues,
                "--count",
                &count_arg,
                "--warm-up",
                "0.2",
                "--in-flight",
                "16",
                "--connections",
                "2",
                "--batch",
                batch,
                "--no-limits",
            ],
        )
        .unwrap();
        let row = &report["rows"][0];
        let (window, totals) = (&row["windows"][0], &row["totals"]);
        assert_eq!((&totals["failed"], &totals["unknown"]), (&0.into(), &0.into()), "{report}");
        let acknowledged = totals["acknowledged"].as_i64().unwrap();
        // What was under way when the warm-up ended is acknowledged in the window: it belongs to neither count.
        assert!(acknowledged - totals["warm_up"].as_i64().unwrap() >= count, "{report}");
        assert_eq!(
            window["messages"].as_i64().unwrap() + totals["warm_up"].as_i64().unwrap(),
            acknowledged,
            "{report}"
        );
        assert!(window["latency"]["p50_us"].as_u64().unwrap() > 0, "{report}");
        // Each message is in the logs with its body, and something was synced for it. What was under way when the window began
        // was partly written before: at most one call in each flight, which is little of the window.
        let servers = &window["servers"];
        assert!(servers["log_bytes_per_message"].as_f64().unwrap() > 512.0, "{report}");
        assert!(servers["syncs_per_message"].as_f64().unwrap() > 0.0, "{report}");
        sent += acknowledged;
        assert_eq!(stored(&cluster, "counted").unwrap(), sent, "{report}");
    }
    let report = bench(&cluster, &["consume", "--topic", "counted", "--runs", "1", "--no-limits"]).unwrap();
    assert_eq!(report["rows"][0]["windows"][0]["messages"].as_i64(), Some(sent), "{report}");

    let report = bench(
        &cluster,
        &["end-to-end", "--rate", "400", "--warm-up", "0.2", "--duration", "1", "--queues", &queues, "--no-limits"],
    )
    .unwrap();
    let (send, read) = (&report["rows"][0], &report["rows"][1]);
    assert_eq!(send["totals"]["acknowledged"], read["totals"]["acknowledged"], "{report}");
    let calls = send["windows"][0]["messages"].as_i64().unwrap();
    assert!((300..=500).contains(&calls), "400 messages a second were asked for: {report}");

    // Its exit status says that each came once, and none too early.
    let report = bench(
        &cluster,
        &[
            "delay",
            "--messages",
            "2000",
            "--due-ms",
            "3000",
            "--spread-ms",
            "1000",
            "--topic",
            "delayed",
            "--queues",
            &queues,
        ],
    )
    .unwrap();
    assert_eq!((&report["early"], &report["lost"], &report["failed"]), (&0.into(), &0.into(), &0.into()), "{report}");
    assert!(report["waiting"].as_i64().unwrap() > 0, "{report}");
    assert_eq!(stored(&cluster, "delayed").unwrap(), 2_000, "{report}");
}

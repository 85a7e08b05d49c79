//! `ledgermq admin raft status`: what every replica says of itself, and what it has measured. One that does not answer has a line too.

use std::collections::BTreeSet;

use anyhow::Result;
use ledgermq_client::Admin;
use serde_json::{Value, json};

use crate::terminal::{say, table};

/// Prints it.
pub(super) async fn status(admin: &Admin, as_json: bool) -> Result<()> {
    let info = admin.cluster().await?;
    let mut replicas: Vec<Value> = Vec::new();
    for (broker_name, broker) in &info.broker_addr_table {
        for address in broker.broker_addrs.values() {
            // A node tells about all its groups at each of its ports: only that of this port is wanted here.
            match admin.raft_status(address).await {
                Ok(node) => {
                    let groups = node.get("groups").and_then(Value::as_array).cloned().unwrap_or_default();
                    let own = groups.into_iter().find(|group| group["brokerName"] == json!(broker_name));
                    let mut own = own.unwrap_or_else(|| json!({"brokerName": broker_name, "role": "unknown"}));
                    own["address"] = json!(address);
                    replicas.push(own);
                }
                Err(error) => replicas.push(json!({
                    "brokerName": broker_name, "address": address, "role": "unreachable", "error": error.to_string(),
                })),
            }
        }
    }
    for (broker_name, address) in unlisted(&replicas) {
        let status = super::members::status_at(admin, &broker_name, &address).await;
        if let Ok(mut status) = status {
            status["address"] = json!(address);
            replicas.push(status);
        }
    }
    replicas.extend(missing(&replicas));
    if as_json {
        say(Value::from(replicas));
        return Ok(());
    }
    let cell = |value: &Value| match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let rows: Vec<Vec<String>> = replicas
        .iter()
        .map(|replica| {
            vec![
                cell(&replica["brokerName"]),
                cell(&replica["raftId"]),
                cell(&replica["standing"]),
                cell(&replica["role"]),
                cell(&replica["term"]),
                cell(&replica["last"]["index"]),
                cell(&replica["durable"]["index"]),
                cell(&replica["commit"]),
                cell(&replica["applied"]),
                snapshot(replica),
                cell(&replica["address"]),
            ]
        })
        .collect();
    say(table(
        &[
            "GROUP",
            "RAFT ID",
            "MEMBER",
            "ROLE",
            "TERM",
            "LAST",
            "DURABLE",
            "COMMITTED",
            "APPLIED",
            "SNAPSHOT",
            "ADDRESS",
        ],
        &rows,
    ));
    let measured: Vec<Vec<String>> = replicas.iter().filter_map(measures_row).collect();
    if !measured.is_empty() {
        say("");
        say(table(
            &[
                "GROUP",
                "RAFT ID",
                "APPEND US P50 / P99",
                "REPLICATE US",
                "FDATASYNC US",
                "RECORDS / FRAME",
                "ELECTIONS",
                "WON LAST",
            ],
            &measured,
        ));
    }
    Ok(())
}

/// How far a replica is with the snapshot that it pulls, and on a leader who is on the way to one.
fn snapshot(replica: &Value) -> String {
    let pulled = |key: &str| replica["snapshot"][key].as_u64();
    if let (Some(bytes), Some(missing)) = (pulled("bytes"), pulled("missing")) {
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        return format!("{} of {} MiB", mib(bytes.saturating_sub(missing)), mib(bytes));
    }
    let peers = replica["peers"].as_array().map_or(&[][..], Vec::as_slice);
    let taking = peers.iter().filter(|peer| peer["inSnapshot"] == json!(true)).map(|peer| peer["raftId"].to_string());
    let taking: Vec<String> = taking.collect();
    if taking.is_empty() { "-".to_owned() } else { format!("for {}", taking.join(", ")) }
}

/// Medians and 99th percentiles of what a replica has measured since its start, and the elections that it won; `None` of one that
/// says nothing of it.
fn measures_row(replica: &Value) -> Option<Vec<String>> {
    let measures = replica.get("measures")?;
    let spread = |name: &str| {
        let spread = &measures[name];
        match spread["count"].as_u64() {
            None | Some(0) => "-".to_owned(),
            Some(_) => format!("{} / {}", spread["p50"], spread["p99"]),
        }
    };
    let won: u64 = measures["electionsWon"].as_object()?.values().filter_map(Value::as_u64).sum();
    let last = measures["lastWon"]["reason"]
        .as_str()
        .map_or("-".to_owned(), |reason| format!("{reason}, term {}", measures["lastWon"]["term"]));
    Some(vec![
        replica["brokerName"].as_str()?.to_owned(),
        replica["raftId"].to_string(),
        spread("appendUs"),
        spread("replicateUs"),
        spread("fdatasyncUs"),
        spread("batchRecords"),
        won.to_string(),
        last,
    ])
}

/// Groups and addresses of members that no name server lists: learners, mostly.
fn unlisted(replicas: &[Value]) -> BTreeSet<(String, String)> {
    let listed: BTreeSet<&str> = replicas.iter().filter_map(|replica| replica["address"].as_str()).collect();
    let members = replicas.iter().filter_map(|it| Some((it["brokerName"].as_str()?, it["members"].as_array()?)));
    let clients = members.flat_map(|(name, members)| {
        members.iter().filter_map(move |member| Some((name.to_owned(), member["client"].as_str()?.to_owned())))
    });
    clients.filter(|(_, address)| !address.is_empty() && !listed.contains(address.as_str())).collect()
}

/// A line for each voter that no name server knows at the moment: it is down, or cut off.
fn missing(replicas: &[Value]) -> Vec<Value> {
    let known: BTreeSet<(&str, u64)> = replicas
        .iter()
        .filter_map(|replica| Some((replica["brokerName"].as_str()?, replica["raftId"].as_u64()?)))
        .collect();
    let voters: BTreeSet<(&str, u64)> = replicas
        .iter()
        .filter_map(|replica| Some((replica["brokerName"].as_str()?, replica["voters"].as_array()?)))
        .flat_map(|(name, voters)| voters.iter().filter_map(move |voter| Some((name, voter.as_u64()?))))
        .collect();
    voters
        .difference(&known)
        .map(|(name, raft_id)| json!({"brokerName": name, "raftId": raft_id, "role": "missing"}))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Would break: latencies under the wrong heading, and a table for a node that tells nothing of them.
    #[test]
    fn what_a_replica_measured_is_shown_in_short() {
        let spread = |p50: u64| json!({"count": 9, "p50": p50, "p99": p50 * 2});
        let measures = json!({
            "appendUs": spread(1), "replicateUs": spread(2), "fdatasyncUs": spread(3), "batchRecords": {"count": 0},
            "electionsWon": {"start": 1, "silence": 2}, "lastWon": {"term": 7, "reason": "silence"},
        });
        let replica = json!({"brokerName": "broker-a", "raftId": 2, "measures": measures});
        let row = measures_row(&replica).unwrap();
        assert_eq!(row, ["broker-a", "2", "1 / 2", "2 / 4", "3 / 6", "-", "3", "silence, term 7"]);
        assert_eq!(measures_row(&json!({"brokerName": "broker-a", "role": "unreachable"})), None);
    }

    /// Would break: seeing at a glance that a replica is down.
    #[test]
    fn a_voter_that_nobody_lists_has_a_line() {
        let replicas = [
            json!({"brokerName": "broker-a", "raftId": 1, "voters": [1, 2, 3]}),
            json!({"brokerName": "broker-a", "raftId": 2, "voters": [1, 2, 3]}),
        ];
        assert_eq!(missing(&replicas), [json!({"brokerName": "broker-a", "raftId": 3, "role": "missing"})]);
        assert!(missing(&[json!({"brokerName": "broker-a", "role": "unreachable"})]).is_empty());
    }

    /// Would break: seeing how long a replica that takes a snapshot will still be away.
    #[test]
    fn a_snapshot_on_its_way_is_told_on_both_sides() {
        let taker = json!({"snapshot": {"bytes": 100 << 20, "missing": 60 << 20}, "peers": []});
        assert_eq!(snapshot(&taker), "40 of 100 MiB");
        let giver = json!({"peers": [{"raftId": 2, "inSnapshot": false}, {"raftId": 3, "inSnapshot": true}]});
        assert_eq!(snapshot(&giver), "for 3");
        assert_eq!(snapshot(&json!({"role": "unreachable"})), "-");
    }
}

//! `ledgermq admin raft status`: what every replica says of itself. One that does not answer has a line too.

use std::collections::BTreeSet;

use anyhow::Result;
use ledgermq_client::Admin;
use serde_json::{Value, json};

use crate::terminal::{say, table};

/// Prints it.
pub(super) async fn status(admin: &Admin, as_json: bool) -> Result<()> {
    let info = admin.cluster().await?;
    let mut seen = BTreeSet::new();
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
                    if seen.insert((broker_name.clone(), address.clone())) {
                        replicas.push(own);
                    }
                }
                Err(error) => replicas.push(json!({
                    "brokerName": broker_name, "address": address, "role": "unreachable", "error": error.to_string(),
                })),
            }
        }
    }
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
                cell(&replica["role"]),
                cell(&replica["term"]),
                cell(&replica["last"]["index"]),
                cell(&replica["durable"]["index"]),
                cell(&replica["commit"]),
                cell(&replica["applied"]),
                cell(&replica["address"]),
            ]
        })
        .collect();
    say(table(&["GROUP", "RAFT ID", "ROLE", "TERM", "LAST", "DURABLE", "COMMITTED", "APPLIED", "ADDRESS"], &rows));
    Ok(())
}

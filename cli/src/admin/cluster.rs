//! `ledgermq admin cluster`: the brokers that a name server knows, and who leads.

use anyhow::Result;
use ledgermq_client::Admin;
use ledgermq_protocol::route::LEADER_ID;
use serde_json::json;

use crate::terminal::{say, table};

/// Prints it.
pub(super) async fn show(admin: &Admin, as_json: bool) -> Result<()> {
    let info = admin.cluster().await?;
    let mut rows = Vec::new();
    let mut entries = Vec::new();
    for (broker_name, broker) in &info.broker_addr_table {
        for (id, address) in &broker.broker_addrs {
            let role = if *id == LEADER_ID { "leader" } else { "follower" };
            rows.push(vec![
                broker.cluster.clone(),
                broker_name.clone(),
                id.to_string(),
                role.to_owned(),
                address.clone(),
            ]);
            entries.push(json!({
                "cluster": broker.cluster,
                "broker_name": broker_name,
                "broker_id": id,
                "role": role,
                "address": address,
            }));
        }
    }
    if as_json {
        say(serde_json::Value::from(entries));
    } else {
        say(table(&["CLUSTER", "BROKER", "ID", "ROLE", "ADDRESS"], &rows));
    }
    Ok(())
}

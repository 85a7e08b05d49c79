//! `ledgermq admin topic`: list topics, show where one lives, create one.

use anyhow::Result;
use clap::Subcommand;
use ledgermq_client::{Admin, NewTopic};
use serde_json::json;

use crate::terminal::{say, table};

/// What can be done with topics.
#[derive(Debug, Subcommand)]
pub(super) enum TopicCommand {
    /// Names of all topics
    List,
    /// Queues of a topic
    Show {
        /// Name
        name: String,
    },
    /// Create a topic, or change its number of queues, on every broker name
    Create {
        /// Name
        name: String,
        /// Queues per broker name
        #[arg(long, default_value_t = 8)]
        queues: i32,
    },
}

/// Runs the subcommand.
pub(super) async fn run(admin: &Admin, command: TopicCommand, as_json: bool) -> Result<()> {
    match command {
        TopicCommand::List => {
            let mut topics = admin.topics().await?;
            topics.sort_unstable();
            if as_json {
                say(json!(topics));
            } else {
                say(table(&["TOPIC"], &topics.into_iter().map(|topic| vec![topic]).collect::<Vec<_>>()));
            }
        }
        TopicCommand::Show { name } => {
            let route = admin.route(&name).await?;
            let mut rows = Vec::new();
            let mut entries = Vec::new();
            for queues in &route.data().queue_datas {
                let broker = route.data().broker_datas.iter().find(|broker| broker.broker_name == queues.broker_name);
                let leader = broker.and_then(|broker| broker.leader_addr());
                rows.push(vec![
                    queues.broker_name.clone(),
                    queues.read_queue_nums.to_string(),
                    queues.write_queue_nums.to_string(),
                    queues.perm.to_string(),
                    leader.unwrap_or("-").to_owned(),
                ]);
                entries.push(json!({
                    "broker_name": queues.broker_name,
                    "read_queues": queues.read_queue_nums,
                    "write_queues": queues.write_queue_nums,
                    "perm": queues.perm,
                    "leader": leader,
                }));
            }
            if as_json {
                say(json!({"topic": name, "brokers": entries}));
            } else {
                say(table(&["BROKER", "READ QUEUES", "WRITE QUEUES", "PERM", "LEADER"], &rows));
            }
        }
        TopicCommand::Create { name, queues } => {
            admin.create_topic(&NewTopic::new(name.clone(), queues)).await?;
            if as_json {
                say(json!({"topic": name, "queues": queues}));
            } else {
                say(format_args!("{name} has {queues} queues on every broker name"));
            }
        }
    }
    Ok(())
}

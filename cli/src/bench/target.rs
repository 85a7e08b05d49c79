//! What is measured: a cluster, a topic in it, and, of a local cluster, the processes behind it.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args;
use ledgermq_client::{Client, ClientConfig, MessageQueue, NewTopic, ProducerConfig};

use crate::dev::cluster_file::ClusterFile;

/// Producer and consumer group of a bench.
pub(crate) const GROUP: &str = "ledgermq-bench";

/// Most queues of a bench's topic, per broker name.
const QUEUES_MAX: u32 = 1_024;

/// Which cluster, and which topic.
#[derive(Debug, Args)]
pub(crate) struct TargetArgs {
    /// Folder of a running local cluster (`ledgermq dev --dir`); what its processes cost is measured too
    #[arg(long, default_value = "ledgermq-dev", conflicts_with = "namesrv")]
    pub(crate) dir: PathBuf,
    /// Name servers, host:port, of any other cluster; what it costs is not known then
    #[arg(long, value_delimiter = ',')]
    pub(crate) namesrv: Vec<String>,
    /// Topic; created if it is missing [default: a new one]
    #[arg(long)]
    pub(crate) topic: Option<String>,
    /// Queues of a topic that is created, per broker name
    #[arg(long, default_value_t = 8)]
    pub(crate) queues: u32,
}

/// The cluster and the topic, ready for load.
pub(crate) struct Target {
    /// The processes, of a local cluster.
    pub(crate) cluster: Option<ClusterFile>,
    /// Folder of a local cluster.
    pub(crate) dir: Option<PathBuf>,
    /// Name servers; each may be a list joined by `;`.
    pub(crate) namesrvs: Vec<String>,
    /// The topic.
    pub(crate) topic: String,
    /// Its queues, on all broker names.
    pub(crate) queues: Vec<MessageQueue>,
    /// A number that no other run has.
    pub(crate) run: u64,
}

impl Target {
    /// Finds the cluster, and creates the topic if it is missing.
    pub(crate) async fn open(args: &TargetArgs) -> Result<Target> {
        ensure!((1..=QUEUES_MAX).contains(&args.queues), "--queues is {}: give 1 to {QUEUES_MAX}", args.queues);
        let (cluster, dir, namesrvs) = if args.namesrv.is_empty() {
            let cluster = ClusterFile::read(&args.dir)?;
            let namesrvs = vec![cluster.namesrv.clone()];
            (Some(cluster), Some(args.dir.clone()), namesrvs)
        } else {
            (None, None, args.namesrv.clone())
        };
        let run: u64 = rand::random();
        let topic = args.topic.clone().unwrap_or_else(|| format!("bench-{run:016x}"));
        let client = Client::new(ClientConfig::new(namesrvs.clone()))?;
        let exists = args.topic.is_some() && client.admin().route(&topic).await.is_ok();
        if !exists {
            let queues = i32::try_from(args.queues).context("too many queues")?;
            client
                .admin()
                .create_topic(&NewTopic::new(topic.clone(), queues))
                .await
                .context("cannot create the bench's topic")?;
        }
        let producer = client.producer(ProducerConfig::new(GROUP))?;
        let queues = producer.queues(&topic).await.context("the bench's topic has no route")?;
        Ok(Target { cluster, dir, namesrvs, topic, queues, run })
    }

    /// A client with connections of its own.
    pub(crate) fn client(&self) -> Result<Client> {
        Ok(Client::new(ClientConfig::new(self.namesrvs.clone()))?)
    }

    /// The broker names that the topic has queues on, sorted.
    pub(crate) fn broker_names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.queues.iter().map(|queue| queue.broker_name.clone()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}

//! Where everything of a local cluster lies: folders, ports and identities, all of them derived from `DIR/dev.json`.
//!
//! ```text
//! DIR/dev.json          the plan; written last: without it, no cluster was born here
//! DIR/cluster.json      the running cluster (cluster_file.rs)
//! DIR/namesrv.log       of the first name server; namesrv-2.log of the second, …
//! DIR/node-1/broker.toml  broker.log  data/
//! ```
//! Ports: the name servers have those from `base_port` on; node *i* has the ten from `base_port + 10 i`: Raft, HTTP, then one per group.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use ledgermq_broker::config::{BrokerConfig, FlushMode, GroupConfig, Limits, MemberConfig};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Name of the plan's file.
const FILE_NAME: &str = "dev.json";

/// Ports that a cluster may use, from its base port on.
pub(crate) const PORT_SPAN: u16 = 100;

/// Ports of one node.
const NODE_SPAN: u16 = 10;

/// Most nodes: what fits the ports.
pub(crate) const NODES_MAX: u64 = 9;

/// Most groups: what fits a node's ports, behind Raft and HTTP.
pub(crate) const GROUPS_MAX: u64 = 8;

/// Most name servers: a broker registers with all of them.
pub(crate) const NAMESRVS_MAX: u64 = 8;

/// Name of the RocketMQ cluster.
const CLUSTER_NAME: &str = "DefaultCluster";

/// What a local cluster is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Plan {
    /// First port.
    pub(crate) base_port: u16,
    /// Identity of the cluster.
    pub(crate) cluster_id: Uuid,
    /// Number of name servers. A plan of an earlier version has one.
    #[serde(default = "one")]
    pub(crate) namesrvs: u64,
    /// Number of nodes that the cluster was born with, 1 and up.
    pub(crate) nodes: u64,
    /// Nodes that came later; their configs tell what they hold.
    #[serde(default)]
    pub(crate) added: Vec<u64>,
    /// Nodes that are gone for good, of either kind. Their numbers are not used again.
    #[serde(default)]
    pub(crate) removed: Vec<u64>,
    /// The groups; every node of the birth is a member of each, with its node number as Raft id.
    pub(crate) groups: Vec<GroupPlan>,
    /// Where the processes run; on this host's loopback address if absent.
    #[serde(default)]
    pub(crate) hosts: Hosts,
}

/// What stands for a node's number in [`Hosts`].
const NODE: &str = "{node}";

/// Addresses of the processes, and what they are started under: network namespaces make one machine many hosts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Hosts {
    /// Address of each node, with `{node}` for its number.
    pub(crate) node: Option<String>,
    /// Address of the name servers.
    pub(crate) namesrv: Option<IpAddr>,
    /// Words in front of each node's command line, with `{node}` for its number.
    #[serde(default)]
    pub(crate) under: Vec<String>,
}

impl Hosts {
    /// Refuses a pattern that makes no addresses.
    pub(crate) fn validate(&self) -> Result<()> {
        for node in 1..=NODES_MAX {
            self.parse(node)?;
        }
        Ok(())
    }

    fn parse(&self, node: u64) -> Result<IpAddr> {
        let Some(pattern) = &self.node else { return Ok(IpAddr::V4(Ipv4Addr::LOCALHOST)) };
        let address = pattern.replace(NODE, &node.to_string());
        address.parse().with_context(|| {
            format!("--host {pattern}: {address:?} is no IP address; write one with {NODE} for the node's number, like 10.0.0.{NODE}")
        })
    }

    /// Words in front of a node's command line.
    pub(crate) fn under(&self, node: u64) -> Vec<String> {
        self.under.iter().map(|word| word.replace(NODE, &node.to_string())).collect()
    }

    /// Whether anybody but this host can reach the processes.
    pub(crate) fn exposed(&self) -> bool {
        let nodes = (1..=NODES_MAX).any(|node| self.parse(node).is_ok_and(|address| !address.is_loopback()));
        nodes || self.namesrv.is_some_and(|address| !address.is_loopback())
    }
}

/// One group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GroupPlan {
    /// Broker name.
    pub(crate) name: String,
    /// Identity of the group.
    pub(crate) id: Uuid,
    /// Replica uuids, node 1 first.
    pub(crate) replicas: Vec<Uuid>,
}

impl Plan {
    /// A new cluster.
    pub(crate) fn draw(namesrvs: u64, nodes: u64, groups: u64, base_port: u16) -> Result<Plan> {
        ensure!(
            (1..=NAMESRVS_MAX).contains(&namesrvs),
            "--namesrvs is {namesrvs}: 1 to {NAMESRVS_MAX} fit a local cluster"
        );
        ensure!(
            (1..=NODES_MAX).contains(&nodes),
            "--nodes is {nodes}: 1 to {NODES_MAX} fit the ports of a local cluster"
        );
        ensure!(
            (1..=GROUPS_MAX).contains(&groups),
            "--groups is {groups}: 1 to {GROUPS_MAX} fit the ports of a local cluster"
        );
        ensure!(
            base_port >= 1024 && base_port.checked_add(PORT_SPAN - 1).is_some(),
            "--base-port is {base_port}: use 1024 to {}, {PORT_SPAN} ports are taken from there on",
            u16::MAX - PORT_SPAN + 1
        );
        let group = |n: u64| GroupPlan {
            name: broker_name(n),
            id: Uuid::new_v4(),
            replicas: (0..nodes).map(|_| Uuid::new_v4()).collect(),
        };
        Ok(Plan {
            base_port,
            cluster_id: Uuid::new_v4(),
            namesrvs,
            nodes,
            added: Vec::new(),
            removed: Vec::new(),
            groups: (0..groups).map(group).collect(),
            hosts: Hosts::default(),
        })
    }

    /// The plan of the cluster that was born in `dir`, if one was.
    pub(crate) fn read(dir: &Path) -> Result<Option<Plan>> {
        let path = dir.join(FILE_NAME);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        let plan = || -> Result<Plan> {
            let plan: Plan = serde_json::from_str(&text)?;
            plan.hosts.validate()?;
            Ok(plan)
        };
        plan().map(Some).with_context(|| {
            format!("{} is not the plan of a local cluster: name another folder with --dir", path.display())
        })
    }

    /// Writes the plan, synced: from here on the cluster exists.
    pub(crate) fn write(&self, dir: &Path) -> Result<()> {
        let path = dir.join(FILE_NAME);
        let staged = dir.join(format!("{FILE_NAME}.next"));
        let write = || -> std::io::Result<()> {
            std::fs::write(&staged, serde_json::to_vec_pretty(self)?)?;
            std::fs::File::open(&staged)?.sync_all()?;
            std::fs::rename(&staged, &path)?;
            std::fs::File::open(dir)?.sync_all()
        };
        write().with_context(|| format!("cannot write {}", path.display()))
    }

    /// Address of a name server, counted from 1.
    pub(crate) fn namesrv(&self, n: u64) -> SocketAddr {
        assert!((1..=NAMESRVS_MAX).contains(&n), "there is no name server {n}");
        let host = self.hosts.namesrv.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        SocketAddr::new(host, self.base_port + u16::try_from(n - 1).expect("at most 8 name servers"))
    }

    /// Addresses of all name servers, as clients take them: joined by `;`.
    pub(crate) fn namesrv_list(&self) -> String {
        self.namesrv_ids().map(|n| self.namesrv(n).to_string()).collect::<Vec<_>>().join(";")
    }

    /// Numbers of the name servers.
    pub(crate) fn namesrv_ids(&self) -> impl Iterator<Item = u64> + use<> {
        1..=self.namesrvs
    }

    /// Raft address of a node.
    pub(crate) fn raft(&self, node: u64) -> SocketAddr {
        self.node_port(node, 0)
    }

    /// HTTP address of a node.
    pub(crate) fn http(&self, node: u64) -> SocketAddr {
        self.node_port(node, 1)
    }

    /// Clients' address of a node in the `group`-th group.
    pub(crate) fn client(&self, node: u64, group: usize) -> SocketAddr {
        self.node_port(node, 2 + u16::try_from(group).expect("the plan has at most 8 groups"))
    }

    /// Clients' addresses of a node, by broker name.
    pub(crate) fn clients(&self, node: u64) -> BTreeMap<String, String> {
        self.groups
            .iter()
            .enumerate()
            .map(|(n, group)| (group.name.clone(), self.client(node, n).to_string()))
            .collect()
    }

    /// Numbers of the nodes that are there.
    pub(crate) fn node_ids(&self) -> impl Iterator<Item = u64> + use<> {
        let all = (1..=self.nodes).chain(self.added.iter().copied());
        all.filter(|id| !self.removed.contains(id)).collect::<Vec<_>>().into_iter()
    }

    /// Number of a node that is to come, if there are ports for it.
    pub(crate) fn next_node(&self) -> Option<u64> {
        let last = self.added.iter().copied().max().unwrap_or(self.nodes);
        (last < NODES_MAX).then_some(last + 1)
    }

    /// The config that a node is started with.
    pub(crate) fn broker_config(&self, dir: &Path, node: u64) -> BrokerConfig {
        let groups = self.groups.iter().enumerate().map(|(n, group)| GroupConfig {
            name: group.name.clone(),
            id: group.id,
            raft_id: node,
            listen: self.client(node, n),
            advertise: None,
            preferred_leader: Some(n as u64 % self.nodes + 1),
            flush: None,
            members: self.members(n),
        });
        BrokerConfig {
            cluster: CLUSTER_NAME.to_owned(),
            cluster_id: self.cluster_id,
            node_id: node,
            data_dir: data_dir(dir, node),
            raft_listen: self.raft(node),
            http_listen: self.http(node),
            namesrv: self.namesrv_ids().map(|n| self.namesrv(n).to_string()).collect(),
            flush: FlushMode::Sync,
            auto_create_topics: true,
            disk_keep_bytes: 0,
            retention_ms: RETENTION_MS,
            retention_bytes: 0,
            retention_forced: true,
            delay_max_ms: DELAY_MAX_MS,
            lag_hold_bytes: LAG_HOLD_BYTES,
            lag_hold_ms: LAG_HOLD_MS,
            snapshot_linger_ms: SNAPSHOT_LINGER_MS,
            drain_linger_ms: DRAIN_LINGER_MS,
            insecure: self.hosts.exposed(),
            peer_tls: None,
            limits: Limits::default(),
            groups: groups.collect(),
        }
    }

    /// Refuses to start when somebody else has one of the ports: the processes would fail one by one, less clearly.
    pub(crate) fn check_ports(&self) -> Result<()> {
        let mut wanted: Vec<_> = self.namesrv_ids().map(|n| (format!("name server {n}"), self.namesrv(n))).collect();
        // Nodes on hosts of their own have their ports there.
        for node in self.node_ids().filter(|_| self.hosts.node.is_none()) {
            wanted.push((format!("Raft of node {node}"), self.raft(node)));
            wanted.push((format!("HTTP of node {node}"), self.http(node)));
            for (n, group) in self.groups.iter().enumerate() {
                wanted.push((format!("{} on node {node}", group.name), self.client(node, n)));
            }
        }
        for (what, address) in wanted {
            if let Err(error) = TcpListener::bind(address) {
                bail!("{address} ({what}) cannot be bound: {error}; stop what uses it, or choose another --base-port");
            }
        }
        Ok(())
    }

    fn members(&self, group: usize) -> Vec<MemberConfig> {
        let member = |node: u64| MemberConfig {
            raft_id: node,
            replica: self.groups[group].replicas[usize::try_from(node - 1).expect("at most 9 nodes")],
            raft: self.raft(node).to_string(),
            broker: self.client(node, group).to_string(),
        };
        (1..=self.nodes).map(member).collect()
    }

    fn node_port(&self, node: u64, slot: u16) -> SocketAddr {
        assert!(slot < NODE_SPAN && (1..=NODES_MAX).contains(&node), "node {node} has no port {slot}");
        let host = self.hosts.parse(node).expect("the addresses were checked when the plan was made or read");
        SocketAddr::new(host, self.base_port + NODE_SPAN * u16::try_from(node).expect("at most 9 nodes") + slot)
    }
}

/// Lag of a member above which old messages are not kept for it: the broker's defaults.
const LAG_HOLD_BYTES: u64 = 20 << 30;
const LAG_HOLD_MS: u64 = 3_600_000;

/// Longest delay of a message: 40 days, the default.
const DELAY_MAX_MS: u64 = 40 * 86_400_000;
/// How long the copy behind a snapshot stays: the broker's default.
const SNAPSHOT_LINGER_MS: u64 = 30_000;

/// As production has it.
const RETENTION_MS: u64 = 72 * 3_600_000;

/// As production has it: what a drill with SIGTERM shows must be the real thing.
const DRAIN_LINGER_MS: u64 = 35_000;

fn one() -> u64 {
    1
}

/// Folder of a node.
pub(crate) fn node_dir(dir: &Path, node: u64) -> PathBuf {
    dir.join(format!("node-{node}"))
}

/// Data folder of a node.
pub(crate) fn data_dir(dir: &Path, node: u64) -> PathBuf {
    node_dir(dir, node).join("data")
}

/// Config file of a node.
pub(crate) fn config_path(dir: &Path, node: u64) -> PathBuf {
    node_dir(dir, node).join("broker.toml")
}

/// `broker-a`, `broker-b`, …
fn broker_name(n: u64) -> String {
    let letter = char::from(b'a' + u8::try_from(n).expect("at most 8 groups"));
    format!("broker-{letter}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Would break: two processes of a cluster that want the same port, or a port outside the promised hundred.
    #[test]
    fn every_port_is_its_own_and_inside_the_span() {
        let plan = Plan::draw(NAMESRVS_MAX, NODES_MAX, GROUPS_MAX, 20_000).unwrap();
        let mut ports: Vec<u16> = plan.namesrv_ids().map(|n| plan.namesrv(n).port()).collect();
        for node in plan.node_ids() {
            ports.extend([plan.raft(node).port(), plan.http(node).port()]);
            ports.extend((0..plan.groups.len()).map(|group| plan.client(node, group).port()));
        }
        let count = ports.len();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), count);
        assert!(ports.iter().all(|port| (20_000..20_000 + PORT_SPAN).contains(port)), "{ports:?}");
    }

    /// Would break: a cluster whose nodes refuse the config that `dev` writes for them.
    #[test]
    fn the_written_configs_are_valid_and_agree() {
        let plan = Plan::draw(2, 3, 2, 20_000).unwrap();
        for node in plan.node_ids() {
            let config = plan.broker_config(Path::new("/tmp/x"), node);
            config.validate().unwrap();
            for (n, group) in config.groups.iter().enumerate() {
                assert_eq!(group.members, plan.broker_config(Path::new("/tmp/x"), 1).groups[n].members);
                let own = group.member(node).unwrap();
                assert_eq!(
                    (own.raft.clone(), own.broker.clone()),
                    (config.raft_listen.to_string(), group.listen.to_string())
                );
            }
        }
    }

    /// Would break: a node that comes up again although it is gone, or a number that two nodes have had.
    #[test]
    fn nodes_come_and_go() {
        let mut plan = Plan::draw(1, 3, 1, 20_000).unwrap();
        assert_eq!(plan.next_node(), Some(4));
        plan.added.push(4);
        plan.removed.extend([2, 4]);
        assert_eq!(plan.node_ids().collect::<Vec<_>>(), [1, 3]);
        assert_eq!(plan.next_node(), Some(5));
        plan.added.push(9);
        assert_eq!(plan.next_node(), None);
    }

    /// Would break: all groups led by one node, or one that no node is to lead.
    #[test]
    fn the_groups_prefer_different_nodes() {
        let plan = Plan::draw(1, 3, 3, 20_000).unwrap();
        for node in plan.node_ids() {
            let config = plan.broker_config(Path::new("/tmp/x"), node);
            let preferred: Vec<_> = config.groups.iter().map(|group| group.preferred_leader).collect();
            assert_eq!(preferred, [Some(1), Some(2), Some(3)]);
        }
    }

    /// Would break: starting a stopped cluster again with its data.
    #[test]
    fn a_plan_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Plan::read(dir.path()).unwrap(), None);
        let plan = Plan::draw(1, 3, 1, 20_000).unwrap();
        plan.write(dir.path()).unwrap();
        assert_eq!(Plan::read(dir.path()).unwrap(), Some(plan));
    }

    /// Would break: a sentence instead of a panic for numbers that do not fit.
    #[test]
    fn numbers_that_do_not_fit_are_refused_by_name() {
        for (namesrvs, nodes, groups, base_port, flag) in [
            (0, 3, 1, 20_000, "--namesrvs"),
            (9, 3, 1, 20_000, "--namesrvs"),
            (1, 0, 1, 20_000, "--nodes"),
            (1, 10, 1, 20_000, "--nodes"),
            (1, 3, 9, 20_000, "--groups"),
            (1, 3, 1, 65_500, "--base-port"),
        ] {
            let error = Plan::draw(namesrvs, nodes, groups, base_port).unwrap_err();
            assert!(error.to_string().contains(flag), "{error}");
        }
    }

    /// Would break: nodes on hosts of their own, each found by all others, and started where its address is.
    #[test]
    fn nodes_can_have_hosts_of_their_own() {
        let mut plan = Plan::draw(1, 3, 1, 20_000).unwrap();
        plan.hosts = Hosts {
            node: Some("10.1.{node}.7".into()),
            namesrv: Some("10.1.0.9".parse().unwrap()),
            under: ["ip", "netns", "exec", "host-{node}"].map(String::from).to_vec(),
        };
        plan.hosts.validate().unwrap();
        let config = plan.broker_config(Path::new("/tmp/x"), 2);
        assert_eq!(config.raft_listen.to_string(), "10.1.2.7:20020");
        assert_eq!(config.groups[0].member(3).unwrap().broker, "10.1.3.7:20032");
        assert_eq!(config.namesrv, ["10.1.0.9:20000"]);
        assert!(config.insecure, "an address that others reach needs the word of whoever starts it");
        config.validate().unwrap();
        assert_eq!(plan.hosts.under(3)[3], "host-3");
        plan.check_ports().unwrap_err();
        let wrong = Hosts { node: Some("host-{node}".into()), ..Hosts::default() };
        assert!(wrong.validate().unwrap_err().to_string().contains("--host"));
        assert!(!Hosts::default().exposed());
    }

    /// Would break: knowing which port of which node is taken.
    #[test]
    fn a_taken_port_is_named() {
        let plan = Plan::draw(1, 1, 1, 23_400).unwrap();
        let taken = plan.http(1);
        let _other = TcpListener::bind(taken);
        let error = plan.check_ports().unwrap_err();
        assert!(error.to_string().contains("--base-port"), "{error}");
    }
}

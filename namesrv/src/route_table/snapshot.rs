//! What the table shows: a topic's route as the bytes of the answer, and the cluster as a whole.
//!
//! Made from the table under its lock and then shared; never changed. The bytes hold nothing that changes without reason, since
//! stock clients rebalance on any difference: terms and suspicions travel in fields beside them and count in the version only.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use ledgermq_protocol::json::Body;
use ledgermq_protocol::route::{BrokerData, ClusterInfo, LEADER_ID, QueueData, TopicRouteData};

use super::{Broker, RouteTable, Topic};
use crate::liveness::MemberKey;

/// A topic's route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteSnapshot {
    /// The body of the answer, JSON.
    pub body: Bytes,
    /// Names this content, with the terms and suspects: two snapshots with one version are equal, on whatever name server.
    /// Never 0.
    pub version: u64,
    /// "broker-a:7,broker-b:9": the terms in which the leaders registered. Brokers without a group are left out.
    pub terms: String,
    /// The broker names whose leader's connection is lost, joined by commas.
    pub suspects: String,
}

impl RouteTable {
    pub(super) fn snapshot(&self, topic: &Topic) -> RouteSnapshot {
        let mut route = TopicRouteData::default();
        let (mut terms, mut suspects) = (Vec::new(), Vec::new());
        for (name, queues) in &topic.queues {
            let Some(broker) = self.brokers.get(name) else { continue };
            route.queue_datas.push(QueueData {
                broker_name: name.clone(),
                perm: queues.perm,
                read_queue_nums: queues.read,
                topic_sys_flag: queues.topic_sys_flag,
                write_queue_nums: queues.write,
            });
            route.broker_datas.push(broker.data(name));
            if let Some(holder) = broker.leader.holder() {
                if holder.epoch.group.is_some() {
                    terms.push(format!("{name}:{}", holder.epoch.term));
                }
                let key = MemberKey { broker_name: name.clone(), addr: holder.addr.clone() };
                if broker.retiring || !self.live.is_connected(&key) {
                    suspects.push(name.as_str());
                }
            }
        }
        let body = route.to_json();
        let (terms, suspects) = (terms.join(","), suspects.join(","));
        let version = version_of(&[&body, terms.as_bytes(), suspects.as_bytes()]);
        RouteSnapshot { body, version, terms, suspects }
    }

    /// Every broker name with its members, and the names of each cluster.
    pub fn cluster_info(&self) -> ClusterInfo {
        let mut clusters: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut brokers = BTreeMap::new();
        for (name, broker) in &self.brokers {
            clusters.entry(broker.cluster.clone()).or_default().push(name.clone());
            brokers.insert(name.clone(), broker.data(name));
        }
        ClusterInfo { broker_addr_table: brokers, cluster_addr_table: clusters }
    }

    /// Checks what must hold between the tables. For tests; costs a walk over everything.
    ///
    /// # Panics
    /// When it does not hold.
    pub fn assert_consistent(&self) {
        let mut by_topic: HashMap<&str, usize> = HashMap::new();
        for (name, broker) in &self.brokers {
            assert!(!broker.members.is_empty(), "{name} has no member");
            for (addr, member) in &broker.members {
                let key = MemberKey { broker_name: name.clone(), addr: addr.clone() };
                assert!(self.live.contains(&key), "{key:?} has no life");
                assert_eq!(
                    member.broker_id == LEADER_ID,
                    broker.leader.is_held_by(addr),
                    "{key:?} and the leader slot"
                );
            }
            if let Some(holder) = broker.leader.holder() {
                assert!(broker.members.contains_key(&holder.addr), "the leader of {name} is no member");
            }
            for topic in &broker.topics {
                assert!(self.topics[topic].queues.contains_key(name), "{topic} misses {name}");
                *by_topic.entry(topic).or_default() += 1;
            }
        }
        let members: usize = self.brokers.values().map(|broker| broker.members.len()).sum();
        assert_eq!(members, self.live.len(), "the living and the members");
        for (name, topic) in &self.topics {
            assert_eq!(by_topic.get(name.as_str()), Some(&topic.queues.len()), "{name} lists who does not have it");
            if let Some(cached) = topic.snapshot.get() {
                assert_eq!(**cached, self.snapshot(topic), "{name} shows a stale route");
            }
        }
    }
}

impl Broker {
    fn data(&self, name: &str) -> BrokerData {
        let addrs = self.members.iter().map(|(addr, member)| (member.broker_id, addr.clone()));
        BrokerData {
            broker_addrs: addrs.collect(),
            broker_name: name.to_owned(),
            cluster: self.cluster.clone(),
            enable_acting_master: false,
            zone_name: None,
        }
    }
}

/// FNV-1a, 64 bits, over length-delimited parts. Written out, since the version must be the same on every name server of every
/// build, which the standard hasher does not promise.
fn version_of(parts: &[&[u8]]) -> u64 {
    const OFFSET_BASIS: u64 = 0xCBF2_9CE4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01B3;
    let mut hash = OFFSET_BASIS;
    let mut feed = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(PRIME);
        }
    };
    for part in parts {
        feed(&(part.len() as u64).to_be_bytes());
        feed(part);
    }
    // 0 is how an asker says that it has nothing.
    hash.max(1)
}

//! The tables: cluster and members of each broker name, queues of each topic, and what follows from them for a client.
//!
//! Handlers feed registrations, heartbeats, departures and lost connections in and read routes out; a sweep expires the dead. It
//! keeps one answer per topic ready-made ([`snapshot`]), thrown away only when something in it changes, so that reads need no
//! more than a shared lock. It does no I/O and has no clock: every call brings the time, in milliseconds since any fixed moment.
//!
//! ```text
//!  topic ──▶ broker name ──▶ queues, permission          as the leader registered them
//!                │
//!                ├──▶ leader slot ──▶ address of brokerId 0     (leader.rs: at most one)
//!                └──▶ members: address ──▶ id, group, version   (liveness.rs: how long)
//! ```

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, OnceLock};

use ledgermq_protocol::topic::DataVersion;
use uuid::Uuid;

use crate::leader::{ClaimRefused, Epoch, GroupName, LeaderSlot};
use crate::liveness::{ConnectionId, LiveTable, MemberKey};
use snapshot::RouteSnapshot;

pub mod snapshot;

/// How many members one broker name may have: far above any Raft group.
const MEMBERS_PER_NAME_MAX: usize = 64;

/// The queues of a topic at one broker name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Queues {
    /// Queues to consume from.
    pub read: i32,
    /// Queues to send to.
    pub write: i32,
    /// Permission bits: 4 read, 2 write, 1 inherit.
    pub perm: i32,
    /// The topic's flag, opaque here.
    pub topic_sys_flag: i32,
}

/// Who speaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Speaker {
    /// Broker name.
    pub broker_name: String,
    /// Address as advertised.
    pub addr: String,
    /// 0 claims to lead.
    pub broker_id: i64,
    /// Group and term.
    pub epoch: Epoch,
    /// Where it speaks.
    pub connection: ConnectionId,
    /// How long the sign of life counts, in ms.
    pub timeout_ms: u64,
}

impl Speaker {
    fn key(&self) -> MemberKey {
        MemberKey { broker_name: self.broker_name.clone(), addr: self.addr.clone() }
    }
}

/// A registration.
#[derive(Debug, Clone)]
pub struct Registration {
    /// By whom.
    pub speaker: Speaker,
    /// Cluster.
    pub cluster: String,
    /// Version of the topics.
    pub data_version: DataVersion,
    /// The topics. Only a leader's are taken.
    pub topics: Vec<(String, Queues)>,
    /// Whether topics that it does not name stay. Else they are gone.
    pub partial: bool,
}

/// Why a registration was refused. Nothing has changed then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegisterRefused {
    /// The leader rule.
    #[error(transparent)]
    Claim(#[from] ClaimRefused),
    /// A follower of another group than the one that owns the broker name.
    #[error(
        "the broker name belongs to group {held}, the registration is of group {claimed}: give each group a name of its own"
    )]
    OtherGroup {
        /// The owner.
        held: GroupName,
        /// The registering broker's group.
        claimed: GroupName,
    },
    /// The broker name lives in another cluster.
    #[error("the broker name belongs to cluster {held}, not {claimed}: give it another name or cluster")]
    OtherCluster {
        /// The cluster that holds the name.
        held: String,
        /// The cluster that was claimed.
        claimed: String,
    },
    /// Only the changed topics of a leader of which the others are not known.
    #[error("{addr} does not lead here in term {term}, so its other topics are not known: register all of them")]
    PartialUnknown {
        /// The leader.
        addr: String,
        /// Its term.
        term: u64,
    },
    /// A bound of this name server.
    #[error("this name server holds at most {max} {what}: raise {key}")]
    Full {
        /// Of what.
        what: &'static str,
        /// The bound.
        max: usize,
        /// The config key, or what to do.
        key: &'static str,
    },
}

/// What a heartbeat or version query found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sign {
    /// The sender stands in the table just as it says; its life was prolonged.
    Known(DataVersion),
    /// The table holds something else or nothing: a registration is needed.
    Unknown,
}

#[derive(Debug)]
struct Member {
    broker_id: i64,
    group: Option<Uuid>,
    data_version: DataVersion,
}

#[derive(Debug, Default)]
struct Broker {
    cluster: String,
    leader: LeaderSlot,
    /// Whether the holder of brokerId 0 has said that it no longer leads, and nobody else has claimed the place. Stock clients
    /// would drop the queues of a name without an id 0, while that member passes their requests on.
    retiring: bool,
    members: BTreeMap<String, Member>,
    topics: BTreeSet<String>,
    /// Topics were taken out that its leader may still have: only a full registration tells.
    incomplete: bool,
}

#[derive(Debug, Default)]
struct Topic {
    queues: BTreeMap<String, Queues>,
    snapshot: OnceLock<Arc<RouteSnapshot>>,
}

/// Bounds of the table.
#[derive(Debug, Clone, Copy)]
pub struct TableLimits {
    /// Broker addresses over all names.
    pub members_max: usize,
    /// Topics.
    pub topics_max: usize,
}

/// All tables of a name server.
#[derive(Debug)]
pub struct RouteTable {
    limits: TableLimits,
    brokers: BTreeMap<String, Broker>,
    topics: HashMap<String, Topic>,
    live: LiveTable,
    /// For broker names without a living member: the last group and its highest term, so that a leader that was cut off cannot
    /// come back when its successors seem dead to this name server. At most `members_max` names; beyond that one is forgotten.
    last_terms: BTreeMap<String, (Uuid, u64)>,
    generation: u64,
}

impl RouteTable {
    /// An empty table.
    pub fn new(limits: TableLimits) -> Self {
        Self {
            limits,
            brokers: BTreeMap::new(),
            topics: HashMap::new(),
            live: LiveTable::default(),
            last_terms: BTreeMap::new(),
            generation: 0,
        }
    }

    /// Goes up with every change that any route or cluster answer shows.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Enters a registration and returns the leader's address as it is afterwards.
    ///
    /// # Errors
    /// [`RegisterRefused`]; nothing has changed then, but that the dead were expired.
    pub fn register(&mut self, registration: Registration, now_ms: u64) -> Result<Option<String>, RegisterRefused> {
        self.expire(now_ms);
        self.check_bounds(&registration)?;
        let Registration { speaker, cluster, data_version, topics, partial } = registration;
        let broker = self.brokers.get(&speaker.broker_name);
        if let Some(broker) = broker
            && broker.cluster != cluster
        {
            return Err(RegisterRefused::OtherCluster { held: broker.cluster.clone(), claimed: cluster });
        }
        let leads = speaker.broker_id == 0;
        // Official brokers never say which topics are gone, and nobody asks them to begin anew.
        if leads && partial && speaker.epoch.group.is_some() {
            let holder = broker.filter(|broker| !broker.incomplete).and_then(|broker| broker.leader.holder());
            if holder.is_none_or(|holder| holder.addr != speaker.addr || holder.epoch != speaker.epoch) {
                return Err(RegisterRefused::PartialUnknown { addr: speaker.addr, term: speaker.epoch.term });
            }
        }
        let key = speaker.key();
        let timeout_ms = speaker.timeout_ms;
        let connection = speaker.connection;
        let name = speaker.broker_name.clone();
        let mut changed = if leads {
            self.enter_leader(speaker, cluster, data_version)?
        } else {
            self.enter_follower(speaker, cluster, data_version)?
        };
        if leads {
            self.replace_topics(&name, topics, partial);
        }
        // A leader that is back on a new connection is no longer suspected.
        changed |= self.live.touch(key, connection, timeout_ms, now_ms);
        if changed {
            self.broker_changed(&name);
        }
        Ok(self.leader_of(&name).map(str::to_owned))
    }

    /// A sign of life of a broker that is registered. It prolongs only the entry that it describes: a leader that was deposed
    /// cannot keep itself alive by it.
    pub fn heartbeat(
        &mut self,
        key: &MemberKey,
        role: Option<(i64, Epoch)>,
        connection: ConnectionId,
        now_ms: u64,
    ) -> Sign {
        self.expire(now_ms);
        let Some(broker) = self.brokers.get(&key.broker_name) else { return Sign::Unknown };
        let Some(member) = broker.members.get(&key.addr) else { return Sign::Unknown };
        if let Some((broker_id, epoch)) = role {
            let holder = broker.leader.holder().filter(|holder| holder.addr == key.addr);
            let fits = match holder {
                Some(holder) => broker_id == 0 && holder.epoch == epoch,
                None => broker_id == member.broker_id && member.group == epoch.group,
            };
            if !fits {
                return Sign::Unknown;
            }
        }
        let data_version = member.data_version;
        let must_tell_all = broker.incomplete && broker.leader.is_held_by(&key.addr);
        let Some(timeout_ms) = self.live.timeout_ms(key) else { return Sign::Unknown };
        if self.live.touch(key.clone(), connection, timeout_ms, now_ms) {
            self.broker_changed(&key.broker_name);
        }
        if must_tell_all { Sign::Unknown } else { Sign::Known(data_version) }
    }

    /// A broker leaves by itself. Only the entry of its own address goes.
    pub fn unregister(&mut self, key: &MemberKey, now_ms: u64) {
        self.expire(now_ms);
        if self.live.contains(key) {
            self.live.remove(key);
            self.drop_member(key);
        }
    }

    /// Drops those that were not heard of for their time.
    pub fn expire(&mut self, now_ms: u64) -> Vec<MemberKey> {
        let expired = self.live.take_expired(now_ms);
        for key in &expired {
            self.drop_member(key);
        }
        expired
    }

    /// A connection on which brokers had spoken is gone. They stay until they expire or a successor comes, since stock clients
    /// would drop the queues of a name without a leader; but a leader among them is suspected from now on.
    pub fn lose_connection(&mut self, connection: ConnectionId) -> Vec<MemberKey> {
        let lost = self.live.lose_connection(connection);
        for key in &lost {
            if self.brokers.get(&key.broker_name).is_some_and(|broker| broker.leader.is_held_by(&key.addr)) {
                self.broker_changed(&key.broker_name);
            }
        }
        lost
    }

    /// Whether any broker is registered.
    pub fn is_empty(&self) -> bool {
        self.brokers.is_empty()
    }

    /// Whether every broker name has a leader.
    pub fn all_led(&self) -> bool {
        self.brokers.values().all(|broker| broker.leader.holder().is_some())
    }

    /// The address of brokerId 0 of a broker name.
    pub fn leader_of(&self, broker_name: &str) -> Option<&str> {
        self.brokers.get(broker_name)?.leader.holder().map(|holder| holder.addr.as_str())
    }

    /// The route of a topic, ready-made; `None` when no broker has it.
    pub fn route(&self, topic: &str) -> Option<Arc<RouteSnapshot>> {
        let topic = self.topics.get(topic)?;
        Some(Arc::clone(topic.snapshot.get_or_init(|| Arc::new(self.snapshot(topic)))))
    }

    /// All topics, sorted.
    pub fn topic_names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.topics.keys().cloned().collect();
        names.sort();
        names
    }

    /// The topics of a cluster, sorted.
    pub fn topics_of_cluster(&self, cluster: &str) -> Vec<String> {
        let brokers = self.brokers.values().filter(|broker| broker.cluster == cluster);
        let topics: BTreeSet<&String> = brokers.flat_map(|broker| &broker.topics).collect();
        topics.into_iter().cloned().collect()
    }

    /// Takes a topic out of the routes, of one cluster or of all, and has the leaders that had it register in full: whoever
    /// still has it brings it back.
    pub fn forget_topic(&mut self, topic: &str, cluster: Option<&str>) {
        let Some(known) = self.topics.get(topic) else { return };
        let names: Vec<String> = known.queues.keys().cloned().collect();
        for name in names {
            let Some(broker) = self.brokers.get_mut(&name) else { continue };
            if cluster.is_none_or(|cluster| cluster == broker.cluster) {
                broker.topics.remove(topic);
                broker.incomplete = true;
                self.drop_queues(topic, &name);
            }
        }
    }

    fn check_bounds(&self, registration: &Registration) -> Result<(), RegisterRefused> {
        let key = registration.speaker.key();
        if !self.live.contains(&key) {
            if self.live.len() >= self.limits.members_max {
                let max = self.limits.members_max;
                return Err(RegisterRefused::Full { what: "broker addresses", max, key: "members_max" });
            }
            let members = self.brokers.get(&key.broker_name).map_or(0, |broker| broker.members.len());
            if members >= MEMBERS_PER_NAME_MAX {
                let max = MEMBERS_PER_NAME_MAX;
                return Err(RegisterRefused::Full {
                    what: "addresses of one broker name",
                    max,
                    key: "the number of names",
                });
            }
        }
        if registration.speaker.broker_id == 0 {
            let new = registration.topics.iter().filter(|(topic, _)| !self.topics.contains_key(topic)).count();
            if self.topics.len() + new > self.limits.topics_max {
                return Err(RegisterRefused::Full { what: "topics", max: self.limits.topics_max, key: "topics_max" });
            }
        }
        Ok(())
    }

    fn enter_leader(
        &mut self,
        speaker: Speaker,
        cluster: String,
        data_version: DataVersion,
    ) -> Result<bool, RegisterRefused> {
        let new = !self.brokers.contains_key(&speaker.broker_name);
        if new {
            // Tried on a copy first, so that a refusal leaves no empty entry behind.
            self.remembered(&speaker.broker_name).claim(&speaker.addr, speaker.epoch)?;
        }
        self.ensure_broker(&speaker.broker_name);
        let broker = self.brokers.get_mut(&speaker.broker_name).expect("just ensured");
        let taken = broker.leader.claim(&speaker.addr, speaker.epoch)?;
        let mut changed = new | taken.changed | std::mem::take(&mut broker.retiring);
        broker.cluster = cluster;
        let group = speaker.epoch.group;
        // Whoever was leader before has no id until it registers again; members of another group go with their leader.
        let gone: Vec<String> = broker
            .members
            .iter()
            .filter(|(addr, member)| taken.deposed.as_ref() == Some(*addr) || member.group != group)
            .map(|(addr, _)| addr.clone())
            .filter(|addr| *addr != speaker.addr)
            .collect();
        for addr in gone {
            broker.members.remove(&addr);
            self.live.remove(&MemberKey { broker_name: speaker.broker_name.clone(), addr });
            changed = true;
        }
        broker.members.insert(speaker.addr, Member { broker_id: 0, group, data_version });
        Ok(changed)
    }

    fn enter_follower(
        &mut self,
        speaker: Speaker,
        cluster: String,
        data_version: DataVersion,
    ) -> Result<bool, RegisterRefused> {
        let group = speaker.epoch.group;
        if let Some(broker) = self.brokers.get(&speaker.broker_name) {
            let owner = match broker.leader.holder() {
                Some(holder) => Some(holder.epoch.group),
                None => broker.members.values().next().map(|member| member.group),
            };
            let alone = broker.members.keys().all(|addr| *addr == speaker.addr);
            if let Some(held) = owner
                && held != group
                && !alone
            {
                return Err(RegisterRefused::OtherGroup { held: GroupName(held), claimed: GroupName(group) });
            }
        }
        if group.is_some()
            && let Some(broker) = self.brokers.get_mut(&speaker.broker_name)
            && broker.leader.holder().is_some_and(|holder| holder.addr == speaker.addr && holder.epoch.group == group)
        {
            return Ok(!std::mem::replace(&mut broker.retiring, true));
        }
        let new = !self.brokers.contains_key(&speaker.broker_name);
        self.ensure_broker(&speaker.broker_name);
        let broker = self.brokers.get_mut(&speaker.broker_name).expect("just ensured");
        broker.cluster = cluster;
        let mut changed = new | broker.leader.release(&speaker.addr);
        // An id names one address: a follower that moved replaces its former self. The leader's id in `members` is 0.
        let replaced = broker
            .members
            .iter()
            .find(|(addr, member)| member.broker_id == speaker.broker_id && **addr != speaker.addr)
            .map(|(addr, _)| addr.clone());
        if let Some(addr) = replaced {
            broker.members.remove(&addr);
            self.live.remove(&MemberKey { broker_name: speaker.broker_name.clone(), addr });
            changed = true;
        }
        let member = Member { broker_id: speaker.broker_id, group, data_version };
        let old = broker.members.insert(speaker.addr, member);
        Ok(changed || old.is_none_or(|old| old.broker_id != speaker.broker_id))
    }

    fn remembered(&self, broker_name: &str) -> LeaderSlot {
        LeaderSlot::remembering(self.last_terms.get(broker_name).copied())
    }

    fn ensure_broker(&mut self, broker_name: &str) {
        if !self.brokers.contains_key(broker_name) {
            let leader = self.remembered(broker_name);
            self.last_terms.remove(broker_name);
            self.brokers.insert(broker_name.to_owned(), Broker { leader, ..Broker::default() });
        }
    }

    fn replace_topics(&mut self, broker_name: &str, topics: Vec<(String, Queues)>, partial: bool) {
        let mut gone = BTreeSet::new();
        if let Some(broker) = self.brokers.get_mut(broker_name) {
            // Of an incomplete one, a partial registration was refused, unless it is an official broker's, which names all.
            broker.incomplete = false;
            if !partial {
                gone = std::mem::take(&mut broker.topics);
            }
        }
        for (name, queues) in topics {
            gone.remove(&name);
            let topic = self.topics.entry(name.clone()).or_default();
            if topic.queues.insert(broker_name.to_owned(), queues) != Some(queues) {
                topic.snapshot.take();
                self.generation += 1;
            }
            if let Some(broker) = self.brokers.get_mut(broker_name) {
                broker.topics.insert(name);
            }
        }
        for name in gone {
            self.drop_queues(&name, broker_name);
        }
    }

    fn drop_queues(&mut self, topic_name: &str, broker_name: &str) {
        let Some(topic) = self.topics.get_mut(topic_name) else { return };
        if topic.queues.remove(broker_name).is_some() {
            topic.snapshot.take();
            self.generation += 1;
        }
        if topic.queues.is_empty() {
            self.topics.remove(topic_name);
        }
    }

    /// Takes an address out of its name, and the name with its last address.
    fn drop_member(&mut self, key: &MemberKey) {
        let Some(broker) = self.brokers.get_mut(&key.broker_name) else { return };
        broker.members.remove(&key.addr);
        if broker.leader.release(&key.addr) {
            broker.retiring = false;
        }
        if broker.members.is_empty() {
            let topics = std::mem::take(&mut broker.topics);
            let highest = broker.leader.highest();
            for topic in topics {
                self.drop_queues(&topic, &key.broker_name);
            }
            self.brokers.remove(&key.broker_name);
            if let Some(highest) = highest {
                if self.last_terms.len() >= self.limits.members_max {
                    self.last_terms.pop_first();
                }
                self.last_terms.insert(key.broker_name.clone(), highest);
            }
            self.generation += 1;
        } else {
            self.broker_changed(&key.broker_name);
        }
    }

    /// Something that the routes of this broker name show has changed.
    fn broker_changed(&mut self, broker_name: &str) {
        self.generation += 1;
        let Some(broker) = self.brokers.get(broker_name) else { return };
        for topic in &broker.topics {
            if let Some(topic) = self.topics.get_mut(topic) {
                topic.snapshot.take();
            }
        }
    }
}

#[cfg(test)]
mod tests;

//! Members of consumer groups: who is there, what they subscribe to, and whom to tell when that changes.
//!
//! Filled by heartbeats on every replica, followers too, since a client that finds no leader pulls from them; emptied by
//! UNREGISTER_CLIENT, by the end of a connection and by silence. `handler/pull` reads subscriptions here, rebalancing clients read
//! the member list. It lives in memory only: what must survive a failover is in the log.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use ledgermq_protocol::consumer_list;
use ledgermq_protocol::heartbeat::{ConsumeFromWhere, ConsumeType, MessageModel, SubscriptionData, TYPE_TAG};
use ledgermq_protocol::remoting::command::{Language, RemotingCommand};
use ledgermq_protocol::remoting::headers::group::NotifyConsumerIdsChanged;
use ledgermq_protocol::remoting::request_code::RequestCode;
use parking_lot::Mutex;
use thiserror::Error;

use super::joined::JoinedGroups;
use crate::filter::{Filter, FilterError};
use crate::server::outbox::{Connection, Outgoing};

/// Silence after which a member is gone (clients send a heartbeat every 30 s).
pub const MEMBER_EXPIRY: Duration = Duration::from_secs(120);

/// Most live groups on one replica.
pub const GROUPS_MAX: usize = 100_000;

/// Most groups that one connection may join: a client process has a few.
pub const GROUPS_PER_CONNECTION_MAX: usize = 1_024;

/// Most topics that one group may subscribe to.
pub const SUBSCRIPTIONS_PER_GROUP_MAX: usize = 4_096;

/// Most memory that the expressions of one group take that are not tags, compiled and as text, in bytes. One of them takes less.
pub const EXPRESSIONS_PER_GROUP_BYTES_MAX: usize = 128 << 10;

/// Longest client id in bytes.
pub const CLIENT_ID_LEN_MAX: usize = 255;

/// Why a heartbeat was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum JoinError {
    /// Too many groups are live.
    #[error("{GROUPS_MAX} consumer groups are live on this broker, no more can join")]
    Groups,
    /// The connection is in too many groups.
    #[error("a connection may join {GROUPS_PER_CONNECTION_MAX} consumer groups")]
    GroupsOfConnection,
    /// The group subscribes to too much.
    #[error("a consumer group may subscribe to {SUBSCRIPTIONS_PER_GROUP_MAX} topics")]
    Subscriptions,
    /// The group's expressions are too large.
    #[error("the SQL92 expressions of a consumer group may take {EXPRESSIONS_PER_GROUP_BYTES_MAX} bytes")]
    Expressions,
}

/// What a group wants of a topic.
#[derive(Debug, Clone, PartialEq)]
pub struct Subscription {
    /// The expression as sent.
    pub expression: String,
    /// Its type as sent.
    pub expression_type: String,
    /// Which messages match, compiled once; or why a pull is refused.
    pub filter: Result<Arc<Filter>, FilterError>,
    /// Version, by the client's clock.
    pub version: i64,
}

impl Subscription {
    /// As it came in a heartbeat.
    pub(crate) fn data(&self, topic: &str) -> SubscriptionData {
        let by_tags = SubscriptionData::by_tags(topic, &self.expression, self.version);
        match by_tags {
            Ok(data) if self.expression_type == TYPE_TAG => data,
            _ => SubscriptionData {
                expression_type: self.expression_type.clone(),
                sub_string: self.expression.clone(),
                sub_version: self.version,
                topic: topic.to_owned(),
                ..SubscriptionData::default()
            },
        }
    }

    /// What counts towards [`EXPRESSIONS_PER_GROUP_BYTES_MAX`].
    fn expression_bytes(&self) -> usize {
        match self.filter.as_deref() {
            Ok(Filter::Tags(_)) => 0,
            Ok(Filter::Sql(sql)) => self.expression.len() + sql.bytes(),
            Err(_) => self.expression.len() + self.expression_type.len(),
        }
    }
}

/// How a group consumes, as its last heartbeat said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Consumption {
    /// Every member gets every message; offsets stay with the clients.
    pub broadcasting: bool,
    /// How its members get messages.
    pub consume_type: ConsumeType,
    /// Where it starts without an offset.
    pub from_where: ConsumeFromWhere,
}

/// The program behind a connection, as its last heartbeat said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientInfo {
    /// Its id, unique in the cluster.
    pub client_id: String,
    /// What it is written in.
    pub language: Language,
    /// Its version ordinal.
    pub version: i32,
}

impl ClientInfo {
    /// As tools are told of it.
    pub(crate) fn listed(&self, connection: &Connection) -> consumer_list::Connection {
        consumer_list::Connection {
            client_addr: connection.peer().to_string(),
            client_id: self.client_id.clone(),
            language: self.language.name().to_owned(),
            version: self.version,
        }
    }
}

/// What the table says to a pull without a subscription of its own.
#[derive(Debug, Clone, PartialEq)]
pub enum Lookup {
    /// No member of the group has sent a heartbeat here.
    NoGroup,
    /// The group does not subscribe to the topic.
    NotSubscribed,
    /// The subscription.
    Found(Subscription),
}

/// All groups of one replica.
#[derive(Debug, Default)]
pub struct ConsumerGroups {
    /// One lock: it is held for map operations and for putting notices into outboxes, neither of which waits.
    inner: Mutex<Inner>,
    notices: AtomicI32,
}

#[derive(Debug, Default)]
struct Inner {
    groups: HashMap<String, Group>,
    joined: JoinedGroups,
}

#[derive(Debug)]
struct Group {
    consumption: Consumption,
    subscriptions: HashMap<String, Subscription>,
    members: HashMap<u64, Member>,
    /// Whether the group's settings want members to be told of changes.
    notify: bool,
}

#[derive(Debug)]
struct Member {
    client: ClientInfo,
    connection: Arc<Connection>,
    heard_at: Instant,
}

/// One group of a heartbeat.
#[derive(Debug, Clone)]
pub struct Join<'a> {
    /// Group name.
    pub group: &'a str,
    /// The client.
    pub client: &'a ClientInfo,
    /// How it consumes.
    pub consumption: Consumption,
    /// Topic and subscription, all of them.
    pub subscriptions: Vec<(String, Subscription)>,
    /// Whether the group's settings want members to be told of changes.
    pub notify: bool,
}

impl ConsumerGroups {
    /// Takes a heartbeat of one group. When it brings a new member or another set of topics, all members are told at once.
    ///
    /// # Errors
    /// [`JoinError`] when a bound would be passed; nothing has changed then.
    pub fn join(&self, connection: &Arc<Connection>, join: Join<'_>, now: Instant) -> Result<(), JoinError> {
        if join.subscriptions.len() > SUBSCRIPTIONS_PER_GROUP_MAX {
            return Err(JoinError::Subscriptions);
        }
        let mut inner = self.inner.lock();
        match inner.groups.get(join.group) {
            None if inner.groups.len() >= GROUPS_MAX => return Err(JoinError::Groups),
            known if expression_bytes(known, &join.subscriptions) > EXPRESSIONS_PER_GROUP_BYTES_MAX => {
                return Err(JoinError::Expressions);
            }
            _ => {}
        }
        if !inner.joined.add(connection.id(), join.group, GROUPS_PER_CONNECTION_MAX) {
            return Err(JoinError::GroupsOfConnection);
        }
        let group = inner.groups.entry(join.group.to_owned()).or_insert_with(|| Group {
            consumption: join.consumption,
            subscriptions: HashMap::new(),
            members: HashMap::new(),
            notify: join.notify,
        });
        group.consumption = join.consumption;
        group.notify = join.notify;
        let member = Member { client: join.client.clone(), connection: Arc::clone(connection), heard_at: now };
        let old = group.members.insert(connection.id(), member);
        let is_new = old.is_none_or(|old| old.client.client_id != join.client.client_id);
        let other_topics = group.subscribe(join.subscriptions);
        if is_new || other_topics {
            self.tell(join.group, group);
        }
        drop(inner);
        // The end of the connection may have passed between the read of the request and here: then nobody else clears this.
        if connection.has_ended() {
            self.drop_connection(connection.id());
        }
        Ok(())
    }

    /// A client leaves a group; the others are told at once.
    pub fn leave(&self, connection: u64, group: &str) {
        let mut inner = self.inner.lock();
        inner.joined.forget(connection, group);
        self.remove(&mut inner, group, connection);
    }

    /// A connection has ended: its client leaves all its groups.
    pub fn drop_connection(&self, connection: u64) {
        let mut inner = self.inner.lock();
        for group in inner.joined.take(connection) {
            self.remove(&mut inner, &group, connection);
        }
    }

    /// Drops members that were silent for [`MEMBER_EXPIRY`].
    pub fn expire(&self, now: Instant) {
        let mut inner = self.inner.lock();
        let silent: Vec<(String, u64)> = inner
            .groups
            .iter()
            .flat_map(|(name, group)| {
                let silent = |member: &Member| now.saturating_duration_since(member.heard_at) > MEMBER_EXPIRY;
                group.members.iter().filter(move |(_, member)| silent(member)).map(|(id, _)| (name.clone(), *id))
            })
            .collect();
        for (group, connection) in silent {
            inner.joined.forget(connection, &group);
            self.remove(&mut inner, &group, connection);
        }
    }

    /// Client ids of a group's members, sorted; empty when there is no such group.
    pub fn client_ids(&self, group: &str) -> Vec<String> {
        let inner = self.inner.lock();
        let Some(group) = inner.groups.get(group) else { return Vec::new() };
        let mut ids: Vec<String> = group.members.values().map(|member| member.client.client_id.clone()).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// The subscription that a group's heartbeats brought for a topic, and whether the group is broadcasting.
    pub fn subscription(&self, group: &str, topic: &str) -> Lookup {
        let inner = self.inner.lock();
        let Some(group) = inner.groups.get(group) else { return Lookup::NoGroup };
        group.subscriptions.get(topic).cloned().map_or(Lookup::NotSubscribed, Lookup::Found)
    }

    /// The compiled form of an expression that a group is known to subscribe to a topic with, or why there is none; `None` when it is
    /// another one.
    pub fn compiled(
        &self,
        group: &str,
        topic: &str,
        expression_type: &str,
        expression: &str,
    ) -> Option<Result<Arc<Filter>, FilterError>> {
        let inner = self.inner.lock();
        let known = inner.groups.get(group)?.subscriptions.get(topic)?;
        let same = known.expression == expression && known.expression_type == expression_type;
        same.then(|| known.filter.clone())
    }

    /// Whether a live group is broadcasting; `None` without members here.
    pub fn consumption(&self, group: &str) -> Option<Consumption> {
        self.inner.lock().groups.get(group).map(|group| group.consumption)
    }

    /// Who is in a group, what it wants and how it consumes; `None` without members here.
    pub fn connections(&self, group: &str) -> Option<consumer_list::ConsumerConnection> {
        let inner = self.inner.lock();
        let group = inner.groups.get(group)?;
        let listed = |member: &Member| member.client.listed(&member.connection);
        let mut connection_set: Vec<_> = group.members.values().map(listed).collect();
        connection_set.sort_by(|a, b| (&a.client_id, &a.client_addr).cmp(&(&b.client_id, &b.client_addr)));
        let subscriptions = group.subscriptions.iter();
        Some(consumer_list::ConsumerConnection {
            connection_set,
            consume_from_where: group.consumption.from_where,
            consume_type: group.consumption.consume_type,
            message_model: if group.consumption.broadcasting {
                MessageModel::Broadcasting
            } else {
                MessageModel::Clustering
            },
            subscription_table: subscriptions.map(|(topic, wanted)| (topic.clone(), wanted.data(topic))).collect(),
        })
    }

    /// The members of a group, in the order in which they connected; none when there is no such group here.
    pub fn members(&self, group: &str) -> Vec<(ClientInfo, Arc<Connection>)> {
        let inner = self.inner.lock();
        let members = inner.groups.get(group).into_iter().flat_map(|group| group.members.values());
        let mut members: Vec<_> =
            members.map(|member| (member.client.clone(), Arc::clone(&member.connection))).collect();
        members.sort_by_key(|(_, connection)| connection.id());
        members
    }

    /// Whether a connection is that of a member of a group.
    pub fn is_member(&self, group: &str, connection: u64) -> bool {
        self.inner.lock().groups.get(group).is_some_and(|group| group.members.contains_key(&connection))
    }

    /// Names of the live groups that subscribe to a topic, sorted.
    pub fn subscribers(&self, topic: &str) -> Vec<String> {
        let inner = self.inner.lock();
        let subscribe = inner.groups.iter().filter(|(_, group)| group.subscriptions.contains_key(topic));
        let mut names: Vec<String> = subscribe.map(|(name, _)| name.clone()).collect();
        names.sort_unstable();
        names
    }

    /// Names of the live groups.
    pub fn names(&self) -> Vec<String> {
        self.inner.lock().groups.keys().cloned().collect()
    }

    /// Number of live groups.
    pub fn group_count(&self) -> usize {
        self.inner.lock().groups.len()
    }

    fn remove(&self, inner: &mut Inner, name: &str, connection: u64) {
        let Some(group) = inner.groups.get_mut(name) else { return };
        if group.members.remove(&connection).is_none() {
            return;
        }
        if group.members.is_empty() {
            inner.groups.remove(name);
        } else {
            self.tell(name, group);
        }
    }

    /// NOTIFY_CONSUMER_IDS_CHANGED to all members. A broadcasting group does not share queues, so nobody needs to know.
    fn tell(&self, name: &str, group: &Group) {
        if group.consumption.broadcasting || !group.notify {
            return;
        }
        for member in group.members.values() {
            let opaque = self.notices.fetch_add(1, Ordering::Relaxed);
            let header = NotifyConsumerIdsChanged { consumer_group: name.to_owned() };
            let notice = RemotingCommand::oneway(RequestCode::NOTIFY_CONSUMER_IDS_CHANGED, opaque).with_header(&header);
            member.connection.send(Outgoing::Command(notice));
        }
    }
}

/// What the expressions of a group take once it has taken over these subscriptions, at most.
fn expression_bytes(known: Option<&Group>, subscriptions: &[(String, Subscription)]) -> usize {
    let one = |(topic, subscription): &(String, Subscription)| {
        let kept = known.and_then(|group| group.subscriptions.get(topic));
        subscription.expression_bytes().max(kept.map_or(0, Subscription::expression_bytes))
    };
    subscriptions.iter().map(one).sum()
}

impl Group {
    /// Takes over a member's subscriptions; true when the set of topics is another one. An older version of a subscription does
    /// not replace a newer one: members of a group that is being changed speak in any order.
    fn subscribe(&mut self, subscriptions: Vec<(String, Subscription)>) -> bool {
        let before = self.subscriptions.len();
        self.subscriptions.retain(|topic, _| subscriptions.iter().any(|(wanted, _)| wanted == topic));
        let mut changed = self.subscriptions.len() != before;
        for (topic, subscription) in subscriptions {
            match self.subscriptions.get_mut(&topic) {
                Some(known) if subscription.version > known.version => *known = subscription,
                Some(_) => {}
                None => {
                    changed = true;
                    self.subscriptions.insert(topic, subscription);
                }
            }
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use ledgermq_protocol::message::tags::TagFilter;

    use super::*;

    fn connection(id: u64) -> Arc<Connection> {
        Connection::new(id, SocketAddr::from(([127, 0, 0, 1], 1)), 1 << 20)
    }

    fn client(client_id: &str) -> ClientInfo {
        ClientInfo { client_id: client_id.to_owned(), language: Language::Go, version: 5 }
    }

    fn join<'a>(client: &'a ClientInfo, topics: &[(&str, i64)]) -> Join<'a> {
        let subscription = |version| Subscription {
            expression: "*".to_owned(),
            expression_type: "TAG".to_owned(),
            filter: Ok(Arc::new(Filter::Tags(TagFilter::All))),
            version,
        };
        let consumption = Consumption {
            broadcasting: false,
            consume_type: ConsumeType::Passively,
            from_where: ConsumeFromWhere::FirstOffset,
        };
        Join {
            group: "g",
            client,
            consumption,
            subscriptions: topics
                .iter()
                .map(|(topic, version)| ((*topic).to_owned(), subscription(*version)))
                .collect(),
            notify: true,
        }
    }

    fn by_sql(expression: &str, version: i64) -> Subscription {
        Subscription {
            expression: expression.to_owned(),
            expression_type: "SQL92".to_owned(),
            filter: Filter::parse("SQL92", expression).map(Arc::new),
            version,
        }
    }

    fn notices(connection: &Connection) -> usize {
        connection.waiting()
    }

    /// Members must hear at once of each other's coming and going, or a dead member's queues stay unread for 20 s.
    #[test]
    fn members_are_told_when_others_come_and_go() {
        let groups = ConsumerGroups::default();
        let (a, b) = (connection(1), connection(2));
        let now = Instant::now();
        groups.join(&a, join(&client("a"), &[("T", 1)]), now).unwrap();
        assert_eq!(notices(&a), 1);
        groups.join(&a, join(&client("a"), &[("T", 1)]), now).unwrap();
        assert_eq!(notices(&a), 1, "nothing changed");
        groups.join(&b, join(&client("b"), &[("T", 1)]), now).unwrap();
        assert_eq!((notices(&a), notices(&b)), (2, 1));
        assert_eq!(groups.client_ids("g"), ["a", "b"]);
        groups.drop_connection(2);
        assert_eq!(notices(&a), 3);
        groups.leave(1, "g");
        assert_eq!(groups.client_ids("g"), [""; 0]);
        assert_eq!(groups.group_count(), 0);
    }

    /// What tools print of a group is what its members said of themselves.
    #[test]
    fn a_group_is_listed_with_its_members() {
        let groups = ConsumerGroups::default();
        groups.join(&connection(1), join(&client("a"), &[("T", 5)]), Instant::now()).unwrap();
        groups.join(&connection(2), join(&client("b"), &[("T", 5)]), Instant::now()).unwrap();
        let listed = groups.connections("g").unwrap();
        let of_a = &listed.connection_set[0];
        assert_eq!((of_a.client_id.as_str(), of_a.client_addr.as_str()), ("a", "127.0.0.1:1"));
        assert_eq!((of_a.language.as_str(), of_a.version, listed.connection_set.len()), ("GO", 5, 2));
        assert_eq!(listed.subscription_table["T"], SubscriptionData::by_tags("T", "*", 5).unwrap());
        assert_eq!((listed.consume_type, listed.message_model), (ConsumeType::Passively, MessageModel::Clustering));
        assert_eq!(listed.consume_from_where, ConsumeFromWhere::FirstOffset);
        assert_eq!((groups.subscribers("T"), groups.subscribers("U")), (vec!["g".to_owned()], Vec::new()));
        assert!(groups.connections("h").is_none());
        let data = by_sql("a > 1", 3).data("T");
        assert_eq!((data.expression_type.as_str(), data.sub_string.as_str(), data.sub_version), ("SQL92", "a > 1", 3));
    }

    /// A member that is silent must be dropped, others stay.
    #[test]
    fn silence_ends_a_membership() {
        let groups = ConsumerGroups::default();
        let (a, b) = (connection(1), connection(2));
        let start = Instant::now();
        groups.join(&a, join(&client("a"), &[("T", 1)]), start).unwrap();
        groups.join(&b, join(&client("b"), &[("T", 1)]), start + MEMBER_EXPIRY).unwrap();
        groups.expire(start + MEMBER_EXPIRY + Duration::from_millis(1));
        assert_eq!(groups.client_ids("g"), ["b"]);
        assert_eq!(groups.inner.lock().joined.connections(), 1);
    }

    /// Subscriptions follow the newest version, and topics that no heartbeat names any more are dropped.
    #[test]
    fn subscriptions_follow_the_newest_heartbeat() {
        let groups = ConsumerGroups::default();
        let a = connection(1);
        let now = Instant::now();
        assert_eq!(groups.subscription("g", "T"), Lookup::NoGroup);
        groups.join(&a, join(&client("a"), &[("T", 5), ("U", 5)]), now).unwrap();
        groups.join(&a, join(&client("a"), &[("T", 4)]), now).unwrap();
        assert!(matches!(groups.subscription("g", "T"), Lookup::Found(found) if found.version == 5));
        assert_eq!(groups.subscription("g", "U"), Lookup::NotSubscribed);
        groups.join(&a, join(&client("a"), &[("T", 6)]), now).unwrap();
        assert!(matches!(groups.subscription("g", "T"), Lookup::Found(found) if found.version == 6));
    }

    /// Heartbeats repeat their expressions every 30 s, and pulls may bring them: what is compiled must be found again. What a group's
    /// expressions take in all is bounded, also when they cannot be compiled.
    #[test]
    fn expressions_are_compiled_once_and_bounded() {
        let groups = ConsumerGroups::default();
        let a = connection(1);
        let client = client("a");
        let subscribe = |subscriptions: Vec<(String, Subscription)>| {
            groups.join(&a, Join { subscriptions, ..join(&client, &[]) }, Instant::now())
        };
        let compiled = |expression| groups.compiled("g", "T", "SQL92", expression);
        assert_eq!(compiled("a > 1"), None);
        let sql = by_sql("a > 1", 1);
        subscribe(vec![("T".to_owned(), sql.clone())]).unwrap();
        let known = compiled("a > 1").unwrap().unwrap();
        assert!(Arc::ptr_eq(&known, &sql.filter.unwrap()));
        assert_eq!(compiled("a > 2"), None);
        assert_eq!(groups.compiled("g", "T", "TAG", "a > 1"), None);
        subscribe(vec![("T".to_owned(), by_sql("a >", 2))]).unwrap();
        assert!(compiled("a >").unwrap().is_err(), "nor is what cannot be compiled tried again");

        let large = format!("a = '{}'", "x".repeat(8_000));
        for expression in [large.as_str(), &"x".repeat(30_000)] {
            let of_topics = |count| (0..count).map(|n| (format!("T{n}"), by_sql(expression, 1))).collect();
            subscribe(of_topics(4)).unwrap();
            assert_eq!(subscribe(of_topics(16)), Err(JoinError::Expressions));
            assert_eq!(groups.subscription("g", "T4"), Lookup::NotSubscribed, "nothing has changed");
        }
    }

    /// A heartbeat that is handled after its connection ended must not leave a member that nobody removes.
    #[test]
    fn a_closed_connection_leaves_no_member() {
        let groups = ConsumerGroups::default();
        let a = connection(1);
        a.close(crate::server::outbox::CloseReason::Peer);
        groups.join(&a, join(&client("a"), &[("T", 1)]), Instant::now()).unwrap();
        assert_eq!(groups.group_count(), 0);
    }

    /// A client that invents groups must not fill the memory.
    #[test]
    fn joining_is_bounded() {
        let groups = ConsumerGroups::default();
        let a = connection(1);
        let names: Vec<String> = (0..=GROUPS_PER_CONNECTION_MAX).map(|n| format!("g{n}")).collect();
        let client = client("a");
        let results: Vec<_> =
            names.iter().map(|group| groups.join(&a, Join { group, ..join(&client, &[]) }, Instant::now())).collect();
        assert!(results[..GROUPS_PER_CONNECTION_MAX].iter().all(Result::is_ok));
        assert_eq!(results[GROUPS_PER_CONNECTION_MAX], Err(JoinError::GroupsOfConnection));
        assert_eq!(groups.group_count(), GROUPS_PER_CONNECTION_MAX);
    }
}

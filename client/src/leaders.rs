//! Who leads each broker name, as far as this client knows: from routes, and from brokers that refuse and name the leader.
//!
//! Terms decide between them when both have one, so that a name server that lags cannot send the client back to a dead leader.
//! Also which addresses just failed: while one is suspected, other members are asked, which name the new leader or forward.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use ledgermq_protocol::route::{BrokerData, LEADER_ID};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

/// For how long an address that failed is asked only when there is no other.
const SUSPECT_FOR: Duration = Duration::from_millis(300);

/// For how long a higher term that nobody repeats outweighs a lower one: longer than a name server can lag behind (its brokers
/// expire after 10 s). Beyond it the lower term is the truth, for instance of a cluster that was made anew.
const TERM_HOLDS_FOR: Duration = Duration::from_secs(15);

/// Addresses remembered as suspected.
const SUSPECTS_MAX: usize = 1_024;

/// A leader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Leader {
    pub(crate) addr: String,
    /// The term, where one was told.
    pub(crate) term: Option<u64>,
}

#[derive(Debug)]
struct Known {
    leader: Option<Leader>,
    confirmed_at: Instant,
    /// All members by id, from the last route.
    members: Vec<String>,
}

/// The knowledge. Those who wait for a change of it subscribe.
#[derive(Debug)]
pub(crate) struct Leaders {
    known: Mutex<HashMap<String, Known>>,
    suspects: Mutex<HashMap<String, Instant>>,
    changes: watch::Sender<u64>,
}

impl Leaders {
    pub(crate) fn new() -> Self {
        Self { known: Mutex::default(), suspects: Mutex::default(), changes: watch::Sender::new(0) }
    }

    /// Wakes whenever a leader, or who the members are, changes.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// The leader of a broker name.
    pub(crate) fn leader(&self, broker_name: &str) -> Option<Leader> {
        self.known.lock().get(broker_name)?.leader.clone()
    }

    /// A route names these members, and its leader registered in `term`.
    pub(crate) fn learn_route(&self, broker: &BrokerData, term: Option<u64>) {
        let addr = broker.broker_addrs.get(&LEADER_ID).cloned();
        let leader = addr.map(|addr| Leader { addr, term });
        let mut known = self.known.lock();
        let now = Instant::now();
        let entry = known.entry(broker.broker_name.clone()).or_insert_with(|| Known {
            leader: None,
            confirmed_at: now,
            members: Vec::new(),
        });
        let members: Vec<String> = broker.broker_addrs.values().cloned().collect();
        if entry.members != members {
            entry.members = members;
            self.changed();
        }
        // Without a leader in the route, the one that is known is still the best guess.
        let Some(leader) = leader else { return };
        let outdated = match (&entry.leader, leader.term) {
            (Some(Leader { term: Some(held), .. }), Some(told)) => told < *held,
            // A name server that tells no terms says nothing about a hint that had one, for as long as that holds.
            (Some(held @ Leader { term: Some(_), .. }), None) => held.addr != leader.addr,
            _ => false,
        };
        if outdated && now.duration_since(entry.confirmed_at) < TERM_HOLDS_FOR {
            return;
        }
        entry.confirmed_at = now;
        self.replace(entry, leader);
    }

    /// A broker that does not lead names the leader it knows. Returns whether that is worth following: somebody else than is
    /// known, and not one that just failed in the same term.
    pub(crate) fn learn_hint(&self, broker_name: &str, leader: Leader) -> bool {
        let mut known = self.known.lock();
        let Some(entry) = known.get_mut(broker_name) else { return false };
        let held_term = entry.leader.as_ref().and_then(|held| held.term);
        let is_older = matches!((held_term, leader.term), (Some(held), Some(told)) if told < held);
        let is_news = leader.term > held_term;
        if is_older || (!is_news && self.is_suspect(&leader.addr)) {
            return false;
        }
        if is_news {
            self.suspects.lock().remove(&leader.addr);
        }
        entry.confirmed_at = Instant::now();
        // A hint without a term keeps the one that is known, so that a route of that term can replace it.
        let term = leader.term.or(held_term);
        self.replace(entry, Leader { addr: leader.addr, term })
    }

    fn replace(&self, entry: &mut Known, leader: Leader) -> bool {
        let moved = entry.leader.as_ref().is_none_or(|held| held.addr != leader.addr);
        if entry.leader.as_ref() != Some(&leader) {
            entry.leader = Some(leader);
            self.changed();
        }
        moved
    }

    fn changed(&self) {
        self.changes.send_modify(|generation| *generation += 1);
    }

    /// The addresses of all broker names that are known: their leaders, or all members.
    pub(crate) fn addresses(&self, all_members: bool) -> BTreeSet<String> {
        let known = self.known.lock();
        let mut addresses = BTreeSet::new();
        for entry in known.values() {
            addresses.extend(entry.leader.iter().map(|leader| leader.addr.clone()));
            if all_members {
                addresses.extend(entry.members.iter().cloned());
            }
        }
        addresses
    }

    /// The address to ask next: the leader, or another member while the leader is suspected. `attempt` spreads over the others.
    pub(crate) fn choose(&self, broker_name: &str, attempt: u32) -> Option<String> {
        let known = self.known.lock();
        let entry = known.get(broker_name)?;
        let leader = entry.leader.as_ref().map(|leader| leader.addr.as_str());
        if let Some(leader) = leader
            && !self.is_suspect(leader)
        {
            return Some(leader.to_owned());
        }
        let others: Vec<&str> = entry
            .members
            .iter()
            .map(String::as_str)
            .filter(|addr| Some(*addr) != leader && !self.is_suspect(addr))
            .collect();
        if others.is_empty() {
            return leader.or(entry.members.first().map(String::as_str)).map(str::to_owned);
        }
        Some(others[attempt as usize % others.len()].to_owned())
    }

    /// No answer came from `addr`.
    pub(crate) fn suspect(&self, addr: &str) {
        let mut suspects = self.suspects.lock();
        let now = Instant::now();
        if suspects.len() >= SUSPECTS_MAX {
            suspects.retain(|_, until| *until > now);
        }
        if suspects.len() < SUSPECTS_MAX {
            suspects.insert(addr.to_owned(), now + SUSPECT_FOR);
        }
    }

    /// An answer came from `addr`.
    pub(crate) fn trust(&self, addr: &str) {
        let mut suspects = self.suspects.lock();
        if !suspects.is_empty() {
            suspects.remove(addr);
        }
    }

    fn is_suspect(&self, addr: &str) -> bool {
        self.suspects.lock().get(addr).is_some_and(|until| *until > Instant::now())
    }

    /// Ends once another leader than `addr` is known for the broker name.
    pub(crate) async fn moved_away(&self, broker_name: &str, addr: &str) {
        let mut changes = self.changes();
        loop {
            changes.mark_unchanged();
            if self.leader(broker_name).is_some_and(|leader| leader.addr != addr) {
                return;
            }
            // The sender lives as long as this structure.
            if changes.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(leader: Option<&str>, others: &[&str]) -> BrokerData {
        let mut broker = BrokerData { broker_name: "broker-a".to_owned(), ..BrokerData::default() };
        broker.broker_addrs.extend(leader.map(|addr| (0, addr.to_owned())));
        broker.broker_addrs.extend(others.iter().zip(1..).map(|(addr, id)| (id, (*addr).to_owned())));
        broker
    }

    fn hint(addr: &str, term: u64) -> Leader {
        Leader { addr: addr.to_owned(), term: Some(term) }
    }

    fn addr(leaders: &Leaders) -> Option<String> {
        leaders.leader("broker-a").map(|leader| leader.addr)
    }

    /// A name server that lags must not send the client back to the leader that it has just left.
    #[tokio::test(start_paused = true)]
    async fn terms_decide_between_route_and_hint() {
        let leaders = Leaders::new();
        leaders.learn_route(&route(Some("a:1"), &["b:1", "c:1"]), Some(4));
        assert!(leaders.learn_hint("broker-a", hint("b:1", 5)));
        leaders.learn_route(&route(Some("a:1"), &["b:1", "c:1"]), Some(4));
        assert_eq!(addr(&leaders).as_deref(), Some("b:1"));
        leaders.learn_route(&route(Some("a:1"), &[]), None);
        assert_eq!(addr(&leaders).as_deref(), Some("b:1"));
        assert!(!leaders.learn_hint("broker-a", hint("a:1", 4)), "nor a broker that lags");
        leaders.learn_route(&route(Some("c:1"), &["b:1"]), Some(6));
        assert_eq!(addr(&leaders).as_deref(), Some("c:1"));
    }

    /// A cluster that was made anew begins with term 1: memory of the old one must fade.
    #[tokio::test(start_paused = true)]
    async fn an_unconfirmed_term_fades() {
        let leaders = Leaders::new();
        leaders.learn_route(&route(Some("a:1"), &[]), Some(40));
        leaders.learn_route(&route(Some("b:1"), &[]), Some(1));
        assert_eq!(addr(&leaders).as_deref(), Some("a:1"));
        tokio::time::advance(TERM_HOLDS_FOR).await;
        leaders.learn_route(&route(Some("b:1"), &[]), Some(1));
        assert_eq!(addr(&leaders).as_deref(), Some("b:1"));
    }

    /// Followers that have not noticed the death yet name the dead: that hint must not be followed, nor the dead be asked while
    /// somebody else can be.
    #[tokio::test(start_paused = true)]
    async fn the_others_are_asked_while_the_leader_is_suspected() {
        let leaders = Leaders::new();
        leaders.learn_route(&route(Some("a:1"), &["b:1", "c:1"]), Some(4));
        assert_eq!(leaders.choose("broker-a", 0).as_deref(), Some("a:1"));
        leaders.suspect("a:1");
        assert_eq!(leaders.choose("broker-a", 0).as_deref(), Some("b:1"));
        assert_eq!(leaders.choose("broker-a", 1).as_deref(), Some("c:1"));
        assert!(!leaders.learn_hint("broker-a", hint("a:1", 4)));
        leaders.suspect("b:1");
        leaders.suspect("c:1");
        assert_eq!(leaders.choose("broker-a", 0).as_deref(), Some("a:1"), "when all failed, the leader again");
        assert!(leaders.learn_hint("broker-a", hint("b:1", 5)), "a new term is worth a try at once");
        assert_eq!(leaders.choose("broker-a", 0).as_deref(), Some("b:1"));
    }

    /// A route without id 0 (brokers of Apache RocketMQ during a change) must not make the client forget whom to ask.
    #[tokio::test(start_paused = true)]
    async fn a_route_without_a_leader_keeps_the_known_one() {
        let leaders = Leaders::new();
        assert_eq!(leaders.choose("broker-a", 0), None);
        leaders.learn_route(&route(Some("a:1"), &[]), None);
        leaders.learn_route(&route(None, &["b:1"]), None);
        assert_eq!(leaders.choose("broker-a", 0).as_deref(), Some("a:1"));
        leaders.learn_route(&route(Some("b:1"), &[]), None);
        assert_eq!(leaders.choose("broker-a", 0).as_deref(), Some("b:1"));
    }
}

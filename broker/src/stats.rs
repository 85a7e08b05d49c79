//! How much goes through a replica: messages stored per topic, messages handed out per topic and group, and both over all.
//!
//! What is stored needs no counting: the queue offsets of a topic say it, alike on every replica, so the figures outlive a change
//! of leader. What is handed out is counted by `handler/pull` where it happens. A timer takes samples of both; figures are
//! differences to them. Read by VIEW_BROKER_STATS_DATA, GET_TOPIC_STATS_INFO, GET_CONSUME_STATS and GET_BROKER_RUNTIME_INFO.
//! All of it lives in memory and begins with the process.

mod series;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ledgermq_protocol::stats::BrokerStatsData;
use parking_lot::{Mutex, RwLock};

pub use series::{SAMPLE_INTERVAL_MS, Series};

use crate::tables::{Tables, Topic, TopicKey};

/// Most pairs of topic and group that are counted; what is handed out to further ones counts over all only.
pub const PAIRS_MAX: usize = 65_536;

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// Counts of one replica.
#[derive(Debug)]
pub struct Stats {
    stored: Mutex<Stored>,
    /// Read on every pull that finds something; written when a pair is new.
    handed: RwLock<Handed>,
    /// Messages handed out.
    messages: AtomicU64,
    /// Pulls that found something, and pulls that did not.
    found: AtomicU64,
    missed: AtomicU64,
}

/// When something is looked at.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// Milliseconds on a clock that never goes back, for differences.
    pub monotone_ms: u64,
    /// Milliseconds since 1970, for days.
    pub wall_ms: i64,
}

/// Messages per second over the last 10 s, minute and 10 minutes.
pub type Rates = [f64; 3];

/// Figures over all.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Overall {
    /// Messages stored.
    pub put: Count,
    /// Messages handed out.
    pub got: Count,
    /// Messages stored per second.
    pub put_rates: Rates,
    /// Messages handed out per second.
    pub got_rates: Rates,
    /// Pulls per second that found something.
    pub found_rates: Rates,
    /// Pulls per second that found nothing.
    pub missed_rates: Rates,
}

/// A count since the start of the process, and as it was when the last two days began (UTC).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// Now.
    pub now: u64,
    /// At the begin of this day; 0 when the process was not there.
    pub today_morning: u64,
    /// At the begin of the day before; 0 when the process was not there.
    pub yesterday_morning: u64,
}

#[derive(Debug)]
struct Stored {
    /// Topics with messages.
    topics: HashMap<TopicKey, TopicCount>,
    /// Messages of all topics, also of those that are gone.
    put: Count,
    got: Count,
    /// Day of the mornings above, since 1970.
    day: i64,
    over_all: OverAll,
    /// When the topics were last looked at.
    looked_at_ms: u64,
}

#[derive(Debug)]
struct TopicCount {
    count: u64,
    series: Series,
}

#[derive(Debug)]
struct OverAll {
    put: Series,
    got: Series,
    found: Series,
    missed: Series,
}

#[derive(Debug, Default)]
struct Handed {
    /// By group, then topic.
    groups: HashMap<Arc<str>, HashMap<TopicKey, Pair>>,
    len: usize,
}

#[derive(Debug)]
struct Pair {
    count: AtomicU64,
    series: Mutex<Series>,
}

impl Stats {
    /// Begins to count: what the topics hold already was there before.
    pub fn new(tables: &Tables, now: Now) -> Self {
        let series = || Series::new(now.monotone_ms, 0);
        let mut stored = Stored {
            topics: HashMap::new(),
            put: Count::default(),
            got: Count::default(),
            day: now.wall_ms.div_euclid(DAY_MS),
            over_all: OverAll { put: series(), got: series(), found: series(), missed: series() },
            looked_at_ms: now.monotone_ms,
        };
        stored.look(tables, now, true);
        Self {
            stored: Mutex::new(stored),
            handed: RwLock::default(),
            messages: AtomicU64::new(0),
            found: AtomicU64::new(0),
            missed: AtomicU64::new(0),
        }
    }

    /// A pull was answered with so many messages of a topic; 0 for none.
    pub fn handed_out(&self, group: &str, topic: &TopicKey, messages: u64, now_ms: u64) {
        if messages == 0 {
            self.missed.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.found.fetch_add(1, Ordering::Relaxed);
        self.messages.fetch_add(messages, Ordering::Relaxed);
        if let Some(pair) = self.handed.read().get(group, topic) {
            pair.count.fetch_add(messages, Ordering::Relaxed);
            return;
        }
        let mut handed = self.handed.write();
        if handed.len >= PAIRS_MAX && handed.get(group, topic).is_none() {
            return;
        }
        let Handed { groups, len } = &mut *handed;
        let pair = groups.entry(group.into()).or_default().entry(topic.clone()).or_insert_with(|| {
            *len += 1;
            Pair { count: AtomicU64::new(0), series: Mutex::new(Series::new(now_ms, 0)) }
        });
        pair.count.fetch_add(messages, Ordering::Relaxed);
    }

    /// Takes samples; to be called every [`SAMPLE_INTERVAL_MS`]. Walks over all queues: not for a thread that must not wait.
    pub fn sample(&self, tables: &Tables, now: Now) {
        let mut stored = self.stored.lock();
        stored.look(tables, now, false);
        self.turn_day(&mut stored, now);
        let put = stored.put.now;
        for topic in stored.topics.values_mut() {
            topic.series.sample(now.monotone_ms, topic.count);
        }
        let all = &mut stored.over_all;
        all.put.sample(now.monotone_ms, put);
        all.got.sample(now.monotone_ms, self.messages.load(Ordering::Relaxed));
        all.found.sample(now.monotone_ms, self.found.load(Ordering::Relaxed));
        all.missed.sample(now.monotone_ms, self.missed.load(Ordering::Relaxed));
        drop(stored);
        let mut handed = self.handed.write();
        handed.retain(|topic| tables.topic(&topic.name).is_some_and(|there| there.key() == topic));
        for pair in handed.groups.values().flat_map(HashMap::values) {
            pair.series.lock().sample(now.monotone_ms, pair.count.load(Ordering::Relaxed));
        }
    }

    /// Messages stored in a topic.
    pub fn stored(&self, topic: &Topic, now_ms: u64) -> BrokerStatsData {
        let count = topic.messages();
        let stored = self.stored.lock();
        match stored.topics.get(topic.key()) {
            Some(known) => known.series.figures(now_ms, count),
            // It had no messages when last looked at, or was not there.
            None => Series::new(stored.looked_at_ms, 0).figures(now_ms, count),
        }
    }

    /// Messages of a topic handed to a group; `None` when there were none.
    pub fn handed(&self, group: &str, topic: &TopicKey, now_ms: u64) -> Option<BrokerStatsData> {
        let handed = self.handed.read();
        let pair = handed.get(group, topic)?;
        let figures = pair.series.lock().figures(now_ms, pair.count.load(Ordering::Relaxed));
        Some(figures)
    }

    /// Messages stored in all topics.
    pub fn all_stored(&self, tables: &Tables, now: Now) -> BrokerStatsData {
        let mut stored = self.stored.lock();
        stored.look(tables, now, false);
        stored.over_all.put.figures(now.monotone_ms, stored.put.now)
    }

    /// Messages handed out, of all topics.
    pub fn all_handed(&self, now_ms: u64) -> BrokerStatsData {
        self.stored.lock().over_all.got.figures(now_ms, self.messages.load(Ordering::Relaxed))
    }

    /// Everything over all. Walks over all queues: not for a thread that must not wait.
    pub fn overall(&self, tables: &Tables, now: Now) -> Overall {
        let mut stored = self.stored.lock();
        stored.look(tables, now, false);
        self.turn_day(&mut stored, now);
        let rates = |series: &Series, count: u64| {
            [10_000, 60_000, 600_000].map(|over_ms| series.rate(now.monotone_ms, count, over_ms))
        };
        let all = &stored.over_all;
        Overall {
            put: stored.put,
            got: stored.got,
            put_rates: rates(&all.put, stored.put.now),
            got_rates: rates(&all.got, stored.got.now),
            found_rates: rates(&all.found, self.found.load(Ordering::Relaxed)),
            missed_rates: rates(&all.missed, self.missed.load(Ordering::Relaxed)),
        }
    }

    fn turn_day(&self, stored: &mut Stored, now: Now) {
        stored.got.now = self.messages.load(Ordering::Relaxed);
        let day = now.wall_ms.div_euclid(DAY_MS);
        if day <= stored.day {
            return;
        }
        let days = day - stored.day;
        stored.day = day;
        for count in [&mut stored.put, &mut stored.got] {
            count.yesterday_morning = if days == 1 { count.today_morning } else { count.now };
            count.today_morning = count.now;
        }
    }
}

impl Stored {
    /// Looks how many messages each topic has now. `first`: what is there was there before.
    fn look(&mut self, tables: &Tables, now: Now, first: bool) {
        let topics = tables.topics();
        let (mut grown, mut seen) = (0, 0);
        for topic in &topics {
            let count = topic.messages();
            if count == 0 {
                continue;
            }
            seen += 1;
            let (at_ms, before) = if first { (now.monotone_ms, count) } else { (self.looked_at_ms, 0) };
            let known = self.topics.entry(topic.key().clone());
            let known = known.or_insert_with(|| TopicCount { count: before, series: Series::new(at_ms, before) });
            grown += count.saturating_sub(known.count);
            known.count = count;
        }
        if seen < self.topics.len() {
            self.topics.retain(|key, _| tables.topic(&key.name).is_some_and(|there| there.key() == key));
        }
        self.put.now += grown;
        self.looked_at_ms = now.monotone_ms;
    }
}

impl Handed {
    fn get(&self, group: &str, topic: &TopicKey) -> Option<&Pair> {
        self.groups.get(group)?.get(topic)
    }

    fn retain(&mut self, keep: impl Fn(&TopicKey) -> bool) {
        let mut len = 0;
        self.groups.retain(|_, pairs| {
            pairs.retain(|topic, _| keep(topic));
            len += pairs.len();
            !pairs.is_empty()
        });
        self.len = len;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::harness::{Log, from_template, new_machine, send};
    use crate::command::{Command, DeleteTopic};
    use crate::stamp::Item;

    fn at(seconds: u64) -> Now {
        Now { monotone_ms: seconds * 1000, wall_ms: (seconds * 1000) as i64 }
    }

    /// What is shown of a topic is what was stored since the process began, and a deletion takes nothing from the sums.
    #[test]
    fn stored_messages_are_told_by_queue_offsets() {
        let mut machine = new_machine();
        let mut log = Log::born(&mut machine);
        log.propose(vec![send("Old", 0, &["1", "2"], "", from_template(2))]);
        log.apply_all(&mut machine);
        let tables = machine.tables();
        let stats = Stats::new(&tables, at(0));
        log.propose(vec![
            send("Old", 1, &["3"], "", from_template(2)),
            send("New", 0, &["1", "2", "3", "4"], "", from_template(2)),
        ]);
        log.apply_all(&mut machine);
        let sum = |topic: &str, now| stats.stored(&tables.topic(topic).unwrap(), at(now).monotone_ms).stats_minute.sum;
        assert_eq!((sum("Old", 2), sum("New", 2), sum("TBW102", 2)), (1, 4, 0));
        stats.sample(&tables, at(10));
        assert_eq!((sum("Old", 12), sum("New", 12)), (1, 4));
        assert_eq!(stats.all_stored(&tables, at(12)).stats_minute.sum, 5);

        log.propose(vec![Item::Command(Command::DeleteTopic(DeleteTopic { topic: "New".into() }))]);
        log.propose(vec![send("New", 0, &["1"], "", from_template(2))]);
        log.apply_all(&mut machine);
        assert_eq!(sum("New", 13), 1, "of the new topic");
        let overall = stats.overall(&tables, at(20));
        assert_eq!(overall.put.now, 6);
        assert!((overall.put_rates[0] - 0.1).abs() < 1e-9, "{overall:?}");
        assert_eq!(stats.stored.lock().topics.len(), 2);
    }

    /// What is handed out is counted for its group and topic, and over all; a topic that is gone is forgotten.
    #[test]
    fn handed_out_messages_are_counted() {
        let mut machine = new_machine();
        let mut log = Log::born(&mut machine);
        log.propose(vec![send("T", 0, &["1"], "", from_template(2))]);
        log.apply_all(&mut machine);
        let tables = machine.tables();
        let stats = Stats::new(&tables, at(0));
        let topic = tables.topic("T").unwrap();
        stats.handed_out("g", topic.key(), 3, 1000);
        stats.handed_out("g", topic.key(), 2, 1500);
        stats.handed_out("g", topic.key(), 0, 1500);
        stats.handed_out("h", topic.key(), 1, 1500);
        let sum = |group: &str| stats.handed(group, topic.key(), 2000).map(|figures| figures.stats_day.sum);
        assert_eq!((sum("g"), sum("h"), sum("i")), (Some(5), Some(1), None));
        assert_eq!(stats.all_handed(2000).stats_minute.sum, 6);
        let overall = stats.overall(&tables, at(10));
        assert_eq!(overall.got, Count { now: 6, ..Count::default() });
        assert!((overall.found_rates[0] - 0.3).abs() < 1e-9 && (overall.missed_rates[0] - 0.1).abs() < 1e-9);
        log.propose(vec![Item::Command(Command::DeleteTopic(DeleteTopic { topic: "T".into() }))]);
        log.apply_all(&mut machine);
        stats.sample(&tables, at(20));
        assert_eq!((sum("g"), stats.handed.read().len), (None, 0));
    }

    /// Yesterday's and today's messages must not be mixed up when a day ends.
    #[test]
    fn days_begin_at_midnight() {
        let mut machine = new_machine();
        let mut log = Log::born(&mut machine);
        let tables = machine.tables();
        let day = 24 * 60 * 60;
        let stats = Stats::new(&tables, at(day - 100));
        for (seconds, expected) in [
            (day - 50, Count { now: 1, today_morning: 0, yesterday_morning: 0 }),
            (day + 50, Count { now: 2, today_morning: 2, yesterday_morning: 0 }),
            (2 * day + 50, Count { now: 3, today_morning: 3, yesterday_morning: 2 }),
            (2 * day + 60, Count { now: 4, today_morning: 3, yesterday_morning: 2 }),
            (9 * day, Count { now: 5, today_morning: 5, yesterday_morning: 5 }),
        ] {
            log.propose(vec![send("T", 0, &["1"], "", from_template(1))]);
            log.apply_all(&mut machine);
            stats.sample(&tables, at(seconds));
            assert_eq!(stats.overall(&tables, at(seconds)).put, expected);
        }
    }
}

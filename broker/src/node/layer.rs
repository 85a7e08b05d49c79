//! What a group is on this node before and while its log is opened: the state machine, the stamper, and what they share with
//! the handlers.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ledgermq_dledger::fs::{Fs, OsFs};
use ledgermq_dledger::group::{Flush, GroupTuning};
use ledgermq_dledger::log::{LogView, Meta};
use ledgermq_dledger::{GroupId, GroupSetup, MemberAddress};
use ledgermq_protocol::names;
use parking_lot::Mutex;

use super::StartError;
use crate::apply::{BrokerMachine, ConsumeQueues, KeyIndex, MachineConfig, OpenError, TimerRows};
use crate::command::{Genesis, GroupSettings, Member, PutSubscriptionGroup, PutTopic, TopicSettings, perm};
use crate::config::{BrokerConfig, FlushMode, GroupConfig, MemberConfig};
use crate::consumer::long_poll::ParkedPulls;
use crate::consumer::wake::{Waker, Woken};
use crate::handler::pull::ParkedPull;
use crate::server::ticket::{Answers, Ticket};
use crate::stamp::BrokerStamper;
use crate::store::{Kv, RocksBudget, RocksKv};
use crate::tables::Tables;

/// Queues of the template for automatically created topics: RocketMQ's own number.
const AUTO_CREATE_QUEUES: u32 = 8;

/// Ticks after which the preferred leader stands for election when all start together: well before the others, which give a
/// leader 12 to 20.
const PREFERRED_CAMPAIGN_TICKS: Range<usize> = 2..5;

/// What the layer above of a group hands out while it is opened.
#[derive(Clone)]
pub(super) struct Opened {
    pub(super) tables: Arc<Tables>,
    pub(super) queues: ConsumeQueues,
    pub(super) keys: KeyIndex,
    pub(super) timers: TimerRows,
}

/// What is made for a group before its log is opened.
pub(super) struct Parts {
    pub(super) pulls: Arc<ParkedPulls<ParkedPull>>,
    pub(super) woken: Woken,
    pub(super) opened: SharedOpened,
}

/// Where [`Opened`] lies once a layer is open. A state that is ahead of its log is opened a second time, empty.
pub(super) type SharedOpened = Arc<Mutex<Option<Opened>>>;

/// A group as the log takes it.
type Setup = GroupSetup<BrokerStamper<Ticket>, BrokerMachine>;

/// Prepares a group: nothing is opened yet.
pub(super) fn set_up(config: &BrokerConfig, group: &GroupConfig, budget: &RocksBudget) -> (Setup, Parts) {
    let pulls = Arc::new(ParkedPulls::new(config.limits.parked_pulls_max));
    let (waker, woken) = Waker::new(Arc::clone(&pulls));
    let opened = SharedOpened::default();
    let dir = config.data_dir.join(&group.name);
    let layer = Layer {
        dir: dir.clone(),
        config: config.clone(),
        group: group.clone(),
        budget: budget.clone(),
        waker,
        opened: Arc::clone(&opened),
    };
    let address = |member: &MemberConfig| MemberAddress {
        raft_id: member.raft_id,
        peer: member.raft.clone(),
        client: member.broker.clone(),
    };
    let setup = GroupSetup {
        group: GroupId(group.id),
        dir,
        members: group.members.iter().map(address).collect(),
        tuning: GroupTuning {
            flush: match group.flush.unwrap_or(config.flush) {
                FlushMode::Sync => Flush::Sync,
                FlushMode::Async => Flush::Async,
            },
            first_campaign_ticks: (group.preferred_leader == Some(group.raft_id)).then_some(PREFERRED_CAMPAIGN_TICKS),
            lag_hold_bytes: config.lag_hold_bytes,
            lag_hold: Duration::from_millis(config.lag_hold_ms),
            snapshot_linger: Duration::from_millis(config.snapshot_linger_ms),
            ..GroupTuning::default()
        },
        completions: Box::new(Answers::default()),
        layer: Box::new(move |meta, log| layer.open(meta, log)),
    };
    (setup, Parts { pulls, woken, opened })
}

/// Why the state cannot be opened.
#[derive(Debug, thiserror::Error)]
enum StateError {
    #[error("cannot create {}: {source}", path.display())]
    Folder { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Open(#[from] OpenError),
}

impl StateError {
    fn is_damage(&self) -> bool {
        matches!(self, StateError::Open(OpenError::Store(error)) if error.is_damage())
    }
}

struct Layer {
    dir: PathBuf,
    config: BrokerConfig,
    group: GroupConfig,
    budget: RocksBudget,
    waker: Waker,
    opened: SharedOpened,
}

impl Layer {
    fn open(&self, meta: &Meta, log: &LogView) -> Result<(BrokerStamper<Ticket>, BrokerMachine), String> {
        let found = meta.identity.raft_id;
        if found != self.group.raft_id {
            let (path, group, wanted) = (self.dir.clone(), self.group.name.clone(), self.group.raft_id);
            return Err(StartError::Foreign { path, group, found, wanted }.to_string());
        }
        let generation = self.dir.join(format!("gen-{}", meta.generation));
        let mut machine = match self.open_state(&generation) {
            Err(error) if error.is_damage() && meta.first.index == 1 => {
                tracing::error!(group = %self.group.name, %error, "the state is damaged: it is made anew from the log");
                let failed = |error| format!("cannot remove {}: {error}", generation.display());
                let aside = self.put_aside(&generation).map_err(failed)?;
                OsFs.remove_dir_all(&aside).map_err(failed)?;
                self.open_state(&generation)
            }
            // Kept: should the other members be lost as well, something may be got out of it.
            Err(error) if error.is_damage() && self.group.members.len() > 1 => {
                let failed = |error| format!("cannot move {}: {error}", generation.display());
                let aside = self.put_aside(&generation).map_err(failed)?;
                tracing::error!(group = %self.group.name, %error, aside = %aside.display(), "the state is damaged, and the log has given up its first entries: another member's state is taken");
                self.open_state(&generation)
            }
            opened => opened,
        }
        .map_err(|error| match error.is_damage() {
            true => format!(
                "{error}; the state cannot be made anew from the log, which has given up its first entries, and the group has no other \
                 member: check the disk, then put a copy of {} back",
                generation.display()
            ),
            false => error.to_string(),
        })?;
        machine.observe(Box::new(self.waker.clone()));
        let budget = self.budget.clone();
        machine.reopen_with(Box::new(move |dir| {
            let kv = RocksKv::open(&dir.join("kv"), &budget)?;
            Ok((Arc::new(kv) as Arc<dyn Kv>, MachineConfig::new(dir.join("cq"))))
        }));
        let genesis = genesis(&self.config, &self.group, meta);
        let payload_max = meta.constants.layout().max_payload_len();
        let stamper = BrokerStamper::new(machine.tables(), genesis, payload_max).with_log(log.clone());
        let opened = Opened {
            tables: machine.tables(),
            queues: machine.queues(),
            keys: machine.key_index(),
            timers: machine.timers(),
        };
        *self.opened.lock() = Some(opened);
        Ok((stamper, machine))
    }

    fn open_state(&self, generation: &Path) -> Result<BrokerMachine, StateError> {
        let fs: Arc<dyn Fs> = Arc::new(OsFs);
        let failed = |source| StateError::Folder { path: generation.to_owned(), source };
        fs.create_dir_all(generation).map_err(failed)?;
        fs.sync_dir(&self.dir).map_err(failed)?;
        let kv = RocksKv::open(&generation.join("kv"), &self.budget).map_err(OpenError::Store)?;
        Ok(BrokerMachine::open(fs, Arc::new(kv), &MachineConfig::new(generation.join("cq")))?)
    }

    /// Gives a damaged state another name, in the place of one that was damaged before, and returns it.
    fn put_aside(&self, generation: &Path) -> std::io::Result<PathBuf> {
        let aside = generation.with_extension("damaged");
        if OsFs.try_exists(&aside)? {
            OsFs.remove_dir_all(&aside)?;
        }
        OsFs.rename(generation, &aside)?;
        OsFs.sync_dir(&self.dir)?;
        Ok(aside)
    }
}

/// What a group is born with: its constants, the template of automatically created topics, the topics of message traces and of
/// replies, so that clients find a route to them, and the group of RocketMQ's tools. SELF_TEST_TOPIC is there as a second one where
/// the template is hidden: an official name server refuses a first registration with exactly one.
fn genesis(config: &BrokerConfig, group: &GroupConfig, meta: &Meta) -> Genesis {
    let topic = |name: &str, queues, perm| PutTopic {
        topic: name.to_owned(),
        settings: TopicSettings { perm, ..TopicSettings::plain(queues) },
        replace: false,
    };
    let mut topics = vec![
        topic(names::AUTO_CREATE_TOPIC, AUTO_CREATE_QUEUES, perm::READ | perm::WRITE | perm::INHERIT),
        topic("SELF_TEST_TOPIC", 1, perm::READ | perm::WRITE),
        topic(names::TRACE_TOPIC, 1, perm::READ | perm::WRITE),
        topic(&names::reply_topic(&config.cluster), 1, perm::READ | perm::WRITE),
    ];
    // A cluster's name may be as long as a topic's.
    topics.retain(|put| names::check_topic(&put.topic).is_ok());
    let member = |member: &MemberConfig| Member {
        raft_id: member.raft_id,
        replica_id: member.replica.as_bytes().to_vec().into(),
        raft_address: member.raft.clone(),
        broker_address: member.broker.clone(),
    };
    Genesis {
        group_id: group.id.as_bytes().to_vec().into(),
        cluster: config.cluster.clone(),
        broker_name: group.name.clone(),
        segment_size: meta.constants.segment_size,
        log_format: meta.constants.format,
        members: group.members.iter().map(member).collect(),
        topics,
        groups: vec![PutSubscriptionGroup {
            group: names::TOOLS_CONSUMER_GROUP.to_owned(),
            settings: GroupSettings::standard(),
            replace: false,
        }],
    }
}

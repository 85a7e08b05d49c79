//! Copies of applied state for replicas that lie behind the log, and taking one over.
//!
//! ```text
//! flush --> kv/ (the store's own copy: hard links)   cq/ (hard links: files grow, but what counts of them stays as it is)
//! restore: the store is opened in the new folder, and everybody who holds tables, queues or the key index sees the new ones
//! ```

use std::path::Path;
use std::sync::Arc;

use ledgermq_dledger::{ApplyError, CheckpointFile};

use super::UNIT_LEN;
use super::live::LiveTopic;
use super::machine::{BrokerMachine, MachineConfig, queue_failed, store_failed};
use super::round::Round;
use crate::store::{Kv, KvError};

/// Folder of the store in a state folder.
const KV_DIR: &str = "kv";
/// Folder of the ConsumeQueues in it.
const QUEUES_DIR: &str = "cq";

/// Opens the store in a state folder, and says how the machine keeps what it derives there.
pub type Reopen = Box<dyn Fn(&Path) -> Result<(Arc<dyn Kv>, MachineConfig), KvError> + Send>;

impl BrokerMachine {
    /// How a snapshot's state is opened; without it none can be taken.
    pub fn reopen_with(&mut self, reopen: Reopen) {
        self.reopen = Some(reopen);
    }

    pub(super) fn make_checkpoint(&mut self, dir: &Path) -> Result<Vec<CheckpointFile>, ApplyError> {
        let at = self.position;
        let names =
            self.kv.checkpoint(&*self.queues.fs(), &dir.join(KV_DIR)).map_err(|error| store_failed(at, &error))?;
        let in_kv = |(name, size)| CheckpointFile { name: format!("{KV_DIR}/{name}"), from: 0, size };
        let mut files: Vec<CheckpointFile> = names.into_iter().map(in_kv).collect();
        let to = dir.join(QUEUES_DIR);
        let mut topics: Vec<&LiveTopic> = self.live.topics.values().collect();
        topics.sort_unstable_by(|one, other| one.topic.key().cmp(other.topic.key()));
        for live in topics {
            for (queue, (min, next)) in live.min.iter().zip(&live.next).enumerate() {
                if min == next {
                    continue;
                }
                let linked = self.queues.link(live.topic.key(), queue as u32, &to);
                let name = linked.map_err(|error| queue_failed(at, &error))?;
                files.push(CheckpointFile {
                    name: format!("{QUEUES_DIR}/{name}"),
                    from: min * UNIT_LEN as u64,
                    size: next * UNIT_LEN as u64,
                });
            }
        }
        Ok(files)
    }

    pub(super) fn take_over(&mut self, dir: &Path) -> Result<(), ApplyError> {
        let at = self.position;
        let failed = |reason: String| ApplyError::Store { index: at, place: dir.display().to_string(), reason };
        let reopen = self.reopen.as_ref().ok_or_else(|| failed("this machine takes no snapshots".to_owned()))?;
        let (kv, config) = reopen(dir).map_err(|error| store_failed(at, &error))?;
        let fresh = Self::open(self.queues.fs(), kv, &config).map_err(|error| failed(error.to_string()))?;
        let BrokerMachine { kv, index, tables, live, applied, queues_synced, position, last_frame, released, .. } =
            fresh;
        self.queues.move_to(config.queues_dir);
        self.index.take_over(index);
        self.tables.take_over(&tables);
        self.timers.move_to(Arc::clone(&kv));
        self.kv = kv;
        self.live = live;
        self.applied = applied;
        (self.queues_synced, self.position, self.last_frame) = (queues_synced, position, last_frame);
        self.released = released;
        self.touched.clear();
        self.dropped.clear();
        self.raised.clear();
        self.raised_before = 0;
        self.unflushed_bytes = 0;
        self.batch.clear();
        if let Some(observer) = &mut self.observer {
            let topics = self.tables.topics().into_iter().map(|topic| topic.key().clone()).collect();
            let groups = self.tables.groups().into_iter().map(|(group, _)| group).collect();
            observer.applied(&Round { applied: self.applied.at, topics, groups, ..Round::default() });
        }
        Ok(())
    }
}

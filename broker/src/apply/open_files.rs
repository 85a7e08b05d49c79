//! A bounded number of open ConsumeQueue files, shared by apply and the readers.

use std::collections::HashMap;
use std::sync::Arc;

use ledgermq_dledger::fs::File;

use crate::tables::TopicKey;

type FileKey = (TopicKey, u32);

/// The files used last. Dropping one here closes it once nobody reads it any more.
pub(super) struct OpenFiles {
    files: HashMap<FileKey, (Arc<dyn File>, u64)>,
    /// Counts uses: what was used longest ago is closed first.
    clock: u64,
    max: usize,
}

impl OpenFiles {
    /// At most `max` files, but at least one.
    pub(super) fn new(max: usize) -> Self {
        OpenFiles { files: HashMap::new(), clock: 0, max: max.max(1) }
    }

    pub(super) fn get(&mut self, key: &FileKey) -> Option<Arc<dyn File>> {
        self.clock += 1;
        let (file, used) = self.files.get_mut(key)?;
        *used = self.clock;
        Some(file.clone())
    }

    pub(super) fn put(&mut self, key: FileKey, file: Arc<dyn File>) {
        if self.files.len() >= self.max {
            self.close_oldest();
        }
        self.files.insert(key, (file, self.clock));
    }

    /// An eighth at a time, so that finding the oldest costs little per file.
    fn close_oldest(&mut self) {
        let mut uses: Vec<u64> = self.files.values().map(|(_, used)| *used).collect();
        let nth = (self.max / 8).min(uses.len() - 1);
        let (_, &mut border, _) = uses.select_nth_unstable(nth);
        self.files.retain(|_, (_, used)| *used > border);
    }

    pub(super) fn close_topic(&mut self, topic: &TopicKey) {
        self.files.retain(|(of, _), _| of != topic);
    }

    pub(super) fn close_all(&mut self) {
        self.files.clear();
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.files.len()
    }
}

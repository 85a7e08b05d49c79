//! A snapshot takes the place of the log (R8).

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use super::LogWriter;
use crate::log::meta::Meta;
use crate::log::segment::Segment;
use crate::snapshot::{Staged, install};
use crate::types::LogPos;

impl LogWriter {
    /// Everything of the snapshot is durable in `snap/take`. One write of the meta file decides; then its files move to their
    /// places, and the old log is gone.
    pub(super) fn install(&mut self, staged: &Staged) -> io::Result<()> {
        let manifest = &staged.manifest;
        // The old log is what a crash before the switch finds.
        self.sync_segments()?;
        assert!(manifest.constants == self.meta.constants, "a snapshot of another group");
        (self.tail, self.durable, self.stale_until) = (manifest.tail, manifest.tail, LogPos(0));
        self.hint_wanted = None;
        self.unsealed.clear();
        self.meta = Meta {
            first: manifest.first,
            generation: self.meta.generation + 1,
            installing: true,
            commit_hint: manifest.tail.index,
            ..self.meta.clone()
        };
        self.store(self.meta.clone(), false)?;
        install::move_in(&self.fs, &self.dir, &self.meta)?;
        self.meta.installing = false;
        self.store(self.meta.clone(), true)?;

        let segments = staged
            .recovered
            .segments
            .iter()
            .map(|(base, file)| Ok((*base, Arc::new(Segment::new(&self.dir, *base, &self.layout, file.clone())?))));
        self.segments = segments.collect::<io::Result<BTreeMap<_, _>>>()?;
        let (segments, index) = (self.segments.clone(), staged.recovered.index.clone());
        self.view.replace(manifest.first, segments, index, manifest.tail.end());
        self.complete_idx()
    }
}

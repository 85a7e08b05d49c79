//! The one writer of a group's log, owned by the log-io thread.
//!
//! It keeps the order that recovery relies on: term and vote first, then the truncate mark, then frames, then one
//! `fdatasync` per touched segment (R2). Several [`LogWriter::write`]s may share one [`LogWriter::sync`]. After any
//! error it refuses all further work: nothing is retried, the process must end.

mod install;
mod job;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use super::costs::LogCounters;
use super::doubts::Doubts;
use super::frame::{Blank, HEADER_LEN, Layout, PAGE, blank_header};
use super::meta::{FirstFrame, Meta, MetaFile};
use super::recovery::{Recovered, TORN_JOB_SPAN, TailState};
use super::segment::{IDX_SUFFIX, LOG_DIR, NEW_SUFFIX, Segment, SegmentSupply, idx_path, parse_segment_name};
use super::view::LogView;
use crate::fs::{Fs, OpenMode};
use crate::plant::{self, Bug};
use crate::types::{FramePos, LogPos};

pub use job::{FrameBytes, MetaWrite, WriteJob};

/// Zeros to write: blanks, page ends, cut headers.
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

/// The writer.
pub struct LogWriter {
    fs: Arc<dyn Fs>,
    dir: PathBuf,
    layout: Layout,
    meta_file: MetaFile,
    /// As stored last.
    meta: Meta,
    /// A commit hint that was above the durable index when it came; stored once the log has been synced.
    hint_wanted: Option<u64>,
    segments: BTreeMap<LogPos, Arc<Segment>>,
    supply: SegmentSupply,
    view: LogView,
    /// Last frame written.
    tail: FramePos,
    /// Last frame synced.
    durable: FramePos,
    /// Frames of truncated suffixes may lie between the tail and here.
    stale_until: LogPos,
    /// Segments written to since the last sync.
    dirty: BTreeSet<LogPos>,
    /// Full segments without an index file; written after the next sync.
    unsealed: BTreeSet<LogPos>,
    counters: Arc<LogCounters>,
    /// What went wrong; everything after it is refused.
    failed: Option<String>,
}

impl LogWriter {
    /// Takes over a recovered log: puts right what [`Recovered::mend`] names, and stores `meta` (both slots) with
    /// `durable` at the tail. `meta` is what [`MetaFile::open`] returned, changed to what the caller wants from now on:
    /// term, vote, boot id, `clean_shutdown` false.
    pub fn open(
        fs: &Arc<dyn Fs>,
        dir: &Path,
        meta_file: MetaFile,
        meta: Meta,
        recovered: Recovered,
        supply: SegmentSupply,
    ) -> io::Result<LogWriter> {
        let layout = meta.constants.layout();
        let Recovered { tail, index, segments, mend, tail_state, .. } = recovered;
        let segments: BTreeMap<LogPos, Arc<Segment>> = segments
            .into_iter()
            .map(|(base, file)| Ok((base, Arc::new(Segment::new(dir, base, &layout, file)?))))
            .collect::<io::Result<_>>()?;
        let view = LogView::new(dir, layout, meta.first, segments.clone(), index, tail.end());
        let mut writer = LogWriter {
            fs: fs.clone(),
            dir: dir.to_owned(),
            layout,
            meta_file,
            stale_until: meta.stale_until,
            durable: meta.durable,
            meta,
            hint_wanted: None,
            segments,
            supply,
            view,
            tail,
            dirty: BTreeSet::new(),
            unsealed: BTreeSet::new(),
            counters: Arc::default(),
            failed: None,
        };
        if matches!(tail_state, TailState::TornJob | TailState::Hole) {
            // Before the bytes that raised the doubt are gone, and in both slots: rot in one must not bring a vote back.
            writer.meta.doubts |= Doubts::SUSPECT_TAIL;
            writer.meta_file.store_both(&writer.meta)?;
        }
        if let Some((pos, len)) = mend.zero {
            writer.write_zeros(pos, len)?;
        }
        for blank in mend.blanks {
            let head = blank_header(blank);
            let head = head.as_ref().map_or(&[][..], |head| &head[..]);
            writer.write_zeros(blank.0 + head.len() as u64, blank.1 - head.len() as u64)?;
            writer.write_at(blank.0, &[head])?;
        }
        writer.sync_segments()?;
        writer.durable = tail;
        // Behind a hole more frames may lie than were zeroed: they must not look like evidence again.
        let files_end = writer.segments.last_key_value().map_or(LogPos(0), |(base, _)| *base + layout.segment_size);
        writer.stale_until = if tail_state == TailState::Hole { files_end } else { LogPos(0) };
        writer.drop_idx(layout.base_of(tail.end()))?;
        writer.complete_idx()?;
        writer.store(writer.meta.clone(), true)?;
        // A crash may have come between the mark of a removal and its end.
        writer.drop_files_before(layout.base_of(writer.meta.first.pos))?;
        Ok(writer)
    }

    /// The read side. Sees frames once they are synced.
    pub fn view(&self) -> LogView {
        self.view.clone()
    }

    /// Last frame written.
    pub fn tail(&self) -> FramePos {
        self.tail
    }

    /// Last frame synced.
    pub fn durable(&self) -> FramePos {
        self.durable
    }

    /// What the log has cost since it was opened.
    pub fn counters(&self) -> Arc<LogCounters> {
        Arc::clone(&self.counters)
    }

    /// The meta content as stored last.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Writes a job; durable only after [`LogWriter::sync`], but for its meta part, which is durable at once.
    ///
    /// # Panics
    /// When the frames do not follow the tail: whoever made their headers was wrong, and nothing may reach the disk.
    pub fn write(&mut self, job: &WriteJob) -> io::Result<()> {
        self.guarded(|writer| {
            if let Some(MetaWrite { meta, both_slots }) = &job.meta {
                let mut meta = meta.clone();
                if let Some(cut) = &job.truncate_to {
                    // Stored before the cut: a commit index of the new suffix must not cover the old one.
                    meta.commit_hint = meta.commit_hint.min(cut.index);
                }
                writer.put_meta(&meta, *both_slots)?;
            }
            if let Some(cut) = &job.truncate_to {
                writer.truncate(cut)?;
            }
            if let Some(staged) = &job.install {
                writer.install(staged)?;
            }
            writer.append(&job.frames)?;
            writer.rewrite(&job.rewrite, job.reblank)
        })
    }

    /// Shows everything written to readers without waiting for a sync; returns the last frame. For groups that answer from
    /// the page cache: a later [`LogWriter::sync`] makes it durable.
    pub fn publish_written(&mut self) -> FramePos {
        self.view.publish(self.tail.end());
        self.tail
    }

    /// Bytes of log that are written and not synced.
    pub fn unsynced_bytes(&self) -> u64 {
        self.tail.end().0 - self.durable.end().0
    }

    /// Makes everything written durable; returns the last durable frame.
    pub fn sync(&mut self) -> io::Result<FramePos> {
        self.guarded(|writer| {
            writer.sync_frames()?;
            Ok(writer.durable)
        })
    }

    /// Removes everything before `first`, which begins a segment. First the meta file says so, in both slots, synced; then
    /// the files go. A start after a crash in between ends the work. Does nothing when the log begins there or later.
    ///
    /// # Panics
    /// When the frame before `first` is not written: recovery would have nothing to begin from.
    pub fn remove_before(&mut self, first: FirstFrame) -> io::Result<()> {
        self.guarded(|writer| {
            if first.pos <= writer.meta.first.pos {
                return Ok(());
            }
            if first.pos > writer.durable.pos {
                // An asynchronous group counts what is written; the new beginning must be on the disk.
                writer.sync_frames()?;
            }
            assert!(
                writer.layout.base_of(first.pos) == first.pos
                    && first.index <= writer.durable.index
                    && first.pos <= writer.durable.pos,
                "the log that is durable up to {:?} cannot begin at {first:?}",
                writer.durable
            );
            if plant::on(Bug::PrefixMarkSkipped) {
                writer.drop_files_before(first.pos)?;
            }
            writer.meta.first = first;
            writer.store(writer.meta.clone(), true)?;
            writer.view.remove_before(first);
            let kept = writer.segments.split_off(&first.pos);
            let retired = std::mem::replace(&mut writer.segments, kept);
            writer.dirty = writer.dirty.split_off(&first.pos);
            writer.unsealed = writer.unsealed.split_off(&first.pos);
            if !plant::on(Bug::PrefixMarkSkipped) {
                for segment in retired.into_values() {
                    writer.supply.retire(segment)?;
                }
            }
            writer.drop_files_before(first.pos)?;
            writer.fs.sync_dir(&writer.dir.join(LOG_DIR))
        })
    }

    /// Stores meta outside of a job (hints), with `durable` and `stale_until` filled in and the hint cut as in a job.
    pub fn store_meta(&mut self, meta: &Meta, both_slots: bool) -> io::Result<()> {
        self.guarded(|writer| writer.put_meta(meta, both_slots))
    }

    /// Syncs, and stores `meta` marked as cleanly shut down.
    pub fn close(mut self, meta: &Meta) -> io::Result<()> {
        self.guarded(|writer| {
            writer.sync_frames()?;
            writer.put_meta(&Meta { clean_shutdown: true, ..meta.clone() }, true)
        })
    }

    fn guarded<T>(&mut self, work: impl FnOnce(&mut LogWriter) -> io::Result<T>) -> io::Result<T> {
        if let Some(failed) = &self.failed {
            return Err(io::Error::other(format!("the log writer of {} failed before: {failed}", self.dir.display())));
        }
        let result = work(self);
        if let Err(error) = &result {
            self.failed = Some(error.to_string());
        }
        result
    }

    /// Stores meta that came from outside.
    fn put_meta(&mut self, meta: &Meta, both_slots: bool) -> io::Result<()> {
        assert!(
            meta.identity == self.meta.identity && meta.constants == self.meta.constants,
            "meta of another replica: {:?}, here lives {:?}",
            meta.identity,
            self.meta.identity
        );
        self.hint_wanted = (meta.commit_hint > self.durable.index).then_some(meta.commit_hint);
        self.store(meta.clone(), both_slots)
    }

    /// Stores meta with what the writer alone knows: nothing in it may be ahead of the durable log (R3).
    fn store(&mut self, mut meta: Meta, both_slots: bool) -> io::Result<()> {
        meta.durable = self.durable;
        meta.stale_until = self.stale_until;
        // A job may have been made before the one that moved them.
        (meta.first, meta.installing) = (self.meta.first, self.meta.installing);
        meta.generation = meta.generation.max(self.meta.generation);
        if !plant::on(Bug::CommitHintAhead) {
            meta.commit_hint = meta.commit_hint.min(self.durable.index);
        }
        if both_slots {
            self.meta_file.store_both(&meta)?;
        } else {
            self.meta_file.store(&meta)?;
        }
        self.counters.meta_synced(if both_slots { 2 } else { 1 });
        self.meta = meta;
        Ok(())
    }

    /// Drops every frame behind `cut`.
    fn truncate(&mut self, cut: &FramePos) -> io::Result<()> {
        if *cut == self.tail {
            return Ok(());
        }
        assert!(
            cut.index < self.tail.index && cut.index + 1 >= self.meta.first.index,
            "cannot cut the log that ends with {:?} behind {cut:?}",
            self.tail
        );
        // Nothing of an earlier job may still be on its way when its bytes are written over.
        self.sync_frames()?;
        let old_end = self.tail.end();
        self.view.truncate(cut);
        self.tail = *cut;
        self.durable = *cut;
        self.stale_until = self.stale_until.max(old_end);
        self.unsealed.retain(|&base| base < self.layout.base_of(cut.end()));
        if !plant::on(Bug::TruncateMarkSkipped) {
            self.store(self.meta.clone(), true)?;
            self.drop_idx(self.layout.base_of(cut.end()))?;
        }
        self.zero_headers_behind(cut, old_end)
    }

    /// Zeros the header of the frame that followed `cut`: at its end, or at the next base.
    fn zero_headers_behind(&mut self, cut: &FramePos, old_end: LogPos) -> io::Result<()> {
        let end = cut.end();
        let room = self.layout.room(end);
        let next_base = end + room;
        if self.segments.contains_key(&self.layout.base_of(end)) {
            self.write_zeros(end, room.min(HEADER_LEN as u64))?;
        }
        if room < self.layout.segment_size && next_base < old_end {
            self.write_zeros(next_base, HEADER_LEN as u64)?;
        }
        Ok(())
    }

    /// Writes frames behind the tail: one `pwritev` per segment, ending with zeros up to the page's end so that a
    /// recycled segment's last page need not be read first. The zeros move no position.
    fn append(&mut self, frames: &[FrameBytes]) -> io::Result<()> {
        if !frames.is_empty() {
            let bytes = frames.iter().map(|frame| u64::from(frame.at.len)).sum();
            self.counters.wrote(frames.len() as u64, bytes);
        }
        let mut rest = frames;
        while !rest.is_empty() {
            let fitting = self.fitting(rest);
            if fitting == 0 {
                self.sync_frames()?;
                continue;
            }
            let (now, later) = rest.split_at(fitting);
            self.append_span(now)?;
            rest = later;
        }
        Ok(())
    }

    /// Writes frames over themselves: what rot has taken from them comes back. Those of segments that were removed meanwhile
    /// are not missed.
    fn rewrite(&mut self, frames: &[FrameBytes], blank: Option<Blank>) -> io::Result<()> {
        let kept = |pos: LogPos| self.segments.contains_key(&self.layout.base_of(pos));
        if !frames.iter().all(|frame| kept(frame.at.pos)) || !blank.is_none_or(|(pos, _)| kept(pos)) {
            return Ok(());
        }
        for frame in frames {
            assert!(
                frame.at.end() <= self.tail.end(),
                "{:?} is no part of the log that ends with {:?}",
                frame.at,
                self.tail
            );
            self.write_at(frame.at.pos, &[&frame.header, &frame.payload, &ZEROS[..frame.pad_len() as usize]])?;
        }
        if let Some((pos, len)) = blank {
            let head = blank_header((pos, len));
            let head = head.as_ref().map_or(&[][..], |head| &head[..]);
            self.write_zeros(pos + head.len() as u64, len - head.len() as u64)?;
            self.write_at(pos, &[head])?;
        }
        Ok(())
    }

    /// How many of `frames` may be written before a sync: the unsynced part of the log, blanks included, spans at most
    /// [`TORN_JOB_SPAN`] unless it is a single frame, which can leave no hole.
    fn fitting(&self, frames: &[FrameBytes]) -> usize {
        let begin = self.durable.end();
        let within = frames.iter().take_while(|frame| frame.at.end().0 - begin.0 <= TORN_JOB_SPAN).count();
        if within == 0 && self.dirty.is_empty() { 1 } else { within }
    }

    fn append_span(&mut self, frames: &[FrameBytes]) -> io::Result<()> {
        let mut run: Vec<&[u8]> = Vec::with_capacity(frames.len() * 3 + 1);
        let mut run_at = frames[0].blank.map_or(frames[0].at.pos, |(pos, _)| pos);
        let mut tail = self.tail;
        let blanks: Vec<Option<[u8; HEADER_LEN]>> =
            frames.iter().map(|frame| frame.blank.and_then(blank_header)).collect();
        for (frame, blank_head) in frames.iter().zip(&blanks) {
            frame.check_follows(&self.layout, &tail);
            if let Some((_, len)) = frame.blank {
                let head = blank_head.as_ref().map_or(&[][..], |head| &head[..]);
                run.push(head);
                push_zeros(&mut run, len - head.len() as u64);
            }
            if self.layout.base_of(run_at) != self.layout.base_of(frame.at.pos) {
                self.write_at(run_at, &run)?;
                run.clear();
                run_at = frame.at.pos;
            }
            if self.layout.base_of(frame.at.pos) == frame.at.pos {
                self.enter_segment(frame.at.pos)?;
            }
            run.push(&frame.header);
            run.push(&frame.payload);
            push_zeros(&mut run, frame.pad_len());
            tail = frame.at;
        }
        push_zeros(&mut run, tail.end().0.next_multiple_of(PAGE) - tail.end().0);
        self.write_at(run_at, &run)?;
        self.view.add_frames(self.tail, frames.iter().map(|frame| frame.at));
        self.tail = tail;
        self.supply.reached(tail.end().0 - self.layout.base_of(tail.pos).0);
        Ok(())
    }

    /// Makes sure that the segment with this base exists, and seals the one before it after the next sync.
    fn enter_segment(&mut self, base: LogPos) -> io::Result<()> {
        if base > self.layout.base_of(self.meta.first.pos) {
            self.unsealed.insert(LogPos(base.0 - self.layout.segment_size));
        }
        if !self.segments.contains_key(&base) {
            let segment = Arc::new(self.supply.create(&self.dir, base)?);
            self.segments.insert(base, segment.clone());
            self.view.add_segment(segment);
        }
        Ok(())
    }

    fn write_at(&mut self, pos: LogPos, bufs: &[&[u8]]) -> io::Result<()> {
        let base = self.layout.base_of(pos);
        let segment = self.segments.get(&base).expect("a segment is entered before it is written");
        self.dirty.insert(base);
        segment.file.write_at(bufs, pos.0 - base.0)
    }

    /// Zeros a range, which may reach over several segments.
    fn write_zeros(&mut self, pos: LogPos, len: u64) -> io::Result<()> {
        let mut at = pos;
        let end = pos + len;
        while at < end {
            let part = (end.0 - at.0).min(self.layout.room(at)).min(ZEROS.len() as u64);
            self.write_at(at, &[&ZEROS[..part as usize]])?;
            at = at + part;
        }
        Ok(())
    }

    fn sync_segments(&mut self) -> io::Result<()> {
        for base in &self.dirty {
            let begun = Instant::now();
            self.segments[base].file.sync_data()?;
            self.counters.synced(begun.elapsed());
        }
        self.dirty.clear();
        Ok(())
    }

    /// Syncs what was written, publishes it, and does what had to wait for that: commit hint, index files.
    fn sync_frames(&mut self) -> io::Result<()> {
        self.sync_segments()?;
        self.durable = self.tail;
        self.view.publish(self.durable.end());
        let overwritten = self.stale_until.0 != 0 && self.stale_until <= self.durable.end();
        if overwritten {
            self.stale_until = LogPos(0);
        }
        let hint = self.hint_wanted.filter(|wanted| self.durable.index.min(*wanted) > self.meta.commit_hint);
        if overwritten || hint.is_some() {
            let commit_hint = hint.unwrap_or(self.meta.commit_hint);
            self.store(Meta { commit_hint, ..self.meta.clone() }, false)?;
        }
        self.seal()
    }

    /// Writes the index files of full segments. They are not synced: they can be rebuilt, and a checksum guards them.
    fn seal(&mut self) -> io::Result<()> {
        let tail_base = self.layout.base_of(self.durable.pos);
        while let Some(base) = self.unsealed.first().copied().filter(|&base| base < tail_base) {
            self.write_idx(base)?;
            self.unsealed.remove(&base);
        }
        Ok(())
    }

    fn write_idx(&self, base: LogPos) -> io::Result<()> {
        let Some(bytes) = self.view.encode_idx(base) else { return Ok(()) };
        let path = idx_path(&self.dir, base);
        let mut new = path.clone().into_os_string();
        new.push(NEW_SUFFIX);
        let new = PathBuf::from(new);
        if self.fs.try_exists(&new)? {
            self.fs.remove_file(&new)?;
        }
        self.fs.open(&new, OpenMode::CreateNew)?.write_at(&[&bytes], 0)?;
        self.fs.rename(&new, &path)
    }

    /// Removes the index files from this base on, durably.
    fn drop_idx(&self, from: LogPos) -> io::Result<()> {
        let log_dir = self.dir.join(LOG_DIR);
        let mut dropped = false;
        for name in self.fs.list(&log_dir)? {
            let base = name.strip_suffix(IDX_SUFFIX).and_then(parse_segment_name);
            if base.is_some_and(|base| base >= from) {
                self.fs.remove_file(&log_dir.join(name))?;
                dropped = true;
            }
        }
        if dropped { self.fs.sync_dir(&log_dir) } else { Ok(()) }
    }

    /// Removes the segments and index files in front of this base, durably (R5).
    fn drop_files_before(&self, base: LogPos) -> io::Result<()> {
        let log_dir = self.dir.join(LOG_DIR);
        let mut dropped = false;
        for name in self.fs.list(&log_dir)? {
            let of = parse_segment_name(name.strip_suffix(IDX_SUFFIX).unwrap_or(&name));
            if of.is_some_and(|of| of < base) {
                self.fs.remove_file(&log_dir.join(name))?;
                dropped = true;
            }
        }
        if dropped { self.fs.sync_dir(&log_dir) } else { Ok(()) }
    }

    /// After a recovery: writes the index file of each full segment that has none, or another one.
    fn complete_idx(&self) -> io::Result<()> {
        let tail_base = self.layout.base_of(self.tail.end());
        for &base in self.segments.keys().take_while(|&&base| base < tail_base) {
            let Some(wanted) = self.view.encode_idx(base) else { continue };
            let path = idx_path(&self.dir, base);
            let present = if self.fs.try_exists(&path)? {
                let file = self.fs.open(&path, OpenMode::Read)?;
                let mut bytes = vec![0; wanted.len() + 1];
                let read = file.read_at(&mut bytes, 0)?;
                bytes.truncate(read);
                bytes
            } else {
                Vec::new()
            };
            if present != wanted {
                self.write_idx(base)?;
            }
        }
        Ok(())
    }
}

/// Appends `len` zero bytes to a vectored write.
fn push_zeros(run: &mut Vec<&[u8]>, mut len: u64) {
    while len > 0 {
        let part = len.min(ZEROS.len() as u64);
        run.push(&ZEROS[..part as usize]);
        len -= part;
    }
}

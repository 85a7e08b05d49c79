//! The switch from the old state to a snapshot, and what a start finds of one.
//!
//! One write of the meta file decides ([`crate::log::LogWriter`] makes it): first frame, durable frame and generation are those
//! of the snapshot from then on, and `installing` says that the files are still in `snap/take`. [`move_in`] brings them to their
//! places. It may be interrupted anywhere and begin again: a file is in the one place or in the other.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::{GIVE_DIR, SNAP_DIR, STATE_DIR, TAKE_DIR, generation_name, take};
use crate::fs::Fs;
use crate::log::meta::Meta;
use crate::log::segment::{IDX_SUFFIX, LOG_DIR, parse_segment_name};

/// Brings the files of the snapshot that `meta` names to their places; everything durable when it returns.
pub(crate) fn move_in(fs: &Arc<dyn Fs>, dir: &Path, meta: &Meta) -> io::Result<()> {
    let snap = dir.join(SNAP_DIR);
    let taken = snap.join(TAKE_DIR);
    let another = || take::left_over(fs, dir).is_some_and(|manifest| manifest.tail != meta.durable);
    if !fs.try_exists(&taken)? || another() {
        return Ok(());
    }
    let state = taken.join(STATE_DIR);
    if fs.try_exists(&state)? {
        let generation = dir.join(generation_name(meta.generation));
        if fs.try_exists(&generation)? {
            fs.remove_dir_all(&generation)?;
        }
        fs.rename(&state, &generation)?;
    }
    let log = dir.join(LOG_DIR);
    fs.create_dir_all(&log)?;
    let taken_log = taken.join(LOG_DIR);
    if fs.try_exists(&taken_log)? {
        for name in fs.list(&taken_log)?.into_iter().filter(|name| parse_segment_name(name).is_some()) {
            fs.rename(&taken_log.join(&name), &log.join(&name))?;
        }
    }
    let layout = meta.constants.layout();
    let kept = layout.base_of(meta.first.pos)..=layout.base_of(meta.durable.pos);
    for name in fs.list(&log)? {
        let old = match name.strip_suffix(IDX_SUFFIX) {
            Some(of) => parse_segment_name(of).is_some(),
            None => parse_segment_name(&name).is_some_and(|base| !kept.contains(&base)),
        };
        if old {
            fs.remove_file(&log.join(&name))?;
        }
    }
    fs.sync_dir(&log)?;
    fs.sync_dir(dir)?;
    fs.remove_dir_all(&taken)?;
    fs.sync_dir(&snap)
}

/// Puts a folder in order before a start: an installation that was interrupted is finished, and what nobody needs any more goes.
/// What was taken of a snapshot stays when it may still be of use. Returns whether an installation was finished.
pub(crate) fn tidy(fs: &Arc<dyn Fs>, dir: &Path, meta: &Meta) -> io::Result<bool> {
    let snap = dir.join(SNAP_DIR);
    if meta.installing {
        move_in(fs, dir, meta)?;
    }
    let given = snap.join(GIVE_DIR);
    if fs.try_exists(&given)? {
        fs.remove_dir_all(&given)?;
    }
    if take::left_over(fs, dir).is_none_or(|manifest| manifest.tail.index <= meta.durable.index) {
        take::discard(fs, dir)?;
    }
    let current = generation_name(meta.generation);
    let is_generation =
        |name: &str| name.strip_prefix("gen-").is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    for name in fs.list(dir)?.into_iter().filter(|name| is_generation(name) && *name != current) {
        fs.remove_dir_all(&dir.join(name))?;
    }
    Ok(meta.installing)
}

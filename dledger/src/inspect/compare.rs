//! Byte for byte comparison of the replicas of one group.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{InspectError, OfflineLog};
use crate::fs::Fs;
use crate::log::segment::segment_path;
use crate::types::{FramePos, LogPos};

/// Bytes compared at a time.
const CHUNK: u64 = 1024 * 1024;

/// What a comparison found.
#[derive(Debug, Clone)]
pub struct Comparison {
    /// Folders in the order given, each with its last frame and the last entry it knows to be committed.
    pub replicas: Vec<(PathBuf, FramePos, u64)>,
    /// Smallest commit index of all: entries up to it must be equal.
    pub commit_index: u64,
    /// Range of log positions that was compared.
    pub from: LogPos,
    /// End of that range: behind the entry `commit_index`.
    pub to: LogPos,
    /// The first difference, if any.
    pub difference: Option<Difference>,
}

impl Comparison {
    /// Whether all compared bytes are equal.
    pub fn equal(&self) -> bool {
        self.difference.is_none()
    }
}

/// Where two replicas first differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Segment file of the first folder named.
    pub one: PathBuf,
    /// Segment file of the one that differs from it.
    pub other: PathBuf,
    /// Offset in the file.
    pub offset: u64,
    /// Log position.
    pub pos: LogPos,
    /// Raft index of the entry that holds the byte, when the first replica knows it.
    pub index: Option<u64>,
    /// The two bytes; `None` where a log has ended.
    pub bytes: (Option<u8>, Option<u8>),
}

/// Compares the logs in these group folders up to the smallest commit position. The replicas must be stopped.
pub fn compare(fs: &Arc<dyn Fs>, dirs: &[PathBuf]) -> Result<Comparison, InspectError> {
    let logs = dirs.iter().map(|dir| OfflineLog::open(fs, dir)).collect::<Result<Vec<_>, _>>()?;
    let (one, others) = logs.split_first().filter(|(_, others)| !others.is_empty()).ok_or(InspectError::TooFew)?;
    for other in others {
        let same = (one.meta.identity.cluster_id, one.meta.identity.group, one.meta.constants)
            == (other.meta.identity.cluster_id, other.meta.identity.group, other.meta.constants);
        if !same {
            return Err(InspectError::Strangers(one.dir.clone(), other.dir.clone()));
        }
    }
    let commit_index = logs.iter().map(OfflineLog::commit_index).min().unwrap_or(0);
    let from = logs.iter().map(|log| log.view.first().1).max().unwrap_or_default();
    // Where the logs differ, the same index may end at different places: the farthest counts, so that the difference
    // is inside of the range.
    let mut to = from;
    for log in &logs {
        to = to.max(log.end_of(commit_index)?);
    }
    let mut first: Option<Difference> = None;
    for other in others {
        let until = first.as_ref().map_or(to, |difference| difference.pos);
        if let Some(difference) = first_difference(one, other, from, until)? {
            first = Some(difference);
        }
    }
    let replicas = logs.iter().map(|log| (log.dir.clone(), log.tail, log.commit_index())).collect();
    Ok(Comparison { replicas, commit_index, from, to, difference: first })
}

fn first_difference(
    one: &OfflineLog,
    other: &OfflineLog,
    from: LogPos,
    to: LogPos,
) -> Result<Option<Difference>, InspectError> {
    let layout = one.view.layout();
    let mut at = from;
    while at < to {
        let len = layout.room(at).min(to.0 - at.0).min(CHUNK);
        let a = read(one, at, len)?;
        let b = read(other, at, len)?;
        if a != b {
            let same = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
            let pos = at + same as u64;
            let file = |dir: &Path| segment_path(dir, layout.base_of(pos));
            return Ok(Some(Difference {
                one: file(&one.dir),
                other: file(&other.dir),
                offset: pos.0 % layout.segment_size,
                pos,
                index: index_at(one, pos),
                bytes: (a.get(same).copied(), b.get(same).copied()),
            }));
        }
        at = at + len;
    }
    Ok(None)
}

/// Bytes of the log, fewer when it ends before.
fn read(log: &OfflineLog, at: LogPos, len: u64) -> Result<Vec<u8>, InspectError> {
    let len = len.min(log.tail.end().0.saturating_sub(at.0));
    if len == 0 {
        return Ok(Vec::new());
    }
    Ok(log.view.read_copied(at, len as usize)?.to_vec())
}

/// Raft index of the frame around a position.
fn index_at(log: &OfflineLog, pos: LogPos) -> Option<u64> {
    log.view.frame_around(pos).ok().flatten().map(|at| at.index)
}

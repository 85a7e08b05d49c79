//! The one thread per disk that writes and syncs: takes the jobs of all groups that wait, writes them, then syncs
//! each group's log once. While a sync runs the next jobs gather, so that the batch adapts to the disk by itself.
//!
//! An error of a write or sync ends the process before another message leaves: after a failed fsync the page cache
//! shows data that the disk does not have, and a retry would succeed without having written it.

use std::io;
use std::time::{Duration, Instant};

use crate::group::WriteTask;
use crate::log::meta::FirstFrame;
use crate::log::writer::LogWriter;
use crate::queue::{Nothing, QueueReceiver};
use crate::types::FramePos;

/// Bytes of frames between two syncs of a group: recovery takes a hole of at most this length for a torn job (2.9).
pub const JOB_BYTES_MAX: u64 = 8 << 20;

/// Longest time that a written frame of an asynchronous group waits for its sync.
pub const ASYNC_INTERVAL: Duration = Duration::from_millis(10);

/// Bytes of unsynced log at which an asynchronous group is synced at once.
pub const ASYNC_BYTES_MAX: u64 = 4 << 20;

/// What the thread is asked to do.
pub(crate) enum IoRequest {
    /// A job of the group in this slot.
    Write(usize, Box<WriteTask>),
    /// The log of the group in this slot begins here from now on.
    RemoveBefore(usize, FirstFrame),
    /// End: everything before it is durable when the thread has ended.
    Stop,
}

/// Carries out the jobs of one group, in order; returns the number of the last one and the last durable frame.
/// Jobs are merged as long as they stay below [`JOB_BYTES_MAX`] together.
///
/// # Errors
/// The disk failed: nothing may be retried, nothing more may leave this replica.
pub fn carry_out(writer: &mut LogWriter, tasks: &[WriteTask]) -> io::Result<Option<(u64, FramePos)>> {
    write(writer, tasks)?;
    sync(writer, tasks)
}

/// The first half of [`carry_out`]: everything is written. The simulator lets time pass, and nodes die, between the
/// halves.
///
/// # Errors
/// As for [`carry_out`].
pub(crate) fn write(writer: &mut LogWriter, tasks: &[WriteTask]) -> io::Result<()> {
    let mut unsynced = 0;
    for task in tasks {
        let bytes: u64 = task.job.frames.iter().map(|frame| u64::from(frame.at.len)).sum();
        if unsynced > 0 && unsynced + bytes > JOB_BYTES_MAX {
            writer.sync()?;
            unsynced = 0;
        }
        writer.write(&task.job)?;
        unsynced += bytes;
    }
    Ok(())
}

/// The second half of [`carry_out`]: what was written is durable, or in the page cache of a group that answers from there.
/// Terms, votes, membership changes and cuts are synced all the same.
///
/// # Errors
/// As for [`carry_out`].
pub(crate) fn sync(writer: &mut LogWriter, tasks: &[WriteTask]) -> io::Result<Option<(u64, FramePos)>> {
    let Some(last) = tasks.last() else {
        return Ok(None);
    };
    let lazy = writer.meta().async_flush && tasks.iter().all(|task| task.job.is_frames_only());
    let durable = if lazy { writer.publish_written() } else { writer.sync()? };
    assert_eq!(durable.index, last.tail.index, "the log ends elsewhere than the job says");
    Ok(Some((last.number, durable)))
}

/// What an asynchronous group has not synced yet.
#[derive(Default)]
struct Unsynced(Option<Instant>);

impl Unsynced {
    /// After jobs: when their sync is due.
    fn note(&mut self, writer: &LogWriter) {
        match writer.unsynced_bytes() {
            0 => self.0 = None,
            bytes if bytes >= ASYNC_BYTES_MAX => self.0 = Some(Instant::now()),
            _ => self.0 = Some(self.0.unwrap_or_else(|| Instant::now() + ASYNC_INTERVAL)),
        }
    }
}

/// Runs until [`IoRequest::Stop`]; gives the writers back. `report` is called with slot, job number and last durable
/// frame. An error names the slot whose disk failed.
pub(crate) fn run(
    requests: &QueueReceiver<IoRequest>,
    mut writers: Vec<LogWriter>,
    mut report: impl FnMut(usize, u64, FramePos),
) -> Result<Vec<LogWriter>, (usize, io::Error)> {
    let mut waiting: Vec<Vec<WriteTask>> = writers.iter().map(|_| Vec::new()).collect();
    let mut removals: Vec<Option<FirstFrame>> = writers.iter().map(|_| None).collect();
    let mut unsynced: Vec<Unsynced> = writers.iter().map(|_| Unsynced::default()).collect();
    let mut stop = false;
    while !stop {
        let due = unsynced.iter().filter_map(|it| it.0).min();
        let first = match requests.recv(due.map(|at| at.saturating_duration_since(Instant::now()))) {
            Ok(first) => Some(first),
            Err(Nothing::Late) => None,
            Err(Nothing::Ended) => break,
        };
        for request in first.into_iter().chain(std::iter::from_fn(|| requests.try_recv())) {
            match request {
                IoRequest::Write(slot, task) => waiting[slot].push(*task),
                IoRequest::RemoveBefore(slot, first) => removals[slot] = Some(first),
                IoRequest::Stop => stop = true,
            }
        }
        for (slot, tasks) in waiting.iter_mut().enumerate() {
            if let Some((number, durable)) = carry_out(&mut writers[slot], tasks).map_err(|error| (slot, error))? {
                report(slot, number, durable);
            }
            tasks.clear();
            let writer = &mut writers[slot];
            unsynced[slot].note(writer);
            if unsynced[slot].0.is_some_and(|at| at <= Instant::now()) {
                writer.sync().map_err(|error| (slot, error))?;
                unsynced[slot] = Unsynced::default();
            }
        }
        // Behind the jobs: whoever waits for those does not wait for the removal of files.
        for (slot, removal) in removals.iter_mut().enumerate() {
            if let Some(first) = removal.take() {
                writers[slot].remove_before(first).map_err(|error| (slot, error))?;
            }
        }
    }
    Ok(writers)
}

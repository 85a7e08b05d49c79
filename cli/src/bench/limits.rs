//! The limits of the machine, measured in the same run as the cluster: what a round trip over loopback takes, and what the
//! disk of the data folder does with a write that is synced.
//!
//! Small on purpose: about three seconds, one thread, no cluster load beside it. Without these figures a rate says little;
//! virtual machines give another disk each hour.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;

use super::tally::{Latencies, Percentiles};

/// Longest time for each part.
const PART_MAX: Duration = Duration::from_millis(700);

/// Most repetitions of each part.
const ROUNDS_MAX: usize = 5_000;

/// Bytes of a round trip over loopback.
const ECHO_LEN: usize = 1_024;

/// Sizes of the synced writes.
const WRITE_LENS: [usize; 3] = [4 << 10, 64 << 10, 1 << 20];

/// Bytes of the file that is written over, again and again, as a segment of a log is.
const FILE_LEN: usize = 32 << 20;

/// Name of that file.
const FILE_NAME: &str = "bench-limits.tmp";

/// What the machine can do.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Limits {
    /// Processors.
    pub(crate) cpus: usize,
    /// There and back of 1 KiB over a loopback connection, two threads.
    pub(crate) loopback: Percentiles,
    /// Writes that are synced one by one, in a file that is there already.
    pub(crate) disk: Vec<SyncedWrites>,
}

/// Synced writes of one size.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct SyncedWrites {
    /// Bytes of each.
    pub(crate) bytes: usize,
    /// Of `pwrite` and `fdatasync` together.
    pub(crate) latency: Percentiles,
    /// Writes a second.
    pub(crate) per_second: f64,
    /// Megabytes (10^6) a second.
    pub(crate) megabytes_per_second: f64,
}

impl Limits {
    /// Measures them; `folder` is on the disk in question. Blocks for some seconds.
    ///
    /// # Errors
    /// When the folder cannot be written, or loopback does not work.
    pub(crate) fn measure(folder: &Path) -> Result<Limits> {
        let loopback = loopback().context("cannot measure loopback")?;
        let disk = disk(folder).with_context(|| format!("cannot measure the disk of {}", folder.display()))?;
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Ok(Limits { cpus, loopback, disk })
    }

    /// The same for people.
    pub(crate) fn lines(&self) -> Vec<String> {
        let Percentiles { p50_us, p99_us, .. } = self.loopback;
        let mut lines = vec![format!(
            "limits of this machine, just now: {} processors; loopback, 1 KiB there and back: p50 {p50_us} us, p99 {p99_us} us",
            self.cpus
        )];
        lines.extend(self.disk.iter().map(|disk| {
            format!(
                "  disk, write and fdatasync of {} KiB: p50 {} us, p99 {} us, {:.0}/s, {:.0} MB/s",
                disk.bytes >> 10,
                disk.latency.p50_us,
                disk.latency.p99_us,
                disk.per_second,
                disk.megabytes_per_second
            )
        }));
        lines
    }
}

fn loopback() -> Result<Percentiles> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut near = TcpStream::connect(listener.local_addr()?)?;
    let (mut far, _) = listener.accept()?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let echo = std::thread::spawn(move || {
        let mut bytes = [0; ECHO_LEN];
        // Ends when the other side has seen enough and closes.
        while far.read_exact(&mut bytes).is_ok() && far.write_all(&bytes).is_ok() {}
    });
    let mut bytes = [7; ECHO_LEN];
    let latencies = repeat(|| {
        near.write_all(&bytes)?;
        near.read_exact(&mut bytes)
    })?;
    drop(near);
    let _ = echo.join();
    latencies.1.percentiles().context("not a single round trip was made")
}

fn disk(folder: &Path) -> Result<Vec<SyncedWrites>> {
    let file = Scratch::create(folder)?;
    WRITE_LENS
        .into_iter()
        .map(|bytes| {
            let block = vec![0x5a; bytes];
            let mut at = 0;
            let (seconds, latencies) = repeat(|| {
                file.file.write_all_at(&block, at as u64)?;
                at = (at + bytes) % FILE_LEN;
                file.file.sync_data()
            })?;
            let per_second = latencies.count() as f64 / seconds;
            Ok(SyncedWrites {
                bytes,
                latency: latencies.percentiles().context("not a single write was made")?,
                per_second,
                megabytes_per_second: per_second * bytes as f64 / 1e6,
            })
        })
        .collect()
}

/// Does something again and again, within the bounds of a part; the first tenth is not counted.
fn repeat(mut work: impl FnMut() -> std::io::Result<()>) -> Result<(f64, Latencies)> {
    let began = Instant::now();
    while began.elapsed() < PART_MAX / 10 {
        work()?;
    }
    let mut latencies = Latencies::new();
    let began = Instant::now();
    for _ in 0..ROUNDS_MAX {
        let at = Instant::now();
        work()?;
        latencies.record(at.elapsed());
        if began.elapsed() > PART_MAX {
            break;
        }
    }
    Ok((began.elapsed().as_secs_f64(), latencies))
}

/// A file of its own, gone at the end.
struct Scratch {
    file: File,
    path: PathBuf,
}

impl Scratch {
    fn create(folder: &Path) -> Result<Scratch> {
        let path = folder.join(FILE_NAME);
        let file = OpenOptions::new().create(true).truncate(true).write(true).open(&path)?;
        let scratch = Scratch { file, path };
        scratch.file.write_all_at(&vec![0; FILE_LEN], 0)?;
        scratch.file.sync_all()?;
        Ok(scratch)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Would break: figures beside the rates that belong to this machine, or a file left behind in a data folder.
    #[test]
    fn the_limits_are_measured_and_nothing_stays() {
        let folder = tempfile::tempdir().unwrap();
        let limits = Limits::measure(folder.path()).unwrap();
        assert!(limits.cpus > 0 && limits.loopback.p50_us > 0);
        assert_eq!(limits.disk.iter().map(|disk| disk.bytes).collect::<Vec<_>>(), WRITE_LENS);
        assert!(limits.disk.iter().all(|disk| disk.per_second > 0.0 && disk.latency.max_us >= disk.latency.p50_us));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        assert_eq!(limits.lines().len(), 4);
    }
}

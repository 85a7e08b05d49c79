//! Segment files: exactly `segment_size` bytes each, named by the position of their first byte, and the supply of
//! prepared spare ones.
//!
//! A file is filled with zeros and synced under a spare name, then renamed into place, and the folder synced, before
//! the first byte of log goes into it (R4). So every segment has its full length and written extents from the start: a
//! `fdatasync` of log is then pure data. Filling is slow, hence never on the write path while a spare is ready.
//!
//! A segment that the log does not need any more becomes a spare again, by a rename: nothing is filled, and nothing is given
//! back to the file system to be asked for once more. What it held stays in it, behind the log's end; a frame says where it
//! belongs and is chained to the one before, so old ones are never taken for log. Only a file that nobody reads or maps is
//! used again: readers hold slices of mapped segments.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::frame::Layout;
use crate::fs::{File, Fs, Mapping, OpenMode};
use crate::plant::{self, Bug};
use crate::types::LogPos;

/// Folder of the segments inside a group's folder.
pub const LOG_DIR: &str = "log";

/// Ending of the index file beside a full segment.
pub const IDX_SUFFIX: &str = ".idx";

/// Beginning of the name of a prepared spare.
const SPARE_PREFIX: &str = "spare-";

/// Ending of files that are being made; leftovers are removed at start.
pub(super) const NEW_SUFFIX: &str = ".new";

/// Zeros written at a time while a spare is filled.
const FILL_CHUNK: usize = 1024 * 1024;

/// Bytes after which a filling spare is synced, so that no sync of the log has to wait for a whole segment.
const FILL_SYNC: u64 = 8 * 1024 * 1024;

/// Spares that are kept of segments that the log does not need any more; further ones are deleted.
const SPARES_MAX: usize = 2;

/// How many bytes of a spare may be filled for each byte that the segment before it has taken, whatever the pace: so the spare
/// is whole when that segment is half full, and no writer has to wait for it, however fast it is.
const FILL_AHEAD: u64 = 2;

/// Name of the segment with this base.
pub fn segment_name(base: LogPos) -> String {
    format!("{:020}", base.0)
}

/// Base of the segment with this name; `None` for names of other things.
pub fn parse_segment_name(name: &str) -> Option<LogPos> {
    (name.len() == 20 && name.bytes().all(|byte| byte.is_ascii_digit())).then(|| name.parse().ok().map(LogPos))?
}

/// Path of the segment with this base. `dir` is the group's folder.
pub fn segment_path(dir: &Path, base: LogPos) -> PathBuf {
    dir.join(LOG_DIR).join(segment_name(base))
}

/// Path of the index file of the segment with this base.
pub fn idx_path(dir: &Path, base: LogPos) -> PathBuf {
    dir.join(LOG_DIR).join(segment_name(base) + IDX_SUFFIX)
}

/// An open segment.
pub(super) struct Segment {
    pub(super) base: LogPos,
    pub(super) path: PathBuf,
    pub(super) file: Arc<dyn File>,
    pub(super) mapping: Arc<dyn Mapping>,
}

impl Segment {
    pub(super) fn new(dir: &Path, base: LogPos, layout: &Layout, file: Arc<dyn File>) -> io::Result<Segment> {
        let mapping = file.map(layout.segment_size)?;
        Ok(Segment { base, path: segment_path(dir, base), file, mapping })
    }
}

/// Where spares come from.
enum Maker {
    /// The caller's thread.
    Inline,
    /// A thread of its own.
    Background(Background),
}

struct Background {
    /// One message asks for one spare. Dropped first, which ends the thread.
    orders: Option<Sender<u64>>,
    made: Receiver<io::Result<PathBuf>>,
    /// Ordered and not received yet; at most one.
    pending: bool,
    hurry: Arc<AtomicBool>,
    /// Bytes that the newest segment has taken.
    taken: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Keeps prepared, zero-filled segment files ready. One per group.
pub struct SegmentSupply {
    fs: Arc<dyn Fs>,
    log_dir: PathBuf,
    layout: Layout,
    ready: Vec<PathBuf>,
    /// Number in the next spare's name; names of live spares are never reused.
    next_serial: u64,
    /// Whether the newest segment came while older ones were coming back: then the next spare may be on its way already.
    comes_back: bool,
    maker: Maker,
}

impl SegmentSupply {
    /// Prepares a spare only when one is needed, on the caller's thread: simulator and tools. `dir` is the group's
    /// folder.
    pub fn inline(fs: &Arc<dyn Fs>, dir: &Path, layout: Layout) -> io::Result<SegmentSupply> {
        let log_dir = dir.join(LOG_DIR);
        fs.create_dir_all(&log_dir)?;
        fs.sync_dir(dir)?;
        let mut ready = Vec::new();
        let mut next_serial = 0;
        for name in fs.list(&log_dir)? {
            let path = log_dir.join(&name);
            let Some(serial) = name.strip_prefix(SPARE_PREFIX) else { continue };
            let Ok(serial) = serial.parse::<u64>() else {
                // Half-made when the last run ended.
                fs.remove_file(&path)?;
                continue;
            };
            next_serial = next_serial.max(serial + 1);
            if fs.open(&path, OpenMode::Read)?.len()? == layout.segment_size {
                ready.push(path);
            } else {
                fs.remove_file(&path)?;
            }
        }
        let fs = fs.clone();
        Ok(SegmentSupply { fs, log_dir, layout, ready, next_serial, comes_back: false, maker: Maker::Inline })
    }

    /// Keeps one spare ready from a thread of its own, which writes at most `pace` bytes per second unless the writer
    /// is faster (`SegmentSupply::reached`) or already waiting. Ends with this value. `dir` is the group's folder.
    pub fn background(fs: &Arc<dyn Fs>, dir: &Path, layout: Layout, pace: u64) -> io::Result<SegmentSupply> {
        let mut supply = SegmentSupply::inline(fs, dir, layout)?;
        let (orders, incoming) = bounded::<u64>(1);
        let (outgoing, made) = bounded(1);
        let hurry = Arc::new(AtomicBool::new(false));
        let stop = Arc::new(AtomicBool::new(false));
        let taken = Arc::new(AtomicU64::new(0));
        let filler = Filler {
            fs: fs.clone(),
            log_dir: supply.log_dir.clone(),
            layout,
            pace: Some(Pace {
                bytes_per_second: pace.max(1),
                hurry: hurry.clone(),
                taken: taken.clone(),
                stop: stop.clone(),
            }),
        };
        let thread = std::thread::Builder::new().name("log-prefill".into()).spawn(move || {
            for serial in incoming {
                if outgoing.send(filler.make(serial)).is_err() {
                    return;
                }
            }
        })?;
        supply.maker = Maker::Background(Background {
            orders: Some(orders),
            made,
            pending: false,
            hurry,
            taken,
            stop,
            thread: Some(thread),
        });
        supply.order();
        Ok(supply)
    }

    /// The newest segment has taken so many bytes: the spare that follows it must not be late.
    pub(super) fn reached(&mut self, bytes: u64) {
        if let Maker::Background(background) = &self.maker {
            background.taken.store(bytes, Ordering::Relaxed);
        }
        if self.comes_back && bytes >= self.layout.segment_size / 2 {
            // None has come back this time.
            self.comes_back = false;
            self.order();
        }
    }

    /// Takes back a segment that the log has no use for: as a spare, or it is removed. The folder is not synced.
    pub(super) fn retire(&mut self, segment: Arc<Segment>) -> io::Result<()> {
        let path = segment.path.clone();
        if self.ready.len() >= SPARES_MAX || !is_unused(segment) {
            return self.fs.remove_file(&path);
        }
        let spare = self.log_dir.join(format!("{SPARE_PREFIX}{}", self.next_serial));
        self.next_serial += 1;
        self.fs.rename(&path, &spare)?;
        self.ready.push(spare);
        self.comes_back = true;
        Ok(())
    }

    /// Puts a spare into place as the segment with this base, durable under its name (R4).
    pub(super) fn create(&mut self, dir: &Path, base: LogPos) -> io::Result<Segment> {
        let spare = self.take()?;
        let path = segment_path(dir, base);
        self.fs.rename(&spare, &path)?;
        if !plant::on(Bug::SegmentDirNotSynced) {
            self.fs.sync_dir(&self.log_dir)?;
        }
        let file = self.fs.open(&path, OpenMode::ReadWrite)?;
        let segment = Segment::new(dir, base, &self.layout, file)?;
        if !self.comes_back {
            self.order();
        }
        self.reached(0);
        Ok(segment)
    }

    fn take(&mut self) -> io::Result<PathBuf> {
        if let Some(path) = self.ready.pop() {
            return Ok(path);
        }
        if let Maker::Background(background) = &mut self.maker
            && background.pending
        {
            background.hurry.store(true, Ordering::Relaxed);
            let made = background.made.recv();
            background.hurry.store(false, Ordering::Relaxed);
            background.pending = false;
            // What failed there (a disk that was full an hour ago) is tried once more here, with a new file.
            if let Ok(Ok(path)) = made {
                return Ok(path);
            }
        }
        let serial = self.next_serial;
        self.next_serial += 1;
        Filler { fs: self.fs.clone(), log_dir: self.log_dir.clone(), layout: self.layout, pace: None }.make(serial)
    }

    /// Asks the thread for a spare when none is ready or on its way.
    fn order(&mut self) {
        let Maker::Background(background) = &mut self.maker else { return };
        if background.pending {
            return;
        }
        if self.ready.is_empty()
            && let Some(orders) = &background.orders
        {
            background.pending = orders.try_send(self.next_serial).is_ok();
            self.next_serial += u64::from(background.pending);
        }
    }
}

impl Drop for SegmentSupply {
    fn drop(&mut self) {
        if let Maker::Background(background) = &mut self.maker {
            background.stop.store(true, Ordering::Relaxed);
            background.orders = None;
            if let Some(thread) = background.thread.take() {
                // A panic there has already been printed; nothing is lost but a spare.
                let _ = thread.join();
            }
        }
    }
}

/// Whether nobody else holds the segment, its file or its mapping. Nobody can come to hold it either: it is in no list any more.
fn is_unused(segment: Arc<Segment>) -> bool {
    if plant::on(Bug::RecycledUnderReader) {
        return true;
    }
    let Ok(Segment { file, mapping, .. }) = Arc::try_unwrap(segment) else { return false };
    Arc::strong_count(&file) == 1 && Arc::strong_count(&mapping) == 1
}

/// Keeps the filling from taking the disk away from the log.
struct Pace {
    bytes_per_second: u64,
    hurry: Arc<AtomicBool>,
    taken: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Pace {
    /// Waits until `written` bytes since `start` are within the pace.
    fn wait(&self, start: Instant, written: u64) -> io::Result<()> {
        let due = Duration::from_secs_f64(written as f64 / self.bytes_per_second as f64);
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let elapsed = start.elapsed();
            let behind = written < self.taken.load(Ordering::Relaxed).saturating_mul(FILL_AHEAD);
            if elapsed >= due || behind || self.hurry.load(Ordering::Relaxed) {
                return Ok(());
            }
            // Short, so that a writer in need and a stopping process are noticed soon.
            std::thread::sleep((due - elapsed).min(Duration::from_millis(5)));
        }
    }
}

/// Makes spares.
struct Filler {
    fs: Arc<dyn Fs>,
    log_dir: PathBuf,
    layout: Layout,
    pace: Option<Pace>,
}

impl Filler {
    fn make(&self, serial: u64) -> io::Result<PathBuf> {
        let path = self.log_dir.join(format!("{SPARE_PREFIX}{serial}"));
        let new = self.log_dir.join(format!("{SPARE_PREFIX}{serial}{NEW_SUFFIX}"));
        self.fill(&new).inspect_err(|_| {
            // Gives the space back; what cannot be removed now is removed at the next start.
            let _ = self.fs.remove_file(&new);
        })?;
        self.fs.rename(&new, &path)?;
        Ok(path)
    }

    fn fill(&self, new: &Path) -> io::Result<()> {
        let file = self.fs.open(new, OpenMode::CreateNew)?;
        let zeros = vec![0u8; FILL_CHUNK];
        let start = Instant::now();
        let mut at = 0;
        while at < self.layout.segment_size {
            let len = (self.layout.segment_size - at).min(FILL_CHUNK as u64);
            file.write_at(&[&zeros[..len as usize]], at)?;
            at += len;
            if let Some(pace) = &self.pace {
                if at.is_multiple_of(FILL_SYNC) {
                    file.sync_data()?;
                }
                pace.wait(start, at)?;
            }
        }
        file.sync_data()
    }
}

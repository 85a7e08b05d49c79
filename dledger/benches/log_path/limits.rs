//! What the machine gives, measured in the same run: synced writes of one and of three processes' worth of threads, sequential
//! writes, a round trip over loopback, a copy of memory.

use std::fmt;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::Result;

/// Time for each part.
const PART: Duration = Duration::from_millis(600);
/// Bytes of the files that are written over.
const FILE_LEN: usize = 64 << 20;
/// Bytes of a lone append: a frame of 1 KiB, filled up to pages.
const LONE: usize = 4 << 10;
/// Bytes of one big write.
const BIG: usize = 4 << 20;

/// Latencies and the rate of something that was repeated.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Repeated {
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) per_second: f64,
}

/// The limits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) loopback: Repeated,
    pub(crate) fdatasync_one: Repeated,
    pub(crate) fdatasync_three: Repeated,
    sequential_mb_s: f64,
    copy_mb_s: f64,
}

/// Measures them on the disk of `dir`.
pub(crate) fn measure(dir: &Path, writers: usize) -> Result<Limits> {
    let files: Vec<File> = (0..writers).map(|n| filled(&dir.join(format!("limits-{n}")))).collect::<Result<_>>()?;
    let fdatasync_one = synced(&files[0])?;
    let fdatasync_three = std::thread::scope(|scope| {
        let all: Vec<_> = files.iter().map(|file| scope.spawn(|| synced(file).map_err(|it| it.to_string()))).collect();
        let each: std::result::Result<Vec<_>, _> =
            all.into_iter().map(|it| it.join().expect("no writer panics")).collect();
        // The slowest of them: an append needs two of three.
        each.map(|each| each.into_iter().max_by(|a, b| a.p50_us.total_cmp(&b.p50_us)).expect("some"))
    })?;
    let block = vec![0x5a; BIG];
    let mut at = 0;
    let began = Instant::now();
    let mut written = 0;
    while began.elapsed() < PART {
        files[0].write_all_at(&block, at as u64)?;
        written += BIG;
        at = (at + BIG) % FILE_LEN;
        if at == 0 {
            files[0].sync_data()?;
        }
    }
    files[0].sync_data()?;
    let sequential_mb_s = written as f64 / began.elapsed().as_secs_f64() / 1e6;
    for n in 0..writers {
        std::fs::remove_file(dir.join(format!("limits-{n}")))?;
    }
    Ok(Limits { loopback: loopback()?, fdatasync_one, fdatasync_three, sequential_mb_s, copy_mb_s: copy() })
}

fn filled(path: &Path) -> Result<File> {
    let file = File::options().create(true).truncate(true).write(true).open(path)?;
    file.write_all_at(&vec![0; FILE_LEN], 0)?;
    file.sync_all()?;
    Ok(file)
}

fn synced(file: &File) -> Result<Repeated> {
    let block = vec![0x5a; LONE];
    let mut at = 0;
    repeat(|| {
        file.write_all_at(&block, at as u64)?;
        at = (at + LONE) % FILE_LEN;
        file.sync_data()
    })
}

fn loopback() -> Result<Repeated> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut near = TcpStream::connect(listener.local_addr()?)?;
    let (mut far, _) = listener.accept()?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let echo = std::thread::spawn(move || {
        let mut bytes = [0; 1024];
        while far.read_exact(&mut bytes).is_ok() && far.write_all(&bytes).is_ok() {}
    });
    let mut bytes = [7; 1024];
    let found = repeat(|| {
        near.write_all(&bytes)?;
        near.read_exact(&mut bytes)
    });
    drop(near);
    echo.join().map_err(|_| "the echo panicked")?;
    found
}

fn copy() -> f64 {
    let (from, mut to) = (vec![1_u8; FILE_LEN], vec![0_u8; FILE_LEN]);
    to.copy_from_slice(&from);
    let began = Instant::now();
    let mut rounds = 0;
    while began.elapsed() < PART / 3 {
        to.copy_from_slice(std::hint::black_box(&from));
        std::hint::black_box(&mut to);
        rounds += 1;
    }
    (rounds * FILE_LEN) as f64 / began.elapsed().as_secs_f64() / 1e6
}

fn repeat(mut work: impl FnMut() -> std::io::Result<()>) -> Result<Repeated> {
    let began = Instant::now();
    while began.elapsed() < PART / 6 {
        work()?;
    }
    let mut all = Vec::new();
    let began = Instant::now();
    while began.elapsed() < PART {
        let at = Instant::now();
        work()?;
        all.push(at.elapsed().as_secs_f64() * 1e6);
    }
    let per_second = all.len() as f64 / began.elapsed().as_secs_f64();
    all.sort_by(f64::total_cmp);
    Ok(Repeated { p50_us: all[all.len() / 2], p99_us: all[all.len() * 99 / 100], per_second })
}

impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = |it: Repeated| format!("p50 {:.0} us, p99 {:.0} us, {:.0}/s", it.p50_us, it.p99_us, it.per_second);
        writeln!(f, "limits of this machine, just now:")?;
        writeln!(f, "  loopback, 1 KiB there and back       {}", line(self.loopback))?;
        writeln!(f, "  write and fdatasync of 4 KiB, alone  {}", line(self.fdatasync_one))?;
        writeln!(f, "  the same, three at a time, each      {}", line(self.fdatasync_three))?;
        writeln!(f, "  sequential overwrite, 4 MiB writes   {:.0} MB/s", self.sequential_mb_s)?;
        write!(f, "  copy of memory                       {:.0} MB/s", self.copy_mb_s)
    }
}

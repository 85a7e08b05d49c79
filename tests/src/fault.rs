//! Faults, made with the kernel's own tools: strace (delays, errors and no-ops of system calls in a running process) and
//! power cuts (loop-mounted ext4 or XFS that is shut down without flushing its journal, so that unsynced bytes are gone).

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;

use crate::cluster::{NODES, PATIENCE, POLL, alive, report, signal};
use crate::program;

/// Every call by which a program can ask for durability.
pub const ALL_SYNCS: &str = "fdatasync,fsync,syncfs,sync_file_range,msync";

/// Time for strace to detach by itself.
const DETACH_PATIENCE: Duration = Duration::from_secs(2);

/// strace, attached to all threads of a process.
#[derive(Debug)]
pub struct Strace {
    child: Child,
    calls: PathBuf,
    _dir: tempfile::TempDir,
}

impl Strace {
    /// Attaches to `pid` and injects `what` (strace's own words, such as `delay_exit=500000`) into `syscalls`. Returns
    /// once all threads are traced.
    pub fn attach(pid: u32, syscalls: &str, what: &str) -> Result<Strace> {
        program::require("strace", "strace")?;
        program::require("setpriv", "util-linux")?;
        let dir = tempfile::Builder::new().prefix("ledgermq-strace-").tempdir()?;
        let (words, calls) = (dir.path().join("words"), dir.path().join("calls"));
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--", "strace", "-f", "-p", &pid.to_string()])
            .args(["-e", &format!("trace={syscalls}"), "-e", &format!("inject={syscalls}:{what}"), "-o"])
            .arg(&calls)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&words)?)
            .spawn()
            .context("cannot start strace")?;
        let mut strace = Strace { child, calls, _dir: dir };
        let deadline = Instant::now() + PATIENCE;
        loop {
            let said = std::fs::read_to_string(&words)?;
            if said.contains(&format!("Process {pid} attached")) {
                return Ok(strace);
            }
            if let Some(status) = strace.child.try_wait()? {
                bail!("strace ended with {status}: {said}");
            }
            ensure!(Instant::now() < deadline, "strace is not attached to {pid} after {PATIENCE:?}: {said}");
            std::thread::sleep(POLL);
        }
    }

    /// Calls seen so far into which something was injected.
    pub fn injected(&self) -> Result<usize> {
        let calls = std::fs::read_to_string(&self.calls)?;
        // A delay is marked by (DELAYED), everything else by (INJECTED).
        Ok(calls.lines().filter(|line| line.contains("(INJECTED)") || line.contains("(DELAYED)")).count())
    }

    /// Lets the process go on undisturbed.
    pub fn detach(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        if self.child.try_wait()?.is_none() {
            signal(self.child.id(), Signal::TERM)?;
        }
        let deadline = Instant::now() + DETACH_PATIENCE;
        while self.child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                // strace may wait for ever for a tracee that was killed. When it dies, the kernel detaches.
                self.child.kill()?;
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

/// A file system of the nodes' disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileSystem {
    /// ext4, in Debian's package e2fsprogs.
    Ext4,
    /// XFS, in Debian's package xfsprogs.
    Xfs,
}

impl FileSystem {
    fn make(self) -> &'static [&'static str] {
        match self {
            FileSystem::Ext4 => &["mkfs.ext4", "-q", "-F"],
            FileSystem::Xfs => &["mkfs.xfs", "-q", "-f"],
        }
    }
}

/// FS_IOC_SHUTDOWN, which XFS has by the same number, without flushing the journal, on each argument: the file system is gone at once, and with it all
/// that was not synced. In Python since an ioctl is `unsafe` in Rust.
const SHUT_DOWN: &str = r#"
import fcntl, os, struct, sys
roots = [os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in sys.argv[1:]]
for root in roots:
    fcntl.ioctl(root, 0x8004587D, struct.pack("I", 2))
"#;

/// Bytes of a node's disk (a sparse file).
const DISK_BYTES: u64 = 2 << 30;

/// Name of the file that fills a disk.
const FILLER: &str = "filler";

/// Prefix of the folders that hold disks; the number behind it is the process that mounted them.
const PREFIX: &str = "ledgermq-disks-";

/// A disk of its own for each node's data folder, which can lose power.
#[derive(Debug)]
pub struct Disks {
    folder: Option<tempfile::TempDir>,
}

impl Disks {
    /// Makes and mounts a disk with ext4 at `node-N/data` of a fresh cluster folder.
    pub fn new() -> Result<Disks> {
        Disks::with(FileSystem::Ext4)
    }

    /// The same with another file system.
    pub fn with(system: FileSystem) -> Result<Disks> {
        program::require_root()?;
        for (tool, package) in
            [("mkfs.ext4", "e2fsprogs"), ("mkfs.xfs", "xfsprogs"), ("mount", "mount"), ("python3", "python3")]
        {
            program::require(tool, package)?;
        }
        unmount_of_dead_processes()?;
        let prefix = format!("{PREFIX}{}-", std::process::id());
        let disks = Disks { folder: Some(tempfile::Builder::new().prefix(&prefix).tempdir()?) };
        for node in 1..=NODES {
            let image = disks.image(node);
            File::create(&image)?.set_len(DISK_BYTES)?;
            let (tool, options) = system.make().split_first().context("a file system is made by a command")?;
            program::run(Command::new(format!("/usr/sbin/{tool}")).args(options).arg(&image))?;
            std::fs::create_dir_all(disks.mount_point(node))?;
            disks.mount(node)?;
        }
        Ok(disks)
    }

    /// The cluster folder.
    pub fn dir(&self) -> &Path {
        self.folder.as_ref().expect("the folder is given up by drop only").path()
    }

    fn image(&self, node: u64) -> PathBuf {
        self.dir().join(format!("disk-{node}.image"))
    }

    fn mount_point(&self, node: u64) -> PathBuf {
        self.dir().join(format!("node-{node}/data"))
    }

    fn mount(&self, node: u64) -> Result<()> {
        program::run(Command::new("mount").args(["-o", "loop"]).arg(self.image(node)).arg(self.mount_point(node)))?;
        Ok(())
    }

    /// Fills a node's disk but for `left` bytes.
    pub fn fill(&self, node: u64, left: u64) -> Result<()> {
        let disk = rustix::fs::statvfs(self.mount_point(node))?;
        let free = disk.f_bavail * disk.f_frsize;
        let filler = File::create(self.mount_point(node).join(FILLER))?;
        let flags = rustix::fs::FallocateFlags::empty();
        rustix::fs::fallocate(&filler, flags, 0, free.saturating_sub(left).max(1))?;
        Ok(())
    }

    /// Takes away what [`Disks::fill`] made.
    pub fn make_room(&self, node: u64) -> Result<()> {
        Ok(std::fs::remove_file(self.mount_point(node).join(FILLER))?)
    }

    /// Cuts the power of all disks within the same millisecond or so. The processes still run, and meet EIO.
    pub fn cut_power(&self) -> Result<()> {
        self.cut_power_of(1..=NODES)
    }

    /// Cuts the power of these nodes' disks.
    pub fn cut_power_of(&self, nodes: impl IntoIterator<Item = u64>) -> Result<()> {
        let points = nodes.into_iter().map(|node| self.mount_point(node));
        program::run(Command::new("python3").args(["-c", SHUT_DOWN]).args(points)).map(|_| ())
    }

    /// Gives the power back once no process uses the disks: what comes back is what was synced.
    pub fn restore_power(&self) -> Result<()> {
        self.restore_power_of(1..=NODES)
    }

    /// The same for these nodes' disks.
    pub fn restore_power_of(&self, nodes: impl IntoIterator<Item = u64>) -> Result<()> {
        for node in nodes {
            let deadline = Instant::now() + PATIENCE;
            loop {
                let output = program::output(Command::new("umount").arg(self.mount_point(node)))?;
                if output.status.success() {
                    break;
                }
                // A process that was killed a moment ago may still hold a file.
                ensure!(Instant::now() < deadline, "disk {node} stays busy: {}", program::words(&output));
                std::thread::sleep(POLL);
            }
            self.mount(node)?;
        }
        Ok(())
    }
}

impl Drop for Disks {
    fn drop(&mut self) {
        let Some(folder) = self.folder.take() else { return };
        for node in 1..=NODES {
            unmount(&folder.path().join(format!("node-{node}/data")));
        }
        if let Err(e) = folder.close() {
            report(&format!("cannot remove the disks: {e}"));
        }
    }
}

/// Unmounts whatever still uses it.
fn unmount(point: &Path) {
    let _ = program::output(Command::new("umount").arg("--lazy").arg(point));
}

/// A test that was killed could not unmount its disks; the next one does it.
fn unmount_of_dead_processes() -> Result<()> {
    for line in std::fs::read_to_string("/proc/mounts")?.lines() {
        let Some(point) = line.split(' ').nth(1) else { continue };
        let Some((_, rest)) = point.split_once(PREFIX) else { continue };
        let pid: u32 = rest.split('-').next().and_then(|pid| pid.parse().ok()).unwrap_or(0);
        if pid != 0 && !alive(pid)? {
            let point = Path::new(point);
            unmount(point);
            if let Some(folder) = point.ancestors().nth(2) {
                let _ = std::fs::remove_dir_all(folder);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// Everything the power tests say rests on this: synced bytes come back, others do not.
    #[test]
    fn a_power_cut_keeps_synced_bytes_and_loses_the_rest() {
        for system in [FileSystem::Ext4, FileSystem::Xfs] {
            let disks = Disks::with(system).unwrap();
            let point = disks.mount_point(2);
            let mut synced = File::create(point.join("synced")).unwrap();
            synced.write_all(b"kept").unwrap();
            synced.sync_all().unwrap();
            File::open(&point).unwrap().sync_all().unwrap();
            synced.write_all(b"lost").unwrap();
            std::fs::write(point.join("unsynced"), b"lost").unwrap();
            disks.cut_power().unwrap();
            assert!(synced.sync_data().is_err(), "a disk without power took a sync");
            drop(synced);
            disks.restore_power().unwrap();
            assert_eq!(std::fs::read(point.join("synced")).unwrap(), b"kept");
            assert!(!point.join("unsynced").try_exists().unwrap());
        }
    }

    /// Everything the fsync tests say rests on this: an injected delay and a no-op reach a process that runs already.
    #[test]
    fn strace_delays_and_disables_the_syncs_of_a_running_process() {
        const SYNC_FOR_EVER: &str = r#"
import os, sys, time
file = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY)
while True:
    os.pwrite(file, b"x", 0)
    begin = time.monotonic()
    os.fdatasync(file)
    os.pwrite(1, b"%d\n" % ((time.monotonic() - begin) * 1000), 0)
    time.sleep(0.01)
"#;
        program::require("python3", "python3").unwrap();
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let mut child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--", "python3", "-c", SYNC_FOR_EVER])
            .arg(dir.path().join("file"))
            .stdout(File::create(&out).unwrap())
            .spawn()
            .unwrap();
        let slowest = || -> u64 {
            let text = std::fs::read_to_string(&out).unwrap();
            text.lines().next().and_then(|line| line.parse().ok()).unwrap_or(0)
        };
        let strace = Strace::attach(child.id(), "fdatasync", "delay_exit=300000").unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while slowest() < 300 {
            assert!(Instant::now() < deadline, "no delay was seen");
            std::thread::sleep(POLL);
        }
        strace.detach().unwrap();
        let strace = Strace::attach(child.id(), ALL_SYNCS, "retval=0").unwrap();
        while strace.injected().unwrap() == 0 {
            assert!(Instant::now() < deadline, "no call was injected");
            std::thread::sleep(POLL);
        }
        drop(strace);
        assert!(alive(child.id()).unwrap());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!alive(child.id()).unwrap());
    }
}

//! What Linux tells of processes, of a disk and of the machine, parsed: `/proc/<pid>/{stat,io,status}`, `/proc/stat` and
//! `/sys/dev/block/<number>/stat`.

/// Clock ticks per second in `/proc`, the same on every Linux that this runs on (USER_HZ).
const TICKS_PER_SECOND: f64 = 100.0;

/// Processor time of the whole machine since its boot, in ticks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct MachineTicks {
    /// All of it, over all processors.
    pub(crate) total: u64,
    /// Nothing to do, or only waiting for a disk.
    pub(crate) idle: u64,
    /// Taken by the host of a virtual machine.
    pub(crate) stolen: u64,
}

/// Memory of a process in KiB.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    /// Resident, mapped files included.
    pub(crate) resident_kib: u64,
    /// Resident and its own.
    pub(crate) anonymous_kib: u64,
}

/// Processor seconds that a process has used, user and system, from `/proc/<pid>/stat`.
pub(crate) fn cpu_seconds(stat: &str) -> Option<f64> {
    // The name in brackets may hold blanks and brackets: count from the last one (proc_pid_stat(5): utime is field 14).
    let (_, behind_name) = stat.rsplit_once(')')?;
    let mut fields = behind_name.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((user + system) as f64 / TICKS_PER_SECOND)
}

/// Bytes of pages that a process has made dirty, from `/proc/<pid>/io`. Kernels that keep files in large folios count all of a
/// folio for one byte, so this can be far above what goes to a disk.
pub(crate) fn dirtied_bytes(io: &str) -> Option<u64> {
    io.lines().find_map(|line| line.strip_prefix("write_bytes:"))?.trim().parse().ok()
}

/// Bytes that were written to a block device since the machine started, by whomever, from `/sys/dev/block/<number>/stat`.
pub(crate) fn device_bytes(stat: &str) -> Option<u64> {
    // Sectors of 512 bytes, whatever the device's own are (Documentation/block/stat.rst: field 7).
    stat.split_ascii_whitespace().nth(6)?.parse::<u64>().ok()?.checked_mul(512)
}

/// Memory, from `/proc/<pid>/status`.
pub(crate) fn memory(status: &str) -> Option<Memory> {
    let kib = |name: &str| {
        let value = status.lines().find_map(|line| line.strip_prefix(name))?;
        value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    };
    Some(Memory { resident_kib: kib("VmRSS:")?, anonymous_kib: kib("RssAnon:")? })
}

/// The machine's first line in `/proc/stat`.
pub(crate) fn machine_ticks(stat: &str) -> Option<MachineTicks> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let ticks: Vec<u64> = line.split_ascii_whitespace().map_while(|field| field.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal; guest times are within user and nice already.
    let [user, nice, system, idle, iowait, irq, softirq, steal] = *ticks.first_chunk::<8>()?;
    let total = user + nice + system + idle + iowait + irq + softirq + steal;
    Some(MachineTicks { total, idle: idle + iowait, stolen: steal })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Would break: the CPU figure, for a program whose name looks like fields.
    #[test]
    fn cpu_time_is_counted_behind_the_name() {
        let stat = "4242 (a ) b (c) S 1 4242 4242 0 -1 4194560 900 0 0 0 1234 66 7 8 20 0 11 0 99 1 2 3";
        assert_eq!(cpu_seconds(stat), Some(13.0));
        assert_eq!(cpu_seconds("4242 (x) S 1"), None);
        assert!(cpu_seconds(&std::fs::read_to_string("/proc/self/stat").unwrap()).is_some());
    }

    /// Would break: bytes per message.
    #[test]
    fn bytes_are_found() {
        let io =
            "rchar: 1\nwchar: 2\nsyscr: 3\nsyscw: 4\nread_bytes: 5\nwrite_bytes: 40960\ncancelled_write_bytes: 7\n";
        assert_eq!(dirtied_bytes(io), Some(40_960));
        assert_eq!(dirtied_bytes("wchar: 2\n"), None);
        assert_eq!(device_bytes("    1 2 3 4 5 6 1000 8 0 10 11\n"), Some(512_000));
        assert_eq!(device_bytes("1 2"), None);
    }

    /// Would break: memory per node.
    #[test]
    fn memory_is_found() {
        let status = "Name:\tx\nVmRSS:\t   51200 kB\nRssAnon:\t   10240 kB\nRssFile:\t 1 kB\n";
        assert_eq!(memory(status), Some(Memory { resident_kib: 51_200, anonymous_kib: 10_240 }));
        assert!(memory(&std::fs::read_to_string("/proc/self/status").unwrap()).is_some());
    }

    /// Would break: telling a full machine from an idle one; guest time counted twice.
    #[test]
    fn waiting_for_a_disk_is_idle_and_guests_count_once() {
        let stat = "cpu  100 10 50 700 40 5 5 90 33 3\ncpu0 1 1 1 1 1 1 1 1 1 1\nintr 5\n";
        assert_eq!(machine_ticks(stat), Some(MachineTicks { total: 1_000, idle: 740, stolen: 90 }));
        assert_eq!(machine_ticks("cpu 1 2"), None);
        assert!(machine_ticks(&std::fs::read_to_string("/proc/stat").unwrap()).is_some());
    }
}

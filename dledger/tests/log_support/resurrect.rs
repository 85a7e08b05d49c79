//! A suffix replaced by an equally long frame of an older term.

use ledgermq_dledger::log::{Layout, WriteJob};

use super::{Bed, Entry, append, frames, positions, read_all};

fn entry(term: u64, len: usize, byte: u8) -> Entry {
    Entry::new(term, vec![byte; len])
}

/// The job that cuts `log` behind its first `keep` entries and appends `new`.
pub fn truncating(layout: &Layout, log: &[Entry], keep: usize, new: &[Entry]) -> WriteJob {
    let cut = positions(layout, log)[keep];
    WriteJob { truncate_to: Some(cut), frames: frames(layout, cut, new), ..WriteJob::default() }
}

/// Five frames of term 5 are replaced by one of term 4 with the length of the first; then the process dies. Behind the
/// new frame lie the other four, whole: index, position, term and payload checksum fit. The new frame ends with a page,
/// so the zeros that fill a job's last page do not hit the header behind it.
pub fn replace_and_restart() -> (Bed, Vec<Entry>, Vec<Entry>) {
    let (sim, bed) = Bed::sim(64 * 1024);
    let mut writer = bed.open().unwrap();
    let len = 2 * 4096 - 152 - 48;
    let old = [vec![entry(1, 100, 1)], vec![entry(5, len, 5); 5]].concat();
    writer.write(&append(&writer, &bed.layout, &old)).unwrap();
    writer.sync().unwrap();
    let new = entry(4, len, 4);
    writer.write(&truncating(&bed.layout, &old, 1, std::slice::from_ref(&new))).unwrap();
    assert_eq!(writer.sync().unwrap().end().0 % 4096, 0);
    sim.crash();
    let expected = vec![old[0].clone(), new];
    let found = read_all(&bed.open().unwrap());
    (bed, expected, found)
}

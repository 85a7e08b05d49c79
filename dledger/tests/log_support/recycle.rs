//! Segments that are used again, on a real disk, where readers map them.

use std::sync::Arc;

use ledgermq_dledger::LogPos;
use ledgermq_dledger::fs::{Fs, OsFs};

use super::{Bed, Entry, SMALL, append};

/// Whether bytes that a reader holds stay what they were, when their segment is given up and the log goes on.
pub fn slice_survives_reuse() -> bool {
    let dir = tempfile::tempdir().unwrap();
    let fs: Arc<dyn Fs> = Arc::new(OsFs);
    let bed = Bed::create(fs, &dir.path().join("group"), SMALL);
    let mut writer = bed.open().unwrap();
    let write = |writer: &mut ledgermq_dledger::log::LogWriter, byte| {
        let entries = vec![Entry::new(1, vec![byte; 2500]); 14];
        writer.write(&append(writer, &bed.layout, &entries)).unwrap();
        writer.sync().unwrap();
    };
    write(&mut writer, 1);
    let view = writer.view();
    let held = view.read(LogPos(48), 2500).unwrap();
    writer.remove_before(view.segment_start(LogPos(2 * SMALL)).unwrap()).unwrap();
    write(&mut writer, 2);
    write(&mut writer, 3);
    held.iter().all(|byte| *byte == 1)
}

//! One suite for every implementation of [`Kv`].

use super::*;

fn all(kv: &dyn Kv, family: Family, prefix: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut rows = Vec::new();
    scan_prefix(kv, family, prefix, |key, value| {
        rows.push((key.to_vec(), value.to_vec()));
        std::ops::ControlFlow::Continue(())
    })
    .unwrap();
    rows
}

/// Families are apart, later changes of a batch win, scans are ordered and bounded by their prefix, runs are found.
fn behaves(kv: &dyn Kv) {
    let mut batch = WriteBatch::default();
    batch.put(Family::Topics, b"a", b"1");
    batch.put(Family::Topics, b"b", b"2");
    batch.put(Family::Groups, b"a", b"3");
    batch.put(Family::Topics, b"a", b"4");
    batch.put(Family::Topics, b"c", b"5");
    batch.delete(Family::Topics, b"c");
    batch.put(Family::Topics, b"b\0x", b"");
    kv.write(&batch).unwrap();
    assert_eq!(kv.get(Family::Topics, b"a").unwrap(), Some(b"4".to_vec()));
    assert_eq!(kv.get(Family::Groups, b"a").unwrap(), Some(b"3".to_vec()));
    assert_eq!(kv.get(Family::Topics, b"c").unwrap(), None);
    let rows = all(kv, Family::Topics, b"");
    let keys: Vec<&[u8]> = rows.iter().map(|(key, _)| &key[..]).collect();
    assert_eq!(keys, [&b"a"[..], b"b", b"b\0x"]);
    assert_eq!(all(kv, Family::Topics, b"b\0"), [(b"b\0x".to_vec(), Vec::new())]);
    assert!(all(kv, Family::Meta, b"").is_empty());
    let mut seen = 0;
    kv.scan(Family::Topics, b"a\0", &mut |key, _| {
        seen += 1;
        assert_eq!(key, b"b");
        std::ops::ControlFlow::Break(())
    })
    .unwrap();
    assert_eq!(seen, 1);

    kv.ingest(Family::Index, &mut [&b"k1"[..], b"k2"].into_iter()).unwrap();
    kv.ingest(Family::Index, &mut [&b"k2"[..], b"k3"].into_iter()).unwrap();
    kv.ingest(Family::Index, &mut std::iter::empty()).unwrap();
    assert_eq!(all(kv, Family::Index, b"k").len(), 3);

    batch.clear();
    assert!(batch.is_empty());
    batch.delete(Family::Topics, b"b\0x");
    batch.put(Family::Meta, b"m", &[7; 1000]);
    kv.write(&batch).unwrap();
    assert_eq!(all(kv, Family::Topics, b"b").len(), 1);
    assert_eq!(kv.get(Family::Meta, b"m").unwrap(), Some(vec![7; 1000]));
    kv.flush().unwrap();
}

#[test]
fn rocksdb_behaves() {
    let dir = tempfile::tempdir().unwrap();
    let kv = RocksKv::open(dir.path(), &RocksBudget::default()).unwrap();
    behaves(&kv);
    drop(kv);
    let names = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(!names.into_iter().any(|name| name.to_string_lossy().starts_with("ingest")), "runs are moved, not copied");
    let again = RocksKv::open(dir.path(), &RocksBudget::default()).unwrap();
    assert_eq!(all(&again, Family::Topics, b"").len(), 2);
    assert_eq!(all(&again, Family::Index, b"").len(), 3);
}

#[test]
fn the_simulated_store_behaves() {
    let kv = SimKv::new(1);
    behaves(&kv);
    kv.crash();
    assert_eq!(all(&kv, Family::Topics, b"").len(), 2);
}

/// A crash goes back to a state between two batches, not before the last flush; ingested runs stay. Some seed shows a flush
/// that nobody asked for.
#[test]
fn a_simulated_crash_falls_back_to_a_batch_border() {
    let mut unasked = false;
    for seed in 0..50 {
        let kv = SimKv::new(seed);
        let write = |n: u8| {
            let mut batch = WriteBatch::default();
            batch.put(Family::Meta, b"n", &[n]);
            batch.put(Family::Topics, &[n], b"");
            kv.write(&batch).unwrap();
        };
        (1..=5).for_each(write);
        kv.flush().unwrap();
        (6..=9).for_each(write);
        kv.ingest(Family::Index, &mut [&b"k"[..]].into_iter()).unwrap();
        kv.crash();
        let n = kv.get(Family::Meta, b"n").unwrap().unwrap()[0];
        assert!((5..=9).contains(&n));
        assert_eq!(all(&kv, Family::Topics, b"").len(), usize::from(n));
        assert_eq!(all(&kv, Family::Index, b"").len(), 1);
        unasked |= n > 5;
    }
    assert!(unasked);
}

/// RocksDB too must come back at a batch border when its process dies: nothing is synced but what was flushed.
#[test]
fn rocksdb_without_its_own_log_keeps_flushed_batches() {
    let dir = tempfile::tempdir().unwrap();
    let copy = tempfile::tempdir().unwrap();
    let kv = RocksKv::open(dir.path(), &RocksBudget::default()).unwrap();
    let mut batch = WriteBatch::default();
    batch.put(Family::Meta, b"n", b"1");
    batch.put(Family::Topics, b"t", b"1");
    kv.write(&batch).unwrap();
    kv.flush().unwrap();
    batch.put(Family::Meta, b"n", b"2");
    kv.write(&batch).unwrap();
    // What a killed process leaves behind: the files as they are.
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    let survivor = RocksKv::open(copy.path(), &RocksBudget::default()).unwrap();
    assert_eq!(survivor.get(Family::Meta, b"n").unwrap(), Some(b"1".to_vec()));
    assert_eq!(survivor.get(Family::Topics, b"t").unwrap(), Some(b"1".to_vec()));
}

/// A crash between the ingestion of a run and the removal of its file leaves a second name of a table of the store. The next run
/// must not be written through it.
#[test]
fn a_run_file_left_by_a_crash_is_not_written_over() {
    let dir = tempfile::tempdir().unwrap();
    let open = || RocksKv::open(dir.path(), &RocksBudget::default()).unwrap();
    let kv = open();
    kv.ingest(Family::Index, &mut [&b"k1"[..], b"k2"].into_iter()).unwrap();
    drop(kv);
    let names = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path());
    let tables: Vec<_> = names.filter(|path| path.extension().is_some_and(|end| end == "sst")).collect();
    assert_eq!(tables.len(), 1);
    std::fs::hard_link(&tables[0], dir.path().join("ingest-0.sst")).unwrap();
    let kv = open();
    kv.ingest(Family::Index, &mut [&b"k3"[..]].into_iter()).unwrap();
    drop(kv);
    let rows = all(&open(), Family::Index, b"");
    assert_eq!(rows.iter().map(|(key, _)| &key[..]).collect::<Vec<_>>(), [&b"k1"[..], b"k2", b"k3"]);
}

/// Runs that are given up go as whole files, and nothing else does.
#[test]
fn runs_in_front_of_a_key_are_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let rocks = RocksKv::open(dir.path(), &RocksBudget::default()).unwrap();
    let stores: [&dyn Kv; 2] = [&rocks, &SimKv::new(1)];
    let tables = || {
        let names = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path());
        names.filter(|path| path.extension().is_some_and(|end| end == "sst")).count()
    };
    for kv in stores {
        for run in [[&b"1a"[..], b"1b"], [b"2a", b"2b"], [b"3a", b"3b"]] {
            kv.ingest(Family::Index, &mut run.into_iter()).unwrap();
        }
        kv.drop_ingested(Family::Index, b"3").unwrap();
        let rows = all(kv, Family::Index, b"");
        assert_eq!(rows.iter().map(|(key, _)| &key[..]).collect::<Vec<_>>(), [&b"3a"[..], b"3b"]);
        kv.drop_ingested(Family::Index, b"3a").unwrap();
        assert_eq!(all(kv, Family::Index, b"").len(), 2, "a run that begins there stays");
    }
    assert_eq!(tables(), 1, "the files are gone at once");
}

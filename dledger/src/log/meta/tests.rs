use std::path::Path;

use super::*;
use crate::sim::disk::{Fate, SimFs};

fn meta(term: u64, vote: RaftId) -> Meta {
    let identity = Identity {
        cluster_id: Uuid::from_u128(1),
        group: GroupId(Uuid::from_u128(2)),
        replica: Uuid::from_u128(3),
        raft_id: 4,
    };
    let constants = GroupConstants { segment_size: 1 << 20, format: FORMAT };
    Meta { term, vote, ..Meta::new(identity, constants, Vec::new()) }
}

fn born() -> (SimFs, Arc<dyn Fs>, MetaFile) {
    let sim = SimFs::new();
    let fs: Arc<dyn Fs> = Arc::new(sim.clone());
    let file = MetaFile::create(&fs, Path::new("/a/b"), &meta(0, 0)).unwrap();
    (sim, fs, file)
}

fn found(fs: &Arc<dyn Fs>) -> (u64, RaftId) {
    let (_, meta) = MetaFile::open(fs, Path::new("/a/b")).unwrap();
    (meta.term, meta.vote)
}

#[test]
fn a_birth_is_durable_with_all_its_folders() {
    let (sim, fs, _) = born();
    sim.power_cut_with(&mut |_| Fate::Lost);
    assert_eq!(found(&fs), (0, 0));
}

#[test]
fn a_birth_that_the_power_interrupts_is_whole_or_can_be_repeated() {
    for changes in 0..20 {
        for fate in [Fate::Lost, Fate::Kept, Fate::Torn(100)] {
            let sim = SimFs::new();
            let fs: Arc<dyn Fs> = Arc::new(sim.clone());
            sim.power_off_after(changes);
            let born = MetaFile::create(&fs, Path::new("/a/b"), &meta(0, 0)).is_ok();
            sim.power_cut_with(&mut |_| fate);
            match MetaFile::open(&fs, Path::new("/a/b")) {
                Ok((_, found)) => assert_eq!(found, meta(0, 0)),
                Err(MetaError::Missing(_)) => {
                    assert!(!born);
                    MetaFile::create(&fs, Path::new("/a/b"), &meta(0, 0)).unwrap();
                }
                Err(error) => panic!("after {changes} changes: {error}"),
            }
        }
    }
}

#[test]
fn a_stored_vote_survives_and_a_torn_store_leaves_the_one_before() {
    let (sim, fs, mut file) = born();
    file.store_both(&meta(1, 2)).unwrap();
    for (n, fate) in [Fate::Lost, Fate::Torn(50), Fate::Torn(111), Fate::Kept].into_iter().enumerate() {
        // Power goes between the write and the sync of the first slot.
        sim.power_off_after(1);
        assert!(file.store_both(&meta(9, 9)).is_err());
        sim.power_cut_with(&mut |_| fate);
        let expected = if fate == Fate::Kept { (9, 9) } else { (1, 2) };
        assert_eq!(found(&fs), expected, "case {n}");
        (file, _) = MetaFile::open(&fs, Path::new("/a/b")).unwrap();
    }
}

#[test]
fn opening_puts_the_vote_into_both_slots_again() {
    let (sim, fs, mut file) = born();
    file.store_both(&meta(1, 2)).unwrap();
    // Only the first slot of a new vote reaches the disk.
    sim.power_off_after(2);
    assert!(file.store_both(&meta(3, 4)).is_err());
    sim.power_cut_with(&mut |_| Fate::Lost);
    assert_eq!(found(&fs), (3, 4));
    for slot in 0..2 {
        let bytes = sim.contents(Path::new("/a/b/meta")).unwrap();
        let (_, meta) = Meta::decode(&bytes[slot * SLOT_LEN..]).unwrap();
        assert_eq!((meta.term, meta.vote), (3, 4));
    }
}

#[test]
fn a_foreign_or_unknown_file_is_refused() {
    let (_, fs, mut file) = born();
    let mut other = meta(1, 1);
    other.identity.raft_id = 5;
    file.store(&other).unwrap();
    assert!(matches!(MetaFile::open(&fs, Path::new("/a/b")), Err(MetaError::Mixed(_))));
    file.store(&other).unwrap();
    other.constants.format = 2;
    file.store(&other).unwrap();
    file.store(&other).unwrap();
    assert!(matches!(MetaFile::open(&fs, Path::new("/a/b")), Err(MetaError::Unsupported { format: 2, .. })));
}

#[test]
fn a_log_with_a_newer_term_counts_as_a_vote_given() {
    let mut meta = meta(3, 1);
    meta.commit_hint = 8;
    let last = |index, term| FramePos { index, term, ..FramePos::ORIGIN };
    assert_eq!(meta.hard_state(&last(9, 3)), (3, 1, 8));
    assert_eq!(meta.hard_state(&last(5, 2)), (3, 1, 5));
    assert_eq!(meta.hard_state(&last(9, 4)), (4, 4, 8));
}

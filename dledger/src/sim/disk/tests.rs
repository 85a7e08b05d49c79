use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;

fn disk() -> (SimFs, PathBuf) {
    let sim = SimFs::new();
    sim.create_dir_all(Path::new("/d")).unwrap();
    sim.sync_dir(Path::new("/")).unwrap();
    (sim, PathBuf::from("/d/f"))
}

/// A durable file of `len` bytes `byte`.
fn file(sim: &SimFs, path: &Path, len: usize, byte: u8) -> Arc<dyn File> {
    let file = sim.open(path, OpenMode::CreateNew).unwrap();
    file.write_at(&[&vec![byte; len]], 0).unwrap();
    file.sync_data().unwrap();
    sim.sync_dir(path.parent().unwrap()).unwrap();
    file
}

#[test]
fn only_synced_bytes_survive_a_power_cut_and_all_survive_a_crash() {
    let (sim, path) = disk();
    let handle = file(&sim, &path, 2000, 1);
    handle.write_at(&[&[2; 600]], 500).unwrap();
    sim.crash();
    let seen = sim.contents(&path).unwrap();
    assert_eq!((seen[499], seen[500], seen[1099], seen[1100]), (1, 2, 2, 1));
    sim.power_cut_with(&mut |_| Fate::Lost);
    assert_eq!(sim.contents(&path).unwrap(), vec![1; 2000]);
    assert_eq!(sim.counters().lost_sectors, 3);
}

#[test]
fn each_sector_has_its_own_fate() {
    let (sim, path) = disk();
    let handle = file(&sim, &path, 4 * SECTOR, 1);
    handle.write_at(&[&[2; 4 * SECTOR]], 0).unwrap();
    handle.write_at(&[&[3; 4 * SECTOR]], 0).unwrap();
    let mut fates = [Fate::Kept, Fate::Lost, Fate::Older(0), Fate::Torn(10)].into_iter();
    sim.power_cut_with(&mut |unsynced| {
        assert!(matches!(unsynced, Unsynced::Sector { versions: 1, path: Some(_), .. }));
        fates.next().unwrap()
    });
    let seen = sim.contents(&path).unwrap();
    let firsts: Vec<u8> = (0..4).map(|sector| seen[sector * SECTOR]).collect();
    assert_eq!(firsts, [3, 1, 2, 3]);
    assert_eq!((seen[3 * SECTOR + 9], seen[3 * SECTOR + 10]), (3, 1));
}

#[test]
fn handles_of_a_dead_process_fail() {
    let (sim, path) = disk();
    let handle = file(&sim, &path, 100, 1);
    let mapping = handle.map(100).unwrap();
    for restart in 0..2 {
        if restart == 0 {
            sim.crash()
        } else {
            sim.power_cut(&mut StdRng::seed_from_u64(1))
        }
        assert!(handle.write_at(&[b"x"], 0).is_err());
        assert!(handle.sync_data().is_err());
        assert!(handle.read_at(&mut [0], 0).is_err());
        assert!(mapping.clone().slice(0, 1).is_err());
    }
    assert!(sim.open(&path, OpenMode::Read).is_ok());
}

#[test]
fn a_name_is_durable_only_after_its_folder_was_synced() {
    let (sim, path) = disk();
    let handle = sim.open(&path, OpenMode::CreateNew).unwrap();
    handle.write_at(&[b"x"], 0).unwrap();
    handle.sync_data().unwrap();
    sim.power_cut_with(&mut |_| Fate::Lost);
    assert_eq!(sim.contents(&path), None);

    file(&sim, &path, 1, 1);
    sim.rename(&path, Path::new("/d/g")).unwrap();
    sim.power_cut_with(&mut |_| Fate::Lost);
    assert_eq!(sim.paths(), std::slice::from_ref(&path));
    sim.rename(&path, Path::new("/d/g")).unwrap();
    sim.sync_dir(Path::new("/d")).unwrap();
    sim.remove_file(Path::new("/d/g")).unwrap();
    assert_eq!(sim.paths(), [""; 0].map(PathBuf::from));
    sim.power_cut_with(&mut |_| Fate::Lost);
    assert_eq!(sim.contents(Path::new("/d/g")).unwrap(), [1]);
    // A folder whose own name is not durable takes everything in it along.
    sim.create_dir_all(Path::new("/e/deep")).unwrap();
    file(&sim, Path::new("/e/deep/f"), 1, 1);
    sim.power_cut_with(&mut |_| Fate::Lost);
    assert_eq!(sim.contents(Path::new("/e/deep/f")), None);
}

#[test]
fn later_changes_of_a_name_never_survive_without_the_earlier_ones() {
    for seed in 0..200 {
        let (sim, path) = disk();
        file(&sim, &path, 1, 1);
        // The usual way to replace a file: after a power cut the old or the new one is there, whole.
        let new = Path::new("/d/new");
        let handle = sim.open(new, OpenMode::CreateNew).unwrap();
        handle.write_at(&[&[2; 1]], 0).unwrap();
        handle.sync_data().unwrap();
        sim.rename(new, &path).unwrap();
        sim.power_cut(&mut StdRng::seed_from_u64(seed));
        let seen = sim.contents(&path).unwrap();
        assert!(seen == [1] || seen == [2], "seed {seed}: {seen:?}");
    }
}

#[test]
fn a_renamed_folder_takes_its_files_along() {
    let (sim, _) = disk();
    sim.create_dir_all(Path::new("/d/tmp")).unwrap();
    file(&sim, Path::new("/d/tmp/f"), 1, 7);
    sim.rename(Path::new("/d/tmp"), Path::new("/d/final")).unwrap();
    sim.sync_dir(Path::new("/d")).unwrap();
    sim.power_cut_with(&mut |_| Fate::Lost);
    assert_eq!(sim.contents(Path::new("/d/final/f")).unwrap(), [7]);
    sim.remove_dir_all(Path::new("/d/final")).unwrap();
    sim.sync_fs(Path::new("/")).unwrap();
    sim.power_cut_with(&mut |_| Fate::Lost);
    assert_eq!(sim.list(Path::new("/d")).unwrap(), [""; 0]);
}

#[test]
fn after_a_failed_sync_the_cache_lies() {
    let (sim, path) = disk();
    let handle = file(&sim, &path, 1000, 1);
    handle.write_at(&[&[2; 1000]], 0).unwrap();
    sim.fail_sync(1, "/d/f");
    assert_eq!(handle.sync_data().unwrap_err().raw_os_error(), Some(5));
    handle.sync_data().unwrap();
    let mut buf = [0; 1000];
    handle.read_at(&mut buf, 0).unwrap();
    assert_eq!(buf, [2; 1000]);
    sim.crash();
    let handle = sim.open(&path, OpenMode::Read).unwrap();
    handle.read_uncached_at(&mut buf, 0).unwrap();
    assert_eq!(buf, [1; 1000]);
    assert_eq!(sim.contents(&path).unwrap(), [1; 1000]);
}

#[test]
fn an_unsynced_length_may_be_lost() {
    let (sim, path) = disk();
    let handle = file(&sim, &path, 10, 1);
    handle.write_at(&[&[2; 10]], 10).unwrap();
    sim.power_cut_with(&mut |unsynced| match unsynced {
        Unsynced::Length { .. } => Fate::Lost,
        _ => Fate::Kept,
    });
    assert_eq!(sim.contents(&path).unwrap(), [1; 10]);
    let handle = sim.open(&path, OpenMode::ReadWrite).unwrap();
    handle.set_len(3).unwrap();
    sim.power_cut_with(&mut |_| Fate::Lost);
    assert_eq!(sim.contents(&path).unwrap(), [1; 10]);
}

#[test]
fn equal_seeds_give_equal_disks() {
    let run = |seed| {
        let (sim, path) = disk();
        let handle = file(&sim, &path, 100_000, 1);
        handle.write_at(&[&[2; 90_000]], 777).unwrap();
        for n in 0..20 {
            file_unsynced(&sim, n);
        }
        sim.power_cut(&mut StdRng::seed_from_u64(seed));
        let contents: Vec<_> = sim.paths().into_iter().map(|path| (sim.contents(&path), path)).collect();
        (contents, sim.counters())
    };
    for seed in 0..20 {
        assert_eq!(run(seed), run(seed));
    }
    assert!((1..20).any(|seed| run(seed) != run(0)));
}

fn file_unsynced(sim: &SimFs, n: u8) {
    let handle = sim.open(Path::new(&format!("/d/{n}")), OpenMode::CreateNew).unwrap();
    handle.write_at(&[&[n; 5000]], 0).unwrap();
}

#[test]
fn a_full_disk_refuses_growth_only() {
    let (sim, path) = disk();
    let handle = file(&sim, &path, 1000, 1);
    sim.set_capacity(Some(1500));
    assert_eq!(sim.free_bytes(&path).unwrap(), 500);
    handle.write_at(&[&[2; 1000]], 0).unwrap();
    assert_eq!(handle.write_at(&[&[2; 1000]], 600).unwrap_err().kind(), io::ErrorKind::StorageFull);
    handle.write_at(&[&[2; 500]], 1000).unwrap();
    assert_eq!(sim.free_bytes(&path).unwrap(), 0);
}

#[test]
fn the_power_goes_after_the_given_number_of_changes() {
    let (sim, path) = disk();
    let handle = file(&sim, &path, 10, 1);
    sim.power_off_after(2);
    handle.write_at(&[b"ab"], 0).unwrap();
    handle.sync_data().unwrap();
    assert!(!sim.is_off());
    assert!(handle.write_at(&[b"cd"], 0).is_err());
    assert!(sim.is_off());
    assert!(handle.read_at(&mut [0], 0).is_err());
    sim.crash();
    assert_eq!(&sim.contents(&path).unwrap()[..2], b"ab");
}

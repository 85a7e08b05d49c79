//! Exhaustive crash points: every subset of a small job's sectors, and the power gone before each change of a longer
//! story.
//!
//! What would break: an order of write-back that nobody thought of, under which recovery refuses, invents or forgets.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test that cannot go on says where")]

mod log_support;

use std::ops::Range;

use ledgermq_dledger::fs::OpenMode;
use ledgermq_dledger::log::segment::segment_path;
use ledgermq_dledger::log::{Doubts, LogWriter, MetaWrite, WriteJob};
use ledgermq_dledger::sim::disk::{Fate, SimFs, Unsynced};
use ledgermq_dledger::{FramePos, LogPos};
use log_support::{Bed, Entry, SMALL, append, assert_bytes, frames, positions, read_all};
use rand::SeedableRng;
use rand::rngs::StdRng;

/// Sectors of a job up to which every subset is tried.
const SUBSETS_MAX: u32 = 13;

fn entry(term: u64, len: usize, byte: u8) -> Entry {
    Entry::new(term, vec![byte; len])
}

/// Runs `before`, syncs, runs the job, and cuts the power with every subset of the unsynced sectors kept. `allowed`
/// judges what each restart finds.
fn every_subset(
    before: &[Entry],
    job: impl Fn(&Bed, &LogWriter) -> WriteJob,
    allowed: impl Fn(&[Entry]) -> bool,
) -> u32 {
    let run = |kept: u32, torn: bool| {
        let (sim, bed) = Bed::sim(SMALL);
        let mut writer = bed.open().unwrap();
        writer.write(&append(&writer, &bed.layout, before)).unwrap();
        writer.sync().unwrap();
        writer.write(&job(&bed, &writer)).unwrap();
        let sectors = sim.unsynced_sectors() as u32;
        let mut sector = 0;
        sim.power_cut_with(&mut |unsynced| {
            let Unsynced::Sector { .. } = unsynced else { return Fate::Lost };
            sector += 1;
            match kept >> (sector - 1) & 1 {
                1 => Fate::Kept,
                _ if torn => Fate::Torn(200),
                _ => Fate::Lost,
            }
        });
        let writer = bed.open().unwrap_or_else(|error| panic!("sectors {kept:b}: {error}"));
        let found = read_all(&writer);
        assert!(allowed(&found), "sectors {kept:b}, torn {torn}: found {} entries", found.len());
        assert_bytes(&bed, &found);
        sectors
    };
    let sectors = run(0, false);
    assert!(sectors <= SUBSETS_MAX, "{sectors} sectors are too many");
    for kept in 0..1u32 << sectors {
        run(kept, false);
        run(kept, true);
    }
    sectors
}

/// Whether `found` is the first `from..` entries of `log`.
fn is_prefix(found: &[Entry], log: &[Entry], lens: Range<usize>) -> bool {
    lens.contains(&found.len()) && log.starts_with(found)
}

#[test]
fn every_subset_of_an_appended_job_leaves_a_prefix() {
    let before = vec![entry(1, 700, 1), entry(1, 100, 2)];
    let new = vec![entry(1, 400, 3), entry(2, 0, 4), entry(2, 1000, 5), entry(2, 1200, 6)];
    let log = [before.clone(), new.clone()].concat();
    let sectors = every_subset(
        &before,
        |bed, writer| append(writer, &bed.layout, &new),
        |found| is_prefix(found, &log, before.len()..log.len() + 1),
    );
    assert!(sectors > 6, "{sectors}");
}

#[test]
fn every_subset_of_a_job_over_a_segment_end_leaves_a_prefix() {
    // The blank is longer than a header, shorter than one, and absent: the segment is filled exactly.
    for left in [1000usize, 40, 0] {
        let filler = SMALL as usize - 4 * 4096 + 4096 - left - 48;
        let before = [vec![entry(1, 4048, 1); 3], vec![entry(1, filler - 552, 2)]].concat();
        let new = vec![entry(1, 504, 3), entry(2, 960, 4), entry(2, 100, 5)];
        let log = [before.clone(), new.clone()].concat();
        let tail = *positions(&ledgermq_dledger::log::Layout { segment_size: SMALL }, &log[..5]).last().unwrap();
        assert_eq!(tail.end(), LogPos(SMALL - left as u64));
        every_subset(
            &before,
            |bed, writer| append(writer, &bed.layout, &new),
            |found| is_prefix(found, &log, before.len()..log.len() + 1),
        );
    }
}

#[test]
fn every_subset_of_a_truncating_job_leaves_the_old_log_or_a_prefix_of_the_new_one() {
    let keep = 2;
    let before = vec![entry(1, 300, 1), entry(1, 100, 2), entry(5, 400, 3), entry(5, 900, 4), entry(5, 200, 5)];
    for lens in [[400usize, 900], [100, 300], [800, 700]] {
        let new: Vec<Entry> = lens.iter().map(|&len| entry(4, len, 9)).collect();
        let log = [&before[..keep], &new[..]].concat();
        every_subset(
            &before,
            |bed, _| {
                let cut = positions(&bed.layout, &before)[keep];
                WriteJob { truncate_to: Some(cut), frames: frames(&bed.layout, cut, &new), ..WriteJob::default() }
            },
            |found| is_prefix(found, &log, keep..log.len() + 1) || is_prefix(found, &before, keep..before.len() + 1),
        );
    }
}

/// A story with everything in it; returns what is certain after each finished call: entries, term and vote.
struct Story {
    /// Logs that may be found now: any prefix, at least `certain` long, of any of them.
    possible: Vec<Vec<Entry>>,
    certain: usize,
    votes: Vec<(u64, u64)>,
}

fn tell(bed: &Bed, story: &mut Story) -> Option<()> {
    let mut writer = bed.open().ok()?;
    let mut log: Vec<Entry> = Vec::new();
    for round in 1..=6u64 {
        let mut meta = writer.meta().clone();
        (meta.term, meta.vote) = (round, round % 3 + 1);
        story.votes.push((meta.term, meta.vote));
        let mut job = WriteJob { meta: Some(MetaWrite { meta, both_slots: true }), ..WriteJob::default() };
        let mut from: FramePos = writer.tail();
        if round % 3 == 0 {
            let keep = log.len() - 2;
            from = positions(&bed.layout, &log)[keep];
            job.truncate_to = Some(from);
            log.truncate(keep);
            story.certain = keep;
        }
        let new: Vec<Entry> = (0..3).map(|n| entry(round, 1500 + 300 * n, round as u8 * 10 + n as u8)).collect();
        job.frames = frames(&bed.layout, from, &new);
        log.extend(new);
        story.possible.push(log.clone());
        writer.write(&job).ok()?;
        story.votes.drain(..story.votes.len() - 1);
        writer.sync().ok()?;
        story.possible.drain(..story.possible.len() - 1);
        story.certain = log.len();
    }
    Some(())
}

#[test]
fn the_power_may_go_before_any_change() {
    let mut points = 0;
    for seed in 0..12 {
        let mut rng = StdRng::seed_from_u64(seed);
        for changes in 0.. {
            let (sim, bed) = Bed::sim(SMALL);
            sim.power_off_after(changes);
            let mut story = Story { possible: vec![Vec::new()], certain: 0, votes: vec![(0, 0)] };
            let finished = tell(&bed, &mut story).is_some();
            sim.power_cut(&mut rng);
            let writer = bed.open().unwrap_or_else(|error| panic!("seed {seed}, {changes} changes: {error}"));
            let found = read_all(&writer);
            assert!(
                found.len() >= story.certain && story.possible.iter().any(|log| log.starts_with(&found)),
                "seed {seed}, {changes} changes: {} entries found, {} certain",
                found.len(),
                story.certain
            );
            let vote = (writer.meta().term, writer.meta().vote);
            assert!(story.votes.contains(&vote), "seed {seed}, {changes} changes: vote {vote:?}");
            assert_bytes(&bed, &found);
            points += 1;
            if finished {
                break;
            }
        }
    }
    println!("{points} points");
    assert!(points > 500, "{points}");
}

#[test]
fn the_power_may_go_again_in_the_middle_of_a_recovery() {
    let mut rng = StdRng::seed_from_u64(7);
    let log = [vec![entry(1, 700, 1)], (0..8).map(|n| entry(2, 900, n + 2)).collect()].concat();
    for changes in 0..40 {
        let (sim, bed) = Bed::sim(SMALL);
        let mut writer = bed.open().unwrap();
        writer.write(&append(&writer, &bed.layout, &log[..1])).unwrap();
        writer.sync().unwrap();
        writer.write(&append(&writer, &bed.layout, &log[1..])).unwrap();
        // The second frame is torn, the last ones are whole: a torn job.
        let mut n = 0;
        sim.power_cut_with(&mut |_| {
            n += 1;
            if n < 5 { Fate::Lost } else { Fate::Kept }
        });
        sim.power_off_after(changes);
        let opened = bed.open();
        let finished = opened.is_ok();
        drop(opened);
        sim.power_cut(&mut rng);
        let writer = bed.open().unwrap();
        assert_eq!(read_all(&writer), log[..1]);
        assert!(writer.meta().doubts.contains(Doubts::SUSPECT_TAIL), "{changes} changes: the doubt is forgotten");
        assert_bytes(&bed, &log[..1]);
        if finished {
            assert!(changes > 3);
            return;
        }
    }
    panic!("recovery never finished");
}

#[test]
fn a_job_that_fails_ends_the_writer() {
    let (sim, bed) = Bed::sim(SMALL);
    let mut writer = bed.open().unwrap();
    let log = vec![entry(1, 10, 1)];
    writer.write(&append(&writer, &bed.layout, &log)).unwrap();
    sim.fail_sync(1, "/log/");
    assert_eq!(writer.sync().unwrap_err().raw_os_error(), Some(5));
    // A second sync of the file would succeed without having written anything.
    let again = writer.sync().unwrap_err().to_string();
    assert!(again.contains("failed before"), "{again}");
    assert!(writer.write(&WriteJob::default()).is_err());
    // After the process has died the cache still shows the frame; recovery reads the disk, where it is not.
    sim.crash();
    let file = bed.fs.open(&segment_path(&bed.dir, LogPos(0)), OpenMode::Read).unwrap();
    let mut cached = [0; 4];
    file.read_at(&mut cached, 0).unwrap();
    assert_eq!(cached, *b"LMF\x01");
    assert_eq!(read_all(&bed.open().unwrap()), []);
}

#[test]
fn a_dead_process_leaves_a_tail_that_is_synced_before_it_counts() {
    let (sim, bed): (SimFs, Bed) = Bed::sim(SMALL);
    let mut writer = bed.open().unwrap();
    let log = vec![entry(1, 10, 1), entry(1, 3000, 2)];
    writer.write(&append(&writer, &bed.layout, &log)).unwrap();
    sim.crash();
    let writer = bed.open().unwrap();
    assert_eq!(read_all(&writer), log);
    // The restarted replica answers for these frames, so a power cut may not take them away again.
    sim.power_cut_with(&mut |_| Fate::Lost);
    assert_eq!(read_all(&bed.open().unwrap()), log);
}

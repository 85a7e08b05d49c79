//! A replica's log that lives and dies at random, and the model that says what each restart must find.

use bytes::Bytes;
use ledgermq_dledger::log::frame::{ALIGN, HEADER_LEN, Layout};
use ledgermq_dledger::log::{LogWriter, MetaWrite, TailState, WriteJob};
use ledgermq_dledger::sim::disk::SimFs;
use ledgermq_dledger::{FrameKind, FramePos};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{Bed, Entry, SMALL, assert_bytes, frames, positions, read_all};

/// Jobs of one life, at most.
const STEPS: usize = 15;

/// Lives of one seed.
const LIVES: usize = 6;

/// What must be found after the next restart.
struct Model {
    layout: Layout,
    /// What the writer was told to hold.
    log: Vec<Entry>,
    /// How many of them are certainly on disk.
    synced: usize,
    /// The log before a truncation that has not been synced yet: it may come back whole.
    before_cut: Option<Vec<Entry>>,
    /// Entries of a job during which the power went off.
    in_flight: Vec<Entry>,
    /// Term and vote that were stored, and one that was being stored.
    vote: (u64, u64),
    vote_in_flight: Option<(u64, u64)>,
}

/// How often the interesting things happened.
#[derive(Default, Debug)]
pub struct Sometimes {
    pub torn_tail: u64,
    pub torn_job: u64,
    pub truncation_undone: u64,
    pub truncations: u64,
    pub power_cuts: u64,
    pub crashes: u64,
    pub off_in_the_middle: u64,
    pub exact_fills: u64,
    pub narrow_blanks: u64,
}

impl Model {
    fn tail(&self) -> FramePos {
        *positions(&self.layout, &self.log).last().unwrap()
    }

    /// Takes in what a restart found.
    fn settle(&mut self, found: Vec<Entry>, exact: bool, counts: &mut Sometimes) {
        let mut longest = self.log.clone();
        longest.append(&mut self.in_flight);
        let continues = found.len() >= self.synced && longest.starts_with(&found);
        let undone = self.before_cut.as_ref().is_some_and(|old| found.len() >= self.synced && old.starts_with(&found));
        assert!(
            continues || undone,
            "{} entries found, {} synced, {} written",
            found.len(),
            self.synced,
            longest.len()
        );
        if exact {
            assert!(found.len() >= self.log.len() || undone, "a dying process lost what it had written");
        }
        counts.truncation_undone += u64::from(undone && !continues);
        self.log = found;
        self.synced = self.log.len();
        self.before_cut = None;
    }
}

fn payload(rng: &mut StdRng, layout: &Layout, tail: FramePos, counts: &mut Sometimes) -> Bytes {
    let max = layout.max_payload_len();
    let room = layout.room(tail.end()) as usize;
    let len = match rng.random_range(0..10) {
        0 => 0,
        1..6 => rng.random_range(0..300),
        6..8 => rng.random_range(0..=max),
        // Fill the segment exactly, or leave less than a header.
        8 if room >= HEADER_LEN && room - HEADER_LEN <= max => {
            counts.exact_fills += 1;
            room - HEADER_LEN
        }
        9 if room >= 2 * HEADER_LEN && room - 2 * HEADER_LEN <= max => {
            counts.narrow_blanks += 1;
            room - HEADER_LEN - rng.random_range(1..HEADER_LEN / ALIGN as usize) * ALIGN as usize
        }
        _ => max,
    };
    let mut bytes = vec![0; len.min(max)];
    rng.fill(&mut bytes[..]);
    bytes.into()
}

fn new_entries(rng: &mut StdRng, model: &Model, from: FramePos, counts: &mut Sometimes) -> Vec<Entry> {
    let mut tail = from;
    (0..rng.random_range(1..6))
        .map(|_| {
            let term = tail.term + u64::from(rng.random_ratio(1, 6));
            let entry = Entry {
                term: term.max(1),
                kind: FrameKind::Messages,
                payload: payload(rng, &model.layout, tail, counts),
            };
            tail = frames(&model.layout, tail, std::slice::from_ref(&entry))[0].at;
            entry
        })
        .collect()
}

/// One job: perhaps a truncation, perhaps a vote, some frames.
fn job(rng: &mut StdRng, model: &mut Model, writer: &LogWriter, counts: &mut Sometimes) -> WriteJob {
    let mut job = WriteJob::default();
    if rng.random_ratio(1, 10) {
        let mut meta = writer.meta().clone();
        meta.term += 1;
        meta.vote = rng.random_range(1..4);
        model.vote_in_flight = Some((meta.term, meta.vote));
        job.meta = Some(MetaWrite { meta, both_slots: true });
    }
    let mut tail = model.tail();
    let cut = rng.random_ratio(1, 6) && !model.log.is_empty();
    if cut {
        counts.truncations += 1;
        let keep = rng.random_range(model.log.len().saturating_sub(8)..model.log.len());
        tail = positions(&model.layout, &model.log)[keep];
        job.truncate_to = Some(tail);
        // The writer syncs what is unsynced before it cuts, so all of the old log may come back.
        model.before_cut = Some(model.log.clone());
        // Until it has, only what was synced or survives the cut is certain.
        model.synced = model.synced.min(keep);
        model.log.truncate(keep);
        // Often entries of the very lengths that were cut: their remains then fit the scan in all but the chain.
        if rng.random_ratio(1, 2) {
            let old = model.before_cut.as_ref().unwrap();
            let again = rng.random_range(1..=old.len() - keep);
            model.in_flight = old[keep..keep + again]
                .iter()
                .map(|old| {
                    let mut bytes = vec![0; old.payload.len()];
                    rng.fill(&mut bytes[..]);
                    Entry { term: tail.term.max(1), kind: old.kind, payload: bytes.into() }
                })
                .collect();
        }
    }
    if model.in_flight.is_empty() {
        model.in_flight = new_entries(rng, model, tail, counts);
    }
    if let Some(old) = model.before_cut.as_ref().filter(|_| cut)
        && old[model.log.len()] == model.in_flight[0]
    {
        // The same entry once more is no conflict: what followed it may then follow it again.
        model.in_flight[0].payload = rng.random::<u128>().to_le_bytes().to_vec().into();
        model.in_flight.truncate(1);
    }
    job.frames = frames(&model.layout, tail, &model.in_flight);
    job
}

/// Runs the writer until the seed says that it dies.
fn life(rng: &mut StdRng, sim: &SimFs, writer: &mut LogWriter, model: &mut Model, counts: &mut Sometimes) {
    for _ in 0..rng.random_range(1..STEPS) {
        let job = job(rng, model, writer, counts);
        if writer.write(&job).is_err() {
            assert!(sim.is_off());
            return;
        }
        let written = std::mem::take(&mut model.in_flight);
        model.log.extend(written);
        model.vote = model.vote_in_flight.take().unwrap_or(model.vote);
        // A truncating job must be synced before the next one starts (truncation barrier); others may share a sync.
        if model.before_cut.is_some() || rng.random_ratio(2, 3) {
            match writer.sync() {
                Ok(durable) => {
                    assert_eq!(durable, model.tail());
                    model.synced = model.log.len();
                    model.before_cut = None;
                }
                Err(_) => {
                    assert!(sim.is_off());
                    return;
                }
            }
        }
    }
}

/// One life after another of a replica's log; panics when a restart finds what must not be.
pub fn run(seed: u64, counts: &mut Sometimes) {
    let mut rng = StdRng::seed_from_u64(seed);
    let (sim, bed) = Bed::sim(SMALL);
    let mut model = Model {
        layout: bed.layout,
        log: Vec::new(),
        synced: 0,
        before_cut: None,
        in_flight: Vec::new(),
        vote: (0, 0),
        vote_in_flight: None,
    };
    // Whether the last death left the page cache alone, so that everything written must be found.
    let mut all_written = true;
    for _ in 0..LIVES {
        if rng.random_ratio(1, 3) {
            sim.power_off_after(rng.random_range(0..60));
        }
        let opened = bed.open_with_state();
        let Ok((mut writer, state)) = opened else {
            assert!(sim.is_off(), "seed {seed}: {}", opened.err().unwrap());
            counts.off_in_the_middle += 1;
            sim.power_cut(&mut rng);
            all_written = false;
            continue;
        };
        counts.torn_tail += u64::from(state == TailState::TornTail);
        counts.torn_job += u64::from(state == TailState::TornJob);
        model.settle(read_all(&writer), all_written, counts);
        let vote = (writer.meta().term, writer.meta().vote);
        assert!(vote == model.vote || Some(vote) == model.vote_in_flight, "seed {seed}: vote {vote:?}");
        model.vote = vote;
        model.vote_in_flight = None;
        if !sim.is_off() {
            assert_bytes(&bed, &model.log);
        }
        life(&mut rng, &sim, &mut writer, &mut model, counts);
        drop(writer);
        counts.off_in_the_middle += u64::from(sim.is_off());
        all_written = rng.random_ratio(1, 3);
        if all_written {
            counts.crashes += 1;
            sim.crash();
        } else {
            counts.power_cuts += 1;
            sim.power_cut(&mut rng);
        }
    }
}

//! The store of the simulator: in memory, with a durable past to fall back to.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ledgermq_dledger::fs::{Fs, OpenMode};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{Family, Kv, KvError, Visitor, WriteBatch};

/// One batch in this many is followed by a flush that nobody asked for, as RocksDB flushes when its buffer is full.
const UNASKED_FLUSH_ONE_IN: u32 = 16;

type Map = BTreeMap<(Family, Vec<u8>), Vec<u8>>;

/// A store whose content is kept by its clones: those of one "disk" share it. [`SimKv::crash`] takes it back to what was
/// durable; the seed decides which batches happened to become durable without a flush.
#[derive(Clone)]
pub struct SimKv {
    shared: Arc<Mutex<Shared>>,
}

struct Shared {
    live: Map,
    durable: Map,
    /// Batches in `live` that are not in `durable`.
    unflushed: Vec<WriteBatch>,
    random: StdRng,
    flushes: u64,
    /// Folder of the checkpoint that it began with.
    loaded: Option<PathBuf>,
}

/// Name of the one file of a checkpoint.
const CHECKPOINT_NAME: &str = "rows";

impl SimKv {
    /// An empty store.
    pub fn new(seed: u64) -> Self {
        let random = StdRng::seed_from_u64(seed);
        let shared =
            Shared { live: Map::new(), durable: Map::new(), unflushed: Vec::new(), random, flushes: 0, loaded: None };
        SimKv { shared: Arc::new(Mutex::new(shared)) }
    }

    /// What a crash of the process does, and a power cut too: without a log of its own the store loses its memory either way.
    pub fn crash(&self) {
        let mut shared = self.shared.lock();
        shared.live = shared.durable.clone();
        shared.unflushed.clear();
    }

    /// Whether its content began with the checkpoint in this folder.
    pub fn began_with(&self, dir: &Path) -> bool {
        self.shared.lock().loaded.as_deref() == Some(dir)
    }

    /// Takes the content of the checkpoint in `dir` in place of its own, unless it began with that one.
    ///
    /// # Errors
    /// The checkpoint is not there, or not whole.
    pub fn load(&self, fs: &dyn Fs, dir: &Path) -> Result<(), KvError> {
        let mut shared = self.shared.lock();
        if shared.loaded.as_deref() == Some(dir) {
            return Ok(());
        }
        let path = dir.join(CHECKPOINT_NAME);
        let failed = |reason: String| KvError { place: path.display().to_string(), reason };
        let read = fs.open(&path, OpenMode::Read).and_then(|file| {
            let mut bytes = vec![0; file.len()? as usize];
            file.read_at(&mut bytes, 0)?;
            Ok(bytes)
        });
        let bytes = read.map_err(|error| failed(error.to_string()))?;
        let map = decode(&bytes).ok_or_else(|| failed("it is damaged".to_owned()))?;
        shared.durable = map.clone();
        shared.live = map;
        shared.unflushed.clear();
        shared.loaded = Some(dir.to_owned());
        Ok(())
    }

    /// Number of flushes so far, asked for or not.
    pub fn flushes(&self) -> u64 {
        self.shared.lock().flushes
    }
}

impl Shared {
    fn make_durable(&mut self) {
        for batch in self.unflushed.drain(..) {
            apply(&mut self.durable, &batch);
        }
        self.flushes += 1;
    }
}

fn encode(map: &Map) -> Vec<u8> {
    let mut out = Vec::new();
    let mut put = |bytes: &[u8]| {
        out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        out.extend_from_slice(bytes);
    };
    for ((family, key), value) in map {
        [family.name().as_bytes(), key, value].into_iter().for_each(&mut put);
    }
    // A file that ends too early, or in zeros, is noticed.
    put(b"end");
    out
}

fn decode(mut bytes: &[u8]) -> Option<Map> {
    let mut take = || {
        let len = u32::from_le_bytes(*bytes.first_chunk()?) as usize;
        let taken = bytes.get(4..4 + len)?;
        bytes = &bytes[4 + len..];
        Some(taken)
    };
    let mut map = Map::new();
    loop {
        let name = take()?;
        if name == b"end" {
            return Some(map);
        }
        let family = Family::ALL.into_iter().find(|family| family.name().as_bytes() == name)?;
        let key = take()?.to_vec();
        map.insert((family, key), take()?.to_vec());
    }
}

fn apply(map: &mut Map, batch: &WriteBatch) {
    for (family, key, value) in batch.iter() {
        match value {
            Some(value) => {
                map.insert((family, key.to_vec()), value.to_vec());
            }
            None => {
                map.remove(&(family, key.to_vec()));
            }
        }
    }
}

impl Kv for SimKv {
    fn write(&self, batch: &WriteBatch) -> Result<(), KvError> {
        let mut shared = self.shared.lock();
        apply(&mut shared.live, batch);
        shared.unflushed.push(batch.clone());
        if shared.random.random_ratio(1, UNASKED_FLUSH_ONE_IN) {
            shared.make_durable();
        }
        Ok(())
    }

    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        Ok(self.shared.lock().live.get(&(family, key.to_vec())).cloned())
    }

    fn scan(&self, family: Family, from: &[u8], visit: &mut Visitor<'_>) -> Result<(), KvError> {
        let mut next = Bound::Included((family, from.to_vec()));
        // The lock is not held while the visitor runs: it may use the store.
        loop {
            let row = {
                let shared = self.shared.lock();
                shared.live.range((next, Bound::Unbounded)).next().map(|(key, value)| (key.clone(), value.clone()))
            };
            let Some((key, value)) = row.filter(|((in_family, _), _)| *in_family == family) else { return Ok(()) };
            if visit(&key.1, &value).is_break() {
                return Ok(());
            }
            next = Bound::Excluded(key);
        }
    }

    fn ingest(&self, family: Family, keys: &mut dyn Iterator<Item = &[u8]>) -> Result<(), KvError> {
        let mut shared = self.shared.lock();
        for key in keys {
            shared.live.insert((family, key.to_vec()), Vec::new());
            shared.durable.insert((family, key.to_vec()), Vec::new());
        }
        Ok(())
    }

    fn drop_ingested(&self, family: Family, end: &[u8]) -> Result<(), KvError> {
        let mut shared = self.shared.lock();
        let kept = |(of, key): &(Family, Vec<u8>), _: &mut Vec<u8>| *of != family || key.as_slice() >= end;
        shared.live.retain(kept);
        shared.durable.retain(kept);
        Ok(())
    }

    fn checkpoint(&self, fs: &dyn Fs, dir: &Path) -> Result<Vec<(String, u64)>, KvError> {
        let bytes = encode(&self.shared.lock().live);
        let path = dir.join(CHECKPOINT_NAME);
        let write = || {
            fs.create_dir_all(dir)?;
            fs.open(&path, OpenMode::CreateNew)?.write_at(&[&bytes], 0)
        };
        write().map_err(|error| KvError { place: path.display().to_string(), reason: error.to_string() })?;
        Ok(vec![(CHECKPOINT_NAME.to_owned(), bytes.len() as u64)])
    }

    fn flush(&self) -> Result<(), KvError> {
        self.shared.lock().make_durable();
        Ok(())
    }
}

//! RocksDB behind the key-value trait.
//!
//! Its write-ahead log is off, since the CommitLog is one; `atomic_flush` keeps all families at the same batch whenever it
//! flushes, asked or not.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use ledgermq_dledger::fs::Fs;
use rocksdb::checkpoint::Checkpoint;
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, Direction, FlushOptions,
    IngestExternalFileOptions, IteratorMode, Options, SstFileWriter, WriteBufferManager, WriteOptions,
};

use super::{Family, Kv, KvError, Visitor, WriteBatch};

/// Memory of all stores of one node together: give the same budget to each of them.
#[derive(Clone)]
pub struct RocksBudget {
    cache: Cache,
    write_buffers: WriteBufferManager,
}

impl RocksBudget {
    /// So many bytes of cached blocks, and of changes that are not flushed yet.
    pub fn new(cache_bytes: usize, write_buffer_bytes: usize) -> Self {
        RocksBudget {
            cache: Cache::new_lru_cache(cache_bytes),
            write_buffers: WriteBufferManager::new_write_buffer_manager(write_buffer_bytes, false),
        }
    }
}

impl Default for RocksBudget {
    /// 64 MiB and 64 MiB: the state is small, what is large (messages, ConsumeQueues) is not in it.
    fn default() -> Self {
        Self::new(64 << 20, 64 << 20)
    }
}

/// Start of the names of files that are about to be ingested. RocksDB's own begin with digits or capital letters.
const RUN_FILE_PREFIX: &str = "ingest-";
/// Open files of one store.
const OPEN_FILES_MAX: i32 = 512;
/// RocksDB's own info logs that are kept.
const INFO_LOGS_KEPT: usize = 2;
/// Largest size of an info log in bytes.
const INFO_LOG_BYTES_MAX: usize = 1 << 20;

/// A RocksDB in a folder of its own.
pub struct RocksKv {
    db: DB,
    dir: PathBuf,
    /// Number in the names of files that are about to be ingested.
    run: AtomicU64,
}

impl RocksKv {
    /// Opens the store in `dir`, creating it when there is none.
    ///
    /// # Errors
    /// [`KvError`] when it cannot be opened: damaged, of an unknown family, or in use by another process.
    pub fn open(dir: &Path, budget: &RocksBudget) -> Result<Self, KvError> {
        let mut options = Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        options.set_atomic_flush(true);
        options.set_write_buffer_manager(&budget.write_buffers);
        options.set_max_open_files(OPEN_FILES_MAX);
        options.set_keep_log_file_num(INFO_LOGS_KEPT);
        options.set_max_log_file_size(INFO_LOG_BYTES_MAX);
        options.set_max_background_jobs(2);
        let families = Family::ALL.map(|family| ColumnFamilyDescriptor::new(family.name(), family_options(budget)));
        let db = DB::open_cf_descriptors(&options, dir, families)
            .map_err(|error| KvError { place: dir.display().to_string(), reason: error.to_string() })?;
        remove_left_runs(dir)?;
        Ok(RocksKv { db, dir: dir.to_owned(), run: AtomicU64::new(0) })
    }

    fn family(&self, family: Family) -> &ColumnFamily {
        self.db.cf_handle(family.name()).expect("all families are opened")
    }

    fn failed(&self, family: Option<Family>, error: &rocksdb::Error) -> KvError {
        let family = family.map_or(String::new(), |family| format!(" family {}", family.name()));
        KvError { place: format!("{}{family}", self.dir.display()), reason: error.to_string() }
    }

    fn write_run<'a>(
        &self,
        path: &Path,
        first: &'a [u8],
        rest: &mut dyn Iterator<Item = &'a [u8]>,
    ) -> Result<(), rocksdb::Error> {
        let mut options = Options::default();
        options.set_compression_type(rocksdb::DBCompressionType::Lz4);
        let mut writer = SstFileWriter::create(&options);
        writer.open(path)?;
        writer.put(first, b"")?;
        for key in rest {
            writer.put(key, b"")?;
        }
        writer.finish()
    }
}

/// Removes the files of runs that a crash interrupted. They must not be written again: one that was ingested already, and not
/// yet removed, is another name of a file that the store lives on.
fn remove_left_runs(dir: &Path) -> Result<(), KvError> {
    let failed = |error: std::io::Error| KvError { place: dir.display().to_string(), reason: error.to_string() };
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_name().to_string_lossy().starts_with(RUN_FILE_PREFIX) {
            std::fs::remove_file(entry.path()).map_err(failed)?;
        }
    }
    Ok(())
}

fn family_options(budget: &RocksBudget) -> Options {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(&budget.cache);
    let mut options = Options::default();
    options.set_block_based_table_factory(&blocks);
    options.set_compression_type(rocksdb::DBCompressionType::Lz4);
    options
}

impl Kv for RocksKv {
    fn write(&self, batch: &WriteBatch) -> Result<(), KvError> {
        let mut rocks = rocksdb::WriteBatch::default();
        for (family, key, value) in batch.iter() {
            match value {
                Some(value) => rocks.put_cf(self.family(family), key, value),
                None => rocks.delete_cf(self.family(family), key),
            }
        }
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        self.db.write_opt(rocks, &options).map_err(|error| self.failed(None, &error))
    }

    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        self.db.get_cf(self.family(family), key).map_err(|error| self.failed(Some(family), &error))
    }

    fn scan(&self, family: Family, from: &[u8], visit: &mut Visitor<'_>) -> Result<(), KvError> {
        for row in self.db.iterator_cf(self.family(family), IteratorMode::From(from, Direction::Forward)) {
            let (key, value) = row.map_err(|error| self.failed(Some(family), &error))?;
            if visit(&key, &value).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn ingest(&self, family: Family, keys: &mut dyn Iterator<Item = &[u8]>) -> Result<(), KvError> {
        let Some(first) = keys.next() else { return Ok(()) };
        let name = format!("{RUN_FILE_PREFIX}{}.sst", self.run.fetch_add(1, Ordering::Relaxed));
        let path = self.dir.join(name);
        self.write_run(&path, first, keys).map_err(|error| self.failed(Some(family), &error))?;
        let mut options = IngestExternalFileOptions::default();
        options.set_move_files(true);
        self.db
            .ingest_external_file_cf_opts(self.family(family), &options, vec![path])
            .map_err(|error| self.failed(Some(family), &error))
    }

    fn drop_ingested(&self, family: Family, end: &[u8]) -> Result<(), KvError> {
        // A run is one file at the bottom, since nothing overlaps it.
        self.db
            .delete_file_in_range_cf(self.family(family), &b""[..], end)
            .map_err(|error| self.failed(Some(family), &error))
    }

    fn checkpoint(&self, _fs: &dyn Fs, dir: &Path) -> Result<Vec<(String, u64)>, KvError> {
        let checkpoint = Checkpoint::new(&self.db).map_err(|error| self.failed(None, &error))?;
        checkpoint.create_checkpoint(dir).map_err(|error| self.failed(None, &error))?;
        let failed = |error: std::io::Error| KvError { place: dir.display().to_string(), reason: error.to_string() };
        let mut files = Vec::new();
        for entry in std::fs::read_dir(dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            files.push((entry.file_name().to_string_lossy().into_owned(), entry.metadata().map_err(failed)?.len()));
        }
        files.sort_unstable();
        Ok(files)
    }

    fn flush(&self) -> Result<(), KvError> {
        let families = Family::ALL.map(|family| self.family(family));
        let families: Vec<&&ColumnFamily> = families.iter().collect();
        self.db.flush_cfs_opt(&families, &FlushOptions::default()).map_err(|error| self.failed(None, &error))
    }
}

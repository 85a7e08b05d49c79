//! The bytes of one simulated file: what readers see, what is on disk, and what lies between.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::{Fate, SimCounters, Unsynced};

/// The unit that a power cut keeps or loses, bytes.
pub const SECTOR: usize = 512;

/// Versions of one unsynced sector that are remembered between the durable and the newest one.
const VERSIONS_MAX: usize = 3;

/// One file.
#[derive(Default)]
pub(super) struct Content {
    /// What readers see.
    cached: Vec<u8>,
    /// What is on disk.
    durable: Vec<u8>,
    /// Sectors written since the last sync, each with the versions it had in between, oldest first.
    dirty: BTreeMap<u64, Vec<Vec<u8>>>,
    /// Sectors whose write-back failed: the cache shows them, the disk lacks them, no later sync writes them.
    failed: BTreeSet<u64>,
}

impl Content {
    pub(super) fn cached(&self) -> &[u8] {
        &self.cached
    }

    pub(super) fn durable(&self) -> &[u8] {
        &self.durable
    }

    pub(super) fn unsynced(&self) -> usize {
        self.dirty.len()
    }

    pub(super) fn write(&mut self, bytes: &[u8], offset: u64) {
        if bytes.is_empty() {
            return;
        }
        let start = offset as usize;
        let end = start + bytes.len();
        if self.cached.len() < end {
            // The bytes between the old end and the write are new zeros, and just as unsynced as the write.
            let old_len = self.cached.len();
            self.touch(old_len.min(start), end);
            self.cached.resize(end, 0);
        } else {
            self.touch(start, end);
        }
        self.cached[start..end].copy_from_slice(bytes);
    }

    pub(super) fn read(&self, buf: &mut [u8], offset: u64) -> usize {
        let Some(rest) = usize::try_from(offset).ok().and_then(|offset| self.cached.get(offset..)) else { return 0 };
        let len = rest.len().min(buf.len());
        buf[..len].copy_from_slice(&rest[..len]);
        len
    }

    pub(super) fn set_len(&mut self, len: u64) {
        let len = len as usize;
        let (from, to) = (self.cached.len().min(len), self.cached.len().max(len));
        self.touch(from, to);
        self.cached.resize(len, 0);
    }

    pub(super) fn flip_bit(&mut self, offset: u64, bit: u8) {
        let at = offset as usize;
        self.cached[at] ^= 1 << bit;
        if let Some(byte) = self.durable.get_mut(at) {
            *byte ^= 1 << bit;
        }
    }

    pub(super) fn set_cached(&mut self, offset: u64, byte: u8) {
        self.cached[offset as usize] = byte;
    }

    pub(super) fn heal_byte(&mut self, offset: u64, bad: u8, good: u8) {
        let at = offset as usize;
        let versions = self.dirty.get_mut(&((at / SECTOR) as u64)).into_iter().flatten();
        let bytes = versions.filter_map(|version| version.get_mut(at % SECTOR));
        let bytes = bytes.chain(self.cached.get_mut(at)).chain(self.durable.get_mut(at));
        bytes.filter(|byte| **byte == bad).for_each(|byte| *byte = good);
    }

    pub(super) fn sync(&mut self) {
        self.durable.resize(self.cached.len(), 0);
        for (sector, _) in std::mem::take(&mut self.dirty) {
            let range = range(sector, self.cached.len());
            self.durable[range.clone()].copy_from_slice(&self.cached[range]);
        }
    }

    /// The disk refuses: pages are marked clean all the same.
    pub(super) fn fail_sync(&mut self) {
        self.failed.extend(std::mem::take(&mut self.dirty).into_keys());
    }

    /// Drops clean pages of a range from the cache, so that reads see the disk.
    pub(super) fn drop_cache(&mut self, offset: u64, len: u64) {
        let first = offset / SECTOR as u64;
        let end = (offset + len).div_ceil(SECTOR as u64);
        let dropped: Vec<u64> = self.failed.range(first..end).copied().collect();
        for sector in dropped {
            self.failed.remove(&sector);
            let durable = sector_of(&self.durable, sector);
            let range = range(sector, self.cached.len());
            let len = range.len();
            self.cached[range].copy_from_slice(&durable[..len]);
        }
    }

    pub(super) fn power_cut(
        &mut self,
        path: Option<&Path>,
        decide: &mut dyn FnMut(Unsynced<'_>) -> Fate,
        counters: &mut SimCounters,
    ) {
        let mut result = self.durable.clone();
        if self.cached.len() != self.durable.len() && decide(Unsynced::Length { path }) != Fate::Lost {
            result.resize(self.cached.len(), 0);
        }
        for (sector, versions) in std::mem::take(&mut self.dirty) {
            let newest = sector_of(&self.cached, sector);
            let mut bytes = sector_of(&self.durable, sector);
            match decide(Unsynced::Sector { path, sector, versions: versions.len() }) {
                Fate::Kept => {
                    bytes = newest;
                    counters.kept_sectors += 1;
                }
                Fate::Lost => counters.lost_sectors += 1,
                Fate::Older(version) => {
                    bytes = sector_of(versions.get(version).unwrap_or(&newest), 0);
                    counters.lost_sectors += 1;
                }
                Fate::Torn(cut) => {
                    let cut = cut.min(SECTOR);
                    bytes[..cut].copy_from_slice(&newest[..cut]);
                    counters.torn_sectors += 1;
                }
            }
            let range = range(sector, result.len());
            let len = range.len();
            result[range].copy_from_slice(&bytes[..len]);
        }
        self.failed.clear();
        self.cached = result.clone();
        self.durable = result;
    }

    /// Remembers that the sectors of `start..end` are about to change.
    fn touch(&mut self, start: usize, end: usize) {
        for sector in (start / SECTOR) as u64..end.div_ceil(SECTOR) as u64 {
            self.failed.remove(&sector);
            match self.dirty.get_mut(&sector) {
                None => {
                    self.dirty.insert(sector, Vec::new());
                }
                Some(versions) => {
                    if versions.len() == VERSIONS_MAX {
                        versions.remove(0);
                    }
                    versions.push(sector_of(&self.cached, sector));
                }
            }
        }
    }
}

/// The part of a sector that lies inside of `len` bytes.
fn range(sector: u64, len: usize) -> std::ops::Range<usize> {
    let start = (sector as usize * SECTOR).min(len);
    start..(start + SECTOR).min(len)
}

/// A sector's bytes, with zeros behind the end.
fn sector_of(bytes: &[u8], sector: u64) -> Vec<u8> {
    let mut out = vec![0; SECTOR];
    let part = &bytes[range(sector, bytes.len())];
    out[..part.len()].copy_from_slice(part);
    out
}

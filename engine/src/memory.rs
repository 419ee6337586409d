//! How much memory there is for tables, and what follows from it: whether gets go by locators, whether metadata is kept
//! in memory, and what compactions may leave in the page cache. `docs/io-paths.md` has the measurements.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use terrace_io::machine::{self, Root};
use terrace_io::{CacheUse, release_freed_memory};
use terrace_sstable::{Table, TableContext};

use crate::core::Core;
use crate::metrics::page_faults;
use crate::options::{Options, PinMetadata};
use crate::service::Task;

/// Gets go by locators as long as all of them together take no more than this part of memory. Above it, what they save
/// of a get is less than what the data that they displace costs.
const LOCATORS_PART: u64 = 8;
/// Memory is scarce once tables take more than this part of it: then there is no room for them and what a compaction makes
/// of them.
const TABLES_PART: u64 = 2;
/// No more than this part of the memory that memtables leave is taken by pinned metadata. Where that does not do for all of
/// it, none is pinned: memory is so short then that the system knows better what to keep.
const PINNED_PART: u64 = 4;

/// Gets mark the pages that they use if more than one of so many waits for the device. A mark takes 0.4 µs, such a wait
/// some 80 µs, of which marks save one in ten.
const GETS_PER_FAULT: u64 = 20;
/// How often that is judged.
pub(crate) const MARKS_INTERVAL: Duration = Duration::from_millis(500);
/// The writers of a compaction take no more than this part of memory, where it is scarce.
const COMPACTION_PART: u64 = 8;
/// A writer takes about this part of the table that it writes: the hashes of its keys, and what comes of them.
const WRITER_PART: u64 = 4;

/// No tables are smaller than that for want of memory.
const TABLE_BYTES_MIN: u64 = 1 << 20;

/// What memory allows, as judged last.
#[derive(Debug)]
pub(crate) struct Memory {
    /// What there is, once that is known.
    limit_bytes: OnceLock<u64>,
    pin: PinMetadata,
    /// What memtables may take of it.
    memtable_bytes: u64,
    /// Whether tables do not fit.
    is_scarce: AtomicBool,
    /// Held while it is judged: what is judged later is what counts.
    judging: Mutex<()>,
    /// Gets of tables and major faults of the process, when they were looked at last.
    looked_at: Mutex<(u64, u64)>,
}

impl Memory {
    /// By the options, if they say how much there is.
    pub fn new(options: &Options) -> Memory {
        let limit_bytes = options.memory_bytes.map_or_else(OnceLock::new, OnceLock::from);
        let memtable_bytes = options.memtable_bytes.saturating_mul(options.memtables_max as u64);
        Memory {
            limit_bytes,
            pin: options.pin_metadata,
            memtable_bytes,
            is_scarce: AtomicBool::new(false),
            judging: Mutex::default(),
            looked_at: Mutex::default(),
        }
    }

    /// Asks the system how much there is for this process, if that is not known. Says whether it is known only now. Takes
    /// longer than an open for writing should.
    pub fn learn(&self) -> bool {
        if self.limit_bytes.get().is_some() {
            return false;
        }
        match machine::memory_bytes(&Root::system()) {
            Ok(bytes) => self.limit_bytes.set(bytes).is_ok(),
            Err(why) => {
                tracing::debug!("it is not known how much memory there is: {why}");
                false
            }
        }
    }

    /// Judges anew what these tables, which are all of a database, may do. Says whether metadata is to be pinned.
    pub fn judge<'t>(&self, context: &TableContext, tables: impl Iterator<Item = &'t Arc<Table>>) -> bool {
        let (mut locator_bytes, mut other_bytes, mut table_bytes) = (0, 0, 0);
        for table in tables {
            locator_bytes += table.meta().locator_bytes();
            other_bytes += table.meta().filter_and_fences_bytes();
            table_bytes += table.meta().file_len;
        }
        let memory_bytes = self.limit_bytes.get().copied().unwrap_or(u64::MAX);

        let did_fit = context.uses_locators.load(Ordering::Relaxed);
        let fit = fits(locator_bytes, memory_bytes / LOCATORS_PART, did_fit);
        if context.uses_locators.swap(fit, Ordering::Relaxed) != fit {
            let by = if fit { "locators" } else { "filters and fences" };
            tracing::info!(locator_bytes, memory_bytes, "gets go by {by} from here on");
        }

        let was_scarce = self.is_scarce.load(Ordering::Relaxed);
        let is_scarce = !fits(table_bytes, memory_bytes / TABLES_PART, !was_scarce);
        if self.is_scarce.swap(is_scarce, Ordering::Relaxed) != is_scarce {
            let how = if is_scarce { "sparingly" } else { "as usual" };
            tracing::info!(table_bytes, memory_bytes, "the page cache is used {how} from here on");
        }
        if !is_scarce {
            context.marks_use.store(false, Ordering::Relaxed);
        }

        let needed_bytes = other_bytes + if fit { locator_bytes } else { 0 };
        let room_bytes = memory_bytes.saturating_sub(self.memtable_bytes) / PINNED_PART;
        let pinned_bytes = match self.pin {
            PinMetadata::Auto if is_scarce && needed_bytes <= room_bytes => room_bytes,
            PinMetadata::Always => u64::MAX,
            PinMetadata::Auto | PinMetadata::Never => 0,
        };
        context.pins.set_limit(pinned_bytes);
        pinned_bytes > 0
    }

    /// After a job that took memory of its own: gives back what it freed, if memory is scarce.
    pub fn job_done(&self) {
        if self.is_scarce() {
            release_freed_memory();
        }
    }

    /// Whether tables do not fit into memory.
    pub fn is_scarce(&self) -> bool {
        self.is_scarce.load(Ordering::Relaxed)
    }

    /// Judges whether gets are to tell which pages they use: a system call for each, which pays where they wait for the
    /// device often. `gets` are those of tables so far, `faults` the major ones of the process.
    pub fn judge_marks(&self, context: &TableContext, gets: u64, faults: u64) {
        let (gets_before, faults_before) = std::mem::replace(&mut *self.looked_at.lock(), (gets, faults));
        let (gets, faults) = (gets.saturating_sub(gets_before), faults.saturating_sub(faults_before));
        let pays = self.is_scarce() && faults > gets / GETS_PER_FAULT;
        context.marks_use.store(pays, Ordering::Relaxed);
    }

    /// How a compaction is to be done that wants so many threads and tables of so many bytes: its threads, and the bytes
    /// of its tables.
    pub fn compaction(&self, threads: usize, table_bytes: u64) -> (usize, u64) {
        if !self.is_scarce() {
            return (threads, table_bytes);
        }
        let writers_bytes = self.limit_bytes.get().copied().unwrap_or(u64::MAX) / COMPACTION_PART;
        let table_bytes = table_bytes.min(writers_bytes.saturating_mul(WRITER_PART).max(TABLE_BYTES_MIN));
        let room = usize::try_from(writers_bytes / (table_bytes / WRITER_PART).max(1)).unwrap_or(usize::MAX);
        (threads.min(room).max(1), table_bytes)
    }

    /// How compactions are to use the page cache.
    pub fn cache_use(&self) -> CacheUse {
        match self.is_scarce() {
            true => CacheUse::Sparing,
            false => CacheUse::DropBehind,
        }
    }
}

/// Whether so many bytes fit into a part of memory. Not to and fro with each compaction: what did not fit must be an eighth
/// smaller to fit again.
fn fits(bytes: u64, part_bytes: u64, did_fit: bool) -> bool {
    bytes <= if did_fit { part_bytes } else { part_bytes / 8 * 7 }
}

/// Keeps the metadata of tables in memory, as far as there is room, those first that come first.
pub(crate) fn pin_metadata<'t>(tables: impl Iterator<Item = &'t Arc<Table>>, stops: impl Fn() -> bool) {
    for table in tables.take_while(|_| !stops()) {
        if let Err(error) = table.pin_metadata() {
            // A table that cannot be read says so to whoever reads it.
            tracing::debug!(%error, "the metadata of a table is not pinned");
        }
    }
}

impl Core {
    /// Asks the system how much memory there is, unless that is known, and judges by that.
    pub fn learn_memory(&self) {
        if self.memory.learn() {
            self.judge_memory();
        }
    }

    /// Judges anew, after tables came or went.
    pub fn judge_memory(&self) {
        let _judging = self.memory.judging.lock();
        let states: Vec<_> = self.keyspaces.load().values().map(|keyspace| keyspace.state()).collect();
        let tables = states.iter().flat_map(|state| state.version.tables()).map(|(_, table)| table);
        if self.memory.judge(&self.tables, tables) {
            self.service.send(Task::PinMetadata);
        }
    }

    /// Judges anew whether gets mark pages.
    pub fn judge_marks(&self) {
        let _judging = self.memory.judging.lock();
        let totals = self.tables.counters.totals();
        let (_, faults) = page_faults();
        self.memory.judge_marks(&self.tables, totals.locator_checks + totals.filter_checks, faults);
    }

    /// Keeps the metadata of all tables in memory, as far as there is room, those that gets ask first before the others.
    pub fn pin_metadata(&self) {
        for keyspace in self.keyspaces.load_full().values() {
            let version = keyspace.peek().version.clone();
            pin_metadata(version.tables().map(|(_, table)| table), || self.stopping());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_marked_while_gets_wait_for_the_device() {
        let memory = Memory::new(&Options::new().memory_bytes(1 << 20));
        let context = TableContext::new(Arc::new(terrace_io::MemoryFileSystem::new()), "/db");
        let judge = |gets, faults| {
            memory.judge_marks(&context, gets, faults);
            context.marks_use.load(Ordering::Relaxed)
        };
        assert!(!judge(1000, 500), "there is memory enough");
        memory.is_scarce.store(true, Ordering::Relaxed);
        assert!(judge(2000, 1000));
        assert!(!judge(3000, 1050), "one of twenty");
        assert!(judge(4000, 1101));
        assert!(!judge(4000, 1101), "nothing is read");
    }

    #[test]
    fn a_compaction_takes_the_threads_that_there_is_memory_for() {
        let memory = Memory::new(&Options::new().memory_bytes(100 << 20));
        assert_eq!(memory.compaction(4, 64 << 20), (4, 64 << 20));
        memory.is_scarce.store(true, Ordering::Relaxed);
        assert_eq!(memory.compaction(4, 64 << 20), (1, 50 << 20));
        assert_eq!(memory.compaction(4, 16 << 20), (3, 16 << 20));
        assert_eq!(memory.compaction(4, 0), (4, 0));
        let memory = Memory::new(&Options::new().memory_bytes(0));
        memory.is_scarce.store(true, Ordering::Relaxed);
        assert_eq!(memory.compaction(4, 64 << 20), (1, 1 << 20));
    }

    #[test]
    fn what_fits_goes_on_fitting_until_it_is_too_much() {
        assert!(fits(100, 100, true) && !fits(101, 100, true));
        assert!(!fits(100, 104, false) && !fits(92, 104, false) && fits(91, 104, false));
    }
}

//! Figures about an open database: [`Metrics`], gathered when asked for.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use terrace_compaction::LEVELS;
use terrace_sstable::{ReadPath, TableContext};

use crate::compact::{debt, policy};
use crate::core::Core;
use crate::follower::Follower;
use crate::throttle::StallMetrics;
use crate::version::State;

/// Everything that is counted, at one moment. Totals are since the database was opened, and count what this process
/// has done: of a [`crate::ReadOnlyDb`], all that is about writing is 0.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Metrics {
    /// Time since the database was opened.
    pub uptime: Duration,
    /// The keyspaces, by id.
    pub keyspaces: Vec<KeyspaceMetrics>,
    /// The levels, 0 first, summed over the keyspaces.
    pub levels: Vec<LevelMetrics>,
    /// Bytes of keys and values that users have written.
    pub user_bytes_written: u64,
    /// Bytes appended to the log.
    pub log_bytes_written: u64,
    /// Bytes of tables written by flushes.
    pub flush_bytes_written: u64,
    /// Bytes of tables read by compactions.
    pub compaction_bytes_read: u64,
    /// Bytes of tables written by compactions.
    pub compaction_bytes_written: u64,
    /// Bytes appended to the manifest.
    pub manifest_bytes_written: u64,
    /// Memtables written to tables.
    pub flushes: u64,
    /// Compactions that merged.
    pub compactions: u64,
    /// Compactions that only moved tables to another level.
    pub trivial_moves: u64,
    /// `fdatasync` calls on the log.
    pub log_syncs: u64,
    /// Bytes of live log segments on disk.
    pub log_bytes: u64,
    /// Bytes of heap in memtables.
    pub memtable_bytes: u64,
    /// Bytes of live tables and log segments on disk.
    pub disk_bytes: u64,
    /// What compaction owes: 0 when every level is within its target.
    pub compaction_debt_bytes: u64,
    /// Waits of writers, for each reason.
    pub stalls: Vec<StallMetrics>,
    /// Gets of a table that asked its locator.
    pub locator_checks: u64,
    /// Those that the locator answered by its fingerprints: the key is not there.
    pub locator_negatives: u64,
    /// Those that the locator led to a block for nothing.
    pub locator_false_positives: u64,
    /// Gets of a table without a locator that asked its filter.
    pub filter_checks: u64,
    /// Those that the filter answered.
    pub filter_negatives: u64,
    /// Those that the filter let through for nothing.
    pub filter_false_positives: u64,
    /// Blocks found in the cache of decompressed blocks.
    pub cache_hits: u64,
    /// Blocks not found there.
    pub cache_misses: u64,
    /// Blocks whose checksum was verified on their first touch.
    pub blocks_verified: u64,
    /// Blocks whose checksum was wrong, also when they were read past the page cache.
    pub checksum_failures: u64,
    /// Times that bytes of a table were wrong in memory and right on the device: then those of the device were served.
    pub page_cache_disagreements: u64,
    /// Tables of which a mapped page could not be read, under the guard of [`crate::sigbus`]: see
    /// [`Health::lost_mappings`](crate::Health::lost_mappings).
    pub lost_mappings: u64,
    /// How point reads reach the tables.
    pub read_paths: ReadPaths,
    /// Bytes of tables that are mapped. How many of them are in memory, the system decides.
    pub mapped_bytes: u64,
    /// Bytes of files that are in this process's memory by mappings, those of other libraries included: the part of its
    /// resident size that the system takes back when it needs memory. 0 where the system does not say.
    pub mapped_resident_bytes: u64,
    /// Bytes of heap that open tables take: their own data, and whatever of their files was read instead of mapped.
    pub table_heap_bytes: u64,
    /// Bytes of metadata that are locked in memory: see [`PinMetadata`](crate::PinMetadata).
    pub metadata_locked_bytes: u64,
    /// Bytes of metadata that are copied into memory of this process, because it may not lock as many.
    pub metadata_copied_bytes: u64,
    /// Page faults of the process, ever, that needed no I/O. 0 where the system does not say.
    pub minor_faults: u64,
    /// Page faults of the process, ever, that waited for a disk.
    pub major_faults: u64,
    /// Live snapshots.
    pub snapshots: usize,
    /// The age of the oldest of them.
    pub oldest_snapshot: Duration,
    /// Tables that are obsolete, but kept by an iterator, a snapshot or a value.
    pub pinned_tables: usize,
    /// Their bytes.
    pub pinned_bytes: u64,
}

/// How many tables point reads reach by each path: see [`PointReads`](crate::PointReads).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReadPaths {
    /// Mapped.
    pub mapped: usize,
    /// Read into the heap as a whole, since they are small.
    pub heap: usize,
    /// By `pread`: because that is wanted, or because a mapping is not safe or could not be had. Then the log says why.
    pub pread: usize,
    /// Not opened yet, since nothing was read of them.
    pub unopened: usize,
}

impl ReadPaths {
    fn add(&mut self, path: Option<ReadPath>) {
        let count = match path {
            Some(ReadPath::Mapping) => &mut self.mapped,
            Some(ReadPath::Heap) => &mut self.heap,
            Some(ReadPath::Pread) => &mut self.pread,
            None => &mut self.unopened,
        };
        *count += 1;
    }
}

/// Figures about one keyspace.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct KeyspaceMetrics {
    /// Its name.
    pub name: String,
    /// Its tables.
    pub tables: usize,
    /// Their bytes.
    pub table_bytes: u64,
    /// Entries in them, of all kinds and versions.
    pub table_entries: u64,
    /// Tombstones among these.
    pub table_deletes: u64,
    /// Its memtables, the active one included.
    pub memtables: usize,
    /// Heap that they take, in bytes.
    pub memtable_bytes: u64,
}

/// Figures about one level.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct LevelMetrics {
    /// 0 to 6.
    pub level: usize,
    /// Tables.
    pub tables: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes that compactions have read from it.
    pub bytes_read: u64,
    /// Bytes that flushes and compactions have written to it.
    pub bytes_written: u64,
}

impl Metrics {
    /// Bytes written to disk, the log and the manifest included, for each byte that users have written. 0 if they
    /// have written none.
    pub fn write_amplification(&self) -> f64 {
        let written = self.log_bytes_written
            + self.manifest_bytes_written
            + self.flush_bytes_written
            + self.compaction_bytes_written;
        match self.user_bytes_written {
            0 => 0.0,
            user => written as f64 / user as f64,
        }
    }

    /// Of a database that is open for writing.
    pub(crate) fn gather(core: &Core) -> Metrics {
        let load = |counter: &AtomicU64| counter.load(Relaxed);
        let counters = &core.counters;
        let mut metrics = Metrics::of_tables(&core.tables);
        for (level, figures) in metrics.levels.iter_mut().enumerate() {
            figures.bytes_read = load(&counters.level_read[level]);
            figures.bytes_written = load(&counters.level_written[level]);
        }
        for keyspace in core.keyspaces.load().values() {
            let state = keyspace.state();
            metrics.compaction_debt_bytes += core.debt(keyspace, &state.version);
            metrics.add_keyspace(&keyspace.name, &state);
        }
        let (log_bytes, manifest_bytes_written) = {
            let manifest = core.manifest.lock();
            (manifest.catalog().log_bytes(), manifest.bytes_written())
        };
        let (snapshots, oldest_snapshot) = core.snapshots.count_and_oldest();
        let (pinned_tables, pinned_bytes) = core.pinned();
        let compaction_bytes_written = metrics.levels[1..].iter().map(|level| level.bytes_written).sum();
        Metrics {
            uptime: core.uptime(),
            user_bytes_written: load(&counters.user_bytes_written),
            log_bytes_written: load(&core.log.bytes_written),
            flush_bytes_written: load(&counters.flush_bytes_written),
            compaction_bytes_read: metrics.levels.iter().map(|level| level.bytes_read).sum(),
            compaction_bytes_written,
            manifest_bytes_written,
            flushes: load(&counters.flushes),
            compactions: load(&counters.compactions),
            trivial_moves: load(&counters.trivial_moves),
            log_syncs: core.log.syncs(),
            log_bytes,
            disk_bytes: metrics.disk_bytes + log_bytes,
            stalls: core.throttle.metrics(),
            snapshots,
            oldest_snapshot,
            pinned_tables,
            pinned_bytes,
            ..metrics
        }
    }

    /// Of a database that is open for reading only.
    pub(crate) fn of_follower(follower: &Follower) -> Metrics {
        let mut metrics = Metrics::of_tables(&follower.tables);
        let view = follower.view();
        for keyspace in &view.keyspaces {
            // Whether times are quiet, only the writer knows.
            let policy = policy(&follower.options, &keyspace.known.options, false);
            metrics.compaction_debt_bytes += debt(&keyspace.state.version, &policy);
            metrics.add_keyspace(&keyspace.known.name, &keyspace.state);
        }
        let log_bytes = view.image.catalog.log_bytes();
        let (pinned_tables, pinned_bytes) = follower.pinned();
        Metrics {
            uptime: follower.uptime(),
            log_bytes,
            disk_bytes: metrics.disk_bytes + log_bytes,
            pinned_tables,
            pinned_bytes,
            ..metrics
        }
    }

    /// What tables have counted when they were read, and what the process has; no keyspaces yet.
    fn of_tables(tables: &TableContext) -> Metrics {
        let totals = tables.counters.totals();
        let (minor_faults, major_faults) = page_faults();
        Metrics {
            levels: (0..LEVELS).map(|level| LevelMetrics { level, ..LevelMetrics::default() }).collect(),
            locator_checks: totals.locator_checks,
            locator_negatives: totals.locator_negatives,
            locator_false_positives: totals.locator_false_positives,
            filter_checks: totals.filter_checks,
            filter_negatives: totals.filter_negatives,
            filter_false_positives: totals.filter_false_positives,
            cache_hits: totals.cache_hits,
            cache_misses: totals.cache_misses,
            blocks_verified: totals.blocks_verified,
            checksum_failures: totals.checksum_failures,
            page_cache_disagreements: totals.disagreements,
            lost_mappings: totals.lost_mappings,
            mapped_resident_bytes: mapped_resident_bytes(),
            metadata_locked_bytes: tables.pins.locked_bytes(),
            metadata_copied_bytes: tables.pins.copied_bytes(),
            minor_faults,
            major_faults,
            ..Metrics::default()
        }
    }

    /// Adds what a keyspace has.
    fn add_keyspace(&mut self, name: &str, state: &State) {
        let mut figures = KeyspaceMetrics {
            name: name.to_owned(),
            tables: 0,
            table_bytes: 0,
            table_entries: 0,
            table_deletes: 0,
            memtables: 1 + state.sealed.len(),
            memtable_bytes: state.memtables().map(|memtable| memtable.heap_bytes()).sum(),
        };
        for (level, table) in state.version.tables() {
            let meta = table.meta();
            figures.tables += 1;
            figures.table_bytes += meta.file_len;
            figures.table_entries += meta.entries;
            figures.table_deletes += meta.deletes;
            self.levels[level].tables += 1;
            self.levels[level].bytes += meta.file_len;
            self.read_paths.add(table.read_path());
            self.mapped_bytes += table.mapped_bytes();
            self.table_heap_bytes += table.heap_bytes();
        }
        self.memtable_bytes += figures.memtable_bytes;
        self.disk_bytes += figures.table_bytes;
        self.keyspaces.push(figures);
    }
}

/// `RssFile` of `/proc/self/status` (proc(5)).
fn mapped_resident_bytes() -> u64 {
    let read = || {
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("RssFile:"))?;
        line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
    };
    read().unwrap_or(0)
}

/// Minor and major faults of this process, from `/proc/self/stat` (fields 10 and 12 of proc(5)).
pub(crate) fn page_faults() -> (u64, u64) {
    let read = || {
        let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
        // The second field is the program's name in parentheses and may hold anything.
        let (_, rest) = stat.rsplit_once(')')?;
        let field = |number: usize| rest.split_whitespace().nth(number - 3)?.parse().ok();
        Some((field(10)?, field(12)?))
    };
    read().unwrap_or((0, 0))
}

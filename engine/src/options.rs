//! What a user can choose: for the database ([`Options`]), for a keyspace ([`KeyspaceOptions`]) and for a write
//! ([`Durability`]). Plain data, checked when the database is opened.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use terrace_io::{Error, FileSystem, OsFileSystem, Result};
use terrace_sstable::{Advice, Compression, FilterKind, PointReads, TableOptions, VALUE_BYTES_MAX};

use crate::flush::MEMTABLES_PER_FLUSH;
use crate::{Db, read_policy};

/// No more log segments than this are kept for reuse.
const SPARES_MAX: usize = 64;

const MIB: u64 = 1 << 20;

/// What an acknowledged write survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// Power loss: the write is acknowledged once `fdatasync` of the log has returned. Concurrent writers share
    /// one. The default.
    #[default]
    Sync,
    /// The end of the process, also by `kill -9`, but not the end of the machine: the write is acknowledged once
    /// the operating system has it. [`Db::sync`], the sync interval or any later `Sync` write make it durable.
    Buffered,
}

/// Whether the metadata that gets need is kept in memory: filters and fences, and locators where gets go by them. It is
/// locked (`mlock`), or copied into memory of this process where the system's limit on locked memory does not allow that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PinMetadata {
    /// Once tables take more than half of memory, if it takes no more than a quarter of what memtables leave of that. With
    /// fewer tables nothing would be won, since it stays in memory anyway.
    #[default]
    Auto,
    /// Never: it is in memory as far as the system keeps it there.
    Never,
    /// All of it, however much it is.
    Always,
}

/// How a database is opened.
///
/// ```
/// # fn main() -> terrace::Result<()> {
/// # let directory = tempfile::tempdir().unwrap();
/// let db = terrace::Options::new()
///     .durability(terrace::Durability::Buffered)
///     .memtable_bytes(8 << 20)
///     .open(directory.path())?;
/// db.put("key", "value")?;
/// db.close()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Options {
    pub(crate) create_if_missing: bool,
    pub(crate) durability: Durability,
    pub(crate) memtable_bytes: u64,
    pub(crate) memtables_max: usize,
    pub(crate) log_bytes_max: u64,
    pub(crate) segment_bytes_max: u64,
    pub(crate) sync_interval: Option<Duration>,
    pub(crate) max_value_bytes: Option<u64>,
    pub(crate) compaction_threads: usize,
    pub(crate) block_cache_bytes: u64,
    pub(crate) memory_bytes: Option<u64>,
    pub(crate) pin_metadata: PinMetadata,
    pub(crate) point_reads: PointReads,
    pub(crate) advice: Advice,
    pub(crate) l0_trigger: usize,
    level_base_bytes: Option<u64>,
    pub(crate) level_multiplier: u64,
    pub(crate) scrub_interval: Option<Duration>,
    pub(crate) scrub_bytes_per_second: u64,
    pub(crate) keyspace_defaults: KeyspaceOptions,
    pub(crate) file_system: Arc<dyn FileSystem>,
}

impl Options {
    /// The defaults, which each method below states.
    pub fn new() -> Self {
        Options {
            create_if_missing: true,
            durability: Durability::Sync,
            memtable_bytes: 128 * MIB,
            memtables_max: 3,
            log_bytes_max: 1024 * MIB,
            segment_bytes_max: 16 * MIB,
            sync_interval: None,
            max_value_bytes: None,
            compaction_threads: std::thread::available_parallelism().map_or(1, |n| n.get().min(4)),
            block_cache_bytes: 32 * MIB,
            memory_bytes: None,
            pin_metadata: PinMetadata::Auto,
            point_reads: PointReads::Auto,
            advice: Advice::Auto,
            l0_trigger: 16,
            level_base_bytes: None,
            level_multiplier: 10,
            scrub_interval: None,
            scrub_bytes_per_second: 32 * MIB,
            keyspace_defaults: KeyspaceOptions::new(),
            file_system: Arc::new(OsFileSystem),
        }
    }

    /// Whether to create a database where there is none (default: yes).
    pub fn create_if_missing(mut self, create: bool) -> Self {
        self.create_if_missing = create;
        self
    }

    /// What writes that do not say otherwise survive (default: [`Durability::Sync`]).
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// Bytes of heap that a keyspace's memtables may take before they are written to a table (default: 128 MiB,
    /// at least 64 KiB).
    pub fn memtable_bytes(mut self, bytes: u64) -> Self {
        self.memtable_bytes = bytes;
        self
    }

    /// Writers of a keyspace wait for a flush once its memtables take so many times [`Options::memtable_bytes`]
    /// (default: 3, at least 2).
    pub fn memtables_max(mut self, count: usize) -> Self {
        self.memtables_max = count;
        self
    }

    /// Bytes of log that may be live before the keyspaces that pin its oldest part are flushed (default: 1 GiB).
    pub fn log_bytes_max(mut self, bytes: u64) -> Self {
        self.log_bytes_max = bytes;
        self
    }

    /// Largest log segment; the first after an open is 1 MiB and each next one twice as long (default: 16 MiB,
    /// at least 64 KiB). A batch that is longer gets a segment of its own length.
    pub fn segment_bytes_max(mut self, bytes: u64) -> Self {
        self.segment_bytes_max = bytes;
        self
    }

    /// Make buffered writes durable at least this often, in the background (default: never by time). More than 0.
    pub fn sync_interval(mut self, interval: Option<Duration>) -> Self {
        self.sync_interval = interval;
        self
    }

    /// Longest value, in bytes (default: 64 MiB, at most 1 GiB). Persisted; a database can be opened with a larger
    /// limit later, but not with a smaller one.
    pub fn max_value_bytes(mut self, bytes: u64) -> Self {
        self.max_value_bytes = Some(bytes);
        self
    }

    /// Threads that compaction may use at once, for several jobs or for one large one (default: as many as there are
    /// processors, 1 to 4).
    pub fn compaction_threads(mut self, threads: usize) -> Self {
        self.compaction_threads = threads;
        self
    }

    /// Bytes of decompressed blocks to keep (default: 32 MiB). Uncompressed tables do not use it: they are read
    /// in place. With 0 there is no cache.
    pub fn block_cache_bytes(mut self, bytes: u64) -> Self {
        self.block_cache_bytes = bytes;
        self
    }

    /// Memory that the process may use, in bytes, page cache included (default: what the machine has, or what the control
    /// group of this process allows). Reserves nothing. Where locators would take more than an eighth of it from the data,
    /// gets go by filters and fences instead: for a database many times larger than memory that means fewer reads from the
    /// disk for each get. Where tables take more than half of it, compactions leave no more in the page cache than was
    /// there of what they replace.
    pub fn memory_bytes(mut self, bytes: u64) -> Self {
        self.memory_bytes = Some(bytes);
        self
    }

    /// Whether the metadata that gets need is kept in memory (default: [`PinMetadata::Auto`]).
    pub fn pin_metadata(mut self, pin: PinMetadata) -> Self {
        self.pin_metadata = pin;
        self
    }

    /// How point reads reach a table (default: [`PointReads::Auto`]). [`Db::set_point_reads`] changes it later.
    pub fn point_reads(mut self, path: PointReads) -> Self {
        self.point_reads = path;
        self
    }

    /// What the system is told about mapped tables (default: [`Advice::Auto`]). Not to be combined with
    /// [`PointReads::Pread`], which maps none. [`Db::set_advice`] changes it later.
    pub fn advice(mut self, advice: Advice) -> Self {
        self.advice = advice;
        self
    }

    /// Tables in level 0 that start a compaction (default: 16). While writes come in fast, one large compaction costs
    /// much less than several small ones. In quiet times, when nothing was flushed for five seconds, 4 are enough
    /// unless they are small beside what they would be merged with.
    pub fn l0_trigger(mut self, tables: usize) -> Self {
        self.l0_trigger = tables;
        self
    }

    /// Bytes that the topmost level below 0 may hold (default: [`Options::l0_trigger`] times
    /// [`Options::memtable_bytes`], what one compaction takes from level 0). The levels below it are each
    /// [`Options::level_multiplier`] times larger, sized from the bottom up.
    pub fn level_base_bytes(mut self, bytes: u64) -> Self {
        self.level_base_bytes = Some(bytes);
        self
    }

    /// How many times larger each level is than the one above (default: 10, at least 2).
    pub fn level_multiplier(mut self, factor: u64) -> Self {
        self.level_multiplier = factor;
        self
    }

    /// Scrub in the background so long after the open and after each scrub (default: never). More than 0. See
    /// [`Db::scrub`].
    pub fn scrub_interval(mut self, interval: Option<Duration>) -> Self {
        self.scrub_interval = interval;
        self
    }

    /// Bytes that a scrub reads in a second, at most (default: 32 MiB; 0 for as many as the device gives).
    pub fn scrub_bytes_per_second(mut self, bytes: u64) -> Self {
        self.scrub_bytes_per_second = bytes;
        self
    }

    /// Options of keyspaces that are created without their own, the default keyspace included.
    pub fn keyspace_defaults(mut self, options: KeyspaceOptions) -> Self {
        self.keyspace_defaults = options;
        self
    }

    /// The file system to live on (default: the operating system's).
    pub fn file_system(mut self, file_system: Arc<dyn FileSystem>) -> Self {
        self.file_system = file_system;
        self
    }

    /// Opens the database in the directory `path`: see [`Db::open`].
    pub fn open(self, path: impl AsRef<Path>) -> Result<Db> {
        Db::open_with(path.as_ref(), self)
    }

    /// The bytes that the topmost level below 0 may hold.
    pub(crate) fn base_bytes(&self) -> u64 {
        self.level_base_bytes.unwrap_or_else(|| self.memtable_bytes.saturating_mul(self.l0_trigger as u64))
    }

    /// Log segments to keep for reuse: about as many as a flush retires, so that the log is not filled with zeros over
    /// and over.
    pub(crate) fn spare_segments(&self) -> usize {
        let bytes = self.memtable_bytes.saturating_add(self.memtable_bytes / 2);
        usize::try_from(bytes.div_ceil(self.segment_bytes_max))
            .map_or(SPARES_MAX, |spares| spares.clamp(1, SPARES_MAX))
    }

    /// The heap that one memtable may take.
    pub(crate) fn one_memtable_bytes(&self) -> u64 {
        self.memtable_bytes / MEMTABLES_PER_FLUSH as u64
    }

    pub(crate) fn check(&self) -> Result<()> {
        let at_least = |what: &str, value: u64, least: u64| match value < least {
            true => Err(Error::invalid(format!("{what} is {value}, but must be at least {least}"))),
            false => Ok(()),
        };
        at_least("memtable_bytes", self.memtable_bytes, 64 << 10)?;
        at_least("memtables_max", self.memtables_max as u64, 2)?;
        at_least("segment_bytes_max", self.segment_bytes_max, 64 << 10)?;
        at_least("compaction_threads", self.compaction_threads as u64, 1)?;
        at_least("l0_trigger", self.l0_trigger as u64, 1)?;
        at_least("level_base_bytes", self.base_bytes(), 1)?;
        at_least("level_multiplier", self.level_multiplier, 2)?;
        for (what, interval) in
            [("sync_interval", self.sync_interval), ("scrub_interval", self.scrub_interval)]
        {
            if interval.is_some_and(|interval| interval.is_zero()) {
                return Err(Error::invalid(format!("{what} must be more than 0; None turns it off")));
            }
        }
        read_policy::check(self.point_reads, self.advice)?;
        if self.segment_bytes_max > 1 << 31 {
            return Err(Error::invalid("segment_bytes_max must be at most 2 GiB"));
        }
        if let Some(bytes) = self.max_value_bytes
            && bytes > VALUE_BYTES_MAX as u64
        {
            return Err(Error::invalid(format!(
                "max_value_bytes is {bytes}, but must be at most {VALUE_BYTES_MAX}"
            )));
        }
        self.keyspace_defaults.check()
    }
}

impl Default for Options {
    fn default() -> Self {
        Options::new()
    }
}

/// How the tables of a keyspace are written. Persisted when the keyspace is created.
///
/// ```
/// # fn main() -> terrace::Result<()> {
/// # let directory = tempfile::tempdir().unwrap();
/// # let db = terrace::Db::open(directory.path())?;
/// use terrace::{Compression, KeyspaceOptions};
/// let logs = db.keyspace_with("logs", KeyspaceOptions::new().compression(Compression::Snappy))?;
/// logs.put("2026-11-20", "started")?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyspaceOptions {
    pub(crate) table: TableOptions,
    pub(crate) table_bytes: u64,
}

impl KeyspaceOptions {
    /// The defaults, which each method below states.
    pub fn new() -> Self {
        KeyspaceOptions { table: TableOptions::default(), table_bytes: 64 * MIB }
    }

    /// Compression of data blocks (default: none, so that point reads borrow from the mapping).
    pub fn compression(mut self, compression: Compression) -> Self {
        self.table.compression = compression;
        self
    }

    /// Kind of filter (default: [`FilterKind::Blocked`]). Tables with a locator do not ask theirs.
    pub fn filter_kind(mut self, kind: FilterKind) -> Self {
        self.table.filter = kind;
        self
    }

    /// Bits of filter for each key (default: 10, about 1 % false positives; 0 for no filter; at most 40).
    pub fn filter_bits_per_key(mut self, bits: u8) -> Self {
        self.table.filter_bits_per_key = bits;
        self
    }

    /// Bytes of entries in a block of a compressed table before compression (default: 16 KiB, 4 KiB to 65,000).
    pub fn block_bytes(mut self, bytes: u32) -> Self {
        self.table.block_bytes = bytes;
        self
    }

    /// Length behind which a table is cut, to a few KiB (default: 64 MiB, at least 64 KiB).
    pub fn table_bytes(mut self, bytes: u64) -> Self {
        self.table_bytes = bytes;
        self
    }

    pub(crate) fn check(&self) -> Result<()> {
        if !(4096..=65_000).contains(&self.table.block_bytes) {
            let bytes = self.table.block_bytes;
            return Err(Error::invalid(format!("block_bytes is {bytes}, but must be 4096 to 65000")));
        }
        if self.table.filter_bits_per_key > 40 {
            return Err(Error::invalid("filter_bits_per_key must be at most 40"));
        }
        if self.table_bytes < 64 << 10 {
            return Err(Error::invalid("table_bytes must be at least 64 KiB"));
        }
        Ok(())
    }
}

impl Default for KeyspaceOptions {
    fn default() -> Self {
        KeyspaceOptions::new()
    }
}

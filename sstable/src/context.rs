//! What tables share, and what becomes of one that nobody uses any more.

use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use terrace_io::{FileSystem, Region};

use crate::{BlockCache, TableCounters};

/// How point reads get at data blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PointReads {
    /// By a mapping where that is safe and can be had, otherwise by `pread`. Safe is a local file system, with a
    /// directory and a file that other users neither own nor may write to: whoever can cut a mapped file short can end
    /// the process.
    #[default]
    Auto,
    /// By a mapping wherever it can be had, otherwise by `pread`.
    Mmap,
    /// By `pread`.
    Pread,
}

/// What the system is told about mappings of data blocks (`madvise`). `docs/io-paths.md` has the measurements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Advice {
    /// What is best as far as is known: [`Advice::Random`] now.
    #[default]
    Auto,
    /// They are read at random: a page that is not in memory is read alone.
    Random,
    /// Nothing: a page that is not in memory is read with as many neighbours as the device's readahead has.
    Normal,
}

impl Advice {
    /// As the system is told.
    pub(crate) fn of_data(self) -> terrace_io::Advice {
        match self {
            Advice::Auto | Advice::Random => terrace_io::Advice::Random,
            Advice::Normal => terrace_io::Advice::Normal,
        }
    }
}

/// The path that point reads of one table take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadPath {
    /// A mapping of the file.
    Mapping,
    /// The file was read into the heap as a whole, since it is small.
    Heap,
    /// `pread` for each block, with metadata on the heap.
    Pread,
}

/// What all tables of a directory share.
#[derive(Debug)]
pub struct TableContext {
    /// Where the tables are.
    pub fs: Arc<dyn FileSystem>,
    /// The directory that the tables are in.
    pub dir: PathBuf,
    /// Keeps blocks that cannot be read in place, if there is one.
    pub cache: Option<Arc<BlockCache>>,
    /// Told of every table that nobody uses any more.
    pub reclaim: Option<Arc<dyn Reclaim>>,
    /// How point reads get at data blocks.
    pub point_reads: PointReads,
    /// What the system is told about mappings.
    pub advice: Advice,
    /// Tables of at most so many bytes are read into the heap as a whole.
    pub heap_table_bytes: u64,
    /// Whether gets go by locators. They are the fastest way where all of them stay in memory, and the worst where they
    /// take it from the data: a filter and fences are a third as large. May be changed at any time.
    pub uses_locators: AtomicBool,
    /// Counts what happens in the tables.
    pub counters: Arc<TableCounters>,
}

impl TableContext {
    /// Tables in `dir`: point reads by mapping where that is safe, no cache, nobody told when a table goes, files up to 16 KiB on the
    /// heap.
    pub fn new(fs: Arc<dyn FileSystem>, dir: impl Into<PathBuf>) -> TableContext {
        TableContext {
            fs,
            dir: dir.into(),
            cache: None,
            reclaim: None,
            point_reads: PointReads::Auto,
            advice: Advice::Auto,
            heap_table_bytes: 16 * 1024,
            uses_locators: AtomicBool::new(true),
            counters: Arc::new(TableCounters::new()),
        }
    }
}

/// Takes what is left of a table when its last reference goes: unmapping and deleting take time that the thread which
/// happened to hold that reference should not spend.
pub trait Reclaim: Send + Sync + Debug {
    /// Called from the table's drop, on any thread: must not block, so hand the remains to another thread.
    fn reclaim(&self, remains: TableRemains);
}

/// What is left of a table. Dropping it unmaps the file.
#[derive(Debug)]
pub struct TableRemains {
    /// The file.
    pub path: PathBuf,
    /// Whether the table was marked obsolete, so that the file is to be removed.
    pub obsolete: bool,
    /// What was mapped or read of the file, if it had been opened.
    pub region: Option<Region>,
}

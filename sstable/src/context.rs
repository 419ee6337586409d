//! What tables share, and what becomes of one that nobody uses any more.

use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use terrace_io::{FileSystem, Region};

use crate::{BlockCache, Pins, TableCounters};

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
    /// How point reads get at data blocks of tables that are opened from here on.
    pub point_reads: Setting<PointReads>,
    /// What the system is told about mappings that are made from here on.
    pub advice: Setting<Advice>,
    /// Tables of at most so many bytes are read into the heap as a whole.
    pub heap_table_bytes: u64,
    /// Whether gets go by locators. They are the fastest way where all of them stay in memory, and the worst where they
    /// take it from the data: a filter and fences are a third as large. May be changed at any time.
    pub uses_locators: AtomicBool,
    /// Whether gets tell the system which pages of a mapping they use: so that it keeps those, where it has to take pages
    /// back. May be changed at any time.
    pub marks_use: AtomicBool,
    /// How much metadata may be kept in memory by [`Table::pin_metadata`](crate::Table::pin_metadata).
    pub pins: Arc<Pins>,
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
            point_reads: PointReads::Auto.into(),
            advice: Advice::Auto.into(),
            heap_table_bytes: 16 * 1024,
            uses_locators: AtomicBool::new(true),
            marks_use: AtomicBool::new(false),
            pins: Arc::default(),
            counters: Arc::new(TableCounters::new()),
        }
    }
}

/// Something that is chosen and may be chosen anew at any time.
#[derive(Debug, Default)]
pub struct Setting<T>(Mutex<T>);

impl<T: Copy> Setting<T> {
    /// What it is.
    pub fn get(&self) -> T {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Chooses anew.
    pub fn set(&self, value: T) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = value;
    }
}

impl<T> From<T> for Setting<T> {
    fn from(value: T) -> Setting<T> {
        Setting(Mutex::new(value))
    }
}

/// Takes what is left of a table when its last reference goes: unmapping and deleting take time that the thread which
/// happened to hold that reference should not spend.
pub trait Reclaim: Send + Sync + Debug {
    /// Called from the table's drop, on any thread: must not block, so hand the remains to another thread.
    fn reclaim(&self, remains: TableRemains);
}

/// What is left of a table.
#[derive(Debug)]
pub struct TableRemains {
    file: Arc<TableFile>,
    /// What was mapped or read of the file, if it had been opened.
    region: Option<Region>,
}

impl TableRemains {
    pub(crate) fn new(file: Arc<TableFile>, region: Option<Region>) -> TableRemains {
        TableRemains { file, region }
    }

    /// Unmaps the file, and says which file is to be removed now: that of a table that was marked obsolete, once no other
    /// [`Table`](crate::Table) has it.
    pub fn dispose(self) -> Option<PathBuf> {
        // Unmapped first: some systems keep mapped files undeletable.
        drop(self.region);
        let is_last = self.file.tables.fetch_sub(1, Ordering::AcqRel) == 1;
        (is_last && self.file.is_obsolete()).then(|| self.file.path.to_path_buf())
    }
}

/// The file that tables read: several, if it is to be read in another way from some time on.
#[derive(Debug)]
pub(crate) struct TableFile {
    pub(crate) path: Arc<Path>,
    is_obsolete: AtomicBool,
    /// How many tables have it, or what is left of them.
    tables: AtomicUsize,
}

impl TableFile {
    pub(crate) fn new(path: Arc<Path>) -> Arc<TableFile> {
        Arc::new(TableFile { path, is_obsolete: AtomicBool::new(false), tables: AtomicUsize::new(0) })
    }

    /// For one more table.
    pub(crate) fn for_table(self: Arc<Self>) -> Arc<TableFile> {
        self.tables.fetch_add(1, Ordering::Relaxed);
        self
    }

    pub(crate) fn mark_obsolete(&self) {
        self.is_obsolete.store(true, Ordering::Release);
    }

    fn is_obsolete(&self) -> bool {
        self.is_obsolete.load(Ordering::Acquire)
    }
}

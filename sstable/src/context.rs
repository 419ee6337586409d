//! What tables share, and what becomes of one that nobody uses any more.

use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::Arc;

use terrace_io::{FileSystem, Region};

use crate::{BlockCache, TableCounters};

/// How point reads get at data blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PointReads {
    /// By a mapping, where the file system is local and gives one; otherwise by `pread`.
    #[default]
    Mmap,
    /// By `pread`.
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
    /// Tables of at most so many bytes are read into the heap as a whole.
    pub heap_table_bytes: u64,
    /// Counts what happens in the tables.
    pub counters: Arc<TableCounters>,
}

impl TableContext {
    /// Tables in `dir`: point reads by mapping, no cache, nobody told when a table goes, files up to 16 KiB on the
    /// heap.
    pub fn new(fs: Arc<dyn FileSystem>, dir: impl Into<PathBuf>) -> TableContext {
        TableContext {
            fs,
            dir: dir.into(),
            cache: None,
            reclaim: None,
            point_reads: PointReads::Mmap,
            heap_table_bytes: 16 * 1024,
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

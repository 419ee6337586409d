//! How a database is salvaged, and what became of it: the plain data around [`crate::salvage`].

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use terrace_io::{FileSystem, OsFileSystem};

use super::Finding;

/// How a database is salvaged.
#[derive(Debug, Clone)]
pub struct SalvageOptions {
    pub(super) dry_run: bool,
    pub(super) past_gaps: bool,
    pub(super) all_tables: bool,
    pub(super) file_system: Arc<dyn FileSystem>,
}

impl SalvageOptions {
    /// The defaults, which each method below states.
    pub fn new() -> Self {
        let file_system = Arc::new(OsFileSystem);
        SalvageOptions { dry_run: false, past_gaps: false, all_tables: false, file_system }
    }

    /// Whether only to say what would be saved and what is lost: everything is read and nothing is written (default:
    /// no).
    pub fn dry_run(mut self, dry_run: bool) -> Self {
        self.dry_run = dry_run;
        self
    }

    /// Whether to apply log records also behind a place where some are missing (default: no, so that the result is the
    /// state after some first part of the history). Without a manifest that can be believed they are always applied.
    pub fn past_gaps(mut self, past_gaps: bool) -> Self {
        self.past_gaps = past_gaps;
        self
    }

    /// Whether to use tables that an intact manifest does not name (default: no: they are obsolete as a rule: see
    /// [`SalvageReport::deleted_keys_may_return`]).
    pub fn all_tables(mut self, all_tables: bool) -> Self {
        self.all_tables = all_tables;
        self
    }

    /// The file system that both databases live on (default: the operating system's).
    pub fn file_system(mut self, file_system: Arc<dyn FileSystem>) -> Self {
        self.file_system = file_system;
        self
    }
}

impl Default for SalvageOptions {
    fn default() -> Self {
        SalvageOptions::new()
    }
}

/// What state the manifest was in.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ManifestState {
    /// It was read as a whole and is believed.
    Intact,
    /// It is damaged, or has lost its end: why that is known. What it says of keyspaces and of removed tables is used.
    Damaged(String),
    /// There is none.
    Missing,
}

/// Something that was lost.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lost {
    /// The file.
    pub file: PathBuf,
    /// Where in it, if it is there.
    pub bytes: Option<Range<u64>>,
    /// The keyspace, if that is known.
    pub keyspace: Option<String>,
    /// No lost key is smaller. `None` if that is not known.
    pub keys_from: Option<Box<[u8]>>,
    /// No lost key is larger. `None` if that is not known.
    pub keys_to: Option<Box<[u8]>>,
    /// Lost entries, versions and deletes among them, if their number is known.
    pub entries: Option<u64>,
    /// What is wrong.
    pub what: String,
}

/// A keyspace of the new database.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SalvagedKeyspace {
    /// Its name.
    pub name: String,
    /// Tables that were read, in part at least.
    pub tables_read: u64,
    /// Tables of which nothing could be read.
    pub tables_lost: u64,
    /// Entries that were read from tables, old versions and deletes among them.
    pub entries_read: u64,
    /// Entries that could not be read, as far as their number is known.
    pub entries_lost: u64,
    /// Operations that were read from the log.
    pub log_operations: u64,
    /// Keys in the new database.
    pub keys_kept: u64,
}

/// What [`crate::salvage`] has read, kept and lost.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SalvageReport {
    /// The manifest.
    pub manifest: ManifestState,
    /// The keyspaces, by id.
    pub keyspaces: Vec<SalvagedKeyspace>,
    /// Records of the log that were applied.
    pub log_records: u64,
    /// What was lost. Where a table has lost keys, older versions of them may have been kept from others.
    pub lost: Vec<Lost>,
    /// What else there is to say: damage that costs nothing, files that were not used.
    pub notes: Vec<Finding>,
    /// Whether keys that were deleted may be back, values that were overwritten too, and keys that were deleted and
    /// written again may be missing, because tables were used that may have been obsolete.
    pub deleted_keys_may_return: bool,
}

impl SalvageReport {
    /// Whether everything was kept.
    pub fn is_complete(&self) -> bool {
        self.lost.is_empty()
    }
}

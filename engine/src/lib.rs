//! Terrace: an embedded, ordered key-value store. An LSM-tree whose immutable tables are memory-mapped.
//!
//! Its one idea: each access pattern uses the I/O path that suits it. Point reads go through a mapping and copy
//! nothing; compaction and long scans go through `pread` with readahead and leave the page cache alone; the log goes
//! through `pwrite` and `fdatasync`; nothing is ever written through a mapping.
//!
//! ```
//! use terrace::{Db, Durability, WriteBatch};
//! # fn main() -> terrace::Result<()> {
//! # let directory = tempfile::tempdir().unwrap();
//! # let path = directory.path().join("db");
//!
//! let db = Db::open(&path)?;
//! db.put("apple", "red")?; // survives power loss once it returns
//! db.put_with("pear", "green", Durability::Buffered)?; // survives the process
//!
//! let colours = db.keyspace("colours")?;
//! let mut batch = WriteBatch::new();
//! batch.delete(&db, "pear");
//! batch.put(&colours, "green", "pear");
//! db.write(batch)?; // all of it or nothing, across keyspaces
//!
//! assert_eq!(db.get("apple")?.as_deref(), Some(&b"red"[..]));
//! for entry in db.range("a".."z")? {
//!     let (key, value) = entry?;
//!     println!("{} is {}", key.escape_ascii(), value.escape_ascii());
//! }
//! db.close()?;
//! # Ok(())
//! # }
//! ```
//!
//! # Threads
//!
//! Every handle is `Clone`, `Send` and `Sync`. Readers take no locks, as a rule. Concurrent writers share log writes and
//! syncs.
//!
//! # Processes
//!
//! One process writes; any number read what it has written while it does ([`Db::open_read_only`]), and share the pages of
//! its tables.
//!
//! # Tasks
//!
//! With the feature `async` there is the same API as futures and streams, for programs that use tokio: `AsyncDb`. Threads that
//! must not wait for a disk have [`Keyspace::get_if_resident`] without it.
//!
//! # The directory is trusted
//!
//! Tables are mapped, so while a database is open nothing but its writer may change its files: the directory is locked
//! against other Terrace processes that would write, and created readable by its owner only. Damage that was there before
//! is detected by checksums on first touch. Where others own the directory or may write to it, and on network file
//! systems, tables are read by `pread` instead ([`PointReads::Auto`]). On an I/O error under a mapping the operating system
//! sends a signal, `SIGBUS`, which ends the process. Where that is not acceptable, call [`sigbus::install`] before a database is
//! opened: then it is an error of the one read. Or open with [`Options::point_reads`]`(`[`PointReads::Pread`]`)`.

#![deny(unsafe_code)]

mod access;
#[cfg(feature = "async")]
mod aio;
mod arena;
mod backup;
mod batch;
mod catalog;
mod checkpoint;
mod codec;
mod commit;
mod compact;
mod core;
mod counters;
mod current;
mod db;
mod directory;
mod flush;
mod follower;
mod group_commit;
mod group_sync;
mod hazards;
mod health;
mod if_resident;
mod iter;
mod keyspace;
mod listing;
mod log;
mod log_keeper;
mod log_tail;
#[cfg(test)]
#[cfg(terrace_loom)]
mod loom_models;
mod manifest;
mod manifest_image;
mod memory;
mod memtable;
mod metrics;
mod moment;
mod new_database;
mod options;
mod poison;
mod read_only;
mod read_policy;
mod read_stats;
mod recovery;
mod repair;
mod replay;
mod scrub;
mod service;
mod snapshot;
mod swap;
mod sync;
mod throttle;
mod tree;
mod version;
mod work;

/// A guard against `SIGBUS`, the signal for a mapped page that cannot be read: with it on, that is an error of one read.
///
/// ```
/// use terrace::{Db, sigbus};
/// # fn main() -> terrace::Result<()> {
/// # let directory = tempfile::tempdir().unwrap();
///
/// if let Err(error) = sigbus::install() {
///     eprintln!("an I/O error under a mapping will end this process: {error}"); // other systems than Linux
/// }
/// let db = Db::open(directory.path().join("db"))?;
/// db.put("apple", "red")?;
/// assert_eq!(db.get("apple")?.as_deref(), Some(&b"red"[..])); // a copy, not a part of the mapping
/// assert_eq!(db.metrics().lost_mappings, 0);
/// # Ok(())
/// # }
/// ```
pub mod sigbus {
    pub use terrace_io::sigbus::{install, is_installed};
}

pub use access::{Access, ReadOnly, ReadWrite};
#[cfg(feature = "async")]
pub use aio::{AsyncDb, AsyncIter, AsyncKeyspace, AsyncRev, AsyncSnapshot, ReadOnlyAsyncDb};
pub use backup::{
    BackupInfo, BackupList, BackupReport, Backups, RestoreOptions, RestoreReport, StreamOptions,
    StreamReport, restore_stream,
};
pub use batch::WriteBatch;
pub use checkpoint::CheckpointReport;
pub use db::Db;
pub use health::Health;
pub use if_resident::IfResident;
pub use iter::{Cursor, Iter};
pub use keyspace::Keyspace;
pub use listing::{ListedKeyspace, ListedTable, list_tables};
pub use metrics::{KeyspaceMetrics, LevelMetrics, Metrics, ReadPaths};
pub use options::{Durability, KeyspaceOptions, Options, PinMetadata};
pub use read_only::{ReadOnlyDb, ReadOnlyKeyspace, ReadOnlySnapshot};
pub use read_stats::{ReadCost, ReadStats, TableRead};
pub use repair::{
    Finding, Lost, ManifestState, SalvageOptions, SalvageReport, SalvagedKeyspace, Severity, VerifyOptions,
    VerifyReport, salvage, verify,
};
pub use scrub::{ScrubOptions, ScrubReport};
pub use snapshot::Snapshot;
pub use terrace_io::{Error, FileSystem, Result};
pub use terrace_sstable::{Advice, Compression, FilterKind, PointReads, ReadPath, ReadStep, Slice};
pub use throttle::{StallMetrics, StallReason};

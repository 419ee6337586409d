//! Terrace's tables: sorted, immutable files of keys and values, and the cursors that read them.
//!
//! A [`TableWriter`] turns entries in internal order (key ascending, sequence number descending) into a file; a
//! [`Table`] answers point reads from it, by a mapping where that is possible, and hands out cursors. A
//! [`RunCursor`] reads a level of disjoint tables as one, a [`MergeCursor`] any number of cursors as one. The format
//! is `docs/format.md` §2, byte for byte. A get goes by the table's locator or, where there is none, by its filter and
//! fences. [`layout`], [`explain`] and [`verify`] are for people who look inside, [`TableSalvage`] for what is left of
//! a damaged one.
//!
//! Everything that is read from a file is treated as hostile: a damaged or forged table gives
//! [`Error::Corruption`](terrace_io::Error::Corruption), never a panic and never an allocation that its length
//! does not justify. All types may be used from any thread; a cursor by one thread at a time.
//!
//! ```
//! use std::sync::Arc;
//! use terrace_io::{FileSystem, MemoryFileSystem};
//! use terrace_sstable::*;
//!
//! let fs: Arc<dyn FileSystem> = Arc::new(MemoryFileSystem::new());
//! let dir = std::path::Path::new("/tables");
//! fs.create_dir_all(dir)?;
//! let identity = TableIdentity {
//!     database_id: [7; 16],
//!     keyspace_id: 0,
//!     keyspace_name: "default".into(),
//!     number: 1,
//!     level: 0,
//!     cause: Cause::Flush,
//! };
//! let mut writer = TableWriter::create(&fs, dir, identity, &TableOptions::default())?;
//! writer.add(b"ice", 2, Kind::Put, b"cold")?;
//! writer.add(b"tea", 1, Kind::Put, b"hot")?;
//! let meta = writer.finish()?;
//!
//! let table = Table::new(Arc::new(TableContext::new(fs, dir)), meta);
//! assert_eq!(table.get(b"tea", SEQUENCE_MAX)?.unwrap().value(), b"hot");
//! let mut cursor = table.cursor(ScanMode::Auto);
//! cursor.seek_to_first()?;
//! assert_eq!(cursor.key(), b"ice");
//! # Ok::<(), terrace_io::Error>(())
//! ```

#![forbid(unsafe_code)]

mod block;
mod block_builder;
mod cache;
mod context;
mod counters;
mod cursor;
mod damaged;
mod fences;
mod filter;
mod footer;
mod inspect;
mod key;
mod locator;
mod locator_check;
mod merge;
mod meta;
mod metadata;
mod observe;
mod options;
mod outline;
mod pins;
mod properties;
mod reach;
mod reread;
mod run_cursor;
mod salvage;
mod slice;
mod storage;
mod table;
mod table_cursor;
mod varint;
mod verify;
mod watch;
mod writer;

#[cfg(test)]
mod flawed;
#[cfg(test)]
mod testing;

pub use cache::BlockCache;
pub use context::{Advice, PointReads, ReadPath, Reclaim, TableContext, TableRemains};
pub use counters::{CounterTotals, TableCounters};
pub use cursor::{Cursor, ScanMode};
pub use footer::{Footer, MetadataBlock};
pub use inspect::{BlockInfo, Explanation, Layout, Located, VersionInfo, explain, layout};
pub use key::{KEY_BYTES_MAX, Kind, SEQUENCE_MAX, VALUE_BYTES_MAX, compare_internal};
pub use locator::LocatorHeader;
pub use merge::MergeCursor;
pub use meta::{TableMeta, parse_table_file_name, table_file_name, table_tmp_file_name};
pub use observe::{Observer, ReadStep};
pub use options::{Compression, FilterKind, TableOptions};
pub use outline::Outline;
pub use pins::Pins;
pub use properties::{Cause, Properties};
pub use run_cursor::RunCursor;
pub use salvage::{LostBlocks, TableSalvage};
pub use slice::{Slice, SliceOwner};
pub use table::{Found, Table};
pub use table_cursor::TableCursor;
pub use verify::{Damage, VerifyReport, verify, verify_file};
pub use writer::{TableIdentity, TableWriter};

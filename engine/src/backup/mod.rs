//! Backups: of an open database, incremental, into a directory of many of them or into a stream; and restoring them.
//!
//! A backup is a manifest (`manifest.rs`) that names tables by what they are, and these tables. A directory
//! (`directory.rs`) stores each table once; a stream (`stream.rs`) leaves out what the receiver has. Both ways, and back into a database, the
//! manifest comes last, so that what was interrupted names nothing, and every table is verified, down to the
//! checksum of each block, by whoever has received it, before anything names it. `docs/format.md` §5 has the bytes.
//!
//! The database is taken at one moment, as for a checkpoint (`moment.rs`): `create.rs` makes a backup of that in a
//! directory and `send.rs` a stream. `restore.rs` makes a database of either, and `backups.rs` is what users see of a
//! directory.

mod backups;
mod create;
mod directory;
mod manifest;
mod restore;
mod send;
mod stream;

pub use backups::{BackupInfo, BackupList, Backups};
pub use create::BackupReport;
pub use restore::{RestoreOptions, RestoreReport, restore_stream};
pub use send::{StreamOptions, StreamReport};

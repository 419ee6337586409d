//! What is wrong, if anything: for a user who asks, instead of a log that nobody reads.

use std::path::PathBuf;

use terrace_io::Error;

use crate::repair::Finding;

/// The state of a database's background. See [`crate::Db::health`].
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Health {
    /// The failure after which no more writes are accepted.
    pub poisoned: Option<Error>,
    /// Why the last flush failed. It is tried again, and this goes once it succeeds.
    pub flush: Option<Error>,
    /// Why the last compactions failed, by keyspace. They are tried again, and this goes once they succeed.
    pub compactions: Vec<(String, Error)>,
    /// Tables that were found missing when the database was opened. Reads of other keys go on.
    pub missing_tables: Vec<PathBuf>,
    /// What scrubs have found in tables that are still part of the database. Goes once the table is compacted away, or
    /// a later scrub finds it right.
    pub damaged: Vec<Finding>,
    /// Tables of which a mapped page could not be read, under the guard of [`crate::sigbus`]: the device fails, or another
    /// program has cut the file. They are read by `pread` since, and reads of what is lost are errors. Verify or scrub.
    pub lost_mappings: Vec<PathBuf>,
}

impl Health {
    /// Whether nothing is wrong.
    pub fn is_ok(&self) -> bool {
        self.poisoned.is_none()
            && self.flush.is_none()
            && self.compactions.is_empty()
            && self.missing_tables.is_empty()
            && self.damaged.is_empty()
            && self.lost_mappings.is_empty()
    }
}

//! What is wrong, if anything: for a user who asks, instead of a log that nobody reads.

use std::path::PathBuf;

use terrace_io::Error;

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
}

impl Health {
    /// Whether nothing is wrong.
    pub fn is_ok(&self) -> bool {
        self.poisoned.is_none()
            && self.flush.is_none()
            && self.compactions.is_empty()
            && self.missing_tables.is_empty()
    }
}

//! The log as a history: which of its records continue it, and what they hold. What is made of that is the caller's
//! business: recovery writes it to tables, a reader keeps it in memory. Nothing here writes.

use std::path::Path;

use terrace_io::{Error, Result};
use terrace_wal::{Record, RecordKind, segment_file_name};

use crate::batch::{Operation, Operations, collect_batch};
use crate::catalog::Catalog;

/// Where a history has come to.
pub(crate) struct History<'a> {
    dir: &'a Path,
    /// Keyspaces have ids below it.
    next_keyspace: u32,
    /// The sequence number that the next record must begin with.
    next_sequence: u64,
}

/// A batch that continues the history.
pub(crate) struct Batch<'r> {
    /// The sequence number of its first operation; those of the others follow.
    pub first: u64,
    /// The log segment that it is in.
    pub segment: u32,
    pub operations: Vec<Operation<'r>>,
}

impl<'a> History<'a> {
    /// From where the log of a database in `dir` begins.
    pub fn new(dir: &'a Path, catalog: &Catalog) -> History<'a> {
        History::going_on(catalog.log_first_sequence, dir, catalog)
    }

    /// From the record that begins with sequence number `next_sequence`.
    pub fn going_on(next_sequence: u64, dir: &'a Path, catalog: &Catalog) -> History<'a> {
        History { dir, next_keyspace: catalog.next_keyspace, next_sequence }
    }

    /// The sequence number that the next record must begin with.
    pub fn next_sequence(&self) -> u64 {
        self.next_sequence
    }

    /// Takes a record in. `None` if it does not continue the history: a record before it is lost, or it is one from
    /// before that has no place in it.
    ///
    /// # Errors
    /// [`Error::Corruption`] if it was written wrong.
    pub fn accept<'r>(&mut self, record: &'r Record) -> Result<Option<Batch<'r>>> {
        let damaged = |what: &str| {
            let path = self.dir.join(segment_file_name(record.position.segment));
            Error::corruption(path, u64::from(record.position.offset), what)
        };
        if record.kind != RecordKind::Batch {
            return Err(damaged("a log record is not a batch"));
        }
        let (first, count, operations) = Operations::from_payload(&record.payload).map_err(damaged)?;
        if first != self.next_sequence {
            return Ok(None);
        }
        let operations = collect_batch(first, count, operations).map_err(damaged)?;
        if operations.iter().any(|operation| operation.keyspace_id >= self.next_keyspace) {
            return Err(damaged("a batch writes to a keyspace that the manifest does not know"));
        }
        self.next_sequence = first + u64::from(count);
        Ok(Some(Batch { first, segment: record.position.segment, operations }))
    }
}

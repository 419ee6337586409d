//! The new database of a salvage while it is written: its tables, and those that the log is spilled to.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use terrace_compaction::{LEVELS, Output, Rules, write_tables};
use terrace_io::{CacheUse, Result};
use terrace_sstable::{Cause, Kind, MergeCursor, TableContext, TableIdentity, TableMeta, TableWriter};

use crate::KeyspaceOptions;
use crate::memtable::Memtable;
use crate::new_database::NewDatabase;

/// A keyspace of the new database.
#[derive(Debug, Clone, Copy)]
pub(super) struct Owner<'a> {
    pub id: u32,
    pub name: &'a str,
    pub options: &'a KeyspaceOptions,
}

/// The new database while it is written.
pub(super) struct Target {
    pub new: NewDatabase,
    pub context: Arc<TableContext>,
    next_number: AtomicU64,
}

impl Target {
    pub fn new(new: NewDatabase) -> Target {
        let context = Arc::new(TableContext::new(new.fs.clone(), &new.dir));
        Target { new, context, next_number: AtomicU64::new(1) }
    }

    pub fn number(&self) -> u64 {
        self.next_number.fetch_add(1, Ordering::Relaxed)
    }

    /// No table has it, or one above.
    pub fn next_number(&self) -> u64 {
        self.next_number.load(Ordering::Relaxed)
    }

    /// Removes what was written, best effort.
    pub fn remove(&self) {
        self.new.remove(1..self.next_number());
    }

    /// Writes what the log held so far of a keyspace to tables of their own, which go once they are merged.
    pub fn spill(&self, owner: Owner<'_>, memtable: &Arc<Memtable>) -> Result<Vec<TableMeta>> {
        let output = Output {
            fs: &self.new.fs,
            dir: &self.new.dir,
            database_id: self.new.database_id,
            keyspace_id: owner.id,
            keyspace_name: owner.name,
            level: 0,
            cause: Cause::Recovery,
            options: &owner.options.table,
            table_bytes: owner.options.table_bytes,
            cache_use: CacheUse::DropBehind,
            next_number: &|| self.number(),
        };
        let rules =
            Rules { snapshots: &[], deeper: &[], next_level: &[], elide_below: 0, cancelled: &|| false };
        let outcome = write_tables(&mut MergeCursor::new(vec![memtable.cursor()]), &output, &rules)?;
        Ok(outcome.tables)
    }
}

/// The tables of a keyspace of the new database; none in a dry run.
pub(super) struct NewTables<'a> {
    target: Option<&'a Target>,
    owner: Owner<'a>,
    writer: Option<TableWriter>,
    finished: Vec<TableMeta>,
}

impl<'a> NewTables<'a> {
    pub fn new(target: Option<&'a Target>, owner: Owner<'a>) -> NewTables<'a> {
        NewTables { target, owner, writer: None, finished: Vec::new() }
    }

    /// Writes a key behind the last one.
    pub fn add(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let Some(target) = self.target else { return Ok(()) };
        let options = self.owner.options;
        if self.writer.as_ref().is_some_and(|writer| writer.estimated_len() >= options.table_bytes) {
            self.finish_table()?;
        }
        let writer = match &mut self.writer {
            Some(writer) => writer,
            none => {
                let identity = TableIdentity {
                    database_id: target.new.database_id,
                    keyspace_id: self.owner.id,
                    keyspace_name: self.owner.name.to_owned(),
                    number: target.number(),
                    level: (LEVELS - 1) as u8,
                    cause: Cause::Recovery,
                };
                none.insert(TableWriter::create(&target.new.fs, &target.new.dir, identity, &options.table)?)
            }
        };
        // At the bottom, where nobody asks for the number.
        writer.add(key, 0, Kind::Put, value)
    }

    fn finish_table(&mut self) -> Result<()> {
        if let Some(writer) = self.writer.take() {
            self.finished.push(writer.finish()?);
        }
        Ok(())
    }

    /// Finishes the last table and gives all of them.
    pub fn finish(mut self) -> Result<Vec<TableMeta>> {
        self.finish_table()?;
        Ok(self.finished)
    }
}

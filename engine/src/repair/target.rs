//! The new database of a salvage while it is written: its tables, and those that the log is spilled to.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use terrace_compaction::{LEVELS, Output, Rules, write_tables};
use terrace_io::{FileSystem, Result};
use terrace_sstable::{
    Cause, Kind, MergeCursor, TableContext, TableIdentity, TableMeta, TableWriter, table_file_name,
    table_tmp_file_name,
};

use crate::KeyspaceOptions;
use crate::manifest::{MANIFEST, MANIFEST_TEMPORARY};
use crate::memtable::Memtable;
use crate::recovery::random_id;

/// A keyspace of the new database.
#[derive(Debug, Clone, Copy)]
pub(super) struct Owner<'a> {
    pub id: u32,
    pub name: &'a str,
    pub options: &'a KeyspaceOptions,
}

/// The new database while it is written.
pub(super) struct Target {
    pub fs: Arc<dyn FileSystem>,
    pub dir: PathBuf,
    pub database_id: [u8; 16],
    pub context: Arc<TableContext>,
    pub next_number: AtomicU64,
}

impl Target {
    pub fn new(fs: Arc<dyn FileSystem>, dir: &Path) -> Target {
        let context = Arc::new(TableContext::new(fs.clone(), dir));
        let (database_id, next_number) = (random_id(), AtomicU64::new(1));
        Target { fs, dir: dir.to_owned(), database_id, context, next_number }
    }

    pub fn number(&self) -> u64 {
        self.next_number.fetch_add(1, Ordering::Relaxed)
    }

    /// Removes what was written, best effort: the manifest first, so that what is left never opens.
    pub fn remove(&self) {
        for name in [MANIFEST, MANIFEST_TEMPORARY] {
            match self.fs.remove_file(&self.dir.join(name)) {
                Err(error) if !error.is_not_found() => return,
                _ => {}
            }
        }
        for number in 1..self.next_number.load(Ordering::Relaxed) {
            for name in [table_file_name(number), table_tmp_file_name(number)] {
                let _ = self.fs.remove_file(&self.dir.join(name));
            }
        }
    }

    /// Writes what the log held so far of a keyspace to tables of their own, which go once they are merged.
    pub fn spill(&self, owner: Owner<'_>, memtable: &Arc<Memtable>) -> Result<Vec<TableMeta>> {
        let output = Output {
            fs: &self.fs,
            dir: &self.dir,
            database_id: self.database_id,
            keyspace_id: owner.id,
            keyspace_name: owner.name,
            level: 0,
            cause: Cause::Recovery,
            options: &owner.options.table,
            table_bytes: owner.options.table_bytes,
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
                    database_id: target.database_id,
                    keyspace_id: self.owner.id,
                    keyspace_name: self.owner.name.to_owned(),
                    number: target.number(),
                    level: (LEVELS - 1) as u8,
                    cause: Cause::Recovery,
                };
                none.insert(TableWriter::create(&target.fs, &target.dir, identity, &options.table)?)
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

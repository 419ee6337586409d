//! An open database at one moment, and what copies of it have in common: checkpoints and backups.
//!
//! The moment is one under the commit lock, which keeps out writes and changes of keyspaces, for as long as it takes to
//! note the [`State`] of each keyspace: no I/O. All else is done with these states, which nobody can change any more. A
//! state keeps its tables' files, whatever compactions, clears and drops have let go of since, as an iterator's does. The
//! memtable of that moment goes on being written to: what is newer than the moment is passed over.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use terrace_io::{Advice, Bug, Error, File, OpenMode, Result};
use terrace_sstable::{Cause, Cursor, MergeCursor, ReadPath, Table, TableIdentity, TableMeta, TableWriter};
use terrace_wal::Position;

use crate::core::Core;
use crate::keyspace::KeyspaceInner;
use crate::memtable::Memtable;
use crate::new_database::{Contents, NewKeyspace};
use crate::version::State;

/// So much of a table is copied at once; then it is looked whether the database is being closed.
pub(crate) const COPIED_BYTES_MAX: u64 = 16 << 20;

/// How many entries of memtables go by between two such looks.
const ENTRIES_PER_LOOK: u64 = 64;

/// A database at one moment.
pub(crate) struct Moment {
    /// The last sequence number of its history.
    pub sequence: u64,
    /// Where its log ended.
    log_end: Position,
    keyspaces: Vec<(Arc<KeyspaceInner>, Arc<State>)>,
}

/// A keyspace of a copy.
pub(crate) struct Part {
    pub keyspace: Arc<KeyspaceInner>,
    /// Those that are still to be written, newest first.
    memtables: Vec<Arc<Memtable>>,
    /// With their levels, those of level 0 oldest first.
    pub tables: Vec<(usize, TableMeta)>,
}

impl Core {
    /// Notes what there is now, and makes the history up to there durable: what is in a copy is durable in the database
    /// too, which a power cut then never leaves behind it.
    pub fn moment(&self) -> Result<Moment> {
        let writer = self.committer.lock();
        let began = Instant::now();
        self.check_writable(writer.closed)?;
        let keyspaces = self.keyspaces.load();
        let states = keyspaces.values().map(|keyspace| (keyspace.clone(), keyspace.state()));
        let moment = Moment {
            sequence: writer.last_sequence,
            log_end: self.log.written(),
            keyspaces: states.collect(),
        };
        drop(writer);
        tracing::debug!(held_ns = began.elapsed().as_nanos() as u64, "writers were held");
        self.log.sync_through(moment.log_end)?;
        Ok(moment)
    }

    /// [`Error::Closed`] if the database is being closed: copies are given up.
    pub fn check_not_stopping(&self) -> Result<()> {
        if self.stopping() { Err(Error::Closed) } else { Ok(()) }
    }

    /// A table that is missing makes every copy impossible: that is worth its own error.
    pub fn explain_missing(&self, error: Error, table: &Table) -> Error {
        let is_missing = |error: &Error| error.is_not_found();
        let opened = || self.fs.open(table.path(), OpenMode::Read);
        if is_missing(&error) && opened().is_err_and(|error| is_missing(&error)) {
            let what = "the table is missing, and without it no checkpoint and no backup is whole: restore it from a \
                        backup, or save what is left with `terrace salvage`";
            return Error::corruption(table.path(), 0, what);
        }
        error
    }

    /// Opens the file of a table, to copy it.
    pub fn open_source(&self, table: &Table) -> Result<Arc<dyn File>> {
        let opened = self.fs.open(table.path(), OpenMode::Read);
        opened.map_err(|error| self.explain_missing(error, table))
    }

    /// Copies a table into a new file, durably.
    pub fn copy_table(&self, table: &Table, source: &dyn File, copy: &dyn File) -> Result<()> {
        let file_len = table.meta().file_len;
        // What mappings use of the page cache stays there; readers that use `pread` keep all of it.
        let is_forgotten = table.read_path() != Some(ReadPath::Pread);
        copy_file(source, copy, file_len, is_forgotten, &|| self.check_not_stopping())
    }

    /// Writes what the memtables of a part held at the moment to a table of level 0, and lets go of them. `begin` begins
    /// it; none is needed if there is nothing in them.
    pub fn write_memtables(
        &self,
        part: &mut Part,
        sequence: u64,
        begin: impl FnOnce(&KeyspaceInner) -> Result<TableWriter>,
    ) -> Result<Option<TableMeta>> {
        let memtables = std::mem::take(&mut part.memtables);
        let mut cursor = MergeCursor::new(memtables.iter().map(|memtable| memtable.cursor()).collect());
        let (mut begin, mut writer) = (Some(begin), None);
        let mut key = Vec::new();
        let mut entries: u64 = 0;
        cursor.seek_to_first()?;
        while cursor.valid() {
            if entries.is_multiple_of(ENTRIES_PER_LOOK) {
                self.check_not_stopping()?;
            }
            entries += 1;
            // Of each key the newest version that was there. Nobody reads older ones: no snapshot is in a copy.
            let is_written = writer.is_some() && *key == *cursor.key();
            let is_there = cursor.sequence() <= sequence || Bug::CheckpointTorn.is_planted();
            if is_there && !is_written {
                key.clear();
                key.extend_from_slice(cursor.key());
                if let Some(begin) = begin.take() {
                    writer = Some(begin(&part.keyspace)?);
                }
                if let Some(writer) = &mut writer {
                    writer.add(cursor.key(), cursor.sequence(), cursor.kind(), cursor.value())?;
                }
            }
            cursor.next()?;
        }
        let Some(writer) = writer else { return Ok(None) };
        let meta = writer.finish()?;
        part.tables.push((0, meta.clone()));
        Ok(Some(meta))
    }

    /// Begins the table of a copy that takes what a keyspace has in memory, in `dir`.
    pub fn begin_table_of_copy(
        &self,
        dir: &Path,
        keyspace: &KeyspaceInner,
        number: u64,
        database_id: [u8; 16],
    ) -> Result<TableWriter> {
        let identity = TableIdentity {
            database_id,
            keyspace_id: keyspace.id,
            keyspace_name: keyspace.name.clone(),
            number,
            level: 0,
            cause: Cause::Flush,
        };
        TableWriter::create(&self.fs, dir, identity, &keyspace.options.table)
    }

    /// What a copy of these parts consists of, in which no table has the number `next_table` or one above.
    pub fn contents_of_copy<'a>(
        &self,
        parts: &'a mut [Part],
        last_sequence: u64,
        next_table: u64,
    ) -> Contents<'a> {
        Contents {
            max_value_bytes: self.max_value_bytes,
            last_sequence,
            next_table,
            next_keyspace: self.manifest.lock().catalog().next_keyspace,
            keyspaces: parts.iter_mut().map(Part::finish).collect(),
        }
    }
}

impl Moment {
    /// The keyspaces with their memtables, and all tables, newest first, which the caller takes up one by one.
    pub fn into_parts(self, mut take: impl FnMut(&Arc<Table>) -> Result<()>) -> Result<Vec<Part>> {
        let mut parts = Vec::new();
        for (keyspace, state) in self.keyspaces {
            let mut tables = Vec::new();
            for (level, table) in state.version.tables() {
                take(table)?;
                tables.push((level, table.meta().clone()));
            }
            tables.reverse();
            let memtables = state.memtables().cloned().collect();
            parts.push(Part { keyspace, memtables, tables });
        }
        Ok(parts)
    }
}

impl Part {
    fn finish(&mut self) -> NewKeyspace<'_> {
        let tables = std::mem::take(&mut self.tables);
        let KeyspaceInner { id, name, options, .. } = &*self.keyspace;
        NewKeyspace { id: *id, name, options, tables }
    }
}

/// Says that a copy is being made, so that a close waits until it is given up.
pub(crate) struct Underway<'a>(&'a Core);

impl Underway<'_> {
    pub fn begin(core: &Core) -> Result<Underway<'_>> {
        // The same lock as that under which the database begins to stop.
        let mut state = core.work.state.lock();
        if core.stopping() {
            return Err(Error::Closed);
        }
        state.copies += 1;
        Ok(Underway(core))
    }
}

impl Drop for Underway<'_> {
    fn drop(&mut self) {
        self.0.work.state.lock().copies -= 1;
        self.0.work.changed.notify_all();
    }
}

/// Copies a table of `len` bytes into a new file, durably, a piece at a time, between which `go_on` is asked. The page
/// cache forgets the copy, and the source if `is_forgotten` says so.
pub(crate) fn copy_file(
    source: &dyn File,
    copy: &dyn File,
    len: u64,
    is_forgotten: bool,
    go_on: &dyn Fn() -> Result<()>,
) -> Result<()> {
    source.advise(Advice::Sequential, 0, len);
    let mut copied = 0;
    while copied < len {
        go_on()?;
        let piece = copy.copy_range(source, copied, (len - copied).min(COPIED_BYTES_MAX))?;
        if piece == 0 {
            return Err(ends_early(source, copied, len));
        }
        // So that the sync is short.
        copy.start_writeback(copied, piece);
        if is_forgotten {
            source.advise(Advice::DontNeed, copied, piece);
        }
        copied += piece;
    }
    copy.sync()?;
    copy.advise(Advice::DontNeed, 0, len);
    Ok(())
}

/// A table that ends at `offset` instead of `len`.
pub(crate) fn ends_early(source: &dyn File, offset: u64, len: u64) -> Error {
    let what = format!("the file ends {} bytes too early", len - offset);
    Error::corruption(source.path(), offset, what)
}

//! Checkpoints: a copy of an open database as it was at one moment, made while it is used.
//!
//! The moment is one under the commit lock, which keeps out writes and changes of keyspaces, for as long as it takes to
//! note the [`State`] of each keyspace: no I/O. All else is done with these states, which nobody can change any more:
//!
//! - Their tables are linked into the new directory, or copied where they cannot be. A state keeps its tables' files,
//!   whatever compactions, clears and drops have let go of since, as an iterator's does.
//! - What their memtables hold is written to tables there. The memtable of that moment goes on being written to: what
//!   is newer than the moment is passed over.
//!
//! So a checkpoint takes nothing from the log, whose segments are recycled, and nothing from the manifest: what a flush
//! or a compaction records meanwhile changes no state that was noted. It has no log, and needs no recovery. A flush of
//! the database before would save writing to tables twice what is in memory; but it would have to wait until all of it
//! is flushed, would leave a small table in the database for each checkpoint, and would still need the log for what was
//! written since. Who wants that calls it before.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use terrace_io::{Advice, Bug, Error, OpenMode, Result};
use terrace_sstable::{
    Cause, Cursor, MergeCursor, ReadPath, Table, TableIdentity, TableMeta, TableWriter, table_file_name,
};
use terrace_wal::Position;

use crate::core::Core;
use crate::keyspace::KeyspaceInner;
use crate::memtable::Memtable;
use crate::new_database::{Contents, NewDatabase, NewKeyspace};
use crate::version::State;

/// So much of a table is copied at once; then it is looked whether the database is being closed.
const COPIED_BYTES_MAX: u64 = 16 << 20;

/// How many entries of memtables go by between two such looks.
const ENTRIES_PER_LOOK: u64 = 64;

/// What a checkpoint was made of. See [`crate::Db::checkpoint`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckpointReport {
    /// The sequence number of the last write in it.
    pub sequence: u64,
    /// Tables that it shares with the database.
    pub tables_linked: u64,
    /// Bytes of these.
    pub bytes_linked: u64,
    /// Tables that were copied, since they could not be linked.
    pub tables_copied: u64,
    /// Bytes of these.
    pub bytes_copied: u64,
    /// Tables that were written for it, of what was in memory.
    pub tables_written: u64,
    /// Bytes of these.
    pub bytes_written: u64,
}

/// A database at one moment.
struct Moment {
    /// The last sequence number of its history.
    sequence: u64,
    /// Where its log ended.
    log_end: Position,
    keyspaces: Vec<(Arc<KeyspaceInner>, Arc<State>)>,
}

impl Core {
    /// See [`crate::Db::checkpoint`].
    pub fn checkpoint(&self, path: &Path) -> Result<CheckpointReport> {
        let span = tracing::info_span!("checkpoint", path = %path.display());
        let _entered = span.enter();
        // It goes last, when nothing more is done to any file.
        let _underway = Underway::begin(self)?;
        self.poison.check()?;
        let new = NewDatabase::begin(self.fs.clone(), &self.dir, path)?;
        let report = CheckpointReport::default();
        let mut checkpoint = Checkpoint { core: self, new, next_table: 0, begun: Vec::new(), report };
        match checkpoint.make() {
            Ok(()) => Ok(checkpoint.report),
            Err(error) => {
                checkpoint.new.remove(checkpoint.begun.into_iter());
                Err(error)
            }
        }
    }

    fn moment(&self) -> Result<Moment> {
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
        Ok(moment)
    }
}

/// Says that a checkpoint is being made, so that a close waits until it is given up.
struct Underway<'a>(&'a Core);

impl Underway<'_> {
    fn begin(core: &Core) -> Result<Underway<'_>> {
        // The same lock as that under which the database begins to stop.
        let mut state = core.work.state.lock();
        if core.stopping() {
            return Err(Error::Closed);
        }
        state.checkpoints += 1;
        Ok(Underway(core))
    }
}

impl Drop for Underway<'_> {
    fn drop(&mut self) {
        self.0.work.state.lock().checkpoints -= 1;
        self.0.work.changed.notify_all();
    }
}

/// One that is being made.
struct Checkpoint<'a> {
    core: &'a Core,
    new: NewDatabase,
    next_table: u64,
    /// The numbers of the tables of which there may be something.
    begun: Vec<u64>,
    report: CheckpointReport,
}

/// A keyspace of it.
struct Part {
    keyspace: Arc<KeyspaceInner>,
    /// Those that are still to be written, newest first.
    memtables: Vec<Arc<Memtable>>,
    /// With their levels, those of level 0 oldest first.
    tables: Vec<(usize, TableMeta)>,
}

impl Checkpoint<'_> {
    fn make(&mut self) -> Result<()> {
        let moment = self.core.moment()?;
        // What was noted has smaller numbers.
        self.next_table = self.core.peek_table_number();
        self.report.sequence = moment.sequence;
        // What is in the checkpoint is durable in the database too, which a power cut then never leaves behind it.
        self.core.log.sync_through(moment.log_end)?;

        // Links first: a table that is missing shows before much was written, and what is linked need not be kept.
        let mut parts = Vec::new();
        let mut unlinked = Vec::new();
        for (keyspace, state) in moment.keyspaces {
            let mut tables = Vec::new();
            for (level, table) in state.version.tables() {
                if !self.link(table)? {
                    unlinked.push(table.clone());
                }
                tables.push((level, table.meta().clone()));
            }
            tables.reverse();
            let memtables = state.memtables().cloned().collect();
            parts.push(Part { keyspace, memtables, tables });
        }
        for part in &mut parts {
            self.write_memtables(part)?;
        }
        for table in unlinked {
            self.copy(&table)?;
        }
        let next_keyspace = self.core.manifest.lock().catalog().next_keyspace;
        self.new.finish(Contents {
            max_value_bytes: self.core.max_value_bytes,
            last_sequence: self.report.sequence,
            next_table: self.next_table,
            next_keyspace,
            keyspaces: parts.iter_mut().map(Part::finish).collect(),
        })
    }

    /// [`Error::Closed`] if the database is being closed.
    fn check_open(&self) -> Result<()> {
        if self.core.stopping() { Err(Error::Closed) } else { Ok(()) }
    }

    /// Gives a table's file a name in the new directory. Says no if it has to be copied.
    fn link(&mut self, table: &Table) -> Result<bool> {
        self.check_open()?;
        let number = table.meta().number;
        let linked = self.core.fs.hard_link(table.path(), &self.new.dir.join(table_file_name(number)));
        self.note(number, &linked);
        match linked {
            Ok(()) => {
                self.report.tables_linked += 1;
                self.report.bytes_linked += table.meta().file_len;
                Ok(true)
            }
            Err(error) if error.is_link_refused() => {
                tracing::debug!(%error, "it is copied instead");
                Ok(false)
            }
            Err(error) => Err(self.explain(error, table)),
        }
    }

    /// A table that is missing makes every checkpoint impossible: that is worth its own error.
    fn explain(&self, error: Error, table: &Table) -> Error {
        let is_missing = |error: &Error| error.is_not_found();
        let opened = || self.core.fs.open(table.path(), OpenMode::Read);
        if is_missing(&error) && opened().is_err_and(|error| is_missing(&error)) {
            let what = "the table is missing, and without it no checkpoint is whole: restore it from a backup, or save \
                        what is left with `terrace salvage`";
            return Error::corruption(table.path(), 0, what);
        }
        error
    }

    /// Copies a table's file, durably.
    fn copy(&mut self, table: &Table) -> Result<()> {
        let TableMeta { number, file_len, .. } = *table.meta();
        let opened = self.core.fs.open(table.path(), OpenMode::Read);
        let source = opened.map_err(|error| self.explain(error, table))?;
        let opened = self.core.fs.open(&self.new.dir.join(table_file_name(number)), OpenMode::CreateNew);
        self.note(number, &opened);
        let copy = opened?;
        source.advise(Advice::Sequential, 0, file_len);
        let mut copied = 0;
        while copied < file_len {
            self.check_open()?;
            let piece = copy.copy_range(&*source, copied, (file_len - copied).min(COPIED_BYTES_MAX))?;
            if piece == 0 {
                let what = format!("the file ends {} bytes too early", file_len - copied);
                return Err(Error::corruption(table.path(), copied, what));
            }
            // So that the sync is short. What mappings use of the page cache stays there; readers that use `pread` keep
            // all of it.
            copy.start_writeback(copied, piece);
            if table.read_path() != Some(ReadPath::Pread) {
                source.advise(Advice::DontNeed, copied, piece);
            }
            copied += piece;
        }
        copy.sync()?;
        copy.advise(Advice::DontNeed, 0, file_len);
        self.report.tables_copied += 1;
        self.report.bytes_copied += file_len;
        Ok(())
    }

    /// Writes what the memtables of a keyspace held at the moment to a table of level 0, and lets go of them.
    fn write_memtables(&mut self, part: &mut Part) -> Result<()> {
        let memtables = std::mem::take(&mut part.memtables);
        let mut cursor = MergeCursor::new(memtables.iter().map(|memtable| memtable.cursor()).collect());
        let mut writer = None;
        let mut key = Vec::new();
        let mut entries: u64 = 0;
        cursor.seek_to_first()?;
        while cursor.valid() {
            if entries.is_multiple_of(ENTRIES_PER_LOOK) {
                self.check_open()?;
            }
            entries += 1;
            // Of each key the newest version that was there. Nobody reads older ones: no snapshot is in a checkpoint.
            let is_written = writer.is_some() && *key == *cursor.key();
            let is_there = cursor.sequence() <= self.report.sequence || Bug::CheckpointTorn.is_planted();
            if is_there && !is_written {
                key.clear();
                key.extend_from_slice(cursor.key());
                let writer = match &mut writer {
                    Some(writer) => writer,
                    none => none.insert(self.begin_table(&part.keyspace)?),
                };
                writer.add(cursor.key(), cursor.sequence(), cursor.kind(), cursor.value())?;
            }
            cursor.next()?;
        }
        if let Some(writer) = writer {
            let meta = writer.finish()?;
            self.report.tables_written += 1;
            self.report.bytes_written += meta.file_len;
            part.tables.push((0, meta));
        }
        Ok(())
    }

    fn begin_table(&mut self, keyspace: &KeyspaceInner) -> Result<TableWriter> {
        let number = self.next_table;
        self.next_table += 1;
        let identity = TableIdentity {
            database_id: self.new.database_id,
            keyspace_id: keyspace.id,
            keyspace_name: keyspace.name.clone(),
            number,
            level: 0,
            cause: Cause::Flush,
        };
        let begun = TableWriter::create(&self.new.fs, &self.new.dir, identity, &keyspace.options.table);
        self.note(number, &begun);
        begun
    }

    /// Notes that a file may have been made, whatever is said of it, unless somebody else's was there: it goes if the
    /// checkpoint fails.
    fn note<T>(&mut self, number: u64, outcome: &Result<T>) {
        let is_not_ours = |error: &Error| error.is_already_there() || error.is_link_refused();
        if !outcome.as_ref().is_err_and(is_not_ours) {
            self.begun.push(number);
        }
    }
}

impl Part {
    fn finish(&mut self) -> NewKeyspace<'_> {
        let tables = std::mem::take(&mut self.tables);
        let KeyspaceInner { id, name, options, .. } = &*self.keyspace;
        NewKeyspace { id: *id, name, options, tables }
    }
}

#[cfg(test)]
mod tests {
    use terrace_io::{FileSystem, MemoryFileSystem};

    use super::*;
    use crate::Options;
    use crate::manifest::Manifest;

    #[test]
    fn the_manifest_is_that_of_a_database_of_its_own() {
        let fs: Arc<dyn FileSystem> = Arc::new(MemoryFileSystem::new());
        let catalog = |dir: &str| {
            Manifest::open(fs.clone(), Path::new(dir), Arc::default()).unwrap().unwrap().catalog().clone()
        };
        let db = Options::new().file_system(fs.clone()).open("/db").unwrap();
        for name in ["kept", "dropped"] {
            db.keyspace(name).unwrap().put("key", name).unwrap();
        }
        for value in ["first", "second"] {
            db.put("key", value).unwrap();
            db.flush().unwrap();
        }
        db.put("key", "third").unwrap();
        db.drop_keyspace("dropped").unwrap();
        let report = db.checkpoint("/copy").unwrap();
        db.put("key", "fourth").unwrap();
        assert_eq!((report.sequence, report.tables_linked, report.tables_written), (5, 3, 1));

        let (old, new) = (catalog("/db"), catalog("/copy"));
        assert_ne!(old.database_id, new.database_id);
        assert_eq!((new.last_sequence, new.log_first_sequence, new.segments.len()), (5, 6, 0));
        assert_eq!(old.next_keyspace, 3);
        assert_eq!((new.next_keyspace, new.max_value_bytes), (3, old.max_value_bytes));
        assert_eq!(new.keyspaces.keys().collect::<Vec<_>>(), [&0, &1]);
        assert!(new.keyspaces.values().all(|keyspace| keyspace.flushed_through == 5));
        assert_eq!(new.keyspaces[&1].levels, old.keyspaces[&1].levels);
        // What was in memory is newest.
        let [first, second, third] = &new.keyspaces[&0].levels[0][..] else { panic!("{new:?}") };
        assert_eq!([first.clone(), second.clone()], old.keyspaces[&0].levels[0][..]);
        assert!(third.number >= old.next_table && third.number < new.next_table, "{new:?}");
        assert_eq!((third.smallest_sequence, third.largest_sequence), (5, 5));
        db.close().unwrap();
    }

    /// A close would wait for ever for one that is still counted.
    #[test]
    fn a_checkpoint_that_fails_is_over() {
        let memory = MemoryFileSystem::new();
        let fs: Arc<dyn FileSystem> = Arc::new(memory.clone());
        let db = Options::new().file_system(fs.clone()).open("/db").unwrap();
        db.put("key", "value").unwrap();
        memory.set_capacity(Some(memory.total_bytes()));
        assert!(db.checkpoint("/copy").unwrap_err().is_disk_full());
        assert_eq!(memory.read_dir(Path::new("/copy")).unwrap(), ["LOCK"]);
        assert_eq!(db.handle().core.work.state.lock().checkpoints, 0);
        memory.set_capacity(None);
        db.checkpoint("/copy").unwrap();
        db.close().unwrap();
    }
}

//! Checkpoints: a copy of an open database as it was at one moment (`moment.rs`), made while it is used.
//!
//! - Its tables are linked into the new directory, or copied where they cannot be.
//! - What its memtables hold is written to tables there.
//!
//! So a checkpoint takes nothing from the log, whose segments are recycled, and nothing from the manifest: what a flush
//! or a compaction records meanwhile changes no state that was noted. It has no log, and needs no recovery. A flush of
//! the database before would save writing to tables twice what is in memory; but it would have to wait until all of it
//! is flushed, would leave a small table in the database for each checkpoint, and would still need the log for what was
//! written since. Who wants that calls it before.

use std::path::Path;

use terrace_io::{Error, OpenMode, Result};
use terrace_sstable::{Table, table_file_name};

use crate::core::Core;
use crate::moment::{Part, Underway};
use crate::new_database::NewDatabase;

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

impl Checkpoint<'_> {
    fn make(&mut self) -> Result<()> {
        let core = self.core;
        let moment = core.moment()?;
        // What was noted has smaller numbers.
        self.next_table = core.peek_table_number();
        self.report.sequence = moment.sequence;

        // Links first: a table that is missing shows before much was written, and what is linked need not be kept.
        let mut unlinked = Vec::new();
        let mut parts = moment.into_parts(|table| {
            if !self.link(table)? {
                unlinked.push(table.clone());
            }
            Ok(())
        })?;
        for part in &mut parts {
            self.write_memtables(part)?;
        }
        for table in unlinked {
            self.copy(&table)?;
        }
        self.new.finish(core.contents_of_copy(&mut parts, self.report.sequence, self.next_table))
    }

    /// Gives a table's file a name in the new directory. Says no if it has to be copied.
    fn link(&mut self, table: &Table) -> Result<bool> {
        self.core.check_not_stopping()?;
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
            Err(error) => Err(self.core.explain_missing(error, table)),
        }
    }

    /// Copies a table's file, durably.
    fn copy(&mut self, table: &Table) -> Result<()> {
        let number = table.meta().number;
        let source = self.core.open_source(table)?;
        let opened = self.core.fs.open(&self.new.dir.join(table_file_name(number)), OpenMode::CreateNew);
        self.note(number, &opened);
        self.core.copy_table(table, &*source, &*opened?)?;
        self.report.tables_copied += 1;
        self.report.bytes_copied += table.meta().file_len;
        Ok(())
    }

    /// Writes what a keyspace has in memory to a table of the new database.
    fn write_memtables(&mut self, part: &mut Part) -> Result<()> {
        let core = self.core;
        let written = core.write_memtables(part, self.report.sequence, |keyspace| {
            let number = self.next_table;
            self.next_table += 1;
            let begun = core.begin_table_of_copy(&self.new.dir, keyspace, number, self.new.database_id);
            self.note(number, &begun);
            begun
        })?;
        if let Some(meta) = written {
            self.report.tables_written += 1;
            self.report.bytes_written += meta.file_len;
        }
        Ok(())
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

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
        assert_eq!(db.handle().core.work.state.lock().copies, 0);
        memory.set_capacity(None);
        db.checkpoint("/copy").unwrap();
        db.close().unwrap();
    }
}

//! Making a backup in a directory, of an open database ([`crate::Db::backup`]) or of what a stream brings: what is
//! there already is shared, all else is written, verified and named, and the manifest comes last.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use terrace_io::{OpenMode, Result};
use terrace_sstable::{Table, TableMeta, table_file_name};

use super::directory::Directory;
use super::manifest::{BackupManifest, BackupTable, TableKey};
use crate::catalog::Catalog;
use crate::core::Core;
use crate::moment::{Part, Underway};

/// What a backup was made of. See [`crate::Db::backup`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackupReport {
    /// The number of the backup in its directory.
    pub number: u64,
    /// The sequence number of the last write in it.
    pub sequence: u64,
    /// Tables that were in the directory already.
    pub tables_shared: u64,
    /// Bytes of these.
    pub bytes_shared: u64,
    /// Tables that were copied, or came with a stream.
    pub tables_copied: u64,
    /// Bytes of these.
    pub bytes_copied: u64,
    /// Tables that were written for it, of what was in memory.
    pub tables_written: u64,
    /// Bytes of these.
    pub bytes_written: u64,
}

/// A backup that is being made.
pub(super) struct NewBackup {
    pub directory: Directory,
    pub report: BackupReport,
}

impl NewBackup {
    pub fn begin(directory: Directory) -> NewBackup {
        NewBackup { directory, report: BackupReport::default() }
    }

    /// Whether the directory has a table; then it is shared.
    pub fn shares(&mut self, table: &BackupTable) -> Result<bool> {
        let has = self.directory.has(table)?;
        if has {
            self.report.tables_shared += 1;
            self.report.bytes_shared += table.key.file_len;
        }
        Ok(has)
    }

    /// Has `write` write a table, durably, to a file that it creates at the path that it is given, and takes it in. An
    /// error of its contents is about the file that it is copied from, if there is one.
    pub fn add(
        &mut self,
        table: &BackupTable,
        source: Option<&Path>,
        write: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<()> {
        let temporary = self.directory.temporary_path(&table.key);
        write(&temporary)?;
        self.directory.install(table, &temporary, source)?;
        self.report.tables_copied += 1;
        self.report.bytes_copied += table.key.file_len;
        Ok(())
    }

    /// Writes the manifest: from here on there is a backup. Or removes what was made, if that or what came before it
    /// has failed.
    pub fn finish(mut self, manifest: Result<BackupManifest>) -> Result<BackupReport> {
        let committed = manifest.and_then(|manifest| Ok((self.directory.commit(&manifest)?, manifest)));
        match committed {
            Ok((number, manifest)) => {
                self.report.number = number;
                self.report.sequence = manifest.catalog.last_sequence;
                // What others have left. It does not matter to this backup whether it goes.
                if let Err(error) = self.directory.remove_unused() {
                    tracing::warn!(%error, "tables that no backup names stay");
                }
                Ok(self.report)
            }
            Err(error) => {
                self.directory.give_up();
                Err(error)
            }
        }
    }
}

impl Core {
    /// See [`crate::Db::backup`].
    pub fn backup(&self, path: &Path) -> Result<BackupReport> {
        let span = tracing::info_span!("backup", path = %path.display());
        let _entered = span.enter();
        // It goes last, when nothing more is done to any file.
        let _underway = Underway::begin(self)?;
        self.poison.check()?;
        let mut backup = NewBackup::begin(Directory::open_or_create(self.fs.clone(), path, Some(&self.dir))?);
        let made = self.fill_backup(&mut backup);
        backup.finish(made)
    }

    fn fill_backup(&self, backup: &mut NewBackup) -> Result<BackupManifest> {
        let moment = self.moment()?;
        let sequence = moment.sequence;
        // A table that is missing, or another, shows before anything was written.
        let mut sources = Vec::new();
        let mut parts = moment.into_parts(|table| {
            sources.push((table.clone(), self.key_of(table)?));
            Ok(())
        })?;
        let mut keys: Keys = sources.iter().map(|(table, key)| (table.meta().number, *key)).collect();
        // What is in memory first: it need not be kept then.
        for part in &mut parts {
            keys.extend(self.back_up_memtables(part, sequence, backup)?);
        }
        for (source, key) in sources {
            self.back_up_table(&source, key, backup)?;
        }
        let contents = self.contents_of_copy(&mut parts, sequence, self.peek_table_number());
        manifest_of(contents.catalog(self.database_id, &backup.directory.path)?, &keys)
    }

    /// What a table is, by the end of its file.
    pub(super) fn key_of(&self, table: &Table) -> Result<TableKey> {
        self.check_not_stopping()?;
        TableKey::of(&*self.open_source(table)?, table.meta())
    }

    fn back_up_table(&self, table: &Arc<Table>, key: TableKey, backup: &mut NewBackup) -> Result<()> {
        self.check_not_stopping()?;
        let named = BackupTable { key, meta: table.meta().clone() };
        if backup.shares(&named)? {
            return Ok(());
        }
        let fs = backup.directory.fs.clone();
        backup.add(&named, Some(table.path()), |path| {
            let source = self.open_source(table)?;
            self.copy_table(table, &*source, &*fs.open(path, OpenMode::CreateNew)?)
        })
    }

    /// Writes what a keyspace has in memory to a table of the backup. Gives its number and what it is.
    fn back_up_memtables(
        &self,
        part: &mut Part,
        sequence: u64,
        backup: &mut NewBackup,
    ) -> Result<Option<(u64, TableKey)>> {
        let NewBackup { directory, report } = backup;
        let written = self.write_memtables(part, sequence, |keyspace| {
            let number = self.next_table_number();
            self.begin_table_of_copy(&directory.path, keyspace, number, self.database_id)
        })?;
        let Some(meta) = written else { return Ok(None) };
        let path = directory.path.join(table_file_name(meta.number));
        let key = TableKey::of(&*directory.fs.open(&path, OpenMode::Read)?, &meta)?;
        report.tables_written += 1;
        report.bytes_written += meta.file_len;
        let number = meta.number;
        directory.install(&BackupTable { key, meta }, &path, None)?;
        Ok(Some((number, key)))
    }
}

/// What tables are, by their numbers.
pub(super) type Keys = HashMap<u64, TableKey>;

/// The manifest of a catalog whose tables are `keys`.
pub(super) fn manifest_of(catalog: Catalog, keys: &Keys) -> Result<BackupManifest> {
    let key = |meta: &TableMeta| {
        Ok(*keys.get(&meta.number).expect("each table of the catalog was looked at or written"))
    };
    BackupManifest::new(catalog, key)
}

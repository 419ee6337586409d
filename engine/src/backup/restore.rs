//! Restoring: a backup, from its directory or from a stream, becomes a database of its own. Every table is verified where
//! it has come to before the new database has a manifest, which comes last.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use terrace_io::{Bug, Error, FileSystem, OpenMode, OsFileSystem, Result};
use terrace_sstable::{table_file_name, table_tmp_file_name};

use super::directory::Directory;
use super::manifest::{BackupManifest, BackupTable};
use super::stream::StreamReader;
use crate::moment::copy_file;
use crate::new_database::NewDatabase;

/// Where a stream is restored. See [`restore_stream`].
#[derive(Debug, Clone)]
pub struct RestoreOptions {
    file_system: Arc<dyn FileSystem>,
}

impl RestoreOptions {
    /// The defaults, which each method below states.
    pub fn new() -> Self {
        RestoreOptions { file_system: Arc::new(OsFileSystem) }
    }

    /// The file system that the new database will live on (default: the operating system's).
    pub fn file_system(mut self, file_system: Arc<dyn FileSystem>) -> Self {
        self.file_system = file_system;
        self
    }
}

impl Default for RestoreOptions {
    fn default() -> Self {
        RestoreOptions::new()
    }
}

/// What was restored. See [`crate::Backups::restore`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RestoreReport {
    /// The sequence number of the last write in it.
    pub sequence: u64,
    /// Its tables.
    pub tables: u64,
    /// Bytes of these.
    pub bytes: u64,
}

/// Restores a backup that [`crate::Db::backup_to_stream`] has sent into a new database in `path`, as
/// [`crate::Backups::restore`] does. What follows the end of the backup in `stream` is not read.
///
/// # Errors
/// [`Error::Corruption`] with the place in the stream, or in a table that was received, if the stream is damaged or not
/// whole; [`Error::UnsupportedFormat`] if a newer version has made it; [`Error::InvalidArgument`] if it leaves tables
/// out ([`crate::StreamOptions::since`]), so that it can be received only where these are
/// ([`crate::Backups::receive`]), or if `path` is not empty. What was made by then is removed, as far as possible.
///
/// ```
/// # fn main() -> terrace::Result<()> {
/// # let directory = tempfile::tempdir().unwrap();
/// # let (path, copy) = (directory.path().join("db"), directory.path().join("copy"));
/// use std::os::fd::AsFd;
///
/// let db = terrace::Db::open(&path)?;
/// db.put("key", "value")?;
/// let (reader, writer) = std::io::pipe().unwrap();
/// std::thread::scope(|scope| {
///     let restored = scope.spawn(|| terrace::restore_stream(reader, &copy, &terrace::RestoreOptions::new()));
///     db.backup_to_stream(writer.as_fd(), &terrace::StreamOptions::new())?;
///     restored.join().unwrap()
/// })?;
/// let copy = terrace::Db::open(&copy)?;
/// assert_eq!(copy.get("key")?.as_deref(), Some(&b"value"[..]));
/// # copy.close()?;
/// # db.close()
/// # }
/// ```
pub fn restore_stream(
    stream: impl Read,
    path: impl AsRef<Path>,
    options: &RestoreOptions,
) -> Result<RestoreReport> {
    let (mut reader, manifest) = StreamReader::begin(stream)?;
    let left_out = reader.tables_left_out();
    if left_out > 0 {
        return Err(Error::invalid(format!(
            "the stream leaves out {left_out} tables that its receiver should have: receive it into the directory of \
             backups that has them, and restore it from there"
        )));
    }
    restore(options.file_system.clone(), None, path.as_ref(), manifest, |restore| {
        while let Some(table) = reader.next_table()? {
            let fs = restore.new.fs.clone();
            restore.add(&table, None, |path| reader.take_table(&table, &*fs, path))?;
        }
        Ok(())
    })
}

/// Restores a backup of a directory.
pub(super) fn restore_from(
    directory: &Directory,
    manifest: BackupManifest,
    path: &Path,
) -> Result<RestoreReport> {
    let tables = manifest.tables.clone();
    let fs = &directory.fs;
    restore(fs.clone(), Some(&directory.path), path, manifest, |restore| {
        for table in &tables {
            let source_path = directory.table_path(&table.key);
            restore.add(table, Some(&source_path), |path| {
                let source = fs.open(&source_path, OpenMode::Read).map_err(|error| {
                    let what = "the table is missing, and with it every backup that names it";
                    if error.is_not_found() { Error::corruption(&source_path, 0, what) } else { error }
                })?;
                let copy = fs.open(path, OpenMode::CreateNew)?;
                copy_file(&*source, &*copy, table.key.file_len, true, &|| Ok(()))
            })?;
        }
        Ok(())
    })
}

/// A database that is being restored.
struct Restore {
    new: NewDatabase,
    /// The numbers of the tables of which there may be something.
    begun: Vec<u64>,
    report: RestoreReport,
}

impl Restore {
    /// Has `write` write a table, durably, to a file that it creates at the path that it is given, and takes it in. An
    /// error of its contents is about the file that it is copied from, if there is one.
    fn add(
        &mut self,
        table: &BackupTable,
        source: Option<&Path>,
        write: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<()> {
        let number = table.meta.number;
        let temporary = self.new.dir.join(table_tmp_file_name(number));
        self.begun.push(number);
        write(&temporary)?;
        if !Bug::ReceivedUnverified.is_planted() {
            table.verify(&*self.new.fs, &temporary, source)?;
        }
        self.new.fs.rename(&temporary, &self.new.dir.join(table_file_name(number)))?;
        self.report.tables += 1;
        self.report.bytes += table.key.file_len;
        Ok(())
    }
}

/// Makes a database of a manifest, whose tables `fill` adds.
fn restore(
    fs: Arc<dyn FileSystem>,
    from: Option<&Path>,
    path: &Path,
    manifest: BackupManifest,
    fill: impl FnOnce(&mut Restore) -> Result<()>,
) -> Result<RestoreReport> {
    let span = tracing::info_span!("restore", path = %path.display());
    let _entered = span.enter();
    let new = NewDatabase::begin_restore(fs, from, path)?;
    let report = RestoreReport { sequence: manifest.catalog.last_sequence, ..RestoreReport::default() };
    let mut restore = Restore { new, begun: Vec::new(), report };
    let restored = fill(&mut restore).and_then(|()| restore.new.finish_as(manifest.catalog));
    match restored {
        Ok(()) => {
            restore.new.end_restore();
            Ok(restore.report)
        }
        Err(error) => {
            if restore.new.remove(restore.begun.into_iter()) {
                restore.new.end_restore();
            }
            Err(error)
        }
    }
}

//! The backups in a directory, for those who look after them: list, verify, restore, receive, delete.

use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use terrace_io::{Error, FileSystem, OsFileSystem, Result};

use super::create::{BackupReport, NewBackup};
use super::directory::{Directory, is_strange, is_temporary};
use super::manifest::{BackupManifest, TableKey};
use super::restore::{RestoreReport, restore_from};
use super::stream::StreamReader;
use crate::repair::{Finding, Severity, VerifyReport, table_findings};

const REPLACE: &str = "remove the file: the next backup puts it back if the database still has the table; until then no \
                       backup that names it can be restored";
const DELETE: &str = "delete this backup; others are not touched by it";
const LEFTOVER: &str = "nothing: the next backup removes it";

/// A directory of backups, which [`crate::Db::backup`] makes. Nothing is opened or locked between two calls.
///
/// ```
/// # fn main() -> terrace::Result<()> {
/// # let directory = tempfile::tempdir().unwrap();
/// # let at = |name: &str| directory.path().join(name);
/// let db = terrace::Db::open(at("db"))?;
/// db.put("key", "first")?;
/// db.backup(at("backups"))?;
/// db.put("key", "second")?;
/// db.backup(at("backups"))?;
/// db.close()?;
///
/// let backups = terrace::Backups::new(at("backups"));
/// assert_eq!(backups.list()?.backups.len(), 2);
/// assert!(backups.verify(None)?.is_ok());
/// backups.restore(Some(1), at("restored"))?;
/// let restored = terrace::Db::open(at("restored"))?;
/// assert_eq!(restored.get("key")?.as_deref(), Some(&b"first"[..]));
/// assert_eq!(backups.keep_newest(1)?, [1]);
/// # restored.close()
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Backups {
    path: PathBuf,
    file_system: Arc<dyn FileSystem>,
}

/// A backup in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackupInfo {
    /// Its number.
    pub number: u64,
    /// When it was made.
    pub created: SystemTime,
    /// The sequence number of the last write in it.
    pub sequence: u64,
    /// Tables in it.
    pub tables: u64,
    /// Bytes of these.
    pub bytes: u64,
    /// Of these, bytes that no other backup of the directory needs: what deleting it would free.
    pub bytes_own: u64,
}

/// What [`Backups::list`] has found.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct BackupList {
    /// The backups, oldest first.
    pub backups: Vec<BackupInfo>,
    /// Backups whose manifests cannot be read.
    pub findings: Vec<Finding>,
}

impl Backups {
    /// Those in a directory. Nothing is looked at yet.
    pub fn new(path: impl Into<PathBuf>) -> Backups {
        Backups { path: path.into(), file_system: Arc::new(OsFileSystem) }
    }

    /// The file system that they live on (default: the operating system's).
    pub fn file_system(mut self, file_system: Arc<dyn FileSystem>) -> Self {
        self.file_system = file_system;
        self
    }

    /// The backups in the directory, by what their manifests say. Tables are not looked at. Backups may be made and
    /// deleted meanwhile.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if it is no directory of backups; [`Error::UnsupportedFormat`] if a newer version has
    /// made it; errors of the file system. Damage is no error, it is in the list.
    pub fn list(&self) -> Result<BackupList> {
        let directory = Directory::open_unlocked(self.file_system.clone(), &self.path)?;
        let mut list = BackupList::default();
        let manifests = read_all(&directory, &mut list.findings)?;
        let mut uses: HashMap<TableKey, u64> = HashMap::new();
        for table in manifests.iter().flat_map(|(_, manifest)| &manifest.tables) {
            *uses.entry(table.key).or_default() += 1;
        }
        list.backups = manifests
            .iter()
            .map(|(number, manifest)| {
                let own = manifest.tables.iter().filter(|table| uses.get(&table.key) == Some(&1));
                BackupInfo {
                    number: *number,
                    created: UNIX_EPOCH + Duration::from_micros(manifest.created_micros),
                    sequence: manifest.catalog.last_sequence,
                    tables: manifest.tables.len() as u64,
                    bytes: manifest.table_bytes(),
                    bytes_own: own.map(|table| table.key.file_len).sum(),
                }
            })
            .collect();
        Ok(list)
    }

    /// Reads everything in a backup, or in all of them: manifests, and each table once, down to each checksum. Goes on
    /// past damage and lists all of it. Changes nothing; nobody makes or deletes a backup meanwhile.
    ///
    /// # Errors
    /// As [`Backups::list`], [`Error::InvalidArgument`] if there is no such backup, and [`Error::Locked`] while one is
    /// made or deleted. Damage is no error, it is in the report.
    pub fn verify(&self, number: Option<u64>) -> Result<VerifyReport> {
        let directory = Directory::open_shared(self.file_system.clone(), &self.path)?;
        let mut report = VerifyReport::default();
        let manifests = match number {
            None => {
                check_names(&directory, &mut report.findings)?;
                read_all(&directory, &mut report.findings)?
            }
            Some(number) => match directory.read(number) {
                Ok(manifest) => vec![(number, manifest)],
                Err(error) => {
                    report.findings.push(finding(&directory, number, &error)?);
                    Vec::new()
                }
            },
        };
        report.manifest_edits = manifests.len() as u64;
        let mut seen = HashSet::new();
        for table in manifests.iter().flat_map(|(_, manifest)| &manifest.tables) {
            if !seen.insert(table.key) {
                continue;
            }
            let path = directory.table_path(&table.key);
            let read = terrace_sstable::verify(&*directory.fs, &path);
            report.tables += 1;
            report.table_bytes += read.file_len;
            report.blocks += read.blocks;
            report.entries += read.entries;
            let mut findings = table_findings(&read, Some(&table.meta));
            if findings.is_empty() && read.footer.is_none_or(|footer| footer.tail_crc != table.key.tail_crc) {
                let what = "its metadata are those of another table";
                findings.push(Finding::new(Severity::Loss, &path, None, what, REPLACE));
            }
            report
                .findings
                .extend(findings.into_iter().map(|finding| Finding { advice: REPLACE, ..finding }));
        }
        report.findings.sort_by(|a, b| (&a.file, a.offset).cmp(&(&b.file, b.offset)));
        Ok(report)
    }

    /// Restores a backup, the newest one if no number is given, into a new database in `path`: what was backed up, as it
    /// was, with an id of its own. From then on it goes its own way; it may be backed up into the same directory.
    ///
    /// `path` must be missing or an empty directory, or hold only what an interrupted restore has left, which goes. Each
    /// table is copied (by the file system itself or by the kernel if they can) and then verified down to each checksum;
    /// only after the last one there is a manifest, without which nothing opens.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if there is no such backup, or `path` is not empty or lies in this directory;
    /// [`Error::Corruption`] with file and offset if the backup is damaged; [`Error::Locked`] while a backup is made or
    /// deleted; errors of the file system. What was made by then is removed, as far as possible, but for the directory
    /// and its `LOCK` file.
    pub fn restore(&self, number: Option<u64>, path: impl AsRef<Path>) -> Result<RestoreReport> {
        let directory = Directory::open_shared(self.file_system.clone(), &self.path)?;
        let newest = || {
            let none = || Error::invalid(format!("there is no backup in {}", self.path.display()));
            directory.numbers()?.last().copied().ok_or_else(none)
        };
        let number = number.map_or_else(newest, Ok)?;
        restore_from(&directory, directory.read(number)?, path.as_ref())
    }

    /// Takes a backup that [`crate::Db::backup_to_stream`] has sent into this directory, which is created if need be. A
    /// stream that leaves out tables ([`crate::StreamOptions::since`]) can be received if these are here. Every table is
    /// verified before there is a backup that names it. What follows the end of the backup in `stream` is not read.
    ///
    /// # Errors
    /// [`Error::Corruption`] with the place in the stream, or in a table that was received, if the stream is damaged or
    /// not whole; [`Error::InvalidArgument`] if it leaves out a table that is not here, or the directory holds something
    /// else; [`Error::Locked`]; errors of the file system. What was made by then is removed, as far as possible.
    pub fn receive(&self, stream: impl Read) -> Result<BackupReport> {
        let (mut reader, manifest) = StreamReader::begin(stream)?;
        let directory = Directory::open_or_create(self.file_system.clone(), &self.path, None)?;
        let fs = directory.fs.clone();
        let mut backup = NewBackup::begin(directory);
        let mut receive = || {
            let mut received = HashSet::new();
            while let Some(table) = reader.next_table()? {
                received.insert(table.key);
                // It comes whether it is here or not; one that is here and sound stays.
                backup.add(&table, None, |path| reader.take_table(&table, &*fs, path))?;
            }
            for table in &manifest.tables {
                if !received.contains(&table.key) && !backup.shares(table)? {
                    return Err(Error::invalid(format!(
                        "the stream leaves out table {}, which is not in {}",
                        table.key.file_name(),
                        self.path.display()
                    )));
                }
            }
            Ok(())
        };
        let received = receive();
        backup.finish(received.map(|()| manifest))
    }

    /// Deletes a backup, readable or not, and the tables that no other one needs. While the manifest of another one
    /// cannot be read, tables stay.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if there is none of this number; [`Error::Locked`] while one is made, restored or
    /// verified; errors of the file system: whether the backup has gone, [`Backups::list`] says, and a table that has
    /// stayed goes with the next backup.
    pub fn delete(&self, number: u64) -> Result<()> {
        let directory = Directory::open(self.file_system.clone(), &self.path)?;
        if !directory.numbers()?.contains(&number) {
            return Err(Error::invalid(format!("there is no backup {number} in {}", self.path.display())));
        }
        directory.remove(number)?;
        directory.remove_unused()
    }

    /// Deletes the oldest backups, so that `count` are left, as [`Backups::delete`] does. Says which have gone. Those
    /// that cannot be read do not count and stay.
    pub fn keep_newest(&self, count: usize) -> Result<Vec<u64>> {
        let directory = Directory::open(self.file_system.clone(), &self.path)?;
        let mut unreadable = Vec::new();
        let manifests = read_all(&directory, &mut unreadable)?;
        let gone = manifests.len().saturating_sub(count);
        let numbers: Vec<u64> = manifests.iter().take(gone).map(|(number, _)| *number).collect();
        for &number in &numbers {
            directory.remove(number)?;
        }
        directory.remove_unused()?;
        Ok(numbers)
    }
}

/// The manifests that can be read, oldest first.
fn read_all(directory: &Directory, findings: &mut Vec<Finding>) -> Result<Vec<(u64, BackupManifest)>> {
    let mut manifests = Vec::new();
    for number in directory.numbers()? {
        match directory.read(number) {
            Ok(manifest) => manifests.push((number, manifest)),
            // Deleted since the names were read.
            Err(Error::InvalidArgument(_)) => {}
            Err(error) => findings.push(finding(directory, number, &error)?),
        }
    }
    Ok(manifests)
}

/// What is wrong with a manifest, if that is damage.
fn finding(directory: &Directory, number: u64, error: &Error) -> Result<Finding> {
    match error.is_corruption() {
        true => Ok(Finding::of(error, directory.manifest_path(number), Severity::Loss, DELETE)),
        false => Err(error.clone()),
    }
}

/// Files that are in the way, or strange.
fn check_names(directory: &Directory, findings: &mut Vec<Finding>) -> Result<()> {
    for name in directory.names()? {
        let (what, advice) = if is_temporary(&name) {
            ("a file that was never finished", LEFTOVER)
        } else if is_strange(&name) {
            ("a file that is not of the backups", "nothing: it is left alone")
        } else {
            continue;
        };
        findings.push(Finding::new(Severity::Note, directory.path.join(name), None, what, advice));
    }
    Ok(())
}

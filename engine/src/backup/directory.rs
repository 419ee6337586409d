//! A directory of backups: its names, its lock, and the order in which files come and go, so that a crash at any moment
//! leaves the backups that were there, whole, and at most files that nobody names. `docs/format.md` §5.1.

use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use terrace_io::{
    Bug, Checksum, DirectoryLock, Error, FileSystem, OpenMode, Result, read_exact_at, write_all_at,
};
use terrace_sstable::parse_table_file_name;

use super::manifest::{BackupManifest, BackupTable, FORMAT_VERSION, TableKey};
use crate::new_database::check_apart;

/// The file that says that a directory holds backups.
const MARKER: &str = "BACKUPS";
const MARKER_MAGIC: [u8; 8] = *b"TERRABAK";
const MARKER_BYTES: usize = 16;
const SUFFIX: &str = ".backup";
const TEMPORARY: &str = ".tmp";

/// Names that a directory may have in which backups are begun.
const EMPTY_NAMES: [&str; 3] = ["LOCK", "BACKUPS.tmp", "lost+found"];

/// The name of the manifest of backup `number`.
pub(super) fn manifest_file_name(number: u64) -> String {
    format!("{number:06}{SUFFIX}")
}

/// The number of the backup whose manifest has this name, if it is one.
fn parse_manifest_file_name(name: &str) -> Option<u64> {
    let number = name.strip_suffix(SUFFIX)?.parse().ok()?;
    (number > 0 && manifest_file_name(number) == name).then_some(number)
}

/// Whether a file of this name was being written when somebody was interrupted.
pub(super) fn is_temporary(name: &str) -> bool {
    let is_file = |name: &str| {
        name == MARKER
            || parse_manifest_file_name(name).is_some()
            || TableKey::parse_file_name(name).is_some()
    };
    parse_table_file_name(name.strip_suffix(TEMPORARY).unwrap_or(name)).is_some()
        || name.strip_suffix(TEMPORARY).is_some_and(is_file)
}

/// Whether a file of this name is none of a backup directory's.
pub(super) fn is_strange(name: &str) -> bool {
    let is_known = ["LOCK", MARKER, "lost+found"].contains(&name)
        || parse_manifest_file_name(name).is_some()
        || TableKey::parse_file_name(name).is_some();
    !is_known && !is_temporary(name)
}

/// See the module.
pub(super) struct Directory {
    pub fs: Arc<dyn FileSystem>,
    pub path: PathBuf,
    /// The number of the backup whose manifest was begun, or 0.
    committing: AtomicU64,
    _lock: Option<Box<dyn DirectoryLock>>,
}

impl Directory {
    /// To add a backup of the database in `from`, if it is one of this machine. Begins a directory where there is none.
    pub fn open_or_create(fs: Arc<dyn FileSystem>, path: &Path, from: Option<&Path>) -> Result<Directory> {
        if path.as_os_str().is_empty() {
            return Err(Error::invalid("the path of the backups is empty: \".\" is the current directory"));
        }
        if let Some(from) = from {
            check_apart(&*fs, from, path)?;
        }
        let is_marked = || match fs.read_dir(path) {
            Err(error) if error.is_not_found() => Ok(false),
            names => check_names(&names?, path),
        };
        is_marked()?;
        fs.create_dir_all(path)?;
        let lock = Some(fs.lock_dir(path)?);
        // Looked at again: somebody else may have had it until now.
        let is_marked = is_marked()?;
        let directory = Directory::at(fs, path, lock);
        if is_marked {
            directory.check_marker()?;
            directory.remove_temporaries()?;
        } else {
            directory.write(MARKER, &marker())?;
        }
        Ok(directory)
    }

    /// To take backups away.
    pub fn open(fs: Arc<dyn FileSystem>, path: &Path) -> Result<Directory> {
        require_marker(&*fs, path)?;
        let lock = Some(fs.lock_dir(path)?);
        let directory = Directory::at(fs, path, lock);
        directory.check_marker()?;
        Ok(directory)
    }

    /// To read. Nothing goes and nothing comes meanwhile.
    pub fn open_shared(fs: Arc<dyn FileSystem>, path: &Path) -> Result<Directory> {
        require_marker(&*fs, path)?;
        let lock = fs.lock_dir_shared(path)?;
        let directory = Directory::at(fs, path, lock);
        directory.check_marker()?;
        Ok(directory)
    }

    /// To look at what there is, while others may change it.
    pub fn open_unlocked(fs: Arc<dyn FileSystem>, path: &Path) -> Result<Directory> {
        require_marker(&*fs, path)?;
        let directory = Directory::at(fs, path, None);
        directory.check_marker()?;
        Ok(directory)
    }

    fn at(fs: Arc<dyn FileSystem>, path: &Path, lock: Option<Box<dyn DirectoryLock>>) -> Directory {
        Directory { fs, path: path.to_owned(), committing: AtomicU64::new(0), _lock: lock }
    }

    fn check_marker(&self) -> Result<()> {
        let path = self.path.join(MARKER);
        let file = self.fs.open(&path, OpenMode::Read)?;
        let mut bytes = [0; MARKER_BYTES];
        read_exact_at(&*file, &mut bytes, 0)?;
        let version = u32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]);
        let crc = Checksum::new().bytes(&bytes[..12]).finish().to_le_bytes();
        if bytes[..8] != MARKER_MAGIC || bytes[12..] != crc || file.len()? != MARKER_BYTES as u64 {
            let what = "it does not say that this is a directory of backups";
            return Err(Error::corruption(path, 0, what));
        }
        if version != FORMAT_VERSION {
            let (found, supported) = (u64::from(version), u64::from(FORMAT_VERSION));
            return Err(Error::UnsupportedFormat { path, found, supported });
        }
        Ok(())
    }

    pub fn names(&self) -> Result<Vec<String>> {
        self.fs.read_dir(&self.path)
    }

    /// The numbers of the backups, ascending.
    pub fn numbers(&self) -> Result<BTreeSet<u64>> {
        Ok(self.names()?.iter().filter_map(|name| parse_manifest_file_name(name)).collect())
    }

    pub fn manifest_path(&self, number: u64) -> PathBuf {
        self.path.join(manifest_file_name(number))
    }

    /// The manifest of a backup. [`Error::InvalidArgument`] if there is none of this number.
    pub fn read(&self, number: u64) -> Result<BackupManifest> {
        BackupManifest::read(&*self.fs, &self.manifest_path(number)).map_err(|error| {
            if !error.is_not_found() {
                return error;
            }
            Error::invalid(format!("there is no backup {number} in {}", self.path.display()))
        })
    }

    pub fn table_path(&self, key: &TableKey) -> PathBuf {
        self.path.join(key.file_name())
    }

    /// Where a table is written before it has its name.
    pub fn temporary_path(&self, key: &TableKey) -> PathBuf {
        self.path.join(key.file_name() + TEMPORARY)
    }

    /// Whether a table is there. It was verified when it came; now only its length and its end are looked at.
    pub fn has(&self, table: &BackupTable) -> Result<bool> {
        let file = match self.fs.open(&self.table_path(&table.key), OpenMode::Read) {
            Err(error) if error.is_not_found() => return Ok(false),
            opened => opened?,
        };
        match TableKey::of(&*file, &table.meta) {
            Ok(key) => Ok(key == table.key),
            Err(error) if error.is_corruption() => {
                tracing::warn!(%error, "a table among the backups is damaged, and is written anew");
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Verifies a table that was written under `temporary`, durably, and gives it its name, unless there is a sound one
    /// already: that is what other backups name. An error is about the file that it was copied from, if there is one.
    pub fn install(&self, table: &BackupTable, temporary: &Path, source: Option<&Path>) -> Result<()> {
        if !Bug::ReceivedUnverified.is_planted() {
            table.verify(&*self.fs, temporary, source)?;
        }
        let path = self.table_path(&table.key);
        if self.has(table)? && table.verify(&*self.fs, &path, None).is_ok() {
            return self.fs.remove_file(temporary);
        }
        self.fs.rename(temporary, &path)
    }

    /// Adds a backup, all of whose tables are there: from here on there is one. Says its number.
    pub fn commit(&self, manifest: &BackupManifest) -> Result<u64> {
        if !Bug::BackupNamesNotSynced.is_planted() {
            self.fs.sync_dir(&self.path)?;
        }
        let Some(number) = self.numbers()?.last().map_or(Some(1), |last| last.checked_add(1)) else {
            return Err(Error::invalid("the directory has used up the numbers of backups"));
        };
        self.committing.store(number, Ordering::Relaxed);
        self.write(&manifest_file_name(number), &manifest.encode())?;
        Ok(number)
    }

    /// Takes a manifest away, durably.
    pub fn remove(&self, number: u64) -> Result<()> {
        match self.fs.remove_file(&self.manifest_path(number)) {
            Err(error) if !error.is_not_found() => Err(error),
            _ => self.fs.sync_dir(&self.path),
        }
    }

    /// Removes the files that nobody names. What stays for now, because of an error or a manifest that cannot be read,
    /// goes another time.
    pub fn remove_unused(&self) -> Result<()> {
        self.remove_temporaries()?;
        let mut named = HashSet::new();
        for number in self.numbers()? {
            match self.read(number) {
                Ok(manifest) => named.extend(manifest.tables.iter().map(|table| table.key)),
                Err(error) => {
                    tracing::warn!(%error, "no table is removed while a backup may name it");
                    return Ok(());
                }
            }
        }
        for key in self.names()?.iter().filter_map(|name| TableKey::parse_file_name(name)) {
            if !named.contains(&key) {
                self.fs.remove_file(&self.table_path(&key))?;
            }
        }
        Ok(())
    }

    fn remove_temporaries(&self) -> Result<()> {
        for name in self.names()?.iter().filter(|name| is_temporary(name)) {
            self.fs.remove_file(&self.path.join(name))?;
        }
        Ok(())
    }

    /// Removes, best effort, what an attempt that failed has made: its manifest first, and durably, then all that nobody
    /// names. A table that it has written over one that was there stays: it was verified, and other backups name it.
    pub fn give_up(&self) {
        let number = self.committing.load(Ordering::Relaxed);
        // If a crash brought it back, it would have to be with its tables.
        if number != 0 && self.remove(number).is_err() {
            return;
        }
        if let Err(error) = self.remove_unused() {
            tracing::warn!(%error, "files that no backup names stay until the next one");
        }
    }

    /// Writes a small file under a temporary name, durably, and renames it into place, durably.
    fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let temporary = self.path.join(name.to_owned() + TEMPORARY);
        match self.fs.remove_file(&temporary) {
            Err(error) if !error.is_not_found() => return Err(error),
            _ => {}
        }
        let written = (self.fs.open(&temporary, OpenMode::CreateNew))
            .and_then(|file| write_all_at(&*file, bytes, 0).and_then(|()| file.sync()))
            .and_then(|()| self.fs.rename(&temporary, &self.path.join(name)));
        if written.is_err() {
            // Best effort: it is removed before the next attempt anyway.
            let _ = self.fs.remove_file(&temporary);
        }
        written.and_then(|()| self.fs.sync_dir(&self.path))
    }
}

fn marker() -> [u8; MARKER_BYTES] {
    let mut bytes = [0; MARKER_BYTES];
    bytes[..8].copy_from_slice(&MARKER_MAGIC);
    bytes[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    let crc = Checksum::new().bytes(&bytes[..12]).finish();
    bytes[12..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// Says whether a directory holds backups already. Refuses one that holds something else.
fn check_names(names: &[String], path: &Path) -> Result<bool> {
    if names.iter().any(|name| name == MARKER) {
        return Ok(true);
    }
    match names.iter().find(|name| !EMPTY_NAMES.contains(&&***name)) {
        None => Ok(false),
        Some(name) => Err(Error::invalid(format!(
            "{} is neither empty nor a directory of backups: it holds {name:?}",
            path.display()
        ))),
    }
}

fn require_marker(fs: &dyn FileSystem, path: &Path) -> Result<()> {
    let names = match fs.read_dir(path) {
        Err(error) if error.is_not_found() => {
            return Err(Error::invalid(format!("there is no directory {}", path.display())));
        }
        names => names?,
    };
    match names.iter().any(|name| name == MARKER) {
        true => Ok(()),
        false => Err(Error::invalid(format!(
            "{} is no directory of backups: it has no file {MARKER}",
            path.display()
        ))),
    }
}

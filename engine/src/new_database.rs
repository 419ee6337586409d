//! A database that is made from another one, by salvage, as a checkpoint or of a backup, in a directory of its own.
//!
//! The directory is empty at first and locked until it is done. Whoever makes it puts tables there, durably; the
//! manifest comes last. So what was interrupted has no manifest, and does not open. It has an id of its own, so that no
//! log segment or manifest of the other can be mistaken for one of it. Its tables may say in their properties that they
//! were written for the other: nobody asks them.

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use terrace_io::{Bug, DirectoryLock, Error, FileSystem, OpenMode, Result};
use terrace_sstable::{TableMeta, parse_table_file_name, table_file_name, table_tmp_file_name};

use crate::KeyspaceOptions;
use crate::catalog::{Catalog, Change};
use crate::directory::{EMPTY_NAMES, RESTORING};
use crate::manifest::{MANIFEST, MANIFEST_TEMPORARY, Manifest};
use crate::poison::Poison;
use crate::recovery::{now_micros, random_id};

/// See the module.
pub(crate) struct NewDatabase {
    pub fs: Arc<dyn FileSystem>,
    pub dir: PathBuf,
    pub database_id: [u8; 16],
    /// Whether the manifest was begun: before that, one that is there is somebody else's.
    has_manifest: AtomicBool,
    _lock: Box<dyn DirectoryLock>,
}

/// What is in it, once its tables are there.
pub(crate) struct Contents<'a> {
    pub max_value_bytes: u64,
    /// Its history ends here.
    pub last_sequence: u64,
    pub next_table: u64,
    pub next_keyspace: u32,
    /// In ascending order of their ids, the default one among them.
    pub keyspaces: Vec<NewKeyspace<'a>>,
}

/// A keyspace of it.
pub(crate) struct NewKeyspace<'a> {
    pub id: u32,
    pub name: &'a str,
    pub options: &'a KeyspaceOptions,
    /// With their levels; those of level 0 oldest first.
    pub tables: Vec<(usize, TableMeta)>,
}

impl Contents<'_> {
    /// What its manifest will say. Errors are about `path`.
    pub fn catalog(self, database_id: [u8; 16], path: &Path) -> Result<Catalog> {
        let defaults = self.keyspaces.iter().find(|keyspace| keyspace.id == 0);
        let defaults = defaults.map_or_else(KeyspaceOptions::new, |default| default.options.clone());
        let (max_value_bytes, through) = (self.max_value_bytes, self.last_sequence);
        let mut catalog = Catalog::new(database_id, now_micros(), max_value_bytes, defaults);
        let mut edit = vec![Change::LastSequence(through)];
        for NewKeyspace { id, name, options, tables } in self.keyspaces {
            if id != 0 {
                edit.push(Change::KeyspaceAdded { id, name: name.to_owned(), options: options.clone() });
            }
            edit.push(Change::KeyspaceFlushed { id, through });
            let added = |(level, meta)| Change::TableAdded { keyspace: id, level, meta };
            edit.extend(tables.into_iter().map(added));
        }
        edit.push(Change::NextTable(self.next_table));
        edit.push(Change::NextKeyspace(self.next_keyspace));
        edit.push(Change::SegmentsRetired { below: 1, first_sequence: through + 1 });
        for change in edit {
            // It can contradict itself only by a bug, or by a forged file that was salvaged.
            catalog.apply(change).map_err(|error| {
                Error::corruption(path, 0, format!("what was found makes no catalog: {error:?}"))
            })?;
        }
        Ok(catalog)
    }
}

impl NewDatabase {
    /// Refuses a place for a new database that is not empty, or in that of the other one, `from`.
    pub fn check_place(fs: &dyn FileSystem, from: &Path, to: &Path) -> Result<()> {
        check_named(to)?;
        check_apart(fs, from, to)?;
        check_empty(fs, to)
    }

    /// Begins one in `dir`, which is created if need be. `from` is the directory of the other one.
    pub fn begin(fs: Arc<dyn FileSystem>, from: &Path, dir: &Path) -> Result<NewDatabase> {
        NewDatabase::check_place(&*fs, from, dir)?;
        fs.create_dir_all(dir)?;
        let lock = fs.lock_dir(dir)?;
        // Looked at again: somebody else may have had it until now.
        NewDatabase::check_place(&*fs, from, dir)?;
        let has_manifest = AtomicBool::new(false);
        Ok(NewDatabase { fs, dir: dir.to_owned(), database_id: random_id(), has_manifest, _lock: lock })
    }

    /// Begins one in `dir` that a backup is restored to, and marks it as such (`docs/format.md` §5.4). What an earlier
    /// restore has left there goes first. `from` is the directory of the backup, if it has one.
    pub fn begin_restore(fs: Arc<dyn FileSystem>, from: Option<&Path>, dir: &Path) -> Result<NewDatabase> {
        check_named(dir)?;
        if let Some(from) = from {
            check_apart(&*fs, from, dir)?;
        }
        if leftovers_of_restore(&*fs, dir)?.is_none() {
            check_empty(&*fs, dir)?;
        }
        fs.create_dir_all(dir)?;
        let lock = fs.lock_dir(dir)?;
        let has_manifest = AtomicBool::new(false);
        let new =
            NewDatabase { fs, dir: dir.to_owned(), database_id: random_id(), has_manifest, _lock: lock };
        let (fs, mark) = (&new.fs, dir.join(RESTORING));
        // Looked at again: somebody else may have had it until now.
        match leftovers_of_restore(&**fs, dir)? {
            Some(names) => {
                names.iter().try_for_each(|name| fs.remove_file(&dir.join(name)))?;
                fs.sync_dir(dir)?;
            }
            None => {
                check_empty(&**fs, dir)?;
                let marked = fs.open(&mark, OpenMode::CreateNew).and_then(|_| fs.sync_dir(dir));
                if let Err(error) = marked {
                    // It may be there, whatever is said of it.
                    let _ = fs.remove_file(&mark);
                    return Err(error);
                }
            }
        }
        Ok(new)
    }

    /// Removes the mark of [`NewDatabase::begin_restore`], best effort: an open for writing would do so too.
    pub fn end_restore(&self) {
        let removed = self.fs.remove_file(&self.dir.join(RESTORING));
        if let Err(error) = removed.and_then(|()| self.fs.sync_dir(&self.dir)) {
            tracing::warn!(%error, "the mark of a restore that has ended stays until the next open");
        }
    }

    /// Makes its tables' names durable and writes its manifest: from here on it opens.
    pub fn finish(&self, contents: Contents<'_>) -> Result<()> {
        self.finish_as(contents.catalog(self.database_id, &self.dir)?)
    }

    /// As [`NewDatabase::finish`], of what a catalog says, but for the id.
    pub fn finish_as(&self, catalog: Catalog) -> Result<()> {
        if !Bug::CheckpointNamesNotSynced.is_planted() {
            self.fs.sync_dir(&self.dir)?;
        }
        let catalog = Catalog { database_id: self.database_id, ..catalog };
        self.check_names(&catalog)?;
        self.has_manifest.store(true, Ordering::Relaxed);
        Manifest::create(self.fs.clone(), &self.dir, catalog, 1, Arc::new(Poison::default())).map(drop)
    }

    /// Makes sure that all tables are there that the manifest will name, and no manifest: somebody who does not ask for
    /// the lock may have been there.
    fn check_names(&self, catalog: &Catalog) -> Result<()> {
        let names = self.fs.read_dir(&self.dir)?;
        let has = |name: &str| names.iter().any(|known| known == name);
        if has(MANIFEST) {
            let what = "somebody else has put a manifest here meanwhile";
            return Err(Error::corruption(self.dir.join(MANIFEST), 0, what));
        }
        let tables = catalog.keyspaces.values().flat_map(|keyspace| keyspace.levels.iter().flatten());
        match tables.map(|meta| table_file_name(meta.number)).find(|name| !has(name)) {
            Some(gone) => Err(Error::corruption(
                self.dir.join(gone),
                0,
                "somebody else has removed this table meanwhile",
            )),
            None => Ok(()),
        }
    }

    /// Removes what was written, best effort: the manifest first, and durably, so that what is left never opens.
    /// `tables` are the numbers of all that were begun. Says whether all of it has gone.
    pub fn remove(&self, tables: impl Iterator<Item = u64>) -> bool {
        let has_manifest = self.has_manifest.load(Ordering::Relaxed);
        for name in [MANIFEST, MANIFEST_TEMPORARY].into_iter().filter(|_| has_manifest) {
            match self.fs.remove_file(&self.dir.join(name)) {
                Err(error) if error.is_not_found() => {}
                // If a crash brought it back, it would have to be with its tables.
                Ok(()) if self.fs.sync_dir(&self.dir).is_ok() => {}
                _ => return false,
            }
        }
        let mut is_gone = true;
        for name in tables.flat_map(|number| [table_file_name(number), table_tmp_file_name(number)]) {
            match self.fs.remove_file(&self.dir.join(name)) {
                Err(error) if !error.is_not_found() => is_gone = false,
                _ => {}
            }
        }
        is_gone
    }
}

/// Refuses a place for something new in the directory of something else, `from`, by whatever name.
pub(crate) fn check_apart(fs: &dyn FileSystem, from: &Path, to: &Path) -> Result<()> {
    if resolved(fs, to).starts_with(resolved(fs, from)) {
        let (to, from) = (to.display(), from.display());
        return Err(Error::invalid(format!("{to} lies in {from}, which must not be changed")));
    }
    Ok(())
}

fn check_named(to: &Path) -> Result<()> {
    match to.as_os_str().is_empty() {
        true => Err(Error::invalid("the path of the new database is empty: \".\" is the current directory")),
        false => Ok(()),
    }
}

/// The files in a directory that nothing but a restore can have left there, but for its mark. `None` if it has no mark, or a
/// manifest, or anything else: then it is no leftover.
fn leftovers_of_restore(fs: &dyn FileSystem, dir: &Path) -> Result<Option<Vec<String>>> {
    let names = match fs.read_dir(dir) {
        Err(error) if error.is_not_found() => return Ok(None),
        names => names?,
    };
    let has = |wanted: &str| names.iter().any(|name| name == wanted);
    if !has(RESTORING) || has(MANIFEST) {
        return Ok(None);
    }
    let is_table = |name: &str| parse_table_file_name(name.strip_suffix(".tmp").unwrap_or(name)).is_some();
    let is_ours = |name: &str| name == MANIFEST_TEMPORARY || is_table(name);
    let stays = |name: &str| ["LOCK", "lost+found", RESTORING].contains(&name);
    if names.iter().any(|name| !is_ours(name) && !stays(name)) {
        return Ok(None);
    }
    Ok(Some(names.into_iter().filter(|name| is_ours(name)).collect()))
}

/// Refuses a directory that is there and not empty.
fn check_empty(fs: &dyn FileSystem, to: &Path) -> Result<()> {
    let names = match fs.read_dir(to) {
        Err(error) if error.is_not_found() => return Ok(()),
        names => names?,
    };
    let Some(name) = names.iter().find(|name| !EMPTY_NAMES.contains(&&***name)) else { return Ok(()) };
    let is_table = |name: &String| parse_table_file_name(name.strip_suffix(".tmp").unwrap_or(name)).is_some();
    let has_tables = names.iter().any(is_table);
    let why = match has_tables && !names.iter().any(|name| name == MANIFEST) {
        true => {
            ", and tables, but no manifest: if a checkpoint or a salvage was interrupted there, remove it"
        }
        false => "",
    };
    Err(Error::invalid(format!("{} is not empty: it holds {name:?}{why}", to.display())))
}

/// A path from the root, without `.` and `..`, by the one name of what there is of it, links followed.
fn resolved(fs: &dyn FileSystem, path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let known = path.ancestors().find_map(|ancestor| Some((ancestor, fs.canonical(ancestor).ok()?)));
    match known.and_then(|(ancestor, real)| Some(real.join(path.strip_prefix(ancestor).ok()?))) {
        Some(path) => full(&path),
        None => full(&path),
    }
}

/// A path from the root, without `.` and `..`. Links are not followed.
fn full(path: &Path) -> PathBuf {
    let mut full = PathBuf::new();
    for component in std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).components() {
        match component {
            Component::ParentDir => drop(full.pop()),
            component => full.push(component),
        }
    }
    full
}
